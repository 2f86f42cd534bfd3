"""How well a fit knows its params and its predictions: covariance, intervals, bands."""

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _bands, _checks, _compile, _inputs, _model, _profile
from jaxfit._fingerprint import fingerprint
from jaxfit._goodness import Goodness
from jaxfit._problem import Problem
from jaxfit._small import in_a_row
from jaxfit.losses import _curvature


class Uncertainty(Goodness):
    """What a result can tell of the errors of its params and predictions.

    For fits by a second-order optimizer; from others these raise ValueError. Params that are fixed, or held by a bound
    that the loss presses them against (`active`), have no error that anybody knows: theirs is NaN, and that of the
    other params is for these as they are held.
    """

    if TYPE_CHECKING:  # what a result has
        loss: float
        bounds: tuple[Any, Any] | None
        fixed: Any
        _wide: bool
        _function: Callable
        _again: Callable[[Any, Any], Any] | None

        def precision(self) -> contextlib.AbstractContextManager: ...

    @property
    def active(self) -> Any:
        """Which params lie at a bound that the loss presses them against: a pytree like the params, of NumPy bools.

        After a first-order fit: which lie at a bound.
        """
        if self.bounds is None:
            return self._like_params(np.zeros(in_a_row(self.params).size, bool))
        fixed = self._fixed()
        if self.evidence is not None and self.evidence.held is not None:
            return self._like_params(np.asarray(self.evidence.held) & ~fixed)
        params, lower, upper = map(in_a_row, (self.params, *self.bounds))
        return self._like_params(((params <= lower) | (params >= upper)) & ~fixed)

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the params in the order of their leaves, NumPy [p, p].

        With J the Jacobian of the prediction in units of sigma and s**2 the reduced chi squared: `inv(J'J) s**2` for
        squared errors, `inv(J'J)` with an absolute sigma; the inverse Fisher information for a negative
        log-likelihood. Infinite for params that the data do not determine, NaN for those that are held.

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        return self._known("covariance").covariance

    @property
    def standard_errors(self) -> Any:
        """The standard error of each param, a pytree like the params, of NumPy arrays: roots of variances.

        Infinite for params that the data do not determine, NaN for those that are held.

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        return self._like_params(np.sqrt(np.diagonal(self._known("standard_errors").covariance)))

    @property
    def correlation(self) -> np.ndarray:
        """The correlation of the params in the order of their leaves, NumPy [p, p], within -1 and 1.

        `covariance[i, j] / sqrt(covariance[i, i] * covariance[j, j])`; NaN for params that the data do not determine
        and for those that are held.

        Raises:
            ValueError: The optimizer was not a second-order one.

        Example:
            >>> import numpy as np
            >>> import jaxfit as jf
            >>> x = np.array([0.0, 1.0, 2.0, 3.0])
            >>> line = lambda params, x: params[0] + params[1] * x
            >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
            >>> result.correlation.round(4).tolist()
            [[1.0, -0.8018], [-0.8018, 1.0]]
        """
        return self._known("correlation").correlation

    def confidence_intervals(self, level: float = 0.95, method: str = "wald") -> tuple[Any, Any]:
        """Intervals that hold the true value of a param in a share `level` of all experiments.

        "wald": `params -+ q * standard_errors`, where q is the quantile of Student's t at the degrees of freedom if the
        residuals say how large sigma is, and of the normal if sigma is absolute or the loss a negative log-likelihood.
        Exact for a linear model; a model that bends makes them wrong.

        "profile": all values of a param with which the others can still be fitted so well that the loss rises by no
        more than `q**2`: chi squared, in units of the reduced chi squared where that says how large sigma is; or twice
        the negative log-likelihood. It follows the bend of the model, at the price of some ten fits a param.

        Args:
            level: Between 0 and 1.
            method: "wald" or "profile".

        Returns:
            (lower, upper): pytrees like the params, of NumPy arrays. NaN for params that are fixed. By "wald" also for
            those held by a bound, and infinite for those that the data do not determine. By "profile" an end is a bound
            that is reached first, and infinite where no value within a thousand standard errors fits too badly.

        Raises:
            TypeError: level is not a number.
            ValueError: level or method is not one of those possible, or the optimizer was not a second-order one.

        Warns:
            FitWarning: The profile found params of a lower loss than those of this fit.

        Source: Bates and Watts, "Nonlinear regression analysis and its applications" (1988), section 6.1; Venzon and
        Moolgavkar (1988), "A method for computing profile-likelihood-based confidence intervals".

        Example:
            >>> import numpy as np
            >>> import jaxfit as jf
            >>> x = np.array([0.0, 1.0, 2.0, 3.0])
            >>> line = lambda params, x: params[0] + params[1] * x
            >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
            >>> lower, upper = result.confidence_intervals(0.95)
            >>> lower.round(3).tolist(), upper.round(3).tolist()
            ([-2.715, 0.375], [4.115, 4.025])
        """
        quantile = self._quantile("confidence_intervals", level)
        _checks.one_of("confidence_intervals", "method", method, ("wald", "profile"))
        if method == "profile" and _curvature.is_robust(self.loss_function):
            raise ValueError(
                f"the profile of {self._loss_name} says nothing of errors: it is no negative log-likelihood. Take "
                'method="wald".'
            )
        params = in_a_row(self.params)
        if method == "wald":
            reach = quantile * in_a_row(self.standard_errors)
            return self._like_params(params - reach), self._like_params(params + reach)
        fixed = self._fixed()
        ends = np.full((2, params.size), np.nan)
        for index in map(int, np.flatnonzero(~fixed)):
            ends[:, index] = self._profile(index, params, fixed, quantile)
        return self._like_params(ends[0].astype(params.dtype)), self._like_params(ends[1].astype(params.dtype))

    def confidence_band(self, x: Any, level: float = 0.95) -> tuple[Any, Any]:
        """The confidence interval of the prediction at each x, to first order in the errors of the params.

        `prediction -+ q * sqrt(diag(J covariance J'))`, with J the Jacobian of the prediction at x and q the quantile
        of the "wald" intervals. It holds the true curve at any one x in a share `level` of all experiments, not at all
        x together. For a negative log-likelihood it is of what the model returns: a logit, the logarithm of a rate.

        Args:
            x: What the model takes, as in the data: a pytree of arrays [n, ...].
            level: Between 0 and 1.

        Returns:
            (lower, upper): NumPy arrays of the prediction's shape. Infinite where the prediction depends on what the
            data do not determine.

        Raises:
            TypeError: level is not a number, or x is not numbers.
            ValueError: level is not between 0 and 1, x is empty or not finite, the model fails on its shape, its
                prediction is complex, or the optimizer was not a second-order one.

        Source: the delta method; Seber and Wild, "Nonlinear regression" (1989), section 5.1.

        Example:
            >>> import numpy as np
            >>> import jaxfit as jf
            >>> x = np.array([0.0, 1.0, 2.0, 3.0])
            >>> line = lambda params, x: params[0] + params[1] * x
            >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
            >>> lower, upper = result.confidence_band(np.array([1.5, 9.0]))
            >>> lower.round(3).tolist(), upper.round(3).tolist()
            ([1.959, 6.658], [6.041, 34.342])
        """
        quantile = self._quantile("confidence_band", level)
        prediction, variance = self._spread(x)
        return _around(prediction, jax.tree.map(lambda variance: quantile * np.sqrt(variance), variance))

    def prediction_band(self, x: Any, level: float = 0.95, *, sigma: Any = None) -> tuple[Any, Any]:
        """The interval that holds one new observation at each x in a share `level` of all experiments.

        `prediction -+ q * sqrt(diag(J covariance J') + s**2 sigma**2)`, as `confidence_band`, with the scatter of the
        observation itself: s**2 is the reduced chi squared, or 1 where sigma is absolute. For an observation of weight
        1 where the data had weights.

        Args:
            x: What the model takes, as in the data: a pytree of arrays [n, ...].
            level: Between 0 and 1.
            sigma: The standard deviation of the new observations, in the units of the fit's sigma: one number, or an
                array of the prediction's shape. None for the fit's own, where that is one number or was not given.

        Returns:
            (lower, upper): NumPy arrays of the prediction's shape.

        Raises:
            TypeError: level or sigma is not a number, or x is not numbers.
            ValueError: As for `confidence_band`; also for a loss that is not the squared error, and where the fit's
                sigma differs from point to point and there is none for the new ones.

        Source: Seber and Wild, "Nonlinear regression" (1989), section 5.1.

        Example:
            >>> import numpy as np
            >>> import jaxfit as jf
            >>> x = np.array([0.0, 1.0, 2.0, 3.0])
            >>> line = lambda params, x: params[0] + params[1] * x
            >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
            >>> lower, upper = result.prediction_band(np.array([1.5, 9.0]))
            >>> lower.round(3).tolist(), upper.round(3).tolist()
            ([-0.564, 6.068], [8.564, 34.932])
        """
        quantile = self._quantile("prediction_band", level)
        self._sum_of_squares("prediction_band")
        batch, evidence = self._batch, self._known("prediction_band")
        if sigma is None:
            sigma = 1.0 if batch is None or batch.sigma is None else batch.sigma
            if any(np.ndim(leaf) for leaf in jax.tree.leaves(sigma)) or not jax.tree_util.all_leaves([sigma]):
                raise ValueError(
                    "sigma differs from point to point in this fit; give that of the new observations: "
                    "prediction_band(x, sigma=...)."
                )
        prediction, variance = self._spread(x)
        spread = _standard_deviation(sigma, jax.tree.leaves(prediction))
        more = evidence.variance * spread**2
        return _around(prediction, jax.tree.map(lambda variance: quantile * np.sqrt(variance + more), variance))

    def _quantile(self, what: str, level: Any) -> float:
        """How many standard errors an interval reaches; raises where the level is none."""
        if not _checks.is_number(level):
            raise TypeError(f"{what}: level is {_checks.describe(level)}; expected a number between 0 and 1.")
        if not 0 < level < 1:
            way_out = f" Write {level / 100:g} for {level:g} %." if 1 < level < 100 else ""
            raise ValueError(f"{what}: level is {level}; expected a number between 0 and 1, such as 0.95.{way_out}")
        return self._known(what).quantile(float(level))

    def _spread(self, x: Any) -> tuple[Any, Any]:
        """The prediction at x and the variance of its mean."""
        evidence = self._known("band")
        with self.precision():
            x = _inputs.features(x, self._wide)
            (prediction, variance, untold), _ = _compile.call(
                lambda params, x, root, silent: _bands.spread(self._function, params, x, root, silent),
                ("spread", fingerprint(self._function)),
                self.params,
                x,
                evidence.root,
                evidence.silent,
                check=lambda: _model.traced("model", self._function, self.params, x),
            )
        if any(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(prediction)):
            raise ValueError("the prediction is complex, and so has no band; ask for those of its parts.")
        scale = evidence.variance

        def scaled(variance: Any, untold: Any) -> np.ndarray:
            lost = np.asarray(untold) | (np.isinf(scale) & (np.asarray(variance) > 0))
            return np.where(lost, np.inf, np.asarray(variance) * (scale if np.isfinite(scale) else 0))

        return jax.tree.map(np.asarray, prediction), jax.tree.map(scaled, variance, untold)

    def _profile(self, index: int, params: np.ndarray, fixed: np.ndarray, quantile: float) -> tuple[float, float]:
        """Both ends of the profile interval of one param."""
        again = self._again
        if again is None:
            raise ValueError("this fit cannot be run again with a param held; method='wald' needs no more fits.")
        held = fixed | (np.arange(params.size) == index)
        nothing = np.full(params.size, np.inf)
        lower, upper = (-nothing, nothing) if self.bounds is None else map(in_a_row, self.bounds)

        def refit(start: np.ndarray) -> tuple[float, np.ndarray]:
            start = np.where(fixed, params, start)
            if held.all():  # there is nothing to fit
                return self._loss_sum(self._like_params(start)), start
            found = again(self._like_params(start), self._like_params(held))
            return found._known("profile").minimum, in_a_row(found.params)

        return _profile.interval(refit, self._known("profile"), index, params, lower, upper, quantile)

    def _loss_sum(self, params: Any) -> float:
        """The sum of the losses at other params, as the evidence has it at those of the fit."""
        problem = Problem(self._function, functools.partial(self.loss_function, reduction="sum"), True)  # type: ignore[arg-type]
        key = "loss sum", fingerprint(self._function), fingerprint(self.loss_function)
        with self.precision():
            return float(_compile.call(problem.value, key, params, self._batch)[0])

    def _fixed(self) -> np.ndarray:
        """Which params are fixed, a bool [p]."""
        size = in_a_row(self.params).size
        return np.zeros(size, bool) if self.fixed is None else in_a_row(self.fixed).astype(bool)

    def _like_params(self, flat: np.ndarray) -> Any:
        """A vector [p] as a pytree like the params."""
        leaves, tree = jax.tree.flatten(self.params)
        parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
        return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _around(prediction: Any, reach: Any) -> tuple[Any, Any]:
    """The band (lower, upper) of a pytree of predictions, in their precision."""
    lower = jax.tree.map(lambda middle, reach: (middle - reach).astype(middle.dtype), prediction, reach)
    return lower, jax.tree.map(lambda middle, reach: (middle + reach).astype(middle.dtype), prediction, reach)


def _standard_deviation(sigma: Any, predictions: list[np.ndarray]) -> np.ndarray:
    """The sigma of new observations, checked."""
    try:
        sigma = np.asarray(sigma, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"sigma is {_checks.describe(sigma)}; expected numbers.") from error
    if sigma.shape and (len(predictions) > 1 or sigma.shape != predictions[0].shape):
        shapes = ", ".join(str(leaf.shape) for leaf in predictions)
        raise ValueError(f"sigma has shape {sigma.shape}; expected one number, or that of the prediction, {shapes}.")
    if not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError(f"sigma goes down to {sigma.min()}; expected finite standard deviations above 0.")
    return sigma
