"""Profiles: how the best loss rises with the value of one param, and where it has risen too far.

Source: Bates and Watts, "Nonlinear regression analysis and its applications" (1988), section 6.1.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np

from jaxfit._inference import Evidence
from jaxfit._status import FitWarning

_DOUBLINGS = 10  # a profile that is low at a thousand times the expected distance is taken to stay so


def interval(
    refit: Callable[[np.ndarray], tuple[float, np.ndarray]],
    evidence: Evidence,
    index: int,
    params: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    quantile: float,
) -> tuple[float, float]:
    """Both ends of the profile interval of one param.

    Args:
        refit: Fits again from params [p], of which this one and the fixed ones are held: the sum of the losses, and
            where it is reached, [p].
        evidence: Of the fit.
        index: Which param.
        params: Those of the fit, [p].
        lower: Lower bounds, [p], -inf for none.
        upper: Upper bounds, [p], inf for none.
        quantile: How high the profile may rise, in standard errors.

    Returns:
        (lower, upper) ends.

    Warns:
        FitWarning: A refit found a lower loss than the fit.
    """
    rounding = 100 * float(np.finfo(params.dtype).eps)
    # A perfect fit, but for what rounding leaves of the prediction: any other value fits infinitely worse.
    if evidence.variance * evidence.observations <= rounding**2 * params**2 @ np.diagonal(evidence.curvature):
        return float(params[index]), float(params[index])
    if not math.isfinite(quantile * evidence.variance):
        return -math.inf, math.inf
    profile = _Profile(refit, evidence, index, params, lower, upper)
    step = quantile * _expected_error(evidence, index, params)
    tolerance = max(1e-7, float(np.finfo(params.dtype).eps) ** 0.5)
    low, high = (
        crossing(profile, float(params[index]), sign * step, float(limit), quantile, tolerance)
        for sign, limit in ((-1, lower[index]), (1, upper[index]))
    )
    if profile.lowest < -max(1e-3, profile.rounding):
        warnings.warn(
            f"The profile of param number {index} found a lower loss than that of the fit, by "
            f"{-profile.lowest * evidence.variance:.3g} in sum, at {profile.lowest_at:.6g}: the fit did not end at its "
            "minimum. Fit again from there.",
            FitWarning,
            stacklevel=4,
        )
    return low, high


class _Profile:
    """The root of the rise of the loss that a value of one param costs, in standard errors; remembers what it saw."""

    def __init__(self, refit, evidence: Evidence, index: int, params: np.ndarray, lower, upper):
        self.refit, self.evidence, self.index, self.lower, self.upper = refit, evidence, index, lower, upper
        self.seen = {float(params[index]): (0.0, params)}
        self.lowest, self.lowest_at = 0.0, float(params[index])
        # How the other params go with this one near the minimum, where a first refit should start.
        with np.errstate(invalid="ignore"):
            along = evidence.covariance[:, index] / evidence.covariance[index, index]
        self.along = np.where(np.isfinite(along), along, 0)
        # What rounding may do to the rise.
        eps = float(np.finfo(params.dtype).eps)
        self.rounding = 1e3 * eps * abs(evidence.minimum) / evidence.variance

    def __call__(self, value: float) -> float:
        if value in self.seen:
            return self.seen[value][0]
        nearest = min(self.seen, key=lambda other: abs(other - value))
        start = self.seen[nearest][1] + self.along * (value - nearest)
        start = np.clip(start, self.lower, self.upper).astype(start.dtype)
        start[self.index] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)
            minimum, params = self.refit(start)
        likelihood = self.evidence.chi_squared is None
        rise = (2 if likelihood else 1) * (minimum - self.evidence.minimum) / self.evidence.variance
        if not math.isfinite(rise):
            return math.inf
        if rise < self.lowest:
            self.lowest, self.lowest_at = rise, value
        self.seen[value] = math.sqrt(max(rise, 0)), params
        return self.seen[value][0]


def _expected_error(evidence: Evidence, index: int, params: np.ndarray) -> float:
    """About how far a param may be off: its standard error; for one without, what it would be were it alone."""
    variance = float(evidence.covariance[index, index])
    if math.isfinite(variance) and variance > 0:
        return math.sqrt(variance)
    alone = float(evidence.curvature[index, index])
    if math.isfinite(alone) and alone > 0:
        return math.sqrt((1 if evidence.chi_squared is None else 2) * evidence.variance / alone)
    return max(abs(float(params[index])), 1.0)


def crossing(
    height: Callable[[float], float], estimate: float, step: float, limit: float, threshold: float, tolerance: float
) -> float:
    """Where a profile reaches a threshold, on one side of the estimate.

    Args:
        height: The profile, 0 at the estimate. The root of a rise in chi squared is the best to give: near a minimum
            it is straight.
        estimate: Where the profile has its minimum.
        step: The distance at which the crossing is expected, with its sign.
        limit: The bound on that side, -inf or inf for none.
        threshold: What to reach.
        tolerance: The crossing is found to this share of its distance.

    Returns:
        The crossing; the bound where it is not reached before that; -inf or inf where it is never reached.
    """
    from scipy import optimize

    def above(value: float) -> float:
        # Beyond the model's domain the profile is as high as one likes; the root finder wants a number.
        return min(height(value) - threshold, 10 * threshold)

    inner = estimate
    for _ in range(_DOUBLINGS + 1):
        outer = min(estimate + step, limit) if step > 0 else max(estimate + step, limit)
        if outer == inner:
            return limit
        gap = above(outer)
        if abs(gap) <= tolerance * threshold:
            return outer
        if gap > 0:
            found = optimize.brentq(above, inner, outer, xtol=tolerance * abs(outer - estimate), disp=False)
            return float(found)  # type: ignore[arg-type]
        inner, step = outer, 2 * step
    return math.copysign(math.inf, step)
