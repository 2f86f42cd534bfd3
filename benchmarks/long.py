"""Long runs: what those who look on cost, streams against data in memory, and runs that are killed and resumed."""

import concurrent.futures
import contextlib
import functools
import io
import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxfit as jf
from benchmarks import network
from benchmarks.measure import ROOT, alternating, row
from jaxfit import callbacks
from jaxfit.data import from_files

WIDTHS, SMALL, BATCH, BATCHES = (64, 128, 128, 10), (8, 16, 3), 64, 21
KILLED = "from benchmarks import long; long.kept({folder!r}, {widths}, {epochs}, long.tell)"


class Terminal(io.StringIO):
    """A terminal that nobody looks at, so that a bar is drawn to it."""

    def isatty(self) -> bool:
        """It says that it is one."""
        return True


def train(data, widths, epochs, batch_size: int | None = BATCH, watchers=()):
    return jf.fit(
        network.network(widths),
        data,
        loss=jf.losses.cross_entropy,
        optimizer=jf.optimizers.SGD(network.RATE, momentum=network.MOMENTUM),
        epochs=epochs,
        batch_size=batch_size,
        callbacks=watchers,
        progress=False,
    )


def _widths(quick: bool) -> tuple[int, ...]:
    return SMALL if quick else WIDTHS


# -- who looks on -----------------------------------------------------------------------------------------------------


def idle(seen):
    del seen


def in_new_folder(run: Callable[[str], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return run(folder)


def shown(data, widths, epochs, folder):
    """With a bar and TensorBoard."""
    with contextlib.redirect_stderr(Terminal()):
        return train(data, widths, epochs, watchers=[callbacks.Progress(), callbacks.TensorBoard(folder)])


def saved(data, widths, epochs, folder):
    return train(data, widths, epochs, watchers=[callbacks.Checkpoint(folder, every=500)])


def watched(quick: bool) -> list[dict[str, Any]]:
    """What callbacks cost."""
    epochs, repeats = (2, 1) if quick else (340, 5)
    given = network.samples(_widths(quick), BATCH, BATCHES), _widths(quick), epochs
    steps = BATCHES * epochs
    calls = {
        "bare": lambda: train(*given),
        "an idle callback": lambda: train(*given, watchers=[idle]),
        "progress bar and TensorBoard": lambda: in_new_folder(functools.partial(shown, *given)),
        "a checkpoint every 500 steps": lambda: in_new_folder(functools.partial(saved, *given)),
    }
    return compared(f"digits, {steps:,} steps, a step", calls, steps, repeats, "times bare")


# -- streams ----------------------------------------------------------------------------------------------------------


def streamed(quick: bool) -> list[dict[str, Any]]:
    """Minibatches from a file and from a list."""
    batches, epochs, repeats = (8, 1, 1) if quick else (420, 8, 5)
    widths = _widths(quick)
    x, y = network.samples(widths, BATCH, batches)
    pairs = [(x[at : at + BATCH], y[at : at + BATCH]) for at in range(0, len(x), BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("x", x), ("y", y)):
            np.save(Path(folder) / f"{name}.npy", array)
        on_disk = tuple(np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in "xy")
        calls = {
            "in memory": lambda: train((x, y), widths, epochs),
            "from_files of a memmap, shuffled": lambda: train(
                from_files(on_disk, batch_size=BATCH, shuffle=True), widths, epochs, None
            ),
            "a list of batches": lambda: train(pairs, widths, epochs, None),
        }
        name = f"digits, {batches} batches of {BATCH}, a step"
        return compared(name, calls, batches * epochs, repeats, "times in memory")


def peak(params, x):
    return params[0] * jnp.exp(-0.5 * ((x - params[1]) / params[2]) ** 2) + params[3]


def least_squares(quick: bool) -> list[dict[str, Any]]:
    """A curve through many points."""
    points, repeats = (1_000, 1) if quick else (2_000_000, 5)
    rng = np.random.default_rng(0)
    x = rng.uniform(-4, 4, points)
    y = np.asarray(peak(np.array([3.0, 0.5, 0.8, 1.0]), x)) + 0.1 * rng.normal(size=points)
    pairs = list(zip(np.split(x, 20), np.split(y, 20), strict=True))
    start = np.array([2.0, 0.0, 1.0, 0.0])
    fit = functools.partial(jf.fit, peak, params=start, optimizer=jf.optimizers.LevenbergMarquardt(), progress=False)
    calls = {"in memory": lambda: fit((x, y)), "a list of 20 batches": lambda: fit(pairs)}
    return compared(f"a peak through {points:,} points, least squares", calls, 1, repeats, "times in memory")


def compared(name: str, calls: dict[str, Callable], steps: int, repeats: int, unit: str) -> list[dict[str, Any]]:
    """Rows of times, as ratios of the first one."""
    for call in calls.values():
        call()
    seconds, rows = alternating(calls, repeats), []
    first = next(iter(seconds.values()))
    for who, times in seconds.items():
        rows.append(row(f"{name}, {who}", [time / steps for time in times]))
        if times is not first:
            rows[-1]["ratio"] = statistics.median(mine / bare for mine, bare in zip(times, first, strict=True))
            rows[-1]["note"] = f"{rows[-1]['ratio']:.3g} {unit}"
    return rows


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def tell(seen):
    print(seen.step, flush=True)


def kept(folder, widths, epochs, *watchers):
    """A run whose checkpoints are in a folder."""
    data = network.samples(widths, BATCH, BATCHES)
    return train(data, widths, epochs, watchers=[*watchers, callbacks.Checkpoint(folder, every=100)])


def is_same(one: jf.FitResult, other: jf.FitResult) -> bool:
    """Whether two results have the same bits."""
    pairs = zip(*(jax.tree.leaves((each.params, each.history, each.loss)) for each in (one, other)), strict=True)
    return one.message == other.message and all(
        np.asarray(mine).tobytes() == np.asarray(its).tobytes() for mine, its in pairs
    )


def killed(folder: str, widths: tuple[int, ...], epochs: int, delay: float) -> int:
    """Starts the run in a new process, kills it so many seconds after it began, and gives its exit status."""
    code = KILLED.format(folder=folder, widths=widths, epochs=epochs)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode


def resumed(quick: bool) -> list[dict[str, Any]]:
    """Runs that were killed at random moments, and gone on with."""
    widths, epochs, count = _widths(quick), *((40, 1) if quick else (150, 20))
    draw, same, seconds = random.Random(0), 0, []
    started = time.perf_counter()
    expected = in_new_folder(lambda folder: kept(folder, widths, epochs))
    whole = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        folders = [f"{folder}/{number}" for number in range(count)]
        delays = [draw.uniform(0, whole / 2) for _ in folders]
        statuses = pool.map(killed, folders, itertools.repeat(widths), itertools.repeat(epochs), delays)
        for each, status in zip(folders, list(statuses), strict=True):
            started = time.perf_counter()
            found = kept(each, widths, epochs)
            seconds.append(time.perf_counter() - started)
            same += status == -signal.SIGKILL and is_same(found, expected)
    note = f"{same} of {count} killed runs ended with the same bits"
    return [row(f"digits, {BATCHES * epochs:,} steps, killed by kill -9, the rest", seconds, same=same, note=note)]


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    parts = (watched, streamed, least_squares, resumed)
    return list(itertools.chain.from_iterable(part(quick) for part in parts)), []
