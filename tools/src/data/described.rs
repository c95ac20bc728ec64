//! What the `shards.json` beside token shards say of them, and whether they agree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sidecar::{ShardEntry, Sidecar};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// What a `shards.json` says of one shard.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) folder: PathBuf,
    pub(super) sidecar: Arc<Sidecar>,
    pub(super) entry: ShardEntry,
}

/// The descriptions that were read, a folder each.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    folders: BTreeMap<PathBuf, Option<Arc<Sidecar>>>,
}

impl Descriptions {
    /// The description of a shard; `None` if its folder has none, or one that does not list it.
    pub(super) fn of(&mut self, path: &Path) -> Result<Option<Description>> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            Some(_) | None => Path::new("."),
        };
        let sidecar = match self.folders.get(folder) {
            Some(sidecar) => sidecar.clone(),
            None => {
                let sidecar = Sidecar::read(folder)?.map(Arc::new);
                self.folders.insert(folder.to_owned(), sidecar.clone());
                sidecar
            }
        };
        let Some(sidecar) = sidecar else { return Ok(None) };
        let name = path.file_name().and_then(|name| name.to_str());
        let entry = sidecar.shards.iter().find(|entry| Some(entry.file.as_str()) == name).cloned();
        Ok(entry.map(|entry| Description { folder: folder.to_owned(), sidecar, entry }))
    }
}

impl Description {
    /// The file that says it.
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join(Sidecar::NAME)
    }

    /// Refuses shards whose ids mean other things than those of `first`.
    pub(super) fn agree(&self, first: &Description) -> Result<(), String> {
        let (here, there) = (&self.sidecar, &first.sidecar);
        let differ = |what: &str, here: String, there: String| {
            let (file, other) = (self.file(), first.file());
            Err(format!(
                "the shards are not of one tokenizer: {} says {what} {here}, and {} says {there}",
                file.display(),
                other.display()
            ))
        };
        if here.vocab_size != there.vocab_size {
            return differ("vocab_size", here.vocab_size.to_string(), there.vocab_size.to_string());
        }
        if here.tokenizer.sha256 != there.tokenizer.sha256 {
            return differ("the tokenizer's SHA-256", here.tokenizer.sha256.clone(), there.tokenizer.sha256.clone());
        }
        if here.end_of_document != there.end_of_document {
            let show = |id: Option<u32>| id.map_or_else(|| "null".to_owned(), |id| id.to_string());
            return differ("end_of_document", show(here.end_of_document), show(there.end_of_document));
        }
        Ok(())
    }

    /// The tokenizer the shards were made with; `None`, with a warning, where its file is gone.
    ///
    /// # Errors
    /// If the file is another one, or not a tokenizer.
    pub(super) fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let path = self.sidecar.tokenizer_path(&self.folder);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let sidecar = self.file();
                tracing::warn!("{} names a tokenizer, {}, that is not there", sidecar.display(), path.display());
                return Ok(None);
            }
            Err(error) => return Err(Error::cannot_read("the tokenizer", &path, &error)),
        };
        let found = sha256(&bytes);
        if found != self.sidecar.tokenizer.sha256 {
            return Err(Error::input(format!(
                "{} is not the tokenizer that the shards beside it were made with: its SHA-256 is {found}, and {} says {}",
                path.display(),
                self.file().display(),
                self.sidecar.tokenizer.sha256
            )));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::input(format!("the tokenizer {} is not UTF-8 text", path.display())))?;
        Tokenizer::from_json(&path, &text).map(Some)
    }
}
