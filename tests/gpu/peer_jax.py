"""A small Llama in JAX, trained as lmc trains it, with cuDNN's attention where there is a GPU.

Its command line is that of `matched_llama`, without `init`. Needs JAX alone.
"""

import json
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matched_llama import begins_of_rows, learning_rate_of, read_arguments, read_safetensors, shapes

BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0


def rms_norm(x, scale, eps):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + eps) * scale


def loss_of(weights, tokens, labels, model, dtype, implementation):
    """The mean cross entropy; products in `dtype`, norms, rotations and the loss in float32."""
    batch, length = tokens.shape
    half = model["head_dim"] // 2
    rates = model["rope_theta"] ** (-np.arange(half) / half)
    angles = np.arange(length)[:, None] * rates
    cos, sin = (jnp.asarray(np.concatenate([f(angles)] * 2, -1), jnp.float32)[:, None] for f in (np.cos, np.sin))

    def linear(x, name):
        return x.astype(dtype) @ weights[name].astype(dtype).T

    def rotate(x):
        x = x.astype(jnp.float32)
        a, b = jnp.split(x, 2, axis=-1)
        return (x * cos + jnp.concatenate([-b, a], axis=-1) * sin).astype(dtype)

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(model["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        h = rms_norm(x, weights[prefix + "input_layernorm.weight"], model["rms_norm_eps"])

        def heads(name, count, h=h, prefix=prefix):
            return linear(h, f"{prefix}self_attn.{name}_proj.weight").reshape(batch, length, count, model["head_dim"])

        q, k = rotate(heads("q", model["num_attention_heads"])), rotate(heads("k", model["num_key_value_heads"]))
        v = heads("v", model["num_key_value_heads"])
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)
        x = x + linear(y.reshape(batch, length, -1), prefix + "self_attn.o_proj.weight").astype(jnp.float32)
        h = rms_norm(x, weights[prefix + "post_attention_layernorm.weight"], model["rms_norm_eps"])
        gate, up = (linear(h, f"{prefix}mlp.{name}_proj.weight") for name in ("gate", "up"))
        x = x + linear(jax.nn.silu(gate) * up, prefix + "mlp.down_proj.weight").astype(jnp.float32)
    x = rms_norm(x, weights["model.norm.weight"], model["rms_norm_eps"])
    logits = linear(x, "model.embed_tokens.weight").astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)


@partial(jax.jit, static_argnames="loss", donate_argnums=0)
def train_step(state, tokens, labels, loss, learning_rate):
    """One step of AdamW over micro-batches, the leading dimension of `tokens`."""
    weights, first, second, step = state

    def add(total, micro_batch):
        found = jax.value_and_grad(loss)(weights, *micro_batch)
        return jax.tree.map(jnp.add, total, found), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, weights))
    (value, grads), _ = jax.lax.scan(add, zero, (tokens, labels))
    value, grads = jax.tree.map(lambda x: x / tokens.shape[0], (value, grads))
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda x: x * jnp.minimum(1.0, CLIP / (norm + 1e-6)), grads)
    step = step + 1
    first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, first, grads)
    second = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, second, grads)

    def update(w, m, v):
        m, v = m / (1 - BETAS[0] ** step), v / (1 - BETAS[1] ** step)
        decay = WEIGHT_DECAY if w.ndim > 1 else 0.0
        return w - learning_rate * (m / (jnp.sqrt(v) + EPS) + decay * w)

    return (jax.tree.map(update, weights, first, second), first, second, step), value, norm


def read_weights(path):
    read = read_safetensors(path).items()
    return {name: jnp.asarray(np.frombuffer(raw, np.float32).reshape(shape)) for name, (shape, raw) in read}


def init(model):
    """Random weights, made on the device."""
    weights = {}
    for number, (name, shape) in enumerate(shapes(model).items()):
        key = jax.random.fold_in(jax.random.key(1337), number)
        weights[name] = jnp.ones(shape) if len(shape) == 1 else 0.02 * jax.random.normal(key, shape)
    return weights


def train(arguments, model):
    if arguments.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    device = jax.devices()[0]
    if (device.platform == "gpu") != (arguments.device == "cuda"):
        sys.exit(f"JAX would run on {device.platform}, and {arguments.device} is asked for")
    dtype = jnp.bfloat16 if arguments.precision == "bfloat16" else jnp.float32
    # cuDNN's is for 16 bits.
    fused = device.platform == "gpu" and dtype == jnp.bfloat16
    loss = partial(loss_of, model=model, dtype=dtype, implementation="cudnn" if fused else "xla")
    weights = init(model) if arguments.weights == "-" else read_weights(arguments.weights)
    # Two zeros of each: what is donated must be a buffer of its own.
    moments = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
    state = (weights, *moments, jnp.float32(0))
    tokens = np.fromfile(arguments.tokens, np.uint16).astype(np.int32)
    length, micro, accumulate = model["seq_len"], arguments.micro_batch, arguments.accumulate
    start = time.perf_counter()
    for step in range(arguments.steps):
        begins = begins_of_rows(len(tokens), step * accumulate * micro, accumulate * micro, length)
        window = np.stack([tokens[begin : begin + length + 1] for begin in begins]).reshape(accumulate, micro, length + 1)
        rate = jnp.float32(learning_rate_of(arguments, step))
        state, value, norm = train_step(state, window[..., :-1], window[..., 1:], loss, rate)
        # Reading waits for the step, as a time of each needs.
        value, norm = float(value), float(norm)
        end = time.perf_counter()
        print(json.dumps({"step": step + 1, "loss": value, "grad_norm": norm, "step_ms": (end - start) * 1e3}), flush=True)
        start = end
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    print(json.dumps({"peak_memory_bytes": peak, "version": jax.__version__}), flush=True)


def main():
    arguments, model = read_arguments()
    if arguments.command == "init":
        sys.exit("weights are made by peer_torch.py")
    train(arguments, model)


if __name__ == "__main__":
    main()
