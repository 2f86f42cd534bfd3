"""Metrics: pure functions `metric(prediction, target) -> array` that say how good a prediction is.

Their values are those of scikit-learn. They are for reading, not for minimising: counting classes has no slope. All can
be jitted and vmapped; NumPy arrays and lists will do as arguments; options are bound with `functools.partial`, as in
`jaxfit.fit(..., metrics={"top 5": functools.partial(jaxfit.metrics.top_k_accuracy, k=5)})`. Arrays that belong together
must agree in shape: nothing is broadcast silently.
"""

from jaxfit.metrics._averages import f1, precision, recall
from jaxfit.metrics._classification import accuracy, confusion_matrix, top_k_accuracy
from jaxfit.metrics._regression import mean_absolute_error, r2

__all__ = [
    "accuracy",
    "confusion_matrix",
    "f1",
    "mean_absolute_error",
    "precision",
    "r2",
    "recall",
    "top_k_accuracy",
]
