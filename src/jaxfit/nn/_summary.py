"""A table of a network's layers: shapes found by tracing, so nothing is computed."""

import functools
import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
from flax import nnx

from jaxfit.nn import _tree

_outputs: ContextVar[dict[str, list[str]]] = ContextVar("outputs")


def summary(net: nnx.Module, *inputs: Any) -> str:
    """A table of a network's layers: path, type, shape of what each returns, and number of parameters.

    Args:
        net: Any module, of jaxfit or of flax, with a `__call__`.
        inputs: What it is called with: arrays, or `jax.ShapeDtypeStruct` for their shapes alone.

    Returns:
        Text to print: a row for each layer in order of definition, and a line with all parameters and their bytes.
        A layer that is called several times shows the different shapes it returns; one that is not called shows `-`.
        Parameters that layers share are counted in the first. The network itself stays as it is.

    Raises:
        TypeError: `net` is not a module, or cannot be called.
        ValueError: The input does not fit; as the layers say it.

    Source: the table of layers known from Keras and torchinfo.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> net = nn.Sequential(nn.Linear(2, 5, rngs=nn.Rngs(0)), nn.ReLU())
        >>> print(nn.summary(net, jnp.ones((8, 2))))
        Layer  Type    Output  Parameters
        0      Linear  (8, 5)          15
        1      ReLU    (8, 5)           0
        Total                          15  (60 bytes)
    """
    _tree.check_net("summary", net)
    if not callable(net):
        raise TypeError(f"summary: {type(net).__name__} has no __call__; expected a module that can be called.")
    outputs = _trace(net, inputs)
    rows = [(name, kind, "; ".join(outputs.get(name, ["-"])), count) for name, kind, count in _layers(net)]
    arrays = _tree.parameters(net).values()
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
    return _table(rows, f"  ({size:,} bytes)")


def _layers(net: nnx.Module) -> list[tuple[str, str, int]]:
    """Name, type and number of own parameters of what has a row: all but modules that only hold others."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for path, value in [((), net), *_tree.walk(net)]:
        if isinstance(value, nnx.Param):
            owner = next(path[:end] for end in reversed(range(len(path))) if path[:end] in found)
            found[owner][1] += math.prod(value.get_value().shape)
        elif _tree.is_module(value):
            holds = any(_tree.is_node(part) or _is_function(part) for _, part in _tree.parts(value))
            found[path] = [type(value).__name__, 0, holds]
        elif _is_function(value):
            found[path] = [_tree.function_name(value), 0, False]
    return [(_name(path), kind, count) for path, (kind, count, holds) in found.items() if count or not holds]


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path) or "(net)"


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (nnx.Pytree, nnx.Variable))


def _trace(net: nnx.Module, inputs: tuple[Any, ...]) -> dict[str, list[str]]:
    """The shapes that each layer returns. Layers of a copy tell them; the copy lives in the trace alone."""
    graphdef, state = nnx.split(net)

    def run(state: Any, inputs: tuple[Any, ...]) -> Any:
        copy = nnx.merge(graphdef, state)
        for path, value in [((), copy), *_tree.walk(copy)]:
            if _tree.is_module(value) and callable(value):
                object.__setattr__(value, "__class__", _telling(type(value)))
                object.__setattr__(value, "_path", _name(path))
            layers = value.layers if isinstance(value, nnx.Sequential) else value
            for index, layer in enumerate(layers) if isinstance(layers, nnx.List) else ():
                if _is_function(layer):
                    object.__setattr__(layers, str(index), _telling_function(layer, _name((*path, str(index)))))
        return copy(*inputs)

    outputs: dict[str, list[str]] = {}
    token = _outputs.set(outputs)
    try:
        jax.eval_shape(run, state, inputs)
    finally:
        _outputs.reset(token)
    return outputs


@functools.cache
def _telling(kind: type) -> type:
    """A subclass whose instances tell the shapes of what a call returns."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _tell(self._path, kind.__call__(self, *args, **kwargs))

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def _telling_function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _tell(name, function(*args, **kwargs))

    return call


def _tell(name: str, output: Any) -> Any:
    arrays = jax.tree.leaves(output)
    shapes = ", ".join(str(jax.numpy.shape(array)) for array in arrays)
    told = _outputs.get().setdefault(name, [])
    if shapes not in told:
        told.append(shapes)
    return output


def _table(rows: list[tuple[str, str, str, int]], size: str) -> str:
    """Columns as wide as their widest entry, numbers to the right."""
    lines = [("Layer", "Type", "Output", "Parameters"), *((*row[:3], f"{row[3]:,}") for row in rows)]
    lines.append(("Total", "", "", f"{sum(row[3] for row in rows):,}"))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    padded = ["  ".join([*map(str.ljust, line[:3], widths), line[3].rjust(widths[3])]) for line in lines]
    return "\n".join(padded) + size
