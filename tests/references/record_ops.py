"""Records what JAX computes for the functions of the filetests, for `tests/tests/references.rs` to compare with.

    python record_ops.py            # writes ops.json beside it

Needs jax and numpy. Each function in `../filetests/ops` is interpreted op by op with `jax.lax`, the arguments being those of
its `eval` lines; recorded are the results, and the gradients (`jax.vjp`) for the cotangents that `check::cotangents`
makes. Left out are functions that must be refused and those whose file says `jax: not recorded`; a function whose
gradient is `not checked`, or refused, has results only.

ops.json: {"versions": {..}, "functions": {NAME: [{"args": [..], "results": [..], "gradients": [..]}, ..]}}; tensors are flat
lists in row-major order, in the types that the function states; what is not finite is a string. Numbers are written
with as many digits as the type has.
"""

import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

jax.config.update("jax_enable_x64", True)

HERE = pathlib.Path(__file__).parent
FILETESTS = HERE.parent / "filetests" / "ops"

DTYPES = {
    "i1": jnp.bool_,
    **{f"i{n}": getattr(jnp, f"int{n}") for n in (8, 16, 32, 64)},
    **{f"ui{n}": getattr(jnp, f"uint{n}") for n in (8, 16, 32, 64)},
    "bf16": jnp.bfloat16,
    "f16": jnp.float16,
    "f32": jnp.float32,
    "f64": jnp.float64,
}
# Digits that tell a float of the type apart from its neighbours.
DIGITS = {"bfloat16": 4, "float16": 5, "float32": 9, "float64": 17}


# ---- the text form ----

TOKEN = re.compile(r'\s*(?://[^\n]*|(->|\.\.\.|[%@][\w.$-]+|"[^"]*"|-?\d[\w.+-]*|-?(?:inf|nan)\b|[\w.$-]+|.))', re.S)


class Parser:
    """A function of the text form as nested lists; just enough for the filetests."""

    def __init__(self, text):
        self.tokens = [t for t in TOKEN.findall(text) if t and not t.isspace()]
        self.at = 0

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, expected=None):
        token = self.peek()
        if expected is not None and token != expected:
            raise ValueError(f"expected {expected}, found {token} near {self.tokens[self.at - 5:self.at + 5]}")
        self.at += 1
        return token

    def list(self, close, entry):
        entries = []
        while self.peek() != close:
            entries.append(entry())
            if self.peek() == ",":
                self.next()
        self.next(close)
        return entries

    def type(self, dtype=None):
        dtype = dtype or self.next()
        self.next("[")
        return DTYPES[dtype], tuple(self.list("]", lambda: int(self.next())))

    def typed(self):
        name = self.next()
        self.next(":")
        return name, self.type()

    def func(self):
        self.next("func")
        name = self.next()
        self.next("(")
        params = self.list(")", self.typed)
        self.next("->")
        self.next("(")
        self.list(")", self.type)
        self.next("{")
        return name, params, self.body()

    def body(self):
        nodes = []
        while self.peek() != "return":
            nodes.append(self.node())
        self.next("return")
        return nodes, self.list("}", self.next)

    def node(self):
        results = []
        if self.peek().startswith("%"):
            results.append(self.typed())
            while self.peek() == ",":
                self.next()
                results.append(self.typed())
            self.next("=")
        op = self.next()
        self.next("(")
        operands = self.list(")", self.next)
        attributes, regions = {}, []
        if self.peek() == "{":
            self.next()
            attributes = dict(self.list("}", self.attribute))
        if self.peek() == "(":
            self.next()
            regions = self.list(")", self.region)
        return op, operands, attributes, regions, results

    def region(self):
        self.next("{")
        params = []
        if self.peek() == "^":
            self.next()
            self.next("(")
            params = self.list(")", self.typed)
            self.next(":")
        return [name for name, _ in params], self.body()

    def attribute(self):
        name = self.next()
        self.next("=")
        return name, self.value()

    def value(self):
        token = self.next()
        if token == "[":
            return self.list("]", lambda: int(self.next()))
        if token == "dense":
            return self.dense()
        if token in DTYPES:
            return self.type(token) if self.peek() == "[" else DTYPES[token]
        words = {"true": True, "false": False, "none": None}
        if token in words:
            return words[token]
        if re.fullmatch(r"-?\d+", token):
            return int(token)
        return float(token) if re.match(r"-?\d", token) else token

    def dense(self):
        self.next("<")
        dtype, shape = self.type()
        self.next(":")
        elements = []
        while self.peek() != ">":
            token = self.next()
            if token == "...":
                elements *= math.prod(shape)
            elif token != ",":
                elements.append(element(token, dtype))
        self.next(">")
        # Through Python's own numbers, so that no 64-bit integer is rounded.
        return jnp.asarray(np.array(elements, dtype=np.dtype(dtype)).reshape(shape))


