"""What the curvature at a fit's end says of the errors of its params, in terms that can be traced.

The same as `Evidence` says of one fit outside of JAX, for fits inside of what JAX transforms, and for many at once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxfit import _checks, _problem, _small, losses
from jaxfit._problem import Batch, GaussNewton, Problem
from jaxfit.losses import _curvature


def sizes(problem: Problem, params: Any, data: Batch) -> tuple[int, int]:
    """How many losses the samples of a batch have, and how many samples there are, by their shapes alone."""

    def each(params: Any, batch: Batch) -> Any:
        pair = problem.compared(problem.model(params, batch.x), batch)
        return problem.loss(*pair, reduction="none")

    return jax.eval_shape(each, params, data).size, jax.tree.leaves(data.y)[0].shape[0]


def observations(problem: Problem, params: Any, data: Batch) -> tuple[Any, Any]:
    """By what the loss is multiplied to be the sum of the losses of all samples, and how many these are."""
    size, rows = sizes(problem, params, data)
    total, count = _curvature.mass(problem.loss, data.y, rows) * (size / rows), size
    if data.weights is not None:
        total, count = data.weights.sum() * (size / rows), (data.weights > 0).sum() * (size // rows)
    return (1 if problem.sums else total), count


def robust_terms(problem: Problem, params: Any, data: Batch, fitted: Any) -> tuple[jax.Array, jax.Array]:
    """J'J [p, p] where a robust loss has its minimum, and the variance by which its inverse is the covariance.

    Args:
        problem: The problem.
        params: Where it has its minimum.
        data: The samples.
        fitted: How many params are not held.

    Source: Huber, "Robust statistics" (1981), 7.6: residuals enter by the loss's slope, so those in its tails count for
    less.
    """
    function, options = _checks.unwrapped(problem.loss)
    own = options.pop("weight", None)
    loss = functools.partial(function, **options | {"reduction": "none"})
    flat, unravel = ravel_pytree(params)
    squares = problem._replace(loss=functools.partial(losses.mse, weight=own), sums=True)
    curvature = squares.gauss_newton(flat, unravel, data).curvature / 2
    prediction, target = problem.compared(problem.model(params, data.x), data)
    slope = jax.grad(lambda prediction: jnp.sum(loss(prediction, target)))
    pull, bend = jax.jvp(slope, (prediction,), (jnp.ones_like(prediction),))
    weights = jnp.ones_like(pull) if own is None else jnp.broadcast_to(jnp.asarray(own, pull.dtype), pull.shape)
    if data.weights is not None:
        weights = weights * _problem.per_row(data.weights, pull)
    count = jnp.sum(weights)
    mean = jnp.sum(weights * bend) / count
    spread = jnp.sum(weights * (bend - mean) ** 2) / count
    correction = 1 + fitted / count * spread / mean**2
    variance = correction**2 * jnp.sum(weights * pull**2) / (count - fitted) / mean**2
    return curvature, jnp.where(count > fitted, variance, jnp.inf)


class Errors(NamedTuple):
    """What the curvature says.

    Attributes:
        covariance: Of the params, [p, p]: NaN for those that a bound holds back, infinite for those without effect.
        regular: Whether rounding in it does not show.
        total: By what the loss is multiplied to be the sum of the losses of all samples.
        freedom: Observations less params that are not held.
        held: Which params a bound holds back, a bool vector [p].
    """

    covariance: Any
    regular: Any
    total: Any
    freedom: Any
    held: Any


def errors(problem: Problem, params: Any, data: Batch, terms: GaussNewton, penalty: Any, absolute: bool) -> Errors:
    """What the curvature at a fit's end says of the errors.

    Args:
        problem: The problem, with the bounds.
        params: Where it has its minimum, a pytree; numbers apart give a covariance of numbers apart.
        data: The samples.
        terms: The Gauss–Newton terms there.
        penalty: What the optimizer adds to the sum of the losses, a function of the params as a vector; or None.
        absolute: Whether sigma is known in absolute terms.
    """
    flat, _ = _small.vector(params)
    total, count = observations(problem, params, data)
    held = jax.tree.map(lambda number: jnp.zeros(number.shape, bool), flat)
    if problem.bounds is not None:
        bounds = (_small.vector(bound)[0] for bound in problem.bounds)
        held = jax.tree.map(_small.is_held, flat, terms.gradient, *bounds)
    fitted = jax.tree.reduce(lambda number, free: number + jnp.sum(free), ~held, 0)
    curvature = terms.curvature * total
    if _curvature.is_robust(problem.loss):
        full, variance = robust_terms(problem, params, data, fitted)
        curvature = _small.like(full, curvature) / variance
    idle = ~held & ~(_small.diagonal(curvature) > 0)  # without effect on the prediction
    free = ~(held | idle)
    curvature = _small.among(curvature, free)
    if penalty is not None:
        curvature = curvature + _small.among(jax.hessian(penalty)(flat), free)
    size = jax.tree.map(lambda free, number: jnp.where(free, number, 1), free, _small.diagonal(curvature))
    unit = jax.tree.map(lambda number: 1 / jnp.sqrt(number), size)
    alone = jax.tree.map(lambda free: jnp.where(free, 0, 1).astype(flat.dtype), free)
    inverse = _small.inverse(_small.raised(_small.scaled(curvature, unit), alone))
    # The trace bounds the inverse of the smallest eigenvalue, and the largest is at most p.
    trace = _small.diagonal(inverse).sum()
    regular = (trace > 0) & (trace * flat.size * 10 * jnp.finfo(flat.dtype).eps < 1)
    inverse, freedom = _small.scaled(inverse, unit), count - fitted
    if _checks.unwrapped(problem.loss)[0] is losses.mse:
        inverse = inverse * 2  # the squared error has twice the curvature of a log-likelihood
        if not absolute:
            inverse = inverse * jnp.where(freedom > 0, terms.loss * total / freedom, jnp.inf)
    inverse = _small.among(inverse, ~idle, other=jnp.inf)
    return Errors(_small.among(inverse, ~held, other=jnp.nan), regular & ~idle.any(), total, freedom, held)
