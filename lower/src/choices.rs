//! The target-specific choices, side by side: which form a product and an attention take.
//!
//! | IR | generic | cpu | cuda |
//! |---|---|---|---|
//! | `dot_general` | as it is | neighbouring dimensions of one kind collapsed around it | as it is |
//! | attention and its backward | decomposed | decomposed, by blocks of queries | cuDNN's, else decomposed |

use lmc_graph::ops::{AttentionRows, DotGeneral, ScaledDotProductAttention, ScaledDotProductAttentionBackward};
use lmc_graph::{DType, Op, TensorType};

use crate::target::{ComputeCapability, Cuda, CudnnVersion, Platform, Target};

/// The form a `dot_general` takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DotForm {
    /// One `dot_general` with the op's own dimensions.
    Plain,
    /// Reshapes to fewer dimensions around the product.
    Collapsed(Collapsed),
}

/// A product with fewer dimensions whose elements, in row-major order, are those of another one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Collapsed {
    /// The product on the reshaped operands.
    pub(crate) op: DotGeneral,
    /// The reshaped operands' shapes.
    pub(crate) lhs: Vec<usize>,
    pub(crate) rhs: Vec<usize>,
    /// The shape of the product, before it is reshaped to the op's result.
    pub(crate) result: Vec<usize>,
}

/// The form of a product on this target.
pub(crate) fn dot_general(target: &Target, op: &DotGeneral, lhs: &TensorType, rhs: &TensorType) -> DotForm {
    match target.platform {
        // XLA's GPU backend chooses the layouts of products itself.
        Platform::Generic | Platform::Cuda(_) => DotForm::Plain,
        // XLA's CPU library kernels take matrices: a bf16 product on [8,512,768] runs at half the speed of the same one
        // on [4096,768].
        Platform::Cpu => collapse(op, lhs, rhs).map_or(DotForm::Plain, DotForm::Collapsed),
    }
}

/// The form an attention takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttentionForm {
    /// One call of cuDNN's.
    Cudnn,
    /// Its decomposition.
    Decomposed {
        /// How many queries are taken at a time; all of them, where that is no less.
        block: usize,
        /// Why it is no call of a fused kernel.
        refused: String,
    },
}

/// An attention, or its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Attention<'a> {
    Forward(&'a ScaledDotProductAttention),
    Backward(&'a ScaledDotProductAttentionBackward),
}

impl Attention<'_> {
    /// The attributes of the forward op.
    pub(crate) fn attributes(self) -> ScaledDotProductAttention {
        match self {
            Attention::Forward(op) => op.clone(),
            Attention::Backward(op) => op.forward(),
        }
    }

    /// The op itself.
    pub(crate) fn op(self) -> Op {
        match self {
            Attention::Forward(op) => Op::ScaledDotProductAttention(op.clone()),
            Attention::Backward(op) => Op::ScaledDotProductAttentionBackward(op.clone()),
        }
    }
}

/// The form of an attention or its backward on this target.
pub(crate) fn attention(target: &Target, op: Attention<'_>, operands: &[TensorType]) -> AttentionForm {
    // Queries are `B T N H`.
    let num_queries = operands[0].shape[1];
    let decomposed = |block: usize, reason: &str| AttentionForm::Decomposed {
        block: block.max(1),
        refused: format!("decomposed: {reason}"),
    };
    match target.platform {
        Platform::Generic => decomposed(num_queries, "this target has no fused attention"),
        // Scores that are computed in one piece are written to memory and read back by every step of the softmax, and half
        // of them are masked. Smaller blocks make products too small to be fast, and more blocks a program that takes long
        // to compile.
        Platform::Cpu => decomposed(
            num_queries.div_ceil(MOST_BLOCKS).max(SMALLEST_BLOCK),
            "XLA's CPU backend has no fused attention",
        ),
        Platform::Cuda(cuda) => match cudnn_attention(target, cuda, op, operands) {
            Ok(()) => AttentionForm::Cudnn,
            Err(reason) => decomposed(num_queries, &reason),
        },
    }
}

/// With eight blocks a causal attention takes 9/16 of the operations of one in one piece.
const MOST_BLOCKS: usize = 8;

