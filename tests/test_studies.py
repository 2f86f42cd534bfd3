"""Studies of many fits: from many starts, over hyperparameters, of several seeds, to resampled data."""

import functools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxfit as jf
from jaxfit import FitWarning, losses, nn
from jaxfit.optimizers import SGD, Adam, AdamW, LevenbergMarquardt
from nist import MODELS, digits, load

RANDOM = np.random.default_rng(7)
# A wave whose loss has a minimum at many frequencies: fit finds that next to its start.
TIMES = np.linspace(0, 10, 60)
WAVE = 2 * np.sin(4 * TIMES) + 0.1 * RANDOM.normal(size=60)
START = {"frequency": 1.0, "height": 1.0}
BOX = ({"frequency": 0.1, "height": 0.1}, {"frequency": 9.0, "height": 5.0})
STARTS = 16
# A line in single precision, and the same in double.
X = np.linspace(0, 1, 20).astype(np.float32)
Y = (3 * X + 1 + 0.1 * RANDOM.normal(size=20)).astype(np.float32)
LINE = {"slope": 0.0, "offset": 0.0}
POINTS = X[:, None], Y[:, None]
STEPS = 30


pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def wave(params, x):
    return params["height"] * jnp.sin(params["frequency"] * x)


def line(params, x):
    return params["slope"] * x + params["offset"]


def draw(key):
    x = jax.random.uniform(key, (8,))
    return x, 3 * x + 1


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def row(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def starts_of(results):
    """The params that each fit began with, as arrays with the fits as their first axis."""
    return jax.tree.map(lambda *parts: np.stack(parts), *(result.start for result in results))


# From many starts.


def many_starts(**options):
    options = {"params": START, "starts": STARTS, "bounds": BOX} | options
    return jf.multistart(wave, (TIMES, WAVE), options.pop("params"), **options)


@pytest.fixture(scope="module")
def waves():
    return many_starts()


def test_multistart_finds_the_minimum_that_fit_misses(waves):
    alone = jf.fit(wave, (TIMES, WAVE), START, bounds=BOX)
    assert alone.loss > 100 * waves.best.loss
    np.testing.assert_allclose([waves.best.params[name] for name in ("frequency", "height")], [4, 2], rtol=0.02)
    assert waves.best.status is jf.Status.CONVERGED


def test_every_fit_of_a_multistart_is_fit_from_that_start(waves):
    assert len(waves) == STARTS
    for index, result in enumerate(waves):
        alone = jf.fit(wave, (TIMES, WAVE), result.start, bounds=BOX)
        close(result.params, alone.params, rtol=1e-9)
        close(row(waves.params, index), alone.params, rtol=1e-9)
        np.testing.assert_allclose([result.loss, waves.loss[index]], alone.loss, rtol=1e-9)
        assert result.status is alone.status
        assert waves.steps[index] == result.steps == alone.steps


def test_best_and_order_rank_the_fits(waves):
    assert sorted(waves.order) == list(range(STARTS))
    assert (np.diff(waves.loss[waves.order]) >= 0).all()
    assert waves.best.loss == waves.loss.min()
    close(waves.best.params, row(waves.params, int(np.argmin(waves.loss))), rtol=0)
    np.testing.assert_array_equal(waves.scores, waves.loss)


@pytest.mark.parametrize("method", ["sobol", "latin_hypercube"])
def test_starts_are_drawn_within_the_bounds_after_that_of_the_user(method):
    starts = starts_of(many_starts(method=method, key=3))
    for name, values in starts.items():
        assert values[0] == START[name]
        assert len(set(values)) == STARTS
        share = (values - BOX[0][name]) / (BOX[1][name] - BOX[0][name])
        assert share.min() >= 0
        assert share.max() <= 1
        # Either method puts one point into each of so many slices of the box; the first has made way for the user's.
        assert len({int(part) for part in share[1:] * STARTS}) == STARTS - 1


def test_the_draw_depends_on_the_key_alone(waves):
    again, another, same_kind = (many_starts(key=key) for key in (0, 1, jax.random.key(1)))
    close(again.params, waves.params, rtol=0)
    first, second, third = map(starts_of, (waves, another, same_kind))
    assert (first["frequency"][1:] != second["frequency"][1:]).all()
    close(second, third, rtol=0)


def test_params_that_are_fixed_stay_and_need_no_bounds():
    bounds = ({"frequency": 0.1}, {"frequency": 9.0})
    results = many_starts(params={"frequency": 1.0, "height": 2.0}, bounds=bounds, fixed="height")
    np.testing.assert_array_equal(results.params["height"], 2.0)
    np.testing.assert_array_equal(starts_of(results)["height"], 2.0)
    np.testing.assert_allclose(results.best.params["frequency"], 4, rtol=1e-2)


def test_given_starts_are_taken_as_they_are():
    starts = {"frequency": np.array([1.0, 3.9, 6.0]), "height": np.array([1.0, 2.0, 3.0])}
    results = jf.multistart(wave, (TIMES, WAVE), starts=starts)
    close(starts_of(results), starts, rtol=0)
    assert results.order[0] == 1
    for index in range(3):
        alone = jf.fit(wave, (TIMES, WAVE), row(starts, index))
        close(row(results.params, index), alone.params, rtol=1e-9)


def test_multistart_solves_a_certified_problem_from_far_off():
    problem = load("Eckerle4")  # from the first certified start many programs fail
    start = problem.starts[0]
    starts = start * np.array([[1, 1, 1], [1, 1, 0.9], [1, 2, 0.92]])
    results = jf.multistart(MODELS["Eckerle4"], (problem.x, problem.y), starts=starts)
    assert digits(results.best.params, problem.params) > 6
    np.testing.assert_allclose(results.best.standard_errors, problem.standard_errors, rtol=1e-5)


def test_multistart_is_quiet_where_some_fits_end_badly_and_warns_where_all_do():
    starts = {"frequency": np.array([np.nan, 3.9, 1.0]), "height": np.ones(3)}
    results = jf.multistart(wave, (TIMES, WAVE), starts=starts)  # a warning would be an error here
    assert results.status.tolist() == ["non_finite", "converged", "converged"]
    assert np.isnan(results.params["height"][0])
    assert results.order.tolist() == [1, 2]
    sound = jf.multistart(wave, (TIMES, WAVE), starts=starts | {"frequency": np.array([2.0, 3.9, 1.0])})
    close(row(results.params, slice(1, 3)), row(sound.params, slice(1, 3)), rtol=0)
    with pytest.warns(FitWarning, match="3 of 3 fits") as caught:
        lost = jf.multistart(wave, (TIMES, WAVE), starts=starts | {"frequency": np.full(3, np.nan)})
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="none of the fits has a finite loss"):
        _ = lost.best


