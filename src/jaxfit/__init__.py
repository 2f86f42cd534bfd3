"""jaxfit fits any differentiable model to data with one call: a curve, a million small curves, or a network."""

from typing import TYPE_CHECKING

from jaxfit import losses, optimizers
from jaxfit._fit import fit
from jaxfit._lazy import attach
from jaxfit._result import FitResult
from jaxfit._status import FitWarning, Status
from jaxfit._traced import TracedResult

if TYPE_CHECKING:
    from jaxfit import callbacks, data, metrics, models, nn, plotting
    from jaxfit._curve_fit import curve_fit
    from jaxfit._fit_many import fit_many
    from jaxfit._results import FitResults
    from jaxfit._saved import load, save
    from jaxfit._studies import bootstrap, ensemble, multistart, sweep

__version__ = "0.1.0"

__all__ = [
    "FitResult",
    "FitResults",
    "FitWarning",
    "Status",
    "TracedResult",
    "bootstrap",
    "callbacks",
    "curve_fit",
    "data",
    "ensemble",
    "fit",
    "fit_many",
    "load",
    "losses",
    "metrics",
    "models",
    "multistart",
    "nn",
    "optimizers",
    "plotting",
    "save",
    "sweep",
]


__getattr__, __dir__ = attach(
    __name__,
    {
        "FitResults": "_results",
        "bootstrap": "_studies",
        "callbacks": "callbacks",
        "curve_fit": "_curve_fit",
        "data": "data",
        "ensemble": "_studies",
        "fit_many": "_fit_many",
        "load": "_saved",
        "metrics": "metrics",
        "models": "models",
        "multistart": "_studies",
        "nn": "nn",
        "plotting": "plotting",
        "save": "_saved",
        "sweep": "_studies",
    },
)
