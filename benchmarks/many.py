"""Many fits at once beside SciPy and optimistix, a sweep beside single fits, and what memory holds."""

import collections
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import jaxfit as jf
from benchmarks import network
from benchmarks.measure import alternating, fresh, missing, printed, row

PIXELS, TOLERANCE = 5, 1e-4  # Gpufit's
DURATION = 4.0
FEW = 500  # fits of a quick run: whatever the table, so that they share programs
SMALL, WIDTHS, BATCH, RATES = (8, 16, 3), (64, 32, 10), 64, 64
Rows = list[dict[str, Any]]
Calls = dict[str, tuple[Callable[[], Any], int]]  # by name; and how many fits a call makes
COLD = """
import time
from benchmarks import many
given = many.peaks({count}, "float32")
start = time.perf_counter()
many.by_jaxfit(*given)
print(time.perf_counter() - start)
"""
ON_DISK = """
import time
import numpy as np
from benchmarks import many
x, y, start = (np.load("{folder}/" + name + ".npy", mmap_mode="r") for name in ("x", "y", "start"))
def most():  # kB that this process has ever held, by getrusage also those of its parent; NaN where nobody says
    try:
        return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
    except OSError:
        return float("nan")
many.by_jaxfit(np.array(x), np.array(y[:100_000]), np.array(start[:100_000]))
before = most()
started = time.perf_counter()
many.by_jaxfit(x, y, start, out="{folder}/out")
print(time.perf_counter() - started, most() * 1024, before * 1024)
"""


def peak(params, x):
    """A Gaussian of the same width both ways: height, centre, width, background."""
    height, i, j, width, background = params
    return height * jnp.exp(-0.5 * ((x[:, 0] - i) ** 2 + (x[:, 1] - j) ** 2) / width**2) + background


def numpy_peak(x, height, i, j, width, background):
    return height * np.exp(-0.5 * ((x[0] - i) ** 2 + (x[1] - j) ** 2) / width**2) + background


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x) + params[2]


def numpy_decay(x, height, rate, offset):
    return height * np.exp(-rate * x) + offset


def peaks(count, dtype, seed=0):
    """Made-up spots on 5 x 5 pixels, as in Gpufit's benchmark, and starts up to 10 % off: x, y, starts."""
    rng = np.random.default_rng(seed)
    x = np.indices((PIXELS, PIXELS)).reshape(2, -1).T.astype(dtype)
    low, high = np.array([[450, 1.8, 1.8, 0.9, 10], [550, 2.2, 2.2, 1.1, 10]])
    true = rng.uniform(low, high, (count, 5))
    y = numpy_peak(x.T, *true.T[..., None])
    y += rng.normal(0, 10, y.shape)
    return x, y.astype(dtype), (true * rng.uniform(0.9, 1.1, true.shape)).astype(dtype)


def decays(count, dtype, points=100):
    """Made-up traces: x, y, starts."""
    rng = np.random.default_rng(1)
    x = np.linspace(0, DURATION, points)
    y = np.empty((count, points), dtype)
    true = rng.uniform([0.5, 0.5, -0.5], [2, 2, 0.5], (count, 3))
    for at in range(0, count, 100_000):  # so that float64 copies do not fill the memory
        y[at : at + 100_000] = numpy_decay(x, *true[at : at + 100_000].T[..., None])
        y[at : at + 100_000] += rng.normal(0, 0.02, y[at : at + 100_000].shape)
    return x.astype(dtype), y, np.ones((count, 3), dtype)


def by_jaxfit(x, y, start, model=peak, tolerance: float | None = TOLERANCE, out=None):
    optimizer = jf.optimizers.LevenbergMarquardt(tolerance, tolerance) if tolerance else None
    return jf.fit_many(model, (x, y), start, optimizer=optimizer, out=out)


def by_scipy(x, y, start, model=numpy_peak, **options):
    """Fits one after the other; gives params and their errors."""
    x = np.ascontiguousarray(x.T)
    pairs = [optimize.curve_fit(model, x, *one, **options) for one in zip(y, start, strict=True)]
    return np.array([params for params, _ in pairs]), np.sqrt([np.diag(covariance) for _, covariance in pairs])


def by_optimistix(x, y, start, model=peak):
    """What an expert writes with optimistix; gives the function that runs it."""
    import optimistix  # pyright: ignore[reportMissingImports]

    solver = optimistix.LevenbergMarquardt(TOLERANCE, TOLERANCE)

    def residuals(params, data):
        return model(params, data[0]) - data[1]

    def one(y, start, x):
        return optimistix.least_squares(residuals, solver, start, (x, y), throw=False).value

    solve = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))
    return lambda: jax.block_until_ready(solve(y, start, x))


