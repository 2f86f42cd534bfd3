"""How well a fit describes its data: residuals, chi squared, R squared, likelihood, information criteria."""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks
from jaxfit._problem import per_row

if TYPE_CHECKING:
    from jaxfit._inference import Evidence
    from jaxfit._problem import Batch
    from jaxfit.optimizers import Optimizer


# Those of jaxfit.losses that are a negative log-likelihood, up to a constant.
_LIKELIHOODS = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "gaussian_nll",
    "poisson_nll",
    "soft_margin",
)


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
    def residuals(self) -> Any:
        """Observation less prediction, `y - model(params, x)`, in the units of y, of y's shape, NumPy.

        Raises:
            ValueError: The data are not in memory, or y is of another shape than the prediction, as labels are.
        """
        if self._batch is None:
            raise ValueError("residuals are those of data in memory; this fit saw samples or a stream of batches.")
        prediction, y = self.predict(self._batch.x), self._batch.y
        forms = [(jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]) for tree in (prediction, y)]
        if forms[0] != forms[1]:
            came = " and ".join(map(_checks.describe_tree, (prediction, y)))
            raise ValueError(f"residuals need a prediction and a y of one shape; they are {came}.")
        return jax.tree.map(lambda y, prediction: np.asarray(y) - np.asarray(prediction), y, prediction)

    @property
    def chi_squared(self) -> float:
        """The sum of the squared residuals in units of sigma, `sum(w * residual**2)`.

        Raises:
            ValueError: The optimizer was not a second-order one, or the loss is not the squared error.
        """
        return self._sum_of_squares("chi_squared")

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
        return self._sum_of_squares("reduced_chi_squared") / self._freedom("reduced_chi_squared")

    @property
    def r_squared(self) -> float:
        """The share of the variance of y that the model explains, `1 - chi_squared / sum(w * (y - mean)**2)`.

        The mean is that of y with the weights w, for each column of y if there are several. At most 1; negative where
        the model does worse than the mean; NaN where y is constant.

        Raises:
            ValueError: The optimizer was not a second-order one, or the loss is not the squared error.

        Source: Willett and Singer (1988), "Another cautionary note about R squared: its use in weighted least-squares".
        """
        chi_squared, total = self._sum_of_squares("r_squared"), self._scatter()
        return 1 - chi_squared / total if total else float("nan")

    @property
    def adjusted_r_squared(self) -> float:
        """R squared less what free params gain by chance, `1 - (1 - r_squared) * (n - m) / (n - p)`.

        Here m is the number of means that R squared compares with: the columns of y, for most fits 1.

        Raises:
            ValueError: The optimizer was not a second-order one, the loss is not the squared error, or there are not
                more observations than free params.

        Source: Theil, "Economic forecasts and policy" (1961).
        """
        freedom, batch = self._freedom("adjusted_r_squared"), self._whole("adjusted_r_squared")
        means = sum((2 if np.iscomplexobj(leaf) else 1) * leaf[0].size for leaf in jax.tree.leaves(batch.y))
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
            ValueError: The optimizer was not a second-order one, or the loss is neither of these, as `huber` is not.
        """
        evidence = self._known("log_likelihood")
        if evidence.chi_squared is None:
            if not self._is_likelihood:
                raise ValueError(
                    f"the loss of this fit, {self._loss_name}, is no negative log-likelihood, and so it has neither "
                    "log_likelihood, aic nor bic."
                )
            return evidence.log_likelihood()
        total = 0.0
        for y, precision in self._precisions() if self._batch is not None or self._own_weight is not None else ():
            parts = 2 if np.iscomplexobj(y) else 1  # each with this precision
            total += parts * float(np.log(precision[precision > 0]).sum())
        return evidence.log_likelihood(total)

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
            if name == "LevenbergMarquardt":  # the loss is a robust one
                raise ValueError(
                    f"{what} of a fit by {self._loss_name} needs the data in memory; this fit saw a stream of batches."
                )
            raise ValueError(
                f"{name} knows no curvature, and so it has no {what}; fit by LevenbergMarquardt() to have it."
            )
        return self.evidence

    def _sum_of_squares(self, what: str) -> float:
        """Chi squared; ValueError where the loss is not the squared error."""
        chi_squared = self._known(what).chi_squared
        if chi_squared is None:
            raise ValueError(
                f"{what} belongs to squared errors, loss=jaxfit.losses.mse; the loss of this fit is {self._loss_name}."
            )
        return float(chi_squared)

    @property
    def _loss_name(self) -> str:
        return getattr(_checks.unwrapped(self.loss_function)[0], "__name__", "another")

    @property
    def _is_likelihood(self) -> bool:
        module = getattr(_checks.unwrapped(self.loss_function)[0], "__module__", "")
        return module.startswith("jaxfit.losses") and self._loss_name in _LIKELIHOODS

    def _freedom(self, what: str) -> int:
        """The degrees of freedom of a fit of squared errors; ValueError where there are none."""
        self._sum_of_squares(what)
        evidence = self._known(what)
        if evidence.degrees_of_freedom <= 0:
            raise ValueError(
                f"{what} needs more observations than free params; there are {evidence.observations} observations and "
                f"{int(evidence.free.sum())} free params."
            )
        return evidence.degrees_of_freedom

    def _whole(self, what: str) -> "Batch":
        """The data; raises where the fit never had them all at once."""
        if self._batch is None:
            raise ValueError(f"{what} needs the data in memory; this fit saw a stream of batches.")
        return self._batch

    @property
    def _own_weight(self) -> Any:
        """The weights that the loss itself has; None for none."""
        return _checks.unwrapped(self.loss_function)[1].get("weight")

    def _precisions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each array of y, with what its squared residuals count in chi squared: w, of the same shape."""
        batch, own = self._whole("this"), self._own_weight
        leaves = jax.tree.leaves(batch.y)
        sigmas = jax.tree.leaves(batch.sigma)
        sigmas = sigmas * len(leaves) if len(sigmas) == 1 else sigmas or [1.0] * len(leaves)
        for leaf, sigma in zip(leaves, sigmas, strict=True):
            y = np.asarray(leaf)
            precision = np.ones(y.shape) / np.asarray(sigma, float) ** 2
            if batch.weights is not None:
                precision *= per_row(np.asarray(batch.weights, float), precision)
            if own is not None:
                precision *= np.broadcast_to(np.asarray(own, float), precision.shape)
            yield y, precision

    def _scatter(self) -> float:
        """The chi squared of the mean of y, for each of its columns."""
        total = 0.0
        for y, precision in self._precisions():
            counts = precision.sum(axis=0)
            mean = (precision * y).sum(axis=0) / np.where(counts > 0, counts, 1)
            total += float((precision * np.abs(y - mean) ** 2).sum())
        return total
