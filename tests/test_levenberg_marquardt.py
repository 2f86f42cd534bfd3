"""Levenberg–Marquardt: certified values, textbook formulas, and what happens where a fit goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit as jf
import nist
from jaxfit import Status
from jaxfit.optimizers import LevenbergMarquardt

fit = functools.partial(jf.fit, optimizer=LevenbergMarquardt())


def linear(params, x):
    return x @ params


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    return x, x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=50)


@pytest.mark.parametrize("start", [0, 1], ids=["start 1", "start 2"])
@pytest.mark.parametrize("name", nist.MODELS)
def test_certified_values_at_default_settings(name, start):
    problem = nist.load(name)
    result = fit(nist.MODELS[name], (problem.x, problem.y), problem.starts[start])
    assert result.status is Status.CONVERGED
    assert nist.digits(result.params, problem.params) >= 6
    assert nist.digits(result.standard_errors, problem.standard_errors) >= 4
    assert nist.digits(result.evidence.chi_squared, problem.sum_of_squares) >= 6
    assert result.evidence.degrees_of_freedom == len(problem.y) - len(problem.params)


def test_a_linear_model_gives_the_textbook_s_covariance(regression):
    x, y = regression
    result = fit(linear, (x, y), np.zeros(3))
    solution, residual = np.linalg.lstsq(x, y)[:2]
    np.testing.assert_allclose(result.params, solution, rtol=1e-10)
    covariance = np.linalg.inv(x.T @ x) * residual[0] / 47
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(result.standard_errors, np.sqrt(np.diag(covariance)), rtol=1e-10)


@pytest.mark.parametrize("absolute", [False, True])
def test_sigma_weights_the_covariance(regression, absolute):
    x, y = regression
    sigma = np.linspace(0.1, 2.0, 50)
    result = fit(linear, (x, y), np.zeros(3), sigma=sigma, absolute_sigma=absolute)
    scaled_x, scaled_y = x / sigma[:, None], y / sigma
    solution, chi_squared = np.linalg.lstsq(scaled_x, scaled_y)[:2]
    covariance = np.linalg.inv(scaled_x.T @ scaled_x) * (1 if absolute else chi_squared[0] / 47)
    np.testing.assert_allclose(result.params, solution, rtol=1e-10)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-7, atol=1e-15)
    np.testing.assert_allclose(result.evidence.chi_squared, chi_squared[0], rtol=1e-10)


def test_weights_of_zero_leave_samples_out(regression):
    x, y = regression
    weights = np.repeat([1.0, 0.0], [40, 10])
    masked, left = fit(linear, (x, y), np.zeros(3), weights=weights), fit(linear, (x[:40], y[:40]), np.zeros(3))
    np.testing.assert_allclose(masked.params, left.params, rtol=1e-10)
    np.testing.assert_allclose(masked.covariance, left.covariance, rtol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_changes_nothing(regression, reduction):
    result = fit(linear, regression, np.zeros(3), loss=functools.partial(jf.losses.mse, reduction=reduction))
    expected = fit(linear, regression, np.zeros(3))
    np.testing.assert_allclose(result.covariance, expected.covariance, rtol=1e-8)


def scoring(x, y, mean, variance):
    """Fisher scoring for a canonical link, and the inverse Fisher information, as the textbooks have it."""
    params = np.zeros(x.shape[1])
    for _ in range(50):
        information = x.T @ (variance(x @ params)[:, None] * x)
        params = params + np.linalg.solve(information, x.T @ (y - mean(x @ params)))
    return params, np.linalg.inv(information)


def test_logistic_regression_has_the_inverse_fisher_information(regression):
    x, y = regression
    labels = (y + np.sin(7 * y) > 1).astype(float)
    result = fit(linear, (x, labels), np.zeros(3), loss=jf.losses.binary_cross_entropy_with_logits)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    params, covariance = scoring(x, labels, sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z)))
    np.testing.assert_allclose(result.params, params, rtol=1e-10)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-6)


def test_poisson_regression_has_the_inverse_fisher_information(regression):
    x, y = regression
    counts = np.random.default_rng(5).poisson(np.exp(0.3 * y + 1)).astype(float)
    result = fit(linear, (x, counts), np.zeros(3), loss=jf.losses.poisson_nll)
    params, covariance = scoring(x, counts, np.exp, np.exp)
    np.testing.assert_allclose(result.params, params, rtol=1e-10)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-6)


def test_multinomial_regression_ends_where_the_gradient_vanishes(regression):
    x, y = regression
    labels = np.digitize(y, [0.0, 2.0])
    model = lambda params, x: jnp.concatenate([jnp.zeros((len(x), 1)), x @ params], axis=1)
    result = fit(model, (x, labels), np.zeros((3, 2)), loss=jf.losses.cross_entropy)
    assert result.success
    with jax.enable_x64(True):
        gradient = jax.grad(lambda p: jf.losses.cross_entropy(model(p, jnp.asarray(x)), labels))(
            jnp.asarray(result.params)
        )
    assert np.abs(gradient).max() < 1e-10
    assert result.covariance.shape == (6, 6)


def test_params_of_any_shape_have_errors_of_that_shape():
    x = np.linspace(0.1, 3, 30)
    model = lambda params, x: params["scale"] * jnp.exp(-params["rates"][0] * x) + params["rates"][1]
    data = (x, 2 * np.exp(-1.5 * x) + 0.3 + 0.01 * np.cos(50 * x))
    result = fit(model, data, {"scale": 1.0, "rates": np.ones(2)})
    assert result.standard_errors["scale"].shape == ()
    assert result.standard_errors["rates"].shape == (2,)
    assert "±" in str(result)
    assert "chi squared" in str(result)


def test_float32_ends_within_its_precision():
    x = np.linspace(0, 3, 40, dtype=np.float32)
    model = lambda p, x: p[0] * jnp.exp(-p[1] * x)
    result = fit(model, (x, 3 * np.exp(-x) + 0.1 * np.sin(9 * x)), np.ones(2, np.float32))
    wide = fit(model, (x.astype(float), (3 * np.exp(-x) + 0.1 * np.sin(9 * x)).astype(float)), np.ones(2))
    assert result.success
    np.testing.assert_allclose(result.params, wide.params, rtol=1e-3)
    np.testing.assert_allclose(result.standard_errors, wide.standard_errors, rtol=1e-2)


def test_a_param_that_does_nothing_has_an_infinite_error(regression):
    x, y = regression
    result = fit(lambda p, x: x @ p[:3] + 0 * p[3], (x, y), np.zeros(4))
    assert np.isinf(result.standard_errors[3])
    np.testing.assert_array_equal(result.evidence.undetermined, [False, False, False, True])
    assert np.isfinite(result.standard_errors[:3]).all()


def test_two_params_that_only_act_together_have_infinite_errors(regression):
    x, y = regression
    result = fit(lambda p, x: x @ p[:3] + p[3], (x, y), np.zeros(4))  # x has a column of ones already
    np.testing.assert_array_equal(result.evidence.undetermined, [True, False, False, True])
    assert np.isinf(result.covariance[0]).all()
    assert np.isfinite(result.standard_errors[1:3]).all()


def test_nan_at_a_trial_point_is_a_rejected_step():
    """A full Newton step from here would leave the domain of the root."""
    x = np.linspace(1, 4, 30)
    result = fit(lambda p, x: jnp.sqrt(p[0] * x), (x, np.sqrt(0.01 * x)), np.array([4.0]))
    assert result.success
    np.testing.assert_allclose(result.params, [0.01], rtol=1e-8)


def test_nan_at_the_start():
    with pytest.warns(jf.FitWarning, match="nan at the starting params"):
        result = fit(lambda p, x: jnp.log(p) * x, (np.ones(3), np.ones(3)), -1.0)
    assert result.status is Status.NON_FINITE


def test_a_limit_of_steps_is_kept():
    problem = nist.load("Lanczos3")
    with pytest.warns(jf.FitWarning, match="Not converged after 5 steps"):
        result = fit(nist.MODELS["Lanczos3"], (problem.x, problem.y), problem.starts[0], steps=5)
    assert result.status is Status.STEP_LIMIT


def test_the_loss_never_rises():
    problem = nist.load("MGH09")
    result = fit(nist.MODELS["MGH09"], (problem.x, problem.y), problem.starts[0], record=("params",))
    losses = result.history["loss"]
    assert (np.diff(losses) <= 0).all()
    for params, loss in zip(result.history["params"], losses, strict=True):
        np.testing.assert_allclose(np.mean((nist.MODELS["MGH09"](params, problem.x) - problem.y) ** 2), loss, rtol=1e-3)
    assert result.loss <= losses[-1] * (1 + 1e-13)


@pytest.mark.parametrize("loss", [jf.losses.l1, lambda p, t: jnp.mean((p - t) ** 2), jf.losses.kl_div])
def test_a_loss_without_curvature_is_refused(regression, loss):
    with pytest.raises(TypeError, match=r"LevenbergMarquardt needs a loss whose curvature it knows \(binary"):
        fit(linear, regression, np.zeros(3), loss=loss)


def test_other_optimizers_have_no_covariance(regression):
    result = jf.fit(linear, regression, np.zeros(3), optimizer=jf.optimizers.LBFGS())
    assert result.evidence is None
    with pytest.raises(ValueError, match=r"LBFGS knows no curvature.*LevenbergMarquardt\(\)"):
        _ = result.covariance


def test_a_second_fit_compiles_nothing(regression, compilations):
    fit(linear, regression, np.zeros(3))
    compilations()
    jf.fit(linear, regression, np.ones(3), optimizer=LevenbergMarquardt(initial_damping=1.0))
    assert compilations() == 0
