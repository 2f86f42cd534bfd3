"""Which rows of every batch one process takes.

Its rows are numbered as they are dealt; where the row of a number lies in the epoch follows from the two ranges that
it takes, of a full batch and of a smaller last one, so that nothing has to be listed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxfit import _checks


class Share(NamedTuple):
    """The rows of every batch that are wanted.

    Attributes:
        size: The rows in a full batch.
        rows: The rows of an epoch.
        start: Where they begin in a full batch.
        width: How many they are.
        last_start: Where they begin in a smaller last batch.
        last_width: How many they are there.
        is_all: Whether they are all rows.
    """

    size: int
    rows: int
    start: int
    width: int
    last_start: int
    last_width: int
    is_all: bool

    def before(self, place: int) -> int:
        """How many wanted rows lie before a place of the epoch."""
        if self.is_all:
            return place
        batch, inside = divmod(place, self.size)
        if batch < self.rows // self.size:
            return batch * self.width + min(max(inside - self.start, 0), self.width)
        return batch * self.width + min(max(inside - self.last_start, 0), self.last_width)

    def places(self, first: int, end: int) -> np.ndarray:
        """Where the wanted rows from one number to another lie in the epoch, int64 [end - first]."""
        full = self.rows // self.size
        cut = min(max(full * self.width, first), end)
        batch, inside = np.divmod(np.arange(first, cut), max(self.width, 1))
        last = np.arange(cut, end) + (full * (self.size - self.width) + self.last_start)
        return np.concatenate([batch * self.size + inside + self.start, last])

    def most(self, window: int) -> int:
        """Room for the wanted rows of any window of so many rows."""
        batches, rest = divmod(window, self.size)
        return min(window, batches * self.width + min(rest, self.width) + min(window, self.last_width))


def share_of(function: Callable[[int], Any] | None, size: int, rows: int) -> Share:
    """A share as `Files.deal` takes it.

    Args:
        function: Of a number of rows, to (start, stop); None for all.
        size: The rows in a full batch.
        rows: The rows of an epoch.

    Raises:
        TypeError: It is no function, or answers no pair of whole numbers.
        ValueError: It answers rows that a batch does not have.
    """
    if function is None:
        return Share(size, rows, 0, size, 0, rows % size, True)
    if not callable(function):
        raise TypeError(f"share is {_checks.describe(function)}; expected a function rows -> (start, stop), or None.")
    start, width = _answer(function, size)
    last = rows % size
    last_start, last_width = _answer(function, last) if last else (0, 0)
    return Share(size, rows, start, width, last_start, last_width, (width, last_width) == (size, last))


def _answer(function: Callable[[int], Any], rows: int) -> tuple[int, int]:
    """Where the wanted rows of a batch begin, and how many they are."""
    answer = function(rows)
    is_pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    if not is_pair or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in answer):
        raise TypeError(
            f"share answered {answer!r} for a batch of {rows} rows; expected a pair (start, stop) of whole numbers."
        )
    start, stop = map(int, answer)
    if not 0 <= start <= stop <= rows:
        raise ValueError(
            f"share answered {(start, stop)} for a batch of {rows} rows; expected 0 <= start <= stop <= {rows}."
        )
    return start, stop - start
