"""Checkpoints: a run that is killed goes on where it was, and ends as if nothing had happened. Written by orbax."""

import concurrent.futures
import contextlib
import logging
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfit import _checks, _identity, _mesh, _processes
from jaxfit._callback import Outcome, Run
from jaxfit._crew import Keeper, Snapshot
from jaxfit._status import FitWarning
from jaxfit.callbacks import _snapshots
from jaxfit.optimizers import Optimizer, State

_one_at_a_time = threading.Lock()
_NAME = re.compile(r"(\d+)(-end)?")


class Checkpoint(Keeper):
    """Saves all that a run needs to go on: started again with the same arguments, `fit` resumes it by itself.

    Params, the optimizer's and the model's state, the position in the data, the history, and what other callbacks
    remember are saved after every so many steps and at the end. A run that is killed, at whatever moment, and started
    again ends with the same bits as one that was never interrupted. One that had finished gives its result at once;
    with more steps or epochs it goes on.

    Writing happens beside the run, in a thread of its own, and never twice at a time: what falls due while the last
    checkpoint is still being written is passed over. A checkpoint that cannot be written, on a full disk, is warned of,
    and the run goes on. One that was written by half is passed over.

    Args:
        directory: Where the checkpoints are; made where it does not exist. One directory belongs to one run.
        every: After how many steps; or "epoch" for after every epoch.
        keep: How many of the last checkpoints to keep, at least 1.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range; in a run, the directory has the checkpoints of another model,
            optimizer or data, and the message names the difference.
        ImportError: orbax is not installed.

    A stream resumes where it was by the state of its iterator (`get_state` and `set_state`), as those of
    `jaxfit.data.from_files` and of grain do; another iterable is run through from its beginning, so it must yield the
    same batches again.

    Source: the files are those of orbax-checkpoint, one folder a checkpoint, that `orbax.checkpoint.v1.load` reads.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params[0] * x + params[1]
        >>> folder = tempfile.TemporaryDirectory()
        >>> keep = [jf.callbacks.Checkpoint(folder.name, every=100)]
        >>> adam = jf.optimizers.Adam(0.1)
        >>> first = jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=200, callbacks=keep)
        >>> more = jf.fit(line, (x, 2 * x + 1), jnp.zeros(2), optimizer=adam, steps=300, callbacks=keep)
        >>> len(more.history["loss"])
        300
        >>> folder.cleanup()
    """

    def __init__(self, directory: str | os.PathLike, *, every: int | str = 1000, keep: int = 2):
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"Checkpoint: directory is {_checks.describe(directory)}; expected a path.")
        self.directory = Path(directory).absolute()
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"Checkpoint: directory is {str(directory)!r}, which is a file; expected a folder.")
        self.every = every if every == "epoch" else _checks.count("Checkpoint: every", every)
        self.keep = _checks.count("Checkpoint: keep", keep)
        self._identity: dict[str, Any] | None = None
        self._writer: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future | None = None
        self._loaded: Path | None = None  # the checkpoint that this run goes on from
        self._together = False  # whether several processes share the run

    # -- going on ---------------------------------------------------------------------------------------------------

    def load(self, run: Run, state: State, optimizer: Optimizer) -> Snapshot | None:
        """The newest checkpoint that can be read; None where there is none."""
        _orbax()
        self._identity, self._loaded = run.identity(), None
        self._together = any(map(_mesh.is_global, jax.tree.leaves(state)))
        if jax.process_count() > 1 and not self._together:
            raise ValueError(
                f"Checkpoint: this process fits alone, and orbax writes for all {jax.process_count()} of "
                "jax.distributed.initialize together: give mesh= over the devices of all of them, or fit in a process "
                "that stands alone."
            )
        if self._together:
            newest = f" at {self._kept()[-1][1].name}" if self._kept() else ", empty"
            seen = _processes.texts(f"{self.directory}{newest}")
            other = next((process for process, one in enumerate(seen) if one != seen[0]), None)
            if other is not None:
                raise ValueError(
                    f"Checkpoint: directory is {seen[0]} in process 0, and {seen[other]} in process {other}; expected "
                    "one folder that all processes see."
                )
        for _, folder in reversed(self._kept()):
            try:
                told, found = _snapshots.unpacked(self._stored(folder))
            except Exception as error:
                warnings.warn(
                    f"the checkpoint {folder} cannot be read ({type(error).__name__}: {error}); the one before it is "
                    "taken.",
                    FitWarning,
                    stacklevel=2,
                )
                continue
            self._check(told, folder)
            self._loaded = folder
            return _snapshots.snapshot(told, found, state, optimizer)
        return None

    def _check(self, told: dict[str, Any], folder: Path) -> None:
        """Raises ValueError where a checkpoint is not one of this run."""
        assert self._identity is not None
        if told["format"] > _snapshots.FORMAT:
            raise ValueError(f"the checkpoint {folder} was written by a newer jaxfit; expected its format to be known.")
        differences = _identity.differences(told["identity"], self._identity)
        if differences:
            raise ValueError(
                f"the checkpoints in {str(self.directory)!r} are those of another run: {'; '.join(differences)}. Give "
                "the arguments of that run to go on with it, or another directory to begin anew."
            )

    def _kept(self) -> list[tuple[tuple[int, bool], Path]]:
        """The whole checkpoints, the newest last."""
        folders = self.directory.iterdir() if self.directory.is_dir() else []
        named = [(match, folder) for folder in folders if (match := _NAME.fullmatch(folder.name))]
        return sorted(((int(match[1]), match[2] is not None), folder) for match, folder in named)

    # -- saving -----------------------------------------------------------------------------------------------------

    def save(self, snapshot: Snapshot, is_last: bool) -> None:
        """Saves beside the run; the last one before this returns."""
        if self._folder(snapshot, is_last) == self._loaded:
            return  # a finished run, started again
        if self._writing is not None:
            if not is_last and not self._writing.done():
                return
            self._finish()
        if self._together:  # they wait for each other, so each must come here at the same time
            self._writing = concurrent.futures.Future()
            try:
                self._write(self._folder(snapshot, is_last), _snapshots.packed(snapshot, self._identity))
                self._writing.set_result(None)
            except OSError as error:
                self._writing.set_exception(error)
            self._finish()
            return
        if self._writer is None:
            self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint", _step_back)
        tree = _snapshots.packed(snapshot, self._identity)
        self._writing = self._writer.submit(self._write, self._folder(snapshot, is_last), tree)
        if is_last:
            self._finish()

    def _folder(self, snapshot: Snapshot, is_last: bool) -> Path:
        return self.directory / (f"{snapshot.step}-end" if is_last else f"{snapshot.step}")

    def _finish(self) -> None:
        """Waits for what is being written, and warns where that failed."""
        if self._writing is None:
            return
        error, self._writing = self._writing.exception(), None
        if error is not None:
            reason = str(error).strip().splitlines()
            warnings.warn(
                f"a checkpoint could not be written to {str(self.directory)!r}, and the run goes on without it: "
                f"{type(error).__name__}: {reason[0] if reason else ''}",
                FitWarning,
                stacklevel=2,
            )

    def _write(self, folder: Path, tree: dict[str, Any]) -> None:
        """Writes a checkpoint, then drops what is too old; in the writer's thread."""
        ocp = _orbax()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with _quietly(), self._context():
                ocp.save(folder, tree, overwrite=True)
        except BaseException:
            for path in self.directory.glob(f"{folder.name}*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)
            raise
        if not self._together or jax.process_index() == 0:
            kept = self._kept()
            here = next((at for at, path in kept if path == folder), (0, False))
            beyond = [path for at, path in kept if at > here]  # a run that went back, from where it failed
            within = [path for at, path in kept if at <= here]
            for old in (*beyond, *within[: -self.keep]):
                shutil.rmtree(old, ignore_errors=True)

    def _stored(self, folder: Path) -> dict[str, Any]:
        """What orbax has stored, as NumPy arrays: the devices may be others than those that it was written from."""
        ocp = _orbax()
        with _quietly(), self._context():
            kinds = ocp.metadata(folder).metadata
            plain = jax.tree.map(lambda kind: np.empty(kind.shape, kind.dtype), kinds)
            return ocp.load(folder, plain)

    def _context(self) -> Any:
        """How orbax is to do it."""
        context = _orbax().Context()
        context.array.saving.use_ocdbt = False  # one store for each array: quicker for small ones
        return context

    def end(self, outcome: Outcome | None) -> None:
        """Waits for what is being written."""
        del outcome
        if self._writer is not None:
            self._finish()
            self._writer.shutdown()
            self._writer = None


def _orbax() -> Any:
    try:
        from orbax.checkpoint import v1
    except ImportError as error:
        raise ImportError("checkpoints are written by orbax: pip install orbax-checkpoint") from error
    return v1


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Orbax, by one thread at a time, as it counts its operations for the whole process, and without what it logs."""
    with _one_at_a_time:
        logger = logging.getLogger("absl")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _step_back() -> None:
    """Lets this thread, and those that it starts, wait for the ones that compute; where threads have priorities."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
