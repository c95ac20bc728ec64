//! Products of matrices of bf16 on the matrix unit of AMX.
//!
//! Operands are cut along the summed dimension and packed as tiles: of the right one some columns, which all threads share,
//! of the left one some rows, by the task that multiplies them (Goto and van de Geijn 2008). Tiles could be loaded from a
//! row-major operand itself, but the unit then waits for memory: sixteen rows apart are more than the processor fetches
//! ahead.

mod pack;
#[cfg(test)]
mod tests;

use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::bf16;

use super::amx::{self, BLOCK, Line, Operand, STEP, TILE, Tiles};
use super::task::{ForEach, Shared};
use pack::{Side, lines_of_block};

pub(crate) use pack::{Major, Matrix};

/// Elements of the summed dimension in one go: a block's tiles of each side, 128 KiB, lie in the second-level cache.
const MOST_SUMMED: usize = 2048;

/// Bytes of the right operand's tiles at a time.
const MOST_PACKED: usize = 4 << 20;

/// Bytes of the left operand's tiles in a task: with [`MOST_COLUMNS`], three quarters of a second-level cache.
const MOST_ROWS: usize = 1 << 19;

/// Bytes of the right operand's tiles that a task goes through for each block of rows: half of a second-level cache.
const MOST_COLUMNS: usize = 1 << 20;

/// What a product is written as.
pub(crate) trait Output: Copy + Send + Sync {
    /// Whether sums can be kept in the result itself.
    const IS_F32: bool;

    /// Writes the first `number` of [`BLOCK`] sums.
    ///
    /// # Safety
    /// `from` has [`BLOCK`] elements, `to` has `number`; the processor has AVX-512 F, BW and BF16.
    unsafe fn write(to: *mut Self, from: *const f32, number: usize);
}

impl Output for f32 {
    const IS_F32: bool = true;

    #[inline(always)]
    unsafe fn write(to: *mut f32, from: *const f32, number: usize) {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from, to, number) };
    }
}

impl Output for bf16 {
    const IS_F32: bool = false;

    #[inline(always)]
    unsafe fn write(to: *mut bf16, from: *const f32, number: usize) {
        // SAFETY: the caller's; elements behind `number` are not written.
        unsafe {
            let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(TILE)), _mm512_loadu_ps(from));
            let mask = ((1u64 << number) - 1) as u32;
            _mm512_mask_storeu_epi16(to.cast(), mask, std::mem::transmute::<__m512bh, __m512i>(pairs));
        }
    }
}

