"""What `fit` calls a model: a pure function `model(params, x) -> prediction`, checked once before it is compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxfit import _checks

_TRACING_ERRORS = (
    jax.errors.ConcretizationTypeError,  # also its kinds: a tracer as a bool, as an integer
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

# What the user's functions are called with, and a word of help.
MODEL = ("params", "x"), "A model takes all its params as one argument, a pytree, and then x."
LOSS = ("prediction", "target"), "Take one of jaxfit.losses, or write your own."
METRIC = ("prediction", "target"), "A metric returns one number."
SAMPLER = ("key",), "A sampler draws a fresh batch (x, y) from a random key."


def check_callable(name: str, function: Any, arguments: tuple[str, ...], way_out: str) -> None:
    """Raises TypeError where an argument of `fit` is not a function."""
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"{name} is {_checks.describe(function)}; {_wanted(name, arguments)}. {way_out}")


def check_signature(name: str, function: Callable, arguments: tuple[str, ...], way_out: str) -> None:
    """Raises TypeError where a function cannot be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function that does not say what it takes
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} takes {signature}; {_wanted(name, arguments)}. {way_out}") from error


def _wanted(name: str, arguments: tuple[str, ...]) -> str:
    return f"expected a function {name}({', '.join(arguments)})"


def traced(name: str, function: Callable, *arguments: Any, came: str | None = None) -> Any:
    """The shapes and dtypes that a user's function returns, found without computing anything.

    Args:
        name: What `fit` calls the function, for messages.
        function: The function.
        arguments: Pytrees of arrays or of their shapes.
        came: What the arguments are called in a message; their shapes where nothing is said.

    Returns:
        A pytree of `jax.ShapeDtypeStruct`.

    Raises:
        TypeError: The function cannot be traced by JAX.
        ValueError: The function fails on arguments of these shapes.
    """
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        came = came or " and ".join(_checks.describe_tree(argument) for argument in arguments)
        kind = TypeError if isinstance(error, (TypeError, *_TRACING_ERRORS)) else ValueError
        raise kind(complaint(name, error, came)) from error


def complaint(name: str, error: Exception, came: str) -> str:
    """What to say where a user's function fails while it is traced."""
    if isinstance(error, _TRACING_ERRORS):
        return (
            f"{name} cannot be traced by JAX ({_first_line(error)}) Write it with jax.numpy in place of NumPy or math, "
            "and with jnp.where or jax.lax.cond in place of `if` on values."
        )
    hint = " It is called as model(params, x)." if name == "model" else ""
    return f"{name} fails on {came}: {type(error).__name__}: {_first_line(error)}{hint}"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
