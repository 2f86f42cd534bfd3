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
        reach: A factor on a step without memory, cut each time that no such step lowers the loss.
    """

    memory: Any
    value: jax.Array
    gradient: Any
    reach: jax.Array


class LBFGS(Optimizer):
    """Quasi-Newton steps: the curvature comes from the last few gradients, the step length from a line search.

    For full-batch data only: the loss and the gradient that the line search ends with are used for the next step, and
    so must belong to the same batch. The loss falls at every step. A fit has converged where

    - no entry of the gradient exceeds `tolerance_grad` in absolute value, or
    - the decrease that the curvature still promises is at most `tolerance_change` times the loss (from the second
      step on; the precision of the params, 1.2e-7 in float32 and 2.2e-16 in float64, where that is larger), or
    - no step lowers the loss any more, along the gradient either: the precision of the params is used up.

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
        return State(
            params, LBFGSState(self._memory().init(params), value, optax.tree.zeros_like(params), jnp.ones_like(value))
        )

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One step along the quasi-Newton direction, as far as the line search goes; none where converged."""
        del key
        params, inner = state
        precision = jnp.finfo(inner.value.dtype).eps
        value, gradient = lax.cond(
            jnp.isfinite(inner.value),
            lambda: (inner.value, inner.gradient),
            lambda: optax.tree.cast_like(problem.value_and_gradient(params, batch), (inner.value, inner.gradient)),
        )
        direction, memory = self._memory().update(gradient, inner.memory, params)
        promised = jnp.abs(optax.tree.vdot(gradient, direction))
        fresh = inner.memory.count == 0
        converged = (
            (optax.tree.norm(gradient, ord=jnp.inf) <= self.tolerance_grad)
            | (~fresh & (promised <= jnp.maximum(self.tolerance_change, precision) * jnp.abs(value)))
            | (inner.reach < precision**2)
        )
        here = State(params, LBFGSState(inner.memory, value, gradient, inner.reach))

        def search() -> State:
            found, found_value, found_gradient = self._search(
                problem, batch, here, optax.tree.scale(-inner.reach, direction)
            )
            # A memory that leads nowhere is dropped; where there is none, the next step looks closer by.
            shorter = jnp.where(fresh, inner.reach * 1e-8, inner.reach)
            failed = State(params, LBFGSState(self._memory().init(params), value, gradient, shorter))
            reached = State(found, LBFGSState(memory, found_value, found_gradient, jnp.ones_like(inner.reach)))
            return jax.tree.map(
                lambda yes, no: jnp.where(found_value < value, yes, no), optax.tree.cast_like(reached, state), failed
            )

        after = lax.cond(converged, lambda: here, search)
        return after, Info(value, optax.tree.norm(gradient), converged)

    def _memory(self) -> optax.GradientTransformation:
        return optax.scale_by_lbfgs(self.history_size)

    def _search(self, problem: Problem, batch: Batch, here: State, direction: Any) -> tuple[Any, jax.Array, Any]:
        """The params that the line search along a direction ends with, their loss and its gradient."""
        linesearch = optax.scale_by_zoom_linesearch(self.max_linesearch_steps, initial_guess_strategy="one")
        updates, end = cast(Any, linesearch).update(
            direction,
            linesearch.init(here.params),
            here.params,
            value=here.inner.value,
            grad=here.inner.gradient,
            value_fn=lambda params: problem.value(params, batch),
        )
        return optax.apply_updates(here.params, updates), end.value, end.grad
