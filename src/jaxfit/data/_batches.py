"""Deals the batches of files from one window of rows after another."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxfit import _checks
from jaxfit.data._parts import Part, Pieces, Rows, take_over
from jaxfit.data._shuffle import Order, order

_WINDOW_BYTES = 1 << 26


class Files:
    """An iterable of the batches (x, y) of files; each `iter` is an epoch, those of number 0, 1, 2 and so on.

    Attributes:
        files: The paths, or a word for what is in memory.
        rows: The rows in all files.
        batch_size: The rows in a batch; the last of an epoch may have fewer.
        shuffle: Whether each epoch has an order of its own.
        key: What the order is drawn from, as an int.
        window: The rows that are held in memory at once.
    """

    def __init__(
        self,
        parts: list[Part],
        kinds: tuple[Rows, Rows],
        batch_size: int,
        seed: tuple[int, ...] | None,
        words: tuple[int, ...],
        window: int | None,
    ):
        self._parts, self._kinds, self._seed = parts, kinds, seed
        self.files = tuple(part.name for part in parts)
        self.batch_size, self.shuffle = batch_size, seed is not None
        self.key = sum(word << 32 * at for at, word in enumerate(reversed(words)))
        blocks = [np.diff(part.bounds) for part in parts]
        self._bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(blocks))])
        self._first_blocks = np.cumsum([0, *map(len, blocks)])
        self.rows = int(self._bounds[-1])
        held = max(1, _WINDOW_BYTES // (kinds[0].bytes + kinds[1].bytes))
        self.window = min(window or held, self.rows)
        self._epoch = 0

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> "Batches":
        epoch, self._epoch = self._epoch, self._epoch + 1
        return Batches(self, epoch)

    def __repr__(self) -> str:
        titles = [part.title for part in self._parts]
        shown = ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "")
        settings = f"batch_size={self.batch_size}, shuffle={self.shuffle}, key={self.key}"
        return f"Files({shown}: {self.rows:,} rows, {settings})"

    def set_epoch(self, number: int) -> None:
        """Says which epoch the next `iter` is; those after it follow."""
        self._epoch = _checks.count("number", number, least=0)

    @property
    def layout(self) -> dict[str, Any]:
        """What the batches are made of: the same wherever the files lie, and JSON can write it."""
        x, y = self._kinds
        return {
            "files": [part.title for part in self._parts],
            "bytes": [part.size for part in self._parts],
            "rows": self.rows,
            "blocks": len(self._bounds) - 1,
            "x": f"{x.dtype}{list(x.shape)} {' '.join(x.columns)}".strip(),
            "y": f"{y.dtype}{list(y.shape)} {' '.join(y.columns)}".strip(),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "key": self.key,
            "window": self.window,
        }

    @property
    def identity(self) -> str:
        """The layout as a text, by which a checkpoint knows its data again."""
        return json.dumps(self.layout)

    def order(self, epoch: int) -> Order:
        """The order of an epoch."""
        return order(self._bounds, self.window, self._seed, epoch)

    def open(self, block: int, start: int) -> tuple[Part, int, Pieces]:
        """The file of a block, the row there of the block's row `start`, and the rows from there on."""
        at = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        part, inside = self._parts[at], block - int(self._first_blocks[at])
        return part, int(part.bounds[inside]) + start, part.read(inside, start)