def measure(quick: bool = False) -> tuple[Rows, list[str]]:
    """Rows and notes of the table."""
    repeats = 1 if quick else 5
    sizes = [FEW if quick else 100_000, *([10**6, 10**7] if jax.default_backend() == "gpu" and not quick else [])]
    rows: Rows = []
    notes = ["SciPy's loops run on one core, all others on all; optimistix runs every fit until the last ends."]
    for size in sizes:
        rows += _peaks(size, 2 if quick else 1000, repeats if size == sizes[0] else 2, notes)
    code = COLD.format(count=sizes[0])
    seconds = fresh(code, 1 if quick else 3, here=quick)
    rows.append(row(f"jaxfit: {sizes[0]:,} peaks, float32, first call, with compilation", seconds))
    if not quick:
        notes += _agreement(1000)
    for dtype in ("float32",) if quick else ("float32", "float64"):
        rows += _errors(sizes[0], dtype, repeats)
        rows += _decays(FEW if quick else 10**6, dtype, 2 if quick else 500, 1 if quick else 2)
    for widths in (SMALL,) if quick else (SMALL, WIDTHS):
        rows += _sweep(widths, *((2, 1) if quick else (RATES, 20)), min(3, repeats))
    rows += _on_disk(FEW if quick else 10**7, quick, notes)
    return rows, notes


def _rows(calls: Calls, count: int, what: str, repeats: int, peers: list[str]) -> Rows:
    """Rows of calls taken in turn, as if each made so many fits, with their ratios to the peers."""
    for call, _ in calls.values():
        call()
    seconds = alternating({name: call for name, (call, _) in calls.items()}, repeats)
    each = {name: [time / calls[name][1] for time in times] for name, times in seconds.items()}
    rows = []
    for name, times in each.items():
        made = "" if calls[name][1] == count else f", scaled from {calls[name][1]:,}"
        entry = row(f"{name}: {count:,} {what}{made}", [time * count for time in times])
        entry["fits_per_second"] = 1 / min(times)
        entry["note"] = f"{entry['fits_per_second']:,.0f} fits per second"
        for peer in peers:
            if name != peer and peer in each:
                ratio = entry["ratio to " + peer] = min(each[peer]) / min(times)
                entry["note"] += f", {ratio:.3g} times as fast as {peer}"
        rows.append(entry)
    return rows


def _peaks(count: int, few: int, repeats: int, notes: list[str]) -> Rows:
    """Rows of spots: jaxfit in both precisions, SciPy, optimistix."""
    single, double = peaks(count, "float32"), peaks(count, "float64")
    x, y, start = double
    some = x, y[:few], start[:few]
    loose = functools.partial(by_scipy, *some, ftol=TOLERANCE, xtol=TOLERANCE)
    calls: Calls = {
        "jaxfit, float32": (functools.partial(by_jaxfit, *single), count),
        "jaxfit, float64": (functools.partial(by_jaxfit, *double), count),
        "SciPy": (functools.partial(by_scipy, *some), few),
        f"SciPy at {TOLERANCE:g}": (loose, few),
    }
    if note := missing("optimistix"):
        notes += [note] if note not in notes else []
    else:
        number = min(count, 10_000)
        x, y, start = single
        calls["optimistix, float32"] = by_optimistix(x, y[:number], start[:number]), number
    peers = ["SciPy", f"SciPy at {TOLERANCE:g}", "optimistix, float32"]
    rows = _rows(calls, count, "peaks of 25 points, 5 params", repeats, peers)
    ratio = rows[1]["ratio"] = rows[1]["best_s"] / rows[0]["best_s"]
    rows[1]["note"] += f"; {ratio:.3g} times the time of float32"
    return rows


def _agreement(count: int) -> list[str]:
    """How far the params are from SciPy's where it goes to the end."""
    x, y, start = peaks(count, "float32")
    exact, errors = by_scipy(*(part.astype(float) for part in (x, y, start)), ftol=1e-12, xtol=1e-12, gtol=1e-12)
    notes = []
    for dtype, tolerance in (("float32", TOLERANCE), ("float64", TOLERANCE), ("float32", None), ("float64", None)):
        found = by_jaxfit(*(part.astype(dtype) for part in (x, y, start)), tolerance=tolerance)
        off = (np.abs(found.params - exact) / errors).max(axis=1)
        how = f"{dtype}, {f'tolerance {tolerance:g}' if tolerance else 'default tolerance'}"
        spread = np.abs(np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2)) / errors - 1).max()
        notes.append(
            f"{count:,} peaks by jaxfit in {how}: {np.mean(off < 1e-2):.1%} within 0.01 standard errors of SciPy's "
            f"params at 1e-12, the farthest {off.max():.2g} of them off; standard errors within {spread:.1g}."
        )
    return notes


