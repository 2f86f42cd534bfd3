"""`curve_fit` against SciPy: its own tests, its answers to the same problems, its errors for malformed input."""

import functools
import inspect
import warnings

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import assume, example, given, settings
from scipy.optimize import OptimizeWarning
from scipy.optimize.tests import test_minpack as scipys_tests

import jaxfit as jf
import nist
from jaxfit import _traceable
from jaxfit._traceable import Use

scipys = scipy.optimize.curve_fit
X = np.linspace(0.0, 4.0, 30)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.1 * np.cos(9 * X)
TIGHT = {"ftol": 1e-13, "xtol": 1e-13, "gtol": 1e-13}


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def numpy_decay(x, a, b, c):
    return a * np.exp(-b * x) + c


def line(x, a, b):
    return a * x + b


@pytest.fixture
def handed(monkeypatch):
    """The calls that go to SciPy."""
    calls = []

    def recorded(*args, **kwargs):
        calls.append((args, kwargs))
        return scipys(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "curve_fit", recorded)
    return calls


class TestSciPysOwn(scipys_tests.TestCurveFit):
    """All the tests that SciPy has for it; 46 in SciPy 1.17."""

    # Those in which some function is plain arithmetic: jaxfit must have fitted it itself.
    OWN = {
        "test_one_argument", "test_two_argument", "test_func_is_classmethod", "test_pcov", "test_array_like",
        "test_indeterminate_covariance", "test_nan_policy_1d", "test_nan_policy_2d", "test_nan_policy_2_3d",
        "test_maxfev_and_bounds", "test_curvefit_scalar_sigma", "test_dtypes", "test_broadcast_y",
    }  # fmt: skip

    @pytest.fixture(autouse=True)
    def replaced(self, monkeypatch, handed, request):
        calls = []

        def counted(*args, **kwargs):
            calls.append(args)
            return jf.curve_fit(*args, **kwargs)

        monkeypatch.setattr(scipys_tests, "curve_fit", counted)
        yield
        assert (len(handed) < len(calls)) == (request.node.originalname in self.OWN)


def test_the_signature_is_scipys():
    ours, theirs = inspect.signature(jf.curve_fit), inspect.signature(scipys)
    for one, other in zip(ours.parameters.values(), theirs.parameters.values(), strict=True):
        assert (one.name, one.kind, one.default) == (other.name, other.kind, other.default)


@pytest.mark.parametrize("name", nist.MODELS)
def test_certified_values_at_default_settings(name, handed):
    problem, model = nist.load(name), nist.MODELS[name]
    for start in problem.starts:
        popt, pcov = jf.curve_fit(lambda x, *b: model(b, x), problem.x, problem.y, start)
        assert nist.digits(popt, problem.params) >= 6
        assert nist.digits(np.sqrt(np.diag(pcov)), problem.standard_errors) >= 4
    assert not handed


