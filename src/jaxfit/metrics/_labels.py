"""What the metrics of classifiers share: the class that a model says, the class that is right, and what counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.losses import _shared

_INT32 = np.iinfo(np.int32)
_NO_PREDICTION = int(_INT32.min)  # what NaN scores say: equal to no label
_NO_TARGET = -1  # what NaN probabilities say


class Classes(NamedTuple):
    """Predicted and actual class of each sample, in arrays of one shape."""

    predicted: jax.Array
    actual: jax.Array
    counted: jax.Array
    """False where the target is ignore_index."""
    number: int
    """How many classes there are; 0 where nobody said and nobody asked."""
    dtype: Any
    """What results have: the prediction's precision, at least float32."""


def read(
    function: str,
    prediction: ArrayLike,
    target: ArrayLike,
    ignore_index: int,
    threshold: ArrayLike | None,
    classes: int | None = None,
    *,
    assumed: int | None = None,
    needs_classes: bool = True,
) -> Classes:
    """Prediction and target of a classifier, whichever way they are given.

    `assumed` is the number of classes where integer labels come without it.
    """
    array, actual = _nonempty(function, "prediction", prediction), _nonempty(function, "target", target)
    ignore_index = _ignored(function, ignore_index)
    if classes is not None:
        classes = _checks.count(f"{function}: classes", classes, least=2)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if floating and threshold is None:
        number = _same_number(function, _score_classes(function, array), classes)
        actual, counted = _target_of_scores(function, actual, target, array.shape, ignore_index)
        predicted = _largest(array, _NO_PREDICTION)
    elif floating:
        number = classes or 2
        _checks.same_shape(function, prediction=array, target=actual)
        predicted = _above(function, array, threshold)
        actual, counted = _binary_target(function, actual, target, ignore_index)
    else:
        if threshold is not None:
            raise ValueError(
                f"{function}: threshold is {threshold!r} and prediction {_checks.describe(array)}, which is classes "
                f"already; expected floating-point scores to compare with it. Leave threshold out."
            )
        number = classes or (2 if array.dtype == bool else assumed)
        if number is None and needs_classes:
            raise ValueError(
                f"{function}: prediction is {_checks.describe(array)}, labels that do not tell how many classes there "
                f"are; expected the option classes, e.g. classes=10."
            )
        _checks.same_shape(function, prediction=array, target=actual)
        predicted = _integers(function, "prediction", array, prediction, number, None)
        actual = _integers(function, "target", actual, target, number, ignore_index)
        counted = actual != ignore_index
    return Classes(predicted, actual, counted, number or 0, _precision(array))


