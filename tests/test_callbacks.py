"""Callbacks as the user meets them: what they see, what they may ask for, and that they change nothing by looking."""

import dataclasses
import functools
import io
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxfit as jf
from fake_run import FakeRun
from jaxfit import FitWarning, Status, nn
from jaxfit.callbacks import Callback, EarlyStopping, Outcome, Progress, ReduceOnPlateau, Stop, StopOnPlateau
from jaxfit.optimizers import LBFGS, SGD, Adam, LevenbergMarquardt
from reference import HAVE_TORCH

X = np.linspace(-1, 1, 23, dtype=np.float32)
Y = (2 * X + 1 + 0.1 * np.sin(20 * X)).astype(np.float32)
START = np.zeros(2, np.float32)
T = np.linspace(0, 4, 40)
DECAY = 2.5 * np.exp(-1.3 * T) + 0.5 + 0.05 * np.sin(9 * T)


def line(params, x):
    return params[0] * x + params[1]


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x) + params[2]


def saturation(params, x):
    return params[0] * (1 - jnp.exp(-params[1] * x))


def sampler(key):
    x = jax.random.normal(key, (8,))
    return x, 3 * x - 1


def network():
    rngs = nnx.Rngs(0)
    layers = nn.Linear(1, 4, rngs=rngs), nn.BatchNorm1d(4, rngs=rngs), nn.Dropout(0.2, rngs=rngs)
    return nn.Sequential(*layers, nn.Linear(4, 1, rngs=rngs))


batches = functools.partial(jf.fit, line, (X, Y), START, optimizer=Adam(0.1), batch_size=6)
full = functools.partial(jf.fit, line, (X, Y), START, optimizer=SGD(0.1))
validated = functools.partial(batches, validation=(X[:5], Y[:5]), metrics={"l1": jf.losses.l1})


class Watcher(Callback):
    """Notes all that it is told."""

    def __init__(self, every=None, answer=lambda seen: None):
        self.every, self.answer = every, answer

    def begin(self, run):
        self.run, self.seen, self.outcomes = run, [], []

    def __call__(self, seen):
        self.seen.append(seen)
        return self.answer(seen)

    def end(self, outcome):
        self.outcomes.append(outcome)

    def gathered(self, what="history"):
        tables = [getattr(seen, what) for seen in self.seen]
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def assert_same(one, other):
    """Bit by bit the same result."""
    assert (one.status, one.message, one.steps) == (other.status, other.message, other.steps)
    told = lambda result: (result.loss, result.params, result.history, result.model_state)
    jax.tree.map(np.testing.assert_array_equal, told(one), told(other))


class TestLookingChangesNothing:
    FITS = {
        "SGD on all data": functools.partial(full, steps=40, record=("params", "gradient_norm")),
        "sampler": functools.partial(jf.fit, line, sampler, START, optimizer=Adam(0.1), steps=30),
        "Adam in batches": functools.partial(validated, epochs=4),
        "averages": functools.partial(full, optimizer=SGD(0.1, ema_decay=0.9), steps=20),
        "LBFGS": functools.partial(jf.fit, decay, (T, DECAY), np.array([1.0, 1, 0]), optimizer=LBFGS()),
        "LevenbergMarquardt": functools.partial(jf.fit, decay, (T, DECAY), np.array([1.0, 1, 0])),
        "module": lambda **more: jf.fit(
            network(), (X[:, None], Y[:, None]), optimizer=Adam(0.01), epochs=3, batch_size=6,
            validation=(X[:5, None], Y[:5, None]), **more,
        ),
    }  # fmt: skip

    @pytest.mark.parametrize("name", FITS)
    def test_the_result_is_that_of_the_bare_fit_bit_by_bit(self, name):
        bare = self.FITS[name]()
        for every in (None, 1, 3) if name == "sampler" else (None, 1, 3, "epoch"):  # a sampler has no epochs
            watch = Watcher(every)
            assert_same(self.FITS[name](callbacks=[watch, Watcher(7)]), bare)
            rows = watch.gathered()
            for recorded in bare.history.keys() & rows.keys():
                np.testing.assert_array_equal(rows[recorded], bare.history[recorded])
            assert len(rows["gradient_norm"]) == len(rows["loss"]) == bare.steps
            assert watch.outcomes == [Outcome(bare.status, bare.message, bare.loss, bare.steps)]
            jax.tree.map(np.testing.assert_array_equal, watch.seen[-1].optimizer.answer(watch.seen[-1].state), (
                bare.params if name != "module" else watch.seen[-1].params
            ))  # fmt: skip

    def test_a_second_try_is_numbered_on_from_the_first(self):
        """BoxBOD, from NIST's first start, where the plain rule ends badly."""
        data = np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])
        once = functools.partial(jf.fit, saturation, data, np.array([1.0, 1.0]))
        bare = once()
        plain = once(optimizer=LevenbergMarquardt(acceleration=False))
        assert bare.loss < plain.loss / 2
        for every in (None, 1, 4):
            watch = Watcher(every)
            assert_same(once(callbacks=[watch]), bare)
            losses = watch.gathered()["loss"]
            assert len(losses) == watch.seen[-1].step == plain.steps + bare.steps
            np.testing.assert_array_equal(losses[: plain.steps], plain.history["loss"])
            np.testing.assert_array_equal(losses[plain.steps :], bare.history["loss"])
            assert [seen.is_last for seen in watch.seen].index(True) == len(watch.seen) - 1


