"""Trains a network of nearly three million parameters in a few lines.

For those who come from PyTorch: nothing in the script changes with the size of the network or the device. The whole
training is one compiled program, which runs on a GPU where JAX finds one.

The images are scikit-learn's handwritten digits, enlarged to 28 x 28 pixels.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "millions_of_parameters.png"


def main(epochs: int = 5) -> dict[str, Any]:
    """Trains for a few epochs and draws what some neurons of the first layer have learned."""
    images, labels = load_digits(return_X_y=True)
    images = jax.image.resize(images.reshape(-1, 8, 8) / 16, (len(images), 28, 28), "linear").reshape(-1, 784)
    images = np.array(images)
    x, x_held, y, y_held = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)

    rngs = nn.Rngs(0)
    net = nn.Sequential(
        nn.Linear(784, 1200, rngs=rngs), nn.ReLU(),
        nn.Linear(1200, 900, rngs=rngs), nn.ReLU(),
        nn.Linear(900, 10, rngs=rngs),
    )  # fmt: skip
    print(nn.summary(net, x[:1]))

    result = jf.fit(
        net, (x, y), loss=jf.losses.cross_entropy, optimizer=jf.optimizers.Adam(1e-3, ema_decay=0.95),
        epochs=epochs, batch_size=64, validation=(x_held, y_held), metrics={"accuracy": jf.metrics.accuracy},
    )  # fmt: skip
    number = sum(array.size for array in nn.parameters(result.model).values())
    accuracy = result.history["validation_accuracy"]
    print(f"\n{number:,} parameters, {result.steps} steps of 64 images in {result.run_seconds:.1f} s")
    for epoch in range(epochs):
        print(f"epoch {epoch + 1}   accuracy on held-out images {accuracy[epoch]:.1%}")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    loss_axes = left.subplots()
    numbers = np.arange(1, epochs + 1)
    loss_axes.semilogy(numbers, result.history["loss"].reshape(epochs, -1).mean(axis=1), "o-", label="in training")
    loss_axes.semilogy(numbers, result.history["validation_loss"], "o-", label="held out")
    loss_axes.set(xlabel="epoch", title="Cross-entropy")
    loss_axes.legend()
    change = result.params["layers"][0]["kernel"] - nn.parameters(net)["0.kernel"]  # the net itself is as it was
    most = np.argsort(-np.linalg.norm(change, axis=0))[:12]
    right.suptitle("What twelve neurons of the first layer have learned")
    for axes, neuron in zip(right.subplots(3, 4).flat, most, strict=True):
        image = change[:, neuron].reshape(28, 28)
        axes.imshow(image, cmap="RdBu_r", vmin=-abs(image).max(), vmax=abs(image).max())
        axes.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"number": number, "accuracy": accuracy, "losses": result.history["loss"], "seconds": result.run_seconds}


if __name__ == "__main__":
    main()
