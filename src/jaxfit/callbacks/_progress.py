"""How far a run is, on one line of a terminal or a notebook."""

import sys
from typing import Any

import numpy as np

from jaxfit import _tell
from jaxfit._callback import Callback, Outcome, Run, Seen


class Progress(Callback):
    """A bar on stderr with steps or epochs, the loss, what the last epoch brought, speed and the time that is left.

    `fit` has one by itself where a run will be long and stderr is a terminal or a notebook; `progress=True` asks for
    it always. Where stderr is a file, nothing is drawn but the last line.

    Raises:
        ImportError: rich is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> adam = jf.optimizers.Adam(0.1)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> watch = [jf.callbacks.Progress()]
        >>> jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=1000, callbacks=watch).steps
        1000
    """

    writes = True

    def __init__(self):
        self._bar: Any = None
        self._task: Any = None
        self._shown: dict[str, Any] = {}

    def begin(self, run: Run) -> None:
        """Draws the bar where the run begins."""
        self._close()
        self._bar = _tell.lively()
        by_epochs = run.steps is None
        total = run.epochs if by_epochs else run.steps
        # A run that stops by itself has a limit, not a goal.
        total = None if run.optimizer.default_steps is not None and total == run.optimizer.default_steps else total
        self._shown, self._total = {}, total
        done = 0 if by_epochs else run.step
        self._task = self._bar.add_task("epochs" if by_epochs else "steps", total=total, completed=done, shown="")
        self._bar.start()

    def __call__(self, seen: Seen) -> None:
        """Moves the bar on."""
        if self._bar is None:
            return
        latest = {"loss": seen.history["loss"], **seen.epoch_history}
        self._shown |= {name: values[-1] for name, values in latest.items() if len(values) and np.ndim(values) == 1}
        numbers = [f"{name} {float(value):.4g}" for name, value in self._shown.items()]
        if seen.run.steps is not None and seen.run.epochs is not None:
            numbers.insert(0, f"epoch {seen.epoch}/{seen.run.epochs}")
        done = seen.epoch if seen.run.steps is None else seen.step
        more = {"total": done} if seen.is_last and self._total is None else {}  # which is all there will be
        self._bar.update(self._task, completed=done, shown="  ".join(numbers), refresh=True, **more)

    def end(self, outcome: Outcome | None) -> None:
        """Leaves the bar as it is."""
        del outcome
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def is_watched() -> bool:
    """Whether somebody looks on: stderr is a terminal, or a notebook shows what is drawn."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ == "ZMQInteractiveShell":
        return True
    return bool(getattr(sys.stderr, "isatty", lambda: False)())
