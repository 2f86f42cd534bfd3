"""What a user hands in as data, params and key, checked and made into arrays of one precision."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfit import _checks, _compile, _mesh
from jaxfit._problem import Batch

_NARROW = {"f": np.float32, "c": np.complex64, "i": np.int32, "u": np.uint32}
_EXPECTED = "a float or a pytree of floats such as jnp.zeros(3)"
_FLOAT64_WAY_OUT = "give params as NumPy float64 to fit in float64"


class Params(NamedTuple):
    """Starting values, as arrays.

    Attributes:
        tree: The pytree of arrays.
        wide: Whether the fit runs in float64 although JAX is set to 32 bits.
    """

    tree: Any
    wide: bool


def params(given: Any, data: Any, widen: bool = False, traced: bool = False) -> Params:
    """Starting values as arrays of the fit's precision.

    float64 params make a float64 fit. Python floats have no precision of their own and take that of the data.

    Args:
        given: What the user said.
        data: The data, whose precision counts.
        widen: Whether float64 data make a float64 fit of float32 params too.
        traced: Whether the fit is part of a function that JAX transforms.

    Raises:
        TypeError: There are none, or some are not floats.
        ValueError: Some are NaN or infinite, or there are none in the tree.
    """
    if given is None:
        raise TypeError(f"params is None; expected starting values, {_EXPECTED}.")
    try:
        entries, tree = jax.tree_util.tree_flatten_with_path(given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"params is no pytree: {str(error).splitlines()[0]}. Give a dict keys of one kind.") from error
    if not entries:
        raise ValueError(f"params is {given!r}, which holds no numbers; expected {_EXPECTED}.")
    leaves = [_param(_path("params", path), leaf) for path, leaf in entries]
    typed = [leaf.dtype == np.float64 for leaf in leaves if leaf is not None]
    double = any(typed) or ((widen or not typed) and _holds_float64(data))
    if traced and not _compile.setting("jax_enable_x64"):
        double = False  # a trace has the precision that it began with
    wide = double and not _compile.setting("jax_enable_x64")
    for index, (path, leaf) in enumerate(entries):
        if leaves[index] is None:
            leaves[index] = np.asarray(leaf, np.float64 if double else np.float32)
        elif widen and double and leaves[index].dtype != np.float64:
            leaves[index] = leaf.astype(np.float64) if isinstance(leaf, Tracer) else np.asarray(leaf, np.float64)
        if leaves[index].dtype == np.float64 and not double and not _compile.setting("jax_enable_x64"):
            leaves[index] = leaves[index].astype(np.float32)
        _check_finite(_path("params", path), leaves[index])
    return Params(tree.unflatten(leaves), wide)


def _param(name: str, leaf: Any) -> Any:
    """A param as an array; None for a Python float, which takes the precision of the rest."""
    if isinstance(leaf, float) and not isinstance(leaf, np.floating):
        return None
    if _checks.is_number(leaf) and isinstance(leaf, int):
        raise TypeError(f"{name} is the integer {leaf}; only floats have a gradient: write {leaf}.0.")
    if not isinstance(leaf, (np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"{name} is {_checks.describe(leaf)}; expected a float or an array of floats.")
    if not jnp.issubdtype(leaf.dtype, np.floating):
        raise TypeError(
            f"{name} is {_checks.describe(leaf)}; only floats have a gradient: convert it by astype(float)."
        )
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _holds_float64(data: Any) -> bool:
    """Whether arrays (x, y) are float64, those of other libraries too; lists of floats are, as in NumPy."""
    leaves = jax.tree.leaves(tuple(map(gathered, data))) if isinstance(data, tuple) else []
    return any(str(getattr(leaf, "dtype", "")).endswith("float64") for leaf in leaves)


def arrays(data: tuple[Any, Any], wide: bool, name: str = "data", ragged: bool = False) -> Batch:
    """The pair (x, y) as arrays with one row per sample.

    Args:
        data: x and y, pytrees of arrays with a common leading axis; lists of numbers count as arrays.
        wide: Whether float64 stays float64.
        name: What the pair is called in messages.
        ragged: Whether leading axes may differ where y is a pytree of several arrays, the data sets of a global fit.

    Raises:
        TypeError: Something in it is not numbers.
        ValueError: Lengths differ, there are no samples, or there is a NaN or an infinity.
    """
    if len(data) != 2:
        raise ValueError(f"{name} is a tuple of {len(data)}; expected the pair (x, y).")
    where = "" if name == "data" else f" of {name}"
    entries = [
        (_path(letter + where, path), _array(_path(letter + where, path), leaf, wide))
        for letter, part in zip("xy", data, strict=True)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gathered(part))
    ]
    lengths = {}
    for letter in "xy":
        if not any(path.startswith(letter) for path, _ in entries):
            raise ValueError(f"{letter}{where} holds no arrays; expected an array with one row per sample.")
    for path, array in entries:
        if array.ndim == 0:
            raise ValueError(f"{path} is a single number; expected an array with one row per sample.")
        lengths[path] = array.shape[0]
        if array.size == 0:
            raise ValueError(f"{path} is {_checks.describe(array)}, which is empty; expected at least one sample.")
        _check_finite(path, array)
    several = ragged and sum(path.startswith("y") for path, _ in entries) > 1
    if len(set(lengths.values())) > 1 and not several:
        came = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise ValueError(f"x and y differ in their number of samples: {came}; expected the same leading axis for all.")
    x_tree, y_tree = (jax.tree.structure(gathered(part)) for part in data)
    found = [array for _, array in entries]
    return Batch(x_tree.unflatten(found[: x_tree.num_leaves]), y_tree.unflatten(found[x_tree.num_leaves :]))


def blank(data: tuple[Any, Any], wide: bool) -> Batch:
    """A pair (x, y) of arrays without samples."""
    return Batch(*(_array(letter, part, wide) for letter, part in zip("xy", data, strict=True)))


def features(x: Any, wide: bool) -> Any:
    """New points as arrays, checked like the x of the data.

    Raises:
        TypeError: Something in it is not numbers.
        ValueError: It is empty, or there is a NaN or an infinity.
    """
    x = gathered(x)
    entries, tree = jax.tree_util.tree_flatten_with_path(x)
    if not entries:
        raise ValueError("x holds no arrays; expected what the model takes.")
    found = [_array(_path("x", path), leaf, wide) for path, leaf in entries]
    for (path, _), array in zip(entries, found, strict=True):
        _check_finite(_path("x", path), array)
    return tree.unflatten(found)


def gathered(part: Any) -> Any:
    """Lists and tuples of plain numbers as one array; any other pytree as it is."""
    if isinstance(part, (list, tuple)):
        leaves = jax.tree.leaves(part)
        if leaves and all(isinstance(leaf, (bool, int, float, complex, np.generic)) for leaf in leaves):
            try:
                return np.asarray(part)
            except ValueError:  # rows of different lengths: a pytree after all, whose numbers are named one by one
                return part
    return part


def _array(name: str, leaf: Any, wide: bool) -> Any:
    """An array of the precision that the fit runs in."""
    if isinstance(leaf, jax.Array):
        return leaf
    try:
        array = np.asarray(leaf)
    except Exception as error:  # a foreign array may refuse in its own way: one on another device, one with a gradient
        raise TypeError(f"{name} is {_checks.describe(leaf)}, which NumPy cannot read: {error}") from error
    if array.dtype.kind not in "fciub" and not jnp.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name} is {_checks.describe(array)}; expected an array of numbers.")
    if wide or _compile.setting("jax_enable_x64") or array.dtype.itemsize <= (8 if array.dtype.kind == "c" else 4):
        return array
    narrow = _NARROW[array.dtype.kind]
    if array.dtype.kind in "iu":
        if array.size and (array.max() > np.iinfo(narrow).max or array.min() < np.iinfo(narrow).min):
            raise ValueError(f"{name} holds integers beyond {np.dtype(narrow)}; {_FLOAT64_WAY_OUT}.")
        return array.astype(narrow)
    with np.errstate(over="ignore"):
        return array.astype(narrow)


def _check_finite(name: str, array: Any) -> None:
    if isinstance(array, Tracer) or not jnp.issubdtype(array.dtype, np.inexact):
        return
    far = isinstance(array, jax.Array) and (
        not array.is_fully_addressable or any(device.platform != "cpu" for device in array.devices())
    )
    if far and bool(jnp.isfinite(array).all()):  # checked where it lies: only bad data are fetched
        return
    if _mesh.is_global(array):
        raise ValueError(f"{name}: some of its {array.size} values are not finite; expected finite numbers.")
    array = np.asarray(array)
    with np.errstate(all="ignore"):
        # One pass without a temporary array; the sum of finite numbers can overflow, so a bad sum proves nothing.
        if np.isfinite(array.sum()):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = "" if array.ndim == 0 else f" at {list(first)}"
        some = "" if array.ndim == 0 else f"{int(bad.sum())} of its {array.size} values are not finite, the first "
        wider = f", or {_FLOAT64_WAY_OUT} if they are too large for float32" if array.dtype == np.float32 else ""
        raise ValueError(f"{name}: {some}{array[first]!s}{where}; expected finite numbers: drop or mend them{wider}.")


def spread(name: str, given: Any, batch: Batch, wide: bool, *, rows_only: bool) -> Any:
    """What goes with y, sigma or weights, as an array that fits y.

    Args:
        name: "sigma" or "weights".
        given: The argument.
        batch: The data it belongs to.
        wide: Whether float64 stays float64.
        rows_only: Whether it holds one number per sample, [n]; otherwise it has y's shape or is a single number.

    Raises:
        TypeError: It is not numbers, or y is not one array.
        ValueError: Its shape does not fit y, or it has numbers that are not finite or not above 0.
    """
    y = batch.y
    if not hasattr(y, "shape"):
        if not rows_only and jax.tree.structure(given) == jax.tree.structure(y):
            parts = zip(jax.tree_util.tree_leaves_with_path(given), jax.tree.leaves(y), strict=True)
            spreads = [
                spread(_path(name, path), part, Batch(None, leaf), wide, rows_only=False)
                for (path, part), leaf in parts
            ]
            full = [np.broadcast_to(part, leaf.shape) for part, leaf in zip(spreads, jax.tree.leaves(y), strict=True)]
            return jax.tree.structure(y).unflatten(full)
        if rows_only or np.ndim(given) != 0:
            expected = "" if rows_only else ", or one number, or sigma in y's structure"
            raise TypeError(f"{name} goes with a y that is one array{expected}; y is {_checks.describe_tree(y)}.")
        y = jax.tree.leaves(y)[0]
    array = _array(name, gathered(given), wide)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} is {_checks.describe(array)}; expected real numbers.")
    if not jnp.issubdtype(array.dtype, np.floating):
        array = array.astype(np.result_type(np.float32, y.dtype) if y.dtype.kind == "f" else np.float32)
    shapes = [y.shape[:1]] if rows_only else [y.shape, ()]
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {array.shape} and y has {y.shape}; expected {expected}.")
    if isinstance(array, Tracer):
        return array
    _check_finite(name, array)
    least = array.min() if _mesh.is_global(array) else np.asarray(array).min()
    if least < 0 or (least == 0 and not rows_only):
        expected = "numbers of at least 0" if rows_only else "standard deviations above 0"
        raise ValueError(f"{name} goes down to {least}; expected {expected}.")
    if rows_only and not (array.any() if _mesh.is_global(array) else np.asarray(array).any()):
        raise ValueError("weights are all 0; expected at least one sample that counts.")
    return array


def seed(key: Any) -> tuple[Any, str]:
    """The data and the kind of a random key, from an int or a JAX key.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        number = int(key) % (1 << 64)  # as jax.random.key does it for numbers of at most 32 bits
        return np.array([number >> 32, number & 0xFFFFFFFF], np.uint32), "threefry2x32"
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        data = jax.random.key_data(key)
        return data if isinstance(data, Tracer) else np.asarray(data), str(jax.random.key_impl(key))
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return key if isinstance(key, Tracer) else np.asarray(key), "threefry2x32"
    raise TypeError(f"key is {_checks.describe(key)}; expected an int or a single JAX key such as jax.random.key(0).")


def _path(name: str, path: Any) -> str:
    return name + jax.tree_util.keystr(path)
