"""Losses of classifiers that answer yes or no, once or for each of several labels."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxfit.losses import _shared


def binary_cross_entropy(
    prediction: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None, reduction: str = "mean"
) -> jax.Array:
    """Negative log likelihood of yes or no: `-(target * log(prediction) + (1 - target) * log(1 - prediction))`.

    The logarithms are cut off at -100, so that the loss stays finite at predictions of 0 and 1, and the slope's
    denominator `prediction * (1 - prediction)` at 1e-12. `binary_cross_entropy_with_logits` needs neither.

    Args:
        prediction: Probabilities, floating-point, of any shape. One outside 0 to 1 raises; under jit it makes NaN.
        target: Probabilities, or 0 and 1, of the same shape.
        weight: A weight for each element, of a shape that broadcasts to prediction's; the mean divides by the number
            of elements.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty or outside 0 to 1, or reduction is unknown.

    Source: `torch.nn.functional.binary_cross_entropy`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> round(float(losses.binary_cross_entropy(jnp.array([0.5, 0.5]), jnp.array([1, 0]))), 4)
        0.6931
    """
    name = "binary_cross_entropy"
    given = prediction
    prediction, target, dtype = _shared.pair(name, reduction, given, target)
    values = _shared.known(given, prediction)
    if values is not None and ((values < 0) | (values > 1)).any():
        raise ValueError(
            f"{name}: prediction has entries from {values.min():g} to {values.max():g}; expected probabilities from 0 "
            f"to 1. For logits use binary_cross_entropy_with_logits."
        )
    loss = _clamped_cross_entropy(prediction, target)
    if weight is not None:
        loss = loss * _shared.weights(name, weight, loss.shape, loss.dtype, broadcast=True)
    return _shared.reduce(loss, reduction, dtype)


@jax.custom_jvp
def _clamped_cross_entropy(p, t):
    yes, no = _clamped_logs(p)
    return -t * yes - (1 - t) * no


@_clamped_cross_entropy.defjvp
def _clamped_cross_entropy_jvp(primals, tangents):
    # torch's slope: not that of the clamped logarithms, which would be 0 exactly where the prediction is most wrong.
    p, t = primals
    p_dot, t_dot = tangents
    yes, no = _clamped_logs(p)
    slope = (p - t) / jnp.maximum(p * (1 - p), _shared.TINY)
    return _clamped_cross_entropy(p, t), slope * p_dot + (no - yes) * t_dot


def _clamped_logs(p):
    return jnp.maximum(jnp.log(p), -100), jnp.maximum(jnp.log1p(-p), -100)


def binary_cross_entropy_with_logits(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> jax.Array:
    """Negative log likelihood of yes or no from logits: `binary_cross_entropy(sigmoid(prediction), target)`.

    Args:
        prediction: Logits, floating-point, of any shape.
        target: Probabilities, or 0 and 1, of the same shape.
        weight: A weight for each element, of a shape that broadcasts to prediction's; the mean divides by the number
            of elements.
        reduction: `"mean"`, `"sum"` or `"none"`.
        pos_weight: A factor of the term of yes, of a shape that broadcasts to prediction's, e.g. one for each class in
            the last axis. May be traced.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ or do not fit, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.binary_cross_entropy_with_logits`; the arithmetic is
    `optax.losses.sigmoid_binary_cross_entropy`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> round(float(losses.binary_cross_entropy_with_logits(jnp.array([0.0, 0.0]), jnp.array([1, 0]))), 4)
        0.6931
    """
    name = "binary_cross_entropy_with_logits"
    prediction, target, dtype = _shared.pair(name, reduction, prediction, target)
    loss = optax.losses.sigmoid_binary_cross_entropy(prediction, target)
    if pos_weight is not None:
        factor = _shared.weights(name, pos_weight, loss.shape, loss.dtype, argument="pos_weight", broadcast=True)
        loss = loss - (factor - 1) * target * jax.nn.log_sigmoid(prediction)
    if weight is not None:
        loss = loss * _shared.weights(name, weight, loss.shape, loss.dtype, broadcast=True)
    return _shared.reduce(loss, reduction, dtype)


def multilabel_soft_margin(
    prediction: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None, reduction: str = "mean"
) -> jax.Array:
    """Binary cross entropy from logits, averaged over the classes of each example.

    Args:
        prediction: Logits of C classes, floating-point, `[..., C]`.
        target: 0 and 1 for each class, of the same shape.
        weight: A weight for each class, `[C]`, or of another shape that broadcasts to prediction's; the means divide
            by the number of classes and of examples.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape without the last axis, in the promoted dtype of
        prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ or do not fit, prediction is empty or one number, or reduction is unknown.

    Source: `torch.nn.functional.multilabel_soft_margin_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> round(float(losses.multilabel_soft_margin(jnp.array([[0.0, 0.0]]), jnp.array([[1, 0]]))), 4)
        0.6931
    """
    name = "multilabel_soft_margin"
    prediction, target, dtype = _shared.pair(name, reduction, prediction, target)
    if prediction.ndim == 0:
        raise ValueError(f"{name}: prediction is one number; expected classes along the last axis: [C] or [N, C].")
    loss = optax.losses.sigmoid_binary_cross_entropy(prediction, target)
    if weight is not None:
        loss = loss * _shared.weights(name, weight, loss.shape, loss.dtype, broadcast=True)
    return _shared.reduce(jnp.mean(loss, axis=-1), reduction, dtype)


def soft_margin(prediction: ArrayLike, target: ArrayLike, reduction: str = "mean") -> jax.Array:
    """Logistic loss of a score for two classes named 1 and -1: `log(1 + exp(-target * prediction))`.

    Args:
        prediction: Scores, floating-point, of any shape.
        target: 1 or -1, of the same shape.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target. It
        is finite for all finite scores (torch overflows to infinity beyond about 700, or 88 in float32).

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.soft_margin_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.soft_margin(jnp.array([1000.0, -1000.0]), jnp.array([1, -1])))
        0.0
    """
    prediction, target, dtype = _shared.pair("soft_margin", reduction, prediction, target)
    return _shared.reduce(jax.nn.softplus(-target * prediction), reduction, dtype)
