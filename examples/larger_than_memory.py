"""Fits a curve to 400 MB of measurements in a process that may take half of that, with error bars.

A magnet's field makes the spins of muons turn while the muons decay: what a detector counts is an exponential with a
ripple on it. It has written 25 million rows to two files. A second process forbids itself the memory that the rows
need: to load them fails. `jaxfit.data.from_files` hands them over a batch at a time, and each step of
Levenberg-Marquardt adds up what it needs to know in one pass over the files. So the error bars are those of all rows.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxfit as jf

PICTURE = Path(__file__).parent / "output" / "larger_than_memory.png"
TRUTH = {"height": 1.0, "lifetime": 2.197, "asymmetry": 0.25, "frequency": 0.81}  # µs and MHz
LONGEST = 8.0  # µs
NOISE = 0.3
PIECE = 1 << 20  # rows
BINS = 200


def counts(params: Any, t: Any, maths: Any = jnp) -> Any:
    """What the detector sees at the times t, in µs."""
    ripple = 1 + params["asymmetry"] * maths.cos(2 * np.pi * params["frequency"] * t)
    return params["height"] * maths.exp(-t / params["lifetime"]) * ripple


def write(folder: Path, rows: int) -> np.ndarray:
    """Writes the files piece by piece; gives the mean of y in each of some bins of t, for the picture."""
    rng = np.random.default_rng(0)
    truth = {name: np.float32(value) for name, value in TRUTH.items()}
    sums = np.zeros((2, BINS))
    with open(folder / "t.npy", "wb") as times, open(folder / "y.npy", "wb") as values:
        for file in (times, values):
            header = {"descr": "<f8", "fortran_order": False, "shape": (rows,)}
            np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, PIECE):
            t = np.float32(LONGEST) * rng.random(min(PIECE, rows - start), np.float32)
            y = counts(truth, t, np) + np.float32(NOISE) * rng.standard_normal(t.size, np.float32)
            times.write(t.astype("<f8").tobytes())
            values.write(y.astype("<f8").tobytes())
            if start < 8 * PIECE:
                place = np.minimum((t * (BINS / LONGEST)).astype(int), BINS - 1)
                sums += np.bincount(place, y, BINS), np.bincount(place, minlength=BINS)
    return sums[0] / sums[1]


def memory() -> dict[str, int]:
    """What this process has in memory, and the most that it ever had, in bytes; empty where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    names = {"data": "VmData", "now": "VmRSS", "most": "VmHWM"}
    return {name: 1024 * int(lines[field].split()[0]) for name, field in names.items()}


def fit_within(folder: Path, share: float) -> dict[str, Any]:
    """Fits the files in a process that may take no more memory than a share of their size from now on."""
    paths = folder / "t.npy", folder / "y.npy"
    size = sum(path.stat().st_size for path in paths)
    # The first rows alone tell where to start.
    few = tuple(np.load(path, mmap_mode="r")[:1000].astype(np.float32) for path in paths)
    start = jf.fit(counts, few, {"height": 1.0, "lifetime": 2.0, "asymmetry": 0.2, "frequency": 0.8}).params

    before, refused = memory(), ""
    if before:
        import resource

        limit = before["data"] + int(share * size)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            [np.load(path) for path in paths]
        except MemoryError as error:
            refused = str(error)

    stream = jf.data.from_files(paths, batch_size=1 << 15, window=1 << 20, dtype="float32")
    result = jf.fit(counts, stream, start, optimizer=jf.optimizers.LevenbergMarquardt())
    after = memory()
    return {
        "params": {name: float(value) for name, value in result.params.items()},
        "errors": {name: float(value) for name, value in result.standard_errors.items()},
        "chi_squared": float(result.chi_squared),
        "degrees_of_freedom": result.degrees_of_freedom,
        "status": str(result.status),
        "passes": result.steps,
        "seconds": result.compile_seconds + result.run_seconds,
        "refused": refused,
        "taken": after["most"] - before["now"] if before else None,
        "report": str(result),
    }


def main(rows: int = 25_000_000, share: float = 0.5) -> dict[str, Any]:
    """Writes the files, fits them in a process of little memory, and deletes them."""
    folder = PICTURE.parent / "larger_than_memory"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        means = write(folder, rows)
        size = sum(path.stat().st_size for path in folder.iterdir())
        command = [sys.executable, __file__, str(folder), str(share)]
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)

    print(f"{rows:,} rows in files of {size / 1e6:.0f} MB; a process that may take {share * size / 1e6:.0f} MB more:")
    if found["refused"]:
        print(f"  to load them whole raises MemoryError: {found['refused'][:70]}")
    taken = "" if found["taken"] is None else f", and took {found['taken'] / 1e6:.0f} MB"
    print(f"  the fit of the files made {found['passes']} passes in {found['seconds']:.1f} s{taken}\n")
    print(found["report"])
    params, errors = found["params"], found["errors"]
    pulls = {name: (params[name] - true) / errors[name] for name, true in TRUTH.items()}
    print("\n            found           standard error   true    (found - true) / error")
    for name, true in TRUTH.items():
        print(f"{name:10s}  {params[name]:.7f}       {errors[name]:.1e}          {true:<6g}  {pulls[name]:+.2f}")

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    middles = (np.arange(BINS) + 0.5) * LONGEST / BINS
    left.plot(middles, means, ".", ms=4, label=f"means of the first {min(rows, 8 * PIECE):,} rows")
    left.plot(middles, counts(params, middles, np), "C3", lw=1, label="fitted to all rows")
    left.set(xlabel="t (µs)", ylabel="counts", title=f"A curve through {rows:,} points")
    left.legend(frameon=False)
    bars = {"files": size, "limit": share * size, "taken": found["taken"] or 0}
    right.bar(list(bars), [value / 1e6 for value in bars.values()], color=["C0", "0.7", "C3"])
    right.set(ylabel="MB", title="Memory beyond the start")
    figure.savefig(PICTURE, dpi=120)
    print(f"\nPicture: {PICTURE}")
    return {**found, "rows": rows, "size": size, "limit": share * size, "pulls": pulls, "left": folder.exists()}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(fit_within(Path(sys.argv[1]), float(sys.argv[2]))))
    else:
        main()
