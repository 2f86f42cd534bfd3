"""Convolutions that stay fast inside a compiled loop on CPU.

XLA:CPU has a fast kernel for convolutions whose axes are in one order: batch, space, features for the input, and space,
features in, features out for the filter. It brings others into that order in the outermost computation of a program
alone; inside a loop they are run number by number, twenty times slower (jaxlib 0.10). The gradients of a convolution
are convolutions with other orders, and a fit is a loop: so they are brought into order here, before XLA sees them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

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
