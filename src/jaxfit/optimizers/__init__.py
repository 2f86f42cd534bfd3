"""Optimizers: frozen values whose numbers are leaves, with torch's names and arguments."""

from typing import TYPE_CHECKING

from jaxfit._lazy import attach
from jaxfit.optimizers._base import Info, Optimizer, State
from jaxfit.optimizers._first_order import SGD, FirstOrder, Optax

if TYPE_CHECKING:
    from jaxfit.optimizers._adam import Adam, Adamax, AdamW, NAdam, RAdam
    from jaxfit.optimizers._adaptive import Adadelta, Adagrad, RMSprop, Rprop
    from jaxfit.optimizers._closed_form import LinearLeastSquares
    from jaxfit.optimizers._lbfgs import LBFGS
    from jaxfit.optimizers._levenberg_marquardt import LevenbergMarquardt

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "FirstOrder",
    "Info",
    "LevenbergMarquardt",
    "LinearLeastSquares",
    "NAdam",
    "Optax",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "State",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Adadelta": "_adaptive",
        "Adagrad": "_adaptive",
        "Adam": "_adam",
        "AdamW": "_adam",
        "Adamax": "_adam",
        "LBFGS": "_lbfgs",
        "LevenbergMarquardt": "_levenberg_marquardt",
        "LinearLeastSquares": "_closed_form",
        "NAdam": "_adam",
        "RAdam": "_adam",
        "RMSprop": "_adaptive",
        "Rprop": "_adaptive",
    },
)