class Batches(Iterator[tuple[np.ndarray, np.ndarray]]):
    """The batches of one epoch, which can be left and resumed at any of them."""

    def __init__(self, files: Files, epoch: int):
        self._files = files
        self._begin(epoch, 0)

    def _begin(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch = epoch, batch
        self._order: Order = self._files.order(epoch)
        self._close()

    def _close(self) -> None:
        self._window: tuple[np.ndarray, np.ndarray] | None = None
        self._permutation: np.ndarray | None = None
        self._number = -1  # of the window that is held
        self._source = _Source(self._files)

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        return self.next_batches(1)[0]

    def next_batches(self, most: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        """The next batches, one behind the other in one pair (x, y), and how many they are.

        Args:
            most: At most so many; fewer where the epoch ends, whose smaller last batch comes alone.

        Raises:
            StopIteration: The epoch is over.
        """
        files, first = self._files, self._batch * self._files.batch_size
        if first >= files.rows:
            self._close()
            raise StopIteration
        count = max(min(most, (files.rows - first) // files.batch_size), 1)
        last = min(first + count * files.batch_size, files.rows)
        batch = tuple(np.empty((last - first, *rows.shape), rows.dtype) for rows in files._kinds)
        done = 0
        while done < last - first:
            number, at = divmod(first + done, files.window)
            try:
                held = self._hold(number)
            except (OSError, ValueError):
                count = done // files.batch_size  # those before it are handed out; the next call raises
                if count == 0:
                    raise
                self._batch += count
                return (batch[0][: count * files.batch_size], batch[1][: count * files.batch_size]), count
            end = min(at + last - first - done, self._order.rows(number))
            place = slice(done, done + end - at)
            for out, rows in zip(batch, held, strict=True):
                if self._permutation is None:
                    out[place] = rows[at:end]
                else:  # with this mode it writes without a buffer
                    np.take(rows, self._permutation[at:end], axis=0, out=out[place], mode="clip")
            done = place.stop
        self._batch += count
        return (batch[0], batch[1]), count

    def _hold(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A window of rows in memory, before they are permuted."""
        files = self._files
        if self._window is None:
            x, y = (np.empty((files.window, *rows.shape), rows.dtype) for rows in files._kinds)
            self._window = x, y
        if number != self._number:
            self._number, at = -1, 0
            for block, start, end in self._order.pieces(number):
                self._source.copy(block, start, end, *(out[at : at + end - start] for out in self._window))
                at += end - start
            self._permutation = self._order.permutation(number)
            self._number = number
        return self._window

    def get_state(self) -> dict[str, Any]:
        """Where it is, with what tells that the files are the same; JSON can write it."""
        return {"epoch": self._epoch, "batch": self._batch, **self._files.layout}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called; the next `iter` of the files is the epoch after.

        Args:
            state: What `get_state` returned, of files with the same names, sizes and settings.

        Raises:
            TypeError: It is no such dict.
            ValueError: It is that of other files or settings.
        """
        layout = self._files.layout
        if not isinstance(state, dict) or not {"epoch", "batch", *layout} <= set(state):
            raise TypeError(f"state is {_checks.describe(state)}; expected the dict that get_state has returned.")
        for name, here in layout.items():
            if state[name] != here:
                raise ValueError(
                    f"state is that of other batches: {name} is {state[name]!r} there and {here!r} here; give the "
                    "files and the arguments of the run that is to go on, or begin anew."
                )
        epoch = _checks.count("epoch of state", state["epoch"], least=0)
        batch = _checks.count("batch of state", state["batch"], least=0)
        if batch > len(self._files):
            raise ValueError(f"batch of state is {batch}; expected at most {len(self._files)}.")
        self._begin(epoch, batch)
        self._files.set_epoch(epoch + 1)


class _Source:
    """Reads rows of blocks; goes on where it has stopped if these are the next rows of the same block."""

    def __init__(self, files: Files):
        self._files = files
        self._place = (-1, -1)
        self._opened: tuple[Part, int, Pieces] | None = None
        self._left: tuple[np.ndarray, np.ndarray] | None = None

    def copy(self, block: int, start: int, end: int, x: np.ndarray, y: np.ndarray) -> None:
        """Copies rows of a block to x and y, converted.

        Raises:
            OSError: The file is not what it was.
            ValueError: What is in it is malformed.
        """
        if self._opened is None or (block, start) != self._place:
            if self._opened is not None:
                self._opened[2].close()
            self._opened, self._left = self._files.open(block, start), None
            self._origin = self._opened[1] - start
        part, _, pieces = self._opened
        self._place = (-1, -1)  # nowhere, should this raise
        done = 0
        while done < end - start:
            piece = self._left or next(pieces, None)
            if piece is None:
                raise OSError(f"{part.name} ends at row {self._origin + start + done}, before the rows that it had.")
            count = min(len(piece[0]), end - start - done)
            for what, out, rows in zip("xy", (x, y), piece, strict=True):
                into, row = out[done : done + count], self._origin + start + done
                take_over(into, rows[:count], part.name, what, getattr(part, what).columns, row)
            self._left = (piece[0][count:], piece[1][count:]) if count < len(piece[0]) else None
            done += count
        self._place = (block, end)
