"""Many fits in one program: what a loop of `fit` gives, no bad fit harms another, and sentences for what is wrong."""

import functools
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot

import jaxfit as jf
import nist
from jaxfit import _drive_many, optimizers

N = 6
X = np.linspace(0, 4, 24)
RATES = np.linspace(0.5, 1.6, N)
NOISE = 0.05 * np.random.default_rng(0).normal(size=(N, 24))
Y = 3 * np.exp(-RATES[:, None] * X) + NOISE
START = {"a": 1.0, "b": 1.0}
STARTS = {"a": np.linspace(1, 3, N), "b": np.linspace(0.5, 1.5, N)}
OWN_X = X * np.linspace(0.8, 1.2, N)[:, None]
SIGMA = 0.05 + 0.02 * X
OWN_SIGMA = SIGMA * np.linspace(0.5, 2, N)[:, None]
MASK = (np.arange(24) < np.array([24, 20, 24, 15, 12, 24])[:, None]).astype(float)
HOLES = np.where(MASK > 0, Y, np.nan)
LINES = np.linspace(1, 2, N)[:, None] * X + 1 + NOISE
ADAM = optimizers.Adam(0.05)


def decay(params, x):
    return params["a"] * jnp.exp(-params["b"] * x)


def line(params, x):
    return params["a"] * x + params["b"]


def vector(params, x):
    return params[0] * jnp.exp(-params[1] * x)


def pair(params, x):
    return jnp.stack([decay(params, x), params["a"] * jnp.cos(params["b"] * x)], axis=1)


def wave(params, x):
    return params["a"] * jnp.exp(1j * params["b"] * x)


def mixing(params, x):
    found = decay(params, x)
    return found - jnp.mean(found)


def both(params, x):
    return {"short": decay(params, x["short"]), "long": params["a"] + params["b"] * x["long"]}


def polynomial(params, x):
    return sum(params[i] * jnp.cos(i * x) for i in range(8)) + 0.1 * jnp.exp(-params[1] * x)


