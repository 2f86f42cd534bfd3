"""How well a fit describes its data: residuals, chi squared, R squared, likelihood, information criteria."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks

if TYPE_CHECKING:
    from jaxfit._inference import Evidence
    from jaxfit._problem import Batch
    from jaxfit.optimizers import Optimizer


class Goodness:
    """What a result can tell of the quality of its fit.

    All but `residuals` are for fits by a second-order optimizer, which end at a minimum, with all the data at hand;
    from others they raise ValueError. Here n is the number of observations (those of weight 0 do not count), p that of
    the free params: params that are fixed, or held by a bound that the loss presses them against, do not count. An
    observation has the precision w = weight / sigma**2, where weight and sigma are 1 if they were not given.

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.array([0.0, 1.0, 2.0, 3.0])
        >>> line = lambda params, x: params[0] + params[1] * x
        >>> result = jf.fit(line, (x, np.array([1.0, 3.0, 4.0, 8.0])), np.zeros(2))
        >>> result.residuals.round(4).tolist()
        [0.3, 0.1, -1.1, 0.7]
        >>> round(result.chi_squared, 4), result.degrees_of_freedom, round(result.reduced_chi_squared, 4)
        (1.8, 2, 0.9)
        >>> round(result.r_squared, 4), round(result.adjusted_r_squared, 4)
        (0.9308, 0.8962)
        >>> [round(float(number), 3) for number in (result.log_likelihood, result.aic, result.bic)]
        [-4.079, 14.157, 12.316]
    """

    if TYPE_CHECKING:  # what a result has
        params: Any
        optimizer: Optimizer
        loss_function: Callable | None
        _batch: Batch | None

        @functools.cached_property
        def evidence(self) -> Evidence | None: ...
        def predict(self, x: Any) -> Any: ...

    @property
    def residuals(self) -> np.ndarray:
        """Observation less prediction, `y - model(params, x)`, in the units of y, of y's shape, NumPy.

        Raises:
            ValueError: The data are not in memory, or y is of another shape than the prediction, as labels are.
        """
        if self._batch is None:
            raise ValueError("residuals are those of data in memory; this fit saw samples or a stream of batches.")
        prediction, y = self.predict(self._batch.x), self._batch.y
        shapes = [getattr(array, "shape", None) for array in (prediction, y)]
        if shapes[0] is None or shapes[0] != shapes[1]:
            came = " and ".join(map(_checks.describe_tree, (prediction, y)))
            raise ValueError(f"residuals need a prediction and a y of one shape; they are {came}.")
        return np.asarray(y) - np.asarray(prediction)

    @property
    def chi_squared(self) -> float:
        """The sum of the squared residuals in units of sigma, `sum(w * residual**2)`.

        Raises:
            ValueError: The optimizer was not a second-order one, or the loss is not the squared error.
        """
        self._squared_error("chi_squared")
        return float(self._known("chi_squared").minimum)

    @property
    def degrees_of_freedom(self) -> int:
        """Observations less free params, `n - p`.

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        return self._known("degrees_of_freedom").degrees_of_freedom

    @property
    def reduced_chi_squared(self) -> float:
        """Chi squared per degree of freedom: about 1 where sigma is right and the model holds.

        Without sigma it is the variance of the residuals, in y's units squared.

        Raises:
            ValueError: The optimizer was not a second-order one, the loss is not the squared error, or there are not
                more observations than free params.
        """
        return self.chi_squared / self._freedom("reduced_chi_squared")

    @property
    def r_squared(self) -> float:
        """The share of the variance of y that the model explains, `1 - chi_squared / sum(w * (y - mean)**2)`.

        The mean is that of y with the weights w, for each column of y if there are several. At most 1; negative where
        the model does worse than the mean; NaN where y is constant.

        Raises:
            ValueError: The optimizer was not a second-order one, or the loss is not the squared error.

        Source: Willett and Singer (1988), "Another cautionary note about R squared: its use in weighted least-squares".
        """
        chi_squared, total = self.chi_squared, self._scatter()
        return 1 - chi_squared / total if total else float("nan")

    @property
    def adjusted_r_squared(self) -> float:
        """R squared less what free params gain by chance, `1 - (1 - r_squared) * (n - m) / (n - p)`.

        Here m is the number of means that R squared compares with: the columns of y, 1 for most.

        Raises:
            ValueError: The optimizer was not a second-order one, the loss is not the squared error, or there are not
                more observations than free params.

        Source: Theil, "Economic forecasts and policy" (1961).
        """
        freedom, batch = self._freedom("adjusted_r_squared"), self._batch
        assert batch is not None
        means = int(np.prod(batch.y.shape[1:]))
        return 1 - (1 - self.r_squared) * (self._known("").observations - means) / freedom

    @property
    def log_likelihood(self) -> float:
        """The logarithm of the likelihood of the data.

        - Squared errors, absolute sigma: normal errors, `-(chi_squared + sum(log(2 pi / w))) / 2`.
        - Squared errors, sigma known up to a scale, or not at all: the same at the most likely scale,
          `-(n + n log(chi_squared / n) + sum(log(2 pi / w))) / 2`.
        - A negative log-likelihood: less the sum of the losses, with the constants that the loss has:
          `poisson_nll` leaves out `log(y!)`.

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        evidence = self._known("log_likelihood")
        if evidence.chi_squared is None:
            return evidence.log_likelihood()
        precision = self._precision()
        return evidence.log_likelihood(float(np.log(precision[precision > 0]).sum()))

    @property
    def aic(self) -> float:
        """Akaike's information criterion, `2 k - 2 log_likelihood`: of two models of the same data, prefer the lower.

        k counts the free params, and the scale of sigma where it had to be found in the residuals, as R does.

        Raises:
            ValueError: The optimizer was not a second-order one.

        Source: Akaike (1974), "A new look at the statistical model identification".
        """
        return 2 * self._known("aic").estimated - 2 * self.log_likelihood

    @property
    def aicc(self) -> float:
        """Akaike's criterion for few data, `aic + 2 k (k + 1) / (n - k - 1)`; infinite where n is at most k + 1.

        Raises:
            ValueError: The optimizer was not a second-order one.

        Source: Hurvich and Tsai (1989), "Regression and time series model selection in small samples".
        """
        evidence = self._known("aicc")
        k, spare = evidence.estimated, evidence.observations - evidence.estimated - 1
        return self.aic + 2 * k * (k + 1) / spare if spare > 0 else float("inf")

    @property
    def bic(self) -> float:
        """The Bayesian information criterion, `k log(n) - 2 log_likelihood`, with the k of `aic`.

        Raises:
            ValueError: The optimizer was not a second-order one.

        Source: Schwarz (1978), "Estimating the dimension of a model".
        """
        evidence = self._known("bic")
        return float(evidence.estimated * np.log(evidence.observations) - 2 * self.log_likelihood)

    def _known(self, what: str) -> "Evidence":
        """The evidence; ValueError where there is none."""
        if self.evidence is None:
            name = type(self.optimizer).__name__
            raise ValueError(
                f"{name} knows no curvature, and so it has no {what}; fit by LevenbergMarquardt() to have it."
            )
        return self.evidence

    def _squared_error(self, what: str) -> None:
        """Raises ValueError where the loss is not the squared error."""
        if self._known(what).chi_squared is None:
            name = getattr(_checks.unwrapped(self.loss_function)[0], "__name__", "another")
            raise ValueError(
                f"{what} belongs to squared errors, loss=jaxfit.losses.mse; the loss of this fit is {name}."
            )

    def _freedom(self, what: str) -> int:
        """The degrees of freedom of a fit of squared errors; ValueError where there are none."""
        self._squared_error(what)
        evidence = self._known(what)
        if evidence.degrees_of_freedom <= 0:
            raise ValueError(
                f"{what} needs more observations than free params; there are {evidence.observations} observations and "
                f"{int(evidence.free.sum())} free params."
            )
        return evidence.degrees_of_freedom

    def _precision(self) -> np.ndarray:
        """What each squared residual counts in chi squared: w, of y's shape."""
        batch = self._batch
        assert batch is not None  # a fit with evidence had its data at hand
        precision = np.ones(batch.y.shape)
        if batch.sigma is not None:
            precision /= np.asarray(batch.sigma, float) ** 2
        if batch.weights is not None:
            precision *= np.asarray(batch.weights, float).reshape(-1, *[1] * (precision.ndim - 1))
        options = _checks.unwrapped(self.loss_function)[1]
        if options.get("weight") is not None:  # the loss's own; its mean is over their sum
            weight = np.broadcast_to(np.asarray(options["weight"], float), precision.shape)
            precision *= weight if options.get("reduction") == "sum" else weight / weight.mean()
        return precision

    def _scatter(self) -> float:
        """The chi squared of the mean of y, for each of its columns."""
        batch, precision = self._batch, self._precision()
        assert batch is not None
        y = np.asarray(batch.y, float)
        counts = precision.sum(axis=0)
        mean = np.divide((precision * y).sum(axis=0), counts, where=counts > 0, out=np.zeros_like(counts))
        return float((precision * (y - mean) ** 2).sum())


def leaves_in_a_row(tree: Any) -> np.ndarray:
    """The numbers of a pytree of arrays as one NumPy vector, in the order of its leaves."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])
