"""`fit` as its user meets it: forms of data and params, histories, precision, randomness, endings."""

import functools
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfit as jf
from jaxfit import FitWarning, Status
from jaxfit.optimizers import LBFGS, SGD, Adam, LevenbergMarquardt

X = np.linspace(-1, 1, 23, dtype=np.float32)
Y = (2 * X + 1 + 0.1 * np.sin(20 * X)).astype(np.float32)
START = np.zeros(2, np.float32)
fit = functools.partial(jf.fit, optimizer=Adam(0.1), steps=20)


def line(params, x):
    return params[0] * x + params[1]


def sampler(key):
    x = jax.random.normal(key, (8,))
    return x, 3 * x - 1


def mean_squares(prediction, target):
    return jnp.mean((prediction - target) ** 2)


class TestParams:
    def test_a_bare_float(self):
        result = fit(lambda theta, x: theta * x, (X, 2 * X), 1.0, optimizer=SGD(0.5), steps=200)
        assert result.params.shape == ()
        np.testing.assert_allclose(result.params, 2.0, rtol=1e-5)

    @pytest.mark.parametrize(
        "start",
        [{"a": 0.0, "b": 0.0}, [0.0, 0.0], (np.float32(0), jnp.zeros(())), {"a": np.zeros(1, np.float32), "b": 0.0}],
    )
    def test_any_pytree(self, start):
        def model(params, x):
            first, second = jax.tree.leaves(params)
            return first * x + second

        result = fit(model, (X, Y), start)
        assert jax.tree.structure(result.params) == jax.tree.structure(start)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
        expected = fit(line, (X, Y), START)
        np.testing.assert_allclose(np.ravel(jax.tree.leaves(result.params)[0]), expected.params[:1], rtol=1e-5)

    def test_the_starting_values_are_left_alone(self):
        start = {"a": jnp.zeros(3), "b": np.ones(2, np.float32)}
        fit(lambda p, x: p["a"].sum() * x + p["b"].sum(), (X, Y), start)
        np.testing.assert_array_equal(start["a"], np.zeros(3))
        np.testing.assert_array_equal(start["b"], np.ones(2))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
    def test_params_keep_their_precision(self, dtype):
        result = fit(line, (X, Y), jnp.zeros(2, dtype))
        assert result.params.dtype == dtype
        np.testing.assert_allclose(np.asarray(result.params, np.float32), fit(line, (X, Y), START).params, rtol=0.05)


class TestPrecision:
    def test_float64_params_fit_in_float64_and_come_back_as_numpy(self):
        result = fit(line, (X.astype(float), Y.astype(float)), np.zeros(2), steps=3000)
        assert isinstance(result.params, np.ndarray)
        assert result.params.dtype == np.float64
        assert result.history["loss"].dtype == np.float64
        assert not jax.config.jax_enable_x64
        np.testing.assert_allclose(result.params, np.polyfit(X.astype(float), Y.astype(float), 1), rtol=1e-6)
        assert result.predict(X.astype(float)).dtype == np.float64

    def test_float32_params_fit_in_float32(self):
        result = fit(line, (X.astype(float), Y.astype(float)), jnp.zeros(2))
        assert isinstance(result.params, jax.Array)
        assert result.params.dtype == jnp.float32
        assert "float32" in str(result)

    def test_python_floats_take_the_precision_of_the_data(self):
        model = lambda p, x: p * x
        assert fit(model, (X.astype(float), Y.astype(float)), 1.0).params.dtype == np.float64
        assert fit(model, (X, Y), 1.0).params.dtype == np.float32
        assert fit(model, sampler, 1.0).params.dtype == np.float32

    def test_lists_of_floats_are_float64_as_in_numpy(self):
        assert fit(lambda p, x: p * x, ([1.0, 2.0], [2.0, 4.0]), 1.0).params.dtype == np.float64

    def test_where_jax_is_set_to_64_bits_jax_arrays_stay_jax_arrays(self):
        with jax.enable_x64(True):
            result = fit(line, (jnp.asarray(X, float), jnp.asarray(Y, float)), jnp.zeros(2))
            assert isinstance(result.params, jax.Array)
            assert result.params.dtype == jnp.float64

    def test_large_integers_are_never_cut(self):
        with pytest.raises(ValueError, match="x holds integers beyond int32"):
            fit(line, (np.arange(23) + 2**40, Y), START)


