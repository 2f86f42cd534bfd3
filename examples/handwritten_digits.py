"""Reads handwritten digits with a network of two layers, and shows those that it misread.

For those who come from PyTorch: no DataLoader and no loop with `model.train()` and `model.eval()`. Arrays go in, and
`validation` and `metrics` say what is looked at after every epoch, without dropout and without gradients.

The digits are the 1,797 images of 8 x 8 pixels that come with scikit-learn.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "handwritten_digits.png"
EPOCHS = 40


def main() -> dict[str, Any]:
    """Trains on three quarters of the digits and reads the others."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    x, x_held, y, y_held = map(np.array, parts)

    rngs = nn.Rngs(0)
    net = nn.Sequential(nn.Linear(64, 128, rngs=rngs), nn.ReLU(), nn.Linear(128, 10, rngs=rngs))
    # The fit's params are a moving average of those it steps through, which makes up for their unrest at the end.
    adam = jf.optimizers.AdamW(5e-3, weight_decay=0.1, ema_decay=0.99)
    result = jf.fit(
        net, (x, y), loss=jf.losses.cross_entropy, optimizer=adam, epochs=EPOCHS, batch_size=64,
        validation=(x_held, y_held), metrics={"accuracy": jf.metrics.accuracy},
    )  # fmt: skip
    print(result)

    scores = result.predict(x_held)
    matrix = np.array(jf.metrics.confusion_matrix(scores, y_held))
    print("\nRows: what was written. Columns: what was read.")
    print("      " + "".join(f"{digit:4}" for digit in range(10)))
    for digit, row in enumerate(matrix):
        print(f"{digit:4}  " + "".join(f"{count or '.':>4}" for count in row))
    read = np.array(scores).argmax(axis=1)
    wrong = np.flatnonzero(read != y_held)
    accuracy = float(result.history["validation_accuracy"][-1])
    print(f"\n{len(wrong)} of {len(y_held)} held-out digits misread: accuracy {accuracy:.1%}")

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.6, 1), squeeze=False)[0]
    loss_axes, accuracy_axes = left.subplots(1, 2)
    epochs = np.arange(1, EPOCHS + 1)
    loss_axes.semilogy(epochs, result.history["loss"].reshape(EPOCHS, -1).mean(axis=1), label="in training")
    loss_axes.semilogy(epochs, result.history["validation_loss"], label="held out")
    loss_axes.set(xlabel="epoch", title="Cross-entropy")
    loss_axes.legend()
    accuracy_axes.plot(epochs, 100 * result.history["validation_accuracy"], "C1")
    accuracy_axes.set(xlabel="epoch", ylim=(80, 100.5), title="Accuracy, held out (%)")
    right.suptitle("Misread: written → read")
    for place, index in enumerate(wrong[:12]):
        axes = right.add_subplot(min(len(wrong) + 3, 12) // 4, 4, place + 1)
        axes.imshow(x_held[index].reshape(8, 8), cmap="gray_r")
        axes.set_title(f"{y_held[index]} → {read[index]}", fontsize=9)
        axes.axis("off")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {"accuracy": accuracy, "history": result.history, "matrix": matrix, "pairs": (y_held, read)}


if __name__ == "__main__":
    main()
