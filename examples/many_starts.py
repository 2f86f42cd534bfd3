"""Finds the period of a planet where a fit from one start ends in a wrong one: by fits from 256 starts at once.

A star with a planet moves to and fro, and the nights on which its speed was measured are few and far apart. Waves of
many periods come near the points, and each of them is a minimum of the loss with a valley of its own: where a fit ends
is a matter of where it starts. So it starts everywhere.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "many_starts.png"
TRUE = {"period": 17.3, "sine": 38.0, "cosine": -27.0, "mean": 12.0}  # days; the rest in m/s
SIGMA = 6.0
LIMITS = (
    {"period": 5.0, "sine": -100.0, "cosine": -100.0, "mean": -100.0},
    {"period": 60.0, "sine": 100.0, "cosine": 100.0, "mean": 100.0},
)


def speed(params, t):
    """The speed of a star with a planet on a circular orbit."""
    phase = 2 * jnp.pi * t / params["period"]
    return params["sine"] * jnp.sin(phase) + params["cosine"] * jnp.cos(phase) + params["mean"]


def measured() -> tuple[Any, Any]:
    """Twenty-four nights in two seasons of six weeks: t in days, and the speed."""
    rng = np.random.default_rng(3)
    t = np.sort(np.concatenate([rng.uniform(0, 42, 12), rng.uniform(85, 127, 12)]))
    return t, np.asarray(speed(TRUE, t)) + SIGMA * rng.normal(size=t.size)


def main() -> dict[str, Any]:
    """Fits from one start and from many, and draws what they found."""
    t, y = measured()
    start = {"period": 30.0, "sine": 40.0, "cosine": 0.0, "mean": 0.0}  # a month, say
    known = {"sigma": SIGMA, "absolute_sigma": True, "bounds": LIMITS}
    results = jf.multistart(speed, (t, y), start, starts=256, **known)
    best, single = results.best, results[0]  # the first start is ours: this is what `fit` alone comes to
    print(best)

    print("\n                  period (days)   chi squared at 20 degrees of freedom")
    for name, fit in (("from one start", single), ("the best of 256", best)):
        period, error = fit.params["period"], fit.standard_errors["period"]
        print(f"  {name:15}   {period:6.2f} ± {error:.2f}   {fit.chi_squared:9.1f}")
    ranked = results.chi_squared[results.order]
    periods = results.params["period"][results.order]
    hits = int((ranked < ranked[0] * 1.001).sum())
    minima = 1 + int((np.diff(ranked) > 1e-3 * ranked[:-1]).sum())
    print(f"\n{hits} of the 256 starts led there, the others to {minima - 1} other minima.")

    figure = Figure(figsize=(11.4, 4.0), layout="constrained")
    axes, ranks = figure.subplots(1, 2, width_ratios=(1.7, 1))
    fine = np.linspace(-3.0, 130.0, 800)
    axes.errorbar(t, y, SIGMA, fmt="o", ms=4, color="k", lw=1, label="measured", zorder=3)
    for color, name, fit in (("C3", "from one start", single), ("C2", "from 256 starts", best)):
        axes.plot(fine, fit.predict(fine), color=color, label=f"{name}: {fit.params['period']:.1f} days")
    axes.set(xlabel="time (days)", ylabel="speed of the star (m/s)", title="One planet, two answers", ylim=(-60, 95))
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=9)
    dots = ranks.scatter(np.arange(1, 257), ranked, c=periods, s=12, cmap="viridis", vmin=5, vmax=60)
    figure.colorbar(dots, ax=ranks, label="period found (days)")
    ranks.axhline(single.chi_squared, color="C3", lw=1, zorder=0)
    ranks.annotate("from one start", (1, single.chi_squared), (0, 4), textcoords="offset points", color="C3")
    ranks.annotate(
        f"the true minimum: {hits} starts", (hits, ranked[0]), (8, -3), textcoords="offset points", color="C2"
    )
    ranks.set(yscale="log", xlabel="rank of the start", ylabel="chi squared", title="Where 256 starts ended")
    ranks.set_yticks([20, 50, 100, 200, 500, 1000], ["20", "50", "100", "200", "500", "1000"])
    ranks.minorticks_off()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "t": t,
        "y": y,
        "single": (single.params, float(single.chi_squared)),
        "best": (best.params, best.standard_errors, float(best.chi_squared)),
        "ranked": ranked,
        "periods": periods,
        "hits": hits,
    }


if __name__ == "__main__":
    main()
