"""Which losses are smooth enough for second-order steps, and the curvature to take in each entry of the prediction.

Where a loss bends upwards everywhere, that is its second derivative. Where it does not (the robust losses), it is the
curvature of the parabola that touches the loss at the residual, has its minimum at 0 and lies above it (reweighting;
Holland and Welsch, 1977); where the prediction is not the natural parameter of a likelihood, the expected second
derivative (Fisher scoring).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _checks
from jaxfit.losses import _shared


def _of_mse(prediction: jax.Array, target: jax.Array, weight: Any = None, **_: Any) -> jax.Array:
    del target
    return jnp.full_like(prediction, 2) if weight is None else 2 * jnp.asarray(weight, prediction.dtype)


def _of_huber(prediction: jax.Array, target: jax.Array, delta: Any = 1.0, weight: Any = 1, **_: Any) -> jax.Array:
    distance = jnp.abs(prediction - target)
    straight = distance > delta
    return jnp.where(straight, delta / jnp.where(straight, distance, 1), 1) * (1 if weight is None else weight)


def _of_smooth_l1(prediction: jax.Array, target: jax.Array, beta: Any = 1.0, **_: Any) -> jax.Array:
    return 1 / jnp.maximum(jnp.abs(prediction - target), beta)


def _of_probability(prediction: jax.Array, target: jax.Array, weight: Any = None, **_: Any) -> jax.Array:
    del target
    least = float(jnp.finfo(prediction.dtype).eps) ** 2
    return (1 if weight is None else weight) / jnp.maximum(prediction * (1 - prediction), least)


def _of_rate(prediction: jax.Array, target: jax.Array, eps: Any = 1e-8, **_: Any) -> jax.Array:
    del target
    return 1 / (prediction + eps)


# None where the second derivative is what is wanted. By name: modules of losses are loaded when they are asked for.
_BY_ENTRIES: dict[str, Callable[..., jax.Array] | None] = {
    "mse": _of_mse,
    "huber": _of_huber,
    "smooth_l1": _of_smooth_l1,
    "binary_cross_entropy": _of_probability,
    "binary_cross_entropy_with_logits": None,
    "gaussian_nll": None,
    "multilabel_soft_margin": None,
    "poisson_nll": None,
    "soft_margin": None,
}
_BY_ROWS = ("cross_entropy",)

NAMES = tuple(sorted((*_BY_ENTRIES, *_BY_ROWS)))


def _known(loss: Any) -> tuple[str, dict[str, Any]]:
    """The name of a loss of this package, empty for another, and the options that are bound to it."""
    function, options = _checks.unwrapped(loss)
    ours = getattr(function, "__module__", "").startswith("jaxfit.losses.")
    return (function.__name__ if ours else ""), options


def is_ours(loss: Any) -> bool:
    """Whether a loss is one of this package, whatever options are bound to it."""
    return bool(_known(loss)[0])


def is_robust(loss: Any) -> bool:
    """Whether large residuals pull less than in proportion."""
    return _known(loss)[0] in ("huber", "smooth_l1")


def is_squared(loss: Any) -> bool:
    """Whether a loss is the squared error."""
    return _known(loss)[0] == "mse"


def weight(loss: Any) -> Any:
    """The weight that is bound to a loss as its option; None for none."""
    return _known(loss)[1].get("weight")


def serves(loss: Any) -> bool:
    """Whether a loss has a curvature in the prediction that is nowhere negative."""
    name, options = _known(loss)
    if name == "smooth_l1" and _checks.is_number(options.get("beta")) and options["beta"] <= 0:
        return False  # that is the absolute error
    return name in NAMES


def by_entries(loss: Any) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """`curvature(prediction, target)` in each entry of the prediction; None where the second derivative serves."""
    name, options = _known(loss)
    known = _BY_ENTRIES[name]
    if name == "poisson_nll" and not options.get("log_input", True):
        known = _of_rate
    return None if known is None else functools.partial(known, **options)


def by_rows(loss: Any) -> bool:
    """Whether the entries of a row of the prediction act on its loss together."""
    return _known(loss)[0] in _BY_ROWS


def in_parts(loss: Any) -> bool:
    """Whether the options of a loss fit any part of the data: none is an array with an entry for each sample."""
    name, options = _known(loss)
    if name in _BY_ROWS:
        return True
    return all(np.ndim(value) == 0 for value in options.values())


def mass(loss: Any, target: Any, rows: int) -> Any:
    """What the samples weigh in the mean of a loss: as many as there are, where it weighs all alike."""
    name, options = _known(loss)
    weight = options.get("weight")
    if name == "mse" and weight is not None:
        return jnp.mean(jnp.asarray(weight)) * rows
    if name in _BY_ROWS and jnp.issubdtype(target.dtype, jnp.integer):
        counted = target != options.get("ignore_index", -100)
        used = counted if weight is None else _shared.weight_of(jnp.asarray(weight), jnp.where(counted, target, 0))
        return jnp.sum(jnp.where(counted, used, 0)) / (target.size // rows)
    return rows
