"""What a callback is: it looks at a run between its chunks of compiled steps, and may stop it or change its optimizer.

A callback is told what happened as NumPy arrays on the host. Nothing of it runs inside compiled code.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxfit import _mesh
from jaxfit._status import Status
from jaxfit.optimizers import Optimizer, State


class Run(NamedTuple):
    """What a run is, told to every callback before its first step.

    Attributes:
        model: The user's model: a function or a module.
        optimizer: Who minimises.
        loss: The loss function.
        params: The starting values, a pytree of NumPy arrays.
        steps: How many steps it takes; at most so many where the optimizer stops by itself; None where only the
            epochs are known.
        epochs: How many passes over the data it makes; None where only the steps are known.
        steps_per_epoch: None where there are no epochs, or where nobody knows.
        samples: The samples in the data; None for a sampler or a stream.
        batch_size: The samples in a batch; None for all of them, and for a sampler or a stream.
        step: The step that it goes on from: 0, or that of the checkpoint that it was resumed from.
        identity: What makes it this run and no other, by the names of `fit`'s arguments as JSON has it: a function that
            finds that out, because it reads all the data.
    """

    model: Any
    optimizer: Optimizer
    loss: Callable
    params: Any
    steps: int | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    samples: int | None = None
    batch_size: int | None = None
    step: int = 0
    identity: Callable[[], dict[str, Any]] = dict


@dataclasses.dataclass(frozen=True)
class Seen:
    """What happened since a callback was last called.

    Attributes:
        step: The steps taken so far; 1,000 means those of number 0 to 999.
        epoch: The epochs finished so far.
        history: What was recorded of every step since the last call: NumPy arrays [steps, ...] by name, always with
            "loss" and "gradient_norm". Row i belongs to step `step - rows + i`, and to the params that it started from.
        epoch_history: Validation loss and metrics of every epoch that ended since the last call: NumPy arrays [epochs]
            by name; empty arrays where none did. Entry i belongs to the epoch of number `epoch - entries + i`.
        optimizer: Who minimises, with its hyperparameters as they are now.
        state: The optimizer's state, with the params inside.
        seconds: Since the run began.
        run: What the run is.
        is_epoch_end: Whether an epoch has just ended.
        is_last: Whether this is the last call of the run.
    """

    step: int
    epoch: int
    history: dict[str, Any]
    epoch_history: dict[str, np.ndarray]
    optimizer: Optimizer
    state: State
    seconds: float
    run: Run
    is_epoch_end: bool = False
    is_last: bool = False

    @functools.cached_property
    def params(self) -> Any:
        """The params after `step` steps, a pytree of NumPy arrays; fetched from the device when first asked for.

        Of params of which other processes have parts, the arrays as they are.
        """
        return _mesh.fetched(self.optimizer.answer(self.state))

    @functools.cached_property
    def learning_rate(self) -> float | None:
        """The learning rate of the last step taken; None where the optimizer has none, or does not tell."""
        rate: Any = getattr(self.optimizer, "learning_rate", None)
        if callable(rate):  # a schedule counts updates, not steps
            rate = rate(max(self.step - 1, 0) // max(getattr(self.optimizer, "accumulate", 1) or 1, 1))
        return None if rate is None or np.ndim(rate) else float(rate)


class Stop(NamedTuple):
    """What a callback returns to end the run.

    Attributes:
        reason: Why, as a sentence: it goes into the result's message.
    """

    reason: str


class Best(NamedTuple):
    """Where a run was at its best.

    Attributes:
        step: After so many steps.
        state: The optimizer's state there, with the params inside.
    """

    step: int
    state: State


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: A `Status`.
        message: The same as a sentence.
        loss: The loss of the params that it ended with.
        steps: The steps taken to them.
    """

    status: Status
    message: str
    loss: float
    steps: int


class Callback:
    """The base of all callbacks, each of whose methods does nothing; a subclass has those that it needs.

    A plain function of a `Seen` is a callback too.

    Attributes:
        every: When it is called: a number of steps, "epoch" for after every epoch, or None for whenever the run comes
            up for air, a few times a second. Whatever it says, it is called once more at the end.
        writes: Whether it writes or draws, so that of several processes only the first calls it.
    """

    every: int | str | None = None
    writes: bool = False

    def begin(self, run: Run) -> None:
        """The run begins, or goes on from a checkpoint. A callback that was used before forgets the run before."""

    def __call__(self, seen: Seen) -> Any:
        """What happened since the last call.

        Returns:
            None to go on; a `Stop` (or True, or a reason as a string) to end the run; an optimizer of the same
            structure to go on with, such as the run's with another learning rate. Of several, the last one's counts.
        """

    def restart(self) -> None:
        """The optimizer starts anew from the first params, by a more careful rule, because it ended badly."""

    def best(self) -> Best | None:
        """Where the params of the result are to come from; None for the end of the run."""
        return None

    def end(self, outcome: Outcome | None) -> None:
        """The run is over: the last call. The outcome is None where it ended by an exception."""

    def memory(self) -> dict[str, Any]:
        """What it must not forget where the run is interrupted: numbers, strings and optimizer states by name."""
        return {}

    def recall(self, memory: dict[str, Any]) -> None:
        """The memory that a run goes on with; called after `begin`."""