/// Whether this processor has what [`matmul`] needs.
pub(crate) fn is_available() -> bool {
    amx::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// `result = left right`, row-major, sums in f32, rounded once; on `num_threads` threads by way of `for_each`.
///
/// # Panics
/// If the sizes do not fit, or the processor has not what it takes.
pub(crate) fn matmul<T: Output>(
    left: Matrix<'_>,
    right: Matrix<'_>,
    result: &mut [T],
    num_threads: usize,
    for_each: ForEach<'_>,
) {
    assert!(is_available(), "products on AMX need a processor that has it");
    assert_eq!(left.elements.len(), left.free * left.summed);
    assert_eq!(right.elements.len(), right.free * right.summed);
    assert_eq!(left.summed, right.summed);
    assert_eq!(result.len(), left.free * right.free);
    if result.is_empty() {
        return;
    }
    let (rows, columns, summed) = (left.free, right.free, left.summed);
    let chunk = summed.div_ceil(summed.div_ceil(MOST_SUMMED).max(1)).next_multiple_of(STEP).max(STEP);
    let block_bytes = lines_of_block(chunk) * size_of::<Line>();
    let most_blocks = (MOST_PACKED / block_bytes).max(1);
    let block = BLOCK * most_blocks;
    // Sums that another chunk adds to lie in f32.
    let keeps_sums = !T::IS_F32 && chunk < summed;
    let row_block = if keeps_sums { block } else { rows };
    let mut scratch = Scratch::take();
    let product = Product { left, right, result: Shared::new(result), keeps_sums, num_threads };
    for first_row in (0..rows).step_by(row_block) {
        for first_column in (0..columns).step_by(block) {
            for first in (0..summed.max(1)).step_by(chunk) {
                let region = Region {
                    rows: first_row..rows.min(first_row + row_block),
                    columns: first_column..columns.min(first_column + block),
                    summed: first..summed.min(first + chunk),
                };
                product.region(&region, &mut scratch, for_each);
            }
        }
    }
    scratch.give_back();
}

/// Tiles that were packed, and sums of the chunks so far.
#[derive(Default)]
struct Scratch {
    left: Vec<Line>,
    right: Vec<Line>,
    sums: Vec<f32>,
}

/// What calls before left, so that not each has to ask the system for its memory. There are as many as calls ran at once.
static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

impl Scratch {
    fn take() -> Scratch {
        SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(self) {
        SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }
}

/// The first `len` elements, of any value.
fn at_least<T: Clone>(of: &mut Vec<T>, len: usize, value: T) -> &mut [T] {
    if of.len() < len {
        of.resize(len, value);
    }
    &mut of[..len]
}

/// A part of the product that is computed in one go.
struct Region {
    rows: Range<usize>,
    columns: Range<usize>,
    summed: Range<usize>,
}

/// One product, and how it is computed.
struct Product<'a, T> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    result: Shared<'a, T>,
    /// Whether sums are kept in the scratch until the last chunk.
    keeps_sums: bool,
    num_threads: usize,
}

impl<T: Output> Product<'_, T> {
    fn region(&self, region: &Region, scratch: &mut Scratch, for_each: ForEach<'_>) {
        let steps = region.summed.len().div_ceil(STEP);
        let (row_blocks, column_blocks) = (region.rows.len().div_ceil(BLOCK), region.columns.len().div_ceil(BLOCK));
        let right = at_least(&mut scratch.right, column_blocks * steps * BLOCK, Line::ZERO);
        pack(&self.right, Side::Right, region.columns.start, &region.summed, right, for_each);
        let len = if self.keeps_sums { row_blocks * column_blocks * BLOCK * BLOCK } else { 0 };
        let blocks = Blocks {
            product: self,
            region,
            steps,
            right,
            sums: Shared::new(at_least(&mut scratch.sums, len, 0.0)),
            column_blocks,
        };
        let block_bytes = steps * BLOCK * size_of::<Line>();
        // Several tasks for each thread, so that none waits long for another.
        let rows_of_task = (MOST_ROWS / block_bytes.max(1)).min(row_blocks.div_ceil(4 * self.num_threads)).max(1);
        let columns_at_once = (MOST_COLUMNS / block_bytes.max(1)).max(1);
        for_each(row_blocks.div_ceil(rows_of_task), &|task| {
            let rows = task * rows_of_task..row_blocks.min((task + 1) * rows_of_task);
            let mut scratch = Scratch::take();
            let left = at_least(&mut scratch.left, rows.len() * steps * BLOCK, Line::ZERO);
            let first = region.rows.start + rows.start * BLOCK;
            pack(&self.left, Side::Left, first, &region.summed, left, &|number, f| (0..number).for_each(f));
            for column in (0..column_blocks).step_by(columns_at_once) {
                let columns = column..column_blocks.min(column + columns_at_once);
                // SAFETY: `matmul` has seen that the processor has the instructions; tasks have rows of their own.
                unsafe { blocks.multiply(left, rows.clone(), columns) };
            }
            scratch.give_back();
        });
    }
}

/// Packs the blocks of an operand from `first` on in its free dimension, as many as `lines` has room for.
fn pack(
    matrix: &Matrix<'_>,
    side: Side,
    first: usize,
    summed: &Range<usize>,
    lines: &mut [Line],
    for_each: ForEach<'_>,
) {
    // Tasks of some blocks side by side, whose rows are neighbours in memory, and of some steps.
    const BLOCKS: usize = 4;
    const STEPS: usize = 16;
    let steps = summed.len().div_ceil(STEP);
    if lines.is_empty() {
        return;
    }
    let blocks = lines.len() / (steps * BLOCK);
    let (block_tasks, step_tasks) = (blocks.div_ceil(BLOCKS), steps.div_ceil(STEPS));
    let lines = Shared::new(lines);
    for_each(block_tasks * step_tasks, &|task| {
        let (block_task, step_task) = (task / step_tasks, task % step_tasks);
        let steps_of_task = step_task * STEPS..steps.min((step_task + 1) * STEPS);
        for step in steps_of_task.clone().step_by(2) {
            let num_steps = (steps_of_task.end - step).min(2);
            for half in 2 * block_task * BLOCKS..2 * blocks.min((block_task + 1) * BLOCKS) {
                // SAFETY: each half and step belongs to one task; the processor has the instructions.
                unsafe {
                    let lines = lines.part((half * steps + step) * TILE, num_steps * TILE);
                    matrix.pack(side, first + half * TILE, summed.start + step * STEP, summed.end, lines);
                }
            }
        }
    });
}

