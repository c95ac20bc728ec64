//! The kernels against sums in f64, with every instruction set of this processor.

use super::*;

/// Numbers below 2^24 without a pattern.
fn integers(len: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u32
    })
    .take(len)
    .collect()
}

/// Numbers between -1 and 1 without a pattern.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    integers(len, seed).into_iter().map(|x| x as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Floats of some type, and what they are.
struct Stored {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    kind: Form,
}

impl Stored {
    fn new(kind: Form, values: Vec<f32>) -> Stored {
        let bf16 = values.iter().map(|&x| bf16::from_f32(x)).collect();
        let f16 = values.iter().map(|&x| f16::from_f32(x)).collect();
        Stored { f32: values, bf16, f16, kind }
    }

    fn floats(&self) -> Floats<'_> {
        match self.kind {
            Form::Bf16 => Floats::Bf16(&self.bf16),
            Form::F16 => Floats::F16(&self.f16),
            Form::F32 | Form::I8 | Form::U8 | Form::U4 | Form::I4 => Floats::F32(&self.f32),
        }
    }

    fn f64(&self, i: usize) -> f64 {
        f64::from(self.floats().get(i))
    }

    fn bytes(&self) -> Vec<u8> {
        match self.kind {
            Form::Bf16 => self.bf16.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Form::F16 => self.f16.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Form::F32 | Form::I8 | Form::U8 | Form::U4 | Form::I4 => {
                self.f32.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Offsets {
    None,
    Zeros,
    Biases,
}

/// What a product has besides its sizes.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: Form,
    /// Columns in a group; 0 for a weight of floats.
    group: usize,
    /// The type of scales and biases.
    scales: Form,
    offsets: Offsets,
    transposed: bool,
}

const PLAIN: Case = Case { form: Form::F32, group: 0, scales: Form::F32, offsets: Offsets::None, transposed: false };

/// The elements' codes, and what the weight is made of.
struct Parts {
    bytes: Vec<u8>,
    scales: Stored,
    zeros: Vec<u8>,
    biases: Stored,
    /// The elements, row-major.
    values: Vec<f64>,
}

fn parts(case: Case, [rows, columns]: [usize; 2]) -> Parts {
    let len = rows * columns;
    let num_groups = len.checked_div(case.group).unwrap_or(0);
    let scales = Stored::new(case.scales, numbers(num_groups, 5));
    let biases = Stored::new(case.scales, numbers(num_groups, 6));
    let bits = integers(len, 7);
    let limit = if case.form.is_packed() { 15 } else { 255 };
    let zeros: Vec<u8> = integers(num_groups, 8).iter().map(|x| (x & limit) as u8).collect();
    let (bytes, codes): (Vec<u8>, Vec<f64>) = match case.form {
        Form::I8 => (bits.iter().map(|&x| x as u8).collect(), bits.iter().map(|&x| f64::from(x as u8 as i8)).collect()),
        Form::U8 => (bits.iter().map(|&x| x as u8).collect(), bits.iter().map(|&x| f64::from(x as u8)).collect()),
        Form::U4 | Form::I4 => {
            let center = if case.form == Form::I4 { 8.0 } else { 0.0 };
            let nibbles: Vec<u8> = bits.iter().map(|&x| (x & 15) as u8).collect();
            let bytes = nibbles.chunks(2).map(|pair| pair[0] | (pair[1] << 4)).collect();
            (bytes, nibbles.iter().map(|&x| f64::from(x) - center).collect())
        }
        Form::F32 | Form::Bf16 | Form::F16 => {
            let stored = Stored::new(case.form, numbers(len, 9));
            (stored.bytes(), (0..len).map(|i| stored.f64(i)).collect())
        }
    };
    let value = |(i, code): (usize, &f64)| match (case.group, case.offsets) {
        (0, _) => *code,
        (group, Offsets::None) => scales.f64(i / group) * code,
        (group, Offsets::Zeros) => scales.f64(i / group) * (code - f64::from(zeros[i / group])),
        (group, Offsets::Biases) => scales.f64(i / group) * code + biases.f64(i / group),
    };
    let values = codes.iter().enumerate().map(value).collect();
    Parts { bytes, scales, zeros, biases, values }
}

impl Parts {
    fn weight(&self, case: Case, [rows, columns]: [usize; 2]) -> Weight<'_> {
        let offset = match case.offsets {
            Offsets::None => Offset::None,
            Offsets::Zeros => Offset::Zeros(&self.zeros),
            Offsets::Biases => Offset::Biases(self.biases.floats()),
        };
        let groups = Groups { size: case.group, scales: self.scales.floats(), offset };
        let groups = (case.group > 0).then_some(groups);
        Weight { rows, columns, form: case.form, bytes: &self.bytes, groups }
    }
}

/// In reverse, which is as good an order as any.
fn for_each(number: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..number).rev().for_each(f);
}

