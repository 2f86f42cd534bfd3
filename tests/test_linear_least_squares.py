"""Linear least squares in closed form: LAPACK's and the textbook's answers, and models that are not linear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit as jf
from jaxfit import _problem
from jaxfit._compile import HASTY
from jaxfit._problem import Batch, Problem
from jaxfit.optimizers import LevenbergMarquardt, LinearLeastSquares

fit = functools.partial(jf.fit, optimizer=LinearLeastSquares())
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


def linear(params, x):
    return x @ params


def by_levenberg_marquardt(*args, **options):
    return jf.fit(*args, optimizer=LevenbergMarquardt(), **options)


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    return x, x @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=50)


# Closed forms.


def test_ordinary_least_squares_with_the_textbook_s_errors(regression):
    x, y = regression
    result = fit(linear, (x, y), np.zeros(3))
    solution, residual = np.linalg.lstsq(x, y)[:2]
    covariance = np.linalg.inv(x.T @ x) * residual[0] / 47
    assert result.status is jf.Status.CONVERGED
    assert result.steps == 1
    np.testing.assert_allclose(result.params, solution, rtol=1e-12)
    np.testing.assert_allclose(result.loss, residual[0] / 50, rtol=1e-12)
    np.testing.assert_allclose(result.history["loss"], [np.mean(y**2)], rtol=1e-12)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(result.standard_errors, np.sqrt(np.diag(covariance)), rtol=1e-11)
    assert "±" in str(result)


def test_the_start_does_not_matter(regression):
    near, far = fit(linear, regression, np.zeros(3)), fit(linear, regression, np.array([1e3, -1e3, 50.0]))
    np.testing.assert_allclose(near.params, far.params, rtol=1e-12)
    np.testing.assert_allclose(near.covariance, far.covariance, rtol=1e-12)


@pytest.mark.parametrize("degree", range(2, 11))
def test_polynomials_are_as_accurate_as_lapack_s(degree):
    x = np.linspace(0, 1, 60)
    truth = np.cos(np.arange(degree + 1.0))
    y = np.polyval(truth, x)  # of a polynomial: the solution is known, and the error that of the method
    matrix = np.vander(x, degree + 1)
    above = [power > degree for power in range(10, -1, -1)]  # one program for all degrees
    params = fit(jnp.polyval, (x, y), np.zeros(11), fixed=above).params[10 - degree :]
    error = np.abs(params - truth).max()
    assert error < 10 * np.finfo(float).eps * np.linalg.cond(matrix)
    assert error < 100 * np.abs(np.linalg.lstsq(matrix, y)[0] - truth).max() + 1e-14
    if degree == 10:  # the normal equations lose all of it
        assert np.abs(np.linalg.solve(matrix.T @ matrix, matrix.T @ y) - truth).max() > 10 * error


@pytest.mark.parametrize("absolute", [False, True])
def test_sigma(regression, absolute):
    x, y = regression
    sigma = np.linspace(0.1, 2.0, 50)
    result = fit(linear, (x, y), np.zeros(3), sigma=sigma, absolute_sigma=absolute)
    scaled_x, scaled_y = x / sigma[:, None], y / sigma
    solution, chi_squared = np.linalg.lstsq(scaled_x, scaled_y)[:2]
    covariance = np.linalg.inv(scaled_x.T @ scaled_x) * (1 if absolute else chi_squared[0] / 47)
    np.testing.assert_allclose(result.params, solution, rtol=1e-12)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-10, atol=1e-15)


def test_weights_and_weights_of_zero(regression):
    x, y = regression
    weights = np.linspace(0.5, 2.0, 50) * (np.arange(50) < 40)
    result = fit(linear, (x, y), np.zeros(3), weights=weights)
    solution = np.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights * y))
    np.testing.assert_allclose(result.params, solution, rtol=1e-10)
    matrix, residual = x.T @ (weights[:, None] * x), x @ solution - y
    covariance = np.linalg.inv(matrix) * (weights @ residual**2) / 37
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-10, atol=1e-15)


def test_what_no_sample_counts_for_is_no_reason_to_refuse():
    """Where the weight is 0 the model may bend."""
    x = np.linspace(0, 1, 20)
    model = lambda params, x: jnp.where(x > 0.75, params**2, params * x)
    result = fit(model, (x, 3 * x), 1.0, weights=np.where(x > 0.75, 0.0, 1.0))
    np.testing.assert_allclose(result.params, 3, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ridge(regression, reduction):
    x, y = regression
    weights = np.linspace(0.5, 2.0, 50)
    loss = functools.partial(jf.losses.mse, reduction=reduction)
    result = jf.fit(linear, (x, y), np.ones(3), loss=loss, optimizer=LinearLeastSquares(ridge=3.0), weights=weights)
    matrix = x.T @ (weights[:, None] * x) + 3.0 * np.eye(3)
    solution = np.linalg.solve(matrix, x.T @ (weights * y))
    np.testing.assert_allclose(result.params, solution, rtol=1e-10)
    squares = weights @ (x @ solution - y) ** 2
    np.testing.assert_allclose(result.loss, squares if reduction == "sum" else squares / weights.sum(), rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.linalg.inv(matrix) * squares / 47, rtol=1e-9, atol=1e-15)


def test_a_ridge_that_leaves_the_intercept_out(regression):
    x, y = regression
    ridge = np.array([0.0, 2.0, 5.0])
    result = jf.fit(linear, (x, y), np.zeros(3), optimizer=LinearLeastSquares(ridge))
    np.testing.assert_allclose(result.params, np.linalg.solve(x.T @ x + np.diag(ridge), x.T @ y), rtol=1e-10)
    # Data that are shifted shift the intercept, and nothing else.
    shifted = jf.fit(linear, (x, y + 7), np.zeros(3), optimizer=LinearLeastSquares(ridge))
    np.testing.assert_allclose(shifted.params - result.params, [7, 0, 0], atol=1e-12)


def test_a_matrix_of_outputs(regression):
    x, _ = regression
    y = np.sin(np.arange(150.0)).reshape(50, 3)
    result = fit(linear, (x, y), np.zeros((3, 3)))
    np.testing.assert_allclose(result.params, np.linalg.lstsq(x, y)[0], rtol=1e-12)
    variance = np.sum((y - x @ np.asarray(result.params)) ** 2) / (150 - 9)
    covariance = np.kron(np.linalg.inv(x.T @ x), np.eye(3)) * variance
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-10, atol=1e-15)


def test_complex_predictions():
    x = np.linspace(0, 2, 30)
    y = (1.5 - 0.5j) * np.exp(2j * x) + 0.1 * np.cos(9 * x)
    model = lambda params, x: (params["real"] + 1j * params["imaginary"]) * jnp.exp(2j * x)
    result = fit(model, (x, y), {"real": 0.0, "imaginary": 0.0})
    basis = np.exp(2j * x)
    amplitude = np.vdot(basis, y) / np.vdot(basis, basis)
    np.testing.assert_allclose(result.params["real"] + 1j * result.params["imaginary"], amplitude, rtol=1e-12)


def test_joined_data_that_share_a_param():
    short, long = np.linspace(0, 1, 8), np.linspace(0, 3, 13)
    x = {"short": short, "long": long}
    y = {"short": 2 * short + 1 + 0.1 * np.cos(9 * short), "long": 2 * long - 3 + 0.1 * np.sin(9 * long)}
    model = lambda params, x: {name: params["slope"] * x[name] + params[name] for name in x}
    start = {"slope": 0.0, "short": 0.0, "long": 0.0}
    result = fit(model, (x, y), start, sigma={"short": 0.1, "long": 0.2})
    matrix = np.zeros((21, 3))
    matrix[:8, 0], matrix[8:, 1], matrix[:, 2] = 1, 1, np.concatenate([short, long])
    sigma = np.repeat([0.1, 0.2], [8, 13])
    right = np.concatenate([y["short"], y["long"]]) / sigma
    solution = np.linalg.lstsq(matrix / sigma[:, None], right)[0]
    np.testing.assert_allclose([result.params[name] for name in ("short", "long", "slope")], solution, rtol=1e-12)


def test_an_affine_model_and_a_weight_of_the_loss_s_own(regression):
    x, y = regression
    weight = np.linspace(0.1, 3, 50)
    loss = functools.partial(jf.losses.mse, weight=weight)
    result = fit(lambda params, x: x @ params + jnp.exp(x[:, 1]), (x, y), np.ones(3), loss=loss)
    root = np.sqrt(weight)
    solution = np.linalg.lstsq(x * root[:, None], (y - np.exp(x[:, 1])) * root)[0]
    np.testing.assert_allclose(result.params, solution, rtol=1e-11)
    np.testing.assert_allclose(result.loss, jf.losses.mse(*_pair(x, y, solution), weight=weight), rtol=1e-6)


def _pair(x, y, params):
    return x @ params + np.exp(x[:, 1]), y


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with everything"])
def test_levenberg_marquardt_says_the_same(regression, plain):
    more = {"sigma": np.linspace(0.5, 2, 50), "weights": np.linspace(0, 2, 50), "fixed": [True, False, False]}
    given = {} if plain else more
    here, there = (solve(linear, regression, np.ones(3), **given) for solve in (fit, by_levenberg_marquardt))
    np.testing.assert_allclose(here.params, there.params, rtol=1e-10)
    np.testing.assert_allclose(here.loss, there.loss, rtol=1e-12)
    np.testing.assert_allclose(here.evidence.curvature, there.evidence.curvature, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(here.covariance, there.covariance, rtol=1e-10, atol=1e-15)
    assert here.evidence.degrees_of_freedom == there.evidence.degrees_of_freedom
    np.testing.assert_allclose(here.confidence_intervals(), there.confidence_intervals(), rtol=1e-9)


def test_what_is_fixed_stays(regression):
    x, y = regression
    result = fit(linear, (x, y), np.array([0.25, 0.0, 0.0]), fixed=[True, False, False])
    assert result.params[0] == 0.25
    np.testing.assert_allclose(result.params[1:], np.linalg.lstsq(x[:, 1:], y - 0.25)[0], rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(result.standard_errors), [True, False, False])


def test_a_model_that_is_linear_in_what_is_free():
    x = np.linspace(0, 4, 30)
    model = lambda params, x: params["height"] * jnp.exp(-params["rate"] * x) + params["offset"]
    start = {"height": 1.0, "rate": 0.7, "offset": 0.0}
    y = 2 * np.exp(-0.7 * x) + 0.3
    result = fit(model, (x, y), start, fixed="rate")
    np.testing.assert_allclose([result.params[name] for name in start], [2, 0.7, 0.3], rtol=1e-12)


def test_bounds_that_the_solution_keeps(regression):
    bounded = fit(linear, regression, np.zeros(3), bounds=(-5.0, 5.0))
    np.testing.assert_allclose(bounded.params, fit(linear, regression, np.zeros(3)).params, rtol=1e-13)
    np.testing.assert_array_equal(bounded.active, False)


def test_bounds_that_the_solution_leaves(regression):
    with pytest.raises(ValueError, match=r"does not hold bounds.*LevenbergMarquardt\(\)"):
        fit(linear, regression, np.zeros(3), bounds=(-1.0, 1.0))


# Blocks.


def test_blocks_and_the_whole_agree(monkeypatch):
    rng, rows = np.random.default_rng(3), 5003
    x = rng.normal(size=(rows, 4))
    y = x @ rng.normal(size=(4, 2)) + rng.normal(size=(rows, 2))
    given = {"sigma": rng.uniform(1, 2, (rows, 2)), "weights": rng.uniform(0, 2, rows)}
    found = {}
    for size in (64, None):
        monkeypatch.setattr(_problem, "block_size", lambda *_, size=size: size)
        found[size] = fit(linear, (x, y), np.zeros((4, 2)), **given)
    np.testing.assert_allclose(found[64].params, found[None].params, rtol=1e-11)
    np.testing.assert_allclose(found[64].loss, found[None].loss, rtol=1e-12)
    np.testing.assert_allclose(found[64].covariance, found[None].covariance, rtol=1e-9, atol=1e-15)


def test_a_million_samples_need_no_more_memory_than_a_few():
    rows, degree = 1_000_000, 5
    x = np.linspace(-1, 1, rows)
    y = np.cos(3 * x)
    optimizer, start = LinearLeastSquares(), np.zeros(degree + 1)
    with jax.enable_x64(True):
        batch = Batch(x, y)
        problem = Problem(jnp.polyval, jf.losses.mse, block=_problem.block_size(degree + 1, batch, jf.losses.mse))
        state, key = optimizer.init(problem, jnp.asarray(start)), jax.random.key(0)
        step = jax.jit(functools.partial(optimizer.step, problem)).lower(state, batch, key).compile()
        assert step.memory_analysis().temp_size_in_bytes < rows * (degree + 1) * 8 / 2
        state, _ = step(state, batch, key)
        optimizer.check_end(state)
    matrix = np.vander(x, degree + 1)
    solution = np.linalg.solve(matrix.T @ matrix, matrix.T @ y)  # the condition is small enough
    np.testing.assert_allclose(state.params, solution, rtol=1e-10, atol=1e-11)


# Models that are not linear.


NOT_LINEAR = {
    "quadratic": lambda p, x: p[0] ** 2 * x + p[1],
    "quadratic, flat at the start": lambda p, x: (p[0] - 0.25) ** 2 * x + p[1],
    "product": lambda p, x: p[0] * p[1] * x,
    "exponential": lambda p, x: p[0] * jnp.exp(p[1] * x),
    "linear only at the start": lambda p, x: jnp.where(p[0] < 0.3, p[0], 0.3 + 2 * (p[0] - 0.3)) * x + p[1],
    "linear on one side": lambda p, x: jnp.abs(p[0]) * x + p[1],
    "a step": lambda p, x: jnp.floor(p[0]) * x + p[1] * x,
    "beyond its domain": lambda p, x: jnp.where(p[0] < 0.3, p[0] * x, jnp.nan) + p[1],
    "of one sample only": lambda p, x: p[0] * x + jnp.where(x == 1, p[1] ** 2, p[1]),
    "a small bend": lambda p, x: p[0] * x + p[1] + 1e-3 * p[0] ** 2,
    "a bend of a millionth": lambda p, x: p[0] * x + p[1] + 1e-6 * p[0] ** 2,
}


def one_of_them(params, x):
    """All in one program; which of them it is stands in the data."""
    return jnp.stack([model(params, x[:, 0]) for model in NOT_LINEAR.values()])[x[0, 1].astype(int)]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, np.float64) for name in NOT_LINEAR]
    + [(name, np.float32) for name in NOT_LINEAR if name != "a bend of a millionth"],
)
def test_a_model_that_is_not_linear_is_refused(name, dtype):
    x = np.linspace(0, 1, 30)
    data = np.stack([x, np.full(30, list(NOT_LINEAR).index(name))], axis=1).astype(dtype), (2 * x + 1).astype(dtype)
    with pytest.raises(ValueError, match=r"linear in its params; .* up to \S+ away .* LevenbergMarquardt\(\)"):
        fit(one_of_them, data, np.full(2, 0.25, dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_rounding_is_no_bend(dtype, scale):
    """Params of very different sizes, and sums in which large terms cancel."""
    x = np.linspace(0, 1, 50)
    columns = np.stack([1e6 * (1 + x), 1e3 * x**2, 1e-4 * np.cos(40 * x)], axis=1).astype(dtype)
    y = (scale * (np.sin(3 * x) + 1e3)).astype(dtype)
    for start in (np.zeros(3), np.array([1e3, -2e6, 1e9])):
        result = fit(linear, (columns, y), start.astype(dtype))
        assert result.success
        if not start.any():
            solution = np.linalg.lstsq(columns.astype(float), y.astype(float))[0]
            np.testing.assert_allclose(columns @ result.params, columns @ solution, rtol=1e3 * np.finfo(dtype).eps)


# Precision, rank, failures.


def test_float32(regression):
    x, y = (part.astype(np.float32) for part in regression)
    result = fit(linear, (x, y), np.zeros(3, np.float32))
    assert result.success
    assert np.asarray(result.params).dtype == np.float32
    np.testing.assert_allclose(result.params, np.linalg.lstsq(*regression)[0], rtol=2e-6)
    np.testing.assert_allclose(result.standard_errors, fit(linear, regression, np.zeros(3)).standard_errors, rtol=1e-5)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_params_that_the_data_do_not_determine_are_those_of_least_norm(regression, start):
    x, y = regression
    double = np.column_stack([x, 2 * x[:, 0], np.zeros(50)])  # the constant twice, and a param that does nothing
    with pytest.warns(jf.FitWarning, match="do not determine"):
        result = fit(linear, (double, y), np.full(5, start))
    np.testing.assert_allclose(result.params, np.linalg.lstsq(double, y)[0], rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(np.isinf(result.standard_errors), [True, False, False, True, True])
    np.testing.assert_array_equal(result.evidence.undetermined, [True, False, False, True, True])
    if start:  # the limit of a small ridge
        shrunk = jf.fit(linear, (double, y), np.full(5, start), optimizer=LinearLeastSquares(1e-6))
        np.testing.assert_allclose(shrunk.params, result.params, rtol=1e-6, atol=1e-9)


def test_fewer_samples_than_params(regression):
    x, y = regression
    with pytest.warns(jf.FitWarning, match="do not determine"):
        result = fit(linear, (x[:2], y[:2]), np.zeros(3))
    np.testing.assert_allclose(result.params, np.linalg.lstsq(x[:2], y[:2])[0], rtol=1e-12)
    assert result.loss < 1e-25
    assert np.isinf(result.standard_errors).all()


def test_the_rank_does_not_hang_on_units(regression):
    x, y = regression
    units = np.array([1e-9, 1.0, 1e9])
    result = fit(linear, (x * units, y), np.zeros(3))
    np.testing.assert_allclose(result.params * units, np.linalg.lstsq(x, y)[0], rtol=1e-11)
    assert np.isfinite(result.standard_errors).all()


@pytest.mark.parametrize(("start", "message"), [(-1.0, "loss is nan"), (0.0, "gradient is not finite")])
def test_what_is_not_finite_at_the_start(start, message):
    with pytest.warns(jf.FitWarning, match=f"{message} at the starting params"):
        result = fit(lambda p, x: jnp.sqrt(p) * x, (np.ones(3), np.ones(3)), start)
    assert result.status is jf.Status.NON_FINITE


def test_data_and_params_of_zero(regression):
    result = fit(linear, (regression[0], np.zeros(50)), np.zeros(3))
    assert result.success
    np.testing.assert_array_equal(result.params, 0)


# Programs.


def test_a_second_fit_compiles_nothing(regression, compilations):
    x, y = regression
    fit(linear, (x, y), np.zeros(3))
    shrunk = LinearLeastSquares(np.array([0.0, 2.0, 5.0]))
    jf.fit(linear, (x, y), np.zeros(3), optimizer=shrunk)
    compilations()
    fit(linear, (x, 2 * y), np.ones(3))
    jf.fit(linear, (x, y), np.ones(3), optimizer=LinearLeastSquares(np.ones(3)))
    assert compilations() == 0


def test_it_ends_by_itself_and_evaluates_no_more(regression):
    """The program holds the model's evaluations in a branch that the second step does not take."""
    x, y = (jnp.asarray(part, jnp.float32) for part in regression)
    calls = []

    def model(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return x @ params

    optimizer, problem = LinearLeastSquares(), Problem(model, jf.losses.mse)
    step = quick(functools.partial(optimizer.step, problem))
    state, info = step(optimizer.init(problem, jnp.zeros(3)), Batch(x, y), jax.random.key(0))
    jax.effects_barrier()
    seen = len(calls)
    assert seen > 0
    assert not info.converged
    after, info = step(state, Batch(x, y), jax.random.key(0))
    jax.effects_barrier()
    assert len(calls) == seen
    assert info.converged
    jax.tree.map(np.testing.assert_array_equal, after, state)


# The protocol of the optimizers.


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_a_step_keeps_structure_shapes_and_dtypes(dtype):
    def describe(tree):
        return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)

    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(0, 1, 9).astype(dtype)
        params = {"slope": jnp.zeros((), dtype), "offset": jnp.zeros((1,), dtype)}
        problem = Problem(lambda p, x: p["slope"] * x + p["offset"], jf.losses.mse)
        for ridge in (0.0, 0.5, np.array([0.5, 0.0])):
            optimizer = LinearLeastSquares(ridge)
            before = jax.eval_shape(functools.partial(optimizer.init, problem), params)
            step = functools.partial(optimizer.step, problem)
            after, info = jax.eval_shape(step, before, Batch(x, x), jax.random.key(0))
            assert describe(before) == describe(after)
            assert describe(after.params) == describe(params)
            assert info.loss.shape == info.gradient_norm.shape == jnp.shape(info.converged) == ()


