"""Starting values by least squares on a grid, in NumPy on the host.

A curve is split into params that it is linear in, which are solved for, and the few others, which are tried on a grid
that zooms in on the best (variable projection: Golub and Pereyra, 1973). What else may be in the data takes part: a
factor that multiplies the curve, and a background that is linear in its params and is projected out.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_CHUNK = 1 << 21  # numbers in one array at most
_STARTS = 6  # grid points from which the zoom begins
_ZOOMS = 5
_MOST_POINTS = 1024
_DEPENDENT = 1e-8  # the share of a column that background may leave before they count as the same
_FAINTEST = 1e-4  # the size of a column below which nothing of the curve is in sight


class Sample(NamedTuple):
    """What a guess has to explain: `y = factor * curve(x) + background @ anything`.

    Attributes:
        x: [n], or [n, 2] for a surface.
        y: [n].
        factor: [n].
        background: Orthonormal columns, [n, b].
        widest: How wide a feature may be, as a share of the extent of x.
    """

    x: np.ndarray
    y: np.ndarray
    factor: np.ndarray
    background: np.ndarray
    widest: float = 1.5

    def without_background(self, rows: np.ndarray) -> np.ndarray:
        """Rows [..., n] less what the background explains of them."""
        return rows - (rows @ self.background) @ self.background.T

    @property
    def extent(self) -> tuple[float, float, float]:
        """The least x, the greatest, and their distance: 1 where all are the same."""
        low, high = float(self.x.min()), float(self.x.max())
        return low, high, high - low or 1.0

    @property
    def spacing(self) -> float:
        """The mean distance of neighbours in x."""
        return self.extent[2] / max(self.y.size - 1, 1)


class Axis(NamedTuple):
    """The values that are tried of one param.

    Attributes:
        values: In any order.
        log: Whether they are positive and their ratio counts; otherwise their difference does.
        step: How far from a value the zoom looks first (for log, in units of the logarithm); 0 for not at all.
    """

    values: np.ndarray
    log: bool = False
    step: float = 0.0


class Guessed(NamedTuple):
    """A guess.

    Attributes:
        params: A float by name.
        values: The curve at the sample's x, [n].
    """

    params: dict[str, float]
    values: np.ndarray


def even(low: float, high: float, count: int) -> Axis:
    """Evenly spaced values."""
    return Axis(np.linspace(low, high, count), step=(high - low) / (count - 1))


def ratios(low: float, high: float, count: int) -> Axis:
    """Positive values with equal ratios."""
    return Axis(np.geomspace(low, high, count), True, float(np.log(high / low)) / (count - 1))


SIGNS = Axis(np.array([1.0, -1.0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy:
    """How to guess the params of a kind of curve: a function of a sample.

    Attributes:
        domain: What x must be: "any", "positive" or "not negative".
        oscillates: Whether the curve may change from one point to the next, so that points must not be averaged.
        local: Whether the curve is about 0 but for a stretch of x.
        surface: Whether x is [n, 2].
    """

    domain: str = "any"
    oscillates: bool = False
    local: bool = False
    surface: bool = False

    def __call__(self, sample: Sample) -> Guessed:
        """The params that explain a sample best."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Scan(Strategy):
    """The guess of a curve that is linear in one or two coefficients.

    Attributes:
        axes: Of a sample, the values to be tried of all other params.
        columns: `columns(x, *values) -> tuple of arrays [m, n]`, what the coefficients multiply; the values are [m, 1].
        params: `params(x, values, coefficients) -> dict`, the params by name.
    """

    axes: Callable[[Sample], list[Axis]]
    columns: Callable[..., tuple[np.ndarray, ...]]
    params: Callable[[np.ndarray, Any, Any], dict[str, Any]]

    def __call__(self, sample: Sample) -> Guessed:
        """The params that explain a sample best."""
        axes = self.axes(sample)
        best = best_on(axes, self.columns, sample)
        with np.errstate(all="ignore"):
            columns = np.nan_to_num(np.stack([column[0] for column in self.columns(sample.x, *best[:, None, None])]))
            coefficients = solve(sample, columns, _FAINTEST)
            params = self.params(sample.x, tuple(best), tuple(coefficients))
        return Guessed({name: float(value) for name, value in params.items()}, coefficients @ columns)