def test_a_single_fit_has_no_deviation():
    mean, deviation = many_starts(starts=1).spread(TIMES)
    assert mean.shape == deviation.shape == (60,)
    assert np.isnan(deviation).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bounds": None}, ValueError, "finite bounds for all params"),
        ({"bounds": ({"height": 0.0}, {"height": 2.0})}, ValueError, "finite bounds for all params"),
        ({"bounds": ({"frequency": 2.0}, {"frequency": 3.0})}, ValueError, "frequency starts at 1, outside"),
        ({"method": "grid"}, ValueError, "method is 'grid'; choose one of"),
        ({"starts": 0}, ValueError, "starts is 0"),
        ({"starts": True}, ValueError, "starts is a bool"),
        ({"starts": 3.0}, ValueError, "starts is a float"),
        ({"starts": {"frequency": np.ones(3), "height": np.ones(2)}}, ValueError, "a first axis of starts"),
        ({"starts": {"frequency": np.array([1.0, 20.0]), "height": np.ones(2)}}, ValueError, "fit 2 starts at 20"),
        ({"starts": {"rate": np.ones(3), "height": np.ones(3)}}, ValueError, "starts"),
        ({"key": "a"}, TypeError, "key is a str"),
    ],
    ids=lambda entry: next(iter(entry)) if isinstance(entry, dict) else None,
)
def test_bad_starts_are_named(options, error, message):
    with pytest.raises(error, match=message):
        many_starts(**options)


def test_wide_bounds_of_single_precision_do_not_overflow():
    results = jf.multistart(line, (X, Y), LINE, bounds=(-3e38, 3e38), starts=4)
    starts = np.concatenate([np.ravel(one.start[name]) for one in results for name in one.start])
    assert np.isfinite(starts).all()
    assert results.success[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])
def test_inside_jit_a_study_is_refused(dtype):
    x = TIMES.astype(dtype)
    with pytest.raises(TypeError, match="inside jit, vmap or grad"):
        jax.jit(lambda y: jf.multistart(wave, (x, y), START, starts=2, bounds=BOX).loss)(WAVE.astype(dtype))


