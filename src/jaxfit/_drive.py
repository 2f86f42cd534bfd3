"""Drives a fit to data in memory: as one program, or in chunks where somebody looks on or the run is long."""

import math
import time
from typing import Any

import jax
import numpy as np

from jaxfit import _chunks, _program, _small
from jaxfit._crew import Crew
from jaxfit._ended import Ended, gradient_failure, loss_failure
from jaxfit._feed import Memory
from jaxfit._loop import Span
from jaxfit._program import Task
from jaxfit.optimizers import State

_LONG = 1e12  # operations: some ten seconds on two cores


def is_long(task: Task, steps: int) -> bool:
    """Whether a run takes so long that its user will want to see how it goes, and to be able to stop it."""
    if task.optimizer.needs_full_batch or task.data is None:
        return False
    params = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    return 6.0 * params * (task.batch_size or task.samples) * steps > _LONG


def in_memory(task: Task, steps: int, crew: Crew | None = None) -> Ended:
    """Runs a fit whose batches the program itself deals; twice where the first end asks for it.

    Args:
        task: The fit.
        steps: At most so many steps.
        crew: Who looks on; None for a run as one program.
    """
    limit = task.optimizer.first_steps
    first_limit = steps if limit is None else min(steps, limit)
    first = _once(task, first_limit) if crew is None else _chunks.run(task, Memory(task), crew, first_limit)
    if limit is None or first.failure is not None or first.why or not (first.converged or steps > limit):
        return first
    careful = task.optimizer.second_try(first.state, first.converged, held(task, first.state))
    if careful is None:
        return first
    another = task._replace(optimizer=careful, meaning=(task.meaning, "second"))
    if crew is None:
        second = _once(another, steps)
    else:
        crew.try_again(first.stand)
        second = _chunks.run(another, Memory(another), crew, steps, attempt=2)
    # One that was ended from outside counts only where it is better already.
    better = second.failure is None and (second.loss < first.loss or not (first.converged or second.why))
    return (second if better else first)._replace(
        compile_seconds=first.compile_seconds + second.compile_seconds,
        run_seconds=first.run_seconds + second.run_seconds,
        why=second.why,
        stand=second.stand,
        look=second.look if better else None,  # what the callbacks found the best belongs to the second
    )


def _once(task: Task, steps: int) -> Ended:
    started = time.perf_counter()
    capacity = _room(steps + 1)
    per_epoch = task.steps_per_epoch
    epoch_capacity = _room(steps // per_epoch) if per_epoch and task.looks_back else 0

    def run(stop: int, careful: bool) -> tuple[Any, float]:
        return _program.whole(task, _span(0, stop, stop + 1), capacity, epoch_capacity, careful)

    careful = task.optimizer.needs_full_batch or task.skips  # the former have the gradient's norm at hand
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
    skipped = 0
    if task.skips:
        rows = losses[: taken + 1]
        sound = np.isfinite(rows) & np.isfinite(np.asarray(progress.history["gradient_norm"])[: taken + 1])
        skipped = int((~sound[:taken]).sum())
        loss = float(rows[np.isfinite(rows)][-1]) if np.isfinite(rows).any() else loss
    elif not math.isfinite(loss):
        failure = loss_failure(task, losses, loss, taken)
        if taken > 0:
            # The fit is a function of the number of its steps: run anew, it stops where the loss was still finite.
            taken -= 1
            progress = run(taken, careful)[0]
            loss, state = float(np.asarray(progress.history["loss"])[taken]), progress.state
    elif careful and not np.isfinite(np.asarray(progress.history["gradient_norm"])[taken]):
        failure = gradient_failure(loss, taken)
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
        skipped=skipped,
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
