"""Least squares in closed form, for models that are linear in their params: no step is tried, none is repeated.

One pass over the data folds them, block by block, into the triangular factor of a QR decomposition (Golub and Van Loan,
"Matrix Computations", 5.2; Demmel et al. (2012), "Communication-optimal parallel and sequential QR and LU
factorizations"). The normal equations would square the condition of the problem; this does not. A second pass compares
the model with its linear expansion, so that a model that is not linear is not taken for one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxfit import _checks, losses
from jaxfit._problem import Batch, GaussNewton, Problem
from jaxfit.losses import _curvature
from jaxfit.optimizers._base import Info, Optimizer, State, number
from jaxfit.optimizers._first_order import Number

_ROUNDING = 2 / 3  # the power of the precision that rounding may reach: 4e-11 in float64, 2e-5 in float32


class Solved(NamedTuple):
    """What is remembered.

    Attributes:
        terms: The loss at the params; the gradient and the curvature of what is minimised, with the penalty.
        deviation: How far the model is from its linear expansion, the largest of what was tried.
        outside: By how much bounds that the solution leaves change the prediction.
        rounding: How much of both the precision of the numbers explains.
        done: Whether the params are the solution.
    """

    terms: GaussNewton
    deviation: jax.Array
    outside: jax.Array
    rounding: jax.Array
    done: jax.Array


class _Folded(NamedTuple):
    """The data as the least-squares problem knows them: [A | residual] = Q [R | z], with weights.

    Attributes:
        triangle: [R | z], [p + 1, p + 1].
        total: The sum of the losses at the start.
        weight: What the losses weigh in all.
        reach: The largest entry of each column of A, [p].
        size: The largest prediction or target.
    """

    triangle: jax.Array
    total: jax.Array
    weight: jax.Array
    reach: jax.Array
    size: jax.Array


class _Compared(NamedTuple):
    """The model away from the start.

    Attributes:
        total: The sum of the losses at the solution.
        deviation: The largest distance of the model from its linear expansion.
    """

    total: jax.Array
    deviation: jax.Array


class LinearLeastSquares(Optimizer):
    """The solution of linear least squares, in one step: for models that are linear in their params (or affine).

    For full-batch data under `losses.mse`. It minimises `sum(weights * (prediction - y)**2) + ridge * sum(params**2)`,
    with prediction and y in units of sigma, whether the loss is the mean or the sum of the squares. The solution is as
    accurate as `numpy.linalg.lstsq`'s. Where the data do not determine the params it is, as there, the one of least
    norm: the limit of a vanishing ridge.

    The loss of the result is without the penalty. Its covariance is `inv(J'J + ridge) s**2`, with s**2 the reduced chi
    squared or 1 as for other fits: with a ridge, that of the posterior if each param was expected to be normal about 0
    with variance `s**2 / ridge`. It tells the scatter and not by how much the ridge pulls the params to 0. Intervals by
    "profile" know of no penalty: with a ridge, ask for those by "wald".

    The model is evaluated at the start, at the solution and at two points beyond it, and has to lie on one plane there.
    In a function that JAX transforms, where nothing can be raised, `converged` tells whether it does. Fixed params stay
    where they are; bounds are not held, but a solution that lies within them is also the bounded one.

    Args:
        ridge: The penalty, at least 0: a number, or one for each number in the params, [p], in the order of their
            leaves, 0 for those that go without (an intercept). Under `vmap` over numbers this is a sweep.

    Raises:
        TypeError: ridge is not a number; in a fit, the loss is not `losses.mse`.
        ValueError: ridge is negative or not finite; in a fit, the model is not linear in its params, the solution lies
            outside of the bounds, or ridge has another length than the params.

    Source: Golub and Van Loan, "Matrix Computations", 5.3 and 5.5; Hoerl and Kennard (1970), "Ridge regression".

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.array([0.0, 1.0, 2.0, 3.0])
        >>> line = lambda params, x: params["offset"] + params["slope"] * x
        >>> start = {"offset": 0.0, "slope": 0.0}
        >>> data = x, np.array([1.0, 3.0, 4.0, 8.0])
        >>> result = jf.fit(line, data, start, optimizer=jf.optimizers.LinearLeastSquares())
        >>> {name: round(float(value), 6) for name, value in result.params.items()}
        {'offset': 0.7, 'slope': 2.2}
        >>> shrunk = jf.fit(line, data, start, optimizer=jf.optimizers.LinearLeastSquares(ridge=np.array([0.0, 5.0])))
        >>> {name: round(float(value), 6) for name, value in shrunk.params.items()}
        {'offset': 2.35, 'slope': 1.1}
    """

    ridge: Number | np.ndarray = number(default=0.0)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.ridge, (np.ndarray, jax.Array)) or isinstance(self.ridge, Tracer):
            return  # a plain number has been looked at, a tracer cannot be
        values = np.asarray(self.ridge)
        if not (np.isrealobj(values) and np.isfinite(values).all() and (values >= 0).all()):
            came = _checks.describe(self.ridge)
            raise ValueError(f"LinearLeastSquares: ridge is {came}; expected finite real numbers, all at least 0.")

    @property
    def is_second_order(self) -> bool:
        """True: float64 data make a float64 fit."""
        return True

    @property
    def needs_full_batch(self) -> bool:
        """True: the solution is that of all the data."""
        return True

    @property
    def in_blocks(self) -> bool:
        """True: its terms are sums over the samples."""
        return True

    @property
    def default_steps(self) -> int:
        """One, and one more that would find nothing left to do."""
        return 2

    def check_loss(self, loss: Any) -> None:
        """Raises TypeError where a loss is not the squared error."""
        function, _ = _checks.unwrapped(loss)
        if function is not losses.mse:
            name = getattr(function, "__name__", type(function).__name__)
            raise TypeError(
                f"LinearLeastSquares minimises losses.mse alone; loss is {name}. LevenbergMarquardt takes "
                f"{', '.join(_curvature.NAMES)}, LBFGS and the first-order optimizers any."
            )

    def penalty(self, flat: jax.Array) -> jax.Array:
        """`ridge * flat**2`, summed."""
        return jnp.sum(jnp.asarray(self.ridge, flat.dtype) * flat**2)

    def check_end(self, state: State) -> None:
        """Raises ValueError where the model turned out not to be linear, or the solution leaves the bounds."""
        found: Solved = state.inner
        deviation, outside, rounding = (float(x) for x in (found.deviation, found.outside, found.rounding))
        if deviation > rounding:
            raise ValueError(
                "LinearLeastSquares needs a model that is linear in its params; this one is up to "
                f"{deviation:.3g} away from its linear expansion at the starting values, where rounding explains "
                f"{rounding:.2g}. LevenbergMarquardt() fits it."
            )
        if outside > rounding:
            raise ValueError(
                "LinearLeastSquares does not hold bounds, and the solution lies outside of them. LevenbergMarquardt() "
                "holds them."
            )

    def terms(self, state: State) -> GaussNewton:
        """The Gauss–Newton terms at the state's params; gradient and curvature with the penalty."""
        return state.inner.terms

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the step."""
        del problem
        flat, _ = ravel_pytree(params)
        if jnp.ndim(self.ridge) and jnp.shape(self.ridge) != flat.shape:
            came = _checks.describe(self.ridge)
            raise ValueError(f"ridge is {came}; expected one number, or as many as params has: [{flat.size}].")
        dtype = jnp.promote_types(flat.dtype, jnp.float32)
        zero = jnp.zeros((), dtype)
        unknown = GaussNewton(zero, jnp.zeros(flat.size, dtype), jnp.zeros((flat.size, flat.size), dtype))
        return State(params, Solved(unknown, zero, zero, zero, jnp.asarray(False)))

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """Goes to the solution; from there, only says so."""
        del key
        now: Solved = state.inner

        def stay() -> tuple[State, Info]:
            sound = (now.deviation <= now.rounding) & (now.outside <= now.rounding)
            return state, Info(now.terms.loss, jnp.linalg.norm(now.terms.gradient), sound)

        def solve() -> tuple[State, Info]:
            # Products that a device rounds to fewer digits would make any model look bent.
            with jax.default_matmul_precision("highest"):
                return self._solve(problem, state, batch)

        # A branch, so that the model is not evaluated once more only to hear that all is done.
        return lax.cond(now.done, stay, solve)

    def _solve(self, problem: Problem, state: State, batch: Batch) -> tuple[State, Info]:
        flat, unravel = ravel_pytree(state.params)
        dtype = state.inner.terms.loss.dtype
        start, size = flat.astype(dtype), flat.size

        def predict(params: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
            prediction, target = problem.compared(problem.model(unravel(params.astype(flat.dtype)), batch.x), batch)
            return prediction.astype(dtype), target.astype(dtype)

        found = _fold(problem, predict, start, batch)
        R, z = found.triangle[:, :size], found.triangle[:, size]  # [p + 1, p], [p + 1]
        weight = jnp.where(problem.sums | (found.weight == 0), 1, found.weight)
        bounds = (-jnp.inf, jnp.inf) if problem.bounds is None else problem.bounds
        lower, upper = (jnp.broadcast_to(ravel_pytree(bound)[0], size) for bound in bounds)
        free = lower != upper
        ridge = jnp.where(free, jnp.asarray(self.ridge, dtype), 0)

        def gradient(params: jax.Array) -> jax.Array:
            return 2 * (R.T @ (R @ (params - start) + z) + ridge * params) / weight

        sound = jnp.isfinite(found.triangle).all()
        solution = _solution(jnp.where(sound, R, 0), jnp.where(sound, z, 0), start, free, ridge)
        there = solution.astype(flat.dtype).astype(dtype)
        # How far each param can go until the prediction has changed by its own size.
        natural = jnp.where(found.reach * found.size > 0, found.size / found.reach, 1)
        far = jnp.where(free, _spread(size, dtype) * (jnp.abs(start) + jnp.abs(there - start) + natural), 0)
        seen = _compare(problem, predict, start, there, far, batch)
        # The terms of which predictions are the sums, at their largest.
        terms = found.size + found.reach @ (jnp.abs(start) + jnp.abs(there) + jnp.abs(far))
        rounding = _precision(problem, unravel(flat), batch) ** _ROUNDING * terms
        outside = jnp.max(found.reach * jnp.abs(jnp.clip(there, lower, upper) - there))
        curvature = 2 * (R.T @ R + jnp.diag(ridge)) / weight
        # Where the start is already not finite, that is what the fit tells.
        deviation = jnp.where(sound, jnp.where(jnp.isnan(seen.deviation), jnp.inf, seen.deviation), 0)
        inner = Solved(
            GaussNewton(seen.total / weight, gradient(there), curvature),
            deviation.astype(dtype),
            outside.astype(dtype),
            rounding.astype(dtype),
            jnp.asarray(True),
        )
        slope = jnp.where(free, gradient(start), 0)
        return State(unravel(there.astype(flat.dtype)), inner), Info(
            found.total / weight, jnp.linalg.norm(slope), jnp.asarray(False)
        )


def _solution(R: jax.Array, z: jax.Array, start: jax.Array, free: jax.Array, ridge: jax.Array) -> jax.Array:
    """The params, [p], that make `|R (params - start) + z|**2 + ridge @ params**2` least; of many, those of least norm.

    Args:
        R: [m, p].
        z: [m].
        start: Where the params are now, [p].
        free: Which of them may go elsewhere, a bool [p].
        ridge: The penalty of each, [p].
    """
    size = start.size
    root = jnp.sqrt(ridge)
    # What is not free has a row of its own, which says that it does not move.
    matrix = jnp.concatenate([jnp.where(free, R, 0), jnp.diag(jnp.where(free, root, 1))])  # [m + p, p]
    right = -jnp.concatenate([z, jnp.where(free, root * start, 0)])
    # Columns of length 1: the rank must not hang on the units of the params.
    length = jnp.linalg.norm(matrix, axis=0)
    unit = 1 / jnp.where(length > 0, length, 1)
    left, values, rows = jnp.linalg.svd(matrix * unit, full_matrices=False)
    small = values <= 2 * size * jnp.finfo(values.dtype).eps * jnp.max(values)
    along = jnp.where(small, 0, (left.T @ right) / jnp.where(small, 1, values))
    params = start + jnp.where(free, unit * (rows.T @ along), 0)

    def shortest() -> jax.Array:
        silent = unit[:, None] * jnp.where(small, rows.T, 0)  # directions of which the data know nothing
        norm = jnp.linalg.norm(silent, axis=0)
        silent = silent / jnp.where(norm > 0, norm, 1)
        return jnp.where(free, params - silent @ (jnp.linalg.pinv(silent) @ params), start)

    return lax.cond(jnp.any(small), shortest, lambda: params)


def _fold(problem: Problem, predict: Callable, start: jax.Array, batch: Batch) -> _Folded:
    """The data as a triangle, in one pass over them."""
    size, dtype = start.size, start.dtype

    def add(part: Batch, counts: Any, found: _Folded) -> _Folded:
        def along(direction: jax.Array) -> Any:
            return jax.jvp(lambda params: predict(params, part), (start,), (direction,), has_aux=True)

        # One copy of the model: the prediction, and one directional derivative for each param.
        prediction, columns, target = jax.vmap(along, out_axes=(None, 0, None))(jnp.eye(size, dtype=dtype))
        weights = _weights(problem, prediction, target, part, counts)
        rows = jnp.concatenate([columns, (prediction - target)[None]])  # [p + 1, n, ...]
        rows = (rows * jnp.sqrt(weights)).reshape(size + 1, -1).T
        return _Folded(
            jnp.linalg.qr(jnp.concatenate([found.triangle, rows]), mode="r"),
            found.total + jnp.sum(weights * (prediction - target) ** 2),
            found.weight + jnp.sum(weights),
            jnp.maximum(found.reach, jnp.max(jnp.abs(columns.reshape(size, -1)), axis=1)),
            jnp.maximum(found.size, jnp.maximum(jnp.max(jnp.abs(prediction)), jnp.max(jnp.abs(target)))),
        )

    zero = jnp.zeros((), dtype)
    nothing = _Folded(jnp.zeros((size + 1, size + 1), dtype), zero, zero, jnp.zeros(size, dtype), zero)
    return _over_blocks(problem, batch, add, nothing)


def _compare(
    problem: Problem, predict: Callable, start: jax.Array, there: jax.Array, far: jax.Array, batch: Batch
) -> _Compared:
    """The model at the solution, and at two points `far` from it on either side, against its linear expansion."""
    points = jnp.stack([there, there + far, there - far])

    def add(part: Batch, counts: Any, found: _Compared) -> _Compared:
        def along(direction: jax.Array) -> Any:
            return jax.jvp(lambda params: predict(params, part)[0], (start,), (direction,))

        straight, moved = jax.vmap(along, out_axes=(None, 0))(points - start)
        prediction, target = jax.vmap(lambda params: predict(params, part), out_axes=(0, None))(points)
        weights = _weights(problem, prediction[0], target, part, counts)
        bent = jnp.where(weights > 0, jnp.abs(prediction - straight - moved), 0)
        return _Compared(
            found.total + jnp.sum(weights * (prediction[0] - target) ** 2), jnp.maximum(found.deviation, jnp.max(bent))
        )

    zero = jnp.zeros((), start.dtype)
    return _over_blocks(problem, batch, add, _Compared(zero, zero))


def _weights(problem: Problem, prediction: jax.Array, target: jax.Array, part: Batch, counts: Any) -> jax.Array:
    """What each squared residual weighs in the sum, of the prediction's shape."""
    curvature = _curvature.by_entries(problem.loss)
    assert curvature is not None
    weights = curvature(prediction, target) / 2
    for rows in (part.weights, counts):
        weights = weights if rows is None else weights * rows.reshape(-1, *[1] * (weights.ndim - 1))
    return weights.astype(prediction.dtype)


