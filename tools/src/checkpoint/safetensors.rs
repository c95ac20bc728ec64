//! Safetensors files to host tensors and back.
//!
//! Reading uses the format's own crate, which checks the header. Writing is done here, because the crate needs either
//! the whole file in memory or a file of its own, and a checkpoint hashes what it writes while it writes it; the format
//! is a length, a JSON header and the bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use lmc_graph::{DType, Element, Literal, TensorType};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Tensors by name. The order of names is that of the bytes in the file.
pub type Tensors = BTreeMap<String, Literal>;

/// The tensors of a safetensors file, in the dtypes they have there.
///
/// # Errors
/// If the file is missing, a folder, cut short or otherwise not safetensors, or has a dtype that `DType` lacks.
pub fn read_safetensors(path: &Path) -> Result<Tensors> {
    if path.is_dir() {
        let inside = path.join("model.safetensors");
        let advice = if inside.is_file() {
            format!("give the file in it: {}", inside.display())
        } else {
            "give a .safetensors file".to_owned()
        };
        return Err(Error::input(format!("{} is a folder; {advice}", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::cannot_read("the weights", path, &error))?;
    parse_safetensors(&bytes).map_err(|reason| {
        Error::input(format!("{} is not a whole safetensors file ({} bytes): {reason}", path.display(), bytes.len()))
    })
}

/// What the header of a safetensors file says beside its tensors.
///
/// # Errors
/// As [`read_safetensors`].
pub(crate) fn read_metadata(path: &Path) -> Result<HashMap<String, String>> {
    let bytes = std::fs::read(path).map_err(|error| Error::cannot_read("the weights", path, &error))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes)
        .map_err(|error| Error::input(format!("{} is not a safetensors file: {error}", path.display())))?;
    Ok(metadata.metadata().clone().unwrap_or_default())
}

/// The tensors of a safetensors file as f32, for `model.init_from`: bf16, f16 and f64 are converted.
///
/// # Errors
/// As `read_safetensors`; and if a tensor is not of floats.
pub fn load_safetensors(path: &Path) -> Result<Tensors> {
    let convert = |(name, tensor): (String, Literal)| match to_f32(&tensor) {
        Some(tensor) => Ok((name, tensor)),
        None => {
            let message = format!("{}: tensor {name} is {}, expected floats", path.display(), tensor.ty());
            Err(Error::input(message))
        }
    };
    read_safetensors(path)?.into_iter().map(convert).collect()
}

fn to_f32(tensor: &Literal) -> Option<Literal> {
    let shape = tensor.ty().shape.clone();
    match tensor.ty().dtype {
        DType::F32 => Some(tensor.clone()),
        DType::BF16 => Some(converted::<half::bf16>(shape, tensor, half::bf16::to_f32)),
        DType::F16 => Some(converted::<half::f16>(shape, tensor, half::f16::to_f32)),
        DType::F64 => Some(converted::<f64>(shape, tensor, |x| x as f32)),
        DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64 => None,
    }
}

fn converted<T: Element>(shape: Vec<usize>, tensor: &Literal, to_f32: impl Fn(T) -> f32) -> Literal {
    let elements: Vec<f32> = tensor.elements::<T>().into_iter().map(to_f32).collect();
    Literal::new(shape, &elements)
}

/// The tensors in the bytes of a file, or the reason why there are none.
pub(super) fn parse_safetensors(bytes: &[u8]) -> Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        use safetensors::SafeTensorError::{HeaderTooSmall, InvalidHeaderLength, MetadataIncompleteBuffer};
        match matches!(error, HeaderTooSmall | InvalidHeaderLength | MetadataIncompleteBuffer) {
            true => "it is cut short or does not fit its header".to_owned(),
            false => error.to_string(),
        }
    })?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let dtype = dtype_of(view.dtype())
            .ok_or_else(|| format!("tensor {name} has the dtype {:?}, which is not known", view.dtype()))?;
        let ty = TensorType::new(dtype, view.shape());
        if dtype == DType::Bool && view.data().iter().any(|&byte| byte > 1) {
            return Err(format!("tensor {name} has a boolean that is neither 0 nor 1"));
        }
        let tensor =
            Literal::from_bytes(ty, view.data().to_vec()).map_err(|reason| format!("tensor {name}: {reason}"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Writes tensors as a safetensors file.
///
/// # Errors
/// If writing fails.
pub(crate) fn write_safetensors(tensors: &Tensors, out: &mut impl Write) -> io::Result<()> {
    let header = header(tensors);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors.values().try_for_each(|tensor| out.write_all(tensor.bytes()))
}

/// The bytes of the file that [`write_safetensors`] writes.
pub(super) fn safetensors_bytes(tensors: &Tensors) -> u64 {
    let data: usize = tensors.values().map(|tensor| tensor.bytes().len()).sum();
    (size_of::<u64>() + header(tensors).len() + data) as u64
}

fn header(tensors: &Tensors) -> String {
    header_of(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.ty())))
}

