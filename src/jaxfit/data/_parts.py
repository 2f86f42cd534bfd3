"""What the readers of all formats have in common: a part of the data, which is one file, and how rows are taken."""

import os
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxfit import _checks

PIECE_BYTES = 1 << 20  # what is read at once: enough to keep a disk busy
_MOST_BLOCKS = 1 << 20  # an order of so many blocks is still no matter


class Values(Protocol):
    """Rows that have been read: an array, or what becomes one where it is asked for some of them."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


Pieces = Generator[tuple[Values, Values], None, None]  # rows (x, y), piece by piece
Chosen = Generator[tuple[np.ndarray, np.ndarray], None, None]


class Rows(NamedTuple):
    """What x or y is.

    Attributes:
        shape: The shape of one row.
        dtype: As it is in the file.
        columns: The columns it is made of; none for an array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    columns: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The memory that a row takes."""
        return max(self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64)), 1)


class Part(Protocol):
    """A file, or what else the data are a part of.

    Attributes:
        name: What it is called in messages.
        title: What it is called where it lies: the name without the folder.
        size: Its bytes.
        bounds: Where its blocks begin among its rows, and at the end the number of its rows, int64 [blocks + 1]. Within
            a block rows are read forward.
        x: What x is.
        y: What y is.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def bounds(self) -> np.ndarray: ...
    @property
    def x(self) -> Rows: ...
    @property
    def y(self) -> Rows: ...

    def read(self, block: int, start: int) -> Pieces:
        """The rows (x, y) of a block from its row `start` on, in pieces of any number of rows.

        Raises:
            OSError: The file is not what it was.
            ValueError: What is in it is malformed.
        """
        ...

    def choose(self, block: int, rows: np.ndarray) -> Chosen | None:
        """Some rows (x, y) of a block, without those between where that saves work; None where only `read` can.

        Args:
            block: The block.
            rows: The numbers of the rows in the block, ascending.

        Raises:
            OSError: The file is not what it was.
            ValueError: What is in these rows is malformed.
        """
        ...


def even_bounds(rows: int, block: int) -> np.ndarray:
    """Blocks of so many rows each, but the last."""
    return np.append(np.arange(0, rows, block, dtype=np.int64), rows)


def block_rows(window: int, rows: int = 0) -> int:
    """The rows in a block where the file leaves that open: many blocks in a window, for rows to meet many others."""
    return max(1, window // 64, -(-rows // _MOST_BLOCKS))


def check_size(name: str, found: int, expected: int, row: int) -> None:
    """Raises OSError where a file has changed."""
    if found != expected:
        raise OSError(
            f"{name} has changed from {expected} to {found} bytes while it is being read (at row {row}); expected the "
            "same file until the fit has ended."
        )


def size_of(path: str) -> int:
    """The bytes of a file, which is there and not empty."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; expected a file.")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is a folder; expected a file, or a list of files.")
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes); expected a file with rows.")
    return size


def places(path: str, argument: str, names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Where columns are among those of a file.

    Raises:
        ValueError: One is not there, or is there twice.
    """
    found = []
    for name in names:
        if known.count(name) > 1:
            raise ValueError(f"{path} has {known.count(name)} columns of the name {name!r} ({argument}); expected one.")
        if name not in known:
            shown = ", ".join(map(repr, known[:20])) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            way_out = _checks.choices(name, known)
            raise ValueError(f"{path} has no column {name!r} ({argument}): {way_out} The file has {shown}.")
        found.append(known.index(name))
    return found


def check_numbers(name: str, what: str, dtype: np.dtype) -> None:
    """Raises TypeError where an array in a file does not hold numbers."""
    if dtype.kind not in "biufc":
        raise TypeError(f"{what} in {name} is of dtype {dtype}; expected numbers.")


def take_over(
    out: np.ndarray, values: np.ndarray, name: str, what: str, columns: Sequence[str], numbers: range | np.ndarray
) -> None:
    """Writes rows of a file into an array of the dtype that is wanted.

    Args:
        out: Where to, [rows, ...].
        values: The rows, [rows, ...].
        name: The file.
        what: "x" or "y".
        columns: The names of its columns; none for an array.
        numbers: The numbers of the rows in the file.

    Raises:
        ValueError: There is a NaN, an infinity, or a number that the dtype cannot hold.
    """
    with np.errstate(all="ignore"):
        out[...] = values
        if out.dtype.kind in "fc":
            # One pass without a temporary array; the sum of finite numbers can overflow, so a bad sum proves nothing.
            if np.isfinite(out.sum()):
                return
            sound = np.isfinite(out)
        elif out.dtype == values.dtype:
            return
        else:
            sound = out == values
    if sound.all():
        return
    place = np.argwhere(~sound)[0].tolist()
    value: Any = values[tuple(place)]
    fault = f"which {out.dtype} cannot hold: give another dtype"
    if value.dtype.kind in "fc" and not np.isfinite(value):
        fault = "expected finite numbers: drop or mend such rows"
    where = f" at {place[1:]}" if len(place) > 1 else ""
    if columns:
        where = f" in column {columns[place[1] if len(place) > 1 else 0]!r}"
    raise ValueError(f"{name}: {what} of row {numbers[place[0]]} (counted from 0) is {value!s}{where}; {fault}.")