class TestCompilations:
    def test_a_short_fit_that_nobody_watches_is_one_program(self, compilations):
        model = lambda params, x: params[0] * x + params[1] + 0 * x
        jf.fit(model, (X, Y), START, optimizer=Adam(0.1), epochs=3, batch_size=6)
        assert compilations() == 1

    def test_a_watched_fit_is_a_few_and_a_second_one_none(self, compilations):
        model = lambda params, x: params[0] * x + params[1] - 0 * x
        once = functools.partial(jf.fit, model, (X, Y), START, batch_size=6)
        once(optimizer=Adam(0.1), epochs=6, callbacks=[Watcher(1)])
        assert 1 <= compilations() <= 3
        slower = ReduceOnPlateau("loss", patience=1, every=2)
        for callbacks in ([Watcher(1)], [Watcher(5), lambda seen: None], [slower], [Watcher("epoch")]):
            once(optimizer=Adam(0.03), epochs=9, callbacks=callbacks)
            assert compilations() == 0
        assert slower.memory()["waited"] == 0
        assert compilations() == 0


class TestSeen:
    @settings(max_examples=25, deadline=None)
    @given(
        every=st.lists(st.one_of(st.none(), st.just("epoch"), st.integers(1, 40)), min_size=1, max_size=3),
        steps=st.integers(1, 60),
        size=st.sampled_from([6, 23]),
    )
    def test_every_step_and_every_epoch_is_told_just_once(self, every, steps, size):
        crew = [Watcher(each) for each in every]
        bare = validated(steps=steps, batch_size=size)
        assert_same(validated(steps=steps, batch_size=size, callbacks=crew), bare)
        per_epoch = -(-23 // size)
        for watch in crew:
            np.testing.assert_array_equal(watch.gathered()["loss"], bare.history["loss"])
            for name, entries in watch.gathered("epoch_history").items():
                np.testing.assert_array_equal(entries, bare.history[name])
            assert [seen.is_last for seen in watch.seen] == [False] * (len(watch.seen) - 1) + [True]
            if isinstance(watch.every, int):
                expected = [*range(watch.every, steps, watch.every), steps]
                assert [seen.step for seen in watch.seen] == expected
            if watch.every == "epoch":
                assert [seen.step for seen in watch.seen] == [*range(per_epoch, steps, per_epoch), steps]
            for seen in watch.seen:
                assert seen.epoch == seen.step // per_epoch
                assert seen.is_epoch_end == (seen.step % per_epoch == 0)

    def test_the_params_are_those_after_the_step(self):
        path = full(steps=10, record=("params", "gradient_norm"))
        watch = Watcher(1)
        full(steps=10, callbacks=[watch])
        for seen in watch.seen[:-1]:
            np.testing.assert_array_equal(seen.params, path.history["params"][seen.step])
        np.testing.assert_array_equal(watch.seen[-1].params, path.params)
        assert isinstance(watch.seen[0].params, np.ndarray)
        assert [len(seen.history["loss"]) for seen in watch.seen] == [1] * 10

    def test_what_is_seen_stays_as_it_was(self):
        watch = Watcher(1)
        full(steps=200, callbacks=[watch, lambda seen: seen.history["loss"].sum()][:1])
        early = watch.seen[2]
        np.testing.assert_array_equal(early.history["loss"], full(steps=200).history["loss"][2:3])
        np.testing.assert_array_equal(early.params, full(steps=3).params)

    def test_learning_rates(self):
        rates = lambda optimizer, steps=6: (
            watch := Watcher(1), full(optimizer=optimizer, steps=steps, callbacks=[watch])
        ) and [seen.learning_rate for seen in watch.seen]  # fmt: skip
        assert rates(SGD(0.25)) == [0.25] * 6
        schedule = optax.linear_schedule(0.1, 0.0, 5)
        np.testing.assert_allclose(rates(SGD(schedule)), [schedule(step) for step in range(6)], rtol=1e-6)
        expected = [schedule(step // 2) for step in range(6)]
        np.testing.assert_allclose(rates(SGD(schedule, accumulate=2)), expected, rtol=1e-6)
        assert rates(optax.sgd(0.1)) == [None] * 6
        watch = Watcher()
        jf.fit(decay, (T, DECAY), np.array([1.0, 1, 0]), callbacks=[watch])
        assert watch.seen[-1].learning_rate is None

    def test_the_run(self):
        watch = Watcher(1)
        batches(epochs=3, callbacks=[watch])
        run = watch.run
        assert (run.model, run.loss, run.optimizer) == (line, jf.losses.mse, Adam(0.1))
        np.testing.assert_array_equal(run.params, START)
        assert (run.steps, run.epochs, run.steps_per_epoch) == (12, 3, 4)
        assert (run.samples, run.batch_size, run.step) == (23, 6, 0)
        seconds = [seen.seconds for seen in watch.seen]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert all(seen.run._replace(params=None) == run._replace(params=None) for seen in watch.seen)
        full(steps=3, callbacks=[watch])
        assert (watch.run.steps, watch.run.epochs, watch.run.batch_size) == (3, None, None)
        jf.fit(line, sampler, START, optimizer=Adam(0.1), steps=30, callbacks=[watch])
        assert (watch.run.samples, watch.run.steps_per_epoch, watch.seen[-1].epoch) == (None, None, 0)

    def test_a_stream_tells_of_its_passes(self):
        stream = [(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:], Y[20:])]
        crew = [Watcher(every) for every in (None, 1, 2, "epoch")]
        result = jf.fit(
            line, stream, START, optimizer=Adam(0.1), epochs=4, validation=(X[:5], Y[:5]), callbacks=crew
        )  # fmt: skip
        for watch in crew:
            np.testing.assert_array_equal(watch.gathered()["loss"], result.history["loss"])
            looks = watch.gathered("epoch_history")
            np.testing.assert_array_equal(looks["validation_loss"], result.history["validation_loss"])
            assert (watch.run.steps, watch.run.epochs, watch.run.steps_per_epoch) == (None, 4, None)
        assert [seen.step for seen in crew[-1].seen] == [3, 6, 9, 12]
        assert [seen.epoch for seen in crew[-1].seen] == [1, 2, 3, 4]
        assert {seen.step for seen in crew[1].seen} == set(range(1, 13))


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (True, "<lambda> asked for it."),
            ("it is late.", "it is late."),
            (Stop("enough."), "enough."),
        ],
    )
    def test_a_function_may_end_the_run(self, answer, reason):
        result = batches(steps=500, callbacks=[Watcher(5), lambda seen: answer if seen.step >= 10 else None])
        assert result.status is Status.STOPPED
        assert result.success
        assert result.message == f"Stopped after step {result.steps}: {reason}"
        assert 10 <= result.steps < 500
        assert len(result.history["loss"]) == result.steps
        same = batches(steps=result.steps)
        np.testing.assert_array_equal(result.params, same.params)
        assert result.loss == same.loss

    def test_the_first_reason_counts_and_all_who_are_due_are_called(self):
        crew = [Watcher(5, lambda seen: "one."), Watcher(5, lambda seen: "two."), Watcher(5)]
        result = batches(steps=50, callbacks=crew)
        assert (result.steps, result.message) == (5, "Stopped after step 5: one.")
        for watch in crew:
            assert watch.seen[0].step == 5
            assert watch.seen[-1].is_last
            assert len(watch.gathered()["loss"]) == 5
            assert len(watch.outcomes) == 1

    def test_false_and_none_go_on(self):
        assert batches(steps=20, callbacks=[lambda seen: False, lambda seen: None]).status is Status.COMPLETED

    def test_an_end_asked_for_at_the_last_step_changes_nothing(self):
        result = batches(steps=10, callbacks=[Watcher(10, lambda seen: "late.")])
        np.testing.assert_array_equal(result.params, batches(steps=10).params)
        assert result.steps == 10

    def test_an_optimizer_is_gone_on_with(self):
        change = Watcher(10, lambda seen: dataclasses.replace(seen.optimizer, learning_rate=0.01))
        result = full(steps=20, callbacks=[change])
        by_schedule = full(optimizer=SGD(optax.piecewise_constant_schedule(0.1, {10: 0.1})), steps=20)
        np.testing.assert_allclose(result.params, by_schedule.params, rtol=1e-6)
        assert [seen.learning_rate for seen in change.seen] == [0.1, 0.01]

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (Adam(0.1), r"Watcher returned Adam\(.*expected SGD\(.*another structure"),
            (SGD(0.1, nesterov=True, momentum=0.9), r"Watcher returned SGD\(.*another structure"),
            (7, r"Watcher returned an int \(7\); expected None to go on, a Stop"),
            ([], r"Watcher returned .*list.*expected None to go on"),
        ],
    )
    def test_other_answers_are_refused(self, answer, message):
        other = Watcher(5)
        with pytest.raises(TypeError, match=message):
            full(steps=20, callbacks=[other, Watcher(5, lambda seen: answer)])
        assert other.outcomes == [None]

    @pytest.mark.parametrize(
        ("given", "kind", "message"),
        [
            (Progress, TypeError, r"callbacks is .*expected a list"),
            ("progress", TypeError, r"callbacks\[0\] is a str \('p'\); expected a callback such as"),
            (Watcher(), TypeError, "callbacks is a Watcher; expected a list of callbacks"),
            (None, TypeError, r"callbacks is None; expected a list"),
            ([Watcher(), Progress], TypeError, r"callbacks\[1\] is .*Progress.*expected a callback such as"),
            ([3], TypeError, r"callbacks\[0\] is an int \(3\); expected a callback"),
            ([Watcher(0)], ValueError, r"callbacks\[0\].every is 0"),
            ([Watcher(2.5)], TypeError, r"callbacks\[0\].every is a float \(2.5\); expected a whole number"),
            ([Watcher("step")], TypeError, r"callbacks\[0\].every is a str \('step'\)"),
        ],
    )
    def test_what_is_no_callback_is_refused(self, given, kind, message):
        with pytest.raises(kind, match=message):
            full(steps=2, callbacks=given)

    def test_any_iterable_of_callbacks_will_do(self):
        watch = Watcher()
        full(steps=2, callbacks=iter([watch]))
        full(steps=2, callbacks=(watch,))
        assert len(watch.outcomes) == 1


