//! Where a model declares its parameters: a path, and the function under construction.

use std::cell::RefCell;
use std::rc::Rc;

use lmc_graph::{Builder, DType, Literal, Value};

use crate::compute::Compute;
use crate::init::fnv1a;
use crate::params::{Init, ParamSpec, Params};
use crate::stored::{Storage, Stored, StoredValue};

/// A dimension of a parameter: its logical name and its size.
pub type Dimension = (&'static str, usize);

/// A place in a model: parameters declared here have its path before their names, and nodes made here have the path as
/// their location.
///
/// A parameter is added to the function where it is first used; a second use of the same path, as of tied embeddings,
/// gives the same value.
#[derive(Clone, Debug)]
pub struct Scope<'g> {
    builder: Builder<'g>,
    compute: Compute,
    path: String,
    declared: Rc<RefCell<Params<(ParamSpec, StoredValue<'g>)>>>,
    randomness: Option<Randomness<'g>>,
    storage: Storage,
}

/// Where random numbers come from: a key, and the place whose key it is.
#[derive(Clone, Debug)]
struct Randomness<'g> {
    key: Value<'g>,
    root: String,
}

impl<'g> Scope<'g> {
    /// The root of a model without parameters so far.
    pub fn new(builder: Builder<'g>, compute: impl Into<Compute>) -> Scope<'g> {
        Scope {
            builder,
            compute: compute.into(),
            path: String::new(),
            declared: Rc::default(),
            randomness: None,
            storage: Storage::default(),
        }
    }

    /// This place with weights that lie on the device as `storage` says, instead of in f32.
    pub fn with_storage(&self, storage: Storage) -> Scope<'g> {
        Scope { storage, ..self.clone() }
    }

    /// How the parameter `name` of this place is stored.
    pub fn stored(&self, name: &str) -> Stored {
        self.storage.of(&self.path_of(name))
    }

