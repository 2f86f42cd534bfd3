"""What is minimised: model, loss and weights, as the loss and gradient of a batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Batch(NamedTuple):
    """Some of the data.

    Attributes:
        x: What the model is given: a pytree of arrays [n, ...].
        y: What it should answer: a pytree of arrays [n, ...].
        sigma: Standard deviations of y, in y's units, of y's shape or a scalar; None for none.
        weights: One weight per sample, [n]; None for none.
    """

    x: Any
    y: Any
    sigma: Any = None
    weights: Any = None


class GaussNewton(NamedTuple):
    """The local shape of a loss, as the prediction's derivatives give it.

    Attributes:
        loss: The loss, a scalar.
        gradient: Its gradient J'g, [p], where g is the loss's gradient in the prediction.
        curvature: J'HJ, [p, p], where H is the loss's second derivative in the prediction.
    """

    loss: jax.Array
    gradient: jax.Array
    curvature: jax.Array


class Problem(NamedTuple):
    """A model and a loss: all that an optimizer has to know of what it minimises.

    Attributes:
        model: `model(params, x) -> prediction`.
        loss: `loss(prediction, target) -> scalar`.
        sums: Whether a weighted loss is a sum over the samples; otherwise it is their weighted mean.
    """

    model: Callable
    loss: Callable
    sums: bool = False

    def score(self, prediction: Any, batch: Batch) -> jax.Array:
        """The loss of a prediction for a batch."""
        target = batch.y
        if batch.sigma is not None:
            # The loss of residuals in units of their standard deviation: for squared errors, chi squared.
            prediction, target = prediction / batch.sigma, target / batch.sigma
        if batch.weights is None:
            return self.loss(prediction, target)
        losses = self.loss(prediction, target, reduction="none")
        weights = jnp.broadcast_to(batch.weights.reshape(-1, *[1] * (losses.ndim - 1)), losses.shape)
        total, count = jnp.sum(weights * losses), jnp.sum(weights)
        # A batch in which no sample counts has nothing to say: loss and gradient 0, not 0 / 0.
        return total if self.sums else total / jnp.where(count == 0, 1, count)

    def value(self, params: Any, batch: Batch) -> jax.Array:
        """The loss of a batch, a scalar."""
        return self.score(self.model(params, batch.x), batch)

    def value_and_gradient(self, params: Any, batch: Batch) -> tuple[jax.Array, Any]:
        """The loss of a batch and its gradient with respect to the params, a pytree like them."""
        return jax.value_and_grad(self.value)(params, batch)

    def gauss_newton(self, flat: jax.Array, unravel: Callable, batch: Batch) -> GaussNewton:
        """The Gauss–Newton terms at params given as one vector, [p], of which `unravel` makes the pytree."""
        prediction, push = jax.linearize(lambda flat: self.model(unravel(flat), batch.x), flat)
        columns = jax.vmap(push)(jnp.eye(flat.size, dtype=flat.dtype))  # [p, ...]: one directional derivative each
        loss, slope = jax.value_and_grad(self.score)(prediction, batch)
        bend = functools.partial(jax.jvp, lambda prediction: jax.grad(self.score)(prediction, batch), (prediction,))
        curved = jax.vmap(lambda column: bend((column,))[1])(columns)
        rows, curved = columns.reshape(flat.size, -1), curved.reshape(flat.size, -1)
        return GaussNewton(loss, rows @ slope.ravel(), rows @ curved.T)

    def bending(self, flat: jax.Array, direction: jax.Array, unravel: Callable, batch: Batch) -> jax.Array:
        """J'Hk, [p], where k is the model's second derivative along a direction."""

        def along(flat: jax.Array) -> Any:
            return jax.jvp(lambda flat: self.model(unravel(flat), batch.x), (flat,), (direction,))

        (prediction, _), (_, second) = jax.jvp(along, (flat,), (direction,))
        _, curved = jax.jvp(lambda prediction: jax.grad(self.score)(prediction, batch), (prediction,), (second,))
        _, pull = jax.vjp(lambda flat: self.model(unravel(flat), batch.x), flat)
        return pull(curved)[0]
