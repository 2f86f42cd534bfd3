"""The sine of 10,000 x 10,000 numbers: JAX against NumPy, with the work really done when the clock stops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import alternating, row


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    size = 500 if quick else 10_000
    array = np.random.default_rng(0).random((size, size), np.float32)
    on_device = jnp.asarray(array)
    sine = jax.jit(jnp.sin)
    calls = {"numpy.sin": lambda: np.sin(array), "jax.numpy.sin": lambda: jax.block_until_ready(sine(on_device))}
    for call in calls.values():
        call()
    rows = [row(f"{name}, {size:,} x {size:,} float32", times) for name, times in alternating(calls, 3).items()]
    ratio = rows[0]["median_s"] / rows[1]["median_s"]
    rows[1] |= {"ratio": ratio, "note": f"{ratio:.3g} times as fast"}
    return rows, []