    /// The function under construction.
    pub fn builder(&self) -> Builder<'g> {
        self.builder
    }

    /// How the model computes.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The element type of activations.
    pub fn compute_dtype(&self) -> DType {
        self.compute.precision.compute_dtype()
    }

    /// This place with `key` for what draws random numbers below it; without a key nothing is drawn.
    pub fn with_key(&self, key: Value<'g>) -> Scope<'g> {
        Scope { randomness: Some(Randomness { key, root: self.path.clone() }), ..self.clone() }
    }

    /// The key of what is drawn in the place `name` below this one: it depends on the key that was given and on the path
    /// from there to the place, which tells apart what draws. `None` in a model that is not being trained.
    ///
    /// # Panics
    /// If the key that was given is not a key.
    #[track_caller]
    pub fn key(&self, name: &str) -> Option<Value<'g>> {
        let Randomness { key, root } = self.randomness.as_ref()?;
        let path = self.path_of(name);
        let below = path.strip_prefix(root.as_str()).unwrap_or(&path);
        let hash = fnv1a(below.trim_start_matches('.').as_bytes());
        Some(key.fold_in(self.builder.constant(Literal::scalar(hash))))
    }

    /// Runs `body` in the place `name` below this one; `name` may have several components (`layers.0`).
    pub fn sub<T>(&self, name: &str, body: impl FnOnce(&Scope<'g>) -> T) -> T {
        let inner = Scope { path: self.path_of(name), ..self.clone() };
        self.builder.scope(name, || body(&inner))
    }

    /// The f32 parameter `name` of this place; added to the function at the first use of its path, also where that is
    /// inside of a region, such as the body of a scan. One that is stored in another type is converted.
    ///
    /// # Panics
    /// If the path was declared before with other dimensions or another initial value.
    #[track_caller]
    pub fn param(&self, name: &str, dimensions: &[Dimension], init: Init) -> Value<'g> {
        self.as_stored(name, dimensions, init).elements(DType::F32)
    }

    /// [`Scope::param`] in the element type of activations.
    ///
    /// # Panics
    /// As [`Scope::param`].
    #[track_caller]
    pub fn weight(&self, name: &str, dimensions: &[Dimension], init: Init) -> Value<'g> {
        self.as_stored(name, dimensions, init).elements(self.compute_dtype())
    }

    /// [`Scope::param`] as it is stored.
    ///
    /// # Panics
    /// As [`Scope::param`].
    #[track_caller]
    pub fn as_stored(&self, name: &str, dimensions: &[Dimension], init: Init) -> StoredValue<'g> {
        self.declare(name, &ParamSpec::new(dimensions, init))
    }

    /// [`Scope::as_stored`] with its path from here and its spec.
    ///
    /// # Panics
    /// As [`Scope::param`].
    #[track_caller]
    pub(crate) fn declare(&self, path: &str, spec: &ParamSpec) -> StoredValue<'g> {
        let path = self.path_of(path);
        let mut declared = self.declared.borrow_mut();
        if let Some((earlier, value)) = declared.get(&path) {
            assert!(earlier == spec, "`{path}` was declared before as {earlier:?}, now as {spec:?}");
            return *value;
        }
        let stored = self.storage.of(&path);
        let param = |(suffix, ty): (&str, _)| self.builder.param(&format!("{path}{suffix}"), ty);
        let parts: Vec<Value<'g>> = stored.parts(spec).into_iter().map(param).collect();
        let value = StoredValue::new(&stored, &parts);
        declared.insert(path, (spec.clone(), value));
        value
    }

    /// What was declared so far in the place `name` below this one, by its path from there.
    pub(crate) fn declared_below(&self, name: &str) -> Params<ParamSpec> {
        let place = self.path_of(name);
        let declared = self.declared.borrow();
        let below = |path: &str| path.strip_prefix(&place)?.strip_prefix('.').map(str::to_string);
        declared.iter().filter_map(|(path, (spec, _))| Some((below(path)?, spec.clone()))).collect()
    }

    /// A root of its own in which `declared` are the parameters.
    pub(crate) fn with_declared(&self, declared: Params<(ParamSpec, Value<'g>)>) -> Scope<'g> {
        let declared = declared.map(|_, (spec, value)| (spec.clone(), StoredValue::Plain(*value)));
        Scope { path: String::new(), declared: Rc::new(RefCell::new(declared)), ..self.clone() }
    }

    /// What was declared so far, in the whole model, in the order of first use: the order of the function's parameters.
    pub fn specs(&self) -> Params<ParamSpec> {
        self.declared.borrow().map(|_, (spec, _)| spec.clone())
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Precision;

    #[test]
    fn a_parameter_is_declared_once() {
        let mut specs = Params::new();
        let func = Builder::build("f", |b| {
            let scope = Scope::new(b, Precision::BFloat16);
            let dimensions = [("vocab", 5), ("hidden", 3)];
            let init = Init::Normal { std: 0.02 };
            let (tied, again, gain) = scope.sub("model", |scope| {
                let tied = scope.sub("wte", |scope| scope.param("weight", &dimensions, init));
                let gain = scope.sub("h.0", |scope| scope.param("gain", &[("hidden", 3)], Init::Ones));
                (tied, scope.sub("wte", |scope| scope.weight("weight", &dimensions, init)), gain)
            });
            specs = scope.specs();
            assert_eq!((tied.dtype(), again.dtype()), (DType::F32, DType::BF16));
            vec![again, gain]
        });
        let names: Vec<&str> = func.params.iter().map(|param| param.name.as_str()).collect();
        assert_eq!(names, ["model.wte.weight", "model.h.0.gain"]);
        assert_eq!(specs.keys().collect::<Vec<_>>(), names);
        assert_eq!(specs.values().map(|spec| spec.decay).collect::<Vec<_>>(), [true, false]);
        let node = func.node(func.walk(func.body())[0]);
        assert_eq!(&*node.location.scope, "model.wte");
    }
}
