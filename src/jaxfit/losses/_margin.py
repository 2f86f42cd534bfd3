"""Hinge losses: nothing to pay once the right answer is ahead by a margin."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def margin_ranking(
    input1: ArrayLike, input2: ArrayLike, target: ArrayLike, margin: ArrayLike = 0.0, reduction: str = "mean"
) -> jax.Array:
    """How far a pair of scores is from the right order: `max(0, margin - target * (input1 - input2))`.

    Args:
        input1: Scores, floating-point, of any shape.
        input2: Scores of the same shape.
        target: 1 where input1 shall be the larger one, -1 where input2; of the same shape.
        margin: By how much. May be traced.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of the same shape, in the promoted dtype of the three arrays.

    Raises:
        TypeError: An argument is not a numeric array, or a score is not floating-point.
        ValueError: Shapes differ, an array is empty, or reduction is unknown.

    Source: `torch.nn.functional.margin_ranking_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.margin_ranking(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]), jnp.array([1, 1])))
        1.0
    """
    name = "margin_ranking"
    (input1, input2, target), dtype = _shared.floats(name, reduction, input1=input1, input2=input2, target=target)
    _checks.same_shape(name, input1=input1, input2=input2, target=target)
    margin = _shared.scalar(name, "margin", margin, input1.dtype)
    return _shared.reduce(_shared.positive_part(margin - target * (input1 - input2)), reduction, dtype)


def hinge_embedding(
    prediction: ArrayLike, target: ArrayLike, margin: ArrayLike = 1.0, reduction: str = "mean"
) -> jax.Array:
    """A distance to be small where target is 1, and at least the margin where it is -1.

    Each element is prediction where target is 1, `max(0, margin - prediction)` where it is -1, and their sum elsewhere.

    Args:
        prediction: Distances, floating-point, of any shape.
        target: 1 or -1, of the same shape.
        margin: The distance that suffices. May be traced.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.hinge_embedding_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.hinge_embedding(jnp.array([0.5, 0.5]), jnp.array([1, -1])))
        0.5
    """
    prediction, target, dtype = _shared.pair("hinge_embedding", reduction, prediction, target)
    margin = _shared.scalar("hinge_embedding", "margin", margin, prediction.dtype)
    near = jnp.where(target != -1, prediction, 0)
    far = jnp.where(target != 1, _shared.positive_part(margin - prediction), 0)
    return _shared.reduce(near + far, reduction, dtype)


def multi_margin(
    prediction: ArrayLike,
    target: ArrayLike,
    p: int = 1,
    margin: ArrayLike = 1.0,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """By how much other classes come within a margin of the right one.

    The loss of an example is `sum over c != target of max(0, margin - prediction[target] + prediction[c])**p / C`.

    Args:
        prediction: Scores of C classes, floating-point, `[C]` or `[N, C]`.
        target: Integer labels, `[]` or `[N]`.
        p: 1 or 2.
        margin: By how much the right class shall lead. May be traced.
        weight: A weight for each class, `[C]`, applied by the right class; the mean divides by the number of examples.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of target's shape, in prediction's dtype. A label out of range raises;
        under jit it makes the loss NaN.

    Raises:
        TypeError: Prediction is not floating-point, or target is not integer.
        ValueError: Shapes do not fit, prediction is empty, a label is out of range, or an option is not allowed.

    Source: `torch.nn.functional.multi_margin_loss`; Crammer and Singer, "On the algorithmic implementation of
    multiclass kernel-based vector machines", 2001.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.multi_margin(jnp.array([[2.0, 1.5]]), jnp.array([0])))
        0.25
    """
    name = "multi_margin"
    (prediction,), dtype = _shared.floats(name, reduction, prediction=prediction)
    _one_or_two_axes(name, prediction)
    if not _checks.is_number(p) or p not in (1, 2):
        raise ValueError(f"{name}: p is {_checks.describe(p)}; expected 1 or 2.")
    margin = _shared.scalar(name, "margin", margin, prediction.dtype)
    classes = prediction.shape[-1]
    weight = _shared.class_weights(name, weight, classes, prediction.dtype)
    index = _shared.labels(name, "target", target, classes)
    if index.shape != prediction.shape[:-1]:
        raise ValueError(
            f"{name}: target has shape {index.shape} and prediction {prediction.shape}; expected labels of shape "
            f"{prediction.shape[:-1]}, one for each row of prediction."
        )
    lead = _shared.pick(prediction, index[..., None], prediction.ndim - 1) - prediction
    others = jnp.arange(classes) != index[..., None]
    short = _shortfall(margin - lead, others) ** int(p)
    return _shared.reduce(_shared.weight_of(weight, index) * jnp.sum(short, axis=-1) / classes, reduction, dtype)


def multilabel_margin(prediction: ArrayLike, target: ArrayLike, reduction: str = "mean") -> jax.Array:
    """By how much wrong classes come within 1 of the right ones, where an example may have several right classes.

    The loss of an example is the sum of `max(0, 1 - prediction[right] + prediction[wrong]) / C` over all such pairs.

    Args:
        prediction: Scores of C classes, floating-point, `[C]` or `[N, C]`.
        target: Integer labels of the right classes, of the same shape; a row counts up to its first -1.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape without the last axis, in prediction's dtype. A label
        out of range raises; under jit it makes the loss NaN.

    Raises:
        TypeError: Prediction is not floating-point, or target is not integer.
        ValueError: Shapes differ, prediction is empty, a label is out of range, or reduction is unknown.

    Source: `torch.nn.functional.multilabel_margin_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.multilabel_margin(jnp.array([[2.0, 1.5]]), jnp.array([[0, -1]])))
        0.25
    """
    name = "multilabel_margin"
    (prediction,), dtype = _shared.floats(name, reduction, prediction=prediction)
    _one_or_two_axes(name, prediction)
    classes = prediction.shape[-1]
    index = _shared.labels(name, "target", target, classes, least=-1)
    _checks.same_shape(name, prediction=prediction, target=index)
    given = jnp.cumsum(index == -1, axis=-1) == 0
    index = jnp.where(given, index, 0)
    right = jnp.any(given[..., None] & (index[..., None] == jnp.arange(classes)), axis=-2)
    lead = _shared.pick(prediction, index, prediction.ndim - 1)[..., None] - prediction[..., None, :]
    short = _shortfall(1 - lead, given[..., None] & ~right[..., None, :])
    return _shared.reduce(jnp.sum(short, axis=(-2, -1)) / classes, reduction, dtype)


def _one_or_two_axes(function, prediction):
    if prediction.ndim not in (1, 2):
        raise ValueError(
            f"{function}: prediction has shape {prediction.shape}; expected [C] or [N, C]. Flatten the leading axes, "
            f"e.g. prediction.reshape(-1, prediction.shape[-1])."
        )


def _shortfall(x, counted):
    """max(x, 0) with slope 0 at 0, torch's choice in these two losses, where it counts, and 0 elsewhere."""
    return jnp.where(counted & ~(x <= 0), x, 0)
