"""Levenberg–Marquardt: certified values, textbook formulas, and what happens where a fit goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit as jf
import nist
from jaxfit import Status, _problem
from jaxfit._compile import HASTY
from jaxfit.optimizers import LevenbergMarquardt

fit = functools.partial(jf.fit, optimizer=LevenbergMarquardt())
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


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
        slope = quick(jax.grad(lambda p: jf.losses.cross_entropy(model(p, jnp.asarray(x)), labels)))
        gradient = slope(jnp.asarray(result.params))
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
    with pytest.warns(jf.FitWarning, match=r"do not determine params\[3\], whose .* had no effect on the prediction"):
        result = fit(lambda p, x: x @ p[:3] + 0 * p[3], (x, y), np.zeros(4))
    assert result.success
    assert np.isinf(result.standard_errors[3])
    np.testing.assert_array_equal(result.evidence.undetermined, [False, False, False, True])
    assert np.isfinite(result.standard_errors[:3]).all()


def test_two_params_that_only_act_together_have_infinite_errors(regression):
    x, y = regression
    with pytest.warns(jf.FitWarning, match=r"do not determine params\[0\], params\[3\], .*fix some of these"):
        result = fit(lambda p, x: x @ p[:3] + p[3], (x, y), np.zeros(4))  # x has a column of ones already
    np.testing.assert_array_equal(result.evidence.undetermined, [True, False, False, True])
    assert np.isinf(result.covariance[0]).all()
    assert np.isfinite(result.standard_errors[1:3]).all()


def test_fewer_points_than_params():
    x = np.array([0.0, 1.0])
    with pytest.warns(jf.FitWarning, match="There are 2 numbers in y for 3 params: give more data"):
        result = fit(lambda p, x: p[0] + p[1] * x + p[2] * x**2, (x, x), np.zeros(3))
    np.testing.assert_allclose(result.predict(x), x, atol=1e-10)


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


# losses


LABELS = (np.sin(np.arange(50.0)) > 0).astype(float)
COUNTS = np.arange(50.0) % 7
POSITIVE = lambda p, x: jnp.exp(x @ p)
PROBABILITY = lambda p, x: jax.nn.sigmoid(x @ p)
CURVED = {
    "binary_cross_entropy": (PROBABILITY, LABELS, {}),
    "binary_cross_entropy, weighted": (PROBABILITY, LABELS, {"weight": np.linspace(1, 2, 50)}),
    "binary_cross_entropy_with_logits": (linear, LABELS, {"pos_weight": 2.0}),
    "gaussian_nll": (linear, COUNTS, {"var": np.linspace(0.5, 2, 50), "full": True}),
    "huber": (linear, COUNTS, {"delta": 0.7}),
    "huber, weighted": (linear, COUNTS, {"delta": 0.7, "weight": np.linspace(1, 2, 50)}),
    "mse, weighted": (linear, COUNTS, {"weight": np.linspace(1, 2, 50)}),
    "multilabel_soft_margin": (lambda p, x: jnp.stack([x @ p, -x @ p], 1), np.stack([LABELS, 1 - LABELS], 1), {}),
    "poisson_nll": (linear, COUNTS, {}),
    "poisson_nll, of counts": (POSITIVE, COUNTS, {"log_input": False}),
    "smooth_l1": (linear, COUNTS, {"beta": 0.7}),
    "soft_margin": (linear, 2 * LABELS - 1, {"reduction": "sum"}),
}


@pytest.mark.parametrize("name", CURVED)
def test_every_loss_with_a_curvature_ends_where_its_gradient_vanishes(regression, name):
    model, y, options = CURVED[name]
    loss = functools.partial(getattr(jf.losses, name.split(",")[0]), **options)
    x = 0.3 * regression[0]
    result = fit(model, (x, y), np.zeros(3), loss=loss, record=("gradient_norm",))
    assert result.success
    with jax.enable_x64(True):
        slope = quick(jax.grad(lambda p: loss(model(p, jnp.asarray(x)), jnp.asarray(y))))
        gradient = slope(jnp.asarray(result.params))
    assert np.linalg.norm(gradient) < 1e-6 * result.history["gradient_norm"][0]
    assert (np.diff(result.history["loss"]) <= 0).all()


@pytest.mark.parametrize("options", [{}, {"weight": np.array([1.0, 2, 3])}, {"ignore_index": 2}], ids=str)
def test_cross_entropy_in_all_its_forms(regression, options):
    x, y = regression
    labels = np.digitize(y, [-1.0, 2.0])
    loss = functools.partial(jf.losses.cross_entropy, label_smoothing=0.1, **options)
    model = lambda p, x: jnp.concatenate([jnp.zeros((len(x), 1)), x @ p], axis=1)
    result = fit(model, (x, labels), np.zeros((3, 2)), loss=loss)
    with jax.enable_x64(True):
        both = quick(jax.value_and_grad(lambda p: loss(model(p, jnp.asarray(x)), labels)))
        value, gradient = both(jnp.asarray(result.params))
    np.testing.assert_allclose(result.loss, value, rtol=1e-10)
    assert np.abs(gradient).max() < 1e-9


def test_robust_fits_are_scipy_s():
    from scipy.optimize import least_squares

    x = np.linspace(0, 4, 60)
    y = 3 * np.exp(-1.2 * x) + 0.5 + 0.05 * np.cos(40 * x)
    y[::7] += 3
    result = fit(
        lambda p, x: p[0] * jnp.exp(-p[1] * x) + p[2],
        (x, y),
        np.ones(3),
        loss=functools.partial(jf.losses.huber, delta=0.1),
    )
    residuals = lambda p: p[0] * np.exp(-p[1] * x) + p[2] - y
    expected = least_squares(residuals, np.ones(3), loss="huber", f_scale=0.1, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose(result.params, expected.x, rtol=1e-5)


def test_robust_standard_errors_are_the_spread_of_robust_fits():
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(200), rng.normal(size=(200, 2))])
    fits = [
        fit(linear, (x, x @ [1.0, 2, -1] + rng.standard_t(3, size=200)), np.zeros(3), loss=jf.losses.huber)
        for _ in range(100)
    ]
    spread = np.std([result.params for result in fits], axis=0)
    np.testing.assert_allclose(np.mean([result.standard_errors for result in fits], axis=0), spread, rtol=0.25)


# shapes of data


def test_complex_predictions_are_fitted_in_both_parts():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 5, 50)
    signal = 2 * np.exp((-0.3 + 1.5j) * x) + 0.01 * (rng.normal(size=50) + 1j * rng.normal(size=50))
    model = lambda p, x: p["a"] * jnp.exp((-p["g"] + 1j * p["w"]) * x)
    start = {"a": 1.0, "g": 0.2, "w": 1.4}
    sigma = np.linspace(0.01, 0.02, 50)
    result = fit(model, (x, signal), start, sigma=sigma)
    parts = lambda p, x: jnp.concatenate([jnp.real(model(p, x)), jnp.imag(model(p, x))])
    joined = np.concatenate([signal.real, signal.imag])
    expected = fit(lambda p, x: parts(p, x[:50]), (np.tile(x, 2), joined), start, sigma=np.tile(sigma, 2))
    for name in start:
        np.testing.assert_allclose(result.params[name], expected.params[name], rtol=1e-8)
        np.testing.assert_allclose(result.standard_errors[name], expected.standard_errors[name], rtol=1e-6)
    assert result.degrees_of_freedom == 97


def test_data_sets_of_different_lengths_share_params():
    rng = np.random.default_rng(0)
    x = {"u": np.linspace(0, 3, 60), "v": np.linspace(0, 2, 30)}
    y = {
        name: amplitude * np.exp(-t) + 0.01 * rng.normal(size=t.size)
        for (name, t), amplitude in zip(x.items(), (2, 5), strict=True)
    }
    model = lambda p, x: {name: p[name] * jnp.exp(-p["rate"] * t) for name, t in x.items()}
    start = {"u": 1.0, "v": 1.0, "rate": 0.5}
    result = fit(model, (x, y), start, sigma={"u": 0.01, "v": np.full(30, 0.02)})
    joined = fit(
        lambda p, x: jnp.where(x[:, 1] == 0, p["u"], p["v"]) * jnp.exp(-p["rate"] * x[:, 0]),
        (
            np.column_stack([np.concatenate([x["u"], x["v"]]), np.repeat([0, 1], [60, 30])]),
            np.concatenate([y["u"], y["v"]]),
        ),
        start,
        sigma=np.repeat([0.01, 0.02], [60, 30]),
    )
    for name in start:
        np.testing.assert_allclose(result.params[name], joined.params[name], rtol=1e-9)
        np.testing.assert_allclose(result.standard_errors[name], joined.standard_errors[name], rtol=1e-7)


def test_data_sets_that_the_prediction_does_not_match():
    x = {"u": np.ones(3), "v": np.ones(2)}
    with pytest.raises(ValueError, match="Expected a prediction with y's structure and shapes"):
        fit(lambda p, x: {"u": p * x["v"], "v": p * x["u"]}, (x, x), 1.0)


# many samples


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setitem(_problem._BLOCK_BYTES, "cpu", 16_000)


MANY = np.random.default_rng(3).uniform(0, 5, (5_003, 2))
NOISY = 2 * np.exp(-1.3 * MANY[:, 0]) + 0.1 * MANY[:, 1] + 0.1 * np.sin(100 * MANY[:, 1])
BY_ROWS = lambda p, x: p[0] * jnp.exp(-p[1] * x[:, 0]) + p[2] * x[:, 1]
IN_BLOCKS = {
    "plain": (BY_ROWS, {}),
    "weights": (BY_ROWS, {"weights": np.linspace(0, 1, 5_003)}),
    "sigma": (BY_ROWS, {"sigma": np.linspace(0.1, 1, 5_003)}),
    "one sigma": (BY_ROWS, {"sigma": 0.1, "absolute_sigma": True}),
    "huber": (BY_ROWS, {"loss": functools.partial(jf.losses.huber, delta=0.05)}),
    "sum": (BY_ROWS, {"loss": functools.partial(jf.losses.mse, reduction="sum")}),
    "accelerated": (BY_ROWS, {"optimizer": LevenbergMarquardt(acceleration=True)}),
    "bounds": (BY_ROWS, {"bounds": (None, [np.inf, 1.0, np.inf])}),
    "rows that mix": (lambda p, x: BY_ROWS(p, x / x.max()), {}),
}


@pytest.mark.parametrize("name", IN_BLOCKS)
@pytest.mark.usefixtures("small_blocks")
def test_blocks_give_what_all_samples_at_once_give(name, monkeypatch):
    model, options = IN_BLOCKS[name]
    whole = lambda: fit(model, (MANY, NOISY), np.array([1.0, 1.0, 0.0]), **options)
    parts = whole()
    assert parts._weigh.args[0].problem.block == (None if name == "rows that mix" else 280)
    monkeypatch.setitem(_problem._BLOCK_BYTES, "cpu", 1 << 40)
    expected = whole()
    np.testing.assert_allclose(parts.params, expected.params, rtol=1e-8)
    np.testing.assert_allclose(parts.covariance, expected.covariance, rtol=1e-7)


# the second try


def test_a_bad_end_is_noticed_and_tried_again():
    """BoxBOD, from NIST's first start: the plain rule lands where the rate has lost all influence."""
    x, y = np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])
    model = lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x))
    result = jf.fit(model, (x, y), np.array([1.0, 1.0]))
    np.testing.assert_allclose(result.params, [2.1380940889e02, 5.4723748542e-01], rtol=1e-8)
    np.testing.assert_allclose(result.standard_errors, [1.2354515176e01, 1.0455993237e-01], rtol=1e-6)
    plain = jf.fit(model, (x, y), np.array([1.0, 1.0]), optimizer=LevenbergMarquardt(acceleration=False))
    assert plain.standard_errors[1] > 1e6 * plain.params[1]
    assert plain.loss > 2 * result.loss


