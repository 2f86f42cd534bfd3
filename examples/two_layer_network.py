"""Trains two linear layers, 1 to 10 to 1, on six points of y = 3 x until hardly any error is left.

For those who come from PyTorch: as many layers as you like go into a Sequential, and the mean squared error is
`jf.losses.mse`. The fit starts from the network's own random values and leaves the network itself as it was.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "two_layer_network.png"
X = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
Y = 3 * X
EPOCHS = 300


def main() -> dict[str, Any]:
    """Trains one sample at a step, in order; then looks where no data were."""
    rngs = nn.Rngs(0)
    net = nn.Sequential(nn.Linear(1, 10, rngs=rngs), nn.Linear(10, 1, rngs=rngs))
    print(net)

    sgd = jf.optimizers.SGD(0.01, momentum=0.01)
    result = jf.fit(net, (X, Y), loss=jf.losses.mse, optimizer=sgd, epochs=EPOCHS, batch_size=1, shuffle=False)
    losses = result.history["loss"].reshape(EPOCHS, 6)  # [epochs, samples]
    print()
    for epoch in [1, 10, 30, 100, EPOCHS]:
        print(f"epoch {epoch:3}   largest loss of a sample {losses[epoch - 1].max():.1e}")

    # Two linear layers make a line again, so the network holds far beyond its data; with an activation it would not.
    far = np.array([[-100.0], [0.0], [100.0]])
    predictions = np.array(result.predict(far)).ravel()
    print("\n" + "\n".join(f"at {x:4.0f}   {y:10.4f}" for x, y in zip(far.ravel(), predictions, strict=True)))

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    loss_axes, line_axes = figure.subplots(1, 2)
    largest = losses.max(axis=1)
    reached = np.flatnonzero(largest)  # in single precision the error may end at exactly 0
    loss_axes.semilogy(reached + 1, largest[reached], lw=1)
    loss_axes.set(xlabel="epoch", ylabel="squared error", title="Largest loss of a sample")
    fine = np.linspace(0.0, 7.0, 50)[:, None]
    line_axes.plot(X, Y, "o", mew=0, zorder=3, label="data")
    line_axes.plot(fine, net(fine), "C1--", label="before")
    line_axes.plot(fine, result.predict(fine), "C1", label="after")
    line_axes.set(xlabel="x", ylabel="y", title="The network")
    line_axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "shapes": {name: array.shape for name, array in nn.parameters(net).items()},
        "losses": losses,
        "predictions": predictions,
    }


if __name__ == "__main__":
    main()
