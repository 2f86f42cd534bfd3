"""What `torch.optim` does: 200 steps of a small network, for every option of every optimizer.

`CASES` names the optimizer and its arguments in jaxfit's words; both sides are built from it. Where gradients are
accumulated, a step sees the part of the data that `part` says, so that no two gradients of one update are equal.
"""

import contextlib
import functools

import numpy as np

STEPS = 200
LEFT_OUT = {"params", "foreach", "fused", "capturable", "differentiable", "maximize"}

# Arguments, in order, with their defaults: without those of LEFT_OUT, and with learning_rate for lr.
ADAM = {"learning_rate": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
SIGNATURES = {
    "SGD": {"learning_rate": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
    "Adam": {**ADAM, "amsgrad": False, "decoupled_weight_decay": False},
    "AdamW": {**ADAM, "weight_decay": 1e-2, "amsgrad": False},
    "RMSprop": {
        "learning_rate": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum": 0,
        "centered": False,
    },
    "Adagrad": {
        "learning_rate": 1e-2,
        "lr_decay": 0,
        "weight_decay": 0,
        "initial_accumulator_value": 0,
        "eps": 1e-10,
    },
    "Adadelta": {"learning_rate": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0},
    "Adamax": {**ADAM, "learning_rate": 2e-3},
    "NAdam": {**ADAM, "learning_rate": 2e-3, "momentum_decay": 4e-3, "decoupled_weight_decay": False},
    "RAdam": {**ADAM, "decoupled_weight_decay": False},
    "Rprop": {"learning_rate": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50)},
}

RATES = {
    "SGD": 0.01,
    "Adam": 0.005,
    "AdamW": 0.005,
    "RMSprop": 0.002,
    "Adagrad": 0.05,
    "Adadelta": 0.5,
    "Adamax": 0.005,
    "NAdam": 0.005,
    "RAdam": 0.005,
    "Rprop": 0.003,
}

ADAM_OPTIONS = {
    "betas": {"betas": (0.7, 0.95)},
    "no betas": {"betas": (0.0, 0.0), "eps": 0.1},
    "eps": {"eps": 1e-2},
    "weight decay": {"weight_decay": 0.1},
}
OPTIONS = {
    "SGD": {
        "momentum": {"momentum": 0.9},
        "nesterov": {"momentum": 0.7, "nesterov": True},
        "dampening": {"momentum": 0.9, "dampening": 0.3},
        "weight decay": {"weight_decay": 0.1},
        "weight decay nesterov": {"weight_decay": 0.1, "momentum": 0.6, "nesterov": True},
    },
    "Adam": {
        **ADAM_OPTIONS,
        "amsgrad": {"amsgrad": True, "betas": (0.9, 0.8)},
        "decoupled": {"weight_decay": 0.5, "decoupled_weight_decay": True},
    },
    "AdamW": {
        **ADAM_OPTIONS,
        "no weight decay": {"weight_decay": 0.0},
        "amsgrad": {"amsgrad": True, "betas": (0.9, 0.8), "weight_decay": 0.5},
    },
    "RMSprop": {
        "alpha": {"alpha": 0.9},
        "eps": {"eps": 1e-2},
        "weight decay": {"weight_decay": 0.1},
        "momentum": {"momentum": 0.9, "learning_rate": 0.0005},
        "centered": {"centered": True, "eps": 1e-3},
        "centered momentum": {"centered": True, "eps": 1e-2, "momentum": 0.5, "weight_decay": 0.1},
    },
    "Adagrad": {
        "lr decay": {"lr_decay": 0.05},
        "weight decay": {"weight_decay": 0.1},
        "start": {"initial_accumulator_value": 0.3},
        "eps": {"eps": 0.1},
    },
    "Adadelta": {"rho": {"rho": 0.5}, "eps": {"eps": 1e-7}, "weight decay": {"weight_decay": 0.1}},
    "Adamax": ADAM_OPTIONS,
    "NAdam": {
        **ADAM_OPTIONS,
        "momentum decay": {"momentum_decay": 0.1},
        "no momentum decay": {"momentum_decay": 0.0},
        "decoupled": {"weight_decay": 0.5, "decoupled_weight_decay": True},
    },
    "RAdam": {**ADAM_OPTIONS, "decoupled": {"weight_decay": 0.5, "decoupled_weight_decay": True}},
    "Rprop": {"etas": {"etas": (0.4, 1.3)}, "step sizes": {"step_sizes": (1e-3, 0.02)}},
}


def falling(rate, count):
    return rate / (1 + 0.02 * count)


def _common(optimizer):
    """The options that all share, together and with a decay: their order shows."""
    options = {"clip_norm": 0.3, "clip_value": 0.1, "maximize": True, "accumulate": 2, "ema_decay": 0.9}
    if optimizer == "Rprop":
        return options
    return {**options, "weight_decay": 0.1, "learning_rate": functools.partial(falling, RATES[optimizer])}


def _all_cases():
    table = {}
    for optimizer, options in OPTIONS.items():
        rate = {"learning_rate": RATES[optimizer]}
        table[optimizer] = (optimizer, rate)
        for name, arguments in {**options, "common": _common(optimizer)}.items():
            table[f"{optimizer} {name}"] = (optimizer, {**rate, **arguments})
    for optimizer, more in {"SGD": {"momentum": 0.9}, "Adam": {}}.items():
        rate = {"learning_rate": RATES[optimizer]}
        table[f"{optimizer} clip norm"] = (optimizer, {**rate, "clip_norm": 0.05})
        table[f"{optimizer} clip value"] = (optimizer, {**rate, "clip_value": 0.02})
        table[f"{optimizer} maximize"] = (optimizer, {**rate, "maximize": True})
        table[f"{optimizer} accumulate"] = (optimizer, {**rate, **more, "accumulate": 4})
        table[f"{optimizer} average"] = (optimizer, {**rate, **more, "ema_decay": 0.95})
        table[f"{optimizer} accumulate average"] = (optimizer, {**rate, **more, "accumulate": 3, "ema_decay": 0.8})
        table[f"{optimizer} schedule"] = (
            optimizer,
            {**more, "learning_rate": functools.partial(falling, RATES[optimizer])},
        )
    momentum = {"momentum": 0.5, "learning_rate": functools.partial(falling, 0.002)}
    table["RMSprop momentum schedule"] = ("RMSprop", momentum)
    return table


CASES = _all_cases()


def inputs():
    """The data and the starting params of a network of 2 inputs, 4 tanh units and 1 output, in float64."""
    random = np.random.default_rng(9)
    x = random.normal(size=(12, 2))
    out = {"weight": random.normal(size=4), "bias": np.array(0.5)}
    return x, np.sin(2 * x[:, 0]) + x[:, 1] ** 2, {"hidden": 0.5 * random.normal(size=(2, 4)), "out": out}


def part(step):
    """The rows that a step sees where gradients are accumulated: a third of the data after the other."""
    first = 4 * (step % 3)
    return slice(first, first + 4)


def flat(params):
    """All params in one array [13]."""
    parts = (params["hidden"], params["out"]["weight"], params["out"]["bias"])
    return np.concatenate([np.ravel(np.asarray(part)) for part in parts])


@contextlib.contextmanager
def float64_state():
    """Else torch keeps NAdam's product of momenta in float32, whatever the params are in."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@float64_state()
def compute(optimizer, arguments):
    import torch

    x, y, start = inputs()
    x, y = torch.tensor(x), torch.tensor(y)
    leaves = [torch.tensor(leaf) for leaf in (start["hidden"], start["out"]["weight"], start["out"]["bias"])]
    hidden, weight, bias = (leaf.requires_grad_() for leaf in leaves)

    arguments = dict(arguments)
    clip_norm, clip_value = arguments.pop("clip_norm", None), arguments.pop("clip_value", None)
    rate, every = arguments.pop("learning_rate"), arguments.pop("accumulate", 1)
    decay = arguments.pop("ema_decay", None)
    optimizer = getattr(torch.optim, optimizer)(leaves, lr=1.0 if callable(rate) else rate, **arguments)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate) if callable(rate) else None
    sign = -1.0 if arguments.get("maximize") else 1.0
    net = torch.nn.ParameterList(leaves)
    rule = None if decay is None else torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    average = None if decay is None else torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=rule)

    losses = []
    for step in range(STEPS):
        if step % every == 0:
            optimizer.zero_grad()
        rows = slice(None) if every == 1 else part(step)
        loss = sign * torch.mean((torch.tanh(x[rows] @ hidden) @ weight + bias - y[rows]) ** 2)
        (loss / every).backward()
        losses.append(loss.item())
        if (step + 1) % every:
            continue
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(leaves, clip_value)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if average is not None:
            average.update_parameters(net)
    hidden, weight, bias = (leaf.detach().numpy() for leaf in (leaves if average is None else average.module))
    return {"losses": np.array(losses), "params": flat({"hidden": hidden, "out": {"weight": weight, "bias": bias}})}


def cases():
    return {name: functools.partial(compute, *case) for name, case in CASES.items()}
