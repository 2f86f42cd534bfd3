"""What a user says of where params may go: bounds, and which of them stay."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfit import _checks

_EXPECTED = "expected a pair (lower, upper); each a number, or numbers in the structure of params, None for no bound"


def bounds(
    given: Any, default: Any, fixed: Any, params: Any, *, guessed: bool = False
) -> tuple[tuple[Any, Any] | None, Any]:
    """The least and the largest params allowed, two pytrees like the params or None, and the params to start from.

    Args:
        given: What the user said of bounds.
        default: Bounds of the model's own, two pytrees like the params, or None: they hold where the user says nothing.
        fixed: A pytree of bool arrays like the params, or None: these may go nowhere.
        params: The starting values, a pytree of arrays.
        guessed: Whether they are a guess, which moves to where it may be.

    Raises:
        TypeError: `given` is no pair, or has no numbers where numbers belong.
        ValueError: It does not fit the params, a lower bound lies above the upper one, or a start lies outside.
    """
    if given is None and default is None and fixed is None:
        return None, params
    if given is not None and not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise TypeError(f"bounds is {_checks.describe_tree(given)}; {_EXPECTED}.")
    entries, tree = jax.tree_util.tree_flatten_with_path(params)
    stays = [np.zeros(leaf.shape, bool) for _, leaf in entries] if fixed is None else jax.tree.leaves(fixed)
    sides = []
    for side, name in enumerate(("lower", "upper")):
        said = None if given is None else given[side]
        own = [None] * len(entries) if default is None else jax.tree.leaves(default[side])
        _check_names(f"bounds: {name}", said, params)
        sides.append(
            [
                _numbers(f"{name} bound", said, path, leaf, (-np.inf, np.inf)[side] if mine is None else mine)
                for (path, leaf), mine in zip(entries, own, strict=True)
            ]
        )
    for (path, leaf), lower, upper, stay in zip(entries, *sides, stays, strict=True):
        leaf = np.clip(leaf, lower, upper) if guessed and (lower <= upper).all() else leaf
        if not any(isinstance(array, Tracer) for array in (leaf, lower, upper)):
            _check_order(path, np.asarray(leaf), lower, upper, stay)
    if fixed is None and not any(isinstance(a, Tracer) or np.isfinite(a).any() for a in (*sides[0], *sides[1])):
        return None, params
    if guessed:
        params = jax.tree.map(np.clip, params, *(tree.unflatten(side) for side in sides))
        entries = jax.tree_util.tree_leaves_with_path(params)
    for side in sides:  # what stays has no room on either side
        for index, ((_, leaf), stay) in enumerate(zip(entries, stays, strict=True)):
            if stay.any():
                side[index] = (jnp if isinstance(leaf, jax.Array) else np).where(stay, leaf, side[index])
    return (tree.unflatten(sides[0]), tree.unflatten(sides[1])), params


def fixed(given: Any, params: Any) -> Any:
    """Which params stay, a pytree of bool arrays like them; None where none does.

    Args:
        given: What the user said: names as a report shows them, bools in the structure of params, or a function
            `(path, leaf) -> bool` of the keys that lead to a leaf.
        params: The starting values, a pytree of arrays.

    Raises:
        TypeError: It holds what is neither a name nor a bool.
        ValueError: It names a param that there is not, or leaves none to fit.
    """
    if given is None:
        return None
    entries, tree = jax.tree_util.tree_flatten_with_path(params)
    if isinstance(given, str):
        given = (given,)
    if isinstance(given, (tuple, list, set, frozenset)) and given and all(isinstance(name, str) for name in given):
        leaves = [np.zeros(leaf.shape, bool) for _, leaf in entries]
        known, full = [], []
        for (path, _), stays in zip(entries, leaves, strict=True):
            stem, short = _checks.stem(path), jax.tree_util.keystr(path, simple=True, separator=".")
            known.append(stem)
            full.append(short)
            for name in given:
                if _is_part(stem, name) or _is_part(short, name):
                    stays[...] = True
            for at in np.ndindex(stays.shape):
                for named in {_named(stem, at), _named(short, at)} if at else ():
                    if named in given:
                        stays[at] = True
                        known.append(named)
        for name in given:
            if not any(_is_part(known_name, name) for known_name in (*known, *full)):
                raise ValueError(f"fixed names {name!r}, which params does not have; {_checks.choices(name, known)}")
    elif callable(given):
        keys = [tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in entries]
        said = [given(path, leaf) for path, (_, leaf) in zip(keys, entries, strict=True)]
        leaves = [np.full(leaf.shape, bool(stays)) for stays, (_, leaf) in zip(said, entries, strict=True)]
    else:
        _check_names("fixed", given, params)
        leaves = [_bools(given, path, leaf) for path, leaf in entries]
    if all(leaf.all() for leaf in leaves):
        raise ValueError("fixed holds all params; expected at least one that is free.")
    return tree.unflatten(leaves) if any(leaf.any() for leaf in leaves) else None


def _is_part(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def said_of(given: Any, path: Any) -> Any:
    """What a tree that may stop short of the params' own says of the leaf at this path; None for nothing."""
    for key in path:
        if isinstance(given, dict):
            given = given.get(getattr(key, "key", key))
        elif isinstance(given, (list, tuple, np.ndarray)) and hasattr(key, "idx") and np.ndim(given) != 0:
            given = given[key.idx]
        elif hasattr(key, "name") and hasattr(given, key.name):
            given = getattr(given, key.name)
        else:
            break
    return given


