"""Many fits in one program: the same as a loop of `fit`, one bad fit harms no other, and sentences for what is wrong."""

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
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxfit as jf
import nist
from jaxfit import _compile, _drive_many, optimizers

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


@pytest.fixture(scope="module", autouse=True)
def _quick():
    # Small programs, each run once: compiling is what the tests spend their time on.
    lean, hasty = dict(_compile.LEAN), dict(_compile.HASTY)
    _compile.LEAN["xla_backend_optimization_level"] = 0
    _compile.HASTY["xla_backend_optimization_level"] = 0
    yield
    for options, before in ((_compile.LEAN, lean), (_compile.HASTY, hasty)):
        options.clear()
        options.update(before)


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
    for name in [name for name in given if ": " in name]:
        argument, path = name.split(": ")
        del given[name]
        given[argument] = path
    x, y, params = given.pop("x"), given.pop("y"), given.pop("params")
    return jf.fit(case.model, (x, y), params, **given)


SLOPES = np.linspace(0.02, 0.1, N)
CASES = {
    "plain": Case(decay, (X, Y), START),
    "float32": Case(decay, (np.float32(X), np.float32(Y)), START, rtol=2e-4, steps=False),
    "own x": Case(decay, (OWN_X, Y), START, own=("x", "y")),
    "own starts": Case(decay, (X, Y), STARTS, own=("y", "params")),
    "one start of its own": Case(
        decay, (X, Y), {"a": 1.0, "b": STARTS["b"]}, alone={"params": {"a": np.ones(N), "b": STARTS["b"]}},
        own=("y", "params"),
    ),
    "shared sigma": Case(decay, (X, Y), START, {"sigma": SIGMA, "absolute_sigma": True}),
    "own sigma": Case(decay, (X, Y), START, {"sigma": OWN_SIGMA}, own=("y", "sigma")),
    "a sigma each": Case(decay, (X, Y), START, {"sigma": OWN_SIGMA[:, 0], "absolute_sigma": True}, own=("y", "sigma")),
    "holes": Case(
        decay, (X, HOLES), START, {"weights": MASK}, alone={"y": np.nan_to_num(HOLES)}, own=("y", "weights")
    ),
    "shared weights": Case(decay, (X, Y), START, {"weights": np.linspace(0, 1, 24)}),
    "shared bounds": Case(decay, (X, Y), START, {"bounds": (None, {"b": 1.1})}),
    "own bounds": Case(
        decay, (X, Y), START, {"bounds": ({"a": np.zeros(N)}, {"b": RATES + 0.51})},
        alone={"bounds": ({"a": np.zeros(N), "b": np.full(N, -np.inf)}, {"a": np.full(N, np.inf), "b": RATES + 0.51})},
        own=("y", "bounds"),
    ),
    "fixed": Case(decay, (X, Y), STARTS, {"fixed": "b"}, own=("y", "params")),
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
    "damping": Case(
        decay, (X, Y), START, {"optimizer": optimizers.LevenbergMarquardt(initial_damping=np.geomspace(0.01, 10, N))},
        alone={"optimizer": [optimizers.LevenbergMarquardt(initial_damping=d) for d in np.geomspace(0.01, 10, N)]},
        own=("y",),
    ),
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
