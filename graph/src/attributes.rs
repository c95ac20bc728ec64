//! Attributes of ops in a generic form, so that printing and parsing need no code per op.

use crate::dtype::{DType, TensorType};
use crate::literal::Literal;

/// An attribute's value as the text form spells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// `3`, `-1`
    Int(i64),
    /// `0.125`; always with a decimal point or exponent
    Float(f64),
    /// `true`, `false`
    Bool(bool),
    /// `[0, 2, 1]`
    Ints(Vec<i64>),
    /// A word: a variant of an enumeration (`causal`), an element type (`f32`), or `none`
    Word(String),
    /// `i32[4]`: a tensor type
    Type(TensorType),
    /// `dense<f32[2]: 1.0, 2.0>`: a tensor
    Literal(Literal),
}

/// A Rust type that an attribute's value can have.
pub trait AttrValue: Sized {
    /// The value in generic form.
    fn to_attr(&self) -> Attr;
    /// The value back from the generic form; `None` when it is of another kind.
    fn from_attr(attr: &Attr) -> Option<Self>;
    /// What is expected, for error messages (`a list of integers`).
    fn expected() -> String;
}

/// A set of named attributes: what an op's struct of attributes implements through the `attributes!` macro.
pub trait Attributes: Sized {
    /// Names and values, in the order of declaration.
    fn to_attrs(&self) -> Vec<(&'static str, Attr)>;
    /// The struct back from names and values.
    ///
    /// # Errors
    /// The reason, when a name is unknown or missing or a value is of another kind.
    fn from_attrs(attrs: &[(String, Attr)]) -> Result<Self, String>;
}

/// Declares a struct of attributes and its [`Attributes`] implementation.
macro_rules! attributes {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }

        impl $crate::attributes::Attributes for $name {
            fn to_attrs(&self) -> Vec<(&'static str, $crate::attributes::Attr)> {
                vec![$((stringify!($field), $crate::attributes::AttrValue::to_attr(&self.$field)),)*]
            }
            fn from_attrs(attrs: &[(String, $crate::attributes::Attr)]) -> Result<Self, String> {
                $crate::attributes::refuse_unknown(attrs, &[$(stringify!($field)),*])?;
                Ok($name { $($field: $crate::attributes::read(attrs, stringify!($field))?,)* })
            }
        }
    };
}

/// Declares an enumeration whose variants are words in the text form.
macro_rules! words {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every variant, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word in the text form, which is StableHLO's where StableHLO has one.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The variant with this word.
            pub fn from_name(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }
        }

        impl $crate::attributes::AttrValue for $name {
            fn to_attr(&self) -> $crate::attributes::Attr {
                $crate::attributes::Attr::Word(self.name().to_string())
            }
            fn from_attr(attr: &$crate::attributes::Attr) -> Option<$name> {
                if let $crate::attributes::Attr::Word(word) = attr { $name::from_name(word) } else { None }
            }
            fn expected() -> String {
                [$($word),*].join(" or ")
            }
        }
    };
}

pub(crate) use {attributes, words};

/// Reads one attribute by name.
pub(crate) fn read<T: AttrValue>(attrs: &[(String, Attr)], name: &str) -> Result<T, String> {
    let (_, attr) = attrs
        .iter()
        .find(|(key, _)| key == name)
        .ok_or_else(|| format!("attribute `{name}` is missing; expected {}", T::expected()))?;
    T::from_attr(attr).ok_or_else(|| format!("attribute `{name}`: expected {}, found {attr}", T::expected()))
}

/// Refuses attributes that the op does not have, and attributes given twice.
pub(crate) fn refuse_unknown(attrs: &[(String, Attr)], known: &[&str]) -> Result<(), String> {
    for (i, (key, _)) in attrs.iter().enumerate() {
        if !known.contains(&key.as_str()) {
            return Err(format!("unknown attribute `{key}`; known: {}", known.join(", ")));
        }
        if attrs[..i].iter().any(|(earlier, _)| earlier == key) {
            return Err(format!("attribute `{key}` is given twice"));
        }
    }
    Ok(())
}

