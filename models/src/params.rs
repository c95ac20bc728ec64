//! Parameters by path: what a model declares, and any value that goes with each of them.

use std::collections::HashMap;

use lmc_graph::TensorType;

/// One `T` for every parameter of a model, by dotted path (`model.layers.0.self_attn.q_proj.weight`), in the order in
/// which the model declares them.
///
/// Specs, host tensors, device buffers, gradients and moments of one model are `Params` with the same keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params<T> {
    entries: Vec<(String, T)>,
    index: HashMap<String, usize>,
}

/// What a model says about one of its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// The type; parameters are f32 whatever the precision of the layers.
    pub ty: TensorType,
    /// A logical name for each dimension (`vocab`, `hidden`, `heads`, `kv_heads`, `head_dim`, `intermediate`,
    /// `positions`): what a sharding is stated in. A projection's flattened `heads × head_dim` is `heads`.
    pub dimensions: Vec<&'static str>,
    /// How the initial value is made.
    pub init: Init,
    /// Whether the optimizer's weight decay applies: to matrices, not to gains and biases.
    pub decay: bool,
}

/// How a parameter's initial value is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Independent normal elements of mean 0.
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

impl ParamSpec {
    /// The spec of an f32 parameter with named dimensions; one of rank 2 or more decays.
    pub fn new(dimensions: &[(&'static str, usize)], init: Init) -> ParamSpec {
        let shape: Vec<usize> = dimensions.iter().map(|&(_, size)| size).collect();
        ParamSpec {
            decay: shape.len() >= 2,
            ty: TensorType::new(lmc_graph::DType::F32, shape),
            dimensions: dimensions.iter().map(|&(name, _)| name).collect(),
            init,
        }
    }

    /// Whether this is a matrix between activations: of rank 2, and neither a table of tokens or positions nor the head.
    pub fn is_hidden_matrix(&self) -> bool {
        self.dimensions.len() == 2 && !self.dimensions.iter().any(|name| ["vocab", "positions"].contains(name))
    }
}

impl Params<ParamSpec> {
    /// The number of elements of all parameters together.
    pub fn num_elements(&self) -> usize {
        self.values().map(|spec| spec.ty.num_elements()).sum()
    }
}

impl<T> Params<T> {
    /// No parameters.
    pub fn new() -> Params<T> {
        Params { entries: Vec::new(), index: HashMap::new() }
    }

    /// Adds an entry at the end, or replaces the value at `path` and returns what was there.
    pub fn insert(&mut self, path: impl Into<String>, value: T) -> Option<T> {
        let path = path.into();
        match self.index.get(&path) {
            Some(&index) => Some(std::mem::replace(&mut self.entries[index].1, value)),
            None => {
                self.index.insert(path.clone(), self.entries.len());
                self.entries.push((path, value));
                None
            }
        }
    }

    /// The value at `path`.
    pub fn get(&self, path: &str) -> Option<&T> {
        self.position(path).map(|index| &self.entries[index].1)
    }

    /// The value at `path`, to be changed.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut T> {
        self.position(path).map(|index| &mut self.entries[index].1)
    }

    /// The place of `path` in declaration order.
    pub fn position(&self, path: &str) -> Option<usize> {
        self.index.get(path).copied()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Paths and values, in declaration order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> + DoubleEndedIterator {
        self.entries.iter().map(|(path, value)| (path.as_str(), value))
    }

    /// Paths and values to be changed, in declaration order.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut T)> {
        self.entries.iter_mut().map(|(path, value)| (path.as_str(), value))
    }

    /// Paths, in declaration order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|(path, _)| path.as_str())
    }

    /// Values, in declaration order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Values without their paths, in declaration order.
    pub fn into_values(self) -> impl ExactSizeIterator<Item = T> {
        self.entries.into_iter().map(|(_, value)| value)
    }

    /// The same paths with `f(path, value)`.
    pub fn map<U>(&self, mut f: impl FnMut(&str, &T) -> U) -> Params<U> {
        let entries = self.entries.iter().map(|(path, value)| (path.clone(), f(path, value))).collect();
        Params { entries, index: self.index.clone() }
    }

