//! Which attentions cuDNN has kernels for.

use lmc_graph::ops::AttentionRows;
use lmc_graph::{DType, TensorType};

use super::Attention;
use crate::target::{ComputeCapability, Cuda, CudnnVersion, Target};

/// Packages of plugins that have cuDNN's attention as custom calls.
const CUDNN_PLUGINS: [&str; 2] = ["jax-cuda12-pjrt", "jax-cuda13-pjrt"];

/// Whether cuDNN computes this attention, or why not.
///
/// What XLA and cuDNN 9.24 accept was tried with XLA's own compilation for GPUs of each generation; what older versions
/// of cuDNN do not have is as JAX refuses it (`jax/_src/cudnn/fused_attention_stablehlo.py`).
pub(super) fn attention_fits(
    target: &Target,
    cuda: Cuda,
    op: Attention<'_>,
    operands: &[TensorType],
) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use lmc_graph::DType;
    use lmc_graph::ops::{AttentionMask, ScaledDotProductAttention};

    use super::*;
    use crate::choices::{AttentionForm, attention};
    use crate::target::Platform;
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
}