def test_lists_of_numbers_are_data_with_their_weights_and_sigma():
    lists = TIMES.tolist(), WAVE.tolist()
    expected = many_starts(sigma=np.full(60, 0.1), weights=np.ones(60)).best
    found = jf.multistart(wave, lists, START, bounds=BOX, starts=STARTS, sigma=[0.1] * 60, weights=[1.0] * 60).best
    close(found.params, expected.params, rtol=1e-9)


# Over hyperparameters.


def sweep(grid, optimizer=None, data=(X, Y), params=LINE, model=line, steps=STEPS, **options):
    return jf.sweep(model, data, params, grid=grid, optimizer=optimizer, steps=steps, **options)


def is_a_loop(results, optimizer, tolerance, data=(X, Y), params=LINE, model=line, **options):
    """Whether each fit of a sweep is what fit makes of its settings."""
    options = {"steps": STEPS} | options
    for index in range(len(results)):
        settings = {name: values[index].item() for name, values in results.settings.items()}
        own = {"key": settings.pop("key")} if "key" in settings else {}
        chosen = type(optimizer)(
            **{f: getattr(optimizer, f) for f in ("learning_rate", "momentum") if hasattr(optimizer, f)} | settings
        )
        alone = jf.fit(model, data, params, optimizer=chosen, **options | own)
        close(row(results.params, index), alone.params, rtol=tolerance, atol=tolerance)
        close(results[index].params, alone.params, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.1), AdamW(0.1)], ids=["SGD", "Adam", "AdamW"])
def test_a_sweep_is_a_loop_of_fit(optimizer, dtype):
    data = X.astype(dtype), Y.astype(dtype)
    params = {name: np.zeros((), dtype) for name in LINE}
    results = sweep({"learning_rate": [0.1, 0.3, 0.03], "weight_decay": [0.01, 0.1]}, optimizer, data, params)
    assert results.params["slope"].dtype == dtype
    is_a_loop(results, optimizer, 1e-6 if dtype == np.float32 else 1e-10, data, params)


def test_a_zero_in_the_grid_is_a_value_like_any_other():
    results = sweep({"weight_decay": [0.0, 0.1], "momentum": [0.0, 0.9]}, SGD(0.1))
    is_a_loop(results, SGD(0.1), 1e-6)


def test_settings_are_all_combinations_the_last_name_fastest():
    grid = {"weight_decay": (0.01, 0.1), "learning_rate": np.array([0.1, 0.3, 0.03]), "key": range(2)}
    results = sweep(grid, SGD())
    assert list(results.settings) == list(grid)
    np.testing.assert_array_equal(results.settings["weight_decay"], np.repeat([0.01, 0.1], 6))
    np.testing.assert_array_equal(results.settings["learning_rate"], np.tile(np.repeat([0.1, 0.3, 0.03], 2), 2))
    np.testing.assert_array_equal(results.settings["key"], np.tile([0, 1], 6))
    assert len(results) == 12


@pytest.mark.parametrize("seeds", [[0, 3], np.arange(2, dtype=np.uint32), np.array([5])], ids=["list", "uint32", "one"])
def test_seeds_are_those_of_fit(seeds):
    options = {"batch_size": 5, "steps": 6}
    is_a_loop(sweep({"key": seeds}, SGD(0.1), **options), SGD(0.1), 1e-6, **options)


def test_a_sweep_of_seeds_alone_needs_no_optimizer():
    results = sweep({"key": [0, 1]}, steps=None)
    assert results.success.all()
    close(row(results.params, 0), row(results.params, 1), rtol=0)


def test_a_sweep_of_a_sampler_is_a_loop_of_fit():
    results = sweep({"learning_rate": [0.1, 0.3]}, SGD(), draw, validation=(X, 3 * X + 1))
    assert results.success.all()
    is_a_loop(results, SGD(), 1e-6, draw)
    assert results.order.tolist() == [1, 0]


def dropping(seed=0):
    rngs = nn.Rngs(seed)
    return nn.Sequential(nn.Linear(1, 4, rngs=rngs), nn.Dropout(0.5, rngs=rngs), nn.Linear(4, 1, rngs=rngs))


def test_a_sweep_of_a_module_with_dropout_and_batches_is_a_loop_of_fit():
    module, options = dropping(), {"batch_size": 5, "steps": None, "epochs": 2}
    results = sweep({"learning_rate": [0.05, 0.1], "key": [0, 1]}, SGD(), POINTS, None, module, **options)
    is_a_loop(results, SGD(), 2e-6, POINTS, None, module, **options)
    assert not np.allclose(results.loss[0], results.loss[1])  # a seed has its own dropout
    np.testing.assert_allclose(results[1].model(POINTS[0]), results.predict(POINTS[0])[1], rtol=1e-5, atol=1e-6)
    for index, prediction in enumerate(results.predict(POINTS[0])):
        np.testing.assert_allclose(results.loss[index], np.mean((prediction - POINTS[1]) ** 2), rtol=1e-5)


