"""Models: named curves as pure functions `model(params, x) -> prediction`, which know their own starting values.

Params are a dict of scalars by name. `+`, `-` and `*` make curves of curves, whose params are a dict of such dicts;
`guess(x, y)` finds starting values, `bounds` says what the params are limited to. Each curve's own `__doc__` tells its
formula and what its params mean.

Example:
    >>> import numpy as np
    >>> from jaxfit import models
    >>> model = models.gaussian + models.linear
    >>> model
    gaussian + linear
      gaussian(height, center, sigma) = height * exp(-(x - center)**2 / (2 * sigma**2))
      linear(slope, intercept) = slope * x + intercept
    >>> x = np.linspace(0.0, 10.0, 101)
    >>> start = model.guess(x, 3 * np.exp(-((x - 4) ** 2) / 2) + 0.5 * x + 1)
    >>> {name: round(value, 1) for name, value in start["gaussian"].items()}
    {'height': 3.0, 'center': 4.0, 'sigma': 1.0}
"""

from typing import TYPE_CHECKING

from jaxfit._lazy import attach

if TYPE_CHECKING:
    from jaxfit.models._base import Model
    from jaxfit.models._decays import arrhenius, biexponential, exponential, power_law, stretched_exponential
    from jaxfit.models._growth import gompertz, hill, langmuir, logistic, michaelis_menten, step
    from jaxfit.models._lopsided import exponential_gaussian, fano, skewed_gaussian
    from jaxfit.models._oscillations import damped_oscillator, sine
    from jaxfit.models._peaks import gaussian, lorentzian, pseudo_voigt, voigt
    from jaxfit.models._polynomials import constant, linear, polynomial, quadratic
    from jaxfit.models._surfaces import gaussian_2d

__all__ = [
    "Model",
    "arrhenius",
    "biexponential",
    "constant",
    "damped_oscillator",
    "exponential",
    "exponential_gaussian",
    "fano",
    "gaussian",
    "gaussian_2d",
    "gompertz",
    "hill",
    "langmuir",
    "linear",
    "logistic",
    "lorentzian",
    "michaelis_menten",
    "polynomial",
    "power_law",
    "pseudo_voigt",
    "quadratic",
    "sine",
    "skewed_gaussian",
    "step",
    "stretched_exponential",
    "voigt",
]

_PLACES = {
    "_base": ["Model"],
    "_decays": ["arrhenius", "biexponential", "exponential", "power_law", "stretched_exponential"],
    "_growth": ["gompertz", "hill", "langmuir", "logistic", "michaelis_menten", "step"],
    "_lopsided": ["exponential_gaussian", "fano", "skewed_gaussian"],
    "_oscillations": ["damped_oscillator", "sine"],
    "_peaks": ["gaussian", "lorentzian", "pseudo_voigt", "voigt"],
    "_polynomials": ["constant", "linear", "polynomial", "quadratic"],
    "_surfaces": ["gaussian_2d"],
}

__getattr__, __dir__ = attach(__name__, {name: place for place, names in _PLACES.items() for name in names})
