//! The header of a GGUF file, checked against the file's size.

use std::collections::BTreeMap;

use super::blocks::BlockType;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number of any width.
    Integer(i128),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Several of one kind.
    Array(Vec<Value>),
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its shape, the slowest dimension first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub ty: BlockType,
    /// Where it begins in the file.
    pub begin: u64,
    /// Its bytes.
    pub bytes: usize,
}

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Dimensions of a tensor at most: ggml's.
const MOST_DIMENSIONS: u64 = 4;

/// Arrays within arrays at most.
const DEEPEST: usize = 4;

impl Header {
    /// Reads a header from the beginning of a file of `length` bytes. `bytes` is as much of it as is there; the header may
    /// be shorter.
    ///
    /// # Errors
    /// With what is wrong; [`Truncated`](ReadError::Truncated) if `bytes` end before the header does.
    pub fn read(bytes: &[u8], length: u64) -> Result<Header, ReadError> {
        let mut reader = Reader { bytes, at: 0, length };
        if reader.take(4)? != b"GGUF" {
            return Err(ReadError::Wrong("it does not begin with `GGUF`".to_owned()));
        }
        let version = reader.u32()?;
        if ![2, 3].contains(&version) {
            let big = version.swap_bytes();
            let endian = if [2, 3].contains(&big) { ", which is a big-endian file's" } else { "" };
            return Err(ReadError::Wrong(format!("its version is {version}{endian}; 2 and 3 are read")));
        }
        let (num_tensors, num_values) = (reader.u64()?, reader.u64()?);
        let mut header = Header::default();
        for _ in 0..num_values {
            let key = reader.string()?;
            let ty = reader.u32()?;
            let value = reader.value(ty, 0)?;
            if header.metadata.insert(key.clone(), value).is_some() {
                return Err(ReadError::Wrong(format!("`{key}` is there twice")));
            }
        }
        let mut places = Vec::new();
        for _ in 0..num_tensors {
            let name = reader.string()?;
            let dimensions = u64::from(reader.u32()?);
            if dimensions > MOST_DIMENSIONS {
                return Err(ReadError::Wrong(format!("`{name}` has {dimensions} dimensions")));
            }
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                let size = reader.u64()?;
                let size = usize::try_from(size).ok().filter(|&size| size <= isize::MAX as usize);
                shape.push(size.ok_or_else(|| ReadError::Wrong(format!("a dimension of `{name}` is too large")))?);
            }
            shape.reverse();
            let number = reader.u32()?;
            let offset = reader.u64()?;
            places.push((name, shape, number, offset));
        }
        let alignment = match header.metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(alignment)) if *alignment > 0 && *alignment <= 1 << 20 => *alignment as u64,
            Some(other) => return Err(ReadError::Wrong(format!("`general.alignment` is {other:?}"))),
        };
        let data = (reader.at as u64).next_multiple_of(alignment);
        for (name, shape, number, offset) in places {
            let Some(ty) = BlockType::numbered(number) else {
                return Err(ReadError::Wrong(format!(
                    "`{name}` is of ggml's type {number}, which is not read; F32, F16, BF16, Q8_0, Q4_K and Q6_K are"
                )));
            };
            let fail = |reason: &str| ReadError::Wrong(format!("`{name}` of the shape {shape:?} {reason}"));
            let bytes = ty.bytes(&shape).ok_or_else(|| fail("is not of whole blocks, or too large"))?;
            let end = data.checked_add(offset).and_then(|begin| begin.checked_add(bytes as u64));
            if end.is_none_or(|end| end > length) {
                return Err(fail(&format!("ends behind the file's {length} bytes")));
            }
            let info = TensorInfo { shape, ty, begin: data + offset, bytes };
            if header.tensors.insert(name.clone(), info).is_some() {
                return Err(ReadError::Wrong(format!("`{name}` is there twice")));
            }
        }
        Ok(header)
    }

    /// The text at a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::String(text) => Some(text),
            Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::Array(_) => None,
        }
    }
}

/// Why a header cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes end before it does; there is at least one more.
    Truncated,
    /// It is none, or not one that is read.
    Wrong(String),
}

/// Reads little-endian numbers.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of the whole file.
    length: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let end = self.at.checked_add(count).filter(|&end| end as u64 <= self.length);
        let Some(end) = end else {
            return Err(ReadError::Wrong(format!("its header goes on behind the file's {} bytes", self.length)));
        };
        let taken = self.bytes.get(self.at..end).ok_or(ReadError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, ReadError> {
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| ReadError::Wrong("a name in its header is not UTF-8".to_owned()))
    }

    fn value(&mut self, ty: u32, depth: usize) -> Result<Value, ReadError> {
        Ok(match ty {
            0 => Value::Integer(self.array::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::String(self.string()?),
            9 => {
                if depth >= DEEPEST {
                    return Err(ReadError::Wrong("its metadata are nested too deeply".to_owned()));
                }
                let (ty, count) = (self.u32()?, self.u64()?);
                // Every element takes a byte at least, so that a count is limited by what is there.
                if count > self.length {
                    return Err(ReadError::Wrong(format!("an array of {count} elements in {} bytes", self.length)));
                }
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(ty, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(ReadError::Wrong(format!("a value of its metadata is of the type {other}"))),
        })
    }
}
