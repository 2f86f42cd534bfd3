"""A run as a CSV file: what is in it, that it reads back exactly, and that it survives."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pandas
import pytest

import fake_run
import jaxfit as jf
from fake_run import FakeRun, completed
from jaxfit.callbacks import Checkpoint, CSVLog
from jaxfit.optimizers import Adam, LevenbergMarquardt

LOSSES = np.random.default_rng(0).lognormal(size=100).astype(np.float32)
HEADING = ["step", "epoch", "loss", "gradient_norm", "learning_rate"]
VALIDATED = ("validation_loss", "validation_accuracy")


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows, name):
    return [int(row[name]) for row in rows]


def test_every_step_is_a_row_that_reads_back_exactly(tmp_path):
    path = tmp_path / "run.csv"
    FakeRun(LOSSES).drive(CSVLog(path), [7, 50, 100], completed(100))
    rows = read(path)
    assert list(rows[0]) == HEADING
    assert numbers(rows, "step") == list(range(100))
    assert [float(row["loss"]) for row in rows] == LOSSES.tolist()
    by_numpy = np.genfromtxt(path, delimiter=",", names=True)
    assert by_numpy.dtype.names == tuple(HEADING)
    np.testing.assert_array_equal(by_numpy["loss"], LOSSES)
    np.testing.assert_array_equal(by_numpy["gradient_norm"], 2 * LOSSES)
    by_pandas = pandas.read_csv(path, engine="python")
    np.testing.assert_array_equal(by_pandas["loss"].to_numpy(), LOSSES)
    assert (by_pandas["learning_rate"] == 0.1).all()
    assert not path.read_bytes().count(b"\r")


def test_float64_keeps_all_its_digits(tmp_path):
    fake = FakeRun(np.zeros(3))
    fake.losses = np.array([1 / 3, np.nan, np.inf])
    fake.drive(CSVLog(tmp_path / "run.csv"), [3])
    np.testing.assert_array_equal(np.genfromtxt(tmp_path / "run.csv", delimiter=",", names=True)["loss"], fake.losses)
    assert [row["loss"] for row in read(tmp_path / "run.csv")] == ["0.3333333333333333", "nan", "inf"]


@pytest.mark.parametrize("tells", [True, False])
def test_validation_stands_in_the_last_row_of_each_epoch(tmp_path, tells):
    path = tmp_path / "run.csv"
    # Calls within an epoch, at the end of one, and after several.
    calls = [4, 10, 40, 100] if tells else [4, 10, 20, 100]
    fake = FakeRun(LOSSES, steps_per_epoch=10, names=VALIDATED, tells_steps_per_epoch=tells)
    fake.drive(CSVLog(path), calls, completed(100))
    rows = read(path)
    assert list(rows[0]) == [*HEADING, *VALIDATED]
    assert numbers(rows, "epoch") == [step // 10 for step in range(100)]
    looked_at = [row for row in rows if row["validation_loss"]]
    assert numbers(looked_at, "step") == [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]
    assert [float(row["validation_loss"]) for row in looked_at] == [10.0 + epoch for epoch in range(10)]
    assert [float(row["validation_accuracy"]) for row in looked_at] == [11.0 + epoch for epoch in range(10)]
    by_pandas = pandas.read_csv(path)
    assert by_pandas["validation_loss"].notna().sum() == 10
    by_numpy = np.genfromtxt(path, delimiter=",", names=True)
    assert np.isnan(by_numpy["validation_loss"]).sum() == 90


def test_the_epochs_of_a_stream_are_counted_across_calls_and_interruptions(tmp_path):
    path = tmp_path / "run.csv"
    first = CSVLog(path)
    FakeRun(LOSSES, steps_per_epoch=10, tells_steps_per_epoch=False).drive(first, [10, 20, 30, 40])
    second = CSVLog(path)
    fake = FakeRun(LOSSES, steps_per_epoch=10, tells_steps_per_epoch=False, step=40)
    second.begin(fake.run)
    second.recall(first.memory())
    for start in range(40, 100, 10):
        second(fake.seen(start, start + 10))
    second.end(completed(100))
    assert numbers(read(path), "epoch") == [step // 10 for step in range(100)]


def test_every_so_many_steps_and_the_ends_of_epochs(tmp_path):
    FakeRun(LOSSES[:26], steps_per_epoch=6, names=VALIDATED).drive(CSVLog(tmp_path / "a.csv", every=10), [3, 15, 26])
    rows = read(tmp_path / "a.csv")
    assert numbers(rows, "step") == [0, 5, 10, 11, 17, 20, 23]
    assert [float(row["loss"]) for row in rows] == [float(LOSSES[step]) for step in (0, 5, 10, 11, 17, 20, 23)]
    FakeRun(LOSSES[:26], steps_per_epoch=6).drive(CSVLog(tmp_path / "b.csv", every=10), [3, 15, 26])
    assert numbers(read(tmp_path / "b.csv"), "step") == [0, 10, 20]


def test_the_learning_rate_is_that_of_each_step(tmp_path):
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    expected = 0.1 * 0.5 ** (np.arange(600) / 10)
    losses = np.ones(600)

    def rates(optimizer, name):
        FakeRun(losses, optimizer).drive(CSVLog(tmp_path / name), [1, 600])
        return np.genfromtxt(tmp_path / name, delimiter=",", names=True)["learning_rate"]

    np.testing.assert_allclose(rates(Adam(schedule), "a.csv"), expected, rtol=1e-5)
    # A schedule counts the updates, which come after every fourth step.
    np.testing.assert_allclose(rates(Adam(schedule, accumulate=4), "b.csv"), expected.repeat(4)[:600], rtol=1e-5)
    np.testing.assert_array_equal(rates(Adam(np.float32(0.1)), "c.csv"), np.float32(0.1))


def test_an_optimizer_without_a_learning_rate_leaves_the_column_empty(tmp_path):
    fake = FakeRun(LOSSES)
    log = CSVLog(tmp_path / "run.csv")
    log.begin(fake.run)
    log(dataclasses.replace(fake.seen(0, 100), optimizer=LevenbergMarquardt()))
    log.end(None)
    assert {row["learning_rate"] for row in read(tmp_path / "run.csv")} == {""}


def test_rows_are_in_the_file_after_each_call(tmp_path):
    log = CSVLog(tmp_path / "run.csv")
    fake = FakeRun(LOSSES)
    log.begin(fake.run)
    for start in range(0, 50, 10):
        log(fake.seen(start, start + 10))
        assert numbers(read(tmp_path / "run.csv"), "step") == list(range(start + 10))
    log.end(None)


def test_a_process_that_is_killed_leaves_whole_rows(tmp_path):
    script = (
        "import os, signal, sys; import numpy as np\n"
        "from fake_run import FakeRun; from jaxfit.callbacks import CSVLog\n"
        "log = CSVLog(sys.argv[1]); fake = FakeRun(np.arange(5000.0)); log.begin(fake.run)\n"
        "log(fake.seen(0, 2000)); log(fake.seen(2000, 5000)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "run.csv"
    done = subprocess.run([sys.executable, "-c", script, path], cwd=Path(fake_run.__file__).parent, timeout=120)
    assert done.returncode == -9
    assert numbers(read(path), "step") == list(range(5000))
    assert path.read_text().endswith("\n")


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path):
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    FakeRun(LOSSES, steps_per_epoch=10, names=VALIDATED).drive(CSVLog(whole), [30, 100], completed(100))
    FakeRun(LOSSES, steps_per_epoch=10, names=VALIDATED).drive(CSVLog(resumed), [30, 47])
    with open(resumed, "a") as file:
        file.write("47,4,0.0")  # half a row
    fake = FakeRun(LOSSES, steps_per_epoch=10, names=VALIDATED, step=40)
    log = CSVLog(resumed)
    log.begin(fake.run)
    assert resumed.read_text().endswith("47,4,0.0")  # left as it is until there is something to write
    log(fake.seen(40, 70))
    log(fake.seen(70, 100))
    log.end(completed(100))
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [resumed, whole]


def test_a_resumed_run_without_its_file_begins_one(tmp_path):
    FakeRun(LOSSES, step=60).drive(CSVLog(tmp_path / "new" / "run.csv"), [100])
    assert numbers(read(tmp_path / "new" / "run.csv"), "step") == list(range(60, 100))


def test_a_new_run_writes_the_file_anew_or_appends(tmp_path):
    path = tmp_path / "run.csv"
    log = CSVLog(path)
    FakeRun(LOSSES).drive(log, [100])
    FakeRun(LOSSES[:20]).drive(log, [20])  # a callback that was used before
    assert numbers(read(path), "step") == list(range(20))
    FakeRun(LOSSES[:10], steps_per_epoch=5, names=VALIDATED).drive(CSVLog(path, append=True), [10])
    assert numbers(read(path), "step") == [*range(20), *range(10)]
    assert [row["validation_loss"] for row in read(path)[-6:]] == ["10.0", "", "", "", "", "11.0"]
    # Of the second run, and of that alone, the steps after the checkpoint are taken again; its columns stay.
    FakeRun(LOSSES[:10], step=6).drive(CSVLog(path, append=True), [10])
    assert numbers(read(path), "step") == [*range(20), *range(10)]
    assert [row["validation_loss"] for row in read(path)[-6:]] == ["10.0", "", "", "", "", ""]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "run.csv")
    FakeRun(LOSSES).drive(CSVLog(tmp_path / "link.csv"), [100])
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read(tmp_path / "run.csv")) == 100


def test_metrics_that_are_arrays_are_left_out(tmp_path):
    fake = FakeRun(LOSSES, steps_per_epoch=50, names=VALIDATED)
    seen = fake.seen(0, 100)
    seen.epoch_history["validation_matrix"] = np.zeros((2, 3, 3))
    log = CSVLog(tmp_path / "run.csv")
    log.begin(fake.run)
    log(seen)
    log.end(None)
    assert list(read(tmp_path / "run.csv")[0]) == [*HEADING, *VALIDATED]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"path": 3}, TypeError, r"path is an int \(3\)"),
        ({"path": b"run.csv"}, TypeError, "path is a bytes"),
        ({"path": ""}, ValueError, "path is empty"),
        ({"path": "."}, ValueError, "path is '.', a folder"),
        ({"path": "run.csv", "every": 0}, ValueError, "every is 0"),
        ({"path": "run.csv", "every": "epoch"}, TypeError, "every is a str"),
        ({"path": "run.csv", "append": 1}, TypeError, r"append is an int \(1\); expected True or False"),
    ],
)
def test_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=f"CSVLog: {message}"):
        CSVLog(**arguments)


@pytest.mark.parametrize("text", ["name,age\nAda,36\n", "step,epoch\n1,2,3\n", "step,epoch\nx,2\n"])
def test_a_file_of_something_else_is_not_touched(tmp_path, text):
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"people.csv holds something other than the log of a run"):
        CSVLog(path).begin(FakeRun(LOSSES, step=10).run)
    assert path.read_text() == text


X = np.linspace(-1, 1, 40, dtype=np.float32)
FIT = {"optimizer": Adam(0.05), "epochs": 12, "batch_size": 8, "validation": (X, 2 * X), "progress": False}


def line(params, x):
    return params["slope"] * x


def test_the_log_of_a_fit_is_its_history(tmp_path):
    log = CSVLog(tmp_path / "run.csv")
    result = jf.fit(line, (X, 3 * X), {"slope": 0.0}, metrics={"l1": jf.losses.l1}, callbacks=[log], **FIT)
    table = np.genfromtxt(tmp_path / "run.csv", delimiter=",", names=True)
    assert {*HEADING, "validation_loss", "validation_l1"} == set(table.dtype.names)
    np.testing.assert_array_equal(table["step"], np.arange(60))
    np.testing.assert_array_equal(table["epoch"], np.arange(60) // 5)
    np.testing.assert_array_equal(table["loss"], result.history["loss"])
    for name in ("validation_loss", "validation_l1"):
        np.testing.assert_array_equal(table[name][4::5], result.history[name])
        assert np.isnan(table[name]).sum() == 48


def test_the_log_of_a_fit_that_was_killed_and_resumed(tmp_path):
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=[CSVLog(whole)], **FIT)

    def kill(seen):
        if seen.step > 40:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "checkpoints", every=17)
    with pytest.raises(KeyboardInterrupt):
        jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=[CSVLog(resumed), checkpoint, kill], **FIT)
    killed = read(resumed)
    assert len(killed) > 40
    jf.fit(line, (X, 3 * X), {"slope": 0.0}, callbacks=[CSVLog(resumed), checkpoint], **FIT)
    assert resumed.read_bytes() == whole.read_bytes()