class Dense(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return flax.linen.Dense(1)(jnp.tanh(flax.linen.Dense(3)(x)))


def net():
    return jf.nn.Sequential(nnx.Linear(1, 3, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(3, 1, rngs=nnx.Rngs(1)))


pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


class Case(NamedTuple):
    """Many fits: what all share, what each has of its own, and what a single one takes in its place."""

    model: Any
    data: tuple[Any, Any]
    params: Any
    options: dict[str, Any] = {}
    own: tuple[str, ...] = ("y",)  # which arguments have an axis of fits
    alone: dict[str, Any] = {}  # what `fit` gets in the place of what `fit_many` gets
    rtol: float = 1e-9
    steps: bool = True
    some: tuple[int, ...] = (0, 3, 5)


def tree_at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def alone(case, index):
    """The fit of this number, by `fit`."""
    given = {"x": case.data[0], "y": case.data[1], "params": case.params} | case.options | case.alone
    given |= {name: tree_at(given[name], index) for name in case.own}
    x, y, params = given.pop("x"), given.pop("y"), given.pop("params")
    return jf.fit(case.model, (x, y), params, **given)


SLOPES = np.linspace(0.02, 0.1, N)
CASES = {
    "plain": Case(decay, (X, Y), START),
    "float32": Case(decay, (np.float32(X), np.float32(Y)), START, rtol=2e-4, steps=False),
    "own starts": Case(decay, (X, Y), STARTS, own=("y", "params")),
    "shared sigma": Case(decay, (X, Y), START, {"sigma": SIGMA, "absolute_sigma": True}),
    "own x and sigma": Case(decay, (OWN_X, Y), START, {"sigma": OWN_SIGMA}, own=("x", "y", "sigma")),
    "a sigma each": Case(
        decay, (X, Y), START,
        {"sigma": OWN_SIGMA[:, 0], "absolute_sigma": True, "weights": np.linspace(0, 1, 24)}, own=("y", "sigma"),
    ),
    "holes": Case(
        decay, (X, HOLES), START, {"weights": MASK}, alone={"y": np.nan_to_num(HOLES)}, own=("y", "weights")
    ),
    "shared bounds": Case(decay, (X, Y), START, {"bounds": (None, {"b": 1.1})}),
    "own bounds": Case(
        decay, (X, Y), START, {"bounds": ({"a": np.zeros(N)}, {"b": RATES + 0.51, "a": 2.9})},
        alone={"bounds": ({"a": np.zeros(N), "b": np.full(N, -np.inf)}, {"a": np.full(N, 2.9), "b": RATES + 0.51})},
        own=("y", "bounds"),
    ),
    "fixed": Case(
        decay, (X, Y), {"a": 1.0, "b": STARTS["b"]}, {"fixed": "b"},
        alone={"params": {"a": np.ones(N), "b": STARTS["b"]}}, own=("y", "params"),
    ),
    "huber": Case(decay, (X, Y), START, {"loss": functools.partial(jf.losses.huber, delta=0.05)}),
    "smooth_l1": Case(decay, (X, Y), START, {"loss": functools.partial(jf.losses.smooth_l1, beta=0.05)}, steps=False),
    "poisson": Case(
        line, (X, np.round(2 * Y + 2)), {"a": 0.1, "b": 0.1}, {"loss": jf.losses.poisson_nll}
    ),
    "two outputs": Case(pair, (X, np.stack([Y, 2 * np.cos(RATES[:, None] * X) + NOISE], axis=2)), STARTS,
                        own=("y", "params")),
    "complex": Case(wave, (X, 2 * np.exp(1j * RATES[:, None] * X) + NOISE), STARTS, own=("y", "params")),
    "dict of y": Case(
        both, ({"short": X[:10], "long": X}, {"short": Y[:, :10], "long": LINES}), START
    ),
    "guess": Case(jf.models.exponential, (X, Y), None, rtol=1e-7),
    "mixing": Case(mixing, (X, Y), START),
    "eight": Case(polynomial, (X, Y), np.zeros(8), rtol=1e-7, steps=False),
    "acceleration": Case(decay, (X, Y), START, {"optimizer": optimizers.LevenbergMarquardt(acceleration=True)}),
    "linear": Case(line, (X, LINES), START, {"optimizer": optimizers.LinearLeastSquares()}),
    "LBFGS": Case(decay, (X, Y), START, {"optimizer": optimizers.LBFGS()}, rtol=1e-6, steps=False),
    "Adam": Case(decay, (X, Y), START, {"optimizer": ADAM, "steps": 30}),
    "rates": Case(
        decay, (X, Y), START, {"optimizer": optimizers.Adam(SLOPES), "steps": 30},
        alone={"optimizer": [optimizers.Adam(s) for s in SLOPES]},
    ),
    "minibatches": Case(
        decay, (X, Y), START,
        {"optimizer": ADAM, "epochs": 5, "batch_size": 10, "key": np.arange(N)}, alone={"key": list(range(N))},
    ),
    "keys": Case(
        decay, (X, Y), START,
        {"optimizer": ADAM, "epochs": 5, "batch_size": 10, "key": jax.random.split(jax.random.key(3), N)},
        own=("y", "key"),
    ),
    "linen": Case(
        Dense(), (X[:, None], Y[..., None]), None, {"optimizer": ADAM, "steps": 10, "key": 3}, rtol=1e-4,
    ),
    "nnx": Case(net(), (X[:, None], Y[..., None]), None, {"optimizer": ADAM, "steps": 10}, rtol=1e-4),
}  # fmt: skip


@functools.cache
def found(name):
    case = CASES[name]
    return jf.fit_many(case.model, case.data, case.params, **case.options)


@functools.cache
def single(name, index):
    case = CASES[name]
    for listed in ("optimizer", "key"):
        if isinstance(case.alone.get(listed), list):
            case = case._replace(alone=case.alone | {listed: case.alone[listed][index]})
    return alone(case, index)


def assert_near(found, expected, rtol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_a_loop_of_fits(name):
    case, results = CASES[name], found(name)
    for index in case.some:
        expected = single(name, index)
        assert results.status[index] == str(expected.status)
        assert_near(tree_at(results.params, index), expected.params, case.rtol)
        if "batch_size" not in case.options:
            np.testing.assert_allclose(results.loss[index], float(expected.loss), rtol=10 * case.rtol)
        if case.steps:
            assert results.steps[index] == expected.steps
        if expected.evidence is None:
            continue
        assert_near(tree_at(results.standard_errors, index), expected.standard_errors, 100 * case.rtol)
        np.testing.assert_allclose(
            results.covariance[index], expected.covariance, rtol=1e3 * case.rtol, atol=1e2 * case.rtol
        )
        assert results.degrees_of_freedom[index] == expected.degrees_of_freedom
        if case.options.get("loss") is None:
            np.testing.assert_allclose(results.chi_squared[index], expected.chi_squared, rtol=10 * case.rtol)
            np.testing.assert_allclose(
                results.reduced_chi_squared[index], expected.reduced_chi_squared, rtol=10 * case.rtol
            )


@pytest.mark.parametrize("name", ["minibatches", "keys"])
def test_after_batches_the_loss_is_that_of_all_data(name):
    results = found(name)
    expected = np.mean((results.predict(X) - Y) ** 2, axis=1)
    np.testing.assert_allclose(results.loss, expected, rtol=1e-10)


def test_lists_are_fits_of_their_own_lengths():
    lengths = [24, 17, 20, 17, 17, 24]
    xs = [X[:n] for n in lengths]
    ys = [y[:n] for y, n in zip(Y, lengths, strict=True)]
    sigmas = [s[:n] for s, n in zip(OWN_SIGMA, lengths, strict=True)]
    results = jf.fit_many(decay, (xs, ys), STARTS, sigma=sigmas, absolute_sigma=True)
    assert results.success.all()
    assert results.degrees_of_freedom.tolist() == [n - 2 for n in lengths]
    for index in (0, 1):
        expected = jf.fit(
            decay, (xs[index], ys[index]), tree_at(STARTS, index), sigma=sigmas[index], absolute_sigma=True
        )
        one = results[index]
        assert_near(tree_at(results.params, index), expected.params, 1e-9)
        assert_near(one.standard_errors, expected.standard_errors, 1e-7)
        np.testing.assert_allclose(one.chi_squared, expected.chi_squared, rtol=1e-9)
        assert one.data[1].shape == (lengths[index],)


TWO_LENGTHS = [X[:12], X[:9], X[:12]], [Y[0][:12], Y[1][:9], Y[2][:12]]


def test_lists_of_a_model_that_looks_at_all_its_samples_are_not_filled_up():
    def about_the_mean(params, x):
        return params["a"] + params["b"] * (x - x.mean())

    linear = jf.optimizers.LinearLeastSquares()
    results = jf.fit_many(about_the_mean, TWO_LENGTHS, START, optimizer=linear)
    for index, pair in enumerate(zip(*TWO_LENGTHS, strict=True)):
        assert_near(tree_at(results.params, index), jf.fit(about_the_mean, pair, START, optimizer=linear).params, 1e-9)


def test_lists_in_batches_have_batches_of_their_own_samples():
    options = {"optimizer": jf.optimizers.SGD(0.01), "epochs": 2, "batch_size": 4}
    results = jf.fit_many(decay, TWO_LENGTHS, START, **options)
    assert results.steps.tolist() == [6, 6, 6]
    expected = jf.fit(decay, (TWO_LENGTHS[0][1], TWO_LENGTHS[1][1]), START, **options)
    assert_near(tree_at(results.params, 1), expected.params, 1e-9)


def test_lists_share_params_and_bounds_as_long_as_there_are_fits():
    def parabola(params, x):
        return params[0] + params[1] * x + params[2] * x**2

    bounds = np.full(3, -9.0), np.full(3, 9.0)
    results = jf.fit_many(parabola, TWO_LENGTHS, np.zeros(3), bounds=bounds)
    assert results.params.shape == (3, 3)
    expected = np.polynomial.polynomial.polyfit(TWO_LENGTHS[0][1], TWO_LENGTHS[1][1], 2)
    np.testing.assert_allclose(results.params[1], expected, rtol=1e-6)


def test_params_that_may_be_of_one_fit_or_of_all_are_refused():
    def sum_of_decays(params, x):
        return (params["a"] * jnp.exp(-x[:, None] * params["b"])).sum(-1)

    with pytest.raises(ValueError, match="may be the params of one fit or have an axis of fits"):
        jf.fit_many(sum_of_decays, (X, Y), {"a": np.ones(N), "b": np.arange(1.0, N + 1)})


def test_results_in_a_folder_may_be_the_starts_of_others_there(tmp_path):
    first = jf.fit_many(decay, (X, Y), START, out=tmp_path)
    before = np.array(first.params["b"])
    second = jf.fit_many(decay, (X, Y), first.params, out=tmp_path)
    np.testing.assert_array_equal(first.params["b"], before)
    np.testing.assert_allclose(second.params["b"], before, rtol=1e-6)
    assert second[0].start["b"] == before[0]


def test_lists_of_one_length_are_arrays():
    results = jf.fit_many(decay, ([X] * N, list(Y)), START)
    np.testing.assert_allclose(results.params["b"], found("plain").params["b"], rtol=1e-9)


@pytest.mark.parametrize(
    "key",
    [list(range(N)), range(N), np.arange(N), jax.random.split(jax.random.key(0), N)],
    ids=["list", "range", "array", "keys"],
)
def test_lists_take_a_key_each(key):
    lengths = [24, 24, 17, 17, 24, 24]
    data = [X[:n] for n in lengths], [y[:n] for y, n in zip(Y, lengths, strict=True)]
    results = jf.fit_many(decay, data, START, optimizer=ADAM, steps=2, key=key)
    assert results.success.all()


def test_as_many_params_as_fits_are_those_of_one_fit_where_the_model_needs_them():
    # Two fits of two params: an array [2] is the start of both, an array [2, 2] has one for each.
    shared = jf.fit_many(vector, (X, Y[:2]), np.array([1.0, 1.0]))
    own = jf.fit_many(vector, (X, Y[:2]), np.array([[1.0, 1.0], [3.0, 0.5]]))
    assert shared.params.shape == own.params.shape == (2, 2)
    np.testing.assert_allclose(shared.params, own.params, rtol=1e-7)
    np.testing.assert_allclose(shared.params[:, 1], found("plain").params["b"][:2], rtol=1e-9)


def test_fits_that_end_badly_get_their_second_try():
    problem = nist.load("MGH09")
    y = np.stack([problem.y, problem.y])
    results = jf.fit_many(nist.MODELS["MGH09"], (problem.x, y), problem.starts)
    for index in range(2):
        assert nist.digits(results.params[index], problem.params) > 6
        expected = jf.fit(nist.MODELS["MGH09"], (problem.x, problem.y), problem.starts[index])
        assert results.status[index] == str(expected.status)
        np.testing.assert_allclose(results.params[index], expected.params, rtol=1e-6)
        assert results.steps[index] == pytest.approx(expected.steps, rel=0.1)


def test_what_differs_in_structure_only_is_the_same_fit():
    # [1, n] for an x of all, lists of numbers, JAX arrays.
    for data in ((X[None], Y), (X, Y.tolist())):
        results = jf.fit_many(decay, data, START)
        np.testing.assert_allclose(results.params["b"], found("plain").params["b"], rtol=1e-5)


# Isolation


def bits(results, without=()):
    rows = np.setdiff1d(np.arange(len(results)), without)
    tables = results.params, results.loss, results.steps, results.status, results.covariance
    return [np.ascontiguousarray(leaf[rows]).tobytes() for leaf in jax.tree.leaves(tables)]


MANY = 90
MANY_RATES = np.random.default_rng(1).uniform(0.5, 2, MANY)
MANY_Y = 3 * np.exp(-MANY_RATES[:, None] * X) + 0.05 * np.random.default_rng(2).normal(size=(MANY, 24))
BAD_FIT = 37


@pytest.fixture
def _small_blocks(monkeypatch):
    """Blocks of sixteen, several to a call: so that few fits tell what many do."""
    monkeypatch.setitem(_drive_many._BLOCK_BYTES, "cpu", 1)


def full(**changed):
    given = {
        "x": np.tile(X, (MANY, 1)), "y": MANY_Y, "a": np.full(MANY, 2.0), "sigma": np.full((MANY, 24), 0.05),
        "weights": np.ones((MANY, 24)),
    }  # fmt: skip
    return {name: changed.get(name, leaf) for name, leaf in given.items()}


def run_full(given, start=1.0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)
        return jf.fit_many(
            decay, (given["x"], given["y"]), {"a": given["a"], "b": start}, sigma=given["sigma"],
            weights=given["weights"],
        )  # fmt: skip


SPOILED = {
    "NaN in y": ("y", np.nan),
    "inf in y": ("y", np.inf),
    "-inf in y": ("y", -np.inf),
    "huge y": ("y", 1e300),
    "NaN in x": ("x", np.nan),
    "inf in x": ("x", np.inf),
    "NaN in params": ("a", np.nan),
    "inf in params": ("a", np.inf),
    "sigma 0": ("sigma", 0.0),
    "sigma below 0": ("sigma", -0.1),
    "sigma NaN": ("sigma", np.nan),
    "weight below 0": ("weights", -1.0),
    "weight NaN": ("weights", np.nan),
    "weight inf": ("weights", np.inf),
}


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("what", SPOILED)
def test_a_bad_fit_harms_no_other(what):
    name, value = SPOILED[what]
    clean, given = full(), full()
    given[name] = given[name].copy()
    given[name][(BAD_FIT, 3) if name != "a" else BAD_FIT] = value
    results = run_full(given)
    assert results.status[BAD_FIT] == "non_finite"
    assert np.isnan(results.params["a"][BAD_FIT])
    assert np.isnan(results.params["b"][BAD_FIT])
    assert np.isnan(results.loss[BAD_FIT])
    assert np.isnan(results.covariance[BAD_FIT]).all()
    assert bits(results, [BAD_FIT]) == bits(run_full(clean), [BAD_FIT])


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("bad", [[0], [0, 1, 2, MANY - 1], list(range(MANY - 1))], ids=["first", "some", "nearly all"])
def test_bad_fits_anywhere_harm_no_other(bad):
    y = MANY_Y.copy()
    y[bad] = np.nan
    results = run_full(full(y=y))
    assert (results.status == "non_finite").nonzero()[0].tolist() == bad
    assert bits(results, bad) == bits(run_full(full()), bad)


def test_all_fits_bad():
    with pytest.warns(jf.FitWarning, match=r"6 of 6 fits did not end as they should: 6 non_finite"):
        results = jf.fit_many(decay, (X, np.full_like(Y, np.nan)), START)
    assert not results.success.any()
    with pytest.raises(ValueError, match="none of the fits has a finite loss"):
        _ = results.best
    assert "nan" in str(results)
    assert "non_finite" in str(results[0])
    assert np.isnan(results.predict(X)).all()


def test_intervals_of_nothing_are_nan_or_a_sentence():
    with pytest.warns(jf.FitWarning):
        results = jf.fit_many(decay, (X, np.full_like(Y, np.nan)), START)
    for ask in (results.percentile_intervals, lambda: results.spread(X)):
        try:
            answer = ask()
        except ValueError as error:
            assert "finite" in str(error)
        else:
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(answer))


@pytest.mark.usefixtures("_small_blocks")
def test_a_bad_fit_in_the_batch_or_not_leaves_the_others_the_same_bits():
    y = MANY_Y.copy()
    y[BAD_FIT, 5] = np.nan
    kept = np.delete(np.arange(MANY), BAD_FIT)
    removed = run_full({name: leaf[kept] for name, leaf in full().items()})
    assert bits(run_full(full(y=y)), [BAD_FIT]) == bits(removed)


@pytest.mark.usefixtures("_small_blocks")
def test_slow_fits_are_gathered_and_harm_no_other():
    # A few start so far off that they take many more steps than a block waits for.
    slow = [3, 20, 21, 22, 40, 77, 89]
    start = np.full(MANY, 1.0)
    start[slow] = 6.0
    results, usual = run_full(full(), start), run_full(full())
    assert results.success.all()
    assert results.steps[slow].min() > results.steps.max(initial=0, where=~np.isin(np.arange(MANY), slow)) - 5
    np.testing.assert_allclose(results.params["b"], usual.params["b"], rtol=1e-7)
    one = jf.fit(decay, (X, MANY_Y[20]), {"a": 2.0, "b": 6.0}, sigma=np.full(24, 0.05), weights=np.ones(24))
    assert results.steps[20] == one.steps
    np.testing.assert_allclose(results.params["b"][20], one.params["b"], rtol=1e-9)
    y = MANY_Y.copy()
    y[BAD_FIT] = np.nan
    y[20] = np.inf
    assert bits(run_full(full(y=y), start), [BAD_FIT, 20]) == bits(results, [BAD_FIT, 20])


def test_blocks_of_their_natural_size():
    few = np.linspace(0, 4, 6)
    rates = np.random.default_rng(3).uniform(0.5, 2, 3000)
    y = 3 * np.exp(-rates[:, None] * few)
    starts = np.ones(3000)
    starts[::500] = 5.0
    good = jf.fit_many(decay, (few, y), {"a": 1.0, "b": starts})
    assert good.success.all()
    np.testing.assert_allclose(good.params["b"], rates, rtol=1e-6)
    spoiled = y.copy()
    spoiled[1234, 2] = np.nan
    with pytest.warns(jf.FitWarning, match="1 of 3,000 fits"):
        results = jf.fit_many(decay, (few, spoiled), {"a": 1.0, "b": starts})
    assert bits(results, [1234]) == bits(good, [1234])


# First-order fits that go wrong


ENDS = {
    "diverges": (line, optimizers.SGD(5.0), 400, {"a": 1.0, "b": 0.0}),
    "leaves the domain": (lambda p, x: jnp.log(p["a"]) * x + p["b"], optimizers.SGD(5.0), 50, {"a": 1.0, "b": 0.0}),
    "at the last step": (lambda p, x: jnp.log(p["a"]) * x + p["b"], optimizers.SGD(5.0), 4, {"a": 1.0, "b": 0.0}),
    "grows": (line, optimizers.SGD(0.4), 12, {"a": 1.0, "b": 0.0}),
    "Adam leaves the domain": (lambda p, x: jnp.log(p["a"] - x[0]) * x + p["b"], optimizers.Adam(3.0), 30,
                               {"a": 2.0, "b": 9.0}),
    "gradient is not finite": (lambda p, x: jnp.where(p["a"] > 0, jnp.sqrt(p["a"]), 0.0) * x + p["b"],
                               optimizers.Adam(0.1), 20, {"a": 0.0, "b": 0.0}),
    "LBFGS gradient is not finite": (lambda p, x: jnp.where(p["a"] > 0, jnp.sqrt(p["a"]), 0.0) * x + p["b"],
                                     optimizers.LBFGS(), None, {"a": 0.0, "b": 0.0}),
    "maximize": (line, optimizers.SGD(0.1, maximize=True), 30, {"a": 1.0, "b": 0.0}),
    "nothing to gain": (line, optimizers.AdamW(0.1, weight_decay=0.5), 20, {"a": 2.0, "b": 1.0}),
    "LM from where there is no loss": (lambda p, x: jnp.log(p["a"]) * x + p["b"], None, None, {"a": -1.0, "b": 0.0}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::jaxfit.FitWarning")
@pytest.mark.parametrize("how", ENDS)
def test_a_bad_end_is_that_of_fit(how):
    model, optimizer, steps, start = ENDS[how]
    y = np.stack([2 * X + 1, 3 * X + 1])
    results = jf.fit_many(model, (X, y), start, optimizer=optimizer, steps=steps)
    for index in range(2):
        expected = jf.fit(model, (X, y[index]), start, optimizer=optimizer, steps=steps)
        assert results.status[index] == str(expected.status)
        assert results.steps[index] == expected.steps
        if np.isfinite(expected.loss):
            assert_near(tree_at(results.params, index), expected.params, 1e-9)
            np.testing.assert_allclose(results.loss[index], expected.loss, rtol=1e-9)
        else:
            assert np.isnan(results.params["a"][index])


SIGNS = {
    "Adam, sigma": (ADAM, jf.losses.mse, "sigma"),
    "Adam, weights": (ADAM, jf.losses.mse, "weights"),
    "poisson, weights": (None, jf.losses.poisson_nll, "weights"),
}


@pytest.mark.parametrize("how", SIGNS)
def test_a_negative_sigma_or_weight_spoils_its_fit_under_any_optimizer(how):
    optimizer, loss, name = SIGNS[how]
    spread = np.ones((N, 24))
    spread[1, 3] = -0.5
    steps = 5 if optimizer is ADAM else None
    with pytest.warns(jf.FitWarning, match="1 of 6 fits"):
        results = jf.fit_many(
            line,
            (X, np.abs(LINES)),
            {"a": 0.1, "b": 0.1},
            optimizer=optimizer,
            loss=loss,
            steps=steps,
            **{name: spread},
        )
    assert results.status[1] == "non_finite"
    assert np.isnan(results.params["a"][1])


def test_what_the_data_do_not_determine_has_infinite_errors_as_in_fit():
    for model, y in ((lambda p, x: (p["a"] + p["b"]) * x, LINES), (lambda p, x: p["a"] * x + 0 * p["b"], LINES)):
        with pytest.warns(jf.FitWarning, match="do not determine"):
            expected = jf.fit(model, (X, y[2]), START)
        results = jf.fit_many(model, (X, y), START)
        assert_near(tree_at(results.standard_errors, 2), expected.standard_errors, 1e-7)
        np.testing.assert_allclose(results.covariance[2], expected.covariance)


def test_a_fit_without_a_sample_that_counts_finds_nothing():
    weights = np.ones((N, 24))
    weights[2] = 0
    with pytest.warns(jf.FitWarning, match="1 of 6 fits"):
        results = jf.fit_many(decay, (X, Y), START, weights=weights)
    assert results.status[2] == "non_finite"
    assert np.isnan(results.params["b"][2])


def test_fewer_samples_than_params():
    results = jf.fit_many(decay, (X[1:2], Y[:, 1:2]), START)
    assert results.degrees_of_freedom.tolist() == [-1] * N
    for leaf in jax.tree.leaves(results.standard_errors):
        assert np.isinf(leaf).all()


def test_lists_are_guessed_from_their_own_samples_alone():
    lengths = [24, 17, 20, 17, 17, 24]
    data = [X[:n] for n in lengths], [y[:n] for y, n in zip(Y, lengths, strict=True)]
    results = jf.fit_many(jf.models.exponential, data)
    for index in (0, 2, 4):
        start = jf.models.exponential.guess(data[0][index], data[1][index])
        assert_near(results[index].start, start, 1e-9)


def test_under_a_scoped_precision_it_runs_in_that():
    with jax.enable_x64(True):
        results = jf.fit_many(decay, (jnp.asarray(X), jnp.asarray(Y)), START)
    assert results.params["b"].dtype == np.float64
    np.testing.assert_allclose(results.params["b"], found("plain").params["b"], rtol=1e-9)


# What the results can tell


def test_results_are_a_sequence_of_fits():
    results = found("plain")
    assert len(results) == N
    assert len(list(results)) == N
    assert results[-1].params == results[N - 1].params
    assert results[np.int64(2)].loss == results.loss[2]
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"there are {N} fits; there is no fit {index}"):
            results[index]
    for index in (True, 1.0, "a", slice(2), None):
        with pytest.raises(TypeError, match="expected a whole number"):
            results[index]


@pytest.mark.parametrize("name", ["plain", "own x and sigma", "shared bounds", "fixed", "huber", "poisson", "Adam"])
def test_one_of_many_is_a_fit(name):
    one, expected = found(name)[3], single(name, 3)
    assert isinstance(one, jf.FitResult)
    assert one.status is expected.status
    assert one.steps == expected.steps
    assert_near(one.params, expected.params, 1e-9)
    assert_near(one.start, expected.start, 0)
    assert one.params["a"].dtype == np.float64
    np.testing.assert_allclose(one.predict(X), expected.predict(X), rtol=1e-8)
    np.testing.assert_array_equal(one.data[1], expected.data[1])
    assert "Fit 3 of 6" in one.message
    assert "decay" in str(one) or "line" in str(one)
    assert one._repr_html_()
    np.testing.assert_allclose(np.asarray(one.residuals), np.asarray(expected.residuals), atol=1e-7)
    if name == "Adam":
        with pytest.raises(ValueError, match="Adam"):
            _ = one.covariance
        return
    assert_near(one.standard_errors, expected.standard_errors, 1e-6)
    np.testing.assert_allclose(one.confidence_band(X), expected.confidence_band(X), rtol=1e-5)
    assert one.degrees_of_freedom == expected.degrees_of_freedom
    if expected.bounds is not None:
        assert_near(one.bounds, expected.bounds, 0)
        assert_near(one.active, expected.active, 0)
    if expected.fixed is not None:
        assert one.fixed == expected.fixed


def test_one_of_many_draws_and_profiles():
    matplotlib.use("agg")
    one, expected = found("plain")[3], single("plain", 3)
    assert one.plot().axes
    pyplot.close("all")
    near = one.confidence_intervals(method="profile")
    assert_near(near, expected.confidence_intervals(method="profile"), 1e-5)


def test_a_bad_one_can_still_be_looked_at():
    y = Y.copy()
    y[3, 4] = np.nan
    with pytest.warns(jf.FitWarning, match="1 of 6 fits did not end as they should: 1 non_finite"):
        results = jf.fit_many(decay, (X, y), START)
    one = results[3]
    assert one.status is jf.Status.NON_FINITE
    assert not one.success
    assert np.isnan(one.loss)
    assert "not finite" in str(one)
    assert one._repr_html_()
    frame = results.to_pandas()
    assert np.isnan(frame["a error"][3])
    assert results.order.tolist() == np.argsort(results.loss)[:5].tolist()
    mean, deviation = results.spread(X)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(results.percentile_intervals()))


def test_what_all_of_them_say():
    results = found("plain")
    predictions = results.predict(X)
    assert predictions.shape == (N, 24)
    np.testing.assert_allclose(predictions[2], results[2].predict(X), rtol=1e-10)
    mean, deviation = results.spread(X)
    np.testing.assert_allclose(mean, predictions.mean(axis=0))
    np.testing.assert_allclose(deviation, predictions.std(axis=0, ddof=1))
    lower, upper = results.percentile_intervals(0.5)
    np.testing.assert_allclose(lower["b"], np.quantile(results.params["b"], 0.25))
    np.testing.assert_allclose(upper["b"], np.quantile(results.params["b"], 0.75))
    assert results.order.tolist() == np.argsort(results.loss).tolist()
    assert results.best.loss == results.loss.min()
    assert results.message == "6 fits: 6 converged."
    assert repr(results) == "FitResults(6 fits: 6 converged.)"
    assert "6 fits of decay by LevenbergMarquardt" in str(results)
    assert "<pre>" in results._repr_html_()
    np.testing.assert_allclose(results.chi_squared, 24 * results.loss)
    assert results.degrees_of_freedom.tolist() == [22] * N
    assert results.covariance.shape == (N, 2, 2)
    for level in (0, 1, 2.0, -0.5, "a", True, np.nan):
        with pytest.raises(ValueError, match="level is"):
            results.percentile_intervals(level)
    for x, kind in ((np.nan * X, ValueError), ("a", TypeError)):
        with pytest.raises(kind):
            results.predict(x)


def test_as_a_table():
    results = found("plain")
    frame = results.to_pandas()
    assert list(frame) == ["a", "b", "a error", "b error", "chi_squared", "reduced_chi_squared", "loss", "steps",
                           "status"]  # fmt: skip
    assert len(frame) == N
    np.testing.assert_array_equal(frame["b"], results.params["b"])
    np.testing.assert_array_equal(frame["b error"], results.standard_errors["b"])
    assert set(frame["status"]) == {"converged"}
    assert "chi_squared" not in found("poisson").to_pandas()
    assert list(found("Adam").to_pandas()) == ["a", "b", "loss", "steps", "status"]
    assert "[0]" in next(iter(found("eight").to_pandas()))


@pytest.mark.parametrize("what", ["covariance", "standard_errors", "chi_squared", "degrees_of_freedom",
                                  "reduced_chi_squared"])  # fmt: skip
def test_a_first_order_fit_knows_no_errors(what):
    with pytest.raises(ValueError, match=r"needs the curvature at the minimum, which Adam does not know"):
        getattr(found("Adam"), what)


def test_chi_squared_belongs_to_the_squared_error():
    with pytest.raises(ValueError, match="chi_squared belongs to the squared error"):
        _ = found("poisson").chi_squared


def test_networks_predict():
    for name in ("nnx", "linen"):
        results = found(name)
        predictions = results.predict(X[:, None])
        assert predictions.shape == (N, 24, 1)
        one = results[2]
        np.testing.assert_allclose(predictions[2], one.predict(X[:, None]), rtol=1e-5)
        assert str(one)
        assert one.status is jf.Status.COMPLETED
    np.testing.assert_allclose(found("nnx")[2].model(X[:, None]), found("nnx").predict(X[:, None])[2], rtol=1e-5)


def test_it_warns_once_with_counts():
    y = Y.copy()
    y[2] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jf.fit_many(decay, (X, y), START, steps=2)
    assert len(caught) == 1
    assert caught[0].category is jf.FitWarning
    assert caught[0].filename == __file__
    assert "6 of 6 fits did not end as they should: 5 step_limit, 1 non_finite." in str(caught[0].message)


# Files and bars


@pytest.mark.usefixtures("_small_blocks")
def test_arrays_on_disk_in_and_out(tmp_path):
    np.save(tmp_path / "y.npy", MANY_Y)
    y = np.load(tmp_path / "y.npy", mmap_mode="r")
    out = tmp_path / "some" / "results"
    results = jf.fit_many(decay, (X, y), START, out=out)
    expected = jf.fit_many(decay, (X, MANY_Y), START)
    assert bits(results) == bits(expected)
    assert isinstance(results.loss, np.memmap)
    names = {path.name for path in out.iterdir()}
    assert {"params_0.npy", "params_1.npy", "loss.npy", "steps.npy", "covariance.npy", "status.npy"} <= names
    np.testing.assert_array_equal(np.load(out / "params_0.npy"), expected.params["a"])
    np.testing.assert_array_equal(np.load(out / "loss.npy"), expected.loss)
    np.testing.assert_array_equal(np.load(out / "covariance.npy"), expected.covariance)
    assert str(results[5])
    assert len(results.to_pandas()) == MANY
    again = jf.fit_many(decay, (X, y), START, out=str(out))
    assert bits(again) == bits(expected)


def test_out_goes_with_arrays_only(tmp_path):
    with pytest.raises(ValueError, match="out goes with arrays"):
        jf.fit_many(decay, ([X, X[:5]], [Y[0], Y[1, :5]]), START, out=tmp_path)
    with pytest.raises(TypeError, match="out"):
        jf.fit_many(decay, (X, Y), START, out=3)
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, FileExistsError), match="file"):
        jf.fit_many(decay, (X, Y), START, out=tmp_path / "file")


