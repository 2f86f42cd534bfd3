"""Losses of classifiers with one class for each example."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: ArrayLike = 0.0,
) -> jax.Array:
    """Negative log probability of the right class, `-log_softmax(prediction)[target]`.

    Args:
        prediction: Unnormalized log probabilities (logits) of C classes, floating-point, `[C]`, `[N, C]` or
            `[N, C, d1, ...]`.
        target: Integer labels, of prediction's shape without the class axis; or probabilities of prediction's shape.
        weight: A weight for each class, `[C]`. With labels the mean is `sum(weighted losses) / sum(weights of the
            labels)`; with probabilities it divides by the number of examples.
        ignore_index: Examples with this label count neither in the loss nor in the mean. A mean over ignored examples
            alone is NaN, as in torch.
        reduction: `"mean"`, `"sum"` or `"none"`.
        label_smoothing: Between 0 and 1: how much of the target is spread evenly over all classes. May be traced.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape without the class axis, in prediction's dtype
        (promoted with that of target probabilities). A label out of range raises; under jit it makes the loss NaN.

    Raises:
        TypeError: Prediction is not floating-point, or target is neither labels nor probabilities.
        ValueError: Shapes do not fit, prediction is empty, a label is out of range, or an option is not allowed.

    Source: `torch.nn.functional.cross_entropy`; label smoothing: Szegedy et al., "Rethinking the Inception
    architecture for computer vision", 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> logits = jnp.array([[0.0, 0.0], [0.0, 0.0]])
        >>> round(float(losses.cross_entropy(logits, jnp.array([0, 1]))), 4)
        0.6931
    """
    name = "cross_entropy"
    (logits,), dtype = _shared.floats(name, reduction, prediction=prediction)
    axis = _class_axis(name, logits)
    soft = _shared.numbers(name, "target", target)
    if soft.shape == logits.shape:
        if not jnp.issubdtype(soft.dtype, jnp.floating):
            raise TypeError(
                f"{name}: target is {_checks.describe(soft)}, of prediction's shape; expected floating-point "
                f"probabilities, e.g. target.astype(float), or integer labels without the class axis."
            )
        (logits, soft), dtype = _shared.floats(name, reduction, prediction=prediction, target=target)
    smooth = not (_checks.is_number(label_smoothing) and label_smoothing == 0)
    smoothing = _shared.scalar(name, "label_smoothing", label_smoothing, logits.dtype, least=0, most=1)
    classes = logits.shape[axis]
    weight = _shared.class_weights(name, weight, classes, logits.dtype)
    log_probs = jax.nn.log_softmax(logits, axis)
    across = weight.reshape((classes,) + (1,) * (logits.ndim - axis - 1))
    if soft.shape == logits.shape:
        if smooth:
            soft = (1 - smoothing) * soft + smoothing / classes
        impossible = (soft == 0) & (log_probs == -jnp.inf)  # 0 log 0 is 0
        values = -jnp.sum(across * soft * jnp.where(impossible, 0, log_probs), axis)
        return _shared.reduce(values, reduction, dtype)
    index, counted = _labels(name, target, logits.shape, ignore_index, axis)
    values, used = _of_labels(log_probs, index, counted, weight, axis)
    if smooth:
        even = jnp.where(counted, -jnp.sum(across * log_probs, axis), 0)
        values = (1 - smoothing) * values + smoothing / classes * even
    return _shared.reduce(values, reduction, dtype, jnp.sum(used))


def nll(
    prediction: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> jax.Array:
    """Negative of the right class's entry, `-prediction[target]`, for predicted log probabilities.

    Args:
        prediction: Log probabilities of C classes, floating-point, `[C]`, `[N, C]` or `[N, C, d1, ...]`.
        target: Integer labels, of prediction's shape without the class axis.
        weight: A weight for each class, `[C]`. The mean is `sum(weighted losses) / sum(weights of the labels)`.
        ignore_index: Examples with this label count neither in the loss nor in the mean. A mean over ignored examples
            alone is NaN, as in torch.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape without the class axis, in prediction's dtype. A
        label out of range raises; under jit it makes the loss NaN.

    Raises:
        TypeError: Prediction is not floating-point, or target is not integer.
        ValueError: Shapes do not fit, prediction is empty, a label is out of range, or an option is not allowed.

    Source: `torch.nn.functional.nll_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.nll(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([0, 1])))
        2.5
    """
    (log_probs,), dtype = _shared.floats("nll", reduction, prediction=prediction)
    axis = _class_axis("nll", log_probs)
    weight = _shared.class_weights("nll", weight, log_probs.shape[axis], log_probs.dtype)
    index, counted = _labels("nll", target, log_probs.shape, ignore_index, axis)
    values, used = _of_labels(log_probs, index, counted, weight, axis)
    return _shared.reduce(values, reduction, dtype, jnp.sum(used))


def _class_axis(function, prediction):
    if prediction.ndim == 0:
        raise ValueError(
            f"{function}: prediction is one number; expected classes along an axis: [C], [N, C] or [N, C, d1, ...]."
        )
    return min(prediction.ndim - 1, 1)


def _labels(function, target, shape, ignore_index, axis):
    """The labels as indices into the classes, and which of them count."""
    ignore_index = _shared.integer(function, "ignore_index", ignore_index)
    index = _shared.labels(function, "target", target, shape[axis], ignore=ignore_index)
    expected = shape[:axis] + shape[axis + 1 :]
    if index.shape != expected:
        raise ValueError(
            f"{function}: target has shape {index.shape} and prediction {shape}; expected labels of shape {expected}, "
            f"prediction's without axis {axis} of {shape[axis]} classes. Drop or move axes, e.g. with target[:, 0]."
        )
    counted = index != ignore_index
    return jnp.where(counted, index, 0), counted


def _of_labels(log_probs, index, counted, weight, axis):
    """The weighted losses and their weights, both 0 where an example does not count."""
    used = _shared.weight_of(weight, index)
    values = -used * _shared.pick(log_probs, jnp.expand_dims(index, axis), axis).squeeze(axis)
    return jnp.where(counted, values, 0), jnp.where(counted, used, 0)
