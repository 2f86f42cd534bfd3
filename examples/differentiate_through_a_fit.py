"""Differentiates through a fit, and maps one over a thousand curves.

Inside a function that JAX transforms, a fit is an operation like any other. `jax.grad` of a fitted param with respect
to the data says how much each point pulls at it; `jax.vmap` repeats the experiment a thousand times in one program.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "differentiate_through_a_fit.png"
TRUE = {"amplitude": 3.0, "rate": 0.7, "offset": 0.5}
SIGMA = 0.1
T = jnp.linspace(0.0, 8.0, 33)


def decay(params, t):
    """An exponential decay."""
    return params["amplitude"] * jnp.exp(-params["rate"] * t) + params["offset"]


def fit(y):
    """The fit of one curve, y [33]."""
    start = {"amplitude": 1.0, "rate": 1.0, "offset": 0.0}
    return jf.fit(decay, (T, y), start, sigma=SIGMA, absolute_sigma=True)


def fitted_rate(y):
    """The decay rate as a function of the data."""
    return fit(y).params["rate"]


def main() -> dict[str, Any]:
    """Finds the influence of each point, and the scatter of repeated experiments."""
    curves = decay(TRUE, T) + SIGMA * jax.random.normal(jax.random.key(0), (1000, T.size))
    y = curves[0]
    result = fit(y)
    rate, error = float(result.params["rate"]), float(result.standard_errors["rate"])
    print(f"The rate of the first curve: {rate:.4f} ± {error:.4f}, in truth {TRUE['rate']}")

    # Through the equation that the fit solves, not through its steps: exact, and no dearer than one step.
    influence = np.asarray(jax.jit(jax.grad(fitted_rate))(y))
    print("\nHow the rate moves when one point moves up by one sigma")
    for index in (0, int(influence.argmin()), len(T) - 1):
        moved = float(fitted_rate(y.at[index].add(SIGMA))) - rate
        by_gradient = SIGMA * float(influence[index])
        print(f"  t = {T[index]:.1f}: by {by_gradient:+.4f} from the gradient, {moved:+.4f} by fitting again")
    propagated = float(SIGMA * np.sqrt(np.sum(influence**2)))
    # The error bar leaves out how the residuals bend the curve; where a fit goes through all points, the two are equal.
    print(f"All of them, each by chance by its sigma, move it by {propagated:.4f}; the error bar says {error:.4f}.")

    rates = np.asarray(jax.jit(jax.vmap(fitted_rate))(curves))
    print(f"\nA thousand experiments: rates {rates.mean():.4f} on average, scattered by {rates.std():.4f}")

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplot_mosaic([["curve", "scatter"], ["influence", "scatter"]], height_ratios=(2, 1))
    axes["curve"].errorbar(T, y, SIGMA, fmt="o", ms=4, alpha=0.7, label="data")
    axes["curve"].plot(T, result.predict(T), "C1", label="fit")
    axes["curve"].set(ylabel="signal", title="A curve, and what each point does to its rate")
    axes["curve"].legend()
    axes["influence"].bar(T, SIGMA * influence, width=0.18, color=np.where(influence > 0, "C2", "C3"))
    axes["influence"].axhline(0, color="k", lw=0.8)
    axes["influence"].set(xlabel="time", ylabel="change of rate\nper sigma", xlim=axes["curve"].get_xlim())
    axes["scatter"].hist(rates, bins=30, density=True, color="C0", alpha=0.6, label="fits of 1,000 curves")
    around = np.linspace(rates.min(), rates.max(), 200)
    normal = np.exp(-0.5 * ((around - TRUE["rate"]) / error) ** 2) / (error * np.sqrt(2 * np.pi))
    axes["scatter"].plot(around, normal, "C1", label="by the error bar of one fit")
    axes["scatter"].set(xlabel="rate", ylabel="density", title="A thousand experiments", ylim=(0, 15))
    axes["scatter"].legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "t": np.asarray(T),
        "curves": np.asarray(curves),
        "rate": rate,
        "error": error,
        "influence": influence,
        "propagated": propagated,
        "rates": rates,
    }


if __name__ == "__main__":
    main()