def test_a_sweep_of_a_linen_module_initialises_it_from_each_key():
    module = linen.Dense(1)
    results = sweep({"learning_rate": [0.05, 0.1], "key": [0, 1]}, SGD(), POINTS, None, module)
    is_a_loop(results, SGD(), 1e-6, POINTS, None, module)


def test_scores_of_validation_data_rank_the_fits():
    further = X + 2, 5 * (X + 2)  # a steeper line, which the fits that have gone furthest come closest to
    results = sweep({"learning_rate": [0.3, 0.01, 0.1]}, SGD(), validation=further)
    predictions = results.predict(further[0])
    np.testing.assert_allclose(results.scores, np.mean((predictions - further[1]) ** 2, axis=1), rtol=1e-5)
    assert results.order.tolist() == np.argsort(results.scores).tolist()
    close(results.best.params, row(results.params, int(np.argmin(results.scores))), rtol=0)
    assert not np.allclose(results.scores, results.loss)


@pytest.mark.parametrize("validation", [3, (X, Y[:3]), (X,)], ids=["number", "lengths", "one"])
def test_bad_validation_data_are_named(validation):
    with pytest.raises((TypeError, ValueError), match="validation"):
        sweep({"learning_rate": [0.1]}, SGD(), validation=validation)


def test_a_sweep_is_one_compilation_and_another_one_none(compilations):
    def model(params, x):  # nobody has compiled this
        return params["slope"] * x + params["offset"] + 0 * x**2

    sweep({"learning_rate": [0.1, 0.2, 0.3]}, SGD())
    compilations()
    first = sweep({"learning_rate": [0.1, 0.2, 0.3]}, SGD(), model=model)
    assert compilations() == 1
    assert first.compile_seconds > 0
    second = sweep({"learning_rate": [0.01, 0.4, 0.02]}, SGD(), model=model)
    assert compilations() == 0
    assert second.compile_seconds == 0
    assert (first.loss != second.loss).all()


def test_rates_that_diverge_say_so_and_harm_nobody():
    rates = [0.1, 3.0, 100.0, 0.3]
    with pytest.warns(FitWarning, match="2 of 4 fits did not end as they should: 2 diverged") as caught:
        results = sweep({"learning_rate": rates}, SGD(), steps=100)
    assert caught[0].filename == __file__
    assert results.status.tolist() == ["completed", "diverged", "diverged", "completed"]
    sound = sweep({"learning_rate": [0.1, 0.2, 0.2, 0.3]}, SGD(), steps=100)
    for index in (0, 3):
        close(row(results.params, index), row(sound.params, index), rtol=0)
    assert results.order[:2].tolist() == [3, 0]
    for index in (1, 2):  # the last params whose loss is finite, as fit has them
        with pytest.warns(FitWarning, match="The loss went from"):
            alone = jf.fit(line, (X, Y), LINE, optimizer=SGD(rates[index]), steps=100)
        assert results.steps[index] == alone.steps
        close(row(results.params, index), alone.params, rtol=1e-3)


def test_a_rate_that_explodes_at_once_ends_where_fit_ends():
    with pytest.warns(FitWarning):
        results = sweep({"learning_rate": [0.1, 1e30]}, SGD(), steps=100)
    assert results.status.tolist() == ["completed", "non_finite"]
    assert results.steps.tolist() == [100, 0]
    assert results.params["slope"][1] == 0.0


def test_what_is_made_large_has_its_best_where_it_is_largest():
    results = sweep({"learning_rate": [0.01, 0.3]}, SGD(maximize=True), loss=lambda p, y: -losses.mse(p, y))
    assert results.order.tolist() == [1, 0]
    assert results.best.loss == results.loss.max()


def test_what_is_made_large_may_grow():
    alone = jf.fit(line, (X, Y), LINE, optimizer=SGD(0.2, maximize=True), steps=STEPS)
    results = sweep({"learning_rate": [0.1, 0.2]}, SGD(maximize=True))
    assert results.loss[1] > 1e3 * np.mean(Y**2)
    assert results.status[1] == alone.status.value == "completed"


