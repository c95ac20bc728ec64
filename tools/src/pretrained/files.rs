//! The safetensors files of a folder: one, or several with an index. Headers are checked against the files' sizes before
//! anything is read, and weights are read where they lie, one at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lmc_graph::{DType, TensorType};
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::source::WeightSource;
use crate::checkpoint::dtype_of;
use crate::error::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The longest header: what the format's own library takes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors of a folder's files.
#[derive(Debug)]
pub struct SafetensorsFiles {
    folder: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Place>,
    /// The element type in which floats are kept on the device; `None` keeps bf16 and f32, and widens f16.
    dtype: Option<DType>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    ty: TensorType,
    begin: u64,
}

impl SafetensorsFiles {
    /// Opens the files of a folder and checks them.
    ///
    /// # Errors
    /// If there are none, one is missing, cut short, longer than its header says, or otherwise not safetensors, or the
    /// index does not fit.
    pub fn open(folder: &Path, dtype: Option<DType>) -> Result<SafetensorsFiles> {
        let mut this =
            SafetensorsFiles { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), dtype };
        if folder.join(SINGLE).is_file() {
            this.add(SINGLE)?;
            return Ok(this);
        }
        let index = folder.join(INDEX);
        if !index.is_file() {
            let has_pickle = folder.join("pytorch_model.bin").is_file();
            let advice = if has_pickle { "; pytorch_model.bin is not read: convert it to safetensors" } else { "" };
            return Err(Error::input(format!("{} has no {SINGLE} and no {INDEX}{advice}", folder.display())));
        }
        let fail = |reason: String| Error::input(format!("{}: {reason}", index.display()));
        let text = std::fs::read_to_string(&index).map_err(|error| Error::cannot_read("the index", &index, &error))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| fail(format!("not JSON: {error}")))?;
        let Some(map) = value["weight_map"].as_object() else {
            return Err(fail("it has no object `weight_map`".to_owned()));
        };
        let mut expected = BTreeMap::new();
        for (tensor, file) in map {
            let name = file.as_str().filter(|name| is_file_name(name));
            let name = name.ok_or_else(|| fail(format!("`{tensor}` is in {file}, which is no name of a file")))?;
            expected.entry(name).or_insert_with(Vec::new).push(tensor);
        }
        for (name, tensors) in expected {
            if !folder.join(name).is_file() {
                return Err(fail(format!("it names {name}, and there is no such file in the folder")));
            }
            this.add(name)?;
            let file = this.files.len() - 1;
            for tensor in tensors {
                if this.tensors.get(tensor).is_none_or(|place| place.file != file) {
                    return Err(fail(format!("`{tensor}` should be in {name}, and is not")));
                }
            }
        }
        Ok(this)
    }

    /// Opens a file of the folder and takes note of its tensors.
    fn add(&mut self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        let cannot_read = |error: &io::Error| Error::cannot_read("the weights", &path, error);
        let file = File::open(&path).map_err(|error| cannot_read(&error))?;
        let length = file.metadata().map_err(|error| cannot_read(&error))?.len();
        let fail =
            |reason: String| Error::input(format!("{} is not a whole safetensors file: {reason}", path.display()));
        let mut header = vec![0; 8];
        if length < 8 {
            return Err(fail(format!("it has {length} bytes")));
        }
        read_at(&file, &mut header, 0).map_err(|error| cannot_read(&error))?;
        let header_length = header.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        if header_length > length - 8 || header_length > LONGEST_HEADER {
            let limit = LONGEST_HEADER.min(length - 8);
            return Err(fail(format!("it claims a header of {header_length} bytes, and at most {limit} are possible")));
        }
        header.resize(8 + header_length as usize, 0);
        read_at(&file, &mut header, 0).map_err(|error| cannot_read(&error))?;
        // `SafeTensors::read_metadata` wants the whole file in memory.
        let metadata: Metadata = serde_json::from_slice(&header[8..]).map_err(|error| fail(error.to_string()))?;
        let begin = 8 + header_length;
        let mut end = begin;
        for (name, info) in metadata.tensors() {
            let (first, last) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            end = end.max(begin.saturating_add(last));
            // What has a type that is not known may be of no use to the model; it is refused where it is asked for.
            let Some(dtype) = dtype_of(info.dtype) else { continue };
            let ty = TensorType::new(dtype, info.shape.as_slice());
            if !ty.is_addressable() || ty.num_bytes() as u64 != last - first {
                return Err(fail(format!("`{name}` is {ty} and has {} bytes", last - first)));
            }
            if self.tensors.contains_key(&name) {
                return Err(fail(format!("`{name}` is in another file, too")));
            }
            self.tensors.insert(name, Place { file: self.files.len(), ty, begin: begin + first });
        }
        if end != length {
            return Err(fail(format!("its header describes {end} bytes, and it has {length}: cut short or damaged")));
        }
        self.files.push((path, file));
        Ok(())
    }

    /// The tensor of a parameter, by its own name or one that checkpoints of a part, or of a model around it, have.
    fn place(&self, path: &str) -> Option<(String, &Place)> {
        names_of(path).into_iter().find_map(|name| {
            let place = self.tensors.get(&name)?;
            Some((name, place))
        })
    }

    /// The tensor of a parameter, or of a part of it: its name here and its type.
    pub fn named(&self, path: &str) -> Option<(String, TensorType)> {
        self.place(path).map(|(name, place)| (name, place.ty.clone()))
    }

    /// The names and types of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), &place.ty))
    }

    /// Reads a tensor as it lies in its file.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn read_tensor(&self, name: &str, bytes: &mut Vec<u8>) -> Result<()> {
        let Some(place) = self.tensors.get(name) else {
            return Err(Error::input(format!("{} has no `{name}`", self.folder.display())));
        };
        bytes.resize(place.ty.num_bytes(), 0);
        self.read_place(place, 0, bytes)
    }

    /// Reads a part of a tensor from the byte `at` on.
    fn read_place(&self, place: &Place, at: usize, bytes: &mut [u8]) -> Result<()> {
        let (path, file) = &self.files[place.file];
        let begin = place.begin + at as u64;
        read_at(file, bytes, begin).map_err(|error| Error::cannot_read("the weights", path, &error))
    }
}

