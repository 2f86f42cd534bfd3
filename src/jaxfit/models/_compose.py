"""Curves made of curves: their names, their values, and starting values for all parts at once."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from jaxfit import _checks
from jaxfit.models._guess import Guessed, Linear, Sample, Strategy, fewer, orthonormal

if TYPE_CHECKING:
    from jaxfit.models._base import Model

_ROUNDS = 4  # how often each part is guessed, given the others
_MOST_ORDERS = 6
_TRIMS = 4  # how often a background is guessed anew from the half of the points that it fits best
_WIDEST = (1.0, 0.25, 0.06)  # two peaks may look like a wide one, so they are also sought among narrow ones
_APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


class Expression(NamedTuple):
    """One operation.

    Attributes:
        operator: "+", "-" or "*".
        left: An expression, a `Model` or a float.
        right: Another.
    """

    operator: str
    left: Any
    right: Any


def leaves(node: Any) -> Iterator["Model"]:
    """The curves in an expression, from left to right."""
    if isinstance(node, Expression):
        yield from leaves(node.left)
        yield from leaves(node.right)
    elif not isinstance(node, float):
        yield node


def labelled(expression: Expression) -> dict[str, "Model"]:
    """The curves in an expression by name; those with the same name are numbered."""
    parts = list(leaves(expression))
    names = [part.__name__ for part in parts]
    found: dict[str, Model] = {}
    for part, name in zip(parts, names, strict=True):
        label = name
        if names.count(name) > 1:
            taken = {*found, *names}
            label = next(f"{name}_{i}" for i in itertools.count(1) if f"{name}_{i}" not in taken)
        found[label] = part
    return found


def combined(node: Any, values: Iterator[Any]) -> Any:
    """The value of an expression, given those of its curves from left to right."""
    if isinstance(node, Expression):
        left = combined(node.left, values)
        return _APPLY[node.operator](left, combined(node.right, values))
    return node if isinstance(node, float) else next(values)


def written(expression: Any) -> str:
    """An expression as text, with the labels of its curves."""
    labels = iter(labelled(expression))

    def text(node: Any, tight: bool) -> str:
        if not isinstance(node, Expression):
            return f"{node:g}" if isinstance(node, float) else next(labels)
        product = node.operator == "*"
        left = text(node.left, product)
        whole = f"{left} {node.operator} {text(node.right, product or node.operator == '-')}"
        return f"({whole})" if tight and not product else whole

    return text(expression, False)


def guess(model: "Model", x: Any, y: Any) -> dict[str, Any]:
    """Starting values of a model; what `Model.guess` promises."""
    x, y = _numbers(model, "x", x), _numbers(model, "y", y)
    _check(model, x, y)
    x, y = fewer(x, y, averaged=not any(_oscillates(part) for part in _all(model)))
    sample = Sample(x, y, np.ones(y.size), np.zeros((y.size, 0)))
    return _on(model, sample).params


def _all(model: "Model") -> Iterator["Model"]:
    """The curves that a model is made of in the end."""
    if model.expression is None:
        yield model
    for part in model.parts.values():
        yield from _all(part)


def _oscillates(part: "Model") -> bool:
    return not isinstance(part.guesser, Strategy) or part.guesser.oscillates


def _is_local(part: "Model") -> bool:
    return isinstance(part.guesser, Strategy) and part.guesser.local


def _on(model: "Model", sample: Sample) -> Guessed:
    if model.expression is not None:
        return _of_parts(model, sample)
    if isinstance(model.guesser, Strategy):
        found = model.guesser(sample)
        return Guessed(_within(model, found.params), found.values)
    assert model.guesser is not None
    # A user's guess knows neither factors nor backgrounds: it gets the data without them where that can be told.
    kept = np.abs(sample.factor) > 1e-3 * np.abs(sample.factor).max(initial=0)
    if not kept.any():
        kept = np.ones_like(kept)
    given = model.guesser(sample.x[kept], sample.y[kept] / np.where(sample.factor == 0, 1, sample.factor)[kept])
    params = _within(model, {name: float(given[name]) for name in model.names})
    with jax.enable_x64(True):
        return Guessed(params, np.asarray(_values(model, params, sample.x)))


_values = jax.jit(lambda model, params, x: model(params, x), static_argnums=0)


def _within(model: "Model", params: dict[str, float]) -> dict[str, float]:
    return {
        name: float(np.clip(params[name], model.lower.get(name, -np.inf), model.upper.get(name, np.inf)))
        for name in model.names
    }


def _of_parts(model: "Model", sample: Sample) -> Guessed:
    """The best of what guessing the parts one after another comes to, in several orders."""
    parts = list(model.parts.values())
    linear = [i for i, part in enumerate(parts) if isinstance(part.guesser, Linear)]
    others = [i for i in range(len(parts)) if i not in linear]
    orders: dict[Any, tuple[int, ...]] = {}
    for order in itertools.islice(itertools.permutations(others), 120):
        orders.setdefault(tuple(parts[i] for i in order), order)  # parts that are alike need no second order
    local = [i for i in others if _is_local(parts[i])]
    kinds = [(share, False) for share in (_WIDEST if len(others) > 1 else _WIDEST[:1])]
    if 0 < len(local) < len(others):
        kinds += [(share, True) for share in _WIDEST[1:]]
    best_of_kind = []
    for share, trims in kinds:
        chosen = list(orders.values())
        if trims:  # what is everywhere first
            chosen = [order for order in chosen if set(order[-len(local) :]) == set(local)]
        narrowed = sample._replace(widest=sample.widest * share)
        attempts = [_Attempt(model, parts, (*order, *linear), narrowed) for order in chosen[:_MOST_ORDERS]]
        for attempt in attempts:
            attempt.go_round(trims)
        best_of_kind += sorted(attempts, key=_Attempt.unexplained)[: 2 if trims else 1]
    for attempt, _ in itertools.product(best_of_kind, range(_ROUNDS - 1 if len(parts) > 1 else 0)):
        attempt.go_round()
    best = min(best_of_kind, key=_Attempt.unexplained)
    params: dict[str, Any] = dict(zip(model.names, best.params, strict=True))
    return Guessed(params, combined(model.expression, iter(best.values)))


class _Attempt:
    """The parts of a curve, guessed one after another, each given the others as they are by then."""

    def __init__(self, model: "Model", parts: list["Model"], order: tuple[int, ...], sample: Sample):
        self.expression, self.parts, self.order, self.sample = model.expression, parts, order, sample
        self.values = [np.full(sample.y.size, number) for number in _neutral(model.expression)]
        self.params: list[Any] = [None] * len(parts)

    def go_round(self, trims: bool = False) -> None:
        """Guesses each part once; where it trims, one that is everywhere gets the points that peaks do not reach."""
        for i in self.order:
            fixed, background = self._beside(i)
            rest = self._whole({i: 0.0, **fixed})
            factor = self._whole({i: 1.0, **fixed}) - rest
            sample = self.sample._replace(y=self.sample.y - rest, factor=factor, background=background)
            self.params[i], self.values[i] = _on(self.parts[i], sample)
            for _ in range(_TRIMS if trims and not _is_local(self.parts[i]) else 0):
                away = np.abs(sample.without_background(sample.y - sample.factor * self.values[i]))
                kept = away <= np.median(away)
                few = sample._replace(
                    y=sample.y * kept,
                    factor=sample.factor * kept,
                    background=orthonormal(sample.background.T * kept),
                )
                self.params[i], self.values[i] = _on(self.parts[i], few)

    def _beside(self, i: int) -> tuple[dict[int, float], np.ndarray]:
        """The linear parts that are added to this one, as 0, and what they explain for any choice of this one."""
        rows, fixed = [self.sample.background.T], {}
        for j, part in enumerate(self.parts):
            if j == i or isinstance(self.parts[i].guesser, Linear) or not isinstance(part.guesser, Linear):
                continue
            if _added(self.expression, i, j):
                rows.append(part.guesser.columns(self.sample.x) * (self._whole({j: 1.0}) - self._whole({j: 0.0})))
                fixed[j] = 0.0
        return fixed, orthonormal(np.concatenate(rows)) if fixed else self.sample.background

    def _whole(self, changed: dict[int, float]) -> np.ndarray:
        """The curve with some of its parts replaced by a number."""
        values = iter([np.full_like(v, changed[i]) if i in changed else v for i, v in enumerate(self.values)])
        return self.sample.factor * combined(self.expression, values)

    def unexplained(self) -> float:
        """What is left of the sum of squares."""
        return float((self.sample.without_background(self.sample.y - self._whole({})) ** 2).sum())


def _neutral(node: Any, number: float = 0.0) -> Iterator[float]:
    """What each curve of an expression counts as before it has been guessed: 0 in a sum, 1 in a product."""
    if isinstance(node, Expression):
        number = 1.0 if node.operator == "*" else 0.0
        yield from _neutral(node.left, number)
        yield from _neutral(node.right, number)
    elif not isinstance(node, float):
        yield number


def _added(node: Any, i: int, j: int) -> bool:
    """Whether two curves of an expression, by their places, are never multiplied with each other."""
    while isinstance(node, Expression):
        inside = len(list(leaves(node.left)))
        if (i < inside) != (j < inside):
            return node.operator != "*"
        node, i, j = (node.left, i, j) if i < inside else (node.right, i - inside, j - inside)
    return False


def _numbers(model: "Model", name: str, given: Any) -> np.ndarray:
    """An argument of `guess` as float64."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(f"{name} is traced; {model.__name__}.guess looks at numbers: call it outside jit, vmap, grad.")
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float64, casting="same_kind")  # bfloat16 and the like
    except (TypeError, ValueError) as error:
        came = _checks.describe(given)
        raise TypeError(f"{model.__name__}.guess: {name} is {came}; expected an array of real numbers.") from error
    return array.astype(np.float64)


