"""Maps a relaxation time, T2, as magnetic resonance imaging does: one exponential decay per pixel, all fitted at once.

The scanner takes the same slice at 16 echo times. The signal of a pixel decays from one to the next, in watery tissue
more slowly than in fatty tissue. A map of the decay times tells tissues apart whatever the brightness of the image,
which also depends on where the coil is; and each time has its error bar.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "relaxation_map.png"
SIDE = 128
ECHOES = np.arange(10.0, 161.0, 10.0)  # ms
SIGMA = 0.02
TISSUES = {"white matter": 70.0, "grey matter": 95.0, "lesion": 140.0, "fluid": 220.0}  # T2 in ms


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """A slice through a make-believe head: the tissue of each pixel by its number, -1 for air, and the brightness."""
    y, x = np.mgrid[1 : -1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    radius, angle = np.hypot(x / 0.78, y / 0.94), np.arctan2(y / 0.94, x / 0.78)
    folds = 0.04 * np.sin(11 * angle + 0.8) + 0.03 * np.cos(17 * angle)
    tissue = np.full((SIDE, SIDE), -1)
    tissue[radius < 1] = 3
    tissue[radius < 0.9 + 0.5 * folds] = 1
    tissue[radius < 0.7 + folds] = 0
    for side in (-1, 1):
        across, along = x - side * (0.13 + 0.25 * (y - 0.05) ** 2), y - 0.05
        tissue[(across / 0.075) ** 2 + (along / 0.34) ** 2 < 1] = 3  # the ventricles
        tissue[np.hypot((x - side * 0.3) / 0.09, (y + 0.05) / 0.17) < 1] = 1
    tissue[np.hypot(x + 0.33, y - 0.42) < 0.09] = 2
    density = np.choose(tissue + 1, [0.0, 0.7, 0.8, 0.85, 1.0])
    return tissue, density * np.exp(-0.3 * (x + 0.5) ** 2 - 0.2 * (y - 0.6) ** 2)


def main() -> dict[str, Any]:
    """Makes the images, fits every pixel of the head, and draws the map."""
    rng = np.random.default_rng(2)
    tissue, brightness = phantom()
    times = np.array(list(TISSUES.values()))
    true = np.where(tissue < 0, np.nan, times[tissue])
    images = brightness[..., None] * np.exp(-ECHOES / np.nan_to_num(true, nan=1.0)[..., None])
    images += SIGMA * rng.normal(size=images.shape)  # [SIDE, SIDE, echoes]

    # Air gives no signal, and nothing to fit. The noise is known from there.
    head = tissue >= 0
    noise = images[~head].std()
    signals = images[head]
    results = jf.fit_many(
        jf.models.exponential, (ECHOES, signals), {"amplitude": 1.0, "decay": 100.0},
        sigma=noise, absolute_sigma=True,
    )  # fmt: skip
    print(results)

    t2, errors = results.params["decay"], results.standard_errors["decay"]
    pulls = (t2 - true[head]) / errors
    print("\n                 pixels   true T2   median of fits (ms)   scatter   mean error")
    regions = {}
    for number, (name, time) in enumerate(TISSUES.items()):
        here = tissue[head] == number
        # Fits err a little more upwards than downwards, as the errors grow with the time: the median does not mind.
        median, scatter = np.median(t2[here]), t2[here].std()
        error = np.sqrt(np.pi / 2 * np.mean(errors[here] ** 2) / here.sum())
        regions[name] = {"median": float(median), "error": float(error), "pulls": pulls[here]}
        known = f"{median:8.2f} ± {error:.2f}"
        print(f"  {name:13}   {here.sum():5}   {time:7.0f}   {known:19}   {scatter:7.2f}   {errors[here].mean():10.2f}")
    print(f"\n(found - true) / error has standard deviation {pulls.std():.3f} over {pulls.size:,} pixels")

    figure = Figure(figsize=(13.2, 3.6), layout="constrained")
    first, second, third, fourth = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.1))
    maps = [np.full((SIDE, SIDE), np.nan) for _ in range(2)]
    maps[0][head], maps[1][head] = t2, errors
    colors = {"cmap": "viridis", "vmin": 50, "vmax": 250}
    first.imshow(true, **colors)
    image = second.imshow(maps[0], **colors)
    figure.colorbar(image, ax=[first, second], label="T2 (ms)", shrink=0.9, extend="both")
    image = third.imshow(maps[1], cmap="magma", vmin=0, vmax=np.quantile(errors, 0.99))
    figure.colorbar(image, ax=third, label="standard error (ms)", shrink=0.9, extend="max")
    for axes, title in ((first, "True T2"), (second, f"{len(results):,} fits"), (third, "Their standard errors")):
        axes.set_title(title)
        axes.axis("off")
        axes.set(xlim=(12, 115), ylim=(124, 3))
    fine = np.linspace(0.0, ECHOES[-1], 100)
    for number, name in ((0, "white matter"), (2, "lesion"), (3, "fluid")):
        index = np.flatnonzero(tissue[head] == number)[-1 if number == 3 else 40]
        color = f"C{number}"
        fourth.errorbar(ECHOES, signals[index], noise, fmt="o", ms=3.5, lw=1, color=color)
        label = f"{name}: {t2[index]:.0f} ± {errors[index]:.0f} ms"
        fourth.plot(fine, results[index].predict(fine), color=color, label=label)
    fourth.set(xlabel="echo time (ms)", ylabel="signal", ylim=(0, 1.25), title="Three of the pixels")
    fourth.legend(frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "t2": t2,
        "errors": errors,
        "true": true[head],
        "noise": noise,
        "signals": signals,
        "params": results.params,
        "regions": regions,
        "success": results.success,
    }


if __name__ == "__main__":
    main()
