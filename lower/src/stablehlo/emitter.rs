//! The writer of StableHLO text that the rules use: values, lines, blocks.

use std::rc::Rc;

use lmc_graph::{Location, TensorType};

use super::location::Locations;
use super::syntax;
use crate::Options;
use crate::report::Report;
use crate::target::Target;

/// A value of the program being written: its spelling and its type.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) name: Rc<str>,
    pub(super) ty: TensorType,
}

/// Names separated by commas.
pub(super) fn names(values: &[Value]) -> String {
    syntax::joined(values.iter().map(|value| &value.name))
}

/// Types separated by commas.
pub(super) fn types(values: &[Value]) -> String {
    syntax::tensors(values.iter().map(|value| &value.ty))
}

/// Writes lines and keeps what is true of the place where it writes.
pub(super) struct Emitter<'t> {
    pub(super) target: &'t Target,
    pub(super) report: Report,
    /// How often the code being written runs in one execution; `None` inside `while`.
    pub(super) times: Option<u64>,
    /// The row of the attention whose decomposition is being written.
    pub(super) attention: Option<usize>,
    /// The location of the node being written.
    pub(super) location: Location,
    locations: Option<Locations>,
    text: String,
    depth: usize,
    /// Numbers are given once in a function, so that no region's names hide those around it.
    num_values: usize,
    num_arguments: usize,
}

impl<'t> Emitter<'t> {
    pub(super) fn new(target: &'t Target, options: &Options) -> Emitter<'t> {
        Emitter {
            target,
            report: Report { target: target.clone(), rows: Vec::new() },
            times: Some(1),
            attention: None,
            location: Location::unknown(),
            locations: options.locations.then(Locations::default),
            text: String::new(),
            depth: 0,
            num_values: 0,
            num_arguments: 0,
        }
    }

    /// The text written, with the locations it refers to, and the report.
    pub(super) fn finish(self) -> (String, Report) {
        let definitions = self.locations.as_ref().map_or("", Locations::definitions);
        (self.text + definitions, self.report)
    }

    /// Writes a line without a location: the beginning of something that [`Emitter::close`] ends.
    pub(super) fn open(&mut self, line: &str) {
        self.write(line, "");
        self.depth += 1;
    }

    /// Writes a line between two blocks of what was opened.
    pub(super) fn next_block(&mut self, line: &str) {
        self.depth -= 1;
        self.open(line);
    }

    /// Ends what was opened, an op.
    pub(super) fn close(&mut self, line: &str) {
        self.depth -= 1;
        self.line(line);
    }

    /// Ends what was opened, not an op.
    pub(super) fn close_unlocated(&mut self, line: &str) {
        self.depth -= 1;
        self.write(line, "");
    }

    /// Writes an op without results.
    pub(super) fn line(&mut self, line: &str) {
        let suffix = self.locations.as_mut().map(|locations| locations.suffix(&self.location)).unwrap_or_default();
        self.write(line, &suffix);
    }

    /// Writes a line that is not an op.
    pub(super) fn unlocated_line(&mut self, line: &str) {
        self.write(line, "");
    }

    fn write(&mut self, line: &str, suffix: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.extend([line, suffix, "\n"]);
    }

    /// Writes an op of one result: what stands behind `%0 = `.
    pub(super) fn op(&mut self, op: &str, ty: &TensorType) -> Value {
        let (left, mut values) = self.results(std::slice::from_ref(ty));
        self.line(&format!("{left}{op}"));
        values.remove(0)
    }

    /// Writes an op of several results.
    pub(super) fn op_n(&mut self, op: &str, types: &[TensorType]) -> Vec<Value> {
        let (left, values) = self.results(types);
        self.line(&format!("{left}{op}"));
        values
    }

    /// Names for the results of an op: `%0 = ` or `%0:2 = `, and the values.
    pub(super) fn results(&mut self, types: &[TensorType]) -> (String, Vec<Value>) {
        let number = self.num_values;
        self.num_values += 1;
        let value = |name: String, ty: &TensorType| Value { name: name.into(), ty: ty.clone() };
        match types {
            [] => (String::new(), Vec::new()),
            [ty] => (format!("%{number} = "), vec![value(format!("%{number}"), ty)]),
            types => (
                format!("%{number}:{} = ", types.len()),
                types.iter().enumerate().map(|(i, ty)| value(format!("%{number}#{i}"), ty)).collect(),
            ),
        }
    }

    /// Names for the arguments of a block: `%arg0`, `%arg1`, …
    pub(super) fn arguments<'a>(&mut self, types: impl IntoIterator<Item = &'a TensorType>) -> Vec<Value> {
        let argument = |ty: &TensorType| {
            let name = format!("%arg{}", self.num_arguments).into();
            self.num_arguments += 1;
            Value { name, ty: ty.clone() }
        };
        types.into_iter().map(argument).collect()
    }

    /// Writes the label of a block with its arguments: `^bb0(%arg0: tensor<f32>):`.
    pub(super) fn block_label(&mut self, arguments: &[Value]) {
        let arguments = arguments.iter().map(|Value { name, ty }| format!("{name}: {}", syntax::tensor(ty)));
        // A label stands to the left of its block.
        self.depth -= 1;
        self.unlocated_line(&format!("^bb0({}):", syntax::joined(arguments)));
        self.depth += 1;
    }

    /// `stablehlo.return` of a block's values.
    pub(super) fn return_values(&mut self, values: &[Value]) {
        match values {
            [] => self.line("stablehlo.return"),
            values => self.line(&format!("stablehlo.return {} : {}", names(values), types(values))),
        }
    }

    /// ` loc("name")` for a parameter, when locations are asked for.
    pub(super) fn parameter_location(&self, name: &str) -> String {
        match self.locations {
            Some(_) if !name.is_empty() => format!(" loc({})", syntax::string(name)),
            Some(_) | None => String::new(),
        }
    }
}
