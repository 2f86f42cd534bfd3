"""What a log reads off a `Seen`: which steps its rows are, which epochs ended where, and how fast each step learned."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxfit import _compile
from jaxfit._callback import Seen
from jaxfit._fingerprint import fingerprint

_BLOCK = 256  # steps whose learning rates are computed at once: one shape, one compilation


def rows(seen: Seen, every: int, also: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the history to write, and the numbers of their steps: multiples of `every`, and those in `also`."""
    count = len(seen.history["loss"])
    numbers = np.arange(seen.step - count, seen.step)
    chosen = np.flatnonzero((numbers % every == 0) | np.isin(numbers, also))
    return chosen, numbers[chosen]


def column(seen: Seen, name: str, chosen: np.ndarray) -> list[float]:
    """These rows of what was recorded, as Python floats."""
    return np.asarray(np.asarray(seen.history[name])[chosen], np.float64).tolist()


def epoch_values(seen: Seen) -> dict[str, list[float]]:
    """What was computed after every epoch that ended, as far as it is one number."""
    return {
        name: np.asarray(values, np.float64).tolist()
        for name, values in seen.epoch_history.items()
        if np.ndim(values) == 1
    }


def epoch_ends(seen: Seen, count: int) -> np.ndarray:
    """The numbers of the last steps of the `count` epochs that ended last.

    Where nobody knows how many steps an epoch has, they are spread evenly over the steps since the last call, which
    is exact for one epoch that has just ended.
    """
    per_epoch = seen.run.steps_per_epoch
    if per_epoch is not None:
        last = seen.step - seen.step % per_epoch  # not from `epoch`, which a second try counts anew
        return last - per_epoch * np.arange(count - 1, -1, -1) - 1
    first = seen.step - len(seen.history["loss"])
    return np.linspace(first, seen.step, count + 1)[1:].astype(int) - 1


def epochs(seen: Seen, numbers: np.ndarray, ends: Sequence[int]) -> list[int]:
    """The epoch that each of these steps belongs to, counted from 0; 0 for all where there are no epochs."""
    per_epoch = seen.run.steps_per_epoch
    if per_epoch is not None:
        return (numbers // per_epoch).tolist()
    return (seen.epoch - len(ends) + np.searchsorted(ends, numbers)).tolist()


def learning_rates(seen: Seen, numbers: np.ndarray) -> list[float] | None:
    """The learning rate of each of these steps; None where the optimizer has none, or does not tell."""
    rate: Any = getattr(seen.optimizer, "learning_rate", None)
    if rate is None or np.ndim(rate):
        return None
    if not callable(rate):
        return [float(rate)] * len(numbers)
    counts = numbers // getattr(seen.optimizer, "accumulate", 1)  # a schedule counts the updates
    blocks = -(-len(counts) // _BLOCK)
    padded = np.resize(counts.astype(np.int32), (blocks, _BLOCK))  # repeats them; what is too much is cut off again
    key = ("learning_rates", fingerprint(rate))
    found = [_compile.call(lambda block: jax.vmap(rate)(block), key, block)[0] for block in padded]
    return np.concatenate([np.asarray(block, np.float64) for block in found] or [[]])[: len(numbers)].tolist()
