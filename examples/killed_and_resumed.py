"""Kills a training twice by `kill -9`, goes on with it, and ends with the same bits as if nothing had happened.

A power cut, a queue that takes the machine away, a session that is closed: with a `Checkpoint` among its callbacks the
same call of `fit` goes on where the last checkpoint was. The two runs that are killed are processes of their own,
started by this script from itself; the third one, which comes to the end, is this script.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit.callbacks import Checkpoint, Seen

PICTURE = Path(__file__).parent / "output" / "killed_and_resumed.png"
EPOCHS = 2000
EVERY = 1000  # steps from one checkpoint to the next
KILLS = (6_000, 14_000)  # after these steps


def spirals() -> tuple[np.ndarray, np.ndarray]:
    """Points on three arms that wind around each other, [600, 2], and the number of the arm."""
    rng = np.random.default_rng(0)
    arm, way = np.repeat(np.arange(3, dtype=np.int32), 200), np.tile(np.linspace(0.1, 1.0, 200), 3)
    angle = 2 * np.pi * (arm / 3 + 0.9 * way) + 0.15 * rng.normal(size=600)
    return (way * np.stack([np.cos(angle), np.sin(angle)])).T.astype(np.float32), arm


def network(params: dict[str, jnp.ndarray], x: jnp.ndarray) -> jnp.ndarray:
    """A score for each of the three arms."""
    hidden = jnp.tanh(x @ params["first"] + params["bias"])
    return hidden @ params["second"]


def train(folder: str, *others: Any) -> jf.FitResult:
    """The training; whether it begins, goes on or has ended already, the call is the same."""
    rng = np.random.default_rng(1)
    start = {
        "first": rng.normal(size=(2, 100)).astype(np.float32),
        "bias": np.zeros(100, np.float32),
        "second": 0.1 * rng.normal(size=(100, 3)).astype(np.float32),
    }
    return jf.fit(
        network, spirals(), start, loss=jf.losses.cross_entropy, optimizer=jf.optimizers.SGD(0.1, momentum=0.9),
        epochs=EPOCHS, batch_size=60, metrics={"accuracy": jf.metrics.accuracy},
        callbacks=[Checkpoint(folder, every=EVERY), *others],
    )  # fmt: skip


def tell(seen: Seen) -> None:
    """Says how far the training is."""
    print(seen.step, flush=True)


def start_and_kill(folder: str, after: int) -> int:
    """Trains in a new process, kills it when it says that it took so many steps, and gives the last step it told."""
    command = [sys.executable, __file__, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        step = 0
        while step < after:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the training ended after step {step}, before it was killed")
            step = int(line)
        process.kill()  # SIGKILL, that nothing can catch
    return step


def newest(folder: str) -> int:
    """The step of the last checkpoint that was written to its end; 0 where there is none."""
    return max((int(path.name) for path in Path(folder).glob("*") if path.name.isdigit()), default=0)


def main() -> dict[str, Any]:
    """Kills it twice, resumes it, and compares with a training that was left alone."""
    killed, resumed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, after in enumerate(KILLS, 1):
            started = time.perf_counter()
            killed.append(start_and_kill(folder, after))
            resumed.append(newest(folder))
            seconds = time.perf_counter() - started
            print(f"Process {number} was killed after step {killed[-1]:,}, {seconds:.1f} s after its start.")
            print(f"  Of these steps, the last checkpoint holds the first {resumed[-1]:,}.")
        result = train(folder)
        print(f"This process went on from there: {result.message}\n")
    with tempfile.TemporaryDirectory() as folder:
        alone = train(folder)

    pairs = {
        "weights of the first layer": (result.params["first"], alone.params["first"]),
        "loss of every step": (result.history["loss"], alone.history["loss"]),
        "accuracy of every epoch": tuple(each.history["accuracy"] for each in (result, alone)),
    }
    print("                             numbers   not the same as those of a training that was left alone")
    differing = {name: int((np.asarray(ours) != np.asarray(theirs)).sum()) for name, (ours, theirs) in pairs.items()}
    for name, (ours, _) in pairs.items():
        print(f"  {name:26}{np.size(ours):8,}   {differing[name]}")
    accuracy = float(result.history["accuracy"][-1])
    print(f"\nPoints whose arm is found: {accuracy:.1%}")

    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.subplots()
    losses = result.history["loss"]
    smooth = np.convolve(losses, np.full(100, 0.01), "valid")
    steps = np.arange(len(smooth)) + 100
    for number, (first, last) in enumerate(zip((0, *resumed), (*resumed, len(losses)), strict=True), 1):
        part = (steps >= first) & (steps <= last)
        axes.semilogy(steps[part], smooth[part], label=f"process {number}" if number <= len(KILLS) else "this process")
    for step, checkpoint in zip(killed, resumed, strict=True):
        axes.axvspan(checkpoint, step, color="0.88")
        axes.annotate("killed", (step, smooth.max()), ha="left", va="top", xytext=(4, 0), textcoords="offset points")
    axes.set(
        xlabel="step", ylabel="cross-entropy, mean of 100 steps", title="Grey: steps that were lost and done again"
    )
    axes.legend(loc="lower left")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(f"\nPicture: {PICTURE}")
    return {
        "killed": killed,
        "resumed": resumed,
        "differing": differing,
        "losses": losses,
        "accuracy": accuracy,
        "steps": result.steps,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1], tell)
    else:
        main()
