"""Bounds and fixed params: what one knows beforehand, and how the report shows it.

Silver that was exposed to neutrons is a classic of the students' laboratory: two isotopes decay side by side, with
half-lives of 24.6 s and 143 s. The counts here are simulated, in intervals of 10 s, with no background; the fits are
not told so. They may know that no background is negative, and the longer half-life from a table.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "bounds_and_fixed.png"
TRUE = {"short": {"counts": 900.0, "half_life": 24.6}, "long": {"counts": 150.0, "half_life": 143.0}, "background": 0.0}
START = {"short": {"counts": 500.0, "half_life": 30.0}, "long": {"counts": 99.0, "half_life": 143.0}, "background": 1.0}
NOT_NEGATIVE = ({"background": 0.0}, None)  # lower bounds and upper ones; what is not named has none
KNOWN = {
    "nothing": {},
    "background >= 0": {"bounds": NOT_NEGATIVE},
    "long half-life too": {"bounds": NOT_NEGATIVE, "fixed": "long.half_life"},
}


def isotope(params, t):
    """Counts of one isotope in an interval at the time t."""
    return params["counts"] * jnp.exp2(-t / params["half_life"])


def expected(params, t):
    """Counts of both isotopes and the background."""
    return isotope(params["short"], t) + isotope(params["long"], t) + params["background"]


def shown(value, error, active) -> str:
    """A fitted number with its error or with what holds it."""
    return (
        f"{value:.1f}, at bound"
        if active
        else f"{value:.1f}, fixed"
        if np.isnan(error)
        else f"{value:.1f} ± {error:.1f}"
    )


def main() -> dict[str, Any]:
    """Fits three times, with more and more known."""
    t = np.arange(5.0, 600.0, 10.0)
    y = np.random.default_rng(1).poisson(expected(TRUE, t)).astype(float)
    likelihood = functools.partial(jf.losses.poisson_nll, log_input=False)  # the model is the count, not its logarithm
    fits = {name: jf.fit(expected, (t, y), START, loss=likelihood, **known) for name, known in KNOWN.items()}
    print(fits["long half-life too"])

    print(f"\n  {'known':18}   {'background':>13}   {'half-lives: short':>17}   {'long':>12}")
    for name, result in fits.items():
        triples = result.params, result.standard_errors, result.active
        background = shown(*(tree["background"] for tree in triples))
        short, long = (shown(*(tree[which]["half_life"] for tree in triples)) for which in ("short", "long"))
        print(f"  {name:18}   {background:>13}   {short:>17}   {long:>12}")
    # A param at its bound has no error to both sides; its profile still says how large it may be.
    _, upper = fits["background >= 0"].confidence_intervals(0.95, method="profile")
    print(f"\nThe background is at most {upper['background']:.1f} counts in an interval: the end of its 95 % profile.")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = fits["long half-life too"]
    left.plot(t, y, "o", ms=4, alpha=0.7, mew=0, label="counts")
    left.plot(t, best.predict(t), "C1", label="fit")
    left.plot(t, isotope(best.params["short"], t), "C2--", lw=1, label="short")
    left.plot(t, isotope(best.params["long"], t), "C3--", lw=1, label="long")
    left.set(xlabel="time (s)", ylabel="counts in 10 s", yscale="log", ylim=(3, 1500), title="Two isotopes of silver")
    left.legend(ncols=2)
    for row, result in enumerate(fits.values()):
        half_life, error = (tree["short"]["half_life"] for tree in (result.params, result.standard_errors))
        right.errorbar(half_life, row, xerr=error, fmt="o", capsize=4, color="C2")
    right.axvline(TRUE["short"]["half_life"], color="0.7", ls="--", zorder=0)
    right.set_yticks(range(3), list(fits))
    right.set(xlabel="half-life ± standard error (s)", ylim=(2.5, -0.5), title="The short half-life, by what is known")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "t": t,
        "y": y,
        "params": {name: result.params for name, result in fits.items()},
        "errors": {name: result.standard_errors for name, result in fits.items()},
        "active": {name: result.active for name, result in fits.items()},
        "limit": float(upper["background"]),
    }


if __name__ == "__main__":
    main()
