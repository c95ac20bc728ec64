//! The matrix product of f32: four rows by eight columns at a time, their sums in registers.
//!
//! Columns are neighbours in memory: where those of the right operand are not, it is copied first. Transposed operands
//! are other strides, not copies, and so are batches.

use wasm_encoder::{InstructionSink, ValType};

use super::affine::{Affine, i64_of};
use super::code::{Code, at};
use super::expr::{Address, Place};
use super::memory::address_of;
use super::nest::Addresses;

/// Rows that are computed together.
const ROWS: usize = 4;
/// Vectors of four columns that are computed together.
const VECTORS: usize = 2;
/// Terms of a sum that an iteration adds.
const UNROLL: usize = 4;
const FLOAT: i64 = 4;

/// A loop of a product: its size, and the bytes that an iteration moves on in `lhs`, `rhs` and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loop {
    size: usize,
    steps: [i64; 3],
}

/// `out[b, m, n] = Σ_k lhs[b, m, k] rhs[b, n, k]`.
#[derive(Clone, Debug)]
pub(super) struct Product {
    batch: Vec<Loop>,
    rows: Vec<Loop>,
    columns: Vec<Loop>,
    sum: Vec<Loop>,
    /// The first elements of both operands and the result.
    operands: [(Place, i64); 3],
    /// Room for a copy of the right operand, `[k, n]`.
    pub(super) scratch: Option<Place>,
}

impl Product {
    /// Of loops in the order batch, rows, columns, sum, so many of each. `None` for what this kernel is not for: without
    /// columns and rows, without elements, or backwards.
    pub(super) fn new(
        sizes: &[usize],
        counts: [usize; 4],
        lhs: Address,
        rhs: Address,
        out: Address,
    ) -> Option<Product> {
        let coefficient = |affine: &Affine, l: usize| affine.coefficients[l];
        let all = |l: usize| Loop { size: sizes[l], steps: [&lhs, &rhs, &out].map(|x| coefficient(&x.index, l)) };
        let mut loops: Vec<Loop> = (0..sizes.len()).map(all).collect();
        if loops.iter().any(|l| l.size == 0 || l.steps.iter().any(|&step| step < 0)) {
            return None;
        }
        let mut take = |count: usize| merged(loops.drain(..count).collect());
        let [batch, mut rows, mut columns, sum] = counts.map(&mut take);
        let place = |address: &Address| (address.place.clone(), address.index.constant);
        let mut operands = [place(&lhs), place(&rhs), place(&out)];
        if columns.is_empty() {
            // A matrix and a vector: the rows are the columns of the transposed product.
            std::mem::swap(&mut rows, &mut columns);
            operands.swap(0, 1);
            let swap = |loops: Vec<Loop>| -> Vec<Loop> {
                loops.into_iter().map(|l| Loop { steps: [l.steps[1], l.steps[0], l.steps[2]], ..l }).collect()
            };
            let [batch, columns, sum] = [batch, columns, sum].map(swap);
            return (!columns.is_empty()).then_some(Product { batch, rows, columns, sum, operands, scratch: None });
        }
        Some(Product { batch, rows, columns, sum, operands, scratch: None })
    }

    /// The bytes that a copy of the right operand takes, if it needs one.
    pub(super) fn scratch_bytes(&self) -> Option<usize> {
        let size = |loops: &[Loop]| loops.iter().map(|l| l.size).product::<usize>();
        let last = self.columns.last()?;
        (last.steps[1] != FLOAT).then(|| size(&self.columns) * size(&self.sum) * 4)
    }

    /// Writes the product.
    pub(super) fn emit(&self, code: &mut Code, addresses: &Addresses) {
        let pointers = std::array::from_fn(|i| {
            let (place, constant) = &self.operands[i];
            address_of(code, place, *constant, addresses)
        });
        let shared = self.batch.iter().all(|l| l.steps[1] == 0);
        match &self.scratch {
            None => nested(code, &self.batch, pointers, &mut |code, pointers| self.blocks(code, pointers)),
            Some(scratch) => {
                let copy = address_of(code, scratch, 0, addresses);
                let packed = self.packed();
                if shared {
                    self.pack(code, pointers[1], copy);
                }
                nested(code, &self.batch, pointers, &mut |code, [lhs, rhs, out]| {
                    if !shared {
                        self.pack(code, rhs, copy);
                    }
                    packed.blocks(code, [lhs, copy, out]);
                });
            }
        }
    }

    /// The product with the copy in place of the right operand.
    fn packed(&self) -> Product {
        let mut packed = self.clone();
        let mut step = FLOAT;
        for l in packed.columns.iter_mut().rev().chain(packed.sum.iter_mut().rev()) {
            l.steps[1] = step;
            step *= i64_of(l.size);
        }
        let merge = |loops: &mut Vec<Loop>| *loops = merged(std::mem::take(loops));
        merge(&mut packed.columns);
        merge(&mut packed.sum);
        packed
    }

