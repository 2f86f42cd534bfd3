"""Layers whose weights are one matrix, and the starting values of weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from jaxfit import _checks
from jaxfit.nn import _shared
from jaxfit.nn._module import Module


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Starting values of a layer with `fan_in` inputs for each output: uniform within ±1/sqrt(fan_in).

    Equal ones compare equal, so that networks of equal structure do.

    Source: `torch.nn.init.kaiming_uniform_` with `a=sqrt(5)`, which is what torch's layers start with.
    """

    fan_in: int

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bound = 1 / np.sqrt(self.fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Starting values with mean 0 and variance 1."""
    return jax.random.normal(key, shape, dtype)


class Linear(Module, nnx.Linear):
    """`x @ kernel + bias`, over the last axis of x.

    Args:
        in_features: Length of the last axis of x.
        out_features: Length of the last axis of what is returned.
        bias: Whether a bias is added.
        rngs: Where the starting values come from.
        dtype: What to compute in; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    `kernel` is `[in_features, out_features]`, the transpose of torch's weight, and `bias` is `[out_features]`; both
    start uniform within ±1/sqrt(in_features). A call takes x `[..., in_features]` and returns `[..., out_features]`.

    Raises:
        TypeError: `rngs` is missing, or an argument is of the wrong kind.
        ValueError: A length is below 1, or the last axis of x does not fit.

    Source: `torch.nn.Linear`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.Linear(2, 5, rngs=nn.Rngs(0))
        >>> layer(jnp.ones((8, 2))).shape
        (8, 5)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        initial = Uniform(_shared.size(self, "in_features", in_features))
        super().__init__(
            initial.fan_in,
            _shared.size(self, "out_features", out_features),
            use_bias=_shared.flag(self, "bias", bias),
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=initial,
            bias_init=initial,
            rngs=_shared.random(self, rngs),
        )

    def extra_repr(self) -> str:
        """The arguments."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.use_bias}"

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        x = _shared.numbers(self, inputs)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise _shared.wrong_shape(self, f"[..., {self.in_features}]", x)
        return super().__call__(x, out_sharding)


class Embedding(Module, nnx.Embed):
    """A learned vector for each of several whole numbers.

    Args:
        num_embeddings: How many numbers there are, counted from 0.
        embedding_dim: Length of a vector.
        padding_idx: A number whose vector starts at 0 and gets no gradient; negative ones count from the end.
        rngs: Where the starting values come from.
        dtype: Of the vectors returned; by default that of the weights.
        param_dtype: Of the weights.

    `embedding` is `[num_embeddings, embedding_dim]` and starts normal with mean 0 and variance 1. A call takes
    integers of any shape `[...]` and returns `[..., embedding_dim]`. A number out of range raises; under jit its
    vector is NaN.

    Raises:
        TypeError: `rngs` is missing, an argument is of the wrong kind, or x is not integer.
        ValueError: A length is below 1, or a number or `padding_idx` is out of range.

    Source: `torch.nn.Embedding`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.Embedding(10, 3, rngs=nn.Rngs(0))
        >>> layer(jnp.array([[1, 2, 3, 9]])).shape
        (1, 4, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        count = _shared.size(self, "num_embeddings", num_embeddings)
        super().__init__(
            count,
            _shared.size(self, "embedding_dim", embedding_dim),
            dtype=dtype,
            param_dtype=param_dtype,
            embedding_init=normal,
            rngs=_shared.random(self, rngs),
        )
        self.padding_idx: int | None = None
        if padding_idx is not None:
            index = _shared.integer(self, "padding_idx", padding_idx)
            if not -count <= index < count:
                raise ValueError(f"Embedding: padding_idx is {index}; expected one of 0 to {count - 1}.")
            self.padding_idx = index % count
            self.embedding[...] = self.embedding[...].at[self.padding_idx].set(0)

    def extra_repr(self) -> str:
        """The arguments."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.features}{padding}"

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        index = _shared.numbers(self, inputs)
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise TypeError(f"{self!r}: x is {_checks.describe(index)}; expected integers, e.g. x.astype(int).")
        self._check_range(inputs, index)
        vectors = super().__call__(index, out_sharding)
        inside = (index >= 0) & (index < self.num_embeddings)
        vectors = jnp.where(inside[..., None], vectors, jnp.nan)  # flax counts negative ones from the end
        if self.padding_idx is None:
            return vectors
        return jnp.where((index == self.padding_idx)[..., None], jax.lax.stop_gradient(vectors), vectors)

    def _check_range(self, inputs: Any, index: jax.Array) -> None:
        if isinstance(index, Tracer) or not index.is_fully_addressable:
            return
        # A NumPy array is looked at before JAX narrows int64 to int32.
        values = inputs if isinstance(inputs, np.ndarray) else np.asarray(index)
        wrong = values[(values < 0) | (values >= self.num_embeddings)]
        if wrong.size:
            raise ValueError(
                f"{self!r}: x has the number {int(wrong.flat[0])}; expected 0 to {self.num_embeddings - 1}. Count from "
                f"0 or give a larger num_embeddings."
            )
