//! Calls of tools in what a model writes, in the forms of the common families.
//!
//! | form | a model writes |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as there are calls |
//! | Mistral | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name[ARGS]{…}` for each |
//! | Llama 3 | `{"name": …, "parameters": {…}}` alone, several with semicolons; perhaps behind `<\|python_tag\|>` |
//!
//! What looks like a call and is none, or is of a tool that was not offered, is text.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::sampling::random;
use crate::tokenizer::Tokenizer;

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolForm {
    /// Between marks.
    Hermes,
    /// Behind a mark, up to the end.
    Mistral,
    /// Instead of text.
    Llama3,
}

const HERMES_END: &str = "</tool_call>";

impl ToolForm {
    /// The form that a chat template shows calls in, if it is one of these.
    pub fn of_template(source: &str) -> Option<ToolForm> {
        // Some templates have the marks of Hermes around a form of their own.
        if source.contains("<function=") {
            None
        } else if source.contains("<tool_call>") {
            Some(ToolForm::Hermes)
        } else if source.contains("[TOOL_CALLS]") {
            Some(ToolForm::Mistral)
        } else if source.contains("<|python_tag|>") {
            Some(ToolForm::Llama3)
        } else {
            None
        }
    }

    /// What stands before calls.
    fn mark(self) -> &'static str {
        match self {
            ToolForm::Hermes => "<tool_call>",
            ToolForm::Mistral => "[TOOL_CALLS]",
            ToolForm::Llama3 => "<|python_tag|>",
        }
    }
}

/// How a request's calls are read.
#[derive(Clone, Debug)]
pub(super) struct ToolReading {
    form: ToolForm,
    /// The tools that were offered.
    names: Arc<[String]>,
    /// The token of the mark, where it is one that has no text.
    pub(super) mark: Option<u32>,
}

impl ToolReading {
    /// Calls of these tools.
    pub(super) fn new(form: ToolForm, tools: &[Value], tokenizer: &Tokenizer) -> ToolReading {
        let names = tools.iter().filter_map(|tool| tool["function"]["name"].as_str().map(str::to_owned)).collect();
        let mark = tokenizer.token_id(form.mark());
        let mark = mark.filter(|&mark| tokenizer.decode(&[mark.cast_signed()]).is_empty());
        ToolReading { form, names, mark }
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCall {
    /// Which of its text it is.
    index: usize,
    id: String,
    name: String,
    /// JSON, as text.
    arguments: String,
}

impl ToolCall {
    /// OpenAI's object.
    pub(super) fn object(&self) -> Value {
        let Self { id, name, arguments, .. } = self;
        json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
    }

    /// OpenAI's object in a stream.
    pub(super) fn chunk(&self) -> Value {
        let mut object = self.object();
        object["index"] = json!(self.index);
        object
    }
}

/// What came of a piece of text.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
}

impl Read {
    /// What came afterwards, too.
    pub(super) fn extend(&mut self, more: Read) {
        self.text += &more.text;
        self.calls.extend(more.calls);
    }
}

/// Reads calls out of one text as it grows.
#[derive(Debug)]
pub(super) struct CallReader {
    reading: ToolReading,
    /// Text that may belong to a call.
    held: String,
    /// Whether what is held is behind a mark.
    in_call: bool,
    /// Whether any text was given.
    has_text: bool,
    /// Calls so far.
    pub(super) calls: usize,
}

impl CallReader {
    pub(super) fn new(reading: &ToolReading) -> CallReader {
        CallReader { reading: reading.clone(), held: String::new(), in_call: false, has_text: false, calls: 0 }
    }

    /// Takes the text of the mark, whose token has none.
    pub(super) fn push_mark(&mut self) -> Read {
        self.push(self.reading.form.mark())
    }

