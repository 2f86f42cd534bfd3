"""What acts where a run no longer gets better: the end, or a smaller learning rate."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxfit import _checks
from jaxfit._callback import Best, Callback, Run, Seen, Stop

_MODES = ("min", "max")


class _Watch(Callback):
    """The part that all three share: whether the watched number got better, and for how long it did not."""

    def __init__(self, monitor: str, patience: int, least: float, mode: str, every: int | str):
        name = type(self).__name__
        if not isinstance(monitor, str):
            raise TypeError(f"{name}: monitor is {_checks.describe(monitor)}; expected a name such as 'loss'.")
        _checks.one_of(name, "mode", mode, _MODES)
        if not _checks.is_number(least) or not 0 <= least < math.inf:
            raise ValueError(f"{name}: min_delta is {least!r}; expected a finite number of at least 0.")
        if every != "epoch":
            _checks.count(f"{name}: every", every)
        self.monitor, self.patience, self.min_delta, self.mode = (
            monitor,
            _checks.count("patience", patience),
            least,
            mode,
        )
        self.every = every
        self._forget()

    def _forget(self) -> None:
        self._value = math.nan  # the best so far
        self._waited = 0

    def begin(self, run: Run) -> None:
        """Begins anew."""
        del run
        self._forget()

    def restart(self) -> None:
        """Begins anew."""
        self._forget()

    def _look(self, seen: Seen) -> bool | None:
        """Whether the watched number is better than ever; None where there is none to look at."""
        value = self._watched(seen)
        if value is None:
            return None
        sign = 1 if self.mode == "min" else -1
        better = sign * value < sign * self._value - self.min_delta or (
            math.isnan(self._value) and not math.isnan(value)
        )
        if better:
            self._value, self._waited = value, 0
        else:
            self._waited += 1
        return better

    def _watched(self, seen: Seen) -> float | None:
        if self.monitor in seen.epoch_history:
            values = seen.epoch_history[self.monitor]
            return float(values[-1]) if len(values) else None
        if self.monitor in seen.history:
            values = seen.history[self.monitor]
            return float(np.mean(values, dtype=np.float64)) if len(values) else None
        known = [*seen.epoch_history, "loss", "gradient_norm"]
        raise ValueError(
            f"{type(self).__name__}: monitor is {self.monitor!r}; this run has {', '.join(known)}. What is computed "
            "after an epoch comes from validation=(x, y) and metrics={...}."
        )

    def memory(self) -> dict[str, Any]:
        """The best number, and for how long it has been the best."""
        return {"value": self._value, "waited": self._waited}

    def recall(self, memory: dict[str, Any]) -> None:
        """Goes on from there."""
        self._value, self._waited = float(memory["value"]), int(memory["waited"])


class EarlyStopping(_Watch):
    """Ends a run whose validation loss, or another number, has not got better for a while.

    Args:
        monitor: What is watched: "validation_loss", a metric by its name in the history ("validation_accuracy"), or
            "loss", the mean loss of the steps since the last look.
        patience: How many looks without a better number end the run.
        min_delta: By how much it must be better to count, in its units.
        mode: Whether small or large numbers are good: "min" or "max".
        restore_best: Whether the result's params are those of the best look, not the last ones, however the run ends.
            `result.steps` is then the number of their steps; the history keeps all steps.
        every: When to look: after every "epoch", or every so many steps.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: One is out of range; in a run, there is no number of this name.

    Source: Prechelt (1998), "Early stopping - but when?"; the arguments are those of Keras' callback.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> adam, stop = jf.optimizers.Adam(0.1), jf.callbacks.EarlyStopping("loss", patience=3, every=50)
        >>> result = jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=10_000, callbacks=[stop])
        >>> result.status, result.steps < 10_000
        (Status.STOPPED, True)
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 5,
        *,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best: bool = True,
        every: int | str = "epoch",
    ):
        super().__init__(monitor, patience, min_delta, mode, every)
        self.restore_best = restore_best

    def _forget(self) -> None:
        super()._forget()
        self._best: Best | None = None

    def __call__(self, seen: Seen) -> Stop | None:
        """Looks, and asks for the end where patience is over."""
        better = self._look(seen)
        if better:
            self._best = Best(seen.step, seen.state)
        if better is not False or self._waited < self.patience:
            return None
        looks = f"{self._waited} look{'s' * (self._waited != 1)}"
        return Stop(f"{self.monitor} has not been better than {self._value:.6g} for {looks}.")

    def best(self) -> Best | None:
        """The params of the best look, if they are to be restored."""
        return self._best if self.restore_best else None

    def memory(self) -> dict[str, Any]:
        """Also the state of the best look."""
        best = (
            {} if self._best is None or not self.restore_best else {"step": self._best.step, "state": self._best.state}
        )
        return super().memory() | best

    def recall(self, memory: dict[str, Any]) -> None:
        """Goes on from there."""
        super().recall(memory)
        if "state" in memory:
            self._best = Best(int(memory["step"]), memory["state"])