/// The blocks of a region, with their operands as tiles.
struct Blocks<'a, T> {
    product: &'a Product<'a, T>,
    region: &'a Region,
    steps: usize,
    right: &'a [Line],
    /// Block after block, where sums are kept.
    sums: Shared<'a, f32>,
    column_blocks: usize,
}

impl<T: Output> Blocks<'_, T> {
    /// Computes these blocks; `left` has the tiles of the rows.
    ///
    /// # Safety
    /// No other task has one of these, and the processor has AVX-512 F, BW, VL and BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn multiply(&self, left: &[Line], rows: Range<usize>, columns: Range<usize>) {
        let Product { right, result, keeps_sums, .. } = self.product;
        let Region { rows: all_rows, columns: all_columns, summed } = self.region;
        let _tiles = Tiles::new();
        let (is_first, is_last) = (summed.start == 0, summed.end == right.summed);
        let mut buffer = [[0.0f32; BLOCK]; BLOCK];
        for row_block in rows.clone() {
            let left = tiles_of(left, row_block - rows.start, self.steps);
            let row = all_rows.start + row_block * BLOCK;
            let num_rows = BLOCK.min(all_rows.end - row);
            for column_block in columns.clone() {
                let right = tiles_of(self.right, column_block, self.steps);
                let column = all_columns.start + column_block * BLOCK;
                let num_columns = BLOCK.min(all_columns.end - column);
                let at = |r: usize| (row + r) * self.product.right.free + column;
                // SAFETY: tiles of `left` and `right` have `steps` steps; each sum's place is within its slice, and this
                // task's alone.
                unsafe {
                    if T::IS_F32 && num_rows == BLOCK && num_columns == BLOCK {
                        let to = result.part(at(0), at(BLOCK - 1) + BLOCK - at(0)).as_mut_ptr().cast();
                        amx::multiply(self.steps, left, right, to, self.product.right.free, !is_first);
                        continue;
                    }
                    let (sums, adds) = if *keeps_sums {
                        let block = row_block * self.column_blocks + column_block;
                        (self.sums.part(block * BLOCK * BLOCK, BLOCK * BLOCK).as_mut_ptr(), !is_first)
                    } else {
                        // Sums of chunks before lie in the result, which then is f32.
                        for (r, sums) in buffer.iter_mut().enumerate().take(if is_first { 0 } else { num_rows }) {
                            let from = result.part(at(r), num_columns).as_ptr().cast::<f32>();
                            std::ptr::copy_nonoverlapping(from, sums.as_mut_ptr(), num_columns);
                        }
                        (buffer.as_mut_ptr().cast(), !is_first)
                    };
                    amx::multiply(self.steps, left, right, sums, BLOCK, adds);
                    if is_last || !keeps_sums {
                        for r in 0..num_rows {
                            let to = result.part(at(r), num_columns).as_mut_ptr();
                            T::write(to, sums.add(r * BLOCK), num_columns);
                        }
                    }
                }
            }
        }
    }
}

/// Where the tiles of a block lie, among those of blocks of so many steps.
fn tiles_of(lines: &[Line], block: usize, steps: usize) -> Operand {
    let lines = &lines[block * steps * BLOCK..][..steps * BLOCK];
    let (low, high) = lines.split_at(steps * TILE);
    let row = size_of::<Line>();
    Operand { first: [low.as_ptr().cast(), high.as_ptr().cast()], step: TILE * row, row }
}