class TestExceptions:
    def test_an_exception_goes_to_the_user_and_all_are_told(self):
        def fails(seen):
            raise OSError(f"disk full at step {seen.step}")

        crew = [Watcher(5), Watcher("epoch")]
        with pytest.raises(OSError, match="disk full"):
            batches(steps=50, callbacks=[crew[0], fails, crew[1]])
        assert [watch.outcomes for watch in crew] == [[None], [None]]

    def test_one_that_fails_at_the_end_does_not_keep_the_others_from_it(self):
        class Fails(Callback):
            def end(self, outcome):
                raise OSError(f"disk full: {outcome}")

        watch = Watcher()
        with pytest.raises(OSError, match="disk full"):
            batches(steps=5, callbacks=[Fails(), watch])
        assert watch.outcomes[0] is not None
        assert watch.outcomes[0].status is Status.COMPLETED

    def test_one_that_fails_at_its_beginning(self):
        class Fails(Callback):
            def begin(self, run):
                raise OSError(f"no such folder: {run.steps}")

        watch = Watcher()
        with pytest.raises(OSError, match="no such folder"):
            batches(steps=5, callbacks=[watch, Fails()])
        assert watch.outcomes == [None]


def looks(values, callback, steps=10):
    """What a callback asks for where the mean loss between two looks is as given."""
    rows = np.repeat(np.asarray(values, np.float32), steps)
    fake = FakeRun(rows)
    callback.begin(fake.run)
    optimizer, answers = fake.optimizer, []
    for stop in range(steps, len(rows) + 1, steps):
        answer = callback(dataclasses.replace(fake.seen(stop - steps, stop), optimizer=optimizer))
        optimizer = answer if isinstance(answer, Adam) else optimizer
        answers.append(answer)
    return answers