@dataclasses.dataclass(frozen=True)
class Linear(Strategy):
    """The guess of a curve that is linear in all its params: the least-squares solution.

    Attributes:
        names: The params.
        columns: `columns(x) -> [k, n]`, what each of them multiplies.
    """

    names: tuple[str, ...]
    columns: Callable[[np.ndarray], np.ndarray]

    def __call__(self, sample: Sample) -> Guessed:
        """The params that explain a sample best."""
        columns = self.columns(sample.x)
        coefficients = solve(sample, columns)
        return Guessed(dict(zip(self.names, map(float, coefficients), strict=True)), coefficients @ columns)


def solve(sample: Sample, columns: np.ndarray, faintest: float = 0.0) -> np.ndarray:
    """The coefficients of columns [k, n] that explain a sample best; the smallest where several do.

    A column whose size is less than that of the factor by `faintest` is left out.
    """
    rows = columns * sample.factor
    seen = np.linalg.norm(rows, axis=1) > faintest * np.sqrt(np.mean(sample.factor**2))
    rows = sample.without_background(rows) * seen[:, None]
    size = np.linalg.norm(rows, axis=1)
    size = np.where(size > 0, size, 1.0)
    found = np.linalg.lstsq((rows / size[:, None]).T, sample.without_background(sample.y), rcond=None)[0]
    return found / size


