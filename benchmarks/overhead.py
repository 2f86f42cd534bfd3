"""What jaxfit itself costs: its import, its Python at a warm call, and that a second fit compiles nothing."""

import contextlib
import functools
import time
from typing import Any

import jax
import numpy as np

import jaxfit as jf
from benchmarks.measure import fresh, row

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


@contextlib.contextmanager
def counted(seconds: list[float]):
    """Writes down how long each call of a compiled program takes, until its results are there."""
    from jaxfit import _compile

    kept = dict(_compile._programs)

    def timed(compiled):
        def run(*leaves):
            started = time.perf_counter()
            found = jax.block_until_ready(compiled(*leaves))
            seconds.append(time.perf_counter() - started)
            return found

        return run

    _compile._programs.update({key: timed(compiled) for key, compiled in kept.items()})
    yield
    _compile._programs.update(kept)


def line(w, x):
    return w[0] * x + w[1]


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    repeats = 1 if quick else 9
    rows = []
    both: dict[str, list[float]] = {"jax, optax": [], "jaxfit": []}
    for _ in range(repeats):  # in turn, as the machine drifts
        for modules, seconds in both.items():
            seconds += fresh(IMPORT.format(modules), 1)
    rows = [row(f"import {modules}", seconds) for modules, seconds in both.items()]
    ratio = rows[1]["median_s"] / rows[0]["median_s"]
    rows[1] |= {"ratio": ratio, "note": f"{ratio:.3g} times jax and optax"}

    x = np.linspace(-1, 1, 100, dtype=np.float32)
    data, start, optimizer = (x, 2 * x + 1), np.zeros(2, np.float32), jf.optimizers.Adam(0.1)
    fit = functools.partial(jf.fit, line, data, start, optimizer=optimizer, steps=1)
    fit()
    whole, program, python = [], [], []
    with counted(program):
        for _ in range(20 if quick else 1000):
            started = time.perf_counter()
            fit()
            whole.append(time.perf_counter() - started)
            python.append(whole[-1] - program[-1])
    rows.append(row("fit of one step, warm", whole))
    rows.append(row("of that, Python outside the compiled program", python))
    return rows, []
