//! Where weights come from: files in one format or another, behind one trait.

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

    /// Reads part `part` (see [`Stored::parts`]) of a weight that is here, of type `ty`, into `bytes`, which it replaces:
    /// row-major and little-endian.
    ///
    /// # Errors
    /// If the file cannot be read.
    fn read(&self, path: &str, part: usize, ty: &TensorType, bytes: &mut Vec<u8>) -> Result<()>;

    /// Names of what is here and none of the paths in `used`, but for what no model needs.
    fn unused(&self, used: &dyn Fn(&str) -> bool) -> Vec<String>;
}
