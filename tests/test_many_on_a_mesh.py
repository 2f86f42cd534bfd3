"""Many fits on the devices of a mesh, and in several processes, end as in one: in real processes of their own."""

from pathlib import Path

import numpy as np
import pytest

from in_processes import of_two, started, told

WORKER = Path(__file__).parent / "many_on_a_mesh.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where workers put their tables."""
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def eight(folder):
    """What one process with eight devices finds."""
    return told(started(WORKER, 8, "devices", folder))


CASES = ["decays", "networks", "lists", "second tries", "rates of learning"]


@pytest.mark.parametrize("name", CASES)
def test_a_mesh_changes_nothing(eight, name):
    assert eight[name]["far"] < 1e-6


def test_all_ended_as_they_should(eight):
    assert eight["ended"] == "1,003 fits: 1,002 converged, 1 non_finite."


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("explicit", range(8)), ("auto", range(8)), ("three", [2, 5, 7]), ("last", [7]), ("first", [0])],
)
def test_the_devices_of_the_mesh_are_used_and_no_others(eight, name, numbers):
    assert eight[name]["devices"] == list(numbers)
    assert eight[name]["far"] < 1e-9
    assert eight[name].get("networks", 0) < 1e-5


def test_results_in_files(eight):
    assert eight["out"]["far"] < 1e-9
    assert len(eight["out"]["files"]) == 8  # two params, loss, status, steps, covariance, total, freedom


def test_the_devices_have_words(eight):
    assert eight["words"] == "8 devices (cpu), data=2, model=4"


def test_what_is_no_mesh_is_named(eight):
    number, listed, empty = eight["messages"]
    assert number.startswith("TypeError: mesh is an int (8); expected a mesh such as")
    assert listed.startswith("TypeError: mesh is a list; expected a mesh such as")
    assert empty.startswith("ValueError: mesh has no devices; expected a mesh such as")


@pytest.fixture(scope="module")
def two(folder):
    """What two processes with two devices each find."""
    (folder / "two").mkdir()
    return of_two(WORKER, "processes", folder / "two")


@pytest.mark.usefixtures("two", "eight")
@pytest.mark.parametrize("name", [*CASES, "guessed from a share"])
def test_two_processes_are_one(folder, name):
    paths = [folder / f"{name}.npz", folder / "two" / f"{name} 0.npz", folder / "two" / f"{name} 1.npz"]
    one, first, second = (list(np.load(path).values()) for path in paths)
    for expected, table, same in zip(one, first, second, strict=True):
        assert table.dtype == expected.dtype
        assert table.tobytes() == same.tobytes()
        np.testing.assert_allclose(table, expected, rtol=1e-6, atol=1e-6)


def test_each_process_uses_its_own_devices_of_the_mesh(two):
    assert [len(found["three"]["devices"]) for found in two] == [1, 2]
    assert [len(found["the last"]["devices"]) for found in two] == [0, 1]
    for found in two:
        for name in ("three", "the last"):
            assert found[name]["far"] < 1e-9


def test_shares_are_in_proportion_to_devices(two):
    assert [found["three"]["rows"] for found in two] == [335 - 1, 668]  # one has NaN
    assert two[0]["the last"]["rows"] == 0


def test_tables_are_gathered_in_pieces(two):
    assert all(found["in pieces"]["far"] < 1e-9 for found in two)


def test_a_process_reads_its_share_only(two):
    assert all(found["out"]["far"] < 1e-9 for found in two)


def test_all_processes_have_the_same_files(two, eight):
    for found in two:
        assert found["out"]["files"] == eight["out"]["files"]
        assert found["out"]["mapped"]
        assert found["out again"]["far"] < 1e-9
        assert found["out again"]["before"] < 1e-9  # files that are in use stay what they were


def test_one_fit_is_seen_anew_in_each_process(two):
    assert all(abs(found["one of them"]) < 1e-9 for found in two)


def test_the_seconds_are_those_of_the_slowest(two):
    assert two[0]["seconds"] == two[1]["seconds"]


def test_the_first_process_tells_how_far_it_is(two):
    assert [found["told"] for found in two] == [True, False]


def test_what_differs_between_processes_is_named_in_all(two):
    for rank, found in enumerate(two):
        fits, kind, start, mesh = found["messages"][:4]
        came = f"float64[{1003 - rank}, 20] in process {rank}, something else in process {1 - rank}; expected"
        assert fits.startswith(f"ValueError: data is not the same in all processes: [0]: float64[20], [1]: {came}")
        assert "[1]: float" in kind
        assert f"params is not the same in all processes: ['height']: 1.0, ['rate']: {1.0 + rank} in" in start
        assert "mesh is not the same in all processes: devices [" in mesh
        assert "Without mesh, a process fits by itself, on its own devices." in mesh


def test_what_one_process_meets_ends_all(two):
    for place, (kind, text) in enumerate(
        [
            ("ValueError", "ValueError: params['rate']: nan; expected finite numbers: drop or mend them."),
            ("RuntimeError", "OSError: the disk is full"),
            ("RuntimeError", "OSError: the disk is full"),
        ],
        start=4,
    ):
        assert two[0]["messages"][place] == f"{kind}: process 1, which has a share of these fits, raised {text}"
        assert two[1]["messages"][place] == text
    for found in two:
        assert found["messages"][7].startswith("TypeError: mesh is an int (2)")
        assert found["afterwards"] < 1e-9
