"""Drives a fit: as one program where the data are in memory, batch by batch where they come from an iterable."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _classes, _inputs, _program, _small
from jaxfit._loop import Span
from jaxfit._problem import Batch
from jaxfit._program import Task
from jaxfit._status import Status
from jaxfit.optimizers import Optimizer, State


class Ended(NamedTuple):
    """What a driver hands back.

    Attributes:
        state: The optimizer's state at the last params whose loss is finite, or at the start where not even theirs is.
        loss: The loss of these params.
        steps: The steps taken to these params.
        history: What was recorded at every step: a dict of pytrees of NumPy arrays [steps, ...].
        epochs: What was computed after every epoch: a dict of NumPy arrays [epochs].
        converged: Whether the optimizer said so.
        failure: What was not finite, as a sentence; None where all was.
        data_ended: Whether the batches ran out before the steps did.
        compile_seconds: Spent on compilation.
        run_seconds: Spent on everything else.
    """

    state: State
    loss: float
    steps: int
    history: dict[str, Any]
    epochs: dict[str, np.ndarray]
    converged: bool
    failure: str | None
    data_ended: bool
    compile_seconds: float
    run_seconds: float

    def verdict(self, optimizer: Optimizer) -> tuple[Status, str]:
        """The status of the fit, and its sentence with the figures of this fit."""
        first = self.history["loss"][0] if self.steps else self.loss
        # By how much the loss rose; what is to be made large may do so.
        growth = 0.0 if getattr(optimizer, "maximize", False) else self.loss - first
        if self.failure is not None:
            status = Status.DIVERGED if growth > 9 * abs(first) else Status.NON_FINITE
            return status, f"{self.failure} {status.hint} The params are the last whose loss was finite."
        if self.converged:
            return Status.CONVERGED, f"Converged after {self.steps} step{'s' * (self.steps != 1)}."
        # A loss that ends a thousand times above its start, and still rises, is on its way to infinity.
        if growth > 1e3 * abs(first) > 0 and self.loss > self.history["loss"][self.steps // 2]:
            return Status.DIVERGED, f"The loss went from {first:.4g} to {self.loss:.4g}. {Status.DIVERGED.hint}"
        if self.data_ended:
            return Status.DATA_ENDED, f"The batches ended after step {self.steps}. {Status.DATA_ENDED.hint}"
        if optimizer.default_steps is not None:
            return Status.STEP_LIMIT, f"Not converged after {self.steps} steps. {Status.STEP_LIMIT.hint}"
        return Status.COMPLETED, f"Took all {self.steps} steps."


def _loss_failure(task: Task, losses: Any, found: float, step: int) -> str:
    if step == 0:
        # Labels in memory have been looked at; those that a sampler draws have not, and indices never.
        drawn = task.classes is not None and task.data is None
        indices = task.data is not None and any(leaf.dtype.kind in "iu" for leaf in jax.tree.leaves(task.data.x))
        more = " Labels or indices out of range make it so too." if drawn or (indices and task.network) else ""
        return f"The loss is {found} at the starting params.{more}"
    return f"The loss went from {losses[0]:.4g} to {losses[step - 1]:.4g} and was {found} after step {step}."


def _gradient_failure(loss: float, step: int) -> str:
    where = "at the starting params" if step == 0 else f"after step {step}"
    return f"The gradient is not finite {where}, where the loss is {loss:.4g}."


def in_memory(task: Task, steps: int) -> Ended:
    """Runs a fit whose batches the program itself deals; twice where the first end asks for it."""
    limit = task.optimizer.first_steps
    first = _once(task, steps if limit is None else min(steps, limit))
    if limit is None or first.failure is not None or not (first.converged or steps > limit):
        return first
    careful = task.optimizer.second_try(first.state, first.converged, held(task, first.state))
    if careful is None:
        return first
    second = _once(task._replace(optimizer=careful, meaning=(task.meaning, "second")), steps)
    better = second.failure is None and (second.loss < first.loss or not first.converged)
    chosen = second if better else first
    return chosen._replace(
        compile_seconds=first.compile_seconds + second.compile_seconds,
        run_seconds=first.run_seconds + second.run_seconds,
    )


def _once(task: Task, steps: int) -> Ended:
    started = time.perf_counter()
    capacity = _room(steps + 1)
    per_epoch = task.steps_per_epoch
    epoch_capacity = _room(steps // per_epoch) if per_epoch and task.looks_back else 0

    def run(stop: int, careful: bool) -> tuple[Any, float]:
        return _program.whole(task, _span(0, stop, stop + 1), capacity, epoch_capacity, careful)

    careful = task.optimizer.needs_full_batch  # these have the gradient's norm at hand
    progress, compile_seconds = run(steps, careful)
    if not careful and not _is_finite(progress.state.params):
        # Rare enough that no step of a healthy fit pays for looking at every gradient.
        careful = True
        progress, more = run(steps, careful)
        compile_seconds += more
    task.optimizer.check_end(progress.state)
    taken = int(progress.step) - 1
    losses = np.asarray(progress.history["loss"])
    loss, state, failure = float(losses[taken]), progress.state, None
    if not math.isfinite(loss):
        failure = _loss_failure(task, losses, loss, taken)
        if taken > 0:
            # The fit is a function of the number of its steps: run anew, it stops where the loss was still finite.
            taken -= 1
            progress = run(taken, careful)[0]
            loss, state = float(np.asarray(progress.history["loss"])[taken]), progress.state
    elif careful and not np.isfinite(np.asarray(progress.history["gradient_norm"])[taken]):
        failure = _gradient_failure(loss, taken)
    return Ended(
        state=state,
        loss=loss,
        steps=taken,
        history={name: _first(progress.history[name], taken) for name in task.record},
        epochs=_first(progress.epochs, taken // (per_epoch or 1)),
        converged=bool(progress.converged),
        failure=failure,
        data_ended=False,
        compile_seconds=compile_seconds,
        run_seconds=time.perf_counter() - started - compile_seconds,
    )


def held(task: Task, state: State) -> np.ndarray | None:
    """Which params a bound holds back at a second-order optimizer's end, a bool [p]; None where there are no bounds."""
    terms = task.optimizer.terms(state)
    if task.bounds is None or terms is None:
        return None
    here, lower, upper = map(_small.in_a_row, (state.params, *task.bounds))
    return _small.is_held(here, np.asarray(terms.gradient), lower, upper)


