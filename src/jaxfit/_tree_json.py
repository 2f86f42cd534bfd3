"""Pytrees of arrays and plain values as JSON beside a list of arrays, and back, bit for bit.

What JSON does not know is a JSON object whose first key says what it is. Arrays are numbered; the file holds them in
NumPy's own format. Nothing is pickled, and a class is only looked up where it is a node of a pytree by its name.
"""

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef, default_registry

from jaxfit import _checks, _compile

_PLAIN = (bool, int, str)
_WAY_OUT = "Files hold arrays, numbers, strings, None, and dicts, lists, tuples and named classes of these."


class UnreadableError(ValueError):
    """A file that cannot be read, in a sentence for its user."""


class Collected:
    """Arrays with their numbers, each once.

    Attributes:
        each: The arrays, in order.
    """

    def __init__(self):
        self.each: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, array: Any) -> int:
        """The number of an array, which is kept."""
        if id(array) not in self._numbers:
            self._numbers[id(array)] = len(self.each)
            self.each.append(array)
        return self._numbers[id(array)]


def encode(value: Any, arrays: Collected, path: str) -> Any:
    """A value as what JSON knows.

    Args:
        value: A pytree of arrays and plain values; other registered nodes where their classes have a name.
        arrays: Collects its arrays.
        path: What it is called in messages.

    Raises:
        TypeError: It holds what a file cannot.
    """
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [encode(part, arrays, path) for part in (value.real, value.imag)]}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _encode_array(value, arrays, path)
    if kind in (list, tuple):
        return {kind.__name__: [encode(part, arrays, f"{path}[{at}]") for at, part in enumerate(value)]}
    if kind is dict:
        return {
            "dict": [[encode(key, arrays, path), encode(value[key], arrays, f"{path}[{key!r}]")] for key in value],
        }
    return _encode_node(value, arrays, path)


def _encode_array(array: Any, arrays: Collected, path: str) -> Any:
    entry = {"of": "jax" if isinstance(array, jax.Array) else "numpy" if isinstance(array, np.ndarray) else "scalar"}
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        entry = {"of": "key", "impl": str(jax.random.key_impl(array))}
        array = jax.random.key_data(array)
    if array.dtype.hasobject or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{path} is {_checks.describe(array)} of Python objects or with a mask. {_WAY_OUT}")
    if array.dtype.isbuiltin == 2:  # NumPy's format has no name for those of ml_dtypes, such as bfloat16
        entry["dtype"] = array.dtype.name
    return {"array": arrays.number(array), **entry}


def write(array: Any, file: BinaryIO) -> None:
    """Writes an array in NumPy's format, in pieces where it is large."""
    array = np.asarray(array)
    if array.dtype.isbuiltin == 2:
        array = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)
    np.lib.format.write_array(file, array, allow_pickle=False)


def _encode_node(value: Any, arrays: Collected, path: str) -> Any:
    """A named tuple, or another node that is registered with JAX."""
    kind = type(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        entries = [encode(getattr(value, name), arrays, f"{path}.{name}") for name in kind._fields]
        return {"namedtuple": place_of(kind, path), "entries": entries}
    flat = default_registry.flatten_one_level(value) if not jax.tree_util.all_leaves([value]) else None
    if flat is None:
        raise TypeError(f"{path} is {_checks.describe(value)}, which a file cannot hold. {_WAY_OUT}")
    children, structure = flat
    return {
        "node": place_of(kind, path),
        "structure": encode(structure, arrays, f"{path} (its structure)"),
        "children": [encode(child, arrays, f"{path}[{at}]") for at, child in enumerate(children)],
    }


def place_of(kind: type, path: str) -> str:
    """Where a class is found, `module:name`; TypeError where it is not found by that."""
    place = f"{kind.__module__}:{kind.__qualname__}"
    found = None
    if kind.__module__ != "__main__" and "<locals>" not in place:
        found = located(place)
    if found is not kind:
        raise TypeError(
            f"{path} is {_checks.describe(kind)}, which no other program finds by its name ({place}): define it at the "
            "top of a module that can be imported, or take a dict or a tuple."
        )
    return place


def located(place: str) -> Any:
    """What is at `module:name`; None where there is nothing, or the module is not found.

    No module of Python's own is imported for it: some of them do something when they are.
    """
    module, _, name = place.partition(":")
    if module not in sys.modules and module.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        found: Any = importlib.import_module(module)
    except Exception:  # whatever a module does while it is imported
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


class Reader:
    """Reads values back.

    Args:
        read: Gives the array with a number, NumPy.

    Attributes:
        widened: Whether there was a JAX array of 64 bits although JAX is set to 32: it is a NumPy array now.
    """

    def __init__(self, read: Callable[[int], np.ndarray]):
        self._read, self.widened = read, False
        self._arrays: dict[tuple[int, str], Any] = {}  # what was one array is one again

    def decode(self, node: Any) -> Any:
        """The value that `encode` was given; raises something where the node is none of its."""
        if not isinstance(node, dict):
            if node is None or type(node) in (*_PLAIN, float):
                return node
            raise TypeError(f"{node!r} says nothing")
        kind, content = next(iter(node.items()))
        if kind == "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
        if kind == "complex":
            return complex(*map(self.decode, content))
        if kind == "array":
            kept = content, node["of"]
            if kept not in self._arrays:
                self._arrays[kept] = self._array(node)
            return self._arrays[kept]
        if kind == "list":
            return list(map(self.decode, content))
        if kind == "tuple":
            return tuple(map(self.decode, content))
        if kind == "dict":
            return {self.decode(key): self.decode(value) for key, value in content}
        if kind not in ("namedtuple", "node"):
            raise TypeError(f"{kind!r} is no kind of value")
        return self._node(node, content)

    def _node(self, node: Any, place: str) -> Any:
        found = located(place)
        if not isinstance(found, type):
            raise UnreadableError(
                f"a part is of the class {place.replace(':', '.')}, which is not found here: make its module known."
            )
        if "namedtuple" in node:
            if not (issubclass(found, tuple) and hasattr(found, "_fields")):
                raise UnreadableError(f"{place.replace(':', '.')} is no named tuple any more.")
            entries = list(map(self.decode, node["entries"]))
            if len(entries) != len(found._fields):  # type: ignore[attr-defined]
                raise UnreadableError(f"{place.replace(':', '.')} has other fields now.")
            return tuple.__new__(found, entries)
        children = list(map(self.decode, node["children"]))
        leaves = [jax.tree.structure(0)] * len(children)
        structure = self.decode(node["structure"])
        # Of a class that is not registered as a node there is nothing that could be called.
        tree = PyTreeDef.from_node_data_and_children(default_registry, (found, structure), leaves)
        return tree.unflatten(children)

    def _array(self, node: Any) -> Any:
        array = self._read(node["array"])
        if "dtype" in node:
            array = array.view(np.dtype(node["dtype"]))
        if node["of"] == "scalar":
            return array[()]
        if node["of"] == "numpy":
            return array
        if node["of"] == "key":
            return jax.random.wrap_key_data(jnp.asarray(array), impl=node["impl"])
        wide = array.dtype.itemsize > (8 if array.dtype.kind == "c" else 4)
        if wide and not _compile.setting("jax_enable_x64"):
            self.widened = True
            return array
        return jnp.asarray(array)
