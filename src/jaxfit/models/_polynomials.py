"""Curves that are linear in all their params."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _checks
from jaxfit.models._base import Model
from jaxfit.models._guess import Linear


def _constant(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The same number everywhere: `value`.

    Params:
        value: In y's unit.

    x has any shape, that of a surface too. No bounds.

    Example:
        >>> from jaxfit import models
        >>> models.constant({"value": 2.0}, [0.0, 1.0]).tolist()
        [2.0, 2.0]
    """
    del x
    return params["value"]


def _linear(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A straight line: `slope * x + intercept`.

    Params:
        slope: In y's unit per unit of x.
        intercept: The value at x = 0, in y's unit.

    x has any shape. No bounds.

    Example:
        >>> from jaxfit import models
        >>> models.linear({"slope": 2.0, "intercept": 1.0}, [0.0, 1.0]).tolist()
        [1.0, 3.0]
    """
    return params["slope"] * x + params["intercept"]


def _quadratic(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A parabola: `a * x**2 + b * x + c`.

    Params:
        a: In y's unit per square unit of x.
        b: The slope at x = 0, in y's unit per unit of x.
        c: The value at x = 0, in y's unit.

    x has any shape. No bounds.

    Example:
        >>> from jaxfit import models
        >>> models.quadratic({"a": 1.0, "b": 2.0, "c": 3.0}, [0.0, 2.0]).tolist()
        [3.0, 11.0]
    """
    return (params["a"] * x + params["b"]) * x + params["c"]


def _polynomial(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A polynomial: `c0 + c1 * x + c2 * x**2 + ...`, by Horner's scheme."""
    total = jnp.zeros_like(x)
    for power in reversed(range(len(params))):
        total = total * x + params[f"c{power}"]
    return total


@dataclasses.dataclass(frozen=True)
class _Powers:
    """The columns of a polynomial: 1, x, x**2, ..., or the other way round."""

    count: int
    falling: bool

    def __call__(self, x: np.ndarray) -> np.ndarray:
        columns = np.stack([np.ones(x.shape[0]) if power == 0 else x**power for power in range(self.count)])
        return columns[::-1] if self.falling else columns


def _powers(names: tuple[str, ...], falling: bool) -> Linear:
    return Linear(names, _Powers(len(names), falling))


@functools.lru_cache(maxsize=64)
def _of_degree(degree: int) -> Model:
    names = tuple(f"c{power}" for power in range(degree + 1))
    terms = ["c0", "c1 * x", *(f"c{power} * x**{power}" for power in range(2, degree + 1))]
    return Model(
        _polynomial,
        names,
        guesser=_powers(names, falling=False),
        formula=" + ".join(terms[: degree + 1]),
    )


def polynomial(degree: int) -> Model:
    """A polynomial of any degree: `c0 + c1 * x + c2 * x**2 + ...`.

    The params `c0`, `c1`, ... have y's unit per power of x's. High degrees want an x that is centered and of order 1.

    Args:
        degree: The highest power, at least 0.

    Returns:
        A `Model` with degree + 1 params and no bounds; equal for equal degrees. It takes x of any shape.

    Raises:
        TypeError: degree is not a whole number.
        ValueError: It is below 0.

    Example:
        >>> from jaxfit import models
        >>> models.polynomial(3)
        polynomial(c0, c1, c2, c3) = c0 + c1 * x + c2 * x**2 + c3 * x**3
        >>> models.polynomial(1)({"c0": 1.0, "c1": 2.0}, [0.0, 3.0]).tolist()
        [1.0, 7.0]
    """
    return _of_degree(_checks.count("degree", degree, least=0))


constant = Model(_constant, ("value",), guesser=_powers(("value",), falling=False), formula="value")
linear = Model(
    _linear,
    ("slope", "intercept"),
    guesser=_powers(("slope", "intercept"), falling=True),
    formula="slope * x + intercept",
)
quadratic = Model(
    _quadratic,
    ("a", "b", "c"),
    guesser=_powers(("a", "b", "c"), falling=True),
    formula="a * x**2 + b * x + c",
)
