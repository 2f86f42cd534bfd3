"""Every example runs, warns of nothing, draws its picture, and finds what it should."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
ARGUMENTS = {"arrays": {"side": 300}}  # smaller than what the command line runs


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_demo(found):
    assert found["samples"] == 54
    names = {"b1", "b2", "b3"}
    assert set(found["digits"]) == names | {f"error of {name}" for name in names} | {"sum of squares"}
    assert min(found["digits"].values()) >= 6
    certified = {"b1": 1.6657666537e-01, "b2": 5.1653291286e-03, "b3": 1.2150007096e-02}
    assert found["params"] == pytest.approx(certified, rel=1e-6)
    assert found["sum_of_squares"] == pytest.approx(5.1304802941e02, rel=1e-9)


def check_power_curve(found):
    np.testing.assert_allclose(found["y"], np.square(found["x"]), rtol=1e-6)
    assert found["x"].shape == (10,)
    assert found["losses"].shape == found["thetas"].shape == (600,)
    assert found["thetas"][0] == 1.0
    assert found["theta"] == pytest.approx(2.0, abs=0.01)
    # The same descent written out, with the gradient by hand, in float64.
    x, theta = np.asarray(found["x"], np.float64), 1.0
    for _ in range(600):
        errors = x**theta - x**2
        theta -= 5e-5 * np.sum(errors * x**theta * np.log(x)) / np.sqrt(np.sum(errors**2))
    assert found["theta"] == pytest.approx(theta, abs=1e-3)


def check_line_through_points(found):
    x = np.array([3.3, 4.4, 5.5, 6.71, 6.93, 4.168, 9.779, 6.182, 7.59, 2.167, 7.042, 10.791, 5.313, 7.997, 3.1])
    y = np.array([1.7, 2.76, 2.09, 3.19, 1.694, 1.573, 3.366, 2.596, 2.53, 1.221, 2.827, 3.465, 1.65, 2.904, 1.3])
    (w, b), losses = found["start"].astype(np.float64), []
    for _ in range(10):
        error = w * x + b - y
        w, b = w - 1e-2 * np.mean(2 * error * x), b - 1e-2 * np.mean(2 * error)
        losses.append(np.mean((w * x + b - y) ** 2))
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
    assert found["params"] == pytest.approx({"w": w, "b": b}, rel=1e-4)
    assert (np.diff(found["losses"]) < 0).all()
    slope, intercept = np.polyfit(x, y, 1)
    assert found["closed_form"] == pytest.approx({"w": slope, "b": intercept}, rel=1e-4)
    assert found["best_loss"] == pytest.approx(np.mean((slope * x + intercept - y) ** 2), rel=1e-5)
    assert found["best_loss"] < found["losses"][-1]


def check_parabola_by_adam(found):
    # From its own start the script ends this near; from others the constant term may still be on its way.
    np.testing.assert_allclose(found["params"], [5, 0, 3], atol=0.01)
    assert found["loss"] < 1e-4 < 1e4 < found["first_loss"]
    assert (found["distances"] < [0.1, 0.1, 2.0]).all()
    assert np.median(found["distances"][:, 2]) < 0.5
    assert found["compilations"] <= 1
    assert found["platform"] in ("cpu", "gpu", "tpu")


def check_arrays(found):
    made = found["making"]
    np.testing.assert_array_equal(made["from_numpy"], np.arange(24.0).reshape(2, 3, 4))
    ones, zeros, empty = made["filled"]
    assert (ones == 1).all()
    assert (zeros == 0).all()
    assert zeros.dtype == np.int16
    assert ones.shape == zeros.shape == empty.shape == made["normal"].shape == (2, 3)
    assert ((made["uniform"] >= 0) & (made["uniform"] < 1)).all()
    assert ((made["integers"] >= 0) & (made["integers"] < 10)).all()
    assert made["integers"].dtype == np.int32

    names = ["bool", "int8", "int16", "int32", "float32"]
    assert found["dtypes"] == {"narrow": names, "wide": ["int64", "float64"], "off": "float32", "on": "float64"}

    rows = found["rows"]
    assert rows["largest"].tolist() == [9, 8]
    assert rows["where"].tolist() == [1, 0]
    assert rows["total"].tolist() == [16, 11]
    np.testing.assert_array_equal(rows["product"], np.full((3, 4), 5.0))

    updates = found["updates"]
    assert updates["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert updates["row"].tolist() == [0, 1, 2]
    assert updates["column"].tolist() == [1, 4]
    assert updates["element"] == 5.0
    assert type(updates["element"]) is float
    assert updates["added"].tolist() == [[10, 11, 12], [3, 4, 5]]
    assert updates["replaced"].tolist() == [[0, -1, 2], [3, -1, 5]]

    devices = found["devices"]
    assert devices["x"].devices() == {devices["device"]}
    assert devices["here"].tolist() == [1, 1, 1]
    assert devices["back"].tolist() == [1, -100, 1]
    assert devices["read_only"]

    assert 0 < found["waiting"]["returned"] <= found["waiting"]["done"]
    assert found["sine"]["difference"] < 1e-6
    assert min(found["sine"]["numpy"], found["sine"]["jax"]) > 0


def check_derivatives(found):
    assert found["of_a_number"] == {"first": 8.0, "second": 2.0}
    for gradient in found["of_two_arrays"].values():
        np.testing.assert_array_equal(gradient, np.ones((2, 3)))
    x, w, y = (np.asarray(array, np.float64) for array in found["of_a_layer"]["inputs"])
    assert (x.shape, w.shape, y.shape) == ((10, 20), (20, 5), (10, 5))
    assert found["of_a_layer"]["value"] == pytest.approx(np.mean(y - x @ w), abs=1e-5)
    by_x, by_w, by_y = found["of_a_layer"]["gradients"]
    np.testing.assert_allclose(by_x, np.tile(-w.sum(axis=1) / 50, (10, 1)), atol=1e-6)
    np.testing.assert_allclose(by_w, np.tile(-x.sum(axis=0)[:, None] / 50, (1, 5)), atol=1e-6)
    np.testing.assert_allclose(by_y, np.full((10, 5), 1 / 50), rtol=1e-6)
    assert found["of_a_chain"] == {"slope": -2.0}


def check_tracing_and_compiling(found):
    assert found["shapes"]["traced"] == [(3,), (4,)]
    assert found["arguments"] == {"multiplications": 3, "by_static": [8, 16, 32], "by_dynamic": [8, 16, 32]}
    assert found["choices"] == {"refused": "TracerBoolConversionError", "by_where": pytest.approx(-0.2)}
    step_by_step, first, later = found["times"]["seconds"]
    assert 0 < later < first
    assert later < step_by_step


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def test_every_example_has_a_check():
    assert sorted(CHECKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path, monkeypatch, capsys):
    example = load(name)
    assert example.__doc__
    assert example.PICTURE.relative_to(EXAMPLES).as_posix() == f"output/{name}.png"
    picture = tmp_path / "output" / f"{name}.png"  # the example makes the folder
    monkeypatch.setattr(example, "PICTURE", picture)

    found = example.main(**ARGUMENTS.get(name, {}))

    printed = capsys.readouterr().out.splitlines()
    assert 5 <= len(printed) <= 40, "more than a screenful"
    assert max(map(len, printed[:-1])) <= 120
    pixels = imread(picture)[..., :3]
    height, width, _ = pixels.shape
    assert 300 <= height <= width <= 2400
    ink = (pixels < 0.9).any(axis=-1).mean()
    assert 0.01 < ink < 0.6
    CHECKS[name](found)


def test_runs_from_the_command_line_anywhere(tmp_path):
    # derivatives.py needs jax and matplotlib only; what could go wrong here is the __main__ guard and relative paths.
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "derivatives.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "slope 8.0" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert (EXAMPLES / "output" / "derivatives.png").exists()
