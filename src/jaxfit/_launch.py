"""Sets a prepared fit running: as one program, or in chunks with all who look on."""

from typing import Any

import jax

from jaxfit import _checks, _chunks, _crew, _drive, _identity, _interrupt, _options
from jaxfit._callback import Callback, Run
from jaxfit._crew import Crew
from jaxfit._ended import Ended
from jaxfit._feed import Passes, Stream
from jaxfit._prepare import Prepared, step_limit


def launch(ready: Prepared, steps: Any, epochs: Any, callbacks: Any, progress: Any) -> Ended:
    """Runs a fit to its end.

    Args:
        ready: The fit.
        steps: As in `fit`, and so all others.
        epochs: See there.
        callbacks: See there.
        progress: See there.
    """
    task, is_stream = ready.task, ready.kind == "stream"
    limit = _options.limit(task.optimizer, steps, epochs) if is_stream else (step_limit(task, steps, epochs), None)
    found = _crew.checked(callbacks)
    is_long = not is_stream and _drive.is_long(task, limit[0] or 0)
    found += _bar(progress, is_long)
    if not (found or is_stream or is_long):
        return _drive.in_memory(task, limit[0] or 0)
    run = Run(
        model=ready.model,
        optimizer=task.optimizer,
        loss=task.problem.loss,
        params=jax.device_get(ready.start),
        steps=limit[0],
        epochs=epochs if is_stream or task.steps_per_epoch else None,
        steps_per_epoch=None if is_stream else task.steps_per_epoch,
        samples=None if task.data is None else task.samples,
        batch_size=task.batch_size,
        identity=lambda: _identity.of(ready),
    )
    with _interrupt.heeded() as asked:
        crew = Crew(found, run, asked)
        try:
            if is_stream:
                ready.data.tells = crew.keeps
                summed = task.optimizer.needs_full_batch
                given = task, ready.data, ready.wide
                ended = _chunks.run(task, Passes(*given, asked) if summed else Stream(*given), crew, *limit)
            else:
                ended = _drive.in_memory(task, limit[0] or 0, crew)
            return _chunks.closed(task, ended, crew)
        except BaseException:
            crew.end(None)
            raise


def _bar(progress: Any, is_long: bool) -> list[Callback]:
    """The progress bar, where one is wanted."""
    if progress not in (None, True, False):
        raise TypeError(f"progress is {_checks.describe(progress)}; expected True, False or None.")
    if progress is False or (progress is None and not is_long):
        return []
    from jaxfit.callbacks._progress import Progress, is_watched

    return [Progress()] if progress or is_watched() else []
