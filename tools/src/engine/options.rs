//! How large an engine is, and what it measured.

use std::time::Duration;

use lmc_lower::{Platform, Target};

/// The sizes of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The longest text, prompt and generated tokens together; `None` takes the model's, at most
    /// [`EngineOptions::DEFAULT_CONTEXT`].
    pub max_context: Option<usize>,
    /// Texts that are generated side by side.
    pub slots: usize,
    /// Bytes that the cache of keys and values may take; `None` is no limit. A context that was not asked for is made
    /// shorter to fit; one that was is refused if it does not fit.
    pub cache_budget: Option<u64>,
    /// Tokens of every text that a launch draws; more than one are faster where a launch takes longer than a token of the
    /// model, and come all at once. `None` is 1 on the CPU and [`EngineOptions::LAUNCH_TOKENS_OF_A_GPU`] on a GPU.
    pub launch_tokens: Option<usize>,
    /// The most tokens of a prompt that are taken at a time, a power of two; `None` is 512.
    pub chunk: Option<usize>,
}

impl EngineOptions {
    /// The context of a model that takes longer ones, where none is asked for.
    pub const DEFAULT_CONTEXT: usize = 4096;

    /// The tokens of a launch on a GPU: with 8, a model of Qwen3-0.6B's sizes in bfloat16 generates 1.5 times as many tokens
    /// a second on an H200 as with 1.
    pub const LAUNCH_TOKENS_OF_A_GPU: usize = 8;

    /// How many tokens of every text a launch draws in the end, on a device that programs are lowered for like this.
    pub fn launch_tokens(&self, target: &Target) -> usize {
        self.launch_tokens.unwrap_or(match target.platform {
            Platform::Cuda(_) => EngineOptions::LAUNCH_TOKENS_OF_A_GPU,
            Platform::Cpu | Platform::Generic => 1,
        })
    }
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { max_context: None, slots: 1, cache_budget: None, launch_tokens: None, chunk: None }
    }
}

/// What an engine measured since it was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Tokens of prompts that went through the model.
    pub prefill_tokens: u64,
    /// The time that took, without [`Figures::compile_time`].
    pub prefill_time: Duration,
    /// Tokens that were generated after the first of each text.
    pub decode_tokens: u64,
    /// The time that took, without [`Figures::compile_time`].
    pub decode_time: Duration,
    /// Waiting for programs that were not compiled or loaded before.
    pub compile_time: Duration,
    /// From the call that added the latest text to its first token.
    pub time_to_first_token: Duration,
    /// Programs that were compiled or loaded from the compile cache; nothing while generating once all sizes were used.
    pub compilations: u64,
    /// Bytes of the cache of keys and values on the device.
    pub cache_bytes: u64,
    /// Bytes of the weights on the device.
    pub weight_bytes: u64,
    /// The most memory taken so far: the allocator's on a GPU, the process's on the CPU; `None` where it is not known.
    pub peak_memory_bytes: Option<u64>,
}

impl Figures {
    /// Tokens of prompts a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill_time)
    }

    /// Generated tokens a second, of all texts together.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens, self.decode_time)
    }
}

fn rate(tokens: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use lmc_lower::Gpu;

    use super::*;

    #[test]
    fn a_gpu_draws_several_tokens_a_launch_unless_told() {
        let gpu = Gpu::named("h200").expect("it is described").target();
        let check = |asked: Option<usize>, on_cpu: usize, on_gpu: usize| {
            let options = EngineOptions { launch_tokens: asked, ..EngineOptions::default() };
            assert_eq!([&Target::cpu(None), &gpu].map(|target| options.launch_tokens(target)), [on_cpu, on_gpu]);
        };
        check(None, 1, 8);
        check(Some(1), 1, 1);
        check(Some(4), 4, 4);
    }
}
