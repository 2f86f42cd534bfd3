"""Adam and its relatives: a running mean of the gradient over a running mean of its square, or of its size.

After t steps the weights in such a mean add up to 1 - beta**t, by which it is divided. Their sum over (1 - beta),
1 + beta + beta**2 + ..., is carried along: one multiplication and addition are cheaper than a power, which for a few
params is a good part of a step, and nothing cancels in float32.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfit.optimizers._base import flag, number
from jaxfit.optimizers._first_order import FirstOrder, Number, Schedule, decay, scalar


class Adam(FirstOrder):
    """Adaptive moments: each param steps by its mean gradient over the root of its mean squared gradient.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        betas: The shares of the mean gradient and of the mean squared gradient that a step keeps, in [0, 1).
        eps: Added to the root that is divided by, at least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        amsgrad: Whether the largest mean square so far is used in place of the last.
        decoupled_weight_decay: Whether the decay acts on the params directly, as in `AdamW`, not through the gradient.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Kingma and Ba (2015), "Adam: a method for stochastic optimization"; amsgrad: Reddi, Kale and Kumar (2018),
    "On the convergence of Adam and beyond"; `torch.optim.Adam`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.Adam(0.1)
        Adam(learning_rate=0.1)
    """

    learning_rate: Number | Schedule = number(default=1e-3, schedule=True)
    betas: tuple[Number, Number] = number(default=(0.9, 0.999), below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)
    amsgrad: bool = flag(default=False, kw_only=False)
    decoupled_weight_decay: bool = flag(default=False, kw_only=True)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        rule = _adam(self.betas, self.eps, self.amsgrad)
        return _with_decay(rule, self.learning_rate, self.weight_decay, self.decoupled_weight_decay)


class AdamW(FirstOrder):
    """Adam whose weight decay acts on the params directly: a step also shrinks them by `learning_rate * weight_decay`.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        betas: The shares of the mean gradient and of the mean squared gradient that a step keeps, in [0, 1).
        eps: Added to the root that is divided by, at least 0.
        weight_decay: The share of the params, per unit of learning rate, that a step takes away; at least 0.
        amsgrad: Whether the largest mean square so far is used in place of the last.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Loshchilov and Hutter (2019), "Decoupled weight decay regularization"; `torch.optim.AdamW`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.AdamW(1e-3).weight_decay
        0.01
    """

    learning_rate: Number | Schedule = number(default=1e-3, schedule=True)
    betas: tuple[Number, Number] = number(default=(0.9, 0.999), below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=1e-2)
    amsgrad: bool = flag(default=False, kw_only=False)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        rule = _adam(self.betas, self.eps, self.amsgrad)
        return _with_decay(rule, self.learning_rate, self.weight_decay, decoupled=True)


class Adamax(FirstOrder):
    """Adam that divides by a decaying maximum of the gradient's size in place of its root mean square.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        betas: The shares of the mean gradient and of the largest gradient that a step keeps, in [0, 1).
        eps: Added to the size of the gradient, at least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Kingma and Ba (2015), "Adam: a method for stochastic optimization", section 7.1; `torch.optim.Adamax`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.Adamax(0.01, weight_decay=0.1)
        Adamax(learning_rate=0.01, weight_decay=0.1)
    """

    learning_rate: Number | Schedule = number(default=2e-3, schedule=True)
    betas: tuple[Number, Number] = number(default=(0.9, 0.999), below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        return _with_decay(_adamax(self.betas, self.eps), self.learning_rate, self.weight_decay, decoupled=False)


class NAdam(FirstOrder):
    """Adam with Nesterov's momentum, whose strength grows from half of beta towards beta.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        betas: The shares of the mean gradient and of the mean squared gradient that a step keeps, in [0, 1).
        eps: Added to the root that is divided by, at least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        momentum_decay: How fast the momentum reaches its strength; at 0 it stays at half. At least 0.
        decoupled_weight_decay: Whether the decay acts on the params directly, as in `AdamW`, not through the gradient.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Dozat (2016), "Incorporating Nesterov momentum into Adam"; `torch.optim.NAdam`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.NAdam(0.01).momentum_decay
        0.004
    """

    learning_rate: Number | Schedule = number(default=2e-3, schedule=True)
    betas: tuple[Number, Number] = number(default=(0.9, 0.999), below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)
    momentum_decay: Number = number(default=4e-3)
    decoupled_weight_decay: bool = flag(default=False, kw_only=False)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        rule = _nadam(self.betas, self.eps, self.momentum_decay)
        return _with_decay(rule, self.learning_rate, self.weight_decay, self.decoupled_weight_decay)


class RAdam(FirstOrder):
    """Adam that steps by the mean gradient alone until its mean square rests on enough steps, then grows into Adam.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        betas: The shares of the mean gradient and of the mean squared gradient that a step keeps, in [0, 1).
        eps: Added to the root that is divided by, at least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        decoupled_weight_decay: Whether the decay acts on the params directly, as in `AdamW`, not through the gradient.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Liu et al. (2020), "On the variance of the adaptive learning rate and beyond"; `torch.optim.RAdam`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.RAdam(0.01, betas=(0.9, 0.99))
        RAdam(learning_rate=0.01, betas=(0.9, 0.99))
    """

    learning_rate: Number | Schedule = number(default=1e-3, schedule=True)
    betas: tuple[Number, Number] = number(default=(0.9, 0.999), below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)
    decoupled_weight_decay: bool = flag(default=False, kw_only=False)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        rule = _radam(self.betas, self.eps)
        return _with_decay(rule, self.learning_rate, self.weight_decay, self.decoupled_weight_decay)


class Moments(NamedTuple):
    """What this family remembers.

    Attributes:
        mean: The running mean of the gradient, like the params.
        square: The running mean of its square, or the running maximum of its size, like the params.
        sums: `1 + beta + beta**2 + ...` of the mean and of the mean square: scalars.
        extra: What only one of the family needs.
    """

    mean: Any
    square: Any
    sums: tuple[jax.Array, ...]
    extra: Any = ()


def _with_decay(
    rule: optax.GradientTransformation, learning_rate: Number | Schedule, weight_decay: Number, decoupled: bool
) -> optax.GradientTransformation:
    order = (rule, decay(weight_decay)) if decoupled else (decay(weight_decay), rule)
    return optax.chain(*order, optax.scale_by_learning_rate(learning_rate))


def _average(old: Any, new: Any, beta: Number) -> Any:
    return jax.tree.map(lambda o, n: beta * o + (1 - beta) * n, old, new)


def _start(params: Any, extra: Any = ()) -> Moments:
    zeros = optax.tree.zeros_like(params)
    return Moments(zeros, zeros, (scalar(0.0, params), scalar(0.0, params)), extra)


def _moments(gradient: Any, state: Moments, betas: tuple[Number, Number]) -> tuple[Any, Any, tuple[jax.Array, ...]]:
    """The running means of the gradient and of its square, and their sums of weights, one step on."""
    mean = _average(state.mean, gradient, betas[0])
    square = _average(state.square, jax.tree.map(jnp.square, gradient), betas[1])
    return mean, square, (betas[0] * state.sums[0] + 1, betas[1] * state.sums[1] + 1)


def _adam(betas: tuple[Number, Number], eps: Number, amsgrad: bool) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015), with the maximum of `torch.optim.Adam`: taken before the bias is corrected."""

    def init(params):
        return _start(params, optax.tree.zeros_like(params) if amsgrad else ())

    def update(updates, state, params=None):
        del params
        mean, square, sums = _moments(updates, state, betas)
        peak = jax.tree.map(jnp.maximum, state.extra, square) if amsgrad else ()
        unbias, root = 1 / ((1 - betas[0]) * sums[0]), 1 / jnp.sqrt((1 - betas[1]) * sums[1])
        steps = jax.tree.map(lambda m, v: unbias * m / (root * jnp.sqrt(v) + eps), mean, peak if amsgrad else square)
        return steps, Moments(mean, square, sums, peak)

    return optax.GradientTransformation(init, update)


