"""The callbacks of a run: who is due when, what each is told, and what they ask for."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _processes
from jaxfit._batches import Place
from jaxfit._callback import Best, Callback, Outcome, Run, Seen, Stop
from jaxfit._interrupt import Asked
from jaxfit._log import Log
from jaxfit._status import Status
from jaxfit.optimizers import Optimizer, State

_BREATH = 0.2  # seconds between two visits: often enough for a bar that moves and for Ctrl-C
_FIRST_STEPS = 1  # before anybody knows how long a step takes
_FASTER = 8  # by how much a chunk may be longer than the one before
_TABLE_BYTES = 1 << 24  # of a chunk's history
_MOST_STEPS = 4096


class Snapshot(NamedTuple):
    """A run between two steps: all that another process needs to go on with it.

    Attributes:
        step: The steps taken.
        attempt: Whether it is the optimizer's first or second try.
        state: The optimizer's state.
        optimizer: Who minimises, with its hyperparameters as they are by now.
        place: Where a stream of batches stands.
        log: The history.
        memories: What the callbacks must not forget, by their names.
        stop: Why a callback had ended the run; None where none had.
        loss: The loss at the end of the run; None where it was to go on.
        converged: Whether the optimizer had said so by then.
        failure: What was not finite at its end; None where all was.
    """

    step: int
    attempt: int
    state: State
    optimizer: Optimizer
    place: Place
    log: Log
    memories: dict[str, dict[str, Any]]
    stop: str | None = None
    loss: float | None = None
    converged: bool = False
    failure: str | None = None


class Stand(NamedTuple):
    """Where a run stands between two chunks.

    Attributes:
        log: The history so far.
        state: The optimizer's state.
        optimizer: Who minimises.
        place: Where a stream of batches stands.
        epoch: How many epochs are finished.
        attempt: Whether it is the optimizer's first or second try.
        is_epoch_end: Whether an epoch has just ended.
        loss: The loss at the end of the run; None before.
        converged: Whether the optimizer has said so.
        failure: What was not finite; None where all was.
        is_sound: Whether the loss there is known to be finite, where a snapshot is due.
    """

    log: Log
    state: State
    optimizer: Optimizer
    place: Place
    epoch: int
    attempt: int
    is_epoch_end: bool = False
    loss: float | None = None
    converged: bool = False
    failure: str | None = None
    is_sound: bool = True


class Keeper(Callback):
    """A callback that keeps snapshots, and can give back the last one."""

    def save(self, snapshot: Snapshot, is_last: bool) -> None:
        """Keeps a snapshot; one that is to be the last is there when this returns."""
        raise NotImplementedError

    def load(self, run: Run, state: State, optimizer: Optimizer) -> Snapshot | None:
        """The last snapshot of this run, whose state is like this one; None where there is none."""
        raise NotImplementedError


class Function(Callback):
    """A plain function of a `Seen` as a callback.

    Attributes:
        name: What the function is called.
    """

    def __init__(self, function: Callable[[Seen], Any]):
        self._function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def __call__(self, seen: Seen) -> Any:
        return self._function(seen)


def checked(callbacks: Any) -> list[Callback]:
    """The callbacks as such; raises TypeError where one is none."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks is {_checks.describe(callbacks)}; expected a list of callbacks.")
    found = []
    for index, callback in enumerate(callbacks):
        if isinstance(callback, type) or not callable(callback):
            raise TypeError(
                f"callbacks[{index}] is {_checks.describe(callback)}; expected a callback such as "
                "jaxfit.callbacks.Progress(), or a function of what is seen."
            )
        found.append(callback if isinstance(callback, Callback) else Function(callback))
        every = found[-1].every
        if every not in (None, "epoch"):
            _checks.count(f"callbacks[{index}].every", every)
    return found


def silenced(callbacks: list[Callback]) -> list[Callback]:
    """The callbacks for a process beside the first: those that write do nothing, but are due when they are there."""
    found = []
    for callback in callbacks:
        quiet = Callback()
        quiet.every = callback.every
        found.append(quiet if callback.writes else callback)
    return found


