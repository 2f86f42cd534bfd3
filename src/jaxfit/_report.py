"""A result as text: what was fitted, how it ended, what came out."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks

if TYPE_CHECKING:
    from jaxfit._result import FitResult

_NUMBERS_SHOWN = 24


def text(result: "FitResult") -> str:
    """The report, in lines of at most about 80 characters."""
    lines = [
        f"Fit of {name_of(result.model)} by {result.optimizer!r}",
        *textwrap.wrap(f"{result.status.value}: {result.message}", 78, initial_indent="  ", subsequent_indent="    "),
        "",
        *_table(_params(result)),
        "",
        *_table(_facts(result), header=False),
    ]
    return "\n".join(line.rstrip() for line in lines)


def name_of(function: Any) -> str:
    """What a user calls a function."""
    function, _ = _checks.unwrapped(function)
    name = getattr(function, "__name__", type(function).__name__)
    return "a lambda" if name == "<lambda>" else name


def named_numbers(tree: Any, path: Any = (), name: str = "params") -> Iterator[tuple[str, Any]]:
    """All numbers of a pytree of arrays, each with a short name: `slope`, `w[0, 1]`."""
    for inner, leaf in jax.tree_util.tree_leaves_with_path(tree):
        full = jax.tree_util.keystr((*path, *inner), simple=True, separator=".")
        array = np.asarray(leaf)
        # A path of positions alone says little without the name of what they are positions in.
        stem = f"{name}[{full}]" if full.isdigit() else full or name
        for index in np.ndindex(array.shape):
            yield stem + (f"[{', '.join(map(str, index))}]" if index else ""), array[index]


def _params(result: "FitResult") -> list[tuple[str, ...]]:
    size = sum(leaf.size for leaf in jax.tree.leaves(result.params))
    if size <= _NUMBERS_SHOWN:
        columns = [named_numbers(result.params), named_numbers(result.start)]
        if result.evidence is None:
            return [
                ("", "value", "start"),
                *((name, f"{value:.7g}", f"{start:.4g}") for (name, value), (_, start) in zip(*columns, strict=True)),
            ]
        columns.append(named_numbers(result.standard_errors))
        return [
            ("", "value", "standard error", "relative", "start"),
            *(
                (name, f"{value:.7g}", f"± {error:.3g}", _percent(error, value), f"{start:.4g}")
                for (name, value), (_, start), (_, error) in zip(*columns, strict=True)
            ),
        ]
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.params):
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "params"
        rows.append((name, str(array.shape), f"{array.mean():.4g}", f"{array.std():.4g}"))
    return [("", "shape", "mean", "deviation"), *rows, ("", f"{size:,} numbers in all", "", "")]


def _facts(result: "FitResult") -> list[tuple[str, ...]]:
    losses = result.history["loss"]
    came_from = f", from {losses[0]:.6g}" if len(losses) else ""
    leaves = jax.tree.leaves(result.params)
    facts = [("loss", f"{result.loss:.6g}{came_from}")]
    if result.evidence is not None and result.evidence.chi_squared is not None:
        freedom = result.evidence.degrees_of_freedom
        reduced = f", reduced {result.evidence.chi_squared / freedom:.6g}" if freedom > 0 else ""
        facts.append(("chi squared", f"{result.evidence.chi_squared:.6g} at {freedom} degrees of freedom{reduced}"))
    facts += [
        (name.replace("_", " "), f"{values[-1]:.6g}, after the last epoch")
        for name, values in result.history.items()
        if name not in ("loss", "params", "gradient_norm") and len(values)
    ]
    if result.data is not None:
        facts.append(("data", f"{jax.tree.leaves(result.data[1])[0].shape[0]:,} samples"))
    places = {device.platform for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    where = f" on {', '.join(sorted(places))}" if places else ""
    facts.append(("precision", f"{', '.join(sorted({str(leaf.dtype) for leaf in leaves}))}{where}"))
    compiled = "" if result.compile_seconds == 0 else f", after {_seconds(result.compile_seconds)} of compilation"
    facts.append(("time", f"{_seconds(result.run_seconds)}{compiled}"))
    return facts


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / abs(whole):.2g} %" if whole and np.isfinite(part) else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _table(rows: list[tuple[str, ...]], header: bool = True) -> list[str]:
    """Aligned columns: names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    justified = [
        [cell.rjust(width) if header and column else cell.ljust(width) for column, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return ["  " + "   ".join(cells) for cells in justified]
