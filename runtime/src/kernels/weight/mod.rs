//! Products with a weight in the form in which it is stored. Of few rows they are as fast as the weight is read: every
//! element is read once and becomes a number in a register. With codes and operands in bf16 these are integers ([`whole`]).
//! Products of many rows are in [`many`].
//!
//! With groups, a row of the weight is `scale * (code - zero)` or `scale * code + bias`, each group of columns with its
//! own scale. The codes of a group are multiplied as they are; its scale multiplies their sum, and what is subtracted
//! multiplies the sum of the group's operands, which all rows share:
//! `Σ x (s q + b) = s Σ x q + b Σ x`.
//!
//! Every sum of few rows is taken in an order that depends on the weight's row alone: a row of operands gives the same bits
//! whatever other rows are beside it, up to [`FEW_ROWS`] that are of several texts.

pub(super) mod call;
mod columns;
mod dequantize;
mod many;
mod rows;
mod stored;
#[cfg(test)]
mod tests;
mod whole;

use half::{bf16, f16};

use super::simd::{Isa, LANES};
use super::task::{ForEach, Shared, run};

pub(crate) use dequantize::dequantize;
pub(crate) use stored::Form;

/// Floats of any type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl Floats<'_> {
    fn len(&self) -> usize {
        match self {
            Floats::F32(x) => x.len(),
            Floats::Bf16(x) => x.len(),
            Floats::F16(x) => x.len(),
        }
    }

    /// Elements from `at` on, as many as there is room for.
    fn copy(&self, at: usize, to: &mut [f32]) {
        match self {
            Floats::F32(x) => to.copy_from_slice(&x[at..][..to.len()]),
            Floats::Bf16(x) => {
                for (to, x) in to.iter_mut().zip(&x[at..]) {
                    *to = f32::from_bits(u32::from(x.to_bits()) << 16);
                }
            }
            Floats::F16(x) => {
                for (to, x) in to.iter_mut().zip(&x[at..]) {
                    *to = x.to_f32();
                }
            }
        }
    }

    #[inline(always)]
    fn get(&self, i: usize) -> f32 {
        match self {
            Floats::F32(x) => x[i],
            Floats::Bf16(x) => x[i].to_f32(),
            Floats::F16(x) => x[i].to_f32(),
        }
    }
}

/// What is taken from a code before it is scaled, or added afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Offset<'a> {
    None,
    /// `scale * (code - zero)`.
    Zeros(&'a [u8]),
    /// `scale * code + bias`.
    Biases(Floats<'a>),
}

/// The groups of a weight's columns, `[rows, columns / size]` of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups<'a> {
    /// Columns in a group: whole steps of the form, see [`Form::step`].
    pub(crate) size: usize,
    pub(crate) scales: Floats<'a>,
    pub(crate) offset: Offset<'a>,
}

/// A matrix as it is stored, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) form: Form,
    pub(crate) bytes: &'a [u8],
    pub(crate) groups: Option<Groups<'a>>,
}

impl Weight<'_> {
    /// Groups in a row; 0 without.
    fn num_groups(&self) -> usize {
        self.groups.map_or(0, |groups| self.columns / groups.size)
    }

    /// Whether the parts fit each other, or what does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Weight { rows, columns, form, bytes, groups } = self;
        if form.is_packed() && !columns.is_multiple_of(2) {
            return Err(format!("{columns} columns of four bits are no whole bytes"));
        }
        if bytes.len() != rows * form.bytes(*columns) {
            return Err(format!("{} bytes for {rows} rows and {columns} columns of {form:?}", bytes.len()));
        }
        let Some(Groups { size, scales, offset }) = groups else {
            return if form.is_code() { Err("codes without scales".to_string()) } else { Ok(()) };
        };
        if *size == 0 || !size.is_multiple_of(form.step()) || !columns.is_multiple_of(*size) {
            return Err(format!("groups of {size} columns of {columns}, which are not whole steps of {}", form.step()));
        }
        let expected = rows * (columns / size);
        let offsets = match offset {
            Offset::None => expected,
            Offset::Zeros(zeros) => zeros.len(),
            Offset::Biases(biases) => biases.len(),
        };
        if scales.len() != expected || offsets != expected {
            return Err(format!("{} scales and {offsets} offsets for {expected} groups", scales.len()));
        }
        Ok(())
    }
}

/// Where results go.
pub(crate) enum Output<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// [`Output`] for several threads.
enum SharedOutput<'a> {
    F32(Shared<'a, f32>),
    Bf16(Shared<'a, bf16>),
}

impl<'a> SharedOutput<'a> {
    fn new(output: Output<'a>) -> SharedOutput<'a> {
        match output {
            Output::F32(x) => SharedOutput::F32(Shared::new(x)),
            Output::Bf16(x) => SharedOutput::Bf16(Shared::new(x)),
        }
    }

    /// Writes element `at`.
    ///
    /// # Safety
    /// No other thread writes it.
    #[inline(always)]
    unsafe fn write(&self, at: usize, x: f32) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                SharedOutput::F32(output) => output.part(at, 1)[0] = x,
                SharedOutput::Bf16(output) => output.part(at, 1)[0] = bf16::from_f32(x),
            }
        }
    }
}

