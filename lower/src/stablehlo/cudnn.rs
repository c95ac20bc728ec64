//! The contract of cuDNN's attention in XLA: custom calls whose operands, results, layouts and configuration must agree
//! with each other, of which XLA checks a part, and late.
//!
//! Sources: XLA's `xla/service/gpu/cublas_cudnn.h` (targets), `backend_configs.proto` (`CudnnfMHABackendConfig`),
//! `xla/backends/gpu/transforms/cudnn_custom_call_compiler.cc` (operands); what JAX lowers to.

use lmc_graph::{DType, TensorType};

use super::syntax::{joined, list, string, tensor, tensors};

/// A call of cuDNN's attention or of its derivative. Activations are `B T N H`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) is_backward: bool,
    /// What scores are multiplied with. Where it is left out XLA takes 0, and all keys are seen alike.
    pub(super) scale: f64,
    pub(super) mask_type: MaskType,
    /// Query `t` sees only keys above `t` minus this; 0 is no limit.
    pub(super) sliding_window_length: usize,
    /// The places for documents in a row; 1 where rows are not packed.
    pub(super) max_seg_per_batch: usize,
    /// Whether the derivative must come out the same every time.
    pub(super) deterministic: bool,
    pub(super) operands: Vec<TensorType>,
    pub(super) results: Vec<(TensorType, Layout)>,
}

/// `mask_type` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaskType {
    NoMask,
    Causal,
    Padding,
    PaddingCausal,
}

impl MaskType {
    fn name(self) -> &'static str {
        match self {
            MaskType::NoMask => "NO_MASK",
            MaskType::Causal => "CAUSAL",
            MaskType::Padding => "PADDING",
            MaskType::PaddingCausal => "PADDING_CAUSAL",
        }
    }
}

/// The order of a tensor's dimensions in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As they are listed, the last one fastest.
    RowMajor,
    /// Of `B N T H` as if it were `B T N H`.
    HeadsBehindPositions,
}

impl Layout {
    fn minor_to_major(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::RowMajor => (0..rank).rev().collect(),
            Layout::HeadsBehindPositions => vec![3, 1, 2, 0],
        }
    }
}

/// The sizes of an attention: batch, query and key lengths, query and key heads, sizes of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    b: usize,
    t: usize,
    s: usize,
    n: usize,
    k: usize,
    h: usize,
    v: usize,
}