def _numbers(what: str, given: Any, path: Any, leaf: Any, default: Any) -> Any:
    found = said_of(given, path)
    name = _checks.stem(path)
    if isinstance(found, dict):
        raise ValueError(f"bounds: the {what} of {name} is {_checks.describe_tree(found)}; {_EXPECTED}.")
    default = np.broadcast_to(np.asarray(default, float), leaf.shape)
    if any(isinstance(entry, Tracer) for entry in jax.tree.leaves(found)):
        empty_side = jnp.broadcast_to(jnp.asarray(default, leaf.dtype), leaf.shape)
        entries = empty_side if found is None else jnp.asarray(found, leaf.dtype)
        if entries.shape not in ((), leaf.shape):
            raise ValueError(f"bounds: the {what} of {name} has shape {entries.shape}, where params has {leaf.shape}.")
        return jnp.broadcast_to(entries, leaf.shape)
    try:
        array = np.asarray(found, float)  # None becomes NaN: no bound, as nothing said
        said = np.asarray(found, object)
        array = np.broadcast_to(array, leaf.shape)
        empty = np.broadcast_to(said == None, leaf.shape)  # noqa: E711 (entry by entry)
    except (TypeError, ValueError) as error:
        came = _checks.describe_tree(found)
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"bounds: the {what} of {name} is {came}, where params has {leaf.shape}; {_EXPECTED}.") from error
    if (np.isnan(array) & ~empty).any():
        raise ValueError(f"bounds: the {what} of {name} is NaN; give None or an infinity for no bound.")
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        return np.where(empty, default, array).astype(leaf.dtype)


def _bools(given: Any, path: Any, leaf: Any) -> np.ndarray:
    found = said_of(given, path)
    name = _checks.stem(path)
    array = np.asarray(False if found is None else found)
    if array.dtype != bool:
        raise TypeError(f"fixed has {_checks.describe(found)} for {name}; expected True, False or names of params.")
    try:
        return np.broadcast_to(array, leaf.shape)
    except ValueError as error:
        raise ValueError(f"fixed has the shape {array.shape} for {name}, where params has {leaf.shape}.") from error


def _check_names(what: str, given: Any, params: Any) -> None:
    """Raises ValueError where a tree has a key, at any depth, that the params do not have."""
    if isinstance(given, (list, tuple)) and isinstance(params, (list, tuple)):
        if len(given) != len(params):
            raise ValueError(f"{what} has {len(given)} entries, where params has {len(params)}.")
        for inside, below in zip(given, params, strict=True):
            _check_names(what, inside, below)
    if not isinstance(given, dict):
        return
    if not isinstance(params, dict):
        raise ValueError(f"{what} is a dict, where params is {_checks.describe_tree(params)}; {_EXPECTED}.")
    for key, below in given.items():
        if key not in params:
            raise ValueError(
                f"{what} names {key!r}, which params does not have; {_checks.choices(key, map(str, params))}"
            )
        _check_names(what, below, params[key])


def _check_order(path: Any, start: np.ndarray, lower: np.ndarray, upper: np.ndarray, stay: np.ndarray) -> None:
    stem = _checks.stem(path)
    for wrong, sentence in (
        (lower > upper, "lies above its upper bound"),
        ((lower == np.inf) | (upper == -np.inf), "leaves no room: a lower bound is infinity or an upper one -infinity"),
    ):
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            raise ValueError(
                f"bounds: the lower bound of {_named(stem, at)} ({lower[at]:.6g}, {upper[at]:.6g}) {sentence}; "
                "expected lower <= upper, and bounds as a pair (lower, upper), not as a pair for each param."
            )
    outside = ((start < lower) | (start > upper)) & ~stay
    if outside.any():
        at = tuple(np.argwhere(outside)[0])
        raise ValueError(
            f"params: {_named(stem, at)} starts at {start[at]:.6g}, outside its bounds [{lower[at]:.6g}, "
            f"{upper[at]:.6g}]; expected a start within them."
        )


def _named(stem: str, at: Iterable[int]) -> str:
    index = ", ".join(map(str, at))
    return f"{stem}[{index}]" if index else stem
