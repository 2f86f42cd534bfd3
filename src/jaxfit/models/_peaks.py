"""Symmetric peaks: gaussian, lorentzian, and the two between."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit.models._base import Model
from jaxfit.models._faddeeva import faddeeva, scaled_erfc
from jaxfit.models._guess import Axis, Scan, centers, widths

_HALF = 4 * np.log(2).item()  # a gaussian of full width 1 at half its height is exp(-_HALF * x**2)


def _gaussian(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A bell curve: `height * exp(-(x - center)**2 / (2 * sigma**2))`.

    Params:
        height: The value at the center, in y's unit; negative for a dip.
        center: In x's unit.
        sigma: The standard deviation, in x's unit. The full width at half the height is `2 * sqrt(2 * ln(2)) * sigma`,
            2.3548 sigma; the area is `sqrt(2 * pi) * height * sigma`.

    x has any shape. Bounds: sigma at least 0; at 0 itself the curve is not defined.

    Example:
        >>> from jaxfit import models
        >>> params = {"height": 2.0, "center": 1.0, "sigma": 0.5}
        >>> [round(float(value), 3) for value in models.gaussian(params, [1.0, 1.5])]
        [2.0, 1.213]
    """
    return params["height"] * jnp.exp(-0.5 * ((x - params["center"]) / params["sigma"]) ** 2)


