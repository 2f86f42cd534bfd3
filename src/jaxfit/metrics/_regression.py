"""How far predicted numbers are from measured ones."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def mean_absolute_error(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """The mean of `|prediction - target|` over all numbers.

    Args:
        prediction: Array of real numbers, of any shape.
        target: Array of the same shape.

    Returns:
        A scalar in the promoted dtype of prediction and target, at least float32.

    Raises:
        TypeError: An argument is not a numeric array.
        ValueError: Shapes differ, or the arrays are empty.

    Source: `sklearn.metrics.mean_absolute_error`.

    Example:
        >>> from jaxfit import metrics
        >>> float(metrics.mean_absolute_error([1.0, 2.0], [1.0, 5.0]))
        1.5
    """
    prediction, target = _pair("mean_absolute_error", prediction, target)
    return jnp.mean(jnp.abs(prediction - target))


def r2(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """Coefficient of determination: 1 minus the sum of squared residuals over that of the target's deviations.

    1.0 is perfect and 0.0 no better than always saying the target's mean; it may be negative. Where the target is
    constant it is 1.0 if the prediction is perfect and else 0.0.

    Args:
        prediction: Array of real numbers `[n]`, `[n, m]` or `[n, d1, ...]` with n of at least 2.
        target: Array of the same shape.

    Returns:
        A scalar in the promoted dtype of prediction and target, at least float32: the mean over the outputs, which are
        all axes but the first.

    Raises:
        TypeError: An argument is not a numeric array.
        ValueError: Shapes differ, the arrays are empty, or there are fewer than two samples.

    Source: `sklearn.metrics.r2_score`.

    Example:
        >>> from jaxfit import metrics
        >>> float(metrics.r2([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]))
        0.5
    """
    prediction, target = _pair("r2", prediction, target)
    if target.ndim == 0 or len(target) < 2:
        raise ValueError(
            f"r2: target has shape {target.shape}; expected two samples or more along the first axis, as one does not "
            f"deviate from its own mean. Take mean_absolute_error instead."
        )
    # Counted from the first sample, as the rounded mean of equal numbers need not be that number.
    shifted = target - target[0]
    deviation = shifted - jnp.mean(shifted, 0)
    # In units of the largest deviation, as the square of a small number may be 0 and that of a large one infinite.
    largest = jnp.max(jnp.abs(deviation), 0)
    unit = jnp.where(largest > 0, largest, 1)
    residual = prediction - target
    ratio = jnp.sum((residual / unit) ** 2, 0) / jnp.sum((deviation / unit) ** 2, 0)
    wrong = jnp.max(jnp.abs(residual), 0)
    constant = jnp.where(jnp.isnan(wrong), wrong, wrong == 0)
    return jnp.mean(jnp.where(largest == 0, constant, 1 - ratio))


def _pair(function, prediction, target):
    """Both as floats of one shape and dtype, at least float32."""
    arrays = [_shared.numbers(function, "prediction", prediction), _shared.numbers(function, "target", target)]
    _checks.same_shape(function, prediction=arrays[0], target=arrays[1])
    if arrays[0].size == 0:
        raise ValueError(
            f"{function}: prediction is empty, with shape {arrays[0].shape}; expected at least one number, as the mean "
            f"of nothing is not a number. Leave the empty batch out."
        )
    floating = [array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]
    dtype = jnp.promote_types(jnp.result_type(*floating), jnp.float32) if floating else jnp.result_type(float)
    return [array.astype(dtype) for array in arrays]
