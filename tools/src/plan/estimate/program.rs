//! The program that lowering makes, read from its StableHLO: ops, what they read, what they make, and where the model
//! made them. It is read from the text, so that whatever form lowering chooses for a target is what is estimated.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lmc_graph::{DType, TensorType};

/// A value of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Value(u32);

impl Value {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A module of StableHLO with one function.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// The type of every value.
    pub(super) types: Vec<TensorType>,
    pub(super) params: Vec<Param>,
    pub(super) body: Block,
    /// What barriers take, which has a buffer for that.
    pub(super) held: HashSet<Value>,
}

/// A parameter of the function.
#[derive(Debug)]
pub(super) struct Param {
    pub(super) value: Value,
    /// The result that may take over its memory.
    pub(super) donated_to: Option<usize>,
}

/// Ops in order, and what they return.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) ops: Vec<Op>,
    pub(super) results: Vec<Value>,
}

/// An op.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// Without the dialect: `dot_general`.
    pub(super) name: Arc<str>,
    /// The rest of its line, with `%` for each operand: equal ops have equal ones.
    pub(super) attributes: Arc<str>,
    /// What it reads, also inside of regions other than a loop's.
    pub(super) operands: Vec<Value>,
    pub(super) results: Vec<Value>,
    /// The scope in the model.
    pub(super) scope: Arc<str>,
    /// The file and line of the model.
    pub(super) line: Arc<str>,
    /// The body of a `while`.
    pub(super) body: Option<Box<Loop>>,
    /// What must be there before it runs, though it does not read it.
    pub(super) after: Vec<Value>,
}

/// The body of a loop; it may use values around it.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub(super) params: Vec<Value>,
    pub(super) block: Block,
}

impl Program {
    pub(super) fn ty(&self, value: Value) -> &TensorType {
        &self.types[value.index()]
    }

    pub(super) fn bytes(&self, value: Value) -> u64 {
        self.ty(value).num_bytes() as u64
    }

    pub(super) fn add(&mut self, ty: TensorType) -> Value {
        let value = Value(u32::try_from(self.types.len()).expect("a program of less than 2^32 values"));
        self.types.push(ty);
        value
    }

    /// Reads the text that `lower` writes.
    ///
    /// # Errors
    /// The line that is not understood.
    pub(super) fn parse(text: &str) -> Result<Program, String> {
        let mut reader = Reader { program: Program::default(), names: HashMap::new(), locations: locations(text) };
        let mut lines = text.lines().map(str::trim as fn(&str) -> &str);
        while let Some(line) = lines.next() {
            if !line.starts_with("func.func") {
                continue;
            }
            let mut line = line;
            loop {
                reader.params(line)?;
                if line.ends_with('{') {
                    break;
                }
                line = lines.next().ok_or("the function has no body")?;
            }
            reader.program.body = reader.block(&mut lines)?;
            return Ok(reader.program);
        }
        Err("there is no function".to_owned())
    }
}

/// `#loc3` and the scope and the line of the model behind it.
fn locations(text: &str) -> HashMap<&str, (Arc<str>, Arc<str>)> {
    let definitions = text.lines().filter_map(|line| line.strip_prefix("#loc")?.split_once(" = loc("));
    definitions
        .map(|(number, place)| {
            // Of `"scope"("file":line:0)` both, of `"file":line:0` the line alone.
            let (scope, rest) = match place.strip_prefix('"').and_then(|place| place.split_once('"')) {
                Some((scope, rest)) if !rest.starts_with(':') => (scope, rest),
                Some(_) | None => ("", place),
            };
            let mut parts = rest.trim_start_matches('(').trim_start_matches('"').splitn(3, [':']);
            let (file, line) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let file = file.trim_end_matches('"');
            let line = if line.is_empty() { String::new() } else { format!("{file}:{line}") };
            (number, (scope.into(), line.into()))
        })
        .collect()
}