def element(token, dtype):
    if token in ("true", "false"):
        return token == "true"
    if jnp.issubdtype(dtype, jnp.integer):
        return int(token)
    if token.startswith("0x"):
        raise ValueError("bits of NaNs are not read")
    return float(token)


# ---- the ops ----

UNARY = {
    "abs": lax.abs,
    "negate": lax.neg,
    "sign": lax.sign,
    "exponential": lax.exp,
    "exponential_minus_one": lax.expm1,
    "log": lax.log,
    "log_plus_one": lax.log1p,
    "logistic": lax.logistic,
    "tanh": lax.tanh,
    "sine": lax.sin,
    "cosine": lax.cos,
    "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt,
    "floor": lax.floor,
    "ceil": lax.ceil,
    "round_nearest_even": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
    "not": lax.bitwise_not,
    "is_finite": lax.is_finite,
}
BINARY = {
    "add": lambda x, y: x | y if x.dtype == bool else lax.add(x, y),
    "subtract": lax.sub,
    "multiply": lambda x, y: x & y if x.dtype == bool else lax.mul(x, y),
    "divide": lax.div,
    "remainder": lax.rem,
    "power": lax.pow,
    "maximum": lax.max,
    "minimum": lax.min,
    "atan2": lax.atan2,
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
    "shift_left": lax.shift_left,
    "shift_right_arithmetic": lax.shift_right_arithmetic,
    "shift_right_logical": lax.shift_right_logical,
}
COMPARE = {"EQ": lax.eq, "NE": lax.ne, "GE": lax.ge, "GT": lax.gt, "LE": lax.le, "LT": lax.lt}
REDUCE = {
    "add": lambda x, d: jnp.sum(x, d, dtype=x.dtype),
    "multiply": lambda x, d: jnp.prod(x, d, dtype=x.dtype),
    "maximum": lambda x, d: lax.reduce_max(x, d),
    "minimum": lambda x, d: lax.reduce_min(x, d),
    "and": lambda x, d: lax.reduce(x, np.array(True if x.dtype == bool else -1).astype(x.dtype), lax.bitwise_and, d),
    "or": lambda x, d: lax.reduce(x, np.array(0).astype(x.dtype), lax.bitwise_or, d),
}
SCATTER = {
    "add": lax.scatter_add,
    "multiply": lax.scatter_mul,
    "maximum": lax.scatter_max,
    "minimum": lax.scatter_min,
    "replace": lax.scatter,
}


def attention(q, k, v, *rows, a):
    """Output and log-sum-exp, from JAX's own attention where it gives them."""
    scores_type = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    group = q.shape[2] // k.shape[2]
    window = a["sliding_window"]
    out = None
    lengths, seen = {}, None
    if a["rows"] == "padded":
        lengths = {"query_seq_lengths": rows[0], "key_value_seq_lengths": rows[1]}
        inside = [jnp.arange(x.shape[1])[None, :] < n[:, None] for x, n in zip((q, k), rows)]
        seen = inside[0][:, :, None] & inside[1][:, None, :]
    if a["rows"] == "packed":
        documents = [
            (rows[0][:, None, :-1] <= i) & (i < rows[0][:, None, 1:])
            for i in [jnp.arange(q.shape[1])[None, :, None]]
        ][0]
        seen = jnp.any(documents[:, :, None, :] & documents[:, None, :, :], axis=-1)
    # JAX's own takes neither values of another size than keys nor, on the CPU, f16, and computes f64 in f32.
    if v.shape[3] == k.shape[3] and q.dtype in (jnp.float32, jnp.bfloat16):
        out = jax.nn.dot_product_attention(
            q,
            k,
            v,
            scale=a["scale"],
            is_causal=a["mask"] == "causal",
            local_window_size=None if window is None else (window - 1, 0),
            mask=None if seen is None or lengths else seen[:, None, :, :],
            implementation="xla",
            **lengths,
        )
    keys = jnp.repeat(k, group, axis=2)
    scores = jnp.einsum("btnh,bsnh->bnts", q.astype(scores_type), keys.astype(scores_type)) * a["scale"]
    t, s = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])[None, :]
    visible = jnp.ones((q.shape[1], k.shape[1]), bool)
    if a["mask"] == "causal":
        visible &= s <= t
    if window is not None:
        visible &= s > t - window
    if seen is not None:
        visible = visible & seen[:, None, :, :]
        # Nothing is seen: JAX's own gives the mean of all values.
        sees = jnp.any(visible, axis=-1)[:, 0, :, None, None]
        out = None if out is None else jnp.where(sees, out, 0)
    scores = jnp.where(visible, scores, -jnp.inf)
    log_sum_exp = jax.nn.logsumexp(scores, axis=-1)
    if out is None:
        probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        out = jnp.einsum("bnts,bsnv->btnv", probabilities, jnp.repeat(v, group, axis=2))
    return out, log_sum_exp


