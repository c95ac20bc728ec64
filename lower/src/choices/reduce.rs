//! Reductions in steps.
//!
//! XLA's CPU backend rewrites a reduction of more than 32 elements to windows of 32, for the sake of accuracy, and a window
//! is neither a vector instruction nor fused with what it reads: the largest of 32,000 logits took 115 ms for a batch
//! where the plain reduction takes 3.5. lmc turns the rewrite off (`tree_reduction_rewriter`) and does here what is left
//! of its purpose.

use lmc_graph::TensorType;

use crate::target::{Platform, Target};

/// A step of a reduction, of the value that the step before gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReduceStep {
    /// The value reshaped, and these dimensions of it reduced. XLA folds one such step into the next unless the value
    /// between them is kept in memory.
    Plain { shape: Vec<usize>, dimensions: Vec<usize> },
    /// Windows of this size along a dimension, side by side.
    Window { dimension: usize, size: usize },
}

/// How the index of the greatest element is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArgmaxForm {
    /// One reduction of pairs of an element and its index.
    Pairs,
    /// The greatest element, and then the least index of those that equal it: two reductions of numbers. XLA's CPU backend
    /// makes vectors of these, and a loop over the elements of that of pairs.
    Greatest,
}

/// How the index of the greatest element is found on this target.
pub(crate) fn argmax(target: &Target) -> ArgmaxForm {
    match target.platform {
        Platform::Generic | Platform::Cuda(_) => ArgmaxForm::Pairs,
        Platform::Cpu => ArgmaxForm::Greatest,
    }
}

/// Elements that one sum adds up at most. Along the last dimension there are at least 16 partial sums, one a lane, so that
/// none has more than 256 terms.
const LONGEST_ROW: usize = 4096;

/// Elements of a window, as many as XLA's rewrite takes.
const WINDOW: usize = 32;

/// The steps of a reduction over `dimensions`, ascending and at least one, on this target.
pub(crate) fn reduce_steps(target: &Target, ty: &TensorType, dimensions: &[usize]) -> Vec<ReduceStep> {
    let plain = |shape: Vec<usize>, dimensions: &[usize]| ReduceStep::Plain { shape, dimensions: dimensions.to_vec() };
    let mut shape = ty.shape.clone();
    match target.platform {
        Platform::Generic | Platform::Cuda(_) => vec![plain(shape, dimensions)],
        // The rewrite stays, as nothing would keep XLA from making one step of two.
        Platform::Cpu if !target.has_kernels => vec![plain(shape, dimensions)],
        Platform::Cpu if dimensions.contains(&(shape.len() - 1)) => {
            let first = shape.len() - dimensions.len();
            if dimensions[0] != first {
                return vec![plain(shape, dimensions)];
            }
            // The last dimensions are taken as one.
            let mut length: usize = shape.drain(first..).product();
            let mut steps = Vec::new();
            while length > LONGEST_ROW {
                let Some(row) = (WINDOW..=LONGEST_ROW).rev().find(|&row| length.is_multiple_of(row)) else { break };
                steps.push(plain([&shape[..], &[length / row, row]].concat(), &[first + 1]));
                length /= row;
            }
            steps.push(if steps.is_empty() {
                plain(ty.shape.clone(), dimensions)
            } else {
                plain([&shape[..], &[length]].concat(), &[first])
            });
            steps
        }
        // The last dimension stays: the elements that are added up are far from each other, and a loop over them is not
        // a vector's. Windows are.
        Platform::Cpu => {
            let dimension = dimensions[dimensions.len() - 1];
            let mut steps = Vec::new();
            while shape[dimension] > WINDOW && shape[dimension].is_multiple_of(WINDOW) {
                steps.push(ReduceStep::Window { dimension, size: WINDOW });
                shape[dimension] /= WINDOW;
            }
            steps.push(plain(shape, dimensions));
            steps
        }
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::DType;

    use super::*;

    /// Steps as text: `[2,3]:1` reduces dimension 1 of that shape, `w0` is windows along dimension 0.
    #[track_caller]
    fn check(shape: &[usize], dimensions: &[usize], expected: &str) {
        let target = Target { has_kernels: true, ..Target::cpu(None) };
        let steps = reduce_steps(&target, &TensorType::new(DType::F32, shape), dimensions);
        let list = |x: &[usize]| x.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let text = steps.iter().map(|step| match step {
            ReduceStep::Plain { shape, dimensions } => format!("[{}]:{}", list(shape), list(dimensions)),
            ReduceStep::Window { dimension, size } => format!("w{dimension}/{size}"),
        });
        assert_eq!(text.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn steps() {
        check(&[4, 768], &[1], "[4,768]:1");
        check(&[4, 32000], &[1], "[4,8,4000]:2 [4,8]:1");
        check(&[32000, 768], &[0, 1], "[6000,4096]:1 [2,3000]:1 [2]:0");
        // No divisor of use.
        check(&[2, 8209], &[1], "[2,8209]:1");
        // The last dimension stays.
        check(&[2, 512, 768], &[0, 1], "w1/32 [2,16,768]:0,1");
        check(&[2048, 8], &[0], "w0/32 w0/32 [2,8]:0");
        check(&[48, 8], &[0], "[48,8]:0");
        // Dimensions that are not neighbours.
        check(&[64, 5, 7], &[0, 2], "[64,5,7]:0,2");
    }
}
