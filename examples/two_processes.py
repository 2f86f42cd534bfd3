"""Trains one network in two processes, each of which reads its own rows of the files; kills one, and starts both again.

On a cluster each process runs on a machine of its own, started by Slurm or Kubernetes; here a small script starts two
on one machine, with two virtual devices each. The training is that of one process. When one is killed, the other ends,
and started again both go on from their last checkpoint.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf
from jaxfit import nn

PICTURE = Path(__file__).parent / "output" / "two_processes.png"
SAMPLES, BATCH_SIZE, EPOCHS = 6_000, 100, 3


def write_files(folder: Path) -> None:
    """Points of two interleaved spirals, and which of the two each is of."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, SAMPLES)
    turn = rng.uniform(0.5, 3, SAMPLES)
    angle = 2 * turn + np.pi * labels
    points = turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.normal(size=(SAMPLES, 2))
    np.save(folder / "points.npy", points.astype(np.float32))
    np.save(folder / "labels.npy", labels.astype(np.int32))


def train(folder: Path, rank: int, port: int, dies_at: int) -> None:
    """What each process runs: the same script, but for who it is. On a cluster, `initialize()` finds that out."""
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        num_processes=2,
        process_id=rank,
        heartbeat_timeout_seconds=20,  # so soon a process ends when another one is gone
    )
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))  # the devices of all processes
    stream = jf.data.from_files(
        (folder / "points.npy", folder / "labels.npy"), batch_size=BATCH_SIZE, shuffle=True, key=0
    )

    def die(seen: Any) -> None:
        if rank == 1 and seen.step >= dies_at > 0:
            os.kill(os.getpid(), signal.SIGKILL)

    rngs = nn.Rngs(0)
    net = nn.Sequential(
        nn.Linear(2, 64, rngs=rngs), nn.Tanh(), nn.Linear(64, 64, rngs=rngs), nn.Tanh(), nn.Linear(64, 2, rngs=rngs)
    )
    points, labels = np.load(folder / "points.npy"), np.load(folder / "labels.npy")
    result = jf.fit(
        net, stream, loss=jf.losses.cross_entropy, optimizer=jf.optimizers.Adam(0.01), epochs=EPOCHS, mesh=mesh,
        validation=(points, labels), metrics={"accuracy": jf.metrics.accuracy},
        callbacks=[jf.callbacks.Checkpoint(folder / "checkpoints", every=40), die],
    )  # fmt: skip
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    own = layout.addressable_devices_indices_map((BATCH_SIZE,)).values()
    told = {
        "devices": [str(device) for device in jax.local_devices()],
        "of": len(jax.devices()),
        "rows": sorted(index[0].indices(BATCH_SIZE)[:2] for index in own if index is not None),
        "losses": result.history["loss"].tolist(),
        "accuracy": result.history["validation_accuracy"].tolist(),
        "report": str(result),
    }
    (folder / f"told by {rank}.json").write_text(json.dumps(told))


def start(folder: Path, dies_at: int = 0) -> list[int]:
    """Starts two processes and waits for both; gives how they ended, 0 for well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, str(folder), str(port), str(dies_at)]
    with (folder / "log.txt").open("a") as log:
        both = [subprocess.Popen([*command, str(rank)], env=environment, stdout=log, stderr=log) for rank in (0, 1)]
        return [one.wait() for one in both]


def main() -> dict[str, Any]:
    """Trains in two processes that run through, then in two of which one is killed, and draws both."""
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as cut:
        for folder in (Path(whole), Path(cut)):
            write_files(folder)
        codes = start(Path(whole))
        found = [json.loads((Path(whole) / f"told by {rank}.json").read_text()) for rank in (0, 1)]
        killed = start(Path(cut), dies_at=100)
        again = start(Path(cut))
        resumed = json.loads((Path(cut) / "told by 0.json").read_text())
    for rank, one in enumerate(found):
        spans = " and ".join(f"{first} to {stop - 1}" for first, stop in one["rows"])
        print(f"process {rank}: {', '.join(one['devices'])} of {one['of']} devices, rows {spans} of each batch")
    print(found[0]["report"])
    losses = np.array(found[0]["losses"])
    difference = float(np.abs(losses - resumed["losses"]).max())
    print(f"One killed at step 100: both ended with {killed}, where 0 is well.")
    print(f"Started again: {again}; the losses of all steps differ by at most {difference:.1e}.")

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(losses, lw=3, color="C1", alpha=0.5, label="two processes")
    axes.semilogy(resumed["losses"], lw=0.8, color="C0", label="one of them killed, both started again")
    axes.axvline(100, color="0.5", lw=1, ls=":")
    axes.annotate("killed", (100, losses.max()), (3, 0), textcoords="offset points", va="top", color="0.4")
    axes.set(xlabel="step", ylabel="loss", title="One training in two processes")
    axes.legend(frameon=False, loc="lower left")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"Picture: {PICTURE}")
    return {
        "found": found,
        "ended": [codes, killed, again],
        "losses": losses,
        "difference": difference,
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]), int(sys.argv[4]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
