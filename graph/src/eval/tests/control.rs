//! Loops and branches.

use super::{check, check_all, count, f32s, i32s, results};
use crate::Literal;
use crate::ops::Scan;

#[test]
fn scan() {
    // Running sums with a captured factor, in both directions.
    for (reverse, total, sums) in [(false, 6.0, [0.0, 2.0, 6.0, 6.0]), (true, 6.0, [6.0, 6.0, 4.0, 0.0])] {
        let args = [Literal::scalar(0_f32), f32s(&[4], &[0.0, 1.0, 2.0, 0.0]), Literal::scalar(2_f32)];
        let expected = [Literal::scalar(total as f32), f32s(&[4], &sums.map(|x: f64| x as f32))];
        check_all(
            &args,
            |x| {
                let attributes = Scan { num_carry: 1, length: 4, reverse };
                let scanned = x[0].builder().scan_with(attributes, &x[..1], &x[1..2], |carries, slices| {
                    let sum = carries[0] + slices[0] * x[2];
                    (vec![sum], vec![sum])
                });
                [scanned.carries, scanned.stacked].concat()
            },
            &expected,
        );
    }
}

#[test]
fn scan_of_length_zero_returns_its_carries() {
    check_all(
        &[Literal::scalar(7), i32s(&[0, 2], &[])],
        |x| {
            let scanned = x[0]
                .builder()
                .scan(&x[..1], &x[1..], 0, |carries, slices| (vec![carries[0] + carries[0]], vec![slices[0]]));
            [scanned.carries, scanned.stacked].concat()
        },
        &[Literal::scalar(7), i32s(&[0, 2], &[])],
    );
}

#[test]
fn nested_scans_and_remat() {
    // Σ_i Σ_j x[i, j], the inner sum inside a remat.
    check(
        &[Literal::scalar(0_f32), count(&[3, 2])],
        |x| {
            let b = x[0].builder();
            let outer = b.scan(&x[..1], &x[1..], 3, |carries, rows| {
                let inner = b.remat(|| b.scan(carries, rows, 2, |sum, x| (vec![sum[0] + x[0]], vec![])).carries);
                (inner, vec![])
            });
            outer.carries[0]
        },
        &Literal::scalar(15_f32),
    );
}

#[test]
fn while_loop() {
    // Halved while even, counting.
    for (x, expected) in [(48, [3, 4]), (7, [7, 0]), (1, [1, 0])] {
        check_all(
            &[Literal::scalar(x), Literal::scalar(0)],
            |x| {
                let b = x[0].builder();
                b.while_loop(
                    x,
                    |x| x[0].remainder(x[0].full_like(2.0)).equal(x[0].full_like(0.0)),
                    |x| vec![x[0] / 2.0, x[1] + 1.0],
                )
            },
            &expected.map(Literal::scalar),
        );
    }
}

#[test]
fn if_takes_one_branch() {
    for (pred, expected) in [(true, 3.0), (false, -3.0)] {
        let args = [Literal::scalar(pred), Literal::scalar(3_f32)];
        let expected = Literal::scalar(expected as f32);
        check(&args, |x| x[0].builder().if_else(x[0], || vec![x[1]], || vec![-x[1]])[0], &expected);
    }
}

#[test]
fn markers_are_identities() {
    check(&[count(&[3])], |x| x[0].stop_gradient(), &count(&[3]));
    let args = [count(&[3]), i32s(&[1], &[5])];
    assert_eq!(results(&args, |x| x[0].builder().optimization_barrier(x)), args);
}