/// A product with a weight of this shape and so many rows of operands: right, and each row what it is alone.
#[track_caller]
fn check(case: Case, shape: [usize; 2], tokens: usize) {
    check_right(case, shape, tokens);
    let parts = parts(case, shape);
    let [input, out] = if case.transposed { shape } else { [shape[1], shape[0]] };
    let x = Stored::new(Form::Bf16, numbers(tokens * input, 3)).bf16;
    for isa in Isa::available() {
        let together = run(isa, case, &parts, shape, &x);
        let alone = x.chunks(input).flat_map(|x| run(isa, case, &parts, shape, x)).collect::<Vec<f32>>();
        assert_eq!(together.len(), tokens * out);
        assert_eq!(together, alone, "{isa:?}: rows depend on each other: {tokens} of {shape:?}, {case:?}");
    }
}

/// The product of rows of operands.
fn run(isa: Isa, case: Case, parts: &Parts, shape: [usize; 2], x: &[bf16]) -> Vec<f32> {
    let [input, out] = if case.transposed { shape } else { [shape[1], shape[0]] };
    let mut y = vec![f32::NAN; x.len() / input * out];
    let product = Product {
        tokens: x.len() / input,
        of_one_text: false,
        x: Floats::Bf16(x),
        weights: vec![(parts.weight(case, shape), Output::F32(&mut y))],
        transposed: case.transposed,
    };
    super::product(isa, product, 2, &for_each).unwrap();
    y
}

/// A product of few rows is what sums in f64 are.
#[track_caller]
fn check_right(case: Case, shape: [usize; 2], tokens: usize) {
    let parts = parts(case, shape);
    let [input, _] = if case.transposed { shape } else { [shape[1], shape[0]] };
    let x = Stored::new(Form::Bf16, numbers(tokens * input, 3)).bf16;
    for isa in Isa::available() {
        let y = run(isa, case, &parts, shape, &x);
        check_sums(&parts.values, case, shape, &x, &y, &format!("{isa:?}"));
        check_rounded(isa, case, &parts, shape, &x, &y);
    }
}

/// A product of many rows is what sums in f64 are, whichever words it is made of: pairs of bf16 are of rounded codes.
#[track_caller]
fn check_many(case: Case, shape: [usize; 2], tokens: usize) {
    let parts = parts(case, shape);
    let [input, out] = if case.transposed { shape } else { [shape[1], shape[0]] };
    let x = Stored::new(Form::Bf16, numbers(tokens * input, 3)).bf16;
    for isa in Isa::available() {
        let mut by_words: [Option<Vec<f32>>; 2] = [None, None];
        for pairs in [false, true] {
            let mut y = vec![f32::NAN; tokens * out];
            let many = many::Many {
                tokens,
                x: Floats::Bf16(&x),
                weight: parts.weight(case, shape),
                transposed: case.transposed,
                output: SharedOutput::new(Output::F32(&mut y)),
            };
            let fits = many.fits_pairs();
            assert_eq!(fits, !matches!(case.form, Form::F32 | Form::F16), "{case:?}");
            if pairs && !(fits && isa.has_pairs()) {
                continue;
            }
            many.run(isa, pairs, &for_each);
            let rounded = |x: &f64| if pairs { bf16::from_f32(*x as f32).to_f64() } else { *x };
            let values: Vec<f64> = parts.values.iter().map(rounded).collect();
            check_sums(&values, case, shape, &x, &y, &format!("{isa:?}, pairs: {pairs}"));
            by_words[usize::from(pairs)] = Some(y);
        }
        let [singles, pairs] = by_words;
        let expected = pairs.filter(|_| isa.has_fast_pairs()).or(singles).unwrap();
        assert_eq!(run(isa, case, &parts, shape, &x), expected, "{isa:?}: the words are others, {case:?}");
        check_rounded(isa, case, &parts, shape, &x, &expected);
    }
}