/// Rows of operands times weights, each of which gives a result. Several are of one form, and have groups of one size: what
/// is computed of the operands is computed once, and threads come together once.
pub(crate) struct Product<'a> {
    /// Rows of operands.
    pub(crate) tokens: usize,
    /// Whether they all are of one text.
    pub(crate) of_one_text: bool,
    /// `[tokens, in]`.
    pub(crate) x: Floats<'a>,
    /// Of each `[out, in]`, with `transposed` `[in, out]` without groups; and the result, `[tokens, out]`.
    pub(crate) weights: Vec<(Weight<'a>, Output<'a>)>,
    pub(crate) transposed: bool,
}

/// The fewest bytes of a weight that are a task: enough that taking one costs nothing beside it.
const TASK_BYTES: usize = 1 << 16;

/// The most bytes of a weight that are a task, few enough that threads end together. Memory is read the faster the longer
/// the way: with tasks of 64 KiB at 24 GB/s, of 256 KiB at 27 and in halves at 30 (two threads of a Xeon).
const MOST_TASK_BYTES: usize = 1 << 20;

/// Tasks of a thread, as far as their size allows it.
const TASKS_PER_THREAD: usize = 4;

/// Rows of operands up to which a row's bits do not depend on the rows beside it, which may be of other texts. [`many`] is
/// the faster from some 20 to 40 on, and twice as fast with so many.
const FEW_ROWS: usize = 64;

/// The same where all rows are of one text: it has as many, whatever texts there are beside it.
const FEW_ROWS_OF_A_TEXT: usize = 16;

/// Computes a product with this instruction set, which the processor must have, on about `threads` threads.
///
/// # Errors
/// When the operands do not fit each other.
pub(crate) fn product(isa: Isa, call: Product<'_>, threads: usize, for_each: ForEach<'_>) -> Result<(), String> {
    assert!(Isa::available().contains(&isa));
    let Product { tokens, of_one_text, x, weights, transposed } = call;
    let Some(&(first, _)) = weights.first() else { return Err("a product without a weight".to_string()) };
    let input = if transposed { first.rows } else { first.columns };
    for (weight, output) in &weights {
        weight.check()?;
        let (summed, out) = if transposed { (weight.rows, weight.columns) } else { (weight.columns, weight.rows) };
        let results = match output {
            Output::F32(y) => y.len(),
            Output::Bf16(y) => y.len(),
        };
        if x.len() != tokens * summed || results != tokens * out {
            let operands = x.len();
            return Err(format!("{operands} operands and {results} results for {tokens} rows of {summed} and {out}"));
        }
        if transposed && weight.groups.is_some() {
            return Err("a weight with groups lies by rows of its output".to_string());
        }
        let size = |weight: &Weight<'_>| weight.groups.map(|groups| groups.size);
        if summed != input || weight.form != first.form || size(weight) != size(&first) {
            return Err("weights of a product that are not alike".to_string());
        }
    }
    let bytes: usize = weights.iter().map(|(weight, _)| weight.bytes.len()).sum();
    let weights = weights.into_iter().map(|(weight, output)| (weight, SharedOutput::new(output)));
    if tokens > if of_one_text { FEW_ROWS_OF_A_TEXT } else { FEW_ROWS } {
        for (weight, output) in weights {
            let many = many::Many { tokens, x, weight, transposed, output };
            many.run(isa, isa.has_fast_pairs() && many.fits_pairs(), for_each);
        }
        return Ok(());
    }
    if transposed {
        for (weight, output) in weights {
            let task = columns::Columns::new(tokens, x, weight, output);
            // SAFETY: the processor has the instructions; a task writes its own columns.
            unsafe { stored::with_form(weight.form, ByColumns { isa, task: &task, for_each })? };
        }
        return Ok(());
    }
    let task_bytes = (bytes / (TASKS_PER_THREAD * threads)).clamp(TASK_BYTES, MOST_TASK_BYTES);
    let rows: Vec<rows::Rows<'_>> =
        weights.map(|(weight, output)| rows::Rows::new(tokens, weight, output, task_bytes)).collect();
    if whole::fits(x, &first) {
        let operands = whole::Whole::of(isa, tokens, x, &first, for_each);
        let task = Integers { isa, rows: &rows, operands: &operands, for_each };
        // SAFETY: the processor has the instructions; a task writes its own rows.
        return unsafe { stored::with_form(first.form, task) };
    }
    let pairs = isa.has_pairs() && matches!(x, Floats::Bf16(_)) && first.form.has_pairs();
    let planes = Planes::of(tokens, x, &first, pairs);
    // SAFETY: the processor has the instructions; a task writes its own rows.
    unsafe { stored::with_form(first.form, ByRows { isa, rows: &rows, planes: &planes, pairs, for_each }) }
}

