"""Trains a network that reads handwritten digits, and lets TensorBoard watch: one run per learning rate.

Loss, gradients and accuracy are curves that grow while the network learns; the weights of each layer are histograms.
The tab HPARAMS sets the runs side by side, and the tab TEXT says what ran.

    tensorboard --logdir examples/output/watched_in_tensorboard
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "watched_in_tensorboard.png"
EPOCHS = 30
BATCH_SIZE = 64
HIDDEN = 128


def main() -> dict[str, Any]:
    """Trains the same network with three learning rates."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    x, x_held, y, y_held = map(np.array, parts)

    folder = PICTURE.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    runs = {}
    for rate in (3e-4, 3e-3, 3e-2):
        name = f"learning rate {rate:g}"
        rngs = nn.Rngs(0)
        net = nn.Sequential(nn.Linear(64, HIDDEN, rngs=rngs), nn.ReLU(), nn.Linear(HIDDEN, 10, rngs=rngs))
        # The optimizer's hyperparameters go into the table by themselves, those of the network do not.
        board = jf.callbacks.TensorBoard(folder / name, every=10, histograms=100, hyperparameters={"hidden": HIDDEN})
        runs[name] = jf.fit(
            net, (x, y), loss=jf.losses.cross_entropy, epochs=EPOCHS, batch_size=BATCH_SIZE,
            optimizer=jf.optimizers.AdamW(rate, weight_decay=0.1),
            validation=(x_held, y_held), metrics={"accuracy": jf.metrics.accuracy}, callbacks=[board],
        )  # fmt: skip
        accuracy = runs[name].history["validation_accuracy"][-1]
        print(f"{name}: loss {runs[name].loss:.4f}, accuracy of held-out digits {accuracy:.1%}")
    print("\nThe curves, histograms of all weights, and a table of the three runs:")
    print("tensorboard --logdir examples/output/watched_in_tensorboard")

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for name, run in runs.items():
        smooth = np.convolve(run.history["loss"], np.full(20, 1 / 20), mode="valid")
        losses.semilogy(np.arange(len(smooth)) + 20, smooth, lw=1, label=name)
        accuracies.plot(np.arange(EPOCHS) + 1, run.history["validation_accuracy"], lw=1, label=name)
    losses.set(xlabel="step", ylabel="loss, mean of 20 steps", title="train/loss")
    accuracies.set(xlabel="epoch", title="validation/accuracy", ylim=(0.8, 1.0))
    accuracies.legend(frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"Picture: {PICTURE}")
    return {"folder": folder, "histories": {name: run.history for name, run in runs.items()}}


if __name__ == "__main__":
    main()
