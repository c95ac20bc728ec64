//! The groups of a function in the order in which they run, before anything has an address.

use std::collections::HashMap;

use lmc_graph::{DType, Entity, Func, Location, Node, NodeId, Op, RegionId, TensorType, ValueId};

use super::affine::{Affine, i64_of, strides};
use super::expr::{Address, Dag, Expr, Id, Place};
use super::group::{Class, Groups, class};
use super::kernel::Product;
use super::nest::{Nest, Store};
use super::plan::Buffers;
use super::random::Bits;
use super::reduce::Sorting;
use super::{contract, control, elementwise, index, random, reduce, shape};

/// What a group does, one after another.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A loop nest.
    Nest(Nest),
    /// A matrix product.
    Product(Product),
    /// Sorting.
    Sorting(Sorting),
    /// Random bits.
    Bits(Bits),
}

/// A function of the module.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// What it is called: the scope and the op.
    pub(super) name: String,
    /// Where the model made it.
    pub(super) location: Location,
    /// The names of the ops that it computes.
    pub(super) ops: Vec<&'static str>,
    /// Operations of its products.
    pub(super) flops: u64,
    /// The values that it computes, and where they go.
    pub(super) values: Vec<(ValueId, Place)>,
    /// The bytes that it reads and writes, counting a tensor once.
    pub(super) bytes: u64,
    /// What it does.
    pub(super) body: Body,
}

/// What a task does.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Groups of loops.
    Group(Vec<Work>),
    /// Tasks again and again: the global that counts, the number of iterations, and whether they count down.
    Repeat { global: u32, length: usize, reverse: bool, tasks: Vec<Task> },
    /// Tasks as long as a byte is not 0 after the first ones.
    While { condition: Vec<Task>, holds: Place, tasks: Vec<Task> },
    /// The first tasks if a byte is not 0, else the second.
    If { holds: Place, on_true: Vec<Task>, on_false: Vec<Task> },
}

/// A function being scheduled.
pub(super) struct Schedule<'f> {
    /// The function, without fused ops.
    pub(super) func: &'f Func,
    /// Which of its values get memory.
    pub(super) groups: Groups,
    /// The buffers of the module.
    pub(super) buffers: &'f mut Buffers,
    /// Whether values may be written where others were.
    pub(super) reuse: bool,
    /// Where values in memory are.
    places: Vec<Option<Place>>,
    /// Where values will be, of those that are not computed yet.
    homes: HashMap<ValueId, Place>,
    /// Results that the next call takes as parameters.
    state: Vec<ValueId>,
    /// The position of the next group.
    pub(super) position: usize,
    /// The loops that the present position is in; each counts in a global.
    pub(super) depth: u32,
    /// The globals needed.
    pub(super) num_globals: u32,
    tasks: Vec<Task>,
}

impl<'f> Schedule<'f> {
    /// Of a function whose parameters and results have these places.
    pub(super) fn of(
        func: &'f Func,
        buffers: &'f mut Buffers,
        reuse: bool,
        params: &[Place],
        results: &[Place],
    ) -> (Vec<Task>, u32) {
        let groups = Groups::of(func);
        let places = vec![None; func.values().count()];
        let mut schedule = Schedule {
            func,
            groups,
            buffers,
            reuse,
            places,
            homes: HashMap::new(),
            state: Vec::new(),
            position: 0,
            depth: 0,
            num_globals: 0,
            tasks: Vec::new(),
        };
        for (&param, place) in func.param_values().iter().zip(params) {
            schedule.places[param.index()] = Some(place.clone());
        }
        let results: Vec<Target> = results
            .iter()
            .map(|place| Target {
                place: place.clone(),
                replaces: params.iter().position(|param| param == place).map(|i| func.param_values()[i]),
            })
            .collect();
        let values = func.result_values();
        let kept = results.iter().zip(values).filter(|(target, _)| target.replaces.is_some());
        schedule.state = kept.map(|(_, &value)| value).collect();
        schedule.region(func.body(), &results);
        (schedule.tasks, schedule.num_globals)
    }

    /// The tasks of a region whose results go to these places.
    pub(super) fn region(&mut self, region: RegionId, targets: &[Target]) {
        let func = self.func;
        let region = func.region(region);
        self.claim(&region.nodes, &region.results, targets);
        for &node in &region.nodes {
            self.node(node);
        }
        self.deliver(&region.results, targets);
    }

    /// The tasks that `body` makes, apart.
    pub(super) fn apart(&mut self, body: impl FnOnce(&mut Self)) -> Vec<Task> {
        let outer = std::mem::take(&mut self.tasks);
        body(self);
        std::mem::replace(&mut self.tasks, outer)
    }

