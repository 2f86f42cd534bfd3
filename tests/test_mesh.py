"""A fit over several devices, and over several processes, is the fit of one: in real processes of their own."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORKER = HERE / "on_a_mesh.py"


def started(devices, *arguments, **more):
    """A Python process with so many virtual devices that runs the worker."""
    import os

    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(WORKER), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **more)


def told(process, timeout=240):
    """What a worker found, of its last line."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def port():
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def eight():
    """What one process with eight devices finds."""
    return told(started(8, "devices"))


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
    for name in ("least squares", "huber", "weighted", "least squares over a stream"):
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
    number = port()
    return [told(one) for one in [started(2, "processes", number, rank) for rank in range(2)]]


def test_two_processes_are_one(two):
    for found in two:
        assert found["devices"] == 4
        for name in ("uneven batches", "watched", "stream", "least squares"):
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
