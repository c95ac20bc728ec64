//! From HLO text to computations. Attributes stay text; what an instruction is asked for is looked up in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::frames::Frames;
use super::{Computation, Instruction, Module, Shape};

/// A module, from `HloModule` to its last computation.
pub(super) fn module(text: &str) -> Result<Module, String> {
    let mut name = String::new();
    let mut computations: Vec<Computation> = Vec::new();
    let mut entry = None;
    let mut open: Option<Computation> = None;
    let mut frames = Frames::default();
    for (number, line) in text.lines().enumerate() {
        let failed = |what: &str| {
            let shown: String = line.trim().chars().take(120).collect();
            format!("line {} of the HLO text: {what}: {shown}", number + 1)
        };
        if let Some(rest) = line.strip_prefix("HloModule ") {
            name = rest.split([',', ' ']).next().unwrap_or_default().to_owned();
        } else if let Some(called) = head(line) {
            if line.starts_with("ENTRY") {
                entry = Some(computations.len());
            }
            open =
                Some(Computation { name: called.to_owned(), instructions: Vec::new(), root: 0, index: HashMap::new() });
        } else if line.starts_with('}') {
            computations.extend(open.take());
        } else if let Some(computation) = &mut open {
            if line.trim().is_empty() {
                continue;
            }
            let instruction = instruction(line, &frames).ok_or_else(|| failed("expected an instruction, found"))?;
            for operand in &instruction.operands {
                let part = part_of_tuple(computation, operand);
                computation.instructions.extend(part);
            }
            let at = computation.instructions.len();
            if line.trim_start().starts_with("ROOT ") {
                computation.root = at;
            }
            computation.index.insert(instruction.name.clone(), at);
            computation.instructions.push(instruction);
        } else {
            frames.read(line);
        }
    }
    if computations.iter().any(|computation| computation.instructions.is_empty()) {
        return Err("the HLO text has a computation without instructions".to_owned());
    }
    let entry = entry.filter(|&entry| entry < computations.len());
    let entry = entry.ok_or("the HLO text has no computation that is marked ENTRY")?;
    let index = computations.iter().enumerate().map(|(index, c)| (c.name.clone(), index)).collect();
    Ok(Module { name, computations, entry, index })
}

/// The name in the first line of a computation: `%name (x: f32[]) -> f32[] {`.
pub(super) fn head(line: &str) -> Option<&str> {
    if line.starts_with([' ', '}']) || !line.trim_end().ends_with('{') || line.starts_with("HloModule") {
        return None;
    }
    let rest = line.strip_prefix("ENTRY ").unwrap_or(line);
    Some(rest.split([' ', '(']).next()?.trim_start_matches('%')).filter(|name| !name.is_empty())
}

/// The name of the instruction of a line.
pub(super) fn name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("ROOT ").unwrap_or(line);
    Some(line.split_once(" = ")?.0.trim_start_matches('%'))
}

/// The instruction that an operand `name#1` stands for, the part of a tuple, if the computation has it not yet.
fn part_of_tuple(computation: &mut Computation, operand: &str) -> Option<Instruction> {
    let (tuple, number) = operand.rsplit_once('#')?;
    let Shape::Tuple(parts) = &computation.instruction(tuple)?.shape else { return None };
    let shape = parts.get(number.parse::<usize>().ok()?)?.clone();
    let whole = computation.instruction(tuple)?;
    let part = Instruction {
        name: operand.to_owned(),
        shape,
        opcode: "get-tuple-element".to_owned(),
        operands: vec![tuple.to_owned()],
        parameter: None,
        constant: None,
        attributes: format!("index={number}"),
        ..whole.clone()
    };
    let at = computation.instructions.len();
    match computation.index.entry(operand.to_owned()) {
        Entry::Occupied(_) => None,
        Entry::Vacant(place) => {
            place.insert(at);
            Some(part)
        }
    }
}