    /// Lets the nodes that compute results write them where they go, where nobody else is in the way.
    fn claim(&mut self, nodes: &[NodeId], results: &[ValueId], targets: &[Target]) {
        for (i, (&result, target)) in results.iter().zip(targets).enumerate() {
            let inside = self.func.defining_node(result).is_some_and(|node| nodes.contains(&node));
            let first = !results[..i].contains(&result);
            let free = match target.replaces {
                None => true,
                Some(param) => self.reuse && self.groups.may_replace(self.func, param, result),
            };
            if inside && first && free && self.groups.is_stored(result) {
                self.homes.insert(result, target.place.clone());
            }
        }
    }

    /// Copies results that are somewhere else to where they go. What reads a place that is written to goes by way of
    /// another one.
    fn deliver(&mut self, results: &[ValueId], targets: &[Target]) {
        let written: Vec<usize> =
            targets.iter().filter(|target| target.replaces.is_some()).map(|target| target.place.buffer).collect();
        let mut rest: Vec<(ValueId, Place)> = Vec::new();
        for (&result, target) in results.iter().zip(targets) {
            if self.places[result.index()].as_ref() != Some(&target.place) {
                rest.push((result, target.place.clone()));
            }
        }
        // What reads them comes before anything is written to them.
        let (mut direct, mut moves) = (Vec::new(), Vec::new());
        for (result, place) in rest {
            let nest = self.copy(result, &place);
            let reads =
                |expr: &Expr| matches!(expr, Expr::Load { address, .. } if written.contains(&address.place.buffer));
            if !nest.dag.nodes.iter().any(|node| reads(&node.expr)) {
                direct.push((result, place));
                continue;
            }
            let between = Place::of(self.buffers.temporary(self.func.ty(result).num_bytes()));
            let nest = self.copy(result, &between);
            self.task_of(result, vec![Work::Nest(nest)], &[&between]);
            moves.push((result, between, place));
        }
        for (result, place) in direct {
            let nest = self.copy(result, &place);
            self.task_of(result, vec![Work::Nest(nest)], &[&place]);
        }
        for (result, between, place) in moves {
            let ty = self.func.ty(result).clone();
            let nest = self.map(&ty, &place, |e, map| e.load(&between, &ty, map));
            self.task_of(result, vec![Work::Nest(nest)], &[&place]);
        }
    }

    /// A nest that stores a value in a place.
    pub(super) fn copy(&mut self, value: ValueId, place: &Place) -> Nest {
        let ty = self.func.ty(value).clone();
        self.map(&ty, place, |e, map| e.value(value, map))
    }

    /// A nest that stores what `element` makes for every index of a type.
    pub(super) fn map(
        &mut self,
        ty: &TensorType,
        place: &Place,
        element: impl FnOnce(&mut Expressions<'_, 'f>, &[Affine]) -> Id,
    ) -> Nest {
        let (mut e, index) = Expressions::over(self, &ty.shape);
        let value = element(&mut e, &index);
        let address = e.address(place, ty, &index);
        let dag = e.dag;
        Nest::map(dag, Store { value, address, dtype: ty.dtype, guard: None })
    }

    /// Where a value is.
    pub(super) fn place(&self, value: ValueId) -> Place {
        self.places[value.index()].clone().unwrap_or_else(|| panic!("{value} of `{}` has no memory", self.func.name))
    }

    /// Lets a value be at a place.
    pub(super) fn set_place(&mut self, value: ValueId, place: Place) {
        self.places[value.index()] = Some(place);
    }

    /// Where a value that is about to be computed goes.
    pub(super) fn home(&mut self, value: ValueId) -> Place {
        let bytes = self.func.ty(value).num_bytes();
        let buffers = &mut self.buffers;
        let place = self.homes.remove(&value).unwrap_or_else(|| Place::of(buffers.temporary(bytes)));
        self.places[value.index()] = Some(place.clone());
        place
    }

    /// Notes that the next group touches a place.
    pub(super) fn touch(&mut self, place: &Place) {
        self.buffers.touch(place.buffer, self.position);
    }

    /// Adds a task, and goes on to the next position.
    pub(super) fn push(&mut self, task: Task) {
        self.tasks.push(task);
        self.position += 1;
    }

    /// Adds a group that computes, or copies, a value of the function.
    fn task_of(&mut self, value: ValueId, work: Vec<Work>, written: &[&Place]) {
        written.iter().for_each(|place| self.touch(place));
        let func = self.func;
        let node = func.defining_node(value);
        let location = node.map_or_else(Location::unknown, |node| func.node(node).location.clone());
        // A value may be copied to several places.
        let name = format!("{}.{}", task_name(&location, "copy", value), self.position);
        let bytes = 2 * func.ty(value).num_bytes() as u64;
        self.push(Task { name, location, ops: vec!["copy"], flops: 0, values: vec![], bytes, body: Body::Group(work) });
    }

