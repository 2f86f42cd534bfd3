"""Curves by least squares: first call, warm call and ten million points, beside SciPy, optimistix and lmfit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import jaxfit as jf
from benchmarks.measure import alternating, fresh, missing, printed, row

# What a new process does before its first fit is timed; each peer then says what a fit is.
PREPARE = """
import time
import numpy as np
{imports}
x = np.linspace(0.0, 4.0, 1000)
y = 3 * np.exp(-1.2 * x) + 0.05 * np.cos(40 * x)
start = time.perf_counter()
{fit}
print(time.perf_counter() - start)
"""
FIRST = {
    "SciPy": ("from scipy.optimize import curve_fit", "curve_fit(lambda x, a, b: a * np.exp(-b * x), x, y)"),
    "jaxfit": (
        "import jax.numpy as jnp, jaxfit as jf",
        "jf.curve_fit(lambda x, a, b: a * jnp.exp(-b * x), x, y)",
    ),
    "optimistix": (
        "import jax, jax.numpy as jnp, optimistix as optx; jax.config.update('jax_enable_x64', True)",
        "residuals = lambda p, data: p[0] * jnp.exp(-p[1] * data[0]) - data[1]; "
        "solver = optx.LevenbergMarquardt(1e-8, 1e-8); "
        "optx.least_squares(residuals, solver, jnp.ones(2), (x, y)).value.block_until_ready()",
    ),
    "lmfit": ("import lmfit", "lmfit.Model(lambda x, a, b: a * np.exp(-b * x)).fit(y, x=x, a=1.0, b=1.0)"),
}
MANY = """
import time
import numpy as np
{imports}
rng = np.random.default_rng(0)
x = rng.uniform(0, 5, {points})
y = 2 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.1, {points})
f = {model}
{call}(f, x[:1000], y[:1000], [1.0, 1.0, 0.0])
def most():  # kB of memory that this process has ever held; NaN where the system does not say
    try:
        return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
    except OSError:
        return float("nan")
before = most()
times = [time.perf_counter()]
for _ in range(2):
    {call}(f, x, y, [1.0, 1.0, 0.0])
    times.append(time.perf_counter())
print((most() - before) / 1024, *np.diff(times))
"""
BIG = {
    "SciPy": ("from scipy.optimize import curve_fit", "lambda x, a, b, c: a * np.exp(-b * x) + c", "curve_fit"),
    "jaxfit": ("import jax.numpy as jnp, jaxfit as jf", "lambda x, a, b, c: a * jnp.exp(-b * x) + c", "jf.curve_fit"),
}


def decay(x, a, b):
    return a * np.exp(-b * x)


def traced(x, a, b):
    return a * jnp.exp(-b * x)


def model(params, x):
    return params[0] * jnp.exp(-params[1] * x)


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    rows, notes = [], []
    for peer, (imports, fit) in FIRST.items():
        if peer != "SciPy" and (note := missing(peer)):
            notes.append(note)
            continue
        here = quick and peer != "optimistix"  # which sets JAX's precision for the whole process
        seconds = fresh(PREPARE.format(imports=imports, fit=fit), 1 if quick else 5, here)
        rows.append(row(f"{peer}: first call after import, 2 params, 1,000 points", seconds))
    rows += _compared(_warm_calls(), 20 if quick else 400, "warm call")
    rows += _many_points(10**5 if quick else 10**7, 1 if quick else 3, here=quick)
    return rows, notes


def _warm_calls() -> dict[str, Callable[[], Any]]:
    x = np.linspace(0.0, 4.0, 1000)
    y = 3 * np.exp(-1.2 * x) + 0.05 * np.cos(40 * x)
    start = np.ones(2)
    calls: dict[str, Callable[[], Any]] = {
        "SciPy": lambda: optimize.curve_fit(decay, x, y, start),
        "jaxfit.curve_fit": lambda: jf.curve_fit(traced, x, y, start),
        "jaxfit.curve_fit, its lambda written anew": lambda: jf.curve_fit(
            lambda x, a, b: a * jnp.exp(-b * x), x, y, start
        ),
        "jaxfit.fit": lambda: jf.fit(model, (x, y), start),
    }
    if not missing("optimistix"):
        calls["optimistix, jitted by hand"] = _optimistix(x, y)
    if not missing("lmfit"):
        import lmfit  # pyright: ignore[reportMissingImports]

        calls["lmfit"] = lambda: lmfit.Model(decay).fit(y, x=x, a=1.0, b=1.0)
    return calls


def _optimistix(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import optimistix  # pyright: ignore[reportMissingImports]

    solver = optimistix.LevenbergMarquardt(1e-8, 1e-8)

    @jax.jit
    def solve(start, x, y):
        return optimistix.least_squares(lambda p, data: model(p, data[0]) - data[1], solver, start, (x, y)).value

    def call() -> Any:
        with jax.enable_x64(True):
            return solve(np.ones(2), x, y).block_until_ready()

    return call


def _compared(calls: dict[str, Callable[[], Any]], repeats: int, what: str) -> list[dict[str, Any]]:
    """Rows of calls taken in turn, with their ratio to the first."""
    for call in calls.values():
        call()
    seconds = alternating(calls, repeats, pause=0.002)
    rows = [row(f"{name}: {what}", found) for name, found in seconds.items()]
    for entry in rows:
        entry["ratio"] = entry["best_s"] / rows[0]["best_s"]
        entry["note"] = (
            f"{entry['ratio']:.3g} times SciPy's best, {entry['median_s'] / rows[0]['median_s']:.3g} its median"
        )
    return rows


def _many_points(points: int, repeats: int, here: bool) -> list[dict[str, Any]]:
    """Rows of fits to many points in new processes, or `here`: the first, which may compile, and a second."""
    found: dict[str, list[list[float]]] = {peer: [] for peer in BIG}
    for _ in range(repeats):
        for peer, (imports, model, call) in BIG.items():
            code = MANY.format(imports=imports, model=model, call=call, points=points)
            found[peer].append(printed(code, here))
    rows = []
    for peer, runs in found.items():
        extra = max(run[0] for run in runs)
        for column, which in ((1, "first call"), (2, "second call")):
            seconds = [run[column] for run in runs]
            ratio = min(run[column] for run in found["SciPy"]) / min(seconds)
            note = f"{ratio:.3g} times as fast as SciPy, {extra:.0f} MiB beside the data"
            what = f"{peer}: {points:,} points, 3 params, {which}"
            rows.append(row(what, seconds, ratio=ratio, extra_mib=extra, note=note))
    return rows
