"""Draws a line through fifteen points twice: by ten epochs of gradient descent, and by its closed form.

For those who come from PyTorch: no zero_grad, backward and step. The history has the loss of every epoch afterwards, so
printing it is no part of the training.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "line_through_points.png"
X = jnp.array([3.3, 4.4, 5.5, 6.71, 6.93, 4.168, 9.779, 6.182, 7.59, 2.167, 7.042, 10.791, 5.313, 7.997, 3.1])
Y = jnp.array([1.7, 2.76, 2.09, 3.19, 1.694, 1.573, 3.366, 2.596, 2.53, 1.221, 2.827, 3.465, 1.65, 2.904, 1.3])


def line(params, x):
    """A straight line."""
    return params["w"] * x + params["b"]


def closed_form(x, y) -> dict[str, jax.Array]:
    """The line of least squares without any steps: the solution of a linear system."""
    columns = jnp.stack([x, jnp.ones_like(x)], axis=1)  # [points, 2]: what w and b are multiplied with
    (w, b), *_ = jnp.linalg.lstsq(columns, y)
    return {"w": w, "b": b}


def main() -> dict[str, Any]:
    """Fits, prints the loss of every epoch, draws the line before and after."""
    w, b = jax.random.normal(jax.random.key(0), (2,))
    start = {"w": w, "b": b}
    result = jf.fit(line, (X, Y), start, loss=jf.losses.mse, optimizer=jf.optimizers.SGD(1e-2), epochs=10)
    losses = [*result.history["loss"][1:], result.loss]  # the history has the loss that each epoch started from
    print(f"start      loss {result.history['loss'][0]:.6f}")
    for epoch, loss in enumerate(losses, 1):
        print(f"epoch {epoch:2d}   loss {loss:.6f}")

    exact = closed_form(X, Y)
    best = float(jf.losses.mse(line(exact, X), Y))
    print(f"\nafter 10 epochs   w = {result.params['w']:.4f}   b = {result.params['b']:7.4f}   loss {result.loss:.6f}")
    print(f"closed form       w = {exact['w']:.4f}   b = {exact['b']:7.4f}   loss {best:.6f}")
    # Within three epochs the line passes through the middle of the data; turning it there to the right slope takes a
    # few thousand, because w and b must change against each other. The closed form knows no such difference.

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    ends = jnp.array([0.0, 12.0])
    for panel, params, title in zip(axes, (start, result.params), ("Before", "After 10 epochs"), strict=True):
        panel.plot(X, Y, "o", ms=5, alpha=0.7, mew=0, label="data")
        panel.plot(ends, line(params, ends), "C1", lw=2, label="estimate")
        panel.set(xlabel="x", ylabel="y", title=title)
    axes[1].plot(ends, line(exact, ends), "k--", lw=1, label="closed form")
    for panel in axes:
        panel.legend(loc="upper left")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    params = {name: float(value) for name, value in result.params.items()}
    return {"start": np.array([w, b]), "losses": losses, "params": params, "closed_form": exact, "best_loss": best}


if __name__ == "__main__":
    main()
