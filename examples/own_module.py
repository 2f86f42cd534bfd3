"""Writes a module of one's own around a Sequential, looks at it, sees Dropout at work, and trains it.

For those who come from PyTorch: a class derived from `nn.Module` with layers as attributes; `__call__` has the part of
`forward`. What draws random numbers takes `rngs`; for the rest no key appears.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "own_module.png"
CLASSES = 20


class Compass(nn.Module):
    """Tells by a point's direction which of twenty classes it is of: their probabilities [n, 20]."""

    def __init__(self, *, rngs):
        self.layers = nn.Sequential(
            nn.Linear(2, 5, rngs=rngs),
            nn.ReLU(),
            nn.Linear(5, CLASSES, rngs=rngs),
            nn.Dropout(0.3, rngs=rngs),
            nn.Softmax(dim=-1),
        )

    def __call__(self, x):
        """Scales points to length 1, then asks the layers."""
        x = jnp.asarray(x, jnp.float32)
        return self.layers(x / jnp.linalg.norm(x, axis=-1, keepdims=True))


def made_up(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a square, and the sector of 18 degrees that each lies in."""
    x = np.random.default_rng(seed).uniform(-1, 1, (samples, 2))
    return x, sector(x)


def sector(x):
    """The classes 0 to 19, counted from the direction of the first axis."""
    return (np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) * CLASSES).astype(int) % CLASSES


def negative_log_likelihood(probabilities, labels):
    """Softmax is part of the network, so the loss takes the logarithm; `jf.losses.cross_entropy` would do both."""
    return jf.losses.nll(jnp.log(probabilities + 1e-9), labels)


def main() -> dict[str, Any]:
    """Prints the module, calls it in both modes, trains it, draws what it learned."""
    net = Compass(rngs=nn.Rngs(1))  # five neurons are few, so the start matters: Rngs(0) ends at 81 %
    print(net)
    point = [[2, 3]]
    print(f"\n{nn.summary(net, jnp.array(point))}")

    training = [np.array(net(point)) for _ in range(2)]  # a network starts in training mode
    net.eval()
    evaluation = [np.array(net(point)) for _ in range(2)]
    net.train()
    print(f"\nTwo calls with {point} in training differ by   {np.abs(training[0] - training[1]).max():.4f}")
    print(f"Two calls with {point} in evaluation differ by {np.abs(evaluation[0] - evaluation[1]).max():.4f}")

    result = jf.fit(
        net, made_up(2000, 0), loss=negative_log_likelihood, optimizer=jf.optimizers.Adam(0.02),
        epochs=100, batch_size=100, validation=made_up(1000, 1), metrics={"accuracy": jf.metrics.accuracy},
    )  # fmt: skip
    accuracy = result.history["validation_accuracy"]
    print("\nepoch   loss on new points   accuracy on new points")
    for epoch in [1, 10, 30, 100]:
        print(f"{epoch:5}   {result.history['validation_loss'][epoch - 1]:18.3f}   {accuracy[epoch - 1]:22.3f}")
    probabilities = np.array(result.model(point))[0]  # the fitted copy is in evaluation mode
    best = int(probabilities.argmax())
    print(f"\n{point} is of class {best} with probability {probabilities[best]:.2f}.")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    loss_axes, plane = figure.subplots(1, 2, width_ratios=(1.5, 1))
    epochs = np.arange(1, 101)
    loss_axes.plot(epochs, result.history["loss"].reshape(100, 20).mean(axis=1), label="in training, with dropout")
    loss_axes.plot(epochs, result.history["validation_loss"], label="on new points, without")
    loss_axes.set(xlabel="epoch", ylabel="negative log-likelihood", title="Loss", ylim=(0, None))
    loss_axes.legend()
    side = np.linspace(-1, 1, 300)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    predicted = np.array(result.predict(grid)).argmax(axis=1)
    plane.pcolormesh(side, side, predicted.reshape(300, 300), cmap="tab20", vmin=-0.5, vmax=19.5)
    for angle in 2 * np.pi * np.arange(CLASSES) / CLASSES:
        plane.plot(*(np.outer([np.cos(angle), np.sin(angle)], [0.1, 2])), "k--", lw=0.8)
    plane.set(title="Predicted class; true borders dashed", aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "training": training,
        "evaluation": evaluation,
        "summary": nn.summary(net, jnp.array(point)),
        "printed": str(net),
        "accuracy": accuracy,
        "answer": (best, int(sector(np.array(point))[0])),
        "still": float(np.abs(np.array(result.model(point)) - np.array(result.model(point))).max()),
    }


if __name__ == "__main__":
    main()
