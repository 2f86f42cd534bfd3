"""What the processes that share a run tell each other. Each of them has to call these functions, in the same order."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxfit._batches import Place


def gathered(numbers: Any) -> np.ndarray:
    """Small int32 arrays of all processes, [processes, ...]."""
    return np.asarray(multihost_utils.process_allgather(np.asarray(numbers, np.int32)))


def texts(text: str) -> list[str]:
    """A text of each process."""
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = gathered(len(content))
    room = np.zeros(int(lengths.max()), np.uint8)
    room[: len(content)] = content
    if not len(room):
        return [""] * len(lengths)
    found = np.asarray(multihost_utils.process_allgather(room))
    return [row[:length].tobytes().decode() for row, length in zip(found, lengths, strict=True)]


@contextlib.contextmanager
def in_step(mesh: Any) -> Iterator[None]:
    """What goes wrong here in one of the processes of a mesh is raised in all of them, before they wait for it."""
    error = None
    try:
        yield
    except (TypeError, ValueError) as found:
        error = found
        if not is_shared(mesh):
            raise
    if is_shared(mesh):
        check(error)


def is_shared(mesh: Any) -> bool:
    """Whether a mesh has devices of several processes."""
    return isinstance(mesh, Mesh) and len({device.process_index for device in mesh.devices.flat}) > 1


def check(error: Exception | None) -> None:
    """Raises, in all processes, what one of them has met."""
    found = texts("" if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for process, text in enumerate(found):
        if text:
            raise ValueError(f"process {process} cannot take part: {text}")


def place(own: Place) -> Place:
    """Where a stream stands, with what the iterators of all processes say of themselves."""
    states = texts(own.state or "")
    if len(set(states)) == 1:
        return own
    return own._replace(state="each:" + json.dumps(states))


def joined(parts: Any, rows: Any) -> Any:
    """What all processes have of a batch, put together.

    Args:
        parts: What this process has, NumPy arrays [1, its rows, ...].
        rows: How many rows each process has, [processes].

    Returns:
        Arrays [1, all rows, ...].
    """

    def join(part: np.ndarray) -> np.ndarray:
        room = np.zeros((max(rows), *part.shape[2:]), part.dtype)
        room[: part.shape[1]] = part[0]
        found = np.asarray(multihost_utils.process_allgather(room))
        return np.concatenate([each[:count] for each, count in zip(found, rows, strict=True)])[None]

    return jax.tree.map(join, parts)
