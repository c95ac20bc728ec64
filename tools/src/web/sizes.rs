//! The sizes that a page offers beside the config's own.

use crate::config::ModelConfig;

/// A model of another size, as settings over a config.
pub(super) struct Size {
    layers: usize,
    width: usize,
    /// Sequences of a step, at least.
    batch: usize,
}

/// From one that trains in a blink to one that takes a coffee: microgpt, twice as wide and deep, and makemore's.
const LADDER: [Size; 3] = [
    Size { layers: 1, width: 16, batch: 1 },
    Size { layers: 2, width: 32, batch: 8 },
    Size { layers: 4, width: 64, batch: 32 },
];

/// Blocks and width of a model.
pub(super) fn layers_and_width(model: &ModelConfig) -> (usize, usize) {
    match model {
        ModelConfig::Gpt2(model) => (model.n_layer, model.n_embd),
        ModelConfig::Llama(model) => (model.num_hidden_layers, model.hidden_size),
    }
}

/// The sizes that are not the config's own.
pub(super) fn others(model: &ModelConfig) -> impl Iterator<Item = &'static Size> {
    let own = layers_and_width(model);
    LADDER.iter().filter(move |size| (size.layers, size.width) != own)
}

impl Size {
    /// The settings of this size over those of a config, as arguments of `--set`. A wider model takes a lower learning
    /// rate, in proportion (Yang et al. 2022, "Tensor Programs V", table 3: Adam's for hidden weights goes as 1 / width).
    pub(super) fn settings(&self, model: &ModelConfig, batch: usize, learning_rate: f64) -> Vec<String> {
        let Size { layers, width, .. } = *self;
        let (_, own_width) = layers_and_width(model);
        let heads = 4;
        let mut settings = match model {
            ModelConfig::Gpt2(_) => vec![
                format!("model.n_layer={layers}"),
                format!("model.n_embd={width}"),
                format!("model.n_head={heads}"),
                format!("model.n_inner={}", 4 * width),
            ],
            ModelConfig::Llama(_) => vec![
                format!("model.num_hidden_layers={layers}"),
                format!("model.hidden_size={width}"),
                format!("model.num_attention_heads={heads}"),
                format!("model.num_key_value_heads={heads}"),
                format!("model.head_dim={}", width / heads),
                // Three matrices in place of two: as many weights as with four times the width.
                format!("model.intermediate_size={}", width * 8 / 3),
            ],
        };
        settings.push(format!("train.micro_batch_size={}", batch.max(self.batch)));
        let learning_rate = learning_rate * own_width as f64 / width as f64;
        settings.push(format!("optimizer.learning_rate={learning_rate:e}"));
        settings
    }
}