struct Reader<'t> {
    program: Program,
    names: HashMap<String, Value>,
    locations: HashMap<&'t str, (Arc<str>, Arc<str>)>,
}

type Lines<'t, 'i> = &'i mut std::iter::Map<std::str::Lines<'t>, fn(&str) -> &str>;

impl<'t> Reader<'t> {
    /// The parameters that are declared in a line.
    fn params(&mut self, line: &'t str) -> Result<(), String> {
        for declaration in line.split("%arg").skip(1) {
            let (number, rest) = declaration.split_once(": tensor<").ok_or_else(|| unknown(line))?;
            let (ty, rest) = rest.split_once('>').ok_or_else(|| unknown(line))?;
            let value = self.program.add(tensor(ty)?);
            let after = |mark: &str| rest.split_once(mark).map(|(_, after)| after);
            let donated_to = after("tf.aliasing_output = ").and_then(|number| number.split(' ').next()?.parse().ok());
            self.program.params.push(Param { value, donated_to });
            self.names.insert(format!("%arg{number}"), value);
        }
        Ok(())
    }

    /// The ops up to the line that returns.
    fn block(&mut self, lines: Lines<'t, '_>) -> Result<Block, String> {
        let mut block = Block::default();
        while let Some(line) = lines.next() {
            if let Some(returned) = line.strip_prefix("return").or_else(|| line.strip_prefix("stablehlo.return")) {
                let names = returned.split(" : ").next().unwrap_or("");
                block.results = self.operands(names);
                return Ok(block);
            }
            if let Some(op) = self.op(line, lines)? {
                block.ops.push(op);
            }
        }
        Err("a region does not return".to_owned())
    }

    fn op(&mut self, line: &'t str, lines: Lines<'t, '_>) -> Result<Option<Op>, String> {
        let (left, right) = match line.split_once(" = ") {
            Some((left, right)) if left.starts_with('%') => (left, right),
            Some(_) | None => ("", line),
        };
        let Some(rest) = right.trim_start_matches('"').strip_prefix("stablehlo.") else { return Ok(None) };
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, rest) = (&rest[..end], rest[end..].trim_start_matches('"'));
        let (mut rest, mut place) = split_location(rest);
        if name == "while" {
            return self.while_loop(left, rest, place, lines).map(Some);
        }
        let mut inside = String::new();
        let whole;
        if rest.ends_with("({") {
            // The regions of a reduction, a scatter or a branch: what they use of the values around.
            let mut depth = 1;
            let mut last = "";
            while depth > 0 {
                let line = lines.next().ok_or_else(|| unknown(line))?;
                inside.push_str(line);
                inside.push('\n');
                depth -= usize::from(line.starts_with("})") || line.starts_with("}, {"));
                depth += usize::from(line.ends_with("({") || line.starts_with("}, {"));
                last = line;
            }
            let (end, location) = split_location(last);
            whole = format!("{rest}{end}");
            (rest, place) = (&whole, location);
        }
        let mut operands = self.operands(rest.split("<{").next().unwrap_or(rest));
        for captured in self.operands(&inside) {
            if !operands.contains(&captured) {
                operands.push(captured);
            }
        }
        let types = result_types(rest)?;
        let results = self.results(left, types, line)?;
        let attributes = format!("{}{inside}", without_names(rest)).into();
        Ok(Some(self.made(name, attributes, operands, results, place)))
    }

    /// `while(%arg3 = %0, ..) : types`, then the condition and the body.
    fn while_loop(
        &mut self,
        left: &'t str,
        rest: &str,
        place: Option<&str>,
        lines: Lines<'t, '_>,
    ) -> Result<Op, String> {
        let bindings = rest.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inner, _)| inner);
        let (mut operands, mut params) = (Vec::new(), Vec::new());
        for binding in bindings.split(", ") {
            let (param, init) = binding.split_once(" = ").ok_or_else(|| unknown(binding))?;
            let init = *self.names.get(init).ok_or_else(|| unknown(binding))?;
            let ty = self.program.ty(init).clone();
            let value = self.program.add(ty);
            self.names.insert(param.to_owned(), value);
            operands.push(init);
            params.push(value);
        }
        let types = operands.iter().map(|&init| self.program.ty(init).clone()).collect();
        lines.next(); // cond {
        self.block(lines)?;
        lines.next(); // } do {
        let block = self.block(lines)?;
        let (_, location) = split_location(lines.next().unwrap_or(""));
        let results = self.results(left, types, left)?;
        let mut op = self.made("while", "".into(), operands, results, place.or(location));
        op.body = Some(Box::new(Loop { params, block }));
        Ok(op)
    }

    fn made(
        &self,
        name: &str,
        attributes: Arc<str>,
        operands: Vec<Value>,
        results: Vec<Value>,
        place: Option<&str>,
    ) -> Op {
        let (scope, line) = place.and_then(|number| self.locations.get(number)).cloned().unwrap_or_default();
        Op { name: name.into(), attributes, operands, results, scope, line, body: None, after: Vec::new() }
    }

    /// The known values that a text names, each time.
    fn operands(&self, text: &str) -> Vec<Value> {
        let names = text.split('%').skip(1);
        let name = |rest: &str| {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '#' || c == '_')).unwrap_or(rest.len());
            self.names.get(&format!("%{}", &rest[..end])).copied()
        };
        names.filter_map(name).collect()
    }

    /// Gives `%3`, `%3:2` or `%3, %4` their values.
    fn results(&mut self, left: &str, types: Vec<TensorType>, line: &str) -> Result<Vec<Value>, String> {
        let names: Vec<String> = match left.split_once(':') {
            Some((name, count)) => {
                let count: usize = count.parse().map_err(|_| unknown(line))?;
                (0..count).map(|index| format!("{name}#{index}")).collect()
            }
            None if left.is_empty() => Vec::new(),
            None => left.split(", ").map(str::to_owned).collect(),
        };
        // The pretty form of a `select` or a `compare` lists its operands' types too.
        let skipped = types.len().checked_sub(names.len()).ok_or_else(|| unknown(line))?;
        let values: Vec<Value> = types.into_iter().skip(skipped).map(|ty| self.program.add(ty)).collect();
        self.names.extend(names.into_iter().zip(values.iter().copied()));
        Ok(values)
    }
}

