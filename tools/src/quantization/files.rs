//! Folders of safetensors with weights in few bits: lmc's own, MLX's, GPTQ's and AWQ's.

use std::ops::Range;

use lmc_graph::{DType, TensorType};
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;
use serde_json::Value;

use super::Scheme;
use super::layouts::{Layout, Tensors};
use crate::error::{Error, Result};
use crate::pretrained::WeightSource;
use crate::pretrained::files::SafetensorsFiles;

/// What `config.json` says of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// lmc's own form: tensors as on the device, each named as [`Stored::parts`] says.
    Own(Scheme),
    /// Another program's.
    Foreign {
        /// Which.
        layout: Layout,
        /// Columns in a group.
        group_size: usize,
    },
}

/// How `config.json` says that weights are quantized, under `quantization_config` or MLX's `quantization`; `None` if it does
/// not.
///
/// # Errors
/// If it says something that is not read.
pub fn described(config: &Value) -> Result<Option<Described>, String> {
    let (value, is_mlx) = match (&config["quantization_config"], &config["quantization"]) {
        (Value::Null, Value::Null) => return Ok(None),
        (Value::Null, value) => (value, true),
        // MLX writes both, the same twice.
        (value, other) => (value, !other.is_null() && value["quant_method"].is_null()),
    };
    let size = |name: &str, default: u64| match value.get(name) {
        None => Ok(default),
        Some(number) => {
            number.as_u64().ok_or_else(|| format!("`{name}` of its quantization is {number}, no whole number"))
        }
    };
    let (bits, group_size) = (size("bits", 4)?, size("group_size", 64)?);
    let group = |step: u64| match usize::try_from(group_size) {
        Ok(group_size) if group_size > 0 && group_size.is_multiple_of(step as usize) => Ok(group_size),
        Ok(_) | Err(_) => Err(format!("groups of {group_size} columns are not read, only multiples of {step}")),
    };
    let four_bits = |name: &str| match bits {
        4 => Ok(()),
        bits => Err(format!("weights of {name} are read with 4 bits, and these have {bits}")),
    };
    let method = if is_mlx { "mlx" } else { value["quant_method"].as_str().unwrap_or_default() };
    let described = match method {
        "lmc" => {
            let scheme = serde_json::from_value::<Scheme>(value.clone()).map_err(|error| error.to_string())?;
            Described::Own(scheme.checked().map_err(|error| error.to_string())?)
        }
        "mlx" => {
            if let Some(mode) = value.get("mode").filter(|mode| *mode != "affine") {
                return Err(format!("MLX's mode {mode} is not read, only \"affine\""));
            }
            let bits = match bits {
                4 => 4,
                8 => 8,
                bits => return Err(format!("MLX's weights are read with 4 or 8 bits, and these have {bits}")),
            };
            Described::Foreign { layout: Layout::Mlx { bits }, group_size: group(32)? }
        }
        "gptq" => {
            four_bits("GPTQ")?;
            let zero_offset = u8::from(value["checkpoint_format"] != "gptq_v2");
            Described::Foreign { layout: Layout::Gptq { zero_offset }, group_size: group(32)? }
        }
        "awq" => {
            four_bits("AWQ")?;
            match value["version"].as_str().unwrap_or("gemm").to_ascii_lowercase().as_str() {
                "gemm" => {}
                other => return Err(format!("AWQ's version {other:?} is not read, only \"gemm\"")),
            }
            Described::Foreign { layout: Layout::Awq, group_size: group(32)? }
        }
        other => return Err(format!("its `quant_method` {other:?} is not read; known: lmc, mlx, gptq, awq")),
    };
    Ok(Some(described))
}

/// The weights of such a folder.
#[derive(Debug)]
pub struct QuantizedFiles {
    files: SafetensorsFiles,
    described: Described,
}

impl QuantizedFiles {
    /// The weights in files that are described so.
    pub fn new(files: SafetensorsFiles, described: Described) -> QuantizedFiles {
        QuantizedFiles { files, described }
    }

    /// The tensor of this name, or of the weight at `path` with another ending than `weight`.
    fn named(&self, path: &str, ending: &str) -> Option<(String, TensorType)> {
        let stem = path.strip_suffix("weight")?;
        self.files.named(&format!("{stem}{ending}"))
    }

    /// The tensors of the quantized weight `path` as [`Layout::shapes`] has them, or `None` if it is one of floats.
    fn foreign(&self, layout: Layout, path: &str) -> Option<[(String, TensorType); 3]> {
        let (codes, offsets) = match layout {
            Layout::Mlx { .. } => ("weight", "biases"),
            Layout::Gptq { .. } | Layout::Awq => ("qweight", "qzeros"),
        };
        Some([self.named(path, codes)?, self.named(path, "scales")?, self.named(path, offsets)?])
    }

