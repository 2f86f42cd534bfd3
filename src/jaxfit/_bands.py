"""How far a prediction may be off for the errors of the params: the delta method.

Source: Seber and Wild, "Nonlinear regression" (1989), section 5.1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def spread(model: Callable, params: Any, x: Any, root: jax.Array, silent: jax.Array) -> tuple[Any, Any, Any]:
    """A prediction and how it varies with the params, by the delta method, one direction at a time.

    Args:
        model: `model(params, x) -> prediction`.
        params: The fitted params.
        x: Where to predict.
        root: R [p, r], with RR' the covariance.
        silent: Directions of which the data say nothing, [p, s].

    Returns:
        The prediction, its variance, and where it depends on what the data do not tell: pytrees of one structure.
    """
    flat, unravel = ravel_pytree(params)
    prediction, push = jax.linearize(lambda flat: model(unravel(flat), x), flat)
    nothing = jax.tree.map(jnp.zeros_like, prediction)

    def add(total: Any, direction: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda total, moved: total + moved**2, total, push(direction)), None

    def part(sums: tuple[Any, Any], only: jax.Array) -> tuple[tuple[Any, Any], None]:
        moved = push(only)
        gross = jax.tree.map(lambda gross, moved: gross + jnp.abs(moved), sums[1], moved)
        return (jax.tree.map(jnp.add, sums[0], moved), gross), None

    def look(seen: Any, direction: jax.Array) -> tuple[Any, None]:
        (net, gross), _ = jax.lax.scan(part, (nothing, nothing), jnp.diag(direction))
        return jax.tree.map(lambda seen, net, gross: seen | _remains(net, gross), seen, net, gross), None

    variance, _ = jax.lax.scan(add, nothing, root.T)
    untold, _ = jax.lax.scan(look, jax.tree.map(lambda zero: zero != 0, nothing), silent.T)
    return prediction, variance, untold


def _remains(net: jax.Array, gross: jax.Array) -> jax.Array:
    """Where the parts of a sum cancel no better than by chance: rounding leaves some of what cancels in truth."""
    return jnp.abs(net) > jnp.sqrt(jnp.finfo(net.dtype).eps) * gross
