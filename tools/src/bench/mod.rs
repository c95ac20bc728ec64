//! How fast this machine computes what language models are made of, as lmc lowers it and in the plainest form.
//!
//! Both forms of a case are compiled for the same device and run in turn, so that what else the machine does touches both.
//! The plain form is lowered for [`Target::generic`] and compiled with XLA's own options, which is about what a front
//! end without choices for the target gets.

mod cases;
mod generation;

use std::time::{Duration, Instant};

use lmc_graph::{DType, Func, Literal, TensorType};
use lmc_lower::{Report, Target};

use crate::device::{Argument, Buffer, Device, Program};
use crate::error::Result;

pub use cases::cases;
pub use generation::generation;

/// A program to be timed.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is made of: `product`, `attention`, …
    pub group: &'static str,
    /// What it does, with its sizes and element type.
    pub name: String,
    /// The program. Donated parameters take their results over from one execution to the next.
    pub func: Func,
}

/// What the executions of a case took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The median time of an execution as lmc lowers it.
    pub time: Duration,
    /// The median time of an execution in the plain form.
    pub plain: Duration,
    /// The time that compiling took, as lmc lowers it.
    pub compile: Duration,
    /// Floating-point operations in the products of an execution, those of hidden scores of an attention left out; 0 where
    /// there are none.
    pub flops: u64,
    /// Bytes of the arguments, each of which an execution reads at least once.
    pub bytes: usize,
    /// How products and attentions lowered.
    pub report: Report,
}

impl Timing {
    /// Bytes of arguments a second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }

    /// How many times faster than the plain form.
    pub fn speedup(&self) -> f64 {
        self.plain.as_secs_f64() / self.time.as_secs_f64()
    }
}

/// Times a case in so many rounds, each of several executions of one form and then of the other.
///
/// # Errors
/// When XLA refuses a program, or the device is out of memory.
pub fn time(device: &Device, case: &Case, rounds: usize) -> Result<Timing> {
    let fast = device.compile_anew(&case.func, device.target(), true)?;
    let plain = device.compile_anew(&case.func, &Target::generic(), false)?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds.max(1) {
        for (program, times) in [&fast, &plain].into_iter().zip(&mut times) {
            times.extend(executions(device, program, &case.func)?);
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let [mut time, mut plain] = times;
    Ok(Timing {
        time: median(&mut time),
        plain: median(&mut plain),
        compile: fast.compile_time(),
        flops: fast.report().total_flops(),
        bytes: fast.argument_types().iter().map(TensorType::num_bytes).sum(),
        report: fast.report().clone(),
    })
}

/// Bytes a second at which this machine's cores together read memory: the best of several passes of a plain loop over
/// more than a cache holds.
pub fn read_bandwidth() -> f64 {
    const WORDS: usize = 1 << 26;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let words = vec![1u64; WORDS];
    let pass = || {
        let start = Instant::now();
        let total: u64 = std::thread::scope(|scope| {
            let sum = |part: &[u64]| part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            let parts = words.chunks(WORDS.div_ceil(threads));
            let running: Vec<_> = parts.map(|part| scope.spawn(move || sum(part))).collect();
            running.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        std::hint::black_box(total);
        size_of_val(&words[..]) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// What a round of a program takes at least, if it is not one execution.
const ROUND: Duration = Duration::from_millis(150);

/// The times of a round's executions, after one that is not counted.
fn executions(device: &Device, program: &Program, func: &Func) -> Result<Vec<Duration>> {
    let mut arguments: Vec<Option<Buffer>> = func
        .params
        .iter()
        .zip(program.argument_types())
        .map(|(param, ty)| {
            // Moments begin at zero, or squares would be negative.
            let is_moment = param.name.starts_with("adam.");
            let literal = if is_moment { Literal::zeros(ty.clone()) } else { numbers(ty) };
            device.buffer(&literal).map(Some)
        })
        .collect::<Result<_>>()?;
    let mut times = Vec::new();
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        let donated: Vec<Option<Buffer>> = func
            .params
            .iter()
            .zip(&mut arguments)
            .map(|(param, argument)| if param.donated_to.is_some() { argument.take() } else { None })
            .collect();
        let given = donated.into_iter().zip(&arguments);
        let given = given.filter_map(|(donated, kept)| match (donated, kept) {
            (Some(buffer), _) => Some(Argument::Donate(buffer)),
            (None, Some(buffer)) => Some(Argument::Keep(buffer)),
            (None, None) => None,
        });
        let mut results: Vec<Option<Buffer>> = program.execute(given.collect())?.into_iter().map(Some).collect();
        for result in results.iter().flatten() {
            result.wait().map_err(crate::device::run_error)?;
        }
        times.push(start.elapsed());
        for (param, argument) in func.params.iter().zip(&mut arguments) {
            if let Some(result) = param.donated_to {
                *argument = results[result].take();
            }
        }
        // The first execution touches memory for the first time.
        if times.len() > 1 && begin.elapsed() > ROUND {
            return Ok(times.split_off(1));
        }
    }
}

/// Floats between -0.05 and 0.05 without a pattern; integers below 7.
fn numbers(ty: &TensorType) -> Literal {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let is_float = ty.dtype.is_float();
    let value = |x: u64| if is_float { (x >> 40) as f64 / 16_777_216.0 * 0.1 - 0.05 } else { (x % 7) as f64 };
    if ty.dtype == DType::Bool {
        return Literal::zeros(ty.clone());
    }
    let values: Vec<f64> = (0..ty.num_elements()).map(|_| value(next())).collect();
    Literal::from_f64s(ty.clone(), &values)
}