impl WeightSource for SafetensorsFiles {
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        let Some((name, place)) = self.place(path) else { return Ok(None) };
        let fail = |reason: String| Error::input(format!("{}: `{name}` {reason}", self.files[place.file].0.display()));
        if place.ty.shape != spec.ty.shape {
            let (found, needed) = (&place.ty.shape, &spec.ty.shape);
            return Err(fail(format!("has the shape {found:?}, and by config.json the model needs {needed:?}")));
        }
        match (place.ty.dtype, self.dtype) {
            (DType::F32 | DType::BF16 | DType::F16, Some(dtype)) => Ok(Some(Stored::Plain(dtype))),
            (DType::BF16, None) => Ok(Some(Stored::Plain(DType::BF16))),
            (DType::F32 | DType::F16, None) => Ok(Some(Stored::Plain(DType::F32))),
            (other, _) => Err(fail(format!("is of {other}, expected f32, bf16 or f16"))),
        }
    }

    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()> {
        let rows = types[0].shape.first().copied().unwrap_or(1);
        self.read_rows(path, 0..rows, &types[0], parts[0])
    }

    fn read_rows(&self, path: &str, rows: Range<usize>, ty: &TensorType, bytes: &mut [u8]) -> Result<()> {
        let Some((_, place)) = self.place(path) else {
            return Err(Error::input(format!("{} has no `{path}`", self.folder.display())));
        };
        let (from, to) = (place.ty.dtype, ty.dtype);
        let row = ty.num_elements() / ty.shape.first().copied().unwrap_or(1).max(1);
        let first = rows.start * row;
        if from == to {
            return self.read_place(place, first * from.size(), bytes);
        }
        let mut piece = vec![0; PIECE.min(bytes.len() / to.size()) * from.size()];
        for (i, out) in bytes.chunks_mut(PIECE * to.size()).enumerate() {
            let piece = &mut piece[..out.len() / to.size() * from.size()];
            self.read_place(place, (first + i * PIECE) * from.size(), piece)?;
            convert(piece, from, out, to);
        }
        Ok(())
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        let is_used = |name: &str| paths_of(name).iter().any(|path| used(path));
        self.tensors.keys().filter(|name| !is_used(name) && !is_superfluous(name)).cloned().collect()
    }
}

/// Names that a parameter's tensor may have, and the paths that they stand for: of a decoder beside its head, of the part
/// of a model that reads images, too, and of one that was saved without its head.
const PREFIXES: [(&str, &str); 6] = [
    ("", ""),
    ("model.", "model.language_model."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
    ("transformer.", ""),
];

fn names_of(path: &str) -> Vec<String> {
    let name = |(ours, theirs): &(&str, &str)| Some(format!("{theirs}{}", path.strip_prefix(ours)?));
    PREFIXES.iter().filter_map(name).collect()
}

fn paths_of(name: &str) -> Vec<String> {
    let path = |(ours, theirs): &(&str, &str)| Some(format!("{ours}{}", name.strip_prefix(theirs)?));
    PREFIXES.iter().filter_map(path).collect()
}

/// Whether a tensor is one that some checkpoints hold and no model of text needs: masks and frequencies that follow from the
/// config, a head that is the embedding table again, and what reads images.
fn is_superfluous(name: &str) -> bool {
    let ends = [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];
    let begins = ["vision_tower.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."];
    ends.iter().any(|end| name.ends_with(end))
        || begins.iter().any(|begin| name.starts_with(begin))
        || ["lm_head.weight", "language_model.lm_head.weight"].contains(&name)
}

/// A name in the folder itself.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && Path::new(name).file_name().is_some_and(|file| file == name)
}

/// Elements that are converted at a time.
const PIECE: usize = 1 << 18;

/// Floats of one type as another, rounded to the nearest, into `out`, which has room for as many; the types are bf16, f16
/// or f32.
pub(super) fn convert(bytes: &[u8], from: DType, out: &mut [u8], to: DType) {
    let out = out.chunks_exact_mut(to.size());
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    if from == DType::BF16 {
        write(halves().map(|x| bf16::from_le_bytes(x).to_f32()), out, to);
    } else if from == DType::F16 {
        write(halves().map(|x| f16::from_le_bytes(x).to_f32()), out, to);
    } else {
        write(bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)), out, to);
    }
}

/// Writes numbers as elements of a type of floats.
fn write<'a>(numbers: impl Iterator<Item = f32>, out: impl Iterator<Item = &'a mut [u8]>, to: DType) {
    let pairs = numbers.zip(out);
    if to == DType::BF16 {
        pairs.for_each(|(x, out)| out.copy_from_slice(&bf16::from_f32(x).to_le_bytes()));
    } else if to == DType::F16 {
        pairs.for_each(|(x, out)| out.copy_from_slice(&f16::from_f32(x).to_le_bytes()));
    } else {
        pairs.for_each(|(x, out)| out.copy_from_slice(&x.to_le_bytes()));
    }
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}
