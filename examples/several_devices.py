"""Spreads one training over eight devices, and shows that it is the training of one.

A laptop can play eight devices: JAX_NUM_CPU_DEVICES=8 before JAX starts. On a machine with several GPUs or TPU cores
the same script uses those. Nothing in the model, the loss or the optimizer changes: the mesh says where the samples
lie, and the compiler sums over devices.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "several_devices.png"
SAMPLES, BATCH_SIZE, HIDDEN = 1_003, 100, 32  # neither number is a multiple of eight


def network(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Two layers, written as a function."""
    return jnp.tanh(x @ params["into"] + params["shift"]) @ params["out"]


def train() -> dict[str, Any]:
    """Trains on all devices that there are, and tells what ran where."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 16)).astype(np.float32)
    y = np.sin(x[:, :4]) + 0.1 * rng.normal(size=(SAMPLES, 4)).astype(np.float32)
    start = {
        "into": (rng.normal(size=(16, HIDDEN)) / 4).astype(np.float32),
        "shift": np.zeros(HIDDEN, np.float32),
        "out": (rng.normal(size=(HIDDEN, 4)) / 6).astype(np.float32),
    }
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    where: list[str] = []
    result = jf.fit(
        network, (x, y), start, optimizer=jf.optimizers.Adam(0.01), epochs=20, batch_size=BATCH_SIZE, mesh=mesh,
        callbacks=[lambda seen: where.extend(sorted(str(device) for device in seen.state.params["into"].devices()))],
    )  # fmt: skip
    return {
        "devices": sorted(set(where)),
        "kind": jax.devices()[0].device_kind,
        "losses": result.history["loss"].tolist(),
    }


def on_devices(count: int) -> dict[str, Any]:
    """The same in a process of its own that has so many devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> dict[str, Any]:
    """Trains on one device and on eight, and draws both."""
    found = {count: on_devices(count) for count in (1, 8)}
    losses = {count: np.array(run["losses"]) for count, run in found.items()}
    difference = float(np.abs(losses[1] - losses[8]).max())
    for count, run in found.items():
        print(f"{count} device{'s' * (count > 1)} ({run['kind']}): {', '.join(run['devices'])}")
        print(
            f"  {len(run['losses'])} steps of {BATCH_SIZE} samples, "
            f"loss {run['losses'][0]:.4f} to {run['losses'][-1]:.4f}"
        )
    print(f"The losses of all steps differ by at most {difference:.1e}.")

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(losses[1], lw=4, color="C1", alpha=0.5, label="one device")
    axes.semilogy(losses[8], lw=1, color="C0", label="eight devices")
    axes.set(xlabel="step", ylabel="loss", title="The same training, spread out")
    axes.legend(frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"Picture: {PICTURE}")
    return {
        "devices": {count: run["devices"] for count, run in found.items()},
        "losses": losses,
        "difference": difference,
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        print(json.dumps(train()))
    else:
        main()
