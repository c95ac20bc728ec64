//! Typed reading of one table of a configuration: every problem is recorded, and reading goes on with a stand-in.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::settings::Choice;
use super::source::{Place, Problem};
use super::tree::{Entry, Kind, Node, Table};

/// The largest size or count of elements along a dimension: token ids and dimension sizes stay within 31 bits.
pub(crate) const LARGEST_SIZE: i64 = i32::MAX as i64;

/// A table being read. Asking for a key makes it known; `finish` refuses the keys nobody asked for.
pub(crate) struct Section<'a> {
    name: &'static str,
    table: &'a Table,
    /// The header, or the table itself.
    place: Option<Place>,
    problems: &'a RefCell<Vec<Problem>>,
    known: RefCell<Vec<&'static str>>,
    /// Keys whose stand-in must not be held against another key.
    bad: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(
        name: &'static str,
        table: &'a Table,
        place: Option<Place>,
        problems: &'a RefCell<Vec<Problem>>,
    ) -> Section<'a> {
        let (known, bad) = (RefCell::default(), RefCell::default());
        Section { name, table, place, problems, known, bad }
    }

    /// A table within this one, whose problems join this one's.
    pub(crate) fn inner(&self, name: &'static str, table: &'a Table, place: Place) -> Section<'a> {
        Section::new(name, table, Some(place), self.problems)
    }

    /// The value as written, if it was.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key);
        self.table.get(key).map(|entry| &entry.node)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the value of `key` was written; the section when it was not.
    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        self.table.get(key).map(|entry| entry.node.place).or(self.place)
    }

    pub(crate) fn problem(&self, key: &'static str, problem: Problem) {
        self.bad.borrow_mut().insert(key);
        self.problems.borrow_mut().push(problem);
    }

    /// A rule about the value of `keys[0]` and the others; it is looked at only if all of them are sound.
    pub(crate) fn require(&self, keys: &[&'static str], holds: bool, message: impl FnOnce() -> String) {
        if !holds && self.sound(keys) {
            self.problem(keys[0], Problem::new(self.place(keys[0]), message()));
        }
    }

    /// Whether no problem was found with any of `keys`.
    pub(crate) fn sound(&self, keys: &[&'static str]) -> bool {
        let bad = self.bad.borrow();
        keys.iter().all(|key| !bad.contains(key))
    }

    pub(crate) fn wrong_type(&self, key: &'static str, node: &Node, expected: &str) {
        let problem = Problem::new(node.place, format!("`{key}` takes {expected}, found {}", node.kind.describe()));
        self.problem(key, problem);
    }

    fn missing(&self, key: &'static str) {
        let problem = Problem::new(self.place, format!("[{}] lacks `{key}`", self.name));
        self.problem(key, problem);
    }

    /// A required size of a dimension: 1 to 2^31 - 1.
    pub(crate) fn size(&self, key: &'static str) -> usize {
        self.optional_size(key).unwrap_or_else(|| {
            if !self.has(key) {
                self.missing(key);
            }
            1
        })
    }

    /// A size of a dimension, 1 to 2^31 - 1, or `default`.
    pub(crate) fn size_or(&self, key: &'static str, default: usize) -> usize {
        self.optional_size(key).unwrap_or(default)
    }

    pub(crate) fn optional_size(&self, key: &'static str) -> Option<usize> {
        self.whole(key, 1..=LARGEST_SIZE).and_then(|number| usize::try_from(number).ok())
    }

    /// A token id, 0 to 2^31 - 1.
    pub(crate) fn optional_id(&self, key: &'static str) -> Option<u32> {
        self.whole(key, 0..=LARGEST_SIZE).and_then(|number| u32::try_from(number).ok())
    }

    /// A required count that is at least 1.
    pub(crate) fn positive(&self, key: &'static str) -> u64 {
        self.whole(key, 1..=LARGEST_COUNT).map_or_else(
            || {
                if !self.has(key) {
                    self.missing(key);
                }
                1
            },
            i64::unsigned_abs,
        )
    }

    /// A count that may be zero, or `default`.
    pub(crate) fn count_or(&self, key: &'static str, default: u64) -> u64 {
        self.whole(key, 0..=LARGEST_COUNT).map_or(default, i64::unsigned_abs)
    }

    fn whole(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let node = self.node(key)?;
        let Kind::Integer(number) = node.kind else {
            self.wrong_type(key, node, "a whole number");
            return None;
        };
        if !range.contains(&number) {
            let bound = if number < *range.start() {
                format!("at least {}", range.start())
            } else {
                format!("at most {}", range.end())
            };
            self.problem(key, Problem::new(node.place, format!("`{key}` must be {bound}, found {number}")));
            return None;
        }
        Some(number)
    }

    /// A required finite number within bounds.
    pub(crate) fn number(&self, key: &'static str, bounds: &Bounds) -> f64 {
        match self.node(key) {
            Some(node) => self.number_at(key, node, bounds).unwrap_or(bounds.stand_in),
            None => {
                self.missing(key);
                bounds.stand_in
            }
        }
    }

    /// A finite number within bounds, or `default`.
    pub(crate) fn number_or(&self, key: &'static str, default: f64, bounds: &Bounds) -> f64 {
        self.node(key).and_then(|node| self.number_at(key, node, bounds)).unwrap_or(default)
    }

    pub(crate) fn number_at(&self, key: &'static str, node: &Node, bounds: &Bounds) -> Option<f64> {
        let number = match node.kind {
            Kind::Float(number) => number,
            Kind::Integer(number) => number as f64,
            Kind::String(_)
            | Kind::Oversized(_)
            | Kind::Boolean(_)
            | Kind::Datetime(_)
            | Kind::Array(_)
            | Kind::Table(_) => {
                self.wrong_type(key, node, "a number");
                return None;
            }
        };
        if !(number.is_finite() && (bounds.holds)(number)) {
            let message = format!("`{key}` must be {}, found {number:?}", bounds.text);
            self.problem(key, Problem::new(node.place, message));
            return None;
        }
        Some(number)
    }

    /// A boolean, or `default`.
    pub(crate) fn boolean_or(&self, key: &'static str, default: bool) -> bool {
        let Some(node) = self.node(key) else { return default };
        match node.kind {
            Kind::Boolean(value) => value,
            Kind::String(_)
            | Kind::Integer(_)
            | Kind::Oversized(_)
            | Kind::Float(_)
            | Kind::Datetime(_)
            | Kind::Array(_)
            | Kind::Table(_) => {
                self.wrong_type(key, node, "true or false");
                default
            }
        }
    }

    pub(crate) fn string(&self, key: &'static str, expected: &str) -> Option<&'a str> {
        let node = self.node(key)?;
        self.string_at(key, node, expected)
    }

    fn string_at(&self, key: &'static str, node: &'a Node, expected: &str) -> Option<&'a str> {
        let Kind::String(text) = &node.kind else {
            self.wrong_type(key, node, expected);
            return None;
        };
        Some(text)
    }

    /// A path, which must not be empty.
    pub(crate) fn path(&self, key: &'static str) -> Option<&'a str> {
        let text = self.string(key, "a path in quotes")?;
        self.require(&[key], !text.is_empty(), || format!("`{key}` is an empty path"));
        Some(text)
    }

    /// One path or a list of them, none empty.
    pub(crate) fn paths(&self, key: &'static str) -> Vec<&'a str> {
        let Some(paths) = self.strings(key, "a path in quotes or a list of paths") else { return Vec::new() };
        self.require(&[key], !paths.is_empty(), || format!("`{key}` is an empty list: no file to read"));
        self.require(&[key], paths.iter().all(|path| !path.is_empty()), || format!("`{key}` has an empty path"));
        paths
    }

    /// A string or a list of strings.
    pub(crate) fn strings(&self, key: &'static str, expected: &str) -> Option<Vec<&'a str>> {
        let node = self.node(key)?;
        Some(match &node.kind {
            Kind::Array(items) => items.iter().filter_map(|item| self.string_at(key, item, expected)).collect(),
            Kind::String(text) => vec![text],
            Kind::Integer(_)
            | Kind::Oversized(_)
            | Kind::Float(_)
            | Kind::Boolean(_)
            | Kind::Datetime(_)
            | Kind::Table(_) => {
                self.wrong_type(key, node, expected);
                Vec::new()
            }
        })
    }

    /// One of the names of `T`, or `default`.
    pub(crate) fn choice_or<T: Choice>(&self, key: &'static str, default: T) -> T {
        self.choice(key).unwrap_or(default)
    }

    /// One of the names of `T`.
    pub(crate) fn choice<T: Choice>(&self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        let names: Vec<&str> = T::ALL.iter().map(|(name, _)| *name).collect();
        let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let Kind::String(text) = &node.kind else {
            self.wrong_type(key, node, &format!("one of {list}"));
            return None;
        };
        if let Some((_, value)) = T::ALL.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let mut problem = Problem::new(node.place, format!("`{key}` is one of {list}, found {:?}", &**text));
        if let Some(name) = nearest(text, names) {
            problem = problem.help(format!("did you mean \"{name}\"?"));
        }
        self.problem(key, problem);
        None
    }

    /// A key that must be present, for values that are read by `node`, `paths` and the like.
    pub(crate) fn present(&self, key: &'static str) {
        if !self.has(key) {
            self.missing(key);
        }
    }

    /// Refuses the keys that were not asked for. `elsewhere` says of a key where it belongs, if anywhere.
    pub(crate) fn finish(self, elsewhere: impl Fn(&str) -> Option<String>) {
        let known = self.known.borrow();
        for (key, entry) in self.table {
            if !known.contains(&key.as_str()) {
                let message = match self.name {
                    "" => format!("unknown section [{key}]"),
                    name => format!("unknown key `{key}` in [{name}]"),
                };
                let problem = unknown(key, entry, message, &known, elsewhere(key));
                self.problems.borrow_mut().push(problem);
            }
        }
    }
}

/// The largest count of steps and the like; also what TOML can write.
const LARGEST_COUNT: i64 = i64::MAX;

/// What a number must be, beside finite.
pub(crate) struct Bounds {
    /// In words, after "must be".
    pub(crate) text: &'static str,
    pub(crate) holds: fn(f64) -> bool,
    /// What stands in for a number that is missing or wrong.
    pub(crate) stand_in: f64,
}

/// More than 0.
pub(crate) const POSITIVE: Bounds =
    Bounds { text: "a finite number more than 0", holds: |number| number > 0.0, stand_in: 1.0 };
/// At least 0.
pub(crate) const NOT_NEGATIVE: Bounds =
    Bounds { text: "a finite number, 0 or more", holds: |number| number >= 0.0, stand_in: 0.0 };
/// From 0 to 1.
pub(crate) const FRACTION: Bounds =
    Bounds { text: "between 0 and 1", holds: |number| (0.0..=1.0).contains(&number), stand_in: 0.0 };
/// From 0 to less than 1.
pub(crate) const BELOW_ONE: Bounds =
    Bounds { text: "at least 0 and less than 1", holds: |number| (0.0..1.0).contains(&number), stand_in: 0.0 };
/// More than 0, at most 1.
pub(crate) const PROBABILITY: Bounds =
    Bounds { text: "more than 0 and at most 1", holds: |number| number > 0.0 && number <= 1.0, stand_in: 1.0 };

fn unknown(key: &str, entry: &Entry, message: String, known: &[&'static str], elsewhere: Option<String>) -> Problem {
    let problem = Problem::new(entry.key, message);
    if let Some(elsewhere) = elsewhere {
        return problem.help(elsewhere);
    }
    match nearest(key, known.iter().copied()) {
        Some(name) => problem.help(format!("did you mean `{name}`?")),
        None => {
            let mut known: Vec<&str> = known.to_vec();
            known.sort_unstable();
            known.dedup();
            problem.help(format!("known here: {}", known.join(", ")))
        }
    }
}

/// The name that is nearest to a misspelt one, if any is near: at most a third of its letters differ.
fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let budget = (written.chars().count() / 3).max(1);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written.to_lowercase(), name), name))
        .filter(|(distance, _)| *distance <= budget)
        .min()
        .map(|(_, name)| name)
}

/// Every leaf of `table` by its dotted key, with the place of its value; tables of a list by their number from 0.
pub(crate) fn places(table: &Table) -> BTreeMap<String, Place> {
    let mut out = BTreeMap::new();
    collect_places(table, "", &mut out);
    out
}

fn collect_places(table: &Table, prefix: &str, out: &mut BTreeMap<String, Place>) {
    for (key, entry) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Kind::Table(inner) = &entry.node.kind {
            collect_places(inner, &path, out);
        }
        if let Kind::Array(items) = &entry.node.kind {
            for (index, item) in items.iter().enumerate() {
                if let Kind::Table(inner) = &item.kind {
                    collect_places(inner, &format!("{path}.{index}"), out);
                }
            }
        }
        out.insert(path, entry.node.place);
    }
}
