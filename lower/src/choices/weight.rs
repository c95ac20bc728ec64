//! Products with a weight as it is stored. With few rows they are bound by how fast the weight is read.
//!
//! lmc's kernel reads a weight once, in the form in which it is stored: as it is, behind a conversion, or behind the ops
//! of its de-quantization. XLA and oneDNN would convert or pack all of it at each call.

use lmc_graph::ops::{BinaryOp, BroadcastInDim, DotGeneral, Op};
use lmc_graph::{DType, Entity, Func, NodeId, TensorType, ValueId};

use super::{Uses, collapse};
use crate::target::{Platform, Target};

/// Codes of a weight `[out, in]` and what they mean: groups of neighbouring columns have a scale each, `[out, groups]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Groups<V> {
    /// Bits of a code; of 4 two are in a byte.
    pub(crate) bits: usize,
    /// Whether codes are negative too: of 4 bits from -8 to 7, stored 8 higher.
    pub(crate) signed: bool,
    /// What a code is multiplied with.
    pub(crate) scales: V,
    /// Bytes that are subtracted from codes before, or floats that are added afterwards.
    pub(crate) offset: Option<V>,
}

/// A weight as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredWeight<V> {
    /// The matrix, or its codes.
    pub(crate) elements: V,
    /// What the codes mean; `None` of floats.
    pub(crate) groups: Option<Groups<V>>,
}

impl<V> StoredWeight<V> {
    /// The elements, scales and offset, as far as there are any.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &V> {
        let groups = self.groups.iter().flat_map(|groups| [Some(&groups.scales), groups.offset.as_ref()]);
        [&self.elements].into_iter().chain(groups.flatten())
    }

    /// The same with other names for its parts.
    pub(crate) fn map<W>(self, mut f: impl FnMut(V) -> W) -> StoredWeight<W> {
        StoredWeight {
            elements: f(self.elements),
            groups: self.groups.map(|groups| Groups {
                bits: groups.bits,
                signed: groups.signed,
                scales: f(groups.scales),
                offset: groups.offset.map(f),
            }),
        }
    }
}

/// How a product comes by its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightForm {
    /// lmc's kernel multiplies with what is stored: `[out, in]`, or `[in, out]` if transposed.
    Kernel { weight: StoredWeight<ValueId>, transposed: bool },
    /// The product is any other, and the weight's floats come from lmc's kernel.
    Dequantized { weight: StoredWeight<ValueId>, refused: String },
    /// As any other operand; why, if a product with few rows was meant.
    Operand { value: ValueId, refused: Option<String> },
}

/// Rows of operands up to which the kernel is faster than any product of many rows. In programs of models that are used it
/// takes all, but where the processor has AMX.
const MOST_ROWS: usize = 16;

/// Elements of a weight from which on a call is worth its time.
const LEAST_ELEMENTS: usize = 1 << 16;

/// How the product `op` of these operands comes by its weight, `rhs`, on this target.
pub(crate) fn weight_form(target: &Target, func: &Func, op: &DotGeneral, lhs: ValueId, rhs: ValueId) -> WeightForm {
    let operand = |refused: Option<&str>| WeightForm::Operand { value: rhs, refused: refused.map(str::to_string) };
    match target.platform {
        // XLA's GPU backend fuses what is before a product into it.
        Platform::Generic | Platform::Cuda(_) => return operand(None),
        Platform::Cpu => {}
    }
    let (lhs_ty, rhs_ty) = (func.ty(lhs), func.ty(rhs));
    let product = collapse::collapse(op, lhs_ty, rhs_ty);
    let ([rows, _] | [rows], &[sum]) = (&product.lhs[..], &product.op.rhs_contracting_dimensions[..]) else {
        return operand(None);
    };
    let is_layer = op.rhs_batching_dimensions.is_empty()
        && rhs_ty.rank() == 2
        && product.op.lhs_contracting_dimensions == [product.lhs.len() - 1]
        && matches!(lhs_ty.dtype, DType::F32 | DType::BF16)
        && matches!(op.result_dtype, DType::F32 | DType::BF16)
        && lhs_ty.num_elements() > 0;
    if !is_layer || rhs_ty.num_elements() < LEAST_ELEMENTS {
        return operand(None);
    }
    let rows = if product.lhs.len() == 1 { 1 } else { *rows };
    let weight = stored(func, rhs);
    let has_amx = target.processor.as_ref().is_some_and(|processor| processor.amx);
    let takes_all = target.for_use && !(has_amx && lhs_ty.dtype == DType::BF16);
    match (&weight, takes_all || rows <= MOST_ROWS) {
        (StoredWeight { groups: None, .. }, false) => operand(None),
        (_, _) if !target.has_kernels => operand(Some("lmc's kernel does not fit this plugin")),
        (StoredWeight { groups: Some(_), .. }, true) if sum == 0 => {
            let reason = "lmc's kernel takes codes of a weight that is summed over its last dimension";
            WeightForm::Dequantized { weight, refused: reason.to_string() }
        }
        (_, true) => WeightForm::Kernel { weight, transposed: sum == 0 },
        (_, false) => {
            let refused = format!("the weight is de-quantized first: lmc's kernel is for at most {MOST_ROWS} rows");
            WeightForm::Dequantized { weight, refused }
        }
    }
}

