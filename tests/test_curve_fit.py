"""`curve_fit` against SciPy: its own tests, its answers to the same problems, its errors for the same malformed input."""

import pytest
import scipy.optimize
from scipy.optimize.tests import test_minpack as scipys_tests

import jaxfit as jf

# SciPy's tests in which some function is plain arithmetic: jaxfit must have fitted it itself.
OWN = {
    "test_one_argument", "test_two_argument", "test_func_is_classmethod", "test_pcov", "test_array_like",
    "test_indeterminate_covariance", "test_nan_policy_1d", "test_nan_policy_2d", "test_nan_policy_2_3d",
    "test_maxfev_and_bounds", "test_curvefit_scalar_sigma", "test_dtypes", "test_broadcast_y",
}  # fmt: skip


@pytest.fixture
def handed(monkeypatch):
    """The calls that go to SciPy."""
    calls = []
    scipys = scipy.optimize.curve_fit

    def recorded(*args, **kwargs):
        calls.append((args, kwargs))
        return scipys(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "curve_fit", recorded)
    return calls


class TestSciPysOwn(scipys_tests.TestCurveFit):
    """All 46 tests that SciPy has for it."""

    @pytest.fixture(autouse=True)
    def replaced(self, monkeypatch, handed, request):
        calls = []

        def counted(*args, **kwargs):
            calls.append(len(handed))
            return jf.curve_fit(*args, **kwargs)

        monkeypatch.setattr(scipys_tests, "curve_fit", counted)
        yield
        name = request.node.originalname
        print("OWN", name, len(calls), len(handed))
        assert (len(handed) < len(calls)) == (name in OWN), (len(calls), len(handed))
