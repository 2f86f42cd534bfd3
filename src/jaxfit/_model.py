"""What `fit` calls a model: a function `model(params, x) -> prediction` or a module, checked before it is compiled."""

import inspect
import sys
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


def kind(model: Any) -> str | None:
    """Whether a model is a flax module, "nnx" or "linen"; None for any other. Imports nothing."""
    for name in ("nnx", "linen"):
        package = sys.modules.get(f"flax.{name}")
        if package is not None and isinstance(model, package.Module):
            return name
    return None


def _is_module_class(function: type) -> bool:
    packages = [sys.modules.get(f"flax.{name}") for name in ("nnx", "linen")]
    return any(package is not None and issubclass(function, package.Module) for package in packages)


def called(module: Any) -> str:
    """What a module is called in messages."""
    return f"model (a flax module, {type(module).__name__})"


def check_callable(name: str, function: Any, arguments: tuple[str, ...], way_out: str) -> None:
    """Raises TypeError where an argument of `fit` is not a function."""
    if isinstance(function, type) and _is_module_class(function):
        raise TypeError(
            f"{name} is the class {function.__name__}; expected a module: make one by {function.__name__}(...)."
        )
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


def traced(
    name: str, function: Callable, *arguments: Any, came: str | None = None, by: Callable = jax.eval_shape
) -> Any:
    """The shapes and dtypes that a user's function returns, found without computing anything.

    Args:
        name: What `fit` calls the function, for messages.
        function: The function.
        arguments: Pytrees of arrays or of their shapes.
        came: What the arguments are called in a message; their shapes where nothing is said.
        by: What traces it.

    Returns:
        What `by` gives; a pytree of `jax.ShapeDtypeStruct` where it is not said.

    Raises:
        TypeError: The function cannot be traced by JAX.
        ValueError: The function fails on arguments of these shapes.
    """
    try:
        return by(function, *arguments)
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
    layer = _layer(error)
    place = f" in its layer {layer}" if layer else ""
    hint = ""
    if name == "model":
        hint = " It is called as model(params, x)."
    elif name.startswith("model (") and came.count(",") == 0 and "[" in came:
        hint = (
            " It is called as model(x); give x an axis for its features, x[:, None], where it is one number per sample."
        )
    return f"{name} fails{place} on {came}: {type(error).__name__}: {_first_line(error)}{hint}"


def _layer(error: BaseException) -> str:
    """Which layer of a module an error came from, such as "layers.0, a Linear"; empty where none shows."""
    layers, trace = [], error.__traceback__
    while trace is not None:
        found = trace.tb_frame.f_locals.get("self")
        if kind(found) is not None:
            layers.append(found)
        trace = trace.tb_next
    if not layers:
        return ""
    first, last = layers[0], layers[-1]
    path = last.path if kind(last) == "linen" else _path(first, last)
    name = type(last).__name__
    short = _checks.dotted([jax.tree_util.DictKey(key) for key in path or ()])
    return f"{short}, {'an' if name[:1] in 'AEIOU' else 'a'} {name}," if path else ""


def _path(root: Any, layer: Any) -> Any:
    nnx = sys.modules["flax.nnx"]
    return next((path for path, part in nnx.iter_modules(root) if part is layer), None)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