class TestEarlyStopping:
    def stopped(self, values, **options):
        """After how many looks it stops, and its reason; None where it does not."""
        answers = looks(values, EarlyStopping("loss", every=10, **options))
        return next(((count, answer.reason) for count, answer in enumerate(answers, 1) if answer), None)

    def test_patience(self):
        assert self.stopped([3, 2, 1, 1, 1, 1], patience=2) == (
            5, "loss has not been better than 1 for 2 looks.",
        )  # fmt: skip
        assert self.stopped([3, 2, 4, 1, 4, 0.5], patience=2) is None
        assert self.stopped([3, 4], patience=1) == (2, "loss has not been better than 3 for 1 look.")

    def test_min_delta(self):
        assert self.stopped([3, 2.9, 2.8, 2.7], patience=2, min_delta=0.25)[0] == 3
        assert self.stopped([3, 2.9, 2.7, 2.6], patience=2, min_delta=0.25) is None

    def test_mode(self):
        assert self.stopped([1, 2, 3, 4], patience=2, mode="max") is None
        assert self.stopped([4, 3, 2], patience=2, mode="max")[0] == 3

    def test_nan_is_never_better(self):
        assert self.stopped([math.nan, 3, 2, math.nan, 4], patience=2)[0] == 5
        assert self.stopped([math.nan] * 3, patience=2) == (2, "loss has not been better than nan for 2 looks.")

    def test_the_params_are_those_of_the_best_look_or_the_last(self):
        """The validation data are those of another line: on the way to the one, the fit passes by the other."""
        passed_by = functools.partial(full, steps=400, optimizer=SGD(0.02), validation=(X, 0.5 * Y), record=("params",))
        watch = Watcher("epoch")
        bare = passed_by()
        losses = bare.history["validation_loss"]
        best = int(losses.argmin()) + 1
        assert 10 < best < 300
        result = passed_by(callbacks=[EarlyStopping(patience=7), watch])
        assert result.status is Status.STOPPED
        assert len(result.history["loss"]) == len(result.history["validation_loss"]) == best + 7
        assert result.steps == best
        np.testing.assert_array_equal(result.params, bare.history["params"][best])
        assert result.loss == bare.history["loss"][best]
        assert result.message == (
            f"Stopped after step {best + 7}: validation_loss has not been better than {losses.min():.6g} for 7 looks. "
            f"The params are those after step {best}, the best."
        )
        assert watch.outcomes == [Outcome(result.status, result.message, result.loss, result.steps)]
        last = passed_by(callbacks=[EarlyStopping(patience=7, restore_best=False)])
        assert last.steps == best + 7
        np.testing.assert_array_equal(last.params, bare.history["params"][best + 7])
        assert "best." not in last.message
        whole = passed_by(callbacks=[EarlyStopping(patience=1000)])  # however the run ends
        assert (whole.status, whole.steps) == (Status.COMPLETED, best)
        np.testing.assert_array_equal(whole.params, bare.history["params"][best])

    def test_a_metric(self):
        stop = EarlyStopping("validation_l1", patience=3)
        result = validated(epochs=400, callbacks=[stop])
        assert result.status is Status.STOPPED
        assert "validation_l1 has not been better than" in result.message
        assert result.steps == 4 * (int(result.history["validation_l1"].argmin()) + 1)

    def test_used_again_it_forgets(self):
        stop = EarlyStopping("loss", patience=2, every=10)
        assert looks([1, 2, 3], stop)[-1]
        assert looks([9, 8, 7], stop) == [None] * 3
        assert stop.best().step == 30

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"patience": 0}, ValueError, "patience is 0"),
            ({"patience": 2.5}, TypeError, r"patience is a float \(2.5\)"),
            ({"mode": "least"}, ValueError, "EarlyStopping: mode is 'least'"),
            ({"min_delta": -1.0}, ValueError, "EarlyStopping: min_delta is -1.0"),
            ({"min_delta": math.nan}, ValueError, "EarlyStopping: min_delta is nan"),
            ({"monitor": 3}, TypeError, r"EarlyStopping: monitor is an int \(3\)"),
            ({"every": 0}, ValueError, "EarlyStopping: every is 0"),
        ],
    )
    def test_wrong_options(self, options, kind, message):
        with pytest.raises(kind, match=message):
            EarlyStopping(**options)

    def test_a_monitor_that_is_not_there(self):
        message = "monitor is 'validation_loss'; this run has loss, gradient_norm. .* validation="
        with pytest.raises(ValueError, match=message):
            batches(epochs=3, callbacks=[EarlyStopping()])
        with pytest.raises(ValueError, match="this run has validation_l1, validation_loss, loss, gradient_norm"):
            validated(epochs=3, callbacks=[ReduceOnPlateau("validation_accuracy")])