/// What stands in front of the bytes of tensors with these names and types, but for its own length.
pub(crate) fn header_of<'a>(tensors: impl Iterator<Item = (&'a str, &'a TensorType)>) -> String {
    // `format` is what `transformers` asks for before it loads a file.
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut offset = 0;
    for (name, ty) in tensors {
        let end = offset + ty.num_bytes();
        let TensorType { dtype, shape } = ty;
        let info: Value = json!({ "dtype": to_safetensors(*dtype), "shape": shape, "data_offsets": [offset, end] });
        header.insert(name.to_owned(), info);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // Readers that map the file want the data aligned to 8 bytes; the format pads with spaces.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    header
}

/// The format's name of a dtype.
fn to_safetensors(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "BOOL",
        DType::I8 => "I8",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::U8 => "U8",
        DType::U16 => "U16",
        DType::U32 => "U32",
        DType::U64 => "U64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
    }
}

/// The dtype of the format's; `None` for those of quantized weights.
pub(crate) fn dtype_of(dtype: Dtype) -> Option<DType> {
    // `Dtype` is not exhaustive, so this goes by the names above.
    DType::ALL.into_iter().find(|&ours| to_safetensors(ours) == format!("{dtype:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(tensors: &Tensors) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_safetensors(tensors, &mut bytes).unwrap();
        bytes
    }

    fn example() -> Tensors {
        Tensors::from([
            ("b.weight".to_owned(), Literal::new([2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0])),
            ("a.odd".to_owned(), Literal::new([3], &[1u8, 2, 3])),
            ("c\"quote".to_owned(), Literal::scalar(true)),
            ("empty".to_owned(), Literal::new([0, 4], &[] as &[f32])),
        ])
    }

    #[test]
    fn every_dtype_comes_back() {
        let tensors: Tensors = DType::ALL
            .into_iter()
            .map(|dtype| (dtype.to_string(), Literal::from_f64s(TensorType::new(dtype, [2]), &[0.0, 1.0])))
            .collect();
        assert_eq!(parse_safetensors(&write(&tensors)).unwrap(), tensors);
        assert_eq!(parse_safetensors(&write(&example())).unwrap(), example());
        assert_eq!(safetensors_bytes(&example()), write(&example()).len() as u64);
    }

    #[test]
    fn floats_are_loaded_as_f32() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let floats = Tensors::from_iter([DType::BF16, DType::F16, DType::F32, DType::F64].map(|dtype| {
            (dtype.to_string(), Literal::from_f64s(TensorType::new(dtype, [1, 3]), &[0.5, -2.0, f64::INFINITY]))
        }));
        std::fs::write(&path, write(&floats)).unwrap();
        for (name, tensor) in load_safetensors(&path).unwrap() {
            assert_eq!(tensor, Literal::new([1, 3], &[0.5f32, -2.0, f32::INFINITY]), "{name}");
        }
        std::fs::write(&path, write(&example())).unwrap();
        let error = load_safetensors(&path).unwrap_err();
        assert!(error.message().contains("tensor a.odd is ui8[3], expected floats"), "{error}");
        let error = load_safetensors(folder.path()).unwrap_err();
        assert!(error.message().contains("is a folder; give the file in it: "), "{error}");
        let error = load_safetensors(&folder.path().join("none")).unwrap_err();
        assert!(error.message().contains("none: no such file"), "{error}");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = write(&example());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.safetensors");
        for end in 0..bytes.len() {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let error = read_safetensors(&path).unwrap_err();
            assert!(error.message().contains("cut.safetensors is not a whole safetensors file"), "{end}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            junk in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let mut bytes = write(&example());
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            _ = parse_safetensors(&bytes);
            _ = parse_safetensors(&junk);
        }
    }
}