def sort(x, a):
    if a["direction"] == "ascending":
        return lax.sort(x, dimension=a["dimension"], is_stable=a["is_stable"], num_keys=1)
    # Descending and stable: an ascending sort of everything reversed, reversed.
    d = a["dimension"]
    reversed_ = [lax.rev(y, (d,)) for y in x]
    return [lax.rev(y, (d,)) for y in lax.sort(reversed_, dimension=d, is_stable=True, num_keys=1)]


def apply(node, env):
    """The results of a node; `env` holds the values around it."""
    op, operands, a, regions, results = node
    x = [env[name] for name in operands]
    if op in UNARY:
        return [UNARY[op](*x)]
    if op in BINARY:
        return [BINARY[op](*x)]

    def run_region(index, args):
        params, body = regions[index]
        return run(body, {**env, **dict(zip(params, args))})

    match op:
        case "compare":
            return [COMPARE[a["direction"]](*x)]
        case "select":
            return [lax.select(*x)]
        case "clamp":
            low, operand, high = x
            # JAX does not differentiate for limits that are scalars.
            return [lax.clamp(jnp.broadcast_to(low, operand.shape), operand, jnp.broadcast_to(high, operand.shape))]
        case "convert":
            return [lax.convert_element_type(x[0], a["dtype"])]
        case "bitcast_convert":
            return [lax.bitcast_convert_type(x[0], a["dtype"])]
        case "constant":
            return [a["value"]]
        case "iota":
            return [lax.broadcasted_iota(*a["output"], a["iota_dimension"])]
        case "broadcast_in_dim":
            return [lax.broadcast_in_dim(x[0], a["shape"], a["broadcast_dimensions"])]
        case "reshape":
            return [lax.reshape(x[0], a["shape"])]
        case "transpose":
            return [lax.transpose(x[0], a["permutation"])]
        case "reverse":
            return [lax.rev(x[0], a["dimensions"])]
        case "slice":
            return [lax.slice(x[0], a["start_indices"], a["limit_indices"], a["strides"])]
        case "concatenate":
            return [lax.concatenate(x, a["dimension"])]
        case "pad":
            sizes = zip(a["edge_padding_low"], a["edge_padding_high"], a["interior_padding"])
            return [lax.pad(x[0], x[1], list(sizes))]
        case "dynamic_slice":
            # JAX counts negative starts from the end; StableHLO limits them.
            start = [lax.max(i, jnp.zeros_like(i)) for i in x[1:]]
            return [lax.dynamic_slice(x[0], start, a["slice_sizes"])]
        case "dynamic_update_slice":
            start = [lax.max(i, jnp.zeros_like(i)) for i in x[2:]]
            return [lax.dynamic_update_slice(x[0], x[1], start)]
        case "gather":
            indices = last(x[1], a["index_vector_dim"])
            numbers = lax.GatherDimensionNumbers(
                tuple(a["offset_dims"]),
                tuple(a["collapsed_slice_dims"]),
                tuple(a["start_index_map"]),
                tuple(a["operand_batching_dims"]),
                tuple(a["start_indices_batching_dims"]),
            )
            mode = lax.GatherScatterMode.CLIP
            return [lax.gather(x[0], indices, numbers, tuple(a["slice_sizes"]), mode=mode)]
        case "scatter":
            numbers = lax.ScatterDimensionNumbers(
                tuple(a["update_window_dims"]),
                tuple(a["inserted_window_dims"]),
                tuple(a["scatter_dims_to_operand_dims"]),
                tuple(a["input_batching_dims"]),
                tuple(a["scatter_indices_batching_dims"]),
            )
            scatter = SCATTER[a["update_computation"]]
            promises = {"unique_indices": a["unique_indices"], "indices_are_sorted": a["indices_are_sorted"]}
            mode = lax.GatherScatterMode.FILL_OR_DROP
            return [scatter(x[0], last(x[1], a["index_vector_dim"]), x[2], numbers, mode=mode, **promises)]
        case "dot_general":
            numbers = (
                (a["lhs_contracting_dimensions"], a["rhs_contracting_dimensions"]),
                (a["lhs_batching_dimensions"], a["rhs_batching_dimensions"]),
            )
            return [lax.dot_general(*x, numbers, preferred_element_type=a["result_dtype"])]
        case "reduce":
            return [REDUCE[a["op"]](x[0], tuple(a["dimensions"]))]
        case "argmax":
            return [lax.argmax(x[0], a["dimension"], a["index_dtype"])]
        case "sort":
            return sort(x, a)
        case "scan":
            carries, xs = x[: a["num_carry"]], x[a["num_carry"] :]

            def step(carry, slices):
                out = run_region(0, [*carry, *slices])
                return out[: a["num_carry"]], out[a["num_carry"] :]

            carries, stacked = lax.scan(step, carries, xs, length=a["length"], reverse=a["reverse"])
            return [*carries, *stacked]
        case "while":
            return lax.while_loop(lambda v: run_region(0, v)[0], lambda v: run_region(1, v), x)
        case "if":
            return lax.cond(x[0], lambda: run_region(0, []), lambda: run_region(1, []))
        case "remat":
            return jax.checkpoint(lambda: run_region(0, []))()
        case "stop_gradient":
            return [lax.stop_gradient(x[0])]
        case "optimization_barrier":
            return list(lax.optimization_barrier(tuple(x)))
        case "rng_bit_generator":
            dtype, shape = a["output"]
            algorithm = {"THREE_FRY": lax.RandomAlgorithm.RNG_THREE_FRY}[a["rng_algorithm"]]
            unsigned = {"int32": jnp.uint32, "int64": jnp.uint64}.get(np.dtype(dtype).name, dtype)
            state, bits = lax.rng_bit_generator(x[0], shape, dtype=unsigned, algorithm=algorithm)
            return [state, lax.bitcast_convert_type(bits, dtype)]
        case "scaled_dot_product_attention":
            return list(attention(*x, a=a))
        case "scaled_dot_product_attention_backward":
            q, k, v, _, _, ct, *rows = x
            return list(jax.vjp(lambda q, k, v: attention(q, k, v, *rows, a=a)[0], q, k, v)[1](ct))
        case "cached_attention":
            return [cached_attention(*x, a=a)]
        case "cache_update":
            cache, new, slot, start, count = x
            for text in range(new.shape[0]):
                for token in range(new.shape[1]):
                    position = start[text] + token
                    written = cache.at[slot + text, :, position % cache.shape[2]].set(new[text, token])
                    cache = jnp.where((token < count[text]) & (position >= 0), written, cache)
            return [cache]
    raise NotImplementedError(op)


