//! Products of small matrices that lie packed in the cache.
//!
//! Operands are arrays of 32-bit *words* along the summed dimension: an f32, or two bf16 that an instruction multiplies
//! and adds at once ([`Words`]). The right operand is cut into panels of as many columns as a tile has, each with its
//! columns side by side for every word; the result is a tile of [`ROWS`] rows by one panel after the other
//! (Goto and van de Geijn 2008).

use super::simd::{LANES, Simd};

/// Rows of a tile. Left operands and results have a multiple of it, the rest zeros.
pub(crate) const ROWS: usize = 4;

/// What a word holds.
pub(crate) trait Words: Copy {
    /// Elements in a word.
    const PER_WORD: usize;

    /// `acc + a * b`, lane by lane.
    ///
    /// # Safety
    /// That of [`Simd`].
    unsafe fn mul_add<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V;
}

/// A word is an f32.
#[derive(Clone, Copy)]
pub(crate) struct Single;

/// A word is two bf16.
#[derive(Clone, Copy)]
pub(crate) struct Pair;

impl Words for Single {
    const PER_WORD: usize = 1;

    #[inline(always)]
    unsafe fn mul_add<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::mul_add(a, b, acc) }
    }
}

impl Words for Pair {
    const PER_WORD: usize = 2;

    #[inline(always)]
    unsafe fn mul_add<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::dot_pairs(a, b, acc) }
    }
}

/// The left operand: word `k` of row `m` is `words[m * row + k * word]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) words: &'a [f32],
    pub(crate) row: usize,
    pub(crate) word: usize,
}

/// Columns of a panel.
pub(crate) const fn panel<S: Simd>() -> usize {
    S::TILE * LANES
}

/// `c = a b`, or `c += a b` with `ADD`: `rows` (a multiple of [`ROWS`]) by `columns` (of [`LANES`]), summed over `words`
/// words. `b` has panel after panel, each `words` times its columns; row `m` of the result begins at `c[m * c_row]`.
///
/// # Safety
/// That of [`Simd`].
///
/// # Panics
/// If an operand or the result is too short for that.
#[inline(always)]
pub(crate) unsafe fn product<S: Simd, W: Words, const ADD: bool>(
    [rows, columns, words]: [usize; 3],
    a: Left<'_>,
    b: &[f32],
    c: &mut [f32],
    c_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(rows.is_multiple_of(ROWS) && columns.is_multiple_of(LANES) && columns <= c_row);
    assert!(words == 0 || a.words.len() > (rows - 1) * a.row + (words - 1) * a.word);
    assert!(b.len() >= columns * words && c.len() >= (rows - 1) * c_row + columns);
    let mut column = 0;
    while column < columns {
        let width = panel::<S>().min(columns - column);
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the assertions above: row `row + 3` is below `rows`, and `column + width` no more than `columns`.
            unsafe {
                let a = (a.words.as_ptr().add(row * a.row), a.row, a.word);
                let b = b.as_ptr().add(column * words);
                let c = c.as_mut_ptr().add(row * c_row + column);
                match width / LANES {
                    1 => tile::<S, W, ADD, 1>(words, a, b, c, c_row),
                    2 => tile::<S, W, ADD, 2>(words, a, b, c, c_row),
                    3 => tile::<S, W, ADD, 3>(words, a, b, c, c_row),
                    _ => tile::<S, W, ADD, 4>(words, a, b, c, c_row),
                }
            }
        }
        column += width;
    }
}

/// One tile of [`ROWS`] by `N` vectors.
///
/// # Safety
/// That of [`Simd`]; `a`, `b` and `c` are valid for the tile's words and elements.
#[inline(always)]
unsafe fn tile<S: Simd, W: Words, const ADD: bool, const N: usize>(
    words: usize,
    (a, a_row, a_word): (*const f32, usize, usize),
    b: *const f32,
    c: *mut f32,
    c_row: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; ROWS];
        if ADD {
            for (m, acc) in acc.iter_mut().enumerate() {
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = S::load(c.add(m * c_row + n * LANES));
                }
            }
        }
        for k in 0..words {
            let b = b.add(k * N * LANES);
            let mut columns = [S::splat(0.0); N];
            for (n, column) in columns.iter_mut().enumerate() {
                *column = S::load(b.add(n * LANES));
            }
            for (m, acc) in acc.iter_mut().enumerate() {
                let a = S::splat(*a.add(m * a_row + k * a_word));
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = W::mul_add::<S>(a, columns[n], *acc);
                }
            }
        }
        for (m, acc) in acc.iter().enumerate() {
            for (n, acc) in acc.iter().enumerate() {
                S::store(c.add(m * c_row + n * LANES), *acc);
            }
        }
    }
}