def _is_finite(params: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(params))


def _span(start: int, stop: int, rows: int) -> Span:
    return Span(np.int32(start), np.int32(stop), np.int32(rows))


def _first(table: Any, rows: int) -> Any:
    return jax.tree.map(lambda entries: np.asarray(entries)[:rows], table)


def _room(rows: int) -> int:
    """Rows to keep room for: few different numbers, so that another number of steps compiles nothing."""
    return 1 << max(rows - 1, 63).bit_length()


def stream(task: Task, data: Iterable, steps: int | None, epochs: int | None, wide: bool) -> Ended:
    """Runs a fit on batches from an iterable, which is started anew for every epoch.

    Raises:
        TypeError: What comes out of the iterable is not a pair (x, y).
        ValueError: It is empty, or a batch is malformed.
    """
    started = time.perf_counter()
    compile_seconds = 0.0

    def counted(called: tuple[Any, float]) -> Any:
        nonlocal compile_seconds
        compile_seconds += called[1]
        return called[0]

    dealt = _deal(task, data, wide)
    batch = next(dealt)
    assert batch is not None  # a pass without batches has raised
    state = before = counted(_program.begin(task, batch))
    rows, looks = [], []
    ran_out = False
    while True:
        taken = len(rows)
        last = ran_out or taken == steps or len(looks) == epochs
        span = _span(taken, taken if last else taken + 1, taken + 1)
        progress = counted(_program.advance(task, state, batch, span))
        loss, converged = float(progress.history["loss"][0]), bool(progress.converged)
        sound = math.isfinite(loss) and bool(np.isfinite(progress.history["gradient_norm"][0]))
        if last or converged or not sound:
            break
        rows.append(progress.history)
        before, state = state, progress.state
        entry = next(dealt)
        if entry is None:
            looks.append(counted(_program.evaluate(task, state)) if task.looks_back else {})
            if taken + 1 != steps and len(looks) != epochs:
                entry = next(dealt, None)
                ran_out = entry is None
        batch = entry or batch  # the last look of a fit is at the batch of its last step
    failure = None
    if not math.isfinite(loss):
        losses = [float(row["loss"][0]) for row in rows]
        failure = _loss_failure(task, losses, loss, len(rows))
        if rows:
            del rows[-1]
            state, loss = before, losses[-1]
            if task.optimizer.averages:
                look = _span(len(rows), len(rows), len(rows) + 1)
                loss = float(counted(_program.advance(task, before, batch, look)).history["loss"][0])
    elif not sound:
        failure = _gradient_failure(loss, len(rows))
    return Ended(
        state=state,
        loss=loss,
        steps=len(rows),
        history={name: _stacked([row[name] for row in rows or [_first(progress.history, 0)]]) for name in task.record},
        epochs={name: np.array([look[name] for look in looks]) for name in (looks[0] if looks else ())},
        converged=converged,
        failure=failure,
        data_ended=ran_out,
        compile_seconds=compile_seconds,
        run_seconds=time.perf_counter() - started - compile_seconds,
    )


def _stacked(rows: list[Any]) -> Any:
    return jax.tree.map(lambda *entries: np.concatenate([np.asarray(entry) for entry in entries]), *rows)


def _deal(task: Task, data: Iterable, wide: bool) -> Iterator[Batch | None]:
    """The batches of pass after pass, checked, with None at the end of each; ends where no new pass can be had."""
    number = 0
    while True:
        found = False
        for index, pair in enumerate(data):
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
                raise TypeError(
                    f"batch {index} of the data is {_checks.describe(pair)}; expected a pair (x, y). Data that are "
                    "arrays go in as a tuple (x, y), a function that draws them as key -> (x, y)."
                )
            found = True
            batch = _inputs.arrays(tuple(pair), wide, name=f"batch {index}")
            if task.classes is not None:
                _classes.labels(task.problem.loss, batch.y, task.classes, f"y of batch {index}")
            yield batch
        if not found:
            if number == 0:
                raise ValueError("data is an iterable without batches; expected at least one pair (x, y).")
            return  # an iterator that has been used up
        number += 1
        yield None
