"""What jaxfit itself costs: its import, its Python at a warm call, and that a second fit compiles nothing."""

import time
from typing import Any

import numpy as np

import jaxfit as jf
from benchmarks.measure import fresh, row

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def line(w, x):
    return w[0] * x + w[1]


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    repeats = 2 if quick else 9
    rows = []
    both: dict[str, list[float]] = {"jax, optax": [], "jaxfit": []}
    for _ in range(repeats):  # in turn, as the machine drifts
        for modules, seconds in both.items():
            seconds += fresh(IMPORT.format(modules), 1)
    rows = [row(f"import {modules}", seconds) for modules, seconds in both.items()]
    ratio = rows[1]["median_s"] / rows[0]["median_s"]
    rows[1] |= {"ratio": ratio, "note": f"{ratio:.3g} times jax and optax"}

    x = np.linspace(-1, 1, 100, dtype=np.float32)
    y, start, optimizer = 2 * x + 1, np.zeros(2, np.float32), jf.optimizers.Adam(0.1)
    whole, compiled = [], []
    for _ in range(20 if quick else 500):
        started = time.perf_counter()
        result = jf.fit(line, (x, y), start, optimizer=optimizer, steps=1)
        whole.append(time.perf_counter() - started)
        compiled.append(result.compile_seconds)
    warm = slice(1, None)
    assert not any(compiled[warm])
    rows.append(row("fit of one step, warm: all but this is Python", whole[warm]))
    return rows, []