def test_a_bar_on_stderr_only_where_it_is_asked_for(capsys):
    jf.fit_many(decay, (X, Y), START)
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    jf.fit_many(decay, (X, Y), START, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "6/6" in told.err
    with pytest.raises(TypeError, match="progress is"):
        jf.fit_many(decay, (X, Y), START, progress=1)


# Compilation


def test_a_second_call_compiles_nothing(compilations):
    jf.fit_many(decay, (X, Y), START)
    compilations()
    again = jf.fit_many(decay, (X, Y[::-1].copy()), {"a": 2.0, "b": 0.7}, steps=100)
    assert compilations() == 0
    assert again.compile_seconds == 0
    assert jf.fit_many(decay, (X, Y[:5]), START).compile_seconds == 0
    assert jf.fit_many(decay, (X, np.concatenate([Y, Y, Y[:1]])), START).compile_seconds == 0
    assert compilations() == 0


def test_a_lambda_made_anew_compiles_nothing(compilations):
    scaled = lambda by: lambda p, x: p["a"] * jnp.exp(-p["b"] * x) * by
    jf.fit_many(scaled(1.5), (X, Y), START)
    compilations()
    jf.fit_many(scaled(1.5), (X, Y), START)
    assert compilations() == 0
    other = jf.fit_many(scaled(2.0), (X, Y), START)
    np.testing.assert_allclose(other.params["a"], found("plain").params["a"] / 2, rtol=1e-8)


def test_another_key_and_another_rate_compile_nothing(compilations):
    case = CASES["minibatches"]
    found("minibatches")
    compilations()
    jf.fit_many(decay, (X, Y), START, **case.options | {"key": np.arange(N) + 7, "optimizer": optimizers.Adam(0.1)})
    assert compilations() == 0


def test_looking_at_one_after_another_compiles_once(compilations):
    str(found("plain")[0])
    compilations()
    for one in found("plain"):
        str(one)
    assert compilations() == 0


# Bad input


many = functools.partial(jf.fit_many, decay)
SAMPLER = lambda key: (jax.random.normal(key, (4,)), jnp.zeros(4))
BAD: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (TypeError, r"data is .*float64\[24\].*; expected a tuple \(x, y\)", lambda: many(X, START)),
    (TypeError, r"data is .*; expected a tuple \(x, y\)", lambda: many([X, Y], START)),
    (TypeError, r"data is .*; expected a tuple \(x, y\)", lambda: many(SAMPLER, START)),
    (TypeError, r"data is .*; expected a tuple \(x, y\)", lambda: many(None, START)),
    (ValueError, r"data is a tuple of 3; expected the pair", lambda: many((X, Y, Y), START)),
    (ValueError, r"y is .*\[24\].*expected arrays \[fits, n, ...\]", lambda: many((X, Y[0]), START)),
    (ValueError, r"y is .*expected arrays \[fits, n", lambda: many((X, np.float64(1)), START)),
    (ValueError, r"y is .*expected arrays \[fits, n", lambda: many((X, {}), START)),
    (ValueError, r"y is .*at least 1", lambda: many((X, Y[:0]), START)),
    (ValueError, r"(y|x).*empty|y is", lambda: many((X[:0], Y[:, :0]), START)),
    (ValueError, r"y is .*the same number of fits", lambda: many((X, {"p": Y, "q": Y[:5]}), START)),
    (ValueError, r"x is .*\[23\].* where y is .*\[6, ?24\].*expected \[24, ...\]", lambda: many((X[:23], Y), START)),
    (ValueError, r"x is .*\[5, ?24\].*\[6, ?24, ...\]", lambda: many((OWN_X[:5], Y), START)),
    (ValueError, r"x\['t'\] is .*\[23\]", lambda: many(({"t": X[:23]}, Y), START)),
    (ValueError, r"x.*expected", lambda: many((None, Y), START)),
    (ValueError, r"x: 1 of its 24 values are not finite", lambda: many((np.where(X > 3.9, np.nan, X), Y), START)),
    (TypeError, r"y.*numbers", lambda: many((X, np.full((6, 24), "a")), START)),
    (TypeError, r"x.*numbers", lambda: many((np.full(24, "a"), Y), START)),
    (ValueError, r"params is .*\[5\].* where y has 6 fits", lambda: many((X, Y), {"a": np.ones(5), "b": 1.0})),
    (ValueError, r"params is .*\[7, ?2\].* where y has 6 fits",
     lambda: jf.fit_many(vector, (X, Y), np.ones((7, 2)))),
    (TypeError, r"params is None", lambda: many((X, Y))),
    (TypeError, r"params.*integer", lambda: many((X, Y), {"a": 1, "b": 1.0})),
    (ValueError, r"params\['a'\]: nan", lambda: many((X, Y), {"a": np.nan, "b": 1.0})),
    (ValueError, r"sigma has shape \(23,\); expected .*\(6, 24\)", lambda: many((X, Y), START, sigma=SIGMA[:23])),
    (ValueError, r"sigma has shape \(5, 24\); expected .*\(6, 24\)", lambda: many((X, Y), START, sigma=OWN_SIGMA[:5])),
    (ValueError, r"sigma goes down to 0", lambda: many((X, Y), START, sigma=0.0)),
    (ValueError, r"sigma", lambda: many((X, Y), START, sigma=np.nan)),
    (TypeError, r"sigma", lambda: many((X, Y), START, sigma="a")),
    (ValueError, r"weights has shape \(6,\); expected \(6, 24\) or \(24,\) for 6 fits",
     lambda: many((X, Y), START, weights=np.ones(6))),
    (ValueError, r"weights has shape \(\)", lambda: many((X, Y), START, weights=1.0)),
    (ValueError, r"weights go(es)? down to -1", lambda: many((X, Y), START, weights=-np.ones(24))),
    (ValueError, r"weights are all 0", lambda: many((X, Y), START, weights=np.zeros(24))),
    (ValueError, r"Adam: learning_rate has shape \(5,\); expected a number, or \(6,\)",
     lambda: many((X, Y), START, optimizer=optimizers.Adam(np.ones(5)), steps=2)),
    (ValueError, r"key has 5 entries; expected one, or 6",
     lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=[1, 2, 3, 4, 5])),
    (ValueError, r"key has 5 entries",
     lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=jax.random.split(jax.random.key(0), 5))),
    (TypeError, r"key is .*expected", lambda: many((X, Y), START, optimizer=ADAM, steps=2, key="a")),
    (TypeError, r"key", lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=np.linspace(0, 1, 6))),
    (TypeError, r"key", lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=[0.5, 1.5, 2, 3, 4, 5])),
    (TypeError, r"key", lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=[True] * 6)),
    (TypeError, r"key", lambda: many((X, Y), START, optimizer=ADAM, steps=2, key=[[1], [2, 3]])),
    (ValueError, r"x\[5\] has length nothing where y\[5\] has \(24,\)", lambda: many(([X] * 5, list(Y)), START)),
    (ValueError, r"x\[6\] has length", lambda: many(([X] * 7, list(Y)), START)),
    (ValueError, r"x\[1\] has length \(23,\) where y\[1\] has \(24,\)",
     lambda: many(([X, X[:23]], [Y[0], Y[1]]), START)),
    (ValueError, r"x is .*; expected a list of arrays", lambda: many((X, [Y[0], Y[1, :20]]), START)),
    (ValueError, r"sigma\[1\] has length \(24,\) where y\[1\] has \(20,\)",
     lambda: many(([X, X[:20]], [Y[0], Y[1, :20]]), START, sigma=[SIGMA, SIGMA])),
    (ValueError, r"sigma is .*; expected a list",
     lambda: many(([X, X[:20]], [Y[0], Y[1, :20]]), START, sigma=SIGMA)),
    (ValueError, r"y is a list with .* empty", lambda: many(([X, X[:0]], [Y[0], Y[1, :0]]), START)),
    (ValueError, r"y is a list", lambda: many(([], []), START)),
    (ValueError, r"y is a list with a number", lambda: many((X, [1.0, 2.0]), START)),
    (ValueError, r"y\[1\]|dimension|shape",
     lambda: many(([X, X[:20]], [np.ones((24, 2)), np.ones((20, 3))]), START)),
    (ValueError, r"b of fit 2 starts at 1, outside its bounds",
     lambda: many((X, Y), START, bounds=({"b": np.array([0, 0, 2, 0, 0, 0.0])}, None))),
    (ValueError, r"b of fit 4 starts at 9, outside its bounds",
     lambda: many((X, Y), {"a": 1.0, "b": np.array([1, 1, 1, 1, 9, 1.0])}, bounds=(0.0, 5.0))),
    (ValueError, r"lower bound of b",
     lambda: many((X, Y), START, bounds=({"b": 2.0}, {"b": 1.0}))),
    (ValueError, r"bound.*b.*NaN|NaN.*bound",
     lambda: many((X, Y), START, bounds=({"b": np.array([0, 0, np.nan, 0, 0, 0])}, None))),
    (ValueError, r"bounds", lambda: many((X, Y), START, bounds=({"b": np.zeros(5)}, None))),
    (TypeError, r"bounds is .*expected a pair", lambda: many((X, Y), START, bounds=1.0)),
    (ValueError, r"lower names 'z'", lambda: many((X, Y), START, bounds=({"z": 0.0}, None))),
    (ValueError, r"fixed", lambda: many((X, Y), START, fixed="z")),
    (TypeError, r"model", lambda: jf.fit_many(3, (X, Y), START)),
    (TypeError, r"model", lambda: jf.fit_many(lambda p: p, (X, Y), START)),
    (ValueError, r"model fails on .*NameError", lambda: jf.fit_many(lambda p, x: undefined, (X, Y), START)),  # noqa: F821
    (TypeError, r"loss returns .*expected a single real number",
     lambda: many((X, Y), START, loss=lambda p, t: (p - t) ** 2, optimizer=ADAM, steps=2)),
    (TypeError, r"loss", lambda: many((X, Y), START, loss=3)),
    (TypeError, r"optimizer", lambda: many((X, Y), START, optimizer="adam")),
    (ValueError, r"steps", lambda: many((X, Y), START, optimizer=ADAM, steps=-1)),
    (ValueError, r"steps", lambda: many((X, Y), START, optimizer=ADAM)),
    (TypeError, r"shuffle", lambda: many((X, Y), START, shuffle=1)),
    (ValueError, r"The model predicts float64\[23\] where y is float64\[24\]",
     lambda: jf.fit_many(lambda p, x: decay(p, x)[:23], (X, Y), START)),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(BAD)))
