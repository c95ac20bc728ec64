//! How many rows go at a time where the config leaves it to the memory.

use std::path::Path;

use crate::config::{Config, RawConfig};
use crate::error::Result;
use crate::memory::{Room, size};
use crate::output::say;
use crate::plan;

/// The config with `micro_batch_size = "auto"` decided: as in the run that is continued, if its batch is the same, else
/// as many rows as are sure to fit.
///
/// # Errors
/// If not even one row fits, or the vocabulary is not known.
pub(super) fn decided(config: &Config, saved: Option<&str>, room: &Room) -> Result<Config> {
    if !config.train.micro_batch_auto {
        return Ok(config.clone());
    }
    if let Some(toml) = saved {
        let saved = RawConfig::parse(Path::new("the checkpoint's config.toml"), toml, &[])?.validate()?;
        let (rows, count) = (saved.train.micro_batch_size, saved.train.grad_accum_steps);
        if rows * count == config.train.micro_batch_size * config.train.grad_accum_steps {
            return Ok(config.with_train(|train| {
                (train.micro_batch_size, train.grad_accum_steps, train.micro_batch_auto) = (rows, count, false);
            }));
        }
    }
    let known = plan::with_vocabulary(config)?;
    let train = plan::fitting_micro_batch(&known, &room.target, room.available)?.train.clone();
    let (rows, count) = (train.micro_batch_size, train.grad_accum_steps);
    let memory = room
        .available
        .map_or_else(String::new, |bytes| format!(", the most that are sure to fit into {}", size(bytes.into())));
    say(format_args!("micro_batch_size = {rows}{memory}; grad_accum_steps = {count}"));
    // The vocabulary is filled in when the data are opened.
    Ok(config.with_train(|train| {
        (train.micro_batch_size, train.grad_accum_steps, train.micro_batch_auto) = (rows, count, false);
    }))
}
