"""Finds the parabola 5 x^2 + 3 in three ways: in closed form, by least squares, and by Adam.

The same call each time; only the optimizer differs. The data have no noise, so the distance from the truth says how
far each method gets.
"""

from pathlib import Path
from typing import Any

import numpy as np
import optax
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "parabola_three_ways.png"
TRUE = np.array([5.0, 0.0, 3.0])
STEPS = 4000  # of Adam; the others stop by themselves
WAYS = {
    "closed form": jf.optimizers.LinearLeastSquares(),  # one step, for models that are linear in their params
    "least squares": jf.optimizers.LevenbergMarquardt(),  # a few steps, for any curve
    "Adam": jf.optimizers.Adam(optax.cosine_decay_schedule(0.2, STEPS)),  # many steps, for any model and loss
}


def parabola(w, x):
    """A parabola with the coefficients w [3]."""
    return w[0] * x**2 + w[1] * x + w[2]


def main() -> dict[str, Any]:
    """Fits in three ways, compares, draws the distances."""
    x = np.linspace(-10.0, 10.0, 100)  # NumPy float64: the fits run in float64
    y = parabola(TRUE, x)
    fits = {}
    for name, optimizer in WAYS.items():
        steps = STEPS if name == "Adam" else None
        fits[name] = jf.fit(parabola, (x, y), np.zeros(3), optimizer=optimizer, steps=steps, record=("params",))
    print(fits["least squares"])

    distances = {name: float(np.abs(result.params - TRUE).max()) for name, result in fits.items()}
    print(f"\n  {'':13}        w[0]        w[1]        w[2]   steps   distance from the truth")
    for name, result in fits.items():
        w = "   ".join(f"{value:9.6f}" for value in np.round(result.params, 6) + 0.0)  # no -0
        print(f"  {name:13}   {w}   {result.steps:5}   {distances[name]:.1e}")

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for name, result in fits.items():
        way = np.vstack([result.history["params"], result.params])  # [steps + 1, 3]
        distance = np.maximum(np.abs(way - TRUE).max(axis=1), 1e-16)  # so that a logarithm can show an exact hit
        axes.plot(distance, ".-" if len(way) < 50 else "-", label=name)
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="steps taken", ylabel="distance from the truth", yscale="log", title="A parabola in three ways")
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "params": {name: result.params for name, result in fits.items()},
        "steps": {name: result.steps for name, result in fits.items()},
        "distances": distances,
    }


if __name__ == "__main__":
    main()
