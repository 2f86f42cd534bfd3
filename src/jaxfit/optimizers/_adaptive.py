"""Optimizers that give each param a step of its own, from the sizes or the signs of its past gradients."""

import jax
import jax.numpy as jnp
import optax

from jaxfit import _checks
from jaxfit.optimizers._base import flag, is_off, number
from jaxfit.optimizers._first_order import FirstOrder, Number, Schedule, decay


class RMSprop(FirstOrder):
    """Each param steps by its gradient over the root of its mean squared gradient.

    Args:
        learning_rate: About the size of a step of a param, at least 0, or a schedule `step count -> learning rate`.
        alpha: The share of the mean squared gradient that a step keeps, in [0, 1).
        eps: Added to the root that is divided by, at least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        momentum: The share of the last update that is kept, at least 0.
        centered: Whether the gradient's standard deviation takes the place of its root mean square.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Tieleman and Hinton (2012), "Lecture 6.5: RMSprop"; centered: Graves (2013), "Generating sequences with
    recurrent neural networks"; `torch.optim.RMSprop`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.RMSprop(0.01, momentum=0.9)
        RMSprop(learning_rate=0.01, momentum=0.9)
    """

    learning_rate: Number | Schedule = number(default=1e-2, schedule=True)
    alpha: Number = number(default=0.99, below=1.0)
    eps: Number = number(default=1e-8)
    weight_decay: Number = number(default=0.0)
    momentum: Number = number(default=0.0)
    centered: bool = flag(default=False, kw_only=False)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        if self.centered:
            scale = _scale_by_deviation(self.alpha, self.eps)
        else:
            scale = optax.scale_by_rms(self.alpha, self.eps, eps_in_sqrt=False)
        momentum = optax.identity() if is_off(self.momentum) else optax.trace(self.momentum)
        # The learning rate comes last: under a schedule, the momentum is that of the steps without it.
        return optax.chain(decay(self.weight_decay), scale, momentum, optax.scale_by_learning_rate(self.learning_rate))


class Adagrad(FirstOrder):
    """Each param steps by its gradient over the root of the sum of all its squared gradients.

    Args:
        learning_rate: The size of the first step of a param, at least 0, or a schedule `step count -> learning rate`.
        lr_decay: The learning rate of step t, from 0, is divided by `1 + t * lr_decay`. At least 0.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        initial_accumulator_value: What the sums of squared gradients start from, at least 0.
        eps: Added to the root that is divided by, at least 0.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization"; `torch.optim.Adagrad`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.Adagrad(0.5, lr_decay=0.01)
        Adagrad(learning_rate=0.5, lr_decay=0.01)
    """

    learning_rate: Number | Schedule = number(default=1e-2, schedule=True)
    lr_decay: Number = number(default=0.0)
    weight_decay: Number = number(default=0.0)
    initial_accumulator_value: Number = number(default=0.0)
    eps: Number = number(default=1e-10)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        slower = optax.identity()
        if not is_off(self.lr_decay):
            slower = optax.scale_by_schedule(lambda count: 1.0 / (1.0 + count * self.lr_decay))
        return optax.chain(
            decay(self.weight_decay),
            _scale_by_root_sum(self.initial_accumulator_value, self.eps),
            slower,
            optax.scale_by_learning_rate(self.learning_rate),
        )


class Adadelta(FirstOrder):
    """Each param steps by its gradient times the root mean square of its past steps over that of its gradients.

    Args:
        learning_rate: A factor on the steps, which have a size of their own; at least 0, or a schedule
            `step count -> learning rate`.
        rho: The share of the mean squares that a step keeps, in [0, 1).
        eps: Added to the mean squares under their roots, at least 0; it sets the size of the first steps.
        weight_decay: The strength of the penalty `weight_decay / 2 * sum(params**2)`, at least 0.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this.
        clip_value: Cuts every entry of the gradient to at most this in absolute value.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Zeiler (2012), "ADADELTA: an adaptive learning rate method"; `torch.optim.Adadelta`.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.Adadelta().rho
        0.9
    """

    learning_rate: Number | Schedule = number(default=1.0, schedule=True)
    rho: Number = number(default=0.9, below=1.0)
    eps: Number = number(default=1e-6)
    weight_decay: Number = number(default=0.0)

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        return optax.chain(
            decay(self.weight_decay),
            optax.scale_by_adadelta(self.rho, self.eps),
            optax.scale_by_learning_rate(self.learning_rate),
        )


