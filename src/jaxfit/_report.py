"""A result as text and as HTML: what was fitted, how it ended, what came out, and how sure that is."""

import textwrap
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks, _mesh

if TYPE_CHECKING:
    from jaxfit._result import FitResult

_NUMBERS_SHOWN = 24
_CORRELATIONS_SHOWN = 8
_CORRELATED = 0.5  # what is worth a line
_DIGITS = {4: 7, 8: 10}  # the most that a value is shown with, by the bytes of its dtype


def text(result: "FitResult") -> str:
    """The report, in lines of at most about 80 characters."""
    lines = [_title(result), *_wrapped(f"{result.status.value}: {result.message}"), "", *table(_params(result))]
    for warning in _warnings(result):
        lines += ["", *_wrapped(warning, hang=2)]
    correlations = _correlations(result)
    if correlations:
        lines += ["", "  Correlations", *table(correlations, indent=4)]
    lines += ["", *table(_facts(result), header=False)]
    return "\n".join(line.rstrip() for line in lines)


def html(result: "FitResult") -> str:
    """The report as a few small tables, for a notebook."""
    first, *rows = _params(result)
    head = "".join(f'<th style="text-align:right">{escape(cell)}</th>' for cell in first)
    parts = [
        f"<p><b>{escape(_title(result))}</b><br>{escape(f'{result.status.value}: {result.message}')}</p>",
        f"<table><thead><tr>{head}</tr></thead><tbody>{_html_rows(rows)}</tbody></table>",
        *(f"<p>{escape(warning)}</p>" for warning in _warnings(result)),
    ]
    correlations = _correlations(result)
    if correlations:
        caption = '<caption style="text-align:left">Correlations</caption>'
        parts.append(f"<table>{caption}<tbody>{_html_rows(correlations)}</tbody></table>")
    parts.append(f"<table><tbody>{_html_rows(_facts(result), numbers='left')}</tbody></table>")
    return f"<div>{''.join(parts)}</div>"


def _title(result: "FitResult") -> str:
    return f"Fit of {name_of(result.model)} by {result.optimizer!r}"


def name_of(function: Any) -> str:
    """What a user calls a function."""
    function, _ = _checks.unwrapped(function)
    name = getattr(function, "__name__", type(function).__name__)
    return "a lambda" if name == "<lambda>" else name


def named_numbers(tree: Any, path: Any = (), name: str = "params") -> Iterator[tuple[str, Any]]:
    """All numbers of a pytree of arrays, each with a short name: `slope`, `w[0, 1]`."""
    for inner, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        stem = _checks.stem((*path, *inner), name)
        for index in np.ndindex(array.shape):
            yield stem + (f"[{', '.join(map(str, index))}]" if index else ""), array[index]


def _params(result: "FitResult") -> list[tuple[str, ...]]:
    """The params, one a row, under a row of headings."""
    size = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    parted = any(map(_mesh.is_parted, jax.tree.leaves(result.params)))
    if size <= _NUMBERS_SHOWN and not parted:
        names, values = zip(*named_numbers(result.params), strict=True)
        starts = [f"{start:.4g}" for _, start in named_numbers(result.start)]
        columns = [("", *names)]
        if result.evidence is None and result.fixed is None and result.bounds is None:
            columns.append(("value", *(f"{value:.7g}" for value in values)))
        elif result.evidence is None:
            errors = [state and f"({state})" for state in _states(result)]
            columns += [("value", *(f"{value:.7g}" for value in values)), ("", *errors)]
        else:
            columns += zip(("value", "standard error", "relative"), *_with_errors(result, values), strict=True)
        columns.append(("start", *starts))
        if result.bounds is not None:
            lower, upper = ([float(end) for _, end in named_numbers(bound)] for bound in result.bounds)
            ranges = [_range(*ends) for ends in zip(lower, upper, strict=True)]
            if any(ranges):
                columns.append(("bounds", *ranges))
        return list(zip(*columns, strict=True))
    rows = []
    entries = jax.tree_util.tree_leaves_with_path(result.params)
    fixed = [np.False_] * len(entries) if result.fixed is None else jax.tree.leaves(result.fixed)
    for (path, leaf), stays in zip(entries, fixed, strict=True):
        name = _checks.stem(path) + " (fixed)" * bool(stays.all())
        told = ("in several", "processes")
        if not _mesh.is_parted(leaf):  # of what others have parts of, one process alone cannot ask
            array = np.asarray(leaf, np.float64)
            told = f"{array.mean():.4g}", f"{array.std():.4g}"
        rows.append((name, str(leaf.shape), *told))
    return [("", "shape", "mean", "deviation"), *rows, ("", f"{size:,} numbers in all", "", "")]


