"""Trains the smallest network, one weight and one bias, on six points of y = 3 x.

For those who come from PyTorch: the layer, its printout, your own loss and SGD with momentum are as you know them; the
loop over epochs, zero_grad, backward and step are one call.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "perceptron.png"
X = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])  # [samples, features]
Y = 3 * X


def squared_error(out, label):
    """A loss of one's own: any function of the network's output and the label."""
    return ((label - out) ** 2).mean()


def main() -> dict[str, Any]:
    """Trains one sample at a step, in order, for a hundred epochs."""
    net = nn.Sequential(nn.Linear(1, 1, rngs=nn.Rngs(0)))
    print(net)
    for name, array in nn.parameters(net).items():
        print(f"{name:8} {array.shape!s:6} {array}")

    result = jf.fit(
        net, (X, Y), loss=squared_error, optimizer=jf.optimizers.SGD(0.01, momentum=0.5),
        epochs=100, batch_size=1, shuffle=False, record=("params",),
    )  # fmt: skip
    losses = result.history["loss"].reshape(100, 6)  # [epochs, samples]: what each step started from
    print()
    for epoch in [0, 1, 2, 4, 9, 19, 49, 99]:
        print(f"epoch {epoch + 1:3}   loss of the last sample {losses[epoch, -1]:.2e}")

    weight, bias = (float(array.item()) for array in nn.parameters(result.model).values())  # the fitted copy
    at_one = float(result.model(np.array([[1.0]])).item())
    print(f"\nweight {weight:.4f}, bias {bias:.4f}, prediction at 1: {at_one:.4f}")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    loss_axes, params_axes = figure.subplots(1, 2)
    loss_axes.semilogy(np.arange(1, 101), losses.mean(axis=1))
    loss_axes.set(xlabel="epoch", ylabel="squared error", title="Mean loss of the six samples")
    steps = result.history["params"]["layers"][0]  # arrays as in the layer, with an axis of steps in front
    for name, label, true in (("kernel", "weight", 3), ("bias", "bias", 0)):
        params_axes.axhline(true, color="0.7", lw=1, ls="--", zorder=0)
        params_axes.plot(np.arange(600) / 6, steps[name].ravel(), label=label)
    params_axes.set(xlabel="epoch", title="Parameters")
    params_axes.legend(loc="center right")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "printed": str(net),
        "start": {name: float(array.item()) for name, array in nn.parameters(net).items()},
        "losses": losses,
        "weight": weight,
        "bias": bias,
        "at_one": at_one,
    }


if __name__ == "__main__":
    main()