class TestPlateaus:
    def test_stop_on_plateau_looks_at_means(self):
        noisy = np.tile([1.0, 3.0], 500).astype(np.float32)
        rows = np.concatenate([noisy + 1, noisy, noisy, noisy])
        fake, stop = FakeRun(rows), StopOnPlateau(1000, patience=2)
        stop.begin(fake.run)
        answers = [stop(fake.seen(start, start + 1000)) for start in range(0, 4000, 1000)]
        assert answers == [None, None, None, Stop("the mean loss of 1000 steps has not been below 2 for 2 means.")]
        result = full(steps=10_000, callbacks=[StopOnPlateau(50, patience=2)])
        assert (result.status, result.steps % 50) == (Status.STOPPED, 0)
        assert result.steps < 5_000

    @pytest.mark.parametrize("mode", ["min", "max"])
    @pytest.mark.parametrize(("patience", "least", "min_delta"), [(1, 0.0, 0.0), (2, 1e-3, 0.1), (3, 0.0, 0.5)])
    def test_reduce_on_plateau_is_torchs(self, mode, patience, least, min_delta, rng):
        """The same losses make the same learning rates."""
        losses = rng.integers(0, 8, 60) / np.arange(4, 64) * 4
        losses[[7, 20]] = np.nan
        losses = np.asarray(losses, np.float32).astype(np.float64)
        options = {"factor": 0.5, "patience": patience, "mode": mode}
        slower = ReduceOnPlateau("loss", **options, min_delta=min_delta, least=least, every=10)
        rate, ours = 0.1, []
        for answer in looks(losses, slower):
            rate = rate if answer is None else answer.learning_rate
            ours.append(rate)
        expected = reduced(losses, **options, min_delta=min_delta, least=least)
        assert len(set(expected)) > 3
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
        if HAVE_TORCH:
            np.testing.assert_allclose(
                expected, reduced_by_torch(losses, **options, min_delta=min_delta, least=least), rtol=1e-12
            )

    def test_reduce_on_plateau_in_a_run(self):
        slower, watch = ReduceOnPlateau("loss", patience=2, every=20, factor=0.5), Watcher(20)
        result = full(optimizer=Adam(1.0), steps=1000, callbacks=[slower, watch])
        rates = np.array([seen.learning_rate for seen in watch.seen])
        assert rates[0] == 1.0
        assert rates[-1] < 0.1
        means = np.array([seen.history["loss"].mean(dtype=np.float64) for seen in watch.seen])
        expected = reduced(means, factor=0.5, patience=2, mode="min", min_delta=0.0, least=0.0, start=1.0)
        np.testing.assert_allclose(rates[1:], expected[:-1], rtol=1e-12)
        exact = np.polyfit(X.astype(float), Y.astype(float), 1)
        np.testing.assert_allclose(result.params, exact, rtol=1e-4)

    def test_a_rate_that_is_no_number_is_refused(self):
        for optimizer in (SGD(optax.linear_schedule(0.1, 0.0, 9)), LevenbergMarquardt(), optax.sgd(0.1)):
            with pytest.raises(TypeError, match="ReduceOnPlateau needs an optimizer whose learning_rate is one number"):
                full(optimizer=optimizer, steps=9, callbacks=[ReduceOnPlateau("loss", every=2)])

    @pytest.mark.parametrize("options", [{"factor": 0.0}, {"factor": 1.0}, {"factor": "half"}, {"least": -1.0}])
    def test_wrong_options(self, options):
        with pytest.raises(ValueError, match=f"ReduceOnPlateau: {next(iter(options))} is"):
            ReduceOnPlateau(**options)


