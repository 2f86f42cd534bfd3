"""Event files: TensorBoard's own readers find in them what happened."""

import dataclasses
import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import backend_context, list_session_groups, plugin_data_pb2
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest, Status

import fake_run
import jaxfit as jf
from fake_run import FakeRun, completed
from jaxfit import nn
from jaxfit.callbacks import Checkpoint, Outcome, TensorBoard, _summaries
from jaxfit.optimizers import SGD, Adam, LevenbergMarquardt

LOSSES = np.random.default_rng(0).lognormal(size=1000).astype(np.float32)
VALIDATED = ("validation_loss", "validation_accuracy")


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    return events.Reload()


def curve(events, tag):
    """Steps and values."""
    points = events.Scalars(tag)
    return [point.step for point in points], [point.value for point in points]


def text(events, tag):
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "text"
    return [tensor.tensor_proto.string_val[0].decode() for tensor in events.Tensors(tag)][-1]


def test_every_fiftieth_step_is_a_point_wherever_the_calls_fall(tmp_path):
    FakeRun(LOSSES).drive(TensorBoard(tmp_path), [1, 50, 51, 320, 321, 1000], completed(1000))
    events = read(tmp_path)
    steps, values = curve(events, "train/loss")
    assert steps == list(range(0, 1000, 50))
    assert values == LOSSES[steps].tolist()
    assert curve(events, "train/gradient_norm") == (steps, (2 * LOSSES[steps]).tolist())
    assert curve(events, "train/learning_rate") == (steps, [float(np.float32(0.1))] * len(steps))
    times = [point.wall_time for point in events.Scalars("train/loss")]
    assert times == sorted(times)
    assert abs(times[-1] - os.stat(tmp_path).st_mtime) < 60


def test_every_step(tmp_path):
    FakeRun(LOSSES).drive(TensorBoard(tmp_path, every=1), [700, 1000])
    assert curve(read(tmp_path), "train/loss") == (list(range(1000)), LOSSES.tolist())


def test_no_tag_is_in_two_places_and_there_are_no_others(tmp_path):
    fake = FakeRun(LOSSES, steps_per_epoch=100, names=(*VALIDATED, "l1"))
    fake.drive(TensorBoard(tmp_path, histograms=1000), [1000], completed(1000))
    tags = read(tmp_path).Tags()
    assert sorted(tags["scalars"]) == [
        "metrics/l1", "outcome/loss", "parameter_norm/b", "parameter_norm/w", "train/gradient_norm",
        "train/learning_rate", "train/loss", "train/parameter_norm", "validation/accuracy", "validation/loss",
    ]  # fmt: skip
    assert sorted(tags["histograms"]) == ["params/b", "params/w"]
    assert sorted(tags["tensors"]) == ["run/loss", "run/model", "run/optimizer", "run/outcome"]


@pytest.mark.parametrize("tells", [True, False])
def test_validation_stands_at_the_last_step_of_each_epoch(tmp_path, tells):
    calls = [70, 230, 1000] if tells else [70, 100, 200, 1000]
    fake = FakeRun(LOSSES, steps_per_epoch=100, names=VALIDATED, tells_steps_per_epoch=tells)
    fake.drive(TensorBoard(tmp_path), calls)
    events = read(tmp_path)
    ends = list(range(99, 1000, 100))
    assert curve(events, "validation/loss") == (ends, [10.0 + epoch for epoch in range(10)])
    assert curve(events, "validation/accuracy") == (ends, [11.0 + epoch for epoch in range(10)])


def test_the_learning_rate_of_a_schedule_is_that_of_each_step(tmp_path):
    schedule = optax.cosine_decay_schedule(0.1, 1000)
    FakeRun(LOSSES, Adam(schedule)).drive(TensorBoard(tmp_path, every=7), [400, 1000])
    steps, rates = curve(read(tmp_path), "train/learning_rate")
    np.testing.assert_allclose(rates, [schedule(step) for step in steps], rtol=1e-4)


def test_equal_schedules_compile_once(tmp_path, compilations):
    for _ in range(2):
        FakeRun(LOSSES, Adam(optax.polynomial_schedule(0.3, 0.1, 2, 900))).drive(TensorBoard(tmp_path), [300, 1000])
    assert compilations() <= 2  # the schedule, and an initial state of Adam


