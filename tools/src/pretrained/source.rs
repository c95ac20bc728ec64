//! Where weights come from: files in one format or another, behind one trait.

use std::ops::Range;

use lmc_graph::TensorType;
use lmc_models::ParamSpec;
use lmc_models::stored::Stored;

use crate::error::Result;

/// The weights of a model as files have them, checked before a byte of them is read.
pub trait WeightSource: Send + Sync {
    /// How the weight at `path` is stored here; `None` if it is not here.
    ///
    /// # Errors
    /// If it is here with a shape or element type that the model cannot take.
    fn stored(&self, path: &str, spec: &ParamSpec) -> Result<Option<Stored>>;

    /// Reads a weight that is here into `parts`, as many as [`Stored::parts`] says, of these types: row-major and
    /// little-endian. A large weight is read piece by piece, so that it is in memory once.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(&self, path: &str, types: &[TensorType], parts: &mut [&mut [u8]]) -> Result<()>;

    /// Reads these rows of a weight of floats that is here; `ty` is the type of all of it.
    ///
    /// # Errors
    /// As [`WeightSource::read`].
    fn read_rows(&self, path: &str, rows: Range<usize>, ty: &TensorType, bytes: &mut [u8]) -> Result<()> {
        let mut whole = vec![0; ty.num_bytes()];
        self.read(path, std::slice::from_ref(ty), &mut [&mut whole])?;
        let row = whole.len() / ty.shape.first().copied().unwrap_or(1).max(1);
        bytes.copy_from_slice(&whole[rows.start * row..rows.end * row]);
        Ok(())
    }

    /// Names of what is here and none of the paths in `used`, but for what no model needs.
    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String>;
}
