"""jaxfit fits any differentiable model to data with one call: a curve, a million small curves, or a network."""

from typing import TYPE_CHECKING, Any

from jaxfit import losses, optimizers
from jaxfit._fit import fit
from jaxfit._result import FitResult
from jaxfit._status import FitWarning, Status

if TYPE_CHECKING:
    from jaxfit import plotting

__version__ = "0.1.0"

__all__ = ["FitResult", "FitWarning", "Status", "fit", "losses", "optimizers", "plotting"]


def __getattr__(name: str) -> Any:
    """Loads the parts that few need when they are first asked for."""
    if name == "plotting":
        import importlib

        return importlib.import_module("jaxfit.plotting")
    raise AttributeError(f"module 'jaxfit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