    /// Copies the right operand to `[k, n]`.
    fn pack(&self, code: &mut Code, source: u32, copy: u32) {
        let packed = {
            let mut packed = self.clone();
            let mut step = FLOAT;
            for l in packed.columns.iter_mut().rev().chain(packed.sum.iter_mut().rev()) {
                l.steps[0] = 0;
                l.steps[2] = step;
                step *= i64_of(l.size);
            }
            packed
        };
        let (sum, columns) = (packed.sum.split_last(), packed.columns.split_last());
        let Some((column, outer_columns)) = columns else { unreachable!("there are columns") };
        let one = Loop { size: 1, steps: [0; 3] };
        let (term, outer_sum) = sum.map_or((one, &[][..]), |(last, outer)| (*last, outer));
        let outer = [outer_sum, outer_columns].concat();
        nested(code, &outer, [source, source, copy], &mut |code, [_, source, copy]| {
            transpose(code, source, copy, *column, term);
        });
    }

    /// All blocks of rows and columns of one batch.
    fn blocks(&self, code: &mut Code, pointers: [u32; 3]) {
        let Some((columns, outer)) = self.columns.split_last() else { unreachable!("there are columns") };
        nested(code, outer, pointers, &mut |code, pointers| {
            split(code, *columns, 4 * VECTORS, pointers, &mut |code, pointers, width| {
                self.row_blocks(code, pointers, width)
            });
        });
    }

    fn row_blocks(&self, code: &mut Code, pointers: [u32; 3], width: usize) {
        let one = Loop { size: 1, steps: [0; 3] };
        let (rows, outer) = self.rows.split_last().map_or((one, &[][..]), |(last, outer)| (*last, outer));
        nested(code, outer, pointers, &mut |code, pointers| {
            split(code, rows, ROWS, pointers, &mut |code, pointers, height| {
                self.tile(code, pointers, height, rows, width);
            });
        });
    }

    /// `height` rows by `width` columns.
    fn tile(&self, code: &mut Code, [lhs, rhs, out]: [u32; 3], height: usize, rows: Loop, width: usize) {
        let vectors = width.div_ceil(4);
        let sums: Vec<Vec<u32>> =
            (0..height).map(|_| (0..vectors).map(|_| code.local(ValType::V128)).collect()).collect();
        for &sum in sums.iter().flatten() {
            code.i().v128_const(0).local_set(sum);
        }
        let one = Loop { size: 1, steps: [0; 3] };
        let (term, outer) = self.sum.split_last().map_or((one, &[][..]), |(last, outer)| (*last, outer));
        let row_step = rows.steps[0];
        let columns: Vec<u32> = (0..vectors).map(|_| code.local(ValType::V128)).collect();
        nested(code, outer, [lhs, rhs, out], &mut |code, [lhs, rhs, _]| {
            let add = |code: &mut Code, lhs: u32, rhs: u32, terms: usize| {
                for k in 0..i64_of(terms) {
                    for (v, &column) in columns.iter().enumerate() {
                        let offset = k * term.steps[1] + 16 * i64_of(v);
                        code.i().local_get(rhs).v128_load(at(offset.cast_unsigned())).local_set(column);
                    }
                    for (row, sums) in sums.iter().enumerate() {
                        let offset = at((k * term.steps[0] + i64_of(row) * row_step).cast_unsigned());
                        let mut i = code.i();
                        if let (&[sum], &[column]) = (&sums[..], &columns[..]) {
                            i.local_get(sum).local_get(column).local_get(lhs).v128_load32_splat(offset);
                            i.f32x4_mul().f32x4_add().local_set(sum);
                            continue;
                        }
                        i.local_get(lhs).v128_load32_splat(offset);
                        let value = code.set_new(ValType::V128);
                        for (&sum, &column) in sums.iter().zip(&columns) {
                            let mut i = code.i();
                            i.local_get(sum).local_get(value).local_get(column).f32x4_mul().f32x4_add().local_set(sum);
                        }
                    }
                }
            };
            split(code, term, UNROLL, [lhs, rhs, rhs], &mut |code, [lhs, rhs, _], terms| add(code, lhs, rhs, terms));
        });
        let last = self.columns.last().map_or(FLOAT, |l| l.steps[2]);
        for (row, sums) in sums.iter().enumerate() {
            let begin = i64_of(row) * rows.steps[2];
            for (v, &sum) in sums.iter().enumerate() {
                let valid = (width - 4 * v).min(4);
                let offset = |lane: usize| at((begin + i64_of(4 * v + lane) * last).cast_unsigned());
                if valid == 4 && last == FLOAT {
                    code.i().local_get(out).local_get(sum).v128_store(offset(0));
                    continue;
                }
                for lane in 0..valid {
                    code.i().local_get(out).local_get(sum).v128_store32_lane(offset(lane), lane as u8);
                }
            }
        }
    }
}

