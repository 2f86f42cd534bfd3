"""Peaks that lean to one side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc

from jaxfit.models._base import Model
from jaxfit.models._faddeeva import scaled_erfc
from jaxfit.models._growth import rough_erf
from jaxfit.models._guess import Axis, Scan, centers, widths
from jaxfit.models._peaks import _bell

_ROOT = np.sqrt(2).item()


def _skewed_gaussian(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A skew-normal curve: `height * exp(-z**2 / 2) * (1 + erf(skew * z / sqrt(2)))`, `z = (x - center) / sigma`.

    Params:
        height: The value at the center, in y's unit, which with skew is not the top. The area is that of a gaussian,
            `sqrt(2 * pi) * height * sigma`, whatever the skew.
        center: The location of the gaussian that is skewed, in x's unit.
        sigma: The standard deviation of that gaussian, in x's unit.
        skew: The shape: 0 for a gaussian, above 0 for a long side towards larger x.

    x has any shape. Bounds: sigma at least 0; at 0 itself the curve is not defined.

    Source: Azzalini (1985), "A class of distributions which includes the normal ones".

    Example:
        >>> from jaxfit import models
        >>> params = {"height": 2.0, "center": 1.0, "sigma": 0.5, "skew": 3.0}
        >>> [round(float(value), 3) for value in models.skewed_gaussian(params, [0.5, 1.0, 1.5])]
        [0.003, 2.0, 2.423]
    """
    z = (x - params["center"]) / params["sigma"]
    return params["height"] * jnp.exp(-0.5 * z**2) * (1 + erf(params["skew"] * z / _ROOT))


def _exponential_gaussian(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A gaussian with an exponential tail, the peak of a chromatogram: a gaussian convolved with a decay.

    `area / (2 * tail) * exp(sigma**2 / (2 * tail**2) - (x - center) / tail) * erfc(u)` with
    `u = (sigma / tail - (x - center) / sigma) / sqrt(2)`, computed without overflow.

    Params:
        area: The integral over x, in y's unit times x's. The top has no closed form.
        center: The center of the gaussian, in x's unit; the mean is `center + tail`.
        sigma: Its standard deviation, in x's unit; the variance is `sigma**2 + tail**2`.
        tail: The distance in x over which the tail falls to 1/e.

    x has any shape. Bounds: sigma and tail at least 0; at 0 itself the curve is not defined.

    Source: Grushka (1972), "Characterization of exponentially modified Gaussian peaks in chromatography".

    Example:
        >>> from jaxfit import models
        >>> params = {"area": 2.0, "center": 1.0, "sigma": 0.5, "tail": 1.0}
        >>> [round(float(value), 3) for value in models.exponential_gaussian(params, [0.0, 1.0, 2.0])]
        [0.038, 0.699, 0.778]
    """
    return params["area"] * _modified(jnp, erfc, x, params["center"], params["sigma"], params["tail"])


def _modified(xp: Any, erfc: Any, x: Any, center: Any, sigma: Any, tail: Any) -> Any:
    """The curve for an area of 1; either form holds everywhere, each overflows on one side."""
    z, ratio = (x - center) / sigma, sigma / tail
    u = (ratio - z) / _ROOT
    left = xp.exp(-0.5 * z**2) * scaled_erfc(xp.where(u > 0, u, 0))
    right = xp.exp(xp.where(u > 0, 0, ratio * (0.5 * ratio - z))) * erfc(xp.where(u > 0, 0, u))
    return xp.where(u > 0, left, right) / (2 * tail)


def _fano(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A resonance that interferes with a background: `amplitude * (q + e)**2 / (1 + e**2)`, `e = (x - center) / gamma`.

    Params:
        amplitude: The value far from the resonance, in y's unit.
        center: The place of the resonance, in x's unit; the value there is `amplitude * q**2`.
        gamma: Half its width, in x's unit.
        q: The asymmetry: 0 for a dip to 0; the curve is 0 at `center - q * gamma`, and at its top of
            `amplitude * (1 + q**2)` at `center + gamma / q`.

    x has any shape. Bounds: gamma at least 0; at 0 itself the curve is `amplitude` but for the center.

    Source: Fano (1961), "Effects of configuration interaction on intensities and phase shifts".

    Example:
        >>> from jaxfit import models
        >>> params = {"amplitude": 2.0, "center": 1.0, "gamma": 0.5, "q": 2.0}
        >>> [round(float(value), 3) for value in models.fano(params, [0.0, 1.0, 1.25])]
        [0.0, 8.0, 10.0]
    """
    distance = x - params["center"]
    crossed = params["q"] * params["gamma"] + distance
    return params["amplitude"] * crossed**2 / (params["gamma"] ** 2 + distance**2)


skewed_gaussian = Model(
    _skewed_gaussian,
    ("height", "center", "sigma", "skew"),
    lower={"sigma": 0},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample), Axis(np.array([-5.0, -2.0, -0.5, 0.5, 2.0, 5.0]), step=1.5)],
        lambda x, center, sigma, skew: (
            _bell(x, center, sigma) * (1 + rough_erf(skew * (x - center) / (_ROOT * sigma))),
        ),
        lambda _, v, c: {"height": c[0], "center": v[0], "sigma": v[1], "skew": v[2]},
        local=True,
    ),
    formula="height * exp(-z**2 / 2) * (1 + erf(skew * z / sqrt(2))), z = (x - center) / sigma",
)
exponential_gaussian = Model(
    _exponential_gaussian,
    ("area", "center", "sigma", "tail"),
    lower={"sigma": 0, "tail": 0},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample, 10), Axis(np.array([0.3, 1.0, 3.0, 10.0]), True, 0.6)],
        lambda x, center, sigma, ratio: (
            sigma * _modified(np, lambda u: 1 - rough_erf(u), x, center, sigma, sigma * ratio),
        ),
        lambda _, v, c: {"area": c[0] * v[1], "center": v[0], "sigma": v[1], "tail": v[1] * v[2]},
        local=True,
    ),
    formula="area / (2 * tail) * exp(sigma**2 / (2 * tail**2) - (x - center) / tail) * erfc(u), "
    "u = (sigma / tail - (x - center) / sigma) / sqrt(2)",
)
fano = Model(
    _fano,
    ("amplitude", "center", "gamma", "q"),
    lower={"gamma": 0},
    guesser=Scan(
        lambda sample: [
            centers(sample, 0.0),
            widths(sample, 10),
            Axis(np.array([-8.0, -4.0, -2.0, -1.0, -0.4, 0.0, 0.4, 1.0, 2.0, 4.0, 8.0]), step=0.6),
        ],
        lambda x, center, gamma, q: ((q + (x - center) / gamma) ** 2 / (1 + ((x - center) / gamma) ** 2),),
        lambda _, v, c: {"amplitude": c[0], "center": v[0], "gamma": v[1], "q": v[2]},
    ),
    formula="amplitude * (q + e)**2 / (1 + e**2), e = (x - center) / gamma",
)
