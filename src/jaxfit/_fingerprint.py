"""What a function computes, as a hashable key: equal keys mean that one compiled program serves both.

A lambda that is written anew has a new identity and the same meaning, so identity compiles too often; its code alone
says too little, because a changed closure, default or global changes the answer. The key therefore holds the code
and every value that it refers to. What shows no value (an object of a C type without attributes) counts by identity,
and is taken not to change.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Functions of these packages are taken to refer to nothing that changes while a program runs.
_LIBRARIES = {"jax", "jaxlib", "jaxfit", "optax", "flax", "numpy", "scipy", *sys.stdlib_module_names} - {"__main__"}
_PLAIN = (type(None), bool, int, str, bytes, complex, type(Ellipsis))
_COMPARED_BYTES = 1 << 16  # a device array up to this size is compared by value, a larger one by identity


class _Identity:
    """Compares by identity and keeps its object alive, so that no other can take over the identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def fingerprint(value: Any) -> Hashable:
    """The key of a value: of functions, of what they close over and refer to, and of plain data.

    Args:
        value: A function or any other object.

    Returns:
        A hashable key; two values with equal keys behave the same when traced.
    """
    return _key(value, {})


def _key(value: Any, seen: dict[int, int]) -> Hashable:
    kind = type(value)
    if kind is float:
        return (kind, value.hex())  # tells 0.0 from -0.0, and nan is equal to itself
    if kind in _PLAIN:
        return (kind, value)
    if isinstance(value, Tracer):
        return _Identity(value)
    if isinstance(value, jax.Array):
        return _array_key(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _numpy_key(value)
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, np.ufunc)):
        return _Identity(value)
    if id(value) in seen:  # a function that calls itself, a structure that holds itself
        return ("seen", seen[id(value)])
    seen[id(value)] = len(seen)
    if kind is types.FunctionType:
        return _function_key(value, seen)
    return _object_key(value, seen)


def _object_key(value: Any, seen: dict[int, int]) -> Hashable:
    """The key of a container or of an object with attributes."""
    kind = type(value)
    if isinstance(value, (tuple, list)):
        return (kind, *(_key(entry, seen) for entry in value))
    if isinstance(value, dict):
        return (kind, *((_key(name, seen), _key(entry, seen)) for name, entry in value.items()))
    if kind is types.MethodType:
        return (kind, _key(value.__self__, seen), _key(value.__func__, seen))
    if kind is functools.partial:
        return (kind, _key(value.func, seen), _key(value.args, seen), _key(value.keywords, seen))
    if kind.__module__.startswith("jax") and isinstance(getattr(value, "__wrapped__", None), types.FunctionType):
        return (kind, _key(value.__wrapped__, seen))  # a function under jax.jit and the like
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset(_key(entry, seen) for entry in value))
    if isinstance(value, bytearray):
        return (kind, bytes(value))
    attributes = _attributes(value)
    if not attributes:
        return _Identity(value)
    return (kind, _Identity(value) if _is_hidden(kind) else None, _key(attributes, seen))


def _attributes(value: Any) -> dict[str, Any]:
    """All that an object carries in sight."""
    if not isinstance(getattr(value, "__dict__", {}), dict):
        return {}
    slots = [name for base in type(value).__mro__ for name in _as_tuple(base.__dict__.get("__slots__", ()))]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _is_hidden(kind: type) -> bool:
    """Whether a class, or one that it builds on, is written in C and so may hold more than its attributes show."""
    return any(base is not object and not base.__flags__ & (1 << 9) for base in kind.__mro__)  # Py_TPFLAGS_HEAPTYPE


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _array_key(array: jax.Array) -> Hashable:
    if array.nbytes > _COMPARED_BYTES or not array.is_fully_addressable or array.is_deleted():
        return _Identity(array)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return (jax.Array, str(array.dtype), array.shape, np.asarray(jax.random.key_data(array)).tobytes())
    return (jax.Array, str(array.dtype), array.weak_type, array.shape, np.asarray(array).tobytes())


def _numpy_key(array: np.ndarray | np.generic) -> Hashable:
    if array.dtype.hasobject:
        return _Identity(array)
    # By value even where it is large: an array can change in place under the function that refers to it.
    digest = hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
    return (type(array), array.dtype.str, array.shape, digest)


def _function_key(function: types.FunctionType, seen: dict[int, int]) -> Hashable:
    """The key of a Python function: its code, defaults, closure, and the globals that it refers to."""
    code = function.__code__
    library = _is_library(function.__module__)
    if library and function.__closure__ is None and "<locals>" not in function.__qualname__:
        return _Identity(function)
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(_key(cell.cell_contents, seen))
        except ValueError:  # not filled yet
            cells.append("empty")
    names = () if library else _names(code)
    found = [
        (name, _global_key(function.__globals__[name], names, seen)) for name in names if name in function.__globals__
    ]
    defaults = _key(function.__defaults__, seen), _key(function.__kwdefaults__, seen)
    attributes = _key(function.__dict__, seen) if function.__dict__ else None
    return (code, *defaults, attributes, tuple(cells), tuple(found))


def _global_key(value: Any, names: tuple[str, ...], seen: dict[int, int]) -> Hashable:
    """A global's key; for a user's own module, the values in it that the code may mean by `module.name`."""
    if isinstance(value, types.ModuleType) and not _is_library(value.__name__) and id(value) not in seen:
        seen[id(value)] = len(seen)
        return tuple((name, _key(vars(value)[name], seen)) for name in names if name in vars(value))
    return _key(value, seen)


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """All names that a piece of code and the code inside it may look up in its globals."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_names(constant))
    return tuple(sorted(names))