def _with_errors(result: "FitResult", values: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Each value with its error and their ratio; the digits of a value are those that its error leaves it."""
    assert result.evidence is not None
    errors = np.sqrt(np.diagonal(result.evidence.covariance))
    for value, error, lost, state in zip(values, errors, result.evidence.undetermined, _states(result), strict=True):
        shown, uncertain = rounded(value, float(error))
        if state:
            yield shown, state, ""
        elif lost:
            yield shown, "undetermined", ""
        elif not np.isfinite(error):
            yield shown, "unknown", ""
        else:
            yield shown, f"± {uncertain}", _percent(float(error), value)


def _states(result: "FitResult") -> list[str]:
    """What holds each param: "fixed", "at bound", or nothing: ""."""
    active = [bool(held) for _, held in named_numbers(result.active)]
    fixed = [False] * len(active) if result.fixed is None else [bool(held) for _, held in named_numbers(result.fixed)]
    return ["fixed" if still else "at bound" if held else "" for still, held in zip(fixed, active, strict=True)]


def rounded(value: Any, error: float) -> tuple[str, str]:
    """A value with the digits that its error leaves it, at least three, and the error with three.

    Example:
        >>> rounded(np.float64(1.23456789), 0.00123)
        ('1.23457', '0.00123')
        >>> rounded(np.float64(12345678.9), 1234.5)
        ('1.234568e+07', '1.23e+03')
    """
    most = _DIGITS.get(np.asarray(value).dtype.itemsize, 7)
    if not (np.isfinite(error) and np.isfinite(value) and error > 0):
        return f"{value:.7g}", f"{error:.3g}"
    # Of the numbers as they are rounded: 9.999 has the exponent of 10.
    exponents = [int(f"{abs(number):.2e}".split("e")[1]) for number in (float(value) or error, error)]
    digits = min(max(exponents[0] - exponents[1] + 3, 3), most)
    shown = f"{value:#.{digits}g}".rstrip(".")
    if "e" in shown or exponents[1] < -6:
        return shown, f"{error:#.3g}".rstrip(".")
    return f"{value:.{max(digits - 1 - exponents[0], 0)}f}", f"{error:.{max(2 - exponents[1], 0)}f}"


def _range(lower: float, upper: float) -> str:
    """Bounds as an interval: `[0, inf)`; nothing where there are none, or no room between them."""
    if lower == upper or (np.isinf(lower) and np.isinf(upper)):
        return ""
    return f"{'(-inf' if np.isinf(lower) else f'[{lower:.4g}'}, {'inf)' if np.isinf(upper) else f'{upper:.4g}]'}"


def _correlations(result: "FitResult") -> list[tuple[str, ...]]:
    """The pairs of params that are correlated by more than a half, the most first, and how many more there are."""
    if result.evidence is None or len(result.evidence.curvature) > _NUMBERS_SHOWN:
        return []
    names = [name for name, _ in named_numbers(result.params)]
    matrix = result.correlation
    pairs = [
        (matrix[i, j], names[i], names[j])
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if abs(matrix[i, j]) > _CORRELATED
    ]
    pairs.sort(key=lambda pair: -abs(pair[0]))
    rows = [(f"{first}, {second}", f"{value:+.3f}") for value, first, second in pairs[:_CORRELATIONS_SHOWN]]
    more = len(pairs) - len(rows)
    return [*rows, (f"and {more} more beyond ±{_CORRELATED}", "")] if more else rows


def _warnings(result: "FitResult") -> list[str]:
    """What a reader of the params must know."""
    evidence = result.evidence
    if evidence is None:
        return []
    if evidence.undetermined.any():
        return []  # the message has said so
    if evidence.scale_is_unknown and evidence.degrees_of_freedom <= 0:
        return [
            "There are no more observations than params, so the residuals do not say how large the errors are. Give "
            "more data, or sigma and absolute_sigma=True."
        ]
    return []


def _goodness(result: "FitResult") -> list[tuple[str, ...]]:
    """Chi squared, R squared and the information criteria, as far as they have a meaning."""
    evidence = result.evidence
    if evidence is None:
        return []
    rows, freedom = [], evidence.degrees_of_freedom
    if evidence.chi_squared is not None:
        reduced = f", reduced {result.reduced_chi_squared:.6g}" if freedom > 0 else ""
        rows.append(("chi squared", f"{evidence.chi_squared:.6g} at {freedom} degrees of freedom{reduced}"))
        rows += _sigma(result)
        if freedom <= 0:
            return rows  # curves through all their points: nothing is left to judge them by
        if result._batch is not None and np.isfinite(result.r_squared):
            rows.append(("R squared", f"{_share(result.r_squared)}, adjusted {_share(result.adjusted_r_squared)}"))
    elif not result._is_likelihood:
        return [("sigma", f"found in the residuals, as {result._loss_name} weighs them")]
    if np.isfinite(result.log_likelihood):
        rows.append(("log-likelihood", f"{result.log_likelihood:.6g}"))
        rows.append(("AIC, BIC", f"{result.aic:.6g}, {result.bic:.6g}"))
    return rows


def _sigma(result: "FitResult") -> list[tuple[str, ...]]:
    """Where the standard deviation of y comes from, on which all standard errors rest."""
    evidence, batch = result.evidence, result._batch
    assert evidence is not None
    if evidence.absolute:
        return [("sigma", "absolute: standard errors rest on it as it was given")]
    if evidence.degrees_of_freedom <= 0:
        return []
    found = f"{evidence.variance**0.5:.4g}"
    if batch is None or batch.sigma is None:
        return [("sigma", f"{found} in the units of y, found in the residuals")]
    return [("sigma", f"{found} times what was given, found in the residuals")]


def _share(value: float) -> str:
    """A number near 1, with the digits that tell it from 1."""
    digits = 4 if value < 0.99 else 3 - int(np.floor(np.log10(max(1 - value, 1e-9))))
    return f"{value:.{digits}f}"


def _facts(result: "FitResult") -> list[tuple[str, ...]]:
    losses = result.history["loss"]
    came_from = f", from {losses[0]:.6g}" if len(losses) else ""
    leaves = jax.tree.leaves(result.params)
    facts = [("loss", f"{result.loss:.6g}{came_from}")]
    facts += _goodness(result)
    facts += [
        (name.replace("_", " "), f"{values[-1]:.6g}, after the last epoch")
        for name, values in result.history.items()
        if name not in ("loss", "params", "gradient_norm") and np.ndim(values) == 1 and len(values)
    ]
    if result.data is not None:
        lengths = [leaf.shape[0] for leaf in jax.tree.leaves(result.data[1])]
        sets = f" in {len(lengths)} sets" if len(set(lengths)) > 1 else ""
        facts.append(("data", f"{sum(lengths) if sets else lengths[0]:,} samples{sets}"))
    places = {device.platform for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    where = f" on {result.devices or ', '.join(sorted(places))}" if places or result.devices else ""
    facts.append(("precision", f"{', '.join(sorted({str(leaf.dtype) for leaf in leaves}))}{where}"))
    compiled = "" if result.compile_seconds == 0 else f", after {_seconds(result.compile_seconds)} of compilation"
    facts.append(("time", f"{_seconds(result.run_seconds)}{compiled}"))
    return facts


def _percent(part: float, whole: float) -> str:
    if not (whole and np.isfinite(part)):
        return ""
    percent = float(100 * part / abs(whole))
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:.0f} %" if percent < 1e4 else "> 9999 %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _wrapped(sentence: str, hang: int = 4) -> list[str]:
    return textwrap.wrap(sentence, 78, initial_indent="  ", subsequent_indent=" " * hang)


def table(rows: list[tuple[str, ...]], header: bool = True, indent: int = 2) -> list[str]:
    """Aligned columns: names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    justified = [
        [cell.rjust(width) if header and column else cell.ljust(width) for column, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return [" " * indent + "   ".join(cells) for cells in justified]


def _html_rows(rows: list[tuple[str, ...]], numbers: str = "right") -> str:
    """Rows of a table: a name to the left, and numbers."""
    return "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td>'
        + "".join(f'<td style="text-align:{numbers}">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