class Crew:
    """The callbacks of one run.

    Attributes:
        saved: The snapshot that the run goes on from; None for a new run.
        optimizer: Who minimises from now on; None where no callback asked for a change.
    """

    def __init__(
        self, callbacks: list[Callback], run: Run, asked: Asked, *, together: bool = False, wide: bool = False
    ):
        self._keepers = [callback for callback in callbacks if isinstance(callback, Keeper)]
        # Keepers come last: what they keep has the others' memories of the same step.
        self._callbacks = [one for one in callbacks if not isinstance(one, Keeper)] + self._keepers
        self._run, self._asked, self._together, self._wide = run, asked, together, wide
        self._stand: Stand | None = None  # where the run stood last
        self._told = [(0, 0)] * len(self._callbacks)
        self._agreed: str | None = None
        self._chunk, self._started = _FIRST_STEPS, time.perf_counter()
        self._offset = 0  # the steps of an earlier try
        self.saved: Snapshot | None = None
        self.optimizer: Optimizer | None = None

    # -- the run's beginning and end --------------------------------------------------------------------------------

    def begin(self, state: State, optimizer: Optimizer) -> None:
        """Begins the run, or finds out where it goes on from."""
        for keeper in self._keepers:
            found = keeper.load(self._run, state, optimizer)
            if found is not None and (self.saved is None or found.step > self.saved.step):
                self.saved = found
        self._run = self._run._replace(step=0 if self.saved is None else self.saved.step)
        for name, callback in self._named():
            callback.begin(self._run)
            if self.saved is not None and name in self.saved.memories:
                callback.recall(self.saved.memories[name])

    def end(self, outcome: Outcome | None) -> None:
        """Tells all that the run is over; what one of them raises then does not keep the others from it."""
        failed = None
        for callback in self._callbacks:
            try:
                callback.end(outcome)
            except Exception as error:
                failed = failed or error
        if failed is not None and outcome is not None:
            raise failed

    def abandon(self) -> None:
        """The run ended by an exception: what was done until then is kept, where somebody keeps it."""
        if self._stand is not None and not self._together:
            for keeper in self._keepers:
                with contextlib.suppress(Exception):
                    keeper.save(self._snapshot(self._stand, None), is_last=False)
        self.end(None)

    def resume(self, attempt: int) -> Snapshot | None:
        """The snapshot that this try goes on from; None where it starts from its beginning."""
        found = self.saved
        if found is None or found.attempt != attempt:
            return None
        self._told = [(found.log.steps, found.log.epochs)] * len(self._callbacks)
        return found

    def try_again(self, at: Stand) -> None:
        """Another try starts from step 0; its steps are numbered on from those of the one before."""
        if not self.is_silent(1):
            self.visit(at, everyone=True)
        self._offset = at.log.steps
        self._told = [(0, 0)] * len(self._callbacks)
        for callback in self._callbacks:
            callback.restart()

    def is_silent(self, attempt: int) -> bool:
        """Whether a later try was saved already, so that this one is only done again to compare the two."""
        return self.saved is not None and self.saved.attempt > attempt

    # -- between two chunks -----------------------------------------------------------------------------------------

    def room(self, step: int, limit: int | None, per_epoch: int | None) -> int:
        """How many steps to take before the next visit."""
        ends = [] if limit is None else [limit]
        ends.append(step + self._chunk)
        for callback in self._callbacks:
            if isinstance(callback.every, int):
                ends.append(step + callback.every - (step + self._offset) % callback.every)
            elif callback.every == "epoch" and per_epoch is not None:
                ends.append(step + per_epoch - step % per_epoch)
        return max(min(ends) - step, 0)

    def took(self, steps: int, seconds: float, capacity: int) -> None:
        """Notes how long a chunk took, so that the next one takes about as long as a breath."""
        most = min(_FASTER * max(steps, 1), capacity)
        chunk = max(1, min(most, int(_BREATH * steps / max(seconds, 1e-9))))
        if self._together:
            # All processes take the same steps, and all end where one of them is asked to.
            told = _processes.gathered([chunk, self._asked.by is not None])
            chunk = int(told[:, 0].min())
            if told[:, 1].any():
                self._agreed = self._asked.by or "a signal to another process"
        self._chunk = chunk

    def visit(
        self, at: Stand, why: tuple[Status, str] | None = None, *, is_last: bool = False, everyone: bool = False
    ) -> Any:
        """Calls those who are due; gives the status to end the run with, and why, or None to go on.

        Args:
            at: Where the run stands.
            why: What ended the run, at the last visit, where a callback or the user asked for it.
            is_last: Whether the run is over, so that all are called.
            everyone: Whether all are called who have not been told of everything.
        """
        step = at.log.steps + self._offset
        seen: dict[tuple[int, int], Seen] = {}
        self.optimizer = None
        self._stand = at
        silent, error = self.is_silent(at.attempt), None
        for index, callback in enumerate(() if silent else self._callbacks[: -len(self._keepers) or None]):
            told, here = self._told[index], (at.log.steps, at.log.epochs)
            due = is_last or self._is_due(callback, at) or (everyone and told != here)
            if not due or (isinstance(callback, Function) and told == here):
                continue
            if told not in seen:
                seen[told] = self._seen(at, told, is_last)
            self._told[index] = here
            try:
                with _outside(self._wide):
                    reason = self._answer(callback, callback(seen[told]))
            except Exception as found:
                if not self._together:
                    raise
                error = error or found
                continue
            if reason is not None and why is None:
                why = Status.STOPPED, f"Stopped after step {step}: {reason}"
        if self._stop_by is not None and why is None:
            why = self.interrupted(at.log.steps)
        if self._together:
            why = self._in_common(why, error)
        for keeper in () if silent else self._keepers:
            if is_last or (at.is_sound and (self._is_due(keeper, at) or everyone)):
                keeper.save(self._snapshot(at, why), is_last)
        return why

    def _in_common(self, why: tuple[Status, str] | None, error: Exception | None) -> tuple[Status, str] | None:
        """Why all processes end, where a callback in one of them asks for it; what one raises is raised in all."""
        if not _processes.gathered(why is not None or error is not None or self.optimizer is not None).any():
            return None
        numbers = None if self.optimizer is None else [float(leaf) for leaf in jax.tree.leaves(self.optimizer)]
        raised = error and f"{type(error).__name__}: {error}"
        told = [json.loads(text) for text in _processes.texts(json.dumps([why and why[1], str(numbers), raised]))]
        if error is not None:
            raise error
        for process, (_, _, raised) in enumerate(told):
            if raised:
                raise RuntimeError(f"a callback raised in process {process}: {raised}")
        others = [process for process, (_, numbers, _) in enumerate(told) if numbers != told[0][1]]
        if others:
            raise ValueError(
                f"a callback returned another optimizer in process {others[0]} than in process 0: "
                f"{told[others[0]][1]} and {told[0][1]} are the numbers of the two. Expected the same in every process."
            )
        return why or next(((Status.STOPPED, reason) for reason, _, _ in told if reason), None)

    def _is_due(self, callback: Callback, at: Stand) -> bool:
        every: Any = callback.every
        if every is None or every == "epoch":
            return every is None or at.is_epoch_end
        return (at.log.steps + self._offset) % every == 0

    def is_saving(self, at: Stand) -> bool:
        """Whether a snapshot falls due here."""
        return any(self._is_due(keeper, at) for keeper in self._keepers) and not self.is_silent(at.attempt)

    @property
    def _stop_by(self) -> str | None:
        """Who asked for the end: of several processes, what all of them know."""
        return self._agreed if self._together else self._asked.by

    def interrupted(self, step: int) -> tuple[Status, str]:
        """What to say where the user asked for the end."""
        step += self._offset
        return Status.INTERRUPTED, f"Interrupted by {self._stop_by} after step {step}. {Status.INTERRUPTED.hint}"

    def _seen(self, at: Stand, told: tuple[int, int], is_last: bool) -> Seen:
        return Seen(
            step=at.log.steps + self._offset,
            epoch=at.epoch,
            history=at.log.rows(told[0]),
            epoch_history=at.log.looks(told[1]),
            optimizer=at.optimizer,
            state=at.state,
            seconds=time.perf_counter() - self._started,
            run=self._run,
            is_epoch_end=at.is_epoch_end,
            is_last=is_last,
        )

    def _answer(self, callback: Callback, answer: Any) -> str | None:
        """Why a callback wants to end the run, by what it returned; None where it does not."""
        if isinstance(answer, Optimizer):
            current = self.optimizer or self._run.optimizer
            if jax.tree.structure(answer) != jax.tree.structure(current):
                raise TypeError(
                    f"{type(callback).__name__} returned {answer!r}; expected {current!r} with other numbers: an "
                    "optimizer of another structure has another state."
                )
            self.optimizer = answer
            return None
        name = callback.name if isinstance(callback, Function) else type(callback).__name__
        if answer is None or (isinstance(answer, (bool, np.bool_)) and not answer):
            return None
        if isinstance(answer, (bool, np.bool_)):
            return f"{name} asked for it."
        if isinstance(answer, (str, Stop)):
            return answer if isinstance(answer, str) else answer.reason
        raise TypeError(
            f"{name} returned {_checks.describe(answer)}; expected None to go on, a Stop with its "
            "reason (or True) to end, or an optimizer to go on with."
        )

    def _snapshot(self, at: Stand, why: Any) -> Snapshot:
        memories = {name: callback.memory() for name, callback in self._named()}
        return Snapshot(
            step=at.log.steps + self._offset,
            attempt=at.attempt,
            state=at.state,
            optimizer=self.optimizer or at.optimizer,
            place=_processes.place(at.place) if self._together else at.place,
            log=at.log,
            memories={name: memory for name, memory in memories.items() if memory},
            stop=why[1] if why is not None and why[0] is Status.STOPPED else None,
            loss=at.loss,
            converged=at.converged,
            failure=at.failure,
        )

    def _named(self) -> list[tuple[str, Callback]]:
        """The callbacks with names that they have in the next process too: their class and how many there were."""
        counts: dict[str, int] = {}
        named = []
        for callback in self._callbacks:
            kind = type(callback).__name__
            counts[kind] = counts.get(kind, 0) + 1
            named.append((f"{kind} {counts[kind]}", callback))
        return named

    def best(self) -> Best | None:
        """Where the params of the result come from; None for the end of the run."""
        found = next((best for callback in self._callbacks if (best := callback.best()) is not None), None)
        if found is None or (self._offset and found.step <= self._offset):
            return None
        return found._replace(step=found.step - self._offset)


def _outside(wide: bool) -> contextlib.AbstractContextManager:
    """The precision that the user's own code runs in, around a fit that has set its own."""
    return jax.enable_x64(False) if wide else contextlib.nullcontext()


def capacity(row_bytes: int) -> int:
    """Rows of a chunk's history."""
    rows = min(_TABLE_BYTES // max(row_bytes, 1), _MOST_STEPS)
    return 1 << max(rows.bit_length() - 1, 4)
