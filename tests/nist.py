"""NIST's certified problems of nonlinear regression (StRD), as far as they are in `tests/data/nist`."""

import re
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DATA = Path(__file__).parent / "data" / "nist"


def _rational(b, x):
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


MODELS = {
    "Chwirut2": lambda b, x: jnp.exp(-b[0] * x) / (b[1] + b[2] * x),
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss3": lambda b, x: (
        b[0] * jnp.exp(-b[1] * x)
        + b[2] * jnp.exp(-(((x - b[3]) / b[4]) ** 2))
        + b[5] * jnp.exp(-(((x - b[6]) / b[7]) ** 2))
    ),
    "Hahn1": _rational,
    "Lanczos3": lambda b, x: b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x),
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Nelson": lambda b, x: b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1]),
    "Thurber": _rational,
}


class Certified(NamedTuple):
    """A problem: data, both starts, and what is certified of the solution."""

    x: np.ndarray
    y: np.ndarray
    starts: np.ndarray
    params: np.ndarray
    standard_errors: np.ndarray
    sum_of_squares: float


def load(name):
    text = (DATA / f"{name}.dat").read_text()
    number = r"([-+.\dEe]+)"
    params = np.array(re.findall(rf"^\s*b\d+ =\s+{number}\s+{number}\s+{number}\s+{number}", text, re.M), float)
    first = int(re.search(r"Data\s+\(lines\s+(\d+)", text)[1])
    table = np.loadtxt(text.splitlines()[first - 1 :])
    y, x = table[:, 0], np.squeeze(table[:, 1:])
    squares = float(re.search(rf"Residual Sum of Squares:\s+{number}", text)[1])
    return Certified(x, np.log(y) if name == "Nelson" else y, params[:, :2].T, params[:, 2], params[:, 3], squares)


def digits(found, certified):
    """How many digits agree in the worst number."""
    return float(-np.log10(np.max(np.abs(np.asarray(found) / certified - 1)) + 1e-12))
