"""Optimizers: frozen values whose numbers are leaves, with torch's names and arguments."""

from jaxfit.optimizers._adam import Adam, Adamax, AdamW, NAdam, RAdam
from jaxfit.optimizers._adaptive import Adadelta, Adagrad, RMSprop, Rprop
from jaxfit.optimizers._base import Info, Optimizer, State
from jaxfit.optimizers._first_order import SGD, FirstOrder, Optax
from jaxfit.optimizers._lbfgs import LBFGS

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
    "NAdam",
    "Optax",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "State",
]