    fn node(&mut self, id: NodeId) {
        let func = self.func;
        let node = func.node(id);
        let Some(&result) = node.results.first() else { return };
        if !self.groups.is_stored(result) {
            return;
        }
        let homes: Vec<Place> = node.results.iter().map(|&result| self.home(result)).collect();
        let Some(work) = self.work(node, &homes) else { return };
        homes.iter().for_each(|home| self.touch(home));
        let sizes = node.operands.iter().chain(&node.results).map(|&value| func.ty(value).num_bytes() as u64);
        let task = Task {
            name: task_name(&node.location, node.op.name(), result),
            location: node.location.clone(),
            ops: self.fused_ops(node),
            flops: contract::flops(func, node),
            values: node.results.iter().copied().zip(homes).collect(),
            bytes: sizes.sum(),
            body: Body::Group(work),
        };
        self.push(task);
    }

    /// The op of a node, and those that are computed together with it.
    fn fused_ops(&self, node: &Node) -> Vec<&'static str> {
        let mut names = vec![node.op.name()];
        for &operand in &node.operands {
            if let Some(inner) = self.func.defining_node(operand)
                && !self.groups.is_stored(operand)
            {
                for name in self.fused_ops(self.func.node(inner)) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
            }
        }
        names
    }

    /// The rule of every op whose results get memory. Those with regions add tasks of their own.
    fn work(&mut self, node: &Node, homes: &[Place]) -> Option<Vec<Work>> {
        let x = &node.operands;
        let work = match &node.op {
            Op::Scan(op) => {
                control::scan(self, node, op, homes);
                return None;
            }
            Op::While => {
                control::while_loop(self, node, homes);
                return None;
            }
            Op::If => {
                control::if_else(self, node, homes);
                return None;
            }
            Op::Concatenate(op) => shape::concatenate(self, op, x, &homes[0]),
            Op::Pad(op) => shape::pad(self, op, node, &homes[0]),
            Op::DynamicUpdateSlice => index::dynamic_update_slice(self, x, &homes[0]),
            Op::Scatter(op) => index::scatter(self, op, x, &homes[0]),
            Op::DotGeneral(op) => contract::dot_general(self, op, node, &homes[0]),
            Op::Reduce(op) => reduce::reduce(self, op, node, &homes[0]),
            Op::Argmax(op) => reduce::argmax(self, op, node, &homes[0]),
            Op::Sort(op) => reduce::sort(self, op, x, homes),
            Op::RngBitGenerator(op) => random::rng_bit_generator(self, op, x[0], homes),
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Clamp
            | Op::Compare(_)
            | Op::Convert(_)
            | Op::BitcastConvert(_)
            | Op::Constant(_)
            | Op::Iota(_)
            | Op::BroadcastInDim(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Reverse(_)
            | Op::Slice(_)
            | Op::DynamicSlice(_)
            | Op::Gather(_) => {
                let ty = self.func.ty(node.results[0]).clone();
                let is_state = self.state.contains(&node.results[0]) && ty.dtype == DType::F32;
                let nest = self.map(&ty, &homes[0], |e, map| {
                    let value = e.rule(node, map);
                    if is_state { e.dag.without_subnormals(value) } else { value }
                });
                vec![Work::Nest(nest)]
            }
            Op::Remat
            | Op::StopGradient
            | Op::OptimizationBarrier
            | Op::ScaledDotProductAttention(_)
            | Op::ScaledDotProductAttentionBackward(_)
            | Op::CachedAttention(_)
            | Op::CacheUpdate => {
                unreachable!("`{}` is not in a flat function", node.op.name())
            }
        };
        Some(work)
    }
}

/// Where a region's result goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The place.
    pub(super) place: Place,
    /// The value that is there until then, and is read in the region.
    pub(super) replaces: Option<ValueId>,
}

/// What a group is called: the scope, the op, and the value's number, which makes it unique in its function.
pub(super) fn task_name(location: &Location, op: &str, value: ValueId) -> String {
    let scope = if location.scope.is_empty() { String::new() } else { format!("{}/", location.scope) };
    format!("{scope}{op}_{}", value.index())
}

/// The expressions of a nest under construction.
pub(super) struct Expressions<'s, 'f> {
    /// The function.
    pub(super) schedule: &'s mut Schedule<'f>,
    /// What there is so far.
    pub(super) dag: Dag,
    known: HashMap<(ValueId, Vec<Affine>), Id>,
}

