//! The ops of StableHLO text as lmc writes it: one line an op, locations as aliases at the end.

use std::collections::HashMap;

use super::listing::Entry;
use crate::inspect::place::Place;

/// A location: scope, file and line.
type Located<'t> = (&'t str, &'t str, u32);

/// The ops of the text, constants and returns left out.
pub(super) fn of_stablehlo(text: &str) -> Vec<Entry> {
    let locations = locations(text);
    let mut reader = Reader { locations, ..Reader::default() };
    text.lines().for_each(|line| reader.line(line));
    reader.entries
}

/// The aliases at the end: `#loc3 = loc("scope"("file":12:0))`.
fn locations(text: &str) -> HashMap<&str, Located<'_>> {
    let mut found = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("#loc")) {
        let Some((alias, rest)) = line.split_once(" = loc(") else { continue };
        let quoted: Vec<&str> = rest.split('"').collect();
        let place = |after: &str| after.trim_start_matches(':').split(':').next().and_then(|line| line.parse().ok());
        let located = match quoted[..] {
            ["", scope, "(", file, after] => (scope, file, place(after).unwrap_or(0)),
            ["", file, after] if after.starts_with(':') => ("", file, place(after).unwrap_or(0)),
            ["", scope, _] => (scope, "", 0),
            _ => continue,
        };
        found.insert(alias, located);
    }
    found
}

#[derive(Default)]
struct Reader<'t> {
    locations: HashMap<&'t str, Located<'t>>,
    entries: Vec<Entry>,
    /// What defines a value: an entry, or what a block's argument stands for.
    values: HashMap<&'t str, usize>,
    /// The numbers that scalar constants hold.
    constants: HashMap<&'t str, f64>,
    /// Ops whose blocks are open.
    open: Vec<usize>,
}

impl<'t> Reader<'t> {
    fn line(&mut self, line: &'t str) {
        let line = line.trim();
        if line.starts_with('}') {
            // `} do {` goes on; `} loc(#loc1)` ends an op, and tells where it was.
            if !line.ends_with('{')
                && let Some(op) = self.open.pop()
            {
                self.locate(op, line);
            }
            return;
        }
        let Some((left, right)) = line.split_once(" = ").filter(|_| line.starts_with('%')) else { return };
        let name = left.split(':').next().unwrap_or(left);
        let op = right.trim_start_matches('"').split([' ', '(', '"']).next().unwrap_or_default();
        let op = op.strip_prefix("stablehlo.").unwrap_or(op);
        if op == "constant" {
            let value = right.split_once("dense<").and_then(|(_, rest)| rest.split('>').next()?.parse().ok());
            self.constants.extend(value.map(|value| (name, value)));
            return;
        }
        let (body, types) = right.rsplit_once(" : ").unwrap_or((right, ""));
        let types = types.split(" loc(").next().unwrap_or(types).trim();
        let mut operands: Vec<usize> = values_in(body).filter_map(|value| self.values.get(value).copied()).collect();
        operands.sort_unstable();
        operands.dedup();
        self.loop_length(op, body);
        let result = types.rsplit_once("-> ").map_or(types, |(_, result)| result).trim_end_matches(" ({").trim();
        let result = match op {
            "while" => types.trim_end_matches('{').trim(),
            // Of operands in a row, a selection's last is of the result's type.
            _ if !types.contains("->") => result.rsplit(", tensor").next().map_or(result, |last| {
                if last.len() < result.len() { &result[result.len() - last.len() - "tensor".len()..] } else { result }
            }),
            _ => result,
        };
        let elements = elements(result);
        let moved = tensors(types).map(bytes).sum::<f64>();
        let at = self.entries.len();
        self.entries.push(Entry {
            name: left.to_owned(),
            op: op.to_owned(),
            place: Place::of(""),
            ty: result.chars().take(160).collect(),
            flops: flops(op, body, types, elements),
            bytes: if ["while", "reshape", "optimization_barrier"].contains(&op) { 0.0 } else { moved },
            times: self.open.last().map_or(1.0, |&op| self.entries[op].times),
            file: String::new(),
            line: 0,
            parent: self.open.last().copied(),
            operands,
            text: line.split(" loc(").next().unwrap_or(line).chars().take(240).collect(),
        });
        self.values.insert(name, at);
        if op == "while" {
            // `%arg5 = %3`: an argument stands for what it begins with.
            let pairs: Vec<(&str, &str)> =
                right.split(['(', ',', ')']).filter_map(|pair| pair.trim().split_once(" = ")).collect();
            for (argument, init) in pairs {
                if let Some(&source) = self.values.get(init.split('#').next().unwrap_or(init)) {
                    self.values.insert(argument, source);
                }
            }
        }
        let opens = line.ends_with('{') || op == "while";
        match opens {
            true => self.open.push(at),
            false => self.locate(at, line),
        }
    }

    /// Gives an op the location that stands at the end of a line.
    fn locate(&mut self, op: usize, line: &str) {
        let alias = line.rsplit_once(" loc(").map(|(_, alias)| alias.trim_end_matches(')'));
        if let Some(&(scope, file, number)) = alias.and_then(|alias| self.locations.get(alias)) {
            let entry = &mut self.entries[op];
            (entry.place, entry.file, entry.line) = (Place::of(scope), file.to_owned(), number);
        }
    }

