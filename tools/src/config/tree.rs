//! What was written: TOML with the place of every key and value, from a file and from `--set` arguments.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::source::{Place, Problem, Sources};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    String(String),
    Integer(i64),
    /// A whole number that does not fit 64 bits, as written.
    Oversized(String),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// Keys with their values.
pub(crate) type Table = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Place,
    pub(crate) node: Node,
}

impl Kind {
    /// The value's type and text, for "expected …, found …".
    pub(crate) fn describe(&self) -> String {
        match self {
            Kind::String(text) => format!("the string {text:?}"),
            Kind::Integer(number) => format!("the whole number {number}"),
            Kind::Oversized(text) => format!("the number {text}, which does not fit 64 bits"),
            Kind::Float(number) => format!("the number {number:?}"),
            Kind::Boolean(value) => format!("the boolean {value}"),
            Kind::Datetime(text) => format!("the date {text}"),
            Kind::Array(items) => format!("a list of {}", items.len()),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

/// The tables of a TOML document that is `sources[source]`.
pub(crate) fn parse(text: &str, source: usize, problems: &mut Vec<Problem>) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let place = Place { source, start: span.start, end: span.end };
        problems.push(Problem::new(place, format!("not TOML: {}", error.message())));
    }
    convert_table(table.get_ref(), source)
}

/// Puts the setting of a `--set` argument over what is there.
///
/// The argument is TOML, `key=value` with a dotted key. A value that is not TOML is a string when it has none of TOML's
/// punctuation, so that a path or a word needs no second layer of quotes in a shell: `data.train=names.txt`.
pub(crate) fn set(tree: &mut Table, argument: &str, sources: &mut Sources, problems: &mut Vec<Problem>) {
    let source = sources.add_argument(argument);
    let whole = Place { source, start: 0, end: argument.len() };
    let Some(equals) = argument.find('=') else {
        let problem = Problem::new(whole, "expected key=value after --set, found no `=`");
        return problems.push(problem.help("an example: --set train.steps=100"));
    };
    if argument.contains(['\n', '\r']) {
        return problems.push(Problem::new(whole, "a --set argument holds one setting; this one has a line break"));
    }
    let mut errors = Vec::new();
    let table = parse(argument, source, &mut errors);
    if errors.is_empty() {
        return merge(tree, table);
    }
    let (key, value) = (argument[..equals].trim_end(), argument[equals + 1..].trim());
    let bare = !value.is_empty() && !value.contains(|c: char| "\"'[]{}=#,\\".contains(c) || c.is_control());
    let mut key_errors = Vec::new();
    let mut table = parse(&format!("{key}=0"), source, &mut key_errors);
    if !bare || !key_errors.is_empty() {
        let blamed = if key_errors.is_empty() { errors } else { key_errors };
        let hint = "a value is TOML: a number, true, a word, or a list such as '[\"a.txt\", \"b.txt\"]'";
        return problems.extend(blamed.into_iter().map(|problem| problem.help(hint)));
    }
    let start = argument.len() - argument[equals + 1..].trim_start().len();
    let place = Place { source, start, end: start + value.len() };
    replace_leaf(&mut table, Node { kind: Kind::String(value.to_owned()), place });
    merge(tree, table);
}

/// Puts `node` at the end of the only path of `table`.
fn replace_leaf(table: &mut Table, node: Node) {
    for entry in table.values_mut() {
        match &mut entry.node.kind {
            Kind::Table(inner) => replace_leaf(inner, node.clone()),
            Kind::String(_)
            | Kind::Integer(_)
            | Kind::Oversized(_)
            | Kind::Float(_)
            | Kind::Boolean(_)
            | Kind::Datetime(_)
            | Kind::Array(_) => entry.node = node.clone(),
        }
    }
}

/// Puts `over` over `tree`: tables are merged, everything else is replaced.
fn merge(tree: &mut Table, over: Table) {
    for (key, entry) in over {
        match (tree.get_mut(&key).map(|old| &mut old.node.kind), entry.node.kind) {
            (Some(Kind::Table(old)), Kind::Table(new)) => merge(old, new),
            (_, kind) => {
                tree.insert(key, Entry { key: entry.key, node: Node { kind, place: entry.node.place } });
            }
        }
    }
}

fn convert_table(table: &DeTable<'_>, source: usize) -> Table {
    let place = |span: std::ops::Range<usize>| Place { source, start: span.start, end: span.end };
    table
        .iter()
        .map(|(key, value)| {
            let node = Node { kind: convert(value.get_ref(), source), place: place(value.span()) };
            (key.get_ref().to_string(), Entry { key: place(key.span()), node })
        })
        .collect()
}

fn convert(value: &DeValue<'_>, source: usize) -> Kind {
    match value {
        DeValue::String(text) => Kind::String(text.to_string()),
        DeValue::Integer(number) => {
            let text = number.as_str();
            match i64::from_str_radix(text, number.radix()) {
                Ok(number) => Kind::Integer(number),
                Err(_) => Kind::Oversized(text.to_owned()),
            }
        }
        // Underscores and the like are gone; `inf` and `nan` parse in Rust as in TOML.
        DeValue::Float(number) => Kind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Kind::Boolean(*value),
        DeValue::Datetime(date) => Kind::Datetime(date.to_string()),
        DeValue::Array(items) => Kind::Array(
            items
                .iter()
                .map(|item| {
                    let span = item.span();
                    let place = Place { source, start: span.start, end: span.end };
                    Node { kind: convert(item.get_ref(), source), place }
                })
                .collect(),
        ),
        DeValue::Table(table) => Kind::Table(convert_table(table, source)),
    }
}
