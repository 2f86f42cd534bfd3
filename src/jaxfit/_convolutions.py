"""Convolutions that stay fast inside a compiled loop on CPU.

XLA:CPU has a fast kernel for convolutions whose axes are in one order: batch, space, features for the input, and space,
features in, features out for the filter. It brings others into that order in the outermost computation of a program
alone; inside a loop they are run number by number, twenty times slower (jaxlib 0.10). The gradients of a convolution
are convolutions with other orders, and a fit is a loop: so they are brought into order here, before XLA sees them.

The gradient of a filter is a convolution whose window is as large as an image. It is faster still as one product of
matrices for each place in the filter: four times, for filters of 3 x 3.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

_MOST_PRODUCTS = 64  # a program with more takes long to compile
# Operations that only hold a program of their own, which may stand in their place.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2", "custom_jvp_call"}
_CALLS |= {"custom_vjp_call", "custom_vjp_call_jaxpr"}


def in_order(function: Callable) -> Callable:
    """The same function, its convolutions in the order that is fast on CPU; the function itself elsewhere.

    Args:
        function: A function of pytrees of arrays, which is not differentiated any more.
    """
    if jax.default_backend() != "cpu":
        return function

    @functools.wraps(function)
    def ordered(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if not _convolves(closed.jaxpr):
            return function(*args)
        found = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return ordered


def _convolves(jaxpr: Any) -> bool:
    """Whether a program convolves anywhere outside its own loops and branches."""
    return any(
        equation.primitive is lax.conv_general_dilated_p or (is_call(equation) and _convolves(inner(equation)[0]))
        for equation in jaxpr.eqns
    )


def is_call(equation: Any) -> bool:
    """Whether an operation only holds a program of its own."""
    return equation.primitive.name in _CALLS


def inner(equation: Any) -> tuple[Any, Any]:
    """The program that an operation holds, and its constants."""
    held = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in equation.params)
    return getattr(held, "jaxpr", held), getattr(held, "consts", ())


def _evaluate(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """Traces a program anew, operation by operation."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for equation in jaxpr.eqns:
        values = [variable.val if hasattr(variable, "val") else known[variable] for variable in equation.invars]
        primitive = equation.primitive
        if primitive is lax.conv_general_dilated_p:
            found = [_ordered(values[0], values[1], equation.params)]
        elif is_call(equation) and _convolves(inner(equation)[0]):
            found = _evaluate(*inner(equation), args=values)
        else:
            found = primitive.bind(*values, **primitive.get_bind_params(equation.params))
            found = found if primitive.multiple_results else [found]
        known.update(zip(equation.outvars, found, strict=True))
    return [variable.val if hasattr(variable, "val") else known[variable] for variable in jaxpr.outvars]


def _ordered(operand: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """A convolution with axes in the order that is fast, between transpositions."""
    given = params["dimension_numbers"]
    if _is_of_a_filter(operand, kernel, params):
        return _products(operand, kernel, params)
    last, space = operand.ndim - 1, range(1, operand.ndim - 1)
    fast = lax.ConvDimensionNumbers((0, last, *space), (last, last - 1, *range(last - 1)), (0, last, *space))
    if given == fast:
        return lax.conv_general_dilated_p.bind(operand, kernel, **params)
    sample, feature, *places = given.lhs_spec
    operand = lax.transpose(operand, (sample, *places, feature))
    out, into, *places = given.rhs_spec
    kernel = lax.transpose(kernel, (*places, into, out))
    found = lax.conv_general_dilated_p.bind(operand, kernel, **params | {"dimension_numbers": fast})
    sample, feature, *places = given.out_spec
    return lax.transpose(found, tuple(map(int, np.argsort([sample, *places, feature]))))


def _is_of_a_filter(operand: Any, kernel: Any, params: dict[str, Any]) -> bool:
    """Whether a convolution has a large window and few places for it, as the gradient of a filter has."""
    given = params["dimension_numbers"]
    groups = params["feature_group_count"], params["batch_group_count"], *params["lhs_dilation"]
    window, places = (math.prod(sizes) for sizes in (_sizes(kernel, given.rhs_spec), _places(operand, kernel, params)))
    return all(count == 1 for count in groups) and 1 <= places < min(window, _MOST_PRODUCTS + 1)


def _sizes(array: Any, spec: Any) -> list[int]:
    return [array.shape[axis] for axis in spec[2:]]


def _places(operand: Any, kernel: Any, params: dict[str, Any]) -> list[int]:
    """At how many places the window lies, along each axis of space."""
    given = params["dimension_numbers"]
    along = zip(
        _sizes(operand, given.lhs_spec), _sizes(kernel, given.rhs_spec), params["padding"], params["window_strides"],
        params["rhs_dilation"], strict=True,
    )  # fmt: skip
    return [(size + low + high - (window - 1) * step - 1) // by + 1 for size, window, (low, high), by, step in along]


def _products(operand: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """A convolution as a product of matrices for each place of its window."""
    given, places = params["dimension_numbers"], _places(operand, kernel, params)
    sample, feature, *space = given.lhs_spec
    operand = lax.transpose(operand, (feature, *space, sample))
    edges = [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)]
    operand = lax.pad(operand, np.zeros((), operand.dtype), edges)
    out, into, *space = given.rhs_spec
    kernel = lax.transpose(kernel, (into, *space, out))
    inner = tuple(range(kernel.ndim - 1))
    rows = []
    for place in np.ndindex(*places):
        start = [at * by for at, by in zip(place, params["window_strides"], strict=True)]
        steps = params["rhs_dilation"]
        end = [a + (size - 1) * step + 1 for a, size, step in zip(start, kernel.shape[1:-1], steps, strict=True)]
        seen = lax.slice(
            operand, (0, *start, 0), (operand.shape[0], *end, operand.shape[-1]), (1, *steps, 1)
        )  # what the window covers, [features, space, samples]
        rows.append(
            lax.dot_general(
                seen, kernel, ((inner, inner), ((), ())), params["precision"], params["preferred_element_type"]
            )
        )
    found = lax.reshape(lax.concatenate([row[None] for row in rows], 0), (*places, *rows[0].shape))
    sample, feature, *space = given.out_spec
    order = np.argsort([*space, sample, feature])
    return lax.transpose(found, tuple(map(int, order)))
