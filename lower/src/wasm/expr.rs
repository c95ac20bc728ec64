//! What is computed at one place of a loop nest: a graph of scalar expressions over loads.

use std::collections::HashMap;

use lmc_graph::ops::{BinaryOp, ComparisonDirection, UnaryOp};
use lmc_graph::{DType, Literal, TensorType};

use super::affine::Affine;

/// An expression of a [`Dag`].
pub(super) type Id = usize;

/// A tensor's memory: where its first element lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The buffer.
    pub(super) buffer: usize,
    /// Bytes from the buffer's beginning.
    pub(super) offset: i64,
    /// What the iterations of enclosing loops add: the global that counts them, and bytes an iteration.
    pub(super) iterations: Vec<(u32, i64)>,
}

impl Place {
    /// The beginning of a buffer.
    pub(super) fn of(buffer: usize) -> Place {
        Place { buffer, offset: 0, iterations: vec![] }
    }
}

/// An address in a nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    /// The tensor.
    pub(super) place: Place,
    /// Bytes from there.
    pub(super) index: Affine,
    /// Bytes that are computed, an `i32`.
    pub(super) offset: Option<Id>,
}

/// A scalar at one place of a loop nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Expr {
    /// The little-endian bits of an element.
    Constant(u64),
    /// A number that depends on loop variables, as an `i32`.
    Index(Affine),
    /// An element of memory. `pinned` is read anew in every innermost iteration: what the nest itself writes.
    Load { address: Address, pinned: bool },
    /// An op of one operand.
    Unary(UnaryOp, Id),
    /// An op of two operands.
    Binary(BinaryOp, Id, Id),
    /// A comparison.
    Compare(ComparisonDirection, Id, Id),
    /// The second if the first holds, else the third.
    Select(Id, Id, Id),
    /// The operand's value in the node's element type.
    Convert(Id),
    /// The operand's bits in the node's element type.
    Bitcast(Id),
    /// The operand, of a float narrower than 32 bits, rounded to its element type.
    Round(Id),
}

impl Expr {
    /// The expressions it uses.
    pub(super) fn operands(&self) -> Vec<Id> {
        match *self {
            Expr::Constant(_) | Expr::Index(_) => vec![],
            Expr::Load { ref address, .. } => address.offset.into_iter().collect(),
            Expr::Unary(_, x) | Expr::Convert(x) | Expr::Bitcast(x) | Expr::Round(x) => vec![x],
            Expr::Binary(_, x, y) | Expr::Compare(_, x, y) => vec![x, y],
            Expr::Select(x, y, z) => vec![x, y, z],
        }
    }
}

/// An expression and its element type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    /// The expression.
    pub(super) expr: Expr,
    /// The element type of its value.
    pub(super) dtype: DType,
}

/// Expressions, operands before their users, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Dag {
    /// The sizes of the loops, outermost first.
    pub(super) loops: Vec<usize>,
    /// The expressions.
    pub(super) nodes: Vec<Node>,
    known: HashMap<Node, Id>,
}

impl Dag {
    /// No expressions, over these loops.
    pub(super) fn new(loops: Vec<usize>) -> Dag {
        Dag { loops, ..Dag::default() }
    }

