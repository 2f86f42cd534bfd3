"""The named curves: their values, slopes, starting values, and how they add up."""

import copy
import functools
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxfit as jf
from jaxfit._compile import HASTY
from jaxfit._fingerprint import fingerprint
from jaxfit.models import _faddeeva

models = jf.models
X = np.linspace(0.1, 6.0, 25)
XY = np.stack(np.meshgrid(np.linspace(-3, 3, 15), np.linspace(-2, 4, 15)), axis=-1).reshape(-1, 2)
CUBIC = models.polynomial(3)
CURVES = {name: getattr(models, name) for name in models.__all__ if name not in ("Model", "polynomial")}
CURVES["polynomial(3)"] = CUBIC
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


def bell_2d(p, x):
    turn = np.array([[np.cos(p["angle"]), -np.sin(p["angle"])], [np.sin(p["angle"]), np.cos(p["angle"])]])
    covariance = turn @ np.diag([p["sigma_x"] ** 2, p["sigma_y"] ** 2]) @ turn.T
    normal = stats.multivariate_normal([p["center_x"], p["center_y"]], covariance)
    return p["height"] * normal.pdf(x) * 2 * np.pi * p["sigma_x"] * p["sigma_y"]


def voigt(p, x):
    top = special.voigt_profile(0.0, p["sigma"], p["gamma"])
    return p["height"] * special.voigt_profile(x - p["center"], p["sigma"], p["gamma"]) / top


def pseudo_voigt(p, x):
    cauchy, normal = (
        stats.cauchy(p["center"], p["fwhm"] / 2),
        stats.norm(p["center"], p["fwhm"] / np.sqrt(8 * np.log(2))),
    )
    lorentzian, gaussian = (curve.pdf(x) / curve.pdf(p["center"]) for curve in (cauchy, normal))
    return p["height"] * (p["fraction"] * lorentzian + (1 - p["fraction"]) * gaussian)


# Params, and the curve by another road.
KNOWN = {
    "constant": ({"value": 2.5}, lambda p, x: np.full_like(x, 2.5)),
    "linear": ({"slope": -1.5, "intercept": 2.0}, lambda p, x: np.polyval([-1.5, 2.0], x)),
    "quadratic": ({"a": 1.0, "b": -2.0, "c": 3.0}, lambda p, x: np.polyval([1.0, -2.0, 3.0], x)),
    "polynomial(3)": ({"c0": 1.0, "c1": 2.0, "c2": -3.0, "c3": 0.5}, lambda p, x: np.polyval([0.5, -3, 2, 1], x)),
    "exponential": ({"amplitude": 3.0, "decay": 2.0}, lambda p, x: 6.0 * stats.expon(scale=2.0).pdf(x)),
    "biexponential": (
        {"amplitude_1": 3.0, "decay_1": 0.5, "amplitude_2": 1.0, "decay_2": 4.0},
        lambda p, x: 1.5 * stats.expon(scale=0.5).pdf(x) + 4 * stats.expon(scale=4.0).pdf(x),
    ),
    "stretched_exponential": (
        {"amplitude": 3.0, "decay": 2.0, "exponent": 0.6},
        lambda p, x: 3.0 * stats.weibull_min(0.6, scale=2.0).sf(x),
    ),
    "power_law": ({"amplitude": 3.0, "exponent": -1.5}, lambda p, x: 3.0 * np.exp(-1.5 * np.log(x))),
    "arrhenius": ({"prefactor": 5.0, "energy": 20.0}, lambda p, x: 5.0 * np.exp(-20.0 / (8.31446261815324 * x))),
    "sine": (
        {"amplitude": 2.0, "frequency": 0.7, "phase": 0.4},
        lambda p, x: 2.0 * np.imag(np.exp(1j * (2 * np.pi * 0.7 * x + 0.4))),
    ),
    "damped_oscillator": (
        {"amplitude": 2.0, "decay": 3.0, "frequency": 0.7, "phase": 0.4},
        lambda p, x: 2.0 * np.imag(np.exp((2j * np.pi * 0.7 - 1 / 3.0) * x + 0.4j)),
    ),
    "logistic": (
        {"maximum": 2.0, "center": 3.0, "rate": 1.5},
        lambda p, x: 2.0 * stats.logistic(3.0, 1 / 1.5).cdf(x),
    ),
    "gompertz": ({"maximum": 2.0, "center": 3.0, "rate": 1.5}, lambda p, x: 2.0 * stats.gumbel_r(3.0, 1 / 1.5).cdf(x)),
    "step": ({"height": 2.0, "center": 3.0, "sigma": 0.5}, lambda p, x: 2.0 * stats.norm(3.0, 0.5).cdf(x)),
    "michaelis_menten": ({"maximum": 2.0, "half": 1.5}, lambda p, x: 2.0 / (1 + 1.5 / x)),
    "hill": (
        {"maximum": 2.0, "half": 1.5, "exponent": 3.0},
        lambda p, x: 2.0 * stats.fisk(3.0, scale=1.5).cdf(x),
    ),
    "langmuir": ({"capacity": 2.0, "affinity": 0.5}, lambda p, x: 2.0 / (1 + 1 / (0.5 * x))),
    "gaussian": (
        {"height": 2.0, "center": 3.0, "sigma": 0.8},
        lambda p, x: stats.norm(3.0, 0.8).pdf(x) * 2.0 * np.sqrt(2 * np.pi) * 0.8,
    ),
    "lorentzian": (
        {"height": 2.0, "center": 3.0, "gamma": 0.8},
        lambda p, x: stats.cauchy(3.0, 0.8).pdf(x) * np.pi * 2.0 * 0.8,
    ),
    "voigt": ({"height": 2.0, "center": 3.0, "sigma": 0.5, "gamma": 0.7}, voigt),
    "pseudo_voigt": ({"height": 2.0, "center": 3.0, "fwhm": 0.8, "fraction": 0.3}, pseudo_voigt),
    "skewed_gaussian": (
        {"height": 2.0, "center": 3.0, "sigma": 0.8, "skew": -2.0},
        lambda p, x: stats.skewnorm(-2.0, 3.0, 0.8).pdf(x) * np.sqrt(2 * np.pi) * 2.0 * 0.8,
    ),
    "exponential_gaussian": (
        {"area": 2.0, "center": 2.0, "sigma": 0.4, "tail": 0.9},
        lambda p, x: 2.0 * stats.exponnorm(0.9 / 0.4, 2.0, 0.4).pdf(x),
    ),
    "fano": (
        {"amplitude": 2.0, "center": 3.0, "gamma": 0.5, "q": 1.5},
        lambda p, x: 2.0 * np.abs(1 + (1.5 - 1j) / ((x - 3.0) / 0.5 + 1j)) ** 2,
    ),
    "gaussian_2d": (
        {"height": 2.0, "center_x": 0.5, "center_y": 1.0, "sigma_x": 1.2, "sigma_y": 0.5, "angle": 0.6},
        bell_2d,
    ),
}