    /// A loop that counts ends at the constant that its condition compares with.
    fn loop_length(&mut self, op: &str, body: &str) {
        let Some(&around) = self.open.last() else { return };
        if op != "compare" || !body.contains("compare LT") || self.entries[around].op != "while" {
            return;
        }
        let is_first = self.entries.len() == around + 1;
        let limit = values_in(body).filter_map(|value| self.constants.get(value)).last().copied();
        if let Some(limit) = limit.filter(|_| is_first) {
            self.entries[around].times *= limit;
        }
    }
}

/// The values that a text names, `%3` of `%3#1`.
fn values_in(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('%').map(|(at, _)| {
        let rest = &text[at..];
        let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(rest.len(), |end| end + 1);
        &rest[..end]
    })
}

/// The types in a text.
fn tensors(text: &str) -> impl Iterator<Item = &str> {
    text.split("tensor<").skip(1).filter_map(|rest| rest.split('>').next())
}

/// Sizes and element type: `4x8xf32`.
fn parts(ty: &str) -> (Vec<f64>, &str) {
    let mut sizes: Vec<f64> = Vec::new();
    let mut rest = ty;
    while let Some((size, after)) = rest.split_once('x')
        && let Ok(size) = size.parse()
    {
        sizes.push(size);
        rest = after;
    }
    (sizes, rest)
}

fn bytes(ty: &str) -> f64 {
    let (sizes, dtype) = parts(ty);
    let bits: f64 = dtype.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(8.0);
    sizes.iter().product::<f64>() * (bits / 8.0).max(1.0)
}

/// The elements of the first type in a text.
fn elements(text: &str) -> f64 {
    tensors(text).next().map_or(0.0, |ty| parts(ty).0.iter().product())
}

/// Operations of an op, counted as those of HLO.
fn flops(op: &str, body: &str, types: &str, elements: f64) -> f64 {
    match op {
        "dot_general" => {
            let lhs = tensors(types).next().map_or(Vec::new(), |ty| parts(ty).0);
            let summed = body.split_once("contracting_dims = [").and_then(|(_, rest)| rest.split(']').next());
            let summed = summed.unwrap_or_default().split(',').filter_map(|d| d.trim().parse::<usize>().ok());
            2.0 * elements * summed.map(|d| lhs.get(d).copied().unwrap_or(1.0)).product::<f64>()
        }
        "reduce" => {
            let operand = tensors(types).next().map_or(0.0, |ty| parts(ty).0.iter().product());
            (operand - elements).max(0.0)
        }
        "abs"
        | "add"
        | "and"
        | "bitcast_convert"
        | "ceil"
        | "clamp"
        | "compare"
        | "convert"
        | "divide"
        | "floor"
        | "is_finite"
        | "maximum"
        | "minimum"
        | "multiply"
        | "negate"
        | "not"
        | "or"
        | "remainder"
        | "round_nearest_even"
        | "select"
        | "shift_left"
        | "shift_right_arithmetic"
        | "shift_right_logical"
        | "sign"
        | "subtract"
        | "xor" => elements,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, DType, TensorType};
    use lmc_lower::{Target, lower};

    use super::*;

    #[test]
    fn ops_are_read_with_their_places() {
        let ty = TensorType::new(DType::F32, [4, 8]);
        let func = Builder::build("f", |b| {
            let (x, w) = (b.param("x", ty), b.param("w", TensorType::new(DType::F32, [8, 8])));
            let y = b.scope("loop", || {
                b.scan(&[x], &[], 3, |c, _| (vec![b.scope("fc", || c[0].dot(w)).tanh()], vec![])).carries[0]
            });
            vec![b.scope("out", || (y * y).sum(&[0, 1]))]
        });
        let entries = of_stablehlo(&lower(&func, &Target::generic()).text);
        let found =
            |op: &str| entries.iter().find(|entry| entry.op == op).unwrap_or_else(|| panic!("{op}: {entries:?}"));
        let dot = found("dot_general");
        assert_eq!((&*dot.place.layer, dot.flops, dot.times), ("loop.fc", 2.0 * 32.0 * 8.0, 3.0));
        assert_eq!((&*dot.ty, dot.bytes), ("tensor<4x8xf32>", 4.0 * (32.0 + 64.0 + 32.0)));
        assert!(dot.file.ends_with("stablehlo.rs") && dot.line > 0, "{dot:?}");
        assert_eq!(dot.parent.map(|parent| &*entries[parent].op), Some("while"));
        let tanh = found("tanh");
        assert_eq!(tanh.operands.iter().map(|&at| &*entries[at].op).collect::<Vec<_>>(), ["dot_general"]);
        assert_eq!((&*found("while").place.layer, found("while").times), ("loop", 3.0));
        let reduce = found("reduce");
        assert_eq!((reduce.flops, reduce.times, &*reduce.place.layer), (31.0, 1.0, "out"));
        assert_eq!(found("multiply").operands.iter().map(|&at| &*entries[at].op).collect::<Vec<_>>(), ["while"]);
    }
}