def test_half_precision():
    x = jnp.linspace(0, 1, 9).astype(jnp.bfloat16)
    result = fit(lambda p, x: p[0] * x + p[1], (x, 2 * x + 1), jnp.zeros(2, jnp.bfloat16))
    assert result.params.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(result.params, float), [2, 1], rtol=0.02)


def test_numbers_are_leaves():
    assert jax.tree.leaves(LinearLeastSquares(0.5)) == [0.5]
    assert jax.tree.leaves(LinearLeastSquares()) == []
    assert LinearLeastSquares(0.5) == LinearLeastSquares(ridge=0.5) != LinearLeastSquares(0.25)
    assert repr(LinearLeastSquares()) == "LinearLeastSquares()"
    assert repr(LinearLeastSquares(0.5)) == "LinearLeastSquares(ridge=0.5)"


# Bad input.


@pytest.mark.parametrize("ridge", ["much", None, [1.0], True, np.array(["a"])], ids=str)
def test_a_ridge_that_is_no_number(ridge):
    with pytest.raises(TypeError, match=r"LinearLeastSquares: ridge is .* expected a number"):
        LinearLeastSquares(ridge)


@pytest.mark.parametrize(
    "ridge", [-1.0, np.nan, np.inf, np.array([1.0, -1.0]), np.array([1.0, np.inf]), np.array([1j])], ids=str
)
def test_a_ridge_out_of_range(ridge):
    with pytest.raises(ValueError, match=r"LinearLeastSquares: ridge is .*; expected .*finite.* at least 0"):
        LinearLeastSquares(ridge)


