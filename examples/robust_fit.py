"""Fits a curve through data with outliers: by squared errors, which they pull away, and by Huber's loss.

Squared errors take every point for one with normal errors, so a point ten sigma away weighs like a hundred good ones.
Huber's loss is the squared error for errors up to delta, and grows only in proportion beyond.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "robust_fit.png"
TRUE = {"amplitude": 4.0, "rate": 0.6, "offset": 1.0}
SIGMA = 0.15


def decay(params, t):
    """An exponential decay."""
    return params["amplitude"] * jnp.exp(-params["rate"] * t) + params["offset"]


def measured() -> tuple[Any, Any, Any]:
    """Forty points with normal errors, of which every seventh was disturbed: t, y, and which were."""
    rng = np.random.default_rng(3)
    t = np.linspace(0.0, 8.0, 40)
    y = np.asarray(decay(TRUE, t)) + SIGMA * rng.normal(size=40)
    disturbed = np.arange(40) % 7 == 5
    return t, y + disturbed * rng.uniform(1.0, 3.0, 40), disturbed


def main() -> dict[str, Any]:
    """Fits by both losses, and by squared errors without the outliers, which only we know."""
    t, y, disturbed = measured()
    start = {"amplitude": 1.0, "rate": 1.0, "offset": 0.0}
    # With sigma, residuals are in units of sigma, and so is delta: 1.35 costs 5 % of efficiency where all is normal.
    huber = functools.partial(jf.losses.huber, delta=1.35)
    fits = {
        "squared errors": jf.fit(decay, (t, y), start, sigma=SIGMA),
        "huber": jf.fit(decay, (t, y), start, loss=huber, sigma=SIGMA),
        "without outliers": jf.fit(decay, (t[~disturbed], y[~disturbed]), start, sigma=SIGMA),
    }
    print(fits["huber"])

    rows = {"": TRUE, "truth": {name: f"{value:.3f}" for name, value in TRUE.items()}}
    for name, result in fits.items():
        rows[name] = {of: f"{result.params[of]:.3f} ± {result.standard_errors[of]:.3f}" for of in TRUE}
    print()
    for name, row in rows.items():
        print(f"  {name:16}   " + "   ".join(f"{cell:<13}" for cell in (row.values() if name else row)).rstrip())
    reduced = fits["squared errors"].reduced_chi_squared
    print(f"\nThe reduced chi squared of the first, {reduced:.0f}, says that something is wrong; huber says where:")
    far = np.abs(fits["huber"].residuals) > 5 * SIGMA
    print(f"{far.sum()} points lie more than 5 sigma away, and {disturbed.sum()} were disturbed.")

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    fine = np.linspace(0.0, 8.0, 200)
    axes.errorbar(t, y, SIGMA, fmt="o", ms=4, alpha=0.7, color="C0", label="data")
    axes.plot(t[far], y[far], "o", ms=11, mfc="none", color="0.4", label="beyond 5 sigma of huber")
    axes.plot(fine, decay(TRUE, fine), "k--", lw=1, label="truth")
    for color, name in (("C3", "squared errors"), ("C2", "huber")):
        axes.plot(fine, fits[name].predict(fine), color=color, label=name)
    axes.set(xlabel="time", ylabel="signal", title="A decay with outliers")
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "t": t,
        "y": y,
        "disturbed": disturbed,
        "far": far,
        "params": {name: result.params for name, result in fits.items()},
        "errors": {name: result.standard_errors for name, result in fits.items()},
    }


if __name__ == "__main__":
    main()
