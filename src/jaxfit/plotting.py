"""Pictures of a result, with matplotlib (the extra `plot`)."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit import _checks
from jaxfit._report import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxfit._result import FitResult

_POINTS_DRAWN = 5_000  # beyond that, points only cover each other
_MANY = 300  # points that need to be small and pale
_CURVE_POINTS = 400
_CLASSES_COUNTED = 12  # with more, counts in a confusion matrix are too small to read
# What a prediction says of y where the loss takes it for a logarithm or a logit.
_MEANS = {"poisson_nll": np.exp, "binary_cross_entropy_with_logits": lambda logit: 1 / (1 + np.exp(-logit))}


def plot(result: "FitResult") -> "Figure":
    """Draws the data with the fit, and what shows how good it is.

    Data of one variable are drawn with the fitted curve, and after a second-order fit with its 95 % confidence band;
    below, for squared errors, the residuals with the same error bars. Other fits have their loss at every step beside
    the picture. Data of more variables are drawn as prediction against observation, those of a classifier as its
    confusion matrix; metrics have a panel of their own.

    Args:
        result: What `fit` returned.

    Returns:
        A matplotlib figure that belongs to no window; `figure.savefig(path)` keeps it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot() draws with matplotlib, which is not installed: pip install matplotlib.") from error
    data = _points(result)
    if data is not None and _is_curve(data) and result.evidence is not None and result.evidence.chi_squared is not None:
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_fit(upper, result, data)
        upper.set_xlabel("")
        _draw_residuals(lower, result, data)
        return figure
    panels: list[Any] = [_draw_fit] * (data is not None) + [_draw_loss] + [_draw_metrics] * bool(_metrics(result))
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    for index, panel in enumerate(panels):
        panel(figure.add_subplot(1, len(panels), index + 1), result, data)
    return figure


def _is_curve(data: Any) -> bool:
    """Whether there is one number x for each number y."""
    x, y, _ = data
    return hasattr(x, "shape") and x.size == x.shape[0] == y.size


def _points(result: "FitResult") -> tuple[Any, Any, Any] | None:
    """x, y and sigma as NumPy arrays, few enough to draw; a sample where a sampler made the data."""
    if result._batch is not None:
        x, y, sigma = result._batch.x, result._batch.y, result._batch.sigma
    elif result._sampler is not None:
        with result.precision():
            (x, y), sigma = result._sampler(jax.random.key(0)), None
    else:
        return None
    if not hasattr(y, "shape") or np.iscomplexobj(y):
        return None
    chosen = np.unique(np.linspace(0, y.shape[0] - 1, _POINTS_DRAWN).astype(int))
    x, y = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], (x, y))
    if sigma is not None and np.ndim(sigma):
        sigma = np.asarray(sigma)[chosen]
    return x, y, sigma


