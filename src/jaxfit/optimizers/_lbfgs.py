"""L-BFGS: second-order steps from the last few gradients, for full-batch fits of any number of params."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfit._problem import Batch, Problem
from jaxfit.optimizers._base import Info, Optimizer, State, flag, number
from jaxfit.optimizers._first_order import Number


class LBFGSState(NamedTuple):
    """What is remembered.

    Attributes:
        memory: The last few changes of params and gradient (optax's).
        value: The loss at the params, not finite before the first step.
        gradient: Its gradient there.
        reach: A factor on a step without memory, cut each time that every such step raises the loss.
        idle: How many steps on end have not lowered the loss by more than the tolerance, int32.
    """

    memory: Any
    value: jax.Array
    gradient: Any
    reach: jax.Array
    idle: jax.Array


class LBFGS(Optimizer):
    """Quasi-Newton steps: the curvature comes from the last few gradients, the step length from a line search.

    For full-batch data only: the loss and the gradient that the line search ends with are used for the next step, and
    so must belong to the same batch. The loss rises at no step. A fit has converged where

    - no entry of the gradient exceeds `tolerance_grad` in absolute value, or
    - each of 2k steps on end lowered the loss by at most `tolerance_change` times itself (the precision of the params,
      1.2e-7 in float32 and 2.2e-16 in float64, where that is larger), the last k of them with a memory begun anew.
      k is one more than the number of params or than `history_size`, whichever is smaller: fewer steps may all have
      gone where the loss is steep, while it could still fall far where it is flat; or
    - every step raises the loss, along the gradient too: the precision of the params is used up.

    It has not converged where the gradient is not finite.

    Args:
        history_size: How many changes of the gradient are remembered, at least 1.
        tolerance_grad: In units of loss per param, at least 0.
        tolerance_change: A share of the loss, at least 0.
        max_linesearch_steps: How many losses and gradients one step may evaluate at most, at least 1.

    Raises:
        TypeError: A hyperparameter is not a number, or a size is not an int.
        ValueError: A hyperparameter is out of range.

    Source: Liu and Nocedal (1989), "On the limited memory BFGS method for large scale optimization"; `optax.lbfgs`
    with its zoom line search (strong Wolfe conditions). `torch.optim.LBFGS` has another line search: it finds the
    same minimum by another path.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.LBFGS(history_size=20)
        LBFGS(history_size=20)
    """

    history_size: int = flag(default=10, kinds=(int,), kw_only=False)
    tolerance_grad: Number = number(default=0.0, kw_only=True)
    tolerance_change: Number = number(default=1e-15, kw_only=True)
    max_linesearch_steps: int = flag(default=20, kinds=(int,), kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        for name in ("history_size", "max_linesearch_steps"):
            size = getattr(self, name)
            if isinstance(size, bool) or size < 1:
                raise ValueError(f"LBFGS: {name} is {size!r}; expected an int, at least 1.")

    def check_bounds(self) -> None:
        """Raises TypeError: its memory of gradients knows nothing of bounds."""
        raise TypeError("LBFGS takes neither bounds nor fixed; LevenbergMarquardt and the first-order optimizers do.")

    @property
    def needs_full_batch(self) -> bool:
        """True: what one step learns of the loss serves the next."""
        return True

    @property
    def default_steps(self) -> int:
        """A thousand; it stops by itself, mostly long before."""
        return 1000

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step."""
        del problem
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
        value = jnp.asarray(jnp.inf, dtype)
        memory, gradient = self._memory().init(params), optax.tree.zeros_like(params)
        return State(params, LBFGSState(memory, value, gradient, jnp.ones_like(value), jnp.int32(0)))

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One step along the quasi-Newton direction, as far as the line search goes; none where converged."""
        del key
        params, inner = state.params, state.inner
        precision = jnp.finfo(inner.value.dtype).eps
        value, gradient = lax.cond(
            jnp.isfinite(inner.value),
            lambda: (inner.value, inner.gradient),
            lambda: optax.tree.cast_like(problem.value_and_gradient(params, batch), (inner.value, inner.gradient)),
        )
        direction, memory = self._memory().update(gradient, inner.memory, params)
        blank = self._memory().init(params)
        # What one step promises or does says little: until all directions are known, the scale is the steepest one's.
        patience = 1 + min(self.history_size, sum(jnp.size(leaf) for leaf in jax.tree.leaves(params)))
        norm = optax.tree.norm(gradient)
        converged = jnp.isfinite(norm) & (
            (optax.tree.norm(gradient, ord=jnp.inf) <= self.tolerance_grad)
            | (inner.idle >= 2 * patience)
            | (inner.reach < precision**2)
        )
        here = State(params, inner._replace(value=value, gradient=gradient))

        def search() -> State:
            found, found_value, found_gradient = self._search(
                problem, batch, here, optax.tree.scale(-inner.reach, direction)
            )
            least = jnp.maximum(self.tolerance_change, precision) * jnp.abs(value)
            idle = jnp.where(found_value < value - least, 0, inner.idle + 1)
            # A memory that leads nowhere is dropped; where there is none, the next step looks closer by.
            shorter = jnp.where(inner.memory.count == 0, inner.reach * 1e-8, inner.reach)
            failed = State(params, LBFGSState(blank, value, gradient, shorter, idle))
            kept = jax.tree.map(lambda new, old: jnp.where(idle == patience, new, old), blank, memory)
            reached = State(found, LBFGSState(kept, found_value, found_gradient, jnp.ones_like(inner.reach), idle))
            # A step along which the loss is the same to the last digit is taken: the gradient tells more there.
            return jax.tree.map(
                lambda yes, no: jnp.where(found_value <= value, yes, no), optax.tree.cast_like(reached, state), failed
            )

        after = lax.cond(converged, lambda: here, search)
        return after, Info(value, norm, converged)

    def _memory(self) -> optax.GradientTransformation:
        return optax.scale_by_lbfgs(self.history_size)

    def _search(self, problem: Problem, batch: Batch, here: State, direction: Any) -> tuple[Any, jax.Array, Any]:
        """The params that the line search along a direction ends with, their loss and its gradient."""
        # A higher loss is never good enough: what seems rounding may lead away, a little more at each step.
        linesearch = optax.scale_by_zoom_linesearch(
            self.max_linesearch_steps, initial_guess_strategy="one", approx_dec_rtol=0.0
        )
        updates, end = cast(Any, linesearch).update(
            direction,
            linesearch.init(here.params),
            here.params,
            value=here.inner.value,
            grad=here.inner.gradient,
            value_fn=lambda params: problem.value(params, batch),
        )
        return optax.apply_updates(here.params, updates), end.value, end.grad
