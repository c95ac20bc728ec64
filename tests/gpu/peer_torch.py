"""A small Llama in PyTorch, trained as lmc trains it: the same weights, tokens, optimizer and precision.

Its command line is that of `matched_llama`. Needs PyTorch alone.
"""

import json
import struct
import sys
import time

import torch
import torch.nn.functional as F
from matched_llama import begins_of_rows, learning_rate_of, read_arguments, read_safetensors, shapes


def read_tensors(path):
    """Tensors of float32 by name."""
    read = read_safetensors(path).items()
    return {name: torch.frombuffer(raw, dtype=torch.float32).reshape(shape) for name, (shape, raw) in read}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())


def init(model, device="cpu"):
    generator = torch.Generator(device).manual_seed(1337)
    tensors = {}
    for name, shape in shapes(model).items():
        if len(shape) == 1:
            tensors[name] = torch.ones(shape, device=device)
        else:
            tensors[name] = torch.randn(shape, generator=generator, device=device) * 0.02
    return tensors


class Llama(torch.nn.Module):
    def __init__(self, model, tensors, device):
        super().__init__()
        self.model = model
        names = [name.replace(".", "/") for name in tensors]
        parameters = [torch.nn.Parameter(tensor.clone().to(device)) for tensor in tensors.values()]
        self.weights = torch.nn.ParameterDict(zip(names, parameters))
        half = model["head_dim"] // 2
        rates = model["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(model["seq_len"], dtype=torch.float64)[:, None] * rates
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, dim=-1).float().to(device))
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, dim=-1).float().to(device))

    def weight(self, name):
        return self.weights[name.replace(".", "/")]

    def norm(self, x, name):
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.model["rms_norm_eps"])
        return scaled * self.weight(name)

    def rotate(self, x):
        """x: (B, heads, T, H), in float32 as in lmc."""
        x = x.float()
        a, b = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-b, a], dim=-1) * self.sin

    def forward(self, tokens, labels):
        model = self.model
        batch, length = tokens.shape
        x = F.embedding(tokens, self.weight("model.embed_tokens.weight"))
        for layer in range(model["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            h = self.norm(x, prefix + "input_layernorm.weight")

            def heads(name, count):
                y = F.linear(h, self.weight(prefix + f"self_attn.{name}_proj.weight"))
                return y.view(batch, length, count, model["head_dim"]).transpose(1, 2)

            q = heads("q", model["num_attention_heads"])
            k = heads("k", model["num_key_value_heads"])
            v = heads("v", model["num_key_value_heads"])
            q, k = self.rotate(q).to(v.dtype), self.rotate(k).to(v.dtype)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            y = y.transpose(1, 2).reshape(batch, length, -1)
            x = x + F.linear(y, self.weight(prefix + "self_attn.o_proj.weight"))
            h = self.norm(x, prefix + "post_attention_layernorm.weight")
            gate = F.linear(h, self.weight(prefix + "mlp.gate_proj.weight"))
            up = F.linear(h, self.weight(prefix + "mlp.up_proj.weight"))
            x = x + F.linear(F.silu(gate) * up, self.weight(prefix + "mlp.down_proj.weight"))
        x = self.norm(x, "model.norm.weight")
        logits = F.linear(x, self.weight("model.embed_tokens.weight"))
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def rows_of(tokens, first, count, length):
    """Consecutive windows with their labels, going round at the end."""
    begins = begins_of_rows(len(tokens), first, count, length)
    window = torch.stack([tokens[begin : begin + length + 1] for begin in begins]).long()
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def train(arguments, model):
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = True
    tensors = init(model, device) if arguments.weights == "-" else read_tensors(arguments.weights)
    network = Llama(model, tensors, device)
    del tensors
    with open(arguments.tokens, "rb") as file:
        tokens = torch.frombuffer(bytearray(file.read()), dtype=torch.uint16).to(torch.int32)
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    vectors = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=arguments.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=cuda,
    )
    loss_of = torch.compile(network) if arguments.compile else network
    length, micro = model["seq_len"], arguments.micro_batch
    start = time.perf_counter()
    for step in range(arguments.steps):
        total = 0.0
        for part in range(arguments.accumulate):
            first = (step * arguments.accumulate + part) * micro
            x, y = (half.to(device, non_blocking=True) for half in rows_of(tokens, first, micro, length))
            bf16 = arguments.precision == "bfloat16"
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_of(x, y) / arguments.accumulate
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_of(arguments, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Reading waits for the step, as a time of each needs.
        total, norm = float(total), float(norm)
        end = time.perf_counter()
        print(json.dumps({"step": step + 1, "loss": total, "grad_norm": norm, "step_ms": (end - start) * 1e3}), flush=True)
        start = end
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    print(json.dumps({"peak_memory_bytes": peak, "version": torch.__version__}), flush=True)


def main():
    arguments, model = read_arguments()
    if arguments.command == "init":
        write_safetensors(arguments.weights, init(model))
    else:
        train(arguments, model)


if __name__ == "__main__":
    sys.exit(main())
