"""The history of a run on the host."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


class Log:
    """The history of a run on the host: of every step and of every epoch, in arrays that grow."""

    def __init__(self):
        self.steps = 0
        self.epochs = 0
        self._rows: dict[str, Any] = {}
        self._looks: dict[str, Any] = {}

    def add_steps(self, rows: dict[str, Any], count: int) -> None:
        """Appends the first `count` rows of steps."""
        self._rows = {name: _appended(self._rows.get(name), self.steps, table, count) for name, table in rows.items()}
        self.steps += count

    def add_epochs(self, looks: dict[str, Any], count: int) -> None:
        """Appends the first `count` entries of epochs."""
        if self.epochs == 0:
            self._looks = {}  # whose shapes were not known
        self._looks = {
            name: _appended(self._looks.get(name), self.epochs, table, count) for name, table in looks.items()
        }
        self.epochs += count

    def expect(self, names: Iterable[str]) -> None:
        """Names what will be computed after the epochs."""
        self._looks = {name: np.zeros(0, np.float32) for name in names}

    def skipped(self) -> int:
        """How many steps had a loss or a gradient that was not finite."""
        rows = self.rows()
        sound = [np.isfinite(rows[name]) for name in ("loss", "gradient_norm") if name in rows]
        return int((~np.logical_and.reduce(sound)).sum()) if sound else 0

    def rows(self, start: int = 0) -> dict[str, Any]:
        """What was recorded of the steps from `start` on."""
        return jax.tree.map(lambda table: table[start : self.steps], self._rows)

    def looks(self, start: int = 0) -> dict[str, np.ndarray]:
        """What was computed after the epochs from `start` on."""
        return jax.tree.map(lambda table: table[start : self.epochs], self._looks)

    def cut(self, steps: int, epochs: int) -> None:
        """Forgets the steps and the epochs from these numbers on."""
        self.steps, self.epochs = min(self.steps, steps), min(self.epochs, epochs)


def _appended(table: Any, filled: int, more: Any, count: int) -> Any:
    def append(rows: Any, entries: Any) -> np.ndarray:
        entries = np.asarray(entries)[:count]
        if rows is None or len(rows) < filled + count:
            grown = np.empty((max(2 * (filled + count), 64), *entries.shape[1:]), entries.dtype)
            if rows is not None:
                grown[:filled] = rows[:filled]
            rows = grown
        rows[filled : filled + count] = entries
        return rows

    return (
        jax.tree.map(lambda entries: append(None, entries), more)
        if table is None
        else jax.tree.map(append, table, more)
    )
