"""A run made up of numbers that are known: it calls a callback as the driver would."""

import dataclasses

import numpy as np

from jaxfit import Status, losses
from jaxfit.callbacks import Outcome, Run, Seen
from jaxfit.optimizers import Adam

STARTS = {"w": np.array([[3.0, 0.0], [0.0, 4.0]], np.float32), "b": np.zeros(2, np.float32)}


def model(params, x):
    """A dense layer."""
    return x @ params["w"] + params["b"]


@dataclasses.dataclass
class FakeRun:
    """What happens in it: step i has the loss losses[i], and epoch e ends with the validation loss 10 + e.

    The params after n steps are the starting ones plus n in each number of "b".
    """

    losses: np.ndarray
    optimizer: object = Adam(0.1)
    steps_per_epoch: int | None = None
    tells_steps_per_epoch: bool = True
    names: tuple[str, ...] = ()
    step: int = 0
    params: object = None
    loss: object = losses.mse

    def __post_init__(self):
        self.losses = np.asarray(self.losses, np.float32)
        self.params = STARTS if self.params is None else self.params
        told = self.steps_per_epoch if self.tells_steps_per_epoch else None
        self.run = Run(
            model, self.optimizer, self.loss, self.params, steps=len(self.losses), steps_per_epoch=told,
            batch_size=16, samples=160, step=self.step,
        )  # fmt: skip

    def seen(self, start, stop):
        """What a callback is told of the steps from start to stop."""
        per_epoch = self.steps_per_epoch
        first, last = (start // per_epoch, stop // per_epoch) if per_epoch else (0, 0)
        state = self.optimizer.init(None, dict(self.params))
        params = dict(self.params)
        if "b" in params:
            params["b"] = params["b"] + np.float32(stop)
        rows = self.losses[start:stop]
        return Seen(
            step=stop,
            epoch=last,
            history={"loss": rows, "gradient_norm": 2 * rows},
            epoch_history={name: index + 10.0 + np.arange(first, last) for index, name in enumerate(self.names)},
            optimizer=self.optimizer,
            state=state._replace(params=params),
            seconds=stop / 1000,
            run=self.run,
            is_epoch_end=bool(per_epoch) and stop % per_epoch == 0,
            is_last=stop == len(self.losses),
        )

    def drive(self, callback, calls, outcome=None):
        """Begins, calls after each of these numbers of steps, and ends; without an outcome as by an exception."""
        callback.begin(self.run)
        for start, stop in zip([self.step, *calls], calls, strict=False):
            callback(self.seen(start, stop))
        callback.end(outcome)


def completed(steps, loss=0.25):
    return Outcome(Status.COMPLETED, f"Took all {steps} steps.", loss, steps)
