"""A fit told as `scipy.optimize.curve_fit` tells it: covariance, warnings and further output."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxfit._curve_request import Request
from jaxfit._status import FitWarning


class Found(NamedTuple):
    """An own fit that has converged.

    Attributes:
        params: Where it ended, [p].
        chi_squared: The sum of the squared residuals in units of sigma.
        inverse: The inverse of J'J of these residuals, [p, p]; NaN where it is too close to singular.
        steps: How often the function was evaluated.
        request: What was asked for.
        names: Those of the function's parameters, as far as it says.
        look: The function `params -> (residuals [m], J [m, p])`.
    """

    params: np.ndarray
    chi_squared: float
    inverse: np.ndarray
    steps: int
    request: Request
    names: tuple[str, ...]
    look: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def covariance(found: Found, absolute: bool) -> np.ndarray:
    """The covariance of the params, [p, p], by SciPy's rules; warns where it is not determined."""
    size = found.params.size
    freedom = found.request.y.size - size
    inverse = found.inverse
    if math.isnan(inverse[0, 0]):
        inverse, lost = _pseudo_inverse(found.look(found.params)[1])
        if lost.any():
            named = _undetermined(found, lost)
            if found.request.method == "lm":
                _warn(named)
                return np.full((size, size), np.inf)
            warnings.warn(f"{named} Their covariance is that of the pseudo-inverse.", FitWarning, stacklevel=3)
    if absolute:
        return inverse.copy()  # what comes from JAX is read-only
    if freedom == 0:
        _warn("There are as many parameters as data.")
        return np.full((size, size), np.inf)
    return inverse * (found.chi_squared / freedom)


def _warn(reason: str) -> None:
    from scipy.optimize import OptimizeWarning

    message = f"Covariance of the parameters could not be estimated. {reason}"
    warnings.warn(message, OptimizeWarning, stacklevel=4)


def _pseudo_inverse(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of J'J by the singular values of J, and which params it says nothing of, a bool [p]."""
    length = np.linalg.norm(jacobian, axis=0)
    unit = 1 / np.where(length > 0, length, 1)
    _, values, rows = np.linalg.svd(jacobian * unit, full_matrices=False)
    rounding = np.finfo(float).eps * max(jacobian.shape)
    small = values <= rounding * values[0]
    lost = (length == 0) | (np.abs(rows[small]) > 1e-4).any(axis=0)
    if lost.any():  # for SciPy's pseudo-inverse, in the units of the params
        unit = np.ones(len(length))
        _, values, rows = np.linalg.svd(jacobian, full_matrices=False)
        small = values <= rounding * values[0]
    root = unit[:, None] * rows[~small].T / values[~small]
    return root @ root.T, lost


def _undetermined(found: Found, lost: np.ndarray) -> str:
    """A sentence about the params that the data do not determine."""
    names = found.names if len(found.names) >= lost.size else tuple(f"p[{index}]" for index in range(lost.size))
    _, jacobian = found.look(found.request.start)
    still = lost & ~jacobian.any(axis=0)
    sentence = f"The data do not determine {_listed(names, lost)}."
    if still.any():
        sentence += f" At the starting values nothing depends on {_listed(names, still)}: try another p0."
    return sentence


def _listed(names: tuple[str, ...], chosen: np.ndarray) -> str:
    return ", ".join(name for name, named in zip(names, chosen, strict=False) if named)


def details(found: Found) -> tuple[dict[str, Any], str, int]:
    """SciPy's further output: a dict, a sentence and a number."""
    residuals, jacobian = found.look(found.params)
    told: dict[str, Any] = {"nfev": found.steps, "fvec": residuals}
    sentence = f"Converged: after {found.steps} evaluations there was nothing left to improve."
    if found.request.method != "lm":
        return told, sentence, 2
    import scipy.linalg

    factors: Any = scipy.linalg.qr(jacobian, mode="economic", pivoting=True)
    orthogonal, triangular, order = factors
    factor = np.zeros(jacobian.T.shape)
    factor[:, : len(order)] = triangular.T
    told |= {"fjac": factor, "ipvt": order, "qtf": orthogonal.T @ residuals}
    return told, sentence, 1
