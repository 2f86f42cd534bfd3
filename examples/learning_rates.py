"""Tries 64 learning rates with and without momentum, three times each: 384 trainings at once.

Too small a rate learns nothing in the time there is, too large a one blows up, and the best lies not far below those
that do. Momentum of 0.9 adds up ten steps, so that with it a tenth of the rate learns as much.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "learning_rates.png"
MOMENTA = (0.9, 0.0)
KEYS = (0, 1, 2)  # of the order in which the samples come
NOISE = 0.1


def surface(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a square and the noisy heights of a surface above them."""
    x = rng.uniform(-1.0, 1.0, (count, 2)).astype(np.float32)
    heights = np.sin(3 * x[:, :1]) * np.cos(2 * x[:, 1:])
    return x, heights + NOISE * rng.normal(size=(count, 1)).astype(np.float32)


def main(count: int = 64) -> dict[str, Any]:
    """Trains with all of them, and draws how well each did."""
    rates = np.geomspace(1e-4, 10.0, count)
    rng = np.random.default_rng(0)
    data, held_out = surface(rng, 256), surface(rng, 256)
    rngs = nn.Rngs(0)
    net = nn.Sequential(nn.Linear(2, 32, rngs=rngs), nn.ReLU(), nn.Linear(32, 1, rngs=rngs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)  # it says that some diverged, as they are to
        results = jf.sweep(
            net, data, grid={"momentum": MOMENTA, "learning_rate": rates, "key": KEYS},
            optimizer=jf.optimizers.SGD(0.1, momentum=0.9), steps=300, batch_size=32, validation=held_out,
        )  # fmt: skip
    print(f"{len(results)} trainings of {results.steps.max()} steps in {results.run_seconds:.2f} s")

    # One that does worse than the mean of the heights, or ended in infinities, is not worth its place in the picture.
    scores = results.scores.reshape(len(MOMENTA), len(rates), len(KEYS))
    mean = float(np.mean((held_out[1] - data[1].mean()) ** 2))
    diverged = ~(scores < 1.2 * mean)
    print(f"The noise alone has a loss of {NOISE**2:.3f}; to say the mean of all heights, one of {mean:.3f}\n")
    print("  momentum   best rate   its validation loss   lowest rate that diverged")
    best, first = {}, {}
    medians = np.median(np.where(diverged, np.inf, scores), axis=2)
    for momentum, row, lost in zip(MOMENTA, medians, diverged, strict=True):
        best[momentum] = (float(rates[row.argmin()]), float(row.min()))
        first[momentum] = float(rates[lost.any(axis=1).argmax()])
        rate, loss = best[momentum]
        print(f"  {momentum:8}   {rate:9.3f}   {loss:19.4f}   {first[momentum]:25.3f}")
    winner = {name: values[results.order[0]].item() for name, values in results.settings.items()}
    print(f"\nThe best of all: rate {winner['learning_rate']:.3f}, momentum {winner['momentum']}, key {winner['key']}")
    print(f"{diverged.sum()} trainings diverged.")

    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    top = 2 * mean
    for number, momentum in enumerate(MOMENTA):
        color, dots = f"C{number}", ~diverged[number]
        places = np.broadcast_to(rates[:, None], dots.shape)
        axes.loglog(places[dots], scores[number][dots], ".", ms=4, color=color, alpha=0.5)
        axes.loglog(rates, np.where(diverged[number].any(axis=1), np.nan, medians[number]), color=color, lw=1.5)
        axes.plot(places[~dots], np.full((~dots).sum(), top * 1.18**number), "x", ms=4, color=color)
        rate, loss = best[momentum]
        label = f"momentum {momentum}: best at {rate:.2g}"
        axes.plot(rate, loss, "*", ms=14, color=color, mec="k", mew=0.6, label=label, zorder=3)
    axes.annotate("diverged", (rates[0], top), fontsize=10, color="0.3")
    axes.axhline(mean, color="0.6", lw=1, ls="--", zorder=0)
    axes.annotate("the mean of all", (rates[-1], mean), (0, -11), textcoords="offset points", color="0.4", ha="right")
    axes.axhline(NOISE**2, color="0.6", lw=1, ls=":", zorder=0)
    axes.annotate("noise", (rates[0], NOISE**2), (0, 3), textcoords="offset points", color="0.4")
    axes.set(xlabel="learning rate", ylabel="validation loss", title=f"{len(results)} trainings of one network")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.1), frameon=False)
    axes.set_ylim(0.0085, 3 * mean)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "scores": scores,
        "diverged": diverged,
        "mean": mean,
        "best": best,
        "first": first,
        "winner": winner,
        "order": results.order,
    }


if __name__ == "__main__":
    main()