struct Integers<'a, 'p> {
    isa: Isa,
    rows: &'a [rows::Rows<'p>],
    operands: &'a whole::Whole,
    for_each: ForEach<'a>,
}

impl stored::WithForm for Integers<'_, '_> {
    unsafe fn call<F: stored::Stored>(self) -> Result<(), String> {
        let Integers { isa, rows, operands, for_each } = self;
        let of_weight = |rows| whole::WholeRows::<F> { rows, operands, form: std::marker::PhantomData };
        let task = rows::ByBlocks(rows.iter().map(of_weight).collect());
        // SAFETY: the caller's.
        unsafe { run(isa, &task, task.num_tasks(), for_each) };
        Ok(())
    }
}

struct ByRows<'a, 'p> {
    isa: Isa,
    rows: &'a [rows::Rows<'p>],
    planes: &'a Planes,
    /// Whether words are pairs.
    pairs: bool,
    for_each: ForEach<'a>,
}

impl ByRows<'_, '_> {
    fn run<F: stored::Stored, const PAIRS: bool>(&self) {
        let ByRows { isa, rows, planes, for_each, .. } = *self;
        let of_weight = |rows| rows::RowsOf::<F, PAIRS> { rows, planes, form: std::marker::PhantomData };
        let task = rows::ByBlocks(rows.iter().map(of_weight).collect());
        // SAFETY: whoever made this; a task writes its own rows.
        unsafe { run(isa, &task, task.num_tasks(), for_each) };
    }
}

impl stored::WithForm for ByRows<'_, '_> {
    unsafe fn call<F: stored::Stored>(self) -> Result<(), String> {
        // A product of pairs is made for forms that have them only.
        match self.pairs {
            true if F::HAS_PAIRS => self.run::<F, true>(),
            true | false => self.run::<F, false>(),
        }
        Ok(())
    }
}

struct ByColumns<'a, 'p> {
    isa: Isa,
    task: &'a columns::Columns<'p>,
    for_each: ForEach<'a>,
}

impl stored::WithForm for ByColumns<'_, '_> {
    unsafe fn call<F: stored::Stored>(self) -> Result<(), String> {
        let task = columns::ColumnsOf::<F> { columns: self.task, form: std::marker::PhantomData };
        // SAFETY: the caller's.
        unsafe { run(self.isa, &task, self.task.num_tasks(), self.for_each) };
        Ok(())
    }
}

/// Rows of operands as words, in the order in which the elements of a weight come out of its form.
struct Planes {
    /// `[tokens, width]`, zeros behind the last element: f32, or pairs of bf16.
    words: Vec<f32>,
    width: usize,
    /// `[tokens, groups]`: the sum of each group's operands; of whole vectors, the rest zeros.
    sums: Vec<f32>,
    groups: usize,
}

impl Planes {
    fn of(tokens: usize, x: Floats<'_>, weight: &Weight<'_>, pairs: bool) -> Planes {
        let (columns, form) = (weight.columns, weight.form);
        let padded = columns.next_multiple_of(2 * LANES);
        let (width, groups) = (if pairs { padded / 2 } else { padded }, weight.num_groups().next_multiple_of(LANES));
        let mut planes = Planes { words: vec![0.0; tokens * width], width, sums: vec![0.0; tokens * groups], groups };
        let mut row = vec![0.0; padded];
        for t in 0..tokens {
            x.copy(t * columns, &mut row[..columns]);
            if let Some(Groups { size, .. }) = weight.groups {
                let sums = &mut planes.sums[t * groups..][..groups];
                for (sum, group) in sums.iter_mut().zip(row[..columns].chunks_exact(size)) {
                    *sum = group.iter().sum();
                }
            }
            let words = &mut planes.words[t * width..][..width];
            for (i, from) in row.as_chunks::<{ 2 * LANES }>().0.iter().enumerate() {
                if pairs {
                    let words = &mut words[i * LANES..][..LANES];
                    for (l, word) in words.iter_mut().enumerate() {
                        let [low, high] = [2 * l, 2 * l + 1].map(|at| from[form.pair_element(at)].to_bits());
                        *word = f32::from_bits((low >> 16) | (high & 0xffff_0000));
                    }
                } else {
                    let words = &mut words[i * 2 * LANES..][..2 * LANES];
                    for (l, word) in words.iter_mut().enumerate() {
                        *word = from[if form.is_packed() { l % LANES * 2 + l / LANES } else { l }];
                    }
                }
            }
        }
        planes
    }
}
