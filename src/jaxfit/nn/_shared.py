"""What all blocks share: reading and checking their arguments."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfit import _checks


def random(layer: Any, rngs: Any) -> nnx.Rngs:
    """The random numbers of a layer that needs some, or TypeError."""
    if isinstance(rngs, nnx.Rngs):
        return rngs
    came = "missing; give" if rngs is None else f"{_checks.describe(rngs)}; expected jaxfit.nn.Rngs, e.g."
    raise TypeError(f"{name(layer)}: rngs is {came} rngs=jaxfit.nn.Rngs(0), one for all layers of a network.")


def unused_random(layer: Any, rngs: Any) -> nnx.Rngs:
    """What flax asks for where a layer starts with constants."""
    return random(layer, nnx.Rngs(0) if rngs is None else rngs)


def name(layer: Any) -> str:
    """What messages call a layer that is not built yet."""
    return type(layer).__name__


def size(layer: Any, argument: str, value: Any, *, least: int = 1) -> int:
    """A whole number of at least `least`."""
    return _checks.count(f"{name(layer)}: {argument}", value, least=least)


def sizes(layer: Any, argument: str, value: Any, rank: int, *, least: int = 1) -> tuple[int, ...]:
    """One whole number for each of `rank` axes; one alone holds for all."""
    if not isinstance(value, (tuple, list)):
        return (size(layer, argument, value, least=least),) * rank
    if len(value) != rank:
        raise ValueError(f"{name(layer)}: {argument} is {tuple(value)}; expected {_whole(rank)}, or one for all axes.")
    return tuple(size(layer, argument, each, least=least) for each in value)


def _whole(count: int) -> str:
    return "1 whole number" if count == 1 else f"{count} whole numbers"


def integer(layer: Any, argument: str, value: Any) -> int:
    """A whole number, also a negative one."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name(layer)}: {argument} is {_checks.describe(value)}; expected a whole number.")
    return int(value)


def number(layer: Any, argument: str, value: Any, *, least: float = -np.inf, most: float = np.inf) -> float:
    """A finite number within bounds."""
    if not _checks.is_number(value):
        raise TypeError(f"{name(layer)}: {argument} is {_checks.describe(value)}; expected a number.")
    if not (np.isfinite(value) and least <= value <= most):
        bounded = f" from {least:g} to {most:g}" if most < np.inf else f" of at least {least:g}" * (least > -np.inf)
        raise ValueError(f"{name(layer)}: {argument} is {value}; expected a finite number{bounded}.")
    return float(value)


def positive(layer: Any, argument: str, value: Any) -> float:
    """A finite number above 0."""
    if number(layer, argument, value) <= 0:
        raise ValueError(f"{name(layer)}: {argument} is {value}; expected a number above 0.")
    return float(value)


def flag(layer: Any, argument: str, value: Any) -> bool:
    """True or False, and nothing that counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name(layer)}: {argument} is {_checks.describe(value)}; expected True or False.")
    return bool(value)


def numbers(layer: Any, x: Any) -> jax.Array:
    """The input of a layer as an array of real numbers; TypeError where it is none."""
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{layer!r}: x is {_checks.describe(x)}; expected an array of numbers. {error}") from error
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
        raise TypeError(f"{layer!r}: x is {_checks.describe(array)}; expected real numbers.")
    return array


def floats(layer: Any, x: Any) -> jax.Array:
    """The input of a layer that keeps the dtype of what it gets."""
    array = numbers(layer, x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{layer!r}: x is {_checks.describe(array)}; expected floating-point numbers, e.g. x.astype(float)."
        )
    return array


def wrong_shape(layer: Any, expected: str, x: jax.Array, way_out: str = "") -> ValueError:
    """What to raise where an input does not fit a layer."""
    return ValueError(f"{layer!r} takes x {expected}; x has shape {x.shape}.{way_out}")


def channels_last(x: jax.Array, channels: int, rank: int) -> str:
    """The way out for one who gives channels first, as torch has them."""
    first = x.ndim > rank and x.shape[-rank - 1] == channels
    return f" Channels come last: give jnp.moveaxis(x, {-rank - 1}, -1)." if first else ""


def windows(
    layer: Any,
    x: jax.Array,
    kernel: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> None:
    """Raises ValueError where a kernel is larger than the padded input: XLA would return an empty array."""
    spatial = x.shape[-len(kernel) - 1 : -1]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation or (1,) * len(kernel), strict=True)]
    padded = tuple(n + 2 * p for n, p in zip(spatial, padding, strict=True))
    if any(r > n for r, n in zip(reach, padded, strict=True)):
        raise ValueError(
            f"{layer!r}: its kernel reaches over {tuple(reach)}, x of shape {x.shape} has {padded} with padding; "
            f"expected at least as many. Give a larger x, more padding or a smaller kernel."
        )
