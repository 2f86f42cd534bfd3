"""What the curvature of a loss at its minimum says of the params: covariance, standard errors, goodness of fit.

For squared errors this is the linear theory of least squares; for a negative log-likelihood, the inverse Fisher
information.
"""

from typing import NamedTuple

import numpy as np


class Evidence(NamedTuple):
    """What a second-order fit knows at its end.

    Attributes:
        curvature: J'HJ of the sum of the losses, [p, p].
        observations: How many losses were summed.
        chi_squared: The sum of the squared residuals, in units of sigma; None where the loss is another.
        absolute: Whether sigma is known in absolute terms, and the residuals do not scale it.
    """

    curvature: np.ndarray
    observations: int
    chi_squared: float | None
    absolute: bool

    @property
    def degrees_of_freedom(self) -> int:
        """Observations less params."""
        return self.observations - len(self.curvature)

    @property
    def undetermined(self) -> np.ndarray:
        """Which params the data do not determine, a bool [p]."""
        unit, _, vectors, small = self._spectrum()
        return (unit == 0) | (np.abs(vectors[:, small]) > 1e-4).any(axis=1)

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the params, [p, p]; infinite where the data do not determine them, or leave no freedom."""
        unit, values, vectors, small = self._spectrum()
        inverse = (vectors[:, ~small] / values[~small]) @ vectors[:, ~small].T * unit[:, None] * unit
        if self.chi_squared is not None:
            inverse *= 2  # the squared error has twice the curvature of a log-likelihood
            if not self.absolute:
                freedom = self.degrees_of_freedom
                inverse = inverse * (self.chi_squared / freedom) if freedom > 0 else np.full_like(inverse, np.inf)
        lost = self.undetermined
        inverse[lost, :] = inverse[:, lost] = np.inf
        return inverse

    def _spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Units of the params, eigenvalues and vectors of the curvature in them, and which values are only rounding."""
        diagonal = np.diagonal(self.curvature)
        unit = np.divide(1, np.sqrt(diagonal), where=diagonal > 0, out=np.zeros_like(diagonal))
        values, vectors = np.linalg.eigh(self.curvature * unit[:, None] * unit)
        small = values <= len(values) * np.finfo(values.dtype).eps * values.max(initial=0)
        return unit, values, vectors, small
