"""Every message that bad input gets: what came, what was expected, the way out."""

import difflib
import functools
from collections.abc import Iterable
from typing import Any, TypeGuard

import jax
import numpy as np


def describe(value: Any) -> str:
    """What an argument is, in a few words for a message: `float32[10, 3]`, `a str ('adam')`, `None`."""
    if value is None:
        return "None"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (bool, int, float, complex, str)):
        return f"{_with_article(type(value).__name__)} ({value!r})"
    return _with_article(type(value).__name__)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def choices(name: Any, known: Iterable[str]) -> str:
    """The way out of an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(map(repr, known))}."


def same_shape(function: str, **arrays: Any) -> None:
    """Raises ValueError where arrays that belong together differ in shape: they never broadcast silently."""
    shapes = {name: jax.numpy.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        came = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        squeezed = {tuple(n for n in shape if n != 1) for shape in shapes.values()}
        way_out = " Drop or add the axis of length 1, e.g. with x[:, 0] or y[:, None]." if len(squeezed) == 1 else ""
        raise ValueError(f"{function}: {came}; expected the same shape for both, nothing is broadcast.{way_out}")


def one_of(function: str, argument: str, value: Any, known: Iterable[str]) -> None:
    """Raises ValueError where a string option is not one of those known."""
    if not (isinstance(value, str) and value in (known := tuple(known))):
        raise ValueError(f"{function}: {argument} is {value!r}; {choices(value, known)}")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a plain number: not a bool, an array, a tracer or a placeholder."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def stem(path: Any, name: str = "params") -> str:
    """What a report calls a leaf of a pytree; a path of positions alone says little without what they are in."""
    full = dotted(path)
    return f"{name}[{full}]" if full.isdigit() else full or name


def dotted(path: Any) -> str:
    """The keys that lead to a leaf of a pytree, as `features.0.kernel`.

    The list that a Sequential of flax keeps its layers in is left out, as in torch's `features.0.weight`.
    """
    keys = [getattr(key, "key", None) for key in path] + [None]
    kept = [key for at, key in enumerate(path) if not (keys[at] == "layers" and isinstance(keys[at + 1], int))]
    return jax.tree_util.keystr(tuple(kept), simple=True, separator=".")


def unwrapped(function: Any) -> tuple[Any, dict[str, Any]]:
    """A function without the `functools.partial` around it, and the keywords that these bind."""
    keywords: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        keywords = function.keywords | keywords
        function = function.func
    return function, keywords


def describe_tree(tree: Any) -> str:
    """What a pytree is: like `describe` for one array, else each leaf by its path."""
    if jax.tree_util.all_leaves([tree]):
        return describe(tree)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shown = [f"{jax.tree_util.keystr(path)}: {describe(leaf)}" for path, leaf in leaves[:6]]
    more = [f"and {len(leaves) - 6} more"] if len(leaves) > 6 else []
    return "{" + ", ".join(shown + more) + "}"


def count(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number of at least `least`, or TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {describe(value)}; expected a whole number, at least {least}.")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}.")
    return int(value)