@contextlib.contextmanager
def _without_errors(programs: Any, found: Any):
    """Programs of many fits that leave out covariances, compiled anew and kept apart from all others."""
    from jaxfit import _compile, _many

    one = _many.one

    def bare(*given: Any) -> Any:
        ends, after = one(*given)
        return ends._replace(errors=(), curvature=()), after

    with mock.patch.multiple(_compile, _programs=programs, _found=found), mock.patch.object(_many, "one", bare):
        yield


def _errors(count: int, dtype: str, repeats: int) -> Rows:
    """Rows of what covariances cost, for which there is no switch."""
    given = peaks(count, dtype)
    kept = collections.OrderedDict(), collections.OrderedDict()

    def bare() -> None:
        with _without_errors(*kept):
            by_jaxfit(*given)

    name = f"jaxfit, {dtype}"
    calls: Calls = {f"{name}, no covariance": (bare, count), name: (functools.partial(by_jaxfit, *given), count)}
    rows = _rows(calls, count, "peaks", repeats, [])
    share = rows[1]["share"] = 1 - rows[0]["best_s"] / rows[1]["best_s"]
    rows[1]["note"] += f"; covariances take {share:.0%} of it"
    return rows


def _decays(count: int, dtype: str, few: int, repeats: int) -> Rows:
    """Rows of decays, by jaxfit's defaults and SciPy's."""
    x, y, start = decays(count, dtype)
    some = x, y[:few].astype(float), start[:few].astype(float)
    fit = functools.partial(by_jaxfit, x, y, start, decay, None)
    calls: Calls = {
        f"jaxfit, {dtype}": (fit, count),
        "SciPy": (functools.partial(by_scipy, *some, model=numpy_decay), few),
    }
    return _rows(calls, count, "decays of 100 points, 3 params", repeats, ["SciPy"])


def _sweep(widths: tuple[int, ...], count: int, epochs: int, repeats: int) -> Rows:
    """Rows of learning rates tried on a network, at once and one after the other."""
    x, y = network.samples(widths, BATCH, 21)
    net, rates, named = network.network(widths), np.geomspace(1e-3, 1, count), "-".join(map(str, widths))
    same = {"loss": jf.losses.cross_entropy, "epochs": epochs, "batch_size": BATCH}

    def together() -> Any:
        optimizer = jf.optimizers.SGD(0.1, momentum=0.5)
        return jf.sweep(net, (x, y), grid={"learning_rate": rates}, optimizer=optimizer, **same)

    def one_by_one() -> Any:
        return [jf.fit(net, (x, y), optimizer=jf.optimizers.SGD(float(rate), momentum=0.5), **same) for rate in rates]

    started = time.perf_counter()
    together()
    first = time.perf_counter() - started
    calls: Calls = {"jaxfit.sweep": (together, count), "jaxfit.fit, one by one": (one_by_one, count)}
    rows = _rows(calls, count, f"learning rates of {named}, {epochs} epochs", repeats, ["jaxfit.fit, one by one"])
    return [*rows, row(f"jaxfit.sweep: {count:,} learning rates of {named}, first call, with compilation", [first])]


def _on_disk(count: int, here: bool, notes: list[str]) -> Rows:
    """A row of fits whose data and results are files."""
    with tempfile.TemporaryDirectory() as folder:
        if shutil.disk_usage(folder).free < 500 * count:
            notes.append(f"{folder} has no room for {count:,} fits: no fits on disk.")
            return []
        _write_peaks(Path(folder), count)
        seconds, most, before = printed(ON_DISK.format(folder=folder), here)
    entry = row(f"jaxfit, float32: {count:,} peaks from a file of {count * 1e-7:.3g} GB into files", [seconds])
    entry |= {"fits_per_second": count / seconds, "peak_gib": most / 2**30, "before_gib": before / 2**30}
    entry["note"] = f"{count / seconds:,.0f} fits per second, {most / 2**30:.2f} GiB at most"
    entry["note"] += f", {before / 2**30:.2f} GiB for 100,000 in memory"
    return [entry]


def _write_peaks(folder: Path, count: int) -> None:
    """Files of x, y and starts, written piece by piece."""
    at_once = 100_000
    shapes = {"y": (count, PIXELS**2), "start": (count, 5)}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
        for name, shape in shapes.items()
    }
    for at in range(0, count, at_once):
        x, y, start = peaks(min(at_once, count - at), "float32", seed=at)
        files["y"][at : at + at_once], files["start"][at : at + at_once] = y, start
        if at == 0:
            np.save(folder / "x.npy", x)
