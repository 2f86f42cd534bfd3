"""What goes into an event file: TensorBoard's protocol buffers for numbers, histograms, texts and hyperparameters."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxfit import _checks
from jaxfit._callback import Outcome, Run

_BUCKETS = 64  # TensorBoard draws 30 of its own
_CHARACTERS_SHOWN = 20_000
_KINDS = {"bool_value": (bool, np.bool_), "number_value": (int, float, np.integer, np.floating), "string_value": str}


@functools.cache
def library() -> ModuleType:
    """tensorboardX, with the modules that are used of it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.proto.plugin_hparams_pb2
        import tensorboardX.record_writer
        import tensorboardX.summary
    except ImportError as error:
        raise ImportError(
            "TensorBoard writes with tensorboardX, which is not installed: pip install jaxfit[tensorboard]."
        ) from error
    return tensorboardX


def scalar(tag: str, value: float) -> Any:
    """A point of a curve."""
    return library().proto.summary_pb2.Summary.Value(tag=tag, simple_value=value)


def histogram(tag: str, array: np.ndarray) -> list[Any]:
    """The histogram of the finite numbers of an array, [n] float64; nothing where there are none."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return []
    low, high = float(finite.min()), float(finite.max())
    if high - low > _BUCKETS * np.spacing(max(abs(low), abs(high))):
        counts, edges = np.histogram(finite, bins=_BUCKETS, range=(low, high))
    else:  # numbers too close for buckets between them
        counts, edges = np.array([finite.size]), np.array([low, high])
    squares = float(finite @ finite)
    figures = (low, high, finite.size, float(finite.sum()), squares, edges[1:].tolist(), counts.tolist())
    return list(library().summary.histogram_raw(tag, *figures).value)


def text(tag: str, markdown: str) -> Any:
    """A text in Markdown."""
    value = library().summary.text(tag, markdown).value[0]
    value.tag = tag  # without the ending that the library gives it
    return value


def session_start(table: dict[str, Any], at: float) -> Any:
    """Hyperparameters, as the tab HPARAMS reads them.

    There is no list of columns beside them: TensorBoard would take that of one run for all, and hide what only others
    have. Without one it makes the list from all runs itself.
    """
    plugin = library().proto.plugin_hparams_pb2
    start = plugin.SessionStartInfo(start_time_secs=at)
    for name, value in table.items():
        kind = next(kind for kind, types in _KINDS.items() if isinstance(value, types))
        setattr(start.hparams[name], kind, value)
    return _session("_hparams_/session_start_info", session_start_info=start)


def session_end(outcome: Outcome, at: float) -> Any:
    """That a run is over, and whether it was a success."""
    plugin = library().proto.plugin_hparams_pb2
    status = "STATUS_SUCCESS" if outcome.status.ok else "STATUS_FAILURE"
    end = plugin.SessionEndInfo(status=library().proto.api_pb2.Status.Value(status), end_time_secs=at)
    return _session("_hparams_/session_end_info", session_end_info=end)


def _session(tag: str, **content: Any) -> Any:
    summary = library().proto.summary_pb2
    data = library().proto.plugin_hparams_pb2.HParamsPluginData(version=0, **content).SerializeToString()
    plugin = summary.SummaryMetadata.PluginData(plugin_name="hparams", content=data)
    return summary.Summary.Value(tag=tag, metadata=summary.SummaryMetadata(plugin_data=plugin))


def checked(hyperparameters: Any) -> dict[str, Any]:
    """A user's own hyperparameters.

    Raises:
        TypeError: They are no dict of strings to numbers, bools and strings.
    """
    if not isinstance(hyperparameters, dict):
        raise TypeError(f"TensorBoard: hyperparameters is {_checks.describe(hyperparameters)}; expected a dict.")
    for name, value in hyperparameters.items():
        if not isinstance(name, str):
            raise TypeError(f"TensorBoard: a name in hyperparameters is {_checks.describe(name)}; expected a str.")
        if not any(isinstance(value, types) for types in _KINDS.values()):
            came = f"hyperparameters[{name!r}] is {_checks.describe(value)}"
            raise TypeError(f"TensorBoard: {came}; expected a number, a bool or a str; write str(...) for others.")
    return dict(hyperparameters)


def hyperparameters(run: Run) -> dict[str, Any]:
    """The hyperparameters of a run by name, as numbers, bools and strings."""
    optimizer = run.optimizer
    table = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    table |= {"optimizer": type(optimizer).__name__, "loss": _name(run.loss)}
    table |= {name: getattr(run, name) for name in ("samples", "batch_size", "steps", "epochs")}
    table["params"] = sum(np.size(leaf) for leaf in jax.tree.leaves(run.params))
    return {name: _plain(value) for name, value in table.items() if value is not None}


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, (bool, str)):
        return value
    if callable(value):  # a schedule, by the name of the function that made it
        return getattr(value, "__qualname__", type(value).__name__).partition(".<locals>")[0]
    if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
        return np.asarray(value).item()
    return repr(value) if isinstance(value, tuple) and all(map(_checks.is_number, value)) else type(value).__name__


def texts(run: Run) -> dict[str, str]:
    """What a run is, as texts in Markdown: its model, its optimizer and its loss."""
    return {"model": _described(run.model), "optimizer": _code(repr(run.optimizer)), "loss": _described(run.loss)}


def _name(function: Callable) -> str:
    function, keywords = _checks.unwrapped(function)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in keywords.items())})" if keywords else name


def _described(model: Any) -> str:
    """A module or another object by its repr; a function by name, signature and source, as far as they can be had."""
    function, _ = _checks.unwrapped(model)
    if not inspect.isroutine(function):
        return _code(re.sub(r"\x1b\[[0-9;]*m", "", repr(function)))  # flax colours what it shows in a terminal
    heading = f"`{_name(model)}`"
    if str(function.__module__).partition(".")[0] == "jaxfit":
        return f"{heading} of jaxfit"
    try:
        heading = f"`{_name(model)}`, called as `{function.__name__}{inspect.signature(function)}`"
        return f"{heading}\n\n{_code(inspect.cleandoc(inspect.getsource(function)))}"
    except (OSError, TypeError, ValueError):  # written at a prompt, or not in Python
        return heading


def _code(shown: str) -> str:
    """Lines as they are; indented, because text may hold any fence."""
    more = "\n..." if len(shown) > _CHARACTERS_SHOWN else ""
    return "\n".join("    " + line for line in (shown[:_CHARACTERS_SHOWN] + more).splitlines())
