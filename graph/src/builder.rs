//! Building a function with values that behave like tensors.
//!
//! A [`Value`] is a `Copy` handle; its methods append nodes to the function under construction and return handles of
//! their results. A method panics on a wrong shape, with the rendered error and the caller's line: in Rust model code
//! that is a bug like an index out of bounds. Whatever is fed by files goes through [`Func::push`], which returns errors.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops;
use std::panic::Location as Caller;
use std::sync::Arc;

use crate::dtype::{DType, TensorType};
use crate::entity::{NodeId, RegionId, ValueId};
use crate::func::{Func, Location};
use crate::literal::Literal;
use crate::ops::{Concatenate, Constant, Iota, Op};

/// A function under construction.
struct Graph {
    func: RefCell<Func>,
    /// The region to which nodes are appended.
    region: Cell<RegionId>,
    /// The path of open scopes, joined by dots.
    scope: RefCell<Arc<str>>,
    /// Set while nodes are made on behalf of another node: they all get its location.
    location: RefCell<Option<Location>>,
}

/// A handle to a function under construction; it appends nodes to its current region.
#[derive(Clone, Copy)]
pub struct Builder<'g> {
    graph: &'g Graph,
}

/// A tensor in a function under construction.
///
/// `+ - * /` and unary `-` make nodes, with NumPy's broadcasting made explicit by `broadcast_in_dim` nodes; with an `f64` on
/// the right it becomes a constant of the tensor's element type.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    builder: Builder<'g>,
    id: ValueId,
}

impl Builder<'_> {
    /// Builds a function: `body` adds parameters, computes, and returns the results.
    ///
    /// ```
    /// use lmc_graph::{Builder, DType, TensorType};
    ///
    /// let func = Builder::build("square", |b| {
    ///     let x = b.param("x", TensorType::new(DType::F32, [3]));
    ///     vec![x * x]
    /// });
    /// assert_eq!(func.result_types(), [TensorType::new(DType::F32, [3])]);
    /// ```
    pub fn build(name: &str, body: impl for<'g> FnOnce(Builder<'g>) -> Vec<Value<'g>>) -> Func {
        let func = Func::new(name);
        let graph = Graph {
            region: Cell::new(func.body()),
            func: RefCell::new(func),
            scope: RefCell::new("".into()),
            location: RefCell::new(None),
        };
        let results = body(Builder { graph: &graph }).iter().map(|value| value.id).collect();
        let mut func = graph.func.into_inner();
        func.set_results(func.body(), results);
        func
    }
}