/// Queries that make a product large enough to be fast.
const SMALLEST_BLOCK: usize = 128;

/// Packages of plugins that have cuDNN's attention as custom calls.
const CUDNN_PLUGINS: [&str; 2] = ["jax-cuda12-pjrt", "jax-cuda13-pjrt"];

/// Whether cuDNN computes this attention, or why not.
///
/// What XLA and cuDNN 9.24 accept was tried with XLA's own compilation for GPUs of each generation; what older versions
/// of cuDNN do not have is as JAX refuses it (`jax/_src/cudnn/fused_attention_stablehlo.py`).
fn cudnn_attention(target: &Target, cuda: Cuda, op: Attention<'_>, operands: &[TensorType]) -> Result<(), String> {
    let (attributes, is_backward) = (op.attributes(), matches!(op, Attention::Backward(_)));
    let refuse = |reason: String| Err(reason);
    let Cuda { compute_capability, cudnn, deterministic } = cuda;
    match &target.plugin {
        Some(plugin) if CUDNN_PLUGINS.contains(&plugin.name.as_str()) => {}
        Some(plugin) => return refuse(format!("the plugin {} is not known to have cuDNN's attention", plugin.name)),
        None => return refuse("it is not known which plugin this is, and whether it has cuDNN's attention".to_owned()),
    }
    let Some(cudnn) = cudnn else { return refuse("no cuDNN was found".to_owned()) };
    let since = |version: CudnnVersion, what: &str| match cudnn >= version {
        true => Ok(()),
        false => Err(format!("{what} needs cuDNN {version}, found {cudnn}")),
    };
    since(CudnnVersion::new(9, 0, 0), "attention")?;
    // XLA's front end of cuDNN refuses these two.
    if (CudnnVersion::new(9, 10, 0)..CudnnVersion::new(9, 10, 2)).contains(&cudnn) {
        return refuse(format!("XLA refuses the attention of cuDNN {cudnn}; that of 9.10.2 it takes"));
    }
    if compute_capability < ComputeCapability::new(8, 0) {
        return refuse(format!("cuDNN's attention needs compute capability 8.0, found {compute_capability}"));
    }
    if compute_capability == ComputeCapability::new(10, 3) {
        since(CudnnVersion::new(9, 11, 0), "attention of compute capability 10.3")?;
    }
    if target.num_devices != 1 {
        return refuse(format!("XLA does not divide cuDNN's attention among {} devices", target.num_devices));
    }

    let (query, key, value) = (&operands[0], &operands[1], &operands[2]);
    if !matches!(query.dtype, DType::BF16 | DType::F16) {
        return refuse(format!("cuDNN's attention takes bf16 and f16, found {}", query.dtype));
    }
    if [query, key, value].iter().any(|operand| operand.num_elements() == 0) {
        return refuse("there is nothing to attend to".to_owned());
    }
    let ([b, t, n, h], [s, k, v]) = (
        [query.shape[0], query.shape[1], query.shape[2], query.shape[3]],
        [key.shape[1], key.shape[2], value.shape[3]],
    );
    check_head_sizes(compute_capability, cudnn, is_backward, [h, v])?;
    if is_backward && t == 1 && s == 1 {
        return refuse("cuDNN has no derivative of the attention of one query to one key".to_owned());
    }
    if attributes.sliding_window.is_some() && t > s {
        return refuse(format!("cuDNN's sliding window takes no more queries than keys, found {t} and {s}"));
    }
    if attributes.rows == AttentionRows::Packed {
        // JAX demands compute capability 9.0 of every cuDNN; 9.23 compiles it for 8.0 too.
        if compute_capability < ComputeCapability::new(9, 0) {
            since(CudnnVersion::new(9, 23, 0), "attention within documents on compute capability 8")?;
        }
        if h != v {
            return refuse(format!("within documents, keys and values are of one size; found {h} and {v}"));
        }
        let documents = operands.last().map_or(1, |bounds| bounds.shape[1] - 1);
        if documents < 2 {
            return refuse("cuDNN has no offsets for a single document a row".to_owned());
        }
        let largest = (b * t * n * h).max(b * s * k * h).max(b * documents * n * t);
        if i32::try_from(largest).is_err() {
            return refuse(format!("cuDNN's offsets of documents have 32 bits, and there are {largest} elements"));
        }
    }
    if deterministic && is_backward && compute_capability.major >= 10 {
        since(CudnnVersion::new(9, 18, 0), "a deterministic derivative of attention on Blackwell")?;
    }
    Ok(())
}

