"""The results of many fits: a frozen value of arrays, one row for each fit, and what can be asked of them all."""

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks, _compile, _ended, _inputs, _modules, _program, _report, _wrap
from jaxfit._fit import fit
from jaxfit._result import FitResult
from jaxfit._status import FitWarning, Status
from jaxfit.losses import _curvature

if TYPE_CHECKING:
    import pandas

_STATUSES = tuple(Status)
_ROWS_SHOWN = 8
_BLOCK = 1 << 14  # fits whose predictions are computed at once


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FitResults:
    """What many fits found: arrays with the fits as their first axis. `print(results)` shows a summary.

    `results[i]` is the i-th fit as a `FitResult`, with all that one can tell; `len(results)` says how many there are,
    and a loop goes over them one by one.

    Attributes:
        settings: What differs from fit to fit where that was the point, by name: the hyperparameters of a sweep. A
            dict of NumPy arrays [fits].

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params["slope"] * x + params["offset"]
        >>> y = np.array([1.0, 2.0, 3.0])[:, None] * x + 1
        >>> results = jf.fit_many(line, (x, y), {"slope": 0.0, "offset": 0.0})
        >>> len(results), results.success.all().item(), results.status.tolist()
        (3, True, ['converged', 'converged', 'converged'])
        >>> results.params["slope"].round(6).tolist()
        [1.0, 2.0, 3.0]
        >>> bool((results.standard_errors["slope"] < 1e-6).all())
        True
        >>> results.predict(np.array([2.0])).round(6).ravel().tolist()
        [3.0, 5.0, 7.0]
    """

    _work: Any
    _found: Any
    settings: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    _scores: np.ndarray | None = None  # by which the best is chosen, in the place of the loss

    @property
    def params(self) -> Any:
        """The fitted params, a pytree like the starting values of one fit, of NumPy arrays [fits, ...].

        NaN where a fit has found nothing: its loss never was finite.
        """
        task = self._work.ready.task
        if task.network is None:
            return self._found.params
        count, ((_, frozen), (_, axis)) = len(self), self._work.held(self._found)
        if axis is None:
            frozen = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), frozen)
        return _modules.joined(self._found.params, frozen)

    @property
    def loss(self) -> np.ndarray:
        """The loss at the params, [fits], of all the data of a fit, also after one by batches; NaN likewise."""
        return self._found.loss

    @property
    def steps(self) -> np.ndarray:
        """The steps taken, int32 [fits]."""
        return self._found.steps

    @property
    def status(self) -> np.ndarray:
        """How each fit ended: the values of `Status`, strings [fits]."""
        return np.array([status.value for status in _STATUSES])[self._found.codes]

    @property
    def success(self) -> np.ndarray:
        """Whether each fit ended as it should, bools [fits]."""
        return np.array([status.ok for status in _STATUSES])[self._found.codes]

    @property
    def compile_seconds(self) -> float:
        """Seconds spent on compilation: 0.0 where equal fits had been compiled before."""
        return self._found.compile_seconds

    @property
    def run_seconds(self) -> float:
        """Seconds spent on the rest."""
        return self._found.run_seconds

    @property
    def message(self) -> str:
        """How the fits ended, in a sentence."""
        counts = Counter(self._found.codes.tolist())
        parts = [f"{number:,} {_STATUSES[code].value}" for code, number in counts.most_common()]
        return f"{len(self):,} fits: {', '.join(parts)}."

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the params of each fit in the order of their leaves, [fits, p, p].

        As that of a `FitResult`: infinite for params that the data do not determine, NaN for those that are held.

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        return self._known("covariance", self._found.covariance)

    @property
    def standard_errors(self) -> Any:
        """The standard error of each param, a pytree like the params, of NumPy arrays [fits, ...].

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        variances = np.diagonal(self.covariance, axis1=1, axis2=2)
        leaves, tree = jax.tree.flatten(self._found.params)
        sizes = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
        with np.errstate(invalid="ignore"):
            parts = np.split(np.sqrt(variances), sizes, axis=1)
        return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])

    @property
    def chi_squared(self) -> np.ndarray:
        """The sum of the squared residuals of each fit, in units of sigma, [fits].

        Raises:
            ValueError: The optimizer was not a second-order one, or the loss is not the squared error.
        """
        total = self._known("chi_squared", self._found.total)
        if not _curvature.is_squared(self._work.ready.task.problem.loss):
            raise ValueError("chi_squared belongs to the squared error, jaxfit.losses.mse.")
        return self.loss * total

    @property
    def degrees_of_freedom(self) -> np.ndarray:
        """Observations less free params, int32 [fits].

        Raises:
            ValueError: The optimizer was not a second-order one.
        """
        return self._known("degrees_of_freedom", self._found.freedom)

    @property
    def reduced_chi_squared(self) -> np.ndarray:
        """`chi_squared / degrees_of_freedom`, [fits]; infinite where there is no freedom.

        Raises:
            ValueError: As for `chi_squared`.
        """
        freedom = self.degrees_of_freedom
        return np.where(freedom > 0, self.chi_squared / np.maximum(freedom, 1), np.inf)

    @property
    def best(self) -> FitResult:
        """The fit of the least loss, or the largest where that was asked for; that of the validation data, if any.

        Raises:
            ValueError: No loss is finite.
        """
        return self[self.order[0]]

    @property
    def scores(self) -> np.ndarray:
        """By what the fits are compared, [fits]: the loss, of the validation data where there are some."""
        return self.loss if self._scores is None else self._scores

    @property
    def order(self) -> np.ndarray:
        """The indices of the fits from the best on, those without a finite loss left out.

        Raises:
            ValueError: No loss is finite.
        """
        rises = getattr(self._work.ready.task.optimizer, "maximize", False)
        scores = -np.asarray(self.scores) if rises else np.asarray(self.scores)
        ranked = np.argsort(scores, kind="stable")
        ranked = ranked[np.isfinite(scores[ranked])]
        if not len(ranked):
            raise ValueError("none of the fits has a finite loss.")
        return ranked

    def predict(self, x: Any) -> Any:
        """The prediction of every fit at new points.

        Args:
            x: What the model takes, the same for all fits: a pytree of arrays [m, ...].

        Returns:
            What the model returns, with the fits as the first axis: NumPy arrays [fits, m, ...].

        Raises:
            TypeError: x is not numbers.
            ValueError: x is empty or not finite, or the model fails on its shape.
        """
        task, wide = self._work.ready.task, self._work.ready.wide
        (carried, frozen), axes = self._work.held(self._found)
        axes = 0, *axes, None
        parts = []
        with self._work.ready.precision():
            x = _inputs.features(x, wide)
            program = jax.vmap(self._evaluate, in_axes=axes)
            for start in range(0, len(self), _BLOCK):
                held = [
                    tree
                    if axis is None
                    else jax.tree.map(lambda leaf, at=start: np.asarray(leaf[at : at + _BLOCK]), tree)
                    for tree, axis in zip((self._found.params, carried, frozen), axes[:3], strict=True)
                ]
                found, _ = _compile.call(
                    program,
                    ("predict many", task.meaning, axes),
                    *held,
                    x,
                    check=lambda: _program.check_model(task, x),
                )
                parts.append(jax.tree.map(np.asarray, found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _evaluate(self, params: Any, carried: Any, frozen: Any, x: Any) -> Any:
        """The prediction of one fit."""
        return _program.at(self._work.ready.task, None, carried, frozen).model(params, x)

    def spread(self, x: Any) -> tuple[Any, Any]:
        """The mean of the fits' predictions at new points, and their standard deviation: the band of an ensemble.

        Fits that found nothing do not count.

        Args:
            x: As for `predict`.

        Returns:
            (mean, deviation): NumPy arrays [m, ...]; the deviation has fits - 1 in its denominator, and is NaN for one.
        """
        predictions = self.predict(x)
        sound = np.isfinite(self.loss)
        if not sound.any():
            nothing = jax.tree.map(lambda leaf: np.full(leaf.shape[1:], np.nan), predictions)
            return nothing, nothing
        mean = jax.tree.map(lambda leaf: leaf[sound].mean(axis=0), predictions)
        many = sound.sum() > 1
        return mean, jax.tree.map(
            lambda leaf: leaf[sound].std(axis=0, ddof=1) if many else np.full(leaf.shape[1:], np.nan, leaf.dtype),
            predictions,
        )

    def percentile_intervals(self, level: float = 0.95) -> tuple[Any, Any]:
        """The interval that holds the middle share `level` of each param over all fits: the bootstrap's.

        Fits that found nothing do not count.

        Args:
            level: Between 0 and 1.

        Returns:
            (lower, upper): pytrees like the params of one fit, of NumPy arrays.

        Raises:
            ValueError: level is not between 0 and 1.

        Source: Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13.
        """
        if not _checks.is_number(level) or not 0 < level < 1:
            raise ValueError(f"percentile_intervals: level is {level!r}; expected a number between 0 and 1.")
        sound = np.isfinite(self.loss)
        if not sound.any():
            nothing = jax.tree.map(lambda leaf: np.full(leaf.shape[1:], np.nan), self.params)
            return nothing, nothing
        ends = [
            jax.tree.map(lambda leaf, at=at: np.quantile(leaf[sound], at, axis=0), self.params)
            for at in ((1 - level) / 2, (1 + level) / 2)
        ]
        return ends[0], ends[1]

    def to_pandas(self) -> "pandas.DataFrame":
        """The results as a table, a row for each fit: params, their errors, loss, chi squared, steps, status.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas.") from error
        columns: dict[str, Any] = {name: np.asarray(values) for name, values in self.settings.items()}
        columns |= self._columns(self.params)
        if self._found.covariance is not None:
            columns |= {f"{name} error": values for name, values in self._columns(self.standard_errors).items()}
            if _curvature.is_squared(self._work.ready.task.problem.loss):
                columns |= {"chi_squared": self.chi_squared, "reduced_chi_squared": self.reduced_chi_squared}
        columns["loss"] = self.loss
        if self._scores is not None:
            columns["score"] = self._scores
        return pandas.DataFrame(columns | {"steps": self.steps, "status": self.status})

    @staticmethod
    def _columns(tree: Any) -> dict[str, np.ndarray]:
        """All numbers of a pytree of arrays [fits, ...], by name."""
        first = jax.tree.map(lambda leaf: leaf[0], tree)
        rows = [leaf.reshape(len(leaf), -1).T for leaf in map(np.asarray, jax.tree.leaves(tree))]
        names = [name for name, _ in _report.named_numbers(first)]
        return dict(zip(names, np.concatenate(rows), strict=True)) if names else {}

    def warn(self, stacklevel: int = 2) -> None:
        """Warns where some fits did not end as they should."""
        bad = Counter(self._found.codes[~self.success].tolist())
        if bad:
            parts = [f"{number:,} {_STATUSES[code].value}" for code, number in bad.most_common()]
            hint = _STATUSES[bad.most_common(1)[0][0]].hint
            total = f"{sum(bad.values()):,} of {len(self):,} fits did not end as they should: {', '.join(parts)}."
            warnings.warn(f"{total} `success` tells which. {hint}", FitWarning, stacklevel=stacklevel)

    def _known(self, what: str, table: Any) -> Any:
        if table is None:
            name = type(self._work.ready.task.optimizer).__name__
            raise ValueError(
                f"{what} needs the curvature at the minimum, which {name} does not know: fit by LevenbergMarquardt()."
            )
        return table

    def __len__(self) -> int:
        return self._work.fits

    def __getitem__(self, index: int) -> FitResult:
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"the index is {_checks.describe(index)}; expected a whole number, the number of a fit.")
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} fits; there is no fit {index}.")
        return self._one(int(index) % len(self))

    def __iter__(self) -> Iterator[FitResult]:
        return map(self._one, range(len(self)))

    def _one(self, index: int) -> FitResult:
        work, found = self._work, self._found
        status = _STATUSES[found.codes[index]]
        steps, loss = int(found.steps[index]), float(found.loss[index])
        with work.ready.precision():
            task = work.at(index)
            params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[index]), found.params)
            state = _program.look(task, params) if found.covariance is not None else _program.State(params, None)
            carried = jax.tree.map(lambda leaf: leaf[index], found.carried) if task.held.changes else state.carried
            state = state._replace(carried=carried)
            seconds = found.run_seconds / len(self)
            ended = _ended.Ended(
                state,
                loss,
                steps,
                {"loss": np.zeros(0, np.float32)},
                {},
                status is Status.CONVERGED,
                None,
                False,
                0.0,
                seconds,
            )
            message = f"Fit {index} of {len(self):,}: {status.sentence} {steps} step{'s' * (steps != 1)}."
            message += status.hint and f" {status.hint}"
            start = _modules.joined(task.params, task.held.frozen) if task.network else task.params
            return _wrap.built(
                task,
                ended,
                (status, message),
                work.ready.wide,
                work.absolute,
                start,
                work.ready.stays,
                self._again(task),
            )

    def _again(self, task: Any) -> Any:
        """The same fit from other params, some of them fixed."""
        data = task.data
        again = functools.partial(
            fit,
            self._work.ready.model,
            None if data is None else (data.x, data.y),
            loss=task.problem.loss,
            optimizer=task.optimizer,
            bounds=task.bounds,
            absolute_sigma=self._work.absolute,
            sigma=data and data.sigma,
            weights=data and data.weights,
        )
        return lambda at, fixed: again(at, fixed=fixed)

    def __str__(self):
        rows: list[tuple[str, ...]] = [("", "median", "5 %", "95 %", "median error")]
        columns = self._columns(self.params)
        sound = np.isfinite(self.loss)
        errors = self._columns(self.standard_errors) if self._found.covariance is not None else {}
        for name, values in list(columns.items())[:_ROWS_SHOWN]:
            cells = (
                [f"{value:.6g}" for value in np.quantile(values[sound], (0.5, 0.05, 0.95))]
                if sound.any()
                else ["nan"] * 3
            )
            with np.errstate(invalid="ignore"):
                error = (
                    f"{np.nanmedian(errors[name]):.3g}" if name in errors and np.isfinite(errors[name]).any() else ""
                )
            rows.append((name, *cells, error))
        if len(columns) > _ROWS_SHOWN:
            rows.append((f"and {len(columns) - _ROWS_SHOWN:,} more", "", "", "", ""))
        if not errors:
            rows = [row[:-1] for row in rows]
        task = self._work.ready.task
        title = f"{len(self):,} fits of {_report.name_of(self._work.ready.model)} by {type(task.optimizer).__name__}"
        seconds = self.run_seconds
        pace = f"{len(self) / seconds:,.0f} fits per second, " if seconds > 0 else ""
        where = f" on {self._work.devices}" if self._work.devices else ""
        facts = [f"{self.message}", f"{pace}{seconds:.3g} s{where}, and {self.compile_seconds:.3g} s of compilation."]
        return "\n".join([title, *(f"  {fact}" for fact in facts), "", *_report.table(rows)])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self):
        return f"FitResults({self.message})"
