"""First-order fits of linear models end at the solution of the normal equations, within the precision of the dtype."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfit as jf
from jaxfit.optimizers import LBFGS, SGD, Adam, AdamW, NAdam

N, P = 60, 4
OPTIMIZERS = {
    "gradient descent": (SGD(0.2), 4_000),
    "momentum": (SGD(0.05, momentum=0.9), 2_000),
    "nesterov": (SGD(0.05, momentum=0.9, nesterov=True), 2_000),
    "adam": (Adam(optax.exponential_decay(0.1, 100, 0.5)), 4_000),
    "adamw": (AdamW(optax.exponential_decay(0.1, 100, 0.5), weight_decay=0.0), 4_000),
    "nadam": (NAdam(optax.exponential_decay(0.1, 100, 0.5)), 4_000),
    "optax": (optax.adam(optax.exponential_decay(0.1, 100, 0.5)), 4_000),
    "lbfgs": (LBFGS(), 200),
}


def linear(params, x):
    return x @ params


@pytest.fixture(scope="module")
def problem():
    """A regression whose columns are of about the same size but not orthogonal."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, P)) @ (np.eye(P) + 0.2 * rng.normal(size=(P, P)))
    return x, x @ rng.normal(size=P) + 0.1 * rng.normal(size=N)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 3e-5)])
def test_ordinary_least_squares(problem, name, dtype, tolerance):
    x, y = (part.astype(dtype) for part in problem)
    optimizer, steps = OPTIMIZERS[name]
    result = jf.fit(linear, (x, y), np.zeros(P, dtype), optimizer=optimizer, steps=steps)
    solution = np.linalg.lstsq(*problem)[0]
    assert result.success
    assert np.asarray(result.params).dtype == dtype
    np.testing.assert_allclose(result.params, solution, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.loss, np.mean((problem[0] @ solution - problem[1]) ** 2), rtol=10 * tolerance)


@pytest.mark.parametrize("name", ["gradient descent", "momentum", "adam", "lbfgs"])
def test_weighted_by_sigma(problem, rng, name):
    x, y = problem
    sigma = rng.uniform(0.5, 2.0, N)
    optimizer, steps = OPTIMIZERS[name]
    result = jf.fit(linear, (x, y), np.zeros(P), optimizer=optimizer, steps=2 * steps, sigma=sigma)
    solution = np.linalg.lstsq(x / sigma[:, None], y / sigma)[0]
    np.testing.assert_allclose(result.params, solution, rtol=1e-8)
    # The loss is chi squared over n.
    np.testing.assert_allclose(result.loss, np.mean(((x @ solution - y) / sigma) ** 2), rtol=1e-12)


def test_weighted_by_weights(problem, rng):
    x, y = problem
    weights = rng.uniform(0.0, 2.0, N)
    weights[:20] = 0.0  # samples that do not count at all
    result = jf.fit(linear, (x, y), np.zeros(P), optimizer=LBFGS(), weights=weights)
    solution = np.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights * y))
    np.testing.assert_allclose(result.params, solution, rtol=1e-8)
    np.testing.assert_allclose(result.loss, np.sum(weights * (x @ solution - y) ** 2) / weights.sum(), rtol=1e-12)
    kept = jf.fit(linear, (x[20:], y[20:]), np.zeros(P), optimizer=LBFGS(), weights=weights[20:])
    np.testing.assert_allclose(kept.params, result.params, rtol=1e-8)


def test_weights_follow_the_reduction_of_the_loss(problem):
    x, y = problem
    weights = np.full(N, 2.0)
    total = functools.partial(jf.losses.mse, reduction="sum")
    result = jf.fit(linear, (x, y), np.zeros(P), loss=total, optimizer=LBFGS(), weights=weights)
    np.testing.assert_allclose(result.loss, 2 * np.sum((x @ np.linalg.lstsq(x, y)[0] - y) ** 2), rtol=1e-10)


@pytest.mark.parametrize("optimizer", [SGD(0.2, weight_decay=0.3), SGD(0.05, 0.9, weight_decay=0.3)])
def test_ridge_by_weight_decay(problem, optimizer):
    x, y = problem
    result = jf.fit(linear, (x, y), np.zeros(P), optimizer=optimizer, steps=3_000)
    solution = np.linalg.solve(2 / N * x.T @ x + 0.3 * np.eye(P), 2 / N * x.T @ y)
    np.testing.assert_allclose(result.params, solution, rtol=1e-9)


def test_ridge_by_a_loss_of_ones_own(problem):
    """A penalty on the params goes through the prediction: the model hands them on."""
    x, y = problem

    def with_params(params, x):
        return x @ params, params

    def ridge(prediction, target):
        values, params = prediction
        return jnp.sum((values - target) ** 2) + 0.7 * jnp.sum(params**2)

    result = jf.fit(with_params, (x, y), np.zeros(P), loss=ridge, optimizer=LBFGS())
    np.testing.assert_allclose(result.params, np.linalg.solve(x.T @ x + 0.7 * np.eye(P), x.T @ y), rtol=1e-7)


@pytest.mark.parametrize("name", ["gradient descent", "adam", "lbfgs"])
def test_polynomial(rng, name):
    x = np.linspace(-1, 1, 40)
    y = 0.5 - x + 2 * x**3 + 0.05 * rng.normal(size=40)
    optimizer, steps = OPTIMIZERS[name]
    # Legendre's polynomials are nearly orthogonal here: gradient descent sees a round valley.
    basis = np.polynomial.legendre.legvander(x, 3) * np.sqrt(2 * np.arange(4) + 1)
    result = jf.fit(linear, (basis, y), np.zeros(4), optimizer=optimizer, steps=steps)
    np.testing.assert_allclose(basis @ result.params, np.polyval(np.polyfit(x, y, 3), x), rtol=1e-8, atol=1e-9)


def test_matrix_of_outputs(problem, rng):
    x, _ = problem
    y = x @ rng.normal(size=(P, 3)) + 0.1 * rng.normal(size=(N, 3))
    result = jf.fit(linear, (x, y), np.zeros((P, 3)), optimizer=SGD(0.6), steps=4_000)
    np.testing.assert_allclose(result.params, np.linalg.lstsq(x, y)[0], rtol=1e-9)


def test_minibatches_end_near_the_solution(problem):
    x, y = problem
    schedule = optax.exponential_decay(0.05, 600, 0.3)
    result = jf.fit(linear, (x, y), np.zeros(P), optimizer=SGD(schedule), epochs=800, batch_size=7, key=3)
    np.testing.assert_allclose(result.params, np.linalg.lstsq(x, y)[0], atol=1e-3)
