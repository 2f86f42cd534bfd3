"""Pooling, channels last."""

from typing import Any

import jax
from flax import nnx
from jax.typing import ArrayLike

from jaxfit.nn import _shared
from jaxfit.nn._module import Module


class _Pool2d(Module):
    """What both ways of pooling share."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ):
        self.kernel_size = _shared.sizes(self, "kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else _shared.sizes(self, "stride", stride, 2)
        self.padding = _shared.sizes(self, "padding", padding, 2, least=0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"{_shared.name(self)}: padding is {padding} and kernel_size {kernel_size}; expected at most half of "
                f"the kernel, so that each window holds something of x."
            )

    def extra_repr(self) -> str:
        """The arguments."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"

    def _read(self, x: Any) -> tuple[jax.Array, dict[str, Any]]:
        """The input, and what flax's functions are told."""
        x = _shared.floats(self, x)
        if x.ndim not in (3, 4):
            raise _shared.wrong_shape(self, "[N, H, W, C] or [H, W, C]", x)
        _shared.windows(self, x, self.kernel_size, self.padding)
        around = tuple((p, p) for p in self.padding)
        return x, {"window_shape": self.kernel_size, "strides": self.stride, "padding": around}


class MaxPool2d(_Pool2d):
    """The largest entry of each window of `[N, H, W, C]`, channels last.

    Args:
        kernel_size: Height and width of a window, or one number for both.
        stride: Step from one window to the next; by default the window's size.
        padding: How many entries are added at each side, which never are the largest.

    A call takes x `[N, H, W, C]` or `[H, W, C]` and returns x's dtype. Windows that would reach over the edge are left
    out: `H' = (H + 2 padding - kernel_size) // stride + 1`. Of equal entries the first gets the gradient.

    Raises:
        TypeError: An argument is of the wrong kind, or x is not floating-point.
        ValueError: A size is not allowed, or x does not fit.

    Source: `torch.nn.MaxPool2d`, whose channels come second.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.MaxPool2d(2)(jnp.ones((4, 29, 29, 3))).shape
        (4, 14, 14, 3)
    """

    def __call__(self, x: ArrayLike) -> jax.Array:
        array, options = self._read(x)
        return nnx.max_pool(array, **options)


class AvgPool2d(_Pool2d):
    """The mean of each window of `[N, H, W, C]`, channels last.

    Args:
        kernel_size: Height and width of a window, or one number for both.
        stride: Step from one window to the next; by default the window's size.
        padding: How many zeros are added at each side.
        count_include_pad: Whether the mean counts these zeros.

    A call takes x `[N, H, W, C]` or `[H, W, C]` and returns x's dtype. Windows that would reach over the edge are left
    out: `H' = (H + 2 padding - kernel_size) // stride + 1`.

    Raises:
        TypeError: An argument is of the wrong kind, or x is not floating-point.
        ValueError: A size is not allowed, or x does not fit.

    Source: `torch.nn.AvgPool2d`, whose channels come second.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxfit import nn
        >>> nn.AvgPool2d(3, stride=2, padding=1)(jnp.ones((4, 28, 28, 3))).shape
        (4, 14, 14, 3)
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = _shared.flag(self, "count_include_pad", count_include_pad)

    def extra_repr(self) -> str:
        """The arguments."""
        return super().extra_repr() + ", count_include_pad=False" * (not self.count_include_pad)

    def __call__(self, x: ArrayLike) -> jax.Array:
        array, options = self._read(x)
        means = nnx.avg_pool(array, count_include_pad=self.count_include_pad, **options)
        return means.astype(array.dtype)