def test_an_easy_fit_is_tried_once(compilations):
    x = np.linspace(0, 3, 30)
    compilations()
    result = jf.fit(lambda p, x: p[0] * jnp.exp(-p[1] * x), (x, 2 * np.exp(-x) + 0.01 * np.cos(9 * x)), np.ones(2))
    assert compilations() == 1
    assert result.steps <= 7


def outliers():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 4, 30)
    y = 2 * x + 1 + 0.1 * rng.normal(size=30)
    y[::7] += 3
    return x, y, lambda p, x: p[0] + p[1] * x


def test_robust_standard_errors_do_not_depend_on_how_the_fit_was_told():
    x, y, line = outliers()
    weights = np.random.default_rng(1).uniform(0.1, 5, 30)
    huber = functools.partial(jf.losses.huber, delta=0.2)
    by_samples = fit(line, (x, y), np.zeros(2), loss=huber, weights=weights)
    by_option = fit(line, (x, y), np.zeros(2), loss=functools.partial(huber, weight=weights))
    np.testing.assert_allclose(by_option.standard_errors, by_samples.standard_errors, rtol=1e-6)
    plain = fit(line, (x, y), np.zeros(2), loss=huber)
    longer = fit(lambda p, x: line(p, x) + p[2], (x, y), np.zeros(3), loss=huber, fixed="params[2]")
    np.testing.assert_allclose(longer.standard_errors[:2], plain.standard_errors, rtol=1e-6)
    with jax.enable_x64(True):
        inside = quick(lambda y: fit(line, (x, y), np.zeros(2), loss=huber).standard_errors)(y)
    np.testing.assert_allclose(inside, plain.standard_errors, rtol=1e-6)
    with pytest.raises(ValueError, match="profile of huber says nothing of errors"):
        plain.confidence_intervals(method="profile")


def test_squares_that_underflow_are_told():
    x, y, line = outliers()
    with pytest.warns(jf.FitWarning, match="squares of y are too small"):
        fit(line, (x.astype(np.float32), (1e-21 * y).astype(np.float32)), np.zeros(2, np.float32))


def test_validation_of_several_data_sets():
    x, y, line = outliers()
    model = lambda p, x: {name: line(p, t) for name, t in x.items()}
    data = ({"u": x, "v": x[:20]}, {"u": y, "v": y[:20]})
    result = fit(model, data, np.zeros(2), sigma={"u": np.linspace(0.1, 1, 30), "v": 0.2}, validation=data)
    prediction = np.concatenate([line(result.params, x), line(result.params, x[:20])])
    squares = (prediction - np.concatenate([y, y[:20]])) ** 2
    np.testing.assert_allclose(result.history["validation_loss"][-1], squares.mean(), rtol=1e-6)


def test_labels_in_several_sets_are_refused():
    x, y, _ = outliers()
    with pytest.raises(TypeError, match="cross_entropy takes one array of labels"):
        fit(lambda p, x: x, ({"u": x}, {"u": y}), np.zeros(2), loss=jf.losses.cross_entropy)
