//! The pass: forward through a region, keeping what the rules need, then in reverse, accumulating cotangents.

use std::collections::{BTreeMap, HashMap};

use lmc_graph::ops::Op;
use lmc_graph::{Builder, Copier, DType, Func, Location, NodeId, RegionId, TensorType, Value, ValueId};

use crate::activity::Activity;
use crate::error::DiffError;
use crate::rules;

/// The function that returns what `func` returns, then the gradients of result 0, a float scalar, for the parameters
/// `wrt`, in order; zeros for one that the result does not depend on.
///
/// # Errors
/// If result 0 is not a float scalar, if a parameter of `wrt` does not exist or is not of floats, or if the result
/// depends on one through an op without a derivative.
pub fn value_and_grad(func: &Func, wrt: &[usize]) -> Result<Func, DiffError> {
    scalar_loss(func)?;
    Ok(lmc_graph::dce(&differentiate(func, wrt, Seeds::Loss)?))
}

/// The function that returns the gradients of `func`'s result 0, a float scalar, for the parameters `wrt`, in order;
/// zeros for one that the result does not depend on.
///
/// # Errors
/// As [`value_and_grad`].
pub fn grad(func: &Func, wrt: &[usize]) -> Result<Func, DiffError> {
    scalar_loss(func)?;
    let mut func = differentiate(func, wrt, Seeds::Loss)?;
    let num_results = func.result_names.len() - wrt.len();
    let body = func.body();
    let gradients = func.result_values()[num_results..].to_vec();
    let names = func.result_names.split_off(num_results);
    func.set_results(body, gradients);
    func.result_names = names;
    // The results that took over parameters' memory are gone.
    func.params.iter_mut().for_each(|param| param.donated_to = None);
    Ok(lmc_graph::dce(&func))
}

/// The function that takes what `func` takes, then a cotangent named `ct.<result>` for each float result, and returns
/// what `func` returns, then the cotangents of the parameters `wrt`, in order; zeros for one that no result depends on.
///
/// A result without a name is called by its index, as in `ct.0`.
///
/// # Errors
/// If a parameter of `wrt` does not exist or is not of floats, or if a float result depends on one through an op that
/// has no derivative.
pub fn vjp(func: &Func, wrt: &[usize]) -> Result<Func, DiffError> {
    Ok(lmc_graph::dce(&differentiate(func, wrt, Seeds::Params)?))
}

/// Where the cotangents of the function's results come from.
enum Seeds {
    /// 1 for result 0, none for the others.
    Loss,
    /// A parameter for each float result.
    Params,
}

fn scalar_loss(func: &Func) -> Result<(), DiffError> {
    let found = func.result_types();
    match found.first() {
        Some(loss) if loss.rank() == 0 && loss.dtype.is_float() => Ok(()),
        Some(loss) => {
            Err(request(func, format!("result 0, the loss, must be a float scalar such as f32[], found {loss}")))
        }
        None => Err(request(func, "result 0, the loss, must be a float scalar, found no results".into())),
    }
}

fn request(func: &Func, reason: String) -> DiffError {
    DiffError::Request { func: func.name.clone(), reason }
}

fn differentiate(func: &Func, wrt: &[usize], seeds: Seeds) -> Result<Func, DiffError> {
    let types = func.param_types();
    for &index in wrt {
        let Some(ty) = types.get(index) else {
            return Err(request(func, format!("there is no parameter {index}, only {}", types.len())));
        };
        if !ty.dtype.is_float() {
            let name = &func.params[index].name;
            return Err(request(func, format!("parameter {index}, `{name}`, is {ty}: only floats have a gradient")));
        }
    }
    let mut error = None;
    let mut result = Builder::build(&func.name, |builder| {
        build_vjp(builder, func, wrt, seeds).unwrap_or_else(|refused| {
            error = Some(refused);
            Vec::new()
        })
    });
    if let Some(error) = error {
        return Err(error);
    }
    let gradients = wrt.iter().map(|&index| format!("grad.{}", func.params[index].name));
    result.result_names = func.result_names.iter().cloned().chain(gradients).collect();
    Ok(result)
}

