"""A fit as part of a function that JAX transforms: under `jit`, `vmap` and `grad`.

The derivative of a fit's result with respect to its data is that of the equation which the result solves, a gradient
of zero (the implicit function theorem); no step of the fit is differentiated.
"""

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxfit import _checks, _compile, _errors, _modules, _program, _small, losses
from jaxfit._fingerprint import fingerprint
from jaxfit._problem import Problem
from jaxfit._program import Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TracedResult:
    """What `fit` returns inside a function that JAX transforms: a pytree of arrays, without report and history.

    Attributes:
        params: The fitted params, a pytree like the starting values.
        loss: The loss at the params, a scalar.
        steps: The steps taken, an int32 scalar.
        converged: Whether the optimizer had nothing left to improve, a bool scalar.
        covariance: The covariance of the params in the order of their leaves, [p, p], NaN for those that are held; None
            from optimizers that know no curvature.
        model_state: What a flax module carries beside its params, a nested dict; empty for functions.
        model: The model as it was given.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> slope = lambda y: jf.fit(lambda params, x: params * x, (x, y), 1.0).params
        >>> curves = jnp.stack([2 * x, 3 * x])
        >>> [round(float(value), 3) for value in jax.vmap(slope)(curves)]
        [2.0, 3.0]
        >>> bool(jnp.allclose(jax.grad(slope)(2 * x), x / (x @ x), atol=1e-5))
        True
    """

    params: Any
    loss: jax.Array
    steps: jax.Array
    converged: jax.Array
    covariance: jax.Array | None
    model_state: Any
    model: Callable = dataclasses.field(metadata={"static": True})
    _evaluate: Callable | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def standard_errors(self) -> Any:
        """The standard error of each param, a pytree like the params.

        Raises:
            ValueError: The optimizer knows no curvature.
        """
        if self.covariance is None:
            raise ValueError("the optimizer knows no curvature, and so no errors; fit by LevenbergMarquardt().")
        _, unravel = ravel_pytree(self.params)
        return unravel(jnp.sqrt(jnp.diagonal(self.covariance)))

    def predict(self, x: Any) -> Any:
        """The model's prediction at new points."""
        if self._evaluate is not None:
            return self._evaluate(self.model_state, self.params, x)
        return self.model(self.params, x)


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is an array that JAX traces, or a function that refers to one."""
    leaves = []
    for tree in trees:
        with contextlib.suppress(TypeError, ValueError):  # what is no pytree gets its message elsewhere
            leaves += jax.tree.leaves(tree)
    return any(isinstance(leaf, Tracer) or (callable(leaf) and is_traced(*_enclosed(leaf))) for leaf in leaves)


def _enclosed(function: Callable, seen: dict[int, Any] | None = None, depth: int = 0) -> list[Any]:
    """What a function has taken along from where it was written, also in what it calls, each looked at once."""
    seen = {} if seen is None else seen
    if id(function) in seen or depth > 5:
        return []
    seen[id(function)] = function
    inner, options = _checks.unwrapped(function)
    contents: list[Any] = [options, *(getattr(inner, "__defaults__", None) or ())]
    contents += (getattr(inner, "__kwdefaults__", None) or {}).values()
    if hasattr(inner, "__wrapped__"):
        contents.append(inner.__wrapped__)
    if hasattr(inner, "__self__"):
        contents.append(inner.__self__)
    for cell in getattr(inner, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            contents.append(cell.cell_contents)
    if not hasattr(inner, "__code__"):
        contents += getattr(inner, "__dict__", {}).values()  # an object that can be called
    found = []
    for content in contents:
        found += _enclosed(content, seen, depth + 1) if callable(content) else [content]
    return found


def fit(task: Task, steps: int, absolute_sigma: bool) -> TracedResult:
    """Runs a fit inside the trace that is under way.

    Args:
        task: The fit.
        steps: At most so many.
        absolute_sigma: Whether sigma is known in absolute terms.
    """
    if task.looks_back or task.record != ("loss",):
        raise ValueError("validation, metrics and record have no place under jit, vmap or grad; leave them out.")
    _, unravel = ravel_pytree(task.params)
    leaves, tree = jax.tree.flatten(task.optimizer)
    solve = _second_order if task.data is not None and task.optimizer.in_blocks else _first_order

    def whole(arrays: Any) -> tuple[Any, ...]:
        params, data, bounds, seed, leaves = arrays
        inner = task._replace(params=params, data=data, bounds=bounds, seed=seed, optimizer=tree.unflatten(leaves))
        return solve(inner, steps, absolute_sigma)

    arrays = jax.tree.map(jnp.asarray, (task.params, task.data, task.bounds, task.seed, leaves))
    # Outside of `jit` too, one program in place of one for each operation; but one that refers to what is being traced
    # is part of that trace alone, and under a scoped `enable_x64`, JAX 0.10 confuses the precisions of programs that it
    # differentiates operation by operation.
    key = (*_program.program_key(task, ("traced", task.batch_size, task.shuffle)), steps, absolute_sigma)
    key = key if task.network is None else (*key, fingerprint(task.held))
    kept = whole if _is_scoped("jax_enable_x64") or _is_enclosing(task) else _compile.kept(key, lambda: jax.jit(whole))
    flat, loss, taken, converged, covariance, carried = kept(arrays)
    params, network = unravel(flat), task.network
    if network is None:
        return TracedResult(params, loss, taken, converged, covariance, {}, task.problem.model)
    params = _modules.joined(params, task.held.frozen)
    state = task.held.after(carried)
    return TracedResult(params, loss, taken, converged, covariance, state, network.given, network.evaluate)


def _is_scoped(name: str) -> bool:
    """Whether a setting of JAX's differs here from what it is outside of all scopes, as a new thread sees it."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(_compile.setting(name)))
    thread.start()
    thread.join()
    return seen[0] != _compile.setting(name)


