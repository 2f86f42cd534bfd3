"""Pictures of a result, with matplotlib (the extra `plot`)."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfit._report import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxfit._result import FitResult

_POINTS_DRAWN = 5_000  # beyond that, points only cover each other
_CURVE_POINTS = 400


def plot(result: "FitResult") -> "Figure":
    """Draws the data with the fit, and beside it the loss at every step.

    Data of one variable are drawn with the fitted curve; data of more variables as prediction against observation.

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
    panels = [panel for panel in (_draw_fit, _draw_loss) if panel is not _draw_fit or data is not None]
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    for index, panel in enumerate(panels):
        panel(figure.add_subplot(1, len(panels), index + 1), result, data)
    return figure


def _points(result: "FitResult") -> tuple[Any, Any, Any] | None:
    """x, y and sigma as NumPy arrays, few enough to draw; a sample where a sampler made the data."""
    if result._batch is not None:
        x, y, sigma = result._batch.x, result._batch.y, result._batch.sigma
    elif result._sampler is not None:
        with result.precision():
            (x, y), sigma = result._sampler(jax.random.key(0)), None
    else:
        return None
    if not hasattr(y, "shape"):
        return None
    chosen = np.unique(np.linspace(0, y.shape[0] - 1, _POINTS_DRAWN).astype(int))
    x, y = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], (x, y))
    if sigma is not None and np.ndim(sigma):
        sigma = np.asarray(sigma)[chosen]
    return x, y, sigma


def _draw_fit(axes: "Axes", result: "FitResult", data: Any) -> None:
    x, y, sigma = data
    prediction = np.asarray(result.predict(x))
    if prediction.shape != y.shape:  # class scores against labels: nothing to draw them on
        axes.text(0.5, 0.5, f"prediction {prediction.shape}\ny {y.shape}", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    elif hasattr(x, "shape") and x.size == x.shape[0] == y.size:
        if sigma is None:
            axes.plot(x.ravel(), y.ravel(), "o", ms=4, alpha=0.6, mew=0, color="C0", label="data")
        else:
            axes.errorbar(x.ravel(), y.ravel(), np.broadcast_to(sigma, y.shape).ravel(), fmt="o", ms=4, label="data")
        curve = np.linspace(x.min(), x.max(), _CURVE_POINTS).astype(np.result_type(x.dtype, np.float32))
        curve = curve.reshape(-1, *x.shape[1:])
        axes.plot(curve.ravel(), np.asarray(result.predict(curve)).ravel(), color="C1", lw=2, label="fit")
        axes.set(xlabel="x", ylabel="y", title=f"{name_of(result.model)} and data")
        axes.legend()
    else:
        ends = [min(y.min(), prediction.min()), max(y.max(), prediction.max())]
        axes.plot(ends, ends, color="0.7", lw=1, zorder=0)
        axes.plot(y.ravel(), prediction.ravel(), "o", ms=4, alpha=0.6, mew=0)
        axes.set(xlabel="observed y", ylabel="prediction", title=f"{name_of(result.model)} against data")


def _draw_loss(axes: "Axes", result: "FitResult", data: Any) -> None:
    del data
    losses = np.append(result.history["loss"], result.loss)
    axes.plot(losses, color="C0", lw=1, marker="o" if len(losses) == 1 else None, label="loss")
    epochs = result.history.get("validation_loss", ())
    if len(epochs):
        per_epoch = (len(losses) - 1) / len(epochs)
        axes.plot(per_epoch * np.arange(1, len(epochs) + 1), epochs, "C1.-", label="validation loss")
        axes.legend()
    if (losses > 0).all() and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss", title=f"{type(result.optimizer).__name__}: {result.status}")
