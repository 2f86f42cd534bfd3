"""A fit over several devices, and over several processes, is the fit of one: in real processes of their own."""

import time
from pathlib import Path

import numpy as np
import pytest

from in_processes import of_two, port, started, told

WORKER = Path(__file__).parent / "on_a_mesh.py"


@pytest.fixture(scope="module")
def eight():
    """What one process with eight devices finds."""
    return told(started(WORKER, 8, "devices"))


CURVES = ["uneven batches", "even batches", "all at once", "explicit axes", "named otherwise", "watched", "stream"]


@pytest.mark.parametrize("name", CURVES)
def test_eight_devices_are_one(eight, name):
    assert eight[name]["losses"] < 1e-5
    assert eight[name]["params"] < 1e-5


def test_data_are_dealt_out_to_all_devices(eight):
    assert eight["devices"] == 8
    assert eight["shares"] == [[126, 16]] * 8  # 1,003 samples and what fills up the last device


def test_the_report_names_the_devices(eight):
    assert "float32 on 8 devices (cpu), data=8" in eight["report"]


def test_least_squares_to_ten_digits(eight):
    for name in (
        "least squares",
        "huber",
        "a model of all samples",
        "least squares over a stream",
        "in blocks",
        "huber in blocks",
        "weighted",
    ):
        assert eight[name]["params"] < 1e-10, name
        assert eight[name]["steps"] == 0, name
    assert eight["least squares"]["errors"] < 1e-9


def test_a_step_has_one_sum_over_devices_for_all_gradients(eight):
    # One for the batch, which is gathered from all devices, and one for all gradients and the loss together.
    assert 1 <= eight["all-reduces of a step"] <= 3


def test_params_are_spread_over_a_second_axis(eight):
    assert eight["sharded"]["losses"] < 1e-5
    assert eight["sharded"]["params"] < 1e-4
    assert eight["share of the kernel"] == [16, 8]  # of [16, 32] over four devices
    assert eight["share of its momentum"] == [16, 8]


def test_a_device_holds_its_share_of_a_large_network(eight):
    whole, share = eight["bytes on a device"]
    assert share < whole / 5  # an eighth, and what is not params
    np.testing.assert_allclose(*eight["wide"], rtol=1e-4)


def test_a_checkpoint_goes_on_with_another_number_of_devices(eight):
    assert eight["resumed on one"] < 1e-5
    assert eight["resumed sharded"] < 1e-5


def test_what_is_wrong_is_named(eight):
    assert eight["messages"] == [
        "mesh is an int (8); expected a mesh",
        "shard_params says how params lie on a mesh: give mesh, too.",
        "shard_params is 'model'; expected an axis of the mesh beside 'data'",
        "devices do not divide its 32 evenly",
        "shard_params is a dict; expected the name of an axis",
    ]


@pytest.fixture(scope="module")
def two():
    """What two processes with two devices each find."""
    return of_two(WORKER, "processes")


def test_two_processes_are_one(two):
    for found in two:
        assert found["devices"] == 4
        for name in ("uneven batches", "watched", "least squares"):
            assert found[name]["params"] < 1e-5, name
            assert found[name]["losses"] < 1e-5, name


def test_only_the_first_process_writes(two):
    assert [found["rows of the log"] for found in two] == [55, 55]  # one file, written once


def test_checkpoints_are_written_by_all_and_read_by_all(two):
    for found in two:
        assert found["resumed"] == 0
        assert found["sharded and resumed"] == 0


def test_all_end_where_one_is_asked_to(two):
    assert [found["status"] for found in two] == ["interrupted"] * 2
    assert two[0]["ended after"] == two[1]["ended after"] < 5000


def test_all_end_where_a_callback_in_one_asks_for_it(two):
    assert [found["stopped"] for found in two] == ["stopped"] * 2
    assert two[0]["stopped after"] == two[1]["stopped after"] < 5000


