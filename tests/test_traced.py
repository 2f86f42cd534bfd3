"""Fits inside functions that JAX transforms: the same results, and derivatives by the implicit function theorem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit as jf
from jaxfit import optimizers
from jaxfit._compile import HASTY

X = np.linspace(0, 4, 40)
Y = 3 * np.exp(-1.2 * X) + 0.5 + 0.05 * np.random.default_rng(0).normal(size=40)
START = {"a": 1.0, "b": 1.0, "c": 0.0}
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})

pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def decay(params, x):
    return params["a"] * jnp.exp(-params["b"] * x) + params["c"]


def fit(y, **options):
    return jf.fit(decay, (X, y), START, **options)


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "options", [{}, {"sigma": 0.1, "absolute_sigma": True}, {"bounds": (None, {"b": 1.1})}], ids=str
)
def test_jit_gives_what_a_plain_fit_gives(options):
    inside, outside = jax.jit(functools.partial(fit, **options))(Y), fit(Y, **options)
    for name in START:
        np.testing.assert_allclose(inside.params[name], outside.params[name], rtol=1e-12)
        np.testing.assert_allclose(inside.standard_errors[name], outside.standard_errors[name], rtol=1e-9)
    np.testing.assert_allclose(inside.covariance, outside.covariance, rtol=1e-8)
    np.testing.assert_allclose(inside.loss, outside.loss, rtol=1e-12)
    np.testing.assert_allclose(inside.predict(X), outside.predict(X), rtol=1e-10)
    assert inside.converged
    assert inside.steps == outside.steps


def test_vmap_is_a_loop():
    curves = np.stack([Y, 2 * Y, Y + 1, Y - 0.3 * X])
    together = quick(jax.vmap(fit))(jnp.asarray(curves))
    for index, curve in enumerate(curves):
        alone = fit(curve)
        for name in START:
            np.testing.assert_allclose(together.params[name][index], alone.params[name], rtol=1e-7)


def differences(function, at, indices, by=1e-5):
    return [(function(at + by * e) - function(at - by * e)) / (2 * by) for e in np.eye(len(at))[list(indices)]]


@pytest.mark.parametrize("differentiate", [jax.jacrev, jax.jacfwd])
def test_the_derivative_in_the_data(differentiate):
    rate = lambda y: fit(y).params["b"]
    slopes = quick(differentiate(rate))(jnp.asarray(Y))
    np.testing.assert_allclose(slopes[np.array([0, 7, 30])], differences(rate, Y, (0, 7, 30)), rtol=1e-5)


def test_the_derivative_of_a_linear_fit_is_the_pseudo_inverse():
    matrix = np.column_stack([np.ones(40), X, X**2])
    solution = lambda y: jf.fit(lambda p, x: x @ p, (matrix, y), np.zeros(3)).params
    jacobian = quick(jax.jacrev(solution))(jnp.asarray(Y))
    np.testing.assert_allclose(jacobian, np.linalg.pinv(matrix), atol=1e-10)


def test_the_derivative_in_sigma_weights_bounds_and_what_the_model_refers_to():
    sigma, weights = np.linspace(0.1, 1, 40), np.linspace(1, 2, 40)
    by_sigma = lambda s: fit(Y, sigma=s).params["b"]
    by_weights = lambda w: fit(Y, weights=w).params["b"]
    by_bound = lambda u: fit(Y, bounds=(None, {"b": u[0]})).params["a"]
    by_offset = lambda c: jf.fit(lambda p, x: decay(p, x) + c[0] * x, (X, Y), START).params["a"]
    by_error = lambda y: fit(y).standard_errors["b"]
    cases = [
        (by_sigma, sigma),
        (by_weights, weights),
        (by_bound, np.array([1.1])),
        (by_offset, np.array([0.1])),
        (by_error, Y),
    ]
    for function, at in cases:
        slope = quick(jax.grad(function))(jnp.asarray(at))
        first = range(min(2, len(at)))
        np.testing.assert_allclose(slope[:2], differences(function, at, first), rtol=1e-4, err_msg=str(slope))


def test_without_jit_too():
    with jax.enable_x64(False):
        y = jnp.asarray(Y, jnp.float32)
        slopes = [jax.grad(lambda y: fit(y).params["b"])(y), quick(jax.grad(lambda y: fit(y).params["b"]))(y)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_a_grad_under_a_scoped_precision_spoils_no_later_program():
    with jax.enable_x64(False):
        with jax.enable_x64(True):
            jax.grad(lambda y: fit(y).params["b"])(Y)
        np.testing.assert_allclose(quick(lambda y: jnp.sum(y))(Y), Y.sum(), rtol=1e-6)


def test_a_param_at_its_bound_does_not_follow_the_data():
    slopes = quick(jax.grad(lambda y: fit(y, bounds=(None, {"b": 1.1})).params["b"]))(jnp.asarray(Y))
    np.testing.assert_array_equal(slopes, 0)


def test_a_fixed_param_does_not_follow_the_data():
    slopes = quick(jax.grad(lambda y: fit(y, fixed="b").params["b"]))(jnp.asarray(Y))
    np.testing.assert_array_equal(slopes, 0)


def test_poisson_regression_inside_jit():
    matrix, counts = np.column_stack([np.ones(40), X]), np.round(10 * Y)
    solve = functools.partial(jf.fit, lambda p, x: x @ p, params=np.zeros(2), loss=jf.losses.poisson_nll)
    inside, outside = quick(lambda y: solve(data=(matrix, y)))(counts), solve(data=(matrix, counts))
    np.testing.assert_allclose(inside.covariance, outside.covariance, rtol=1e-8)


def test_first_order_fits_run_too_but_have_no_derivative():
    rate = lambda y, speed=0.05: fit(y, optimizer=optimizers.Adam(speed), steps=100).params["b"]
    np.testing.assert_allclose(quick(rate)(Y), rate(Y), rtol=1e-12)
    speeds = jnp.array([0.01, 0.05])
    swept = jax.vmap(lambda speed: rate(Y, speed))(speeds)
    np.testing.assert_allclose(swept[1], rate(Y), rtol=1e-10)
    with pytest.raises(TypeError, match=r"result of Adam has no derivative.*LevenbergMarquardt"):
        jax.grad(rate)(jnp.asarray(Y))


def test_minibatches_and_samplers_run_inside_jit():
    by_batches = lambda y: fit(y, optimizer=optimizers.Adam(0.05), epochs=5, batch_size=16, key=3).params["a"]
    np.testing.assert_allclose(quick(by_batches)(Y), by_batches(Y), rtol=1e-12)
    sampler = lambda key: (jnp.ones(3), 2 * jax.random.uniform(key, 3))
    by_samples = lambda key: (
        jf.fit(lambda p, x: p * x, sampler, 0.5, optimizer=optimizers.SGD(0.1), steps=5, key=key).params
    )
    np.testing.assert_allclose(quick(by_samples)(jax.random.key(1)), by_samples(jax.random.key(1)), rtol=1e-6)


def test_a_fit_that_fails_says_so_in_its_arrays():
    starts = jnp.array([1.0, -1.0])
    result = quick(jax.vmap(lambda start: jf.fit(lambda p, x: jnp.log(p) * x, (X, Y), start)))(starts)
    assert list(result.converged) == [True, False]


def test_what_has_no_place_inside():
    with pytest.raises(ValueError, match="validation, metrics and record have no place"):
        quick(functools.partial(fit, record=("params",)))(Y)
    with pytest.raises(ValueError, match="the optimizer knows no curvature"):
        _ = quick(lambda y: fit(y, optimizer=optimizers.Adam(0.1), steps=3).standard_errors)(Y)


def test_a_stream_cannot_be_run_inside():
    with pytest.raises(TypeError, match="an iterable of batches cannot be run inside jit"):
        quick(lambda p: jf.fit(lambda p, x: p * x, [(X, Y)], p, optimizer=optimizers.SGD(0.1), steps=3).params)(1.0)


def test_weighted_cross_entropy_runs_inside():
    model = lambda p, x: jnp.stack([jnp.zeros_like(x), p[0] + p[1] * x], axis=1)
    labels, weights = (Y > 1).astype(int), np.linspace(0.5, 1, 40)
    labels[::7] = 1 - labels[::7]
    solve = lambda y: jf.fit(model, (X, y), np.zeros(2), loss=jf.losses.cross_entropy, weights=weights)
    inside, outside = quick(solve)(labels), solve(labels)
    np.testing.assert_allclose(inside.params, outside.params, rtol=1e-8)
    np.testing.assert_allclose(inside.covariance, outside.covariance, rtol=1e-6)


def test_shapes_are_checked_inside():
    with pytest.raises(ValueError, match="x has 40, y has 39; expected the same leading axis"):
        quick(fit)(Y[:39])


def test_float32_stays_float32():
    with jax.enable_x64(False):
        result = quick(fit)(Y)
        assert result.params["a"].dtype == np.float32
        np.testing.assert_allclose(result.params["b"], fit(Y).params["b"], rtol=1e-3)


@pytest.mark.parametrize("unit", [1.0, 1e9, 1e12])
def test_derivatives_within_bounds_do_not_depend_on_units(unit):
    x = np.linspace(-5, 5, 60)
    y = 3 * np.exp(-0.5 * ((x - 1) / 0.8) ** 2)
    start = {"center": 0.9 * unit, "height": 2.9, "sigma": 0.7 * unit}
    center = lambda y: jf.fit(jf.models.gaussian, (x * unit, y), start).params["center"] / unit
    np.testing.assert_allclose(quick(jax.grad(center))(jnp.asarray(y))[30], -0.0379063055, rtol=1e-6)


def test_a_param_without_effect_leaves_the_others_alone():
    solve = lambda y: jf.fit(lambda p, x: p["a"] * x + 0 * p["b"], (X, y), {"a": 0.0, "b": 0.0})
    errors = quick(lambda y: solve(y).standard_errors)(Y)
    assert np.isinf(errors["b"])
    assert np.isfinite(errors["a"])
    slopes = quick(jax.grad(lambda y: solve(y).params["a"]))(jnp.asarray(Y))
    np.testing.assert_allclose(slopes, X / (X @ X), rtol=1e-10)


def inner_function(a):
    stretched = lambda x: x * a
    return lambda p, x: p[0] + p[1] * stretched(x)


REFERRING = {
    "inner function": inner_function,
    "vmap": lambda a: jax.vmap(lambda p, x: p[0] + p[1] * x * a, in_axes=(None, 0)),
    "default": lambda a: lambda p, x, a=a: p[0] + p[1] * x * a,
    "partial": lambda a: functools.partial(lambda p, x, a: p[0] + p[1] * x * a, a=a),
}


@pytest.mark.parametrize("how", REFERRING)
def test_what_the_model_refers_to_in_any_way(how):
    slope = quick(lambda a: jf.fit(REFERRING[how](a), (X, 2 * X + 1), np.zeros(2)).params[1])
    np.testing.assert_allclose(slope(2.0), 1.0, rtol=1e-8)


def test_traced_bounds_in_a_list():
    solve = quick(lambda b: jf.fit(lambda p, x: p[0] + p[1] * x, (X, Y), np.zeros(2), bounds=([0.0, b], None)).params)
    assert solve(0.0)[1] == 0
