//! A weight with groups as floats.

use std::marker::PhantomData;

use half::bf16;

use super::super::pack::{Element, Pack};
use super::super::simd::{Isa, LANES, Simd};
use super::super::task::{ForEach, Shared, Task, run};
use super::stored::{Stored, WithForm, with_form};
use super::{Groups, Offset, Output, TASK_BYTES, Weight};

/// Writes the elements of a weight with groups, `[rows, columns]`, with this instruction set, which the processor must
/// have.
///
/// # Errors
/// When the parts do not fit each other.
pub(crate) fn dequantize(
    isa: Isa,
    weight: Weight<'_>,
    output: Output<'_>,
    for_each: ForEach<'_>,
) -> Result<(), String> {
    assert!(Isa::available().contains(&isa));
    weight.check()?;
    let Some(groups) = weight.groups else { return Err("a weight without scales".to_string()) };
    let found = match &output {
        Output::F32(y) => y.len(),
        Output::Bf16(y) => y.len(),
    };
    if found != weight.rows * weight.columns {
        return Err(format!("{found} results for {} rows of {}", weight.rows, weight.columns));
    }
    let call = Call { isa, weight, groups, output, for_each };
    // SAFETY: the processor has the instructions; a task writes its own rows.
    unsafe { with_form(weight.form, call) }
}

struct Call<'a> {
    isa: Isa,
    weight: Weight<'a>,
    groups: Groups<'a>,
    output: Output<'a>,
    for_each: ForEach<'a>,
}

impl WithForm for Call<'_> {
    unsafe fn call<F: Stored>(self) -> Result<(), String> {
        let Call { isa, weight, groups, output, for_each } = self;
        let rows_per_task = (TASK_BYTES / weight.form.bytes(weight.columns).max(1)).max(1);
        let tasks = weight.rows.div_ceil(rows_per_task);
        // SAFETY: the caller's.
        unsafe {
            match output {
                Output::F32(y) => {
                    let output = Shared::new(y);
                    let task = Dequantize::<F, f32> { weight, groups, output, rows_per_task, form: PhantomData };
                    run(isa, &task, tasks, for_each);
                }
                Output::Bf16(y) => {
                    let output = Shared::new(y);
                    let task = Dequantize::<F, bf16> { weight, groups, output, rows_per_task, form: PhantomData };
                    run(isa, &task, tasks, for_each);
                }
            }
        }
        Ok(())
    }
}

/// A task is some rows.
struct Dequantize<'a, F, E> {
    weight: Weight<'a>,
    groups: Groups<'a>,
    output: Shared<'a, E>,
    rows_per_task: usize,
    form: PhantomData<F>,
}

impl<F: Stored, E: Element> Task for Dequantize<'_, F, E> {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd, W: Pack>(&self, index: usize) {
        let Dequantize { weight, groups, output, rows_per_task, .. } = self;
        let first = index * rows_per_task;
        let end = weight.rows.min(first + rows_per_task);
        let (columns, num_groups) = (weight.columns, weight.num_groups());
        let step = F::VECTORS * LANES;
        for row in first..end {
            let bytes = weight.form.bytes(columns);
            let mut from = weight.bytes[row * bytes..][..bytes].chunks_exact(F::BYTES);
            // SAFETY: no other task has this row; chunks have a step's bytes, and slices a step's elements.
            unsafe {
                let mut to = output.part(row * columns, columns).chunks_exact_mut(step);
                for group in 0..num_groups {
                    let at = row * num_groups + group;
                    let scale = groups.scales.get(at);
                    let (zero, bias) = match &groups.offset {
                        Offset::None => (0.0, 0.0),
                        Offset::Zeros(zeros) => (f32::from(zeros[at]), 0.0),
                        Offset::Biases(biases) => (0.0, biases.get(at)),
                    };
                    let [scale, zero, bias] = [scale, zero, bias].map(|x| S::splat(x));
                    for (from, to) in from.by_ref().zip(to.by_ref()).take(groups.size / step) {
                        let codes = F::load::<S>(from.as_ptr());
                        let values = codes.map(|codes| S::add(S::mul(S::sub(codes, zero), scale), bias));
                        if F::VECTORS == 1 {
                            E::store::<S>(to.as_mut_ptr(), values[0]);
                        } else {
                            E::interleave::<S>(to.as_mut_ptr(), values);
                        }
                    }
                }
            }
        }
    }
}