def test_bad_input_is_named(at):
    kind, pattern, call = BAD[at]
    with pytest.raises(kind, match=pattern):
        call()


TRANSFORMED = {
    "jit": lambda: jax.jit(lambda y: many((X, y), START).params["b"])(Y),
    "vmap": lambda: jax.vmap(lambda y: many((X, y), START).params["b"])(np.stack([Y, Y])),
    "grad": lambda: jax.grad(lambda y: many((X, y), START).params["b"].sum())(Y),
    "params": lambda: jax.jit(lambda a: many((X, Y), {"a": a, "b": 1.0}).params["b"])(1.0),
    "own params": lambda: jax.jit(lambda a: many((X, Y), {"a": a, "b": 1.0}).params["b"])(np.ones(N)),
    "sigma": lambda: jax.jit(lambda s: many((X, Y), START, sigma=s).params["b"])(OWN_SIGMA),
    "weights": lambda: jax.jit(lambda w: many((X, Y), START, weights=w).params["b"])(MASK),
    "bounds": lambda: jax.jit(lambda u: many((X, Y), START, bounds=(None, {"b": u})).params["b"])(RATES + 1),
    "key": lambda: jax.jit(lambda k: many((X, Y), START, optimizer=ADAM, steps=2, key=k).params["b"])(
        jax.random.split(jax.random.key(0), N)
    ),
    "rates": lambda: jax.jit(lambda r: many((X, Y), START, optimizer=optimizers.Adam(r), steps=2).params["b"])(SLOPES),
    "list": lambda: jax.jit(lambda y: many(([X, X[:9]], [y, y[:9]]), START).params["b"])(Y[0]),
    "model": lambda: jax.jit(lambda c: jf.fit_many(lambda p, x: c * decay(p, x), (X, Y), START).params["b"])(2.0),
}


