"""Blocks against torch.nn: inputs and weights by NumPy, values and gradients by torch, in float64, channels first."""

import dataclasses
import warnings
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    layer: str
    arguments: dict  # by the names that both share
    x: np.ndarray  # as torch wants it
    weights: dict  # as torch has them


def cotangent(shape):
    """What the values are multiplied by before their sum is differentiated, so that no two elements look alike."""
    return np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape)


def table():
    """All cases by name."""
    found = {}

    def add(layer, variant, shape, arguments=None, weights=None, make=None):
        name = f"{layer}-{variant}"
        assert name not in found
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        x = (make or (lambda rng, shape: rng.normal(size=shape)))(rng, shape)
        weights = {key: rng.normal(size=size) for key, size in (weights or {}).items()}
        found[name] = Case(name, layer, arguments or {}, x, weights)

    _activations(add)
    _dense(add)
    _convolutions(add)
    _pools(add)
    _norms(add)
    return found


def _grid(rng, shape):
    """Multiples of a half: zeros, ties and kinks abound."""
    return rng.integers(-5, 6, size=shape) / 2


def _far(rng, shape):
    return rng.choice([-1e3, -30.0, -1.0, 0.0, 1.0, 30.0, 1e3], size=shape)


def _activations(add):
    for layer in ("ReLU", "Sigmoid", "SiLU", "Tanh", "GELU", "Softplus", "ELU", "LeakyReLU"):
        add(layer, "grid", (30,), make=_grid)
        add(layer, "far", (4, 5), make=_far)
    add("GELU", "tanh", (3, 7), {"approximate": "tanh"})
    add("Softplus", "beta", (40,), {"beta": 2.0, "threshold": 3.0}, make=_grid)
    add("ELU", "alpha", (30,), {"alpha": 0.3}, make=_grid)
    add("LeakyReLU", "slope", (30,), {"negative_slope": 0.2}, make=_grid)
    for layer in ("Softmax", "LogSoftmax"):
        add(layer, "last", (3, 5), {"dim": -1})
        add(layer, "first", (3, 5), {"dim": 0}, make=_far)
    add("Identity", "plain", (3, 2))
    add("Flatten", "plain", (2, 6))
    add("Flatten", "from-0", (2, 6), {"start_dim": 0})


def _dense(add):
    add("Linear", "plain", (4, 3), {"in_features": 3, "out_features": 5}, {"weight": (5, 3), "bias": 5})
    add("Linear", "no-bias", (3,), {"in_features": 3, "out_features": 2, "bias": False}, {"weight": (2, 3)})
    add("Linear", "row", (2, 4, 3), {"in_features": 3, "out_features": 1}, {"weight": (1, 3), "bias": 1})

    def numbers(rng, shape):
        return rng.integers(0, 5, size=shape)

    size = {"num_embeddings": 5, "embedding_dim": 3}
    add("Embedding", "plain", (2, 6), size, {"weight": (5, 3)}, numbers)
    add("Embedding", "padding", (20,), {**size, "padding_idx": -4}, {"weight": (5, 3)}, numbers)
    add(
        "Embedding", "one", (4,), {**size, "num_embeddings": 1}, {"weight": (1, 3)}, lambda rng, shape: np.zeros(4, int)
    )


def _convolutions(add):
    def conv(variant, spatial, channels=(4, 6), kernel=(3,), **options):
        layer = f"Conv{len(spatial)}d"
        arguments = {"in_channels": channels[0], "out_channels": channels[1], "kernel_size": kernel, **options}
        weights = {"weight": (channels[1], channels[0] // options.get("groups", 1), *kernel), "bias": channels[1]}
        if not options.get("bias", True):
            del weights["bias"]
        add(layer, variant, (2, channels[0], *spatial), arguments, weights)

    conv("plain", (9,))
    conv("stride", (10,), stride=2, padding=1)
    conv("same", (8,), kernel=(4,), padding="same")
    conv("dilated", (11,), dilation=3, padding=2, bias=False)
    conv("groups", (7,), groups=2)
    conv("plain", (6, 7), kernel=(3, 2))
    conv("stride", (8, 9), kernel=(3, 3), stride=(2, 3), padding=(1, 0))
    conv("same", (5, 6), kernel=(2, 3), padding="same", dilation=2)
    conv("valid", (5, 6), kernel=(2, 3), padding="valid", bias=False)
    conv("depthwise", (5, 6), kernel=(3, 3), groups=4, channels=(4, 8), padding=1)


def _pools(add):
    for layer in ("MaxPool2d", "AvgPool2d"):
        add(layer, "plain", (2, 3, 5, 7), {"kernel_size": 2})
        add(layer, "overlap", (2, 3, 7, 6), {"kernel_size": 3, "stride": (2, 1), "padding": 1})
        add(layer, "oblong", (2, 2, 6, 9), {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)})
    add("MaxPool2d", "ties", (2, 2, 6, 6), {"kernel_size": 3, "stride": 2, "padding": 1}, make=_grid)
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}
    add("AvgPool2d", "without-padding", (2, 3, 7, 6), options)


def _norms(add):
    def offset(rng, shape):
        return 3 + 2 * rng.normal(size=shape)

    both = {"weight": 4, "bias": 4}
    add("LayerNorm", "plain", (3, 4), {"normalized_shape": 4}, both, offset)
    add("LayerNorm", "no-bias", (3, 4), {"normalized_shape": 4, "bias": False}, {"weight": 4}, offset)
    add("LayerNorm", "plain-numbers", (3, 4), {"normalized_shape": 4, "elementwise_affine": False, "eps": 0.1})
    add("LayerNorm", "two-axes", (2, 3, 4), {"normalized_shape": (3, 4)}, {"weight": (3, 4), "bias": (3, 4)}, offset)
    # The first axis is of batches: two for training, one for evaluation.
    add("BatchNorm1d", "plain", (3, 6, 4), {"num_features": 4}, both, offset)
    add("BatchNorm1d", "sequences", (3, 2, 4, 5), {"num_features": 4, "momentum": 0.3}, both, offset)
    add("BatchNorm1d", "not-affine", (3, 2, 4), {"num_features": 4, "affine": False, "eps": 0.1}, make=offset)
    add("BatchNorm2d", "plain", (3, 2, 4, 3, 5), {"num_features": 4}, both, offset)


def by_torch(case):
    """Value and gradients of a case as torch computes them; of batch normalisation also what it keeps and evaluates."""
    import torch

    layer = getattr(torch.nn, case.layer)(**case.arguments).double()
    with torch.no_grad():
        for name, array in case.weights.items():
            getattr(layer, name).copy_(torch.tensor(array))
    batches = case.layer.startswith("BatchNorm")
    x = torch.tensor(case.x[0] if batches else case.x)
    if x.is_floating_point():
        x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what even kernels cost with padding="same"
        value = layer(x)
    (value * torch.tensor(cotangent(value.shape))).sum().backward()
    found = {"value": value, **({"grad_x": x.grad} if x.requires_grad else {})}
    found |= {f"grad_{name}": getattr(layer, name).grad for name in case.weights}
    if batches:
        layer(torch.tensor(case.x[1]))
        found |= {"mean": layer.running_mean, "var": layer.running_var}
        found["evaluated"] = layer.eval()(torch.tensor(case.x[2]))
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def cases():
    return {name: lambda case=case: by_torch(case) for name, case in table().items()}