    /// Takes text; what is given back nothing later changes.
    pub(super) fn push(&mut self, text: &str) -> Read {
        self.held.push_str(text);
        let mut read = Read::default();
        loop {
            if self.in_call {
                let (ToolForm::Hermes, Some(end)) = (self.reading.form, self.held.find(HERMES_END)) else { break };
                let rest = self.held.split_off(end + HERMES_END.len());
                let whole = std::mem::replace(&mut self.held, rest);
                self.in_call = false;
                self.take_calls(&whole, &mut read);
                continue;
            }
            if let Some(at) = self.held.find(self.reading.form.mark()) {
                self.give(at, &mut read);
                self.in_call = true;
                continue;
            }
            if self.reading.form == ToolForm::Llama3 && !self.has_text && self.held.trim_start().starts_with('{') {
                self.in_call = true;
                continue;
            }
            let sure = self.held.len() - self.undecided();
            self.give(sure, &mut read);
            break;
        }
        read
    }

    /// What was still held back, at the end of the text.
    pub(super) fn finish(&mut self) -> Read {
        let mut read = Read::default();
        let held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.in_call) {
            self.take_calls(&held, &mut read);
        } else if self.calls == 0 || !held.trim().is_empty() {
            read.text = held;
        }
        read
    }

    /// Gives the first `at` bytes as text, but for white space between calls.
    fn give(&mut self, at: usize, read: &mut Read) {
        let rest = self.held.split_off(at);
        let text = std::mem::replace(&mut self.held, rest);
        if self.calls > 0 && text.trim().is_empty() {
            return;
        }
        self.has_text |= !text.trim().is_empty();
        read.text += &text;
    }

    /// Bytes at the end of what is held that may become part of a mark, with the white space before them.
    fn undecided(&self) -> usize {
        let mark = self.reading.form.mark();
        let begins = |length: &usize| self.held.ends_with(&mark[..*length]);
        let begun = (1..mark.len()).rev().find(begins).unwrap_or(0);
        let before = &self.held[..self.held.len() - begun];
        self.held.len() - before.trim_end().len()
    }

    /// Takes calls, with the marks around them; what are none is text.
    fn take_calls(&mut self, whole: &str, read: &mut Read) {
        let mark = self.reading.form.mark();
        let calls = match self.reading.form {
            ToolForm::Hermes => {
                let inner = whole.trim_start().trim_start_matches(mark);
                call(&parse(inner.trim_end().trim_end_matches(HERMES_END))).map(|call| vec![call])
            }
            ToolForm::Mistral => {
                let parts = whole.split(mark).filter(|part| !part.trim().is_empty()).map(mistral);
                parts.collect::<Option<Vec<_>>>().map(|parts| parts.concat())
            }
            ToolForm::Llama3 => llama3(whole.trim_start().trim_start_matches(mark)),
        };
        match calls {
            Some(calls) if !calls.is_empty() && calls.iter().all(|(name, _)| self.reading.names.contains(name)) => {
                for (name, arguments) in calls {
                    let id = id_of(self.reading.form);
                    read.calls.push(ToolCall { index: self.calls, id, name, arguments });
                    self.calls += 1;
                }
            }
            Some(_) | None => {
                self.has_text = true;
                read.text += whole;
            }
        }
    }
}