/// Results are sums in f64 of the weight's elements.
#[track_caller]
fn check_sums(values: &[f64], case: Case, shape: [usize; 2], x: &[bf16], y: &[f32], what: &str) {
    let [input, out] = if case.transposed { shape } else { [shape[1], shape[0]] };
    let element = |o: usize, i: usize| if case.transposed { values[i * out + o] } else { values[o * input + i] };
    let sum = |at: usize, f: fn(f64) -> f64| -> f64 {
        (0..input).map(|i| f(x[at / out * input + i].to_f64() * element(at % out, i))).sum()
    };
    // What an element would be if no two terms had opposite signs: rounding is relative to that.
    let scale = (0..y.len()).map(|at| sum(at, f64::abs)).fold(1e-3, f64::max);
    let error = y.iter().enumerate().map(|(at, y)| (f64::from(*y) - sum(at, |x| x)).abs());
    let error = error.fold(0.0, |m: f64, x| if x <= m || m.is_nan() { m } else { x }) / scale;
    assert!(error < 2e-6, "{what}: {error:.1e} off with {} rows of {shape:?}, {case:?}", x.len() / input);
}

/// Results in bf16 are those in f32, rounded.
#[track_caller]
fn check_rounded(isa: Isa, case: Case, parts: &Parts, shape: [usize; 2], x: &[bf16], y: &[f32]) {
    let mut narrow = vec![bf16::NAN; y.len()];
    let product = Product {
        tokens: x.len() / if case.transposed { shape[0] } else { shape[1] },
        of_one_text: false,
        x: Floats::Bf16(x),
        weights: vec![(parts.weight(case, shape), Output::Bf16(&mut narrow))],
        transposed: case.transposed,
    };
    super::product(isa, product, 2, &for_each).unwrap();
    let rounded: Vec<bf16> = y.iter().map(|&y| bf16::from_f32(y)).collect();
    assert_eq!(narrow, rounded, "{isa:?}: {shape:?}, {case:?}");
}

#[test]
fn weights_of_floats() {
    for form in [Form::F32, Form::Bf16, Form::F16] {
        for transposed in [false, true] {
            let case = Case { form, transposed, ..PLAIN };
            for tokens in [1, 2, 3, 4, 5, 8] {
                check(case, [37, 80], tokens);
            }
            // Less than a vector, ends that are no whole vector, and several tasks.
            for shape in [[1, 1], [3, 15], [17, 33], [301, 700], [700, 301]] {
                check(case, shape, 1);
                check(case, shape, 3);
            }
        }
    }
}

#[test]
fn weights_of_codes() {
    for form in [Form::I8, Form::U8, Form::I4, Form::U4] {
        for (scales, offsets) in [
            (Form::F32, Offsets::None),
            (Form::Bf16, Offsets::Zeros),
            (Form::F16, Offsets::Biases),
            (Form::F32, Offsets::Biases),
        ] {
            for group in [32, 64, 128] {
                let case = Case { form, group, scales, offsets, transposed: false };
                for tokens in [1, 2, 3, 4, 7, 8] {
                    check(case, [13, 384], tokens);
                }
                // Fewer than sixteen groups, more, and several tasks.
                check(case, [6, 128], 1);
                check(case, [5, 2560], 2);
                check(case, [260, 1152], 1);
                // Ends that are no whole step of codes of four bits.
                check(case, [5, group], 1);
                check(case, [9, 17 * group], 3);
            }
        }
    }
    check(Case { form: Form::I8, group: 16, ..PLAIN }, [9, 592], 2);
}

