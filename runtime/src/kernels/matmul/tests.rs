//! Products against sums in f64.

use half::bf16;

use super::{Major, Matrix, Output, is_available, matmul};

/// Small integers and halves from a counter: products of few of them are exact.
fn elements(len: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32(((state >> 16) % 257) as f32 / 64.0 - 2.0)
    };
    (0..len).map(|_| next()).collect()
}

fn at(matrix: &Matrix<'_>, free: usize, summed: usize) -> f64 {
    f64::from(match matrix.major {
        Major::Summed => matrix.elements[free * matrix.summed + summed],
        Major::Free => matrix.elements[summed * matrix.free + free],
    })
}

fn check<T: Output + Into<f64> + Default>(
    [rows, columns, summed]: [usize; 3],
    left: Major,
    right: Major,
    tolerance: f64,
) {
    let (l, r) = (elements(rows * summed, 1), elements(columns * summed, 2));
    let left = Matrix { elements: &l, free: rows, summed, major: left };
    let right = Matrix { elements: &r, free: columns, summed, major: right };
    let mut result = vec![T::default(); rows * columns];
    // Two threads, or as many tasks one after the other.
    let for_each = |number: usize, f: &(dyn Fn(usize) + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(move || (0..number).step_by(2).for_each(f));
            (1..number).step_by(2).for_each(f);
        });
    };
    matmul(left, right, &mut result, 2, &for_each);
    // All of a small product, every 61st element of a large one.
    let stride = if rows * columns * summed > 1 << 24 { 61 } else { 1 };
    for i in (0..rows * columns).step_by(stride) {
        let (m, n) = (i / columns, i % columns);
        let terms = (0..summed).map(|k| at(&left, m, k) * at(&right, n, k));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size): (f64, f64), term| (sum + term, size + term.abs()));
        let found: f64 = result[i].into();
        let bound = tolerance * sum.abs() + 1e-6 * size;
        let case = format!("{rows}x{columns} over {summed}, {:?} {:?}, element {m}, {n}", left.major, right.major);
        assert!((found - sum).abs() <= bound, "{case}: expected {sum}, found {found}");
    }
}

/// Whole blocks, rests in each dimension, one chunk and several, blocks of columns and rows.
const SIZES: [[usize; 3]; 12] = [
    [32, 32, 32],
    [64, 96, 160],
    [1, 1, 1],
    [17, 33, 31],
    [31, 70, 1024],
    [100, 45, 66],
    [64, 64, 2048],
    [40, 72, 4100],
    [96, 64, 6144],
    [1100, 40, 2100],
    [40, 1100, 2112],
    [48, 40, 0],
];

#[test]
fn products_are_those_of_f64() {
    if !is_available() {
        println!("skipped: this processor has no AMX");
        return;
    }
    for sizes in SIZES {
        for left in [Major::Summed, Major::Free] {
            for right in [Major::Summed, Major::Free] {
                check::<f32>(sizes, left, right, 0.0);
                check::<bf16>(sizes, left, right, 4e-3);
            }
        }
    }
}

/// What is not a number stays one, in its row or column and nowhere else.
#[test]
fn what_is_not_a_number_stays_in_its_row() {
    if !is_available() {
        println!("skipped: this processor has no AMX");
        return;
    }
    let (rows, columns, summed) = (40, 36, 48);
    let mut l = elements(rows * summed, 1);
    l[7 * summed + 5] = bf16::NAN;
    let r = elements(columns * summed, 2);
    let mut result = vec![0.0f32; rows * columns];
    let left = Matrix { elements: &l, free: rows, summed, major: Major::Summed };
    let right = Matrix { elements: &r, free: columns, summed, major: Major::Free };
    matmul(left, right, &mut result, 1, &|number, f| (0..number).for_each(f));
    for (i, x) in result.iter().enumerate() {
        assert_eq!(x.is_nan(), i / columns == 7, "element {}, {}", i / columns, i % columns);
    }
}