def test_a_sweep_of_a_second_order_optimizer_takes_its_second_try_too():
    def sums(params, x):
        return params["a"] * jnp.exp(-params["b"] * x) + params["c"] * jnp.exp(-params["d"] * x)

    x = X.astype(float)
    y = np.asarray(np.exp(-x) + 2 * np.exp(-10 * x))
    start = {"a": 1.0, "b": 300.0, "c": 1.0, "d": -20.0}  # from here the first try ends badly
    rates = [1e-3, 1e-1, 10.0]
    results = sweep({"initial_damping": rates}, LevenbergMarquardt(), (x, y), start, sums, steps=None)
    for index, rate in enumerate(rates):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jf.FitWarning)  # a term may end without effect
            alone = jf.fit(sums, (x, y), start, optimizer=LevenbergMarquardt(initial_damping=rate))
        np.testing.assert_allclose(results.loss[index], alone.loss, rtol=1e-6, atol=1e-12)


def test_bounds_of_a_sweep_are_shared_whatever_their_length():
    model = lambda params, x: params["a"].sum() * x
    options = {"params": {"a": np.zeros((2, 3), np.float32)}, "model": model}
    bounds = ({"a": np.full(3, -1.0)}, {"a": np.array([0.01, 0.02, 0.03])})
    results = sweep({"learning_rate": [0.1, 0.2, 0.3]}, SGD(), bounds=bounds, **options)
    is_a_loop(results, SGD(), 1e-6, bounds=bounds, **options)


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ({}, TypeError, "grid is .*expected a dict such as"),
        ([0.1], TypeError, "grid is a list"),
        ({"learning_rate": []}, TypeError, r"grid\['learning_rate'\]"),
        ({"learning_rate": ["a"]}, TypeError, r"grid\['learning_rate'\]"),
        ({"learning_rate": "ab"}, TypeError, r"grid\['learning_rate'\] is a str"),
        ({"learning_rate": [True]}, TypeError, r"grid\['learning_rate'\]"),
        ({"learning_rate": [0.1, None]}, TypeError, r"grid\['learning_rate'\]"),
        ({"learning_rate": [[0.1], [0.2, 0.3]]}, TypeError, r"grid\['learning_rate'\]"),
        ({"learning_rate": [0.1, -1.0]}, ValueError, r"Adam: learning_rate is -1\.0"),
        ({"learning_rate": [0.1, np.nan]}, ValueError, "Adam: learning_rate is nan"),
        ({"ema_decay": [0.9, 1.0]}, ValueError, r"Adam: ema_decay is 1\.0"),
        ({"learning_rte": [0.1]}, ValueError, "grid names 'learning_rte'.* did you mean 'learning_rate'"),
        ({"amsgrad": [0, 1]}, ValueError, "grid names 'amsgrad', which Adam does not have"),
        ({"betas": [(0.9, 0.99), (0.8, 0.9)]}, TypeError, r"grid\['betas'\]"),
        ({"betas": [0.9]}, TypeError, r"betas is a float \(0\.9\)"),
        ({"key": [0.5]}, TypeError, "key"),
        ({"key": ["a"]}, TypeError, "key"),
    ],
    ids=str,
)
def test_bad_grids_are_named(grid, error, message):
    with pytest.raises(error, match=message):
        sweep(grid, Adam(0.1))


@pytest.mark.parametrize("optimizer", [None, "adam", Adam, optax.sgd(0.1)], ids=["none", "str", "class", "optax"])
def test_a_sweep_wants_an_optimizer_that_has_the_numbers(optimizer):
    with pytest.raises(TypeError, match=r"optimizer is .*jaxfit\.optimizers"):
        sweep({"learning_rate": [0.1]}, optimizer)


def test_a_sweep_wants_steps_where_fit_does():
    with pytest.raises(ValueError, match="give steps="):
        sweep({"learning_rate": [0.1]}, Adam(), steps=None)


def test_streams_of_batches_are_refused():
    with pytest.raises(TypeError, match=r"iterable|data"):
        sweep({"learning_rate": [0.1, 0.3]}, SGD(), [(X, Y)])


# From several seeds.

KEYS = jax.random.split(jax.random.key(0), 2)


def normed(rngs):
    # Gradient descent, here and below: what comes before BatchNorm has a gradient of rounding errors, which Adam takes
    # for one.
    return nn.Sequential(
        nn.Linear(1, 4, rngs=rngs), nn.BatchNorm1d(4), nn.Dropout(0.5, rngs=rngs), nn.Linear(4, 1, rngs=rngs)
    )


TRAINING = {"optimizer": SGD(0.05), "epochs": 2, "batch_size": 5}


@pytest.fixture(scope="module")
def members():
    return jf.ensemble(normed, POINTS, members=2, **TRAINING)