def _over_blocks(problem: Problem, batch: Batch, add: Callable[[Batch, Any, Any], Any], nothing: Any) -> Any:
    """`add(part, counts, found)` for one block of the data after the other; counts says which samples are new, [n]."""
    rows, size = jax.tree.leaves(batch.y)[0].shape[0], problem.block
    if size is None or size >= rows:
        return add(batch, None, nothing)

    def one(index: jax.Array, found: Any) -> Any:
        # The last block reaches back to be full; what was counted already does not count again.
        first = jnp.minimum(index * size, rows - size)
        part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first, size) if leaf.ndim else leaf, batch)
        return add(part, first + jnp.arange(size) >= index * size, found)

    return lax.fori_loop(0, -(-rows // size), one, nothing)


def _spread(size: int, dtype: Any) -> jax.Array:
    """Factors between 1/2 and 1 with signs that follow no rule which a model could."""
    golden = np.arange(1, size + 1) * 0.6180339887498949 % 1
    return jnp.asarray((0.5 + golden / 2) * np.where(golden * 7 % 1 < 0.5, -1, 1), dtype)


def _precision(problem: Problem, params: Any, batch: Batch) -> float:
    """What separates 1 from the next number, in the coarsest of the numbers that the model takes and gives."""
    prediction = jax.eval_shape(problem.model, params, batch.x)
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves((params, prediction)))
