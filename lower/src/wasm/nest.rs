//! Loop nests: which loops are one, and which one is computed four elements at a time.

use lmc_graph::DType;
use lmc_graph::ops::BinaryOp;

use super::affine::{Affine, i64_of};
use super::arithmetic::has_lanes;
use super::code::Code;
use super::expr::{Address, Dag, Expr, Id};
use super::functions::Functions;
use super::lanes::{Class, class};
use super::loops::Writer;

/// Loops, and what each innermost iteration computes.
#[derive(Clone, Debug)]
pub(super) struct Nest {
    /// The loops and expressions.
    pub(super) dag: Dag,
    /// How the values of the innermost loops are combined, if they are.
    pub(super) reduction: Option<Reduction>,
    /// What is stored for each iteration of the loops outside of the reduction.
    pub(super) store: Store,
    /// The first loop whose iterations may be computed side by side.
    pub(super) independent_from: usize,
}

/// Combining the values of the innermost loops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reduction {
    /// How two are combined.
    pub(super) op: BinaryOp,
    /// What combining begins with.
    pub(super) neutral: Id,
    /// The number of loops.
    pub(super) loops: usize,
}

/// Where a value goes.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// The value.
    pub(super) value: Id,
    /// Where it goes.
    pub(super) address: Address,
    /// The element type in memory.
    pub(super) dtype: DType,
    /// It is stored only where this holds.
    pub(super) guard: Option<Id>,
}

/// The addresses that buffers got.
pub(super) type Addresses = [u64];

impl Nest {
    /// A nest that stores a value for each iteration.
    pub(super) fn map(dag: Dag, store: Store) -> Nest {
        Nest { dag, reduction: None, store, independent_from: 0 }
    }

    pub(super) fn num_outer(&self) -> usize {
        self.dag.loops.len() - self.reduction.map_or(0, |reduction| reduction.loops)
    }

    /// Writes the nest.
    pub(super) fn emit(&self, code: &mut Code, functions: &mut Functions, addresses: &Addresses) {
        let mut nest = self.clone();
        let num_outer = nest.num_outer();
        if nest.dag.loops[..num_outer].contains(&0) {
            return;
        }
        if let Some(reduction) = nest.reduction
            && nest.dag.loops.contains(&0)
        {
            nest.store.value = reduction.neutral;
            nest.reduction = None;
            nest.dag.loops.truncate(num_outer);
            let shorten = |affine: &mut Affine| affine.coefficients.truncate(num_outer);
            nest.dag.affines_mut().for_each(shorten);
            shorten(&mut nest.store.address.index);
        }
        if nest.reduction.is_some_and(|reduction| reduction.loops == 0) {
            nest.reduction = None;
        }
        nest.collapse();
        let vector = nest.vector_loop();
        Writer::new(&nest, vector, code, functions, addresses).level(0);
    }

    /// Merges neighbouring loops that run over memory as one would.
    fn collapse(&mut self) {
        let mut l = 0;
        while l + 1 < self.dag.loops.len() {
            let inner = i64_of(self.dag.loops[l + 1]);
            let borders = [self.num_outer(), self.independent_from];
            let mut affines = vec![self.store.address.index.clone()];
            affines.extend(self.dag.affines_mut().map(|affine| affine.clone()));
            let one = !borders.contains(&(l + 1))
                && affines.iter().all(|affine| affine.coefficients[l] == affine.coefficients[l + 1] * inner);
            if !one {
                l += 1;
                continue;
            }
            self.dag.loops[l + 1] *= self.dag.loops[l];
            self.dag.loops.remove(l);
            let remove = |affine: &mut Affine| {
                affine.coefficients.remove(l);
            };
            self.dag.affines_mut().for_each(remove);
            remove(&mut self.store.address.index);
            if self.independent_from > l {
                self.independent_from -= 1;
            }
            if l >= borders[0]
                && let Some(reduction) = &mut self.reduction
            {
                reduction.loops -= 1;
            }
        }
    }

    /// The expressions that the store needs.
    pub(super) fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.dag.nodes.len()];
        let store = &self.store;
        let roots = [Some(store.value), store.address.offset, store.guard];
        roots.into_iter().flatten().for_each(|id| needed[id] = true);
        for id in (0..needed.len()).rev() {
            if needed[id] {
                self.dag.nodes[id].expr.operands().into_iter().for_each(|x| needed[x] = true);
            }
        }
        needed
    }

    /// Which expressions a loop changes.
    pub(super) fn varying(&self, l: usize) -> Vec<bool> {
        let mut varies: Vec<bool> = Vec::with_capacity(self.dag.nodes.len());
        for node in &self.dag.nodes {
            let own = match &node.expr {
                Expr::Index(index) => index.coefficients[l] != 0,
                Expr::Load { address, .. } => address.index.coefficients[l] != 0,
                Expr::Constant(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Compare(..)
                | Expr::Select(..)
                | Expr::Convert(_)
                | Expr::Bitcast(_)
                | Expr::Round(_) => false,
            };
            varies.push(own || node.expr.operands().iter().any(|&x| varies[x]));
        }
        varies
    }

    /// The loop that is computed four iterations at a time: the one in which most loads are of neighbours.
    fn vector_loop(&self) -> Option<usize> {
        let num_outer = self.num_outer();
        let last = self.dag.loops.len().checked_sub(1)?;
        let needed = self.needed();
        let mut candidates = vec![last];
        if num_outer > 0 && num_outer <= last {
            candidates.push(num_outer - 1);
        }
        let scattered = |&l: &usize| -> Option<(usize, usize)> {
            if l < self.independent_from || self.dag.loops[l] < 2 {
                return None;
            }
            let varies = self.varying(l);
            let own = |id: &usize| needed[*id] && varies[*id];
            let class_fits = matches!(class(self.store.dtype), Class::I32 | Class::F32);
            let guarded = self.store.guard.is_some_and(|guard| varies[guard])
                || self.store.address.offset.is_some_and(|offset| varies[offset]);
            if !class_fits || guarded || !(0..varies.len()).filter(own).all(|id| has_lanes(&self.dag, id)) {
                return None;
            }
            let far = (0..varies.len()).filter(own).filter(|&id| match &self.dag.nodes[id].expr {
                Expr::Load { address, .. } => {
                    address.index.coefficients[l] != i64_of(self.dag.nodes[id].dtype.size())
                        || address.offset.is_some_and(|offset| varies[offset])
                }
                Expr::Constant(_)
                | Expr::Index(_)
                | Expr::Unary(..)
                | Expr::Binary(..)
                | Expr::Compare(..)
                | Expr::Select(..)
                | Expr::Convert(_)
                | Expr::Bitcast(_)
                | Expr::Round(_) => false,
            });
            Some((far.count(), usize::from(self.dag.loops[l] < 8)))
        };
        candidates.into_iter().filter_map(|l| Some((scattered(&l)?, l))).min().map(|(_, l)| l)
    }
}
