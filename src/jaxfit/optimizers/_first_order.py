"""First-order optimizers: torch's names, arguments, defaults and trajectories, on optax's arithmetic.

Each class only says how its optax transformation is put together, inside the trace. Where optax means the same as
torch it is used; where it does not, or is slower, the update rule is written out with its source. Here is what they
all share, and gradient descent; the others are in `_adam.py` and `_adaptive.py`.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxfit import _checks
from jaxfit._problem import Batch, Problem
from jaxfit.optimizers._base import Info, Optimizer, State, flag, is_off, number

Number = float | jax.Array
Schedule = optax.Schedule


def optax_step(
    transformation: optax.GradientTransformation, problem: Problem, state: State, batch: Batch, key: jax.Array
) -> tuple[State, Info]:
    """One step of any optax transformation: loss and gradient, then its update."""
    value, gradient, carried = problem.training_value_and_gradient(state.params, batch, state.carried, key)
    # Extra arguments are for those that search along a line or look at the loss; the others ignore them.
    updates, inner = optax.with_extra_args_support(transformation).update(
        gradient,
        state.inner,
        state.params,
        value=value,
        grad=gradient,
        value_fn=lambda params: problem.training_value(params, batch, state.carried, key)[0],
    )
    params = optax.apply_updates(state.params, updates)
    return State(params, inner, carried), Info(value, optax.tree.norm(gradient), converged=False)


class Optax(Optimizer):
    """Any optax transformation as an optimizer; `fit` wraps one that it is given as it is."""

    transformation: optax.GradientTransformation = flag(
        default=None, kinds=(optax.GradientTransformation,), kw_only=False
    )

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step."""
        del problem
        return State(params, self.transformation.init(params))

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One update of the transformation."""
        return optax_step(self.transformation, problem, state, batch, key)


class Averaged(NamedTuple):
    """What an optimizer remembers that averages the params.

    Attributes:
        inner: What the update rule remembers.
        average: The average, a pytree like the params.
        begun: Whether there has been an update, a bool scalar.
    """

    inner: Any
    average: Any
    begun: jax.Array


class FirstOrder(Optimizer):
    """What all first-order optimizers share: the options of every one of them, and the step.

    A subclass says in `transformation` what its update rule is. Half-precision params are updated by arithmetic in
    float32; the params, and what is remembered of their gradients, stay in their own precision.

    Attributes:
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm over all params exceeds this; before clip_value.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move: batches of 16 with
            `accumulate=4` make the updates of batches of 64 and need the memory of 16. Clipping and learning-rate
            schedules see the averaged gradients. What is left over at the end of a fit moves nothing.
        ema_decay: Makes the fit's params an exponential moving average of those that it went through: after each update
            `average = ema_decay * average + (1 - ema_decay) * params`, from the params after the first. The loss in
            the history is that of the moving params; validation and metrics are those of the average. The same as
            `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(ema_decay)`.
    """

    maximize: bool = flag(default=False, kw_only=True)
    clip_norm: Number | None = number(default=None, kw_only=True)
    clip_value: Number | None = number(default=None, kw_only=True)
    accumulate: int = flag(default=1, kw_only=True, kinds=(int, np.integer))
    ema_decay: Number | None = number(default=None, below=1.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        _checks.count(f"{type(self).__name__}: accumulate", self.accumulate)

    @abc.abstractmethod
    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""

    def _whole(self) -> optax.GradientTransformation:
        parts = []
        if self.clip_norm is not None:
            parts.append(_clip_norm(self.clip_norm))
        if self.clip_value is not None:
            parts.append(optax.clip(self.clip_value))
        if self.maximize:
            parts.append(optax.scale(-1.0))
        rule = _at_least_float32(optax.chain(*parts, self.transformation()))
        return rule if self.accumulate == 1 else _accumulated(rule, self.accumulate)

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step."""
        del problem
        inner = self._whole().init(params)
        return State(params, Averaged(inner, params, jnp.asarray(False)) if self.averages else inner)

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One update."""
        if self.ema_decay is None or is_off(self.ema_decay):
            return optax_step(self._whole(), problem, state, batch, key)
        remembered = state.inner
        after, info = optax_step(self._whole(), problem, state._replace(inner=remembered.inner), batch, key)
        updated = after.inner.gathered == 0 if self.accumulate > 1 else jnp.asarray(True)
        decay = jnp.where(updated, jnp.where(remembered.begun, self.ema_decay, 0.0), 1.0)
        average = jax.tree.map(
            lambda old, new: (decay * old + (1 - decay) * new).astype(new.dtype),
            remembered.average,
            problem.within(after.params),
        )
        return after._replace(inner=Averaged(after.inner, average, remembered.begun | updated)), info

    @property
    def averages(self) -> bool:
        """Whether the fit hands back an average of the params."""
        return not is_off(self.ema_decay)

    def answer(self, state: State) -> Any:
        """The params that the fit hands back: their average where it was asked for."""
        return state.inner.average if self.averages else state.params


class SGD(FirstOrder):
    """Gradient descent, with momentum, Nesterov's momentum, dampening and weight decay.

    Args:
        learning_rate: The step per unit of gradient, at least 0, or a schedule `step count -> learning rate`.
        momentum: The share of the last update that is kept, at least 0; steps grow without bound from 1 on.
        dampening: The share of the gradient that momentum leaves out, from the second step on; in [0, 1).
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        nesterov: Whether the gradient is looked up ahead (needs momentum and no dampening).
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning";
    `torch.optim.SGD`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.SGD(0.01, momentum=0.5)
        SGD(learning_rate=0.01, momentum=0.5)
    """

    learning_rate: Number | Schedule = number(default=1e-3, schedule=True)
    momentum: Number = number(default=0.0)
    dampening: Number = number(default=0.0, below=1.0)
    weight_decay: Number = number(default=0.0)
    nesterov: bool = flag(default=False, kw_only=False)

    def __post_init__(self):
        super().__post_init__()
        if self.nesterov and (is_off(self.momentum) or not is_off(self.dampening)):
            raise ValueError("SGD: nesterov is True; it needs a momentum above 0 and a dampening of 0.")

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        if is_off(self.momentum):
            momentum = optax.identity()
        elif is_off(self.dampening):
            momentum = optax.trace(self.momentum, self.nesterov)
        else:
            momentum = _dampened_trace(self.momentum, self.dampening)
        return optax.chain(decay(self.weight_decay), momentum, optax.scale_by_learning_rate(self.learning_rate))


def decay(strength: Number) -> optax.GradientTransformation:
    """Adds `strength * params` to what it is given, or leaves no trace in the program where the strength is off."""
    return optax.identity() if is_off(strength) else optax.add_decayed_weights(strength)


def scalar(number: float, params: Any) -> jax.Array:
    """A scalar of the state, in the widest precision of the params, at least float32."""
    return jnp.full((), number, jnp.result_type(jnp.float32, *jax.tree.leaves(params)))


def _wide(tree: Any) -> Any:
    """A pytree with what is in half precision as float32."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype in (jnp.float16, jnp.bfloat16) else a, tree)


