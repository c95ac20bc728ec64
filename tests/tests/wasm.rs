//! WebAssembly modules across engines, and what tells which group is wrong.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use lmc::wasm::Instance;
use lmc_graph::ops::DotGeneral;
use lmc_graph::{Builder, DType, Func, Literal, TensorType, eval, text};
use lmc_lower::wasm::{Entry, Error, Mode, Module, lower};
use lmc_models::schedule::{Schedule, ScheduleKind};
use lmc_models::{
    AdamW, Gpt2Config, ModelConfig, Optimizer, Precision, StepConfig, TrainStep, Update, init, train_step,
};
use lmc_tests::check::Tolerance;
use lmc_tests::wasm::wrong_group;

/// A small model's training step, with padded rows.
fn small_step() -> TrainStep {
    let model = ModelConfig::Gpt2(Gpt2Config::new(27, 16, 16, 1, 4));
    let optimizer = Optimizer::AdamW(AdamW { beta1: 0.85, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 });
    let kind = ScheduleKind::Constant;
    let schedule = Schedule { kind, learning_rate: 0.01, min_learning_rate: 0.0, warmup_steps: 0, total_steps: 100 };
    let config = StepConfig {
        model,
        micro_batch_size: 2,
        grad_accum_steps: 2,
        seq_len: 16,
        compute: Precision::Float32.into(),
        z_loss: 0.0,
        seed: 1,
        update: Update { optimizer, schedule, grad_clip_norm: 1.0, ema_decay: 0.0 },
    };
    train_step(&config).unwrap_or_else(|error| panic!("{error}"))
}

fn module(step: &TrainStep) -> Module {
    let inputs: Vec<String> = step.func.params.iter().map(|param| param.name.clone()).collect();
    let metric = |name: &String| if inputs.contains(name) { name.clone() } else { format!("metric.{name}") };
    let results = step.func.result_names.iter().map(metric).collect();
    let entry = Entry { name: "step".into(), func: &step.func, inputs: inputs.clone(), results };
    lower(&[entry], Mode::Together).unwrap_or_else(|error| panic!("{error}"))
}

/// Tokens and labels of a step: rows of a few tokens each, the rest not counted.
fn batch(step: usize) -> [Literal; 2] {
    let (mut tokens, mut labels) = (Vec::new(), Vec::new());
    for row in 0..4 {
        for position in 0..16 {
            let token = |position: usize| ((step * 7 + row * 5 + position * 11) % 27) as i32;
            let counts = position < 3 + (step + row) % 8;
            tokens.push(if counts { token(position) } else { 0 });
            labels.push(if counts { token(position + 1) } else { -100 });
        }
    }
    [Literal::new([2, 2, 16], &tokens), Literal::new([2, 2, 16], &labels)]
}

const STEPS: usize = 30;

/// Runs a module in Node: `memory`'s contents before, then for each step the bytes of tokens and labels; prints the bits
/// of losses, and a checksum of all memory.
const NODE: &str = r"
import { readFileSync } from 'node:fs';
const [wasm, plan] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(wasm));
const { memory, step } = instance.exports;
const { state, steps, loss } = JSON.parse(readFileSync(plan));
const set = ([offset, hex]) => new Uint8Array(memory.buffer).set(Buffer.from(hex, 'hex'), offset);
state.forEach(set);
for (const inputs of steps) {
  inputs.forEach(set);
  step();
  console.log(new Uint32Array(memory.buffer, loss, 1)[0]);
}
";

