"""Blocks without weights that are no activations."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from jaxfit.nn import _shared
from jaxfit.nn._module import Module


class Dropout(Module, nnx.Dropout):
    """In training sets each entry of x to 0 with probability p and divides the others by `1 - p`.

    Args:
        p: Between 0 and 1; flax's attribute for it is `rate`.
        rngs: Where the random numbers come from: each call draws new ones.

    A call takes x of any shape, floating-point, and returns its shape and dtype. After `net.eval()` it returns x.

    Raises:
        TypeError: `rngs` is missing, p is not a number, or x is not floating-point.
        ValueError: p is not between 0 and 1.

    Source: `torch.nn.Dropout`; Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", 2014.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.Dropout(0.5, rngs=nn.Rngs(0))
        >>> sorted(set(layer(jnp.ones(100)).tolist()))
        [0.0, 2.0]
        >>> layer.eval()(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, *, rngs: nnx.Rngs | None = None):
        super().__init__(_shared.number(self, "p", p, least=0, most=1), rngs=_shared.random(self, rngs))

    def extra_repr(self) -> str:
        """The argument."""
        return f"p={self.rate:g}"

    def __call__(self, inputs: ArrayLike, *, deterministic: bool | None = None, rngs: Any = None) -> jax.Array:
        return super().__call__(_shared.floats(self, inputs), deterministic=deterministic, rngs=rngs)


class Flatten(Module):
    """Makes one axis of several, by default of all but the first.

    Args:
        start_dim: The first of the axes; negative ones count from the end.
        end_dim: The last of them.

    A call takes an array of any dtype. Channels come last here and second in torch, so flattened images have their
    entries in another order than in torch.

    Raises:
        TypeError: An axis is not a whole number.
        ValueError: x has no such axes, or `end_dim` is before `start_dim`.

    Source: `torch.nn.Flatten`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.Flatten()(jnp.ones((4, 5, 5, 3))).shape
        (4, 75)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = _shared.integer(self, "start_dim", start_dim)
        self.end_dim = _shared.integer(self, "end_dim", end_dim)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"

    def __call__(self, x: ArrayLike) -> jax.Array:
        array = _shared.numbers(self, x)
        rank = array.ndim
        if not (-rank <= self.start_dim < rank and -rank <= self.end_dim < rank):
            raise _shared.wrong_shape(self, "with these axes", array)
        first, last = self.start_dim % rank, self.end_dim % rank
        if first > last:
            raise ValueError(
                f"{self!r}: for x of shape {array.shape} axis start_dim comes after end_dim; expected the other order."
            )
        return array.reshape(*array.shape[:first], -1, *array.shape[last + 1 :])


class Identity(Module):
    """Returns what it is given.

    Args:
        args: Ignored, as in torch: so it can take the place of any layer.
        kwargs: Ignored.

    Source: `torch.nn.Identity`.

    Example:
        >>> from jaxfit import nn
        >>> nn.Identity()(3.0)
        3.0
    """

    def __init__(self, *args: Any, **kwargs: Any): ...

    def __call__(self, x: Any) -> Any:
        return x
