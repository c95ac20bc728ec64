//! From text to functions. Every text gets a function or an error; none makes the parser panic.

use std::collections::HashMap;
use std::sync::Arc;

use crate::attributes::Attr;
use crate::dtype::{DType, TensorType};
use crate::entity::{RegionId, ValueId};
use crate::func::{Func, Location};
use crate::literal::Literal;
use crate::ops::Op;
use crate::text::error::ParseError;
use crate::text::lexer::{Kind, Lexer, Span, Token};
use crate::text::number::{read_element, read_f64};

/// Regions nested deeper are refused: the parser and every pass over regions recurse. Models nest about five deep
/// (steps, layers, chunks of the loss, rematerialization).
const MAX_DEPTH: usize = 128;

/// What the `element ...` literals of one text may take together, in bytes: a few characters could ask for any amount.
const MAX_SPLAT_BYTES: usize = 1 << 28;

/// A function and where it stands in the text.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The function.
    pub func: Func,
    /// The line of its `func`, counted from 1.
    pub line: u32,
}

/// The one function of a text; `path` is what messages and locations call the text.
///
/// What only the verifier checks is not checked: see [`verify`](crate::verify::verify).
///
/// # Errors
/// The first place where the text is not a function.
pub fn parse(path: &str, text: &str) -> Result<Func, ParseError> {
    let mut parser = Parser::new(path, text);
    let func = parser.func()?;
    if parser.token.kind == Kind::End {
        Ok(func)
    } else {
        Err(parser.expected("the end of the text after one function"))
    }
}

/// All functions of a text, in order.
///
/// # Errors
/// The first place where the text is not a list of functions.
pub fn parse_all(path: &str, text: &str) -> Result<Vec<Parsed>, ParseError> {
    parse_each(path, text).into_iter().map(|(line, func)| func.map(|func| Parsed { func, line })).collect()
}

/// All functions of a text, in order, each with the line it starts at; after an error it goes on at the next line that
/// starts with `func`.
pub fn parse_each(path: &str, text: &str) -> Vec<(u32, Result<Func, ParseError>)> {
    let mut found = Vec::new();
    let mut parser = Parser::new(path, text);
    while parser.token.kind != Kind::End {
        let start = parser.token.span;
        let func = parser.func();
        if func.is_err() {
            parser.lexer.skip_to_func(start);
            parser.advance();
        }
        found.push((start.line, func));
    }
    found
}

struct Parser<'t> {
    path: Arc<str>,
    text: &'t str,
    lexer: Lexer<'t>,
    /// The token that is looked at; all before it are consumed.
    token: Token<'t>,
    /// The values that can be named here.
    values: HashMap<&'t str, ValueId>,
    /// Their names in the order of definition: a region forgets those after its start.
    names: Vec<&'t str>,
    /// What is left of [`MAX_SPLAT_BYTES`].
    splat_bytes: usize,
}

/// Makes sense of a list entry.
type Entry<'t, T> = fn(&mut Parser<'t>) -> Result<T, ParseError>;

impl<'t> Parser<'t> {
    fn new(path: &str, text: &'t str) -> Parser<'t> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next();
        let (values, names) = (HashMap::new(), Vec::new());
        Parser { path: path.into(), text, lexer, token, values, names, splat_bytes: MAX_SPLAT_BYTES }
    }