def test_a_ridge_of_another_length(regression):
    with pytest.raises(
        (TypeError, ValueError), match=r"ridge is float64\[2\]; expected one number, or as many .* \[3\]"
    ):
        jf.fit(linear, regression, np.zeros(3), optimizer=LinearLeastSquares(np.ones(2)))


@pytest.mark.parametrize(
    "loss",
    [jf.losses.huber, jf.losses.cross_entropy, lambda p, t: jnp.mean((p - t) ** 2), functools.partial(jf.losses.l1)],
    ids=["huber", "cross entropy", "one's own", "l1"],
)
def test_another_loss_is_refused(regression, loss):
    with pytest.raises(TypeError, match=r"minimises losses\.mse alone; loss is .*LevenbergMarquardt"):
        fit(linear, regression, np.zeros(3), loss=loss)


def test_parts_of_the_data_are_refused(regression):
    with pytest.raises(ValueError, match="needs all the data at every step"):
        fit(linear, regression, np.zeros(3), batch_size=10)
    with pytest.raises(ValueError, match="needs all the data at every step"):
        fit(linear, [regression], np.zeros(3))


# Inside functions that JAX transforms.


@pytest.fixture
def single(regression):
    return tuple(jnp.asarray(part, jnp.float32) for part in regression)


def test_under_jit_and_vmap(single):
    x, y = single

    @quick
    @jax.vmap
    def both(y):
        # Nothing can be raised here: that the second is not linear shows in `converged`.
        found = fit(linear, (x, y), jnp.zeros(3))
        return found, found.standard_errors, fit(lambda p, x: x @ p**2, (x, y), jnp.ones(3)).converged

    found, errors, bent = both(jnp.stack([y, 2 * y]))
    assert found.converged.all()
    assert not bent.any()
    np.testing.assert_array_equal(found.steps, 1)
    solution, residual = np.linalg.lstsq(x, y)[:2]
    np.testing.assert_allclose(found.params, np.stack([solution, 2 * solution]), rtol=1e-5)
    expected = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * residual[0] / 47)
    np.testing.assert_allclose(errors, np.stack([expected, 2 * expected]), rtol=1e-4)