fn unknown(line: &str) -> String {
    format!("cannot read `{}`", line.chars().take(120).collect::<String>())
}

/// A line without its ` loc(#loc3)`, and the `3`.
fn split_location(line: &str) -> (&str, Option<&str>) {
    match line.rsplit_once(" loc(#loc") {
        Some((rest, number)) => (rest, number.strip_suffix(')')),
        None => (line, None),
    }
}

/// The types behind the last ` : `, or those behind its arrow.
fn result_types(rest: &str) -> Result<Vec<TensorType>, String> {
    let Some((_, signature)) = rest.rsplit_once(" : ") else { return Ok(Vec::new()) };
    let results = signature.rsplit_once("->").map_or(signature, |(_, results)| results);
    results.split("tensor<").skip(1).map(|ty| tensor(ty.split('>').next().unwrap_or(""))).collect()
}

/// `8x256xf32`.
fn tensor(text: &str) -> Result<TensorType, String> {
    let mut parts: Vec<&str> = text.split('x').collect();
    let dtype: DType = parts.pop().unwrap_or("").parse().map_err(|_| unknown(text))?;
    let shape: Vec<usize> =
        parts.iter().map(|size| size.parse()).collect::<Result<_, _>>().map_err(|_| unknown(text))?;
    Ok(TensorType::new(dtype, shape))
}

/// A text with `%` in place of every name of a value.
fn without_names(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut name = false;
    for c in text.chars() {
        name = match c {
            '%' => true,
            c => name && (c.is_ascii_alphanumeric() || c == '#' || c == '_'),
        };
        if c == '%' || !name {
            out.push(c);
        }
    }
    out
}
