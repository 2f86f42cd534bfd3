"""Fits two overlapping peaks on a background, with error bars in every sense, and compares with certified values.

Named curves add up. Their starting values come from the data; where two peaks look like one, you say what you see.

The data are NIST's problem Gauss3: 250 points with noise, as a spectrometer counts them, for which NIST has certified
the params of the fit and their standard errors. NIST writes a peak as exp(-(x - b4)**2 / b5**2) and the background as
exp(-b2 * x); the curves here have sigma = b5 / sqrt(2) and decay = 1 / b2.
"""

from pathlib import Path
from typing import Any

import numpy as np

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "peak_with_error_bars.png"
DATA = Path(__file__).parents[1] / "tests" / "data" / "nist" / "Gauss3.dat"
ROOT = 2**0.5
CERTIFIED = {  # value and standard error
    "background": {
        "amplitude": (98.940368970, 0.53005192833),
        "decay": (1 / 0.010945879335, 1.2554058911e-4 / 0.010945879335**2),
    },
    "first": {
        "height": (100.69553078, 0.81256587317),
        "center": (111.63619459, 0.35317859757),
        "sigma": (23.300500029 / ROOT, 0.36584783023 / ROOT),
    },
    "second": {
        "height": (73.705031418, 1.2091239082),
        "center": (147.76164251, 0.40488183351),
        "sigma": (19.668221230 / ROOT, 0.37806634336 / ROOT),
    },
}


def main() -> dict[str, Any]:
    """Fits, compares, draws."""
    y, x = np.loadtxt(DATA, skiprows=60, unpack=True)
    peak, background = jf.models.gaussian, jf.models.exponential.named("background")
    model = peak.named("first") + peak.named("second") + background
    start = model.guess(x, y)
    start["first"] = {"height": 100.0, "center": 110.0, "sigma": 15.0}  # as one reads them off the picture
    start["second"] = {"height": 70.0, "center": 150.0, "sigma": 15.0}
    result = jf.fit(model, (x, y), start)
    print(result)

    # Wald: value -+ 1.97 standard errors. Profile: all values with which the rest can still be fitted well enough.
    errors, (wald_low, wald_high) = result.standard_errors, result.confidence_intervals(0.95)
    low, high = result.confidence_intervals(0.95, method="profile")
    print("\n                         certified       95 % by Wald      95 % by profile   digits as certified")
    digits = {}
    for part, params in CERTIFIED.items():
        for name, certified in params.items():
            ratios = np.array([result.params[part][name], errors[part][name]]) / certified
            agree = digits[f"{part}.{name}"] = float(-np.log10(np.abs(ratios - 1).max()))
            wald = f"{wald_low[part][name]:6.2f} to {wald_high[part][name]:6.2f}"
            profile = f"{low[part][name]:6.2f} to {high[part][name]:6.2f}"
            known = f"{certified[0]:7.2f} ± {certified[1]:.2f}"
            print(f"  {part + '.' + name:20}   {known}   {wald}   {profile}   {agree:.1f}")

    PICTURE.parent.mkdir(exist_ok=True)
    figure = result.plot()  # a matplotlib figure like any other: the parts of the sum are drawn into it
    axes = figure.axes[0]
    for color, (name, part) in zip(("C2", "C3", "0.4"), model.parts.items(), strict=True):
        axes.plot(x, part(result.params[name], x), "--", color=color, lw=1.2, label=name)
    axes.set(title="Gauss3: two peaks on a background")
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "params": result.params,
        "errors": errors,
        "digits": digits,
        "wald": (wald_low, wald_high),
        "profile": (low, high),
        "correlation": result.correlation,
    }


if __name__ == "__main__":
    main()
