//! Compile options, and their protocol-buffer form.

use std::collections::BTreeMap;

use prost::Message;

/// The value of an XLA debug option.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A text, or the name of an enumeration's value.
    String(String),
}

impl From<bool> for OptionValue {
    fn from(value: bool) -> OptionValue {
        OptionValue::Bool(value)
    }
}

impl From<i64> for OptionValue {
    fn from(value: i64) -> OptionValue {
        OptionValue::Int(value)
    }
}

impl From<f64> for OptionValue {
    fn from(value: f64) -> OptionValue {
        OptionValue::Double(value)
    }
}

impl From<&str> for OptionValue {
    fn from(value: &str) -> OptionValue {
        OptionValue::String(value.to_owned())
    }
}

/// How a program is compiled. The default is one replica of one partition, with XLA's own debug options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompileOptions {
    /// XLA debug options for this compilation alone, by the name of the field of `DebugOptions` in `xla.proto`,
    /// such as `xla_cpu_prefer_vector_width`. A name or type that XLA does not know is a compile error.
    pub debug_options: BTreeMap<String, OptionValue>,
}

impl CompileOptions {
    /// These options with one debug option set.
    pub fn with(mut self, name: &str, value: impl Into<OptionValue>) -> CompileOptions {
        self.debug_options.insert(name.to_owned(), value.into());
        self
    }

    /// The bytes of a `CompileOptionsProto`. Equal options have equal bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_for_device(0)
    }

    /// As [`CompileOptions::encode`], for the device of this number; -1 is none.
    pub(crate) fn encode_for_device(&self, device_ordinal: i64) -> Vec<u8> {
        let env_option_overrides = self
            .debug_options
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    OptionValue::Bool(value) => proto::option_override::Value::Bool(*value),
                    OptionValue::Int(value) => proto::option_override::Value::Int(*value),
                    OptionValue::Double(value) => proto::option_override::Value::Double(*value),
                    OptionValue::String(value) => proto::option_override::Value::String(value.clone()),
                };
                (name.clone(), proto::OptionOverride { value: Some(value) })
            })
            .collect();
        let executable_build_options =
            proto::ExecutableBuildOptions { device_ordinal, num_replicas: 1, num_partitions: 1 };
        proto::CompileOptions { executable_build_options: Some(executable_build_options), env_option_overrides }
            .encode_to_vec()
    }
}

/// The messages of `xla/pjrt/proto/compile_options.proto`, with the fields that lmc sets.
mod proto {
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct CompileOptions {
        #[prost(message, optional, tag = "3")]
        pub(super) executable_build_options: Option<ExecutableBuildOptions>,
        #[prost(btree_map = "string, message", tag = "7")]
        pub(super) env_option_overrides: BTreeMap<String, OptionOverride>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ExecutableBuildOptions {
        #[prost(int64, tag = "1")]
        pub(super) device_ordinal: i64,
        #[prost(int64, tag = "4")]
        pub(super) num_replicas: i64,
        #[prost(int64, tag = "5")]
        pub(super) num_partitions: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct OptionOverride {
        #[prost(oneof = "option_override::Value", tags = "1, 2, 3, 4")]
        pub(super) value: Option<option_override::Value>,
    }

    pub(super) mod option_override {
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub(crate) enum Value {
            #[prost(string, tag = "1")]
            String(String),
            #[prost(bool, tag = "2")]
            Bool(bool),
            #[prost(int64, tag = "3")]
            Int(i64),
            #[prost(double, tag = "4")]
            Double(f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(options: CompileOptions, expected: &[u8]) {
        assert_eq!(options.encode(), expected);
    }

    #[test]
    fn encoding() {
        // Field 3 (length 4): field 4 = 1, field 5 = 1. Then field 7, a map entry of key (1) and value (2), whose one
        // field has the number of its type.
        let head = [0x1a, 4, 0x20, 1, 0x28, 1];
        let with = |tail: &[u8]| [&head[..], tail].concat();
        check(CompileOptions::default(), &head);
        check(CompileOptions::default().with("a", true), &with(&[0x3a, 7, 0x0a, 1, b'a', 0x12, 2, 0x10, 1]));
        check(CompileOptions::default().with("a", 5), &with(&[0x3a, 7, 0x0a, 1, b'a', 0x12, 2, 0x18, 5]));
        check(CompileOptions::default().with("a", "b"), &with(&[0x3a, 8, 0x0a, 1, b'a', 0x12, 3, 0x0a, 1, b'b']));
        let mut half = vec![0x3a, 14, 0x0a, 1, b'a', 0x12, 9, 0x21];
        half.extend_from_slice(&0.5f64.to_le_bytes());
        check(CompileOptions::default().with("a", 0.5), &with(&half));
    }

    #[test]
    fn false_and_zero_are_said() {
        // A oneof distinguishes "false" from "not set".
        let head = [0x1a, 4, 0x20, 1, 0x28, 1];
        let bytes = [&head[..], &[0x3a, 7, 0x0a, 1, b'a', 0x12, 2, 0x10, 0]].concat();
        check(CompileOptions::default().with("a", false), &bytes);
    }
}