def _lorentzian(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The line of a resonance (Cauchy, Breit and Wigner): `height * gamma**2 / ((x - center)**2 + gamma**2)`.

    Params:
        height: The value at the center, in y's unit; negative for a dip.
        center: In x's unit.
        gamma: Half the width at half the height, in x's unit. The area is `pi * height * gamma`.

    x has any shape. Bounds: gamma at least 0; at 0 itself the curve is 0 but for the center.

    Example:
        >>> from jaxfit import models
        >>> models.lorentzian({"height": 2.0, "center": 1.0, "gamma": 0.5}, [1.0, 1.5]).tolist()
        [2.0, 1.0]
    """
    square = params["gamma"] ** 2
    return params["height"] * square / ((x - params["center"]) ** 2 + square)


def _voigt(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A lorentzian smeared out by a gaussian: `height * Re(w(z)) / Re(w(z0))`, w the Faddeeva function.

    `z = (x - center + 1j * gamma) / (sqrt(2) * sigma)` and `z0 = 1j * gamma / (sqrt(2) * sigma)`.

    Params:
        height: The value at the center, in y's unit; negative for a dip.
        center: In x's unit.
        sigma: The standard deviation of the gaussian, in x's unit.
        gamma: Half the width of the lorentzian at half its height, in x's unit; at 0 the curve is `gaussian`. The full
            width at half the height is, within 0.02 %, `1.0692 * gamma + sqrt(0.8664 * gamma**2 + 5.5452 * sigma**2)`
            (Olivero and Longbothum, 1977).

    x has any shape. Bounds: sigma and gamma at least 0; at a sigma of 0 itself the curve is not defined. w has an
    absolute error below 1e-14 in float64 and 1e-6 in float32, and so has the curve where gamma is at most sigma,
    relative to its height; for larger gamma multiply by `1.8 * gamma / sigma`.

    Source: Voigt (1912); w by Weideman (1994), "Computation of the complex error function".

    Example:
        >>> from jaxfit import models
        >>> params = {"height": 2.0, "center": 1.0, "sigma": 0.5, "gamma": 0.0}
        >>> [round(float(value), 3) for value in models.voigt(params, [1.0, 1.5])]
        [2.0, 1.213]
    """
    unit = 1 / (np.sqrt(2).item() * params["sigma"])
    width = params["gamma"] * unit
    distance, width_at = jnp.broadcast_arrays((x - params["center"]) * unit, width)
    return params["height"] * faddeeva(jax.lax.complex(distance, width_at)).real / scaled_erfc(width)


def _pseudo_voigt(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A lorentzian and a gaussian of one width, mixed: `height * (fraction * L + (1 - fraction) * G)`.

    `L = 1 / (1 + 4 * u**2)` and `G = exp(-4 * ln(2) * u**2)` with `u = (x - center) / fwhm`.

    Params:
        height: The value at the center, in y's unit; negative for a dip.
        center: In x's unit.
        fwhm: The full width at half the height, of both, in x's unit.
        fraction: The lorentzian's share of the height, from 0 for a gaussian to 1 for a lorentzian.

    x has any shape. Bounds: fwhm at least 0, where the curve itself is not defined; fraction from 0 to 1.

    Source: Wertheim et al. (1974).

    Example:
        >>> from jaxfit import models
        >>> params = {"height": 2.0, "center": 1.0, "fwhm": 1.0, "fraction": 0.5}
        >>> [round(float(value), 3) for value in models.pseudo_voigt(params, [1.0, 1.5])]
        [2.0, 1.0]
    """
    return params["height"] * _mixed(jnp, x, params["center"], params["fwhm"], params["fraction"])


def _mixed(xp: Any, x: Any, center: Any, fwhm: Any, fraction: Any) -> Any:
    square = ((x - center) / fwhm) ** 2
    return fraction / (1 + 4 * square) + (1 - fraction) * xp.exp(-_HALF * square)


def _bell(x: np.ndarray, center: Any, sigma: Any) -> np.ndarray:
    return np.exp(-0.5 * ((x - center) / sigma) ** 2)


def _voigt_params(x: np.ndarray, values: Any, coefficients: Any) -> dict[str, float]:
    """The widths of a Voigt profile that is like a pseudo-Voigt: Thompson, Cox and Hastings (1987)."""
    del x
    center, fwhm, mix = values
    lorentzian = fwhm * (0.72928 * mix + 0.19289 * mix**2 + 0.07783 * mix**3)
    gaussian = fwhm * np.sqrt(1 - 0.74417 * mix - 0.24781 * mix**2 - 0.00810 * mix**3)
    return {
        "height": coefficients[0],
        "center": center,
        "sigma": gaussian / np.sqrt(2 * _HALF),
        "gamma": lorentzian / 2,
    }


_MIXTURE = Axis(np.array([0.1, 0.5, 0.9]), step=0.2)

gaussian = Model(
    _gaussian,
    ("height", "center", "sigma"),
    lower={"sigma": 0},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample)],
        lambda x, center, sigma: (_bell(x, center, sigma),),
        lambda _, v, c: {"height": c[0], "center": v[0], "sigma": v[1]},
        local=True,
    ),
    formula="height * exp(-(x - center)**2 / (2 * sigma**2))",
)
lorentzian = Model(
    _lorentzian,
    ("height", "center", "gamma"),
    lower={"gamma": 0},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample)],
        lambda x, center, gamma: (1 / (1 + ((x - center) / gamma) ** 2),),
        lambda _, v, c: {"height": c[0], "center": v[0], "gamma": v[1]},
        local=True,
    ),
    formula="height * gamma**2 / ((x - center)**2 + gamma**2)",
)
voigt = Model(
    _voigt,
    ("height", "center", "sigma", "gamma"),
    lower={"sigma": 0, "gamma": 0},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample), _MIXTURE],
        lambda x, center, fwhm, mix: (_mixed(np, x, center, fwhm, mix),),
        _voigt_params,
        local=True,
    ),
    formula="height * Re(w((x - center + 1j * gamma) / (sqrt(2) * sigma))) / Re(w(1j * gamma / (sqrt(2) * sigma)))",
)
pseudo_voigt = Model(
    _pseudo_voigt,
    ("height", "center", "fwhm", "fraction"),
    lower={"fwhm": 0, "fraction": 0},
    upper={"fraction": 1},
    guesser=Scan(
        lambda sample: [centers(sample), widths(sample), _MIXTURE],
        lambda x, center, fwhm, fraction: (_mixed(np, x, center, fwhm, fraction),),
        lambda _, v, c: {"height": c[0], "center": v[0], "fwhm": v[1], "fraction": v[2]},
        local=True,
    ),
    formula="height * (fraction / (1 + 4 * u**2) + (1 - fraction) * exp(-4 * ln(2) * u**2)), u = (x - center) / fwhm",
)