def best_on(axes: list[Axis], columns: Callable, sample: Sample) -> np.ndarray:
    """The values [d] within the reach of the axes that leave the least unexplained."""
    target = sample.without_background(sample.y)

    def gains(points: np.ndarray) -> np.ndarray:
        size = max(1, _CHUNK // max(sample.y.size, 1))
        return np.concatenate([
            _gain(sample, target, columns, values(points[first : first + size]))
            for first in range(0, len(points), size)
        ])  # fmt: skip

    def values(points: np.ndarray) -> list[np.ndarray]:
        return [np.exp(u) if axis.log else u for axis, u in zip(axes, points.T, strict=True)]

    marks = [np.log(axis.values) if axis.log else np.asarray(axis.values, float) for axis in axes]
    low, high = np.array([[mark.min(), mark.max()] for mark in marks]).T
    points = np.stack([part.ravel() for part in np.meshgrid(*marks, indexing="ij")], axis=1)
    found = gains(points)
    best = points[np.argsort(-found, kind="stable")[:_STARTS]]
    step = np.array([axis.step for axis in axes])
    reach = np.array(list(itertools.product(*[(0.0, -1.0, -0.5, 0.5, 1.0) if width else (0.0,) for width in step])))
    for zoom in range(_ZOOMS):
        around = np.clip(best[:, None] + step * 0.5**zoom * reach, low, high)
        local = gains(around.reshape(-1, len(axes))).reshape(len(best), -1)
        best = around[np.arange(len(best)), np.argmax(local, axis=1)]
    last = best[np.argmax(gains(best))]
    return np.array([value[0] for value in values(last[None])])


def _gain(sample: Sample, target: np.ndarray, columns: Callable, values: list[np.ndarray]) -> np.ndarray:
    """How much of the sum of squares is explained, [m], at m points of the grid."""
    with np.errstate(all="ignore"):
        rows = [np.nan_to_num(row * sample.factor) for row in columns(sample.x, *[value[:, None] for value in values])]
        whole = [(row**2).sum(axis=1) for row in rows]
        faintest = _FAINTEST**2 * np.mean(sample.factor**2)
        rows = [sample.without_background(row) for row in rows]
        square = [(row**2).sum(axis=1) for row in rows]
        dot = [row @ target for row in rows]
        alone = [
            np.where((a > _DEPENDENT * before) & (before > faintest), d**2 / a, 0.0)
            for a, d, before in zip(square, dot, whole, strict=True)
        ]  # fmt: skip
        if len(rows) == 1:
            return np.nan_to_num(alone[0], posinf=0.0)
        (a, c), (p, q), b = square, dot, (rows[0] * rows[1]).sum(axis=1)
        det = a * c - b**2
        both = np.where(det > _DEPENDENT * a * c, (c * p**2 - 2 * b * p * q + a * q**2) / det, np.maximum(*alone))
        return np.nan_to_num(both, posinf=0.0)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis [n, b] of what columns [k, n] span."""
    if not len(columns):
        return np.zeros((columns.shape[1], 0))
    size = np.sqrt((columns**2).sum(axis=1, keepdims=True))
    left, weight, _ = np.linalg.svd((columns / np.where(size > 0, size, 1.0)).T, full_matrices=False)
    return left[:, weight > 1e-10 * max(weight.max(), 1.0)]


def fewer(x: np.ndarray, y: np.ndarray, averaged: bool) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points as a guess needs, in the order of x: means of neighbours, or some of the points."""
    if x.ndim == 1:
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    if y.size <= _MOST_POINTS:
        return x, y
    if averaged and x.ndim == 1:
        starts = np.linspace(0, y.size, _MOST_POINTS, endpoint=False).astype(int)
        count = np.diff([*starts, y.size])
        middle = x.mean()
        return np.add.reduceat(x - middle, starts) / count + middle, np.add.reduceat(y, starts) / count
    most = _MOST_POINTS if averaged else min(y.size, 4 * _MOST_POINTS)
    chosen = np.sort(np.random.default_rng(0).choice(y.size, most, replace=False))
    return x[chosen], y[chosen]


def centers(sample: Sample, beyond: float = 0.2) -> Axis:
    """Where a peak may lie: even places, and those where means of 1, 2, 4, ... neighbours are extreme."""
    low, high, width = sample.extent
    y = sample.without_background(sample.y)
    beyond = beyond if sample.widest > 1 else 0.0  # the flank of a peak that is out of sight may look like anything
    places = [np.linspace(low - beyond * width, high + beyond * width, 41)]
    window = 1
    while window <= y.size // 3:
        kernel = np.ones(window) / window
        smooth, where = np.convolve(y, kernel, "valid"), np.convolve(sample.x, kernel, "valid")
        places.append(where[[np.argmax(smooth), np.argmin(smooth)]])
        window *= 2
    return Axis(np.unique(np.concatenate(places)), step=width * (1 + 2 * beyond) / 40)


def widths(sample: Sample, count: int = 12) -> Axis:
    """How wide a feature may be: from half the distance of neighbours to all that was seen."""
    width = sample.extent[2]
    return ratios(min(0.5 * sample.spacing, 0.02 * width), sample.widest * width, count)


def frequencies(sample: Sample) -> Axis:
    """Where the periodogram is highest, and low ones that it cannot tell apart.

    Evenly spaced points tell frequencies up to Nyquist's, uneven ones beyond their mean one.
    """
    low, _, width = sample.extent
    y = sample.without_background(sample.y)
    y = y - y.mean()
    gaps = np.diff(np.sort(sample.x))
    beyond = 1 if y.size < 3 or gaps.max() < 1.5 * gaps.min() else 3
    bins = 1 << int(np.ceil(np.log2(4 * beyond * y.size + 16)))
    index = np.minimum(((sample.x - low) / width * bins).astype(int), bins - 1)
    power = np.abs(np.fft.rfft(np.bincount(index, y, bins), 4 * bins)) ** 2
    power = power[: max(2 * beyond * y.size, 8) + 1]  # they are 1 / 4 of 1 / width apart
    inner = power[1:-1]
    peaks = 1 + np.flatnonzero((inner >= power[:-2]) & (inner >= power[2:]))
    strongest = peaks[np.argsort(-power[peaks], kind="stable")[:12]] / (4 * width)
    slow = np.linspace(0.05, 1.5, 16) / width
    return Axis(np.unique(np.concatenate([slow, strongest])), step=0.25 / width)
