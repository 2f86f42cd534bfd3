"""Lets twelve networks say together how far they are to be trusted: where there were no data, they disagree.

One network gives one curve, just as sure of itself far from all data as among them. An ensemble of networks that
differ only in where they started agrees on what the data say, and spreads out in the gap between them and beyond. What
their spread does not tell is what they have in common: the noise of the data, which all of them have seen.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "ensemble_band.png"
MEMBERS = 12
NOISE = 0.15
PARTS = ((-4.0, -1.2), (1.4, 4.0))  # where there are data


def truth(x):
    """What the networks are to learn."""
    return np.sin(1.6 * x) + 0.25 * x


def make(rngs):
    """A small network, with params drawn from its seed."""
    first, second, third = (nn.Linear(*sizes, rngs=rngs) for sizes in ((1, 32), (32, 32), (32, 1)))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def main() -> dict[str, Any]:
    """Trains the ensemble and draws its band."""
    rng = np.random.default_rng(1)
    x = np.sort(np.concatenate([rng.uniform(*part, 50) for part in PARTS])).astype(np.float32)
    y = (truth(x) + NOISE * rng.normal(size=x.size)).astype(np.float32)
    results = jf.ensemble(
        make, (x[:, None], y[:, None]), members=MEMBERS, optimizer=jf.optimizers.Adam(0.01), steps=600,
    )  # fmt: skip

    fine = np.linspace(-5.5, 5.5, 441, dtype=np.float32)
    curves = results.predict(fine[:, None])[..., 0]
    mean, deviation = (of[:, 0] for of in results.spread(fine[:, None]))
    (a, b), (c, d) = PARTS
    places = {
        "among the data": ((fine > a) & (fine < b)) | ((fine > c) & (fine < d)),
        "in the gap": (fine > b) & (fine < c),
        "beyond them": (fine < a) | (fine > d),
    }
    loss = np.sqrt(results.loss)
    print(f"{MEMBERS} networks of {sum(leaf.size for leaf in nn.parameters(results[0].model).values()):,} parameters")
    print(f"{results.steps[0]} steps each, {results.run_seconds:.2f} s for all")
    print(f"They miss the data by {loss.min():.3f} to {loss.max():.3f}; the noise is {NOISE}\n")
    print("                   spread of the networks   error of their mean")
    rows = {}
    for name, here in places.items():
        spread, error = np.sqrt(np.mean(deviation[here] ** 2)), np.sqrt(np.mean((mean - truth(fine))[here] ** 2))
        rows[name] = (float(spread), float(error))
        print(f"  {name:14}   {spread:22.3f}   {error:19.3f}")

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(2.6, 1), sharex=True)
    for one in (axes, below):
        for part in PARTS:
            one.axvspan(*part, color="0.94", lw=0, zorder=0)
    for curve in curves:
        axes.plot(fine, curve, color="C0", lw=0.6, alpha=0.6)
    axes.fill_between(
        fine, mean - 2 * deviation, mean + 2 * deviation, color="C0", alpha=0.2, lw=0, label="± 2 deviations"
    )
    axes.plot(fine, mean, color="C0", lw=2, label=f"mean of {MEMBERS} networks")
    axes.plot(fine, truth(fine), "k--", lw=1, label="truth")
    axes.plot(x, y, "o", ms=3.5, color="C1", label="data")
    axes.set(ylabel="y", ylim=(-4, 4), title="Networks that agree where there are data")
    axes.legend(loc="upper center", ncols=4, frameon=False)
    below.semilogy(fine, deviation, color="C0")
    below.axhline(NOISE, color="C1", lw=1, ls="--")
    below.annotate("noise of the data", (0.1, NOISE), (0, -12), textcoords="offset points", color="C1", ha="center")
    below.set(xlabel="x", ylabel="deviation", xlim=(-5.5, 5.5), ylim=(5e-3, 2), yticks=[0.01, 0.1, 1])
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "x": x,
        "y": y,
        "fine": fine,
        "curves": curves,
        "mean": mean,
        "deviation": deviation,
        "places": places,
        "rows": rows,
        "losses": results.loss,
    }


if __name__ == "__main__":
    main()
