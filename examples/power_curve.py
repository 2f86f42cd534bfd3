"""Finds the power of a curve by plain gradient descent, with a loss of one's own.

For those who come from PyTorch: a loss is any function of prediction and target, and `record` keeps what a training
loop would have appended to a list.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "power_curve.png"


def power(theta, x):
    """The model: x to the power of theta, the only param."""
    return x**theta


def root_of_sum(prediction, target):
    """The length of the vector of all errors: a sum, not a mean."""
    errors = prediction - target
    return jnp.sqrt(jnp.sum(errors**2))


def main() -> dict[str, Any]:
    """Fits, prints, draws the loss and theta of every step."""
    x = jax.random.uniform(jax.random.key(0), (10,), maxval=10.0)
    y = x**2
    gradient_descent = jf.optimizers.SGD(5e-5)
    result = jf.fit(power, (x, y), 1.0, loss=root_of_sum, optimizer=gradient_descent, steps=600, record=("params",))
    print(result)

    # Row i of the history holds what step i started from; what the last step led to is in the result itself.
    losses, thetas = result.history["loss"], result.history["params"]
    theta = float(result.params)
    print("\n  step       loss      theta")
    for step in range(0, 600, 100):
        print(f"  {step:4d}   {losses[step]:8.3f}   {thetas[step]:8.5f}")
    print(f"  {600:4d}   {result.loss:8.3f}   {theta:8.5f}")
    # A length does not flatten out towards its minimum, it comes to a point there, like |theta - 2|. So steps do not
    # shrink on the way: they end up hopping from one side to the other.
    print(f"\nThe last two steps hop from {thetas[-1]:.4f} to {theta:.4f}, across theta = 2.")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    loss_axes, theta_axes = figure.subplots(1, 2)
    loss_axes.plot(losses, ".", ms=2)  # dots, because the last steps hop
    loss_axes.set(xlabel="step", ylabel="loss", title="Root of the sum of squared errors", yscale="log")
    theta_axes.axhline(2, color="0.6", lw=1, ls="--", label="the power in the data")
    theta_axes.plot(thetas, ".", ms=2, color="C1", label="theta")
    theta_axes.set(xlabel="step", ylabel="theta", title="The power")
    theta_axes.legend(loc="lower right", markerscale=4)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"theta": theta, "loss": result.loss, "losses": losses, "thetas": thetas, "x": x, "y": y}


if __name__ == "__main__":
    main()
