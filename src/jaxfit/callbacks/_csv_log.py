"""A run as a CSV file: a row per step, written while the run goes on."""

import csv
import io
import os
from typing import Any

from jaxfit import _checks
from jaxfit._callback import Callback, Outcome, Run, Seen
from jaxfit.callbacks import _rows

_EXPECTED = 'expected the name of a CSV file, such as "run.csv"'


class CSVLog(Callback):
    """Writes a row per step into a CSV file, a few times a second: a run that is killed leaves whole rows.

    The columns are "step" and "epoch", both counted from 0; "loss" and "gradient_norm", those that the step started
    from; "learning_rate", empty where the optimizer has none; and the validation loss and metrics by their names in
    the result's history ("validation_loss", "validation_accuracy"), which stand in the row of the last step of each
    epoch and are empty in the others. Metrics that are arrays are left out. Numbers have all their digits: they read
    back exactly by `float`, by `numpy.genfromtxt(path, delimiter=",", names=True)` and by
    `pandas.read_csv(path, engine="python")`; NaN and infinity are `nan` and `inf`.

    A run that was resumed from a checkpoint goes on in the file that it wrote before: the rows of steps from the
    checkpoint's on, which are taken again, are dropped first. Another run writes the file anew, unless `append` says
    otherwise.

    Args:
        path: The file, a str or an `os.PathLike`; its folder is made where there is none.
        every: How many steps are between two rows: those of number 0, every, 2 * every ... are written, and the last
            step of every epoch with validation or metrics.
        append: Whether a new run writes below what is in the file already. Its steps count from 0 again.

    Raises:
        TypeError: `path` is no path, `every` no whole number, or `append` no bool.
        ValueError: `path` is a folder, `every` is not positive, or, when a run begins, the file to go on with holds
            something else.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> line = lambda params, x: params["slope"] * x
        >>> data = np.linspace(0, 1, 8), np.linspace(0, 2, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "run.csv")
        ...     log = jf.callbacks.CSVLog(path)
        ...     sgd = jf.optimizers.SGD(0.5)
        ...     result = jf.fit(line, data, {"slope": 0.0}, optimizer=sgd, steps=3, callbacks=[log])
        ...     lines = path.read_text().splitlines()
        >>> lines[0]
        'step,epoch,loss,gradient_norm,learning_rate'
        >>> len(lines)
        4

    Source: `keras.callbacks.CSVLogger`, for what `append` means; that one has a row per epoch.
    """

    writes = True

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1, append: bool = False):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"CSVLog: path is {_checks.describe(path)}; {_EXPECTED}.")
        if not isinstance(append, bool):
            raise TypeError(f"CSVLog: append is {_checks.describe(append)}; expected True or False.")
        self.path = os.fspath(path)
        self._rows_every = _checks.count("CSVLog: every", every)
        self._append = append
        self._file: Any = None
        self._columns: list[str] | None = None
        self._kept: tuple[list[str], list[dict[str, str]]] = ([], [])
        self._check_path()

    def _check_path(self) -> None:
        if not self.path or os.path.isdir(self.path):
            came = f"{self.path!r}, a folder" if self.path else "empty"
            raise ValueError(f"CSVLog: path is {came}; {_EXPECTED}.")
        self.path = os.path.abspath(self.path)  # wherever the script goes

    def begin(self, run: Run) -> None:
        """Reads what is to be kept of the file; nothing is written before the first row."""
        self._close()
        self._check_path()
        self._columns, self._epoch = None, 0
        self._kept = self._read(run.step) if run.step or self._append else ([], [])

    def _read(self, step: int) -> tuple[list[str], list[dict[str, str]]]:
        """The columns of the file and its whole rows, without those at the end that a resumed run writes again."""
        if not os.path.exists(self.path):
            return [], []
        with open(self.path, newline="", encoding="utf-8") as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]  # a machine that went down may leave half a row
        reader = csv.DictReader(io.StringIO(whole))
        columns = list(reader.fieldnames or [])
        rows = list(reader)
        whole_rows = all(None not in row and None not in row.values() for row in rows)
        if columns and not (columns[0] == "step" and whole_rows and all(row["step"].isdigit() for row in rows)):
            raise ValueError(
                f"CSVLog: {self.path} holds something other than the log of a run; move it away, or give another path."
            )
        while step and rows and int(rows[-1]["step"]) >= step:
            rows.pop()
        return columns, rows

    def _open(self, seen: Seen) -> list[str]:
        """Puts a file with a heading and the rows that are kept in place of the old one, and says its columns."""
        old, rows = self._kept
        columns = ["step", "epoch", "loss", "gradient_norm", "learning_rate", *_rows.epoch_values(seen)]
        columns += [name for name in old if name not in columns]
        path = os.path.realpath(self.path)  # a link stays a link
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.partial", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(f"{path}.partial", path)
        self._kept = ([], [])
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open until the end of the run)
        return columns

    def __call__(self, seen: Seen) -> None:
        """Writes the rows since the last call."""
        if self._columns is None:
            self._columns = self._open(seen)
        values = _rows.epoch_values(seen)
        ended = max(map(len, values.values())) if values else seen.epoch - self._epoch
        self._epoch = seen.epoch
        ends = _rows.epoch_ends(seen, ended).tolist()
        chosen, steps = _rows.rows(seen, self._rows_every, ends if values else ())
        numbers = steps.tolist()
        table: dict[str, list[Any]] = {
            "step": numbers,
            "epoch": _rows.epochs(seen, steps, ends),
            "loss": _rows.column(seen, "loss", chosen),
            "gradient_norm": _rows.column(seen, "gradient_norm", chosen),
        }
        rates = _rows.learning_rates(seen, steps)
        if rates is not None:
            table["learning_rate"] = rates
        for name, entries in values.items():
            at = dict(zip(ends, entries, strict=False))
            table[name] = [at.get(number, "") for number in numbers]
        text = io.StringIO()
        empty = [""] * len(numbers)
        columns = [table.get(name, empty) for name in self._columns]
        csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
        self._file.write(text.getvalue().encode())  # one write of the system's, so that no row is left half

    def end(self, outcome: Outcome | None) -> None:
        """Closes the file."""
        del outcome
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def memory(self) -> dict[str, Any]:
        """The epochs finished so far."""
        return {"epoch": self._epoch}

    def recall(self, memory: dict[str, Any]) -> None:
        """Goes on counting epochs where the run was interrupted."""
        self._epoch = int(memory["epoch"])
