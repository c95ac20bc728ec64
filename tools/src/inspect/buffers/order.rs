//! The order of a program and how long its values live, from the program itself: XLA's buffer assignment tells neither for a
//! GPU.

use std::collections::HashMap;

use crate::inspect::hlo::{Computation, Instruction, Module, Shape};

/// The instructions in the order in which they run, those of a loop's body once and before the loop, and for each value,
/// `name{}` or `name{1}`, the places from and up to which it is alive.
pub(super) fn order(module: &Module) -> (Vec<String>, HashMap<String, (usize, usize)>) {
    let mut order = Order { module, names: Vec::new(), live: HashMap::new() };
    order.computation(module.entry());
    let last = order.names.len().saturating_sub(1);
    order.use_whole(module.entry(), module.entry().root, last);
    // The program is given its parameters before it runs, and keeps none back.
    for parameter in module.entry().instructions.iter().filter(|instruction| instruction.parameter.is_some()) {
        order.live.insert(key(&parameter.name, None), (0, last));
    }
    (order.names, order.live)
}

struct Order<'m> {
    module: &'m Module,
    names: Vec<String>,
    live: HashMap<String, (usize, usize)>,
}

/// The key of a value, whole or a part of a tuple.
fn key(name: &str, part: Option<usize>) -> String {
    part.map_or_else(|| format!("{name}{{}}"), |part| format!("{name}{{{part}}}"))
}

impl Order<'_> {
    fn computation(&mut self, computation: &Computation) {
        for instruction in &computation.instructions {
            if instruction.opcode == "while" {
                for part in ["condition", "body"] {
                    let inner = instruction.called(part).and_then(|name| self.module.computation(name));
                    if let Some(inner) = inner {
                        self.computation(inner);
                        // What goes round is needed until the loop ends, which comes next.
                        self.use_whole(inner, inner.root, self.names.len());
                    }
                }
            }
            let at = self.names.len();
            self.names.push(instruction.name.clone());
            let parts = match &instruction.shape {
                Shape::Tuple(parts) => parts.len(),
                Shape::Array(..) => 0,
            };
            for part in std::iter::once(None).chain((0..parts).map(Some)) {
                self.live.insert(key(&instruction.name, part), (at, at));
            }
            if !is_view(instruction) {
                let operands = instruction.operands.iter().filter_map(|name| computation.position(name));
                operands.for_each(|operand| self.use_whole(computation, operand, at));
            }
        }
    }

    /// Marks a value with all its parts as used at a place.
    fn use_whole(&mut self, computation: &Computation, index: usize, at: usize) {
        match &computation.instructions[index].shape {
            Shape::Array(..) => self.use_part(computation, index, None, at),
            Shape::Tuple(parts) => {
                (0..parts.len()).for_each(|part| self.use_part(computation, index, Some(part), at));
            }
        }
    }

    /// Marks a value, or a part of a tuple, as used at a place: the value that was computed, behind all its other names.
    fn use_part(&mut self, computation: &Computation, mut index: usize, mut part: Option<usize>, at: usize) {
        loop {
            let instruction = &computation.instructions[index];
            let place = key(&instruction.name, part);
            if let Some(range) = self.live.get_mut(&place) {
                range.1 = range.1.max(at);
            }
            let operand = match (&*instruction.opcode, part) {
                ("tuple", Some(part)) => instruction.operands.get(part),
                ("get-tuple-element" | "bitcast" | "opt-barrier", _) => instruction.operands.first(),
                _ => return,
            };
            let Some(next) = operand.and_then(|name| computation.position(name)) else { return };
            part = match &*instruction.opcode {
                "tuple" => None,
                "get-tuple-element" => instruction.tuple_index(),
                _ => part,
            };
            index = next;
        }
    }
}

/// Whether an instruction only gives another name to what is there.
fn is_view(instruction: &Instruction) -> bool {
    matches!(&*instruction.opcode, "tuple" | "get-tuple-element" | "bitcast" | "opt-barrier" | "parameter" | "constant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_live_until_their_last_use_under_any_name() {
        let text = "HloModule m\n%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {\n  %s = (s32[], f32[4]) parameter(0)\n  \
                    %f = f32[4] fusion(%s#1), kind=kLoop\n  ROOT %t = (s32[], f32[4]) tuple(%s#0, %f)\n}\nENTRY %main (x: \
                    f32[4]) -> f32[4] {\n  %x = f32[4] parameter(0)\n  %i = s32[] constant(0)\n  %y = f32[4] negate(%x)\n  \
                    %b = f32[4] bitcast(%y)\n  %in = (s32[], f32[4]) tuple(%i, %b)\n  %w = (s32[], f32[4]) while(%in), \
                    body=%body\n  ROOT %z = f32[4] add(%w#1, %y)\n}\n";
        let module = Module::parse(text).expect("a module");
        let (names, live) = order(&module);
        let at = |name: &str| names.iter().position(|other| other == name).expect("it runs");
        assert!(at("f") < at("w") && at("y") < at("f"), "{names:?}");
        // The loop's result is used by the last op, and so is what it began with.
        assert_eq!(live["y{}"], (at("y"), at("z")));
        assert_eq!(live["w{1}"], (at("w"), at("z")));
        // What goes round lives until the loop has ended.
        assert_eq!(live["f{}"], (at("f"), at("w")));
        assert_eq!(live["s{1}"].1, at("f"));
        assert_eq!(live["x{}"], (0, names.len() - 1), "a parameter is there all the time");
    }
}