def test_an_optimizer_without_a_learning_rate_has_no_curve_of_it(tmp_path):
    fake = FakeRun(LOSSES)
    board = TensorBoard(tmp_path)
    board.begin(fake.run._replace(optimizer=LevenbergMarquardt()))
    board(dataclasses.replace(fake.seen(0, 1000), optimizer=LevenbergMarquardt()))
    board.end(None)
    assert "train/learning_rate" not in read(tmp_path).Tags()["scalars"]


def test_histograms_and_norms_where_they_fall_due(tmp_path):
    fake = FakeRun(LOSSES)
    board = TensorBoard(tmp_path, histograms=200)
    assert board.every == 200  # when it is to be called
    fake.drive(board, [100, 200, 400, 450, 800, 1000])
    events = read(tmp_path)
    assert [point.step for point in events.Histograms("params/w")] == [199, 399, 799, 999]
    for point in events.Histograms("params/b"):
        number = point.step + 1.0
        found = point.histogram_value
        assert (found.min, found.max, found.num, found.sum) == (number, number, 2, 2 * number)
    found = events.Histograms("params/w")[0].histogram_value
    assert (found.min, found.max, found.num, found.sum, found.sum_squares) == (0, 4, 4, 7, 25)
    assert sum(found.bucket) == 4
    assert found.bucket[0] == 2
    assert found.bucket[-1] == 1
    assert curve(events, "parameter_norm/w") == ([199, 399, 799, 999], [5.0] * 4)
    steps, norms = curve(events, "train/parameter_norm")
    assert set(steps) >= {199, 399, 799, 999}
    np.testing.assert_allclose(norms, np.sqrt(25 + 2 * (np.array(steps) + 1.0) ** 2), rtol=1e-6)


def test_histograms_of_odd_params(tmp_path, rng):
    normal = rng.normal(size=10_000)
    params = {
        "layers": [{"kernel": normal.astype(np.float32)}],
        "half": jnp.asarray([1, 2, 3], jnp.bfloat16),
        "wild": np.array([np.nan, np.inf, 1.0, -1.0]),
        "lost": np.array([np.nan]),
        "none": np.zeros((0, 3)),
        "close": np.array([1e8, np.nextafter(1e8, 2e8)]),
    }
    FakeRun(LOSSES, params=params).drive(TensorBoard(tmp_path, histograms=1000), [1000])
    events = read(tmp_path)
    found = events.Histograms("params/layers/0/kernel")[0].histogram_value
    kept = normal.astype(np.float32).astype(float)
    assert (found.num, found.min, found.max) == (10_000, kept.min(), kept.max())
    counts, edges = np.histogram(kept, bins=len(found.bucket))
    np.testing.assert_array_equal(found.bucket, counts)
    np.testing.assert_allclose(found.bucket_limit, edges[1:])
    assert events.Histograms("params/half")[0].histogram_value.sum == 6
    assert events.Histograms("params/wild")[0].histogram_value.num == 2
    assert events.Histograms("params/close")[0].histogram_value.num == 2
    assert {"params/lost", "params/none"}.isdisjoint(events.Tags()["histograms"])
    assert np.isnan(curve(events, "parameter_norm/wild")[1]).all()
    assert curve(events, "parameter_norm/none")[1] == [0.0]


def test_a_single_array_of_params_has_no_name(tmp_path):
    fake = FakeRun(LOSSES, params={"w": np.ones(4)})
    board = TensorBoard(tmp_path, histograms=1000)
    board.begin(fake.run)
    seen = fake.seen(0, 1000)
    board(dataclasses.replace(seen, state=seen.state._replace(params=np.ones(4))))
    board.end(None)
    assert read(tmp_path).Tags()["histograms"] == ["params"]
    assert curve(read(tmp_path), "parameter_norm") == ([999], [2.0])


