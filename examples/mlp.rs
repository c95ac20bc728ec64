//! A model of one's own: a small network learns which points of the plane lie inside a ring.
//!
//! `cargo run --release --example mlp`

use lmc::graph::{DType, Literal, TensorType, Value};
use lmc::models::layers::{Linear, linear};
use lmc::models::step::train_step_of;
use lmc::models::{AdamW, LossFunc, Optimizer, Precision, Schedule, ScheduleKind, Scope, Update, init};
use lmc::tensors::{Argument, Buffer};
use lmc::{Device, DeviceOptions};

const BATCH: usize = 256;
const HIDDEN: usize = 32;
const STEPS: usize = 1000;

/// The logit that a point lies inside: `B 2 → B 1`.
fn model<'g>(scope: &Scope<'g>, points: Value<'g>) -> Value<'g> {
    let layer = |input, output, std| Linear { input, output, std, bias: true };
    let x = scope.sub("fc1", |scope| linear(scope, points, &layer(("plane", 2), ("hidden", HIDDEN), 1.0))).tanh();
    let x = scope.sub("fc2", |scope| linear(scope, x, &layer(("hidden", HIDDEN), ("hidden2", HIDDEN), 0.2))).tanh();
    scope.sub("out", |scope| linear(scope, x, &layer(("hidden2", HIDDEN), ("logit", 1), 0.2)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The loss as a graph: a sum, and the number of terms. `log(1 + e^-|x|) + max(x, 0) - x y` is the cross-entropy.
    let inputs =
        [("points", TensorType::new(DType::F32, [BATCH, 2])), ("inside", TensorType::new(DType::F32, [BATCH, 1]))];
    let loss = LossFunc::build("ring", Precision::Float32, &inputs, |scope, inputs| {
        let (logits, labels) = (model(scope, inputs[0]), inputs[1]);
        let loss = (-logits.abs()).exp().log1p() + logits.relu() - logits * labels;
        (loss.sum(&[0, 1]), scope.builder().scalar(DType::F32, BATCH as f64))
    });

    // Its gradient, clipping and AdamW as one program on the device.
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        learning_rate: 1e-2,
        min_learning_rate: 0.0,
        warmup_steps: 0,
        total_steps: STEPS,
    };
    let optimizer = Optimizer::AdamW(AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 });
    let step = train_step_of(&loss, 1, 1337, &Update { optimizer, schedule, grad_clip_norm: 1.0, ema_decay: 0.0 })?;
    let device = Device::open(&DeviceOptions::default())?;
    let program = device.compile(&step.func)?;

    // The state stays on the device: each step takes its memory over and gives it back.
    let initial = step.initial_state(init::initialize(&step.specs, 1337).into_values());
    let mut state: Vec<Buffer> = initial.iter().map(|x| device.buffer(x)).collect::<lmc::Result<_>>()?;
    let mut random = 1_u64;
    for i in 0..STEPS {
        let (points, inside) = batch(&mut random);
        let data = [device.buffer(&points)?, device.buffer(&inside)?];
        let mut results = program.execute(state.into_iter().chain(data).map(Argument::Donate).collect())?;
        let metrics = results.split_off(step.num_state());
        state = results;
        if (i + 1) % 200 == 0 {
            println!("step {:4}  loss {:.4}", i + 1, metrics[0].to_literal()?.elements::<f32>()[0]);
        }
    }
    Ok(())
}

/// Points of the square, and whether each lies in the ring between the radii 0.4 and 0.8; one micro-batch.
fn batch(random: &mut u64) -> (Literal, Literal) {
    let mut uniform = || {
        // Knuth's multiplicative generator; the upper bits are the good ones.
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*random >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let points: Vec<f32> = (0..2 * BATCH).map(|_| uniform()).collect();
    let inside = |p: &[f32]| f32::from(u8::from((0.4..0.8).contains(&p[0].hypot(p[1]))));
    let labels: Vec<f32> = points.chunks_exact(2).map(inside).collect();
    (Literal::new([1, BATCH, 2], &points), Literal::new([1, BATCH, 1], &labels))
}