fn build_vjp<'g>(builder: Builder<'g>, func: &Func, wrt: &[usize], seeds: Seeds) -> Result<Vec<Value<'g>>, DiffError> {
    let mut args = Vec::new();
    for (param, ty) in func.params.iter().zip(func.param_types()) {
        let arg = builder.param(&param.name, ty);
        if let Some(result) = param.donated_to {
            builder.donate(arg, result);
        }
        args.push(arg);
    }
    let cts: Vec<Option<Value<'g>>> = match seeds {
        Seeds::Loss => {
            let location = Location { scope: format!("{BACKWARD}()").into(), ..Location::unknown() };
            let one = builder.at(location, || builder.full(func.ty(func.result_values()[0]), 1.0));
            let others = std::iter::repeat_n(None, func.result_values().len() - 1);
            std::iter::once(Some(one)).chain(others).collect()
        }
        Seeds::Params => (func.result_types().into_iter().zip(&func.result_names).enumerate())
            .map(|(index, (ty, name))| {
                let name = if name.is_empty() { format!("ct.{index}") } else { format!("ct.{name}") };
                ty.dtype.is_float().then(|| builder.param(&name, ty))
            })
            .collect(),
    };
    let wrt: Vec<ValueId> = wrt.iter().map(|&index| func.param_values()[index]).collect();
    let mut pass = Pass::new(builder, func, &wrt);
    pass.record(func.body(), &args);
    let cts = pass.reverse(func.body(), &cts)?;
    // Read only now: the backward pass may have computed a result on its way.
    let mut results: Vec<Value<'g>> = func.result_values().iter().map(|&value| pass.copy.get(value)).collect();
    results.extend(wrt.iter().map(|&param| pass.cotangent_or_zeros(&cts, param)));
    Ok(results)
}

/// The cotangents of the operands `args` of a call of `func`, from those of its results; what `func` computes is
/// computed here.
///
/// # Panics
/// If `func` has an op without a derivative on the way.
pub(crate) fn vjp_of_call<'g>(
    builder: Builder<'g>,
    func: &Func,
    args: &[Value<'g>],
    cts: &[Option<Value<'g>>],
) -> Vec<Option<Value<'g>>> {
    let mut pass = Pass::new(builder, func, func.param_values());
    pass.record(func.body(), args);
    let found = pass.reverse(func.body(), cts).unwrap_or_else(|error| panic!("{error}"));
    func.param_values().iter().map(|param| found.get(param).copied()).collect()
}

/// What the scope of a node of the backward pass stands in: `vjp(model.norm)` holds what computes the cotangents of the
/// operands of nodes in `model.norm`.
pub const BACKWARD: &str = "vjp";

/// What the scope of a node stands in that the backward pass computes again: `remat(model.norm)` holds copies of nodes
/// of `model.norm`.
pub const RECOMPUTED: &str = "remat";

/// Cotangents of values of the function that is differentiated.
pub(crate) type Cotangents<'g> = BTreeMap<ValueId, Value<'g>>;

/// The differentiation of one function, inside of another one under construction.
pub(crate) struct Pass<'f, 'g> {
    pub(crate) builder: Builder<'g>,
    pub(crate) func: &'f Func,
    /// What stands for each value of `func`: in the forward pass, and where the backward pass computes it again.
    pub(crate) copy: Copier<'f, 'g>,
    activity: Activity,
    /// The carries of the scans on the way, stacked: what each iteration began with.
    saved: HashMap<NodeId, Vec<Value<'g>>>,
}

impl<'f, 'g> Pass<'f, 'g> {
    /// The differentiation of `func` for its values `wrt`, which has recorded nothing yet.
    pub(crate) fn new(builder: Builder<'g>, func: &'f Func, wrt: &[ValueId]) -> Pass<'f, 'g> {
        let activity = Activity::new(func, wrt);
        Pass { builder, func, copy: Copier::new(builder, func), activity, saved: HashMap::new() }
    }