def test_what_goes_wrong_in_one_process_is_raised_in_all(parts):
    for rank, found in enumerate(parts):
        disk, empty, steps, screen, optimizer, directory = found["all are told"]
        own = "" if rank else "process 1 cannot take part: "
        assert disk == (own and f"{own}OSError: ") + "no such disk"
        assert empty.startswith((own and f"{own}ValueError: ") + "data is an iterable without batches")
        assert "steps was 20 and is 21 there" in steps
        assert screen == ("no such screen" if rank else "a callback raised in process 1: OSError: no such screen")
        assert "returned another optimizer in process 1 than in process 0" in optimizer
        assert "expected one folder that all processes see" in directory
        assert any("a checkpoint could not be written" in text for text in found["unwritable"])


@pytest.fixture(scope="module")
def parts():
    """What two processes find, each of which has a part of the data."""
    return of_two(WORKER, "parts")


@pytest.mark.parametrize(
    "name",
    [
        "files",
        "long rows",
        "even parts",
        "uneven parts",
        "global arrays",
        "global arrays in blocks",
        "global batches",
        "alone",
    ],
)
def test_parts_make_a_whole(parts, name):
    for found in parts:
        assert found[name]["params"] < 1e-5
        assert found[name]["losses"] < 1e-5


@pytest.mark.parametrize("name", ["least squares over files", "global arrays, least squares", "global arrays, huber"])
def test_least_squares_of_parts(parts, name):
    for found in parts:
        assert found[name]["params"] < 1e-6
        assert found[name]["errors"] < 1e-8


def test_the_report_needs_no_other_process(parts):
    assert all("4 devices (cpu) of 2 processes, data=4" in found["report"] for found in parts)


def test_what_goes_wrong_in_one_process_ends_all(parts):
    reason = "could not be had: OSError: the disk is gone"
    assert [found["broken"][:2] for found in parts] == [["data_failed", 3]] * 2
    assert f"In process 1: batch 3 {reason}" in parts[0]["broken"][2]
    assert f"Batch 3 {reason}" in parts[1]["broken"][2]
    for found in parts:
        assert found["fewer batches"][:2] == ["data_failed", 5]
        assert "Process 1 of 2 has no more batches" in found["fewer batches"][2]


def test_what_differs_between_processes_is_named(parts):
    for rank, found in enumerate(parts):
        values, size, callbacks, batch, few, checkpoint = found["messages"]
        assert values.startswith("process 1 was given other arguments than process 0: data has the same shapes")
        assert "batch_size was 100 and is 99" in size
        assert "callbacks was Function(every=None) and is none" in callbacks
        assert "x of batch 0: 16 of its 1584 values are not finite" in batch
        assert batch.startswith("x of" if rank else "process 1 cannot take part: ValueError: x of")
        assert few.startswith("mesh has no devices of process 1; expected" if rank else "nothing was raised")
        assert "this process fits alone" in checkpoint


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Pairs of processes of which the first or the second is killed; their folders, how they ended, and when.

    Beside them one process begins what two will end.
    """
    folder = tmp_path_factory.mktemp("killed")
    pairs = []
    for victim in range(2):
        number = port()
        pairs.append([started(WORKER, 2, "killed", number, rank, folder / f"{victim}", victim) for rank in range(2)])
    told(started(WORKER, 4, "begun", folder / "1"))
    found = []
    for victim, pair in enumerate(pairs):
        pair[victim].communicate(timeout=300)
        begun = time.monotonic()
        _, errors = pair[1 - victim].communicate(timeout=300)
        found.append((pair[victim].returncode, pair[1 - victim].returncode, errors, time.monotonic() - begun))
    return folder, found


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_is_killed_the_other_ends_with_a_clear_error(killed, victim):
    code, other, errors, seconds = killed[1][victim]
    assert code == -9
    assert other != 0
    assert seconds < 60
    assert "RuntimeError: a process that shares this fit is gone, or out of step with the others." in errors


def test_a_restart_of_all_goes_on_to_the_same_end(killed):
    folder = killed[0] / "1"
    again = of_two(WORKER, "restarted", folder)
    whole = told(started(WORKER, 4, "alone", folder))
    for found in again:
        assert found["kept"] >= 150
        assert found["first step"] > found["kept"]
        np.testing.assert_allclose(found["losses"], whole["losses"], rtol=0, atol=1e-5)
        assert found["files"] < 1e-5  # what one process has begun
    assert whole["gone on"] < 1e-5  # what two processes have begun
    assert whole["files"] < 1e-5