def _at_least_float32(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Computes in float32 what is in half precision, and keeps the state in the dtypes that it began with."""

    def update(updates, state, params=None):
        updates, new = transformation.update(_wide(updates), _wide(state), _wide(params))
        return updates, optax.tree.cast_like(new, state)

    return optax.GradientTransformation(transformation.init, update)


class Accumulated(NamedTuple):
    """What an optimizer remembers that averages gradients over several steps.

    Attributes:
        inner: What the update rule remembers.
        total: The sum of the gradients since the last update, a pytree like the params.
        gathered: How many these are, an int32 scalar.
    """

    inner: Any
    total: Any
    gathered: jax.Array


def _accumulated(rule: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """Moves the params once in so many steps, by the mean of their gradients.

    `optax.MultiSteps` does the same, but sums in one precision for all and computes the rule at every step.
    """

    def init(params):
        return Accumulated(rule.init(params), optax.tree.zeros_like(_wide(params)), jnp.int32(0))

    def update(updates, state, params=None):
        total = jax.tree.map(jnp.add, state.total, updates)

        def move():
            mean = jax.tree.map(lambda t, u: (t / every).astype(u.dtype), total, updates)
            moved, inner = rule.update(mean, state.inner, params)
            return moved, Accumulated(inner, optax.tree.zeros_like(total), jnp.int32(0))

        still = optax.tree.zeros_like(jax.eval_shape(lambda: move()[0]))
        return lax.cond(
            state.gathered == every - 1, move, lambda: (still, Accumulated(state.inner, total, state.gathered + 1))
        )

    return optax.GradientTransformation(init, update)


def _clip_norm(limit: Number) -> optax.GradientTransformation:
    """`torch.nn.utils.clip_grad_norm_`, which adds 1e-6 to the norm that it divides by; optax's does not."""

    def clip(gradient, params=None):
        del params
        factor = jnp.minimum(limit / (optax.tree.norm(gradient) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor, gradient)

    return optax.stateless(clip)


def _dampened_trace(momentum: Number, dampening: Number) -> optax.GradientTransformation:
    """Momentum whose buffer starts as the first gradient and later takes in `(1 - dampening)` of each."""

    def init(params):
        return scalar(1.0, params), optax.tree.zeros_like(params)

    def update(updates, state, params=None):
        del params
        share, buffer = state
        buffer = jax.tree.map(lambda b, g: momentum * b + share * g, buffer, updates)
        return buffer, (jnp.full_like(share, 1.0 - dampening), buffer)

    return optax.GradientTransformation(init, update)
