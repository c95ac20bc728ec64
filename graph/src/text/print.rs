//! From a function to text.

use std::fmt::{self, Write};

use crate::attributes::Attr;
use crate::entity::{NodeId, RegionId, ValueId};
use crate::func::{Func, Location};
use crate::literal::Literal;
use crate::ops::Op;
use crate::text::lexer::is_word;
use crate::text::number::{write_element, write_f64};

/// What [`print_with`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrintOptions {
    /// Whether nodes have their `loc(..)`. Without it the text is easier to read, and parsing it locates nodes there.
    pub locations: bool,
}

/// The text form with locations, from which [`parse`](crate::text::parse) makes the same function.
pub fn print(func: &Func) -> String {
    print_with(func, PrintOptions { locations: true })
}

/// The text form. It ends with a line break.
pub fn print_with(func: &Func, options: PrintOptions) -> String {
    let mut printer = Printer { func, out: String::new(), options, abbreviate: false };
    printer.header();
    printer.body(func.body(), 1);
    printer.out.push_str("}\n");
    printer.out
}

/// The text form without locations.
impl fmt::Display for Func {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_with(self, PrintOptions { locations: false }))
    }
}

/// An attribute's value as the text form has it.
impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_attr(&mut out, self, false);
        f.write_str(&out)
    }
}

/// `dense<..>` as the text form has it.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        write_literal(&mut out, self, false);
        f.write_str(&out)
    }
}

/// A node on one line, for messages: regions and long literals are abbreviated.
pub(crate) fn node_line(func: &Func, node: NodeId) -> String {
    let mut printer =
        Printer { func, out: String::new(), options: PrintOptions { locations: false }, abbreviate: true };
    match func.find_node(node) {
        Some(_) => printer.node(node, 0),
        None => write!(printer.out, "{node}").expect("a string takes everything"),
    }
    printer.out
}

/// A node that could not be made on one line, for messages: its operands have types as it has no result.
pub(crate) fn untyped_line(func: &Func, op: &Op, operands: &[ValueId]) -> String {
    let mut printer =
        Printer { func, out: String::new(), options: PrintOptions { locations: false }, abbreviate: true };
    printer.out.push_str(op.name());
    printer.out.push('(');
    printer.list(operands, |printer, &value| printer.typed(value));
    printer.out.push(')');
    printer.attrs(op);
    printer.out
}

/// The first line of a function, for messages.
pub(crate) fn header_line(func: &Func) -> String {
    let mut printer =
        Printer { func, out: String::new(), options: PrintOptions { locations: false }, abbreviate: true };
    printer.header();
    printer.out.truncate(printer.out.trim_end().len());
    printer.out
}

/// Longer headers have a parameter and a result on each line; that of the house's source text.
const MAX_WIDTH: usize = 120;

/// In messages, literals show so many elements.
const ABBREVIATED_ELEMENTS: usize = 8;

struct Printer<'a> {
    func: &'a Func,
    out: String,
    options: PrintOptions,
    /// Whether regions and long literals are cut short.
    abbreviate: bool,
}

