"""What the curvature of a loss at its minimum says of the params: covariance, correlation, scale, likelihood.

For squared errors this is the linear theory of least squares; for a negative log-likelihood, the inverse Fisher
information. Source: Seber and Wild, "Nonlinear regression" (1989), chapters 2 and 5.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np

_WELL_CONDITIONED = 1e10  # beyond that rounding in the normal equations may show


class Evidence(NamedTuple):
    """What a second-order fit knows at its end.

    Attributes:
        curvature: J'HJ of the sum of the losses, [p, p], of all params, held ones too.
        observations: How many losses were summed.
        chi_squared: The sum of the squared residuals, in units of sigma; None where the loss is another.
        absolute: Whether sigma is known in absolute terms, and the residuals do not scale it.
        held: Which params did not move, a bool [p]: those that were fixed, and those at a bound that the loss presses
            against. None for none.
        loss_sum: The sum of the losses at the params.
    """

    curvature: np.ndarray
    observations: int
    chi_squared: float | None
    absolute: bool
    held: np.ndarray | None = None
    loss_sum: float = math.nan

    @property
    def free(self) -> np.ndarray:
        """Which params were fitted and are not held, a bool [p]."""
        return np.ones(len(self.curvature), bool) if self.held is None else ~np.asarray(self.held)

    @property
    def degrees_of_freedom(self) -> int:
        """Observations less free params.

        A param at a bound that the loss presses against is held there, as if it had been fixed, and takes no freedom.
        """
        return self.observations - int(self.free.sum())

    @property
    def scale_is_unknown(self) -> bool:
        """Whether the size of the residuals says how large sigma is: so for squared errors without absolute sigma."""
        return self.chi_squared is not None and not self.absolute

    @property
    def variance(self) -> float:
        """The variance of a residual in units of sigma: 1 where that is known; else chi squared over the freedom.

        Infinite where there is no freedom left.
        """
        if self.chi_squared is None or self.absolute:
            return 1.0
        return self.chi_squared / self.degrees_of_freedom if self.degrees_of_freedom > 0 else math.inf

    @property
    def undetermined(self) -> np.ndarray:
        """Which free params the data do not determine, a bool [p]."""
        unit, _, vectors, small = self._spectrum()
        lost = self.free
        lost[lost] = (unit == 0) | (np.abs(vectors[:, small]) > 1e-4).any(axis=1)
        return lost

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the params, [p, p].

        NaN in the rows and columns of held params, whose error nobody knows; that of the others is for these as they
        are held. Infinite where the data do not determine the params, or leave no freedom.
        """
        root, variance, lost = self.root, self.variance, self.undetermined
        inverse = root @ root.T * variance if math.isfinite(variance) else np.full_like(self.curvature, np.inf)
        inverse[lost, :] = inverse[:, lost] = np.inf
        inverse[~self.free, :] = inverse[:, ~self.free] = np.nan
        return inverse

    @property
    def correlation(self) -> np.ndarray:
        """The correlation of the params, [p, p]; NaN for those that are held or not determined."""
        root, known = self.root, self.free & ~self.undetermined
        root = np.where(known[:, None], root, np.nan)
        length = np.sqrt((root**2).sum(axis=1))
        length = np.where(length == 0, np.nan, length)
        correlation = np.clip(root @ root.T / length[:, None] / length, -1, 1)
        correlation[known, known] = 1
        return correlation

    @property
    def root(self) -> np.ndarray:
        """R [p, r], with RR' the covariance for residuals of variance 1; its rows of held params are 0."""
        unit, values, vectors, small = self._spectrum()
        root = np.zeros((len(self.curvature), int((~small).sum())), self.curvature.dtype)
        root[self.free] = unit[:, None] * vectors[:, ~small] / np.sqrt(values[~small])
        # The squared error has twice the curvature of a log-likelihood.
        return root if self.chi_squared is None else math.sqrt(2) * root

    @property
    def silent(self) -> np.ndarray:
        """Directions in which the params can move without the loss telling, [p, s]."""
        unit, _, vectors, small = self._spectrum()
        silent = np.zeros((len(self.curvature), int(small.sum())), self.curvature.dtype)
        silent[self.free] = np.where(unit == 0, 1, unit)[:, None] * vectors[:, small]
        return silent

    def quantile(self, level: float) -> float:
        """How many standard errors to either side hold a share `level` of the distribution.

        Student's t at the degrees of freedom where the residuals say how large sigma is, else the normal.
        """
        from scipy import special

        upper = (1 + level) / 2
        if not self.scale_is_unknown:
            return float(special.ndtri(upper))
        return float(special.stdtrit(self.degrees_of_freedom, upper)) if self.degrees_of_freedom > 0 else math.inf

    @property
    def estimated(self) -> int:
        """How many numbers the data had to tell: the free params, and the scale of sigma where it is unknown."""
        return int(self.free.sum()) + self.scale_is_unknown

    @property
    def minimum(self) -> float:
        """The sum of the losses: chi squared, or a negative log-likelihood."""
        return self.loss_sum if self.chi_squared is None else self.chi_squared

    def log_likelihood(self, log_precision: float = 0.0) -> float:
        """The logarithm of the likelihood, at its maximum over the scale of sigma where that is unknown.

        Args:
            log_precision: The sum of -log(sigma**2) over the observations; only squared errors ask for it.
        """
        if self.chi_squared is None:
            return -self.loss_sum
        n = self.observations
        if self.absolute:
            return -0.5 * (self.chi_squared + n * math.log(2 * math.pi) - log_precision)
        if self.chi_squared == 0:
            return math.inf
        return -0.5 * (n + n * math.log(2 * math.pi * self.chi_squared / n) - log_precision)

    def _spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the free params: units, the curvature's eigenvalues and vectors in them, and which are only rounding."""
        curvature = self.curvature[np.ix_(self.free, self.free)]
        if not np.isfinite(curvature).all():
            curvature = np.zeros_like(curvature)  # a fit that failed: nothing is known
        diagonal = np.diagonal(curvature)
        unit = np.divide(1, np.sqrt(np.maximum(diagonal, 0)), where=diagonal > 0, out=np.zeros_like(diagonal))
        values, vectors = np.linalg.eigh(curvature * unit[:, None] * unit)
        small = values <= len(values) * np.finfo(values.dtype).eps * values.max(initial=0)
        return unit, values, vectors, small


def regular_inverse(normal: np.ndarray) -> np.ndarray:
    """The inverse of a curvature, [p, p]; NaN where rounding in it would show."""
    diagonal = normal.diagonal()
    if diagonal.min() > 0 and diagonal.max() < math.inf:
        unit = diagonal**-0.5
        units = unit[:, None] * unit
        with contextlib.suppress(np.linalg.LinAlgError):
            inverse = np.linalg.inv(normal * units)
            # The trace bounds the inverse of the smallest eigenvalue, and the largest is at most p.
            if 0 < inverse.trace() < _WELL_CONDITIONED:
                return (inverse + inverse.T) * (0.5 * units)
    return np.full_like(normal, np.nan)