def _check(model: "Model", x: np.ndarray, y: np.ndarray) -> None:
    name = f"{model.__name__}.guess"
    without = [part.name for part in _all(model) if part.guesser is None]
    if without:
        raise ValueError(f"{name}: {without[0]} has no guess; give starting values, or a Model with a guesser.")
    surface = any(getattr(part.guesser, "surface", False) for part in _all(model))
    if surface and (x.ndim != 2 or x.shape[1] != 2):
        raise ValueError(f"{name}: x has shape {x.shape}; expected [n, 2], two coordinates for each point.")
    if not surface and x.ndim != 1:
        way_out = " Write x[:, 0]." if x.ndim == 2 and x.shape[1] == 1 else ""
        raise ValueError(f"{name}: x has shape {x.shape}; expected [n].{way_out}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{name}: x has shape {x.shape} and y has {y.shape}; expected y with one number per row of x.")
    if not y.size:
        raise ValueError(f"{name}: x and y are empty; expected at least one point.")
    for letter, array in (("x", x), ("y", y)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: {letter} holds NaN or infinity; expected finite numbers: drop those points.")
    for part in _all(model):
        domain = getattr(part.guesser, "domain", "any")
        if (domain == "positive" and x.min() <= 0) or (domain == "not negative" and x.min() < 0):
            expected = "x above 0" if domain == "positive" else "x of at least 0"
            raise ValueError(
                f"{name}: x goes down to {x.min():g}, where {part.name} is not defined; expected {expected}."
            )