/// Merges neighbouring loops that run over all operands as one would.
fn merged(loops: Vec<Loop>) -> Vec<Loop> {
    let mut merged: Vec<Loop> = Vec::new();
    for inner in loops {
        let one = |outer: &Loop| (0..3).all(|i| outer.steps[i] == inner.steps[i] * i64_of(inner.size));
        match merged.last_mut() {
            Some(outer) if one(outer) => *outer = Loop { size: outer.size * inner.size, ..inner },
            Some(_) | None => merged.push(inner),
        }
    }
    merged
}

/// Runs `body` in all iterations of loops, with the pointers of each.
fn nested(code: &mut Code, loops: &[Loop], pointers: [u32; 3], body: &mut dyn FnMut(&mut Code, [u32; 3])) {
    let Some((first, rest)) = loops.split_first() else { return body(code, pointers) };
    split(code, *first, 1, pointers, &mut |code, pointers, _| nested(code, rest, pointers, body));
}

/// Runs `body` for blocks of iterations of a loop: whole ones, and what is left.
fn split(code: &mut Code, l: Loop, block: usize, pointers: [u32; 3], body: &mut dyn FnMut(&mut Code, [u32; 3], usize)) {
    let (count, rest) = (l.size / block, l.size % block);
    let step = i64_of(block);
    // What does not move keeps its pointer.
    let moving = pointers.map(|pointer| {
        code.i().local_get(pointer);
        code.set_new(ValType::I32)
    });
    let moving: [u32; 3] = std::array::from_fn(|i| if l.steps[i] == 0 { pointers[i] } else { moving[i] });
    let advance = |i: &mut InstructionSink<'_>| {
        for (pointer, by) in moving.into_iter().zip(l.steps.map(|by| by * step)) {
            if by != 0 {
                i.local_get(pointer).i32_const(by as i32).i32_add().local_set(pointer);
            }
        }
    };
    if count == 1 {
        body(code, moving, block);
        if rest > 0 {
            advance(&mut code.i());
        }
    } else if count > 1 {
        let variable = code.local(ValType::I32);
        code.begin_for(variable, 0);
        body(code, moving, block);
        advance(&mut code.i());
        code.end_for(variable, count, 1);
    }
    if rest > 0 {
        body(code, moving, rest);
    }
}

/// Copies a matrix whose columns are `column` apart, and terms `term`, to where columns are neighbours.
fn transpose(code: &mut Code, source: u32, copy: u32, column: Loop, term: Loop) {
    let pointers = [source, source, copy];
    split(code, column, 4, pointers, &mut |code, pointers, columns| {
        split(code, term, 4, pointers, &mut |code, [_, source, copy], terms| {
            if columns == 4 && terms == 4 && term.steps[1] == FLOAT {
                return transpose_block(code, source, copy, column.steps[1], term.steps[2]);
            }
            for k in 0..i64_of(terms) {
                for n in 0..i64_of(columns) {
                    let from = at((n * column.steps[1] + k * term.steps[1]).cast_unsigned());
                    let to = at((n * column.steps[2] + k * term.steps[2]).cast_unsigned());
                    code.i().local_get(copy).local_get(source).f32_load(from).f32_store(to);
                }
            }
        });
    });
}

/// Four vectors, `from` bytes apart, to four that are `to` apart and have their lanes.
fn transpose_block(code: &mut Code, source: u32, copy: u32, from: i64, to: i64) {
    let rows: Vec<u32> = (0..4)
        .map(|row| {
            code.i().local_get(source).v128_load(at((row * from).cast_unsigned()));
            code.set_new(ValType::V128)
        })
        .collect();
    // The bytes of lanes 0 to 3 of the first operand, and 4 to 7 of the second.
    let lanes = |lanes: [u8; 4]| -> [u8; 16] { std::array::from_fn(|i| 4 * lanes[i / 4] + (i % 4) as u8) };
    let mut shuffled = |a: u32, b: u32, order: [u8; 4]| {
        code.i().local_get(a).local_get(b).i8x16_shuffle(lanes(order));
        code.set_new(ValType::V128)
    };
    let low = [shuffled(rows[0], rows[1], [0, 4, 1, 5]), shuffled(rows[2], rows[3], [0, 4, 1, 5])];
    let high = [shuffled(rows[0], rows[1], [2, 6, 3, 7]), shuffled(rows[2], rows[3], [2, 6, 3, 7])];
    let columns = [
        shuffled(low[0], low[1], [0, 1, 4, 5]),
        shuffled(low[0], low[1], [2, 3, 6, 7]),
        shuffled(high[0], high[1], [0, 1, 4, 5]),
        shuffled(high[0], high[1], [2, 3, 6, 7]),
    ];
    for (k, column) in columns.into_iter().enumerate() {
        code.i().local_get(copy).local_get(column).v128_store(at((i64_of(k) * to).cast_unsigned()));
    }
}
