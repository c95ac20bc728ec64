"""Records weights in the formats of others and what they mean, for `tools/src/quantization/tests.rs` to compare with.

    python record_quantized.py         # writes quantized.json and quantized.gguf beside it

Needs numpy and gguf (llama.cpp's Python package; its version is in the file). `quantized.json` holds

    blocks     for each type of ggml the bytes of a matrix, in hexadecimal, and its elements by `gguf.quants.dequantize`
    layouts    tensors of MLX, GPTQ and AWQ, in hexadecimal, packed here from codes, scales and zeros by the formulas of
               their documentation, with the elements that these codes stand for

`quantized.gguf` is a small file by `gguf.GGUFWriter`, of a llama with every kind of metadata; its tensors are in
`quantized.json` under `file`.
"""

import json
import pathlib
from importlib.metadata import version

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
RNG = np.random.default_rng(7)
TYPES = gguf.GGMLQuantizationType


def hexadecimal(array):
    return np.ascontiguousarray(array).tobytes().hex()


def floats(array):
    # The shortest digits that are this f32.
    return [float(str(x)) for x in np.asarray(array, np.float32).ravel()]


def random_blocks(ty, rows, columns):
    """Bytes of a matrix: any, but for the scales of blocks, which are numbers of a usual size."""
    numbers, size = gguf.GGML_QUANT_SIZES[ty]
    blocks = RNG.integers(0, 256, (rows * columns // numbers, size), np.uint8)
    places = {TYPES.Q8_0: [0], TYPES.Q4_K: [0, 2], TYPES.Q6_K: [208]}
    for place in places.get(ty, []):
        scales = RNG.normal(0, 0.02, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    if ty not in places:
        values = RNG.normal(0, 1, rows * columns).astype(np.float32)
        return gguf.quants.quantize(values.reshape(rows, columns), ty).view(np.uint8)
    return blocks.reshape(rows, -1)


def blocks():
    cases = []
    for ty, columns in [("F32", 5), ("F16", 6), ("BF16", 6), ("Q8_0", 64), ("Q4_K", 512), ("Q6_K", 512)]:
        rows = 2
        data = random_blocks(TYPES[ty], rows, columns)
        stored = data.view({"F32": np.float32, "F16": np.float16}.get(ty, np.uint8))
        values = gguf.quants.dequantize(stored, TYPES[ty])
        shape = [rows, columns]
        cases.append({"type": int(TYPES[ty]), "shape": shape, "bytes": hexadecimal(data), "values": floats(values)})
    return cases


def packed(codes, axis, order=range(8), bits=4):
    """Codes along an axis in words of 32 bits: the code at `order[i]` of each 32 / bits in place `i`, the lowest first."""
    codes = np.moveaxis(codes, axis, -1).astype(np.uint64)
    per_word = 32 // bits
    groups = codes.reshape(*codes.shape[:-1], -1, per_word)
    words = sum(groups[..., at] << np.uint64(bits * i) for i, at in enumerate(order))
    return np.moveaxis(words.astype(np.uint32), -1, axis)


def layouts():
    out, size, group = 8, 64, 32
    groups = size // group
    cases = []
    for bits in [4, 8]:
        codes = RNG.integers(0, 2**bits, (out, size))
        scales, biases = (RNG.normal(0, 0.1, (out, groups)).astype(np.float16) for _ in range(2))
        values = codes * np.repeat(scales, group, 1).astype(np.float32) + np.repeat(biases, group, 1).astype(np.float32)
        words = packed(codes, 1, range(32 // bits), bits)
        cases.append({"layout": f"mlx{bits}", "codes": hexadecimal(words), "scales": hexadecimal(scales),
                      "offsets": hexadecimal(biases), "values": floats(values)})
    for name in ["gptq", "gptq_v2", "awq"]:
        codes = RNG.integers(0, 16, (out, size))
        zeros = RNG.integers(1, 16, (out, groups))
        scales = RNG.normal(0, 0.1, (out, groups)).astype(np.float16)
        values = (codes - np.repeat(zeros, group, 1)) * np.repeat(scales, group, 1).astype(np.float32)
        if name == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            words, stored = packed(codes.T, 1, order), packed(zeros.T, 1, order)
        else:
            words, stored = packed(codes.T, 0), packed(zeros.T - (name == "gptq"), 1)
        cases.append({"layout": name, "codes": hexadecimal(words), "scales": hexadecimal(scales.T),
                      "offsets": hexadecimal(stored), "values": floats(values)})
    return {"shape": [out, size], "group_size": group, "cases": cases}


def file(path):
    """A llama of one block, its queries' and keys' rows in llama.cpp's order."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_token_list(["a", "b"])
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_bool("test.flag", True)
    tensors = {}

    def add(name, shape, heads=None):
        values = RNG.normal(0, 0.1, shape).astype(np.float32)
        stored = values
        if heads:
            # As `LlamaModel.permute` of convert_hf_to_gguf.py.
            rows = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
            stored = rows.swapaxes(1, 2).reshape(values.shape)
        ty = TYPES.Q8_0 if len(shape) == 2 else TYPES.F32
        data = gguf.quants.quantize(stored, ty) if ty == TYPES.Q8_0 else stored
        writer.add_tensor(name, data, raw_dtype=ty)
        read = gguf.quants.dequantize(data, ty) if ty == TYPES.Q8_0 else data
        if heads:
            rows = read.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
            read = rows.swapaxes(1, 2).reshape(values.shape)
        return floats(read)

    tensors["model.embed_tokens.weight"] = add("token_embd.weight", (8, 32))
    tensors["model.norm.weight"] = add("output_norm.weight", (32,))
    block = "model.layers.0."
    tensors[block + "input_layernorm.weight"] = add("blk.0.attn_norm.weight", (32,))
    tensors[block + "post_attention_layernorm.weight"] = add("blk.0.ffn_norm.weight", (32,))
    tensors[block + "self_attn.q_proj.weight"] = add("blk.0.attn_q.weight", (32, 32), 4)
    tensors[block + "self_attn.k_proj.weight"] = add("blk.0.attn_k.weight", (16, 32), 2)
    tensors[block + "self_attn.v_proj.weight"] = add("blk.0.attn_v.weight", (16, 32))
    tensors[block + "self_attn.o_proj.weight"] = add("blk.0.attn_output.weight", (32, 32))
    tensors[block + "mlp.gate_proj.weight"] = add("blk.0.ffn_gate.weight", (64, 32))
    tensors[block + "mlp.up_proj.weight"] = add("blk.0.ffn_up.weight", (64, 32))
    tensors[block + "mlp.down_proj.weight"] = add("blk.0.ffn_down.weight", (32, 64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


if __name__ == "__main__":
    recorded = {"gguf": version("gguf"), "blocks": blocks(), "layouts": layouts(), "file": file(HERE / "quantized.gguf")}
    (HERE / "quantized.json").write_text(json.dumps(recorded) + "\n")
