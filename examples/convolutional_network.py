"""Reads handwritten digits with a convolutional network that never sees the same image twice.

For those who come from PyTorch: in place of a Dataset with transforms there is a function of a random key. It draws a
batch, shifts each image by up to a pixel, and runs inside the compiled fit. Channels come last: [n, 8, 8, 1].

The digits are the 1,797 images of 8 x 8 pixels that come with scikit-learn.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "convolutional_network.png"
IMAGES, LABELS = load_digits(return_X_y=True)
X, X_HELD, Y, Y_HELD = map(
    jnp.array,
    train_test_split(IMAGES.reshape(-1, 8, 8, 1) / 16, LABELS, test_size=0.25, stratify=LABELS, random_state=0),
)


def shifted(image, by):
    """An image moved by -1, 0 or 1 pixel in both directions."""
    return jax.lax.dynamic_slice(jnp.pad(image, ((1, 1), (1, 1), (0, 0))), (1 + by[0], 1 + by[1], 0), image.shape)


def batch(key):
    """Draws 64 images, each shifted anew."""
    which, by = jax.random.split(key)
    index = jax.random.randint(which, (64,), 0, len(X))
    return jax.vmap(shifted)(X[index], jax.random.randint(by, (64, 2), -1, 2)), Y[index]


def main(steps: int = 700) -> dict[str, Any]:
    """Trains, reads the digits that were held out, draws the filters and the mistakes."""
    rngs = nn.Rngs(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, rngs=rngs), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, rngs=rngs), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10, rngs=rngs),
    )  # fmt: skip
    print(nn.summary(net, X[:64]))

    # Any optax schedule is a learning rate: this one rises, then falls to nearly 0.
    adam = jf.optimizers.Adam(optax.cosine_onecycle_schedule(steps, 5e-3))
    result = jf.fit(net, batch, loss=jf.losses.cross_entropy, optimizer=adam, steps=steps)
    scores = np.array(result.predict(X_HELD))
    read = scores.argmax(axis=1)
    wrong = np.flatnonzero(read != Y_HELD)
    accuracy = float(jf.metrics.accuracy(scores, Y_HELD))
    print(f"\n{result.message} Each took {1e3 * result.run_seconds / steps:.1f} ms.")
    print(f"{len(wrong)} of {len(Y_HELD)} held-out digits misread: accuracy {accuracy:.1%}")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.6, 1, 1), squeeze=False)[0]
    loss_axes = left.subplots()
    loss_axes.semilogy(result.history["loss"], lw=0.8)
    loss_axes.set(xlabel="step", title="Cross-entropy of fresh batches")
    middle.suptitle("Filters of the first layer")
    kernel = np.array(nn.parameters(result.model)["0.kernel"])  # [height, width, 1, 16]
    for axes, image in zip(middle.subplots(4, 4).flat, kernel.transpose(3, 0, 1, 2), strict=True):
        axes.imshow(image, cmap="RdBu_r", vmin=-abs(kernel).max(), vmax=abs(kernel).max())
        axes.axis("off")
    right.suptitle("Hardest: written → read")
    hardest = np.argsort(-jf.losses.cross_entropy(scores, Y_HELD, reduction="none"))[:9]
    for axes, index in zip(right.subplots(3, 3).flat, hardest, strict=True):
        axes.imshow(X_HELD[index], cmap="gray_r")
        axes.set_title(f"{Y_HELD[index]} → {read[index]}", fontsize=9)
        axes.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"accuracy": accuracy, "wrong": len(wrong), "losses": result.history["loss"], "held": len(Y_HELD)}


if __name__ == "__main__":
    main()