def agree(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    scale = np.sqrt(np.diag(theirs[1]))
    np.testing.assert_allclose(ours[1] / np.outer(scale, scale), theirs[1] / np.outer(scale, scale), atol=1e-5)


def covariance(rng):
    root = rng.normal(size=(30, 30)) + 6 * np.eye(30)
    return root @ root.T / 2000


SIGMAS = {
    "none": lambda rng: None,
    "scalar": lambda rng: 0.3,
    "one": lambda rng: np.array([2]),
    "per point": lambda rng: rng.uniform(0.05, 0.5, 30),
    "negative": lambda rng: -rng.uniform(0.05, 0.5, 30),
    "covariance": covariance,
}
LIMITS = {"free": {}, "inactive": {"bounds": (0, 10)}, "active": {"bounds": ([-np.inf, 1.5, 0.0], [2.0, np.inf, 9.0])}}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_same_answers_as_scipys(rng, handed, sigma, limits):
    for absolute in (False, True):
        y = Y + 0.05 * rng.normal(size=30)
        options = {"p0": [1.5, 2.0, 0.3], "sigma": SIGMAS[sigma](rng), "absolute_sigma": absolute, **LIMITS[limits]}
        agree(jf.curve_fit(decay, X, y, **options), scipys(numpy_decay, X, y, **options, **TIGHT))
    assert not handed


@pytest.mark.parametrize("method", ["lm", "trf", "dogbox"])
@pytest.mark.parametrize(
    "options", [{}, TIGHT, {"maxfev": 500}, {"gtol": 1e-10}], ids=["none", "tight", "maxfev", "gtol"]
)
def test_methods_and_options(handed, method, options):
    agree(jf.curve_fit(decay, X, Y, method=method, **options), scipys(numpy_decay, X, Y, method=method, **TIGHT))
    assert not handed


def test_starts_between_the_bounds(handed):
    for bounds in (
        ([0, -np.inf, 1], [9, 5, np.inf]),
        scipy.optimize.Bounds([0, 1, 0], [1, 2, 9]),
        (-np.inf, [9, 2, 1]),
    ):
        agree(jf.curve_fit(decay, X, Y, bounds=bounds), scipys(numpy_decay, X, Y, bounds=bounds, **TIGHT))
    assert not handed


def test_tolerances_end_no_fit_early(handed):
    expected = jf.curve_fit(decay, X, Y)
    for options in ({"ftol": 5e-3}, {"xtol": 5e-3}, {"gtol": 5e-3}, {"method": "trf", "gtol": None, "ftol": 5e-3}):
        np.testing.assert_array_equal(jf.curve_fit(decay, X, Y, **options)[0], expected[0])
    assert not handed


def test_float64_whatever_jax_is_set_to(handed):
    assert not jax.config.jax_enable_x64
    narrow = X.astype(np.float32), Y.astype(np.float32)
    expected = scipys(numpy_decay, *(part.astype(float) for part in narrow), **TIGHT)
    for x, y in (narrow, map(jnp.asarray, narrow), map(np.ndarray.tolist, narrow)):
        popt, pcov = jf.curve_fit(decay, x, y)
        agree((popt, pcov), expected)
        assert type(popt) is type(pcov) is np.ndarray
        assert popt.dtype == pcov.dtype == np.float64
        popt[0] = pcov[0, 0] = 1  # both are the caller's own
    with jax.enable_x64(True):
        agree(jf.curve_fit(decay, *narrow), expected)
    assert not jax.config.jax_enable_x64
    assert not handed


@pytest.mark.parametrize("absolute", [False, True])
def test_results_can_be_written_to(absolute):
    for array in jf.curve_fit(decay, X, Y, absolute_sigma=absolute, full_output=True)[:2]:
        array += 1


def test_xdata_of_any_kind(handed):
    columns = np.stack([X, X**2])
    model = lambda x, a, b: a * x[0] + b * x[1]
    expected = scipys(model, columns, Y)
    for x in (columns, list(columns), {"first": X, "second": X**2}):
        f = (lambda d, a, b: a * d["first"] + b * d["second"]) if isinstance(x, dict) else model
        agree(jf.curve_fit(f, x, Y), expected)
    agree(jf.curve_fit(lambda _, a, b: a * X + b * X**2, None, Y), expected)
    agree(jf.curve_fit(lambda i, a, b: jnp.asarray([a, b])[i % 2], jnp.arange(30), Y),
          scipys(lambda i, a, b: np.asarray([a, b])[np.asarray(i) % 2], jnp.arange(30), Y))  # fmt: skip
    assert not handed


def test_a_number_stands_for_all(handed):
    target = 3 * X + 1
    expected = scipys(lambda x, a, b: line(x, a, b) - target, X, np.zeros(30))
    for y in (0, [0.0], np.zeros(30)):
        popt, _ = jf.curve_fit(lambda x, a, b: line(x, a, b) - target, X, y)
        np.testing.assert_allclose(popt, expected[0], rtol=1e-7)
    agree(jf.curve_fit(lambda x, a: a, X, Y), scipys(lambda x, a: a, X, Y))
    assert not handed


def test_a_second_call_compiles_nothing(compilations, handed, rng):
    factor = 2.0

    def again(**options):
        y = Y + 0.01 * rng.normal(size=30)
        return jf.curve_fit(lambda x, a, b: a * jnp.exp(-b * x) + factor, X, y, **options)

    again(), again(sigma=np.ones(30)), compilations()
    again(), again(p0=[2, 1]), again(method="trf"), again(ftol=1e-9), again(sigma=2), again(sigma=X + 1)
    again(maxfev=1500)
    assert compilations() == 0
    before = again()[0]
    factor = 0.0
    assert abs(before - again()[0]).max() > 0.1
    assert not handed


@pytest.mark.parametrize("method", ["lm", "trf"])
@pytest.mark.parametrize("sigma", [None, np.linspace(0.1, 1, 30), np.diag(np.linspace(0.1, 1, 30))], ids=np.ndim)
def test_full_output(method, sigma, handed):
    popt, pcov, details, sentence, number = jf.curve_fit(
        decay, X, Y, sigma=sigma, absolute_sigma=True, method=method, full_output=True
    )
    theirs = scipys(numpy_decay, X, Y, sigma=sigma, absolute_sigma=True, method=method, full_output=True)
    assert details.keys() == theirs[2].keys()
    np.testing.assert_allclose(details["fvec"], theirs[2]["fvec"], atol=1e-5)
    assert isinstance(sentence, str)
    assert number in (1, 2, 3, 4)
    assert details["nfev"] > 1
    assert not handed
    if method == "lm":
        for name in ("fjac", "ipvt", "qtf"):
            assert details[name].shape == theirs[2][name].shape
        triangular = np.triu(details["fjac"].T[:3])
        inverse = scipy.linalg.inv(triangular)
        inverse[details["ipvt"]] = inverse.copy()
        np.testing.assert_allclose(inverse @ inverse.T, pcov, rtol=1e-8)
        assert (np.diff(np.abs(np.diag(triangular))) <= 0).all()
        np.testing.assert_allclose(details["qtf"], 0, atol=1e-6)  # no residual is left in the columns of J
    del popt


FLAT = {
    "no effect": (lambda x, a, b: a * x, "determine b. At the starting values nothing depends on b: try another p0"),
    "together": (lambda x, a, b, c: a * b * x + c, "determine a, b.$"),
    "lost at the start": (lambda x, a, b: a * x + jnp.maximum(b - 5, 0), "nothing depends on b"),
    "varargs": (lambda x, *p: p[0] * x + 0 * p[1], r"determine p\[1\]"),
}


@pytest.mark.parametrize("name", FLAT)
def test_what_the_data_do_not_determine_is_named(name, handed):
    f, words = FLAT[name]
    p0 = np.ones(2) if name == "varargs" else None
    with pytest.warns(OptimizeWarning, match=f"^Covariance of the parameters could not be estimated.*{words}") as seen:
        _, pcov = jf.curve_fit(f, X, Y, p0)
    assert np.isinf(pcov).all()
    assert seen[0].filename == __file__
    with pytest.warns(jf.FitWarning, match="pseudo-inverse"):
        _, pcov = jf.curve_fit(f, X, Y, p0, method="trf")
    assert np.isfinite(pcov).all()
    assert not handed


def test_a_param_that_only_starts_without_effect_is_no_reason_to_warn(handed):
    popt, _ = jf.curve_fit(lambda x, a, b: a * x + a * b, X, 3 * X + 6, p0=[0.0, 1.0])
    np.testing.assert_allclose(popt, [3, 2])
    assert not handed


def test_as_many_params_as_data():
    with pytest.warns(OptimizeWarning, match="as many parameters as data"):
        popt, pcov = jf.curve_fit(line, X[:2], Y[:2])
    np.testing.assert_allclose(line(X[:2], *popt), Y[:2])
    assert np.isinf(pcov).all()


def test_nearly_dependent_params_keep_their_errors(handed):
    model = lambda x, a, b: a * x + b * (x + 1e-6 * x**2)
    _, pcov = jf.curve_fit(model, X, Y, absolute_sigma=True)
    jacobian = np.stack([X, X + 1e-6 * X**2], axis=1)
    root = np.linalg.inv(np.linalg.qr(jacobian)[1])
    np.testing.assert_allclose(pcov, root @ root.T, rtol=1e-6)
    assert not handed


HANDED = {
    "numpy": (numpy_decay, {}),
    "numpy by another name": (functools.partial(numpy_decay), {}),
    "if": (lambda x, a, b, c: decay(x, a, b, c) if a > -9 else x, {}),
    "loss": (decay, {"loss": "soft_l1", "method": "trf"}),
    "x_scale": (decay, {"x_scale": [1, 2, 3], "method": "trf"}),
    "diag": (decay, {"diag": [1, 2, 3]}),
    "jac": (decay, {"jac": lambda x, a, b, c: np.stack([np.exp(-b * x), -a * x * np.exp(-b * x), 0 * x + 1], axis=1)}),
    "no tolerance": (decay, {"xtol": 0.0}),
    "a coarse tolerance": (decay, {"gtol": 0.1}),
}


@pytest.mark.parametrize("name", HANDED)
def test_scipy_does_what_only_scipy_can(name, handed):
    """A function of JAX too: it is evaluated in float64 there."""
    f, options = HANDED[name]
    popt, pcov = jf.curve_fit(f, X, Y, **options)
    assert len(handed) == 1
    expected = scipys(numpy_decay, X, Y, **options)
    np.testing.assert_allclose(popt, expected[0], rtol=1e-6)
    np.testing.assert_allclose(pcov, expected[1], rtol=1e-4)


def test_scipy_has_the_last_word(handed):
    for options in ({"maxfev": 1}, {"max_nfev": 1, "method": "trf"}):
        with pytest.raises(RuntimeError, match="Optimal parameters not found: "):
            jf.curve_fit(decay, X, Y, **options)
    assert len(handed) == 2


def test_an_index_out_of_range_is_an_error():
    with pytest.raises(IndexError):
        jf.curve_fit(lambda x, a: a * x[100], X, Y)


class Counter:
    calls = 0

    def method(self, x, a, b):
        self.calls += 1
        return a * x + b

    __call__ = method


def counting(kind):
    """A function that counts its calls in some way, and a function that tells their number."""
    seen, numbers, calls = [], [0], 0

    def appends(x, a, b):
        seen.append(a)
        return a * x + b

    def stores(x, a, b):
        numbers[0] += 1
        return a * x + b

    def rebinds(x, a, b):
        nonlocal calls
        calls += 1
        return a * x + b

    def keeps(x, a, b):
        keeps.calls = getattr(keeps, "calls", 0) + 1
        return a * x + b

    def helped(x, a, b):
        return appends(x, a, b)

    counter = Counter()
    return {
        "append": (appends, lambda: len(seen)),
        "item": (stores, lambda: numbers[0]),
        "nonlocal": (rebinds, lambda: calls),
        "attribute": (keeps, lambda: keeps.calls),
        "helper": (helped, lambda: len(seen)),
        "method": (counter.method, lambda: counter.calls),
        "object": (counter, lambda: counter.calls),
        "default": (lambda x, a, b, seen=seen: seen.append(a) or a * x + b, lambda: len(seen)),
        "partial": (functools.partial(appends), lambda: len(seen)),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["append", "item", "nonlocal", "attribute", "helper", "method", "object", "default", "partial"]
)
def test_calls_are_counted_as_scipys_are(kind):
    counts = []
    for curve_fit in (jf.curve_fit, scipys):
        f, count = counting(kind)
        details = curve_fit(f, X, Y, p0=[1, 2], full_output=True)[2]
        counts.append((count(), details["nfev"]))
    assert counts[0] == counts[1]


class Plain:
    factor = 2.0

    @property
    def half(self):
        return self.factor / 2

    @staticmethod
    def shift(a):
        return a + 1

    def arithmetic(self, x, a):
        return self.half * self.shift(a) * x

    def numpy(self, x, a):
        return self.arithmetic(np.sin(x), a)


def raises(x, a):
    try:
        return a * x
    except TypeError:
        return x


def changes(x, a):
    x -= a
    return x


def loops(x, *p):
    terms = [p[i] * x**i for i in range(len(p))]
    return sum(terms)


def imports(x, a):
    import math

    return a * math.pi * x


USES = {
    "arithmetic": (line, Use.PLAIN),
    "constants of numpy": (lambda x, a: a * x / np.pi, Use.PLAIN),
    "an array": (lambda x, a: a * X, Use.PLAIN),
    "a method": (Plain().arithmetic, Use.PLAIN),
    "builtins": (loops, Use.PLAIN),
    "partial": (functools.partial(line, b=1.0), Use.PLAIN),
    "jax.numpy": (decay, Use.JAX),
    "jit": (jax.jit(decay), Use.JAX),
    "jit of arithmetic": (jax.jit(line), Use.JAX),
    "vmap": (jax.vmap(line, in_axes=(0, None, None)), Use.JAX),
    "jax.nn": (lambda x, a: jax.nn.sigmoid(a * x), Use.JAX),
    "numpy": (numpy_decay, Use.HOST),
    "numpy within": (lambda x, a: numpy_decay(x, a, a, a), Use.HOST),
    "numpy in a method": (Plain().numpy, Use.HOST),
    "a ufunc": (np.power, Use.HOST),
    "random numbers": (lambda x, a: a * x + np.random.rand(), Use.HOST),  # noqa: NPY002
    "math": (lambda x, a: __import__("math").exp(a) * x, Use.HOST),
    "print": (lambda x, a: print(a) or a * x, Use.HOST),
    "an error caught": (raises, Use.HOST),
    "x in place": (changes, Use.HOST),
    "x in place, of a closure": (lambda x, a: x.sort() or [a * x[i] for i in range(3)], Use.HOST),
    "an import": (imports, Use.HOST),
    "isinstance": (lambda x, a: a * x if isinstance(a, float) else x, Use.HOST),
    "a jitted function that prints": (jax.jit(lambda x, a: print(a) or a * x), Use.HOST),
    "a class": (Plain, Use.HOST),
    "no function": (3, Use.HOST),
    "a generator": (lambda x, a: (yield a), Use.HOST),
    "an unknown name": (lambda x, a: a * nowhere, Use.HOST),  # noqa: F821
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_what_a_function_is_made_of_is_seen_without_calling_it(name):
    f, use = USES[name]
    assert _traceable.use(f) is use


def test_a_function_of_numpy_is_never_called_by_jaxfit(handed):
    calls = []

    def model(x, a):
        calls.append(type(a))
        return np.sin(a * x)

    jf.curve_fit(model, X, np.sin(1.1 * X))
    assert set(calls) == {np.float64}
    assert len(handed) == 1


GOOD = {"f": line, "xdata": X, "ydata": Y}
MALFORMED = {
    "f is no function": {"f": 3},
    "f is None": {"f": None},
    "f takes no parameters": {"f": lambda x: x},
    "f does not say": {"f": lambda *args: args[0]},
    "f takes fewer": {"p0": [1, 2, 3]},
    "f returns a word": {"f": lambda x, a: "a"},
    "f returns None": {"f": lambda x, a: None},
    "f returns too few": {"f": lambda x, a: a * x[:5]},
    "f returns a matrix": {"f": lambda x, a: a * x[:, None] * x},
    "f fails": {"f": lambda x, a: a * x.nothing},
    "f divides by zero": {"f": lambda x, a: a * x + 1 / 0},
    "empty data": {"xdata": [], "ydata": []},
    "empty y": {"ydata": []},
    "a matrix for y": {"ydata": Y[:, None]},
    "a word for y": {"ydata": "abc"},
    "None for y": {"ydata": None},
    "NaN in y": {"ydata": np.where(X > 3, np.nan, Y)},
    "infinity in x": {"xdata": np.where(X > 3, np.inf, X)},
    "words for x": {"xdata": ["a"] * 30},
    "ragged x": {"xdata": [[1], [1, 2]]},
    "x of another length": {"xdata": X[:7]},
    "a word for p0": {"p0": "ab"},
    "no p0": {"p0": []},
    "NaN in p0": {"p0": [np.nan, 1], "method": "trf"},
    "a matrix for p0": {"p0": [[1, 2]], "method": "trf"},
    "more params than data": {"xdata": X[:1], "ydata": [1.0, 2.0], "f": lambda x, a, b, c: a + b + c * x},
    "sigma of another length": {"sigma": [1, 2]},
    "sigma of another length and NaN": {"sigma": [1, 2], "ydata": np.where(X > 3, np.nan, Y), "nan_policy": "omit"},
    "sigma of another length and no NaN": {"sigma": [1, 2], "nan_policy": "omit"},
    "sigma of three axes": {"sigma": np.ones((30, 30, 1))},
    "a covariance that is none": {"sigma": -np.eye(30)},
    "a word for sigma": {"sigma": "a"},
    "an unknown method": {"method": "newton"},
    "a number for method": {"method": 3},
    "lm with bounds": {"method": "lm", "bounds": (0, 9)},
    "p0 outside": {"p0": [20, 20], "bounds": (0, 9)},
    "bounds the wrong way": {"bounds": (9, 0)},
    "bounds that are equal": {"bounds": (1, 1)},
    "three bounds": {"bounds": (0, 1, 2)},
    "bounds of another length": {"bounds": ([0, 0, 0], [1, 1, 1])},
    "None for bounds": {"bounds": None},
    "a word for bounds": {"bounds": "ab"},
    "nan_policy": {"nan_policy": "propagate"},
    "nan_policy unknown": {"nan_policy": "hi"},
    "nan_policy raises": {"nan_policy": "raise", "ydata": np.where(X > 3, np.nan, Y)},
    "args": {"args": (1,)},
    "an unknown option": {"nothing": 1},
    "an option of another method": {"method": "lm", "loss": "linear"},
    "another option of another method": {"method": "trf", "epsfcn": 1e-3},
    "both limits": {"method": "trf", "maxfev": 5, "max_nfev": 100},
    "a negative limit": {"method": "trf", "max_nfev": -1},
    "a word for a tolerance": {"ftol": "a"},
    "a negative tolerance": {"ftol": -1.0},
    "an array for a loss": {"method": "trf", "loss": np.ones(3)},
    "an array for verbose": {"method": "trf", "verbose": np.ones(3)},
    "an unknown loss": {"method": "trf", "loss": "nothing"},
    "an unknown jac": {"method": "trf", "jac": "nothing"},
    "jac by name for lm": {"jac": "2-point"},
    "jac of the wrong shape": {"jac": lambda x, a, b: np.ones((3, 3))},
}  # fmt: skip


def outcome(curve_fit, call):
    """The type of what is raised, or the params."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return curve_fit(**call)[0]
        except Exception as error:
            return type(error)


def same(call):
    ours, theirs = outcome(jf.curve_fit, call), outcome(scipys, call)
    assert isinstance(ours, type) == isinstance(theirs, type), (ours, theirs)
    if isinstance(ours, type):
        assert ours is theirs
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MALFORMED)
def test_errors_are_scipys(name):
    same(GOOD | MALFORMED[name])


JUNK = [None, 0, 1.5, -1, True, "a", "lm", "omit", [], [1.0], [1.0, 2.0], (0, 5), (5, 0), {}, np.nan, np.inf, 1j, b"x"]
JUNK += [np.ones(30), np.full(30, np.nan), np.eye(30), np.ones((2, 30)), X > 1]
NAMES = ("ydata", "p0", "sigma", "absolute_sigma", "check_finite", "bounds", "method", "jac", "nan_policy")
NAMES += ("ftol", "xtol", "gtol", "maxfev", "max_nfev", "loss", "verbose")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(JUNK), min_size=1, max_size=2))
@example({"nan_policy": "omit", "check_finite": True})
def test_any_junk_is_treated_as_scipy_treats_it(junk):
    assume(
        not any(any(junk.get(name) is never for never in (np.nan, np.inf)) for name in ("maxfev", "max_nfev"))
    )  # SciPy never ends
    same(GOOD | junk)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from([(), (1,), (2, 1)]), st.sampled_from([(), (1,), "m", "mm"]), st.booleans())
def test_shapes(leading, shape, trf):
    rng, points = np.random.default_rng(3), 5
    x = rng.normal(size=(*leading, points))
    y = rng.normal(size=points)
    sigma = np.eye(points) * 2 if shape == "mm" else rng.uniform(1, 2, (points,) if shape == "m" else shape)
    call = {"xdata": x, "ydata": y, "sigma": sigma, "method": "trf" if trf else None}
    f = lambda x, a, b: a * x.reshape(-1, points)[0] + b
    agree(jf.curve_fit(f, **call), scipys(f, **call))


def test_nan_are_left_out_under_any_sigma(handed, rng):
    y, x = np.where(X > 3.5, np.nan, Y), np.stack([np.where(X < 0.2, np.nan, X), X])
    for sigma in (None, 2.0, rng.uniform(1, 2, 30), covariance(rng)):
        call = {"xdata": x, "ydata": y, "sigma": sigma, "nan_policy": "omit"}
        ours = jf.curve_fit(lambda x, a, b, c: decay(x[0], a, b, c), **call)
        agree(ours, scipys(lambda x, a, b, c: numpy_decay(x[0], a, b, c), **call, **TIGHT))
    assert not handed
