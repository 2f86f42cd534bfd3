"""What all losses share: reading their arguments, checking them, and reducing values to a number."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxfit import _checks

REDUCTIONS = ("mean", "none", "sum")
FLOATS = tuple(jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64"))
TINY = float(np.float32(1e-12))  # what keeps a division finite: torch's float32 constant, also in float64


def numbers(function: str, argument: str, value: Any) -> jax.Array:
    """An argument as an array of real numbers; TypeError where it is none."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        came = _checks.describe(value)
        raise TypeError(f"{function}: {argument} is {came}; expected an array of numbers. {error}") from error
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise TypeError(
            f"{function}: {argument} is {_checks.describe(array)}; expected real numbers, e.g. jnp.abs({argument})."
        )
    return array


def floats(
    function: str,
    reduction: str,
    *,
    reductions: tuple[str, ...] = REDUCTIONS,
    may_be_integer: tuple[str, ...] = ("target",),
    **arguments: Any,
) -> tuple[list[jax.Array], Any]:
    """The arguments as arrays to compute with, and the dtype that the result shall have.

    float16 and bfloat16 are computed in float32: sums would overflow and an eps of 1e-12 would vanish.
    """
    _checks.one_of(function, "reduction", reduction, reductions)
    arrays = {name: numbers(function, name, value) for name, value in arguments.items()}
    for name, array in arrays.items():
        if name not in may_be_integer and array.dtype not in FLOATS:
            raise TypeError(
                f"{function}: {name} is {_checks.describe(array)}; expected float16, bfloat16, float32 or float64, "
                f"e.g. {name}.astype(float)."
            )
        if array.size == 0:
            raise ValueError(
                f"{function}: {name} is empty, with shape {array.shape}; expected at least one number, as the mean of "
                f"nothing is not a number. Leave the empty batch out."
            )
    dtype = jnp.result_type(*(array for array in arrays.values() if array.dtype in FLOATS))
    wide = jnp.promote_types(dtype, jnp.float32)
    return [array.astype(wide) for array in arrays.values()], dtype


def pair(
    function: str, reduction: str, prediction: ArrayLike, target: ArrayLike, reductions: tuple[str, ...] = REDUCTIONS
) -> tuple[jax.Array, jax.Array, Any]:
    """Prediction and target of one shape, and the dtype of the result."""
    arrays, dtype = floats(function, reduction, reductions=reductions, prediction=prediction, target=target)
    _checks.same_shape(function, prediction=arrays[0], target=arrays[1])
    return arrays[0], arrays[1], dtype


def known(value: Any, array: jax.Array) -> np.ndarray | None:
    """The values of an argument where they can be looked at now: None under jit, vmap or grad over it."""
    if isinstance(array, Tracer) or not array.is_fully_addressable:
        return None
    # A NumPy array is looked at before JAX narrows int64 to int32.
    values = value if isinstance(value, np.ndarray) else np.asarray(array)
    return values if values.dtype.kind in "iufb" else values.astype(float)


def scalar(
    function: str,
    argument: str,
    value: ArrayLike,
    dtype: Any,
    *,
    above: float = -np.inf,
    least: float = -np.inf,
    most: float = np.inf,
) -> jax.Array:
    """An option that is one number, perhaps traced, in the dtype of the computation."""
    array = numbers(function, argument, value)
    if array.shape != ():
        raise ValueError(
            f"{function}: {argument} is {_checks.describe(array)}; expected one number. Use jax.vmap for several."
        )
    number = known(value, array)
    if number is not None and not (number > above and least <= number <= most):
        bounds = [f"greater than {above:g}"] * (above > -np.inf) + [f"at least {least:g}"] * (least > -np.inf)
        bounds += [f"at most {most:g}"] * (most < np.inf)
        raise ValueError(f"{function}: {argument} is {number}; expected a number {' and '.join(bounds) or 'not NaN'}.")
    return array.astype(dtype)


def weights(
    function: str,
    weight: ArrayLike,
    shape: tuple[int, ...],
    dtype: Any,
    *,
    argument: str = "weight",
    broadcast: bool = False,
) -> jax.Array:
    """Weights of exactly this shape, or of one that broadcasts to it without growing it."""
    array = numbers(function, argument, weight)
    fits = array.shape == shape
    if broadcast and not fits:
        tail = shape[len(shape) - array.ndim :]
        fits = array.ndim <= len(shape) and all(n in (1, m) for n, m in zip(array.shape, tail, strict=True))
    if not fits:
        expected = f"a shape that broadcasts to {shape}" if broadcast else f"shape {shape}"
        raise ValueError(
            f"{function}: {argument} has shape {array.shape}; expected {expected}. "
            f"Bring it there with jnp.broadcast_to or an index such as {argument}[:, None]."
        )
    return array.astype(dtype)


def class_weights(function: str, weight: ArrayLike | None, classes: int, dtype: Any) -> jax.Array:
    """One weight for each class; ones where none are given."""
    return jnp.ones(classes, dtype) if weight is None else weights(function, weight, (classes,), dtype)


def labels(
    function: str, argument: str, value: ArrayLike, classes: int, *, ignore: int | None = None, least: int = 0
) -> jax.Array:
    """Integer class labels; known ones are checked against the number of classes."""
    array = numbers(function, argument, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: {argument} is {_checks.describe(array)}; expected integer class labels, e.g. "
            f"labels.astype(int)."
        )
    values = known(value, array)
    if values is not None:
        wrong = (values < least) | (values >= classes)
        if ignore is not None:
            wrong &= values != ignore
        if wrong.any():
            raise ValueError(
                f"{function}: {argument} has the label {int(values[wrong].flat[0])}; expected labels from {least} to "
                f"{classes - 1} for {classes} classes{'' if ignore is None else f' (or ignore_index={ignore})'}. "
                f"Count labels from 0 or give one class more."
            )
    if array.dtype in (jnp.uint32, jnp.uint64):
        array = jnp.minimum(array, np.int32(2**31 - 1).astype(array.dtype))
    return array if array.dtype == jnp.int64 else array.astype(jnp.int32)


def pick(values: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The entries that labels name along an axis of classes; NaN where a (traced) label names none."""
    index = jnp.where(index < 0, values.shape[axis], index)  # -1 would count from the end
    return jnp.take_along_axis(values, index, axis, mode="fill", fill_value=jnp.nan)


def weight_of(weight: jax.Array, index: jax.Array) -> jax.Array:
    """The weight of the class that each label names."""
    return pick(weight, index.ravel(), 0).reshape(index.shape)


def integer(function: str, argument: str, value: Any) -> int:
    """A static whole number; TypeError where it is none."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{function}: {argument} is {_checks.describe(value)}; expected an int.") from error


def absolute(x: jax.Array) -> jax.Array:
    """|x| with slope 0 at 0, as in torch; `jnp.abs` has slope 1 there."""
    return x * jnp.sign(x)


def positive_part(x: jax.Array) -> jax.Array:
    """max(x, 0) with slope 1 at 0, torch's choice in `clamp_min`; NaN stays NaN."""
    return jnp.where(x < 0, 0, x)


def reduce(values: jax.Array, reduction: str, dtype: Any, total_weight: jax.Array | None = None) -> jax.Array:
    """The values, their sum or their mean; the mean is the sum divided by the total weight where there is one."""
    if reduction == "sum":
        values = jnp.sum(values)
    elif reduction == "mean":
        values = jnp.mean(values) if total_weight is None else jnp.sum(values) / total_weight
    return values.astype(dtype)