/// Losses of the same steps in the interpreter and in Node, bit for bit. Where there is no Node this says so.
#[test]
fn engines_agree_to_the_bit() {
    let step = small_step();
    let module = module(&step);
    let weights = init::initialize(&step.specs, 3).into_values();
    let mut instance = Instance::new(&module).unwrap_or_else(|error| panic!("{error}"));
    let state: Vec<(String, Literal)> =
        step.func.params.iter().map(|param| param.name.clone()).zip(step.initial_state(weights)).collect();
    let offset = |slot: &str| module.layout.tensor(slot).unwrap_or_else(|| panic!("slot {slot}")).offset;
    let written = |slot: &str, value: &Literal| {
        let hex = value.bytes().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string");
            hex
        });
        serde_json::json!([offset(slot), hex])
    };
    let mut found = Vec::new();
    for (slot, value) in &state {
        instance.write(slot, value).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut steps = Vec::new();
    for number in 0..STEPS {
        let [tokens, labels] = batch(number);
        steps.push([written("tokens", &tokens), written("labels", &labels)]);
        instance.write("tokens", &tokens).unwrap_or_else(|error| panic!("{error}"));
        instance.write("labels", &labels).unwrap_or_else(|error| panic!("{error}"));
        instance.call("step").unwrap_or_else(|error| panic!("{error}"));
        let loss = instance.read("metric.loss").unwrap_or_else(|error| panic!("{error}"));
        found.push(loss.elements::<f32>()[0]);
    }
    assert!(found[STEPS - 1] < 0.7 * found[0], "it learns: {found:?}");

    let folder = std::env::temp_dir().join(format!("lmc-wasm-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder is made");
    let state: Vec<_> = state.iter().map(|(slot, value)| written(slot, value)).collect();
    let plan = serde_json::json!({ "state": state, "steps": steps, "loss": offset("metric.loss") });
    let files = [("step.wasm", module.bytes.clone()), ("plan.json", plan.to_string().into_bytes())];
    for (name, bytes) in files.iter().chain(&[("run.mjs", NODE.as_bytes().to_vec())]) {
        fs::write(folder.join(name), bytes).expect("a file is written");
    }
    let output = Command::new("node")
        .args(["run.mjs", "step.wasm", "plan.json"])
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output();
    fs::remove_dir_all(&folder).expect("the folder goes");
    let Ok(output) = output else {
        println!("skipped: there is no `node` to compare the interpreter with");
        return;
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let in_node: Vec<u32> = stdout.lines().map(|line| line.parse().expect("bits")).collect();
    assert_eq!(in_node, found.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>());
}

fn parse(source: &str) -> Func {
    text::parse("test", source).unwrap_or_else(|error| panic!("{error}"))
}

/// A function whose second value overflows in f32 but not in the evaluator's f64 would be found at that value.
#[test]
fn the_wrong_group_is_named() {
    // A sum that f32 cannot hold: the evaluator's is exact.
    let func = parse(
        "func @f(%x: f32[3]) -> (f32[]) {
  %a: f32[3] = exponential(%x)
  %b: f32[] = reduce(%a) {op = add, dimensions = [0]}
  %c: f32[] = multiply(%b, %b)
  return %c
}",
    );
    let tight = Tolerance { f32: 0.0, slack: 0.0, ..Tolerance::DEVICE };
    let small = [Literal::new([3], &[0.0_f32, 0.0, 0.0])];
    assert_eq!(wrong_group(&func, &small, tight), Ok(None));
    let far = [Literal::new([3], &[16_777_216_f32.ln(), 0.0, -0.7])];
    let found = wrong_group(&func, &far, tight).unwrap_or_else(|error| panic!("{error}"));
    assert!(found.as_ref().is_some_and(|found| found.starts_with("main/reduce_")), "{found:?}");
}

/// Exponentials are 0 and not subnormal, whose arithmetic is slow.
#[test]
fn exponentials_are_zero_below_the_normal_numbers() {
    let func = Builder::build("f", |b| vec![b.param("x", TensorType::new(DType::F32, [6])).exp()]);
    let module = lmc_tests::wasm::module(&func, Mode::Together).unwrap_or_else(|error| panic!("{error}"));
    let args = [Literal::new([6], &[-87.0_f32, -87.34, -88.0, -103.0, -1e30, f32::NEG_INFINITY])];
    let found = lmc_tests::wasm::execute(&module, &args).unwrap_or_else(|error| panic!("{error}"));
    let found = found[0].elements::<f32>();
    assert!(found[0].is_normal() && found[1..] == [0.0; 5], "{found:?}");
}

/// What a call leaves for the next one is 0 where it is below the normal numbers; anything else is as it was.
#[test]
fn state_that_decays_ends_at_zero() {
    let func = Builder::build("f", |b| {
        let [state, other] = ["state", "other"].map(|name| b.param(name, TensorType::new(DType::F32, [6])));
        vec![state * 0.75, other * 0.75]
    });
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    let (inputs, results) = (names(["state", "other"]), names(["state", "result"]));
    let least = f32::MIN_POSITIVE;
    let before = [least, -least, 1.5 * least, f32::NAN, 0.0, 1.0];
    let bits = |elements: &[f32]| elements.iter().map(|element| element.to_bits()).collect::<Vec<_>>();
    for mode in [Mode::Together, Mode::Separate] {
        let entry = Entry { name: "f".into(), func: &func, inputs: inputs.clone(), results: results.clone() };
        let module = lower(&[entry], mode).unwrap_or_else(|error| panic!("{error}"));
        let mut instance = Instance::new(&module).unwrap_or_else(|error| panic!("{error}"));
        for slot in ["state", "other"] {
            instance.write(slot, &Literal::new([6], &before)).unwrap_or_else(|error| panic!("{error}"));
        }
        instance.call("f").unwrap_or_else(|error| panic!("{error}"));
        let read = |slot: &str| instance.read(slot).unwrap_or_else(|error| panic!("{error}")).elements::<f32>();
        let (state, result) = (read("state"), read("result"));
        assert_eq!(bits(&state[..3]), bits(&[0.0, 0.0, 1.125 * least]), "{mode:?}");
        assert!(state[3].is_nan() && state[4..] == [0.0, 0.75], "{mode:?}: {state:?}");
        // What nobody reads again is what it is.
        assert!(result[0].is_subnormal() && result[1].is_subnormal(), "{mode:?}: {result:?}");
    }
}

/// Products of every shape of tile, strip and panel, from every order of dimensions.
#[test]
fn products_of_all_shapes() {
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for _ in 0..300 {
        let mut pick = |sizes: &[usize]| sizes[random() % sizes.len()];
        let [batch, rows, columns, terms] = [
            pick(&[1, 1, 2]),
            pick(&[1, 3, 4, 9, 16, 19, 33, 40, 65]),
            pick(&[1, 3, 4, 8, 9, 16, 27, 40]),
            pick(&[1, 2, 5, 16, 64, 65, 70, 131]),
        ];
        // Some dimensions are two, which need not lie beside each other.
        let mut split = |size: usize| match pick(&[0, 1]) {
            0 if size.is_multiple_of(2) => vec![2, size / 2],
            0 if size.is_multiple_of(3) => vec![size / 3, 3],
            _ => vec![size],
        };
        let (rows, columns, terms) = (split(rows), split(columns), split(terms));
        let mut operand = |free: &[usize]| {
            let parts = [&[batch][..], free, &terms];
            let (mut shape, mut dimensions) = (Vec::new(), [vec![], vec![], vec![]]);
            for part in ORDERS[pick(&[0, 1, 2, 3, 4, 5])] {
                for &size in parts[part] {
                    dimensions[part].push(shape.len());
                    shape.push(size);
                }
            }
            (shape, dimensions)
        };
        let ((lhs, [lhs_batching, _, lhs_sum]), (rhs, [rhs_batching, _, rhs_sum])) =
            (operand(&rows), operand(&columns));
        let op = DotGeneral {
            lhs_batching_dimensions: lhs_batching,
            rhs_batching_dimensions: rhs_batching,
            lhs_contracting_dimensions: lhs_sum,
            rhs_contracting_dimensions: rhs_sum,
            result_dtype: DType::F32,
        };
        let func = Builder::build("f", |b| {
            let [x, y] = [("x", &lhs), ("y", &rhs)]
                .map(|(name, shape)| b.param(name, TensorType::new(DType::F32, shape.as_slice())));
            vec![x.dot_general(y, op.clone())]
        });
        let args = [&lhs, &rhs].map(|shape| {
            let elements: Vec<f32> =
                (0..shape.iter().product()).map(|_| 2.0 * pick(&[0, 1, 2, 3, 4]) as f32 - 3.0).collect();
            Literal::new(shape.as_slice(), &elements)
        });
        let module = lmc_tests::wasm::module(&func, Mode::Together).unwrap_or_else(|error| panic!("{error}"));
        let found = lmc_tests::wasm::execute(&module, &args).unwrap_or_else(|error| panic!("{error}"));
        // Whole numbers have no rounding, and odd ones no negative zeros.
        assert_eq!(found, eval(&func, &args).unwrap_or_else(|error| panic!("{error}")), "{func}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let func = |shape: &[usize]| Builder::build("f", |b| vec![b.param("x", TensorType::new(DType::F32, shape)) + 1.0]);
    let entry = |func, inputs: &[&str], results: &[&str]| {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Entry { name: "f".into(), func, inputs: names(inputs), results: names(results) }
    };
    let error = |entries: &[Entry<'_>]| lower(entries, Mode::Together).err().map(|error| error.to_string());
    let (small, other, large) = (func(&[2]), func(&[3]), func(&[1 << 31]));
    assert_eq!(error(&[entry(&small, &["x"], &["x"])]), None);
    assert_eq!(error(&[entry(&small, &[], &["x"])]).as_deref(), Some("entry `f` has 0 slots for 1 parameters"));
    let conflict = error(&[entry(&small, &["x"], &["y"]), entry(&other, &["x"], &["z"])]);
    assert_eq!(conflict.as_deref(), Some("slot `x` is f32[2] in one entry and f32[3] in `f`"));
    let refused = lower(&[entry(&large, &["x"], &["y"])], Mode::Together);
    assert!(matches!(refused, Err(Error::TensorTooLarge { .. })), "{refused:?}");
    // Of one that a node makes the model's line is told.
    let made = Builder::build("f", |b| {
        let x = b.param("x", TensorType::new(DType::F32, [1 << 16]));
        vec![x.broadcast_in_dim(&[1 << 16, 1 << 16], &[1]).sum(&[0])]
    });
    assert!(error(&[entry(&made, &["x"], &["y"])]).is_some_and(|error| error.contains("tests/wasm.rs")));
    let halves = func(&[1 << 29]);
    let two = [entry(&halves, &["a"], &["b"]), entry(&halves, &["c"], &["d"])];
    assert!(matches!(lower(&two, Mode::Together), Err(Error::TooLarge { .. })));
}
