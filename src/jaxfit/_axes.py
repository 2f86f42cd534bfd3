"""Which arguments of many fits have an axis of fits, found by their shapes, and what is said where these disagree."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _inputs, _limits, _model, _modules
from jaxfit.optimizers import Optimizer

Shape = tuple[int, ...]


class Dealt(NamedTuple):
    """A pytree of arrays, some of which have the fits as their first axis.

    Attributes:
        tree: The pytree; None for nothing.
        own: For each leaf, whether it has that axis, a pytree of bools like it.
    """

    tree: Any
    own: Any

    @classmethod
    def shared(cls, tree: Any) -> "Dealt":
        """One that all fits share."""
        return cls(tree, jax.tree.map(lambda _: False, tree))

    @classmethod
    def each(cls, tree: Any) -> "Dealt":
        """One of which each fit has its own."""
        return cls(tree, jax.tree.map(lambda _: True, tree))

    def at(self, index: int, clean: Callable[[np.ndarray], np.ndarray] = lambda leaf: leaf) -> Any:
        """That of one fit; its own leaves cleaned of what would be refused."""
        return jax.tree.map(lambda leaf, own: clean(_native(leaf[index])) if own else leaf, self.tree, self.own)

    def over(self, one: Any) -> "Dealt":
        """The same, with the leaves of one fit, as they have been checked, in the place of those that all share."""
        whole = jax.tree.map(lambda own, leaf, checked: leaf if own else checked, self.own, self.tree, one)
        return Dealt(whole, self.own)

    @property
    def flags(self) -> list[bool]:
        """Of each leaf, whether it has the axis."""
        return jax.tree.leaves(self.own)

    def is_finite(self, index: int) -> bool:
        """Whether the own leaves of a fit are finite."""
        mine = [
            np.asarray(leaf[index]) for leaf, own in zip(jax.tree.leaves(self.tree), self.flags, strict=True) if own
        ]
        return all(np.isfinite(leaf).all() for leaf in mine if leaf.dtype.kind in "fc")


def _native(leaf: Any) -> np.ndarray:
    """A NumPy array in this machine's order of bytes."""
    array = np.asarray(leaf)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def data(x: Any, y: Any) -> tuple[Dealt, Dealt, int]:
    """X and y, of which y has the axis, and how many fits there are.

    Raises:
        TypeError: Something is not arrays.
        ValueError: y has no axis of fits, or the lengths of x and y disagree.
    """
    x, y = (jax.tree.map(_array, _inputs.gathered(part)) for part in (x, y))
    shapes = [leaf.shape for leaf in jax.tree.leaves(y)]
    if not shapes or any(len(shape) < 2 for shape in shapes):
        raise ValueError(f"y is {_checks.describe_tree(y)}; expected arrays [fits, n, ...]: fit takes a single set.")
    count, lengths = shapes[0][0], {shape[1] for shape in shapes}
    if len({shape[0] for shape in shapes}) > 1 or count == 0:
        raise ValueError(f"y is {_checks.describe_tree(y)}; expected the same number of fits, at least 1, for all.")

    def own(path: Any, leaf: Any) -> bool:
        if leaf.shape[:1] == (count,) and leaf.ndim > 1 and leaf.shape[1] in lengths:
            return True
        if leaf.ndim and (leaf.shape[0] in lengths or _is_only(leaf, lengths)):
            return False
        n, came = " or ".join(map(str, sorted(lengths))), _checks.describe(leaf)
        raise ValueError(
            f"x{jax.tree_util.keystr(path)} is {came} where y is {_checks.describe_tree(y)}; expected [{n}, ...] for "
            f"all fits, or [{count}, {n}, ...]."
        )

    own_x = jax.tree_util.tree_map_with_path(own, x)
    x = jax.tree.map(lambda leaf, own: leaf if own or not _is_only(leaf, lengths) else leaf[0], x, own_x)
    return Dealt(x, own_x), Dealt.each(y), count


def _is_only(leaf: Any, lengths: set[int]) -> bool:
    """Whether a leaf of x has an axis of length 1 in the place of that of the fits: one says so that all share it."""
    return leaf.ndim > 1 and leaf.shape[0] == 1 and leaf.shape[1] in lengths and 1 not in lengths


def _array(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):  # what lies on several devices comes in, to be dealt anew
        return np.asarray(leaf) if len(leaf.devices()) > 1 else leaf
    if isinstance(leaf, np.ndarray):
        return leaf
    try:
        array = np.asarray(leaf)
    except Exception as error:
        raise TypeError(f"data hold {_checks.describe(leaf)}, which NumPy cannot read: {error}") from error
    if array.dtype.kind not in "fciub":
        raise TypeError(f"data hold {_checks.describe(array)}; expected arrays of numbers.")
    return array


def beside(name: str, given: Any, shapes: Iterable[Shape], count: int, *, alone: bool) -> Dealt:
    """What goes with y, sigma or weights.

    Args:
        name: What it is called.
        given: What the user said, or None.
        shapes: The shapes that it may have for one fit.
        count: How many fits there are.
        alone: Whether it may be a number for each fit.

    Raises:
        ValueError: It has another shape.
    """
    shapes, given = set(shapes), _inputs.gathered(given)
    several = {(count, *shape) for shape in shapes} | ({(count,)} if alone else set())

    def own(leaf: Any) -> bool:
        shape = np.shape(leaf)
        if shape in shapes or (alone and shape == ()):
            return False
        if shape in several:
            return True
        expected = " or ".join(map(str, sorted(shapes | several)))
        raise ValueError(f"{name} has shape {shape}; expected {expected} for {count} fits.")

    return Dealt(given, jax.tree.map(own, given))


