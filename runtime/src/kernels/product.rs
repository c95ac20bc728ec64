//! Products of small matrices that lie packed in the cache.
//!
//! Operands are arrays of 32-bit *words* along the summed dimension: an f32, or two bf16 that an instruction multiplies
//! and adds at once ([`Words`]). The right operand is cut into panels of as many columns as a tile has, each with its
//! columns side by side for every word; the result is a tile of some rows by one panel after the other
//! (Goto and van de Geijn 2008).

#[cfg(target_arch = "x86_64")]
use super::amx::{self, BLOCK, Operand, TILE};
use super::simd::{LANES, Simd};

/// Rows of a tile of vectors.
const ROWS: usize = 4;

/// What a word holds, and what multiplies them.
pub(crate) trait Words: Copy {
    /// Elements in a word.
    const PER_WORD: usize;
    /// Left operands and results have a multiple of so many rows, the rest zeros.
    const ROWS: usize;
    /// Right operands and results have a multiple of so many columns.
    const COLUMNS: usize;
    /// Operands have a multiple of so many words.
    const WORDS: usize;

    /// `c = a b`, or `c += a b` with `ADD`: `rows` by `columns`, summed over `words` words, each a multiple of what this
    /// type says. Row `m` of `a` begins at `m * words`; `b` has panel after panel, each `words` times its columns; row `m`
    /// of the result begins at `c[m * c_row]`.
    ///
    /// # Safety
    /// That of [`Simd`].
    ///
    /// # Panics
    /// If an operand or the result is too short for that.
    unsafe fn product<S: Simd, const ADD: bool>(sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32], c_row: usize);
}

/// Words that vectors multiply lane by lane.
trait Lanes: Words {
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

/// A word is two bf16, and the matrix unit of AMX multiplies them: there are [`Tiles`](super::amx::Tiles) on the thread.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct TilePair;

impl Words for Single {
    const PER_WORD: usize = 1;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = LANES;
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn product<S: Simd, const ADD: bool>(sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32], c_row: usize) {
        // SAFETY: the caller's.
        unsafe { product::<S, Single, ADD>(sizes, a, b, c, c_row) }
    }
}

impl Lanes for Single {
    #[inline(always)]
    unsafe fn mul_add<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::mul_add(a, b, acc) }
    }
}

impl Words for Pair {
    const PER_WORD: usize = 2;
    const ROWS: usize = ROWS;
    const COLUMNS: usize = LANES;
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn product<S: Simd, const ADD: bool>(sizes: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32], c_row: usize) {
        // SAFETY: the caller's.
        unsafe { product::<S, Pair, ADD>(sizes, a, b, c, c_row) }
    }
}

impl Lanes for Pair {
    #[inline(always)]
    unsafe fn mul_add<S: Simd>(a: S::V, b: S::V, acc: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::dot_pairs(a, b, acc) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Words for TilePair {
    const PER_WORD: usize = 2;
    const ROWS: usize = BLOCK;
    const COLUMNS: usize = BLOCK;
    const WORDS: usize = TILE;

    #[inline(always)]
    unsafe fn product<S: Simd, const ADD: bool>(
        [rows, columns, words]: [usize; 3],
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
        c_row: usize,
    ) {
        assert!(rows.is_multiple_of(BLOCK) && columns.is_multiple_of(BLOCK) && words.is_multiple_of(TILE));
        assert!(a.len() >= rows * words && b.len() >= columns * words);
        assert!(rows == 0 || columns <= c_row && c.len() >= (rows - 1) * c_row + columns);
        const WORD: usize = size_of::<f32>();
        let mut column = 0;
        while column < columns {
            let width = panel::<S>().min(columns - column);
            for inside in (0..width).step_by(BLOCK) {
                for row in (0..rows).step_by(BLOCK) {
                    // SAFETY: the assertions above: a block ends below `rows` and `column + width`, which is no more than
                    // `columns`. There are tiles on this thread, as this type says.
                    unsafe {
                        let a = a.as_ptr().add(row * words);
                        let a = Operand {
                            first: [a.cast(), a.add(TILE * words).cast()],
                            step: TILE * WORD,
                            row: words * WORD,
                        };
                        let b = b.as_ptr().add(column * words + inside);
                        let b = Operand {
                            first: [b.cast(), b.add(TILE).cast()],
                            step: TILE * width * WORD,
                            row: width * WORD,
                        };
                        let c = c.as_mut_ptr().add(row * c_row + column + inside);
                        amx::multiply(words / TILE, a, b, c, c_row, ADD);
                    }
                }
            }
            column += width;
        }
    }
}

/// Columns of a panel.
pub(crate) const fn panel<S: Simd>() -> usize {
    S::TILE * LANES
}

/// [`Words::product`] by vectors.
///
/// # Safety
/// As there.
///
/// # Panics
/// As there.
#[inline(always)]
unsafe fn product<S: Simd, W: Lanes, const ADD: bool>(
    [rows, columns, words]: [usize; 3],
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    c_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(rows.is_multiple_of(ROWS) && columns.is_multiple_of(LANES) && columns <= c_row);
    assert!(a.len() >= rows * words);
    assert!(b.len() >= columns * words && c.len() >= (rows - 1) * c_row + columns);
    let mut column = 0;
    while column < columns {
        let width = panel::<S>().min(columns - column);
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the assertions above: row `row + 3` is below `rows`, and `column + width` no more than `columns`.
            unsafe {
                let a = a.as_ptr().add(row * words);
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
unsafe fn tile<S: Simd, W: Lanes, const ADD: bool, const N: usize>(
    words: usize,
    a: *const f32,
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
                let a = S::splat(*a.add(m * words + k));
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
