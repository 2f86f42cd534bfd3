"""What can watch a run, and stop it: progress, TensorBoard, checkpoints, early stopping, logs.

Given to `fit` as `callbacks=[...]`. A function of a `Seen` is a callback too.
"""

from typing import TYPE_CHECKING

from jaxfit._callback import Best, Callback, Outcome, Run, Seen, Stop
from jaxfit._lazy import attach

if TYPE_CHECKING:
    from jaxfit.callbacks._checkpoint import Checkpoint
    from jaxfit.callbacks._csv_log import CSVLog
    from jaxfit.callbacks._plateau import EarlyStopping, ReduceOnPlateau, StopOnPlateau
    from jaxfit.callbacks._progress import Progress
    from jaxfit.callbacks._tensorboard import TensorBoard

__all__ = [
    "Best",
    "CSVLog",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "Outcome",
    "Progress",
    "ReduceOnPlateau",
    "Run",
    "Seen",
    "Stop",
    "StopOnPlateau",
    "TensorBoard",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "CSVLog": "_csv_log",
        "Checkpoint": "_checkpoint",
        "EarlyStopping": "_plateau",
        "Progress": "_progress",
        "ReduceOnPlateau": "_plateau",
        "StopOnPlateau": "_plateau",
        "TensorBoard": "_tensorboard",
    },
)
