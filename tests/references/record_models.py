"""Records what `transformers` and PyTorch compute for tiny models, for `tests/tests/models.rs` to compare with.

    python record_models.py            # writes llama.safetensors and so on beside it; names of models write these only

Needs torch, transformers, safetensors and numpy; the versions used are in each file's metadata. All is float32 on the
CPU, with the eager form of attention. A file holds, by Hugging Face's names:

    param/NAME    the weights at the start
    grad/NAME     the gradient of the mean cross-entropy of the batch tokens[0, 0]
    trained/NAME  the weights after all steps
    tokens        i32 [steps, micro-batches, batch, sequence + 1]: inputs are all but the last, labels all but the first
    logits        f32 [batch, sequence, vocabulary] of tokens[0, 0]
    loss          f32 []: the mean cross-entropy of tokens[0, 0], in nats
    train/loss, train/grad_norm, train/learning_rate    f32 [steps]

A training step is AdamW with decay on matrices only, the gradient of the mean loss over all micro-batches clipped to a
global norm, and a learning rate that warms up linearly. Metadata: `config` (the architecture's config.json),
`optimizer`, `versions`, all JSON.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.torch
import torch
import transformers

STEPS, MICRO_BATCHES, BATCH, SEQUENCE = 5, 2, 2, 8
OPTIMIZER = {
    "learning_rate": 1e-2,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "grad_clip_norm": 1.0,
    "warmup_steps": 2,
}

LLAMA = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
GPT2 = {
    "vocab_size": 32,
    "n_positions": 12,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


def llama(config):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, attn_implementation="eager"))


def gpt2(config):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, attn_implementation="eager"))


MODELS = {
    "llama": (llama, LLAMA),
    "llama_tied": (llama, LLAMA | {"num_key_value_heads": 4, "head_dim": 4, "tie_word_embeddings": True}),
    "gpt2": (gpt2, GPT2),
    "gpt2_gelu": (gpt2, GPT2 | {"n_layer": 1, "activation_function": "gelu"}),
}


def spread(model, seed):
    """Weights far enough from zero and one that a forgotten norm, bias or scale shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))


def mean_loss(model, tokens):
    inputs, labels = tokens[:, :-1].long(), tokens[:, 1:].long()
    logits = model(input_ids=inputs, use_cache=False).logits
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def learning_rate(step):
    """Linear warm-up; `step` counts from 0."""
    return OPTIMIZER["learning_rate"] * min(1.0, (step + 1) / OPTIMIZER["warmup_steps"])


def record(name, seed):
    make, config = MODELS[name]
    model = make(config)
    model.eval()
    spread(model, seed)
    out = {f"param/{key}": value.detach().clone() for key, value in model.named_parameters()}

    generator = torch.Generator().manual_seed(seed + 1)
    shape = (STEPS, MICRO_BATCHES, BATCH, SEQUENCE + 1)
    tokens = torch.randint(config["vocab_size"], shape, generator=generator, dtype=torch.int32)
    out["tokens"] = tokens

    logits, loss = mean_loss(model, tokens[0, 0])
    loss.backward()
    out |= {"logits": logits.detach(), "loss": loss.detach()}
    out |= {f"grad/{key}": value.grad.clone() for key, value in model.named_parameters()}

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=tuple(OPTIMIZER["betas"]), eps=OPTIMIZER["eps"])
    history = {"loss": [], "grad_norm": [], "learning_rate": []}
    for step in range(STEPS):
        adamw.zero_grad()
        total = 0.0
        for micro_batch in tokens[step]:
            loss = mean_loss(model, micro_batch)[1] / MICRO_BATCHES
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER["grad_clip_norm"])
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step)
        adamw.step()
        for key, value in zip(history, (total, norm.item(), learning_rate(step))):
            history[key].append(value)
    out |= {f"train/{key}": torch.tensor(value, dtype=torch.float32) for key, value in history.items()}
    out |= {f"trained/{key}": value.detach().clone() for key, value in model.named_parameters()}

    metadata = {
        "config": json.dumps({"model_type": model.config.model_type} | config),
        "optimizer": json.dumps(OPTIMIZER),
        "versions": json.dumps(
            {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
        ),
    }
    path = pathlib.Path(__file__).with_name(f"{name}.safetensors")
    # Some tensors share memory with the model's; a file holds each on its own.
    safetensors.torch.save_file({key: value.clone().contiguous() for key, value in out.items()}, path, metadata)
    print(f"{path.name}: {path.stat().st_size} bytes, loss {history['loss']}, gradient norm {history['grad_norm']}")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for number, model_name in enumerate(MODELS):
        if model_name in sys.argv[1:] or len(sys.argv) == 1:
            record(model_name, seed=10 * number)
