//! Where a checkpoint has its chat template: `tokenizer_config.json`, and files beside it.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::{ChatTemplate, DEFAULT};
use crate::error::{Error, Result};

/// The file with the special tokens, and in older checkpoints with the template: one, or a list of named ones.
const CONFIG: &str = "tokenizer_config.json";

/// The file with the special tokens in older checkpoints.
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// The file with the template in newer checkpoints; it wins.
const TEMPLATE: &str = "chat_template.jinja";

/// The folder with further templates, each named as its file.
const FURTHER_TEMPLATES: &str = "additional_chat_templates";

/// The largest file that is read; templates have a few kilobytes, and a config with all added tokens a few megabytes.
const MOST_BYTES: u64 = 64 << 20;

impl ChatTemplate {
    /// The chat template of the checkpoint in `folder`; `None` if it has none, as checkpoints that are not for chats.
    ///
    /// # Errors
    /// If a file is not what it should be, or a template cannot be compiled.
    pub fn read(folder: &Path) -> Result<Option<ChatTemplate>> {
        let config = read_object(&folder.join(CONFIG))?.unwrap_or_default();
        let mut templates = match config.get("chat_template") {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::String(source)) => vec![(DEFAULT.to_owned(), source.clone())],
            Some(Json::Array(list)) => {
                let named = |item: &Json| Some((text(item.get("name")?)?, text(item.get("template")?)?));
                let templates = list.iter().map(named).collect::<Option<Vec<_>>>();
                templates.ok_or_else(|| wrong(folder, "objects with `name` and `template`"))?
            }
            Some(Json::Bool(_) | Json::Number(_) | Json::Object(_)) => return Err(wrong(folder, "a text or a list")),
        };
        let files = template_files(folder)?;
        if !files.is_empty() {
            templates = files;
        }
        if templates.is_empty() {
            return Ok(None);
        }
        let fallback = read_object(&folder.join(SPECIAL_TOKENS))?.unwrap_or_default();
        let template = ChatTemplate::named(templates, special_tokens(&config, &fallback));
        let located = |error: Error| Error::input(format!("in {}: {}", folder.display(), error.message()));
        template.map(Some).map_err(located)
    }

    /// The template in `file`, with the special tokens of the checkpoint in `folder`.
    ///
    /// # Errors
    /// If a file cannot be read, or the template cannot be compiled.
    pub fn read_file(file: &Path, folder: &Path) -> Result<ChatTemplate> {
        let source =
            std::fs::read_to_string(file).map_err(|error| Error::cannot_read("the chat template", file, &error))?;
        let config = read_object(&folder.join(CONFIG))?.unwrap_or_default();
        let fallback = read_object(&folder.join(SPECIAL_TOKENS))?.unwrap_or_default();
        ChatTemplate::new(&source, special_tokens(&config, &fallback))
    }
}

fn wrong(folder: &Path, expected: &str) -> Error {
    Error::input(format!("`chat_template` of {} is not {expected}", folder.join(CONFIG).display()))
}

fn text(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn template_files(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut templates = Vec::new();
    if let Some(source) = read_text(&folder.join(TEMPLATE))? {
        templates.push((DEFAULT.to_owned(), source));
    }
    let further = folder.join(FURTHER_TEMPLATES);
    if further.is_dir() {
        let cannot_read = |error: &std::io::Error| Error::cannot_read("chat templates", &further, error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&further).map_err(|error| cannot_read(&error))? {
            paths.push(entry.map_err(|error| cannot_read(&error))?.path());
        }
        paths.sort();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja"));
            if let (Some(name), Some(source)) = (name, read_text(&path)?) {
                templates.push((name.to_owned(), source));
            }
        }
    }
    Ok(templates)
}

/// The special tokens by the names that templates know them by.
fn special_tokens(config: &Map<String, Json>, fallback: &Map<String, Json>) -> Vec<(String, String)> {
    const NAMES: [&str; 7] =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let token = |value: &Json| text(value).or_else(|| text(value.get("content")?));
    let of = |name: &&str| {
        let found = [config, fallback].into_iter().find_map(|tokens| tokens.get(*name).and_then(token));
        found.map(|token| ((*name).to_owned(), token))
    };
    NAMES.iter().filter_map(of).collect()
}

/// The text of a file; `None` if there is no such file.
fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(found) if found.len() > MOST_BYTES => {
            let bytes = found.len();
            return Err(Error::input(format!("{} has {bytes} bytes, more than {MOST_BYTES}", path.display())));
        }
        Ok(_) | Err(_) => {}
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::cannot_read("chat template", path, &error)),
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Json>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let object = serde_json::from_str(&text)
        .map_err(|error| Error::input(format!("{} is not a JSON object: {error}", path.display())))?;
    Ok(Some(object))
}