class Rprop(FirstOrder):
    """Looks only at the signs of the gradient: a param's step grows while its sign stays, and shrinks where it turns.

    It is meant for full batches: signs of noisy gradients turn at random.

    Args:
        learning_rate: The size of the first step of each param, at least 0.
        etas: The factors by which a step shrinks, in (0, 1), and grows, above 1.
        step_sizes: The smallest and the largest step of a param, at least 0.
        maximize: Whether the loss is made as large as possible instead of small.
        clip_norm: Scales the gradient down where its Euclidean norm exceeds this; it changes no sign.
        clip_value: Cuts every entry of the gradient to at most this in absolute value; it changes no sign.
        accumulate: Over how many steps gradients are averaged before the params move, at least 1.
        ema_decay: Makes the fit's params an exponential moving average, with this decay in [0, 1).

    Raises:
        TypeError: A hyperparameter is not a number.
        ValueError: A hyperparameter is out of range.

    Source: Riedmiller and Braun (1993), "A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm", in the variant of `torch.optim.Rprop`: no step is taken where the sign has turned, and none is undone.

    Example:
        >>> from jaxfit import optimizers
        >>> optimizers.Rprop(0.1, step_sizes=(1e-8, 1.0))
        Rprop(learning_rate=0.1, step_sizes=(1e-08, 1.0))
    """

    learning_rate: Number = number(default=1e-2)
    etas: tuple[Number, Number] = number(default=(0.5, 1.2))
    step_sizes: tuple[Number, Number] = number(default=(1e-6, 50.0))

    def __post_init__(self):
        super().__post_init__()
        # What is an array or a tracer cannot be compared here.
        if all(map(_checks.is_number, self.etas)) and not 0 < self.etas[0] < 1 < self.etas[1]:
            raise ValueError(f"Rprop: etas is {self.etas!r}; expected one number in (0, 1) and one above 1.")
        if all(map(_checks.is_number, self.step_sizes)) and not self.step_sizes[0] <= self.step_sizes[1]:
            raise ValueError(
                f"Rprop: step_sizes is {self.step_sizes!r}; expected the smallest first, the largest last."
            )

    def transformation(self) -> optax.GradientTransformation:
        """The update rule, without clipping."""
        return _rprop(self.learning_rate, self.etas, self.step_sizes)


def _scale_by_deviation(alpha: Number, eps: Number) -> optax.GradientTransformation:
    """Divides by the running standard deviation (Graves, 2013), `torch.optim.RMSprop` with `centered`.

    `optax.scale_by_stddev` but for the rounding of a constant gradient, whose variance may come out just below 0.
    """

    def init(params):
        return optax.tree.zeros_like(params), optax.tree.zeros_like(params)

    def update(updates, state, params=None):
        del params
        mean = jax.tree.map(lambda m, g: alpha * m + (1 - alpha) * g, state[0], updates)
        square = jax.tree.map(lambda v, g: alpha * v + (1 - alpha) * g * g, state[1], updates)
        steps = jax.tree.map(lambda g, m, v: g / (jnp.sqrt(jnp.maximum(v - m * m, 0.0)) + eps), updates, mean, square)
        return steps, (mean, square)

    return optax.GradientTransformation(init, update)


def _scale_by_root_sum(start: Number, eps: Number) -> optax.GradientTransformation:
    """Divides by the root of the sum of all squares (Duchi et al., 2011); eps is outside the root, as in torch."""

    def init(params):
        return jax.tree.map(lambda p: jnp.full_like(p, start), params)

    def update(updates, state, params=None):
        del params
        total = jax.tree.map(lambda s, g: s + g * g, state, updates)
        return jax.tree.map(lambda s, g: g / (jnp.sqrt(s) + eps), total, updates), total

    return optax.GradientTransformation(init, update)


def _rprop(
    first: Number, etas: tuple[Number, Number], step_sizes: tuple[Number, Number]
) -> optax.GradientTransformation:
    """Resilient propagation (Riedmiller and Braun, 1993) as in `torch.optim.Rprop`; optax's lags a step behind."""

    def init(params):
        # The signs of the last gradient, 0 where it does not count, and the sizes of the steps.
        return optax.tree.zeros_like(params), jax.tree.map(lambda p: jnp.full_like(p, first), params)

    def resize(size, turn):
        factor = jnp.where(turn > 0, etas[1], jnp.where(turn < 0, etas[0], 1.0))
        return jnp.clip(size * factor, *step_sizes)

    def update(updates, state, params=None):
        del params
        signs = jax.tree.map(jnp.sign, updates)
        turns = jax.tree.map(jnp.multiply, signs, state[0])
        sizes = jax.tree.map(resize, state[1], turns)
        signs = jax.tree.map(lambda s, t: jnp.where(t < 0, 0.0, s), signs, turns)
        return jax.tree.map(lambda s, z: -s * z, signs, sizes), (signs, sizes)

    return optax.GradientTransformation(init, update)
