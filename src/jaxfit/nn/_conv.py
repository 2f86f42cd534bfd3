"""Convolutions, channels last."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from jaxfit import _checks
from jaxfit.nn import _shared
from jaxfit.nn._linear import Uniform
from jaxfit.nn._module import Module


class _Conv(Module, nnx.Conv):
    """What convolutions of one and two axes share."""

    _axes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        rank = len(self._axes)
        _check_groups(self, in_channels, out_channels, groups)
        kernel = _shared.sizes(self, "kernel_size", kernel_size, rank)
        strides = _shared.sizes(self, "stride", stride, rank)
        fan_in = in_channels // groups
        for length in kernel:
            fan_in *= length
        super().__init__(
            int(in_channels),
            int(out_channels),
            kernel,
            strides,
            padding=_padding(self, padding, strides),
            kernel_dilation=_shared.sizes(self, "dilation", dilation, rank),
            feature_group_count=int(groups),
            use_bias=_shared.flag(self, "bias", bias),
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=Uniform(fan_in),
            bias_init=Uniform(fan_in),
            rngs=_shared.random(self, rngs),
        )

    def extra_repr(self) -> str:
        """The arguments, without those that change nothing."""
        ones = (1,) * len(self._axes)
        padding = self.padding.lower() if isinstance(self.padding, str) else self.padding
        told = f"{self.in_features}, {self.out_features}, kernel_size={self.kernel_size}, stride={self.strides}"
        told += f", padding={padding}" * (padding != (0,) * len(ones))
        told += f", dilation={self.kernel_dilation}" * (self.kernel_dilation != ones)
        told += f", groups={self.feature_group_count}" * (self.feature_group_count != 1)
        return told + ", bias=False" * (not self.use_bias)

    def __call__(self, inputs: ArrayLike, out_sharding: Any = None) -> jax.Array:
        x = _shared.numbers(self, inputs)
        rank = len(self._axes)
        if x.ndim <= rank or x.shape[-1] != self.in_features:
            way_out = _shared.channels_last(x, self.in_features, rank)
            raise _shared.wrong_shape(self, f"[..., {', '.join(self._axes)}, {self.in_features}]", x, way_out)
        if self.padding != "SAME":
            around: Any = (0,) * rank if self.padding == "VALID" else self.padding
            _shared.windows(self, x, self.kernel_shape[:rank], around, self.kernel_dilation)  # pyright: ignore[reportArgumentType]
        return super().__call__(x, out_sharding)


def _check_groups(layer: Any, in_channels: Any, out_channels: Any, groups: Any) -> None:
    groups = _shared.size(layer, "groups", groups)
    for argument, channels in {"in_channels": in_channels, "out_channels": out_channels}.items():
        if _shared.size(layer, argument, channels) % groups:
            raise ValueError(
                f"{_shared.name(layer)}: {argument} is {channels} and groups {groups}; expected a multiple of groups."
            )


def _padding(layer: Any, padding: Any, strides: tuple[int, ...]) -> str | tuple[int, ...]:
    """Torch's padding in flax's words."""
    if not isinstance(padding, str):
        return _shared.sizes(layer, "padding", padding, len(strides), least=0)
    _checks.one_of(_shared.name(layer), "padding", padding, ("same", "valid"))
    if padding == "same" and any(step != 1 for step in strides):
        raise ValueError(
            f"{_shared.name(layer)}: padding is 'same' and stride {strides}; expected stride 1. Give the padding as a "
            f"number, e.g. kernel_size // 2."
        )
    return padding.upper()


class Conv1d(_Conv):
    """Convolution over one axis of `[N, L, C]`, channels last.

    Args:
        in_channels: Channels C of x.
        out_channels: Channels of what is returned.
        kernel_size: Length of the kernel.
        stride: Step from one place of the kernel to the next.
        padding: How many zeros are added at each end; or `"same"` (as many as keep the length, for stride 1) or
            `"valid"` (none).
        dilation: Distance between the kernel's entries.
        groups: Into how many parts the channels are split that do not see each other.
        bias: Whether a bias is added.
        rngs: Where the starting values come from.
        dtype: What to compute in; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    `kernel` is `[kernel_size, in_channels // groups, out_channels]`; it and `bias` start uniform within
    ±1/sqrt(fan_in), where `fan_in = in_channels // groups * kernel_size`. A call takes x `[N, L, in_channels]` (any
    leading axes, or none) and returns `[N, L', out_channels]` with torch's L'.

    Raises:
        TypeError: `rngs` is missing, or an argument is of the wrong kind.
        ValueError: A size is not allowed, or x does not fit.

    Source: `torch.nn.Conv1d`, whose channels come second.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.Conv1d(3, 8, kernel_size=5, stride=2, rngs=nn.Rngs(0))
        >>> layer(jnp.ones((4, 21, 3))).shape
        (4, 9, 8)
    """

    _axes = ("L",)


class Conv2d(_Conv):
    """Convolution over two axes of `[N, H, W, C]`, channels last.

    Args:
        in_channels: Channels C of x.
        out_channels: Channels of what is returned.
        kernel_size: Height and width of the kernel, or one number for both, as all sizes here.
        stride: Step from one place of the kernel to the next.
        padding: How many zeros are added at each side; or `"same"` (as many as keep H and W, for stride 1) or
            `"valid"` (none).
        dilation: Distance between the kernel's entries.
        groups: Into how many parts the channels are split that do not see each other.
        bias: Whether a bias is added.
        rngs: Where the starting values come from.
        dtype: What to compute in; by default the common dtype of x and the weights.
        param_dtype: Of the weights.

    `kernel` is `[*kernel_size, in_channels // groups, out_channels]`; it and `bias` start uniform within
    ±1/sqrt(fan_in), where fan_in is the number of inputs of one output. A call takes x `[N, H, W, in_channels]` (any
    leading axes, or none) and returns `[N, H', W', out_channels]` with torch's H' and W'.

    Raises:
        TypeError: `rngs` is missing, or an argument is of the wrong kind.
        ValueError: A size is not allowed, or x does not fit.

    Source: `torch.nn.Conv2d`, whose channels come second.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> layer = nn.Conv2d(3, 8, kernel_size=3, padding=1, rngs=nn.Rngs(0))
        >>> layer(jnp.ones((4, 28, 28, 3))).shape
        (4, 28, 28, 8)
    """

    _axes = ("H", "W")
