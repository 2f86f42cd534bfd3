"""Surfaces: curves over two coordinates."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit.models._base import Model
from jaxfit.models._guess import Axis, Guessed, Sample, Strategy, best_on, even, ratios, solve

_NAMES = ("height", "center_x", "center_y", "sigma_x", "sigma_y", "angle")


def _gaussian_2d(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A bell over a plane: `height * exp(-(u / sigma_x)**2 / 2 - (v / sigma_y)**2 / 2)`.

    u and v are the coordinates along the bell's own axes: those of `x - center`, turned by `angle`.

    Params:
        height: The value at the center, in y's unit; negative for a dip.
        center_x: The first coordinate of the center.
        center_y: The second.
        sigma_x: The standard deviation along the first axis of the bell, in x's unit.
        sigma_y: That along the second. The volume is `2 * pi * height * sigma_x * sigma_y`.
        angle: From the first coordinate's axis to the bell's first, counterclockwise, in radians; undetermined where
            the two sigmas are equal.

    x is [..., 2]. Bounds: sigma_x and sigma_y at least 0; at 0 itself the surface is not defined. The guess lets the
    first axis be the longer one, with an angle between -pi/2 and pi/2.

    Example:
        >>> from jaxfit import models
        >>> params = {"height": 2.0, "center_x": 1.0, "center_y": 0.0, "sigma_x": 1.0, "sigma_y": 0.5, "angle": 0.0}
        >>> [round(float(value), 3) for value in models.gaussian_2d(params, [[1.0, 0.0], [1.0, 0.5]])]
        [2.0, 1.213]
    """
    if x.ndim == 0 or x.shape[-1] != 2:
        raise ValueError(f"gaussian_2d: x has shape {x.shape}; expected [..., 2], two coordinates for each point.")
    return params["height"] * _bell(jnp, x, *(params[name] for name in _NAMES[1:]))


def _bell(xp: Any, x: Any, *values: Any) -> Any:
    center_x, center_y, sigma_x, sigma_y, angle = values
    right, up = x[..., 0] - center_x, x[..., 1] - center_y
    u = right * xp.cos(angle) + up * xp.sin(angle)
    v = up * xp.cos(angle) - right * xp.sin(angle)
    return xp.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))


def _columns_of_shape(place: np.ndarray, x: np.ndarray, sigma: Any, ratio: Any, angle: Any) -> tuple[np.ndarray]:
    return (_bell(np, x, *place, sigma, sigma * ratio, angle),)


def _columns_at(shape: np.ndarray, x: np.ndarray, center_x: Any, center_y: Any) -> tuple[np.ndarray]:
    sigma, ratio, angle = shape
    return (_bell(np, x, center_x, center_y, sigma, sigma * ratio, angle),)


@dataclasses.dataclass(frozen=True)
class _Bell(Strategy):
    """A round bell first, by a scan over its place and width; then its two widths and the angle; then its place."""

    local: bool = True
    surface: bool = True

    def __call__(self, sample: Sample) -> Guessed:
        """The params that explain a sample best."""
        low, high = sample.x.min(axis=0), sample.x.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        wide = ratios(0.5 * span.max() / max(np.sqrt(sample.y.size), 2), span.max(), 8)
        places = [even(start - 0.1 * size, start + 1.1 * size, 15) for start, size in zip(low, span, strict=True)]
        place = best_on([*places, wide], lambda x, a, b, s: (_bell(np, x, a, b, s, s, 0.0),), sample)
        shape = np.array([place[2], 1.0, 0.0])
        around = Axis(place[2] * np.geomspace(0.2, 5.0, 9), True, 0.4)
        rounds = Axis(np.array([1.0, 0.7, 0.4, 0.2]), True, 0.4)
        turns = Axis(np.arange(-2, 2) * np.pi / 4, step=np.pi / 8)
        place = place[:2]
        for _ in range(2):
            shape = best_on([around, rounds, turns], functools.partial(_columns_of_shape, place), sample)
            near = [even(middle - shape[0], middle + shape[0], 5) for middle in place]
            place = best_on(near, functools.partial(_columns_at, shape), sample)
        values = (*place, shape[0], shape[0] * shape[1], shape[2])
        rows = _bell(np, sample.x, *values)[None]
        height = solve(sample, rows, 1e-4)
        params = {name: float(value) for name, value in zip(_NAMES, (height[0], *values), strict=True)}
        return Guessed(params, height @ rows)


gaussian_2d = Model(
    _gaussian_2d,
    _NAMES,
    lower={"sigma_x": 0, "sigma_y": 0},
    guesser=_Bell(),
    formula="height * exp(-(u / sigma_x)**2 / 2 - (v / sigma_y)**2 / 2), u and v: x - center turned by angle",
)
