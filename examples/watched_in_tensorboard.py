"""Trains a network that reads handwritten digits, and lets TensorBoard watch: one run per learning rate.

Loss, gradients and accuracy are curves that grow while the network learns; the weights of each layer are histograms.
The tab HPARAMS sets the runs side by side, and the tab TEXT says what ran.

    tensorboard --logdir examples/output/watched_in_tensorboard
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxfit as jf
from jaxfit import nn

FOLDER = Path(__file__).parent / "output" / "watched_in_tensorboard"
EPOCHS = 30
BATCH_SIZE = 64
HIDDEN = 128


def main() -> dict[str, Any]:
    """Trains the same network with three learning rates."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, stratify=labels, random_state=0)
    x, x_held, y, y_held = map(np.array, parts)

    shutil.rmtree(FOLDER, ignore_errors=True)
    runs = {}
    for rate in (3e-4, 3e-3, 3e-2):
        name = f"learning rate {rate:g}"
        rngs = nn.Rngs(0)
        net = nn.Sequential(nn.Linear(64, HIDDEN, rngs=rngs), nn.ReLU(), nn.Linear(HIDDEN, 10, rngs=rngs))
        # The optimizer's hyperparameters go into the table by themselves, those of the network do not.
        board = jf.callbacks.TensorBoard(FOLDER / name, every=10, histograms=100, hyperparameters={"hidden": HIDDEN})
        runs[name] = jf.fit(
            net, (x, y), loss=jf.losses.cross_entropy, epochs=EPOCHS, batch_size=BATCH_SIZE,
            optimizer=jf.optimizers.AdamW(rate, weight_decay=0.1),
            validation=(x_held, y_held), metrics={"accuracy": jf.metrics.accuracy}, callbacks=[board],
        )  # fmt: skip
        accuracy = runs[name].history["validation_accuracy"][-1]
        print(f"{name}: loss {runs[name].loss:.4f}, accuracy of held-out digits {accuracy:.1%}")
    print(f"\nSee it: tensorboard --logdir {FOLDER}")
    return {"folder": FOLDER, "histories": {name: run.history for name, run in runs.items()}}


if __name__ == "__main__":
    main()
