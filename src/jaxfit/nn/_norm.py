"""Normalisation over a batch or over the features of an example."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from jaxfit.nn import _shared
from jaxfit.nn._module import Module


class LayerNorm(Module, nnx.LayerNorm):
    """Shifts and scales the last axes of each example to mean 0 and variance 1, then by learned numbers.

    Args:
        normalized_shape: Lengths of the last axes of x that are normalised together; a number for one axis.
        eps: Added to the variance.
        elementwise_affine: Whether `scale` is learned, and `bias` too.
        bias: Whether `bias` is learned where `scale` is.
        rngs: Not needed: the starting values are constants.
        dtype: Of the result; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    `scale` (torch's weight) starts at 1 and `bias` at 0, both of shape `normalized_shape`. A call takes
    x `[..., *normalized_shape]` and returns its shape.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A length is below 1, eps is negative, or x does not fit.

    Source: `torch.nn.LayerNorm`; Ba, Kiros and Hinton, "Layer normalization", 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.LayerNorm(2, eps=0.0)
        >>> layer(jnp.array([[1.0, 3.0]])).round(3).tolist()
        [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        rank = max(len(normalized_shape), 1) if isinstance(normalized_shape, (tuple, list)) else 1
        self.normalized_shape = _shared.sizes(self, "normalized_shape", normalized_shape, rank)
        affine = _shared.flag(self, "elementwise_affine", elementwise_affine)
        axes = tuple(range(-rank, 0))
        super().__init__(
            math.prod(self.normalized_shape),
            epsilon=_shared.number(self, "eps", eps, least=0),
            dtype=dtype,
            param_dtype=param_dtype,
            use_scale=affine,
            use_bias=_shared.flag(self, "bias", bias) and affine,
            reduction_axes=axes,
            feature_axes=axes,
            use_fast_variance=False,  # the fast one loses digits where the mean is large
            rngs=_shared.unused_random(self, rngs),
        )
        for variable in (self.scale, self.bias):
            if variable is not None:  # flax keeps them in a row
                variable.set_value(variable.get_value().reshape(self.normalized_shape))

    def extra_repr(self) -> str:
        """The arguments."""
        bias = ", bias=False" * (self.use_scale and not self.use_bias)
        return f"{self.normalized_shape}, eps={self.epsilon}, elementwise_affine={self.use_scale}{bias}"

    def __call__(self, x: ArrayLike, *, mask: jax.Array | None = None) -> jax.Array:
        x = _shared.numbers(self, x)
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise _shared.wrong_shape(self, f"[..., {', '.join(map(str, self.normalized_shape))}]", x)
        return super().__call__(x, mask=mask)


class _BatchNorm(Module, nnx.BatchNorm):
    """What both batch normalisations share."""

    _axes: ClassVar[dict[int, str]] = {}  # what x may look like before its channels, by its number of axes

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        affine = _shared.flag(self, "affine", affine)
        super().__init__(
            _shared.size(self, "num_features", num_features),
            momentum=1 - _shared.number(self, "momentum", momentum, least=0, most=1),  # flax's is what stays
            epsilon=_shared.number(self, "eps", eps, least=0),
            dtype=dtype,
            param_dtype=param_dtype,
            use_scale=affine,
            use_bias=affine,
            use_fast_variance=False,  # the fast one loses digits where the mean is large
            rngs=_shared.unused_random(self, rngs),
        )
        for statistic in (self.mean, self.var):
            statistic.set_value(statistic.get_value().astype(jnp.promote_types(param_dtype, jnp.float32)))

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.num_features}, eps={self.epsilon}, momentum={1 - self.momentum:.6g}, affine={self.use_scale}"

    def __call__(
        self, x: ArrayLike, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        x = _shared.numbers(self, x)
        if x.ndim not in self._axes or x.shape[-1] != self.num_features:
            expected = " or ".join(f"[{axes}, {self.num_features}]" for axes in self._axes.values())
            way_out = _shared.channels_last(x, self.num_features, x.ndim - 2) if x.ndim in self._axes else ""
            raise _shared.wrong_shape(self, expected, x, way_out)
        running = self.use_running_average if use_running_average is None else use_running_average
        if running:
            return super().__call__(x, True, mask=mask)
        if x.size <= self.num_features:
            raise ValueError(
                f"{self!r}: x has shape {x.shape}, one number for each channel; expected more in training, as one "
                f"has no variance. Call net.eval() to take the running statistics."
            )
        return self._train(x, mask)

    def _train(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Normalises by the batch's statistics and updates the running ones, of torch's unbiased variance.

        Flax's own update would take the biased variance, and warn where x is wider than the running statistics.
        """
        scale, bias = (None if each is None else each[...] for each in (self.scale, self.bias))
        x, scale, bias, *_ = self.promote_dtype((x, scale, bias, self.mean[...], self.var[...]), dtype=self.dtype)
        axes = tuple(range(x.ndim - 1))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # sums in half precision would lose digits
        mean = jnp.mean(wide, axes, where=mask)
        var = jnp.mean(jnp.square(wide - mean), axes, where=mask)
        count: Any = x.size // self.num_features
        if mask is not None:
            count = jnp.sum(jnp.broadcast_to(mask, x.shape), axes)
        self._update(self.mean, mean)
        self._update(self.var, var * (count / jnp.maximum(count - 1, 1)))
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon)
        y = y if scale is None else y * scale
        return (y if bias is None else y + bias).astype(x.dtype)

    def _update(self, running: nnx.BatchStat, batch: jax.Array) -> None:
        old = running[...]
        new = self.momentum * old + (1 - self.momentum) * batch
        running[...] = jax.lax.stop_gradient(new).astype(old.dtype)


class BatchNorm1d(_BatchNorm):
    """Shifts and scales each channel over the batch to mean 0 and variance 1, then by learned numbers.

    Args:
        num_features: Channels C of x.
        eps: Added to the variance.
        momentum: Share of the newest batch in the running statistics: `new = (1 - momentum) * old + momentum * batch`,
            as in torch. The attribute `momentum` has flax's meaning, what stays: 1 less this.
        affine: Whether `scale` and `bias` are learned.
        rngs: Not needed: the starting values are constants.
        dtype: Of the result; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    `scale` (torch's weight) starts at 1 and `bias` at 0. A call takes x `[N, C]` or `[N, L, C]`, channels last, and
    returns its shape. In training it normalises by the batch's mean and biased variance, and updates the running
    `mean` and `var` (of unbiased variances, as in torch); after `net.eval()` it normalises by these.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A number is out of range, x does not fit, or in training a channel has one number alone.

    Source: `torch.nn.BatchNorm1d`, whose channels come second; Ioffe and Szegedy, "Batch normalization", 2015.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.BatchNorm1d(1)
        >>> layer(jnp.array([[1.0], [3.0]])).round(3).tolist()
        [[-1.0], [1.0]]
        >>> round(float(layer.mean[0]), 3), round(float(layer.var[0]), 3)
        (0.2, 1.1)
    """

    _axes: ClassVar[dict[int, str]] = {2: "N", 3: "N, L"}


class BatchNorm2d(_BatchNorm):
    """Shifts and scales each channel of `[N, H, W, C]` to mean 0 and variance 1 over the batch, then as it learns.

    Args:
        num_features: Channels C of x.
        eps: Added to the variance.
        momentum: Share of the newest batch in the running statistics: `new = (1 - momentum) * old + momentum * batch`,
            as in torch. The attribute `momentum` has flax's meaning, what stays: 1 less this.
        affine: Whether `scale` and `bias` are learned.
        rngs: Not needed: the starting values are constants.
        dtype: Of the result; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    All is as in `BatchNorm1d`, but that a call takes x `[N, H, W, C]`, channels last.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A number is out of range, x does not fit, or in training a channel has one number alone.

    Source: `torch.nn.BatchNorm2d`, whose channels come second; Ioffe and Szegedy, "Batch normalization", 2015.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.BatchNorm2d(3)(jnp.ones((4, 5, 5, 3))).shape
        (4, 5, 5, 3)
    """

    _axes: ClassVar[dict[int, str]] = {4: "N, H, W"}
