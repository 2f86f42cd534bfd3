"""Curves that rise from one level to another: growth, saturation, steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from jaxfit.models._base import Model
from jaxfit.models._guess import SIGNS, Axis, Sample, Scan, even, ratios, widths


def _logistic(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Logistic growth: `maximum / (1 + exp(-rate * (x - center)))`.

    Params:
        maximum: The upper level, in y's unit; the lower is 0.
        center: Where half of it is reached, in x's unit.
        rate: The relative growth far below the center, per unit of x; negative for a curve that falls. The steepest
            slope is `maximum * rate / 4`.

    x has any shape. No bounds.

    Source: Verhulst (1838).

    Example:
        >>> from jaxfit import models
        >>> models.logistic({"maximum": 4.0, "center": 1.0, "rate": 2.0}, [1.0, 100.0]).tolist()
        [2.0, 4.0]
    """
    return params["maximum"] * jax.nn.sigmoid(params["rate"] * (x - params["center"]))


def _gompertz(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Gompertz growth, steeper below its center than above: `maximum * exp(-exp(-rate * (x - center)))`.

    Params:
        maximum: The upper level, in y's unit; the lower is 0.
        center: Where the curve is steepest, at `maximum / e`, in x's unit.
        rate: Per unit of x; the steepest slope is `maximum * rate / e`.

    x has any shape. Bounds: rate at least 0.

    Source: Gompertz (1825); Winsor (1932).

    Example:
        >>> from jaxfit import models
        >>> [round(float(v), 3) for v in models.gompertz({"maximum": 4.0, "center": 1.0, "rate": 2.0}, [1.0, 100.0])]
        [1.472, 4.0]
    """
    # Far below the center the value is 0 either way, and its slope must not be 0 times infinity.
    angle = jnp.maximum(params["rate"] * (x - params["center"]), -40)
    return params["maximum"] * jnp.exp(-jnp.exp(-angle))


def _step(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """A step that is smeared out by a gaussian: `height * (1 + erf((x - center) / (sqrt(2) * sigma))) / 2`.

    Params:
        height: The level above the step, in y's unit; the level below is 0. Negative for a step down.
        center: Where half the height is reached, in x's unit.
        sigma: The standard deviation of the smearing, in x's unit; 80 % of the step lie within 1.28 sigma.

    x has any shape. Bounds: sigma at least 0; at 0 itself the curve is not defined. A step that a logistic function
    describes is `logistic`.

    Example:
        >>> from jaxfit import models
        >>> models.step({"height": 4.0, "center": 1.0, "sigma": 0.5}, [-9.0, 1.0, 9.0]).tolist()
        [0.0, 2.0, 4.0]
    """
    return 0.5 * params["height"] * (1 + erf((x - params["center"]) / (np.sqrt(2).item() * params["sigma"])))


def _michaelis_menten(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The rate of an enzyme reaction: `maximum * x / (half + x)`.

    Params:
        maximum: The rate at saturation (Vmax), in y's unit.
        half: The concentration at which half of it is reached (Km), in x's unit.

    x is a concentration, of any shape and at least 0. Bounds: half at least 0.

    Source: Michaelis and Menten (1913).

    Example:
        >>> from jaxfit import models
        >>> models.michaelis_menten({"maximum": 4.0, "half": 2.0}, [0.0, 2.0, 6.0]).tolist()
        [0.0, 2.0, 3.0]
    """
    total = params["half"] + x
    return params["maximum"] * jnp.where(total == 0, 0, x / jnp.where(total == 0, 1, total))


def _hill(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Binding with cooperation, a dose–response curve: `maximum * x**exponent / (half**exponent + x**exponent)`.

    Params:
        maximum: The level at saturation, in y's unit.
        half: The concentration at which half of it is reached (EC50), in x's unit.
        exponent: The Hill coefficient; 1 for `michaelis_menten`, larger where the curve is steeper.

    x is a concentration, of any shape and at least 0; below, the curve is 0. Bounds: half and exponent at least 0; at a
    half of 0 itself the curve is not defined. For a response that falls, subtract it from a constant.

    Source: Hill (1910).

    Example:
        >>> from jaxfit import models
        >>> [round(float(v), 3) for v in models.hill({"maximum": 4.0, "half": 2.0, "exponent": 3.0}, [0.0, 2.0])]
        [0.0, 2.0]
    """
    inside = x > 0
    odds = params["exponent"] * jnp.log(jnp.where(inside, x, 1) / params["half"])
    return params["maximum"] * jnp.where(inside, jax.nn.sigmoid(odds), 0)


def _langmuir(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Adsorption in one layer: `capacity * affinity * x / (1 + affinity * x)`.

    Params:
        capacity: The amount in a full layer, in y's unit.
        affinity: The equilibrium constant, per unit of x; half the layer is full at `1 / affinity`.

    x is a pressure or a concentration, of any shape and at least 0. Bounds: affinity at least 0.

    Source: Langmuir (1918).

    Example:
        >>> from jaxfit import models
        >>> models.langmuir({"capacity": 4.0, "affinity": 0.5}, [0.0, 2.0, 6.0]).tolist()
        [0.0, 2.0, 3.0]
    """
    filled = params["affinity"] * x
    return params["capacity"] * filled / (1 + filled)


def rough_erf(x: Any) -> Any:
    """The error function within 4e-4, for guesses: NumPy has none."""
    return np.tanh(x * (1.1283 + 0.1009 * x**2))


def _places(sample: Sample) -> Axis:
    low, high, width = sample.extent
    return even(low - 0.5 * width, high + 0.5 * width, 65)


def _halves(sample: Sample) -> Axis:
    high = float(np.abs(sample.x).max()) or 1.0
    return ratios(1e-3 * high, 100 * high, 60)


logistic = Model(
    _logistic,
    ("maximum", "center", "rate"),
    guesser=Scan(
        lambda sample: [_places(sample), widths(sample, 16), SIGNS],
        lambda x, center, width, sign: (0.5 + 0.5 * np.tanh(0.5 * sign * (x - center) / width),),
        lambda _, v, c: {"maximum": c[0], "center": v[0], "rate": v[2] / v[1]},
    ),
    formula="maximum / (1 + exp(-rate * (x - center)))",
)
gompertz = Model(
    _gompertz,
    ("maximum", "center", "rate"),
    lower={"rate": 0},
    guesser=Scan(
        lambda sample: [_places(sample), widths(sample, 16)],
        lambda x, center, width: (np.exp(-np.exp(-(x - center) / width)),),
        lambda _, v, c: {"maximum": c[0], "center": v[0], "rate": 1 / v[1]},
    ),
    formula="maximum * exp(-exp(-rate * (x - center)))",
)
step = Model(
    _step,
    ("height", "center", "sigma"),
    lower={"sigma": 0},
    guesser=Scan(
        lambda sample: [_places(sample), widths(sample, 16)],
        lambda x, center, sigma: (0.5 + 0.5 * rough_erf((x - center) / (np.sqrt(2) * sigma)),),
        lambda _, v, c: {"height": c[0], "center": v[0], "sigma": v[1]},
    ),
    formula="height * (1 + erf((x - center) / (sqrt(2) * sigma))) / 2",
)
michaelis_menten = Model(
    _michaelis_menten,
    ("maximum", "half"),
    lower={"half": 0},
    guesser=Scan(
        lambda sample: [_halves(sample)],
        lambda x, half: (x / (half + x),),
        lambda _, v, c: {"maximum": c[0], "half": v[0]},
        domain="not negative",
    ),
    formula="maximum * x / (half + x)",
)
hill = Model(
    _hill,
    ("maximum", "half", "exponent"),
    lower={"half": 0, "exponent": 0},
    guesser=Scan(
        lambda sample: [_halves(sample), ratios(0.2, 20.0, 14)],
        lambda x, half, exponent: (1 / (1 + (half / x) ** exponent),),
        lambda _, v, c: {"maximum": c[0], "half": v[0], "exponent": v[1]},
        domain="not negative",
    ),
    formula="maximum * x**exponent / (half**exponent + x**exponent)",
)
langmuir = Model(
    _langmuir,
    ("capacity", "affinity"),
    lower={"affinity": 0},
    guesser=Scan(
        lambda sample: [_halves(sample)],
        lambda x, half: (x / (half + x),),
        lambda _, v, c: {"capacity": c[0], "affinity": 1 / v[0]},
        domain="not negative",
    ),
    formula="capacity * affinity * x / (1 + affinity * x)",
)