    /// The expression, which is made if there is none like it.
    pub(super) fn push(&mut self, expr: Expr, dtype: DType) -> Id {
        let node = Node { expr, dtype };
        if let Some(&id) = self.known.get(&node) {
            return id;
        }
        self.nodes.push(node.clone());
        self.known.insert(node, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// The element type of an expression.
    pub(super) fn dtype(&self, id: Id) -> DType {
        self.nodes[id].dtype
    }

    /// A number known now.
    pub(super) fn constant(&mut self, dtype: DType, value: f64) -> Id {
        self.element(Literal::from_f64s(TensorType::scalar(dtype), &[value]).bytes(), dtype)
    }

    /// An element with these bytes.
    pub(super) fn element(&mut self, bytes: &[u8], dtype: DType) -> Id {
        let mut bits = [0; 8];
        bits[..bytes.len()].copy_from_slice(bytes);
        self.push(Expr::Constant(u64::from_le_bytes(bits)), dtype)
    }

    /// An index as a number of an element type.
    pub(super) fn index(&mut self, index: Affine, dtype: DType) -> Id {
        let id = self.push(Expr::Index(index), DType::I32);
        self.convert(id, dtype)
    }

    /// An op of one operand, rounded to the operand's element type.
    pub(super) fn unary(&mut self, op: UnaryOp, x: Id) -> Id {
        if op == UnaryOp::IsFinite {
            return self.push(Expr::Unary(op, x), DType::Bool);
        }
        let dtype = self.dtype(x);
        let id = self.push(Expr::Unary(op, x), dtype);
        self.rounded(id)
    }

    /// An op of two operands of one element type, rounded to it.
    pub(super) fn binary(&mut self, op: BinaryOp, x: Id, y: Id) -> Id {
        let dtype = self.dtype(x);
        let id = self.push(Expr::Binary(op, x, y), dtype);
        self.rounded(id)
    }

    /// A comparison.
    pub(super) fn compare(&mut self, direction: ComparisonDirection, x: Id, y: Id) -> Id {
        self.push(Expr::Compare(direction, x, y), DType::Bool)
    }

    /// A choice.
    pub(super) fn select(&mut self, pred: Id, x: Id, y: Id) -> Id {
        let dtype = self.dtype(x);
        self.push(Expr::Select(pred, x, y), dtype)
    }

    /// A number of f32, 0 where it is below the normal ones.
    pub(super) fn without_subnormals(&mut self, x: Id) -> Id {
        let [least, zero] = [f32::MIN_POSITIVE, 0.0].map(|bound| self.constant(DType::F32, bound.into()));
        let size = self.unary(UnaryOp::Abs, x);
        let below = self.compare(ComparisonDirection::Lt, size, least);
        self.select(below, zero, x)
    }

    /// The value in another element type.
    pub(super) fn convert(&mut self, x: Id, dtype: DType) -> Id {
        if self.dtype(x) == dtype {
            return x;
        }
        let id = self.push(Expr::Convert(x), dtype);
        self.rounded(id)
    }

    fn rounded(&mut self, x: Id) -> Id {
        let dtype = self.dtype(x);
        if is_narrow(dtype) { self.push(Expr::Round(x), dtype) } else { x }
    }

    /// For each expression the number of loops down to the innermost that changes it.
    pub(super) fn depths(&self) -> Vec<usize> {
        let mut depths: Vec<usize> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let own = match &node.expr {
                Expr::Index(index) => index.depth(),
                Expr::Load { pinned: true, .. } => self.loops.len(),
                Expr::Load { address, .. } => address.index.depth(),
                Expr::Constant(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Compare(..)
                | Expr::Select(..)
                | Expr::Convert(_)
                | Expr::Bitcast(_)
                | Expr::Round(_) => 0,
            };
            depths.push(node.expr.operands().iter().map(|&x| depths[x]).fold(own, usize::max));
        }
        depths
    }

    /// The affine numbers of all expressions.
    pub(super) fn affines_mut(&mut self) -> impl Iterator<Item = &mut Affine> {
        self.known.clear();
        self.nodes.iter_mut().filter_map(|node| match &mut node.expr {
            Expr::Index(index) => Some(index),
            Expr::Load { address, .. } => Some(&mut address.index),
            Expr::Constant(_)
            | Expr::Unary(..)
            | Expr::Binary(..)
            | Expr::Compare(..)
            | Expr::Select(..)
            | Expr::Convert(_)
            | Expr::Bitcast(_)
            | Expr::Round(_) => None,
        })
    }
}

/// Whether floats of this type are computed in f32 and rounded after each op.
pub(super) fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}