def reduced(losses, factor, patience, mode, min_delta, least, start=0.1):
    """The learning rate after each loss, by torch's rule written out."""
    sign, best, bad, rate, rates = (1 if mode == "min" else -1), math.inf, 0, start, []
    for loss in losses:
        if sign * loss < best - min_delta:
            best, bad = sign * loss, 0
        else:
            bad += 1
        if bad > patience:
            rate, bad = max(rate * factor, least), 0
        rates.append(rate)
    return rates


def reduced_by_torch(losses, factor, patience, mode, min_delta, least):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor, patience, threshold=min_delta, threshold_mode="abs", min_lr=least, eps=0.0
    )
    rates = []
    for loss in losses:
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    @pytest.fixture
    def stderr(self, monkeypatch):
        def make(kind=io.StringIO, width=80):
            made = kind()
            monkeypatch.setattr("sys.stderr", made)
            monkeypatch.setenv("COLUMNS", str(width))
            monkeypatch.setenv("TERM", "xterm")
            return made

        return make

    def test_nothing_is_drawn_unasked(self, stderr):
        for kind in (io.StringIO, Terminal):
            shown = stderr(kind)
            full(steps=5)
            full(steps=5, callbacks=[Watcher(1)])
            full(steps=5, progress=False)
            assert shown.getvalue() == ""

    def test_a_file_gets_the_last_line_alone(self, stderr):
        shown = stderr()
        result = full(steps=300, progress=True, callbacks=[Watcher(1)])
        (last,) = shown.getvalue().splitlines()
        assert "300/300" in last
        assert f"loss {result.history['loss'][-1]:.4g}" in last
        assert "\x1b" not in last

    def test_a_terminal_sees_the_bar_move(self, stderr):
        shown = stderr(Terminal, width=120)
        full(steps=60, progress=True, callbacks=[Watcher(15)])
        drawn = shown.getvalue()
        places = [drawn.index(f"{step}/60") for step in (0, 15, 30, 45, 60)]
        assert places == sorted(places)
        assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor is back
        assert drawn.endswith(("\x1b[?25h", "\n"))

    def test_epochs_and_what_they_brought_fit_into_a_line(self, stderr):
        shown = stderr()
        result = validated(epochs=30, progress=True)
        (last,) = shown.getvalue().splitlines()
        assert len(last.rstrip()) <= 80
        assert last.startswith("steps ")
        assert "120/120" in last
        assert "epoch 30/30" in last
        shown = stderr(width=160)
        validated(epochs=30, progress=True)
        assert f"validation_loss {result.history['validation_loss'][-1]:.4g}" in shown.getvalue()

    def test_the_line_is_finished_where_the_run_fails(self, stderr):
        def fails(seen):
            raise OSError(f"disk full at step {seen.step}")

        shown = stderr(Terminal)
        with pytest.raises(OSError, match="disk full"):
            full(steps=60, progress=True, callbacks=[fails])
        assert shown.getvalue().count("\x1b[?25h") == 1

    def test_the_numbers_stay_where_the_run_is_stopped(self, stderr):
        shown = stderr()
        stop = Watcher(20, lambda seen: "enough.")
        result = validated(epochs=30, progress=True, callbacks=[stop])
        (last,) = shown.getvalue().splitlines()
        assert result.steps == 20
        assert f"loss {result.history['loss'][-1]:.4g}" in last

    def test_a_limit_is_no_goal(self, stderr):
        shown = stderr()
        result = jf.fit(decay, (T, DECAY), np.array([1.0, 1, 0]), progress=True)
        (last,) = shown.getvalue().splitlines()
        assert f"{result.steps}/{result.steps}" in last
        assert "5000" not in last

    @pytest.mark.parametrize("progress", ["yes", 2, [], 0.5])
    def test_wrong_arguments(self, progress):
        with pytest.raises(TypeError, match=r"progress is .*; expected True, False or None"):
            full(steps=2, progress=progress)


GROUPS = [slice(at, at + 6) for at in (0, 6, 12, 18)]
X24 = np.linspace(-1, 1, 24, dtype=np.float32)
Y24 = (2 * X24 + 1 + 0.1 * np.sin(20 * X24)).astype(np.float32)


def spoiled(number, value=3e30):
    """Y whose squares overflow in one of four batches."""
    y = Y24.copy()
    y[GROUPS[number]] = value
    return y


