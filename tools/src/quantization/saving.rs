//! `lmc quantize`: a folder of Hugging Face's with its weights in few bits.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use lmc_graph::TensorType;
use lmc_models::stored::Stored;
use serde_json::{Value, json};

use super::Scheme;
use super::loading::Quantizing;
use crate::checkpoint::header_of;
use crate::error::{Error, Result};
use crate::pretrained::{self, WeightSource as _};

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    /// Bytes of the weights before.
    pub bytes_before: u64,
    /// And after.
    pub bytes: u64,
    /// Weights in few bits.
    pub quantized: usize,
    /// All weights.
    pub weights: usize,
}

/// Writes the folder `out`, which must not be there: the weights of `folder` in few bits, its config with what was done
/// (`quantization_config`), and its other files of JSON. The folder is there whole or not at all.
///
/// # Errors
/// If `folder` is no model in floats, or `out` is there or cannot be written.
pub fn save(folder: &Path, out: &Path, scheme: Scheme) -> Result<Saved> {
    let scheme = scheme.checked()?;
    if out.symlink_metadata().is_ok() {
        return Err(Error::input(format!("{} is there already; name another folder", out.display())));
    }
    let config_path = folder.join("config.json");
    let text = fs::read_to_string(&config_path).map_err(|e| Error::cannot_read("the config", &config_path, &e))?;
    let opened = pretrained::open(folder, None)?;
    let mut config: Value =
        serde_json::from_str(&text).map_err(|error| Error::input(format!("{}: {error}", config_path.display())))?;
    if !config["quantization_config"].is_null() || !config["quantization"].is_null() {
        return Err(Error::input(format!("the weights of {} are quantized already", folder.display())));
    }
    config["quantization_config"] = json!({
        "quant_method": "lmc", "bits": scheme.bits, "group_size": scheme.group_size, "zeros": scheme.zeros,
    });
    let specs = opened.architecture.specs();
    let source = Quantizing::new(opened.weights, scheme);
    let mut saved = Saved { bytes_before: 0, bytes: 0, quantized: 0, weights: specs.len() };
    let mut weights: Vec<(&str, Vec<(String, TensorType)>)> = Vec::new();
    for (path, spec) in specs.iter() {
        let Some(stored) = source.stored(path, spec)? else {
            return Err(Error::input(format!("{} has no `{path}`", folder.display())));
        };
        if let Stored::Quantized(quantization) = &stored {
            saved.quantized += 1;
            saved.bytes_before += (spec.ty.num_elements() * quantization.scales.size()) as u64;
        } else {
            saved.bytes_before += stored.num_bytes(spec) as u64;
        }
        saved.bytes += stored.num_bytes(spec) as u64;
        let parts = stored.parts(spec).into_iter();
        weights.push((path, parts.map(|(suffix, ty)| (format!("{path}{suffix}"), ty)).collect()));
    }
    // `--group-size` may fit none of the columns.
    if saved.quantized == 0 {
        return Err(Error::input(format!("no weight has columns in groups of {}", scheme.group_size)));
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot_write = |error: &std::io::Error| Error::cannot_write("the folder", out, error);
    let temporary = tempfile::Builder::new().prefix(".lmc-quantize-").tempdir_in(parent);
    let temporary = temporary.map_err(|error| cannot_write(&error))?;
    let parts = weights.iter().flat_map(|(_, parts)| parts);
    let header = header_of(parts.map(|(name, ty)| (name.as_str(), ty)));
    let file = File::create(temporary.path().join("model.safetensors")).map_err(|error| cannot_write(&error))?;
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(|error| cannot_write(&error))?;
    file.write_all(header.as_bytes()).map_err(|error| cannot_write(&error))?;
    for (path, parts) in &weights {
        let types: Vec<TensorType> = parts.iter().map(|(_, ty)| ty.clone()).collect();
        let mut bytes: Vec<Vec<u8>> = types.iter().map(|ty| vec![0; ty.num_bytes()]).collect();
        source.read(path, &types, &mut bytes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())?;
        bytes.iter().try_for_each(|bytes| file.write_all(bytes)).map_err(|error| cannot_write(&error))?;
    }
    let file = file.into_inner().map_err(|error| cannot_write(error.error()))?;
    file.sync_all().map_err(|error| cannot_write(&error))?;
    fs::write(temporary.path().join("config.json"), format!("{config:#}\n")).map_err(|error| cannot_write(&error))?;
    let entries = fs::read_dir(folder).map_err(|error| Error::cannot_read("the folder", folder, &error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_other = !["config.json", "model.safetensors.index.json"].iter().any(|known| name == *known);
        let is_small = [".json", ".jinja", ".txt", ".model"].iter().any(|end| name.to_string_lossy().ends_with(end));
        if is_other && is_small && entry.path().is_file() {
            fs::copy(entry.path(), temporary.path().join(&name)).map_err(|error| cannot_write(&error))?;
        }
    }
    let temporary = temporary.keep();
    fs::rename(&temporary, out).map_err(|error| {
        // Nothing is left under a name of ours.
        let _ = fs::remove_dir_all(&temporary);
        cannot_write(&error)
    })?;
    Ok(saved)
}