def cached_attention(q, k, v, start, count, *, a):
    """JAX's own attention with a mask: of the row that holds the latest position that is its number modulo the rows."""
    rows, window = k.shape[2], a["sliding_window"]
    row, last = jnp.arange(rows)[None, None, :], (start + count - 1)[:, None, None]
    held = last - (last - row) % rows
    query = (start[:, None] + jnp.arange(q.shape[1]))[:, :, None]
    seen = (held >= 0) & (held <= query) & (row < a["visible_rows"])
    if window is not None:
        seen &= held > query - window
    if a["soft_cap"] is not None:
        raise NotImplementedError("a cap")
    k, v = (jnp.swapaxes(x, 1, 2) for x in (k, v))
    return jax.nn.dot_product_attention(q, k, v, scale=a["scale"], mask=seen[:, None], implementation="xla")


def last(indices, index_vector_dim):
    """Indices with their vectors along the last dimension, which JAX always has."""
    if index_vector_dim == indices.ndim:
        return indices[..., None]
    return jnp.moveaxis(indices, index_vector_dim, -1)


def run(body, env):
    nodes, returned = body
    env = dict(env)
    for node in nodes:
        results = apply(node, env)
        for (name, (dtype, shape)), value in zip(node[4], results, strict=True):
            if value.dtype != dtype or value.shape != shape:
                raise ValueError(f"{node[0]}: {name} is {value.dtype}{value.shape}, the text says {dtype}{shape}")
            env[name] = value
    return [env[name] for name in returned]