    fn advance(&mut self) -> Token<'t> {
        std::mem::replace(&mut self.token, self.lexer.next())
    }

    fn error(&self, span: Span, message: String) -> ParseError {
        ParseError::new(&self.path, self.text, span, message)
    }

    /// The error that the token looked at is not `what`.
    fn expected(&self, what: &str) -> ParseError {
        let message = if let Kind::Bad(message) = &self.token.kind {
            message.clone()
        } else {
            format!("expected {what}, found {}", self.token.kind.describe())
        };
        self.error(self.token.span, message)
    }

    fn is(&self, punctuation: &str) -> bool {
        matches!(self.token.kind, Kind::Punctuation(found) if found == punctuation)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.token.kind, Kind::Word(found) if found == word)
    }

    /// Consumes this punctuation if it is there.
    fn eat(&mut self, punctuation: &str) -> bool {
        let found = self.is(punctuation);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, punctuation: &str) -> Result<(), ParseError> {
        if self.eat(punctuation) { Ok(()) } else { Err(self.expected(&format!("`{punctuation}`"))) }
    }

    fn expect_word(&mut self, word: &str) -> Result<(), ParseError> {
        if !self.is_word(word) {
            return Err(self.expected(&format!("`{word}`")));
        }
        self.advance();
        Ok(())
    }

    fn word(&mut self, what: &str) -> Result<(&'t str, Span), ParseError> {
        let Kind::Word(word) = self.token.kind else { return Err(self.expected(what)) };
        Ok((word, self.advance().span))
    }

    /// A string if there is one.
    fn string(&mut self) -> Option<String> {
        let Kind::String(string) = &mut self.token.kind else { return None };
        let string = std::mem::take(string);
        self.advance();
        Some(string)
    }

    fn integer<T: std::str::FromStr>(&mut self, what: &str) -> Result<T, ParseError> {
        let Kind::Number(number) = self.token.kind else { return Err(self.expected(what)) };
        let value = number.parse().map_err(|_| self.expected(what))?;
        self.advance();
        Ok(value)
    }

    /// Entries separated by commas, up to and with `close`.
    fn list<T>(&mut self, close: &str, entry: Entry<'t, T>) -> Result<Vec<T>, ParseError> {
        let mut entries = Vec::new();
        if self.eat(close) {
            return Ok(entries);
        }
        loop {
            entries.push(entry(self)?);
            if self.eat(close) {
                return Ok(entries);
            }
            if !self.eat(",") {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
        }
    }

    fn func(&mut self) -> Result<Func, ParseError> {
        self.values.clear();
        self.names.clear();
        self.expect_word("func")?;
        let Kind::Name(name) = &mut self.token.kind else {
            return Err(self.expected("a name such as `@main`"));
        };
        let mut func = Func::new(std::mem::take(name));
        self.advance();
        self.expect("(")?;
        for (typed, name, donated_to) in self.list(")", Parser::param)? {
            let value = func.add_param(name, typed.ty.clone());
            func.params.last_mut().expect("a parameter was added").donated_to = donated_to;
            self.define(&typed, value)?;
        }
        self.expect("->")?;
        self.expect("(")?;
        let results = self.list(")", |parser| {
            let start = parser.token.span;
            Ok((parser.ty()?, parser.string().unwrap_or_default(), start))
        })?;
        self.expect("{")?;
        let body = func.body();
        let return_span = self.body(&mut func, body, 0)?;
        let found = func.result_types();
        if found.len() != results.len() {
            let message = format!("expected {} results as the header says, found {}", results.len(), found.len());
            return Err(self.error(return_span, message));
        }
        for ((written, name, span), (i, found)) in results.into_iter().zip(found.iter().enumerate()) {
            if written != *found {
                let message = format!("result {i} is written as {written}, but the function returns {found}");
                return Err(self.error(span, message));
            }
            func.result_names[i] = name;
        }
        Ok(func)
    }

    fn param(&mut self) -> Result<(Typed<'t>, String, Option<usize>), ParseError> {
        let typed = self.typed()?;
        let name = self.string().unwrap_or_default();
        let mut donated_to = None;
        if self.is_word("donated") {
            self.advance();
            self.expect("(")?;
            donated_to = Some(self.integer("the index of a result")?);
            self.expect(")")?;
        }
        Ok((typed, name, donated_to))
    }

    fn typed(&mut self) -> Result<Typed<'t>, ParseError> {
        let (name, span) = self.value_name()?;
        self.expect(":")?;
        let type_span = self.token.span;
        Ok(Typed { name, span, ty: self.ty()?, type_span })
    }

    fn value_name(&mut self) -> Result<(&'t str, Span), ParseError> {
        let Kind::Value(name) = self.token.kind else { return Err(self.expected("a value such as `%0`")) };
        Ok((name, self.advance().span))
    }

    /// A value that is defined and visible.
    fn operand(&mut self) -> Result<ValueId, ParseError> {
        let (name, span) = self.value_name()?;
        let value = self.values.get(name).copied();
        value.ok_or_else(|| self.error(span, format!("`%{name}` is not defined before and around here")))
    }

    fn define(&mut self, typed: &Typed<'t>, value: ValueId) -> Result<(), ParseError> {
        if self.values.insert(typed.name, value).is_some() {
            return Err(self.error(typed.span, format!("`%{}` is defined twice", typed.name)));
        }
        self.names.push(typed.name);
        Ok(())
    }

    fn ty(&mut self) -> Result<TensorType, ParseError> {
        let (word, span) = self.word("a type such as `f32[2,3]`")?;
        let dtype = word.parse().map_err(|reason| self.error(span, reason))?;
        self.shape_of(dtype, span)
    }

    /// The rest of a type, after its element type at `span`.
    fn shape_of(&mut self, dtype: DType, span: Span) -> Result<TensorType, ParseError> {
        self.expect("[")?;
        let shape = self.list("]", |parser| parser.integer::<usize>("a size"))?;
        let ty = TensorType::new(dtype, shape);
        if ty.is_addressable() { Ok(ty) } else { Err(self.error(span, format!("{ty} is larger than any memory"))) }
    }

    /// Nodes and what is returned, up to and with `}`. Returns the place of `return`.
    fn body(&mut self, func: &mut Func, region: RegionId, depth: usize) -> Result<Span, ParseError> {
        while !self.is_word("return") {
            self.node(func, region, depth)?;
        }
        let span = self.advance().span;
        // The list's end is `}`, so that one function parses both kinds of list.
        let results = self.list("}", Parser::operand)?;
        func.set_results(region, results);
        Ok(span)
    }

    fn node(&mut self, func: &mut Func, region: RegionId, depth: usize) -> Result<(), ParseError> {
        let results = match self.token.kind {
            Kind::Value(_) => self.list("=", Parser::typed)?,
            Kind::Word(_) => Vec::new(),
            Kind::Name(_) | Kind::String(_) | Kind::Number(_) | Kind::Punctuation(_) | Kind::End | Kind::Bad(_) => {
                return Err(self.expected("a node or `return`"));
            }
        };
        let (name, op_span) = self.word("an op")?;
        self.expect("(")?;
        let operands = self.list(")", Parser::operand)?;
        let attrs = if self.eat("{") { self.list("}", Parser::attr)? } else { Vec::new() };
        let op = Op::from_attrs(name, &attrs).map_err(|reason| self.error(op_span, reason))?;
        let mut regions = Vec::new();
        if self.eat("(") {
            loop {
                regions.push(self.region(func, depth + 1)?);
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        let location = match self.is_word("loc") {
            true => self.location()?,
            false => Location { scope: "".into(), file: self.path.clone(), line: op_span.line },
        };
        let node = func.push(region, op, &operands, &regions, location).map_err(|error| {
            let message = format!("{} ({}): {}", error.op, error.violation.constraint, error.violation.message);
            ParseError { type_error: Some(Box::new(error)), ..self.error(op_span, message) }
        })?;
        let values = &func.node(node).results;
        if values.len() != results.len() {
            let message = format!("`{name}` has {} results, the text names {}", values.len(), results.len());
            return Err(self.error(op_span, message));
        }
        for (typed, &value) in results.iter().zip(values) {
            let inferred = func.ty(value);
            if typed.ty != *inferred {
                let message = format!("`%{}` is written as {}, but `{name}` makes {inferred}", typed.name, typed.ty);
                return Err(self.error(typed.type_span, message));
            }
            self.define(typed, value)?;
        }
        Ok(())
    }

    fn region(&mut self, func: &mut Func, depth: usize) -> Result<RegionId, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.error(self.token.span, format!("regions are nested more than {MAX_DEPTH} deep")));
        }
        self.expect("{")?;
        let outside = self.names.len();
        let region = func.add_region();
        if self.eat("^") {
            self.expect("(")?;
            for typed in self.list(")", Parser::typed)? {
                let value = func.add_region_param(region, typed.ty.clone());
                self.define(&typed, value)?;
            }
            self.expect(":")?;
        }
        self.body(func, region, depth)?;
        for name in self.names.drain(outside..) {
            self.values.remove(name);
        }
        Ok(region)
    }

    fn attr(&mut self) -> Result<(String, Attr), ParseError> {
        let (name, _) = self.word("an attribute's name")?;
        self.expect("=")?;
        Ok((name.to_string(), self.attr_value()?))
    }

    fn attr_value(&mut self) -> Result<Attr, ParseError> {
        match self.token.kind {
            Kind::Number(text) => {
                let attr = if text.contains(['.', 'e', 'E', 'x']) {
                    read_f64(text).map(Attr::Float)
                } else {
                    text.parse().map(Attr::Int).map_err(|_| format!("{text} does not fit 64 bits"))
                };
                let span = self.advance().span;
                attr.map_err(|reason| self.error(span, reason))
            }
            Kind::Punctuation("[") => {
                self.advance();
                Ok(Attr::Ints(self.list("]", |parser| parser.integer("an integer of 64 bits"))?))
            }
            Kind::Word(word) => {
                let span = self.advance().span;
                match word {
                    "true" => Ok(Attr::Bool(true)),
                    "false" => Ok(Attr::Bool(false)),
                    "dense" if self.is("<") => self.dense().map(Attr::Literal),
                    _ => match word.parse::<DType>() {
                        Ok(dtype) if self.is("[") => self.shape_of(dtype, span).map(Attr::Type),
                        Ok(_) | Err(_) => Ok(Attr::Word(word.to_string())),
                    },
                }
            }
            Kind::Value(_) | Kind::Name(_) | Kind::String(_) | Kind::Punctuation(_) | Kind::End | Kind::Bad(_) => {
                Err(self.expected("an attribute's value"))
            }
        }
    }

    /// A tensor, after the word `dense`.
    fn dense(&mut self) -> Result<Literal, ParseError> {
        self.expect("<")?;
        let type_span = self.token.span;
        let ty = self.ty()?;
        self.expect(":")?;
        let mut bytes = Vec::new();
        let mut num_elements = 0;
        while !self.is(">") {
            if num_elements > 0 {
                self.expect(",")?;
            }
            let text = match self.token.kind {
                Kind::Number(text) | Kind::Word(text) => text,
                Kind::Value(_) | Kind::Name(_) | Kind::String(_) | Kind::Punctuation(_) | Kind::End | Kind::Bad(_) => {
                    return Err(self.expected("an element or `>`"));
                }
            };
            let span = self.advance().span;
            read_element(&mut bytes, ty.dtype, text).map_err(|reason| self.error(span, reason))?;
            num_elements += 1;
            if num_elements == 1 && self.eat("...") {
                let Some(left) = self.splat_bytes.checked_sub(ty.num_bytes()) else {
                    let message = format!(
                        "tensors filled with one element take more than {MAX_SPLAT_BYTES} bytes in this text; use a \
                         scalar and `broadcast_in_dim`"
                    );
                    return Err(self.error(type_span, message));
                };
                self.splat_bytes = left;
                num_elements = ty.num_elements();
                bytes = bytes.repeat(num_elements);
                break;
            }
        }
        self.expect(">")?;
        Literal::from_bytes(ty.clone(), bytes).map_err(|_| {
            let message = format!("{ty} has {} elements, found {num_elements}", ty.num_elements());
            self.error(type_span, message)
        })
    }

    fn location(&mut self) -> Result<Location, ParseError> {
        self.expect_word("loc")?;
        self.expect("(")?;
        let mut location = Location::unknown();
        if self.is_word("unknown") {
            self.advance();
        } else {
            let Some(first) = self.string() else { return Err(self.expected("a scope, a file or `unknown`")) };
            let file = match self.is(":") {
                true => Some(first),
                false => {
                    location.scope = first.into();
                    self.string()
                }
            };
            if let Some(file) = file {
                self.expect(":")?;
                location.file = file.into();
                location.line = self.integer("a line")?;
            }
        }
        self.expect(")")?;
        Ok(location)
    }
}

/// `%name: type`, with the places of both.
struct Typed<'t> {
    name: &'t str,
    span: Span,
    ty: TensorType,
    type_span: Span,
}
