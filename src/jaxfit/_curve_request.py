"""What the arguments of `scipy.optimize.curve_fit` ask for, read as SciPy reads them.

Whatever is unusual or malformed is not read here: SciPy itself is then called, and answers or complains in its own way.
"""

import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

METHODS = ("lm", "trf", "dogbox")
UNBOUNDED = (-np.inf, np.inf)
_SCHEMES = (None, "2-point", "3-point", "cs")
_EPS = float(np.finfo(float).eps)
_COARSE = 1e-2  # who gives a coarser tolerance wants a fit that ends early
_COMMON = {"ftol", "xtol", "gtol", "maxfev"}
# Options whose meaning an own fit keeps; what steers MINPACK's or the trust region's path goes to SciPy.
_OPTIONS = {"lm": _COMMON | {"epsfcn"}, "trf": _COMMON | {"max_nfev", "loss", "verbose"}}
_OPTIONS["dogbox"] = _OPTIONS["trf"]


class Request(NamedTuple):
    """A call that can be answered by an own fit.

    Attributes:
        x: What the function is given: float64 arrays.
        y: The data, float64 [m]; a single number stands for all.
        start: The starting values, float64 [p].
        sigma: Standard deviations, float64 [m]; None for none.
        whitening: The lower Cholesky factor of the data's covariance, float64 [m, m]; None for none.
        bounds: The lower and the upper bounds, float64 [p] each; None where there are none.
        method: One of SciPy's names.
        steps: The most steps; None for the default.
    """

    x: Any
    y: np.ndarray
    start: np.ndarray
    sigma: np.ndarray | None
    whitening: np.ndarray | None
    bounds: tuple[np.ndarray, np.ndarray] | None
    method: str
    steps: int | None


class UnusualError(Exception):
    """Something that SciPy has to answer."""


def parameter_names(f: Callable) -> tuple[str, ...]:
    """The names of the arguments after x that a function takes by position; none where it does not say."""
    function, bound = f, 0
    if isinstance(f, types.MethodType):
        function, bound = f.__func__, 1
    if type(function) is types.FunctionType and not function.__dict__:
        code = function.__code__
        return code.co_varnames[bound + 1 : code.co_argcount]
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))[1:]


def read(
    names: tuple[str, ...],
    xdata: Any,
    ydata: Any,
    p0: Any,
    sigma: Any,
    check_finite: Any,
    bounds: Any,
    method: Any,
    jac: Any,
    nan_policy: Any,
    options: dict[str, Any],
) -> Request:
    """Reads a call.

    Args:
        names: Those of the function's parameters, which count where p0 is None.
        xdata: As all that follow, as given to `curve_fit`.
        ydata: The data.
        p0: The starting values.
        sigma: Standard deviations or a covariance.
        check_finite: Whether data that are not finite are an error.
        bounds: A pair, or SciPy's `Bounds`.
        method: SciPy's name of an algorithm.
        jac: SciPy's name of a scheme of differences; a function is SciPy's to call.
        nan_policy: What to do with NaN.
        options: The other keywords.

    Raises:
        UnusualError: SciPy has to answer.
    """
    try:
        y, x = _numbers(ydata), _x(xdata)
        start = None if p0 is None else np.atleast_1d(_numbers(p0))
        size = len(names) if start is None else start.size
        limits = None if bounds is UNBOUNDED else _bounds(bounds, size)
        start = _start(size, limits) if start is None else start
        if check_finite is not None and not isinstance(check_finite, (int, np.bool_)):
            raise UnusualError
        if nan_policy == "omit" and not check_finite:
            x, y, sigma = _without_nan(x, y, sigma)
        sigma, whitening = _deviations(sigma, y)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UnusualError from error
    if method is None:
        method = "lm" if limits is None else "trf"
    usual = (
        (start.ndim == 1 and size > 0 and y.ndim <= 1 and (size <= y.size or y.size == 1))
        and (isinstance(method, str) and method in METHODS and not (method == "lm" and limits is not None))
        and (jac is None or (isinstance(jac, str) and jac in _SCHEMES and method != "lm"))
        and (nan_policy is None or (isinstance(nan_policy, str) and nan_policy in ("raise", "omit")))
        and all(np.isfinite(part).all() for part in (start, y, *jax.tree.leaves(x)))
        and (limits is None or bool(((limits[0] < limits[1]) & (limits[0] <= start) & (start <= limits[1])).all()))
    )
    if not usual:
        raise UnusualError
    return Request(x, y, start, sigma, whitening, limits, method, _steps(method, options))


