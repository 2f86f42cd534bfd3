"""The base of all modules, which prints them as torch does, and layers one after another."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, overload

from flax import nnx

from jaxfit import _checks
from jaxfit.nn import _tree


class Module(nnx.Module):
    """The base of jaxfit's modules and of your own: flax's, printed as torch prints.

    A module keeps layers and `flax.nnx.Param` as attributes and computes in `__call__`. A subclass may define
    `extra_repr()`, which returns what is printed in the brackets.

    Source: `torch.nn.Module`, `flax.nnx.Module`.

    Example:
        >>> from jaxfit import nn
        >>> class Residual(nn.Module):
        ...     def __init__(self, width, *, rngs):
        ...         self.inner = nn.Linear(width, width, rngs=rngs)
        ...
        ...     def __call__(self, x):
        ...         return x + self.inner(x)
        >>> Residual(3, rngs=nn.Rngs(0))
        Residual(
          (inner): Linear(in_features=3, out_features=3, bias=True)
        )
    """

    def extra_repr(self) -> str:
        """What is printed in the brackets after the module's name; by default nothing."""
        return ""

    def __repr__(self) -> str:
        return _tree.text(self)

    def __str__(self) -> str:
        return _tree.text(self)

    def train(self, **attributes: Any) -> Any:
        """Switches dropout and batch statistics on, in place, and returns the module as torch does."""
        super().train(**attributes)
        return self

    def eval(self, **attributes: Any) -> Any:
        """Switches dropout off and takes running statistics, in place, and returns the module as torch does."""
        super().eval(**attributes)
        return self


class Sequential(Module, nnx.Sequential):
    """Layers one after another, each applied to what the one before returns.

    Args:
        layers: Modules or plain functions such as `jnp.tanh`. `net[0]` is the first of them, `net[:2]` a Sequential of
            two that shares their arrays, `len(net)` their number.

    A layer that returns a tuple gives the next one several arguments, and a dict named ones, as in flax. Keywords
    of a call go to each layer that knows them: `net(x, deterministic=True)`.

    Raises:
        TypeError: A layer cannot be called, or is a class. An input error of a layer is raised as it is, its message
            beginning with the layer's position.

    Source: `torch.nn.Sequential`.

    Example:
        >>> from jaxfit import nn
        >>> rngs = nn.Rngs(0)
        >>> nn.Sequential(nn.Linear(2, 5, rngs=rngs), nn.ReLU(), nn.Dropout(0.3, rngs=rngs))
        Sequential(
          (0): Linear(in_features=2, out_features=5, bias=True)
          (1): ReLU()
          (2): Dropout(p=0.3)
        )
    """

    def __init__(self, *layers: Callable[..., Any]):
        for position, layer in enumerate(layers):
            if isinstance(layer, type) or not callable(layer):
                way_out = f"{layer.__name__}(...)" if isinstance(layer, type) else "Sequential(*layers) for a list"
                raise TypeError(
                    f"Sequential: layer {position} is {_checks.describe(layer)}; expected a module or a function, "
                    f"e.g. {way_out}."
                )
        super().__init__(*layers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.layers:
            return super().__call__(*args, **kwargs)
        output: Any = None
        for position, layer in enumerate(self.layers):
            named = _known_keywords(layer, kwargs) if kwargs else {}
            if position:
                args = output if isinstance(output, tuple) else () if isinstance(output, dict) else (output,)
                named = output | named if isinstance(output, dict) else named
            try:
                output = layer(*args, **named)
            except Exception as error:
                _name_position(error, position)
                raise
        return output

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(*self.layers[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"Sequential has {len(self)} layers; there is no layer {index}.")
        return self.layers[index]


def _known_keywords(layer: Callable[..., Any], keywords: dict[str, Any]) -> dict[str, Any]:
    try:
        known = inspect.signature(layer).parameters
    except (TypeError, ValueError):  # a function written in C
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return dict(keywords)
    return {name: value for name, value in keywords.items() if name in known}


def _name_position(error: Exception, position: int) -> None:
    """Says in an error where it came from; one that is more than its message gets a note instead."""
    where = f"layer {position} of Sequential"
    if type(error) in (TypeError, ValueError) and len(error.args) == 1:
        error.args = (f"{where}: {error.args[0]}",)
    else:
        error.add_note(f"Raised in {where}.")
