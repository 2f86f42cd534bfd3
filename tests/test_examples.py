"""Every example runs, warns of nothing, draws its picture, and finds what it should."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.optimize import curve_fit, least_squares, minimize
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nist
from jaxfit import _compile

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
# Smaller than what the command line runs.
ARGUMENTS = {
    "arrays": {"side": 300},
    "convolutional_network": {"steps": 400},
    "larger_than_memory": {"rows": 14_000_000, "share": 0.7},
    "learning_rates": {"count": 24},
    "million_spots": {"count": 20_000},
    "millions_of_parameters": {"epochs": 4},
}


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


def check_parabola_three_ways(found):
    for name, tolerance in {"closed form": 1e-10, "least squares": 1e-10, "Adam": 1e-5}.items():
        assert found["params"][name].dtype == np.float64
        np.testing.assert_allclose(found["params"][name], [5, 0, 3], rtol=0, atol=tolerance)
        assert found["distances"][name] <= tolerance
    np.testing.assert_allclose(found["params"]["closed form"], found["params"]["least squares"], rtol=0, atol=1e-10)
    assert found["steps"]["closed form"] < found["steps"]["least squares"] < 20
    assert found["steps"]["Adam"] == 4000


def check_peak_with_error_bars(found):
    b, error = nist.load("Gauss3").params, nist.load("Gauss3").standard_errors
    params, errors = found["params"], found["errors"]
    first, second = params["first"], params["second"]
    ours = [first["height"], first["center"], first["sigma"] * 2**0.5]
    ours += [second["height"], second["center"], second["sigma"] * 2**0.5]
    np.testing.assert_allclose([params["background"]["amplitude"], 1 / params["background"]["decay"]], b[:2], rtol=1e-7)
    np.testing.assert_allclose(ours, b[2:], rtol=1e-7)
    first, second = errors["first"], errors["second"]
    ours = [first["height"], first["center"], first["sigma"] * 2**0.5]
    ours += [second["height"], second["center"], second["sigma"] * 2**0.5]
    np.testing.assert_allclose(ours, error[2:], rtol=1e-6)
    decay = params["background"]["decay"]
    np.testing.assert_allclose(errors["background"]["decay"], error[1] * decay**2, rtol=1e-6)
    assert len(found["digits"]) == 8
    assert min(found["digits"].values()) >= 7
    # An interval of 95 % at 242 degrees of freedom reaches 1.97 errors; the profile's is of nearly that width.
    for part, name in (("first", "center"), ("second", "height"), ("background", "decay")):
        for method in ("wald", "profile"):
            lower, upper = (side[part][name] for side in found[method])
            assert upper - lower == pytest.approx(2 * 1.9698 * errors[part][name], rel=0.01)
            assert lower < params[part][name] < upper


def check_global_fit(found):
    t, y, params, errors = found["t"], found["y"], found["params"], found["errors"]
    assert {name: len(t[name]) for name in t} == {"strong": 25, "weak": 40}
    every = np.concatenate([t["strong"], t["weak"]])
    weak = np.arange(65) >= 25

    def both(_, rate, a, b, c, d):
        return np.where(weak, c, a) * np.exp(-rate * every) + np.where(weak, d, b)

    known = {"sigma": np.where(weak, 0.1, 0.15), "absolute_sigma": True}
    popt, pcov = curve_fit(both, every, np.concatenate([y["strong"], y["weak"]]), [1.0, 1, 0, 1, 0], **known)
    ours, theirs = (
        [tree["rate"], *(tree[name][of] for name in ("strong", "weak") for of in ("amplitude", "background"))]
        for tree in (params, errors)
    )
    np.testing.assert_allclose(ours, popt, rtol=1e-5)
    np.testing.assert_allclose(theirs, np.sqrt(np.diag(pcov)), rtol=1e-4)
    truth = np.array([0.4, 8.0, 1.0, 3.0, 0.5])
    assert (np.abs(ours - truth) < 3 * np.array(theirs)).all()
    strong, weak_alone, together = (found["rates"][name][1] for name in ("strong", "weak", "together"))
    assert together < min(strong, weak_alone)
    assert together == pytest.approx((strong**-2 + weak_alone**-2) ** -0.5, rel=0.03)


def check_logistic_regression(found):
    # R: glm(failed ~ temperature, family = binomial); its residual deviance is 20.315.
    assert found["params"] == pytest.approx({"intercept": 15.0429, "slope": -0.2322}, abs=6e-5)
    assert found["errors"] == pytest.approx({"intercept": 7.3786, "slope": 0.1082}, abs=6e-5)
    assert -2 * found["log_likelihood"] == pytest.approx(20.315, abs=6e-4)
    for lower, upper in (found["wald"], found["profile"]):
        assert lower["slope"] < -0.2322 < upper["slope"] < 0
    low, best, high = found["at_31"]
    assert best == pytest.approx(1 / (1 + np.exp(-15.0429 + 0.2322 * 31)), abs=1e-4)
    assert 0.4 < low < 0.5 < best < high < 1


def check_poisson_regression(found):
    # R: ?glm, Dobson's randomized trial.
    np.testing.assert_allclose(found["values"], [3.04452, -0.45426, -0.29299, 0, 0], rtol=0, atol=6e-6)
    np.testing.assert_allclose(found["errors"], [0.1709, 0.2022, 0.1927, 0.2, 0.2], rtol=0, atol=6e-5)
    assert found["deviance"] == pytest.approx(5.1291, abs=6e-5)
    # The fit has the margins of the table: its expected counts are products of them.
    np.testing.assert_allclose(found["expected"], np.outer([50] * 3, [63, 40, 47]).ravel() / 150, rtol=1e-6)
    low, ratio, high = found["ratio"]
    assert ratio == pytest.approx(40 / 63, rel=1e-6)
    assert low < ratio < high < 1


def check_robust_fit(found):
    t, y, disturbed = found["t"], found["y"], found["disturbed"]
    truth = {"amplitude": 4.0, "rate": 0.6, "offset": 1.0}

    def residual(p):
        return (p[0] * np.exp(-p[1] * t) + p[2] - y) / 0.15

    for name, options in {"squared errors": {}, "huber": {"loss": "huber", "f_scale": 1.35}}.items():
        theirs = least_squares(residual, [1.0, 1.0, 0.0], xtol=1e-12, ftol=1e-12, gtol=1e-12, **options).x
        np.testing.assert_allclose([found["params"][name][of] for of in truth], theirs, rtol=1e-5)
    assert (found["far"] == disturbed).all()
    clean, _ = curve_fit(lambda t, a, k, c: a * np.exp(-k * t) + c, t[~disturbed], y[~disturbed], [1.0, 1.0, 0.0])
    assert [found["params"]["without outliers"][of] for of in truth] == pytest.approx(clean, rel=1e-5)
    params, errors = found["params"], found["errors"]
    for of, true in truth.items():
        assert abs(params["huber"][of] - true) < 2 * errors["huber"][of]
        assert errors["huber"][of] < errors["squared errors"][of]
    assert abs(params["huber"]["rate"] - 0.6) < 0.2 * abs(params["squared errors"]["rate"] - 0.6)


def check_bounds_and_fixed(found):
    nothing, bound, fixed = "nothing", "background >= 0", "long half-life too"
    t, y, params, errors = found["t"], found["y"], found["params"], found["errors"]

    def negative_log_likelihood(p, background=0.0):
        expected = p[0] * 2 ** (-t / p[1]) + p[2] * 2 ** (-t / p[3]) + background
        return np.sum(expected - y * np.log(expected))

    theirs = minimize(negative_log_likelihood, [900, 24.6, 150, 143], method="Nelder-Mead", options={"maxfev": 4000}).x
    ours = [params[bound][which][of] for which in ("short", "long") for of in ("counts", "half_life")]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert params[nothing]["background"] < 0  # why there is something to show
    assert params[bound]["background"] == params[fixed]["background"] == 0
    assert params[fixed]["long"]["half_life"] == 143
    assert {name: bool(active["background"]) for name, active in found["active"].items()} == {
        nothing: False, bound: True, fixed: True,
    }  # fmt: skip
    assert np.isnan(
        [errors[bound]["background"], errors[fixed]["background"], errors[fixed]["long"]["half_life"]]
    ).all()
    short = [errors[name]["short"]["half_life"] for name in (nothing, bound, fixed)]
    assert short[0] > short[1] > short[2]
    for name in params:
        assert abs(params[name]["short"]["half_life"] - 24.6) < 2 * errors[name]["short"]["half_life"]

    # The profile's end: the best likelihood there is 1.96^2 / 2 below that at the bound.
    def best(background):
        start, options = [900, 24.6, 150, 143], {"maxfev": 4000}
        return minimize(negative_log_likelihood, start, (background,), "Nelder-Mead", options=options).fun

    assert 2 * (best(found["limit"]) - best(0.0)) == pytest.approx(1.95996**2, rel=1e-2)


def check_differentiate_through_a_fit(found):
    t, curves = (np.asarray(found[name], np.float64) for name in ("t", "curves"))

    def fitted(y):
        popt, pcov = curve_fit(
            lambda t, a, k, c: a * np.exp(-k * t) + c, t, y, [1.0, 1.0, 0.0],
            sigma=np.full(33, 0.1), absolute_sigma=True, xtol=1e-13, ftol=1e-13, gtol=1e-13,
        )  # fmt: skip
        return popt[1], np.sqrt(pcov[1, 1])

    assert (found["rate"], found["error"]) == pytest.approx(fitted(curves[0]), rel=1e-3)
    nudges = 1e-3 * np.eye(33)
    differences = [(fitted(curves[0] + up)[0] - fitted(curves[0] - up)[0]) / 2e-3 for up in nudges]
    np.testing.assert_allclose(found["influence"], differences, rtol=0, atol=2e-3 * np.abs(differences).max())
    assert found["propagated"] == pytest.approx(found["error"], rel=0.15)
    assert found["rates"].shape == (1000,)
    np.testing.assert_allclose(found["rates"][:5], [fitted(y)[0] for y in curves[:5]], rtol=1e-3)
    assert found["rates"].mean() == pytest.approx(0.7, abs=0.005)
    assert found["rates"].std() == pytest.approx(found["error"], rel=0.1)


def check_perceptron(found):
    assert "Linear(in_features=1, out_features=1, bias=True)" in found["printed"]
    assert set(found["start"]) == {"0.kernel", "0.bias"}
    # The same training written out: torch's SGD with momentum, one sample at a step, in float64.
    (weight, bias), momenta, losses = found["start"].values(), np.zeros(2), []
    for x in [1.0, 2, 3, 4, 5, 6] * 100:
        error = weight * x + bias - 3 * x
        losses.append(error**2)
        momenta = 0.5 * momenta + np.array([2 * error * x, 2 * error])
        weight, bias = weight - 0.01 * momenta[0], bias - 0.01 * momenta[1]
    np.testing.assert_allclose(found["losses"].ravel()[:60], losses[:60], rtol=1e-2, atol=1e-5)
    assert found["losses"].shape == (100, 6)
    assert (found["weight"], found["bias"]) == pytest.approx((weight, bias), abs=1e-4)
    assert found["weight"] == pytest.approx(3, abs=0.01)
    assert found["bias"] == pytest.approx(0, abs=0.03)
    assert found["at_one"] == pytest.approx(3, abs=0.02)
    assert found["losses"][-1].max() < 1e-3 < 1 < found["losses"][0].max()


def check_two_layer_network(found):
    assert found["shapes"] == {"0.kernel": (1, 10), "0.bias": (10,), "1.kernel": (10, 1), "1.bias": (1,)}
    assert found["losses"].shape == (300, 6)
    assert found["losses"][0].max() > 1
    assert found["losses"][-1].max() < 1e-6
    np.testing.assert_allclose(found["predictions"], [-300, 0, 300], rtol=0, atol=0.1)


def check_own_module(found):
    sizes = ["in_features=2, out_features=5", "ReLU()", "in_features=5, out_features=20", "p=0.3", "Softmax"]
    places = [found["printed"].index(size) for size in ["Compass(", *sizes]]
    assert places == sorted(places)
    assert " 135 " in found["summary"]
    (first, second), (third, fourth) = found["training"], found["evaluation"]
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(third, fourth)
    for probabilities in (first, second, third, fourth):
        assert probabilities.shape == (1, 20)
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert found["still"] == 0
    assert found["accuracy"].shape == (100,)
    assert found["accuracy"][0] < 0.4 < 0.85 < found["accuracy"][-1]
    answer, true = found["answer"]
    assert true == 3
    assert answer in (2, 3)  # the point is 2 degrees from their border


def check_handwritten_digits(found):
    assert found["accuracy"] >= 0.97
    written, read = found["pairs"]
    assert written.shape == read.shape == (450,)
    assert found["accuracy"] == pytest.approx(np.mean(written == read), abs=1e-6)
    np.testing.assert_array_equal(found["matrix"], confusion_matrix(written, read))
    assert found["history"]["validation_accuracy"].shape == found["history"]["validation_loss"].shape == (40,)
    assert found["history"]["loss"].shape == (40 * 22,)
    assert found["history"]["loss"][-22:].mean() < 0.1


def check_millions_of_parameters(found):
    assert found["number"] == 785 * 1200 + 1201 * 900 + 901 * 10
    assert found["number"] > 2e6
    assert found["accuracy"].shape == (4,)
    assert found["accuracy"][-1] > 0.94
    assert found["losses"][-22:].mean() < 0.2 < 2 < found["losses"][0]
    assert found["seconds"] > 0


def check_convolutional_network(found):
    assert found["held"] == 450
    assert found["accuracy"] > 0.985
    assert found["accuracy"] == pytest.approx(1 - found["wrong"] / 450, abs=1e-6)
    assert found["losses"].shape == (400,)
    assert found["losses"][-50:].mean() < 0.15 < 2 < found["losses"][0]


def check_million_spots(found):
    places, errors, pulls = found["places"], found["errors"], found["pulls"]
    assert places.shape == errors.shape == pulls.shape == (20_000, 2)
    assert found["success"].all()
    assert found["pace"] > 0
    assert found["params"]["x"].dtype == np.float32
    np.testing.assert_allclose(pulls, (found["found"] - places) / errors, rtol=1e-6)
    # 40,000 pulls: their mean is known to 0.005, and their deviation to 0.0035.
    np.testing.assert_allclose(pulls.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.03)
    assert np.abs(pulls).max() < 6
    # A photon is misplaced by the width of the spot, and n of them by sqrt(n) less; the background makes it worse.
    photons = 2 * np.pi * found["params"]["height"] * found["params"]["width"] ** 2
    assert 1 < np.median(errors[:, 0] * np.sqrt(photons)) < 1.6

    # The same likelihood, minimised by scipy.
    offsets = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), axis=-1).reshape(25, 2)
    for index in range(3):
        ours = [found["params"][name][index] for name in ("height", "x", "y", "width", "background")]
        counts = found["photons"][index].astype(np.float64)

        def negative_log_likelihood(p, counts=counts):
            expected = p[0] * np.exp(-((offsets - p[1:3]) ** 2).sum(axis=1) / (2 * p[3] ** 2)) + p[4]
            return np.sum(expected - counts * np.log(expected))

        theirs = minimize(negative_log_likelihood, ours, method="Nelder-Mead", options={"maxfev": 2000}).x
        np.testing.assert_allclose(ours[1:4], theirs[1:4], rtol=0, atol=2e-3)
        assert ours[0] == pytest.approx(theirs[0], rel=5e-3)


def check_relaxation_map(found):
    t2, errors, true, signals = found["t2"], found["errors"], found["true"], found["signals"]
    assert len(t2) == len(errors) == len(true) > 8_000
    assert found["success"].all()
    assert found["noise"] == pytest.approx(0.02, rel=0.01)
    assert {name: region["median"] for name, region in found["regions"].items()} == pytest.approx(
        {"white matter": 70, "grey matter": 95, "lesion": 140, "fluid": 220}, rel=0.01
    )
    for region, known in zip(found["regions"].values(), (70, 95, 140, 220), strict=True):
        assert abs(region["median"] - known) < 3 * region["error"]
        assert abs(region["pulls"].std() - 1) < 4 / np.sqrt(2 * len(region["pulls"])) + 0.03
    echoes = np.arange(10.0, 161.0, 10.0)
    for index in (0, 4_000, 8_000):
        popt, pcov = curve_fit(
            lambda t, a, tau: a * np.exp(-t / tau), echoes, signals[index], [1.0, 100.0],
            sigma=np.full(16, found["noise"]), absolute_sigma=True,
        )  # fmt: skip
        assert (t2[index], errors[index]) == pytest.approx((popt[1], np.sqrt(pcov[1, 1])), rel=1e-4)


def check_learning_rates(found):
    scores, diverged, best, first = (found[name] for name in ("scores", "diverged", "best", "first"))
    rates = np.geomspace(1e-4, 10, 24)
    assert scores.shape == diverged.shape == (2, 24, 3)
    assert diverged[:, -3:].all()
    assert (np.isnan(scores[:, -3:]) | (scores[:, -3:] > 1e6)).all()  # those of the last finite params
    assert not diverged[:, rates < 0.1].any()
    assert sorted(found["order"][:5]) == sorted(np.argsort(np.nan_to_num(scores, nan=np.inf), axis=None)[:5])
    # Little is learned at the lowest rates, and with momentum as much as without it at ten times the rate.
    assert (scores[:, 0] > 0.5 * found["mean"]).all()
    slow, fast = scores[1].mean(axis=1), scores[0].mean(axis=1)
    low = rates < 5e-3
    np.testing.assert_allclose(fast[low], np.interp(np.log(10 * rates[low]), np.log(rates), slow), rtol=0.1)
    for momentum in (0.9, 0.0):
        rate, loss = best[momentum]
        assert 0.01 < rate < first[momentum] < 2
        assert 0.01 < loss < 0.03
    assert best[0.9][0] < best[0.0][0]
    assert found["winner"]["learning_rate"] in rates.astype(np.float32).tolist() + rates.tolist()


def check_ensemble_band(found):
    curves, mean, deviation = found["curves"], found["mean"], found["deviation"]
    assert curves.shape == (12, 441)
    np.testing.assert_allclose(mean, curves.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deviation, curves.std(axis=0, ddof=1), rtol=1e-3, atol=1e-5)
    # Each has learned what there is to learn: the noise is 0.15, and 100 points let them fit a part of it.
    assert ((found["losses"] > 0.12**2) & (found["losses"] < 0.17**2)).all()
    among, gap, beyond = found["rows"].values()
    assert among[0] < 0.06
    assert among[1] < 0.1
    assert min(gap[0], beyond[0]) > 5 * among[0]
    truth = np.sin(1.6 * found["fine"]) + 0.25 * found["fine"]
    inside = found["places"]["in the gap"]
    assert np.mean((np.abs(mean - truth) < 2 * deviation)[inside]) > 0.8
    for outwards in (deviation[found["fine"] > 4.2], deviation[found["fine"] < -4.2][::-1]):
        assert (np.diff(outwards) > 0).all()


def check_many_starts(found):
    t, y, ranked, periods = found["t"], found["y"], found["ranked"], found["periods"]
    truth = {"period": 17.3, "sine": 38.0, "cosine": -27.0, "mean": 12.0}
    params, errors, chi_squared = found["best"]
    for name, true in truth.items():
        assert abs(params[name] - true) < 3 * errors[name]
    assert 8 < chi_squared < 38  # 20 degrees of freedom: 99 %
    wrong, wrong_chi_squared = found["single"]
    assert wrong_chi_squared > 10 * chi_squared
    assert abs(wrong["period"] - 17.3) > 5

    def wave(t, period, sine, cosine, mean):
        return sine * np.sin(2 * np.pi * t / period) + cosine * np.cos(2 * np.pi * t / period) + mean

    known = {"sigma": np.full(24, 6.0), "absolute_sigma": True}
    popt, pcov = curve_fit(wave, t, y, list(truth.values()), **known)
    assert [params[name] for name in truth] == pytest.approx(popt, rel=1e-4)
    assert [errors[name] for name in truth] == pytest.approx(np.sqrt(np.diag(pcov)), rel=1e-3)
    # scipy ends in the wrong minimum as well.
    popt, _ = curve_fit(wave, t, y, [30.0, 40.0, 0.0, 0.0], **known)
    assert wrong["period"] == pytest.approx(popt[0], rel=1e-3)
    assert ranked.shape == periods.shape == (256,)
    assert (np.diff(ranked) >= 0).all()
    assert 5 <= found["hits"] < 128
    np.testing.assert_allclose(periods[: found["hits"]], params["period"], rtol=1e-4)
    assert ranked[found["hits"]] > 2 * ranked[0]


def check_killed_and_resumed(found):
    assert list(found["differing"].values()) == [0, 0, 0]
    assert found["steps"] == len(found["losses"]) == 20_000
    for after, killed, resumed in zip((6_000, 14_000), found["killed"], found["resumed"], strict=True):
        assert after <= killed < 20_000
        assert 0 <= resumed < 20_000
        assert resumed % 1_000 == 0
    assert found["resumed"][0] <= found["resumed"][1] != 0
    assert found["losses"][-100:].mean() < 0.01 < 0.5 < found["losses"][0]
    assert found["accuracy"] > 0.99


def check_larger_than_memory(found):
    assert found["rows"] == 14_000_000
    assert found["size"] == 2 * (8 * found["rows"] + 128)
    assert found["status"] == "converged"
    assert 2 <= found["passes"] < 12
    assert not found["left"]
    if sys.platform == "linux":
        assert "Unable to allocate" in found["refused"]
        assert found["taken"] < found["limit"] < found["size"]
    truth = {"height": 1.0, "lifetime": 2.197, "asymmetry": 0.25, "frequency": 0.81}
    for name, true in truth.items():
        assert found["pulls"][name] == pytest.approx((found["params"][name] - true) / found["errors"][name])
        assert abs(found["pulls"][name]) < 4
        assert 0 < found["errors"][name] < 2e-3
    assert found["chi_squared"] / found["degrees_of_freedom"] == pytest.approx(0.09, rel=2e-3)


def check_two_processes(found):
    well, killed, again = found["ended"]
    assert well == again == [0, 0]
    assert killed[0] != 0
    assert killed[1] == -9
    assert [one["rows"] for one in found["found"]] == [[[0, 25], [25, 50]], [[50, 75], [75, 100]]]
    assert found["found"][0]["losses"] == found["found"][1]["losses"]
    assert len(found["losses"]) == 180
    assert found["difference"] < 1e-5
    assert found["found"][0]["accuracy"][-1] > 0.99


def check_several_devices(found):
    assert {count: len(devices) for count, devices in found["devices"].items()} == {1: 1, 8: 8}
    assert all(len(losses) == 220 for losses in found["losses"].values())
    assert found["difference"] < 1e-5
    assert found["losses"][8][-1] < found["losses"][8][0] / 3


def check_watched_in_tensorboard(found):
    assert sorted(path.name for path in found["folder"].iterdir()) == sorted(found["histories"])
    for name, history in found["histories"].items():
        events = EventAccumulator(str(found["folder"] / name), size_guidance={"scalars": 0, "histograms": 0}).Reload()
        losses, accuracies = events.Scalars("train/loss"), events.Scalars("validation/accuracy")
        assert [point.step for point in losses] == list(range(0, 660, 10))
        assert [point.value for point in losses] == history["loss"][::10].tolist()
        assert [point.step for point in accuracies] == list(range(21, 660, 22))
        np.testing.assert_array_equal([point.value for point in accuracies], history["validation_accuracy"])
        rates = [point.value for point in events.Scalars("train/learning_rate")]
        assert rates == pytest.approx([float(name.split()[-1])] * len(losses))
        assert [point.step for point in events.Histograms("params/layers/0/kernel")] == [*range(99, 660, 100), 659]
    assert max(history["validation_accuracy"][-1] for history in found["histories"].values()) > 0.96


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
    if name != "killed_and_resumed":  # it compares bits with those of processes of its own
        for options in (_compile.LEAN, _compile.HASTY):
            monkeypatch.setitem(options, "xla_backend_optimization_level", "0")

    found = example.main(**ARGUMENTS.get(name, {}))

    printed = capsys.readouterr().out.splitlines()
    assert 5 <= len(printed) <= 45, "more than a screenful"
    assert max(map(len, printed[:-1])) <= 120
    pixels = imread(picture)[..., :3]
    height, width, _ = pixels.shape
    assert 300 <= height <= width <= 2400
    ink = (pixels < 0.9).any(axis=-1).mean()
    assert 0.01 < ink < 0.6
    CHECKS[name](found)


def test_runs_from_the_command_line_anywhere(tmp_path):
    # It needs jax and matplotlib only; what could go wrong here is the __main__ guard and relative paths.
    example = EXAMPLES / "tracing_and_compiling.py"
    done = subprocess.run([sys.executable, "-W", "error", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2^4 = 16.0 with n static" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert (EXAMPLES / "output" / "tracing_and_compiling.png").exists()
