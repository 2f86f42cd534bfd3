"""Curves that fall off or shoot up: exponentials, powers, Arrhenius' law."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit.models._base import Model
from jaxfit.models._guess import SIGNS, Axis, Sample, Scan, even, ratios

GAS_CONSTANT = 8.31446261815324  # J / (mol K), exact since 2019 (CODATA)
_MOST_EXPONENT = 80.0  # exp of it is still a float32


def _exponential(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Exponential decay: `amplitude * exp(-x / decay)`.

    Params:
        amplitude: The value at x = 0, in y's unit.
        decay: The distance in x over which the curve falls to 1/e; negative where it grows. The half-life is
            `decay * ln(2)`.

    x has any shape. No bounds. A decay that is 0 gives NaN or infinity.

    Source: parameters as in lmfit's ExponentialModel.

    Example:
        >>> from jaxfit import models
        >>> [round(float(value), 3) for value in models.exponential({"amplitude": 2.0, "decay": 1.0}, [0.0, 1.0])]
        [2.0, 0.736]
    """
    return params["amplitude"] * jnp.exp(-x / params["decay"])


def _biexponential(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Two exponential decays: `amplitude_1 * exp(-x / decay_1) + amplitude_2 * exp(-x / decay_2)`.

    Params:
        amplitude_1: The first decay's value at x = 0, in y's unit.
        decay_1: The distance in x over which it falls to 1/e; the guess takes the faster one as the first.
        amplitude_2: The second decay's value at x = 0, in y's unit.
        decay_2: The distance in x over which that falls to 1/e.

    x has any shape. Bounds: decay_1 and decay_2 at least 0; at 0 itself the curve is not defined.

    Example:
        >>> from jaxfit import models
        >>> params = {"amplitude_1": 2.0, "decay_1": 1.0, "amplitude_2": 1.0, "decay_2": 10.0}
        >>> [round(float(value), 3) for value in models.biexponential(params, [0.0, 10.0])]
        [3.0, 0.368]
    """
    first = params["amplitude_1"] * jnp.exp(-x / params["decay_1"])
    return first + params["amplitude_2"] * jnp.exp(-x / params["decay_2"])


def _stretched_exponential(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Stretched exponential decay: `amplitude * exp(-(x / decay)**exponent)`.

    Params:
        amplitude: The value at x = 0, in y's unit.
        decay: The distance in x over which the curve falls to 1/e.
        exponent: 1 for a plain exponential, below 1 for a spread of decays (stretched), 2 for half a gaussian.

    x has any shape and is at least 0; below, the curve is taken to be `amplitude`. Bounds: decay and exponent at least
    0; at 0 itself the curve is not defined.

    Source: Kohlrausch (1854); Williams and Watts (1970).

    Example:
        >>> from jaxfit import models
        >>> params = {"amplitude": 2.0, "decay": 4.0, "exponent": 0.5}
        >>> [round(float(value), 3) for value in models.stretched_exponential(params, [0.0, 4.0])]
        [2.0, 0.736]
    """
    inside = x > 0
    power = jnp.exp(params["exponent"] * jnp.log(jnp.where(inside, x, 1) / params["decay"]))
    return params["amplitude"] * jnp.where(inside, jnp.exp(-power), 1)


def _power_law(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A power law: `amplitude * x**exponent`.

    Params:
        amplitude: The value at x = 1, in y's unit.
        exponent: The slope in a plot with two logarithmic axes.

    x has any shape and is above 0. No bounds.

    Example:
        >>> from jaxfit import models
        >>> models.power_law({"amplitude": 3.0, "exponent": -2.0}, [1.0, 2.0]).tolist()
        [3.0, 0.75]
    """
    return params["amplitude"] * x ** params["exponent"]


def _arrhenius(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Arrhenius' law: `prefactor * exp(-energy / (R * x))`, R = 8.31446261815324 J / (mol K).

    Params:
        prefactor: The limit at high temperatures, in y's unit.
        energy: The activation energy, in J / mol. (In units of another gas constant, scale x.)

    x is a temperature in K, of any shape and above 0. No bounds. The two params are strongly correlated, and the
    prefactor may be huge: fit float64 data.

    Source: Arrhenius (1889).

    Example:
        >>> from jaxfit import models
        >>> [round(float(value), 1) for value in models.arrhenius({"prefactor": 1e3, "energy": 5e3}, [300.0, 600.0])]
        [134.7, 367.0]
    """
    return params["prefactor"] * jnp.exp(-params["energy"] / (GAS_CONSTANT * x))


def _origin(x: np.ndarray, decay: Any) -> Any:
    """Where an exponential is largest, so that it is at most 1."""
    return np.where(np.asarray(decay) > 0, x.min(), x.max())


def _falling(x: np.ndarray, decay: Any) -> np.ndarray:
    return np.exp(-(x - _origin(x, decay)) / decay)


def _at_zero(x: np.ndarray, decay: float, coefficient: float) -> float:
    """The amplitude at x = 0 of an exponential whose value at its origin is the coefficient."""
    return coefficient * np.exp(np.clip(_origin(x, decay) / decay, -_MOST_EXPONENT, _MOST_EXPONENT))


def _decays(sample: Sample, count: int) -> Axis:
    return ratios(0.3 * sample.spacing, 100 * sample.extent[2], count)


def _biexponential_params(x: np.ndarray, values: Any, coefficients: Any) -> dict[str, float]:
    decay_1, decay_2 = values[0], values[0] * values[1]
    return {
        "amplitude_1": _at_zero(x, decay_1, coefficients[0]),
        "decay_1": decay_1,
        "amplitude_2": _at_zero(x, decay_2, coefficients[1]),
        "decay_2": decay_2,
    }


def _arrhenius_column(x: np.ndarray, energy: Any) -> np.ndarray:
    return np.exp(-energy / GAS_CONSTANT * (1 / x - 1 / x.max()))


def _energies(sample: Sample) -> Axis:
    span = float(1 / sample.x.min() - 1 / sample.x.max()) or float(1 / sample.x.max())
    return ratios(1e-3 * GAS_CONSTANT / span, 60 * GAS_CONSTANT / span, 60)


exponential = Model(
    _exponential,
    ("amplitude", "decay"),
    guesser=Scan(
        lambda sample: [_decays(sample, 80), SIGNS],
        lambda x, decay, sign: (_falling(x, sign * decay),),
        lambda x, v, c: {"amplitude": _at_zero(x, v[0] * v[1], c[0]), "decay": v[0] * v[1]},
    ),
    formula="amplitude * exp(-x / decay)",
)
biexponential = Model(
    _biexponential,
    ("amplitude_1", "decay_1", "amplitude_2", "decay_2"),
    lower={"decay_1": 0, "decay_2": 0},
    guesser=Scan(
        lambda sample: [ratios(0.3 * sample.spacing, 10 * sample.extent[2], 24), ratios(1.2, 300.0, 12)],
        lambda x, decay, ratio: (_falling(x, decay), _falling(x, decay * ratio)),
        _biexponential_params,
    ),
    formula="amplitude_1 * exp(-x / decay_1) + amplitude_2 * exp(-x / decay_2)",
)
stretched_exponential = Model(
    _stretched_exponential,
    ("amplitude", "decay", "exponent"),
    lower={"decay": 0, "exponent": 0},
    guesser=Scan(
        lambda sample: [_decays(sample, 40), ratios(0.1, 5.0, 14)],
        lambda x, decay, exponent: (np.exp(-((x / decay) ** exponent)),),
        lambda _, v, c: {"amplitude": c[0], "decay": v[0], "exponent": v[1]},
        domain="not negative",
    ),
    formula="amplitude * exp(-(x / decay)**exponent)",
)
power_law = Model(
    _power_law,
    ("amplitude", "exponent"),
    guesser=Scan(
        lambda _: [even(-8.0, 8.0, 65)],
        lambda x, exponent: ((x / np.exp(np.log(x).mean())) ** exponent,),
        lambda x, v, c: {"amplitude": c[0] * np.exp(np.clip(-v[0] * np.log(x).mean(), -80, 80)), "exponent": v[0]},
        domain="positive",
    ),
    formula="amplitude * x**exponent",
)
arrhenius = Model(
    _arrhenius,
    ("prefactor", "energy"),
    guesser=Scan(
        lambda sample: [_energies(sample), SIGNS],
        lambda x, energy, sign: (_arrhenius_column(np.asarray(x), energy * sign),),
        lambda x, v, c: {
            "prefactor": c[0] * np.exp(np.clip(v[0] * v[1] / GAS_CONSTANT / x.max(), -_MOST_EXPONENT, _MOST_EXPONENT)),
            "energy": v[0] * v[1],
        },
        domain="positive",
    ),
    formula="prefactor * exp(-energy / (8.31446261815324 * x))",
)
