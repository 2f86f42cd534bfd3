"""A run as TensorBoard's event files: curves, histograms, hyperparameters and texts, written while the run goes on."""

import os
import time
from typing import Any

import jax
import numpy as np

from jaxfit import _checks
from jaxfit._callback import Callback, Outcome, Run, Seen
from jaxfit._status import Status
from jaxfit.callbacks import _rows, _summaries

_EXPECTED = 'expected the name of a folder, such as "runs/first"'
_FLUSH_SECONDS = 2.0  # a flush waits for the disk
_NORM_SHARE = 0.01  # of the run's time, at most, goes into norms of params


class TensorBoard(Callback):
    """Writes event files that TensorBoard shows: `tensorboard --logdir runs`.

    What it writes, by TensorBoard's tags:

    - `train/loss`, `train/gradient_norm`: those that a step started from, exact at every step that is written;
      `train/learning_rate`: that of the step; `train/parameter_norm`: the Euclidean norm of all params after the step,
      a few times a second and at the end;
    - `validation/loss`, `validation/<metric>`: at the last step of every epoch; `metrics/<metric>` for metrics of a fit
      without validation data. Metrics that are arrays are left out;
    - with `histograms`: `params/<name>`, a histogram of each array of params after the step, and
      `parameter_norm/<name>`, its norm; the names are the keys that lead to it, as in `params/layers/0/kernel`;
    - `outcome/loss`: the loss of the params that the run ended with, at the step that led to them;
    - the tab HPARAMS: the optimizer's hyperparameters, batch_size, steps, epochs, the loss function, the number of
      params, and `hyperparameters`; beside them the last value of every curve above;
    - the tab TEXT: `run/model`, `run/optimizer`, `run/loss`, and at the end `run/outcome`.

    Steps count from 0, as in the result's history. Values are shown in TensorBoard's single precision, NaN and infinity
    as what they are.

    A run that was resumed from a checkpoint writes a new file into the same folder, and TensorBoard hides what the run
    before wrote of later steps. A new run in a used folder hides all of the old one: give each run its own folder below
    one that TensorBoard is started with, to compare them.

    Args:
        logdir: The folder of the run, a str or an `os.PathLike`; it is made where there is none.
        every: How many steps are between two points of a training curve: steps 0, every, 2 * every ... are written.
            A point of all training curves costs about 50 microseconds.
        histograms: After how many steps there are histograms of the params, and once more at the end. The files then
            grow after so many steps, otherwise a few times a second. None for none.
        hyperparameters: More of them, by name: numbers, bools or strings. They take the place of others of that name.

    Raises:
        ImportError: tensorboardX is not installed.
        TypeError: `logdir` is no path, `every` or `histograms` no whole number, or a hyperparameter of another kind.
        ValueError: `logdir` is a file, or `every` or `histograms` is not positive.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> line = lambda params, x: params["slope"] * x
        >>> data = np.linspace(0, 1, 8), np.linspace(0, 2, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     board = jf.callbacks.TensorBoard(folder, every=10)
        ...     sgd = jf.optimizers.SGD(0.5)
        ...     result = jf.fit(line, data, {"slope": 0.0}, optimizer=sgd, steps=100, callbacks=[board])
        ...     len(list(pathlib.Path(folder).glob("events.out.tfevents.*")))
        1
    """

    writes = True

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        *,
        every: int = 50,
        histograms: int | None = None,
        hyperparameters: dict[str, bool | int | float | str] | None = None,
    ):
        if not isinstance(logdir, (str, os.PathLike)):
            raise TypeError(f"TensorBoard: logdir is {_checks.describe(logdir)}; {_EXPECTED}.")
        self.logdir = os.fspath(logdir)
        self._check_logdir()
        self._rows_every = _checks.count("TensorBoard: every", every)
        self._histograms = None if histograms is None else _checks.count("TensorBoard: histograms", histograms)
        self.every = self._histograms  # the params are at hand only when it is called
        self._hyperparameters = _summaries.checked({} if hyperparameters is None else hyperparameters)
        self._writer: Any = None
        _summaries.library()  # takes seconds where torch is installed, which it imports: not out of the run's time

    def _check_logdir(self) -> None:
        if not self.logdir or os.path.isfile(self.logdir):
            came = f"{self.logdir!r}, a file" if self.logdir else "empty"
            raise ValueError(f"TensorBoard: logdir is {came}; {_EXPECTED}.")
        if "://" not in self.logdir:
            self.logdir = os.path.abspath(self.logdir)  # wherever the script goes

    def begin(self, run: Run) -> None:
        """Opens a new event file, and writes what the run is."""
        self._close()
        self._check_logdir()
        library = _summaries.library()
        library.record_writer.directory_check(self.logdir)  # makes it, where it is on a disk
        older = os.listdir(self.logdir) if os.path.isdir(self.logdir) else ()
        # The library names a file by the second; TensorBoard reads files in the order of their names.
        suffix = f".{sum('tfevents' in name for name in older):04d}.{os.getpid()}"
        self._writer = library.event_file_writer.EventsWriter(os.path.join(self.logdir, "events"), suffix)
        self._heard = self._flushed = time.time()
        self._histograms_at, self._norm_due = run.step, 0.0
        log = library.proto.event_pb2.SessionLog
        self._event(run.step, self._heard, session_log=log(status=log.START))  # hides older values from this step on
        table = _summaries.hyperparameters(run) | self._hyperparameters
        texts = [_summaries.text(f"run/{name}", text) for name, text in _summaries.texts(run).items()]
        self._write(run.step, self._heard, [_summaries.session_start(table, self._heard), *texts])
        self._writer.flush()

    def __call__(self, seen: Seen) -> None:
        """Writes what happened since the last call."""
        now = time.time()
        self._write_steps(seen, now)
        self._write_epochs(seen, now)
        self._write_params(seen, now)
        self._heard = now
        if seen.is_last or now >= self._flushed + _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = now

    def _write_steps(self, seen: Seen, now: float) -> None:
        chosen, numbers = _rows.rows(seen, self._rows_every)
        curves = {f"train/{name}": _rows.column(seen, name, chosen) for name in ("loss", "gradient_norm")}
        rates = _rows.learning_rates(seen, numbers)
        if rates is not None:
            curves["train/learning_rate"] = rates
        # Nobody looked at the clock between the calls.
        times = np.linspace(self._heard, now, len(seen.history["loss"]) + 1)[1:][chosen].tolist()
        for number, at, *row in zip(numbers.tolist(), times, *curves.values(), strict=True):
            self._write(number, at, [_summaries.scalar(tag, value) for tag, value in zip(curves, row, strict=True)])

    def _write_epochs(self, seen: Seen, now: float) -> None:
        values = _rows.epoch_values(seen)
        ended = max(map(len, values.values()), default=0)
        ends = _rows.epoch_ends(seen, ended).tolist()
        for index, number in enumerate(ends):
            row = {_epoch_tag(name): entries[index] for name, entries in values.items() if len(entries) == ended}
            self._write(number, now, [_summaries.scalar(tag, value) for tag, value in row.items()])

    def _write_params(self, seen: Seen, now: float) -> None:
        """The norm of the params, as often as it is cheap, and their histograms where these are due."""
        since, every = self._histograms_at, self._histograms
        due = every is not None and seen.step > since and (seen.is_last or seen.step // every > since // every)
        if not (due or seen.is_last or seen.seconds >= self._norm_due):
            return
        begun = time.perf_counter()
        norms, written = [], []
        for path, leaf in jax.tree_util.tree_leaves_with_path(seen.params):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            array = np.asarray(leaf, np.float64).ravel()
            norms.append(float(np.linalg.norm(array)))
            if due:
                written.append(_summaries.scalar(_below("parameter_norm", name), norms[-1]))
                written += _summaries.histogram(_below("params", name), array)
        total = _summaries.scalar("train/parameter_norm", float(np.linalg.norm(norms)))
        self._write(max(seen.step - 1, 0), now, [total, *written])
        self._norm_due = seen.seconds + (time.perf_counter() - begun) / _NORM_SHARE
        if due:
            self._histograms_at = seen.step

    def end(self, outcome: Outcome | None) -> None:
        """Writes how the run ended, and closes the file."""
        if self._writer is None:
            return
        now = time.time()
        if outcome is not None:  # what was broken off may yet go on, and what is over cannot be taken back
            message = _summaries.text("run/outcome", f"**{outcome.status.value}**: {outcome.message}")
            loss = _summaries.scalar("outcome/loss", outcome.loss)
            over = [] if outcome.status is Status.INTERRUPTED else [_summaries.session_end(outcome, now)]
            self._write(max(outcome.steps - 1, 0), now, [loss, message, *over])
        self._close()

    def _write(self, step: int, at: float, values: list[Any]) -> None:
        """One event for all values of a step, and no queue: a call of `add_scalar` for each takes 16 times as long."""
        if values:
            self._event(step, at, summary=_summaries.library().proto.summary_pb2.Summary(value=values))

    def _event(self, step: int, at: float, **content: Any) -> None:
        event = _summaries.library().proto.event_pb2.Event(wall_time=at, step=step, **content)
        self._writer.write_event(event)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _epoch_tag(name: str) -> str:
    """Where TensorBoard shows what was computed after an epoch."""
    kind, _, rest = name.partition("_")
    return f"validation/{rest}" if kind == "validation" and rest else f"metrics/{name}"


def _below(group: str, name: str) -> str:
    """The tag of an array of params; they may be a single one without a name."""
    return f"{group}/{name}" if name else group
