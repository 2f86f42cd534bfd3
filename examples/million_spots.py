"""Finds a million molecules in a microscope: each is a spot of 5 x 5 pixels, and all are fitted by one call.

In localisation microscopy molecules light up a few at a time, so that each is seen alone, blurred by diffraction to a
spot that is several pixels wide. Its centre is known far better than that: with n photons, sqrt(n) times better. The
picture drawn of a million centres shows what the sum of all images, the ordinary microscope's view, cannot.

Photons are counted, so the fits are by the Poisson likelihood, and their error bars take the counting into account.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "million_spots.png"
FIELD = 48  # pixels, of 100 nm each
WALL = 0.25  # how far the labels sit from a filament's axis, in pixels
WIDTH, BACKGROUND = 1.0, 10.0
ZOOM = (21.5, 28.5, 15.5, 22.5)  # left, right, bottom, top
OFFSETS = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), axis=-1).reshape(25, 2)  # (x, y) of the pixels


def spot(params, pixels):
    """The photons expected in each pixel: a round gaussian on a background."""
    squares = (pixels[:, 0] - params["x"]) ** 2 + (pixels[:, 1] - params["y"]) ** 2
    return params["height"] * jnp.exp(-squares / (2 * params["width"] ** 2)) + params["background"]


def molecules(count: int, rng: np.random.Generator) -> np.ndarray:
    """Where they are, [count, 2] in pixels: on the walls of ten bent tubes, which look like two lines from above."""
    tubes = 10
    angle, offset = np.pi * (np.arange(tubes) + 0.5) / tubes, rng.uniform(-14, 14, tubes)
    bend, wave, phase = rng.uniform(1.5, 4, tubes), rng.uniform(0.1, 0.22, tubes), rng.uniform(0, 6, tubes)
    along, which = rng.uniform(-34, 34, 2 * count + 1000), rng.integers(tubes, size=2 * count + 1000)
    across = offset[which] + bend[which] * np.sin(wave[which] * along + phase[which])
    across += WALL * np.cos(rng.uniform(0, 2 * np.pi, along.size))
    cosine, sine = np.cos(angle[which]), np.sin(angle[which])
    places = FIELD / 2 + np.stack([along * cosine - across * sine, along * sine + across * cosine], axis=1)
    return places[((places > 2) & (places < FIELD - 3)).all(axis=1)][:count]


def photographed(places: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The photons in the 25 pixels around each molecule, float32 [count, 25], and the pixel in their middle."""
    middle = np.round(places)
    inside = (places - middle).astype(np.float32)
    heights = (50 + rng.gamma(4.0, 50.0, len(places))).astype(np.float32)
    squares = ((OFFSETS.astype(np.float32) - inside[:, None]) ** 2).sum(axis=-1)
    expected = heights[:, None] * np.exp(-squares / (2 * WIDTH**2)) + BACKGROUND
    return rng.poisson(expected).astype(np.float32), middle.astype(int)


def main(count: int = 1_000_000) -> dict[str, Any]:
    """Takes the photographs, fits them, and draws where the molecules are."""
    rng = np.random.default_rng(5)
    places = molecules(count, rng)
    photons, middle = photographed(places, rng)
    count = len(places)

    # Each fit starts from what its own pixels look like: the mean place of the light above the darkest pixel.
    darkest = photons.min(axis=1)
    light = photons - darkest[:, None]
    x, y = (light @ OFFSETS.astype(np.float32) / light.sum(axis=1, keepdims=True)).T
    start = {"height": light.max(axis=1), "x": x, "y": y, "width": 1.0, "background": darkest}
    results = jf.fit_many(
        spot, (OFFSETS.astype(np.float32), photons), start,
        loss=functools.partial(jf.losses.poisson_nll, log_input=False),
        optimizer=jf.optimizers.LevenbergMarquardt(tolerance=1e-4),
    )  # fmt: skip
    print(results)

    found = middle + np.stack([results.params["x"], results.params["y"]], axis=1)
    errors = np.stack([results.standard_errors["x"], results.standard_errors["y"]], axis=1)
    pulls = (found - places) / errors
    pace = count / results.run_seconds
    print(f"\n{pace:,.0f} fits per second, error bars included")
    median = 100 * np.median(errors)
    print(f"A spot is {100 * WIDTH:.0f} nm wide (sigma); the median error of its centre is {median:.1f} nm")
    print(f"(found - true) / error has mean {pulls.mean():+.3f} and standard deviation {pulls.std():.3f}")

    summed = np.zeros((FIELD, FIELD))
    for (right, up), values in zip(OFFSETS, photons.T - BACKGROUND, strict=True):
        np.add.at(summed, (middle[:, 1] + up, middle[:, 0] + right), values)
    fine = np.histogram2d(found[:, 1], found[:, 0], bins=8 * FIELD, range=[[-0.5, FIELD - 0.5]] * 2)[0]
    left, right, bottom, top = ZOOM
    zoomed = np.histogram2d(found[:, 1], found[:, 0], bins=140, range=[[bottom, top], [left, right]])[0]
    figure = Figure(figsize=(14.4, 4.4), layout="constrained")
    views = figure.subplot_mosaic(
        [["sum", "map", "part of sum", "pulls"], ["sum", "map", "part of map", "pulls"]],
        width_ratios=(1, 1, 0.48, 0.75),
    )
    extent = (-0.05, FIELD / 10 - 0.05, -0.05, FIELD / 10 - 0.05)  # µm
    frame = (left / 10, right / 10, bottom / 10, top / 10)
    titles = {"sum": "The sum of all images", "map": f"{count:,} fitted centres"}
    for name, whole, part, place in (("sum", summed, summed, extent), ("map", fine, zoomed, frame)):
        axes, small = views[name], views[f"part of {name}"]
        axes.imshow(whole, "inferno", origin="lower", extent=extent, vmax=np.quantile(whole[whole > 0], 0.98))
        axes.set(xlabel="x (µm)", ylabel="y (µm)", title=titles[name])
        axes.indicate_inset((frame[0], frame[2], 0.7, 0.7), edgecolor="w", alpha=1)
        small.imshow(part, "inferno", origin="lower", extent=place, vmax=np.quantile(part[part > 0], 0.98))
        small.set(xlim=frame[:2], ylim=frame[2:], xticks=[], yticks=[])
    views["part of sum"].set_title("The square")
    bins = np.linspace(-4, 4, 81 if count > 100_000 else 41)
    views["pulls"].hist(
        pulls.ravel(), bins.tolist(), density=True, histtype="step", color="C1", lw=1.5, label="(found - true) / error"
    )
    views["pulls"].plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), "k--", lw=1, label="standard normal")
    views["pulls"].set(xlabel="standard errors", ylabel="density", ylim=(0, 0.5), title="The error bars are right")
    views["pulls"].legend(loc="upper center", frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "places": places,
        "found": found,
        "errors": errors,
        "pulls": pulls,
        "photons": photons,
        "params": results.params,
        "success": results.success,
        "pace": pace,
    }


if __name__ == "__main__":
    main()