class StopOnPlateau(_Watch):
    """Ends a run whose training loss no longer falls: of a mean over many steps, so that batches may be noisy.

    Args:
        every: The steps over which the loss is averaged.
        patience: How many such means, none of them lower than the lowest before, end the run.
        min_delta: By how much a mean must be lower to count, in units of the loss.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> adam, stop = jf.optimizers.Adam(0.1), jf.callbacks.StopOnPlateau(100)
        >>> jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=10_000, callbacks=[stop]).status
        Status.STOPPED
    """

    def __init__(self, every: int = 1000, patience: int = 3, *, min_delta: float = 0.0):
        super().__init__("loss", patience, min_delta, "min", _checks.count("StopOnPlateau: every", every))

    def __call__(self, seen: Seen) -> Stop | None:
        """Looks, and asks for the end where patience is over."""
        if self._look(seen) is not False or self._waited < self.patience:
            return None
        return Stop(
            f"the mean loss of {self.every} steps has not been below {self._value:.6g} for {self._waited} means."
        )


class ReduceOnPlateau(_Watch):
    """Makes the learning rate smaller where a number no longer gets better. Compiles nothing.

    Args:
        monitor: What is watched, as in `EarlyStopping`.
        factor: What the learning rate is multiplied by, between 0 and 1.
        patience: How many looks without a better number are let pass; the one after them makes it smaller.
        min_delta: By how much it must be better to count, in its units.
        mode: Whether small or large numbers are good: "min" or "max".
        least: The smallest learning rate.
        every: When to look: after every "epoch", or every so many steps.

    Raises:
        TypeError: In a run, the optimizer has no learning rate that is one number (it may be a schedule).
        ValueError: An argument is out of range; in a run, there is no number of this name.

    Source: the arguments are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> adam, slower = jf.optimizers.Adam(0.1), jf.callbacks.ReduceOnPlateau("loss", patience=2, every=50)
        >>> result = jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=2_000, callbacks=[slower])
        >>> result.loss < 1e-10
        True
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        min_delta: float = 0.0,
        mode: str = "min",
        least: float = 0.0,
        every: int | str = "epoch",
    ):
        super().__init__(monitor, patience, min_delta, mode, every)
        for name, value, below in (("factor", factor, 1.0), ("least", least, math.inf)):
            if not _checks.is_number(value) or not 0 <= value < below or (name == "factor" and value == 0):
                raise ValueError(f"ReduceOnPlateau: {name} is {value!r}; expected a number from 0 to below {below}.")
        self.factor, self.least = factor, least

    def begin(self, run: Run) -> None:
        """Begins anew."""
        super().begin(run)
        rate = getattr(run.optimizer, "learning_rate", None)
        if not _checks.is_number(rate):
            raise TypeError(
                f"ReduceOnPlateau needs an optimizer whose learning_rate is one number; optimizer is {run.optimizer!r}."
            )

    def __call__(self, seen: Seen) -> Any:
        """Looks, and gives the optimizer to go on with where patience is over."""
        if self._look(seen) is not False or self._waited <= self.patience:
            return None
        self._waited = 0
        rate = max(float(seen.optimizer.learning_rate) * self.factor, self.least)  # pyright: ignore[reportAttributeAccessIssue]
        return dataclasses.replace(seen.optimizer, learning_rate=rate)  # pyright: ignore[reportArgumentType]
