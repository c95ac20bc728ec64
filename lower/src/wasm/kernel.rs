//! The matrix product of f32: four rows by eight columns at a time, a *tile*, their sums in registers.
//!
//! Columns are neighbours in memory: where those of the right operand are not, it is copied first; and also where it is
//! large and read often, for a copy is made in *panels* of eight columns that lie in the order in which tiles read them.
//! Sixteen rows are computed together, panel by panel, so that each panel is read from a near cache by four tiles and the
//! result is written nearly in order. Of a left operand whose rows are neighbours these sixteen are copied in the same way.
//! Other transposed operands are other strides, not copies, and so are batches. A sum's terms are added in their order.

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
/// Columns of a panel.
const PANEL: usize = 4 * VECTORS;
/// Rows that read a panel one after another.
const STRIP: usize = 4 * ROWS;
/// Terms of a sum that an iteration adds.
const UNROLL: usize = 4;
/// A right operand that is not read by more rows than this is not copied to be read faster.
const FEW_ROWS: usize = 2 * STRIP;
/// A left operand is copied for sums that are longer than this.
const SHORT_SUM: usize = 64;
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
    /// Bytes between the rows of a tile in the left operand.
    row_step: i64,
    /// Room for copies: of a strip of the left operand, and of the right operand.
    pub(super) copies: [Option<Place>; 2],
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
        let [mut batch, mut rows, mut columns, mut sum] = counts.map(&mut take);
        let place = |address: &Address| (address.place.clone(), address.index.constant);
        let mut operands = [place(&lhs), place(&rhs), place(&out)];
        if columns.is_empty() {
            // A matrix and a vector: the rows are the columns of the transposed product.
            std::mem::swap(&mut rows, &mut columns);
            operands.swap(0, 1);
            [&mut batch, &mut columns, &mut sum].into_iter().flatten().for_each(|l| l.steps.swap(0, 1));
        }
        let row_step = rows.last().map_or(0, |row| row.steps[0]);
        let copies = [None, None];
        (!columns.is_empty()).then_some(Product { batch, rows, columns, sum, operands, row_step, copies })
    }

    /// The bytes that a copy of a strip of the left operand, and of the right operand, take, where they are wanted.
    pub(super) fn copied_bytes(&self) -> [Option<usize>; 2] {
        let [rows, columns, terms] = [&self.rows, &self.columns, &self.sum].map(|loops| size(loops));
        let Some((column, outer)) = self.columns.split_last() else { return [None, None] };
        let often = columns > PANEL;
        let far = self.sum.last().is_some_and(|term| term.steps[0] != FLOAT);
        let strip = self.row_step == FLOAT && far && terms > SHORT_SUM && rows > ROWS && often;
        let panels = column.steps[1] != FLOAT || (rows > FEW_ROWS && often);
        let bytes = |wanted: bool, count: usize| wanted.then_some(count * terms * 4);
        [bytes(strip, STRIP), bytes(panels, size(outer) * column.size.next_multiple_of(PANEL))]
    }

    /// Writes the product.
    pub(super) fn emit(&self, code: &mut Code, addresses: &Addresses) {
        let pointers = std::array::from_fn(|i| {
            let (place, constant) = &self.operands[i];
            address_of(code, place, *constant, addresses)
        });
        let [strip, copy] =
            self.copies.each_ref().map(|copy| copy.as_ref().map(|copy| address_of(code, copy, 0, addresses)));
        let shared = self.batch.iter().all(|l| l.steps[1] == 0);
        let Some(copy) = copy else {
            return nested(code, &self.batch, pointers, &mut |code, pointers| self.strips(code, pointers, strip));
        };
        let panels = self.with_panels();
        if shared {
            self.copy_panels(&panels, code, pointers[1], copy);
        }
        nested(code, &self.batch, pointers, &mut |code, [lhs, rhs, out]| {
            if !shared {
                self.copy_panels(&panels, code, rhs, copy);
            }
            panels.strips(code, [lhs, copy, out], strip);
        });
    }

    /// The product with a copy in panels, `[panel, k, 8]`, in place of the right operand.
    fn with_panels(&self) -> Product {
        let mut panels = self.clone();
        let terms = i64_of(size(&self.sum));
        let mut step = FLOAT * terms;
        for (i, l) in panels.columns.iter_mut().rev().enumerate() {
            l.steps[1] = step;
            // The last panel has room for eight columns too.
            step *= i64_of(if i == 0 { l.size.next_multiple_of(PANEL) } else { l.size });
        }
        let mut step = FLOAT * i64_of(PANEL);
        for l in panels.sum.iter_mut().rev() {
            l.steps[1] = step;
            step *= i64_of(l.size);
        }
        panels
    }

    /// Copies the right operand to the panels of `to`.
    fn copy_panels(&self, to: &Product, code: &mut Code, source: u32, copy: u32) {
        let route = |from: &[Loop], to: &[Loop]| -> Vec<Loop> {
            from.iter().zip(to).map(|(from, to)| Loop { steps: [0, from.steps[1], to.steps[1]], ..*from }).collect()
        };
        let (columns, sum) = (route(&self.columns, &to.columns), route(&self.sum, &to.sum));
        let (column, outer_columns) = innermost(&columns);
        let (term, outer_sum) = innermost(&sum);
        nested(code, &[outer_columns, outer_sum].concat(), [source, source, copy], &mut |code, pointers| {
            split(code, column, PANEL, pointers, &mut |code, pointers, width| {
                split(code, term, 4, pointers, &mut |code, [_, source, copy], terms| {
                    for first in (0..width).step_by(4) {
                        let copy = Block { source, copy, column, term, first };
                        copy.write(code, (width - first).min(4), terms);
                    }
                });
            });
        });
    }

    /// The product with a copy of a strip, `[tile, k, 4]`, in place of the left operand.
    fn with_strip(&self) -> Product {
        let mut strip = self.clone();
        if let Some(row) = strip.rows.last_mut() {
            row.steps[0] = FLOAT * i64_of(size(&self.sum));
        }
        strip.row_step = FLOAT;
        let mut step = FLOAT * i64_of(ROWS);
        for l in strip.sum.iter_mut().rev() {
            l.steps[0] = step;
            step *= i64_of(l.size);
        }
        strip
    }

    /// Copies `rows` of the left operand to the strip of `to`.
    fn copy_strip(&self, to: &Product, code: &mut Code, source: u32, copy: u32, rows: usize) {
        let route = |from: &Loop, to: &Loop| Loop { steps: [from.steps[0], 0, to.steps[0]], ..*from };
        let sum: Vec<Loop> = self.sum.iter().zip(&to.sum).map(|(from, to)| route(from, to)).collect();
        let (term, outer) = innermost(&sum);
        let row = route(&innermost(&self.rows).0, &innermost(&to.rows).0);
        split(code, Loop { size: rows, ..row }, ROWS, [source, source, copy], &mut |code, pointers, height| {
            nested(code, outer, pointers, &mut |code, pointers| {
                split(code, term, UNROLL, pointers, &mut |code, [source, _, copy], terms| {
                    for k in 0..i64_of(terms) {
                        let (from, to) = (k * term.steps[0], k * term.steps[2]);
                        if height == ROWS {
                            code.i().local_get(copy).local_get(source).v128_load(at(from.cast_unsigned()));
                            code.i().v128_store(at(to.cast_unsigned()));
                            continue;
                        }
                        for row in (0..i64_of(height)).map(|row| row * FLOAT) {
                            code.i().local_get(copy).local_get(source).f32_load(at((from + row).cast_unsigned()));
                            code.i().f32_store(at((to + row).cast_unsigned()));
                        }
                    }
                });
            });
        });
    }

    /// All strips of rows of one batch.
    fn strips(&self, code: &mut Code, pointers: [u32; 3], copy: Option<u32>) {
        let (row, outer) = innermost(&self.rows);
        nested(code, outer, pointers, &mut |code, pointers| {
            split(code, row, STRIP, pointers, &mut |code, [lhs, rhs, out], rows| match copy {
                None => self.strip(code, [lhs, rhs, out], rows),
                Some(copy) => {
                    let strip = self.with_strip();
                    self.copy_strip(&strip, code, lhs, copy, rows);
                    strip.strip(code, [copy, rhs, out], rows);
                }
            });
        });
    }

    /// `rows` rows by all columns.
    fn strip(&self, code: &mut Code, pointers: [u32; 3], rows: usize) {
        let (row, _) = innermost(&self.rows);
        let (column, outer) = innermost(&self.columns);
        nested(code, outer, pointers, &mut |code, pointers| {
            split(code, column, PANEL, pointers, &mut |code, pointers, width| {
                split(code, Loop { size: rows, ..row }, ROWS, pointers, &mut |code, pointers, height| {
                    self.tile(code, pointers, height, width);
                });
            });
        });
    }

    /// `height` rows by `width` columns.
    fn tile(&self, code: &mut Code, [lhs, rhs, out]: [u32; 3], height: usize, width: usize) {
        let vectors = width.div_ceil(4);
        let sums: Vec<Vec<u32>> =
            (0..height).map(|_| (0..vectors).map(|_| code.local(ValType::V128)).collect()).collect();
        for &sum in sums.iter().flatten() {
            code.i().v128_const(0).local_set(sum);
        }
        let (term, outer) = innermost(&self.sum);
        let columns: Vec<u32> = (0..vectors).map(|_| code.local(ValType::V128)).collect();
        nested(code, outer, [lhs, rhs, out], &mut |code, [lhs, rhs, _]| {
            let add = |code: &mut Code, lhs: u32, rhs: u32, terms: usize| {
                for k in 0..i64_of(terms) {
                    for (v, &column) in columns.iter().enumerate() {
                        let offset = k * term.steps[1] + 16 * i64_of(v);
                        code.i().local_get(rhs).v128_load(at(offset.cast_unsigned())).local_set(column);
                    }
                    for (row, sums) in sums.iter().enumerate() {
                        let offset = at((k * term.steps[0] + i64_of(row) * self.row_step).cast_unsigned());
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
        let (below, last) = (innermost(&self.rows).0.steps[2], innermost(&self.columns).0.steps[2]);
        for (row, sums) in sums.iter().enumerate() {
            let begin = i64_of(row) * below;
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

/// The iterations of loops.
fn size(loops: &[Loop]) -> usize {
    loops.iter().map(|l| l.size).product()
}

/// The innermost loop, which runs once if there is none, and those around it.
fn innermost(loops: &[Loop]) -> (Loop, &[Loop]) {
    let once = Loop { size: 1, steps: [0; 3] };
    loops.split_last().map_or((once, &[]), |(last, outer)| (*last, outer))
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

/// Four columns of a panel, from column `first` on: the second pointers of both loops are the source's.
struct Block {
    source: u32,
    copy: u32,
    column: Loop,
    term: Loop,
    first: usize,
}

impl Block {
    /// Copies so many columns of so many terms; the columns that are missing are zero.
    fn write(&self, code: &mut Code, columns: usize, terms: usize) {
        let Block { source, copy, column, term, first } = *self;
        let (begin, shift) = (i64_of(first) * column.steps[1], i64_of(first) * FLOAT);
        if columns == 4 && terms == 4 && term.steps[1] == FLOAT {
            return transpose_block(code, [source, copy], [begin, shift], column.steps[1], term.steps[2]);
        }
        for k in 0..i64_of(terms) {
            let from = begin + k * term.steps[1];
            let to = at((shift + k * term.steps[2]).cast_unsigned());
            if columns == 4 && column.steps[1] == FLOAT {
                code.i().local_get(copy).local_get(source).v128_load(at(from.cast_unsigned())).v128_store(to);
                continue;
            }
            let vector = code.local(ValType::V128);
            code.i().v128_const(0).local_set(vector);
            for lane in 0..columns as u8 {
                let from = at((from + i64::from(lane) * column.steps[1]).cast_unsigned());
                code.i().local_get(source).local_get(vector).v128_load32_lane(from, lane).local_set(vector);
            }
            code.i().local_get(copy).local_get(vector).v128_store(to);
        }
    }
}

/// Four vectors, `from` bytes apart, to four that are `to` apart and have their lanes; both begin so far behind pointers.
fn transpose_block(code: &mut Code, [source, copy]: [u32; 2], begin: [i64; 2], from: i64, to: i64) {
    let rows: Vec<u32> = (0..4)
        .map(|row| {
            code.i().local_get(source).v128_load(at((begin[0] + row * from).cast_unsigned()));
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
        code.i().local_get(copy).local_get(column).v128_store(at((begin[1] + i64_of(k) * to).cast_unsigned()));
    }
}