def test_members_are_fits_of_modules_from_their_keys(members):
    for index, key in enumerate(KEYS):
        alone = jf.fit(normed(nnx.Rngs(key)), POINTS, key=key, **TRAINING)
        close(row(members.params, index), alone.params, rtol=1e-5, atol=1e-5)
        close(members[index].model_state, alone.model_state, rtol=1e-5, atol=1e-5)  # BatchNorm's, of each member
        np.testing.assert_allclose(members.predict(POINTS[0])[index], alone.predict(POINTS[0]), rtol=1e-4, atol=1e-5)
    assert len(members) == 2


def test_the_module_of_a_member_evaluates(members):
    for index in range(2):
        model = members[index].model
        first, second = model(POINTS[0]), model(POINTS[0])
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, members.predict(POINTS[0])[index], rtol=1e-5, atol=1e-6)


def test_the_spread_is_that_of_the_predictions(members):
    predictions = np.stack([np.asarray(member.predict(POINTS[0])) for member in members])
    mean, deviation = members.spread(POINTS[0])
    assert mean.shape == deviation.shape == POINTS[1].shape
    np.testing.assert_allclose(mean, predictions.sum(0) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(((predictions - mean) ** 2).sum(0)), rtol=1e-4, atol=1e-6)


def test_each_member_drops_out_by_its_own_key(members):
    other = jf.fit(normed(nnx.Rngs(KEYS[1])), POINTS, key=KEYS[0], **TRAINING)
    assert not np.allclose(leaves(other.params)[1], leaves(members[1].params)[1], rtol=1e-3)


def test_members_of_a_linen_module_are_fits_from_their_keys():
    results = jf.ensemble(linen.Dense(1), POINTS, members=2, optimizer=SGD(0.1), steps=STEPS)
    for index, key in enumerate(KEYS):
        alone = jf.fit(linen.Dense(1), POINTS, optimizer=SGD(0.1), steps=STEPS, key=key)
        close(row(results.params, index), alone.params, rtol=1e-5)
        np.testing.assert_allclose(results[index].model(POINTS[0]), alone.predict(POINTS[0]), rtol=1e-5)


class Features(nnx.Module):
    """A layer on random features, which are no params: each member has its own."""

    def __init__(self, rngs):
        self.directions = nnx.Variable(jax.random.normal(rngs.params(), (1, 4)))
        self.last = nn.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(x @ self.directions[...]))


