"""What a fit says of its own certainty: textbook formulas, a brute-force profile, and sentences where it cannot."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxfit as jf

N = 40
RNG = np.random.default_rng(3)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
SIGMA = np.linspace(0.2, 1.5, N)
Y = X @ [1.0, -2.0, 0.5] + SIGMA * RNG.normal(size=N)
T = np.linspace(0.2, 4.0, 25)
DECAY = 2.0 * np.exp(-0.8 * T) + 0.15 * np.cos(17 * T)


def linear(params, x):
    return x @ params


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x)


def ordinary(x, y, w=1.0):
    """Weighted least squares by the normal equations: params, chi squared, inverse of X'WX."""
    w = np.broadcast_to(w, y.shape)
    inverse = np.linalg.inv(x.T @ (w[:, None] * x))
    params = inverse @ x.T @ (w * y)
    return params, float((w * (y - x @ params) ** 2).sum()), inverse


CASES = {
    "plain": ({}, np.ones(N), False),
    "sigma": ({"sigma": SIGMA}, SIGMA**-2, False),
    "absolute sigma": ({"sigma": SIGMA, "absolute_sigma": True}, SIGMA**-2, True),
    "weights": ({"weights": SIGMA}, SIGMA, False),
}


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    options, w, absolute = CASES[request.param]
    return jf.fit(linear, (X, Y), np.zeros(3), **options), w, absolute


def test_chi_squared_and_r_squared_of_the_textbook(fitted):
    result, w, _ = fitted
    _, chi_squared, _ = ordinary(X, Y, w)
    mean = (w * Y).sum() / w.sum()
    share = 1 - chi_squared / (w * (Y - mean) ** 2).sum()
    np.testing.assert_allclose(result.chi_squared, chi_squared, rtol=1e-10)
    assert result.degrees_of_freedom == N - 3
    np.testing.assert_allclose(result.reduced_chi_squared, chi_squared / (N - 3), rtol=1e-10)
    np.testing.assert_allclose(result.r_squared, share, rtol=1e-10)
    np.testing.assert_allclose(result.adjusted_r_squared, 1 - (1 - share) * (N - 1) / (N - 3), rtol=1e-10)


def test_the_likelihood_is_that_of_normal_errors(fitted):
    result, w, absolute = fitted
    params, chi_squared, _ = ordinary(X, Y, w)
    scale = 1 if absolute else np.sqrt(chi_squared / N)
    likelihood = stats.norm.logpdf(Y, X @ params, scale / np.sqrt(w)).sum()
    k = 3 if absolute else 4
    np.testing.assert_allclose(result.log_likelihood, likelihood, rtol=1e-10)
    np.testing.assert_allclose(result.aic, 2 * k - 2 * likelihood, rtol=1e-10)
    np.testing.assert_allclose(result.aicc, 2 * k * N / (N - k - 1) - 2 * likelihood, rtol=1e-10)
    np.testing.assert_allclose(result.bic, k * np.log(N) - 2 * likelihood, rtol=1e-10)


def test_intervals_of_the_textbook(fitted):
    result, w, absolute = fitted
    params, chi_squared, inverse = ordinary(X, Y, w)
    q = stats.norm.ppf(0.95) if absolute else stats.t(N - 3).ppf(0.95)
    variance = np.diag(inverse) * (1 if absolute else chi_squared / (N - 3))
    lower, upper = result.confidence_intervals(0.9)
    np.testing.assert_allclose(lower, params - q * np.sqrt(variance), rtol=1e-8)
    np.testing.assert_allclose(upper, params + q * np.sqrt(variance), rtol=1e-8)


def test_the_profile_of_a_linear_model_is_its_wald_interval(fitted):
    result, *_ = fitted
    np.testing.assert_allclose(
        result.confidence_intervals(0.9, method="profile"), result.confidence_intervals(0.9), rtol=1e-5
    )


def test_correlation_of_the_textbook(fitted):
    result, w, _ = fitted
    _, _, inverse = ordinary(X, Y, w)
    error = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(result.correlation, inverse / error[:, None] / error, rtol=1e-7, atol=1e-12)
    assert (np.diag(result.correlation) == 1).all()