def _draw_fit(axes: "Axes", result: "FitResult", data: Any) -> None:
    x, y, _ = data
    loss, options = _checks.unwrapped(result.loss_function)
    mean = _MEANS.get(getattr(loss, "__name__", ""), np.asarray) if options.get("log_input", True) else np.asarray
    raw = np.asarray(result.predict(x))
    prediction = mean(raw)
    classes = None if _is_curve(data) else _classes_of(getattr(loss, "__name__", ""), raw, y)
    if classes is not None:
        _draw_classes(axes, result, *classes)
    elif prediction.shape != y.shape:  # nothing to draw them on
        axes.text(0.5, 0.5, f"prediction {prediction.shape}\ny {y.shape}", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    elif _is_curve(data):
        _draw_points(axes, data, y)
        curve = np.linspace(x.min(), x.max(), _CURVE_POINTS).astype(np.result_type(x.dtype, np.float32))
        at = curve.reshape(-1, *x.shape[1:])
        axes.plot(curve, mean(np.asarray(result.predict(at))).ravel(), color="C1", lw=1.8, label="fit", zorder=4)
        if result.evidence is not None:
            lower, upper = (mean(end).ravel() for end in result.confidence_band(at))
            known = np.isfinite(lower) & np.isfinite(upper)
            if known.any():
                style = {"color": "C1", "alpha": 0.3, "lw": 0, "zorder": 3}
                axes.fill_between(curve, lower, upper, where=list(known), label="95 % confidence", **style)
        axes.set(xlabel="x", ylabel="y", title=f"{name_of(result.model)} and data")
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend([handles.pop("data"), *handles.values()], ["data", *handles], frameon=False, markerscale=1.5)
    else:
        ends = [min(y.min(), prediction.min()), max(y.max(), prediction.max())]
        axes.plot(ends, ends, color="0.6", lw=1, zorder=0, label="prediction = y")
        axes.plot(y.ravel(), prediction.ravel(), "o", color="C0", **_dots(y.size))
        axes.set(xlabel="observed y", ylabel="prediction", title=f"{name_of(result.model)} against data")
        axes.legend(frameon=False)


def _classes_of(loss: str, scores: Any, y: Any) -> tuple[Any, Any] | None:
    """Scores [n, classes] and labels [n] of a classifier; None for what is none."""
    if scores.ndim == 2 and y.shape == scores.shape[:1] and y.dtype.kind in "iub":
        return scores, y
    if loss == "cross_entropy" and scores.ndim == 2 and y.shape == scores.shape:
        return scores, y.argmax(1)
    binary = {"binary_cross_entropy": 0.5, "binary_cross_entropy_with_logits": 0.0}
    if loss in binary and scores.shape == y.shape and y.size == len(y) and np.isin(y, (0, 1)).all():
        above = scores.ravel() - binary[loss]
        return np.stack([-above, above], axis=1), y.ravel()
    return None


def _draw_classes(axes: "Axes", result: "FitResult", scores: Any, labels: Any) -> None:
    """The confusion matrix: of the samples of each class, the share that is taken for each."""
    classes = scores.shape[1]
    counts, known = np.zeros((classes, classes), int), (labels >= 0) & (labels < classes)  # others are ignored labels
    np.add.at(counts, (labels[known].astype(int), scores[known].argmax(1)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if classes <= _CLASSES_COUNTED:
        axes.set(xticks=range(classes), yticks=range(classes))
        for (true, taken), count in np.ndenumerate(counts):
            colour = "white" if shares[true, taken] > 0.5 else "0.3"
            axes.text(taken, true, str(count) if count else "", ha="center", va="center", fontsize=7, color=colour)
    right = float(np.trace(counts) / max(counts.sum(), 1))
    title = f"{name_of(result.model)} on its data: {right:.1%} right"
    axes.set(xlabel="predicted class", ylabel="class", title=title)


def _draw_residuals(axes: "Axes", result: "FitResult", data: Any) -> None:
    x, y, _ = data
    axes.axhline(0, color="C1", lw=1.2, zorder=4)
    _draw_points(axes, data, y - np.asarray(result.predict(x)).reshape(y.shape))
    most = np.abs(axes.get_ylim()).max()
    axes.set(xlabel="x", ylabel="y - fit", ylim=(-most, most))


def _draw_points(axes: "Axes", data: Any, heights: Any) -> None:
    """Points over x with the error bars of y."""
    x, y, sigma = data
    style = _dots(y.size)
    if sigma is None or y.size > _MANY:  # so many error bars would hide the points
        axes.plot(x.ravel(), heights.ravel(), "o", color="C0", label="data", **style)
    else:
        sigma = np.broadcast_to(sigma, y.shape).ravel()
        axes.errorbar(x.ravel(), heights.ravel(), sigma, fmt="o", color="C0", elinewidth=0.9, label="data", **style)


def _dots(points: int) -> dict[str, Any]:
    """How to draw points so that many do not become a blot."""
    return {"ms": 4, "alpha": 0.7, "mew": 0} if points <= _MANY else {"ms": 2, "alpha": 0.3, "mew": 0}


def _metrics(result: "FitResult") -> dict[str, Any]:
    """What was computed after every epoch, as far as it is one number."""
    apart = ("loss", "gradient_norm", "params", "validation_loss")
    return {name: values for name, values in result.history.items() if name not in apart and np.ndim(values) == 1}


def _draw_metrics(axes: "Axes", result: "FitResult", data: Any) -> None:
    del data
    for name, values in _metrics(result).items():
        axes.plot(np.arange(1, len(values) + 1), values, ".-", label=name.replace("_", " "))
    axes.set(xlabel="epoch", title="Metrics")
    axes.legend(frameon=False)


def _draw_loss(axes: "Axes", result: "FitResult", data: Any) -> None:
    del data
    losses = np.append(result.history["loss"], result.loss)
    epochs = result.history.get("validation_loss", ())
    width, alpha = (0.8, 0.6) if len(epochs) else (1.0, 1.0)  # losses of batches jump about
    axes.plot(losses, color="C0", lw=width, alpha=alpha, marker="o" if len(losses) == 1 else None, label="loss")
    if len(epochs):
        per_epoch = (len(losses) - 1) / len(epochs)
        axes.plot(per_epoch * np.arange(1, len(epochs) + 1), epochs, "C1.-", label="validation loss")
        axes.legend()
    if (losses > 0).all() and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", title=f"{type(result.optimizer).__name__}: {result.status}")
