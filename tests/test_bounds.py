"""Bounds and fixed params: held at every step, the best point within them, and sentences for what makes no sense."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

import jaxfit as jf

X = np.linspace(0, 4, 60)
Y = 3 * np.exp(-1.2 * X) + 0.5 + 0.05 * np.random.default_rng(0).normal(size=60)
START = {"a": 1.0, "b": 1.0, "c": 0.1}


def decay(params, x):
    return params["a"] * jnp.exp(-params["b"] * x) + params["c"]


def vector(params, x):
    return params[0] * jnp.exp(-params[1] * x) + params[2]


fit = functools.partial(jf.fit, vector, (X, Y))

BOXES = {
    "one side": ([-np.inf, -np.inf, -np.inf], [np.inf, 1.0, np.inf]),
    "two at once": ([0, 0, 0.6], [10, 1.0, 5]),
    "from above": ([0, 2, 0], [2, 9, 9]),
    "not active": ([0, 0, 0], [10, 10, 10]),
    "amplitude": ([0, 0, 0], [2.5, 9, 9]),
}


@pytest.mark.parametrize("box", BOXES)
def test_the_best_point_within_bounds(box):
    lower, upper = map(np.array, BOXES[box])
    start = np.clip([1.0, 1.0, 0.1], lower, upper)
    result = fit(start, bounds=(lower, upper), record=("params",))
    assert result.success
    visited = result.history["params"]
    assert ((visited >= lower) & (visited <= upper)).all()
    inside = np.clip(start, lower + 1e-9, upper - 1e-9)
    expected = least_squares(
        lambda p: p[0] * np.exp(-p[1] * X) + p[2] - Y, inside, bounds=(lower, upper), xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(result.params, expected.x, rtol=1e-5)
    assert result.loss * 30 <= expected.cost * (1 + 1e-12)
    touching = (result.params == lower) | (result.params == upper)
    np.testing.assert_array_equal(result.active, touching)
    assert np.isnan(result.standard_errors[touching]).all()


@pytest.mark.filterwarnings("ignore:Converged after:jaxfit.FitWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(0.25, 4), st.floats(0.25, 4)), min_size=3, max_size=3))
def test_any_box_ends_where_no_param_can_gain(pairs):
    lower, upper = np.sort(np.array(pairs), axis=1).T + np.array([0, 0.05, -1])
    start = (lower + upper) / 2
    result = fit(start, bounds=(lower, upper))
    assert result.success
    assert ((result.params >= lower) & (result.params <= upper)).all()
    with jax.enable_x64(True):
        gradient = np.asarray(jax.grad(lambda p: jnp.mean((vector(p, X) - Y) ** 2))(jnp.asarray(result.params)))
    free = (result.params > lower) & (result.params < upper)
    assert np.abs(gradient[free]).max(initial=0) < 1e-6
    assert (gradient[result.params == lower] >= -1e-6)[(lower < upper)[result.params == lower]].all()
    assert (gradient[result.params == upper] <= 1e-6)[(lower < upper)[result.params == upper]].all()


@pytest.mark.parametrize("optimizer", [jf.optimizers.SGD(0.05), jf.optimizers.Adam(0.05), jf.optimizers.Rprop(0.05)])
def test_first_order_fits_are_held_within_bounds_too(optimizer):
    bounds = (None, {"b": 1.0})
    result = jf.fit(decay, (X, Y), START, optimizer=optimizer, steps=2000, bounds=bounds, record=("params",))
    assert (result.history["params"]["b"] <= 1).all()
    expected = jf.fit(decay, (X, Y), START, bounds=bounds)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-3)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (None, {"b": 1.0}),
        ({}, {"b": 1.0}),
        ({"a": -np.inf, "b": -np.inf, "c": -np.inf}, {"a": None, "b": 1.0, "c": None}),
        (0, {"b": 1.0, "a": 99}),
        (np.float32(0), {"b": np.array(1.0)}),
    ],
    ids=["none", "empty", "full", "number", "arrays"],
)
def test_bounds_may_leave_out_what_is_free(lower, upper):
    result = jf.fit(decay, (X, Y), START, bounds=(lower, upper))
    np.testing.assert_allclose(result.params["b"], 1.0)
    assert result.active["b"]
    assert not result.active["a"]


@pytest.mark.parametrize("fixed", ["b", ("b",), {"b": True}, {"a": False, "b": np.array(True), "c": False}], ids=str)
def test_a_fixed_param_stays_and_leaves_the_errors_of_the_rest(fixed):
    result = jf.fit(decay, (X, Y), START | {"b": 1.2}, fixed=fixed)
    reduced = jf.fit(lambda p, x: decay(p | {"b": 1.2}, x), (X, Y), {"a": 1.0, "c": 0.1}, optimizer=result.optimizer)
    assert result.params["b"] == 1.2
    for name in ("a", "c"):
        np.testing.assert_allclose(result.params[name], reduced.params[name], rtol=1e-8)
        np.testing.assert_allclose(result.standard_errors[name], reduced.standard_errors[name], rtol=1e-6)
    assert np.isnan(result.standard_errors["b"])
    assert result.degrees_of_freedom == 58
    assert "fixed" in str(result)


def test_entries_of_an_array_can_be_fixed():
    result = fit(np.array([1.0, 1.2, 0.1]), fixed=[False, True, False])
    assert result.params[1] == 1.2
    adam = fit(
        np.array([1.0, 1.2, 0.1]),
        fixed=[False, True, False],
        optimizer=jf.optimizers.Adam(0.05, weight_decay=0.1),
        steps=50,
    )
    assert adam.params[1] == 1.2
    assert adam.params[0] != 1.0


def test_a_name_fixes_all_below_it():
    model = lambda p, x: decay(p["peak"], x) + p["slope"] * x
    result = jf.fit(model, (X, Y), {"peak": START, "slope": 0.0}, fixed="peak")
    assert result.params["peak"] == START
    assert result.params["slope"] != 0


def test_bounds_compile_once(compilations):
    jf.fit(decay, (X, Y), START, bounds=(0, 5))
    compilations()
    jf.fit(decay, (X, Y), START, bounds=({"a": 0.5}, {"b": 1.0}))
    jf.fit(decay, (X, Y), START, fixed="a")
    assert compilations() == 0


VALUE, TYPE = ValueError, TypeError
BAD = [
    (TYPE, r"bounds is a float \(1.0\); expected a pair", {"bounds": 1.0}),
    (TYPE, r"bounds is .*; expected a pair", {"bounds": (1.0, 2.0, 3.0)}),
    (VALUE, r"lower bound of b \(2, 1\) lies above its upper bound", {"bounds": ({"b": 2.0}, {"b": 1.0})}),
    (VALUE, r"b starts at 1, outside its bounds \[2, 3\]", {"bounds": ({"b": 2.0}, {"b": 3.0})}),
    (
        VALUE,
        r"bounds: lower names 'x', which params does not have; choose one of 'a', 'b', 'c'",
        {"bounds": ({"x": 0}, 9)},
    ),
    (VALUE, r"lower bound of a is NaN", {"bounds": ({"a": np.nan}, 9)}),
    (VALUE, r"lower bound of a is .*where params has \(\)", {"bounds": ({"a": [0, 1]}, 9)}),
    (VALUE, r"lower bound of a is .*str", {"bounds": ({"a": "low"}, 9)}),
    (VALUE, r"leaves no room", {"bounds": ({"a": np.inf}, None)}),
    (VALUE, r"fixed names 'x', which params does not have; choose one of 'a', 'b', 'c'", {"fixed": "x"}),
    (VALUE, r"fixed names 'x'", {"fixed": ("a", "x")}),
    (VALUE, r"fixed names 'x'", {"fixed": {"x": True}}),
    (TYPE, r"fixed has a float \(1.0\) for a; expected True, False or names", {"fixed": {"a": 1.0}}),
    (VALUE, r"fixed has the shape \(3,\) for a", {"fixed": [True, False, True]}),
    (VALUE, r"fixed holds all params", {"fixed": ("a", "b", "c")}),
    (VALUE, r"fixed names 'params\[7\]'", {"fixed": "params[7]"}),
    (TYPE, r"LBFGS takes neither bounds nor fixed", {"bounds": (0, 9), "optimizer": jf.optimizers.LBFGS()}),
]


@pytest.mark.parametrize(("error", "message", "options"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_bounds_and_names(error, message, options, compilations):
    compilations()
    with pytest.raises(error, match=message):
        jf.fit(decay, (X, Y), START, **options)
    assert compilations() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": ([0], [5])}, "lower has 1 entries, where params has 2"),
        ({"bounds": ([0, 0, -5], [5, 5, 5])}, "lower has 3 entries"),
        ({"fixed": [True]}, "fixed has 1 entries"),
        ({"fixed": [True, False, True]}, "fixed has 3 entries"),
    ],
    ids=str,
)
def test_lists_of_another_length(options, message):
    with pytest.raises(ValueError, match=message):
        jf.fit(lambda p, x: p[0] + p[1] * x, (X, Y), [0.0, 0.0], **options)


def test_one_entry_is_fixed_by_the_name_that_the_report_gives_it():
    result = fit(np.array([1.0, 1.2, 0.1]), fixed="params[1]")
    assert result.params[1] == 1.2
    listed = jf.fit(lambda p, x: p[0] + p[1] * x, (X, Y), [0.0, 0.0], fixed="params[0]")
    assert listed.params[0] == 0


def test_a_bound_beyond_the_precision_is_none():
    single = jf.fit(vector, (X.astype("f"), Y.astype("f")), np.ones(3, "f"), bounds=(-1e300, 1e300))
    np.testing.assert_allclose(single.params, fit(np.ones(3)).params, rtol=1e-3)
