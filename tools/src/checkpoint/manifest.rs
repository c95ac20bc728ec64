//! `state.json`: what a checkpoint is of, and what each of its files and tensors must be.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::sha256;
use crate::error::reason;

/// The content of `state.json`. What is absent was not saved yet in the format that the file has.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) format: u32,
    pub(super) step: u64,
    pub(super) seed: u64,
    pub(super) config_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) graph_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tokenizer_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) val_loss: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Value>,
    pub(super) files: BTreeMap<String, FileRecord>,
    /// Of this file with zeros here; in format 1, of its values with nothing here.
    pub(super) sha256: String,
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// The SHA-256 of each tensor's bytes, by name; empty for other files, and in format 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tensors: BTreeMap<String, String>,
}

/// The version of the layout that is written. Format 1, with a hash a file but none a tensor, is read as well.
pub(super) const FORMAT: u32 = 2;

/// The name of the file.
pub(super) const STATE: &str = "state.json";

/// What stands in the place of the hash while it is computed.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl State {
    /// Fills in its own hash, and returns the text of the file.
    pub(super) fn seal(&mut self) -> serde_json::Result<String> {
        self.sha256 = NO_HASH.to_owned();
        let text = serde_json::to_string_pretty(self)? + "\n";
        let hash = sha256(text.as_bytes());
        // It is the last value, and other hashes are never zero.
        let (before, after) = text.rsplit_once(NO_HASH).expect("it was just written");
        Ok(format!("{before}{hash}{after}"))
    }

    /// Reads the file in the checkpoint `path`, or says why it is none.
    pub(super) fn read(path: &Path) -> Result<State, String> {
        let bytes = std::fs::read(path.join(STATE)).map_err(|error| reason(&error))?;
        State::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<State, String> {
        let version: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match version.get("format").and_then(Value::as_u64) {
            Some(1 | 2) => {}
            Some(format) => return Err(format!("format {format}; this version of lmc reads formats 1 to {FORMAT}")),
            None => return Err("no `format`".to_owned()),
        }
        let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let digest = match state.format {
            1 => Some(state.digest_of_values().map_err(|error| error.to_string())?),
            _ => digest_of_text(bytes, &state.sha256),
        };
        if digest.as_ref() != Some(&state.sha256) {
            return Err("its own SHA-256 does not fit it: the file has changed".to_owned());
        }
        Ok(state)
    }

    /// What `sha256` must be in format 1.
    fn digest_of_values(&self) -> serde_json::Result<String> {
        let mut json = serde_json::to_value(self)?;
        if let Some(own) = json.get_mut("sha256") {
            *own = Value::Null;
        }
        Ok(sha256(json.to_string().as_bytes()))
    }

    /// The bytes of all files but this one.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|record| record.bytes).sum()
    }
}

/// What `sha256`, of which the file says that it is `own`, must be in format 2: the hash of the text with zeros in its
/// place. Of the text, since numbers may not be written the same way twice. `None` if there is no such place.
fn digest_of_text(bytes: &[u8], own: &str) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (before, after) = text.rsplit_once(own).filter(|_| own.len() == NO_HASH.len())?;
    Some(sha256(format!("{before}{NO_HASH}{after}").as_bytes()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes the `state.json` in `path` that of format 1, whose hash is of the values.
    pub(in super::super) fn rewrite_as_format_1(path: &Path) {
        let mut state = State::read(path).unwrap();
        state.format = 1;
        (state.graph_hash, state.tokenizer_hash, state.data) = (None, None, None);
        (state.rows, state.learning_rate, state.val_loss) = (None, None, None);
        state.files.remove("config.toml");
        state.files.values_mut().for_each(|record| record.tensors.clear());
        state.sha256 = state.digest_of_values().unwrap();
        std::fs::write(path.join(STATE), serde_json::to_string_pretty(&state).unwrap() + "\n").unwrap();
        std::fs::remove_file(path.join("config.toml")).unwrap();
    }

    #[test]
    fn the_hash_is_of_the_text() {
        let record = FileRecord { bytes: 1, sha256: sha256(b"x"), tensors: BTreeMap::new() };
        let mut state = State {
            format: FORMAT,
            step: 7,
            seed: 1,
            config_hash: "c".to_owned(),
            graph_hash: None,
            tokenizer_hash: None,
            rows: None,
            // Not the same after a parser that rounds.
            learning_rate: Some(5.430_000_000_000_001e-5),
            val_loss: None,
            data: Some(serde_json::json!({"tokens": 3, "weight": 0.1 + 0.2})),
            files: BTreeMap::from([("x".to_owned(), record)]),
            sha256: String::new(),
        };
        let text = state.seal().unwrap();
        let read = State::parse(text.as_bytes()).unwrap();
        assert_eq!((read.learning_rate, &read.data), (state.learning_rate, &state.data));
        for (from, to) in [("\"step\": 7", "\"step\": 8"), ("\"step\": 7", "\"step\":  7"), ("0.3", "0.4")] {
            assert!(text.contains(from), "{text}");
            let Err(reason) = State::parse(text.replacen(from, to, 1).as_bytes()) else { panic!("{from} -> {to}") };
            assert!(reason.contains("SHA-256"), "{reason}");
        }
        assert!(State::parse(text.replace(&read.sha256, "").as_bytes()).is_err());
    }
}