def read_scores(
    function: str, prediction: ArrayLike, target: ArrayLike, ignore_index: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores with their classes along axis 1, the labels, and which of them count."""
    scores, actual = _nonempty(function, "prediction", prediction), _nonempty(function, "target", target)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"{function}: prediction is {_checks.describe(scores)}; expected floating-point scores [n, C], e.g. "
            f"prediction.astype(float)."
        )
    _score_classes(function, scores)
    actual, counted = _target_of_scores(function, actual, target, scores.shape, _ignored(function, ignore_index))
    return scores.astype(_precision(scores)), actual, counted


def share(hits: jax.Array, counted: jax.Array, dtype: Any) -> jax.Array:
    """The share of hits among what counts; NaN where nothing does."""
    # Counted as integers: a float32 sum of ones stops growing at 2**24.
    hit, total = (jnp.sum(array, dtype=jnp.int32).astype(dtype) for array in (hits & counted, counted))
    return hit / total


def _nonempty(function, argument, value):
    array = _shared.numbers(function, argument, value)
    if array.size == 0:
        raise ValueError(
            f"{function}: {argument} is empty, with shape {array.shape}; expected at least one sample. Leave the empty "
            f"batch out."
        )
    return array


def _ignored(function, ignore_index):
    ignore_index = _shared.integer(function, "ignore_index", ignore_index)
    if not _INT32.min < ignore_index <= _INT32.max:
        raise ValueError(f"{function}: ignore_index is {ignore_index}; expected a 32-bit integer, such as -100.")
    return ignore_index


def _precision(array):
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.promote_types(array.dtype, jnp.float32) if floating else jnp.result_type(float)


def _score_classes(function, scores):
    if scores.ndim < 2:
        raise ValueError(
            f"{function}: prediction is {_checks.describe(scores)}: are these logits or probabilities of class 1, or "
            f"scores of one sample? Expected scores [n, C], or integer labels. For two classes say from where on class "
            f"1 is meant: threshold=0.0 for logits, threshold=0.5 for probabilities. For one sample write "
            f"prediction[None]."
        )
    if scores.shape[1] < 2:
        raise ValueError(
            f"{function}: prediction has shape {scores.shape}, scores of a single class in axis 1; expected two "
            f"classes or more. For a binary classifier say from where on class 1 is meant, threshold=0.0 for logits or "
            f"threshold=0.5 for probabilities, and give a target of the same shape, e.g. prediction[:, 0] and labels "
            f"[n]."
        )
    return scores.shape[1]


def _same_number(function, found, classes):
    if classes not in (None, found):
        raise ValueError(
            f"{function}: classes is {classes} and prediction has scores of {found} in axis 1; expected the same "
            f"number. Leave classes out."
        )
    return found


def _target_of_scores(function, array, target, shape, ignore_index):
    """The labels that belong to scores of this shape, and which of them count."""
    if array.shape == shape:
        return _largest(array, _NO_TARGET), jnp.ones(shape[:1] + shape[2:], bool)
    expected = shape[:1] + shape[2:]
    if array.shape != expected:
        raise ValueError(
            f"{function}: target has shape {array.shape} and prediction {shape}; expected labels of shape {expected}, "
            f"prediction's without axis 1 of {shape[1]} classes, or probabilities of shape {shape}. Drop or move axes, "
            f"e.g. with target[:, 0]."
        )
    labels = _integers(function, "target", array, target, shape[1], ignore_index)
    return labels, labels != ignore_index


def _binary_target(function, array, target, ignore_index):
    """The labels 0 and 1, and which of them count; probabilities of class 1 are rounded."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        labels = _integers(function, "target", array, target, 2, ignore_index)
        return labels, labels != ignore_index
    values = _shared.known(target, array)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        wrong = values[~((values >= 0) & (values <= 1))].flat[0]
        raise ValueError(
            f"{function}: target has the value {wrong}; expected probabilities of class 1, from 0 to 1, or integer "
            f"labels, e.g. target.astype(int)."
        )
    return jnp.where(jnp.isnan(array), _NO_TARGET, array > 0.5), jnp.ones(array.shape, bool)


def _largest(scores, otherwise):
    """The first class with the largest score; where a score is NaN, none."""
    unknown = jnp.isnan(scores).any(1)  # argmax would pick the NaN
    return jnp.where(unknown, otherwise, jnp.argmax(scores, 1)).astype(jnp.int32)


def _above(function, scores, threshold):
    wide = scores.astype(_precision(scores))
    limit = _shared.scalar(function, "threshold", threshold, wide.dtype)
    return jnp.where(jnp.isnan(wide), _NO_PREDICTION, wide > limit).astype(jnp.int32)


def _integers(function, argument, array, value, classes, ignore_index):
    """Labels as signed integers; those known are checked."""
    if array.dtype == bool:
        return array.astype(jnp.int32)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: {argument} is {_checks.describe(array)}; expected integer class labels, e.g. "
            f"{argument}.astype(int)."
        )
    values = _shared.known(value, array)
    if values is not None:
        least, most = (_INT32.min + 1, _INT32.max) if classes is None else (0, classes - 1)
        wrong = (values < least) | (values > most)
        if ignore_index is not None:
            wrong &= values != ignore_index
        if wrong.any():
            for_classes = "" if classes is None else f" for {classes} classes"
            or_ignored = "" if ignore_index is None else f" (or ignore_index={ignore_index})"
            raise ValueError(
                f"{function}: {argument} has the label {int(values[wrong].flat[0])}; expected labels from {least} to "
                f"{most}{for_classes}{or_ignored}. Count labels from 0 or give one class more."
            )
    if array.dtype in (jnp.uint32, jnp.uint64):  # what does not fit must not turn into another label
        array = jnp.minimum(array, np.int32(_INT32.max).astype(array.dtype))
    return array if array.dtype == jnp.int64 else array.astype(jnp.int32)