def optimizer(given: Any, count: int) -> tuple[Any, Dealt | None]:
    """The optimizer of one fit, and its numbers; None for these where the fit chooses the optimizer.

    Raises:
        ValueError: A number is an array of another length.
    """
    if not isinstance(given, Optimizer):
        return given, None
    leaves, tree = jax.tree_util.tree_flatten_with_path(given)
    for path, leaf in leaves:
        if np.shape(leaf) not in ((), (count,)):
            name = f"{type(given).__name__}: {jax.tree_util.keystr(path, simple=True)}"
            raise ValueError(f"{name} has shape {np.shape(leaf)}; expected a number, or ({count},), one for each fit.")
    for field in dataclasses.fields(given):  # arrays are checked by their ends
        value = getattr(given, field.name)
        if isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value):
            for end in (np.min(value), np.max(value)):
                dataclasses.replace(given, **{field.name: float(end)})
    numbers = [leaf for _, leaf in leaves]
    own = [np.ndim(leaf) > 0 for leaf in numbers]
    # An array of one number, not a number: a plain zero would be an option that is off.
    first = [np.asarray(leaf)[:1].reshape(()) if mine else leaf for leaf, mine in zip(numbers, own, strict=True)]
    return tree.unflatten(first), Dealt(numbers, own)


def keys(given: Any) -> Any:
    """A list of ints or JAX keys as an array; anything else as it is.

    Raises:
        TypeError: The list is no array.
    """
    if isinstance(given, list) and given and all(isinstance(one, jax.Array) and one.ndim == 0 for one in given):
        return jax.numpy.stack(given)
    if not isinstance(given, (range, list)):
        return given
    try:
        return np.asarray(given)
    except ValueError as error:
        raise TypeError(f"key is a list that is no array of ints: {error}") from error


def key(given: Any, count: int) -> tuple[Any, np.ndarray | None]:
    """The key of one fit, and the data of all where each has its own.

    Raises:
        TypeError: They are no ints or keys.
        ValueError: There is another number of them.
    """
    given = keys(given)
    if not isinstance(given, (np.ndarray, jax.Array)) or given.ndim != 1:
        return given, None
    is_key = jax.numpy.issubdtype(given.dtype, jax.dtypes.prng_key)
    if not is_key and given.dtype == np.uint32 and given.shape == (2,):
        return given, None  # a single key of the old kind
    if not is_key and given.dtype.kind not in "iu":
        raise TypeError(f"key is {_checks.describe(given)}; expected ints or JAX keys.")
    if len(given) != count:
        raise ValueError(f"key has {len(given)} entries; expected one, or {count}, one for each fit.")
    each = [one if is_key else int(one) for one in given]
    return each[0], np.stack([_inputs.seed(one)[0] for one in each])


def params(model: Any, given: Any, one: Any, count: int) -> Dealt:
    """The starting values: those leaves have the axis whose first has its length, if the model agrees.

    Args:
        model: The model.
        given: What the user said, or None.
        one: The data (x, y) of one fit.
        count: How many fits there are.

    Raises:
        ValueError: They have an axis of another length.
    """
    if given is None or _model.kind(_modules.unwrapped(model)) is not None:
        return Dealt.shared(given)
    dealt = Dealt(given, jax.tree.map(lambda leaf: np.shape(leaf)[:1] == (count,), given))
    shared = any(dealt.flags) and _suits(model, Dealt.shared(given), one)
    if _suits(model, dealt, one):
        if shared:
            came = _checks.describe_tree(jax.tree.map(np.asarray, given))
            raise ValueError(
                f"params is {came} for {count} fits, which may be the params of one fit or have an axis of fits: give "
                f"each leaf that axis, [{count}, ...], by numpy.broadcast_to."
            )
        return dealt
    if any(dealt.flags):
        return Dealt.shared(given) if shared else dealt
    sliced = Dealt(given, jax.tree.map(lambda leaf: np.ndim(leaf) > 0, given))
    if any(sliced.flags) and _suits(model, sliced, one):
        came = _checks.describe_tree(jax.tree.map(np.asarray, given))
        raise ValueError(
            f"params is {came} where y has {count} fits; expected the params of one fit for all, or a first axis of "
            f"{count}."
        )
    return dealt


def _suits(model: Any, params: Dealt, one: Any) -> bool:
    """Whether a model takes params without the axes that they are said to have, and predicts what y is like."""
    try:
        prediction = jax.eval_shape(model, params.at(0, lambda leaf: leaf.astype(float)), one[0])
    except Exception:  # whatever it does with params of the wrong shape
        return False
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (prediction, one[1])]
    return len(shapes[0]) > 1 or shapes[0] == shapes[1]


def bounds(side: Any, params: Any, count: int) -> Dealt:
    """One side of the bounds.

    Args:
        side: What the user said.
        params: The params of one fit.
        count: How many fits there are.
    """

    def own(path: Any, leaf: Any) -> bool:
        shapes = {np.shape(one) for one in jax.tree.leaves(_limits.said_of(params, path))}
        return np.shape(leaf)[:1] == (count,) and np.shape(leaf) not in shapes

    return Dealt(side, jax.tree_util.tree_map_with_path(own, side))