class TestSkip:
    skip = staticmethod(functools.partial(
        jf.fit, line, params=START, batch_size=6, shuffle=False, on_nonfinite="skip"
    ))  # fmt: skip

    @pytest.mark.parametrize("number", range(4))
    @pytest.mark.parametrize("callbacks", [[], [Watcher(1)]], ids=["one program", "chunks"])
    def test_the_update_of_a_bad_batch_is_left_out(self, number, callbacks):
        data = X24, spoiled(number)
        good = [(X24[group], Y24[group]) for index, group in enumerate(GROUPS) if index != number]
        expected = jf.fit(line, good, START, optimizer=SGD(0.1), epochs=3)
        result = self.skip(data, optimizer=SGD(0.1), epochs=3, callbacks=callbacks)
        assert result.status is Status.COMPLETED
        assert result.message.endswith("3 updates with a loss or gradient that was not finite were skipped.")
        np.testing.assert_array_equal(result.params, expected.params)
        losses = result.history["loss"].reshape(3, 4)
        assert not np.isfinite(losses[:, number]).any()
        np.testing.assert_array_equal(np.delete(losses, number, axis=1).ravel(), expected.history["loss"])
        assert math.isfinite(result.loss)

    def test_a_stream_and_momenta(self):
        """What is left out leaves the optimizer as it was, its count of steps too."""
        stream = [(X24[group], spoiled(2)[group]) for group in GROUPS]
        result = jf.fit(line, stream, START, optimizer=Adam(0.1), epochs=2, on_nonfinite="skip")
        good = [stream[number] for number in (0, 1, 3)]
        expected = jf.fit(line, good, START, optimizer=Adam(0.1), epochs=2)
        np.testing.assert_array_equal(result.params, expected.params)
        assert (result.steps, expected.steps) == (8, 6)
        assert "2 updates with" in result.message

    def test_one_bad_batch_is_told_as_one(self):
        result = self.skip((X24, spoiled(1)), optimizer=SGD(0.1), epochs=1)
        assert result.message.endswith("1 update with a loss or gradient that was not finite was skipped.")
        clean = self.skip((X24, Y24), optimizer=SGD(0.1), epochs=1)
        assert "skipped" not in clean.message

    @pytest.mark.parametrize("callbacks", [[], [Watcher(1)]], ids=["one program", "chunks"])
    def test_where_all_are_bad(self, callbacks):
        with pytest.warns(FitWarning, match="No step had a finite loss and gradient"):
            result = self.skip((X24, np.full(24, 3e30)), optimizer=SGD(0.1), epochs=2, callbacks=callbacks)
        assert result.status is Status.NON_FINITE
        assert not result.success
        np.testing.assert_array_equal(result.params, START)

    @pytest.mark.parametrize("callbacks", [[], [Watcher(1)]], ids=["one program", "chunks"])
    def test_running_statistics_are_not_spoiled(self, callbacks):
        x = np.where(np.arange(24) // 6 == 1, np.float32(1e30), X24)[:, None]
        y = spoiled(1)[:, None]
        module = lambda: nn.Sequential(nn.BatchNorm1d(1, rngs=nnx.Rngs(0)), nn.Linear(1, 1, rngs=nnx.Rngs(1)))
        options = {"optimizer": SGD(0.1), "epochs": 2}
        result = jf.fit(
            module(), (x, y), batch_size=6, shuffle=False, on_nonfinite="skip", callbacks=callbacks, **options
        )
        good = [(x[group], y[group]) for group in (GROUPS[0], *GROUPS[2:])]
        expected = jf.fit(module(), good, **options)
        assert "2 updates with" in result.message
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6),
            (result.params, result.model_state),
            (expected.params, expected.model_state),
        )

    def test_early_stopping_and_its_best_go_with_it(self):
        result = self.skip(
            (X24, spoiled(3)), optimizer=SGD(0.1), epochs=200, validation=(X24, Y24), callbacks=[EarlyStopping()]
        )
        assert result.status in (Status.STOPPED, Status.COMPLETED)
        assert np.isfinite(result.params).all()
        best = 4 * (int(result.history["validation_loss"].argmin()) + 1)
        assert result.steps == best

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"skip. is for batches .*; LevenbergMarquardt sees the same"):
            jf.fit(line, (X, Y), START, on_nonfinite="skip")
        with pytest.raises(ValueError, match="on_nonfinite is 'ignore'"):
            full(steps=2, on_nonfinite="ignore")
        with pytest.raises(ValueError, match="on_nonfinite is None"):
            full(steps=2, on_nonfinite=None)


def root(params, x):
    """Its gradient is NaN where the loss is finite still: at params of 0 and below."""
    return params * x + 0 * jnp.sqrt(jnp.maximum(params, 0.0))


class TestNonFinite:
    """A run in chunks ends where the run as one program does, and says the same."""

    CASES = {
        "at the start": lambda **more: jf.fit(
            lambda p, x: jnp.log(p) * x, (X, Y), -1.0, optimizer=SGD(0.1), steps=40, **more
        ),
        "on the way": functools.partial(full, optimizer=SGD(50.0), steps=60),
        "at a logarithm": lambda **more: jf.fit(
            lambda p, x: jnp.log(p) + 0 * x, (X, 0 * X - 3), 1.0, optimizer=SGD(0.05), steps=60, **more
        ),
        "in the second epoch": functools.partial(batches, optimizer=SGD(1e8), steps=60, validation=(X, Y)),
        "gradient alone": lambda **more: jf.fit(
            root, (X * 0 + 1, X), 0.35, loss=lambda p, t: jnp.mean(p), optimizer=SGD(0.1), steps=40, **more
        ),
        "gradient at the start": lambda **more: jf.fit(
            root, (X * 0 + 1, X), -1.0, loss=lambda p, t: jnp.mean(p), optimizer=SGD(0.1), steps=40, **more
        ),
        "averages": functools.partial(full, optimizer=SGD(50.0, ema_decay=0.9), steps=60),
        "recorded": functools.partial(full, optimizer=SGD(50.0), steps=60, record=("params", "gradient_norm")),
    }  # fmt: skip

    @pytest.mark.parametrize("name", CASES)
    def test_in_chunks_as_in_one(self, name):
        with pytest.warns(FitWarning):
            bare = self.CASES[name]()
        assert bare.status in (Status.NON_FINITE, Status.DIVERGED)
        for every in (1, 2, 5, None):
            watch = Watcher(every)
            with pytest.warns(FitWarning):
                watched = self.CASES[name](callbacks=[watch])
            assert_same(watched, bare)
            (outcome,) = watch.outcomes
            assert outcome[:2] == (bare.status, bare.message)
            np.testing.assert_array_equal(outcome[2:], (bare.loss, bare.steps))
            assert watch.seen[-1].is_last
            np.testing.assert_array_equal(watch.seen[-1].params, bare.params)

    def test_early_stopping_restores_the_best_of_a_run_that_diverged(self):
        stop = EarlyStopping("loss", patience=100, every=1)
        with pytest.warns(FitWarning):
            result = full(optimizer=SGD(50.0), steps=60, callbacks=[stop])
        assert result.status in (Status.NON_FINITE, Status.DIVERGED)
        assert result.loss == np.min(result.history["loss"][1:])