/// Whether cuDNN has kernels for heads of `h` elements of queries and keys and `v` of values.
fn check_head_sizes(
    compute_capability: ComputeCapability,
    cudnn: CudnnVersion,
    is_backward: bool,
    [h, v]: [usize; 2],
) -> Result<(), String> {
    if let Some(size) = [h, v].into_iter().find(|size| size % 8 != 0) {
        return Err(format!("cuDNN's attention takes heads of a multiple of 8 elements, found {size}"));
    }
    let is_old = cudnn < CudnnVersion::new(9, 10, 0);
    let largest = match (compute_capability.major, is_backward) {
        (9, _) => 256,
        (_, true) => 128,
        (8, false) if is_old => 128,
        (_, false) => 256,
    };
    // DeepSeek's multi-head latent attention, whose derivative Blackwell has besides.
    let is_latent = [h, v] == [192, 128];
    if h.max(v) > largest && !(compute_capability.major == 10 && is_latent) {
        let pass = if is_backward { "derivative of attention" } else { "attention" };
        let found = h.max(v);
        return Err(format!(
            "cuDNN's {pass} takes heads of up to {largest} elements on compute capability {compute_capability}, found \
             {found}"
        ));
    }
    if h != v && (is_old || compute_capability < ComputeCapability::new(9, 0)) {
        return Err(format!(
            "keys and values of different sizes, {h} and {v}, need cuDNN 9.10.0 and compute capability 9.0"
        ));
    }
    Ok(())
}

/// Collapses neighbouring dimensions that play the same part in the product; `None` when there are none.
fn collapse(op: &DotGeneral, lhs: &TensorType, rhs: &TensorType) -> Option<Collapsed> {
    let pairs = |lhs: &[usize], rhs: &[usize]| -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        for (&l, &r) in lhs.iter().zip(rhs) {
            match pairs.last_mut() {
                // Listed next to each other and neighbours in both operands: row-major order pairs the same elements.
                Some(last) if last.lhs.end == l && last.rhs.end == r => (last.lhs.end, last.rhs.end) = (l + 1, r + 1),
                Some(_) | None => pairs.push(Pair { lhs: l..l + 1, rhs: r..r + 1 }),
            }
        }
        pairs
    };
    let batching = pairs(&op.lhs_batching_dimensions, &op.rhs_batching_dimensions);
    let contracting = pairs(&op.lhs_contracting_dimensions, &op.rhs_contracting_dimensions);
    let lhs_free = runs(&op.lhs_free_dimensions(lhs.rank()));
    let rhs_free = runs(&op.rhs_free_dimensions(rhs.rank()));
    let lhs_runs: Vec<&Run> = batching.iter().chain(&contracting).map(|pair| &pair.lhs).chain(&lhs_free).collect();
    let rhs_runs: Vec<&Run> = batching.iter().chain(&contracting).map(|pair| &pair.rhs).chain(&rhs_free).collect();
    if lhs_runs.len() == lhs.rank() && rhs_runs.len() == rhs.rank() {
        return None;
    }
    let size = |ty: &TensorType, run: &Run| ty.shape[run.clone()].iter().product::<usize>();
    let result = batching
        .iter()
        .map(|pair| size(lhs, &pair.lhs))
        .chain(lhs_free.iter().map(|run| size(lhs, run)))
        .chain(rhs_free.iter().map(|run| size(rhs, run)))
        .collect();
    // A run's place among the reshaped operand's dimensions is the number of runs before it.
    let place = |runs: &[&Run], run: &Run| runs.iter().filter(|other| other.start < run.start).count();
    let lhs_places = |pairs: &[Pair]| pairs.iter().map(|pair| place(&lhs_runs, &pair.lhs)).collect();
    let rhs_places = |pairs: &[Pair]| pairs.iter().map(|pair| place(&rhs_runs, &pair.rhs)).collect();
    let shape = |ty: &TensorType, runs: &[&Run]| {
        let mut runs = runs.to_vec();
        runs.sort_by_key(|run| run.start);
        runs.into_iter().map(|run| size(ty, run)).collect()
    };
    Some(Collapsed {
        op: DotGeneral {
            lhs_batching_dimensions: lhs_places(&batching),
            rhs_batching_dimensions: rhs_places(&batching),
            lhs_contracting_dimensions: lhs_places(&contracting),
            rhs_contracting_dimensions: rhs_places(&contracting),
            result_dtype: op.result_dtype,
        },
        lhs: shape(lhs, &lhs_runs),
        rhs: shape(rhs, &rhs_runs),
        result,
    })
}

