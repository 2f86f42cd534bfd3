"""A parabola by Adam on 100 fresh points at each of 1,000 steps: jaxfit, torch, and a loop written by hand in JAX."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

import jaxfit as jf
from benchmarks.measure import alternating, fresh, missing, row

STEPS = 1000
START = np.zeros(3, np.float32)
COLD = """
import time
from benchmarks import parabola
start = time.perf_counter()
parabola.{}({})
print(time.perf_counter() - start)
"""


def parabola(w, x):
    return w[0] * x**2 + w[1] * x + w[2]


def samples(key):
    x = random.uniform(key, (100,), minval=-10, maxval=10)
    return x, 5 * x**2 + 3


def by_jaxfit(steps):
    return jf.fit(parabola, samples, START, optimizer=jf.optimizers.Adam(0.1), steps=steps)


def by_torch(steps):
    """The loop of the tutorials."""
    torch = importlib.import_module("torch")  # a peer, not a dependency: the type checker need not find it
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.1)
    for _ in range(steps):
        x = torch.rand(100) * 20 - 10
        loss = torch.nn.functional.mse_loss(w[0] * x**2 + w[1] * x + w[2], 5 * x**2 + 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return w


def by_hand(steps):
    """What an expert writes in JAX: one scan, compiled once; gives the function that runs it."""
    rule = optax.adam(0.1)

    @jax.jit
    def run(w, key):
        def step(carry, index):
            w, state = carry
            x, y = samples(random.fold_in(key, index))
            loss, gradient = jax.value_and_grad(lambda w: jnp.mean((parabola(w, x) - y) ** 2))(w)
            updates, state = rule.update(gradient, state, w)
            return (optax.apply_updates(w, updates), state), loss

        return lax.scan(step, (w, rule.init(w)), jnp.arange(steps))

    w, key = jnp.asarray(START), random.key(0)
    return lambda: jax.block_until_ready(run(w, key))


def by_hand_once(steps):
    return by_hand(steps)()


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    steps = 60 if quick else STEPS
    calls: dict[str, Any] = {
        "jaxfit, warm": functools.partial(by_jaxfit, steps),
        "lax.scan by hand, warm": by_hand(steps),
    }
    notes = []
    if note := missing("torch"):
        notes.append(note)
    else:
        calls["torch eager"] = functools.partial(by_torch, steps)
    for call in calls.values():
        call()
    seconds = alternating(calls, 1 if quick else 20)
    rows = [row(name, times) for name, times in seconds.items()]
    for entry in rows[1:]:
        ratio = entry["median_s"] / rows[0]["median_s"]
        entry["ratio"] = ratio
        entry["note"] = f"{ratio:.3g} times jaxfit's"
    cold: dict[str, list[float]] = {"by_jaxfit": [], "by_hand_once": []}
    for _ in range(1 if quick else 5):
        for name, times in cold.items():
            times += fresh(COLD.format(name, steps), 1, here=quick)
    rows.append(row("jaxfit, first call after import, with compilation", cold["by_jaxfit"]))
    rows.append(row("lax.scan by hand, first call after import", cold["by_hand_once"]))
    rows[-1]["ratio"] = rows[-1]["median_s"] / rows[-2]["median_s"]
    rows[-1]["note"] = f"{rows[-1]['ratio']:.3g} times jaxfit's"
    return rows, notes