def test_the_derivative_is_that_of_the_closed_form():
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=20))
        weights = jnp.asarray(rng.uniform(0.5, 2, 20))

        def closed(x, y, weights):
            return jnp.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights * y))

        def fitted(x, y, weights):
            return fit(linear, (x, y), jnp.zeros(3), weights=weights).params

        def slope(solve):
            return quick(jax.grad(lambda *data: solve(*data) @ jnp.array([1.0, -2, 3]), (0, 1, 2)))(x, y, weights)

        here, there = slope(fitted), slope(closed)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), here, there)


def test_a_sweep_over_ridges(single):
    x, y = single
    ridges = jnp.asarray([0.1, 1.0, 10.0])
    sweep = jax.vmap(lambda ridge: jf.fit(linear, (x, y), jnp.zeros(3), optimizer=LinearLeastSquares(ridge)).params)
    found = quick(sweep)(ridges)
    for ridge, params in zip(ridges, found, strict=True):
        np.testing.assert_allclose(params, np.linalg.solve(x.T @ x + ridge * np.eye(3), x.T @ y), rtol=1e-4)


def test_the_derivative_of_a_ridge_is_that_of_the_closed_form():
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=20))

        def closed(ridge, y):
            return jnp.linalg.solve(x.T @ x + ridge * jnp.eye(3), x.T @ y)

        def fitted(ridge, y):
            return jf.fit(linear, (x, y), jnp.zeros(3), optimizer=LinearLeastSquares(ridge)).params

        def slope(solve):
            return quick(jax.jacobian(solve, (0, 1)))(jnp.asarray(2.0), y)

        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), slope(fitted), slope(closed))
        traced = quick(lambda y: jf.fit(linear, (x, y), jnp.zeros(3), optimizer=LinearLeastSquares(2.0)).covariance)
        plain = jf.fit(linear, (np.asarray(x), np.asarray(y)), np.zeros(3), optimizer=LinearLeastSquares(2.0))
        np.testing.assert_allclose(traced(y), plain.covariance, rtol=1e-8)