/// The products of these nodes that one call of the kernel can compute together with the product `op` of `lhs` and `weight`:
/// their results and weights. Operands are the same and weights of one kind.
pub(crate) fn products_alike<'n>(
    target: &Target,
    func: &Func,
    nodes: impl Iterator<Item = &'n NodeId>,
    (op, lhs, weight): (&DotGeneral, ValueId, &StoredWeight<ValueId>),
) -> Vec<(ValueId, StoredWeight<ValueId>)> {
    let kind = |weight: &StoredWeight<ValueId>| {
        let groups = weight.groups.as_ref().map(|groups| {
            let offset = groups.offset.map(|offset| func.ty(offset).dtype);
            let scales = func.ty(groups.scales);
            (groups.bits, groups.signed, scales.dtype, scales.shape.last().copied(), offset)
        });
        (func.ty(weight.elements).dtype, groups)
    };
    let others = nodes.map(|&node| func.node(node)).filter_map(|node| {
        let Op::DotGeneral(other) = &node.op else { return None };
        if other != op || node.operands[0] != lhs {
            return None;
        }
        match weight_form(target, func, other, lhs, node.operands[1]) {
            WeightForm::Kernel { weight: other, .. } if kind(&other) == kind(weight) => Some((node.results[0], other)),
            WeightForm::Kernel { .. } | WeightForm::Dequantized { .. } | WeightForm::Operand { .. } => None,
        }
    });
    others.collect()
}

/// The nodes of a function that nothing needs where products take weights as they are stored.
pub(crate) fn absorbed(target: &Target, func: &Func, uses: &Uses) -> Vec<bool> {
    let nodes = func.walk(func.body());
    let mut absorbed = vec![false; nodes.iter().map(|node| node.index() + 1).max().unwrap_or(0)];
    let mut counts = uses.clone();
    let mut unused = Vec::new();
    let release = |counts: &mut Uses, unused: &mut Vec<NodeId>, value: ValueId| {
        if counts.release(value)
            && let Some(node) = func.defining_node(value)
        {
            unused.push(node);
        }
    };
    for node in nodes.into_iter().map(|node| func.node(node)) {
        let Op::DotGeneral(op) = &node.op else { continue };
        let (lhs, rhs) = (node.operands[0], node.operands[1]);
        let parts = match weight_form(target, func, op, lhs, rhs) {
            WeightForm::Operand { .. } => continue,
            WeightForm::Kernel { weight, .. } | WeightForm::Dequantized { weight, .. } => weight,
        };
        // The parts are used in place of the operand.
        parts.map(|part| counts.add(part));
        release(&mut counts, &mut unused, rhs);
    }
    while let Some(node) = unused.pop() {
        let data = func.node(node);
        if data.results.iter().any(|&result| counts.are_any(result)) || !data.regions.is_empty() {
            continue;
        }
        absorbed[node.index()] = true;
        for &operand in &data.operands {
            release(&mut counts, &mut unused, operand);
        }
    }
    absorbed
}

/// What a value is made of, if it is a weight's conversion or de-quantization; else the value itself.
fn stored(func: &Func, value: ValueId) -> StoredWeight<ValueId> {
    if let Some(quantized) = quantized(func, value) {
        return quantized;
    }
    let converted = converted(func, value);
    let kept = [DType::BF16, DType::F16].contains(&func.ty(converted).dtype)
        || func.ty(converted).dtype == func.ty(value).dtype;
    StoredWeight { elements: if kept { converted } else { value }, groups: None }
}

/// The op that makes a value, and its operands.
fn made_by(func: &Func, value: ValueId) -> Option<(&Op, &[ValueId])> {
    let node = func.node(func.defining_node(value)?);
    Some((&node.op, &node.operands))
}

/// What a conversion converts, or the value itself.
fn converted(func: &Func, value: ValueId) -> ValueId {
    match made_by(func, value) {
        Some((Op::Convert(_), operands)) => operands[0],
        Some(_) | None => value,
    }
}

