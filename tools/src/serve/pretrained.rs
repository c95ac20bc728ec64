//! A model of [`pretrained`](crate::pretrained) as the server has it.

use std::sync::Arc;

use super::{ServedModel, TokenEngine, ToolForm, unix_seconds};
use crate::chat_template::ChatTemplate;
use crate::engine::{Emitted, Engine, Figures, Request, Sampling, SlotId};
use crate::error::Result;
use crate::tokenizer::Tokenizer;

impl TokenEngine for Engine {
    fn slots(&self) -> usize {
        Engine::slots(self)
    }

    fn free_slots(&self) -> usize {
        Engine::free_slots(self)
    }

    fn add(&mut self, request: Request) -> Result<SlotId> {
        Engine::add(self, request)
    }

    fn step(&mut self) -> Result<Vec<Emitted>> {
        Engine::step(self)
    }

    fn cancel(&mut self, slot: SlotId) {
        Engine::cancel(self, slot);
    }

    fn figures(&self) -> Figures {
        Engine::figures(self)
    }

    fn embeddings(&mut self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        inputs.iter().map(|input| self.model().embeddings(input)).collect()
    }
}

impl ServedModel {
    /// The model of `engine` under a name, with `template` or else its own.
    ///
    /// # Errors
    /// If it has no tokenizer, or its chat template is broken.
    pub fn of_engine(engine: &Engine, name: String, template: Option<ChatTemplate>) -> Result<ServedModel> {
        let model = engine.model();
        let (tokenizer, generation) = (model.tokenizer()?.clone(), model.generation());
        let template = match template {
            Some(template) => Some(template),
            None => ChatTemplate::read(model.folder())?,
        };
        // What lmc trained saw documents that begin with a document end, whatever the tokenizer adds.
        let is_run = model.folder().join("config.toml").is_file();
        let begins_with = generation.bos.filter(|_| is_run && matches!(tokenizer, Tokenizer::HuggingFace(_)));
        // Servers draw where nothing is said; only how is the model's to say.
        let says_how = generation.sampling.temperature > 0.0;
        Ok(ServedModel {
            name,
            tokenizer: Arc::new(tokenizer),
            begins_with,
            sampling: if says_how { generation.sampling.clone() } else { Sampling::default() },
            tool_form: template.as_ref().and_then(|template| ToolForm::of_template(template.source(true).ok()?)),
            truncate_prompt: false,
            template: template.map(Arc::new),
            stop_tokens: generation.eos.clone(),
            vocab_size: model.architecture().vocab_size(),
            max_context: engine.max_context(),
            created: unix_seconds(),
        })
    }
}