/// `%name = f32[2]{0} add(%a, %b), attributes`.
fn instruction(line: &str, frames: &Frames) -> Option<Instruction> {
    let line = without_comments(line.trim());
    let name = name(&line)?.to_owned();
    let (_, rest) = line.split_once(" = ")?;
    let (shape, rest) = shape(rest)?;
    let rest = rest.trim_start();
    let at = rest.find('(')?;
    let opcode = rest[..at].trim().to_owned();
    let inside = enclosed(&rest[at..])?;
    let attributes = rest[at + inside.len()..].trim_start_matches([',', ' ']);
    let operands = match opcode.as_str() {
        // What stands there is data.
        "constant" | "parameter" | "iota" => Vec::new(),
        _ => split(&inside[1..inside.len() - 1]).into_iter().filter_map(operand).collect(),
    };
    let metadata = attribute(attributes, "metadata").unwrap_or_default();
    let quoted = |key: &str| {
        let (_, rest) = metadata.split_once(&format!("{key}=\""))?;
        Some(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let number = |key: &str| -> Option<u32> {
        let (_, rest) = metadata.split_once(key)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let (file, line) = match quoted("source_file") {
        Some(file) => (file, number("source_line=").unwrap_or(0)),
        None => {
            let place = number("stack_frame_id=").and_then(|frame| frames.place(frame));
            place.map_or_else(Default::default, |(file, line)| (file.to_owned(), line))
        }
    };
    Some(Instruction {
        name,
        shape,
        parameter: (opcode == "parameter").then(|| inside[1..inside.len() - 1].trim().parse().ok()).flatten(),
        constant: (opcode == "constant").then(|| inside[1..inside.len() - 1].trim().parse().ok()).flatten(),
        opcode,
        operands,
        attributes: attributes.replace(&format!("metadata={metadata}"), "").trim_matches([',', ' ']).to_owned(),
        scope: quoted("op_name").unwrap_or_default(),
        file,
        line,
    })
}

/// The name in an operand, before which its type may stand.
fn operand(text: &str) -> Option<String> {
    let name = text.split_whitespace().last()?.trim_start_matches('%');
    (!name.is_empty()).then(|| name.to_owned())
}

/// A type at the start of a text, and what follows it.
fn shape(text: &str) -> Option<(Shape, &str)> {
    if text.starts_with('(') {
        let inside = enclosed(text)?;
        let parts = split(&inside[1..inside.len() - 1]);
        let parts = parts.into_iter().filter(|part| !part.is_empty()).map(|part| Some(shape(part)?.0));
        return Some((Shape::Tuple(parts.collect::<Option<_>>()?), &text[inside.len()..]));
    }
    let open = text.find('[')?;
    let close = open + text[open..].find(']')?;
    let dtype = text[..open].to_owned();
    // A bound of a dynamic size is written `<=8`.
    let sizes = text[open + 1..close].split(',').filter(|size| !size.is_empty());
    let sizes = sizes.map(|size| size.trim_start_matches("<=").parse().ok()).collect::<Option<_>>()?;
    let rest = &text[close + 1..];
    let rest = match rest.starts_with('{') {
        true => &rest[enclosed(rest)?.len()..],
        false => rest,
    };
    Some((Shape::Array(dtype, sizes), rest))
}

/// The text of an attribute among others.
pub(super) fn attribute<'t>(attributes: &'t str, name: &str) -> Option<&'t str> {
    split(attributes).into_iter().find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// The parts of a list between commas that are not within brackets or quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut nesting = Nesting::default();
    for (at, c) in text.char_indices() {
        nesting.step(c);
        if c == ',' && nesting.is_outside() {
            parts.push(text[start..at].trim());
            start = at + 1;
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

/// The bracket at the start of a text, up to the one that closes it.
fn enclosed(text: &str) -> Option<&str> {
    let mut nesting = Nesting::default();
    for (at, c) in text.char_indices() {
        nesting.step(c);
        if nesting.is_outside() {
            return Some(&text[..at + c.len_utf8()]);
        }
    }
    None
}

/// How deep in brackets and quotes a place is.
#[derive(Default)]
struct Nesting {
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Nesting {
    fn step(&mut self, c: char) {
        match c {
            '"' if !self.escaped => self.quoted = !self.quoted,
            '(' | '{' | '[' if !self.quoted => self.depth += 1,
            ')' | '}' | ']' if !self.quoted => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.escaped = self.quoted && !self.escaped && c == '\\';
    }

    fn is_outside(&self) -> bool {
        self.depth == 0 && !self.quoted
    }
}

/// A line without `/*index=5*/`, which XLA puts into long lists.
fn without_comments(line: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(line.len()), line);
    while let Some((before, after)) = rest.split_once("/*index=") {
        out.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"HloModule step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b), metadata={op_name="optimizer"}
}

ENTRY %main.7 (x.1: f32[4,8], y.1: (f32[], /*index=1*/s32[2])) -> (f32[4], f32[]) {
  %x.1 = f32[4,8]{1,0} parameter(0), metadata={op_name="model.\"w\""}
  %zero = f32[] constant(0)
  %words = s32[2]{0} constant({1, 2})
  %r.2 = f32[4]{0} reduce(f32[4,8]{1,0} %x.1, %zero), dimensions={1}, to_apply=%sum, metadata={op_name="vjp(a)" source_file="a.rs" source_line=12}
  %call.3 = f32[4]{0:T(128)} custom-call(%x.1, /*index=1*/%r.2), custom_call_target="k", backend_config={"a":"b, \"c\"","n":2}
  ROOT %tuple = (f32[4]{0}, f32[]) tuple(%call.3, %zero)
}
"#;

    const CONFIG: &str = r#"{"a":"b, \"c\"","n":2}"#;

    #[test]
    fn parts_of_tuples_and_lines_in_tables_are_found() {
        let text = "HloModule m\n\nFileNames\n1 \"a.rs\"\n2 \"b c.rs\"\n\nFunctionNames\n1 \"f\"\n\nFileLocations\n\
                    1 {file_name_id=2 function_name_id=1 line=7 end_line=9 column=0 end_column=0}\n\nStackFrames\n\
                    1 {file_location_id=1 parent_frame_id=1}\n\nENTRY %main (x: f32[4]) -> f32[4] {\n  %x = f32[4]{0} \
                    parameter(0)\n  %call = (f32[4]{0}, u8[256]{0}) custom-call(%x), custom_call_target=\"k\", \
                    metadata={op_name=\"h.0\" stack_frame_id=1}\n  ROOT %sum = f32[4]{0} add(%call#0, %call#0)\n}\n";
        let entry = module(text).expect("a module").entry().clone();
        let call = entry.instruction("call").expect("the call");
        assert_eq!((call.scope.as_str(), call.file.as_str(), call.line), ("h.0", "b c.rs", 7));
        let part = entry.instruction("call#0").expect("the part");
        assert_eq!((part.tuple_index(), part.shape.to_string().as_str()), (Some(0), "f32[4]"));
        assert_eq!((&part.operands[..], entry.instructions.len()), (&["call".to_owned()][..], 4));
        assert_eq!(entry.instructions[entry.root].name, "sum");
    }

    #[test]
    fn a_module_is_read() {
        let module = module(TEXT).unwrap();
        assert_eq!((&*module.name, module.computations.len(), module.entry), ("step", 2, 1));
        let entry = module.entry();
        assert_eq!((&*entry.name, entry.instructions.len(), entry.root), ("main.7", 6, 5));
        let reduce = entry.instruction("r.2").unwrap();
        assert_eq!((&*reduce.opcode, &reduce.operands[..]), ("reduce", &["x.1".to_owned(), "zero".to_owned()][..]));
        assert_eq!((reduce.numbers("dimensions"), reduce.called("to_apply")), (vec![1], Some("sum")));
        assert_eq!((&*reduce.scope, &*reduce.file, reduce.line), ("vjp(a)", "a.rs", 12));
        assert_eq!(reduce.attributes, "dimensions={1}, to_apply=%sum");
        let call = entry.instruction("call.3").unwrap();
        assert_eq!((call.custom_call_target(), call.attribute("backend_config")), (Some("k"), Some(CONFIG)));
        assert_eq!(call.operands, ["x.1", "r.2"]);
        let tuple = &entry.instructions[entry.root];
        assert_eq!((tuple.shape.to_string(), tuple.shape.bytes()), ("(f32[4], f32[])".to_owned(), 20));
        assert_eq!(entry.instruction("words").unwrap().operands, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_module_is_refused() {
        for (text, expected) in [
            ("", "no computation that is marked ENTRY"),
            ("ENTRY %m () -> f32[] {\n}\n", "a computation without instructions"),
            ("ENTRY %m () -> f32[] {\n  what\n}\n", "line 2 of the HLO text: expected an instruction, found: what"),
            ("ENTRY %m () -> f32[] {\n  %a = f32[x] b()\n}\n", "line 2 of the HLO text"),
            ("ENTRY %m () -> f32[] {\n  %a = f32[2] b(\n}\n", "line 2 of the HLO text"),
        ] {
            let error = module(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
