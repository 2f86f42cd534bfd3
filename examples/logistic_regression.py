"""Logistic regression: the O-rings of the space shuttle against the temperature at launch.

For those who come from R: `glm(failed ~ temperature, family = binomial)`. The model returns a logit, the loss is the
negative log-likelihood, and the standard errors are those of the Fisher information.

The 23 launches before the last one of Challenger: temperature in degrees Fahrenheit, and whether an O-ring of the
boosters had eroded or leaked. Source: Dalal, Fowlkes and Hoadley (1989), "Risk analysis of the space shuttle:
pre-Challenger prediction of failure", Journal of the American Statistical Association 84, 945-957.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "logistic_regression.png"
TEMPERATURE = np.array([66.0, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58])
FAILED = np.array([0.0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
PUBLISHED = {"intercept": (15.0429, 7.3786), "slope": (-0.2322, 0.1082)}  # with their standard errors


def logit(params, temperature):
    """The logarithm of the odds of a failure."""
    return params["intercept"] + params["slope"] * temperature


def probability(logit):
    """The inverse of the logit."""
    return 1 / (1 + np.exp(-logit))


def main() -> dict[str, Any]:
    """Fits, compares with what is published, and asks for the day of the accident."""
    start = {"intercept": 0.0, "slope": 0.0}
    result = jf.fit(logit, (TEMPERATURE, FAILED), start, loss=jf.losses.binary_cross_entropy_with_logits)
    print(result)

    errors = result.standard_errors
    print("\n                fitted          published          95 % interval by profile")
    lower, upper = result.confidence_intervals(0.95, method="profile")
    for name, (value, error) in PUBLISHED.items():
        fitted = f"{result.params[name]:8.4f} ± {errors[name]:.4f}"
        print(f"  {name:9}   {fitted}   {value:8.4f} ± {error:.4f}   {lower[name]:7.3f} to {upper[name]:.3f}")

    # The band is that of the logit, where the errors are nearly normal; as probabilities its ends stay in 0 to 1.
    cold = np.array([31.0])
    best = float(probability(result.predict(cold))[0])
    low, high = (float(probability(end)[0]) for end in result.confidence_band(cold))
    odds = float(np.exp(-10 * result.params["slope"]))
    print(f"\nEvery 10 degrees less multiply the odds of a failure by {odds:.1f}.")
    print(f"Challenger was launched at 31 degrees: probability {best:.4f}, 95 % interval {low:.2f} to {high:.5f}.")
    print("No launch had been below 53 degrees: that far away the number rests on the logit being a straight line.")

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    fine = np.linspace(28.0, 84.0, 200)
    axes.fill_between(
        fine, *probability(np.array(result.confidence_band(fine))), color="C1", alpha=0.3, lw=0, label="95 %"
    )
    axes.plot(fine, probability(result.predict(fine)), color="C1", label="fit")
    axes.plot(TEMPERATURE, FAILED, "o", color="C0", alpha=0.5, mew=0, label="launches")
    axes.axvline(31, color="0.5", ls="--", lw=1)
    axes.text(32, 0.05, "Challenger", color="0.3")
    axes.set(xlabel="temperature at launch (°F)", ylabel="probability of a failure", title="O-rings in the cold")
    axes.legend(loc="lower left", bbox_to_anchor=(0.12, 0.12))
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "params": {name: float(value) for name, value in result.params.items()},
        "errors": {name: float(error) for name, error in errors.items()},
        "log_likelihood": result.log_likelihood,
        "wald": result.confidence_intervals(),
        "profile": (lower, upper),
        "at_31": (low, best, high),
    }


if __name__ == "__main__":
    main()
