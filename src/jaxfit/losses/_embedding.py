"""Losses of embeddings: vectors that shall be near each other or apart."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def cosine_embedding(
    input1: ArrayLike, input2: ArrayLike, target: ArrayLike, margin: ArrayLike = 0.0, reduction: str = "mean"
) -> jax.Array:
    """Two vectors to point the same way where target is 1, and apart where it is -1.

    With c the cosine of their angle, the loss is `1 - c` where target is 1 and `max(0, c - margin)` where it is -1.
    1e-12 is added to each squared length, so that vectors of length 0 have the cosine 0 and finite slopes.

    Args:
        input1: Vectors of D numbers, floating-point, `[D]` or `[N, D]`.
        input2: Vectors of the same shape.
        target: 1 or -1, `[]` or `[N]`.
        margin: The cosine that is still allowed between vectors that shall differ. May be traced.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of target's shape, in the promoted dtype of the three arrays.

    Raises:
        TypeError: An argument is not a numeric array, or a vector is not floating-point.
        ValueError: Shapes do not fit, an array is empty, or reduction is unknown.

    Source: `torch.nn.functional.cosine_embedding_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.cosine_embedding(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]), jnp.array([1])))
        1.0
    """
    name = "cosine_embedding"
    (input1, input2, target), dtype = _shared.floats(name, reduction, input1=input1, input2=input2, target=target)
    _checks.same_shape(name, input1=input1, input2=input2)
    if input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise ValueError(
            f"{name}: target has shape {target.shape} and input1 {input1.shape}; expected target [N] with vectors "
            f"[N, D], or [] with [D]. Drop or add an axis, e.g. with target[:, 0]."
        )
    margin = _shared.scalar(name, "margin", margin, input1.dtype)
    squares = (jnp.sum(input1**2, axis=-1) + _shared.TINY) * (jnp.sum(input2**2, axis=-1) + _shared.TINY)
    cosine = jnp.sum(input1 * input2, axis=-1) / jnp.sqrt(squares)
    same = jnp.where(target == 1, 1 - cosine, 0)
    apart = jnp.where(target == -1, _shared.positive_part(cosine - margin), 0)
    return _shared.reduce(same + apart, reduction, dtype)


def triplet_margin(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: ArrayLike = 1.0,
    p: float = 2.0,
    eps: ArrayLike = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """An anchor to be nearer to its like than to another by a margin: `max(0, margin + d(a, p) - d(a, n))`.

    The distance is the p-norm of `x - y + eps`; at distance 0 its slope is 0.

    Args:
        anchor: Vectors, floating-point, `[..., D]`.
        positive: Vectors like the anchor, of the same shape.
        negative: Vectors unlike the anchor, of the same shape.
        margin: By how much, positive. May be traced.
        p: Which norm, positive; `float("inf")` for the largest absolute difference.
        eps: Added to every difference. May be traced.
        swap: Whether `d(p, n)` counts in place of `d(a, n)` where it is the smaller one.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of anchor's shape without the last axis, in the promoted dtype of the three
        arrays.

    Raises:
        TypeError: An argument is not a floating-point array.
        ValueError: Shapes differ, an array is empty, or an option is not allowed.

    Source: `torch.nn.functional.triplet_margin_loss`; Balntas et al., "Learning shallow convolutional feature
    descriptors with triplet losses", 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> points = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 3.0]]), jnp.array([[2.0, 0.0]])
        >>> round(float(losses.triplet_margin(*points)), 4)
        2.0
    """
    name = "triplet_margin"
    if not _checks.is_number(p) or not p > 0:
        raise ValueError(f"{name}: p is {_checks.describe(p)}; expected a number greater than 0, or float('inf').")
    triplet, dtype = _triplet(name, reduction, anchor, positive, negative)
    eps = _shared.scalar(name, "eps", eps, triplet[0].dtype)
    loss = _margin(name, triplet, lambda x, y: _norm(x - y + eps, p), margin, swap)
    return _shared.reduce(loss, reduction, dtype)


def triplet_margin_with_distance(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: ArrayLike = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """`triplet_margin` with a distance of your own: `max(0, margin + d(a, p) - d(a, n))`.

    Args:
        anchor: Vectors, floating-point, at least one axis.
        positive: Vectors like the anchor, of the same shape.
        negative: Vectors unlike the anchor, of the same shape.
        distance_function: `d(x, y)` of two such arrays, traceable; by default the Euclidean distance along the last
            axis, as in `triplet_margin`.
        margin: By how much, positive. May be traced.
        swap: Whether `d(p, n)` counts in place of `d(a, n)` where it is the smaller one.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of the shape that distance_function returns, in the promoted dtype of the
        three arrays.

    Raises:
        TypeError: An argument is not a floating-point array, or distance_function cannot be called.
        ValueError: Shapes differ, an array is empty, or an option is not allowed.

    Source: `torch.nn.functional.triplet_margin_with_distance_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> points = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 3.0]]), jnp.array([[2.0, 0.0]])
        >>> manhattan = lambda x, y: jnp.sum(jnp.abs(x - y), axis=-1)
        >>> float(losses.triplet_margin_with_distance(*points, distance_function=manhattan))
        2.0
    """
    name = "triplet_margin_with_distance"
    if distance_function is not None and not callable(distance_function):
        came = _checks.describe(distance_function)
        raise TypeError(f"{name}: distance_function is {came}; expected a function of two arrays, or None.")
    triplet, dtype = _triplet(name, reduction, anchor, positive, negative)
    loss = _margin(name, triplet, distance_function or (lambda x, y: _norm(x - y + 1e-6, 2)), margin, swap)
    return _shared.reduce(loss, reduction, dtype)


def _triplet(name, reduction, anchor, positive, negative):
    arrays, dtype = _shared.floats(
        name, reduction, may_be_integer=(), anchor=anchor, positive=positive, negative=negative
    )
    _checks.same_shape(name, anchor=arrays[0], positive=arrays[1], negative=arrays[2])
    if arrays[0].ndim == 0:
        raise ValueError(f"{name}: anchor is one number; expected vectors along the last axis: [D] or [N, D].")
    return arrays, dtype


def _margin(name, triplet, distance, margin, swap):
    anchor, positive, negative = triplet
    margin = _shared.scalar(name, "margin", margin, anchor.dtype, above=0)
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = jnp.minimum(far, distance(positive, negative))
    return _shared.positive_part(margin + near - far)


def _norm(x, p):
    """The p-norm along the last axis, with slope 0 in each entry that is 0 and for the vector 0."""
    size = _shared.absolute(x)
    if p == jnp.inf:
        return jnp.max(size, axis=-1)
    if p == 1:
        return jnp.sum(size, axis=-1)
    powers = jnp.where(x == 0, 0, jnp.where(x == 0, 1, size) ** p)
    total = jnp.sum(powers, axis=-1)
    return jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / p))
