"""Precision, recall and their harmonic mean, for each class or averaged over the classes."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.metrics import _labels

_AVERAGES = ("binary", "macro", "micro", "weighted")


def precision(
    prediction: ArrayLike,
    target: ArrayLike,
    average: str | None = "macro",
    classes: int | None = None,
    zero_division: float = 0.0,
    ignore_index: int = -100,
    threshold: ArrayLike | None = None,
) -> jax.Array:
    """Of the samples that are predicted to be of a class, the share that is.

    Args:
        prediction: Scores of C classes `[n, C]` or `[n, C, d1, ...]`, labels, or with a threshold scores of a binary
            classifier: see `accuracy`.
        target: Labels, or probabilities of the classes: see `accuracy`.
        average: `"macro"`, the mean over the classes that are predicted or present; `"weighted"`, their mean weighted
            with the number of samples of each; `"micro"`, one share over all classes taken together; `"binary"`, the
            share of class 1, where there are two; `None`, the share of each class.
        classes: C, the number of classes, where integer labels are predicted; 2 where average is `"binary"`. Scores
            and bool tell it themselves.
        zero_division: What 0 / 0 is, 0.0 or 1.0: the precision of a class that is never predicted.
        ignore_index: Samples with this label do not count.
        threshold: Above this number a floating-point prediction means class 1: 0.0 for logits, 0.5 for probabilities.

    Returns:
        A scalar, or with `None` `[C]`, float32 or of prediction's precision where that is higher; zero_division where
        no sample counts. NaN scores are of no class; nor is, under jit, a label out of range.

    Raises:
        TypeError: An argument is not a numeric array, labels are not integer, or classes is not a whole number.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, the number of classes is missing or
            not that of the scores, a threshold is missing, or an option is not allowed.

    Source: `sklearn.metrics.precision_score`.

    Example:
        >>> from jaxfit import metrics
        >>> float(metrics.precision([0, 1, 1, 1], [0, 0, 1, 1], classes=2))
        0.8333...
        >>> metrics.precision([0, 1, 1, 1], [0, 0, 1, 1], average=None, classes=2).tolist()
        [1.0, 0.666...]
    """
    return _averaged("precision", prediction, target, average, classes, zero_division, ignore_index, threshold)


def recall(
    prediction: ArrayLike,
    target: ArrayLike,
    average: str | None = "macro",
    classes: int | None = None,
    zero_division: float = 0.0,
    ignore_index: int = -100,
    threshold: ArrayLike | None = None,
) -> jax.Array:
    """Of the samples of a class, the share that is predicted to be.

    Args:
        prediction: Scores of C classes `[n, C]` or `[n, C, d1, ...]`, labels, or with a threshold scores of a binary
            classifier: see `accuracy`.
        target: Labels, or probabilities of the classes: see `accuracy`.
        average: `"macro"`, the mean over the classes that are predicted or present; `"weighted"`, their mean weighted
            with the number of samples of each; `"micro"`, one share over all classes taken together; `"binary"`, the
            share of class 1, where there are two; `None`, the share of each class.
        classes: C, the number of classes, where integer labels are predicted; 2 where average is `"binary"`. Scores
            and bool tell it themselves.
        zero_division: What 0 / 0 is, 0.0 or 1.0: the recall of a class without samples.
        ignore_index: Samples with this label do not count.
        threshold: Above this number a floating-point prediction means class 1: 0.0 for logits, 0.5 for probabilities.

    Returns:
        A scalar, or with `None` `[C]`, float32 or of prediction's precision where that is higher; zero_division where
        no sample counts. NaN scores are of no class; nor is, under jit, a label out of range.

    Raises:
        TypeError: An argument is not a numeric array, labels are not integer, or classes is not a whole number.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, the number of classes is missing or
            not that of the scores, a threshold is missing, or an option is not allowed.

    Source: `sklearn.metrics.recall_score`.

    Example:
        >>> from jaxfit import metrics
        >>> float(metrics.recall([0, 1, 1, 1], [0, 0, 1, 1], classes=2))
        0.75
        >>> float(metrics.recall([0.2, 0.9], [1, 1], average="binary", threshold=0.5))
        0.5
    """
    return _averaged("recall", prediction, target, average, classes, zero_division, ignore_index, threshold)


def f1(
    prediction: ArrayLike,
    target: ArrayLike,
    average: str | None = "macro",
    classes: int | None = None,
    zero_division: float = 0.0,
    ignore_index: int = -100,
    threshold: ArrayLike | None = None,
) -> jax.Array:
    """The harmonic mean of precision and recall, `2 hits / (predicted + present)`.

    Args:
        prediction: Scores of C classes `[n, C]` or `[n, C, d1, ...]`, labels, or with a threshold scores of a binary
            classifier: see `accuracy`.
        target: Labels, or probabilities of the classes: see `accuracy`.
        average: `"macro"`, the mean over the classes that are predicted or present; `"weighted"`, their mean weighted
            with the number of samples of each; `"micro"`, one number over all classes taken together; `"binary"`, that
            of class 1, where there are two; `None`, that of each class.
        classes: C, the number of classes, where integer labels are predicted; 2 where average is `"binary"`. Scores
            and bool tell it themselves.
        zero_division: What 0 / 0 is, 0.0 or 1.0: the F1 of a class that is neither predicted nor present.
        ignore_index: Samples with this label do not count.
        threshold: Above this number a floating-point prediction means class 1: 0.0 for logits, 0.5 for probabilities.

    Returns:
        A scalar, or with `None` `[C]`, float32 or of prediction's precision where that is higher; zero_division where
        no sample counts. NaN scores are of no class; nor is, under jit, a label out of range.

    Raises:
        TypeError: An argument is not a numeric array, labels are not integer, or classes is not a whole number.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, the number of classes is missing or
            not that of the scores, a threshold is missing, or an option is not allowed.

    Source: `sklearn.metrics.f1_score`.

    Example:
        >>> from jaxfit import metrics
        >>> metrics.f1([0, 1, 1, 1], [0, 0, 1, 1], average=None, classes=2).tolist()
        [0.666..., 0.80...]
    """
    return _averaged("f1", prediction, target, average, classes, zero_division, ignore_index, threshold)


def _averaged(function, prediction, target, average, classes, zero_division, ignore_index, threshold):
    if average is not None:
        _checks.one_of(function, "average", average, _AVERAGES)
    if not (_checks.is_number(zero_division) and zero_division in (0, 1)):
        came = zero_division if _checks.is_number(zero_division) else _checks.describe(zero_division)
        raise ValueError(f"{function}: zero_division is {came}; expected 0.0 or 1.0, what 0 / 0 shall be.")
    assumed = 2 if average == "binary" else None
    found = _labels.read(function, prediction, target, ignore_index, threshold, classes, assumed=assumed)
    if average == "binary" and found.number != 2:
        raise ValueError(
            f"{function}: average is 'binary' with {found.number} classes; expected two. Choose 'macro', 'micro' or "
            f"'weighted', or None for each class."
        )
    hits, predicted, present = _counts(found)
    if average == "micro":
        hits, predicted, present = jnp.sum(hits), jnp.sum(predicted), jnp.sum(present)
    # Each is hits divided by this much.
    total = {"precision": predicted, "recall": present, "f1": (predicted + present) / 2}[function]
    values = _divide(hits, total, zero_division)
    if average == "binary":
        return values[1]
    if average in (None, "micro"):
        return values
    weight = present if average == "weighted" else ((predicted > 0) | (present > 0)).astype(values.dtype)
    return _divide(jnp.sum(weight * values), jnp.sum(weight), zero_division)


def _counts(found):
    """For each class how often it is hit, predicted and present, as floats."""

    def count(labels, which):
        index = jnp.where(which & (labels >= 0), labels, found.number)
        return jnp.zeros(found.number, jnp.int32).at[index.ravel()].add(1, mode="drop").astype(found.dtype)

    right = found.counted & (found.predicted == found.actual)
    return count(found.actual, right), count(found.predicted, found.counted), count(found.actual, found.counted)


def _divide(part, whole, zero_division):
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), zero_division)