def _numbers(given: Any) -> np.ndarray:
    """Real numbers as a float64 array."""
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise UnusualError
    return array.astype(float, copy=False)


def _x(given: Any) -> Any:
    """What the function is given. SciPy makes arrays of lists, and leaves any other object alone."""
    if isinstance(given, (list, tuple, np.ndarray)):
        return _numbers(given)
    if isinstance(given, jax.Array) and given.dtype.kind in "fi":
        return _numbers(given) if given.dtype.kind == "f" else np.asarray(given)
    plain = type(given) is dict and all(type(part) is np.ndarray and part.dtype.kind in "fi" for part in given.values())
    if given is None or (plain and all(isinstance(key, str) for key in given)):
        return given
    raise UnusualError


def _bounds(given: Any, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of each parameter; None where none is finite."""
    lower, upper = (given.lb, given.ub) if type(given).__name__ == "Bounds" else given
    found = []
    for bound in map(_numbers, (lower, upper)):
        if bound.shape not in ((), (size,)) or np.isnan(bound).any():
            raise UnusualError
        found.append(np.broadcast_to(bound, (size,)))
    lower, upper = found
    return None if np.isneginf(lower).all() and np.isposinf(upper).all() else (lower, upper)


def _start(size: int, limits: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Starting values where none are given: 1, or between the bounds."""
    if limits is None:
        return np.ones(size)
    lower, upper = limits
    below, above = np.isfinite(lower), np.isfinite(upper)
    inside = np.where(below, lower, 0) + np.where(above, upper, 0)  # both: twice the middle
    return np.select([below & above, below, above], [inside / 2, inside + 1, inside - 1], 1.0)


def _without_nan(x: Any, y: np.ndarray, sigma: Any) -> tuple[Any, np.ndarray, Any]:
    """The data without the points of which something is NaN; the last axis of x counts the points."""
    if not isinstance(x, np.ndarray) or x.ndim == 0 or y.ndim != 1 or x.shape[-1] != y.size:
        raise UnusualError
    if not (np.isnan(x).any() or np.isnan(y).any()):
        return x, y, sigma
    kept = ~(np.isnan(x).any(axis=tuple(range(x.ndim - 1))) | np.isnan(y))
    if sigma is not None:
        sigma = np.asarray(sigma)
        sigma = sigma[np.ix_(*[kept] * sigma.ndim)] if sigma.ndim else sigma
    return x[..., kept], y[kept], sigma


def _deviations(sigma: Any, y: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Standard deviations, or the Cholesky factor of a covariance."""
    if sigma is None:
        return None, None
    sigma = _numbers(sigma)
    if not np.isfinite(sigma).all():
        raise UnusualError
    if sigma.ndim == 2 and sigma.shape == (y.size, y.size) and y.size > 1:
        return None, np.linalg.cholesky(sigma)
    if sigma.shape not in ((), (1,), (y.size,)) or not sigma.all():
        raise UnusualError
    return np.broadcast_to(sigma, y.shape).astype(float), None  # one number, or the same for each point: one program


def _steps(method: str, given: dict[str, Any]) -> int | None:
    """The limit of steps, from options that are all checked."""
    numbers = {name: value for name, value in given.items() if name not in ("loss", "verbose")}
    for name, value in numbers.items():
        whole = name in ("maxfev", "max_nfev")
        kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
        least = _EPS if name in ("ftol", "xtol") else 0
        most = np.inf if whole else _COARSE
        free = value is None and (name in ("epsfcn", "max_nfev") or (name == "gtol" and method != "lm"))
        if not free and (isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < most):
            raise UnusualError
    robust = not isinstance(given.get("loss", ""), str) or given.get("loss", "linear") != "linear"
    if (
        robust
        or not given.keys() <= _OPTIONS[method]
        or type(given.get("verbose", 0)) is not int
        or given.get("verbose", 0)
    ):
        raise UnusualError
    most = numbers.get("max_nfev", numbers.get("maxfev"))
    if {"maxfev", "max_nfev"} <= given.keys() or (most == 0 and method != "lm") or (most or 0) >= 2**31 - 2:
        raise UnusualError
    return int(most) if most else None
