"""`curve_fit`: SciPy's signature and SciPy's answers, with derivatives and compiled fits where JAX can have them.

A function that JAX can trace is fitted by `LevenbergMarquardt`. Any other, and any call with options that only SciPy's
algorithms have, goes to `scipy.optimize.curve_fit` unchanged.
"""

import collections
import functools
import math
import threading
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from jaxfit import _compile, _data, _loop, _scipy, _small, _traceable, losses
from jaxfit._fingerprint import fingerprint
from jaxfit._problem import Batch, Problem
from jaxfit._scipy import Request, Unusual
from jaxfit._status import FitWarning
from jaxfit._traceable import Use
from jaxfit.optimizers import LevenbergMarquardt

_DECISIONS_KEPT = 1024
_WELL_CONDITIONED = 1e10  # of the normal equations; beyond that a covariance is computed from the Jacobian itself
_MOST_STEPS = 2_000
_SEED = np.zeros(2, np.uint32)  # nothing is random

_decisions: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
_lock = threading.Lock()


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = _scipy.UNBOUNDED,
    method: str | None = None,
    jac: Callable | str | None = None,
    *,
    full_output: bool = False,
    nan_policy: str | None = None,
    **kwargs: Any,
) -> tuple:
    """Fits a function to data by nonlinear least squares: `scipy.optimize.curve_fit`, in float64 and compiled.

    A drop-in for SciPy's function: the same arguments, results, warnings and exceptions. What runs depends on f:

    - A function of `jax.numpy` or of plain arithmetic is fitted by `jaxfit.optimizers.LevenbergMarquardt`, with exact
      derivatives and in float64 whatever JAX is set to, under each of SciPy's names for a method. A second call with
      data of the same shapes compiles nothing.
    - A function that JAX cannot trace (NumPy's or SciPy's functions, `if` on values), or that does anything beside
      computing (it counts its calls, prints, draws random numbers), is not traced but handed to SciPy. So is a call
      with a callable `jac`, a robust `loss` or another option of SciPy's own algorithms, or with malformed arguments;
      and a fit that does not converge, for SciPy to have the last word.

    Args:
        f: `f(x, *params) -> prediction` [m].
        xdata: What f is given: an array of any shape, or any object. Lists and arrays become float64.
        ydata: The data, [m].
        p0: The starting values, [p]; None for ones, or for the middle of the bounds, as many as f has arguments.
        sigma: Standard deviations of ydata, a number or [m], or its covariance, [m, m].
        absolute_sigma: Whether sigma is known in absolute terms; if not, the residuals scale it.
        check_finite: Whether NaN or infinity in the data is an error; None for yes, unless `nan_policy` is given.
        bounds: A pair of lower and upper bounds, numbers or [p], or a `scipy.optimize.Bounds`.
        method: "lm", "trf" or "dogbox"; None for "lm" without bounds and "trf" with them.
        jac: As in SciPy. The names of schemes of differences change nothing for a function that JAX differentiates.
        full_output: Whether to return what the fit knows besides.
        nan_policy: "raise", "omit" or None.
        **kwargs: Options of `scipy.optimize.leastsq` for "lm", of `least_squares` for others. `ftol` and `xtol` are the
            optimizer's `tolerance` (1e-14 where not given, tighter than SciPy's) and `step_tolerance` (1e-12);
            `maxfev` and `max_nfev` limit the steps. An own fit ends by these; `gtol` and `epsfcn` have no meaning in it.

    Returns:
        popt, NumPy float64 [p]; pcov, [p, p]; with `full_output` also a dict (`nfev`, `fvec` and for "lm" `fjac`,
        `ipvt`, `qtf`, which satisfy SciPy's relations), a sentence, and a number from 1 to 4.

    Raises:
        ValueError: The data are empty, or not finite; shapes or options do not go together.
        TypeError: There are more parameters than data for "lm"; an option is not known.
        RuntimeError: The fit does not converge.

    Warns:
        OptimizeWarning: SciPy's, where the covariance cannot be estimated and is infinite. It also names the parameters
            that the data do not determine.
        FitWarning: The data do not determine some parameters and the method is "trf" or "dogbox", for which SciPy
            returns the pseudo-inverse, a finite covariance, without a word.

    Source: `scipy.optimize.curve_fit`, SciPy 1.17, whose own tests it passes.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 4.0, 50)
        >>> popt, pcov = jf.curve_fit(lambda x, a, b: a * jnp.exp(-b * x), x, 2.5 * np.exp(-1.3 * x))
        >>> popt.round(6).tolist()
        [2.5, 1.3]
    """
    try:
        known = _meaning(f)
        names = _scipy.parameter_names(f)
        request = _scipy.read(
            names, xdata, ydata, p0, sigma, check_finite, bounds, method, jac, nan_policy, kwargs
        )
        found = _run(f, known, request)
    except Unusual:
        import scipy.optimize

        with jax.enable_x64(True):  # a function of JAX in float32 would leave SciPy's differences nothing to see
            return scipy.optimize.curve_fit(
                f, xdata, ydata, p0, sigma, absolute_sigma, check_finite, bounds, method, jac,
                full_output=full_output, nan_policy=nan_policy, **kwargs,
            )  # fmt: skip
    covariance = _covariance(found, absolute_sigma, names)
    return (found.params, covariance, *_details(found)) if full_output else (found.params, covariance)


