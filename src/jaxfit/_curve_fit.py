"""`curve_fit`: SciPy's signature and SciPy's answers, with derivatives and compiled fits where JAX can have them.

A function that JAX can trace is fitted by `LevenbergMarquardt`. Any other, and any call with options that only SciPy's
algorithms have, goes to `scipy.optimize.curve_fit` unchanged.
"""

import contextlib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from jaxfit import _compile, _curve_answer, _curve_request, _data, _loop, _program, _traceable, losses
from jaxfit._curve_answer import Found
from jaxfit._curve_request import Request, UnusualError
from jaxfit._fingerprint import fingerprint
from jaxfit._inference import regular_inverse
from jaxfit._problem import Batch, Problem
from jaxfit._traceable import Use
from jaxfit.optimizers import LevenbergMarquardt
from jaxfit.optimizers._levenberg_marquardt import ends_badly

_FEW = 10_000  # points that are handled at once without a thought
_PLAIN = LevenbergMarquardt()


def curve_fit(
    f: Callable,
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = _curve_request.UNBOUNDED,
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
        **kwargs: Options of `scipy.optimize.leastsq` for "lm", of `least_squares` for others. `maxfev` and `max_nfev`
            limit the steps, 2,000 where not given. `ftol`, `xtol` and `gtol` below 0.01 are met, but end no own fit
            early: it goes on until nothing is left to improve (`LevenbergMarquardt` says when), tighter than SciPy.

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
    found = None
    with contextlib.suppress(UnusualError):
        known, names = _meaning(f), _curve_request.parameter_names(f)
        request = _curve_request.read(
            names, xdata, ydata, p0, sigma, check_finite, bounds, method, jac, nan_policy, kwargs
        )
        found = _run(f, known, request, names)
    if found is not None:
        covariance = _curve_answer.covariance(found, absolute_sigma)
        return (found.params, covariance, *_curve_answer.details(found)) if full_output else (found.params, covariance)
    import scipy.optimize

    with jax.enable_x64(True):  # a function of JAX in float32 would leave SciPy's differences nothing to see
        return scipy.optimize.curve_fit(
            f, xdata, ydata, p0, sigma, absolute_sigma, check_finite, bounds, method, jac,
            full_output=full_output, nan_policy=nan_policy, **kwargs,
        )  # fmt: skip


def _meaning(f: Callable) -> tuple[Hashable, Use]:
    """What a function computes, as a key, and what it is made of; raises UnusualError where it should not be traced."""
    meaning = fingerprint(f)
    # A function whose key never comes again would be compiled at every call.
    made_of = _compile.kept(("use", meaning), lambda: _traceable.use(f) if fingerprint(f) == meaning else Use.HOST)
    if made_of is Use.HOST:
        raise UnusualError
    return meaning, made_of


def _run(f: Callable, known: tuple[Hashable, Use], request: Request, names: tuple[str, ...]) -> Found:
    """Fits; raises UnusualError where SciPy has to."""
    meaning, made_of = known
    size = request.start.size
    leaves, tree = jax.tree.flatten(request.x)
    key = (meaning, size, request.y.shape, tree, tuple([(leaf.shape, leaf.dtype) for leaf in leaves]))
    points = _compile.kept(("points", key), lambda: _points(f, made_of, request))
    if points < size:
        raise UnusualError
    if request.y.shape != (points,):
        sigma = None if request.sigma is None else np.broadcast_to(request.sigma, (points,)).copy()
        request = request._replace(y=np.broadcast_to(request.y, (points,)).copy(), sigma=sigma)

    def at(x: Any, params: jax.Array, rows: int) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(f(x, *[params[index] for index in range(size)])), (rows,))

    def predict(params: jax.Array, x: Any) -> jax.Array:
        return at(x, params, points)

    def by_rows(params: jax.Array, x: Any) -> jax.Array:
        return at(jnp.moveaxis(x, 0, -1), params, len(x))

    def whitened(params: jax.Array, inputs: tuple[Any, Any, Any]) -> jax.Array:
        x, y, factor = inputs
        return jax.scipy.linalg.solve_triangular(factor, predict(params, x) - y, lower=True)

    model, batch, block = predict, Batch(request.x, request.y, request.sigma), None
    if request.whitening is not None:
        model, batch = whitened, Batch((request.x, request.y, request.whitening), np.zeros(points))
    elif points > _FEW and isinstance(request.x, np.ndarray) and request.x.shape[-1:] == (points,):
        rows = Batch(np.moveaxis(request.x, -1, 0), request.y, request.sigma)
        with jax.enable_x64(True):
            block = _program.blocks(Problem(by_rows, losses.mse), request.start, rows, ("curve_fit", key))
        if block is not None:
            model, batch = by_rows, rows
    problem = Problem(model, losses.mse, block=block)

    options = _compile.HASTY if points <= _FEW else _compile.LEAN if block else None

    def attempt(optimizer: LevenbergMarquardt, steps: int) -> _End:
        # The numbers of the optimizer and of its steps hardly ever change: as constants they need not be handed over.
        def fit(start: Any, bounds: Any, batch: Batch) -> jax.Array:
            return _fitted(optimizer, problem._replace(bounds=bounds), start, batch, steps)

        which = ("curve_fit", key, block, optimizer.acceleration, steps)
        with jax.enable_x64(True):
            told, _ = _compile.call(fit, which, request.start, request.bounds, batch, options=options)
            return _End.unpacked(np.asarray(told), size)

    def residuals(params: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        def weighted(params: jax.Array) -> jax.Array:
            return (model(params, batch.x) - batch.y) / (1 if batch.sigma is None else batch.sigma)

        return weighted(params), jax.jacfwd(weighted)(params)

    def look(params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            found, _ = _compile.call(residuals, ("curve_fit: residuals", key), params, batch, options=_compile.HASTY)
            return np.array(found[0]), np.array(found[1])

    end = _better(attempt, request)
    inverse = regular_inverse(end.curvature * (points / 2))  # the loss is the mean, and J'HJ has H = 2
    return Found(end.params.copy(), end.loss * points, inverse, end.evaluations, request, names, look)


class _End(NamedTuple):
    """The end of a fit, of NumPy arrays; the attributes are those of `Damped` and `GaussNewton`."""

    loss: float
    converged: bool
    evaluations: int
    params: np.ndarray
    gradient: np.ndarray
    scale: np.ndarray
    curvature: np.ndarray

    @classmethod
    def unpacked(cls, told: np.ndarray, size: int) -> "_End":
        params, gradient, scale = told[3 : 3 + 3 * size].reshape(3, size)
        curvature = told[3 + 3 * size :].reshape(size, size)
        return cls(float(told[0]), bool(told[1]), int(told[2]) - 1, params, gradient, scale, curvature)


def _better(attempt: Callable[[LevenbergMarquardt, int], _End], request: Request) -> _End:
    """Where the plain rule ends, or the robust one where that ends badly; raises UnusualError where none converges."""
    most, first = request.steps or _PLAIN.default_steps, _PLAIN.first_steps
    assert first is not None
    end = attempt(_PLAIN, min(most, first))
    if end.converged:
        held = None
        if request.bounds is not None:
            held = (end.params <= request.bounds[0]) | (end.params >= request.bounds[1])
        if not ends_badly(end.loss, end.gradient, end.curvature.diagonal(), end.scale, end.params, held):
            return end
    second = attempt(_PLAIN.robust(), most) if end.converged or most > first else end
    if second.converged and (second.loss < end.loss or not end.converged):
        return second
    if not end.converged:
        raise UnusualError  # SciPy may know better, and says it in its own words if not
    return end


def _fitted(optimizer: LevenbergMarquardt, problem: Problem, start: jax.Array, batch: Batch, steps: int) -> jax.Array:
    """A whole fit, as one array: one copy to the host."""
    span = _loop.Span(0, steps, steps + 1)
    key = random.wrap_key_data(jnp.zeros(2, jnp.uint32))  # nothing is random
    state = optimizer.init(problem, start)
    end = _loop.run(optimizer, problem, _data.Whole(batch), state, key, span, capacity=0, record=(), careful=True)
    terms = optimizer.terms(end.state)
    told = jnp.stack([terms.loss, end.converged.astype(start.dtype), end.step.astype(start.dtype)])
    return jnp.concatenate([told, end.state.params, terms.gradient, end.state.inner.scale, terms.curvature.ravel()])


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
