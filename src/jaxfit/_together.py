"""The processes that run many fits together: each has a share of them, and in the end all have all results.

Fits are independent, so no program of theirs spans processes. What processes tell each other are bytes, gathered over
one device of each: so numbers keep all their bits, whatever precision JAX is set to.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfit import _checks, _mesh, _processes

_Value = TypeVar("_Value")

_AT_ONCE = 1 << 24  # bytes that a process holds of others while tables are gathered
_WORDS = 1024  # bytes in which a process says how a step went
_DIGEST = 16
_SHOWN = 200
_PATIENCE = 30 * 24 * 3600  # seconds that a process waits for the others; a gathering alone ends after half an hour

_waits = itertools.count()


class Processes:
    """The processes that take part, as this one sees them.

    Attributes:
        several: Whether there are others.
        rank: The number of this one.
        devices: Those of the mesh that are its own, maybe none; None without a mesh.
        words: The devices of the mesh in words; None without one.
    """

    def __init__(self, mesh: Any = None):
        self.several, self.rank, self._failed = False, 0, False
        self.devices: list[Any] | None = None
        self.words: str | None = None
        self._counts = [1]  # how many devices of the mesh each process has
        if mesh is None:
            return
        if isinstance(mesh, Mesh) and mesh.empty:
            raise ValueError('mesh has no devices; expected a mesh such as jax.make_mesh((8,), ("data",)).')
        spread = _mesh.spread(mesh, None, ())
        found = list(spread.mesh.devices.flat)
        self.words, self.rank = spread.words, jax.process_index()
        self.devices = [device for device in found if device.process_index == self.rank]
        self.several = jax.process_count() > 1
        owners = [device.process_index for device in found]
        self._counts = [owners.count(rank) for rank in range(jax.process_count())]

    def shares(self, parts: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Where the shares of the processes end: of each part, one more number than there are processes, from 0 on.

        Each process gets a contiguous share of all fits, in proportion to the number of its devices.

        Args:
            parts: How many fits a part has, and what one of them costs.
        """
        whole, devices = sum(fits * cost for fits, cost in parts), sum(self._counts)
        dealt = [whole * before for before in itertools.accumulate(self._counts, initial=0)]  # times the devices
        found, start = [], 0
        for fits, cost in parts:
            found.append([min(max(-((start - at) // (cost * devices)), 0), fits) for at in dealt])
            start += fits * cost * devices
        return found

    def own(self, ends: list[int]) -> slice:
        """The share of this process."""
        return slice(ends[self.rank], ends[self.rank + 1])

    def all(self, call: Callable[[], _Value], told: Callable[[_Value], dict[str, str]] | None = None) -> _Value:
        """What a call returns, once it has returned in every process.

        Args:
            call: What every process calls.
            told: What must be the same in all processes of what the call returns: texts by name.

        Raises:
            ValueError: Something is not the same in all processes, or it raised TypeError or ValueError in another one.
            RuntimeError: It raised something else in another one, and nothing here.
        """
        if not self.several:
            return call()
        value, raised, texts = None, None, {}
        try:
            value = call()
            texts = told(value) if told else {}
        except Exception as error:
            if self._failed:  # in a step inside of this one: the others know
                raise
            raised = error
        digests = [hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest() for text in texts.values()]
        words = f"{type(raised).__name__}: {raised}".encode()[: _WORDS - 1] if raised else b"".join(digests)
        row = np.zeros(_WORDS, np.uint8)
        row[0] = raised is not None
        row[1 : 1 + len(words)] = np.frombuffer(words, np.uint8)
        _wait()
        rows = _processes.bytes_of_all(row)
        failed = np.flatnonzero(rows[:, 0])
        self._failed = bool(len(failed)) or bool((rows != rows[0]).any())
        if raised is not None:
            raise raised
        if len(failed):
            text = rows[failed[0], 1:].tobytes().rstrip(b"\0").decode(errors="replace")
            kind = ValueError if text.startswith(("TypeError", "ValueError")) else RuntimeError
            raise kind(f"process {failed[0]}, which has a share of these fits, raised {text}")
        for place, (name, text) in enumerate(texts.items()):
            at = slice(1 + place * _DIGEST, 1 + (place + 1) * _DIGEST)
            others = np.flatnonzero((rows[:, at] != row[at]).any(axis=1))
            if len(others):
                short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
                way_out = " Without mesh, a process fits by itself, on its own devices." if name == "mesh" else ""
                raise ValueError(
                    f"{name} is not the same in all processes: {short} in process {self.rank}, something else in "
                    f"process {others[0]}; expected the same arguments in all of them.{way_out}"
                )
        return cast(_Value, value)

    def agree(self, arguments: dict[str, Any]) -> None:
        """Raises ValueError where arguments, by name, have other shapes or are other values in another process."""
        self.all(lambda: arguments, said)

    def joined(self, mine: np.ndarray, ends: list[int]) -> np.ndarray:
        """A table [fits, ...] of which each process has the rows of its share."""
        if not self.several:
            return mine
        whole = np.empty((ends[-1], *mine.shape[1:]), mine.dtype)
        flat, own = _bytes(whole), _bytes(np.ascontiguousarray(mine))
        width = whole[:1].nbytes
        places = [end * width for end in ends]
        longest = max(stop - start for start, stop in itertools.pairwise(places))
        # A power of two, so that few programs do for tables of all sizes.
        size = min(1 << max(longest - 1, 0).bit_length(), max(_AT_ONCE // len(self._counts), 1))
        for at in range(0, longest, size):
            row = np.zeros(size, np.uint8)
            part = own[at : at + size]
            row[: len(part)] = part
            for (start, stop), piece in zip(itertools.pairwise(places), _processes.bytes_of_all(row), strict=True):
                room = flat[start + at : min(start + at + size, stop)]
                room[:] = piece[: len(room)]
        return whole

    def most(self, numbers: np.ndarray) -> list[float]:
        """The largest of these numbers [n] of all processes, one by one."""
        return self.joined(numbers[None], list(range(len(self._counts) + 1))).max(axis=0).tolist()


def said(arguments: dict[str, Any]) -> dict[str, str]:
    """What arguments are, as texts that are the same in every process: the shapes of arrays, the values of others."""
    found = {}
    for name, value in arguments.items():
        leaves = jax.tree_util.tree_leaves_with_path(value)
        parts = [(jax.tree_util.keystr(path), _leaf(leaf)) for path, leaf in leaves]
        if isinstance(value, Mesh):
            parts = [("", f"devices {[device.id for device in value.devices.flat]}")]
        found[name] = ", ".join(f"{path}: {text}" if path else text for path, text in parts) or "None"
    return found


def _leaf(leaf: Any) -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return _checks.describe(leaf)
    if isinstance(leaf, (bool, int, float, complex, str)):
        return repr(leaf)
    plain, _ = _checks.unwrapped(leaf)
    return getattr(plain, "__qualname__", None) or type(plain).__name__


def _bytes(array: np.ndarray) -> np.ndarray:
    """The memory of an array."""
    return array.reshape(-1).view(np.uint8)


def _wait() -> None:
    """Returns when all processes have come here."""
    from orbax.checkpoint import multihost

    name = f"jaxfit fits {next(_waits)}"
    multihost.sync_global_processes(name, timeout=_PATIENCE, processes=set(range(jax.process_count())))
