"""Curves that go up and down."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit.models._base import Model
from jaxfit.models._decays import _at_zero, _falling
from jaxfit.models._guess import Scan, frequencies, ratios


def _sine(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A sine wave: `amplitude * sin(2 * pi * frequency * x + phase)`.

    Params:
        amplitude: Half the distance from trough to crest, in y's unit.
        frequency: Periods per unit of x; the angular frequency over 2 pi.
        phase: The angle at x = 0, in radians.

    x has any shape. Bounds: frequency at least 0. The guess looks for frequencies up to half a period between points.

    Example:
        >>> from jaxfit import models
        >>> [round(float(v), 3) for v in models.sine({"amplitude": 2.0, "frequency": 0.5, "phase": 0.0}, [0.0, 0.5])]
        [0.0, 2.0]
    """
    return params["amplitude"] * jnp.sin(2 * jnp.pi * params["frequency"] * x + params["phase"])


def _damped_oscillator(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A wave that dies down: `amplitude * exp(-x / decay) * sin(2 * pi * frequency * x + phase)`.

    Params:
        amplitude: The envelope at x = 0, in y's unit.
        decay: The distance in x over which the envelope falls to 1/e. The quality factor is `pi * frequency * decay`.
        frequency: Periods per unit of x.
        phase: The angle at x = 0, in radians.

    x has any shape. Bounds: decay and frequency at least 0; at a decay of 0 itself the curve is not defined.

    Example:
        >>> from jaxfit import models
        >>> params = {"amplitude": 2.0, "decay": 1.0, "frequency": 0.25, "phase": 0.0}
        >>> [round(float(value), 3) for value in models.damped_oscillator(params, [0.0, 1.0])]
        [0.0, 0.736]
    """
    return jnp.exp(-x / params["decay"]) * _sine(params, x)


def _waves(x: np.ndarray, frequency: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.sin(2 * np.pi * frequency * x), np.cos(2 * np.pi * frequency * x)


def _sine_params(x: np.ndarray, values: Any, coefficients: Any) -> dict[str, float]:
    del x
    sine, cosine = coefficients
    return {"amplitude": np.hypot(sine, cosine), "frequency": values[0], "phase": np.arctan2(cosine, sine)}


def _damped_params(x: np.ndarray, values: Any, coefficients: Any) -> dict[str, float]:
    found = _sine_params(x, values, coefficients)
    return found | {"amplitude": _at_zero(x, values[1], found["amplitude"]), "decay": values[1]}


sine = Model(
    _sine,
    ("amplitude", "frequency", "phase"),
    lower={"frequency": 0},
    guesser=Scan(lambda sample: [frequencies(sample)], _waves, _sine_params, oscillates=True),
    formula="amplitude * sin(2 * pi * frequency * x + phase)",
)
damped_oscillator = Model(
    _damped_oscillator,
    ("amplitude", "decay", "frequency", "phase"),
    lower={"decay": 0, "frequency": 0},
    guesser=Scan(
        lambda sample: [frequencies(sample), ratios(2 * sample.spacing, 10 * sample.extent[2], 14)],
        lambda x, frequency, decay: tuple(_falling(x, decay) * wave for wave in _waves(x, frequency)),
        _damped_params,
        oscillates=True,
    ),
    formula="amplitude * exp(-x / decay) * sin(2 * pi * frequency * x + phase)",
)