class TestData:
    def test_lists_of_numbers_are_arrays(self):
        result = fit(line, (X.tolist(), Y.tolist()), jnp.zeros(2))
        np.testing.assert_array_equal(result.params, fit(line, (X, Y), jnp.zeros(2)).params)

    def test_x_may_be_a_pytree(self):
        model = lambda params, x: params[0] * x["t"] + params[1] * x["ones"][:, 0]
        result = fit(model, ({"t": X, "ones": np.ones((23, 1), np.float32)}, Y), START)
        np.testing.assert_allclose(result.params, fit(line, (X, Y), START).params, rtol=1e-5)

    def test_y_may_be_a_pytree(self):
        model = lambda params, x: {"double": 2 * params[0] * x, "shift": x + params[1]}
        loss = lambda p, t: mean_squares(p["double"], t["double"]) + mean_squares(p["shift"], t["shift"])
        target = {"double": 6 * X, "shift": X - 1}
        result = fit(model, (X, target), START, loss=loss, optimizer=SGD(0.2), steps=500, batch_size=10)
        np.testing.assert_allclose(result.params, [3, -1], rtol=1e-3)

    def test_jax_and_numpy_data_are_the_same(self):
        one, two = fit(line, (X, Y), START), fit(line, (jnp.asarray(X), jnp.asarray(Y)), START)
        np.testing.assert_array_equal(one.params, two.params)

    def test_a_sampler_is_given_the_key_of_its_step(self):
        result = fit(line, sampler, START, optimizer=SGD(0.1), steps=3, record=("params",), key=11)
        params = jnp.zeros(2)
        for index in range(3):
            np.testing.assert_allclose(result.history["params"][index], params, rtol=1e-5, atol=1e-7)
            x, y = sampler(jax.random.fold_in(jax.random.key(11), index))
            value, gradient = jax.value_and_grad(lambda p, x, y: mean_squares(line(p, x), y))(params, x, y)
            np.testing.assert_allclose(result.history["loss"][index], value, rtol=1e-5)
            params = params - 0.1 * gradient
        np.testing.assert_allclose(result.params, params, rtol=1e-5)

    def test_a_sampler_that_cannot_be_batched(self):
        def stubborn(key):
            x = jax.pure_callback(lambda bits: np.asarray(bits, np.float32) / 2**32, shape, jax.random.bits(key, (4,)))
            return x, 2 * x + 1

        shape = jax.ShapeDtypeStruct((4,), jnp.float32)
        assert fit(line, stubborn, START).status is Status.COMPLETED

    @pytest.mark.parametrize("size", [1, 5, 22, 23])
    def test_a_batch_of_the_whole_is_the_whole(self, size):
        result = fit(line, (X, Y), START, epochs=2, steps=None, batch_size=size, shuffle=False)
        assert result.steps == 2 * -(-23 // size)
        if size == 23:
            np.testing.assert_array_equal(result.params, fit(line, (X, Y), START, steps=2).params)

    def test_sigma_of_one_number_holds_for_the_validation_too(self):
        result = fit(line, (X, Y), START, sigma=0.1, validation=(X, Y))
        np.testing.assert_allclose(result.history["validation_loss"][-1], result.loss, rtol=1e-5)

    def test_sigma_of_one_number_scales_the_loss(self):
        plain, scaled = fit(line, (X, Y), START), fit(line, (X, Y), START, sigma=0.5)
        np.testing.assert_allclose(scaled.history["loss"][0], 4 * plain.history["loss"][0], rtol=1e-6)

    def test_sigma_and_weights_go_with_their_samples_in_batches(self):
        """Samples that are wildly wrong, marked as such, do not disturb the others."""
        y = np.where(np.arange(23) % 3 == 0, 1e3, 2 * X + 1).astype(np.float32)
        good = (np.arange(23) % 3 != 0).astype(np.float32)
        for marks in ({"weights": good}, {"sigma": np.where(good, 1.0, 1e6).astype(np.float32)}):
            result = fit(line, (X, y), START, steps=None, epochs=300, batch_size=6, optimizer=SGD(0.2), **marks)
            np.testing.assert_allclose(result.params, [2, 1], rtol=2e-2)


class TestStream:
    batches = [(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:], Y[20:])]

    def test_a_list_of_batches_is_the_same_as_minibatches_in_order(self):
        streamed = fit(line, self.batches, START, steps=None, epochs=4, validation=(X, Y), record=("params",))
        whole = fit(
            line,
            (X, Y),
            START,
            steps=None,
            epochs=4,
            batch_size=10,
            shuffle=False,
            validation=(X, Y),
            record=("params",),
        )
        assert streamed.steps == whole.steps == 12
        assert streamed.history.keys() == whole.history.keys()
        for name, rows in whole.history.items():
            np.testing.assert_allclose(streamed.history[name], rows, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(streamed.params, whole.params, rtol=1e-5)

    def test_an_iterator_gives_one_pass(self):
        result = fit(line, iter(self.batches), START, steps=None, epochs=1)
        assert (result.steps, result.status) == (3, Status.COMPLETED)
        assert fit(line, iter(self.batches), START, steps=2).status is Status.COMPLETED

    def test_an_iterator_that_ends_early_is_told(self):
        for limit in ({"steps": 5}, {"steps": None, "epochs": 2}):
            with pytest.warns(FitWarning, match="ended after step 3"):
                result = fit(line, iter(self.batches), START, **limit)
            assert result.status is Status.DATA_ENDED
            assert not result.success
            assert np.isfinite(result.loss)
            assert len(result.history["loss"]) == 3

    def test_an_endless_generator_runs_for_its_steps(self):
        result = fit(line, (self.batches[i % 3] for i in itertools.count()), START, steps=7)
        assert (result.steps, result.status) == (7, Status.COMPLETED)

    def test_a_loss_that_is_not_finite(self):
        batches = [*self.batches, (X[:10], Y[:10] * 0 - 1)]
        with pytest.warns(FitWarning, match=r"nan after step 3"):
            result = fit(
                lambda w, x: w * x, batches, 1.0, loss=lambda p, t: jnp.sqrt(jnp.mean(t + 0.5)), epochs=1, steps=None
            )
        assert result.status is Status.NON_FINITE
        assert len(result.history["loss"]) == result.steps == 2
        assert np.isfinite(result.loss)

    def test_a_bad_first_batch_is_refused(self):
        with pytest.raises(ValueError, match=r"y of batch 0: .*nan at \[2\]"):
            fit(line, [(X[:3], np.array([0, 1, np.nan])), self.batches[0]], START)
        with pytest.raises(TypeError, match=r"batch 0 of the data is float32\[23\]; expected a pair"):
            fit(line, [X, self.batches[0]], START)


class TestHistory:
    def test_the_path_of_the_params_belongs_to_the_losses(self):
        result = fit(line, (X, Y), START, record=("params", "gradient_norm"))
        path, losses = result.history["params"], result.history["loss"]
        assert path.shape == (20, 2)
        np.testing.assert_array_equal(path[0], START)
        value_and_gradient = jax.value_and_grad(lambda p: mean_squares(line(p, X), Y))
        for params, loss, norm in zip(path, losses, result.history["gradient_norm"], strict=True):
            value, gradient = value_and_gradient(params)
            np.testing.assert_allclose(loss, value, rtol=1e-5)
            np.testing.assert_allclose(norm, jnp.linalg.norm(gradient), rtol=1e-4)
        np.testing.assert_allclose(result.loss, value_and_gradient(result.params)[0], rtol=1e-5)

    def test_validation_and_metrics_once_an_epoch(self):
        wrong = lambda prediction, target: jnp.abs(prediction - target).max()
        result = fit(
            line, (X, Y), START, steps=None, epochs=5, batch_size=4, validation=(X[:3], Y[:3]), metrics={"worst": wrong}
        )
        assert result.steps == 30
        assert {name: len(rows) for name, rows in result.history.items()} == {
            "loss": 30,
            "validation_loss": 5,
            "validation_worst": 5,
        }
        prediction = np.asarray(line(result.params, X[:3]))
        np.testing.assert_allclose(result.history["validation_loss"][-1], np.mean((prediction - Y[:3]) ** 2), rtol=1e-5)
        np.testing.assert_allclose(result.history["validation_worst"][-1], np.abs(prediction - Y[:3]).max(), rtol=1e-5)

    def test_metrics_without_validation_look_at_the_data(self):
        result = fit(line, (X, Y), START, metrics={"mean": lambda prediction, target: jnp.mean(prediction - target)})
        assert len(result.history["mean"]) == 20
        np.testing.assert_allclose(result.history["mean"][-1], np.mean(line(result.params, X) - Y), rtol=1e-4)

    def test_an_epoch_that_is_not_finished_has_no_entry(self):
        result = fit(line, (X, Y), START, steps=13, batch_size=4, validation=(X, Y))
        assert len(result.history["validation_loss"]) == 2

    def test_user_s_own_loss(self):
        root = lambda prediction, target: jnp.sqrt(jnp.sum((prediction - target) ** 2))
        result = fit(line, (X, Y), START, loss=root)
        np.testing.assert_allclose(result.history["loss"][0], np.sqrt(np.sum(Y**2)), rtol=1e-6)


class TestRandomness:
    @pytest.mark.parametrize("data", [sampler, (X, Y)], ids=["sampler", "arrays"])
    def test_the_key_decides(self, data):
        options = {} if callable(data) else {"batch_size": 4}
        one, same, other = (fit(line, data, START, key=key, **options) for key in (5, jax.random.key(5), 6))
        legacy = fit(line, data, START, key=jax.random.PRNGKey(5), **options)
        np.testing.assert_array_equal(one.history["loss"], same.history["loss"])
        np.testing.assert_array_equal(one.history["loss"], legacy.history["loss"])
        assert not np.array_equal(one.history["loss"], other.history["loss"])

    def test_other_kinds_of_key(self):
        result = fit(line, sampler, START, key=jax.random.key(5, impl="rbg"))
        assert result.status is Status.COMPLETED

    def test_large_and_negative_seeds_differ(self):
        losses = [tuple(fit(line, sampler, START, key=key).history["loss"]) for key in (0, 2**32, -1, 2**63)]
        assert len(set(losses)) == 4


class TestEndings:
    def test_all_steps_taken(self, recwarn):
        result = fit(line, (X, Y), START)
        assert (result.status, result.steps, result.success) == (Status.COMPLETED, 20, True)
        assert not recwarn.list

    def test_converged(self):
        result = fit(line, (X, Y), START, optimizer=LBFGS(), steps=None)
        assert result.status is Status.CONVERGED
        assert "Converged after" in result.message

    def test_step_limit(self):
        with pytest.warns(FitWarning, match="Not converged after 2 steps"):
            result = fit(line, (X, Y), START, optimizer=LBFGS(), steps=2)
        assert result.status is Status.STEP_LIMIT

    def test_divergence_keeps_the_last_finite_params(self):
        with pytest.warns(FitWarning, match="smaller learning rate") as caught:
            result = fit(line, (X, Y), START, optimizer=SGD(1e6), steps=100)
        assert caught[0].filename == __file__
        assert result.status is Status.DIVERGED
        assert np.isfinite(result.params).all()
        assert np.isfinite(result.history["loss"]).all()
        assert len(result.history["loss"]) == result.steps < 100
        np.testing.assert_allclose(result.loss, mean_squares(line(result.params, X), Y), rtol=1e-4)
        assert result.loss > 10 * result.history["loss"][0]

    def test_divergence_that_stays_finite(self):
        with pytest.warns(FitWarning, match="The loss went from"):
            result = fit(line, (X, Y), START, optimizer=SGD(4.0), steps=30)
        assert result.status is Status.DIVERGED

    def test_nan_on_the_way(self):
        """A root whose argument the steps drive below zero."""
        with pytest.warns(FitWarning, match="leaves its domain"):
            result = fit(lambda w, x: jnp.sqrt(w) + 0 * x, (X, 0 * X - 1), 0.3, optimizer=SGD(0.1), steps=100)
        assert result.status is Status.NON_FINITE
        assert 0 <= float(result.params) < 0.3
        assert np.isfinite(result.loss)

    def test_nan_gradient_of_a_finite_loss(self):
        """The root of zero has an infinite derivative: the step from it is taken back."""
        with pytest.warns(FitWarning):
            result = fit(lambda w, x: jnp.sqrt(w * 0) + 0 * x + w, (X, Y), 1.0, optimizer=SGD(0.1))
        assert result.status is Status.NON_FINITE
        assert float(result.params) == 1.0

    def test_a_gradient_that_the_loss_does_not_show(self):
        """The trap of jnp.where: the branch that is not taken has an infinite derivative, which turns into NaN."""
        model = lambda p, x: p["a"] * x + jnp.where(p["b"] > 0, jnp.sqrt(p["b"]), 0.0)
        data, start = (X, 2 * X), {"a": 1.0, "b": 0.0}
        for options in ({}, {"optimizer": LBFGS()}):
            with pytest.warns(FitWarning, match=r"gradient is not finite at the starting params.*jnp\.where"):
                result = fit(model, data, start, **options)
            assert (result.status, result.steps, float(result.params["b"])) == (Status.NON_FINITE, 0, 0.0)
            assert np.isfinite(result.loss)
        # Forward derivatives do not fall into it.
        with pytest.warns(FitWarning, match="b had no effect on the prediction"):
            assert float(jf.fit(model, data, start).params["a"]) == pytest.approx(2.0)
        with pytest.warns(FitWarning, match="gradient is not finite"):
            streamed = fit(model, [data], start)
        assert np.isfinite(streamed.params["b"])

    def test_what_is_made_large_has_not_diverged(self, recwarn):
        model = lambda p, x: jax.nn.sigmoid(p) + 0 * x
        result = fit(model, (X, Y), -10.0, loss=lambda p, t: jnp.mean(p), optimizer=Adam(1.0, maximize=True), steps=40)
        assert result.status is Status.COMPLETED
        assert result.loss > 0.9
        assert not recwarn.list

    def test_nan_at_the_start(self):
        with pytest.warns(FitWarning, match="nan at the starting params"):
            result = fit(lambda w, x: jnp.log(w) * x, (X, Y), -1.0)
        assert (result.status, result.steps, float(result.params)) == (Status.NON_FINITE, 0, -1.0)

    def test_every_status_has_its_sentence(self):
        for status in Status:
            assert status.sentence.endswith(".")
            assert status.ok or status.hint.endswith(".")
            assert Status(status.value) is status


class TestOptimizers:
    def test_any_optax_transformation(self):
        for rule in (
            optax.adam(0.1),
            optax.chain(optax.clip(1.0), optax.sgd(0.1)),
            optax.lion(0.01),
            optax.polyak_sgd(),
        ):
            assert fit(line, (X, Y), START, optimizer=rule).loss < 0.8 * np.mean(Y**2)
        np.testing.assert_allclose(
            fit(line, (X, Y), START, optimizer=optax.adam(0.1)).params, fit(line, (X, Y), START).params, rtol=1e-5
        )

    def test_without_one_it_is_levenberg_marquardt_or_adam(self):
        start = {"w": jnp.zeros((1, 1200))}
        wide = lambda params, x: (x[:, None] @ params["w"]).sum(axis=1)
        own = lambda prediction, target: jnp.mean((prediction - target) ** 2)
        assert jf.fit(line, (X, Y), START).optimizer == LevenbergMarquardt()
        for chosen in (
            jf.fit(line, (X, Y), START, steps=3, batch_size=4),
            jf.fit(line, sampler, START, steps=3),
            jf.fit(line, (X, Y), START, steps=3, loss=own),
            jf.fit(line, (X, Y), START, steps=3, loss=jf.losses.l1),
            jf.fit(wide, (X, Y), start, steps=3),
        ):
            assert chosen.optimizer == Adam(1e-3)

    def test_a_second_order_fit_of_float64_data_runs_in_float64(self):
        result = jf.fit(line, (X.astype(float), Y.astype(float)), jnp.zeros(2))
        assert result.params.dtype == np.float64
        np.testing.assert_allclose(result.params, np.polyfit(X.astype(float), Y.astype(float), 1), rtol=1e-10)
        assert jf.fit(line, (jnp.asarray(X), jnp.asarray(Y)), jnp.zeros(2)).params.dtype == np.float32

    def test_a_schedule(self):
        result = fit(line, (X, Y), START, optimizer=SGD(lambda step: jnp.where(step < 5, 0.1, 0.0)), record=("params",))
        np.testing.assert_array_equal(result.history["params"][5], result.params)
        assert not np.array_equal(result.history["params"][4], result.params)

    def test_lbfgs_wants_all_the_data(self):
        for data, options in [((X, Y), {"batch_size": 4}), (sampler, {}), ([(X, Y)], {})]:
            with pytest.raises(ValueError, match=r"LBFGS .* all the data at every step"):
                fit(line, data, START, optimizer=LBFGS(), **options)


def test_under_disable_jit_it_is_the_same():
    with jax.disable_jit():
        plain = fit(line, (X, Y), START, steps=3, record=("params",))
    compiled = fit(line, (X, Y), START, steps=3, record=("params",))
    np.testing.assert_allclose(plain.history["params"], compiled.history["params"], rtol=1e-6)
    np.testing.assert_allclose(plain.params, compiled.params, rtol=1e-6)


def test_params_survive_pickling():
    params = fit(line, (X, Y), START).params
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(params)), params)