/// What a reshape to this many dimensions reshapes.
fn reshaped(func: &Func, value: ValueId, rank: usize) -> Option<ValueId> {
    match made_by(func, value)? {
        (Op::Reshape(_), operands) if func.ty(value).rank() == rank => Some(operands[0]),
        (_, _) => None,
    }
}

/// The operands of an op of two.
fn binary(func: &Func, value: ValueId, wanted: BinaryOp) -> Option<[ValueId; 2]> {
    match made_by(func, value)? {
        (Op::Binary(op), operands) if *op == wanted => operands.try_into().ok(),
        (_, _) => None,
    }
}

/// The number that every element of a constant is.
fn constant(func: &Func, value: ValueId) -> Option<f64> {
    match made_by(func, value)? {
        (Op::Constant(op), _) => op.value.splat().and_then(|_| op.value.to_f64s().first().copied()),
        (Op::BroadcastInDim(_), operands) => constant(func, operands[0]),
        (_, _) => None,
    }
}

/// `[out, groups]` of `[out, groups, size]` whose groups have one number each, before it was converted.
fn of_groups(func: &Func, value: ValueId) -> Option<ValueId> {
    match made_by(func, value)? {
        (Op::BroadcastInDim(BroadcastInDim { broadcast_dimensions, .. }), operands)
            if broadcast_dimensions[..] == [0, 1] && func.ty(operands[0]).shape == func.ty(value).shape[..2] =>
        {
            Some(converted(func, operands[0]))
        }
        (_, _) => None,
    }
}

/// The parts of a weight that the ops of `lmc_models::layers::dequantize` make.
fn quantized(func: &Func, value: ValueId) -> Option<StoredWeight<ValueId>> {
    let is_float = |value: ValueId| matches!(func.ty(value).dtype, DType::F32 | DType::BF16 | DType::F16);
    // `[out, in]` in f32, from `[out, groups, size]`.
    let value = reshaped(func, converted(func, value), 2)?;
    if func.ty(value).rank() != 3 || func.ty(value).dtype != DType::F32 {
        return None;
    }
    let (scaled, bias) = match binary(func, value, BinaryOp::Add) {
        Some([scaled, bias]) => (scaled, Some(of_groups(func, bias).filter(|&bias| is_float(bias))?)),
        None => (value, None),
    };
    let [codes, scales] = binary(func, scaled, BinaryOp::Multiply)?;
    let scales = of_groups(func, scales).filter(|&scales| is_float(scales))?;
    let (codes, centered, zeros) = match binary(func, codes, BinaryOp::Subtract) {
        Some([codes, center]) if constant(func, center) == Some(8.0) => (codes, true, None),
        Some([codes, zeros]) => {
            let zeros = of_groups(func, zeros).filter(|&zeros| func.ty(zeros).dtype == DType::U8)?;
            (codes, false, Some(zeros))
        }
        None => (codes, false, None),
    };
    let codes = reshaped(func, converted(func, codes), 3)?;
    let offset = match (bias, zeros) {
        (Some(_), Some(_)) => return None,
        (bias, zeros) => bias.or(zeros),
    };
    let size = func.ty(value).shape[2];
    let (elements, bits, signed) = match (halves(func, codes), func.ty(codes).dtype) {
        (Some(bytes), _) => (bytes, 4, centered),
        (None, DType::I8) if !centered => (codes, 8, true),
        (None, DType::U8) if !centered => (codes, 8, false),
        (None, _) => return None,
    };
    let step = if bits == 4 { 32 } else { 16 };
    let fits = size.is_multiple_of(step) && func.ty(elements).rank() == 2;
    fits.then_some(StoredWeight { elements, groups: Some(Groups { bits, signed, scales, offset }) })
}

/// The bytes whose low and high halves are in turn the elements of a value.
fn halves(func: &Func, value: ValueId) -> Option<ValueId> {
    let (Op::Concatenate(op), &[low, high]) = made_by(func, value)? else { return None };
    let half = |value: ValueId, op: BinaryOp, number: f64| {
        let [bytes, by] = binary(func, reshaped(func, value, 3)?, op)?;
        (constant(func, by) == Some(number)).then_some(bytes)
    };
    let bytes = half(low, BinaryOp::And, 15.0)?;
    let same = half(high, BinaryOp::ShiftRightLogical, 4.0) == Some(bytes);
    let ty: &TensorType = func.ty(bytes);
    (same && op.dimension == 2 && ty.dtype == DType::U8 && ty.rank() == 2).then_some(bytes)
}