# ---- recording ----

COTANGENTS = [1.0, -0.5, 0.75, 2.0, -1.25, 0.5, -1.5]


def cotangent(x, shift):
    """As `check::cotangents`; integers have the cotangent type that JAX gives them."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return np.zeros(x.shape, jax.dtypes.float0)
    values = [COTANGENTS[(i + shift) % len(COTANGENTS)] for i in range(x.size)]
    return jnp.asarray(np.array(values, np.float64).reshape(x.shape).astype(x.dtype))


def flat(x):
    """A tensor as a list that JSON can hold."""
    x = np.asarray(x)
    if x.dtype.name not in DIGITS:
        return [v.item() for v in x.reshape(-1)]
    digits = DIGITS[x.dtype.name]
    out = []
    for v in x.reshape(-1).astype(np.float64):
        out.append(float(f"{v:.{digits}g}") if math.isfinite(v) else str(float(v)))
    return out


def record(case, evals, with_gradient):
    _, params, body = case
    names = [name for name, _ in params]
    entries = []
    for args in evals:
        args = [jnp.asarray(arg) for arg in args]
        function = lambda *args: run(body, dict(zip(names, args)))
        entry = {"args": [flat(arg) for arg in args], "results": [flat(x) for x in jax.jit(function)(*args)]}
        floats = [i for i, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.floating)]
        results = jax.eval_shape(function, *args)
        if with_gradient and floats and any(jnp.issubdtype(r.dtype, jnp.floating) for r in results):
            shifts = iter(range(len(results)))
            cts = [cotangent(r, next(shifts) if jnp.issubdtype(r.dtype, jnp.floating) else 0) for r in results]

            def of_floats(*values):
                full = list(args)
                for i, value in zip(floats, values):
                    full[i] = value
                return function(*full)

            gradient = jax.jit(lambda values: jax.vjp(of_floats, *values)[1](cts))
            entry["gradients"] = [flat(x) for x in gradient([args[i] for i in floats])]
        entries.append(entry)
    return entries


def main():
    functions, skipped, failed = {}, [], []
    for path in sorted(FILETESTS.rglob("*.lmir")):
        for chunk in re.split(r"\n(?=func @)", path.read_text())[1:]:
            text, _, behind = chunk.partition("\n}")
            behind = behind.split("\n\n")[0]
            name = re.match(r"func @([\w.$-]+)", text)[1]
            if re.search(r"_(c\d+|i[01])(_|$)", name) or "// error: " in text:
                continue
            if "// jax: not recorded: " in behind:
                skipped.append(name)
                continue
            lists = re.findall(r"^// eval:(.*)$", behind, re.M)
            evals = [literals(line) for line in lists]
            no_gradient = "// grad: refused: " in behind or (
                name in WITHOUT_GRADIENT or ("// grad: not checked: " in behind and not is_defined(name))
            )
            try:
                functions[name] = record(Parser(text + "\n}").func(), evals, not no_gradient)
            except Exception as error:  # Reported below, all at once.
                failed.append(f"{path.name} @{name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
    versions = {"jax": jax.__version__, "numpy": np.__version__}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in functions.items())
    (HERE / "ops.json").write_text(f'{{"versions": {json.dumps(versions)},\n"functions": {{\n{lines}\n}}}}\n')
    print(f"{len(functions)} functions recorded, {len(skipped)} not: {', '.join(skipped)}")
    for line in failed:
        print("FAILED", line)
    return 1 if failed else 0


# scatter multiply: JAX differentiates it only where positions are promised to be unique.
WITHOUT_GRADIENT = {"scatter_multiply_f32"}


def is_defined(name):
    """Whether a gradient that differences cannot check is what JAX defines it to be."""
    return name.startswith("stop_gradient") or name == "reduce_maximum_ties" or name.endswith("_same")


def literals(line):
    parser, found = Parser(line), []
    while parser.peek():
        if parser.next() == "dense":
            found.append(parser.dense())
    return found


if __name__ == "__main__":
    raise SystemExit(main())