def _is_enclosing(task: Task) -> bool:
    model = task.problem.model if task.network is None else task.held[:2]
    return is_traced(model, task.problem.loss, task.sampler)


def _run(task: Task, flat: jax.Array, steps: int) -> tuple[jax.Array, Any]:
    """The params at the end, [p]; the steps taken, whether it converged, and what the model carries."""
    _, unravel = ravel_pytree(task.params)
    progress = _program.inside(task, unravel(flat), steps)
    found, _ = ravel_pytree(task.optimizer.answer(progress.state))
    if not task.optimizer.default_steps:  # without a stopping rule it takes all its steps, and ends with that
        return found, (progress.seen, jnp.asarray(True), progress.state.carried)
    return found, (progress.seen - 1, progress.converged, ())


def _first_order(task: Task, steps: int, absolute_sigma: bool) -> tuple[Any, ...]:
    del absolute_sigma
    start, unravel = ravel_pytree(task.params)
    flat, (taken, converged, carried) = _without_derivative(functools.partial(_run, steps=steps), task)(start)
    problem = _program.at(task, task.bounds, task.held.after(carried), task.held.frozen)
    loss = jnp.full((), jnp.nan) if task.data is None else problem.value(unravel(flat), task.data)
    return flat, loss, taken, converged, None, carried


def _second_order(task: Task, steps: int, absolute_sigma: bool) -> tuple[Any, ...]:
    start, unravel = ravel_pytree(task.params)
    problem = task.problem._replace(bounds=task.bounds)

    def solve(_: Any, flat: jax.Array) -> tuple[jax.Array, Any]:
        found, seen = _run(task, flat, steps)
        return found, jax.tree.map(lambda leaf: leaf.astype(flat.dtype), seen)  # JAX differentiates floats only

    assert task.data is not None
    residual = _residual(problem, task.optimizer.penalty, unravel, task.data)
    flat, (taken, converged, _) = lax.custom_root(residual, start, solve, _solved, has_aux=True)
    terms = problem.gauss_newton(flat, unravel, task.data)
    found = _errors.errors(problem, unravel(flat), task.data, terms, task.optimizer.penalty, absolute_sigma)
    return flat, terms.loss, taken.astype(jnp.int32), converged > 0, found.covariance, ()


def _residual(problem: Problem, penalty: Callable, unravel: Callable, data: Any) -> Callable[[jax.Array], jax.Array]:
    """What is zero at the solution: the gradient, or the way to a bound for params that it holds back."""
    if _checks.unwrapped(problem.loss)[0] is losses.mse:
        # A penalty is added to the sum; where the gradient is zero, the sum serves as well as the mean.
        problem = problem._replace(loss=functools.partial(problem.loss, reduction="sum"), sums=True)
    gradient = jax.grad(lambda flat: problem.value(unravel(flat), data) + penalty(flat))
    if problem.bounds is None:
        return gradient
    lower, upper = (ravel_pytree(bound)[0] for bound in problem.bounds)

    def residual(flat: jax.Array) -> jax.Array:
        slope = gradient(flat)
        held = _small.is_held(flat, slope, lower, upper)
        return jnp.where(held, flat - jnp.where(flat <= lower, lower, upper), slope)

    return residual


def _solved(linear: Callable[[jax.Array], jax.Array], right: jax.Array) -> jax.Array:
    """The solution of a linear system, [p], whose unknowns may be of any size; 0 for those that it does not tell of."""
    matrix = jax.vmap(linear)(jnp.eye(right.size, dtype=right.dtype)).T
    size = jnp.abs(jnp.diagonal(matrix))
    told = size > 0
    unit = jnp.where(told, 1 / jnp.sqrt(jnp.where(told, size, 1)), 0)
    scaled = matrix * unit[:, None] * unit + jnp.diag(jnp.where(told, 0, 1).astype(right.dtype))
    return unit * jnp.linalg.solve(scaled, unit * right)


def _without_derivative(run: Callable, task: Task) -> Callable[[jax.Array], Any]:
    """`run` of a task, which says why it has no derivative where one is asked for."""
    leaves, tree = jax.tree.flatten(task.optimizer)
    arrays = (task.data, task.bounds, task.seed, leaves)

    @jax.custom_jvp
    def wrapped(start: jax.Array, arrays: Any) -> Any:
        data, bounds, seed, leaves = arrays
        return run(task._replace(data=data, bounds=bounds, seed=seed, optimizer=tree.unflatten(leaves)), start)

    @wrapped.defjvp
    def _(*_: Any) -> Any:
        raise TypeError(
            f"the result of {type(task.optimizer).__name__} has no derivative: it need not end where the gradient is "
            "zero. LevenbergMarquardt's has one, with respect to data, sigma, weights and bounds."
        )

    return lambda start: wrapped(start, arrays)
