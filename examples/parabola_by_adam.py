"""Finds a parabola by Adam from fresh random samples at every step, on whatever device there is.

For those who come from PyTorch: data may be a function of a random key, which draws each batch inside the compiled
fit. A thousand steps are one program, and nothing in the script names a device.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "parabola_by_adam.png"
TRUE = (5.0, 0.0, 3.0)


def parabola(w, x):
    """A parabola with the coefficients w [3]."""
    return w[0] * x**2 + w[1] * x + w[2]


def samples(key):
    """A hundred fresh points of 5 x^2 + 3."""
    x = jax.random.uniform(key, (100,), minval=-10.0, maxval=10.0)
    return x, parabola(TRUE, x)


def main() -> dict[str, Any]:
    """Fits from one random start, then from nine more; draws the way of the first."""
    # The same script runs on CPU, GPU and TPU: JAX takes the best device that it finds.
    print(f"Running on {jax.default_backend()}.\n")
    results = []
    for seed in range(10):
        start = jax.random.normal(jax.random.key(seed), (3,))
        adam = jf.optimizers.Adam(0.1)
        # Only the first of these ten calls compiles; the others differ in numbers alone.
        results.append(jf.fit(parabola, samples, start, optimizer=adam, steps=1000, record=("params",), key=seed))
    first, ends = results[0], np.stack([result.params for result in results])  # [fits, 3]
    print(first)

    distances = np.abs(ends - np.array(TRUE))
    nearest, middle, farthest = np.quantile(distances, [0.0, 0.5, 1.0], axis=0)
    print("\nHow far the ten fits end from 5, 0 and 3:")
    print("           nearest    median   farthest")
    for index in range(3):
        print(f"  w[{index}]    {nearest[index]:8.1e}  {middle[index]:8.1e}   {farthest[index]:8.1e}")
    # The constant term is the last to arrive: beside 5 x^2, which reaches 500, being off by 1 hardly shows in the loss.
    # More steps, or a closed form, take it the rest of the way.

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    params_axes, loss_axes = figure.subplots(1, 2)
    for index, true in enumerate(TRUE):
        params_axes.axhline(true, color="0.7", lw=1, ls="--", zorder=0)
        params_axes.plot(first.history["params"][:, index], color=f"C{index}", label=f"w[{index}], true {true:g}")
    params_axes.set(xlabel="step", ylabel="coefficient", title="Coefficients")
    params_axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.34))
    loss_axes.plot(first.history["loss"], lw=1)
    loss_axes.set(xlabel="step", ylabel="mean squared error", title="Loss on fresh points", yscale="log")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "params": ends[0],
        "first_loss": float(first.history["loss"][0]),
        "loss": first.loss,
        "platform": jax.default_backend(),
        "distances": distances,
        "compilations": sum(result.compile_seconds > 0 for result in results),
    }


if __name__ == "__main__":
    main()
