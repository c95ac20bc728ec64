#!/usr/bin/env python3
"""Records what `transformers` computes with small checkpoints of every family, for tests/tests/pretrained.rs.

Each folder `pretrained/NAME` is a checkpoint as `transformers` writes it, with random weights that bfloat16 holds exactly,
and `reference.safetensors`: 64 tokens with the logits behind each of them in float32, and the greedy continuation of the
first 20 by 64 tokens, which goes beyond every sliding window.

Run with torch and transformers: python3 tests/references/record_pretrained.py
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    AutoModelForCausalLM,
)

OUT = Path(__file__).parent / "pretrained"

SIZES = dict(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
YARN_MORE = dict(
    rope_type="yarn",
    rope_theta=1000000.0,
    factor=2.5,
    original_max_position_embeddings=24,
    beta_fast=8.0,
    beta_slow=0.5,
    attention_factor=1.3,
    truncate=False,
)
GEMMA3_ROPES = dict(
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
)
SLIDING = ["sliding_attention", "sliding_attention", "full_attention"]


def llama_like(config, **changes):
    return config(**{**SIZES, **changes})


def gpt2(**changes):
    return GPT2Config(
        vocab_size=64, n_positions=128, n_embd=16, n_layer=3, n_head=4, bos_token_id=None, eos_token_id=None, **changes
    )


# Name, config, whether the weights are in several files. The number is the seed.
CASES = {
    "llama-0": (llama_like(LlamaConfig, rope_parameters=LLAMA3, tie_word_embeddings=True), False),
    "llama-1": (llama_like(LlamaConfig, num_key_value_heads=1, attention_bias=True, mlp_bias=True), True),
    "mistral-0": (llama_like(MistralConfig, sliding_window=8), False),
    "mistral-1": (llama_like(MistralConfig, sliding_window=None, num_key_value_heads=1, tie_word_embeddings=True), True),
    "qwen2-0": (llama_like(Qwen2Config, tie_word_embeddings=True), True),
    "qwen2-1": (
        llama_like(Qwen2Config, num_key_value_heads=1, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        False,
    ),
    "qwen3-0": (llama_like(Qwen3Config, tie_word_embeddings=True), False),
    "qwen3-1": (llama_like(Qwen3Config, num_key_value_heads=1, head_dim=12, attention_bias=True), True),
    "qwen2-2": (llama_like(Qwen2Config, rope_parameters=YARN), False),
    "qwen3-2": (llama_like(Qwen3Config, rope_parameters=YARN_MORE, tie_word_embeddings=True), False),
    "gemma2-0": (llama_like(Gemma2Config, sliding_window=8, query_pre_attn_scalar=12), False),
    "gemma2-1": (
        llama_like(
            Gemma2Config,
            sliding_window=6,
            num_key_value_heads=1,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            tie_word_embeddings=False,
        ),
        True,
    ),
    "gemma3_text-0": (
        llama_like(
            Gemma3TextConfig, sliding_window=8, layer_types=SLIDING, rope_parameters=GEMMA3_ROPES, query_pre_attn_scalar=12
        ),
        False,
    ),
    "gemma3_text-1": (
        llama_like(
            Gemma3TextConfig,
            num_hidden_layers=7,
            sliding_window=5,
            num_key_value_heads=1,
            query_pre_attn_scalar=8,
            tie_word_embeddings=False,
        ),
        True,
    ),
    "gpt2-0": (gpt2(), False),
    "gpt2-1": (gpt2(activation_function="gelu", n_inner=40, tie_word_embeddings=False), True),
}


def record(name, config, is_sharded):
    seed = int(name.rsplit("-", 1)[1])
    torch.manual_seed(1000 + seed)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim > 1 else 0.1
            mean = parameter.mean() if parameter.ndim == 1 and parameter.std() == 0 else 0.0
            parameter.copy_((mean + spread * torch.randn_like(parameter)).bfloat16().float())
    model.tie_weights()
    tokens = torch.randint(0, config.vocab_size, (1, 64))
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0].contiguous()
        text = tokens[:, :20]
        for _ in range(64):
            following = model(text, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            text = torch.cat([text, following], 1)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.bfloat16().save_pretrained(folder, max_shard_size="9KB" if is_sharded else "1GB")
    # transformers' own defaults for generation say nothing about a model of random weights.
    (folder / "generation_config.json").unlink(missing_ok=True)
    reference = dict(
        tokens=tokens[0].int().contiguous(), logits=logits.float(), continuation=text[0, 20:].int().contiguous()
    )
    save_file(reference, folder / "reference.safetensors")
    print(name, sorted(path.name for path in folder.iterdir()))


for name, (config, is_sharded) in CASES.items():
    record(name, config, is_sharded)