    fn own(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        let Described::Own(scheme) = self.described else { return Ok(None) };
        let Some((name, scales)) = self.files.named(&format!("{path}.scales")) else { return Ok(None) };
        let stored = Stored::Quantized(scheme.quantization(scales.dtype));
        if !scheme.takes(path, &spec.ty.shape) {
            return Err(Error::input(format!("`{name}` is of a weight {:?}, which is none in groups", spec.ty.shape)));
        }
        for (suffix, ty) in stored.parts(spec) {
            match self.files.named(&format!("{path}{suffix}")) {
                Some((_, found)) if found == ty => {}
                Some((name, found)) => {
                    return Err(Error::input(format!("`{name}` is {found}, and by config.json it should be {ty}")));
                }
                None => return Err(Error::input(format!("there is no `{path}{suffix}` beside `{name}`"))),
            }
        }
        Ok(Some(stored))
    }
}

impl WeightSource for QuantizedFiles {
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>> {
        let (layout, group_size) = match self.described {
            Described::Own(_) => match self.own(path, spec)? {
                Some(stored) => return Ok(Some(stored)),
                None => return self.files.stored(path, spec),
            },
            Described::Foreign { layout, group_size } => (layout, group_size),
        };
        let Some(tensors) = self.foreign(layout, path) else { return self.files.stored(path, spec) };
        let &[rows, columns] = &spec.ty.shape[..] else {
            return Err(Error::input(format!("`{}` is quantized, and {path} is no matrix", tensors[0].0)));
        };
        if !columns.is_multiple_of(group_size) || !rows.is_multiple_of(8) {
            return Err(Error::input(format!("{path} is {rows} by {columns}, which is not in groups of {group_size}")));
        }
        let integers = [DType::I32, DType::U32];
        for (i, ((name, ty), shape)) in tensors.iter().zip(layout.shapes(rows, columns, group_size)).enumerate() {
            let is_float = i == 1 || matches!((layout, i), (Layout::Mlx { .. }, 2));
            let floats = [DType::F16, DType::BF16, DType::F32];
            let fits = if is_float { floats.contains(&ty.dtype) } else { integers.contains(&ty.dtype) };
            if ty.shape != shape || !fits || is_float && ty.dtype != tensors[1].1.dtype {
                let expected = if is_float { "floats" } else { "words of 32 bits" };
                return Err(Error::input(format!("`{name}` is {ty}, expected {expected} of the shape {shape:?}")));
            }
        }
        if let Some((name, ty)) = self.named(path, "g_idx")
            && (ty.shape != [columns] || !integers.contains(&ty.dtype))
        {
            return Err(Error::input(format!("`{name}` is {ty}, expected {columns} whole numbers of 32 bits")));
        }
        Ok(Some(Stored::Quantized(layout.quantization(group_size, tensors[1].1.dtype))))
    }

    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()> {
        let (layout, group_size) = match self.described {
            Described::Own(_) if types.len() == 1 => return self.files.read(path, types, parts),
            Described::Own(_) => {
                for ((suffix, ty), bytes) in ["", ".scales", ".zeros"].into_iter().zip(types).zip(parts) {
                    self.files.read(&format!("{path}{suffix}"), std::slice::from_ref(ty), &mut [bytes])?;
                }
                return Ok(());
            }
            Described::Foreign { layout, group_size } => (layout, group_size),
        };
        let Some([codes, scales, offsets]) = self.foreign(layout, path) else {
            return self.files.read(path, types, parts);
        };
        let read = |name: &str| {
            let mut bytes = Vec::new();
            self.files.read_tensor(name, &mut bytes).map(|()| bytes)
        };
        let groups = self.named(path, "g_idx").map(|(name, _)| read(&name)).transpose()?;
        let (rows, columns) = match layout {
            Layout::Mlx { .. } => (codes.1.shape[0], scales.1.shape[1] * group_size),
            Layout::Gptq { .. } => (codes.1.shape[1], codes.1.shape[0] * 8),
            Layout::Awq => (codes.1.shape[1] * 8, codes.1.shape[0]),
        };
        let quantization = layout.quantization(group_size, scales.1.dtype);
        let tensors = Tensors { codes: read(&codes.0)?, scales: read(&scales.0)?, offsets: read(&offsets.0)?, groups };
        let matrix = layout.matrix(tensors, [rows, columns], quantization);
        let matrix = matrix.map_err(|reason| Error::input(format!("`{}`: {reason}", codes.0)))?;
        for (part, bytes) in matrix.parts.iter().zip(parts) {
            bytes.copy_from_slice(part);
        }
        Ok(())
    }

    fn read_rows(&self, path: &str, rows: Range<usize>, ty: &TensorType, bytes: &mut [u8]) -> Result<()> {
        self.files.read_rows(path, rows, ty, bytes)
    }

    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String> {
        let endings: &[&str] = match self.described {
            Described::Own(_) => &[".scales", ".zeros"],
            Described::Foreign { .. } => &["scales", "biases", "qweight", "qzeros", "g_idx"],
        };
        // A part belongs to the weight it is named after.
        let is_used = |path: &str| {
            used(path)
                || endings.iter().any(|ending| match path.strip_suffix(ending) {
                    Some(stem) if matches!(self.described, Described::Own(_)) => used(stem),
                    Some(stem) => used(&format!("{stem}weight")),
                    None => false,
                })
        };
        self.files.unused(&is_used)
    }
}