impl AttrValue for usize {
    fn to_attr(&self) -> Attr {
        Attr::Int(i64::try_from(*self).expect("sizes are below 2^63"))
    }
    fn from_attr(attr: &Attr) -> Option<usize> {
        if let Attr::Int(value) = attr { usize::try_from(*value).ok() } else { None }
    }
    fn expected() -> String {
        "an integer of at least 0".into()
    }
}

impl AttrValue for bool {
    fn to_attr(&self) -> Attr {
        Attr::Bool(*self)
    }
    fn from_attr(attr: &Attr) -> Option<bool> {
        if let Attr::Bool(value) = attr { Some(*value) } else { None }
    }
    fn expected() -> String {
        "true or false".into()
    }
}

impl AttrValue for f64 {
    fn to_attr(&self) -> Attr {
        Attr::Float(*self)
    }
    fn from_attr(attr: &Attr) -> Option<f64> {
        if let Attr::Float(value) = attr { Some(*value) } else { None }
    }
    fn expected() -> String {
        "a number with a decimal point".into()
    }
}

impl AttrValue for Vec<usize> {
    fn to_attr(&self) -> Attr {
        Attr::Ints(self.iter().map(|&x| i64::try_from(x).expect("sizes are below 2^63")).collect())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<usize>> {
        if let Attr::Ints(values) = attr { values.iter().map(|&x| usize::try_from(x).ok()).collect() } else { None }
    }
    fn expected() -> String {
        "a list of integers of at least 0".into()
    }
}

impl AttrValue for Vec<i64> {
    fn to_attr(&self) -> Attr {
        Attr::Ints(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<i64>> {
        if let Attr::Ints(values) = attr { Some(values.clone()) } else { None }
    }
    fn expected() -> String {
        "a list of integers".into()
    }
}

impl AttrValue for DType {
    fn to_attr(&self) -> Attr {
        Attr::Word(self.name().to_string())
    }
    fn from_attr(attr: &Attr) -> Option<DType> {
        if let Attr::Word(word) = attr { word.parse().ok() } else { None }
    }
    fn expected() -> String {
        format!("an element type ({})", DType::ALL.map(DType::name).join(", "))
    }
}

impl AttrValue for TensorType {
    fn to_attr(&self) -> Attr {
        Attr::Type(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<TensorType> {
        if let Attr::Type(ty) = attr { Some(ty.clone()) } else { None }
    }
    fn expected() -> String {
        "a tensor type such as f32[2,3]".into()
    }
}

impl AttrValue for Literal {
    fn to_attr(&self) -> Attr {
        Attr::Literal(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Literal> {
        if let Attr::Literal(literal) = attr { Some(literal.clone()) } else { None }
    }
    fn expected() -> String {
        "a tensor such as dense<f32[2]: 1.0, 2.0>".into()
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Attr {
        self.as_ref().map_or_else(|| Attr::Word("none".into()), T::to_attr)
    }
    fn from_attr(attr: &Attr) -> Option<Option<T>> {
        if *attr == Attr::Word("none".into()) { Some(None) } else { T::from_attr(attr).map(Some) }
    }
    fn expected() -> String {
        format!("none or {}", T::expected())
    }
}

// The macros declare public items.
#[cfg(test)]
#[allow(unreachable_pub)]
mod tests {
    use super::*;

    words! {
        /// A direction.
        pub enum Direction {
            /// up
            Up = "UP",
            /// down
            Down = "DOWN",
        }
    }

    attributes! {
        /// One attribute of every kind.
        pub struct Every {
            /// A size.
            pub size: usize,
            /// A float.
            pub scale: f64,
            /// A boolean.
            pub flag: bool,
            /// Dimensions.
            pub dimensions: Vec<usize>,
            /// Paddings.
            pub paddings: Vec<i64>,
            /// A word.
            pub direction: Direction,
            /// An element type.
            pub dtype: DType,
            /// A type.
            pub output: TensorType,
            /// A tensor.
            pub value: Literal,
            /// Something optional.
            pub window: Option<usize>,
        }
    }

    fn every() -> Every {
        Every {
            size: 3,
            scale: 0.5,
            flag: true,
            dimensions: vec![2, 0],
            paddings: vec![-1],
            direction: Direction::Down,
            dtype: DType::BF16,
            output: TensorType::new(DType::I32, [4]),
            value: Literal::new([2], &[1u8, 2]),
            window: None,
        }
    }

    fn named(every: &Every) -> Vec<(String, Attr)> {
        every.to_attrs().into_iter().map(|(name, attr)| (name.to_string(), attr)).collect()
    }

    #[test]
    fn struct_and_attributes_are_inverse() {
        for (direction, window) in Direction::ALL.iter().zip([None, Some(7)]) {
            let every = Every { direction: *direction, window, ..every() };
            let mut attrs = named(&every);
            assert_eq!(Every::from_attrs(&attrs), Ok(every.clone()));
            // The order does not matter.
            attrs.reverse();
            assert_eq!(Every::from_attrs(&attrs), Ok(every));
        }
        let text: Vec<String> = named(&every()).iter().map(|(name, attr)| format!("{name} = {attr}")).collect();
        let expected = "size = 3; scale = 0.5; flag = true; dimensions = [2, 0]; paddings = [-1]; direction = DOWN; \
                        dtype = bf16; output = i32[4]; value = dense<ui8[2]: 1, 2>; window = none";
        assert_eq!(text.join("; "), expected);
    }

    #[test]
    fn wrong_attributes() {
        let float = Attr::Float(1.5);
        let cases = [
            ("size", Attr::Int(-1), "an integer of at least 0, found -1"),
            ("scale", Attr::Int(1), "a number with a decimal point, found 1"),
            ("flag", float.clone(), "true or false, found 1.5"),
            ("dimensions", Attr::Ints(vec![0, -1]), "a list of integers of at least 0, found [0, -1]"),
            ("paddings", Attr::Bool(true), "a list of integers, found true"),
            ("direction", Attr::Word("LEFT".into()), "UP or DOWN, found LEFT"),
            (
                "dtype",
                Attr::Word("f8".into()),
                "an element type (i1, i8, i16, i32, i64, ui8, ui16, ui32, ui64, bf16, f16, f32, f64), found f8",
            ),
            ("output", Attr::Word("f32".into()), "a tensor type such as f32[2,3], found f32"),
            (
                "value",
                Attr::Type(TensorType::scalar(DType::F32)),
                "a tensor such as dense<f32[2]: 1.0, 2.0>, found f32[]",
            ),
            ("window", float, "none or an integer of at least 0, found 1.5"),
        ];
        for (name, attr, expected) in cases {
            let mut attrs = named(&every());
            attrs.iter_mut().filter(|(key, _)| key == name).for_each(|(_, value)| *value = attr.clone());
            assert_eq!(Every::from_attrs(&attrs), Err(format!("attribute `{name}`: expected {expected}")));
            attrs.retain(|(key, _)| key != name);
            let error = Every::from_attrs(&attrs).expect_err("an attribute is missing");
            assert!(error.starts_with(&format!("attribute `{name}` is missing; expected ")), "{error}");
        }
        let mut attrs = named(&every());
        attrs.push(attrs[0].clone());
        assert_eq!(Every::from_attrs(&attrs), Err("attribute `size` is given twice".into()));
        assert_eq!(
            refuse_unknown(&[("x".into(), Attr::Int(0))], &["a", "b"]),
            Err("unknown attribute `x`; known: a, b".into())
        );
    }
}