impl Call {
    /// The name that XLA knows it by.
    fn target(&self) -> &'static str {
        if self.is_backward { "__cudnn$fmhaSoftmaxBackward" } else { "__cudnn$fmhaSoftmax" }
    }

    /// The op without its results' names: `stablehlo.custom_call @…(…) {…} : (…) -> (…)`.
    ///
    /// # Panics
    /// If the call breaks the contract.
    pub(super) fn text(&self, operands: &[super::emitter::Value]) -> String {
        let sizes = self.check().unwrap_or_else(|reason| panic!("{}: {reason}", self.target()));
        let layouts = |layouts: Vec<Vec<usize>>| {
            let dense = |layout: &Vec<usize>| match &layout[..] {
                [only] => format!("dense<{only}> : tensor<1xindex>"),
                order => format!("dense<{}> : tensor<{}xindex>", list(order), order.len()),
            };
            list(layouts.iter().map(dense))
        };
        let operand_layouts = self.operands.iter().map(|ty| Layout::RowMajor.minor_to_major(ty.rank())).collect();
        let result_layouts = self.results.iter().map(|(ty, layout)| layout.minor_to_major(ty.rank())).collect();
        format!(
            "stablehlo.custom_call @{}({}) {{api_version = 2 : i32, backend_config = {}, has_side_effect = false, \
             operand_layouts = {}, result_layouts = {}}} : ({}) -> ({})",
            self.target(),
            super::emitter::names(operands),
            string(&self.backend_config(sizes)),
            layouts(operand_layouts),
            layouts(result_layouts),
            tensors(&self.operands),
            joined(self.results.iter().map(|(ty, _)| tensor(ty))),
        )
    }

    /// The configuration as JSON, with the fields that the call reads and no others: a version of XLA refuses what it
    /// does not know.
    fn backend_config(&self, Sizes { b, t, s, n, .. }: Sizes) -> String {
        // {:?} writes floats with a point.
        let mut config = format!("\"fmha_scale\":{:?},\"mask_type\":\"{}\"", self.scale, self.mask_type.name());
        if self.sliding_window_length > 0 {
            config += &format!(",\"sliding_window_length\":{}", self.sliding_window_length);
        }
        if self.max_seg_per_batch > 1 {
            config += &format!(",\"max_seg_per_batch\":{}", self.max_seg_per_batch);
        }
        if self.is_backward && self.deterministic {
            // XLA writes it into the first of equal calls only, and then finds no plan for the others when it loads them
            // (openxla/xla#46500).
            config += ",\"force_deterministic\":true";
        }
        if self.is_backward {
            let element_type = if self.operands[0].dtype == DType::BF16 { "BF16" } else { "F16" };
            config += &format!(
                ",\"intermediate_tensor_shape\":{{\"element_type\":\"{element_type}\",\"dimensions\":[{b},{n},{t},{s}],\
                 \"layout\":{{\"minor_to_major\":[3,2,1,0]}},\"is_dynamic_dimension\":[false,false,false,false]}}"
            );
        }
        // How each product would find its operands; no product is made of them, but cuDNN's strides.
        let products: &[(&str, [&[usize]; 4])] = if self.is_backward {
            &[
                ("bmm1_grad_gemm1", [&[2], &[1], &[0, 1], &[0, 2]]),
                ("bmm1_grad_gemm2", [&[3], &[1], &[0, 1], &[0, 2]]),
                ("bmm2_grad_gemm1", [&[2], &[1], &[0, 1], &[0, 2]]),
                ("bmm2_grad_gemm2", [&[3], &[3], &[0, 2], &[0, 2]]),
            ]
        } else {
            &[("bmm1", [&[3], &[3], &[0, 2], &[0, 2]]), ("bmm2", [&[3], &[1], &[0, 1], &[0, 2]])]
        };
        for (name, [lhs, rhs, lhs_batch, rhs_batch]) in products {
            let [lhs, rhs, lhs_batch, rhs_batch] = [lhs, rhs, lhs_batch, rhs_batch].map(|dims| {
                let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
                format!("[{}]", dims.join(","))
            });
            config += &format!(
                ",\"{name}_dot_dimension_numbers\":{{\"lhs_contracting_dimensions\":{lhs},\
                 \"rhs_contracting_dimensions\":{rhs},\"lhs_batch_dimensions\":{lhs_batch},\
                 \"rhs_batch_dimensions\":{rhs_batch}}}"
            );
        }
        format!("{{\"cudnn_fmha_backend_config\":{{{config}}}}}")
    }

    /// Whether operands, results and configuration agree. XLA and cuDNN take some of what is refused here and compute
    /// something else.
    fn check(&self) -> Result<Sizes, String> {
        let [query, key, value, ..] = &self.operands[..] else {
            return Err(format!("expected query, key and value, found {} operands", self.operands.len()));
        };
        let (dtype, packed) = (query.dtype, self.max_seg_per_batch > 1);
        if !matches!(dtype, DType::BF16 | DType::F16) {
            return Err(format!("operands are bf16 or f16, found {dtype}"));
        }
        let (&[b, t, n, h], &[_, s, k, _], &[_, _, _, v]) = (&query.shape[..], &key.shape[..], &value.shape[..]) else {
            return Err(format!("operands have 4 dimensions, found {query}, {key} and {value}"));
        };
        let sizes = Sizes { b, t, s, n, k, h, v };
        if let Some(size) = [h, v].into_iter().find(|&size| size == 0 || size % 8 != 0 || size > 256) {
            return Err(format!("heads have a multiple of 8 elements and at most 256, found {size}"));
        }
        if k == 0 || n % k != 0 {
            return Err(format!("{n} query heads are not a multiple of {k} key heads"));
        }
        if self.scale == 0.0 || !self.scale.is_finite() {
            return Err(format!("a scale of {} does not tell keys apart", self.scale));
        }
        let has_lengths = match self.mask_type {
            MaskType::NoMask | MaskType::Causal => false,
            MaskType::Padding | MaskType::PaddingCausal => true,
        };
        if packed && !has_lengths {
            return Err(format!("documents need a mask of padding, found {}", self.mask_type.name()));
        }

        let places = self.max_seg_per_batch;
        let tensor_of = |shape: &[usize]| TensorType::new(dtype, shape);
        let ints = |shape: &[usize]| TensorType::new(DType::I32, shape);
        let by_position = |heads: usize, size: usize, length: usize| tensor_of(&[b, length, heads, size]);
        let by_head = |heads: usize, size: usize, length: usize| {
            (tensor_of(&[b, heads, length, size]), Layout::HeadsBehindPositions)
        };
        let stats = TensorType::new(DType::F32, [b * places, n, t]);
        let workspace = (TensorType::new(DType::U8, [0]), Layout::RowMajor);

        let mut operands = vec![by_position(n, h, t), by_position(k, h, s), by_position(k, v, s)];
        if self.is_backward {
            operands.extend([stats.clone(), by_position(n, v, t), by_position(n, v, t)]);
        }
        if has_lengths {
            let lengths = if packed { ints(&[b, places]) } else { ints(&[b]) };
            operands.extend([lengths.clone(), lengths]);
        }
        if packed {
            operands.extend([ints(&[b, places + 1]), ints(&[b, places + 1])]);
        }
        if self.operands != operands {
            return Err(format!("expected operands {}, found {}", tensors(&operands), tensors(&self.operands)));
        }
        let results: Vec<Vec<(TensorType, Layout)>> = if self.is_backward {
            vec![vec![by_head(n, h, t), by_head(k, h, s), by_head(k, v, s), workspace]]
        } else {
            let output = by_head(n, v, t);
            vec![vec![output.clone(), workspace.clone()], vec![output, (stats, Layout::RowMajor), workspace]]
        };
        if !results.contains(&self.results) {
            let spelled = |results: &[(TensorType, Layout)]| {
                joined(results.iter().map(|(ty, layout)| format!("{} {layout:?}", tensor(ty))))
            };
            let expected: Vec<String> = results.iter().map(|results| spelled(results)).collect();
            return Err(format!("expected results {}, found {}", expected.join(" or "), spelled(&self.results)));
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(dtype: DType, shape: &[usize]) -> TensorType {
        TensorType::new(dtype, shape)
    }

    fn backward() -> Call {
        let (q, kv) = (ty(DType::BF16, &[2, 128, 12, 64]), ty(DType::BF16, &[2, 128, 4, 64]));
        let by_head = |heads| (ty(DType::BF16, &[2, heads, 128, 64]), Layout::HeadsBehindPositions);
        Call {
            is_backward: true,
            scale: 0.125,
            mask_type: MaskType::Causal,
            sliding_window_length: 0,
            max_seg_per_batch: 1,
            deterministic: false,
            operands: vec![q.clone(), kv.clone(), kv, ty(DType::F32, &[2, 12, 128]), q.clone(), q],
            results: vec![by_head(12), by_head(4), by_head(4), (ty(DType::U8, &[0]), Layout::RowMajor)],
        }
    }

    fn forward() -> Call {
        let Call { operands, results, .. } = backward();
        let stats = (operands[3].clone(), Layout::RowMajor);
        let results = vec![results[0].clone(), stats, results[3].clone()];
        Call { is_backward: false, operands: operands[..3].to_vec(), results, ..backward() }
    }

    #[track_caller]
    fn check(call: Call, change: impl FnOnce(&mut Call), expected: &str) {
        assert!(call.check().is_ok(), "{:?}", call.check());
        let mut call = call;
        change(&mut call);
        let reason = call.check().expect_err("the contract is broken");
        assert!(reason.contains(expected), "{expected} is not in {reason}");
    }

    /// What XLA or cuDNN refuse, some of it by ending the process, and what they take for something else.
    #[test]
    fn broken_contracts_are_found_before_xla_sees_them() {
        let of = |call: &mut Call, dtype: DType| call.operands[..3].iter_mut().for_each(|ty| ty.dtype = dtype);
        let head = |call: &mut Call, size: usize| {
            call.operands.iter_mut().for_each(|ty| {
                if let Some(last) = ty.shape.get_mut(3) {
                    *last = size;
                }
            })
        };
        check(forward(), |call| head(call, 20), "multiple of 8 elements and at most 256, found 20");
        check(forward(), |call| head(call, 512), "found 512");
        check(forward(), |call| of(call, DType::F32), "bf16 or f16, found f32");
        check(forward(), |call| call.operands[1].dtype = DType::F16, "expected operands");
        check(forward(), |call| call.operands[1].shape[2] = 5, "12 query heads are not a multiple of 5");
        check(forward(), |call| call.scale = 0.0, "a scale of 0");
        check(forward(), |call| call.scale = f64::NAN, "a scale of NaN");
        check(forward(), |call| call.operands.truncate(2), "found 2 operands");
        check(forward(), |call| call.operands.push(ty(DType::I32, &[2])), "expected operands");
        check(forward(), |call| call.mask_type = MaskType::Padding, "tensor<2xi32>, tensor<2xi32>, found");
        check(forward(), |call| call.max_seg_per_batch = 3, "documents need a mask of padding, found CAUSAL");
        check(forward(), |call| call.results[1].0.dtype = DType::BF16, "expected results");
        check(forward(), |call| call.results[2].0.dtype = DType::I8, "expected results");
        check(forward(), |call| call.results[0].1 = Layout::RowMajor, "expected results");
        // Not even with the dimensions of keys in another order.
        check(backward(), |call| call.results[1].0.shape.swap(1, 2), "expected results");
        check(backward(), |call| drop(call.operands.remove(5)), "expected operands");
        check(backward(), |call| call.operands[3].dtype = DType::BF16, "expected operands");
        check(backward(), |call| call.results.truncate(3), "expected results");
    }

    #[test]
    fn configurations_are_json_of_the_fields_that_are_read() {
        let sizes = |call: &Call| call.check().expect("a good call");
        let config = |call: Call| call.backend_config(sizes(&call));
        assert_eq!(
            config(forward()),
            r#"{"cudnn_fmha_backend_config":{"fmha_scale":0.125,"mask_type":"CAUSAL","bmm1_dot_dimension_numbers":{"lhs_contracting_dimensions":[3],"rhs_contracting_dimensions":[3],"lhs_batch_dimensions":[0,2],"rhs_batch_dimensions":[0,2]},"bmm2_dot_dimension_numbers":{"lhs_contracting_dimensions":[3],"rhs_contracting_dimensions":[1],"lhs_batch_dimensions":[0,1],"rhs_batch_dimensions":[0,2]}}}"#
        );
        assert_eq!(config(Call { deterministic: true, ..forward() }), config(forward()));
        let deterministic = config(Call { deterministic: true, ..backward() });
        assert_eq!(deterministic.replacen(r#","force_deterministic":true"#, "", 1), config(backward()));
        assert_ne!(deterministic, config(backward()));
        let call = Call { scale: 1.0, sliding_window_length: 256, ..backward() };
        assert_eq!(
            config(call),
            r#"{"cudnn_fmha_backend_config":{"fmha_scale":1.0,"mask_type":"CAUSAL","sliding_window_length":256,"intermediate_tensor_shape":{"element_type":"BF16","dimensions":[2,12,128,128],"layout":{"minor_to_major":[3,2,1,0]},"is_dynamic_dimension":[false,false,false,false]},"bmm1_grad_gemm1_dot_dimension_numbers":{"lhs_contracting_dimensions":[2],"rhs_contracting_dimensions":[1],"lhs_batch_dimensions":[0,1],"rhs_batch_dimensions":[0,2]},"bmm1_grad_gemm2_dot_dimension_numbers":{"lhs_contracting_dimensions":[3],"rhs_contracting_dimensions":[1],"lhs_batch_dimensions":[0,1],"rhs_batch_dimensions":[0,2]},"bmm2_grad_gemm1_dot_dimension_numbers":{"lhs_contracting_dimensions":[2],"rhs_contracting_dimensions":[1],"lhs_batch_dimensions":[0,1],"rhs_batch_dimensions":[0,2]},"bmm2_grad_gemm2_dot_dimension_numbers":{"lhs_contracting_dimensions":[3],"rhs_contracting_dimensions":[3],"lhs_batch_dimensions":[0,2],"rhs_batch_dimensions":[0,2]}}}"#
        );
    }
}