/// Operands whose sizes differ by up to 2^24 within a group: the small ones are rounded as [`whole`] says, and nothing
/// else is.
#[test]
fn operands_of_many_sizes() {
    for (form, offsets) in [
        (Form::I8, Offsets::None),
        (Form::U8, Offsets::Zeros),
        (Form::I4, Offsets::None),
        (Form::U4, Offsets::Biases),
        (Form::I4, Offsets::Zeros),
    ] {
        let case = Case { form, group: 64, scales: Form::Bf16, offsets, transposed: false };
        let shape = [7, 1280];
        let (parts, input) = (parts(case, shape), shape[1]);
        let mut x: Vec<bf16> = numbers(input, 3)
            .iter()
            .zip(integers(input, 4))
            .map(|(x, power)| bf16::from_f32(x * 0.5f32.powi((power % 24) as i32)))
            .collect();
        // All bits of the largest are set: as an integer it would be 2^15 - 2^7.
        (x[5], x[70]) = (bf16::from_f32(255.0 / 128.0), bf16::from_f32(-255.0 / 128.0));
        for isa in Isa::available() {
            let y = run(isa, case, &parts, shape, &x);
            for (y, values) in y.iter().zip(parts.values.chunks(input)) {
                let (mut expected, mut size) = (0.0, 0.0);
                for (x, values) in x.chunks(64).zip(values.chunks(64)) {
                    let largest = x.iter().map(|x| f64::from(x.to_f32()).abs()).fold(0.0, f64::max);
                    let power = largest.log2().floor().exp2();
                    let unit = power * 2f64.powi(if largest / power == 255.0 / 128.0 { -13 } else { -14 });
                    for (x, value) in x.iter().zip(values) {
                        let term = (f64::from(x.to_f32()) / unit).round_ties_even() * unit * value;
                        expected += term;
                        size += term.abs();
                    }
                }
                let error = (f64::from(*y) - expected).abs() / size;
                assert!(error < 1e-6, "{isa:?}: {y} for {expected}, {error:.1e} off, {case:?}");
            }
        }
    }
}

#[test]
fn operands_that_are_no_numbers_or_zero() {
    for form in [Form::I8, Form::U4] {
        let case = Case { form, group: 64, scales: Form::Bf16, offsets: Offsets::Zeros, transposed: false };
        let shape = [5, 192];
        let parts = parts(case, shape);
        for (x, is_number) in [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false), (1e-38, true)] {
            let mut row = vec![bf16::ZERO; shape[1]];
            row[100] = bf16::from_f32(x);
            for isa in Isa::available() {
                let y = run(isa, case, &parts, shape, &row);
                let is_right = |y: &f32| if is_number { y.abs() < 1e-28 } else { y.is_nan() };
                assert!(y.iter().all(is_right), "{isa:?}: {y:?} for {x}, {case:?}");
            }
        }
    }
}

/// More rows than are bound by reading the weight.
#[test]
fn many_rows() {
    const MANY: usize = super::FEW_ROWS + 1;
    for form in [Form::F32, Form::Bf16, Form::F16] {
        for transposed in [false, true] {
            let case = Case { form, transposed, ..PLAIN };
            // Less than a vector, ends that are no whole vector or tile, several tasks and parts of the sum.
            for (shape, tokens) in
                [([1, 1], MANY), ([19, 37], MANY + 2), ([150, 130], MANY), ([130, 300], 517), ([131, 299], MANY)]
            {
                check_many(case, shape, tokens);
            }
        }
    }
    for form in [Form::I8, Form::U8, Form::I4, Form::U4] {
        for (scales, offsets) in
            [(Form::F32, Offsets::None), (Form::Bf16, Offsets::Zeros), (Form::F16, Offsets::Biases)]
        {
            for group in [32, 64] {
                let case = Case { form, group, scales, offsets, transposed: false };
                check_many(case, [70, 192], MANY);
                check_many(case, [9, 64], MANY + 3);
            }
        }
    }
    check_many(Case { form: Form::I8, group: 16, ..PLAIN }, [9, 592], MANY);
}

