//! `[compile]`: what the compiled training step has to have.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::section::Section;
use super::settings::{Choice, choices};
use super::source::Problem;
use super::tree::Kind;

/// `[compile]`: what is asked of the compiled training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CompileConfig {
    /// What the training step must have, a list; where it has not, nothing is trained, and the layer and the reason are
    /// told. `"flash_attention"`: every attention is one call of a fused kernel, which keeps no scores in memory.
    /// `"gemm_backward"`: the products of the backward pass have operands as narrow as those of the forward pass they are
    /// the derivative of. Default: both on a GPU with `train.precision = "bfloat16"`, where the slow form would take
    /// several times as long, and nothing else; `[]` asks for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Vec<Requirement>>,
}

impl CompileConfig {
    /// Whether it says nothing.
    pub fn is_default(&self) -> bool {
        *self == CompileConfig::default()
    }
}

choices! {
    /// Something that a compiled training step can be required to have.
    Requirement {
        /// Every attention is one call of a fused kernel.
        FlashAttention = "flash_attention",
        /// Products of the backward pass are as narrow as those of the forward pass.
        GemmBackward = "gemm_backward",
    }
}

pub(super) fn read_compile(section: &Section<'_>) -> CompileConfig {
    const KEY: &str = "require";
    let Some(node) = section.node(KEY) else { return CompileConfig::default() };
    let names = Requirement::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let Kind::Array(items) = &node.kind else {
        section.wrong_type(KEY, node, &format!("a list of {names}"));
        return CompileConfig::default();
    };
    let mut require = Vec::new();
    for item in items {
        let (known, found) = match &item.kind {
            Kind::String(text) => (Requirement::ALL.iter().find(|(name, _)| name == text), format!("{:?}", &**text)),
            Kind::Integer(_)
            | Kind::Oversized(_)
            | Kind::Float(_)
            | Kind::Boolean(_)
            | Kind::Datetime(_)
            | Kind::Table(_)
            | Kind::Array(_) => (None, item.kind.describe()),
        };
        match known {
            Some((_, requirement)) if require.contains(requirement) => {}
            Some((_, requirement)) => require.push(*requirement),
            None => {
                section.problem(KEY, Problem::new(item.place, format!("`{KEY}` is a list of {names}, found {found}")));
            }
        }
    }
    CompileConfig { require: Some(require) }
}
