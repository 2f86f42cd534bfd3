"""Poisson regression: the counts of a randomized trial against two factors.

For those who come from R: `glm(counts ~ outcome + treatment, family = poisson)`, the example of its help page. The
model returns the logarithm of the expected count; x is a dict of two columns, and params are arrays by name.

The data are those of Dobson (1990), "An introduction to generalized linear models", page 93.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "poisson_regression.png"
COUNTS = np.array([18.0, 17, 15, 20, 10, 20, 25, 13, 12])
FACTORS = {"outcome": np.array([0, 1, 2] * 3), "treatment": np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])}
# What R prints: coefficients and standard errors of the intercept, outcome 2 and 3, treatment 2 and 3.
PUBLISHED = [(3.045, 0.1709), (-0.4543, 0.2022), (-0.2930, 0.1927), (0.0, 0.2), (0.0, 0.2)]
PUBLISHED_DEVIANCE = 5.1291


def log_rate(params, x):
    """The logarithm of the expected count; the first level of each factor is what the others are compared with."""
    outcome = jnp.append(0.0, params["outcome"])
    treatment = jnp.append(0.0, params["treatment"])
    return params["intercept"] + outcome[x["outcome"]] + treatment[x["treatment"]]


def main() -> dict[str, Any]:
    """Fits, compares with R, draws counts and expected counts."""
    start = {"intercept": 0.0, "outcome": np.zeros(2), "treatment": np.zeros(2)}
    result = jf.fit(log_rate, (FACTORS, COUNTS), start, loss=jf.losses.poisson_nll)
    print(result)

    values = np.hstack([result.params[name] for name in start])
    errors = np.hstack([result.standard_errors[name] for name in start])
    expected = np.exp(result.predict(FACTORS))
    deviance = float(2 * np.sum(COUNTS * np.log(COUNTS / expected) - (COUNTS - expected)))
    names = ("intercept", "outcome 2", "outcome 3", "treatment 2", "treatment 3")
    print("\n                     fitted             by R")
    for name, value, error, (known, known_error) in zip(names, values, errors, PUBLISHED, strict=True):
        print(f"  {name:11}   {value:7.4f} ± {error:.4f}   {known:7.4f} ± {known_error:.4f}")
    print(f"  {'deviance':11}   {deviance:7.4f}            {PUBLISHED_DEVIANCE:7.4f}")

    lower, upper = result.confidence_intervals(0.95, method="profile")
    ratio, low, high = (np.exp(end["outcome"][0]) for end in (result.params, lower, upper))
    print(f"\nOutcome 2 is counted {ratio:.2f} times as often as outcome 1, 95 % interval {low:.2f} to {high:.2f}.")
    print("All treatments have 50 counts, so their coefficients are 0; the errors say how surely.")

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    band = np.exp(result.confidence_band(FACTORS))  # [2, 9]
    place = np.arange(9)
    axes.errorbar(place, expected, abs(band - expected), fmt="_", color="C1", ms=14, capsize=4, label="fit, 95 %")
    axes.plot(place, COUNTS, "o", color="C0", label="counts")
    axes.set_xticks(place, [f"{outcome + 1}" for outcome in FACTORS["outcome"]])
    for treatment in range(3):
        axes.text(3 * treatment + 1, 1.5, f"treatment {treatment + 1}", ha="center")
        axes.axvline(3 * treatment - 0.5, color="0.8", lw=1)
    axes.set(xlabel="outcome", ylabel="count", title="Counts of a randomized trial", xlim=(-0.5, 8.5), ylim=(0, 36))
    axes.legend(loc="upper left", ncols=2)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"values": values, "errors": errors, "deviance": deviance, "ratio": (low, ratio, high), "expected": expected}


if __name__ == "__main__":
    main()
