"""What is minimised: model, loss and weights, as the loss and gradient of a batch."""

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
