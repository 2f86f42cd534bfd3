"""The loop: what a step sees depends on the key and on its number alone, however the steps are cut into chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from jaxfit import _data, _loop
from jaxfit._problem import Batch, Problem
from jaxfit.optimizers import SGD, Adam

STEPS = 150
PROBLEM = Problem(lambda w, x: w[0] * x + w[1], lambda prediction, target: jnp.mean((prediction - target) ** 2))
X = np.linspace(-1, 1, 23, dtype=np.float32)
DATA = Batch(X, 2 * X + 1)


def sampler(key):
    x = random.normal(key, (5,))
    return x, 2 * x + 1


SOURCES = {
    "whole": _data.Whole(DATA),
    "whole by epochs": _data.Whole(DATA, epochs=True),
    "minibatches": _data.Minibatches(DATA, 5, shuffle=True),
    "minibatches that divide": _data.Minibatches(Batch(X[:20], X[:20]), 5, shuffle=True),
    "minibatches in order": _data.Minibatches(DATA, 5, shuffle=False),
    "one large batch": _data.Minibatches(DATA, 22, shuffle=True),
    "samples in blocks": _data.Samples(sampler, 64),
    "samples one by one": _data.Samples(sampler, 1),
}


def run(source, state, start, stop, rows, optimizer=Adam(0.05)):
    span = _loop.Span(start, stop, rows)
    return _loop.run(optimizer, PROBLEM, source, state, random.key(7), span, capacity=256, record=("loss", "params"))


run_compiled = jax.jit(run)


def start():
    return Adam(0.05).init(PROBLEM, jnp.zeros(2))


@pytest.mark.parametrize("name", SOURCES)
def test_chunks_give_the_bits_of_the_whole(name):
    source = SOURCES[name]
    whole = run_compiled(source, start(), 0, STEPS, STEPS + 1)
    state, losses = start(), []
    for first, last in [(0, 1), (1, 3), (3, 70), (70, 71), (71, 128), (128, STEPS)]:
        final = last == STEPS
        chunk = run_compiled(source, state, first, last, last + final)
        state = chunk.state
        losses.append(chunk.history["loss"][: last - first + final])
    np.testing.assert_array_equal(np.concatenate(losses), whole.history["loss"][: STEPS + 1])
    jax.tree.map(np.testing.assert_array_equal, state, whole.state)
    assert int(whole.step) == STEPS + 1
    assert not bool(whole.converged)


@jax.jit
def step(state, batch):
    return Adam(0.05).step(PROBLEM, state, batch, random.key(0))


def by_hand(batches):
    """The same steps, one by one in Python."""
    state, rows = start(), []
    for batch in batches:
        rows.append(state.params)
        state, _ = step(state, batch)
    return np.array(rows), state.params


def expected_batches(name):
    key = random.key(7)
    if name.startswith("samples"):
        return [Batch(*sampler(random.fold_in(key, index))) for index in range(STEPS)]
    if name.startswith("whole"):
        return [DATA] * STEPS
    source = SOURCES[name]
    x, y = (np.asarray(part) for part in source.data[:2])
    batches, epoch = [], 0
    while len(batches) < STEPS:
        order = np.arange(len(x))
        if source.shuffle:
            order = np.asarray(random.permutation(random.fold_in(random.fold_in(key, 0xFFFFFFFF), epoch), len(x)))
        batches += [
            Batch(x[order[first : first + source.size]], y[order[first : first + source.size]])
            for first in range(0, len(x), source.size)
        ]
        epoch += 1
    return batches[:STEPS]


@pytest.mark.parametrize("name", SOURCES)
def test_the_loop_is_the_loop_by_hand(name):
    found = run_compiled(SOURCES[name], start(), 0, STEPS, STEPS + 1)
    rows, params = by_hand(expected_batches(name))
    np.testing.assert_allclose(found.history["params"][:STEPS], rows, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found.state.params, params, rtol=2e-5, atol=1e-6)


def test_an_epoch_deals_every_sample_once_with_a_smaller_last_batch():
    source = SOURCES["minibatches"]
    assert source.steps_per_round == 5
    assert source.smaller
    for epoch in range(3):
        drawn = source.draw(random.key(1), jnp.int32(epoch))
        dealt = [source.batch(drawn, jnp.int32(position)).x for position in range(4)] + [source.last(drawn).x]
        assert [len(part) for part in dealt] == [5, 5, 5, 5, 3]
        np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), X)
    assert not np.array_equal(source.draw(random.key(1), 0), source.draw(random.key(1), 1))
    assert not np.array_equal(source.draw(random.key(1), 0), source.draw(random.key(2), 0))


def test_learning_rates_under_vmap_are_the_loop_over_them():
    rates = jnp.array([0.01, 0.05, 0.2])
    one = jax.jit(
        lambda rate: run(SOURCES["minibatches"], SGD(0.1).init(PROBLEM, jnp.zeros(2)), 0, 40, 41, optimizer=SGD(rate))
    )
    together = jax.jit(jax.vmap(one))(rates)
    for index, rate in enumerate(rates):
        alone = one(rate)
        np.testing.assert_allclose(together.state.params[index], alone.state.params, rtol=1e-5)
        np.testing.assert_allclose(together.history["loss"][index], alone.history["loss"], rtol=1e-4, atol=1e-9)


def test_it_can_be_differentiated_forward():
    """The derivative of the fitted slope with respect to the learning rate, against a difference quotient."""

    def slope(rate):
        state = SGD(0.1).init(PROBLEM, jnp.zeros(2))
        return run(SOURCES["whole"], state, 0, 5, 6, optimizer=SGD(rate)).state.params[0]

    derivative = jax.jacfwd(slope)(0.05)
    np.testing.assert_allclose(derivative, (slope(0.051) - slope(0.049)) / 0.002, rtol=1e-3)


def test_a_loss_that_is_not_finite_ends_it():
    problem = PROBLEM._replace(model=lambda w, x: jnp.log(w[0]) * x + w[1])
    optimizer = SGD(5.0)
    found = _loop.run(
        optimizer,
        problem,
        SOURCES["whole"],
        optimizer.init(problem, jnp.array([0.1, 0.0])),
        random.key(0),
        _loop.Span(0, 100, 101),
        capacity=128,
    )
    last = int(found.step) - 1
    assert last < 100
    assert not np.isfinite(found.history["loss"][last])
    assert np.isfinite(found.history["loss"][:last]).all()
    assert not bool(found.running)
    assert not bool(found.converged)