impl<'g> Builder<'g> {
    /// Adds a parameter of the function, also from within a region: it belongs to the function, and the region uses it
    /// as it uses any value around it.
    pub fn param(self, name: &str, ty: TensorType) -> Value<'g> {
        let id = self.graph.func.borrow_mut().add_param(name, ty);
        Value { builder: self, id }
    }

    /// Lets result number `result` take over the memory of parameter `param`: the caller gives the buffer up.
    ///
    /// # Panics
    /// If `param` is not a parameter of the function.
    #[track_caller]
    pub fn donate(self, param: Value<'g>, result: usize) {
        let mut func = self.graph.func.borrow_mut();
        let index = func.param_values().iter().position(|&value| value == param.id);
        let Some(index) = index else {
            drop(func);
            panic!("only a parameter of the function can be donated, found {param}");
        };
        func.params[index].donated_to = Some(result);
    }

    /// Runs `body` inside a scope: nodes made there have `name` appended to their location's path.
    pub fn scope<T>(self, name: &str, body: impl FnOnce() -> T) -> T {
        let outer = self.graph.scope.borrow().clone();
        let path: Arc<str> = if outer.is_empty() { name.into() } else { format!("{outer}.{name}").into() };
        self.graph.scope.replace(path);
        let result = body();
        self.graph.scope.replace(outer);
        result
    }

    /// Runs `body`, all of whose nodes get `location` in place of the caller's.
    pub fn at<T>(self, location: Location, body: impl FnOnce() -> T) -> T {
        let outer = self.graph.location.replace(Some(location));
        let result = body();
        self.graph.location.replace(outer);
        result
    }

    /// The path of open scopes, joined by dots.
    pub fn current_scope(self) -> Arc<str> {
        self.graph.scope.borrow().clone()
    }

    /// The location that a node made by this caller would get.
    #[track_caller]
    pub fn location(self) -> Location {
        if let Some(location) = &*self.graph.location.borrow() {
            return location.clone();
        }
        let caller = Caller::caller();
        Location { scope: self.graph.scope.borrow().clone(), file: caller.file().into(), line: caller.line() }
    }

    /// Appends a node and returns its results.
    ///
    /// # Panics
    /// With the rendered error if a constraint of the op is broken, or if an operand belongs to another function.
    #[track_caller]
    pub fn push(self, op: Op, operands: &[Value<'g>], regions: &[RegionId]) -> Vec<Value<'g>> {
        let location = self.location();
        for &operand in operands {
            self.assert_own(operand);
        }
        let ids: Vec<ValueId> = operands.iter().map(|operand| operand.id).collect();
        let mut func = self.graph.func.borrow_mut();
        let node = match func.push(self.graph.region.get(), op, &ids, regions, location) {
            Ok(node) => node,
            Err(error) => {
                drop(func);
                panic!("{error}");
            }
        };
        func.node(node).results.iter().map(|&id| Value { builder: self, id }).collect()
    }

    #[track_caller]
    fn assert_own(self, value: Value<'g>) {
        assert!(std::ptr::eq(value.builder.graph, self.graph), "{value} is a value of another function");
    }

    /// Appends a node of one result.
    ///
    /// # Panics
    /// As [`Builder::push`], and if the op has another number of results.
    #[track_caller]
    pub fn push1(self, op: Op, operands: &[Value<'g>]) -> Value<'g> {
        let [value] = self.push_n(op, operands);
        value
    }

    /// Appends a node of `N` results.
    ///
    /// # Panics
    /// As [`Builder::push`], and if the op has another number of results.
    #[track_caller]
    pub fn push_n<const N: usize>(self, op: Op, operands: &[Value<'g>]) -> [Value<'g>; N] {
        let results = self.push(op, operands, &[]);
        let found = results.len();
        results.try_into().unwrap_or_else(|_| panic!("the op has {found} results, not {N}"))
    }

    /// Builds a region for a control-flow node: `body` gets its parameters and returns its results, and may use values
    /// around it.
    ///
    /// # Panics
    /// If `body` returns a value of another function.
    #[track_caller]
    pub fn region(self, params: &[TensorType], body: impl FnOnce(&[Value<'g>]) -> Vec<Value<'g>>) -> RegionId {
        let mut func = self.graph.func.borrow_mut();
        let region = func.add_region();
        let params: Vec<Value<'g>> =
            params.iter().map(|ty| Value { builder: self, id: func.add_region_param(region, ty.clone()) }).collect();
        drop(func);
        let outer = self.graph.region.replace(region);
        let results = body(&params);
        self.graph.region.set(outer);
        for &value in &results {
            self.assert_own(value);
        }
        let results = results.iter().map(|value| value.id).collect();
        self.graph.func.borrow_mut().set_results(region, results);
        region
    }

    /// Copies a function's nodes here, with `args` in place of its parameters, and returns its results. Scopes nest.
    ///
    /// # Panics
    /// If the number or types of `args` are not those of the parameters.
    #[track_caller]
    pub fn call(self, func: &Func, args: &[Value<'g>]) -> Vec<Value<'g>> {
        let types: Vec<TensorType> = args.iter().map(Value::ty).collect();
        assert!(types == func.param_types(), "`{}` takes {:?}, found {types:?}", func.name, func.param_types());
        let mut copy = Copier::new(self, func);
        for (&param, &arg) in func.param_values().iter().zip(args) {
            copy.map(param, arg);
        }
        for &node in &func.region(func.body()).nodes {
            copy.node(node);
        }
        func.result_values().iter().map(|&value| copy.get(value)).collect()
    }

    /// `constant`.
    #[track_caller]
    pub fn constant(self, value: Literal) -> Value<'g> {
        self.push1(Op::Constant(Constant { value }), &[])
    }

    /// A scalar `constant`, rounded to the element type.
    #[track_caller]
    pub fn scalar(self, dtype: DType, value: f64) -> Value<'g> {
        self.constant(Literal::from_f64s(TensorType::scalar(dtype), &[value]))
    }

    /// A tensor of equal elements: a scalar `constant`, broadcast.
    #[track_caller]
    pub fn full(self, ty: &TensorType, value: f64) -> Value<'g> {
        self.scalar(ty.dtype, value).broadcast_in_dim(&ty.shape, &[])
    }

    /// `iota`: counts from 0 along `dimension`.
    ///
    /// # Panics
    /// If `ty` does not have the dimension or is of booleans.
    #[track_caller]
    pub fn iota(self, ty: &TensorType, dimension: usize) -> Value<'g> {
        self.push1(Op::Iota(Iota { iota_dimension: dimension, output: ty.clone() }), &[])
    }

    /// `concatenate` along `dimension`.
    ///
    /// # Panics
    /// If there are no operands, or they differ in element type or in shape but for `dimension`.
    #[track_caller]
    pub fn concatenate(self, operands: &[Value<'g>], dimension: usize) -> Value<'g> {
        self.push1(Op::Concatenate(Concatenate { dimension }), operands)
    }

    /// Runs `inspect` on the function as it is now.
    pub fn with_func<T>(self, inspect: impl FnOnce(&Func) -> T) -> T {
        inspect(&self.graph.func.borrow())
    }
}

impl<'g> Value<'g> {
    /// The function under construction that this is a value of.
    pub fn builder(self) -> Builder<'g> {
        self.builder
    }

    /// The id in the function.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The type.
    pub fn ty(&self) -> TensorType {
        self.builder.graph.func.borrow().ty(self.id).clone()
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        self.builder.graph.func.borrow().ty(self.id).dtype
    }

    /// The size of every dimension.
    pub fn shape(self) -> Vec<usize> {
        self.ty().shape
    }

    /// The number of dimensions.
    pub fn rank(self) -> usize {
        self.builder.graph.func.borrow().ty(self.id).rank()
    }

    /// The shape as an array, to be destructured: `let [b, t, c] = x.dims();`
    ///
    /// # Panics
    /// If the rank is not `N`.
    #[track_caller]
    pub fn dims<const N: usize>(self) -> [usize; N] {
        let ty = self.ty();
        <[usize; N]>::try_from(ty.shape.as_slice()).unwrap_or_else(|_| panic!("expected {N} dimensions, found {ty}"))
    }

    /// A tensor of this type with equal elements.
    #[track_caller]
    pub fn full_like(self, value: f64) -> Value<'g> {
        self.builder.full(&self.ty(), value)
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.ty())
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({})", self.graph.func.borrow().name)
    }
}

macro_rules! operators {
    ($($trait:ident, $method:ident, $named:ident;)*) => {$(
        impl<'g> ops::$trait for Value<'g> {
            type Output = Value<'g>;
            #[track_caller]
            fn $method(self, rhs: Value<'g>) -> Value<'g> {
                Value::$named(self, rhs)
            }
        }

        impl<'g> ops::$trait<f64> for Value<'g> {
            type Output = Value<'g>;
            #[track_caller]
            fn $method(self, rhs: f64) -> Value<'g> {
                Value::$named(self, self.full_like(rhs))
            }
        }
    )*};
}

operators! {
    Add, add, add;
    Sub, sub, subtract;
    Mul, mul, multiply;
    Div, div, divide;
}

impl<'g> ops::Neg for Value<'g> {
    type Output = Value<'g>;
    #[track_caller]
    fn neg(self) -> Value<'g> {
        self.negate()
    }
}

/// Copies nodes of one function into another one under construction, replacing values as it goes.
///
/// This is how a pass from graph to graph goes over its input: node by node, with a say in what each becomes.
#[derive(Debug)]
pub struct Copier<'f, 'g> {
    builder: Builder<'g>,
    func: &'f Func,
    values: Vec<Option<Value<'g>>>,
    /// What the scopes of copies stand in.
    within: Option<&'static str>,
}

impl<'f, 'g> Copier<'f, 'g> {
    /// A copier of `func` into `builder`'s function that knows no values yet.
    pub fn new(builder: Builder<'g>, func: &'f Func) -> Copier<'f, 'g> {
        Copier { builder, func, values: vec![None; func.values().count()], within: None }
    }

    /// Lets `new` stand for `old` from now on.
    pub fn map(&mut self, old: ValueId, new: Value<'g>) {
        use crate::entity::Entity;
        self.values[old.index()] = Some(new);
    }

    /// What stands for `old`.
    ///
    /// # Panics
    /// If nothing does: neither was it mapped nor the node that defines it copied.
    pub fn get(&self, old: ValueId) -> Value<'g> {
        self.find(old).unwrap_or_else(|| panic!("{old} of `{}` is used before it is copied", self.func.name))
    }

    /// What stands for `old`, if anything does.
    pub fn find(&self, old: ValueId) -> Option<Value<'g>> {
        use crate::entity::Entity;
        self.values[old.index()]
    }

    /// Nodes copied from now on have their scope in `name(…)`, or as it is with `None`; returns what was set before.
    pub fn scopes_within(&mut self, name: Option<&'static str>) -> Option<&'static str> {
        std::mem::replace(&mut self.within, name)
    }

    /// The location that a copy gets of a node that is at `location`.
    pub fn location(&self, location: &Location) -> Location {
        let scope: Arc<str> = match self.within {
            None => location.scope.clone(),
            Some(name) => format!("{name}({})", location.scope).into(),
        };
        self.nested(Location { scope, ..location.clone() })
    }

    /// Copies a node with its regions and maps its results.
    pub fn node(&mut self, node: NodeId) -> Vec<Value<'g>> {
        let func = self.func;
        let node = func.node(node);
        let operands: Vec<Value<'g>> = node.operands.iter().map(|&value| self.get(value)).collect();
        let regions: Vec<RegionId> = node.regions.iter().map(|&region| self.region(region)).collect();
        let builder = self.builder;
        let location = self.location(&node.location);
        let results = builder.at(location, || builder.push(node.op.clone(), &operands, &regions));
        for (&old, &new) in node.results.iter().zip(&results) {
            self.map(old, new);
        }
        results
    }

    /// Copies a region: its parameters become new ones.
    pub fn region(&mut self, region: RegionId) -> RegionId {
        let types: Vec<TensorType> =
            self.func.region(region).params.iter().map(|&value| self.func.ty(value).clone()).collect();
        let builder = self.builder;
        builder.region(&types, |params| self.inline(region, params))
    }

    /// Copies the nodes of a region here, with `args` in place of its parameters, and returns its results.
    pub fn inline(&mut self, region: RegionId, args: &[Value<'g>]) -> Vec<Value<'g>> {
        let func = self.func;
        let region = func.region(region);
        for (&param, &arg) in region.params.iter().zip(args) {
            self.map(param, arg);
        }
        for &node in &region.nodes {
            self.node(node);
        }
        region.results.iter().map(|&value| self.get(value)).collect()
    }

    /// A copied node's location: its scope below the builder's.
    fn nested(&self, location: Location) -> Location {
        let outer = self.builder.current_scope();
        let scope: Arc<str> = match (&*outer, &*location.scope) {
            ("", _) => location.scope,
            (_, "") => outer,
            (outer, inner) => format!("{outer}.{inner}").into(),
        };
        Location { scope, ..location }
    }
}
