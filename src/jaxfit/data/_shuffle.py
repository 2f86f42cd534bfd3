"""The order in which an epoch deals the rows of files: a function of key and epoch, known without reading a row.

Rows lie in blocks, and an epoch takes the blocks in an order of its own. What follows is cut into windows of equally
many rows, and rows are permuted within a window. So memory holds one window, a disk reads whole blocks, and any batch
of any epoch is found without a look at those before it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Order(NamedTuple):
    """The order of one epoch.

    Attributes:
        blocks: The blocks as they come, int64 [blocks].
        starts: Where each begins among the rows of the epoch, and at the end their number, int64 [blocks + 1].
        window: The rows in a window; the last may have fewer.
        seed: What the permutations within windows are drawn from; None where rows stay in order.
    """

    blocks: np.ndarray
    starts: np.ndarray
    window: int
    seed: tuple[int, ...] | None

    def rows(self, number: int) -> int:
        """How many rows a window has."""
        return min(self.window, int(self.starts[-1]) - number * self.window)

    def pieces(self, number: int) -> Iterator[tuple[int, int, int]]:
        """What a window is made of: blocks, each with where in the block its rows begin and end."""
        first = number * self.window
        last = first + self.rows(number)
        at = int(np.searchsorted(self.starts, first, side="right")) - 1
        while first < last:
            start, end = int(self.starts[at]), min(int(self.starts[at + 1]), last)
            yield int(self.blocks[at]), first - start, end - start
            first, at = end, at + 1

    def permutation(self, number: int) -> np.ndarray | None:
        """The order of the rows within a window, [rows]; None where they stay in order."""
        return None if self.seed is None else _generator(*self.seed, number + 1).permutation(self.rows(number))


def order(bounds: np.ndarray, window: int, key: tuple[int, ...] | None, epoch: int) -> Order:
    """The order of an epoch.

    Args:
        bounds: Where the blocks begin among the rows of the files, and at the end their number, int64 [blocks + 1].
        window: The rows in a window.
        key: What the order is drawn from; None for that of the files.
        epoch: The number of the epoch.
    """
    sizes = np.diff(bounds)
    seed = None if key is None else (*key, epoch)
    blocks = np.arange(len(sizes)) if seed is None else _generator(*seed, 0).permutation(len(sizes))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[blocks], dtype=np.int64)])
    return Order(blocks, starts, window, seed)


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