def test_what_is_not_finite_is_written_as_it_is(tmp_path):
    fake = FakeRun(np.array([1, np.nan, np.inf, -np.inf], np.float32))
    fake.drive(TensorBoard(tmp_path, every=1), [4], Outcome(jf.Status.NON_FINITE, "The loss was nan.", np.nan, 1))
    events = read(tmp_path)
    np.testing.assert_array_equal(curve(events, "train/loss")[1], [1, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(curve(events, "outcome/loss"), [[0], [np.nan]])


def test_the_tab_text_shows_what_ran(tmp_path):
    fake = FakeRun(LOSSES, loss=jf.losses.huber)
    fake.drive(TensorBoard(tmp_path), [1000], completed(1000))
    events = read(tmp_path)
    assert text(events, "run/model").startswith("`model`, called as `model(params, x)`\n\n    def model(params, x):\n")
    assert '    return x @ params["w"] + params["b"]' in text(events, "run/model")
    assert text(events, "run/optimizer") == "    Adam(learning_rate=0.1)"
    assert text(events, "run/loss") == "`huber` of jaxfit"
    assert text(events, "run/outcome") == "**completed**: Took all 1000 steps."


def test_models_of_every_kind_are_described(tmp_path):
    def shown(model):
        fake = FakeRun(LOSSES)
        board = TensorBoard(tmp_path)
        board.begin(fake.run._replace(model=model))
        board.end(None)
        return text(read(tmp_path), "run/model")

    network = nn.Sequential(nn.Linear(2, 3, rngs=nn.Rngs(0)), nn.ReLU())
    assert shown(network) == "\n".join("    " + line for line in repr(network).splitlines())
    assert "\x1b" not in shown(network)
    made = {}
    exec("def at_a_prompt(params, x): return x", made)
    assert shown(made["at_a_prompt"]) == "`at_a_prompt`, called as `at_a_prompt(params, x)`"
    assert shown(jnp.sin).startswith("`sin`")
    assert shown(max) == "`max`"
    assert shown(functools.partial(fake_run.model, x=3)).startswith("`model(x=3)`, called as `model(params, x)`")
    assert len(shown("long" * 100_000)) < 30_000


class Board:
    """TensorBoard's own view of a folder of runs, without its web server."""

    def __init__(self, folder):
        events = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
        events.Reload()
        self.events = events
        provider = data_provider.MultiplexerDataProvider(events, str(folder))
        self.hparams = backend_context.Context(
            type("TBContext", (), {"data_provider": provider, "multiplexer": events})
        )
        self.experiment = self.hparams.experiment_from_metadata(
            context.RequestContext(), "", True, self.hparams.hparams_metadata(context.RequestContext(), ""), None
        )

    def sessions(self):
        """Status, hyperparameters and last values of each run by its name."""
        every = list(Status.values())
        columns = [{"metric": {"tag": m.name.tag, "group": m.name.group}} for m in self.experiment.metric_infos]
        request = ListSessionGroupsRequest(allowed_statuses=every, slice_size=100, col_params=columns)
        found = list_session_groups.Handler(context.RequestContext(), self.hparams, "", request).run()
        return {
            session.name: (
                session.status,
                {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
                {value.name.tag: value.value for value in session.metric_values},
            )
            for group in found.session_groups
            for session in group.sessions
        }


def test_the_tab_hparams_compares_runs(tmp_path):
    own = {"note": "first", "augmented": True, "width": np.int64(64), "rate": 2}
    fake = FakeRun(LOSSES, steps_per_epoch=100, names=VALIDATED)
    fake.drive(TensorBoard(tmp_path / "a", hyperparameters=own), [1000], completed(1000))
    fake = FakeRun(LOSSES[:500], SGD(optax.constant_schedule(0.5), momentum=jnp.float32(0.5)), loss=jf.losses.l1)
    fake.drive(TensorBoard(tmp_path / "b"), [500], Outcome(jf.Status.DIVERGED, "It grew.", 7.0, 500))
    FakeRun(LOSSES).drive(TensorBoard(tmp_path / "c"), [100])
    board = Board(tmp_path)
    columns = {info.name for info in board.experiment.hparam_infos}
    assert columns >= {"optimizer", "learning_rate", "betas", "momentum", "batch_size", "steps", "loss", "params", *own}
    metrics = {info.name.tag for info in board.experiment.metric_infos}
    assert metrics >= {"outcome/loss", "validation/loss", "validation/accuracy"}
    sessions = board.sessions()
    status, table, last = sessions["a"]
    assert status == Status.STATUS_SUCCESS
    assert table["note"] == "first"
    assert table["augmented"] is True
    assert table["width"] == 64
    expected = {"optimizer": "Adam", "learning_rate": 0.1, "betas": "(0.9, 0.999)", "batch_size": 16, "samples": 160}
    assert {name: table[name] for name in expected} == expected
    assert (table["steps"], table["params"], table["loss"]) == (1000, 6, "mse")
    assert (last["outcome/loss"], last["validation/loss"], last["validation/accuracy"]) == (0.25, 19.0, 20.0)
    status, table, last = sessions["b"]
    assert status == Status.STATUS_FAILURE
    assert (table["optimizer"], table["learning_rate"], table["momentum"]) == ("SGD", "constant_schedule", 0.5)
    assert (table["loss"], last["outcome/loss"]) == ("l1", 7.0)
    assert sessions["c"][0] == Status.STATUS_UNKNOWN  # it may yet go on


def test_hyperparameters_are_in_the_run_itself(tmp_path):
    FakeRun(LOSSES).drive(TensorBoard(tmp_path), [1000], completed(1000))
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("events.out.tfevents.")
    tags = read(tmp_path).PluginTagToContent("hparams")
    assert set(tags) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    start = plugin_data_pb2.HParamsPluginData.FromString(tags["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["learning_rate"].number_value == 0.1
    assert abs(start.start_time_secs - file.stat().st_mtime) < 60


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = {"steps_per_epoch": 100, "names": VALIDATED}
    FakeRun(LOSSES, **options).drive(TensorBoard(whole, histograms=100), [200, 400, 1000], completed(1000))
    FakeRun(2 * LOSSES, **options).drive(TensorBoard(resumed, every=1), [60])
    FakeRun(LOSSES, **options).drive(TensorBoard(resumed, histograms=100), [200, 400, 777])
    FakeRun(LOSSES, **options, step=400).drive(TensorBoard(resumed, histograms=100), [1000], completed(1000))
    assert len(list(resumed.iterdir())) == 3
    before, after = read(whole), read(resumed)
    assert set(before.Tags()["scalars"]) == set(after.Tags()["scalars"])
    for tag in before.Tags()["scalars"]:
        assert curve(before, tag) == curve(after, tag), tag
    for tag in ("params/b", "params/w"):
        assert [p.step for p in after.Histograms(tag)] == [p.step for p in before.Histograms(tag)]
    assert Board(tmp_path).sessions()["resumed"][0] == Status.STATUS_SUCCESS


def test_an_interrupted_run_is_not_over(tmp_path):
    fake = FakeRun(LOSSES)
    fake.drive(TensorBoard(tmp_path / "a"), [400], Outcome(jf.Status.INTERRUPTED, "Ctrl-C.", 0.5, 400))
    assert Board(tmp_path).sessions()["a"][0] == Status.STATUS_UNKNOWN
    FakeRun(LOSSES, step=400).drive(TensorBoard(tmp_path / "a"), [1000], completed(1000))
    assert Board(tmp_path).sessions()["a"][0] == Status.STATUS_SUCCESS
    assert curve(read(tmp_path / "a"), "outcome/loss") == ([399, 999], [0.5, 0.25])


def test_a_second_run_of_the_same_callback_takes_the_place_of_the_first(tmp_path):
    board = TensorBoard(tmp_path)
    FakeRun(LOSSES).drive(board, [1000], completed(1000))
    FakeRun(3 * LOSSES[:100]).drive(board, [100], completed(100))
    steps, values = curve(read(tmp_path), "train/loss")
    assert steps == [0, 50]
    assert values == (3 * LOSSES)[steps].tolist()
    assert curve(read(tmp_path), "outcome/loss")[0] == [99]


def test_the_file_can_be_read_while_the_run_goes_on(tmp_path):
    board = TensorBoard(tmp_path)
    fake = FakeRun(LOSSES)
    board.begin(fake.run)
    events = read(tmp_path)
    assert events.Tags()["tensors"]
    board._flushed -= 10  # seconds
    board(fake.seen(0, 500))
    assert curve(events.Reload(), "train/loss")[0] == list(range(0, 500, 50))
    board.end(None)
    board.end(None)


def test_an_exception_before_the_run_begins(tmp_path):
    TensorBoard(tmp_path / "new").end(None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"logdir": 3}, TypeError, r"logdir is an int \(3\)"),
        ({"logdir": None}, TypeError, "logdir is None"),
        ({"logdir": ""}, ValueError, "logdir is empty"),
        ({"logdir": __file__}, ValueError, "logdir is '.*test_tensorboard.py', a file"),
        ({"logdir": "runs", "every": 0}, ValueError, "every is 0"),
        ({"logdir": "runs", "every": 2.5}, TypeError, "every is a float"),
        ({"logdir": "runs", "histograms": -1}, ValueError, "histograms is -1"),
        ({"logdir": "runs", "hyperparameters": [1]}, TypeError, "hyperparameters is a list; expected a dict"),
        ({"logdir": "runs", "hyperparameters": {1: 2}}, TypeError, "a name in hyperparameters is an int"),
        ({"logdir": "runs", "hyperparameters": {"a": [1]}}, TypeError, r"hyperparameters\['a'\] is a list"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=f"TensorBoard: {message}"):
        TensorBoard(**arguments)


def test_a_file_that_came_in_the_way(tmp_path):
    board = TensorBoard(tmp_path / "run")
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"logdir is '.*run', a file"):
        board.begin(FakeRun(LOSSES).run)


def test_without_tensorboardx(tmp_path, monkeypatch):
    _summaries.library.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install jaxfit\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_params_are_fetched_seldom_where_that_is_slow(tmp_path, monkeypatch):
    fetched = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or get(tree))
    ticks = iter(range(1000))
    monkeypatch.setattr("jaxfit.callbacks._tensorboard.time.perf_counter", lambda: 0.001 * next(ticks))
    FakeRun(LOSSES).drive(TensorBoard(tmp_path), list(range(10, 1001, 10)))  # seconds: 0.01, 0.02 ... 1
    # A norm takes a millisecond by this clock, and may be had every 100.
    assert 8 <= len(fetched) <= 12
    assert curve(read(tmp_path), "train/parameter_norm")[0][-1] == 999


def line(params, x):
    return params["slope"] * x


X = np.linspace(-1, 1, 40, dtype=np.float32)
FIT = {"optimizer": Adam(0.05), "epochs": 12, "batch_size": 8, "validation": (X, 2 * X), "progress": False}


def test_the_curves_of_a_fit_are_its_history(tmp_path):
    board = TensorBoard(tmp_path / "a", every=3, histograms=25)
    metrics = {"l1": jf.losses.l1}
    result = jf.fit(line, (X, 3 * X), {"slope": 0.0}, metrics=metrics, callbacks=[board], **FIT)
    events = read(tmp_path / "a")
    steps, losses = curve(events, "train/loss")
    assert steps == list(range(0, 60, 3))
    assert losses == result.history["loss"][::3].tolist()
    for tag, name in (("validation/loss", "validation_loss"), ("validation/l1", "validation_l1")):
        steps, values = curve(events, tag)
        assert steps == list(range(4, 60, 5))
        assert values == result.history[name].tolist()
    steps, norms = curve(events, "parameter_norm/slope")
    assert steps == [24, 49, 59]
    assert norms[-1] == float(result.params["slope"])
    assert curve(events, "outcome/loss") == ([59], [np.float32(result.loss)])
    assert text(events, "run/outcome") == "**completed**: Took all 60 steps."
    status, table, last = Board(tmp_path).sessions()["a"]
    assert status == Status.STATUS_SUCCESS
    assert (table["epochs"], table["batch_size"], table["samples"], table["params"]) == (12, 8, 40, 1)
    assert last["validation/l1"] == pytest.approx(result.history["validation_l1"][-1])


def test_a_fit_that_was_killed_and_resumed(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = {"every": 1, "histograms": 10}
    jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=[TensorBoard(whole, **options)], **FIT)

    def kill(seen):
        if seen.step > 40:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "checkpoints", every=17)
    callbacks = [TensorBoard(resumed, **options), checkpoint, kill]
    with pytest.raises(KeyboardInterrupt):
        jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=callbacks, **FIT)
    assert len(curve(read(resumed), "train/loss")[0]) >= 40
    jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=callbacks[:2], **FIT)
    before, after = read(whole), read(resumed)
    for tag in ("train/loss", "validation/loss", "parameter_norm/slope"):
        assert curve(before, tag) == curve(after, tag), tag