def x_of(name):
    return XY if name == "gaussian_2d" else X


@pytest.mark.parametrize("name", CURVES)
def test_values(name):
    params, curve = KNOWN[name]
    x = x_of(name)
    with jax.enable_x64(True):
        found = np.asarray(CURVES[name](params, x))
    np.testing.assert_allclose(found, curve(params, x), rtol=1e-12, atol=1e-14)
    assert found.dtype == np.float64
    narrow = CURVES[name]({key: np.float32(value) for key, value in params.items()}, x.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, found, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("name", CURVES)
def test_what_a_curve_says_of_itself(name):
    model, (params, _) = CURVES[name], KNOWN[name]
    assert set(model.names) == set(params)
    assert repr(model).startswith(f"{model.name}({', '.join(model.names)}) = ")
    assert all(
        word in repr(model).split("=", 1)[1] or word in ("center_x", "center_y", "angle") for word in model.names[:2]
    )
    if name != "polynomial(3)":
        documentation = model.__doc__
        assert all(f"{param}:" in documentation for param in model.names)
        assert "x " in documentation
        assert ">>> " in documentation
        assert model.name == name
    lower, upper = model.bounds
    assert lower.keys() == upper.keys() == params.keys()
    for param in model.names:
        bounded = param.startswith(("sigma", "gamma", "fwhm", "tail", "half")) or param in model.lower
        assert lower[param] == (0.0 if bounded else -np.inf)
        assert upper[param] == (1.0 if param == "fraction" else np.inf)
    assert pickle.loads(pickle.dumps(model)) == copy.deepcopy(model) == model
    assert hash(pickle.loads(pickle.dumps(model))) == hash(model)


# Params and x where something may overflow, vanish, or come to 0 / 0.
EDGES = {
    "voigt": [{"gamma": 0.0}, {"sigma": 1e-3, "gamma": 5.0}, {"sigma": 1e-3, "gamma": 0.0}],
    "pseudo_voigt": [{"fraction": 0.0}, {"fraction": 1.0, "fwhm": 1e-3}],
    "gaussian": [{"sigma": 1e-4, "height": 0.0}],
    "lorentzian": [{"gamma": 0.0}],
    "skewed_gaussian": [{"skew": 0.0}, {"sigma": 1e-4, "skew": 100.0}],
    "exponential_gaussian": [{"tail": 1e-4}, {"sigma": 1e-3, "tail": 10.0}, {"center": -50.0}, {"center": 50.0}],
    "fano": [{"gamma": 0.0, "q": 0.0}],
    "stretched_exponential": [{"exponent": 0.0}, {"exponent": 5.0, "decay": 0.01}],
    "power_law": [{"exponent": 0.0}, {"exponent": 2.0}],
    "exponential": [{"decay": 1e9}, {"decay": -1.0}, {"decay": 1e-4}],
    "biexponential": [{"decay_1": 1e-3, "decay_2": 1e-3}],
    "sine": [{"frequency": 0.0, "amplitude": 0.0}],
    "damped_oscillator": [{"frequency": 0.0, "decay": 1e-3}],
    "logistic": [{"rate": 0.0}, {"rate": -1e4}],
    "gompertz": [{"rate": 0.0}, {"rate": 1e4}],
    "step": [{"sigma": 1e-4}],
    "michaelis_menten": [{"half": 0.0}],
    "hill": [{"exponent": 0.0}, {"exponent": 200.0}, {"half": 1e-6}],
    "langmuir": [{"affinity": 0.0}],
    "arrhenius": [{"energy": 0.0}, {"energy": 1e5}],
    "gaussian_2d": [{"sigma_x": 1e-3, "sigma_y": 1e-3}],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CURVES)
def test_slopes_are_finite_at_the_edges(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        slope = quick(jax.jacfwd(CURVES[name]))
        for edge in EDGES.get(name, [{}]):
            params = {key: dtype(value) for key, value in (KNOWN[name][0] | edge).items()}
            at = {"gaussian_2d": XY, "arrhenius": X + 100}.get(name, np.array([0.0, 1e-3, 2.9, 3.5, 6.0, 40.0]))
            if name == "power_law":
                at = at[1:]
            for param, column in slope(params, at.astype(dtype)).items():
                assert np.isfinite(column).all(), (edge, param, column)


def test_faddeeva():
    real = np.concatenate([np.linspace(-12, 12, 401), np.geomspace(12, 1e8, 30)])
    imaginary = np.concatenate([[0.0], np.geomspace(1e-8, 1e6, 60)])
    z = real + 1j * imaginary[:, None]
    expected = special.wofz(z)
    np.testing.assert_allclose(_faddeeva.faddeeva(z), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(_faddeeva.faddeeva(jnp.asarray(z, np.complex64)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(_faddeeva.scaled_erfc(imaginary), special.erfcx(imaginary), rtol=1e-14)


def test_voigt_slopes_are_those_of_the_exact_profile():
    x = np.linspace(-4, 4, 41)
    differentiate = quick(jax.jacfwd(models.voigt))
    for gamma in (0.0, 1e-8, 0.3, 5.0):
        params = {"height": 2.0, "center": 0.5, "sigma": 0.7, "gamma": gamma}
        with jax.enable_x64(True):
            slopes = differentiate(jax.tree.map(np.float64, params), x)
        for name in params:
            h = 1e-5
            above, below = (voigt(params | {name: params[name] + d * h}, x) for d in (1, -1 if params[name] > h else 0))
            expected = (above - below) / (2 * h if params[name] > h else h)
            np.testing.assert_allclose(slopes[name], expected, atol=1e-8 if params[name] > h else 1e-4)


def test_a_voigt_profile_has_the_limits_that_it_should_have():
    params = {"height": 2.0, "center": 3.0, "sigma": 0.5}
    with jax.enable_x64(True):
        gaussian = models.gaussian(params, X)
        np.testing.assert_allclose(models.voigt(params | {"gamma": 0.0}, X), gaussian, atol=1e-14)
        lorentzian = models.lorentzian({"height": 2.0, "center": 3.0, "gamma": 0.7}, X)
        np.testing.assert_allclose(models.voigt(params | {"sigma": 1e-6, "gamma": 0.7}, X), lorentzian, rtol=1e-9)


# Starting values: random truths that nothing was tuned to.


def between(low, high):
    return lambda rng: rng.uniform(low, high)


def either(low, high):
    return lambda rng: rng.choice([-1, 1]) * rng.uniform(low, high)


PEAK = {"height": either(1, 10), "center": between(-3, 3)}
DRAWS = {
    "exponential": ({"amplitude": either(1, 5), "decay": between(0.5, 6)}, (0, 10)),
    "stretched_exponential": (
        {"amplitude": between(1, 5), "decay": between(0.8, 4), "exponent": between(0.5, 2)},
        (0, 10),
    ),
    "power_law": ({"amplitude": between(1, 5), "exponent": between(-3, 3)}, (0.5, 10)),
    "arrhenius": ({"prefactor": between(1e3, 1e6), "energy": between(2e4, 6e4)}, (300, 500)),
    "sine": ({"amplitude": between(1, 5), "frequency": between(0.1, 2.7), "phase": between(-3, 3)}, (0, 10)),
    "damped_oscillator": (
        {"amplitude": between(2, 5), "decay": between(1, 8), "frequency": between(0.3, 2.7), "phase": between(-3, 3)},
        (0, 10),
    ),
    "logistic": ({"maximum": between(1, 5), "center": between(-2, 2), "rate": either(0.5, 5)}, (-5, 5)),
    "gompertz": ({"maximum": between(1, 5), "center": between(-2, 2), "rate": between(0.5, 5)}, (-5, 5)),
    "step": ({"height": either(1, 5), "center": between(-3, 3), "sigma": between(0.2, 1.5)}, (-5, 5)),
    "michaelis_menten": ({"maximum": between(1, 5), "half": between(0.3, 8)}, (0, 10)),
    "hill": ({"maximum": between(1, 5), "half": between(1, 6), "exponent": between(0.7, 5)}, (0, 10)),
    "langmuir": ({"capacity": between(1, 5), "affinity": between(0.2, 3)}, (0, 10)),
    "gaussian": (PEAK | {"sigma": between(0.2, 1.5)}, (-5, 5)),
    "lorentzian": (PEAK | {"gamma": between(0.2, 1.5)}, (-5, 5)),
    "pseudo_voigt": (PEAK | {"fwhm": between(0.4, 2), "fraction": between(0.2, 0.8)}, (-5, 5)),
    "voigt": (PEAK | {"sigma": between(0.2, 1), "gamma": between(0.2, 1)}, (-8, 8)),
    "skewed_gaussian": (PEAK | {"sigma": between(0.6, 1.5), "skew": either(1, 5)}, (-5, 5)),
    "exponential_gaussian": (
        {"area": between(2, 10), "center": between(-2, 2), "sigma": between(0.2, 0.8), "tail": between(0.3, 2)},
        (-5, 8),
    ),
    "fano": (
        {"amplitude": between(1, 5), "center": between(-2, 2), "gamma": between(0.2, 1), "q": either(0.3, 4)},
        (-5, 5),
    ),
    "gaussian + linear": (
        {"gaussian": PEAK | {"sigma": between(0.2, 1.5)}, "linear": {"slope": either(0, 2), "intercept": either(0, 5)}},
        (-5, 5),
    ),
    "voigt + constant": (
        {"voigt": PEAK | {"sigma": between(0.2, 1), "gamma": between(0.2, 1)}, "constant": {"value": either(1, 9)}},
        (-8, 8),
    ),
    "exponential + constant": (
        {"exponential": {"amplitude": either(1, 5), "decay": between(0.5, 5)}, "constant": {"value": either(1, 9)}},
        (0, 10),
    ),
    "gaussian + exponential": (
        {
            "gaussian": {"height": between(1, 5), "center": between(3, 8), "sigma": between(0.2, 0.8)},
            "exponential": {"amplitude": between(2, 10), "decay": between(1, 6)},
        },
        (0, 10),
    ),
    "gaussian + gaussian + linear": (
        {
            "gaussian_1": {"height": between(2, 8), "center": between(-3, -1), "sigma": between(0.2, 0.7)},
            "gaussian_2": {"height": between(2, 8), "center": between(1, 3), "sigma": between(0.2, 0.7)},
            "linear": {"slope": either(0, 2), "intercept": either(0, 5)},
        },
        (-5, 5),
    ),
    "sine + linear": (
        {
            "sine": {"amplitude": between(1, 5), "frequency": between(0.15, 2.7), "phase": between(-3, 3)},
            "linear": {"slope": either(0, 2), "intercept": either(0, 5)},
        },
        (0, 10),
    ),
    "sine * gaussian": (
        {
            "sine": {"amplitude": between(1, 2), "frequency": between(0.4, 2.5), "phase": between(-3, 3)},
            "gaussian": {"height": between(1, 5), "center": between(-2, 2), "sigma": between(0.7, 2)},
        },
        (-5, 5),
    ),
}
CASES = 8


def drawn(tree, rng):
    return {name: drawn(draw, rng) if isinstance(draw, dict) else float(draw(rng)) for name, draw in tree.items()}


def made(text):
    return eval(text, {name: getattr(models, name) for name in models.__all__})


@pytest.mark.parametrize("text", DRAWS)
def test_a_fit_from_the_guess_reaches_the_minimum(text, rng):
    """At least as low as a fit that starts from the truth, each time with 3 % of noise."""
    model, (tree, (low, high)) = made(text), DRAWS[text]
    missed = []
    for case in range(CASES // 2 if model.parts else CASES):
        truth = drawn(tree, rng)
        x = rng.uniform(low, high, 60) if case % 2 else rng.permutation(np.linspace(low, high, 60))
        with jax.enable_x64(True):
            y = np.asarray(model(truth, x))
        y = y + 0.03 * np.ptp(y) * rng.standard_normal(60)
        start = model.guess(x, y)
        least, greatest = model.bounds
        assert all(jax.tree.leaves(jax.tree.map(lambda low, p, high: low <= p <= high, least, start, greatest)))
        from_guess, from_truth = (fitted(model, (x, y), p) for p in (start, truth))
        if from_guess > from_truth * (1 + 1e-6):
            missed.append((truth, start, from_guess, from_truth))
    assert not missed


def fitted(model, data, start):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)  # how it ends is not asked, only how low
        return jf.fit(model, data, start).loss


@pytest.mark.parametrize("text", ["gaussian_2d", "gaussian_2d + constant"])
def test_the_guess_of_a_surface(text, rng):
    model = made(text)
    for _ in range(3):
        bell = {name: rng.uniform(1, 2) for name in ("height", "center_x", "center_y", "sigma_x")}
        bell |= {"sigma_y": bell["sigma_x"] * rng.uniform(0.3, 0.9), "angle": rng.uniform(-1.5, 1.5)}
        truth = {"gaussian_2d": bell, "constant": {"value": 3.0}} if model.parts else bell
        y = np.asarray(model(truth, XY)) + 0.05 * rng.standard_normal(len(XY))
        start = model.guess(XY, y)
        assert fitted(model, (XY, y), start) <= fitted(model, (XY, y), truth) * (1 + 1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_a_guess_is_finite_and_within_bounds_whatever_the_data(name, rng):
    model = CURVES[name]
    lower, upper = model.bounds
    for count in (1, 2, 3, 5, 1100):
        for same_x, y in ((False, np.full(count, 2.0)), (False, np.zeros(count)), (True, rng.normal(size=count))):
            x = np.full(count, 0.5) if same_x else rng.uniform(0.1, 5.0, count)
            x = np.stack([x, x[::-1]], axis=1) if name == "gaussian_2d" else x
            start = model.guess(x, y)
            assert tuple(start) == model.names
            for param, value in start.items():
                assert type(value) is float
                assert np.isfinite(value)
                assert np.isfinite(np.float32(value))
                assert lower[param] <= value <= upper[param]


def test_a_guess_takes_what_a_user_has():
    x = np.linspace(0.0, 10.0, 50)
    y = np.asarray(models.gaussian({"height": 3.0, "center": 4.0, "sigma": 1.0}, x))
    expected = models.gaussian.guess(x, y)
    order = np.random.default_rng(1).permutation(50)
    assert models.gaussian.guess(x[order], y[order]) == expected
    assert models.gaussian.guess(list(x), y.tolist()) == expected
    for kind in (jnp.float32, jnp.bfloat16):
        guessed = models.gaussian.guess(jnp.asarray(x, kind), jnp.asarray(y, kind))
        assert abs(guessed["center"] - 4) < 0.1
    shifted = models.gaussian.guess(x + 58_000.5, y)  # dates: float32 would lose them
    assert abs(shifted["center"] - 58_004.5) < 0.05
    assert models.linear.guess([1, 2, 3], [3, 5, 7]) == pytest.approx({"slope": 2, "intercept": 1})


def test_the_strongest_of_equal_parts_comes_first():
    model = models.gaussian + models.gaussian
    truth = {
        "gaussian_1": {"height": 1.0, "center": 2.0, "sigma": 0.5},
        "gaussian_2": {"height": 4.0, "center": 7.0, "sigma": 0.5},
    }
    x = np.linspace(0, 10, 101)
    start = model.guess(x, np.asarray(model(truth, x)))
    assert abs(start["gaussian_1"]["center"] - 7) < 0.1
    assert abs(start["gaussian_2"]["center"] - 2) < 0.1


# Composition.


def test_names_of_parts():
    gaussian, linear, sine = models.gaussian, models.linear, models.sine
    assert (gaussian + linear).names == ("gaussian", "linear")
    assert (gaussian + gaussian).names == ("gaussian_1", "gaussian_2")
    assert (gaussian + linear + gaussian).names == ("gaussian_1", "linear", "gaussian_2")
    assert ((gaussian + gaussian) + gaussian).names == ("gaussian_1", "gaussian_2", "gaussian_3")
    assert (gaussian + (linear * sine)).names == ("gaussian", "linear", "sine")
    assert ((gaussian - linear) * sine).names == ("gaussian", "linear", "sine")
    assert (gaussian.named("a") + gaussian.named("b")).names == ("a", "b")
    assert (gaussian.named("gaussian_1") + gaussian + gaussian).names == ("gaussian_1", "gaussian_2", "gaussian_3")
    pair = (gaussian + linear).named("pair")
    assert (pair + sine).names == ("pair", "sine")
    assert (pair + pair).names == ("pair_1", "pair_2")
    assert (2 * gaussian).names == ("gaussian",)
    assert tuple((gaussian + linear).parts) == ("gaussian", "linear")


def test_values_of_compositions():
    a, b, c = (CURVES[name] for name in ("gaussian", "linear", "sine"))
    p = {name: KNOWN[name][0] for name in ("gaussian", "linear", "sine")}
    u, v, w = (np.asarray(model(p[model.name], X)) for model in (a, b, c))
    for model, expected in {
        a + b: u + v,
        a - b: u - v,
        a * b: u * v,
        a + b - c: u + v - w,
        a - (b - c): u - v + w,
        (a + b) * c: (u + v) * w,
        a + b * c: u + v * w,
        -a: -u,
        2 * a: 2 * u,
        a * np.float64(0.5): u / 2,
        np.float32(0.5) * a: u / 2,
        1 - a: 1 - u,
        a - 3: u - 3,
        3 + a * 2 - b: 3 + 2 * u - v,
    }.items():
        found = model({name: p[name] for name in model.names}, X)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=repr(model))
    pair = (a + b).named("pair")
    nested = {"pair": {name: p[name] for name in ("gaussian", "linear")}, "sine": p["sine"]}
    np.testing.assert_allclose((pair * c)(nested, X), (u + v) * w, rtol=1e-5, atol=1e-5)
    level = models.constant + models.constant
    assert level({"constant_1": {"value": 1.0}, "constant_2": {"value": 2.0}}, X).shape == X.shape
    surface = models.gaussian_2d + models.constant
    found = surface({"gaussian_2d": KNOWN["gaussian_2d"][0], "constant": {"value": 1.0}}, XY)
    np.testing.assert_allclose(found, bell_2d(KNOWN["gaussian_2d"][0], XY) + 1, rtol=1e-5)


def test_bounds_of_compositions():
    model = models.gaussian + models.linear
    assert model.lower == {"gaussian": {"sigma": 0.0}}
    assert model.upper == {}
    infinite = {"slope": -np.inf, "intercept": -np.inf}
    assert model.bounds[0] == {"gaussian": {"height": -np.inf, "center": -np.inf, "sigma": 0.0}, "linear": infinite}
    nested = model.named("pair") * models.pseudo_voigt
    assert nested.lower == {"pair": {"gaussian": {"sigma": 0.0}}, "pseudo_voigt": {"fwhm": 0.0, "fraction": 0.0}}
    assert nested.bounds[1]["pseudo_voigt"]["fraction"] == 1.0
    start = nested.guess(X, np.cos(X))
    for side in nested.bounds:
        assert jax.tree.structure(side) == jax.tree.structure(start)


def test_repr_of_compositions():
    gaussian, linear, sine = models.gaussian, models.linear, models.sine
    first = [repr(model).splitlines()[0] for model in (
        gaussian + linear - sine, gaussian - (linear - sine), (gaussian + linear) * sine, gaussian + linear * sine,
        2 * gaussian + gaussian, -gaussian, (gaussian + linear).named("all"), (gaussian + linear).named("all") + sine,
    )]  # fmt: skip
    assert first == [
        "gaussian + linear - sine", "gaussian - (linear - sine)", "(gaussian + linear) * sine",
        "gaussian + linear * sine", "2 * gaussian_1 + gaussian_2", "-1 * gaussian", "all = gaussian + linear",
        "all + sine",
    ]  # fmt: skip
    assert repr(gaussian + linear).splitlines()[2] == "  linear(slope, intercept) = slope * x + intercept"
    assert (gaussian + linear).__name__ == "gaussian + linear"


def test_guesses_of_nested_and_scaled_compositions():
    x = np.linspace(0.0, 10.0, 80)
    peak = np.asarray(models.gaussian({"height": 3.0, "center": 4.0, "sigma": 0.7}, x))
    nested = (models.gaussian + models.linear).named("pair") + models.gaussian
    y = peak + 0.5 * x + 1 + 0.5 * np.exp(-0.5 * ((x - 8) / 0.3) ** 2)
    found = nested.guess(x, y)
    assert {round(found["pair"]["gaussian"]["center"]), round(found["gaussian"]["center"])} == {4, 8}
    for model, y in (
        (10 - 2 * models.gaussian, 10 - 2 * peak),
        (-models.gaussian, -peak),
        (models.gaussian * 2 + 5, 2 * peak + 5),
    ):
        start = model.guess(x, y)["gaussian"]
        assert start == pytest.approx({"height": 3.0, "center": 4.0, "sigma": 0.7}, rel=0.05)


def test_a_model_of_ones_own():
    def hyperbola(params, x):
        """One over x."""
        return params["a"] / (x + params["b"])

    def start(x, y):
        return {"a": np.median(y * x), "b": 0.0}

    own = models.Model(hyperbola, ("a", "b"), lower={"b": 0}, guesser=start, formula="a / (x + b)")
    assert repr(own) == "hyperbola(a, b) = a / (x + b)"
    assert own.__doc__ == "One over x."
    y = 3 / (X + 0.2)
    result = jf.fit(own, (X, y), own.guess(X, y))
    assert result.params == pytest.approx({"a": 3.0, "b": 0.2}, rel=1e-6)
    model = own + models.constant
    found = model.guess(X, y + 5)
    assert jf.fit(model, (X, y + 5), found).params["constant"]["value"] == pytest.approx(5.0, rel=1e-5)
    without = models.Model(hyperbola, ("a", "b"))
    with pytest.raises(ValueError, match="hyperbola has no guess; give starting values"):
        (without + models.linear).guess(X, y)


def test_a_model_written_anew_compiles_nothing(compilations):
    x = np.linspace(0.0, 10.0, 50)
    y = np.asarray((models.gaussian + models.linear)(
        {"gaussian": {"height": 3.0, "center": 4.0, "sigma": 1.0}, "linear": {"slope": 0.5, "intercept": 1.0}}, x
    ))  # fmt: skip

    def fit():
        model = models.gaussian.named("peak") + models.polynomial(1)
        return jf.fit(model, (x, y), model.guess(x, y))

    fit()
    compilations()
    assert fit().params["peak"]["center"] == pytest.approx(4.0, abs=1e-5)
    assert compilations() == 0
    again = models.gaussian.named("peak") + models.polynomial(1)
    assert again == models.gaussian.named("peak") + models.polynomial(1)
    assert fingerprint(again) == fingerprint(models.gaussian.named("peak") + models.polynomial(1))
    assert fingerprint(again) != fingerprint(models.gaussian.named("peak") - models.polynomial(1))
    assert fingerprint(2 * models.sine) != fingerprint(3 * models.sine)


def test_models_are_pure_functions():
    """Under jit, vmap and grad; x of any shape; params that are plain numbers."""
    model = models.gaussian + models.constant
    params = {"gaussian": {"height": 2, "center": 1.0, "sigma": 0.5}, "constant": {"value": 1.0}}
    plain = model(params, X)
    np.testing.assert_allclose(jax.jit(model)(params, X), plain, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(model, in_axes=(None, 0))(params, X), plain, rtol=1e-6)
    np.testing.assert_allclose(model(params, X.reshape(5, 5)), plain.reshape(5, 5), rtol=1e-6)
    many = jax.tree.map(lambda value: jnp.full(3, float(value)), params)
    np.testing.assert_allclose(jax.vmap(model, in_axes=(0, None))(many, X)[1], plain, rtol=1e-6)
    assert models.linear({"slope": 1.0, "intercept": 0.0}, [1, 2]).dtype == jnp.float32


# With fit: starting values and bounds come from the model.


def test_fit_needs_no_params():
    model = models.gaussian + models.linear
    truth = {"gaussian": {"height": 3.0, "center": 4.0, "sigma": 1.0}, "linear": {"slope": 0.5, "intercept": 1.0}}
    x = np.linspace(0.0, 10.0, 80)
    with jax.enable_x64(True):
        y = np.asarray(model(truth, x))
    result = jf.fit(model, (x, y))
    assert result.status.ok
    assert "gaussian.center" in str(result)
    jax.tree.map(lambda p, t: np.testing.assert_allclose(p, t, rtol=1e-6), result.params, truth)
    with pytest.raises(ValueError, match="x has shape"):
        jf.fit(model, (x[:, None], y))
    with pytest.raises((TypeError, ValueError), match="params"):
        jf.fit(model, lambda key: (x, y), optimizer=jf.optimizers.Adam(0.1), steps=2)


def test_fit_stays_within_the_bounds_of_a_model(rng):
    """A pure gaussian with noise wants a fraction below 0, a line without curvature any width."""
    x = np.linspace(-5.0, 5.0, 60)
    held = 0
    for _ in range(6):
        y = 3 * np.exp(-0.5 * (x / 0.8) ** 2) + 0.05 * rng.standard_normal(60)
        result = jf.fit(models.pseudo_voigt, (x, y))
        assert 0 <= result.params["fraction"] <= 1
        assert result.params["fwhm"] > 0
        held += result.params["fraction"] < 1e-6
    assert held > 0


# Bad input.


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda: models.gaussian(1.0, X), TypeError, "params is a float"),
        (lambda: models.gaussian({"height": 1.0}, X), ValueError, "params has height; expected height, center, sigma"),
        (lambda: (models.gaussian + models.linear)({"gaussian": 1.0, "linear": {}}, X), TypeError, "gaussian: params"),
        (lambda: models.gaussian_2d(KNOWN["gaussian_2d"][0], X), ValueError, r"expected \[..., 2\]"),
        (lambda: models.polynomial(-1), ValueError, "degree is -1; expected at least 0"),
        (lambda: models.polynomial(1.5), TypeError, "degree is a float"),
        (lambda: models.gaussian + "linear", TypeError, "an operand of \\+ is a str"),
        (lambda: (lambda p, x: x) * models.gaussian, TypeError, "Model\\(function, names\\)"),
        (lambda: models.gaussian * np.nan, ValueError, "operand of \\* is nan"),
        (lambda: models.gaussian * True, TypeError, "operand of \\* is a bool"),
        (lambda: models.gaussian.named(1), TypeError, "name is an int"),
        (lambda: models.gaussian.named(""), ValueError, "name is empty"),
        (lambda: models.gaussian.guess(X[:, None], X), ValueError, r"Write x\[:, 0\]"),
        (lambda: models.gaussian.guess(X, X[:3]), ValueError, r"x has shape \(25,\) and y has \(3,\)"),
        (lambda: models.gaussian.guess([], []), ValueError, "empty"),
        (lambda: models.gaussian.guess(X, X * np.nan), ValueError, "y holds NaN"),
        (lambda: models.gaussian.guess(X, "abc"), TypeError, "y is a str"),
        (lambda: models.gaussian.guess(X + 1j, X), TypeError, "x is complex128"),
        (lambda: models.gaussian.guess([[1.0], [2.0, 3.0]], X), TypeError, "x is a list"),
        (lambda: jax.jit(models.gaussian.guess)(X, X), TypeError, "x is traced"),
        (lambda: models.power_law.guess(X - 1, X), ValueError, "x goes down to -0.9.*expected x above 0"),
        (lambda: (models.hill + models.constant).guess(X - 1, X), ValueError, "hill is not defined"),
        (lambda: models.gaussian_2d.guess(X, X), ValueError, r"expected \[n, 2\]"),
        (lambda: models.Model(3, ("a",)), TypeError, "function is an int"),
        (lambda: models.Model(np.sin, ["a"]), TypeError, "names is"),
        (lambda: models.Model(np.sin, ("a", "a")), ValueError, "each name once"),
        (lambda: models.Model(np.sin, ("a",), lower={"b": 0}), ValueError, "lower has the name 'b'"),
        (lambda: models.Model(np.sin, ("a",), lower={"a": np.inf}), ValueError, "expected a finite number"),
        (lambda: models.Model(np.sin, ("a",), lower=[0]), TypeError, "lower is a list"),
        (lambda: models.Model(np.sin, ("a",), lower={"a": 1}, upper={"a": 0}), ValueError, "expected lower < upper"),
    ],
    ids=range(30),
)
def test_bad_input(act, kind, words):
    with pytest.raises(kind, match=words):
        act()
