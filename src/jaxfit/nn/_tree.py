"""What a network is made of: its parts in order of definition, their paths, and how it is printed."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxfit import _checks

_ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)
_RANDOM = (nnx.Rngs, nnx.RngStream)
_PLAIN = (bool, int, float, str)


def parameters(net: nnx.Module) -> dict[str, jax.Array]:
    """The trainable arrays of a network by their paths, in order of definition.

    Args:
        net: Any module, of jaxfit or of flax.

    Returns:
        `{path: array}`. A path joins names of attributes and positions by dots; as in torch, the layers of a
        `Sequential` have their position alone. An array that is found twice is listed once. Running statistics and
        the state of random numbers are not trained and not listed.

    Raises:
        TypeError: `net` is not a module.

    Source: `torch.nn.Module.named_parameters`.

    Example:
        >>> from jaxfit import nn
        >>> net = nn.Sequential(nn.Linear(2, 5, rngs=nn.Rngs(0)), nn.ReLU())
        >>> {path: array.shape for path, array in nn.parameters(net).items()}
        {'0.kernel': (2, 5), '0.bias': (5,)}
    """
    check_net("parameters", net)
    return {".".join(path): value.get_value() for path, value in walk(net) if isinstance(value, nnx.Param)}


def check_net(function: str, net: Any) -> None:
    """Raises TypeError where something is not a module."""
    if not isinstance(net, nnx.Module):
        raise TypeError(
            f"{function}: net is {_checks.describe(net)}; expected a module, e.g. jaxfit.nn.Sequential(...) or your "
            f"own class derived from jaxfit.nn.Module."
        )


def walk(net: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every part of a network below it, parents before children, each once although it may be found twice."""
    seen = {id(net)}

    def below(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, value in parts(node):
            if is_node(value) or isinstance(value, nnx.Variable):
                if id(value) in seen:
                    continue
                seen.add(id(value))
            yield (*path, name), value
            if is_node(value):
                yield from below(value, (*path, name))

    return below(net, ())


def parts(node: Any) -> list[tuple[str, Any]]:
    """Modules, variables, arrays and functions directly in a module or a container, with their names."""
    if isinstance(node, (list, tuple, nnx.List)):
        return [(str(index), value) for index, value in enumerate(node) if _is_part(value) or callable(value)]
    found = []
    for name, value in node.items() if isinstance(node, dict) else _attributes(node):
        if isinstance(node, nnx.Sequential) and name == "layers":
            found += parts(value)
        elif _is_part(value):
            found.append((str(name), value))
    return found


def is_node(value: Any) -> bool:
    """Whether a value is a module or a container, so has parts."""
    return isinstance(value, (nnx.Pytree, list, tuple, dict)) and not isinstance(value, (nnx.Variable, *_RANDOM))


def is_module(value: Any) -> bool:
    """Whether a value is a layer: not a container alone."""
    return isinstance(value, nnx.Module) and not isinstance(value, (nnx.List, nnx.Dict))


def _is_part(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_part, value))
    if isinstance(value, dict):
        return any(map(_is_part, value.values()))
    return isinstance(value, (nnx.Variable, *_ARRAYS)) or is_node(value)


def _attributes(node: Any) -> list[tuple[str, Any]]:
    """In order of definition: a module that was split and merged has them sorted, but keeps the order beside them."""
    values = vars(node)
    names = dict.fromkeys([*getattr(node, "_pytree__nodes", ()), *values])
    return [(name, values[name]) for name in names if name in values and not name.startswith("_pytree__")]


def text(node: Any, above: tuple[int, ...] = ()) -> str:
    """How a part of a network is printed, after torch's manner; nothing is computed."""
    if isinstance(node, nnx.Variable):
        return f"{'Parameter' if isinstance(node, nnx.Param) else type(node).__name__}{_shape(node.get_value())}"
    if isinstance(node, _ARRAYS):
        return f"Array{_shape(node)}"
    if not is_node(node):
        return function_name(node)
    name = type(node).__name__
    if id(node) in above:
        return f"{name}(...)"
    children = parts(node)
    extra = _extra(node, children)
    if extra:  # this says what the arrays are
        children = [(key, value) for key, value in children if not isinstance(value, (nnx.Variable, *_ARRAYS))]
    rows = [f"({key}): {text(value, (*above, id(node)))}" for key, value in children]
    if not rows:
        return f"{name}({extra})"
    lines = "\n".join([extra, *rows] if extra else rows)
    return f"{name}(\n  " + lines.replace("\n", "\n  ") + "\n)"


def function_name(function: Any) -> str:
    """What a function among layers is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _shape(value: Any) -> str:
    return f"({', '.join(map(str, getattr(value, 'shape', ())))})"


def _extra(node: Any, children: list[tuple[str, Any]]) -> str:
    """What stands in the brackets after a module's name."""
    if hasattr(node, "extra_repr"):
        return node.extra_repr()
    if not is_module(node) or any(is_node(value) for _, value in children):
        return ""
    shown = []  # of a layer of flax: the arguments that it keeps, where they are not the defaults
    for name, parameter in inspect.signature(type(node).__init__).parameters.items():
        value = vars(node).get(name)
        plain = isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value))
        if plain and value != parameter.default:
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)
