"""How a run ended: what every driver hands back, and the verdict on it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit._program import Task
from jaxfit._status import Status
from jaxfit.optimizers import Optimizer, State


class Ended(NamedTuple):
    """What a driver hands back.

    Attributes:
        state: The optimizer's state at the last params whose loss is finite, or at the start where not even theirs is.
        loss: The loss of these params.
        steps: The steps taken to these params.
        history: What was recorded at every step: a dict of pytrees of NumPy arrays [steps, ...].
        epochs: What was computed after every epoch: a dict of NumPy arrays [epochs].
        converged: Whether the optimizer said so.
        failure: What was not finite, as a sentence; None where all was.
        data_ended: Whether the batches ran out before the steps did.
        compile_seconds: Spent on compilation.
        run_seconds: Spent on everything else.
        why: The status and its sentence where somebody asked for the end, or a batch could not be had.
        skipped: How many updates were left out, whose loss or gradient was not finite.
        best: The step that the params are of, where a callback found them better than the last; None for the last.
        stand: Where a run in chunks stood at its end.
        look: A function that gives the loss at another state of such a run, on its last batch.
        total: By what the loss is multiplied to be the sum of the losses of all samples, of a stream that was summed
            over; None elsewhere.
        observations: How many numbers of y these have.
        devices: The mesh that it ran on, in words; None for one device.
    """

    state: State
    loss: float
    steps: int
    history: dict[str, Any]
    epochs: dict[str, np.ndarray]
    converged: bool
    failure: str | None
    data_ended: bool
    compile_seconds: float
    run_seconds: float
    why: tuple[Status, str] | None = None
    skipped: int = 0
    best: int | None = None
    stand: Any = None
    look: Any = None
    total: float | None = None
    observations: int = 0
    devices: str | None = None

    def verdict(self, optimizer: Optimizer) -> tuple[Status, str]:
        """The status of the fit, and its sentence with the figures of this fit."""
        status, message = self._verdict(optimizer)
        if self.skipped:
            one = self.skipped == 1
            message += f" {self.skipped} update{'s' * (not one)} with a loss or gradient that was not finite "
            message += f"{'was' if one else 'were'} skipped."
        if self.best is not None:
            message += f" The params are those after step {self.best}, the best."
        return status, message

    def _verdict(self, optimizer: Optimizer) -> tuple[Status, str]:
        losses = self.history["loss"]
        rows = len(losses)
        finite = losses[np.isfinite(losses)] if self.skipped else losses
        first = finite[0] if len(finite) else self.loss
        # By how much the loss rose; what is to be made large may do so.
        growth = 0.0 if getattr(optimizer, "maximize", False) else self.loss - first
        if self.failure is not None:
            status = Status.DIVERGED if growth > 9 * abs(first) else Status.NON_FINITE
            return status, f"{self.failure} {status.hint} The params are the last whose loss was finite."
        if self.skipped == rows > 0 or not math.isfinite(self.loss):
            return Status.NON_FINITE, f"No step had a finite loss and gradient. {Status.NON_FINITE.hint}"
        if self.converged:
            return Status.CONVERGED, f"Converged after {rows} step{'s' * (rows != 1)}."
        if self.why is not None:
            return self.why
        # A loss that ends a thousand times above its start, and still rises, is on its way to infinity.
        if growth > 1e3 * abs(first) > 0 and self.loss > losses[rows // 2]:
            return Status.DIVERGED, f"The loss went from {first:.4g} to {self.loss:.4g}. {Status.DIVERGED.hint}"
        if self.data_ended:
            return Status.DATA_ENDED, f"The batches ended after step {rows}. {Status.DATA_ENDED.hint}"
        if optimizer.default_steps is not None:
            return Status.STEP_LIMIT, f"Not converged after {rows} steps. {Status.STEP_LIMIT.hint}"
        return Status.COMPLETED, f"Took all {rows} steps."


def loss_failure(task: Task, losses: Any, found: float, step: int) -> str:
    """What to say of a loss that is not finite after so many steps."""
    if step == 0:
        # Labels in memory have been looked at; those that a sampler draws have not, and indices never.
        drawn = task.classes is not None and task.data is None
        indices = task.data is not None and any(leaf.dtype.kind in "iu" for leaf in jax.tree.leaves(task.data.x))
        more = " Labels or indices out of range make it so too." if drawn or (indices and task.network) else ""
        return f"The loss is {found} at the starting params.{more}"
    return f"The loss went from {losses[0]:.4g} to {losses[step - 1]:.4g} and was {found} after step {step}."


def gradient_failure(loss: float, step: int) -> str:
    """What to say of a gradient that is not finite after so many steps."""
    where = "at the starting params" if step == 0 else f"after step {step}"
    return f"The gradient is not finite {where}, where the loss is {loss:.4g}."