/// A name for a call: nine letters and digits, as Mistral's templates want.
fn id_of(form: ToolForm) -> String {
    let (mut number, mut id) = (random(), String::new());
    for _ in 0..9 {
        id.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
    }
    match form {
        ToolForm::Mistral => id,
        ToolForm::Hermes | ToolForm::Llama3 => format!("call_{id}"),
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// The name and arguments of a call as an object.
fn call(value: &Value) -> Option<(String, String)> {
    let call = value.as_object()?;
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(Value::String(text)) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => text.clone(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

/// What stands between two of Mistral's marks: a list of calls, or a name with arguments.
fn mistral(part: &str) -> Option<Vec<(String, String)>> {
    let part = part.trim();
    if part.starts_with('[') {
        return parse(part).as_array()?.iter().map(call).collect();
    }
    let (name, arguments) = part.split_at(part.find(['{', '['])?);
    let arguments = arguments.trim_start_matches("[ARGS]");
    let arguments: Map<String, Value> = serde_json::from_str(arguments).ok()?;
    Some(vec![(name.trim().to_owned(), Value::Object(arguments).to_string())])
}

/// Objects one behind the other.
fn llama3(text: &str) -> Option<Vec<(String, String)>> {
    let mut calls = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        calls.push(call(&values.next()?.ok()?)?);
        let end = values.byte_offset();
        rest = rest[end..].trim_start_matches([' ', '\n', '\t', '\r', ';']);
    }
    Some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(form: ToolForm) -> ToolReading {
        let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
        ToolReading::new(form, &[tool("add"), tool("time")], &Tokenizer::Byte)
    }

    /// The text and the calls of a text that comes in pieces of so many bytes.
    fn read(form: ToolForm, whole: &str, step: usize) -> (String, Vec<(String, String)>) {
        let mut reader = CallReader::new(&reading(form));
        let (mut text, mut calls) = (String::new(), Vec::new());
        let mut take = |read: Read| {
            text += &read.text;
            for call in read.calls {
                assert_eq!(call.index, calls.len());
                calls.push((call.name, call.arguments));
            }
        };
        let characters: Vec<char> = whole.chars().collect();
        for piece in characters.chunks(step) {
            take(reader.push(&piece.iter().collect::<String>()));
        }
        take(reader.finish());
        assert_eq!(reader.calls, calls.len());
        (text, calls)
    }

    #[track_caller]
    fn check(form: ToolForm, whole: &str, text: &str, calls: &[(&str, &str)]) {
        for step in [1, 2, 5, 1000] {
            let found = read(form, whole, step);
            let expected: Vec<(String, String)> =
                calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
            assert_eq!(found, (text.to_owned(), expected), "{whole:?} in pieces of {step}");
        }
    }

    #[test]
    fn hermes() {
        let form = ToolForm::Hermes;
        let add = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": \"</x>\"}}\n</tool_call>";
        let added = ("add", "{\"a\":1,\"b\":\"</x>\"}");
        check(form, "A text < with <tool things.\n", "A text < with <tool things.\n", &[]);
        check(form, add, "", &[added]);
        check(form, &format!("Let me see.\n{add}\n{add}\n"), "Let me see.\n", &[added, added]);
        check(form, "<tool_call>{\"name\": \"time\"}", "", &[("time", "{}")]);
        check(form, &format!("{add} and"), " and", &[added]);
        // Neither a tool of another name nor what is no JSON is a call.
        for none in ["<tool_call>{\"name\": \"rm\"}</tool_call>", "<tool_call>add(1)</tool_call>!", "<tool_call>"] {
            check(form, none, none, &[]);
        }
    }

    #[test]
    fn mistral() {
        let form = ToolForm::Mistral;
        let calls = "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": [1]}}, {\"name\": \"time\"}]";
        check(form, calls, "", &[("add", "{\"a\":[1]}"), ("time", "{}")]);
        check(form, &format!("So: {calls}"), "So: ", &[("add", "{\"a\":[1]}"), ("time", "{}")]);
        let newer = "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]time{}";
        check(form, newer, "", &[("add", "{\"a\":1}"), ("time", "{}")]);
        check(form, "[TOOL", "[TOOL", &[]);
        check(form, "[TOOL_CALLS][{\"name\":", "[TOOL_CALLS][{\"name\":", &[]);
        assert_eq!(id_of(form).len(), 9);
    }

    #[test]
    fn llama3() {
        let form = ToolForm::Llama3;
        let add = "{\"name\": \"add\", \"parameters\": {\"a\": 1}}";
        check(form, add, "", &[("add", "{\"a\":1}")]);
        check(form, &format!("<|python_tag|>{add}; {add}"), "", &[("add", "{\"a\":1}"), ("add", "{\"a\":1}")]);
        check(form, "{\"no\": 1}", "{\"no\": 1}", &[]);
        check(form, &format!("An object: {add}"), &format!("An object: {add}"), &[]);
        check(form, "{\"name\": \"add\", \"parameters\": 3}", "{\"name\": \"add\", \"parameters\": 3}", &[]);
    }

    #[test]
    fn forms_of_templates() {
        for (source, form) in [
            ("…<tool_call>\\n{\"name\": …", Some(ToolForm::Hermes)),
            ("<tool_call>\\n<function=", None),
            ("{{ \"[TOOL_CALLS]\" }}", Some(ToolForm::Mistral)),
            ("<|python_tag|>", Some(ToolForm::Llama3)),
            ("{{ m.content }}", None),
        ] {
            assert_eq!(ToolForm::of_template(source), form, "{source}");
        }
    }
}
