"""Neural networks: PyTorch's blocks by their names, arguments and starting values, as modules of `flax.nnx`.

Each block that flax has is a subclass of flax's, so everything that works on flax's modules works on these. Two things
differ from torch: channels come last (`[N, H, W, C]`), and what draws random numbers takes `rngs`, one for a network:

    net = nn.Sequential(nn.Linear(2, 64, rngs=rngs), nn.ReLU(), nn.Linear(64, 1, rngs=rngs))

A network starts in training mode, as in torch; `net.eval()` and `net.train()` change it in place, and `flax.nnx.view`
gives another that shares its arrays.
"""

from typing import TYPE_CHECKING

from flax.nnx import Rngs

from jaxfit._lazy import attach
from jaxfit.nn._activations import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from jaxfit.nn._conv import Conv1d, Conv2d
from jaxfit.nn._linear import Embedding, Linear
from jaxfit.nn._module import Module, Sequential
from jaxfit.nn._norm import BatchNorm1d, BatchNorm2d, LayerNorm
from jaxfit.nn._pool import AvgPool2d, MaxPool2d
from jaxfit.nn._simple import Dropout, Flatten, Identity
from jaxfit.nn._tree import parameters

if TYPE_CHECKING:
    from jaxfit.nn._summary import summary
    from jaxfit.nn._torch import from_torch, to_torch

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ReLU",
    "Rngs",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "from_torch",
    "parameters",
    "summary",
    "to_torch",
]

__getattr__, __dir__ = attach(__name__, {"from_torch": "_torch", "summary": "_summary", "to_torch": "_torch"})
