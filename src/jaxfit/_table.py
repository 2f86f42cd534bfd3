"""The results of many fits as tables that are filled in block by block, in memory or in files."""

import mmap
import operator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _small
from jaxfit._inference import Evidence
from jaxfit._many import Ends
from jaxfit._program import Task
from jaxfit._status import Status
from jaxfit._together import Processes
from jaxfit.losses import _curvature

_STATUSES = tuple(Status)
_PIECE = 1 << 24  # bytes that are copied at once


class Found(NamedTuple):
    """How the fits ended: NumPy arrays with the fits as their first axis.

    Attributes:
        params: The params, a pytree.
        loss: The loss.
        codes: The status, as its place among all, int8.
        steps: The steps taken, int32.
        covariance: The covariance of the params, [fits, p, p]; None where nobody knows it.
        total: By what the loss is multiplied to be the sum of the losses of all samples; None likewise.
        freedom: Degrees of freedom, int32; None likewise.
        carried: What a module carries, a pytree.
        compile_seconds: Spent on compilation.
        run_seconds: Spent on everything else.
    """

    params: Any
    loss: np.ndarray
    codes: np.ndarray
    steps: np.ndarray
    covariance: np.ndarray | None
    total: np.ndarray | None
    freedom: np.ndarray | None
    carried: Any
    compile_seconds: float
    run_seconds: float

    @property
    def files(self) -> dict[str, np.ndarray]:
        """The tables that are kept in a folder, by the names of their files, in the order of the leaves."""
        params = {f"params_{at}.npy": leaf for at, leaf in enumerate(jax.tree.leaves(self.params))}
        others = {"loss": self.loss, "status": self.codes, "steps": self.steps, "covariance": self.covariance}
        others |= {"total": self.total, "freedom": self.freedom}
        return params | {f"{name}.npy": table for name, table in others.items() if table is not None}