    /// Computes `region` with `args` in place of its parameters, so that [`Pass::reverse`] can follow, and returns its
    /// results.
    pub(crate) fn record(&mut self, region: RegionId, args: &[Value<'g>]) -> Vec<Value<'g>> {
        let region = self.func.region(region);
        for (&param, &arg) in region.params.iter().zip(args) {
            self.copy.map(param, arg);
        }
        for &id in &region.nodes {
            let node = self.func.node(id);
            if let Op::Scan(op) = &node.op
                && node.results.iter().any(|&result| self.is_active(result))
            {
                let saved = rules::control::record_scan(self, op, node);
                self.saved.insert(id, saved);
            } else {
                self.copy.node(id);
            }
        }
        region.results.iter().map(|&value| self.copy.get(value)).collect()
    }

    /// [`Pass::record`] for the backward pass, which computes the region again: scopes of its nodes are in
    /// [`remat(…)`](crate::RECOMPUTED).
    pub(crate) fn record_again(&mut self, region: RegionId, args: &[Value<'g>]) {
        let outer = self.copy.scopes_within(Some(RECOMPUTED));
        self.record(region, args);
        self.copy.scopes_within(outer);
    }

    /// The cotangents of a recorded region's parameters and of what it captures, from those of its results.
    ///
    /// # Errors
    /// If a cotangent arrives at an op without a derivative.
    pub(crate) fn reverse(
        &mut self,
        region: RegionId,
        results: &[Option<Value<'g>>],
    ) -> Result<Cotangents<'g>, DiffError> {
        let (builder, func) = (self.builder, self.func);
        let region = func.region(region);
        let mut cts = Cotangents::new();
        for (&value, &ct) in region.results.iter().zip(results) {
            self.accumulate(&mut cts, value, ct);
        }
        for &id in region.nodes.iter().rev() {
            let node = func.node(id);
            let of_results: Vec<Option<Value<'g>>> = node.results.iter().map(|value| cts.remove(value)).collect();
            if of_results.iter().all(Option::is_none) {
                continue;
            }
            let scope = format!("{BACKWARD}({})", node.location.scope).into();
            let location = Location { scope, ..node.location.clone() };
            builder.at(location, || {
                for (value, ct) in rules::cotangents(self, id, &of_results)? {
                    self.check(id, value, ct);
                    self.accumulate(&mut cts, value, Some(ct));
                }
                Ok(())
            })?;
        }
        Ok(cts)
    }

    /// Adds to the cotangent of `value`, if it needs one; or of its source, if `ct` is of that wider type.
    fn accumulate(&self, cts: &mut Cotangents<'g>, value: ValueId, ct: Option<Value<'g>>) {
        let Some(ct) = ct.filter(|_| self.is_active(value)) else { return };
        let target = if ct.dtype() == self.func.ty(value).dtype { value } else { self.source(value) };
        cts.entry(target).and_modify(|sum| *sum = *sum + ct).or_insert(ct);
    }

    /// Panics unless `ct`, which the rule of `node` returned for `value`, has the type of `value` or of its source.
    fn check(&self, node: NodeId, value: ValueId, ct: Value<'g>) {
        let (expected, found) = (self.func.ty(value), ct.ty());
        if found != *expected && found != expected.with_dtype(self.wanted(value)) {
            let node = self.func.node(node);
            panic!("the rule of {} ({}) returned {found} for {value}: {expected}", node.op.name(), node.location);
        }
    }

    /// The cotangent of `value`, or zeros, for a place where a tensor is owed.
    pub(crate) fn cotangent_or_zeros(&self, cts: &Cotangents<'g>, value: ValueId) -> Value<'g> {
        cts.get(&value).copied().unwrap_or_else(|| self.builder.full(self.func.ty(value), 0.0))
    }

    /// Whether `value` needs a cotangent.
    pub(crate) fn is_active(&self, value: ValueId) -> bool {
        self.activity.is_active(value)
    }

    /// The operand of the `convert` that made `value` from a wider float, and so on upwards; else `value` itself.
    ///
    /// A cotangent of the source is the same as one of `value`, only better: it is not rounded to the narrow type. So a
    /// rule may return a cotangent of either type.
    fn source(&self, value: ValueId) -> ValueId {
        let (func, mut source) = (self.func, value);
        while let Some(node) = func.defining_node(source).map(|node| func.node(node))
            && let (Op::Convert(_), &[operand]) = (&node.op, &node.operands[..])
            && func.ty(operand).dtype.is_float()
            && func.ty(operand).dtype.size() > func.ty(source).dtype.size()
        {
            source = operand;
        }
        source
    }

    /// The element type in which a cotangent of `value` is most welcome: that of its source.
    pub(crate) fn wanted(&self, value: ValueId) -> DType {
        self.func.ty(self.source(value)).dtype
    }

    /// The values around `region` that may get a cotangent from it, as a first guess.
    pub(crate) fn capture_sources(&self, region: RegionId) -> Vec<ValueId> {
        let captures = self.func.captures(region).into_iter();
        let mut sources: Vec<ValueId> =
            captures.filter(|&value| self.is_active(value)).map(|value| self.source(value)).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    /// The carries that [`Pass::record`] kept of a scan, stacked.
    pub(crate) fn saved_carries(&self, scan: NodeId) -> Vec<Value<'g>> {
        self.saved[&scan].clone()
    }

    /// The types of these values.
    pub(crate) fn types(&self, values: &[ValueId]) -> Vec<TensorType> {
        values.iter().map(|&value| self.func.ty(value).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, Func, Literal, TensorType, Value, eval, text, verify};

    use super::{grad, value_and_grad, vjp};

    fn f32(shape: &[usize]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    /// `x : f32[3]`, `steps : i32[]`, `w : f32[3]` to a loss, an integer and a vector.
    fn three_results() -> Func {
        let mut func = Builder::build("three", |b| {
            let (x, steps, w) =
                (b.param("x", f32(&[3])), b.param("steps", TensorType::scalar(DType::I32)), b.param("w", f32(&[3])));
            let y = b.scope("layer", || x * w);
            b.donate(w, 2);
            vec![y.sum(&[0]), steps + 1.0, y]
        });
        func.result_names = ["loss", "", "y"].map(String::from).to_vec();
        func
    }

    #[test]
    fn results_and_parameters_keep_their_names() {
        let names = |func: &Func| -> (Vec<String>, Vec<String>) {
            verify(func).unwrap_or_else(|error| panic!("{error}"));
            (func.params.iter().map(|param| param.name.clone()).collect(), func.result_names.clone())
        };
        let func = three_results();
        let words = |words: &[&str]| -> Vec<String> { words.iter().map(ToString::to_string).collect() };
        let both = value_and_grad(&func, &[2, 0]).expect("all have derivatives");
        assert_eq!(names(&both), (words(&["x", "steps", "w"]), words(&["loss", "", "y", "grad.w", "grad.x"])));
        assert_eq!(both.params[2].donated_to, Some(2));
        let only = grad(&func, &[2, 0]).expect("all have derivatives");
        assert_eq!(names(&only), (words(&["x", "steps", "w"]), words(&["grad.w", "grad.x"])));
        assert_eq!(only.params[2].donated_to, None);
        let pull = vjp(&func, &[0]).expect("all have derivatives");
        let params = words(&["x", "steps", "w", "ct.loss", "ct.y"]);
        assert_eq!(names(&pull), (params, words(&["loss", "", "y", "grad.x"])));
    }

    /// Of a node in every kind of region: the scopes of what the forward pass, its repetition and the backward pass do.
    #[test]
    fn what_is_computed_again_says_so() {
        let func = Builder::build("f", |b| {
            let x = b.param("x", f32(&[3]));
            let in_remat = b.remat(|| vec![b.scope("remat_layer", || x.tanh())])[0];
            let scanned = b.scan(&[in_remat], &[], 2, |c, _| (vec![b.scope("scan_layer", || c[0].tanh())], vec![]));
            let pred = b.scope("pred", || scanned.carries[0].sum(&[0]).is_finite());
            let y = b.if_else(pred, || vec![b.scope("if_layer", || scanned.carries[0].tanh())], || vec![x]);
            vec![y[0].sum(&[0])]
        });
        let gradient = grad(&func, &[0]).expect("all have derivatives");
        let mut scopes: Vec<String> = (gradient.walk(gradient.body()).into_iter())
            .filter(|&node| gradient.node(node).op.name() == "tanh")
            .map(|node| gradient.node(node).location.scope.to_string())
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        let expected = ["remat(if_layer)", "remat(remat_layer)", "remat(scan_layer)", "remat_layer", "scan_layer"];
        assert_eq!(scopes, expected, "{gradient}");
    }

    #[test]
    fn a_vjp_multiplies_with_the_cotangents() {
        let pull = vjp(&three_results(), &[0, 2]).expect("all have derivatives");
        let vector = |elements: [f32; 3]| Literal::new([3], &elements);
        let args = [
            vector([1.0, 2.0, 3.0]),
            Literal::scalar(4_i32),
            vector([5.0, 6.0, 7.0]),
            Literal::scalar(10_f32),
            vector([0.0, 1.0, 2.0]),
        ];
        let results = eval(&pull, &args).expect("the arguments fit");
        assert_eq!(results[3..], [vector([50.0, 66.0, 84.0]), vector([10.0, 22.0, 36.0])]);
    }

    #[test]
    fn backward_nodes_have_the_location_of_their_forward_nodes() {
        let func = grad(&three_results(), &[0]).expect("all have derivatives");
        let printed = text::print(&func);
        let nodes = func.walk(func.body()).into_iter().map(|node| func.node(node));
        let multiply: Vec<String> =
            nodes.filter(|node| node.op.name() == "multiply").map(|node| node.location.to_string()).collect();
        let [location] = &multiply[..] else { panic!("one product:\n{printed}") };
        assert!(location.contains("engine.rs:") && location.ends_with(" in vjp(layer)"), "{location}");
    }

    #[test]
    fn only_what_depends_on_the_parameters_is_differentiated() {
        // A `while` that no cotangent reaches, or that comes after a `stop_gradient`, is no obstacle.
        let func = Builder::build("detached", |b| {
            let (x, y) = (b.param("x", f32(&[])), b.param("y", f32(&[])));
            let double = |z| b.while_loop(&[z], |z| z[0].less(z[0].full_like(9.0)), |z| vec![z[0] * 2.0])[0];
            vec![x * double(y) + x * double(x.stop_gradient()), double(x)]
        });
        grad(&func, &[0]).expect("no cotangent reaches a `while`");
        assert!(grad(&func, &[1]).is_err());
    }

    #[test]
    fn refusals_come_out_of_regions() {
        type Body = for<'g> fn(Builder<'g>, Value<'g>) -> Vec<Value<'g>>;
        fn double<'g>(x: Value<'g>) -> Value<'g> {
            x.builder().while_loop(&[x], |x| x[0].less(x[0].full_like(9.0)), |x| vec![x[0] * 2.0])[0]
        }
        let bodies: [Body; 3] = [
            |b, x| b.scan(&[x], &[], 3, |h, _| (vec![double(h[0])], vec![])).carries,
            |b, x| b.if_else(x.greater(x * x), || vec![x], || vec![double(x)]),
            |b, x| b.remat(|| vec![double(x)]),
        ];
        for body in bodies {
            let func = Builder::build("nested", |b| body(b, b.param("x", f32(&[]))));
            let error = grad(&func, &[0]).expect_err("a while has no derivative").to_string();
            assert!(error.starts_with("error: while: "), "{error}");
        }
    }

    #[test]
    fn refusals_say_where_and_why() {
        let line = line!() + 3;
        let func = Builder::build("loop", |b| {
            let x = b.param("x", f32(&[]));
            let y = b.scope("model", || b.while_loop(&[x], |x| x[0].less(x[0].full_like(9.0)), |x| vec![x[0] * 2.0]));
            vec![y[0]]
        });
        let error = grad(&func, &[0]).expect_err("a while has no derivative").to_string();
        let file = file!();
        assert_eq!(
            error,
            format!(
                "error: while: reverse-mode differentiation needs a loop of known length: use `scan`\n  \
                 --> {file}:{line} in model\n > | while : (f32[]) -> (f32[])"
            )
        );
        let func = three_results();
        type Differentiate = fn(&Func) -> Result<Func, crate::DiffError>;
        let cases: [(Differentiate, &str); 2] = [
            (|func| grad(func, &[1]), "parameter 1, `steps`, is i32[]: only floats have a gradient"),
            (|func| vjp(func, &[0, 7]), "there is no parameter 7, only 3"),
        ];
        for (differentiate, reason) in cases {
            let error = differentiate(&func).expect_err("the request does not fit").to_string();
            assert_eq!(error, format!("error: cannot differentiate `three`: {reason}"));
        }
        type Loss = fn(Value<'_>) -> Vec<Value<'_>>;
        let losses: [(Loss, &str); 3] = [
            (|x| vec![x], "result 0, the loss, must be a float scalar such as f32[], found f32[3]"),
            (
                |x| vec![x.argmax(0, DType::I32)],
                "result 0, the loss, must be a float scalar such as f32[], found i32[]",
            ),
            (|_| vec![], "result 0, the loss, must be a float scalar, found no results"),
        ];
        for (loss, reason) in losses {
            let func = Builder::build("loss", |b| loss(b.param("x", f32(&[3]))));
            let error = value_and_grad(&func, &[0]).expect_err("the loss does not fit").to_string();
            assert_eq!(error, format!("error: cannot differentiate `loss`: {reason}"));
        }
    }
}
