"""Losses of residuals: how far a prediction is from a measured number."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxfit.losses import _shared


def l1(prediction: ArrayLike, target: ArrayLike, reduction: str = "mean", weight: ArrayLike | None = None) -> jax.Array:
    """Absolute error, `|prediction - target|`; its slope at 0 is 0.

    Args:
        prediction: Floating-point array of any shape.
        target: Array of the same shape.
        reduction: `"mean"`, `"sum"` or `"none"`. The weighted mean is `sum(weight * loss) / sum(weight)`.
        weight: A weight for each element, of the same shape.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.l1_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.l1(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        1.0
    """
    prediction, target, dtype = _shared.pair("l1", reduction, prediction, target)
    return _weighted("l1", _shared.absolute(prediction - target), weight, reduction, dtype)


def mse(
    prediction: ArrayLike, target: ArrayLike, reduction: str = "mean", weight: ArrayLike | None = None
) -> jax.Array:
    """Squared error, `(prediction - target)**2`.

    Args:
        prediction: Floating-point array of any shape.
        target: Array of the same shape.
        reduction: `"mean"`, `"sum"` or `"none"`. The weighted mean is `sum(weight * loss) / sum(weight)`.
        weight: A weight for each element, of the same shape.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.mse_loss`; the arithmetic is `optax.losses.squared_error`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.mse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        2.0
    """
    prediction, target, dtype = _shared.pair("mse", reduction, prediction, target)
    return _weighted("mse", optax.losses.squared_error(prediction, target), weight, reduction, dtype)


def smooth_l1(prediction: ArrayLike, target: ArrayLike, reduction: str = "mean", beta: ArrayLike = 1.0) -> jax.Array:
    """Absolute error with a parabola at its tip: with r = |prediction - target|, `r**2 / (2 beta)` or `r - beta / 2`.

    The parabola holds where r is less than beta.

    Args:
        prediction: Floating-point array of any shape.
        target: Array of the same shape.
        reduction: `"mean"`, `"sum"` or `"none"`.
        beta: Where the parabola ends, at least 0; with 0 this is `l1`. May be traced.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, beta is negative, or reduction is unknown.

    Source: `torch.nn.functional.smooth_l1_loss`; Girshick, "Fast R-CNN", 2015.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.smooth_l1(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
        1.0
    """
    prediction, target, dtype = _shared.pair("smooth_l1", reduction, prediction, target)
    beta = _shared.scalar("smooth_l1", "beta", beta, prediction.dtype, least=0)
    distance = _shared.absolute(prediction - target)
    inside = distance < beta
    # Each branch sees only arguments at which its slope is finite: beta = 0 and infinite distances are legal.
    parabola = 0.5 * jnp.where(inside, distance, 0) ** 2 / jnp.where(beta > 0, beta, 1)
    return _shared.reduce(jnp.where(inside, parabola, distance - 0.5 * beta), reduction, dtype)


def huber(
    prediction: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: ArrayLike = 1.0,
    weight: ArrayLike | None = None,
) -> jax.Array:
    """Squared error with straight tails: with r = |prediction - target|, `r**2 / 2` or `delta (r - delta / 2)`.

    The parabola holds where r is at most delta.

    Args:
        prediction: Floating-point array of any shape.
        target: Array of the same shape.
        reduction: `"mean"`, `"sum"` or `"none"`. As in torch, and unlike `mse`, the weighted mean divides by the
            number of elements and not by the sum of weights.
        delta: Where the straight tails begin, positive and finite. May be traced.
        weight: A weight for each element, of the same shape.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, delta is not positive and finite, or reduction is unknown.

    Source: `torch.nn.functional.huber_loss`; the arithmetic is `optax.losses.huber_loss`. Huber, "Robust estimation
    of a location parameter", 1964.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.huber(jnp.array([1.0, 2.0]), jnp.array([0.0, 5.0]), delta=2.0))
        2.25
    """
    prediction, target, dtype = _shared.pair("huber", reduction, prediction, target)
    largest = float(jnp.finfo(prediction.dtype).max)
    delta = _shared.scalar("huber", "delta", delta, prediction.dtype, above=0, most=largest)
    values = optax.losses.huber_loss(prediction, target, delta=delta)
    if weight is not None:
        values = values * _shared.weights("huber", weight, values.shape, values.dtype)
    return _shared.reduce(values, reduction, dtype)


def _weighted(function, values, weight, reduction, dtype):
    if weight is None:
        return _shared.reduce(values, reduction, dtype)
    weight = _shared.weights(function, weight, values.shape, values.dtype)
    return _shared.reduce(values * weight, reduction, dtype, jnp.sum(weight))