class Table:
    """The results of all fits, filled in block by block."""

    def __init__(self, task: Task, count: int, absolute: bool, shapes: Ends, out: Path | None):
        self._absolute = absolute
        self._squared = _curvature.is_squared(task.problem.loss)
        self._robust = _curvature.is_ours(task.problem.loss) and _curvature.is_robust(task.problem.loss)
        self._stops = bool(task.optimizer.default_steps)
        self._rises = bool(getattr(task.optimizer, "maximize", False))
        names = iter(range(1_000))

        def room(shape: Any, name: str | None = None) -> np.ndarray:
            if out is None or not count:
                return np.empty((count, *shape.shape), shape.dtype)
            return _file(out / f"{name or f'params_{next(names)}'}.npy", shape.dtype, (count, *shape.shape))

        def number(dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((), dtype)

        known = shapes.errors != ()
        self.found = Found(
            params=jax.tree.map(room, shapes.params),
            loss=room(shapes.loss, "loss"),
            codes=room(number(np.int8), "status"),
            steps=room(number(np.int32), "steps"),
            covariance=room(jax.eval_shape(_small.dense, shapes.errors.covariance), "covariance") if known else None,
            total=room(shapes.loss, "total") if known else None,
            freedom=room(number(np.int32), "freedom") if known else None,
            carried=jax.tree.map(lambda leaf: np.empty((count, *leaf.shape), leaf.dtype), shapes.carried),
            compile_seconds=0.0,
            run_seconds=0.0,
        )
        self._doubts = np.zeros(count, bool)
        self._first = np.full(count if not self._stops else 0, np.nan, np.float32)

    def write(self, at: Any, ends: Ends, limit: np.ndarray) -> None:
        """Writes down how fits ended, at these places, that had so many steps."""
        found, count = self.found, len(ends.loss)
        finite, first = np.isfinite(ends.loss), ends.first
        for leaf in jax.tree.leaves(ends.params):
            finite = finite & np.isfinite(leaf).reshape(count, -1).all(axis=1)
        if self._stops:
            code = np.where(ends.converged, _code(Status.CONVERGED), _code(Status.STEP_LIMIT))
        else:
            rose = self._rose(ends.loss, first, 1e3) & (first != 0)
            code = np.where(rose, _code(Status.DIVERGED), _code(Status.COMPLETED))
            self._first[at] = first
        # What stopped by itself and has not converged met a gradient that is not finite.
        stuck = finite & ~ends.converged & ~ends.running & (ends.steps < limit)
        code = np.where(finite & ~stuck, code, _code(Status.NON_FINITE))
        code = np.where(stuck & self._rose(ends.loss, first, 9), _code(Status.DIVERGED), code)

        def put(table: np.ndarray, rows: Any) -> None:
            rows = np.asarray(rows)
            lost = finite.reshape(-1, *[1] * (rows.ndim - 1))
            table[at] = rows if finite.all() or rows.dtype.kind not in "fc" else np.where(lost, rows, np.nan)
            release(table)

        jax.tree.map(put, found.params, ends.params)
        jax.tree.map(put, found.carried, ends.carried)
        put(found.loss, ends.loss)
        put(found.codes, code)
        put(found.steps, ends.steps)
        self._doubts[at] = finite & ends.converged & ends.doubts
        if found.covariance is not None and found.total is not None and found.freedom is not None:
            put(found.covariance, self._covariance(ends, finite))
            put(found.total, ends.errors.total)
            put(found.freedom, ends.errors.freedom)

    def _rose(self, loss: np.ndarray, first: np.ndarray, times: float) -> np.ndarray:
        """Whether losses rose by so many times what they were at first; what is to be made large may do so."""
        with np.errstate(invalid="ignore", over="ignore"):
            return (loss - first > times * np.abs(first)) & (not self._rises)

    def _covariance(self, ends: Ends, finite: np.ndarray) -> np.ndarray:
        """The covariances, those looked at once more in which rounding may show."""
        errors = ends.errors
        covariance = _dense(errors.covariance)
        odd = np.flatnonzero(finite & ~errors.regular)
        if self._robust or not len(odd):
            return covariance
        curvature, held = _dense(jax.tree.map(operator.itemgetter(odd), ends.curvature)), _row(errors.held)[odd]
        for i, at in enumerate(odd):
            total, observations = float(errors.total[at]), int(errors.freedom[at]) + int((~held[i]).sum())
            with np.errstate(over="ignore", invalid="ignore"):
                chi = float(ends.loss[at]) * total if self._squared else None
                evidence = Evidence(curvature[i] * total, observations, chi, self._absolute, held[i])
                covariance[at] = evidence.covariance
        return covariance

    def again(self, more: bool) -> np.ndarray:
        """The fits that ended badly; with `more`, those also that may take more steps."""
        limited = self.found.codes == _code(Status.STEP_LIMIT)
        return np.flatnonzero(self._doubts | (limited if more else False))

    def improve(self, at: np.ndarray, ends: Ends, limit: np.ndarray) -> None:
        """Writes down a second try where that is the better one."""
        with np.errstate(invalid="ignore"):
            better = np.isfinite(ends.loss) & (
                (ends.loss < self.found.loss[at]) | (self.found.codes[at] != _code(Status.CONVERGED))
            )
        self.write(at[better], jax.tree.map(lambda leaf: leaf[better], ends), limit[better])

    def lost(self) -> np.ndarray:
        """The fits whose loss or params turned not finite."""
        return np.flatnonzero((self.found.codes == _code(Status.NON_FINITE)) & ~np.isfinite(self.found.loss))

    def back_up(self, at: np.ndarray, ends: Ends, limit: np.ndarray) -> None:
        """Writes down the last params with a finite loss, where the loss was not."""
        bad = ~np.isfinite(self.found.loss[at])
        at = at[bad]
        self.write(at, jax.tree.map(lambda leaf: leaf[bad], ends), limit[bad])
        rose = self._rose(self.found.loss[at], self._first[at], 9)
        self.found.codes[at] = np.where(rose, _code(Status.DIVERGED), _code(Status.NON_FINITE))

    def finish(self) -> Found:
        """The results."""
        for table in jax.tree.leaves(self.found):
            if isinstance(table, np.memmap):
                table.flush()
        return self.found


def joined(mine: Found, ends: list[int], processes: Processes, out: Path | None) -> Found:
    """The results of all fits, of which each process has those of its share.

    Args:
        mine: Those of this process.
        ends: Where the shares end.
        processes: Who has a share.
        out: The folder for the results of all, which all processes see; None keeps them in memory.
    """
    leaves, tree = jax.tree.flatten(mine._replace(compile_seconds=(), run_seconds=()))
    names = list(mine.files) if out is not None else []
    if out is not None:
        files = mine.files

        def begun() -> None:
            for name, table in files.items() if processes.rank == 0 else ():
                _file(out / name, table.dtype, (ends[-1], *table.shape[1:])).flush()

        def written() -> None:
            for name, table in files.items():
                _copy(table, out / name, ends[processes.rank])

        processes.all(begun)
        processes.all(written)
    whole = [np.load(out / name, mmap_mode="r+") for name in names] if out is not None else []
    whole += [processes.joined(leaf, ends) for leaf in leaves[len(names) :]]
    return tree.unflatten(whole)._replace(compile_seconds=0.0, run_seconds=0.0)


def _file(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A table in a file of its own: what an earlier one holds may be in use, even as the data of this run."""
    path.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _copy(table: np.ndarray, path: Path, start: int) -> None:
    """Writes rows into a file of a table, from a row on.

    Not by mapping it: two machines that map one page of a file may each write back the whole of it.
    """
    if not len(table):
        return
    width, before = table[:1].nbytes, np.load(path, mmap_mode="r").offset
    rows = max(1, _PIECE // width)
    with path.open("r+b") as file:
        file.seek(before + start * width)
        for at in range(0, len(table), rows):
            file.write(np.ascontiguousarray(table[at : at + rows]).data)
            release(table)


def _dense(matrix: Any) -> np.ndarray:
    """Matrices [fits, p, p], of numbers apart as well."""
    if not isinstance(matrix, _small.Triangle):
        return np.array(matrix)
    size = matrix.places()[-1][0] + 1
    whole = np.empty((len(matrix[0]), size, size), matrix.dtype)
    for i, j in matrix.places():
        whole[:, i, j] = whole[:, j, i] = matrix.at(i, j)
    return whole


def _row(vector: Any) -> np.ndarray:
    """Vectors [fits, p], of numbers apart as well."""
    return np.stack(vector.numbers, axis=1) if isinstance(vector, _small.Apart) else np.asarray(vector)


def _code(status: Status) -> int:
    return _STATUSES.index(status)


def release(table: Any) -> None:
    """Gives back the memory that pages of a file take which have been read or written."""
    if isinstance(table, np.memmap) and getattr(table, "mode", "c") != "c":
        mapped = getattr(table, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
