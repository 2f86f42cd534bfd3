"""Sets a prepared fit running: as one program, or in chunks with all who look on."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _checks, _chunks, _crew, _drive, _identity, _interrupt, _mesh, _options, _processes
from jaxfit._callback import Callback, Run
from jaxfit._crew import Crew
from jaxfit._ended import Ended
from jaxfit._feed import Passes, Stream
from jaxfit._interrupt import Asked
from jaxfit._prepare import Prepared, step_limit
from jaxfit._program import Task


def launch(
    ready: Prepared, steps: Any, epochs: Any, callbacks: Any, progress: Any, mesh: Any = None, shard_params: Any = None
) -> Ended:
    """Runs a fit to its end.

    Args:
        ready: The fit.
        steps: As in `fit`, and so all others.
        epochs: See there.
        callbacks: See there.
        progress: See there.
        mesh: See there.
        shard_params: See there.
    """
    task = _spread_out(ready.task, mesh, shard_params)
    with _processes.lost() if task.is_shared else contextlib.nullcontext():
        ended = _run(ready, task, steps, epochs, callbacks, progress)
    if task.spread is None:
        return ended
    ended = ended._replace(devices=task.spread.words)
    if not task.spread.is_whole:
        return ended
    # Every device has all of it: one copy is the user's, to be used with arrays from anywhere.
    state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), ended.state)
    return ended._replace(state=state)


def _spread_out(task: Task, mesh: Any, shard_params: Any) -> Task:
    """A fit laid out over the devices of a mesh; itself where there is none."""
    if mesh is None:
        if shard_params is not None:
            raise ValueError("shard_params says how params lie on a mesh: give mesh, too.")
        return task
    found = _mesh.spread(mesh, shard_params, task.params, task.data, task.validation)
    _mesh.check_processes(mesh)
    return task._replace(
        spread=found,
        problem=task.problem._replace(spread=found),
        params=found.params(task.params),
        data=None if task.data is None else found.dealt(task.data),
        bounds=found.copies(task.bounds),
        validation=None if task.validation is None else found.dealt(task.validation),
        held=task.held._replace(carried=found.copies(task.held.carried), frozen=found.copies(task.held.frozen)),
    )


def _run(ready: Prepared, task: Task, steps: Any, epochs: Any, callbacks: Any, progress: Any) -> Ended:
    is_stream = ready.kind == "stream"
    limit = _options.limit(task.optimizer, steps, epochs) if is_stream else (step_limit(task, steps, epochs), None)
    found = _crew.checked(callbacks)
    if not is_stream and task.steps_per_epoch is None and any(one.every == "epoch" for one in found):
        late = next(type(one).__name__ for one in found if one.every == "epoch")
        raise ValueError(f"{late} is to act after every epoch, and a sampler has none: give it every=, in steps.")
    together = task.is_shared
    named = ", ".join(f"{type(one).__name__}(every={one.every})" for one in found) or "none"
    others = {"callbacks": named, "steps": steps, "epochs": epochs, "mesh": task.spread}
    is_long = not is_stream and _drive.is_long(task, limit[0] or 0)
    found += _bar(progress, is_long, found)
    if not (found or is_stream or is_long or together):
        return _drive.in_memory(task, limit[0] or 0)
    if together and jax.process_index() > 0:
        found = _crew.silenced(found)
    feed: Stream | Passes | None = None
    with _interrupt.heeded() as asked:
        if is_stream:
            ready.data.tells = any(isinstance(one, _crew.Keeper) for one in found)
            summed = task.optimizer.needs_full_batch
            feed = (Passes if summed else Stream)(task, ready.data, ready.wide, Asked() if together else asked)
        identity = functools.cache(lambda: _identity.of(ready, feed and feed.first))
        if together:
            _identity.check_same(identity() | {name: {"text": str(value)} for name, value in others.items()})
        run = _told(ready, task, limit, epochs, identity)
        crew = Crew(found, run, asked, together=together, wide=ready.wide)
        try:
            ended = (
                _drive.in_memory(task, limit[0] or 0, crew) if feed is None else _chunks.run(task, feed, crew, *limit)
            )
            return _chunks.closed(task, ended, crew)
        except BaseException:
            crew.abandon()
            raise


def _told(ready: Prepared, task: Task, limit: Any, epochs: Any, identity: Callable[[], dict[str, Any]]) -> Run:
    """What callbacks are told of a run."""
    is_stream = ready.kind == "stream"
    return Run(
        model=ready.model,
        optimizer=task.optimizer,
        loss=task.problem.loss,
        params=_mesh.fetched(ready.start),
        steps=limit[0],
        epochs=epochs if is_stream or task.steps_per_epoch else None,
        steps_per_epoch=None if is_stream else task.steps_per_epoch,
        samples=None if task.data is None else task.samples,
        batch_size=task.batch_size,
        identity=identity,
    )


def _bar(progress: Any, is_long: bool, found: list[Callback]) -> list[Callback]:
    """The progress bar, where one is wanted and there is none yet."""
    if not (progress is None or isinstance(progress, bool)):
        raise TypeError(f"progress is {_checks.describe(progress)}; expected True, False or None.")
    if progress is False or (progress is None and not is_long):
        return []
    from jaxfit.callbacks._progress import Progress, is_watched

    wanted = (progress or is_watched()) and not any(isinstance(one, Progress) for one in found)
    return [Progress()] if wanted else []
