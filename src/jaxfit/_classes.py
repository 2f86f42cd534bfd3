"""What losses of classifiers ask of labels and of a model's last step, said before anything is compiled."""

import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfit import _checks, _forward, _mesh, losses
from jaxfit._program import Task
from jaxfit._status import FitWarning

_LABELS = {"cross_entropy", "nll", "multi_margin"}
# The last step of a model that does not go with a loss, and why.
_WRONG_STEP = {
    "cross_entropy": (
        "Softmax",
        "cross_entropy applies that by itself: it takes scores as they are (logits). Leave Softmax out of the model, "
        "or take jaxfit.losses.nll after LogSoftmax.",
    ),
    "nll": ("Softmax", "nll takes log probabilities: put LogSoftmax in its place."),
    "binary_cross_entropy_with_logits": (
        "Sigmoid",
        "binary_cross_entropy_with_logits applies that by itself: it takes scores as they are (logits). Leave Sigmoid "
        "out of the model, or take jaxfit.losses.binary_cross_entropy.",
    ),
}


def _name(loss: Callable) -> str:
    function, _ = _checks.unwrapped(loss)
    name = getattr(function, "__name__", "")
    return name if name in losses.__all__ and function is getattr(losses, name) else ""


def check(task: Task, meaning: Any, nature: _forward.Nature | None, first: Any = None) -> tuple[int, ...] | None:
    """Checks a model's last step and the labels of data in memory.

    Args:
        task: The fit.
        meaning: What its model is, as a key.
        nature: What the program of a module tells; None for a function.
        first: The first batch of a stream; None for other data.

    Returns:
        The shape of a prediction, [n, classes, ...]; None where the loss takes no labels.

    Raises:
        TypeError: The labels are no integers.
        ValueError: A label is out of range.

    Warns:
        FitWarning: The model ends in the step that the loss takes by itself.
    """
    loss, model = task.problem.loss, task.problem.model
    name = _name(loss)
    if name not in _LABELS | _WRONG_STEP.keys():
        return None
    if nature is None:
        x = first.x if first is not None else task.data and task.data.x
        if x is None:
            return None

        def evaluate(_: Any, params: Any, x: Any, key: Any) -> Any:
            del key
            return model(params, x)

        nature = _forward.look(("function", meaning), evaluate, None, task.params, (), x)
    step, why = _WRONG_STEP.get(name, ("", ""))
    if step and nature.ending == step:
        warnings.warn(f"The model ends in {step}, and {why}", FitWarning, stacklevel=4)
    shape = getattr(nature.prediction, "shape", ())
    if name not in _LABELS or len(shape) < 2:
        return None
    y = task.data and task.data.y
    if len(shape) > 2 and getattr(y, "shape", ())[1:] == shape[1:-1] != shape[2:]:
        raise ValueError(
            f"{name} has the classes along axis 1, and the model predicts [n, {', '.join(map(str, shape[1:]))}] where "
            f"y is {_checks.describe(y)}: end the model with jnp.moveaxis(prediction, -1, 1)."
        )
    for batch, where in ((task.data, "y"), (task.validation, "y of validation")):
        if batch is not None:
            labels(loss, batch.y, shape, where)
    return shape


def labels(loss: Callable, y: Any, predicted: tuple[int, ...], name: str = "y") -> None:
    """Checks labels against the classes of predictions [n, classes, ...]; probabilities, [n, classes, ...] too, pass.

    Raises:
        TypeError: They are no integers.
        ValueError: One is out of range.
    """
    if isinstance(y, Tracer) or not hasattr(y, "shape") or y.ndim >= len(predicted):
        return
    classes = predicted[1]
    if not (jnp.issubdtype(y.dtype, jnp.integer) or y.dtype == bool):
        raise TypeError(
            f"{name} is {_checks.describe(y)}; {_name(loss)} takes integer labels from 0 to {classes - 1}: convert "
            "them by astype(int)."
        )
    ignored = _checks.unwrapped(loss)[1].get("ignore_index", -100)
    y = y if _mesh.is_global(y) else np.asarray(y)
    wrong = ((y < 0) | (y >= classes)) & (y != ignored)
    if wrong.any() and _mesh.is_global(y):
        raise ValueError(f"{name} has {int(wrong.sum())} of {y.size} labels out of range; expected 0 to {classes - 1}.")
    if wrong.any():
        at = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} has the label {y[at]} at {list(at)}, {int(wrong.sum())} of {y.size} out of range; the model "
            f"predicts {classes} classes, so labels go from 0 to {classes - 1}."
        )
