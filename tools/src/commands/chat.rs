//! `lmc chat`.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::pretrained::{engine, fitting, load_model, say_figures};
use crate::chat_template::{Chat, ChatTemplate};
use crate::cli::ChatArgs;
use crate::engine::{Engine, Request, Sampling, StopStrings};
use crate::error::{Error, Result};
use crate::output::{print, say};
use crate::pretrained::Model;

/// A talk: what was said, and what answers.
struct Talk {
    model: Arc<Model>,
    engine: Engine,
    template: ChatTemplate,
    request: Request,
    stops: StopStrings,
    /// Whether a talk that is too long loses its beginning.
    truncate: bool,
    messages: Vec<Map<String, Value>>,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Reset,
    System(&'a str),
    Save(&'a str),
    Quit,
    Unknown(&'a str),
    Said(&'a str),
}

const HELP: &str = "/reset begins anew, /system TEXT says what the model is, /save FILE keeps the talk, /quit ends it";

pub(super) fn run(args: ChatArgs) -> Result<()> {
    let Some(template) = ChatTemplate::read(&args.folder)? else {
        return Err(Error::input(format!(
            "{} has no chat template: continue texts with `lmc generate`",
            args.folder.display()
        )));
    };
    let stops = StopStrings::new(&args.model.stop)?;
    let model = load_model(&args.folder, &args.model, &args.plugin)?;
    let defaults = &model.generation().sampling;
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        min_p: args.model.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: args.model.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: args.model.presence_penalty,
        frequency_penalty: args.model.frequency_penalty,
        logit_bias: Vec::new(),
        seed: args.seed,
    };
    let engine = engine(&model, &args.model, 1)?;
    let request = Request {
        sampling,
        max_tokens: args.max_new_tokens,
        stop_tokens: model.generation().eos.clone(),
        ..Request::default()
    };
    let truncate = args.model.truncate_prompt;
    let mut talk = Talk { model, engine, template, request, stops, truncate, messages: Vec::new() };
    talk.begin(args.system.as_deref());
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        say(HELP);
    }
    let mut line = String::new();
    loop {
        if is_terminal {
            print("> ")?;
        }
        line.clear();
        let read = std::io::stdin().read_line(&mut line);
        if read.map_err(|error| Error::input(format!("cannot read what is said: {error}")))? == 0 {
            break;
        }
        match parse(&line) {
            Line::Nothing => {}
            Line::Reset => talk.begin(None),
            Line::System(text) => talk.begin(Some(text)),
            Line::Save(file) => match save(Path::new(file), &talk.messages) {
                Ok(()) => say(format_args!("the talk is in {file}")),
                Err(error) => say(format_args!("error: {error}")),
            },
            Line::Quit => break,
            Line::Unknown(command) => say(format_args!("{command} is no command: {HELP}")),
            Line::Said(text) => match talk.answer(text) {
                Ok(()) => {}
                // What cannot be said may be said otherwise, in a talk; elsewhere nobody would see.
                Err(error) if is_terminal && error.exit_code() == 2 => say(format_args!("error: {error}")),
                Err(error) => return Err(error),
            },
        }
    }
    say_figures(&talk.engine.figures());
    Ok(())
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "" => Line::Nothing,
        "/reset" => Line::Reset,
        "/system" => Line::System(rest),
        "/save" if !rest.is_empty() => Line::Save(rest),
        "/quit" | "/exit" => Line::Quit,
        word if word.starts_with('/') => Line::Unknown(word),
        _ => Line::Said(line),
    }
}

impl Talk {
    /// Forgets what was said; with `system`, what the model was told, too.
    fn begin(&mut self, system: Option<&str>) {
        let is_system = |message: &Map<String, Value>| message.get("role").is_some_and(|role| role == "system");
        match system {
            None => self.messages.retain(is_system),
            Some("") => self.messages.clear(),
            Some(text) => self.messages = vec![message("system", text)],
        }
    }

    /// Prints the answer to what is said, as it comes. What could not be answered was not said.
    fn answer(&mut self, text: &str) -> Result<()> {
        self.messages.push(message("user", text));
        match self.reply() {
            Ok(answer) => {
                self.messages.push(message("assistant", &answer));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn reply(&mut self) -> Result<String> {
        let chat = Chat { messages: self.messages.clone(), add_generation_prompt: true, ..Chat::default() };
        let prompt = self.template.encode(&chat, self.model.tokenizer()?)?;
        let prompt = fitting(prompt, &self.engine, self.truncate, Some(self.request.max_tokens));
        let request = Request { prompt, ..self.request.clone() };
        let mut answer = String::new();
        for piece in self.engine.generate(&self.model, request, &self.stops)? {
            let piece = piece?;
            print(&piece.text)?;
            answer += &piece.text;
        }
        print("\n")?;
        Ok(answer)
    }
}

fn message(role: &str, content: &str) -> Map<String, Value> {
    Map::from_iter([("role".to_owned(), role.into()), ("content".to_owned(), content.into())])
}

/// Writes messages as JSON to a new file.
fn save(path: &Path, messages: &[Map<String, Value>]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| Error::cannot_write("the talk", path, &error))?;
    let text = format!("{:#}\n", json!({ "messages": messages }));
    file.write_all(text.as_bytes()).map_err(|error| Error::cannot_write("the talk", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        for (line, expected) in [
            (" \n", Line::Nothing),
            ("/reset\n", Line::Reset),
            ("/system  be brief \n", Line::System("be brief")),
            ("/system\n", Line::System("")),
            ("/save talk.json\n", Line::Save("talk.json")),
            ("/save\n", Line::Unknown("/save")),
            ("/quit\n", Line::Quit),
            ("/sav x\n", Line::Unknown("/sav")),
            ("what is 1/2?\n", Line::Said("what is 1/2?")),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_talk_is_saved_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        save(&path, &[message("user", "hello")]).unwrap();
        let saved: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(saved, json!({"messages": [{"role": "user", "content": "hello"}]}));
        assert!(save(&path, &[]).is_err(), "nothing is overwritten");
    }
}
