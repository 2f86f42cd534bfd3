"""How far a prediction may be off for the errors of the params: the delta method.

Source: Seber and Wild, "Nonlinear regression" (1989), section 5.1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def spread(
    model: Callable, params: Any, x: Any, root: jax.Array, silent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A prediction and how it varies with the params, by the delta method, one direction at a time.

    Args:
        model: `model(params, x) -> prediction`.
        params: The fitted params.
        x: Where to predict.
        root: R [p, r], with RR' the covariance.
        silent: Directions of which the data say nothing, [p, s].

    Returns:
        The prediction, its variance, and where it depends on what the data do not tell: three arrays of one shape.
    """
    flat, unravel = ravel_pytree(params)
    prediction, push = jax.linearize(lambda flat: model(unravel(flat), x), flat)

    def add(total: jax.Array, direction: jax.Array) -> tuple[jax.Array, None]:
        return total + push(direction) ** 2, None

    def look(seen: jax.Array, direction: jax.Array) -> tuple[jax.Array, None]:
        def part(sums: tuple[jax.Array, jax.Array], only: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            moved = push(only)
            return (sums[0] + moved, sums[1] + jnp.abs(moved)), None

        nothing = jnp.zeros_like(prediction)
        (net, gross), _ = jax.lax.scan(part, (nothing, nothing), jnp.diag(direction))
        # The parts of a direction that nothing depends on cancel, but for rounding.
        return seen | (jnp.abs(net) > jnp.sqrt(jnp.finfo(net.dtype).eps) * gross), None

    variance, _ = jax.lax.scan(add, jnp.zeros_like(prediction), root.T)
    untold, _ = jax.lax.scan(look, jnp.zeros(prediction.shape, bool), silent.T)
    return prediction, variance, untold