@pytest.mark.parametrize("what", TRANSFORMED)
def test_it_has_no_place_inside_what_is_transformed(what):
    with pytest.raises(TypeError, match=r"many fits cannot be run inside jit, vmap or grad"):
        TRANSFORMED[what]()


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(SHAPES, SHAPES, st.one_of(st.none(), SHAPES), st.one_of(st.none(), SHAPES))
def test_any_shapes_run_or_are_refused_with_a_sentence(x, y, sigma, weights):
    def refuse(_, __):
        # what is in order comes as far as here; nothing is compiled
        raise ValueError("the shapes have reached the model")

    given = {
        name: None if shape is None else np.ones(shape) for name, shape in (("sigma", sigma), ("weights", weights))
    }
    with pytest.raises((ValueError, TypeError)) as error:
        jf.fit_many(refuse, (np.ones(x), np.ones(y)), np.ones(2), **given)
    message = str(error.value)
    assert any(word in message for word in ("x", "y", "sigma", "weights", "model"))
    assert len(message) > 20
    assert not any(word in message for word in ("unpack", "broadcast", "index ", "axis 0 is", "NoneType"))


# Devices


def test_eight_devices_give_the_same():
    script = """
    import jax
    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp, numpy as np, jaxfit as jf
    from jaxfit import _drive_many
    x = np.linspace(0, 4, 12)
    rates = np.linspace(0.5, 2, 43)
    y = 3 * np.exp(-rates[:, None] * x)
    spread = []
    placed = _drive_many._Pass._placed
    def watched(self, tree):
        found = placed(self, tree)
        spread.extend(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(found))
        return found
    _drive_many._Pass._placed = watched
    y[7] = np.nan
    import warnings
    warnings.simplefilter("ignore")
    results = jf.fit_many(lambda p, x: p["a"] * jnp.exp(-p["b"] * x), (x, y), {"a": 1.0, "b": np.linspace(0.5, 2, 43)})
    assert jax.device_count() == 8
    assert set(spread) == {8}, spread
    print(repr(results.params["b"].tolist()))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rates = eval(done.stdout, {"nan": np.nan})
    expected = np.linspace(0.5, 2, 43)
    expected[7] = np.nan
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