def test_arrays_that_are_no_params_are_those_of_each_member():
    results = jf.ensemble(lambda rngs: Features(rngs), POINTS, members=2, optimizer=SGD(0.05), steps=3)
    predictions = results.predict(POINTS[0])
    for index, key in enumerate(KEYS):
        alone = jf.fit(Features(nnx.Rngs(key)), POINTS, optimizer=SGD(0.05), steps=3, key=key)
        close(row(results.params, index), alone.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(results[index].predict(POINTS[0]), alone.predict(POINTS[0]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(predictions[index], alone.predict(POINTS[0]), rtol=1e-5, atol=1e-6)


def test_params_that_stay_are_those_of_each_member():
    pair = lambda rngs: nn.Sequential(nn.Linear(1, 2, rngs=rngs), nn.Linear(2, 1, rngs=rngs))
    options = {"optimizer": SGD(0.05), "steps": 3, "fixed": "layers.0"}
    results = jf.ensemble(pair, POINTS, members=2, **options)
    predictions = results.predict(POINTS[0])
    for index, key in enumerate(KEYS):
        alone = jf.fit(pair(nnx.Rngs(key)), POINTS, key=key, **options)
        close(results[index].params, alone.params, rtol=1e-5, atol=1e-6)
        close(row(results.params, index), alone.params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(predictions[index], alone.predict(POINTS[0]), rtol=1e-5, atol=1e-6)


def drawn(key):
    slope, offset = jax.random.normal(key, (2,))
    return {"slope": slope, "offset": offset}


def test_members_of_a_plain_function_start_from_a_function_of_the_key_or_from_stacked_params():
    options = {"optimizer": SGD(0.1), "steps": 6, "batch_size": 5}
    results = jf.ensemble(line, (X, Y), drawn, members=2, **options)
    for index, key in enumerate(KEYS):
        close(row(results.params, index), jf.fit(line, (X, Y), drawn(key), key=key, **options).params, rtol=1e-5)
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *map(drawn, KEYS))
    close(jf.ensemble(line, (X, Y), stacked, members=2, **options).params, results.params, rtol=0)


def test_members_learn_from_a_sampler():
    results = jf.ensemble(line, draw, drawn, members=2, optimizer=SGD(0.1), steps=STEPS)
    for index, key in enumerate(KEYS):
        alone = jf.fit(line, draw, drawn(key), optimizer=SGD(0.1), steps=STEPS, key=key)
        close(row(results.params, index), alone.params, rtol=1e-5)


def test_another_key_makes_other_members():
    make = functools.partial(jf.ensemble, line, (X, Y), drawn, members=2, optimizer=SGD(0.1), steps=6, batch_size=5)
    close(make(key=5).params, make(key=5).params, rtol=0)
    assert not np.isclose(make(key=5).params["slope"], make(key=6).params["slope"]).any()


@pytest.mark.parametrize(
    ("model", "params", "members", "error", "message"),
    [
        (dropping(), None, 3, TypeError, "expected a function that makes one: lambda rngs:"),
        (lambda rngs: 3, None, 3, TypeError, "model returns an int"),
        (line, LINE, 3, ValueError, "expected a first axis of 3 members"),
        (line, {"slope": np.zeros(3), "offset": np.zeros(2)}, 3, ValueError, "expected a first axis of 3 members"),
        (line, None, 3, TypeError, "params"),
        (dropping, None, 0, ValueError, "members is 0"),
        (dropping, None, 2.0, TypeError, "members is"),
        (normed, {"slope": np.zeros(3)}, 3, TypeError, "params|model"),
    ],
    ids=["instance", "no module", "one start", "lengths", "no params", "none", "float", "both"],
)
def test_bad_ensembles_are_named(model, params, members, error, message):
    with pytest.raises(error, match=message):
        jf.ensemble(model, POINTS if params is None else (X, Y), params, members=members, optimizer=SGD(0.1), steps=2)


def test_an_ensemble_takes_no_stream():
    with pytest.raises(TypeError, match=r"iterable|data"):
        jf.ensemble(line, [(X, Y)], drawn, members=3, optimizer=SGD(0.1), steps=3)


# To resampled data.

SAMPLES = 2000
LONG = RANDOM.uniform(0, 2, 200)
NOISE = RANDOM.normal(size=200)
TRUE = np.array([1.0, 2.0])
MATRIX = np.column_stack([np.ones(200), LONG])
INVERSE = np.linalg.inv(MATRIX.T @ MATRIX)


def straight(params, x):
    return params[0] + params[1] * x


def bootstrap(y, samples=SAMPLES, **options):
    return jf.bootstrap(straight, (LONG, y), np.zeros(2), samples=samples, **options)


def errors_of(results, level=0.95):
    """The standard errors that percentile intervals stand for, were the params normal."""
    lower, upper = results.percentile_intervals(level)
    return (upper - lower) / 2 / 1.959964


def weights_of(results, index):
    """The weights of a resample, which the results keep to themselves."""
    return np.asarray(results._work.at(index).data.weights)


@pytest.fixture(scope="module")
def resampled():
    return bootstrap(MATRIX @ TRUE + 0.3 * NOISE)


def test_intervals_are_those_of_theory(resampled):
    y = MATRIX @ TRUE + 0.3 * NOISE
    best = INVERSE @ MATRIX.T @ y
    spread = np.sqrt(np.sum((y - MATRIX @ best) ** 2) / 198 * np.diag(INVERSE))
    np.testing.assert_allclose(errors_of(resampled), spread, rtol=0.15)
    lower, upper = resampled.percentile_intervals()
    np.testing.assert_allclose((lower + upper) / 2, best, atol=0.2 * spread.max())
    assert resampled.success.all()
    inner = resampled.percentile_intervals(0.5)
    assert (lower < inner[0]).all()
    assert (inner[1] < upper).all()
    np.testing.assert_allclose(inner[0], np.quantile(resampled.params, 0.25, axis=0), rtol=1e-12)


def test_noise_that_grows_widens_the_intervals_beyond_the_covariance():
    y = MATRIX @ TRUE + 0.3 * LONG**2 * NOISE
    fitted = jf.fit(straight, (LONG, y), np.zeros(2))
    residuals = y - MATRIX @ np.asarray(fitted.params)
    robust = np.sqrt(np.diag(INVERSE @ (MATRIX.T * residuals**2) @ MATRIX @ INVERSE))
    found = errors_of(bootstrap(y))
    np.testing.assert_allclose(found, robust, rtol=0.15)
    assert found[1] > 1.15 * fitted.standard_errors[1]


def test_each_resample_is_fit_with_its_weights(resampled):
    y = MATRIX @ TRUE + 0.3 * NOISE
    for index in (0, 1, SAMPLES - 1):
        weights = weights_of(resampled, index)
        assert weights.sum() == 200
        assert (weights == np.round(weights)).all()
        alone = jf.fit(straight, (LONG, y), np.zeros(2), weights=weights)
        np.testing.assert_allclose(resampled.params[index], alone.params, rtol=1e-7)
        np.testing.assert_allclose(resampled[index].loss, alone.loss, rtol=1e-7)
    counts = np.stack([weights_of(resampled, index) for index in range(200)])
    np.testing.assert_allclose(counts.mean(0).std(), 1 / np.sqrt(200), rtol=0.3)  # each is drawn once in the mean
    np.testing.assert_allclose(counts.var(), 1, rtol=0.1)


def test_the_resamples_depend_on_the_key_alone(resampled):
    y = MATRIX @ TRUE + 0.3 * NOISE
    np.testing.assert_array_equal(bootstrap(y).params, resampled.params)
    assert (bootstrap(y, key=1).params != resampled.params).all()


def test_weights_of_the_user_multiply_those_of_the_draw(resampled):
    outliers = MATRIX @ TRUE + 0.3 * NOISE + 100 * (LONG > 1)
    weights = np.where(LONG > 1, 0.0, 2.0)
    results = bootstrap(outliers, weights=weights)
    assert np.abs(results.params - TRUE).max() < 1
    np.testing.assert_allclose(weights_of(results, 5), weights * weights_of(resampled, 5))


def test_a_first_order_optimizer_bootstraps_too():
    options = {"optimizer": SGD(0.1), "steps": STEPS}
    results = jf.bootstrap(line, (X, Y), LINE, samples=4, **options)
    start = jf.fit(line, (X, Y), LINE, **options).params
    for index in range(4):
        alone = jf.fit(line, (X, Y), start, weights=weights_of(results, index), **options)
        close(row(results.params, index), alone.params, rtol=1e-5)


def test_sigma_and_bounds_go_into_every_resample():
    y = MATRIX @ TRUE + 0.3 * NOISE
    sigma = 0.3 + LONG
    results = bootstrap(y, samples=16, sigma=sigma, bounds=(None, np.array([np.inf, 1.9])))
    alone = jf.fit(straight, (LONG, y), np.zeros(2), sigma=sigma, bounds=(None, np.array([np.inf, 1.9])),
                   weights=weights_of(results, 3))  # fmt: skip
    np.testing.assert_allclose(results.params[3], alone.params, rtol=1e-7)
    assert results.params[:, 1].max() <= 1.9


def test_a_loss_without_weights_of_samples_is_refused():
    with pytest.raises(TypeError, match="weights need a loss"):
        jf.bootstrap(
            line, (X, Y), LINE, loss=lambda p, y: jnp.mean((p - y) ** 2), optimizer=SGD(0.1), steps=2, samples=2
        )


@pytest.mark.parametrize("data", [draw, [(X, Y)]], ids=["sampler", "stream"])
@pytest.mark.parametrize("options", [{"optimizer": SGD(0.1), "steps": 2}, {}], ids=["first order", "default"])
def test_data_that_are_not_in_memory_are_refused(data, options):
    with pytest.raises(TypeError, match="not in memory"):
        jf.bootstrap(line, data, LINE, samples=2, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"samples": 2.5}, TypeError, "samples is"),
        ({"weights": np.ones(3)}, ValueError, "weights has shape"),
        ({"key": 0.5}, TypeError, "key is a float"),
    ],
    ids=str,
)
def test_bad_bootstraps_are_named(options, error, message):
    with pytest.raises(error, match=message):
        bootstrap(MATRIX @ TRUE, **{"samples": 2} | options)


@pytest.mark.parametrize("level", [0, 1, 95, "a", None, True])
def test_bad_levels_are_named(level, resampled):
    with pytest.raises(ValueError, match=re.escape(f"level is {level!r}")):
        resampled.percentile_intervals(level)


def test_results_print_and_become_tables(resampled, waves):
    assert "2,000 fits of straight by LevenbergMarquardt" in str(resampled)
    assert "16 converged" in repr(waves)
    swept = sweep({"learning_rate": [0.1, 0.2, 0.3]}, SGD(), validation=(X, Y))
    pandas = pytest.importorskip("pandas")
    table = swept.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert table["learning_rate"].tolist() == [0.1, 0.2, 0.3]
    np.testing.assert_allclose(table["score"], swept.scores)