#[test]
fn dequantized() {
    for form in [Form::I8, Form::U8, Form::I4, Form::U4] {
        for offsets in [Offsets::None, Offsets::Zeros, Offsets::Biases] {
            let case = Case { form, group: 64, scales: Form::Bf16, offsets, transposed: false };
            let shape = [150, 640];
            let parts = parts(case, shape);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; shape[0] * shape[1]];
                dequantize(isa, parts.weight(case, shape), Output::F32(&mut y), &for_each).unwrap();
                let mut narrow = vec![bf16::NAN; y.len()];
                dequantize(isa, parts.weight(case, shape), Output::Bf16(&mut narrow), &for_each).unwrap();
                for ((y, narrow), exact) in y.iter().zip(&narrow).zip(&parts.values) {
                    assert!(
                        (f64::from(*y) - exact).abs() <= 2e-7 * (exact.abs() + 1.0),
                        "{isa:?}: {y}, {exact}, {case:?}"
                    );
                    assert_eq!(*narrow, bf16::from_f32(*y), "{isa:?}, {case:?}");
                }
            }
        }
    }
}

#[test]
fn every_f16() {
    let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    for isa in Isa::available() {
        let mut y = vec![0.0; all.len()];
        // A column of all of them, times one.
        let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
        let weight = Weight { rows: all.len(), columns: 1, form: Form::F16, bytes: &bytes, groups: None };
        let weights = vec![(weight, Output::F32(&mut y[..]))];
        let product = Product { tokens: 1, of_one_text: true, x: Floats::F32(&[1.0]), weights, transposed: false };
        super::product(isa, product, 2, &for_each).unwrap();
        for (x, y) in all.iter().zip(&y) {
            assert!(x.to_f32() == *y || x.is_nan() && y.is_nan(), "{isa:?}: {x:?} became {y}");
        }
    }
}

/// Products with several weights at once are each what it is alone.
#[test]
fn several_weights() {
    let check = |case: Case, input: usize, outs: &[usize], tokens: usize| {
        let shapes: Vec<[usize; 2]> =
            outs.iter().map(|&out| if case.transposed { [input, out] } else { [out, input] }).collect();
        let mut all: Vec<Parts> = shapes.iter().map(|&shape| parts(case, shape)).collect();
        for (i, parts) in all.iter_mut().enumerate() {
            // Else they began with the same elements.
            parts.bytes.rotate_left(2 * i);
        }
        let x = Stored::new(Form::Bf16, numbers(tokens * input, 3)).bf16;
        for isa in Isa::available() {
            let mut results: Vec<Vec<f32>> = outs.iter().map(|out| vec![f32::NAN; tokens * out]).collect();
            let weights = all.iter().zip(&shapes).zip(&mut results);
            let weights = weights.map(|((parts, &shape), y)| (parts.weight(case, shape), Output::F32(&mut y[..])));
            let x_of_all = Floats::Bf16(&x);
            let product = Product {
                tokens,
                of_one_text: false,
                x: x_of_all,
                weights: weights.collect(),
                transposed: case.transposed,
            };
            super::product(isa, product, 2, &for_each).unwrap();
            for ((parts, &shape), y) in all.iter().zip(&shapes).zip(&results) {
                assert_eq!(y, &run(isa, case, parts, shape, &x), "{isa:?}: {shape:?} of {outs:?}, {case:?}");
            }
        }
    };
    let int4 = Case { form: Form::I4, group: 32, scales: Form::Bf16, ..PLAIN };
    let int8 = Case { form: Form::U8, group: 64, scales: Form::F32, offsets: Offsets::Zeros, ..PLAIN };
    let bf16 = Case { form: Form::Bf16, ..PLAIN };
    for tokens in [1, 3, 20, 70] {
        // The first has more than one task.
        check(int4, 256, &[1030, 3, 64], tokens);
        check(int8, 192, &[64, 700], tokens);
        check(bf16, 80, &[5, 1000, 7], tokens);
        check(Case { transposed: true, ..bf16 }, 80, &[48, 5], tokens);
    }
}

