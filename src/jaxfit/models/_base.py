"""What a named curve is: a function with names, bounds and a guess; and how curves add up to others."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _checks
from jaxfit.models import _compose
from jaxfit.models._compose import Expression

_OPERAND = "expected a jaxfit.models.Model or a number; make one of a function by Model(function, names)"


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A curve with named params: a frozen, hashable value that is called as `model(params, x) -> prediction`.

    `+`, `-` and `*` make curves of curves and numbers. The params of such a sum are a dict of dicts, one for each part
    by its name; where two have the same name they are numbered: `gaussian_1`, `gaussian_2`. Sums of sums have one
    level, whatever the order of operations, unless `named` has made a part of a sum. Their bounds are those of the
    parts.

    Args:
        function: `function(params, x) -> prediction`, pure and written with `jax.numpy`; params is a dict of scalars.
        names: The names of the params, in their order in the formula.
        lower: Lower bounds by name, of those that have one.
        upper: Upper bounds by name, of those that have one.
        guesser: `guesser(x, y) -> dict` of floats, for NumPy arrays x and y; None where there is no guess.
        name: What the curve is called; the function's name where nothing is said.
        formula: The prediction in terms of x and the names, for people.
        expression: Of a curve made of others: the operations, in place of a function.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A bound has the name of no param, or is not finite or not below the other.

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> line = jf.models.Model(lambda params, x: params["a"] * x, ("a",), name="line", formula="a * x")
        >>> line
        line(a) = a * x
        >>> float(line({"a": 2.0}, np.array(3.0)))
        6.0
        >>> (jf.models.gaussian + line).names
        ('gaussian', 'line')
        >>> (jf.models.gaussian.named("peak") + line).lower
        {'peak': {'sigma': 0.0}}
    """

    function: Callable[[Any, Any], Any] | None
    names: tuple[str, ...]
    lower: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    upper: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    guesser: Callable[..., Any] | None = None
    name: str = ""
    formula: str = ""
    expression: Expression | None = None

    __array_ufunc__ = None  # so that a NumPy number times a model asks the model

    def __post_init__(self):
        if self.expression is not None:
            return
        if not callable(self.function):
            raise TypeError(f"function is {_checks.describe(self.function)}; expected a function (params, x).")
        if not isinstance(self.names, tuple) or not self.names or not all(isinstance(name, str) for name in self.names):
            raise TypeError(f"names is {self.names!r}; expected a tuple of strings, such as ('height', 'center').")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names is {self.names!r}; expected each name once.")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        object.__setattr__(self, "name", name.strip("<>_"))
        object.__setattr__(self, "__doc__", self.function.__doc__)
        for side in ("lower", "upper"):
            object.__setattr__(self, side, self._checked_bounds(side, getattr(self, side)))
        for name in self.lower.keys() & self.upper.keys():
            if self.lower[name] >= self.upper[name]:
                raise ValueError(
                    f"the bounds of {name} are {self.lower[name]} and {self.upper[name]}; expected lower < upper."
                )

    def _checked_bounds(self, side: str, bounds: dict[str, Any]) -> dict[str, float]:
        if not isinstance(bounds, dict):
            raise TypeError(f"{side} is {_checks.describe(bounds)}; expected a dict of numbers by name.")
        for name, bound in bounds.items():
            if name not in self.names:
                raise ValueError(f"{side} has the name {name!r}; {_checks.choices(name, self.names)}")
            if not _checks.is_number(bound) or not np.isfinite(bound):
                raise ValueError(f"{side}[{name!r}] is {bound!r}; expected a finite number, or no entry for none.")
        return {name: float(bound) for name, bound in bounds.items()}

    @property
    def parts(self) -> dict[str, "Model"]:
        """The curves that this one is made of, by the names of their params; none in a curve of its own."""
        return {} if self.expression is None else _compose.labelled(self.expression)

    @property
    def bounds(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lower and upper bounds, two dicts like the params; -inf and inf where there is none."""
        if self.expression is not None:
            sides = [part.bounds for part in self.parts.values()]
            lower, upper = ({name: side[i] for name, side in zip(self.names, sides, strict=True)} for i in (0, 1))
            return lower, upper
        return (
            {name: self.lower.get(name, -np.inf) for name in self.names},
            {name: self.upper.get(name, np.inf) for name in self.names},
        )

    @property
    def __name__(self) -> str:
        return self.name or _compose.written(self.expression)

    def __call__(self, params: Any, x: Any) -> jax.Array:
        """The curve at x.

        Args:
            params: A scalar by name; for a curve made of others, such a dict by the name of each part.
            x: Numbers of any shape; [..., 2] for a surface.

        Returns:
            An array of x's shape ([...] for a surface).

        Raises:
            TypeError: params is not a dict.
            ValueError: It lacks names or has others.
        """
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(float)
        prediction = self._evaluated(params, x)
        return jnp.broadcast_to(prediction, x.shape) if prediction.ndim == 0 else prediction

    def _evaluated(self, params: Any, x: jax.Array) -> jax.Array:
        """The curve at x; a curve that does not depend on x gives one number, which fits lines and surfaces alike."""
        if not isinstance(params, dict):
            raise TypeError(
                f"{self.__name__}: params is {_checks.describe(params)}; expected a dict like {self._like}."
            )
        if params.keys() != set(self.names):
            came = ", ".join(map(str, params)) or "no names"
            raise ValueError(f"{self.__name__}: params has {came}; expected {', '.join(self.names)}.")
        if self.expression is not None:
            values = [part._evaluated(params[name], x) for name, part in self.parts.items()]
            return _compose.combined(self.expression, iter(values))
        assert self.function is not None
        return self.function({name: jnp.asarray(value) for name, value in params.items()}, x)

    @property
    def _like(self) -> str:
        names = ", ".join(f"{name!r}: {'{...}' if self.expression else '1.0'}" for name in self.names)
        return "{" + names + "}"

    def guess(self, x: Any, y: Any) -> dict[str, Any]:
        """Starting values for a fit: what explains the data best on a coarse grid, by least squares.

        In a sum, parts that are linear in all their params (a constant, a line) are taken out of the data for any
        choice of the others, and the others are guessed one after another, the strongest first where they are alike,
        each on what the rest leaves unexplained, four times over. In a product each factor is
        guessed with the others held; where more than one has a scale of its own, only their product is determined.

        Args:
            x: Real numbers in any order, [n]; [n, 2] for a surface.
            y: Real numbers, [n].

        Returns:
            Floats within the bounds: a dict like the params.

        Raises:
            TypeError: x or y are not real numbers.
            ValueError: Their shapes do not fit, they are empty or not finite, x lies where the curve is not defined, or
                a part has no guess.

        Example:
            >>> import numpy as np
            >>> import jaxfit as jf
            >>> x = np.linspace(0.0, 4.0, 30)
            >>> start = jf.models.exponential.guess(x, 3 * np.exp(-x / 2))
            >>> round(start["amplitude"]), round(start["decay"])
            (3, 2)
        """
        return _compose.guess(self, x, y)

    def named(self, name: str) -> "Model":
        """The same curve under another name; made of others, it stays together as one part of larger ones.

        Args:
            name: A string.

        Raises:
            TypeError: It is not a string.
            ValueError: It is empty.

        Example:
            >>> from jaxfit import models
            >>> (models.gaussian.named("peak") + models.linear.named("background")).names
            ('peak', 'background')
            >>> ((models.gaussian + models.linear).named("first") + models.sine).names
            ('first', 'sine')
        """
        if not isinstance(name, str):
            raise TypeError(f"name is {_checks.describe(name)}; expected a string.")
        if not name:
            raise ValueError("name is empty; expected a name such as 'peak'.")
        return dataclasses.replace(self, name=name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The curves of this package are pickled by where they are, for what they guess with has no name."""
        place, attribute = getattr(self.function, "__module__", ""), getattr(self.function, "__name__", "")[1:]
        origin = getattr(sys.modules.get(place), attribute, None)
        if isinstance(origin, Model) and dataclasses.replace(origin, name=self.name) == self:
            return _found, (place, attribute, self.name)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        if self.expression is None:
            formula = f" = {self.formula}" if self.formula else ""
            return f"{self.name}({', '.join(self.names)}){formula}"
        head = f"{self.name} = " if self.name else ""
        parts = [repr(part.named(label)).splitlines() for label, part in self.parts.items()]
        return "\n  ".join([head + _compose.written(self.expression), *(line for part in parts for line in part)])

    def __add__(self, other: Any) -> "Model":
        return _made("+", self, other)

    def __radd__(self, other: Any) -> "Model":
        return _made("+", other, self)

    def __sub__(self, other: Any) -> "Model":
        return _made("-", self, other)

    def __rsub__(self, other: Any) -> "Model":
        return _made("-", other, self)

    def __mul__(self, other: Any) -> "Model":
        return _made("*", self, other)

    def __rmul__(self, other: Any) -> "Model":
        return _made("*", other, self)

    def __neg__(self) -> "Model":
        return _made("*", -1.0, self)


def _found(place: str, attribute: str, name: str) -> Model:
    return getattr(importlib.import_module(place), attribute).named(name)


def _made(operator: str, left: Any, right: Any) -> Model:
    """The curve that an operation makes of two operands."""
    expression = Expression(operator, *(_operand(operator, side) for side in (left, right)))
    parts = _compose.labelled(expression)
    lower, upper = ({label: dict(limits) for label, limits in side if limits} for side in _limits(parts))
    return Model(None, tuple(parts), lower, upper, expression=expression)


def _limits(parts: dict[str, Model]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    yield [(label, part.lower) for label, part in parts.items()]
    yield [(label, part.upper) for label, part in parts.items()]


def _operand(operator: str, side: Any) -> Any:
    if isinstance(side, Model):
        return side.expression if side.expression is not None and not side.name else side
    if not _checks.is_number(side):
        raise TypeError(f"an operand of {operator} is {_checks.describe(side)}; {_OPERAND}.")
    if not np.isfinite(side):
        raise ValueError(f"an operand of {operator} is {side}; expected a finite number.")
    return float(side)
