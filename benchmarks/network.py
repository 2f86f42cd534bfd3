"""Classifiers by minibatches: jaxfit, torch, and a training loop written by hand in JAX, all for the same network."""

import functools
import importlib
import itertools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

import jaxfit as jf
from benchmarks.measure import alternating, fresh, missing, row

# Name: widths, samples in a batch, batches in an epoch, epochs, repeats.
NETWORKS = {
    "digits, 64-128-128-10, batches of 64": ((64, 128, 128, 10), 64, 21, 40, 10),
    "784-512-512-10, batches of 128": ((784, 512, 512, 10), 128, 40, 8, 7),
}
RATE, MOMENTUM = 0.01, 0.5
COLD = """
import time
from benchmarks import network
x, y = network.samples({widths}, {batch}, {batches})
{before}
start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""


def samples(widths, batch, batches):
    """Made-up images with labels that can be learnt: the speed does not depend on them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch * batches, widths[0])).astype(np.float32)
    return x, np.argmax(x @ rng.normal(size=(widths[0], widths[-1])), axis=1).astype(np.int32)


def network(widths, seed=0):
    rngs = jf.nn.Rngs(seed)
    layers: list[Any] = []
    for into, out in itertools.pairwise(widths):
        layers += [jf.nn.Linear(into, out, rngs=rngs), jf.nn.ReLU()]
    return jf.nn.Sequential(*layers[:-1])


def by_jaxfit(net, x, y, batch, epochs):
    return jf.fit(
        net,
        (x, y),
        loss=jf.losses.cross_entropy,
        optimizer=jf.optimizers.SGD(RATE, momentum=MOMENTUM),
        epochs=epochs,
        batch_size=batch,
    )


def by_hand(widths, x, y, batch, epochs):
    """What an expert writes in JAX: the whole training as one program; gives the function that runs it."""
    rng = np.random.default_rng(0)
    start = [
        (rng.uniform(-1, 1, (into, out)).astype(np.float32) / into**0.5, np.zeros(out, np.float32))
        for into, out in itertools.pairwise(widths)
    ]

    def loss(params, x, y):
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        logits = x @ params[-1][0] + params[-1][1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))

    @jax.jit
    def run(params, x, y, key):
        def step(carry, chosen):
            params, trace = carry
            value, gradient = jax.value_and_grad(loss)(params, x[chosen], y[chosen])
            trace = jax.tree.map(lambda t, g: MOMENTUM * t + g, trace, gradient)
            return (jax.tree.map(lambda p, t: p - RATE * t, params, trace), trace), value

        def epoch(carry, key):
            return lax.scan(step, carry, random.permutation(key, len(x)).reshape(-1, batch))

        return lax.scan(epoch, (params, jax.tree.map(jnp.zeros_like, params)), random.split(key, epochs))

    return lambda: jax.block_until_ready(run(start, x, y, random.key(0)))


def convolutional():
    """Two convolutions, a pool and a linear layer, on images of 8 x 8 pixels."""
    rngs = jf.nn.Rngs(0)
    return jf.nn.Sequential(
        jf.nn.Conv2d(1, 32, 3, padding=1, rngs=rngs), jf.nn.ReLU(), jf.nn.Conv2d(32, 64, 3, padding=1, rngs=rngs),
        jf.nn.ReLU(), jf.nn.MaxPool2d(2), jf.nn.Flatten(), jf.nn.Linear(1024, 10, rngs=rngs),
    )  # fmt: skip


def torch_network(widths):
    """The same in torch: a perceptron of these widths, or the convolutional network where there are none."""
    nn = importlib.import_module("torch").nn  # a peer, not a dependency: the type checker need not find it
    if not widths:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10),
        )  # fmt: skip
    layers = []
    for into, out in itertools.pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def by_torch(net, x, y, batch, epochs):
    """The loop of the tutorials, the data in memory; gives the function that runs it."""
    torch = importlib.import_module("torch")
    loss, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    x, y = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))

    def run():
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for start in range(0, len(x), batch):
                chosen = order[start : start + batch]
                optimizer.zero_grad()
                loss(net(x[chosen]), y[chosen]).backward()
                optimizer.step()

    return run


def compared(name, calls, steps, repeats):
    """Rows for the time of a step, as ratios of jaxfit's."""
    for call in calls.values():
        call()
    seconds, rows = alternating(calls, repeats), []
    for who, times in seconds.items():
        rows.append(row(f"{name}, a step, {who}", [time / steps for time in times]))
        if who != "jaxfit":
            pairs = [other / ours for other, ours in zip(times, seconds["jaxfit"], strict=True)]
            rows[-1]["ratio"] = statistics.median(pairs)
            rows[-1]["note"] = f"{rows[-1]['ratio']:.3g} times jaxfit's"
    return rows


def measure(quick: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes of the table."""
    rows, note = [], missing("torch")
    for name, (widths, batch, batches, epochs, repeats) in list(NETWORKS.items())[: 1 if quick else None]:
        widths, epochs, batches = ((8, 16, 3), 1, 2) if quick else (widths, epochs, batches)
        x, y = samples(widths, batch, batches)
        calls: dict[str, Any] = {
            "jaxfit": functools.partial(by_jaxfit, network(widths), x, y, batch, epochs),
            "lax.scan by hand": by_hand(widths, x, y, batch, epochs),
        }
        if not note:
            calls["torch eager"] = by_torch(torch_network(widths), x, y, batch, epochs)
        rows += compared(name, calls, batches * epochs, 1 if quick else repeats)
    batches, epochs, repeats = (2, 1, 1) if quick else (21, 2, 7)
    x, y = samples((64, 10), 64, batches)
    x = x.reshape(-1, 8, 8, 1)
    calls: dict[str, Any] = {"jaxfit": functools.partial(by_jaxfit, convolutional(), x, y, 64, epochs)}
    if not note:
        calls["torch eager"] = by_torch(torch_network(()), x.transpose(0, 3, 1, 2).copy(), y, 64, epochs)
    rows += compared("two convolutions on 8 x 8, batches of 64", calls, batches * epochs, repeats)
    widths, batch, batches, *_ = next(iter(NETWORKS.values()))
    given = {"widths": widths, "batch": batch, "batches": batches}
    first = {
        "jaxfit": (f"net = network.network({widths})", f"network.by_jaxfit(net, x, y, {batch}, 1)"),
        "lax.scan by hand": ("", f"network.by_hand({widths}, x, y, {batch}, 1)()"),
    }
    for who, (before, call) in first.items():
        if not quick:  # the parabola's table shows that such calls run
            times = fresh(COLD.format(before=before, call=call, **given))
            rows.append(row(f"digits, first epoch, {who}, with compilation", times))
    return rows, [note] if note else []