    /// The same paths with `f(path, value)`, or the first error.
    ///
    /// # Errors
    /// The first that `f` returns.
    pub fn try_map<U, E>(&self, mut f: impl FnMut(&str, &T) -> Result<U, E>) -> Result<Params<U>, E> {
        let entries = self.entries.iter().map(|(path, value)| Ok((path.clone(), f(path, value)?)));
        Ok(Params { entries: entries.collect::<Result<_, E>>()?, index: self.index.clone() })
    }

    /// Both values at every path, in the order of `self`.
    ///
    /// # Errors
    /// The paths that only one side has.
    pub fn zip<U>(self, other: Params<U>) -> Result<Params<(T, U)>, ParamsMismatch> {
        let missing: Vec<String> = self.keys().filter(|path| other.get(path).is_none()).map(str::to_string).collect();
        let unexpected: Vec<String> =
            other.keys().filter(|path| self.get(path).is_none()).map(str::to_string).collect();
        if !missing.is_empty() || !unexpected.is_empty() {
            return Err(ParamsMismatch { missing, unexpected });
        }
        let Params { entries, index } = self;
        let mut other: HashMap<String, U> = other.entries.into_iter().collect();
        let entries = entries
            .into_iter()
            .filter_map(|(path, value)| other.remove(&path).map(|partner| (path, (value, partner))))
            .collect();
        Ok(Params { entries, index })
    }
}

/// Two sets of parameters that do not have the same paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the parameters differ: {} missing ({}), {} unexpected ({})",
    missing.len(), list(missing), unexpected.len(), list(unexpected)
)]
pub struct ParamsMismatch {
    /// Expected paths that were not found.
    pub missing: Vec<String>,
    /// Found paths that were not expected.
    pub unexpected: Vec<String>,
}

/// The first few paths, for a message.
fn list(paths: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if paths.len() > SHOWN { ", …" } else { "" };
    match paths {
        [] => "none".into(),
        paths => format!("{}{more}", paths[..paths.len().min(SHOWN)].join(", ")),
    }
}

impl<T> Default for Params<T> {
    fn default() -> Self {
        Params::new()
    }
}

impl<P: Into<String>, T> FromIterator<(P, T)> for Params<T> {
    /// Of several values for one path, the last.
    fn from_iter<I: IntoIterator<Item = (P, T)>>(entries: I) -> Params<T> {
        let mut params = Params::new();
        for (path, value) in entries {
            params.insert(path, value);
        }
        params
    }
}

impl<T> IntoIterator for Params<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(entries: &[(&str, i32)]) -> Params<i32> {
        entries.iter().copied().collect()
    }

    #[test]
    fn keeps_declaration_order() {
        let mut found = params(&[("b", 1), ("a", 2), ("c", 3)]);
        assert_eq!(found.insert("a", 4), Some(2));
        assert_eq!(found.iter().collect::<Vec<_>>(), [("b", &1), ("a", &4), ("c", &3)]);
        assert_eq!((found.position("a"), found.get("c"), found.get("d")), (Some(1), Some(&3), None));
        assert_eq!(found.map(|path, x| format!("{path}{x}")).into_values().collect::<Vec<_>>(), ["b1", "a4", "c3"]);
    }

    #[test]
    fn zip_pairs_by_path() {
        let zipped = params(&[("b", 1), ("a", 2)]).zip(params(&[("a", 20), ("b", 10)]));
        assert_eq!(
            zipped.map(|zipped| zipped.into_iter().collect()),
            Ok(vec![("b".to_string(), (1, 10)), ("a".to_string(), (2, 20)),])
        );
        let error = params(&[("a", 1), ("b", 2)]).zip(params(&[("b", 1), ("c", 1)])).map_err(|error| error.to_string());
        assert_eq!(error, Err("the parameters differ: 1 missing (a), 1 unexpected (c)".into()));
    }
}