class TestWhatAReviewFound:
    """Cases that went wrong once."""

    def boxbod(self, *callbacks):
        data = np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])
        return jf.fit(saturation, data, np.array([1.0, 1.0]), callbacks=callbacks)

    def test_the_best_of_a_first_try_is_not_that_of_the_second(self):
        bare = self.boxbod()
        found = self.boxbod(EarlyStopping("loss", patience=100, every=1))
        np.testing.assert_allclose(found.params, bare.params, rtol=1e-6)
        assert found.loss == pytest.approx(bare.loss, rel=1e-9)

    def test_patience_begins_anew_with_a_second_try(self):
        # It ends before the second try is any better: the first one's end is the result, and not worse than that.
        found = self.boxbod(EarlyStopping("loss", patience=3, every=1, restore_best=False))
        prediction = saturation(found.params, np.array([1.0, 2, 3, 5, 7, 10]))
        wrong = np.mean((prediction - np.array([109.0, 149, 149, 191, 213, 224])) ** 2)
        assert found.loss == pytest.approx(float(wrong), rel=1e-6)

    def test_the_loss_of_the_best_params_is_theirs(self):
        averages = functools.partial(full, optimizer=SGD(0.9, ema_decay=0.5), steps=40)
        with_best = averages(callbacks=[EarlyStopping("loss", patience=100, every=3)])
        assert with_best.loss == pytest.approx(float(np.mean((line(with_best.params, X) - Y) ** 2)), rel=1e-5)

    def test_a_skipped_last_step_does_not_spoil_the_best(self):
        data = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:12], np.full(4, 3e38, np.float32))]
        found = jf.fit(
            line, data, START, optimizer=SGD(0.1), steps=9, on_nonfinite="skip",
            callbacks=[EarlyStopping("loss", patience=50, every=2)],
        )  # fmt: skip
        assert found.success
        assert math.isfinite(found.loss)
        assert "3 updates" in found.message

    def test_a_bool_of_numpys_or_jaxs_is_an_answer(self):
        for kind in (np.bool_, jnp.asarray):
            with_answer = lambda seen, kind=kind: kind(seen.step >= 4) if kind is np.bool_ else bool(seen.step >= 4)
            assert batches(steps=300, callbacks=[Watcher(2), with_answer]).status is Status.STOPPED

    def test_a_function_never_sees_an_empty_history(self):
        rows = []
        batches(steps=20, callbacks=[lambda seen: rows.append(len(seen.history["loss"]))])
        assert min(rows) > 0
        assert sum(rows) == 20

    def test_inside_a_transformation_nobody_can_look_on(self):
        for options in ({"callbacks": [Watcher()]}, {"progress": True}):
            with pytest.raises(TypeError, match="belong to a fit that is driven from outside"):
                jax.jit(lambda y, options=options: jf.fit(line, (X, y), START, **options).params)(Y)

    def test_callbacks_run_in_the_users_precision(self):
        kinds = []
        jf.fit(decay, (T, DECAY), np.array([1.0, 1, 0]), callbacks=[lambda seen: kinds.append(jnp.zeros(1).dtype)])
        assert set(kinds) == {jnp.zeros(1).dtype}

    def test_every_epoch_of_a_sampler_is_refused(self):
        with pytest.raises(ValueError, match="EarlyStopping is to act after every epoch, and a sampler has none"):
            jf.fit(line, sampler, START, optimizer=Adam(0.1), steps=9, callbacks=[EarlyStopping("loss")])

    def test_one_bar_is_enough(self, capfd):
        batches(steps=20, callbacks=[Progress()], progress=True)
        assert capfd.readouterr().err.count("steps") == 1

    def test_handlers_that_a_callback_installs_stay(self):
        before = signal.getsignal(signal.SIGTERM)
        mine = lambda number, frame: None
        try:
            batches(steps=5, callbacks=[lambda seen: signal.signal(signal.SIGTERM, mine) and None])
            assert signal.getsignal(signal.SIGTERM) is mine
        finally:
            signal.signal(signal.SIGTERM, before)