def _adamax(betas: tuple[Number, Number], eps: Number) -> optax.GradientTransformation:
    """AdaMax (Kingma and Ba, 2015, algorithm 2), with eps where `torch.optim.Adamax` has it."""

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return Moments(zeros, zeros, (scalar(0.0, params),))

    def update(updates, state, params=None):
        del params
        mean = _average(state.mean, updates, betas[0])
        largest = jax.tree.map(lambda u, g: jnp.maximum(betas[1] * u, jnp.abs(g) + eps), state.square, updates)
        total = betas[0] * state.sums[0] + 1
        unbias = 1 / ((1 - betas[0]) * total)
        return jax.tree.map(lambda m, u: unbias * m / u, mean, largest), Moments(mean, largest, (total,))

    return optax.GradientTransformation(init, update)


def _nadam(betas: tuple[Number, Number], eps: Number, momentum_decay: Number) -> optax.GradientTransformation:
    """NAdam (Dozat, 2016) with the momentum schedule of `torch.optim.NAdam`: beta * (1 - 0.96**(t * decay) / 2)."""
    slower = 0.96**momentum_decay

    def init(params):
        # The product of all momenta so far, and 0.96**(t * decay).
        return _start(params, (scalar(1.0, params), scalar(1.0, params)))

    def update(updates, state, params=None):
        del params
        mean, square, sums = _moments(updates, state, betas)
        lack = state.extra[1] * slower
        momentum = betas[0] * (1 - 0.5 * lack)
        ahead = betas[0] * (1 - 0.5 * lack * slower)
        product = state.extra[0] * momentum
        of_gradient, of_mean = (1 - momentum) / (1 - product), ahead / (1 - product * ahead)
        root = 1 / jnp.sqrt((1 - betas[1]) * sums[1])
        steps = jax.tree.map(
            lambda g, m, v: (of_gradient * g + of_mean * m) / (root * jnp.sqrt(v) + eps), updates, mean, square
        )
        return steps, Moments(mean, square, sums, (product, lack))

    return optax.GradientTransformation(init, update)


def _radam(betas: tuple[Number, Number], eps: Number) -> optax.GradientTransformation:
    """RAdam (Liu et al., 2020), rectified where `torch.optim.RAdam` is: from an effective length above 5 steps on."""
    longest = 2 / (1 - betas[1]) - 1

    def init(params):
        return _start(params, scalar(0.0, params))

    def update(updates, state, params=None):
        del params
        mean, square, sums = _moments(updates, state, betas)
        # The effective length, longest - 2 t beta**t / (1 - beta**t): a difference of large numbers. Written as
        # 2 * area / sum - 1, where area is the sum of all sums so far, decayed, it is exact in float32 too.
        area = betas[1] * state.extra + sums[1]
        length = 2 * area / sums[1] - 1
        enough = length > 5
        # Where there is not enough, the root may be of a negative number; 1 stands in for it.
        rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        rectified = jnp.sqrt(jnp.where(enough, rectified, 1.0) * (1 - betas[1]) * sums[1])
        unbias = 1 / ((1 - betas[0]) * sums[0])
        steps = jax.tree.map(
            lambda m, v: unbias * m * jnp.where(enough, rectified / (jnp.sqrt(v) + eps), 1.0), mean, square
        )
        return steps, Moments(mean, square, sums, area)

    return optax.GradientTransformation(init, update)
