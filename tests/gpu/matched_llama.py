"""What the peers have in common: the Llama that lmc trains, its files, and the command line. Needs Python alone.

Makes weights:  peer_X.py init MODEL.json WEIGHTS.safetensors
Trains:         peer_X.py train MODEL.json WEIGHTS.safetensors TOKENS.bin --steps 50 --micro-batch 2 ...
                with - for WEIGHTS.safetensors from random ones, for its speed

Training prints a JSON object a step, and one at the end.
"""

import argparse
import json
import struct


def read_safetensors(path):
    """Shapes and bytes of float32 tensors by name."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        begin, end = entry["data_offsets"]
        tensors[name] = entry["shape"], bytearray(data[8 + length + begin : 8 + length + end])
    return tensors


def shapes(model):
    """The parameters by Hugging Face's names; embeddings are tied."""
    hidden, inner, head = model["hidden_size"], model["intermediate_size"], model["head_dim"]
    queries, keys = model["num_attention_heads"] * head, model["num_key_value_heads"] * head
    found = {"model.embed_tokens.weight": (model["vocab_size"], hidden)}
    for layer in range(model["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        found[prefix + "input_layernorm.weight"] = (hidden,)
        found[prefix + "self_attn.q_proj.weight"] = (queries, hidden)
        found[prefix + "self_attn.k_proj.weight"] = (keys, hidden)
        found[prefix + "self_attn.v_proj.weight"] = (keys, hidden)
        found[prefix + "self_attn.o_proj.weight"] = (hidden, queries)
        found[prefix + "post_attention_layernorm.weight"] = (hidden,)
        found[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        found[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        found[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    found["model.norm.weight"] = (hidden,)
    return found


def begins_of_rows(num_tokens, first, count, length):
    """Where consecutive windows of `length` tokens and one more begin, going round at the end."""
    whole = (num_tokens - 1) // length
    return [((first + row) % whole) * length for row in range(count)]


def learning_rate_of(arguments, step):
    """The learning rate of a step, counted from 0: linear up to `--warmup-steps`, constant from there."""
    return arguments.learning_rate * min(1.0, (step + 1) / max(arguments.warmup_steps, 1))


def read_arguments():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("init")
    command.add_argument("model")
    command.add_argument("weights")
    command = commands.add_parser("train")
    command.add_argument("model")
    command.add_argument("weights")
    command.add_argument("tokens")
    command.add_argument("--steps", type=int, required=True)
    command.add_argument("--micro-batch", type=int, required=True)
    command.add_argument("--accumulate", type=int, default=1)
    command.add_argument("--learning-rate", type=float, default=4e-4)
    command.add_argument("--warmup-steps", type=int, default=0)
    command.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    command.add_argument("--device", default="cuda")
    command.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.model) as file:
        return arguments, json.load(file)