impl<'s, 'f> Expressions<'s, 'f> {
    /// Over the indices of a shape: with the index of each dimension.
    pub(super) fn over(schedule: &'s mut Schedule<'f>, shape: &[usize]) -> (Expressions<'s, 'f>, Vec<Affine>) {
        // A dimension of size 1 is no loop.
        let loops: Vec<usize> = shape.iter().copied().filter(|&size| size != 1).collect();
        let num_loops = loops.len();
        let mut next = 0;
        let mut of = |&size: &usize| {
            if size == 1 {
                return Affine::constant(num_loops, 0);
            }
            next += 1;
            Affine::variable(num_loops, next - 1)
        };
        let index = shape.iter().map(&mut of).collect();
        (Expressions { schedule, dag: Dag::new(loops), known: HashMap::new() }, index)
    }

    /// The number of loops.
    pub(super) fn num_loops(&self) -> usize {
        self.dag.loops.len()
    }

    /// The type of a value.
    pub(super) fn ty(&self, value: ValueId) -> &'f TensorType {
        self.schedule.func.ty(value)
    }

    /// The address of an element of a tensor at a place.
    pub(super) fn address(&mut self, place: &Place, ty: &TensorType, index: &[Affine]) -> Address {
        self.schedule.touch(place);
        let along: Vec<i64> = strides(&ty.shape).iter().map(|&stride| stride * i64_of(ty.dtype.size())).collect();
        Address { place: place.clone(), index: Affine::dot(self.num_loops(), index, &along), offset: None }
    }

    /// An element of a tensor at a place.
    pub(super) fn load(&mut self, place: &Place, ty: &TensorType, index: &[Affine]) -> Id {
        let address = self.address(place, ty, index);
        self.dag.push(Expr::Load { address, pinned: false }, ty.dtype)
    }

    /// An element of a value.
    pub(super) fn value(&mut self, value: ValueId, index: &[Affine]) -> Id {
        if self.schedule.groups.is_stored(value) {
            let place = self.schedule.place(value);
            return self.load(&place, self.ty(value), index);
        }
        let key = (value, index.to_vec());
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let func = self.schedule.func;
        let node = func.defining_node(value).expect("parameters are in memory");
        let id = self.rule(func.node(node), index);
        self.known.insert(key, id);
        id
    }

    /// The rule of every op that is an expression.
    pub(super) fn rule(&mut self, node: &Node, index: &[Affine]) -> Id {
        let x = &node.operands;
        match &node.op {
            Op::Unary(op) => elementwise::unary(self, *op, x[0], index),
            Op::Binary(op) => elementwise::binary(self, *op, x[0], x[1], index),
            Op::Select => elementwise::select(self, x, index),
            Op::Clamp => elementwise::clamp(self, x, index),
            Op::Compare(op) => elementwise::compare(self, op.direction, x[0], x[1], index),
            Op::Convert(op) => elementwise::convert(self, x[0], op.dtype, index),
            Op::BitcastConvert(op) => elementwise::bitcast_convert(self, x[0], op.dtype, index),
            Op::Constant(op) => shape::constant(self, &op.value, index),
            Op::Iota(op) => shape::iota(self, op, index),
            Op::BroadcastInDim(op) => shape::broadcast_in_dim(self, op, x[0], index),
            Op::Reshape(op) => shape::reshape(self, op, x[0], index),
            Op::Transpose(op) => shape::transpose(self, op, x[0], index),
            Op::Reverse(op) => shape::reverse(self, op, x[0], index),
            Op::Slice(op) => shape::slice(self, op, x[0], index),
            Op::DynamicSlice(op) => index::dynamic_slice(self, op, x, index),
            Op::Gather(op) => index::gather(self, op, x[0], x[1], index),
            Op::DynamicUpdateSlice
            | Op::While
            | Op::If
            | Op::Remat
            | Op::StopGradient
            | Op::OptimizationBarrier
            | Op::Concatenate(_)
            | Op::Pad(_)
            | Op::Scatter(_)
            | Op::DotGeneral(_)
            | Op::Reduce(_)
            | Op::Argmax(_)
            | Op::Sort(_)
            | Op::Scan(_)
            | Op::RngBitGenerator(_)
            | Op::ScaledDotProductAttention(_)
            | Op::ScaledDotProductAttentionBackward(_)
            | Op::CachedAttention(_)
            | Op::CacheUpdate => {
                debug_assert_eq!(class(self.schedule.func, node), Class::Whole);
                unreachable!("results of `{}` are in memory", node.op.name())
            }
        }
    }
}