class _Found(NamedTuple):
    """An own fit that has converged.

    Attributes:
        params: Where it ended, [p].
        chi_squared: The sum of the squared residuals in units of sigma.
        inverse: The inverse of J'J of these residuals, [p, p]; NaN where it is too close to singular.
        steps: How often the function was evaluated.
        request: What was asked for.
        look: The function `params -> (residuals [m], J [m, p])`.
    """

    params: np.ndarray
    chi_squared: float
    inverse: np.ndarray
    steps: int
    request: Request
    look: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _meaning(f: Callable) -> tuple[Hashable, Use]:
    """What a function computes, as a key, and what it is made of; raises Unusual where it should not be traced."""
    meaning = fingerprint(f)
    made_of = _kept(meaning, lambda: _traceable.use(f))
    if made_of is Use.HOST:
        raise Unusual
    return meaning, made_of


def _kept(key: Hashable, decide: Callable[[], Any]) -> Any:
    """A decision, made once for each key."""
    with _lock:
        if key in _decisions:
            _decisions.move_to_end(key)
            return _decisions[key]
    decision = decide()
    with _lock:
        _decisions[key] = decision
        while len(_decisions) > _DECISIONS_KEPT:
            _decisions.popitem(last=False)
    return decision


def _run(f: Callable, known: tuple[Hashable, Use], request: Request) -> _Found:
    """Fits; raises Unusual where SciPy has to."""
    meaning, made_of = known
    size = request.start.size
    leaves, tree = jax.tree.flatten(request.x)
    key = (meaning, size, request.y.shape, tree, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]))
    points = _kept(("points", key), lambda: _points(f, made_of, request))
    if points < size:
        raise Unusual
    if request.y.shape != (points,):
        sigma = None if request.sigma is None else np.broadcast_to(request.sigma, (points,)).copy()
        request = request._replace(y=np.broadcast_to(request.y, (points,)).copy(), sigma=sigma)
    steps = request.steps or _MOST_STEPS

    def predict(params: jax.Array, x: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(f(x, *[params[index] for index in range(size)])), (points,))

    def whitened(params: jax.Array, inputs: tuple[Any, Any, Any]) -> jax.Array:
        x, y, factor = inputs
        return jax.scipy.linalg.solve_triangular(factor, predict(params, x) - y, lower=True)

    def fit(numbers: list[Any], start: Any, bounds: Any, batch: Batch, span: _loop.Span) -> jax.Array:
        optimizer: LevenbergMarquardt = structure.unflatten(numbers)
        problem = Problem(model, losses.mse, bounds=bounds)
        state = optimizer.init(problem, start)
        end = _loop.run(
            optimizer, problem, _data.Whole(batch), state, random.wrap_key_data(_SEED), span,
            capacity=capacity, careful=True,
        )  # fmt: skip
        terms = optimizer.terms(end.state)
        told = jnp.stack([terms.loss, *(part.astype(terms.loss.dtype) for part in (end.step, end.converged))])
        inverse = _inverse(terms.curvature * (points / 2))  # the loss is the mean, and J'HJ has H = 2
        return jnp.concatenate([told, end.state.params, inverse.ravel()])  # one array is one copy to the host

    def residuals(params: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        def weighted(params: jax.Array) -> jax.Array:
            return (model(params, batch.x) - batch.y) / (1 if batch.sigma is None else batch.sigma)

        return weighted(params), jax.jacfwd(weighted)(params)

    def look(params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            found, _ = _compile.call(residuals, ("curve_fit: residuals", key), params, batch, small=True)
            return np.array(found[0]), np.array(found[1])

    capacity = 1 << steps.bit_length()
    numbers, structure = _optimizer(request.tolerance, request.step_tolerance)
    if request.whitening is None:
        model, batch = predict, Batch(request.x, request.y, request.sigma)
    else:
        model, batch = whitened, Batch((request.x, request.y, request.whitening), np.zeros(points))
    with jax.enable_x64(True):
        span = _loop.Span(np.int32(0), np.int32(steps), np.int32(steps + 1))
        arguments = numbers, request.start, request.bounds, batch, span
        found = np.asarray(_compile.call(fit, ("curve_fit", key, capacity, structure), *arguments, small=True)[0])
    if not found[2]:
        raise Unusual  # not converged: SciPy may know better, and says it in its own words if not
    params, inverse = found[3 : 3 + size].copy(), found[3 + size :].reshape(size, size)
    return _Found(params, float(found[0]) * points, inverse, int(found[1]), request, look)


@functools.lru_cache(maxsize=64)
def _optimizer(tolerance: float | None, step_tolerance: float | None) -> tuple[list[Any], Any]:
    """Who minimises, as leaves and structure."""
    default = LevenbergMarquardt()
    tolerance = default.tolerance if tolerance is None else float(tolerance)
    step_tolerance = default.step_tolerance if step_tolerance is None else float(step_tolerance)
    return jax.tree.flatten(LevenbergMarquardt(tolerance, step_tolerance))


def _points(f: Callable, made_of: Use, request: Request) -> int:
    """How many residuals there are; 0 where JAX cannot trace the function, or may mean something else than NumPy."""
    try:
        with jax.enable_x64(True):
            traced: Any = jax.eval_shape(f, request.x, *request.start)
        shape = np.broadcast_shapes(traced.shape, request.y.shape)
        if traced.dtype != float or len(shape) != 1:
            return 0
        if made_of is Use.PLAIN:
            with np.errstate(all="ignore"):
                plain = f(request.x, *request.start)  # an index out of range is an error in NumPy alone
            if np.shape(plain) != traced.shape or np.asarray(plain).dtype != float:
                return 0
    except Exception:
        return 0
    return shape[0]


def _covariance(found: _Found, absolute: bool, names: tuple[str, ...]) -> np.ndarray:
    """The covariance of the params, [p, p], by SciPy's rules; warns where it is not determined."""
    size = found.params.size
    freedom = found.request.y.size - size
    covariance = found.inverse
    if math.isnan(covariance[0, 0]):
        covariance, lost = _pseudo_inverse(found.look(found.params)[1])
        if lost.any():
            named = _undetermined(found, lost, names)
            if found.request.method == "lm":
                _warn(named)
                return np.full((size, size), np.inf)
            warnings.warn(f"{named} Their covariance is that of the pseudo-inverse.", FitWarning, stacklevel=3)
    if absolute:
        return covariance.copy()  # what comes from JAX is read-only
    if freedom == 0:
        _warn("There are as many parameters as data.")
        return np.full((size, size), np.inf)
    return covariance * (found.chi_squared / freedom)


def _warn(reason: str) -> None:
    from scipy.optimize import OptimizeWarning

    message = f"Covariance of the parameters could not be estimated. {reason}"
    warnings.warn(message, OptimizeWarning, stacklevel=4)


def _inverse(normal: jax.Array) -> jax.Array:
    """The inverse of J'J, [p, p]; NaN where rounding in it would show."""
    unit = 1 / jnp.sqrt(jnp.diagonal(normal))
    scaled = normal * unit[:, None] * unit
    inverse = jax.vmap(_small.positive_solver(scaled))(jnp.eye(len(unit), dtype=unit.dtype))
    # The trace bounds the inverse of the smallest eigenvalue, and the largest is at most p.
    good = jnp.trace(inverse) < _WELL_CONDITIONED
    return jnp.where(good, (inverse + inverse.T) / 2 * unit[:, None] * unit, jnp.nan)


def _pseudo_inverse(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of J'J by the singular values of J, and which params it says nothing of, a bool [p]."""
    length = np.linalg.norm(jacobian, axis=0)
    unit = 1 / np.where(length > 0, length, 1)
    _, values, rows = np.linalg.svd(jacobian * unit, full_matrices=False)
    rounding = np.finfo(float).eps * max(jacobian.shape)
    small = values <= rounding * values[0]
    lost = (length == 0) | (np.abs(rows[small]) > 1e-4).any(axis=0)
    if lost.any():  # for SciPy's pseudo-inverse, in the units of the params
        unit = np.ones(len(length))
        _, values, rows = np.linalg.svd(jacobian, full_matrices=False)
        small = values <= rounding * values[0]
    root = unit[:, None] * rows[~small].T / values[~small]
    return root @ root.T, lost


def _undetermined(found: _Found, lost: np.ndarray, names: tuple[str, ...]) -> str:
    """A sentence about the params that the data do not determine."""
    names = tuple(names) if len(names) >= lost.size else tuple(f"p[{index}]" for index in range(lost.size))
    _, jacobian = found.look(found.request.start)
    still = lost & ~jacobian.any(axis=0)
    sentence = f"The data do not determine {_listed(names, lost)}."
    if still.any():
        sentence += f" At the starting values nothing depends on {_listed(names, still)}: try another p0."
    return sentence


def _listed(names: tuple[str, ...], chosen: np.ndarray) -> str:
    return ", ".join(name for name, named in zip(names, chosen, strict=False) if named)


def _details(found: _Found) -> tuple[dict[str, Any], str, int]:
    """SciPy's further output: a dict, a sentence and a number."""
    residuals, jacobian = found.look(found.params)
    details: dict[str, Any] = {"nfev": found.steps, "fvec": residuals}
    sentence = f"Converged: after {found.steps} evaluations there was nothing left to improve."
    if found.request.method != "lm":
        return details, sentence, 2
    import scipy.linalg

    orthogonal, triangular, order = scipy.linalg.qr(jacobian, mode="economic", pivoting=True)
    factor = np.zeros(jacobian.T.shape)
    factor[:, : len(order)] = triangular.T
    details |= {"fjac": factor, "ipvt": order, "qtf": orthogonal.T @ residuals}
    return details, sentence, 1
