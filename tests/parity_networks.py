"""Whole training runs by torch, from starting weights that NumPy makes, in float64 and with channels first.

Each case gives the starting weights by torch's names ("start.0.weight"), the loss that each step starts from, and the
state and the evaluation at the end.
"""

import dataclasses
import functools
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Run:
    layers: tuple  # of name and arguments, by the names that both sides share
    x: np.ndarray  # as torch wants it
    y: np.ndarray
    loss: str
    optimizer: str
    options: dict
    batch_size: int
    epochs: int


NUMBERS = np.arange(1.0, 7.0)[:, None]
RANDOM = np.random.default_rng(21)
POINTS = RANDOM.normal(size=(30, 4))
IMAGES = RANDOM.normal(size=(12, 2, 6, 5))
TOKENS = RANDOM.integers(0, 7, (20, 3))
ROW = np.sin(POINTS.sum(1, keepdims=True))
MOMENTUM = {"lr": 0.05, "momentum": 0.9}

RUNS = {
    "line": Run((("Linear", 1, 1),), NUMBERS, 3 * NUMBERS, "sum", "SGD", {"lr": 0.01, "momentum": 0.5}, 1, 100),
    "two layers": Run(
        (("Linear", 1, 10), ("Linear", 10, 1)),
        NUMBERS,
        3 * NUMBERS,
        "mse",
        "SGD",
        {"lr": 0.01, "momentum": 0.01},
        1,
        300,
    ),
    "classifier": Run(
        (("Linear", 4, 8), ("Tanh",), ("Linear", 8, 8), ("ReLU",), ("Linear", 8, 3)),
        POINTS,
        np.argmax(POINTS[:, :3] ** 2, 1),
        "cross_entropy",
        "Adam",
        {"lr": 0.02},
        10,
        10,
    ),
    "batch norm": Run(
        (("Linear", 4, 6), ("BatchNorm1d", 6), ("ReLU",), ("Linear", 6, 1)), POINTS, ROW, "mse", "SGD", MOMENTUM, 10, 8
    ),
    "images": Run(
        (
            ("Conv2d", 2, 4, 3, 1, 1),
            ("ReLU",),
            ("MaxPool2d", 2),
            ("Conv2d", 4, 6, 2),
            ("BatchNorm2d", 6),
            ("Tanh",),
            ("Flatten",),
            ("Linear", 12, 3),
        ),
        IMAGES,
        np.arange(12) % 3,
        "cross_entropy",
        "SGD",
        MOMENTUM,
        4,
        5,
    ),
    "tokens": Run(
        (("Embedding", 7, 4, 0), ("Flatten",), ("Linear", 12, 1)),
        TOKENS,
        (TOKENS.sum(1, keepdims=True) / 9.0) - 1,
        "mse",
        "Adam",
        {"lr": 0.05},
        6,
        8,
    ),
}


def start(name, shapes):
    """Starting weights by torch's names."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    found = {}
    for key, shape in shapes.items():
        if key.endswith("running_var"):
            found[key] = np.ones(shape)
        elif key.endswith("running_mean"):
            found[key] = np.zeros(shape)
        elif not key.endswith("num_batches_tracked"):
            found[key] = random.uniform(-0.9, 0.9, shape) / np.sqrt(np.prod(shape[1:]))
    return found


def compute(name):
    import torch

    run = RUNS[name]
    net = torch.nn.Sequential(*(getattr(torch.nn, layer)(*arguments) for layer, *arguments in run.layers)).double()
    weights = start(name, {key: tuple(value.shape) for key, value in net.state_dict().items()})
    net.load_state_dict({key: torch.tensor(value) for key, value in weights.items()}, strict=False)
    optimizer = getattr(torch.optim, run.optimizer)(net.parameters(), **run.options)
    loss_function = {
        "sum": lambda out, label: torch.sum((label - out) ** 2),
        "mse": torch.nn.functional.mse_loss,
        "cross_entropy": torch.nn.functional.cross_entropy,
    }[run.loss]
    x, y = torch.tensor(run.x), torch.tensor(run.y)
    losses = []
    for _ in range(run.epochs):
        for first in range(0, len(x), run.batch_size):
            optimizer.zero_grad()
            rows = slice(first, first + run.batch_size)
            loss = loss_function(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    found = {f"start.{key}": value for key, value in weights.items()}
    found |= {f"end.{key}": value.detach().numpy().copy() for key, value in net.state_dict().items() if key in weights}
    return found | {"losses": np.array(losses), "evaluated": net.eval()(x).detach().numpy()}


def cases():
    return {name: functools.partial(compute, name) for name in RUNS}
