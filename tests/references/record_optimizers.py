"""Records what PyTorch's optimizers, and Lion as its paper states it, make of given gradients, for
`tests/tests/optimizers.rs` to compare with.

    python record_optimizers.py            # writes optimizers.json beside it

Needs torch and numpy; the versions used are in the file. There are four parameters: a table of tokens, a wide and a tall
hidden matrix, and a bias. Decay is on what has two dimensions. The learning rate is given for each step. A case holds
the parameters after every step.

PyTorch's Muon makes its updates orthogonal in bfloat16. The cases of it in float32 run the same code with that one word
replaced, so that they can be compared closely.
"""

import inspect
import json
import pathlib

import numpy as np
import torch
import torch.optim._muon as torch_muon

STEPS = 4
SHAPES = {"table": (5, 6), "wide": (4, 6), "tall": (8, 4), "bias": (6,)}
HIDDEN = ["wide", "tall"]
LEARNING_RATES = [0.01, 0.02, 0.02, 0.02]
ADAMW = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
LION = {"betas": [0.9, 0.99], "weight_decay": 0.5}
MUON = {"momentum": 0.95, "weight_decay": 0.1, "rate": 1.5}


def float32_newton_schulz():
    source = inspect.getsource(torch_muon._zeropower_via_newtonschulz)
    assert source.count("torch.bfloat16") == 1
    namespace = {"torch": torch, "Tensor": torch.Tensor}
    exec(source.replace("torch.bfloat16", "torch.float32"), namespace)
    return namespace["_zeropower_via_newtonschulz"]


def parameters(start):
    return {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}


def adamw_groups(params, names):
    groups = []
    for decay, chosen in [(ADAMW["weight_decay"], lambda p: p.dim() > 1), (0.0, lambda p: p.dim() <= 1)]:
        group = [params[name] for name in names if chosen(params[name])]
        if group:
            groups.append({"params": group, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(ADAMW["betas"]), eps=ADAMW["eps"])


def run(params, gradients, optimizers):
    """`optimizers` are pairs of an optimizer and what its learning rate is multiplied with."""
    history = []
    for step in range(STEPS):
        for name, parameter in params.items():
            parameter.grad = gradients[step][name].clone()
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATES[step] * rate
            optimizer.step()
        history.append({name: value.detach().clone() for name, value in params.items()})
    return history


def adamw(start, gradients):
    params = parameters(start)
    return run(params, gradients, [(adamw_groups(params, params), 1.0)])


def muon(start, gradients, adjust_lr_fn, newton_schulz=None):
    kept = torch_muon._zeropower_via_newtonschulz
    torch_muon._zeropower_via_newtonschulz = newton_schulz or kept
    params = parameters(start)
    hidden = torch.optim.Muon(
        [params[name] for name in HIDDEN],
        momentum=MUON["momentum"],
        weight_decay=MUON["weight_decay"],
        adjust_lr_fn=adjust_lr_fn,
    )
    others = adamw_groups(params, [name for name in params if name not in HIDDEN])
    history = run(params, gradients, [(hidden, MUON["rate"]), (others, 1.0)])
    torch_muon._zeropower_via_newtonschulz = kept
    return history


def lion(start, gradients):
    """Chen et al. 2023, algorithm 2, in float64."""
    beta1, beta2 = LION["betas"]
    weights = {name: value.numpy().astype(np.float64) for name, value in start.items()}
    means = {name: np.zeros_like(value) for name, value in weights.items()}
    history = []
    for step in range(STEPS):
        for name, w in weights.items():
            g = gradients[step][name].numpy().astype(np.float64)
            update = np.sign(beta1 * means[name] + (1 - beta1) * g)
            decay = LION["weight_decay"] if w.ndim > 1 else 0.0
            weights[name] = w - LEARNING_RATES[step] * (update + decay * w)
            means[name] = beta2 * means[name] + (1 - beta2) * g
        history.append({name: torch.from_numpy(value) for name, value in weights.items()})
    return history


def flat(tensors):
    return {name: [float(np.float32(x)) for x in value.flatten().tolist()] for name, value in tensors.items()}


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(3)
    draw = lambda scale: {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    start = draw(0.5)
    gradients = [draw(1.0) for _ in range(STEPS)]
    float32 = float32_newton_schulz()
    cases = {
        "adamw": adamw(start, gradients),
        "lion": lion(start, gradients),
        "muon_original": muon(start, gradients, "original", float32),
        "muon_match_rms_adamw": muon(start, gradients, "match_rms_adamw", float32),
        "muon_bfloat16": muon(start, gradients, "match_rms_adamw"),
    }
    out = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "shapes": SHAPES,
        "learning_rates": LEARNING_RATES,
        "adamw": ADAMW,
        "lion": LION,
        "muon": MUON,
        "start": flat(start),
        "gradients": [flat(step) for step in gradients],
        "cases": {name: [flat(step) for step in history] for name, history in cases.items()},
    }
    path = pathlib.Path(__file__).with_name("optimizers.json")
    path.write_text(json.dumps(out, indent=1) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
