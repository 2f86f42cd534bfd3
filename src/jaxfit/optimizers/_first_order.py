"""First-order optimizers: torch's names, arguments, defaults and trajectories, on optax's arithmetic.

Each class only says how its optax transformation is put together, inside the trace. Where optax means the same as
torch it is used; where it does not, or is slower, the update rule is written out with its source. Here is what they
all share, and gradient descent; the others are in `_adam.py` and `_adaptive.py`.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfit._problem import Batch, Problem
from jaxfit.optimizers._base import Info, Optimizer, State, flag, is_off, number

Number = float | jax.Array
Schedule = optax.Schedule


def optax_step(
    transformation: optax.GradientTransformation, problem: Problem, state: State, batch: Batch
) -> tuple[State, Info]:
    """One step of any optax transformation: loss and gradient, then its update."""
    value, gradient = problem.value_and_gradient(state.params, batch)
    # Extra arguments are for those that search along a line or look at the loss; the others ignore them.
    updates, inner = optax.with_extra_args_support(transformation).update(
        gradient,
        state.inner,
        state.params,
        value=value,
        grad=gradient,
        value_fn=lambda params: problem.value(params, batch),
    )
    params = optax.apply_updates(state.params, updates)
    return State(params, inner), Info(value, optax.tree.norm(gradient), converged=False)


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
        del key
        return optax_step(self.transformation, problem, state, batch)


class FirstOrder(Optimizer):
    """What all first-order optimizers share: the options of every one of them, and the step.

    A subclass says in `transformation` what its update rule is. Half-precision params are updated by arithmetic in
    float32; the params, and what is remembered of their gradients, stay in their own precision.

    Attributes:
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm over all params exceeds this; before clip_value.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
    """

    maximize: bool = flag(default=False, kw_only=True)
    clip_norm: Number | None = number(default=None, kw_only=True)
    clip_value: Number | None = number(default=None, kw_only=True)

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
        return _at_least_float32(optax.chain(*parts, self.transformation()))

    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step."""
        del problem
        return State(params, self._whole().init(params))

    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One update."""
        del key
        return optax_step(self._whole(), problem, state, batch)


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


def _at_least_float32(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Computes in float32 what is in half precision, and keeps the state in the dtypes that it began with."""

    def widen(tree):
        return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype in (jnp.float16, jnp.bfloat16) else a, tree)

    def update(updates, state, params=None):
        updates, new = transformation.update(widen(updates), widen(state), widen(params))
        return updates, optax.tree.cast_like(new, state)

    return optax.GradientTransformation(transformation.init, update)


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
