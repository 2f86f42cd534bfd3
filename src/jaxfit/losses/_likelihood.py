"""Negative log likelihoods of counts and of normal errors, and the divergence between two distributions."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared


def poisson_nll(
    prediction: ArrayLike,
    target: ArrayLike,
    log_input: bool = True,
    full: bool = False,
    eps: ArrayLike = 1e-8,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log likelihood of counts: `exp(prediction) - target * prediction`, up to a constant.

    With `log_input=False` prediction is the expected count itself: `prediction - target * log(prediction + eps)`.

    Args:
        prediction: Floating-point array of any shape: the logarithm of the expected count, or the count.
        target: Counts, of the same shape.
        log_input: Whether prediction is a logarithm.
        full: Adds Stirling's approximation of `log(target!)` where target is greater than 1.
        eps: Keeps the logarithm of an expected count of 0 finite. May be traced.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.poisson_nll_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.poisson_nll(jnp.array([0.0, 0.0]), jnp.array([3, 1])))
        1.0
    """
    prediction, target, dtype = _shared.pair("poisson_nll", reduction, prediction, target)
    if log_input:
        values = jnp.exp(prediction) - target * prediction
    else:
        eps = _shared.scalar("poisson_nll", "eps", eps, prediction.dtype)
        values = prediction - target * jnp.log(prediction + eps)
    if full:
        count = jnp.where(target > 1, target, 1)  # the logarithm of 0 would spoil the gradient
        stirling = count * jnp.log(count) - count + 0.5 * jnp.log(2 * math.pi * count)
        values = values + jnp.where(target > 1, stirling, 0)
    return _shared.reduce(values, reduction, dtype)


def gaussian_nll(
    prediction: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    eps: ArrayLike = 1e-6,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log likelihood of normal errors: `(log(var) + (prediction - target)**2 / var) / 2`.

    Args:
        prediction: Floating-point array of any shape: the expected values.
        target: Array of the same shape.
        var: Variances, not negative: of the same shape, or with one axis of length 1, or without the last axis, or
            one number. A negative variance raises; under jit it makes the loss NaN.
        full: Adds the constant `log(2 pi) / 2`.
        eps: Smaller variances count as this one; their gradient is taken there too. May be traced.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of the three arrays.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes do not fit, prediction is empty, a variance is negative, or reduction is unknown.

    Source: `torch.nn.functional.gaussian_nll_loss`; Nix and Weigend, "Estimating the mean and variance of the target
    probability distribution", 1994.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.gaussian_nll(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), var=1.0))
        1.0
    """
    arrays, dtype = _shared.floats(
        "gaussian_nll", reduction, may_be_integer=("target", "var"), prediction=prediction, target=target, var=var
    )
    prediction, target, variance = arrays
    _checks.same_shape("gaussian_nll", prediction=prediction, target=target)
    values = _shared.known(var, variance)
    if values is not None and (values < 0).any():
        raise ValueError(
            f"gaussian_nll: var has the negative entry {values.min():g}; expected variances of at least 0, e.g. "
            f"jnp.exp of what the model returns."
        )
    variance = _fitting_variance(variance, prediction.shape)
    eps = _shared.scalar("gaussian_nll", "eps", eps, prediction.dtype)
    # The lower bound is not part of the derivative, so that a variance under it can still grow.
    bounded = jax.lax.stop_gradient(jnp.where(variance < 0, jnp.nan, jnp.maximum(variance, eps)))
    variance = bounded + (variance - jax.lax.stop_gradient(variance))
    loss = 0.5 * (jnp.log(variance) + (prediction - target) ** 2 / variance)
    return _shared.reduce(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction, dtype)


def _fitting_variance(variance, shape):
    if variance.shape in ((), shape):
        return variance
    if variance.shape == shape[:-1]:
        return variance[..., None]
    if variance.ndim == len(shape):
        others = [n for n, m in zip(variance.shape, shape, strict=True) if n != m]
        if others == [1]:
            return variance
    raise ValueError(
        f"gaussian_nll: var has shape {variance.shape} and prediction {shape}; expected one number, prediction's "
        f"shape, or that with one axis of length 1 or without the last axis. Index it, e.g. var[:, None]."
    )


def kl_div(prediction: ArrayLike, target: ArrayLike, reduction: str = "mean", log_target: bool = False) -> jax.Array:
    """Kullback-Leibler divergence of a target distribution from predicted log probabilities.

    Each element is `target * (log(target) - prediction)`, and 0 where target is 0.

    Args:
        prediction: Logarithms of probabilities, floating-point, of any shape.
        target: Probabilities, or with `log_target=True` their logarithms, of the same shape.
        reduction: `"mean"` over all elements, `"batchmean"` (the sum divided by the length of the first axis: the
            divergence as mathematics defines it), `"sum"` or `"none"`.
        log_target: Whether target holds logarithms.

    Returns:
        A scalar, or with `"none"` an array of prediction's shape, in the promoted dtype of prediction and target.
        Where a target probability is 0 the value and its slopes are 0, also at a prediction of minus infinity.

    Raises:
        TypeError: An argument is not a numeric array, or prediction is not floating-point.
        ValueError: Shapes differ, prediction is empty, or reduction is unknown.

    Source: `torch.nn.functional.kl_div`; Kullback and Leibler, "On information and sufficiency", 1951.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import losses
        >>> float(losses.kl_div(jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.5, 0.5])))
        0.0
    """
    reductions = (*_shared.REDUCTIONS, "batchmean")
    prediction, target, dtype = _shared.pair("kl_div", reduction, prediction, target, reductions)
    nothing = target == (-jnp.inf if log_target else 0)
    # 0 log 0 is 0: such elements see harmless numbers, as 0 times infinity is not a number in values and slopes.
    target = jnp.where(nothing, 1, target)
    probability, log_probability = (jnp.exp(target), target) if log_target else (target, jnp.log(target))
    values = jnp.where(nothing, 0, probability * (log_probability - jnp.where(nothing, 0, prediction)))
    if reduction == "batchmean":
        return _shared.reduce(values, "sum", dtype) / (prediction.shape[0] if prediction.ndim else 1)
    return _shared.reduce(values, reduction, dtype)