def test_bands_of_the_textbook(fitted):
    result, w, absolute = fitted
    params, chi_squared, inverse = ordinary(X, Y, w)
    scale = 1 if absolute else chi_squared / (N - 3)
    q = stats.norm.ppf(0.975) if absolute else stats.t(N - 3).ppf(0.975)
    new = np.array([[1.0, 0.0, 0.0], [1.0, 5.0, -2.0]])
    variance = scale * np.einsum("ij,jk,ik->i", new, inverse, new)
    lower, upper = result.confidence_band(new)
    np.testing.assert_allclose(lower, new @ params - q * np.sqrt(variance), rtol=1e-8)
    np.testing.assert_allclose(upper, new @ params + q * np.sqrt(variance), rtol=1e-8)
    for sigma in (0.7, np.array([0.1, 3.0])):
        lower, upper = result.prediction_band(new, sigma=sigma)
        np.testing.assert_allclose(upper - lower, 2 * q * np.sqrt(variance + scale * sigma**2), rtol=1e-8)


def test_a_prediction_band_takes_the_sigma_of_the_fit_where_that_is_one_number():
    result = jf.fit(linear, (X, Y), np.zeros(3), sigma=0.5, absolute_sigma=True)
    np.testing.assert_array_equal(result.prediction_band(X), result.prediction_band(X, sigma=0.5))
    result = jf.fit(linear, (X, Y), np.zeros(3))
    np.testing.assert_array_equal(result.prediction_band(X), result.prediction_band(X, sigma=1.0))
    inside = np.mean((result.prediction_band(X, 0.5)[0] < Y) & (result.prediction_band(X, 0.5)[1] > Y))
    assert 0.3 < inside < 0.8


def test_residuals_are_in_the_units_of_y(fitted):
    result, w, _ = fitted
    np.testing.assert_allclose(result.residuals, Y - X @ ordinary(X, Y, w)[0], atol=1e-9)


def test_a_confidence_band_of_a_bent_model_follows_its_jacobian():
    result = jf.fit(decay, (T, DECAY), np.ones(2))
    a, b = result.params
    jacobian = np.column_stack([np.exp(-b * T), -a * T * np.exp(-b * T)])
    variance = np.einsum("ij,jk,ik->i", jacobian, result.covariance, jacobian)
    lower, upper = result.confidence_band(T)
    np.testing.assert_allclose((upper - lower) / 2, stats.t(23).ppf(0.975) * np.sqrt(variance), rtol=1e-7)


def test_a_profile_against_a_grid():
    """The rate of a short decay is far from normal: each value of the grid has its best amplitude in closed form."""
    t, y = T[:6], 2.0 * np.exp(-0.8 * T[:6]) + 0.6 * np.cos(17 * T[:6])
    result = jf.fit(decay, (t, y), np.ones(2))
    lower, upper = result.confidence_intervals(method="profile")
    rates = np.linspace(-3, 20, 460_001)
    shape = np.exp(-rates[:, None] * t)
    amplitude = shape @ y / (shape**2).sum(axis=1)
    chi_squared = ((y - amplitude[:, None] * shape) ** 2).sum(axis=1)
    allowed = rates[chi_squared - result.chi_squared < result.reduced_chi_squared * stats.f(1, 4).ppf(0.95)]
    np.testing.assert_allclose([lower[1], upper[1]], [allowed.min(), allowed.max()], atol=1e-4)
    wald = result.confidence_intervals()
    assert abs(upper[1] - wald[1][1]) > 0.05 * (wald[1][1] - wald[0][1])


