"""jaxfit fits any differentiable model to data with one call: a curve, a million small curves, or a network."""

from typing import TYPE_CHECKING

from jaxfit import losses, optimizers
from jaxfit._fit import fit
from jaxfit._lazy import attach
from jaxfit._result import FitResult
from jaxfit._status import FitWarning, Status
from jaxfit._traced import TracedResult

if TYPE_CHECKING:
    from jaxfit import metrics, models, nn, plotting
    from jaxfit._curve_fit import curve_fit
    from jaxfit._fit_many import fit_many
    from jaxfit._results import FitResults
    from jaxfit._studies import bootstrap, ensemble, multistart, sweep

__version__ = "0.1.0"

__all__ = [
    "FitResult",
    "FitResults",
    "FitWarning",
    "Status",
    "TracedResult",
    "bootstrap",
    "curve_fit",
    "ensemble",
    "fit",
    "fit_many",
    "losses",
    "metrics",
    "models",
    "multistart",
    "nn",
    "optimizers",
    "plotting",
    "sweep",
]


__getattr__, __dir__ = attach(
    __name__,
    {
        "FitResults": "_results",
        "bootstrap": "_studies",
        "curve_fit": "_curve_fit",
        "ensemble": "_studies",
        "fit_many": "_fit_many",
        "metrics": "metrics",
        "models": "models",
        "multistart": "_studies",
        "nn": "nn",
        "plotting": "plotting",
        "sweep": "_studies",
    },
)
