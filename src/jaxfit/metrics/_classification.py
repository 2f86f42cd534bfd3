"""How often a classifier is right, and what it takes for what."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.metrics import _labels


def accuracy(
    prediction: ArrayLike, target: ArrayLike, ignore_index: int = -100, threshold: ArrayLike | None = None
) -> jax.Array:
    """The share of samples whose class is predicted right.

    Args:
        prediction: One of three. Scores of C classes (logits or probabilities), floating-point, `[n, C]` or
            `[n, C, d1, ...]`: the class with the largest is meant, the first of equals. Labels, integer or bool, `[n]`
            or of any shape. Scores of a binary classifier, floating-point, of any shape, together with a threshold.
        target: Integer or bool labels, of prediction's shape, for scores of classes without axis 1. Or probabilities
            of the classes (such as one-hot), of prediction's shape: the most probable class is meant. With a threshold
            floats from 0 to 1 will also do, class 1 where above 0.5.
        ignore_index: Samples with this label do not count.
        threshold: Above this number a floating-point prediction means class 1, else class 0: 0.0 for logits, 0.5 for
            probabilities. May be traced. Not for scores of C classes, nor for labels.

    Returns:
        A scalar, float32 or of prediction's precision where that is higher; NaN where no sample counts. Under jit a
        label out of range counts as wrong, and so do, always, scores that are NaN.

    Raises:
        TypeError: An argument is not a numeric array, or labels are not integer.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, or floating-point predictions of
            labels' shape come without a threshold.

    Source: `sklearn.metrics.accuracy_score`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import metrics
        >>> logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [1.0, 4.0], [5.0, 0.0]])
        >>> float(metrics.accuracy(logits, jnp.array([0, 1, 0, 0])))
        0.75
        >>> float(metrics.accuracy([-1.0, 2.0], [0, 1], threshold=0.0))
        1.0
    """
    found = _labels.read("accuracy", prediction, target, ignore_index, threshold, needs_classes=False)
    return _labels.share(found.predicted == found.actual, found.counted, found.dtype)


def top_k_accuracy(prediction: ArrayLike, target: ArrayLike, k: int = 5, ignore_index: int = -100) -> jax.Array:
    """The share of samples whose class is among the k with the largest scores.

    Of classes with equal scores the first come first, as in `accuracy`, which is this with `k=1`; scikit-learn takes
    the last.

    Args:
        prediction: Scores of C classes (logits or probabilities), floating-point, `[n, C]` or `[n, C, d1, ...]`.
        target: Integer or bool labels, of prediction's shape without axis 1; or probabilities of the classes, of
            prediction's shape: the most probable class is meant.
        k: How many guesses are allowed, from 1 to C.
        ignore_index: Samples with this label do not count.

    Returns:
        A scalar, float32 or of prediction's precision where that is higher; NaN where no sample counts. Under jit a
        label out of range counts as wrong, and so do, always, scores that are NaN.

    Raises:
        TypeError: An argument is not a numeric array, prediction is not floating-point, labels are not integer, or k
            is not a whole number.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, or k is not between 1 and C.

    Source: `sklearn.metrics.top_k_accuracy_score`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import metrics
        >>> scores = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
        >>> float(metrics.top_k_accuracy(scores, jnp.array([1, 0]), k=2))
        0.5
    """
    name = "top_k_accuracy"
    scores, actual, counted = _labels.read_scores(name, prediction, target, ignore_index)
    classes = scores.shape[1]
    if _checks.count(f"{name}: k", k) > classes:
        raise ValueError(
            f"{name}: k is {k} and prediction has {classes} classes; expected k from 1 to {classes}. Choose a smaller "
            f"one."
        )
    label = jnp.expand_dims(actual, 1)
    inside = (label >= 0) & (label < classes)
    own = jnp.take_along_axis(scores, jnp.where(inside, label, 0), 1)
    index = jnp.arange(classes).reshape((classes,) + (1,) * (scores.ndim - 2))
    # Counting who comes first takes one pass; sorting all classes would take many.
    rank = jnp.sum((scores > own) | ((scores == own) & (index < label)), 1, dtype=jnp.int32)
    hits = (rank < k) & inside.squeeze(1) & ~jnp.isnan(scores).any(1)
    return _labels.share(hits, counted, scores.dtype)


def confusion_matrix(
    prediction: ArrayLike,
    target: ArrayLike,
    classes: int | None = None,
    normalize: str | None = None,
    ignore_index: int = -100,
    threshold: ArrayLike | None = None,
) -> jax.Array:
    """How many samples of each class (rows) are predicted to be of each class (columns).

    As a metric of `jaxfit.fit` it is kept for every epoch, `[epochs, C, C]`.

    Args:
        prediction: Scores of C classes `[n, C]` or `[n, C, d1, ...]`, labels, or with a threshold scores of a binary
            classifier: see `accuracy`.
        target: Labels, or probabilities of the classes: see `accuracy`.
        classes: C, the number of classes, where integer labels are predicted. Scores and bool tell it themselves.
        normalize: What to divide by: `"true"`, the samples of the actual class, so that rows add up to 1; `"pred"`,
            those of the predicted class, so that columns do; `"all"`, all samples; `None`, nothing. 0 / 0 is 0.
        ignore_index: Samples with this label do not count.
        threshold: Above this number a floating-point prediction means class 1: 0.0 for logits, 0.5 for probabilities.

    Returns:
        `[C, C]`: int32 counts; normalized, float32 or of prediction's precision where that is higher. A sample with
        NaN scores is in no cell; nor is, under jit, one with a label out of range.

    Raises:
        TypeError: An argument is not a numeric array, labels are not integer, or classes is not a whole number.
        ValueError: Shapes do not fit, an array is empty, a label is out of range, the number of classes is missing or
            not that of the scores, a threshold is missing, or normalize is unknown.

    Source: `sklearn.metrics.confusion_matrix`.

    Example:
        >>> from jaxfit import metrics
        >>> metrics.confusion_matrix([0, 1, 1, 2], [0, 0, 1, 2], classes=3).tolist()
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    """
    name = "confusion_matrix"
    if normalize is not None:
        _checks.one_of(name, "normalize", normalize, ("all", "pred", "true"))
    found = _labels.read(name, prediction, target, ignore_index, threshold, classes)
    outside = (found.predicted < 0) | (found.actual < 0)  # a negative index would count from the end
    row = jnp.where(outside, found.number, found.actual)
    empty = jnp.zeros((found.number, found.number), jnp.int32)
    counts = empty.at[row, found.predicted].add(found.counted.astype(jnp.int32), mode="drop")
    if normalize is None:
        return counts
    total = jnp.sum(counts, {"true": 1, "pred": 0, "all": None}[normalize], keepdims=True)
    return counts.astype(found.dtype) / jnp.maximum(total, 1).astype(found.dtype)
