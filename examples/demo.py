"""Fits a curve that NIST has certified values for, and counts the digits that agree.

For those who come from PyTorch: there is no loop to write. A model is a pure function of its params, `fit` is one call,
and its result can be printed, asked for predictions, and drawn.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "demo.png"
DATA = Path(__file__).parents[1] / "tests" / "data" / "nist" / "Chwirut2.dat"
CERTIFIED = {"b1": 1.6657666537e-01, "b2": 5.1653291286e-03, "b3": 1.2150007096e-02}
CERTIFIED_ERRORS = {"b1": 3.8303286810e-02, "b2": 6.6621605126e-04, "b3": 1.5304234767e-03}
CERTIFIED_SUM_OF_SQUARES = 5.1304802941e02


def ultrasonic_response(params, x):
    """The response of an ultrasonic reference block to a metal distance x."""
    return jnp.exp(-params["b1"] * x) / (params["b2"] + params["b3"] * x)


def digits_in_common(value: float, certified: float) -> float:
    """How many significant digits agree; at most the 11 that NIST gives."""
    return min(11.0, -float(np.log10(max(abs(value / certified - 1), 1e-11))))


def main() -> dict[str, Any]:
    """Fits, compares, draws."""
    y, x = np.loadtxt(DATA, skiprows=60, unpack=True)  # NumPy float64, so the fit runs in float64
    start = {"b1": 0.1, "b2": 0.01, "b3": 0.02}
    result = jf.fit(ultrasonic_response, (x, y), start)
    print(result)

    fitted = {name: float(value) for name, value in result.params.items()}
    sum_of_squares = float(np.sum((y - result.predict(x)) ** 2))
    errors = {name: float(error) for name, error in result.standard_errors.items()}
    rows = [(name, fitted[name], certified) for name, certified in CERTIFIED.items()]
    rows += [(f"error of {name}", errors[name], certified) for name, certified in CERTIFIED_ERRORS.items()]
    rows.append(("sum of squares", sum_of_squares, CERTIFIED_SUM_OF_SQUARES))
    digits = {name: digits_in_common(value, certified) for name, value, certified in rows}

    print(f"\n  {'':14}   {'fitted':>16}   {'certified':>16}   digits in common")
    for name, value, certified in rows:
        print(f"  {name:14}   {value:16.10e}   {certified:16.10e}   {digits[name]:.1f}")

    PICTURE.parent.mkdir(exist_ok=True)
    figure = result.plot()  # a matplotlib figure like any other
    figure.axes[0].set(ylabel="ultrasonic response", title="Chwirut2")
    figure.axes[-1].set_xlabel("metal distance")
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"digits": digits, "params": fitted, "sum_of_squares": sum_of_squares, "samples": len(y)}


if __name__ == "__main__":
    main()
