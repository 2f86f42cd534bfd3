"""Activations: functions of each entry, or of one axis, as modules."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit.nn import _shared
from jaxfit.nn._module import Module


class ReLU(Module):
    """`max(x, 0)` of each entry; its slope at 0 is 0.

    A call takes numbers of any shape and returns their shape and dtype.

    Source: `torch.nn.ReLU`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.ReLU()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.relu(_shared.numbers(self, x))


class LeakyReLU(Module):
    """`x` where it is positive, else `negative_slope * x`, of each entry.

    Args:
        negative_slope: The slope of the other half, also at 0.

    A call takes floating-point x of any shape and returns its shape and dtype.

    Raises:
        TypeError: The slope is not a number, or x is not floating-point.
        ValueError: The slope is not finite.

    Source: `torch.nn.LeakyReLU`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.LeakyReLU(0.5)(jnp.array([-1.0, 2.0])).tolist()
        [-0.5, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = _shared.number(self, "negative_slope", negative_slope)

    def extra_repr(self) -> str:
        """The argument."""
        return f"negative_slope={self.negative_slope:g}"

    def __call__(self, x: ArrayLike) -> jax.Array:
        array = _shared.floats(self, x)
        return jnp.where(array > 0, array, self.negative_slope * array)


class ELU(Module):
    """`x` where it is positive, else `alpha * (exp(x) - 1)`, of each entry.

    Args:
        alpha: What is approached far below 0, with opposite sign.

    A call takes floating-point x of any shape and returns its shape and dtype.

    Raises:
        TypeError: Alpha is not a number, or x is not floating-point.
        ValueError: Alpha is not finite.

    Source: `torch.nn.ELU`; Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by
    exponential linear units", 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.ELU()(jnp.array([-1.0, 2.0])).round(4).tolist() == [jnp.float32(-0.6321), 2.0]
        True
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = _shared.number(self, "alpha", alpha)

    def extra_repr(self) -> str:
        """The argument."""
        return f"alpha={self.alpha:g}"

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.elu(_shared.floats(self, x), self.alpha)


class GELU(Module):
    """`x` times the probability that a standard normal number is below it, of each entry.

    Args:
        approximate: `"none"` for the exact function, `"tanh"` for the approximation by tanh.

    A call takes floating-point x of any shape and returns its shape and dtype.

    Raises:
        TypeError: x is not floating-point.
        ValueError: `approximate` is neither of the two.

    Source: `torch.nn.GELU`; Hendrycks and Gimpel, "Gaussian error linear units", 2016.

    Example:
        >>> from jaxfit import nn
        >>> round(float(nn.GELU()(1.0)), 4), round(float(nn.GELU("tanh")(1.0)), 4)
        (0.8413, 0.8412)
    """

    def __init__(self, approximate: str = "none"):
        _checks.one_of(_shared.name(self), "approximate", approximate, ("none", "tanh"))
        self.approximate = approximate

    def extra_repr(self) -> str:
        """The argument."""
        return f"approximate={self.approximate!r}"

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.gelu(_shared.floats(self, x), approximate=self.approximate == "tanh")


class SiLU(Module):
    """`x * sigmoid(x)` of each entry, also called swish.

    A call takes floating-point x of any shape and returns its shape and dtype; TypeError where x is not.

    Source: `torch.nn.SiLU`; Hendrycks and Gimpel, "Gaussian error linear units", 2016.

    Example:
        >>> from jaxfit import nn
        >>> round(float(nn.SiLU()(1.0)), 4)
        0.7311
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.silu(_shared.floats(self, x))


class Sigmoid(Module):
    """`1 / (1 + exp(-x))` of each entry.

    A call takes floating-point x of any shape and returns its shape and dtype; TypeError where x is not.

    Source: `torch.nn.Sigmoid`.

    Example:
        >>> from jaxfit import nn
        >>> round(float(nn.Sigmoid()(1.0)), 4)
        0.7311
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(_shared.floats(self, x))


class Tanh(Module):
    """The hyperbolic tangent of each entry.

    A call takes floating-point x of any shape and returns its shape and dtype; TypeError where x is not.

    Source: `torch.nn.Tanh`.

    Example:
        >>> from jaxfit import nn
        >>> round(float(nn.Tanh()(1.0)), 4)
        0.7616
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jnp.tanh(_shared.floats(self, x))


class Softplus(Module):
    """`log(1 + exp(beta * x)) / beta` of each entry, a smooth ReLU.

    Args:
        beta: How sharp the bend is, above 0.
        threshold: Where `beta * x` is above this, x itself is returned.

    A call takes floating-point x of any shape and returns its shape and dtype.

    Raises:
        TypeError: An argument is not a number, or x is not floating-point.
        ValueError: Beta is not above 0, or an argument is not finite.

    Source: `torch.nn.Softplus`.

    Example:
        >>> from jaxfit import nn
        >>> round(float(nn.Softplus()(0.0)), 4)
        0.6931
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta = _shared.positive(self, "beta", beta)
        self.threshold = _shared.number(self, "threshold", threshold)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"beta={self.beta:g}, threshold={self.threshold:g}"

    def __call__(self, x: ArrayLike) -> jax.Array:
        array = _shared.floats(self, x)
        scaled = self.beta * array
        return jnp.where(scaled > self.threshold, array, jax.nn.softplus(scaled) / self.beta)


class _OverAxis(Module):
    """What the two softmaxes share."""

    def __init__(self, dim: int = -1):
        self.dim = _shared.integer(self, "dim", dim)

    def extra_repr(self) -> str:
        """The argument."""
        return f"dim={self.dim}"

    def _read(self, x: ArrayLike) -> jax.Array:
        array = _shared.floats(self, x)
        if not -array.ndim <= self.dim < array.ndim:
            raise _shared.wrong_shape(self, f"with an axis {self.dim}", array)
        return array


class Softmax(_OverAxis):
    """`exp(x) / sum(exp(x))` along an axis: probabilities of classes.

    Args:
        dim: The axis; by default the last, where channels are. (Torch's default, an axis guessed from the number of
            axes, is deprecated there.)

    A call takes floating-point x and returns its shape and dtype.

    Raises:
        TypeError: `dim` is not a whole number, or x is not floating-point.
        ValueError: x has no such axis.

    Source: `torch.nn.Softmax`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.Softmax()(jnp.zeros((1, 4))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.softmax(self._read(x), self.dim)


class LogSoftmax(_OverAxis):
    """The logarithm of `Softmax`, computed without rounding small probabilities to 0.

    Args:
        dim: The axis; by default the last, where channels are.

    A call takes floating-point x and returns its shape and dtype.

    Raises:
        TypeError: `dim` is not a whole number, or x is not floating-point.
        ValueError: x has no such axis.

    Source: `torch.nn.LogSoftmax`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> round(float(nn.LogSoftmax()(jnp.zeros(2))[0]), 4)
        -0.6931
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        return jax.nn.log_softmax(self._read(x), self.dim)
