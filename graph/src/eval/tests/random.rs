//! Random bits, compared with what XLA's CPU backend generates.

use super::check_all;
use crate::ops::RngAlgorithm::{Philox, ThreeFry};
use crate::{DType, Literal, TensorType};

const KEY: u64 = 0x0123_4567_89AB_CDEF;
const COUNTER: u64 = u64::MAX - 1;

/// The outcome of a generator: the counter of the next state, and the bits.
type Outcome<'a, T> = (u64, &'a [T]);

#[test]
fn three_fry_32_bits() {
    let line: [u32; 5] = [0xB0F4_215B, 0xE19A_60B4, 0x0B3D_7494, 0xACF8_C4DC, 0xAAA4_D889];
    let cases: [(&[usize], Outcome<'_, u32>); 6] = [
        (&[], (u64::MAX, &line[..1])),
        (&[1], (u64::MAX, &line[..1])),
        (&[4], (0, &line[..4])),
        (&[5], (1, &line)),
        // Halved along the first dimension, which is even.
        (&[2, 3], (1, &[0xB0F4_215B, 0x0B3D_7494, 0xAAA4_D889, 0xE19A_60B4, 0xACF8_C4DC, 0x6B35_C4F4])),
        // Halved along the second dimension, which is the longest.
        (
            &[3, 5],
            (
                7,
                &[
                    0xB0F4_215B,
                    0xE19A_60B4,
                    0x0B3D_7494,
                    0xACF8_C4DC,
                    0xAAA4_D889,
                    0x75A5_2907,
                    0xD3DD_8613,
                    0x35D0_E5F1,
                    0x8ED1_7FE4,
                    0x7C2F_19D8,
                    0xDE79_BBBD,
                    0x1713_FD18,
                    0xB09D_029E,
                    0x7D84_F441,
                    0x6CA3_E732,
                ],
            ),
        ),
    ];
    for (shape, (counter, bits)) in cases {
        let ty = TensorType::new(DType::U32, shape);
        let expected = [Literal::new([2], &[KEY, counter]), Literal::new(shape, bits)];
        check_all(
            &[Literal::new([2], &[KEY, COUNTER])],
            |x| pair(x[0].rng_bit_generator(ThreeFry, ty.clone())),
            &expected,
        );
    }
}

#[test]
fn three_fry_64_bits() {
    let bits = [0xE19A_60B4_B0F4_215B_u64, 0xACF8_C4DC_0B3D_7494, 0x6B35_C4F4_AAA4_D889, 0xD3DD_8613_75A5_2907];
    let ty = TensorType::new(DType::U64, [2, 2]);
    let expected = [Literal::new([2], &[KEY, 2]), Literal::new([2, 2], &bits)];
    check_all(&[Literal::new([2], &[KEY, COUNTER])], |x| pair(x[0].rng_bit_generator(ThreeFry, ty.clone())), &expected);
    // Signed integers have the same bits, and nothing takes nothing from the counter.
    let ty = TensorType::new(DType::I64, [0]);
    let expected = [Literal::new([2], &[KEY, COUNTER]), Literal::new::<i64>([0], &[])];
    check_all(&[Literal::new([2], &[KEY, COUNTER])], |x| pair(x[0].rng_bit_generator(ThreeFry, ty.clone())), &expected);
}

#[test]
fn philox() {
    // The counter's upper word is the key here.
    let state = || Literal::new([3], &[KEY, COUNTER, KEY]);
    let line: [u32; 5] = [0x0A48_5194, 0x41C5_F806, 0xD682_2FEE, 0x3885_A3D4, 0x41EB_59F3];
    let cases: [(&[usize], u64, u64, &[u32]); 3] =
        [(&[], u64::MAX, KEY, &line[..1]), (&[4], u64::MAX, KEY, &line[..4]), (&[5, 1], 0, KEY + 1, &line)];
    for (shape, low, high, bits) in cases {
        let ty = TensorType::new(DType::U32, shape);
        let expected = [Literal::new([3], &[KEY, low, high]), Literal::new(shape, bits)];
        check_all(&[state()], |x| pair(x[0].rng_bit_generator(Philox, ty.clone())), &expected);
    }
    let bits = [0x41C5_F806_0A48_5194_u64, 0x3885_A3D4_D682_2FEE, 0x3073_85E0_41EB_59F3];
    let ty = TensorType::new(DType::U64, [3]);
    let expected = [Literal::new([3], &[KEY, 0, KEY + 1]), Literal::new([3], &bits)];
    check_all(&[state()], |x| pair(x[0].rng_bit_generator(Philox, ty.clone())), &expected);
}

fn pair<T>((first, second): (T, T)) -> Vec<T> {
    vec![first, second]
}
