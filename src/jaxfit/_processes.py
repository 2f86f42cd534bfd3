"""What the processes that share a run tell each other. Each of them has to call these functions, in the same order."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfit import _compile
from jaxfit._batches import Place


def bytes_of_all(row: np.ndarray) -> np.ndarray:
    """Bytes [n] of every process, [processes, n]; over one device of each, as they may have different numbers of them.

    Bytes are not rounded, whatever precision JAX is set to.
    """
    count = jax.process_count()
    first = [jax.local_devices(process_index=rank)[0] for rank in range(count)]
    mesh = Mesh(np.array(first), ("processes",), axis_types=(AxisType.Auto,))
    mine = jax.device_put(row[None], first[jax.process_index()])
    layout = NamedSharding(mesh, PartitionSpec("processes"))
    dealt = jax.make_array_from_single_device_arrays((count, *row.shape), layout, [mine])

    def program(dealt: Any) -> Any:
        return lax.with_sharding_constraint(dealt, NamedSharding(mesh, PartitionSpec()))

    leaves, tree = jax.tree.flatten((dealt,))
    call, _ = _compile.ready(program, "of all processes", leaves, tree)
    with lost():
        return np.asarray(call(*leaves))


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Turns what XLA says where another process has gone into a sentence."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, TimeoutError, ValueError) as error:
        # A compiled program that is called directly raises XLA's status as ValueError: "UNKNOWN: Gloo ...".
        if isinstance(error, ValueError) and not re.match(r"[A-Z_]+: ", str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise RuntimeError(
            "a process that shares this fit is gone, or out of step with the others. Start all of them again: with a "
            f"jaxfit.callbacks.Checkpoint a fit goes on where it was. ({reason})"
        ) from error


def arrays_of_all(array: np.ndarray) -> np.ndarray:
    """An array [...] of every process, all of the same shape, [processes, ...]."""
    found = bytes_of_all(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.view(array.dtype).reshape(-1, *array.shape)


def gathered(numbers: Any) -> np.ndarray:
    """Some whole numbers of each process, int64 [processes, ...]."""
    return arrays_of_all(np.asarray(numbers, np.int64))


def texts(text: str) -> list[str]:
    """A text of each process."""
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = gathered(len(content))
    if not lengths.any():
        return [""] * len(lengths)
    room = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)  # few sizes, so that few programs do
    room[: len(content)] = content
    return [row[:length].tobytes().decode() for row, length in zip(bytes_of_all(room), lengths, strict=True)]


@contextlib.contextmanager
def in_step(shared: bool) -> Iterator[None]:
    """What goes wrong here in one of the processes that share a run is raised in all, before they wait for it."""
    error = None
    try:
        yield
    except Exception as found:
        if not shared:
            raise
        error = found
    if shared:
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
        found = arrays_of_all(room)
        return np.concatenate([each[:count] for each, count in zip(found, rows, strict=True)])[None]

    return jax.tree.map(join, parts)
