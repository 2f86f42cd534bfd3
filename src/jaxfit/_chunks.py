"""Drives a run in chunks of compiled steps, between which the host looks, saves, and may end it."""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _crew, _program
from jaxfit._batches import Place
from jaxfit._callback import Outcome
from jaxfit._crew import Crew, Stand
from jaxfit._data import Group
from jaxfit._ended import Ended, gradient_failure, loss_failure
from jaxfit._feed import Memory, Passes
from jaxfit._log import Log
from jaxfit._loop import Span
from jaxfit._program import Task
from jaxfit._status import Status
from jaxfit._stream import Broken, DataEnded, PassOver, Piece, Stream
from jaxfit.optimizers import State


class _Taken(NamedTuple):
    """A piece of a run that has been run.

    Attributes:
        task: The fit, with the optimizer as it was.
        state: The state before it.
        start: The number of its first step.
        piece: Its data.
    """

    task: Task
    state: State
    start: int
    piece: Piece


class _Run:
    """A run in chunks, and where it has got to."""

    def __init__(self, task: Task, feed: Memory | Stream | Passes, attempt: int):
        if task.spread is None:  # once, not at every chunk
            task = task._replace(data=jax.device_put(task.data), validation=jax.device_put(task.validation))
        self.task, self.feed, self.attempt = task, feed, attempt
        self.compile_seconds = 0.0
        self.state: Any = self.counted(_program.begin(task, feed.first))
        self.log, self.place, self.epoch = Log(), feed.place, 0
        self.log.expect(task.looks)
        self.is_epoch_end = False
        self.drawn: Any = None  # what the steps of the round that is under way share
        self.taken: list[_Taken] = []  # the last two pieces, the newer one last
        recorded = sum(leaf.nbytes for leaf in jax.tree.leaves(task.params)) if "params" in task.record else 0
        self.capacity = _crew.capacity(recorded)
        self.converged = False
        self.failure: str | None = None
        self.loss: float | None = None

    def counted(self, called: tuple[Any, float]) -> Any:
        """What a program gave; its compilation is counted."""
        self.compile_seconds += called[1]
        return called[0]

    def stand(self) -> Stand:
        """Where it stands, for the callbacks."""
        return Stand(
            self.log,
            self.state,
            self.task.optimizer,
            self.place,
            self.epoch,
            self.attempt,
            self.is_epoch_end,
            self.loss,
            self.converged,
            self.failure,
        )

    def go_on_from(self, saved: _crew.Snapshot) -> None:
        """Takes the place of an earlier run that was saved."""
        self.log, self.state = saved.log, saved.state
        self.loss, self.converged, self.failure = saved.loss, saved.converged, saved.failure
        self.task = self.task._replace(optimizer=saved.optimizer)
        self.feed.move_to(self.log.steps, saved.place)
        self.move(saved.place)

    def move(self, place: Place) -> None:
        """Notes where the data stand, and what that says of the epochs."""
        per_epoch = self.feed.steps_per_epoch
        epoch = place.epoch if per_epoch is None else self.log.steps // per_epoch
        self.is_epoch_end = epoch > 0 and (place.batch == 0 if per_epoch is None else self.log.steps % per_epoch == 0)
        self.place, self.epoch = place, epoch

    def dispatched(self, task: Task, piece: Piece, state: State, span: tuple[int, int, int]) -> Any:
        """The program of some steps, running."""
        numbers, first = Span(*map(np.int32, span)), self.feed.first
        return self.counted(_program.chunk(task, state, piece.group, first, numbers, self.capacity, self.drawn))

    def begin(self, piece: Piece) -> Any:
        """Sets the program of a piece running."""
        start = self.log.steps
        self.loss, stop = None, start + piece.steps
        self.taken = [*self.taken[-1:], _Taken(self.task, self.state, start, piece)]
        return self.dispatched(self.task, piece, self.state, (start, stop, stop))

    def read(self, piece: Piece, progress: Any) -> bool:
        """Waits for a piece, and notes what it brought; gives whether all its steps were taken."""
        start, running = self.log.steps, bool(progress.running)
        count = int(progress.step) - (0 if running else 1) - start
        names = dict.fromkeys((*self.task.record, "gradient_norm"))
        self.log.add_steps({name: progress.history[name] for name in names}, count)
        if progress.epochs:
            per_epoch = self.feed.steps_per_epoch
            assert per_epoch is not None
            self.log.add_epochs(progress.epochs, (start + count) // per_epoch - start // per_epoch)
        self.state, self.drawn = progress.state, progress.drawn
        self.move(piece.place)
        if running:
            return True
        self.loss, self.converged = float(np.asarray(progress.history["loss"])[count]), bool(progress.converged)
        if not self.converged:
            self.fail(self.loss)
        return False

    def look_back(self, place: Place) -> None:
        """Notes that a pass over a stream has ended, and what is computed then."""
        if self.task.looks_back:
            found = self.counted(_program.evaluate(self.task, self.state))
            self.log.add_epochs({name: np.asarray(value)[None] for name, value in found.items()}, 1)
        self.move(place)

    def fail(self, loss: float) -> None:
        """Ends where the loss, or its gradient, is not finite: at the last params whose loss is."""
        step = self.log.steps
        if math.isfinite(loss):
            self.failure = gradient_failure(loss, step)
            return
        losses = self.log.rows()["loss"]
        self.failure = loss_failure(self.task, losses, loss, step)
        if step == 0:
            return
        self.loss = float(losses[step - 1])
        taken = next((one for one in reversed(self.taken) if one.start < step), None)
        if taken is None:  # the first step after a resumption: what was saved is all there is
            return
        # Steps are a function of their numbers: run anew, they stop where the loss was still finite.
        self.state = taken.state
        if taken.start < step - 1:
            span = taken.start, step - 1, step - 1
            self.state = self.dispatched(taken.task, taken.piece, taken.state, span).state
        per_epoch = self.feed.steps_per_epoch
        epochs = taken.piece.place.epoch if per_epoch is None else (step - 1) // per_epoch
        self.log.cut(step - 1, epochs)
        self.move(self.place if per_epoch is not None else taken.piece.place)
        if self.task.optimizer.averages:
            self.loss = self.look(taken.piece)[0]

    def look(self, piece: Piece, state: Any = None) -> tuple[float, float]:
        """Loss and gradient's norm at a state's params, on the batch of the next step or, if there is none, the last.

        Args:
            piece: The data of the next steps or of the last ones.
            state: The state; None for that of the run.
        """
        step, group = self.log.steps, piece.group
        if isinstance(group, Group):
            position = min(step - int(group.first), piece.steps - 1)
            piece = piece._replace(group=dataclasses.replace(group, first=np.int32(step - position)))
        state = self.state if state is None else state
        progress = self.dispatched(self.task, piece, state, (step, step, step + 1))
        loss, norm = (float(np.asarray(progress.history[name])[0]) for name in ("loss", "gradient_norm"))
        return loss, norm

    def settle(self, piece: Piece) -> None:
        """Finds the loss of the end, on the data of the next steps or of the last ones."""
        loss, norm = self.look(piece)
        self.loss = loss
        if math.isfinite(loss) and (math.isfinite(norm) or self.task.skips):
            return
        if not self.task.skips:
            self.fail(loss)
            return
        self.loss = _last_finite(self.log.rows()["loss"], loss)


def run(
    task: Task,
    feed: Memory | Stream | Passes,
    crew: Crew,
    steps: int | None,
    epochs: int | None = None,
    attempt: int = 1,
) -> Ended:
    """Runs a fit until its last step, convergence, failure, or until somebody asks for its end.

    Args:
        task: The fit.
        feed: Where its data come from.
        crew: Who looks on.
        steps: At most so many steps; None for no limit.
        epochs: At most so many passes over a stream; None for no limit.
        attempt: Whether it is the optimizer's first or second try.

    Raises:
        Exception: What a stream raises before anything has been fitted; later its work so far is the result.
    """
    started = time.perf_counter()
    now = _Run(task, feed, attempt)
    if attempt == 1:
        crew.begin(now.state, task.optimizer)
    why = _resumed(now, crew, steps, epochs)
    data_ended, event, piece = False, None, None

    def is_over() -> bool:
        return now.log.steps == steps or now.epoch == epochs or now.failure is not None

    def room(start: int) -> int:
        """How many steps come next; at the limit, one more batch to look at."""
        return max(crew.room(start, steps, feed.steps_per_epoch), 1)

    def follow(start: int) -> Any:
        """What comes next."""
        return feed.take(start, room(start), now.state)

    while why is None and not is_over():
        event = follow(now.log.steps) if event is None else event
        if event is None:
            why = crew.interrupted(now.log.steps)
            break
        if isinstance(event, Broken):
            if now.log.steps == 0:
                raise event.error
            why = Status.DATA_FAILED, f"{event.message} {Status.DATA_FAILED.hint}"
            break
        if isinstance(event, DataEnded):
            data_ended = True
            break
        if isinstance(event, Piece):
            begun, compiling, piece = time.perf_counter(), now.compile_seconds, event
            progress = now.begin(piece)
            if isinstance(feed, Stream):  # while the device computes
                after = now.log.steps + piece.steps
                feed.fetch(after, room(after))
            if not now.read(piece, progress):
                break
            event = follow(now.log.steps) if isinstance(feed, Stream) else None
            crew.took(piece.steps, time.perf_counter() - begun - (now.compile_seconds - compiling), now.capacity)
        if isinstance(event, PassOver):
            now.look_back(event.place)
            event = None
        if not is_over():
            why = _visited(now, crew, event if isinstance(event, Piece) else piece)
    task.optimizer.check_end(now.state)
    if now.loss is None:
        piece = event if isinstance(event, Piece) else piece or feed.sample(now.log.steps)
        if piece is None:
            raise KeyboardInterrupt("before the first pass over the data was done")
        now.settle(piece)
    seconds = time.perf_counter() - started
    return _ended(now, piece or feed.sample(now.log.steps), seconds)._replace(why=why, data_ended=data_ended)


def _resumed(now: _Run, crew: Crew, steps: int | None, epochs: int | None) -> tuple[Status, str] | None:
    """Goes on where an earlier run was saved, if one was; gives why that one had been ended, if a callback did."""
    saved = crew.resume(now.attempt)
    if saved is None:
        return None
    now.go_on_from(saved)
    passes = now.epoch if now.feed.steps_per_epoch is None else 0
    if now.log.steps > (steps or math.inf) or passes > (epochs or math.inf):
        raise ValueError(
            f"the run is to take {f'{steps} steps' if steps else f'{epochs} epochs'}, and its checkpoint stands after "
            f"step {now.log.steps} already: give at least as many, or another directory to begin anew."
        )
    return None if saved.stop is None else (Status.STOPPED, saved.stop)


def _visited(now: _Run, crew: Crew, piece: Piece | None) -> tuple[Status, str] | None:
    """Calls the callbacks who are due; gives why the run is to end, if it is."""
    stand = now.stand()
    if piece is not None and crew.is_saving(stand):
        # What is kept must be worth going on from: its loss is looked at before it counts as the last.
        sound = now.task.skips or all(map(math.isfinite, now.look(piece)))
        stand = stand._replace(is_sound=sound)
    why = crew.visit(stand)
    now.task = now.task._replace(optimizer=crew.optimizer or now.task.optimizer)
    return why


def _ended(now: _Run, last: Any, seconds: float) -> Ended:
    """What is handed back, with a look at the last of the data for other states."""
    rows, loss = now.log.rows(), now.loss
    assert loss is not None
    compiling = now.compile_seconds + getattr(now.feed, "compile_seconds", 0.0)
    return Ended(
        state=now.state,
        loss=loss,
        steps=now.log.steps,
        history={name: jax.tree.map(np.array, rows[name]) for name in now.task.record},
        epochs=jax.tree.map(np.array, now.log.looks()),
        converged=now.converged,
        failure=now.failure,
        data_ended=False,
        compile_seconds=compiling,
        run_seconds=seconds - compiling,
        skipped=now.log.skipped() if now.task.skips else 0,
        stand=now.stand(),
        total=getattr(now.feed, "total", None),
        observations=getattr(now.feed, "observations", 0),
        look=lambda state: now.look(last, state)[0],
    )


def _last_finite(losses: np.ndarray, otherwise: float) -> float:
    finite = losses[np.isfinite(losses)]
    return float(finite[-1]) if len(finite) else otherwise


def closed(task: Task, ended: Ended, crew: Crew) -> Ended:
    """The end of a run, of which all who look on are told; with the params that they found the best."""
    crew.visit(ended.stand, ended.why, is_last=True)
    look = ended.look
    best = None if look is None else crew.best()
    if look is not None and best is not None and best.step < ended.steps:
        loss = look(best.state)
        if not math.isfinite(loss):  # that batch is a bad one
            loss = _last_finite(ended.history["loss"][: best.step + 1], loss)
        ended = ended._replace(state=best.state, loss=loss, steps=best.step, best=best.step)
    ended = ended._replace(stand=None, look=None)
    crew.end(Outcome(*ended.verdict(task.optimizer), ended.loss, ended.steps))
    return ended