/// Neighbouring dimensions.
type Run = std::ops::Range<usize>;

/// Neighbouring dimensions of both operands that are listed together.
struct Pair {
    lhs: Run,
    rhs: Run,
}

/// Ascending dimensions as runs of neighbours.
fn runs(dimensions: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &d in dimensions {
        match runs.last_mut() {
            Some(last) if last.end == d => last.end = d + 1,
            Some(_) | None => runs.push(d..d + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use lmc_graph::DType;
    use lmc_graph::ops::AttentionMask;

    use super::*;
    use crate::target::PluginIdentity;

    /// An attention and what it is asked of.
    struct Asked {
        target: Target,
        op: ScaledDotProductAttention,
        is_backward: bool,
        dtype: DType,
        /// Batch, queries, keys, query heads, key heads, sizes of keys and of values.
        sizes: [usize; 7],
        /// The places for documents.
        documents: usize,
    }

    impl Asked {
        /// What an H200 with cuDNN 9.24 has a kernel for.
        fn new() -> Asked {
            let (mask, rows) = (AttentionMask::Causal, AttentionRows::Whole);
            Asked {
                target: Target::named("h200").expect("there is an H200"),
                op: ScaledDotProductAttention { scale: 0.1, mask, sliding_window: None, rows },
                is_backward: true,
                dtype: DType::BF16,
                sizes: [2, 128, 128, 12, 4, 64, 64],
                documents: 3,
            }
        }

        fn on(&mut self, major: u32, minor: u32) {
            self.cuda(|cuda| cuda.compute_capability = ComputeCapability::new(major, minor));
        }

        fn with_cudnn(&mut self, major: u32, minor: u32, patch: u32) {
            self.cuda(|cuda| cuda.cudnn = Some(CudnnVersion::new(major, minor, patch)));
        }

        fn cuda(&mut self, change: impl FnOnce(&mut Cuda)) {
            let Platform::Cuda(cuda) = &mut self.target.platform else { panic!("it is a GPU") };
            change(cuda);
        }

        fn heads(&mut self, sizes: [usize; 2]) {
            self.sizes[5..].copy_from_slice(&sizes);
        }

        fn form(&self) -> AttentionForm {
            let [b, t, s, n, k, h, v] = self.sizes;
            let x = |shape: [usize; 4]| TensorType::new(self.dtype, shape);
            let ints = |shape: &[usize]| TensorType::new(DType::I32, shape);
            let mut operands = vec![x([b, t, n, h]), x([b, s, k, h]), x([b, s, k, v])];
            if self.is_backward {
                let output = x([b, t, n, v]);
                operands.extend([TensorType::new(DType::F32, [b, n, t]), output.clone(), output]);
            }
            match self.op.rows {
                AttentionRows::Whole => {}
                AttentionRows::Padded => operands.extend([ints(&[b]), ints(&[b])]),
                AttentionRows::Packed => operands.push(ints(&[b, self.documents + 1])),
            }
            let backward = self.op.backward();
            let op = if self.is_backward { Attention::Backward(&backward) } else { Attention::Forward(&self.op) };
            let types: Vec<&TensorType> = operands.iter().collect();
            op.op().infer(&types, &[]).unwrap_or_else(|violation| panic!("{violation:?}"));
            attention(&self.target, op, &operands)
        }
    }

    /// The form after a change, and the reason of a refusal; `None` where it is cuDNN's.
    #[track_caller]
    fn asked(change: impl FnOnce(&mut Asked), expected: Option<&str>) {
        let mut asked = Asked::new();
        change(&mut asked);
        match (asked.form(), expected) {
            (AttentionForm::Cudnn, None) => {}
            (AttentionForm::Decomposed { refused, .. }, Some(expected)) => {
                assert!(refused.starts_with("decomposed: ") && refused.contains(expected), "{refused}");
            }
            (form, expected) => panic!("expected {expected:?}, found {form:?}"),
        }
    }

    #[test]
    fn attention_is_cudnns_where_it_has_kernels() {
        asked(|_| (), None);
        asked(|x| x.is_backward = false, None);
        asked(|x| x.dtype = DType::F16, None);
        asked(|x| x.op.mask = AttentionMask::Full, None);
        asked(|x| x.op.sliding_window = Some(7), None);
        asked(|x| x.op.rows = AttentionRows::Padded, None);
        asked(|x| x.op.rows = AttentionRows::Packed, None);
        asked(|x| x.sizes[1] = 7, None);
        asked(|x| x.heads([256, 256]), None);
        asked(|x| x.heads([192, 128]), None);
        for (major, minor) in [(8, 0), (8, 6), (8, 9), (10, 0), (10, 3), (12, 0)] {
            asked(|x| x.on(major, minor), None);
            asked(|x| (x.on(major, minor), x.heads([128, 128])).0, None);
            asked(|x| (x.is_backward = false, x.on(major, minor), x.heads([256, 256])).0, None);
        }
        asked(|x| (x.on(10, 0), x.heads([192, 128])).0, None);
        asked(|x| (x.on(10, 0), x.cuda(|cuda| cuda.deterministic = true)).0, None);
    }

    #[test]
    fn refusals_say_why() {
        let plugin = |name: &str| Some(PluginIdentity { name: name.into(), version: "1".into() });
        asked(|x| x.target.plugin = None, Some("it is not known which plugin this is"));
        asked(|x| x.target.plugin = plugin("xla-cuda13-pjrt"), Some("xla-cuda13-pjrt is not known to have"));
        asked(|x| x.target.num_devices = 8, Some("among 8 devices"));
        asked(|x| x.cuda(|cuda| cuda.cudnn = None), Some("no cuDNN was found"));
        asked(|x| x.with_cudnn(8, 9, 7), Some("attention needs cuDNN 9.0.0, found 8.9.7"));
        asked(|x| x.with_cudnn(9, 10, 1), Some("the attention of cuDNN 9.10.1"));
        asked(|x| x.on(7, 5), Some("needs compute capability 8.0, found 7.5"));
        asked(|x| (x.on(10, 3), x.with_cudnn(9, 10, 2)).0, Some("needs cuDNN 9.11.0"));
        asked(|x| x.dtype = DType::F32, Some("takes bf16 and f16, found f32"));
        asked(|x| x.heads([60, 60]), Some("a multiple of 8 elements, found 60"));
        asked(|x| x.heads([64, 20]), Some("a multiple of 8 elements, found 20"));
        asked(|x| x.heads([264, 264]), Some("up to 256 elements on compute capability 9.0, found 264"));
        asked(|x| (x.on(8, 9), x.heads([136, 136])).0, Some("derivative of attention takes heads of up to 128"));
        asked(|x| (x.on(10, 0), x.heads([256, 256])).0, Some("up to 128 elements on compute capability 10.0"));
        asked(
            |x| (x.is_backward = false, x.on(8, 0), x.with_cudnn(9, 9, 0), x.heads([136, 136])).0,
            Some("cuDNN's attention takes heads of up to 128"),
        );
        asked(|x| (x.on(8, 0), x.heads([64, 32])).0, Some("keys and values of different sizes, 64 and 32"));
        asked(|x| (x.with_cudnn(9, 9, 0), x.heads([64, 32])).0, Some("need cuDNN 9.10.0"));
        asked(|x| x.sizes[0] = 0, Some("nothing to attend to"));
        asked(|x| (x.sizes[1], x.sizes[2]) = (1, 1), Some("one query to one key"));
        asked(
            |x| (x.sizes[1], x.op.sliding_window) = (129, Some(5)),
            Some("no more queries than keys, found 129 and 128"),
        );
        let packed = |x: &mut Asked| x.op.rows = AttentionRows::Packed;
        asked(|x| (packed(x), x.heads([64, 128])).0, Some("keys and values are of one size"));
        asked(|x| (packed(x), x.on(8, 0), x.with_cudnn(9, 22, 0)).0, Some("within documents on compute capability 8"));
        asked(|x| (packed(x), x.documents = 1).0, Some("a single document a row"));
        asked(|x| (packed(x), x.sizes[0] = 1 << 20).0, Some("have 32 bits"));
        asked(
            |x| (x.on(12, 0), x.with_cudnn(9, 17, 0), x.cuda(|cuda| cuda.deterministic = true)).0,
            Some("a deterministic derivative of attention on Blackwell needs cuDNN 9.18.0"),
        );
    }

    /// Dimensions of an operand: shape, batching, contracting.
    type Side<'a> = (&'a [usize], &'a [usize], &'a [usize]);

    #[track_caller]
    fn check(lhs: Side<'_>, rhs: Side<'_>, expected: Option<(Side<'_>, Side<'_>, &[usize])>) {
        let dot = |lhs: Side<'_>, rhs: Side<'_>| DotGeneral {
            lhs_batching_dimensions: lhs.1.to_vec(),
            rhs_batching_dimensions: rhs.1.to_vec(),
            lhs_contracting_dimensions: lhs.2.to_vec(),
            rhs_contracting_dimensions: rhs.2.to_vec(),
            result_dtype: DType::F32,
        };
        let ty = |side: Side<'_>| TensorType::new(DType::F32, side.0);
        let expected = expected.map_or(DotForm::Plain, |(lhs, rhs, result)| {
            let (l, r, result) = (lhs.0.to_vec(), rhs.0.to_vec(), result.to_vec());
            DotForm::Collapsed(Collapsed { op: dot(lhs, rhs), lhs: l, rhs: r, result })
        });
        assert_eq!(dot_general(&Target::cpu(None), &dot(lhs, rhs), &ty(lhs), &ty(rhs)), expected);
        assert_eq!(dot_general(&Target::generic(), &dot(lhs, rhs), &ty(lhs), &ty(rhs)), DotForm::Plain);
    }

    #[test]
    fn collapses_neighbours_of_one_kind() {
        // Matrices stay.
        check((&[2, 3], &[], &[1]), (&[4, 3], &[], &[1]), None);
        // A linear layer on [B, T, C], and its weight gradient.
        check(
            (&[2, 5, 3], &[], &[2]),
            (&[4, 3], &[], &[1]),
            Some(((&[10, 3], &[], &[1]), (&[4, 3], &[], &[1]), &[10, 4])),
        );
        check(
            (&[2, 5, 3], &[], &[0, 1]),
            (&[2, 5, 4], &[], &[0, 1]),
            Some(((&[10, 3], &[], &[0]), (&[10, 4], &[], &[0]), &[3, 4])),
        );
        // Contracting dimensions that are listed in another order pair other elements.
        check((&[2, 5, 3], &[], &[1, 0]), (&[5, 2, 4], &[], &[0, 1]), None);
        check((&[2, 5, 3], &[], &[0, 1]), (&[5, 2, 4], &[], &[1, 0]), None);
        // Batching dimensions of scores, [B, N, T, H] with [B, N, S, H].
        check(
            (&[2, 6, 5, 3], &[0, 1], &[3]),
            (&[2, 6, 7, 3], &[0, 1], &[3]),
            Some(((&[12, 5, 3], &[0], &[2]), (&[12, 7, 3], &[0], &[2]), &[12, 5, 7])),
        );
        // Batching dimensions with a free one between them stay.
        check((&[2, 5, 6, 3], &[0, 2], &[3]), (&[2, 7, 6, 3], &[0, 2], &[3]), None);
        // Free dimensions behind the contracting one.
        check(
            (&[3, 2, 5], &[], &[0]),
            (&[4, 3], &[], &[1]),
            Some(((&[3, 10], &[], &[0]), (&[4, 3], &[], &[1]), &[10, 4])),
        );
    }
}