/// Rows of one text are many sooner.
#[test]
fn rows_of_one_text() {
    const FEW: usize = super::FEW_ROWS_OF_A_TEXT;
    let case = Case { form: Form::Bf16, ..PLAIN };
    let (shape, [input, out]) = ([70, 300], [300, 70]);
    let parts = parts(case, shape);
    for isa in Isa::available() {
        for (tokens, of_one_text, is_many) in
            [(FEW, true, false), (FEW + 1, true, true), (FEW + 1, false, false), (super::FEW_ROWS + 1, false, true)]
        {
            let x = Stored::new(Form::Bf16, numbers(tokens * input, 3)).bf16;
            let mut y = vec![f32::NAN; tokens * out];
            let weights = vec![(parts.weight(case, shape), Output::F32(&mut y[..]))];
            let product = Product { tokens, of_one_text, x: Floats::Bf16(&x), weights, transposed: false };
            super::product(isa, product, 2, &for_each).unwrap();
            let alone = x.chunks(input).flat_map(|x| run(isa, case, &parts, shape, x)).collect::<Vec<f32>>();
            let what = format!("{isa:?}: {tokens} rows, of one text: {of_one_text}");
            assert_eq!(y != alone, is_many, "{what}");
            check_sums(&parts.values, case, shape, &x, &y, &what);
        }
    }
}

#[test]
fn weights_that_are_not_alike_are_refused() {
    let (bytes, scales, x) = ([0u8; 128], [1.0f32; 4], [0.0f32; 64]);
    let weight = |rows: usize, columns: usize, form: Form, size: Option<usize>| {
        let scales = &scales[..size.map_or(0, |size| rows * columns / size)];
        let groups = size.map(|size| Groups { size, scales: Floats::F32(scales), offset: Offset::None });
        Weight { rows, columns, form, bytes: &bytes[..rows * form.bytes(columns)], groups }
    };
    let check = |second: Weight<'_>, expected: bool| {
        let (mut a, mut b) = ([0.0], vec![0.0; second.rows]);
        let first = weight(1, 64, Form::I8, Some(32));
        let weights = vec![(first, Output::F32(&mut a)), (second, Output::F32(&mut b))];
        let product = Product { tokens: 1, of_one_text: true, x: Floats::F32(&x), weights, transposed: false };
        assert_eq!(super::product(Isa::detect(), product, 1, &for_each).is_ok(), expected, "{second:?}");
    };
    check(weight(2, 64, Form::I8, Some(32)), true);
    check(weight(1, 64, Form::I8, Some(64)), false);
    check(weight(1, 64, Form::U8, Some(32)), false);
    check(weight(1, 32, Form::F32, None), false);
    let product = Product { tokens: 1, of_one_text: true, x: Floats::F32(&x), weights: vec![], transposed: false };
    assert!(super::product(Isa::detect(), product, 1, &for_each).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (bytes, scales) = (vec![0u8; 64], vec![1.0f32; 4]);
    let groups = |size, scales| Some(Groups { size, scales: Floats::F32(scales), offset: Offset::None });
    for (rows, columns, form, groups) in [
        (2, 64, Form::I8, groups(32, &scales)),
        (2, 64, Form::U4, None),
        (2, 64, Form::U4, groups(16, &scales)),
        (2, 64, Form::U4, groups(0, &scales)),
        (2, 64, Form::U4, groups(48, &scales)),
        (2, 64, Form::U4, groups(64, &scales)),
    ] {
        assert!(Weight { rows, columns, form, bytes: &bytes, groups }.check().is_err(), "{rows} {columns} {form:?}");
    }
    Weight { rows: 2, columns: 64, form: Form::U4, bytes: &bytes, groups: groups(32, &scales) }.check().unwrap();
}