def test_the_profile_of_a_poisson_rate_is_that_of_its_closed_form():
    counts = np.array([3.0, 1.0, 4.0, 0.0, 2.0])
    result = jf.fit(lambda p, x: p + 0 * x, (np.zeros(5), counts), 0.0, loss=jf.losses.poisson_nll)
    rise = lambda rate: 2 * (5 * (rate - 2.0) - 10 * np.log(rate / 2.0)) - stats.chi2(1).ppf(0.95)
    lower, upper = result.confidence_intervals(method="profile")
    np.testing.assert_allclose([rise(np.exp(lower)), rise(np.exp(upper))], 0, atol=1e-5)
    assert lower < np.log(2) < upper
    wald = stats.norm.ppf(0.975) / np.sqrt(10)
    np.testing.assert_allclose(result.confidence_intervals(), [np.log(2) - wald, np.log(2) + wald], rtol=1e-8)
    np.testing.assert_allclose(result.log_likelihood, 10 * np.log(2) - 10, rtol=1e-10)
    np.testing.assert_allclose(result.aic, 2 - 2 * result.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(result.bic, np.log(5) - 2 * result.log_likelihood, rtol=1e-12)


def test_a_logit_has_the_intervals_of_the_inverse_fisher_information():
    labels = np.repeat([1.0, 0.0], [7, 13])
    result = jf.fit(
        lambda p, x: p + 0 * x, (np.zeros(20), labels), 0.0, loss=jf.losses.binary_cross_entropy_with_logits
    )
    middle, reach = np.log(7 / 13), stats.norm.ppf(0.975) / np.sqrt(20 * 0.35 * 0.65)
    np.testing.assert_allclose(result.confidence_intervals(), [middle - reach, middle + reach], rtol=1e-8)
    np.testing.assert_allclose(result.confidence_band(np.zeros(1)), [[middle - reach], [middle + reach]], rtol=1e-8)
    np.testing.assert_allclose(result.log_likelihood, 7 * np.log(0.35) + 13 * np.log(0.65), rtol=1e-10)


def test_fixed_params_count_for_nothing():
    result = jf.fit(linear, (X, Y), np.array([0.0, 0.0, 0.5]), fixed=np.array([False, False, True]))
    left = jf.fit(linear, (X[:, :2], Y - 0.5 * X[:, 2]), np.zeros(2))
    assert result.degrees_of_freedom == N - 2
    np.testing.assert_allclose(result.covariance[:2, :2], left.covariance, rtol=1e-8)
    assert np.isnan(result.covariance[2]).all()
    assert np.isnan(result.covariance[:, 2]).all()
    np.testing.assert_allclose(result.aic, left.aic, rtol=1e-9)
    for method in ("wald", "profile"):
        found = np.array(result.confidence_intervals(method=method))
        np.testing.assert_allclose(found[:, :2], left.confidence_intervals(), rtol=1e-5)
        assert np.isnan(found[:, 2]).all()
    np.testing.assert_allclose(
        result.confidence_band(X), np.array(left.confidence_band(X[:, :2])) + 0.5 * X[:, 2], rtol=1e-8
    )
    assert not result.active.any()
    row = next(line for line in str(result).splitlines() if "params[2]" in line)
    assert row.split() == ["params[2]", "0.5", "fixed", "0.5"]


def test_a_param_at_a_bound_is_held_there():
    bounds = (np.array([-np.inf, -1.5, 0.0]), np.full(3, np.inf))
    result = jf.fit(linear, (X, Y), np.array([0.0, 0.0, 1.0]), bounds=bounds)
    np.testing.assert_array_equal(result.active, [False, True, False])
    fixed = jf.fit(linear, (X, Y), np.array([0.0, -1.5, 1.0]), fixed=np.array([False, True, False]))
    np.testing.assert_allclose(result.covariance, fixed.covariance, rtol=1e-7)
    assert result.degrees_of_freedom == N - 2
    report = str(result)
    row = next(line for line in report.splitlines() if "params[1]" in line)
    assert row.split() == ["params[1]", "-1.5", "at", "bound", "0", "[-1.5,", "inf)"]
    lower, upper = result.confidence_intervals(method="profile")
    assert lower[1] == -1.5
    assert -1.5 <= upper[1] < -1.2


def test_a_profile_ends_at_a_bound_or_never():
    t, y = T[:4], np.array([0.5, 0.6, 0.2, 0.4])
    result = jf.fit(decay, (t, y), np.array([0.5, 0.5]), bounds=(-1.0, np.array([10.0, 3.0])))
    lower, upper = result.confidence_intervals(method="profile")
    assert lower[1] == -1
    assert upper[1] == 3
    saturated = jf.fit(lambda p, x: jnp.tanh(p * x), (np.ones(9), 1 + 0.3 * np.cos(np.arange(9.0))), 0.5)
    lower, upper = saturated.confidence_intervals(method="profile")
    assert np.isfinite(lower)
    assert upper == np.inf


def test_what_the_data_do_not_determine():
    with pytest.warns(jf.FitWarning, match="do not determine"):
        result = jf.fit(lambda p, x: x * (p[0] + p[1]) + p[2], (T, DECAY), np.zeros(3))
    lower, upper = result.confidence_intervals()
    np.testing.assert_array_equal(np.isinf(upper - lower), [True, True, False])
    np.testing.assert_array_equal(np.isnan(result.correlation), ~np.diag([False, False, True]))
    band = result.confidence_band(T)  # the sum is known, and with it the curve
    plain = jf.fit(lambda p, x: x * p[0] + p[1], (T, DECAY), np.zeros(2))
    assert np.isfinite(band).all()
    np.testing.assert_allclose(band, plain.confidence_band(T), atol=0.01)
    report = str(result)
    assert "The data do not determine params[0], params[1]" in " ".join(report.split())
    assert report.count("undetermined") == 2


def test_a_band_is_infinite_where_the_model_leaves_what_the_data_know():
    with pytest.warns(jf.FitWarning, match="had no effect"):
        result = jf.fit(linear, (X[:, :2] * [1, 0], Y), np.zeros(2))
    lower, upper = result.confidence_band(np.array([[1.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(np.isinf(upper - lower), [False, True])


def test_as_many_params_as_observations():
    result = jf.fit(linear, (X[:3], Y[:3]), np.zeros(3))
    assert np.isinf(result.confidence_intervals()[1]).all()
    assert np.isinf(result.confidence_band(X)[1]).all()
    assert np.isinf(result.confidence_intervals(method="profile")[0]).all()
    with pytest.raises(ValueError, match="there are 3 observations and 3 free params"):
        _ = result.reduced_chi_squared
    assert "no more observations than params" in str(result)
    known = jf.fit(linear, (X[:3], Y[:3]), np.zeros(3), sigma=0.1, absolute_sigma=True)
    assert np.isfinite(known.confidence_intervals()[1]).all()


def test_a_perfect_fit():
    result = jf.fit(lambda p, x: p[0] * x, (np.ones(4), np.zeros(4)), np.zeros(1))
    assert result.chi_squared == 0
    assert np.isnan(result.r_squared)
    assert result.aic == -np.inf
    np.testing.assert_array_equal(result.confidence_intervals(method="profile"), np.zeros((2, 1)))
    assert "AIC" not in str(result)


def test_a_fit_that_missed_its_minimum_is_told_by_its_profile():
    with pytest.warns(jf.FitWarning, match="Not converged"):
        result = jf.fit(decay, (T, DECAY), np.array([8.0, 3.0]), steps=4)
    with pytest.warns(jf.FitWarning, match="found a lower loss than that of the fit"):
        result.confidence_intervals(method="profile")


def test_columns_of_y_have_their_own_means():
    y = np.column_stack([Y, 5 + X[:, 1]])
    result = jf.fit(linear, (X, y), np.zeros((3, 2)))
    residual = y - X @ np.linalg.lstsq(X, y)[0]
    share = 1 - (residual**2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    np.testing.assert_allclose(result.r_squared, share, rtol=1e-10)
    np.testing.assert_allclose(result.adjusted_r_squared, 1 - (1 - share) * (2 * N - 2) / (2 * N - 6), rtol=1e-10)
    assert result.confidence_band(X)[0].shape == (N, 2)


def test_a_loss_with_weights_of_its_own():
    loss = functools.partial(jf.losses.mse, weight=SIGMA)
    result, plain = jf.fit(linear, (X, Y), np.zeros(3), loss=loss), jf.fit(linear, (X, Y), np.zeros(3), weights=SIGMA)
    for name in ("r_squared", "log_likelihood", "aic", "adjusted_r_squared"):
        np.testing.assert_allclose(getattr(result, name), getattr(plain, name), rtol=1e-9)


def test_float32_params_are_jax_arrays_and_have_intervals():
    result = jf.fit(decay, (T.astype(np.float32), DECAY.astype(np.float32)), np.ones(2, np.float32))
    wide = jf.fit(decay, (T, DECAY), np.ones(2))
    for method in ("wald", "profile"):
        np.testing.assert_allclose(
            result.confidence_intervals(method=method), wide.confidence_intervals(method=method), rtol=1e-2
        )
    assert result.confidence_band(T)[0].dtype == np.float32


def test_intervals_have_the_structure_of_the_params():
    result = jf.fit(lambda p, x: x @ p["w"] + p["b"], (X[:, 1:], Y), {"w": np.zeros(2), "b": 0.0})
    for method in ("wald", "profile"):
        lower, upper = result.confidence_intervals(method=method)
        assert lower["w"].shape == upper["w"].shape == (2,)
        assert lower["b"].shape == ()
        assert (lower["w"] < result.params["w"]).all()
        assert upper["b"] > result.params["b"]


NAMES = ["covariance", "standard_errors", "correlation", "chi_squared", "degrees_of_freedom", "reduced_chi_squared"]
NAMES += ["r_squared", "adjusted_r_squared", "log_likelihood", "aic", "aicc", "bic"]
ASKED = {name: functools.partial(lambda result, name: getattr(result, name), name=name) for name in NAMES} | {
    "confidence_intervals": lambda result: result.confidence_intervals(),
    "confidence_band": lambda result: result.confidence_band(X),
    "prediction_band": lambda result: result.prediction_band(X),
}


@pytest.fixture(scope="module")
def first_order():
    return jf.fit(linear, (X, Y), np.zeros(3), optimizer=jf.optimizers.Adam(0.1), steps=5)


@pytest.mark.parametrize("name", ASKED)
def test_a_first_order_fit_says_what_would_know(first_order, name):
    with pytest.raises(ValueError, match=rf"Adam knows no curvature.* no {name}; fit by LevenbergMarquardt\(\)"):
        ASKED[name](first_order)


def test_a_first_order_fit_has_residuals(first_order):
    np.testing.assert_allclose(first_order.residuals, Y - X @ first_order.params, rtol=1e-12)


def test_a_stream_has_no_residuals():
    result = jf.fit(linear, [(X, Y)], np.zeros(3), optimizer=jf.optimizers.Adam(0.1), steps=1)
    with pytest.raises(ValueError, match="samples or a stream of batches"):
        _ = result.residuals


@pytest.fixture(scope="module")
def classified():
    model = lambda p, x: jnp.stack([jnp.zeros(len(x)), x @ p], axis=1)
    return jf.fit(model, (X, (Y > 0).astype(int)), np.zeros(3), loss=jf.losses.cross_entropy)


@pytest.mark.parametrize("name", ["chi_squared", "reduced_chi_squared", "r_squared", "adjusted_r_squared"])
def test_another_loss_has_no_chi_squared(classified, name):
    with pytest.raises(ValueError, match=f"{name} belongs to squared errors.*the loss of this fit is cross_entropy"):
        ASKED[name](classified)


def test_a_prediction_band_is_for_squared_errors(classified):
    with pytest.raises(ValueError, match="prediction_band belongs to squared errors"):
        classified.prediction_band(X)
    with pytest.raises(ValueError, match=r"one shape; they are float64\[40, 2\] and int64\[40\]"):
        _ = classified.residuals
    assert "log-likelihood" in str(classified)
    assert "chi squared" not in str(classified)


def test_a_robust_loss_has_no_likelihood():
    result = jf.fit(linear, (X, Y), np.zeros(3), loss=jf.losses.huber, optimizer=jf.optimizers.LevenbergMarquardt())
    for name in ("log_likelihood", "aic", "aicc", "bic"):
        with pytest.raises(ValueError, match="huber, is no negative log-likelihood"):
            ASKED[name](result)
    assert "found in the residuals, as huber weighs them" in str(result)


@pytest.mark.parametrize(
    ("level", "error", "sentence"),
    [
        (95, ValueError, r"level is 95; expected a number between 0 and 1, such as 0.95. Write 0.95 for 95 %"),
        (0, ValueError, "level is 0; expected a number between 0 and 1"),
        (1.0, ValueError, "level is 1.0; expected"),
        (float("nan"), ValueError, "level is nan; expected"),
        ("high", TypeError, r"level is a str \('high'\); expected a number"),
    ],
)
def test_a_level_is_a_share(fitted, level, error, sentence):
    for ask in (fitted[0].confidence_intervals, functools.partial(fitted[0].confidence_band, X)):
        with pytest.raises(error, match=sentence):
            ask(level)


def test_bad_input_of_intervals_and_bands(fitted):
    result, *_ = fitted
    with pytest.raises(ValueError, match="method is 'profil'; did you mean 'profile'"):
        result.confidence_intervals(method="profil")
    with pytest.raises(ValueError, match="goes down to -1"):
        result.prediction_band(X, sigma=-1.0)
    with pytest.raises(
        ValueError, match=r"sigma has shape \(3,\); expected one number, or that of the prediction, \(40"
    ):
        result.prediction_band(X, sigma=np.ones(3))
    with pytest.raises(TypeError, match=r"sigma is a str \('big'\); expected numbers"):
        result.prediction_band(X, sigma="big")
    with pytest.raises(ValueError, match="expected finite numbers"):
        result.confidence_band(np.full((1, 3), np.nan))


def test_sigma_that_differs_must_be_told_for_new_points():
    result = jf.fit(linear, (X, Y), np.zeros(3), sigma=SIGMA)
    with pytest.raises(ValueError, match=r"differs from point to point.*prediction_band\(x, sigma="):
        result.prediction_band(X)


def test_bands_are_compiled_once(fitted, compilations):
    result, *_ = fitted
    result.confidence_band(X)
    compilations()
    result.confidence_band(X + 1, 0.5)
    result.prediction_band(X, sigma=2.0)
    assert compilations() == 0
