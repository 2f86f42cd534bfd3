"""Fits two data sets at once, of different lengths, that share a param.

Two samples of one substance decay with the same rate; each has its own amplitude and its own background. x and y are
dicts of arrays, and the model is a function like any other: what it uses twice is shared.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "global_fit.png"
TRUE = {"rate": 0.4, "strong": {"amplitude": 8.0, "background": 1.0}, "weak": {"amplitude": 3.0, "background": 0.5}}
SIGMA = {"strong": 0.15, "weak": 0.1}  # the standard deviation of a point of each


def decay(own, rate, t):
    """One sample."""
    return own["amplitude"] * jnp.exp(-rate * t) + own["background"]


def both(params, t):
    """Both samples, a dict of predictions like that of the data."""
    return {name: decay(params[name], params["rate"], t[name]) for name in t}


def alone(params, t):
    """One sample with a rate of its own."""
    return decay(params, params["rate"], t)


def main() -> dict[str, Any]:
    """Fits together and apart, and compares the rates."""
    rng = np.random.default_rng(2)
    t = {"strong": np.linspace(0.0, 6.0, 25), "weak": np.linspace(0.0, 12.0, 40)}
    y = {name: np.asarray(decay(TRUE[name], TRUE["rate"], t[name])) for name in t}
    y = {name: y[name] + SIGMA[name] * rng.normal(size=y[name].size) for name in y}

    start = {"amplitude": 1.0, "background": 0.0}
    together = jf.fit(
        both, (t, y), {"rate": 1.0, "strong": start, "weak": start}, sigma=SIGMA, absolute_sigma=True
    )  # fmt: skip
    apart = {
        name: jf.fit(alone, (t[name], y[name]), {"rate": 1.0, **start}, sigma=SIGMA[name], absolute_sigma=True)
        for name in t
    }
    print(together)

    rates = {name: (float(fit.params["rate"]), float(fit.standard_errors["rate"])) for name, fit in apart.items()}
    rates["together"] = (float(together.params["rate"]), float(together.standard_errors["rate"]))
    print(f"\nThe rate, {TRUE['rate']} in truth")
    for name, (rate, error) in rates.items():
        print(f"  {name:8}   {rate:.4f} ± {error:.4f}")
    # Independent results combine with the weights 1 / error**2. The global fit does the same without being told, and
    # for all params at once; here the rates are all that ties the samples together.
    weights = 1 / np.array([error for _, error in rates.values()])[:2] ** 2
    mean = float(np.average([rate for rate, _ in rates.values()][:2], weights=weights))
    print(f"  the weighted mean of the first two is {mean:.4f} ± {weights.sum() ** -0.5:.4f}")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes, errors = figure.subplots(1, 2, width_ratios=(3, 2))
    fine = {name: np.linspace(0.0, t[name].max(), 200) for name in t}
    curves, (lower, upper) = together.predict(fine), together.confidence_band(fine)
    for color, name in zip(("C0", "C1"), t, strict=True):
        axes.errorbar(t[name], y[name], SIGMA[name], fmt="o", ms=4, alpha=0.7, color=color, label=name)
        axes.plot(fine[name], curves[name], color=color)
        axes.fill_between(fine[name], lower[name], upper[name], color=color, alpha=0.3, lw=0)
    axes.set(xlabel="time", ylabel="signal", title="Two samples, one rate")
    axes.legend()
    for row, (rate, error) in enumerate(rates.values()):
        errors.errorbar(rate, row, xerr=error, fmt="o", capsize=4, color=("C0", "C1", "k")[row])
    errors.axvline(TRUE["rate"], color="0.7", ls="--", zorder=0)
    errors.set_yticks(range(3), list(rates))
    errors.set(xlabel="rate ± standard error", title="The rate", ylim=(2.5, -0.5))
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"t": t, "y": y, "params": together.params, "errors": together.standard_errors, "rates": rates}


if __name__ == "__main__":
    main()