impl Printer<'_> {
    fn list<T>(&mut self, entries: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            write(self, entry);
        }
    }

    /// Writes what has a `Display`.
    fn push(&mut self, text: impl fmt::Display) {
        write!(self.out, "{text}").expect("a string takes everything");
    }

    fn header(&mut self) {
        let func = self.func;
        let start = self.out.len();
        self.push("func @");
        if func.name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && func.name.chars().all(is_word) {
            self.push(&func.name);
        } else {
            write_string(&mut self.out, &func.name);
        }
        let before_lists = self.out.len();
        for (open, separator, close) in [("", ", ", ""), ("\n  ", ",\n  ", "\n")] {
            self.out.truncate(before_lists);
            self.lists(open, separator, close);
            if self.abbreviate || self.out.len() - start <= MAX_WIDTH {
                break;
            }
        }
        self.push(" {\n");
    }

    /// Parameters and results of the function, laid out with these separators.
    fn lists(&mut self, open: &str, separator: &str, close: &str) {
        let func = self.func;
        let (params, results) = (func.param_values(), func.result_values());
        let (params_open, params_close) = if params.is_empty() { ("", "") } else { (open, close) };
        let (results_open, results_close) = if results.is_empty() { ("", "") } else { (open, close) };
        self.push(format_args!("({params_open}"));
        for (i, &value) in params.iter().enumerate() {
            self.push(if i > 0 { separator } else { "" });
            self.typed(value);
            let Some(param) = func.params.get(i) else { continue };
            self.name(&param.name);
            if let Some(result) = param.donated_to {
                self.push(format_args!(" donated({result})"));
            }
        }
        self.push(format_args!("{params_close}) -> ({results_open}"));
        for (i, &value) in results.iter().enumerate() {
            self.push(if i > 0 { separator } else { "" });
            self.ty(value);
            self.name(func.result_names.get(i).map_or("", String::as_str));
        }
        self.push(format_args!("{results_close})"));
    }

    /// A space and the quoted name, if there is one.
    fn name(&mut self, name: &str) {
        if !name.is_empty() {
            self.push(" ");
            write_string(&mut self.out, name);
        }
    }

    fn typed(&mut self, value: ValueId) {
        self.push(format_args!("{value}: "));
        self.ty(value);
    }

    /// A value's type, `?` for one that does not exist: messages about broken functions are printed too.
    fn ty(&mut self, value: ValueId) {
        match self.func.find_value(value) {
            Some(data) => self.push(&data.ty),
            None => self.push("?"),
        }
    }

    fn body(&mut self, region: RegionId, depth: usize) {
        let region = self.func.region(region);
        for &node in &region.nodes {
            self.indent(depth);
            self.node(node, depth);
            self.push("\n");
        }
        self.indent(depth);
        self.push("return");
        if !region.results.is_empty() {
            self.push(" ");
            self.list(&region.results, |printer, value| printer.push(value));
        }
        self.push("\n");
    }

    fn indent(&mut self, depth: usize) {
        self.out.extend(std::iter::repeat_n("  ", depth));
    }

    fn node(&mut self, node: NodeId, depth: usize) {
        let node = self.func.node(node);
        if !node.results.is_empty() {
            self.list(&node.results, |printer, &value| printer.typed(value));
            self.push(" = ");
        }
        self.push(node.op.name());
        self.push("(");
        self.list(&node.operands, |printer, value| printer.push(value));
        self.push(")");
        self.attrs(&node.op);
        if !node.regions.is_empty() {
            self.push(" (");
            self.list(&node.regions, |printer, &region| printer.region(region, depth));
            self.push(")");
        }
        if self.options.locations {
            self.location(&node.location);
        }
    }

    fn attrs(&mut self, op: &Op) {
        let attrs = op.attrs();
        if attrs.is_empty() {
            return;
        }
        self.push(" {");
        self.list(&attrs, |printer, (name, attr)| {
            printer.push(format_args!("{name} = "));
            write_attr(&mut printer.out, attr, printer.abbreviate);
        });
        self.push("}");
    }

    fn region(&mut self, region: RegionId, depth: usize) {
        if self.abbreviate {
            return self.push("{…}");
        }
        self.push("{\n");
        let params = &self.func.region(region).params;
        if !params.is_empty() {
            self.indent(depth + 1);
            self.push("^(");
            self.list(params, |printer, &value| printer.typed(value));
            self.push("):\n");
        }
        self.body(region, depth + 1);
        self.indent(depth);
        self.push("}");
    }

    fn location(&mut self, location: &Location) {
        let Location { scope, file, line } = location;
        self.push(" loc(");
        let has_file = !file.is_empty() || *line != 0;
        if scope.is_empty() && !has_file {
            self.push("unknown");
        }
        if !scope.is_empty() {
            write_string(&mut self.out, scope);
        }
        if has_file {
            self.push(if scope.is_empty() { "" } else { " " });
            write_string(&mut self.out, file);
            self.push(format_args!(":{line}"));
        }
        self.push(")");
    }
}

fn write_string(out: &mut String, text: &str) {
    write!(out, "\"{}\"", text.escape_debug()).expect("a string takes everything");
}

fn write_attr(out: &mut String, attr: &Attr, abbreviate: bool) {
    let written = match attr {
        Attr::Int(value) => write!(out, "{value}"),
        Attr::Float(value) => {
            write_f64(out, *value);
            Ok(())
        }
        Attr::Bool(value) => write!(out, "{value}"),
        Attr::Ints(values) => write!(out, "{values:?}"),
        Attr::Word(word) => write!(out, "{word}"),
        Attr::Type(ty) => write!(out, "{ty}"),
        Attr::Literal(literal) => {
            write_literal(out, literal, abbreviate);
            Ok(())
        }
    };
    written.expect("a string takes everything");
}

fn write_literal(out: &mut String, literal: &Literal, abbreviate: bool) {
    let ty = literal.ty();
    write!(out, "dense<{ty}:").expect("a string takes everything");
    let elements = literal.bytes().chunks_exact(ty.dtype.size());
    match literal.splat() {
        Some(element) if elements.len() > 1 => {
            out.push(' ');
            write_element(out, ty.dtype, element);
            out.push_str(" ...");
        }
        Some(_) | None => {
            for (i, element) in elements.enumerate() {
                out.push_str(if i == 0 { " " } else { ", " });
                if abbreviate && i == ABBREVIATED_ELEMENTS {
                    out.push('…');
                    break;
                }
                write_element(out, ty.dtype, element);
            }
        }
    }
    out.push('>');
}
