"""How a model runs forward: what its program tells before it is compiled, and prediction in bounded memory."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfit import _checks, _compile, _convolutions, _model, _problem

_BLOCK_BYTES = 1 << 28  # of what a model computes for the samples that it is given at once
# Operations that hand on the numbers that they are given.
_PASSING = {"reshape", "convert_element_type", "squeeze", "broadcast_in_dim", "transpose", "copy", "stop_gradient"}


class Nature(NamedTuple):
    """What the program of a model tells.

    Attributes:
        prediction: The shapes of the prediction.
        row_bytes: At most so many bytes are computed for a sample.
        ending: What the prediction comes out of last, "Softmax" or "Sigmoid"; None for anything else.
        draws: Whether it is random in training.
        unsteady: Whether it is random in evaluation too.
        changes: Whether something that it carries changes in training.
    """

    prediction: Any
    row_bytes: int
    ending: str | None
    draws: bool = False
    changes: bool = False
    unsteady: bool = False


def look(
    meaning: Hashable,
    evaluate: Callable,
    train: Callable | None,
    params: Any,
    carried: Any,
    x: Any,
    name: str = "model",
) -> Nature:
    """Traces a model once for all fits that mean the same, on data of these shapes.

    Args:
        meaning: What it is, as a key.
        evaluate: `evaluate(carried, params, x, key) -> prediction`.
        train: `train(params, carried, x, key) -> (prediction, carried)`; None for a function, or where nobody asks.
        params: Its params, a pytree of arrays.
        carried: What it carries.
        x: A batch of x, arrays or their shapes.
        name: What it is called in messages.

    Raises:
        TypeError: It cannot be traced.
        ValueError: It fails on shapes like these.
    """
    params, carried, x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, carried, x))
    leaves, tree = jax.tree.flatten((params, carried, x))
    key = ("nature", meaning, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves), _compile.settings())

    def make() -> Nature:
        came = _checks.describe_tree(x)
        step = jax.eval_shape(lambda: jax.random.key(0))
        closed, prediction = _model.traced(name, evaluate, carried, params, x, step, came=came, by=_program)
        jaxpr = closed.jaxpr
        nature = Nature(prediction, max(_bytes(jaxpr) // jax.tree.leaves(x)[0].shape[0], 1), _ending(jaxpr))
        nature = nature._replace(unsteady=jaxpr.invars[-1] in _live(jaxpr))
        if train is None:
            return nature
        closed, _ = _model.traced(name, train, params, carried, x, step, came=came, by=_program)
        jaxpr, number = closed.jaxpr, len(jax.tree.leaves(carried))
        first = len(jax.tree.leaves(params))
        before, after = jaxpr.invars[first : first + number], jaxpr.outvars[len(jaxpr.outvars) - number :]
        changes = any(new is not old for new, old in zip(after, before, strict=True))
        return nature._replace(draws=jaxpr.invars[-1] in _live(jaxpr), changes=changes)

    return _compile.kept(key, make)


def _program(function: Callable, *arguments: Any) -> Any:
    return jax.make_jaxpr(function, return_shape=True)(*arguments)


def _live(jaxpr: Any, wanted: Any = None) -> set[Any]:
    """The variables that what a program returns depends on, or the outputs of it that are wanted."""
    live = {variable for variable in (jaxpr.outvars if wanted is None else wanted) if not hasattr(variable, "val")}
    for equation in reversed(jaxpr.eqns):
        used = [variable in live for variable in equation.outvars]
        if not any(used):
            continue
        needed = equation.invars
        if _convolutions.is_call(equation):  # what is handed in and not used, or only handed on, does not count
            held, _ = _convolutions.inner(equation)
            inside = _live(held, [out for out, mine in zip(held.outvars, used, strict=True) if mine])
            pairs = zip(equation.invars, held.invars, strict=True)
            needed = [outer for outer, mine in pairs if mine in inside]
        live.update(variable for variable in needed if not hasattr(variable, "val"))
    return live


def _bytes(jaxpr: Any) -> int:
    """The bytes of all that a program computes on its way."""
    total = 0
    for equation in jaxpr.eqns:
        if _convolutions.is_call(equation):
            total += _bytes(_convolutions.inner(equation)[0])
        else:
            shapes = [variable.aval for variable in equation.outvars]
            total += sum(shape.size * shape.dtype.itemsize for shape in shapes if hasattr(shape, "dtype"))
    return total


def _ending(jaxpr: Any) -> str | None:
    """What the first array that a program returns comes out of."""
    wanted = jaxpr.outvars[0] if jaxpr.outvars else None
    for equation in reversed(jaxpr.eqns):
        if not any(variable is wanted for variable in equation.outvars):
            continue
        name = equation.primitive.name
        if _convolutions.is_call(equation):
            return _ending(_convolutions.inner(equation)[0]) if equation.outvars[0] is wanted else None
        if name == "logistic":
            return "Sigmoid"
        if name == "div":
            makers = [e.primitive.name for e in jaxpr.eqns if equation.invars[0] in list(e.outvars)]
            return "Softmax" if makers == ["exp"] else None
        if name not in _PASSING:
            return None
        wanted = equation.invars[0]
    return None


def predict(model: Callable, x: Any, row_bytes: int) -> Any:
    """A model's prediction for any number of samples inside a program, block by block where they are many.

    Args:
        model: `model(x) -> prediction`, one row for each of x.
        x: A pytree of arrays [n, ...].
        row_bytes: What a sample takes.
    """
    model = _convolutions.in_order(model)
    rows, size = jax.tree.leaves(x)[0].shape[0], rows_at_once(row_bytes)
    if rows <= size:
        return model(x)
    full = rows - rows % size
    blocks = jax.tree.map(lambda leaf: leaf[:full].reshape(-1, size, *leaf.shape[1:]), x)
    found = jax.tree.map(lambda leaf: leaf.reshape(full, *leaf.shape[2:]), lax.map(model, blocks))
    if full == rows:
        return found
    rest = model(jax.tree.map(lambda leaf: leaf[full:], x))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), found, rest)


def is_row_by_row(meaning: Hashable, evaluate: Callable, params: Any, carried: Any, x: Any) -> bool:
    """Whether a prediction for a sample depends on that sample alone, tried on a few samples.

    Args:
        meaning: What the model is, as a key.
        evaluate: `evaluate(carried, params, x) -> prediction`.
        params: Its params.
        carried: What it carries.
        x: All samples.
    """
    rows = jax.tree.leaves(x)[0].shape[0]
    some = np.random.default_rng(0).integers(0, rows, 8, np.int32)
    few = np.concatenate([np.linspace(0, rows - 1, 8).astype(np.int32), some])

    def program(carried: Any, params: Any, few: Any) -> Any:
        return _problem.is_row_by_row(lambda params, x: evaluate(carried, params, x), params, few)

    try:
        chosen = jax.tree.map(lambda leaf: leaf[few], x)
        return bool(_compile.call(program, ("rows", meaning), carried, params, chosen, options=_compile.HASTY)[0])
    except Exception:  # what it returns has no rows, or it cannot be given a few samples
        return False


def predict_blocks(
    meaning: Hashable, evaluate: Callable, params: Any, carried: Any, x: Any, name: str = "model"
) -> Any:
    """A module's prediction for any number of samples, program by program: memory holds a block, x may lie on disk.

    Args:
        meaning: What it is, as a key.
        evaluate: `evaluate(carried, params, x) -> prediction`, one row for each of x.
        params: Its params.
        carried: What it carries.
        x: A pytree of arrays [n, ...].
        name: What it is called in messages.

    Raises:
        ValueError: x is empty, or the model fails on its shape.
    """
    rows = jax.tree.leaves(x)[0].shape[0]
    if rows == 0:
        raise ValueError(f"x is {_checks.describe_tree(x)}, which is empty; expected at least one sample.")
    nature = look(meaning, evaluate, None, params, carried, x, name)
    size = rows_at_once(nature.row_bytes)
    if rows > size and not is_row_by_row(meaning, evaluate, params, carried, x):
        size = rows  # samples that are seen together stay together
    # The last block reaches back to be full: a block of another length would be another program.
    starts = [*range(0, rows - size, size), max(rows - size, 0)]
    found = []
    for start in starts:
        block = jax.tree.map(lambda leaf: leaf[start : start + size], x)  # noqa: B023 (called at once)
        found.append(_compile.call(evaluate, ("predict", meaning), carried, params, block)[0])
    if len(found) == 1:
        return found[0]
    done = starts[-2] + size - starts[-1]
    found[-1] = jax.tree.map(lambda leaf: leaf[done:], found[-1])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def rows_at_once(row_bytes: int) -> int:
    """How many samples a model is given at once, a power of two."""
    return 1 << (max(_BLOCK_BYTES // row_bytes, 1).bit_length() - 1)
