"""Deals the batches of files from one window of rows after another."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxfit import _checks
from jaxfit.data._parts import Chosen, Part, Pieces, Rows, Values, take_over
from jaxfit.data._share import share_of
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
        self.deal(None)

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

    def size(self, number: int) -> int:
        """How many rows batch `number` of an epoch has, those of all processes together."""
        first = _checks.count("number", number, least=0) * self.batch_size
        if first >= self.rows:
            raise ValueError(f"number is {number}; expected at most {len(self) - 1}, that of the last batch.")
        return min(self.batch_size, self.rows - first)

    def deal(self, share: Callable[[int], tuple[int, int]] | None) -> None:
        """Says which rows of every batch are handed out, so that each process of a program reads its own.

        The batches stay what they are: those of all shares, put together, are bit for bit those of one process, and a
        state that was saved with one share goes on with any other. A share of 1/n holds 1/n of a window in memory,
        and no rows but its own are converted and checked for NaN. Passes that have begun keep the share they began
        with.

        Args:
            share: A function of the number of rows in a batch, to the first row that is wanted and the one behind the
                last, (start, stop); it is asked for `batch_size`, and for the size of a smaller last batch. None for
                all rows.

        Raises:
            TypeError: It is no function, or answers no pair of whole numbers.
            ValueError: It answers rows that a batch does not have.

        Example:
            >>> import numpy as np
            >>> from jaxfit.data import from_files
            >>> stream = from_files((np.arange(10), np.arange(10)), batch_size=4)
            >>> process, processes = 1, 2  # such as jax.process_index(), jax.process_count()
            >>> stream.deal(lambda rows: (rows * process // processes, rows * (process + 1) // processes))
            >>> [x.tolist() for x, y in stream]
            [[2, 3], [6, 7], [9]]
        """
        self._share = share_of(share, self.batch_size, self.rows)

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

    def place(self, block: int) -> tuple[Part, int]:
        """The file of a block, and which of its blocks it is."""
        at = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        return self._parts[at], block - int(self._first_blocks[at])


class Batches(Iterator[tuple[np.ndarray, np.ndarray]]):
    """The batches of one epoch, which can be left and resumed at any of them."""

    def __init__(self, files: Files, epoch: int):
        self._files, self._share = files, files._share
        self._begin(epoch, 0)

    def _begin(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch = epoch, batch
        self._order: Order = self._files.order(epoch)
        self._close()

    def _close(self) -> None:
        self._window: tuple[np.ndarray, np.ndarray] | None = None
        self._permutation: np.ndarray | None = None
        self._number = -1  # of the window that is held
        self._before = 0  # how many rows that are wanted lie before it
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
        begin, end = self._share.before(first), self._share.before(last)
        batch = tuple(np.empty((end - begin, *rows.shape), rows.dtype) for rows in files._kinds)
        done = begin
        for number in range(first // files.window, -(-last // files.window)):
            closing = (number + 1) * files.window
            stop = end if last <= closing else self._share.before(closing)
            if stop == done:
                continue
            try:
                held = self._hold(number)
            except (OSError, ValueError):
                size = (end - begin) // count
                count = (done - begin) // size  # those before it are handed out; the next call raises
                if count == 0:
                    raise
                self._batch += count
                return (batch[0][: count * size], batch[1][: count * size]), count
            place, inside = slice(done - begin, stop - begin), slice(done - self._before, stop - self._before)
            for out, rows in zip(batch, held, strict=True):
                if self._permutation is None:
                    out[place] = rows[inside]
                else:  # with this mode it writes without a buffer
                    np.take(rows, self._permutation[inside], axis=0, out=out[place], mode="clip")
            done = stop
        self._batch += count
        return (batch[0], batch[1]), count

    def _hold(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a window that are wanted in memory, before they are permuted."""
        files = self._files
        if self._window is None:
            room = self._share.most(files.window)
            x, y = (np.empty((room, *rows.shape), rows.dtype) for rows in files._kinds)
            self._window = x, y
        if number != self._number:
            self._number = -1
            self._before = self._share.before(number * files.window)
            if self._share.is_all:
                at = 0
                for block, start, end in self._order.pieces(number):
                    self._copy(block, range(start, end), at)
                    at += end - start
                self._permutation = self._order.permutation(number)
            else:
                rows, self._permutation = self._wanted(number)
                first, at = 0, 0  # in the window, and among the rows that are wanted
                for block, start, end in self._order.pieces(number):
                    first += end - start
                    stop = int(np.searchsorted(rows, first))
                    if stop > at:
                        self._copy(block, rows[at:stop] + (end - first), at)
                    at = stop
            self._number = number
        return self._window

    def _copy(self, block: int, rows: range | np.ndarray, at: int) -> None:
        assert self._window is not None
        self._source.copy(block, rows, *(out[at : at + len(rows)] for out in self._window))

    def _wanted(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows of a window that are wanted, ascending, and the order in which they are dealt."""
        opening, count = number * self._order.window, self._order.rows(number)
        places = self._share.places(self._before, self._share.before(opening + count)) - opening
        permutation = self._order.permutation(number)
        if permutation is None:
            return places, None
        dealt = permutation[places]
        is_wanted = np.zeros(count, bool)
        is_wanted[dealt] = True
        ranks = np.cumsum(is_wanted, out=permutation)  # the memory is at hand
        return np.flatnonzero(is_wanted), ranks[dealt] - 1

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
    """Reads rows of blocks; where they can only be read forward, goes on behind the rows that came last."""

    def __init__(self, files: Files):
        self._files = files
        self._block = -1  # which is open
        self._pieces: Pieces | None = None
        self._piece: tuple[Values, Values] | None = None  # that is not used up
        self._at = 0  # the row of the block where it begins, or the next one
        self._end = 0  # the row behind those that came last

    def copy(self, block: int, rows: range | np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Copies rows of a block to x and y, converted.

        Args:
            block: The block.
            rows: Their numbers in the block: a range without steps, or an array in ascending order; at least one.
            x: Where to.
            y: Likewise for the targets.

        Raises:
            OSError: The file is not what it was.
            ValueError: What is in it is malformed.
        """
        part, inside = self._files.place(block)
        first, done = int(part.bounds[inside]), 0
        if isinstance(rows, range):
            pieces, numbers = None, range(first + rows.start, first + rows.stop)
        else:
            pieces, numbers = part.choose(inside, rows), first + rows
        for piece in self._forward(part, block, inside, rows) if pieces is None else pieces:
            place = slice(done, done + len(piece[0]))
            for what, out, values in zip("xy", (x, y), piece, strict=True):
                take_over(out[place], values, part.name, what, getattr(part, what).columns, numbers[place])
            done = place.stop

    def _forward(self, part: Part, block: int, inside: int, rows: range | np.ndarray) -> Chosen:
        """Rows of a block, by passing over those between."""
        start, end = int(rows[0]), int(rows[-1]) + 1
        if block != self._block or start < self._end:
            if self._pieces is not None:
                self._pieces.close()
            self._pieces, self._piece, self._at = part.read(inside, start), None, start
        assert self._pieces is not None
        self._block = -1  # none, should this raise
        while True:
            piece = self._piece or next(self._pieces, None)
            if piece is None:
                row = int(part.bounds[inside]) + self._at
                raise OSError(f"{part.name} ends at row {row}, before the rows that it had.")
            at, behind = self._at, self._at + len(piece[0])
            if isinstance(rows, range):
                chosen = slice(max(start, at) - at, min(end, behind) - at)
            else:
                low, high = np.searchsorted(rows, (at, behind))
                chosen = rows[low:high] - at
            if isinstance(chosen, slice) or len(chosen):
                yield piece[0][chosen], piece[1][chosen]
            if behind > end:
                self._piece = piece
                break
            self._piece, self._at = None, behind
            if behind == end:
                break
        self._block, self._end = block, end
