"""Flax modules and files: how one is told of without its structure, and how one is checked against what is saved."""

from typing import Any

import jax
import numpy as np

from jaxfit import _checks, _model, _modules
from jaxfit._modules import Network

_SEED = np.zeros(2, np.uint32), "threefry2x32"
_NAMED = 6  # entries that a message names


def described(module: Any, x: Any) -> Any:
    """A module in plain values: its kind, how it prints, and what x it was given.

    Args:
        module: The module.
        x: A pytree of arrays or their shapes; None where nobody knows.
    """
    library = _model.kind(module)
    text = repr(module)
    if library == "nnx":
        from jaxfit.nn import _tree

        text = _tree.text(module)
    few = None  # linen modules need an x to tell what params they have
    if library == "linen" and x is not None:
        few = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), x)
    return {"kind": "network", "library": library, "shown": type(module).__name__, "text": text, "x": few}


def missing(described: Any) -> str:
    """What to say where the module is asked for and was not given."""
    return (
        "the file holds the params of a flax module, not the module: give it one like that which was fitted, "
        f"jaxfit.load(path, model=net).\n{described['text']}"
    )


def adapted(module: Any, described: Any, params: Any, state: Any) -> Network:
    """The module that a user gave, as pure functions for the params and the state that were saved.

    Raises:
        ValueError: It has other params.
    """
    if described["library"] == "nnx":
        network = _modules.adapt(module, None, None, _SEED)
        _check(module, described, {"params": network.params, "state": network.carried}, params, state)
        return network
    if described["x"] is not None:
        _check(module, described, _linen_shapes(module, described["x"]), params, state)
    return _modules.adapt(module, {"params": params, **state}, None, _SEED)


def _linen_shapes(module: Any, x: Any) -> Any:
    """The shapes of the variables of a linen module; nothing is computed."""

    def look(data: Any, x: Any) -> Any:
        network = _modules.adapt(module, None, x, (data, _SEED[1]))
        return {"params": network.params, "state": network.carried}

    return jax.eval_shape(look, _SEED[0], x)


def _check(module: Any, described: Any, own: Any, params: Any, state: Any) -> None:
    """Raises ValueError that names what a module lacks, has beside what was saved, or has in other shapes."""
    mine, saved = _shapes(own), _shapes({"params": params, "state": state})
    lacks = [f"{name} {saved[name]}" for name in saved if name not in mine]
    more = [f"{name} {mine[name]}" for name in mine if name not in saved]
    other = [
        f"{name} {mine[name]} instead of {saved[name]}" for name in saved if mine.get(name, saved[name]) != saved[name]
    ]
    parts = [("it lacks", lacks), ("it has also", more), ("it has other shapes:", other)]
    said = "; ".join(f"{what} {_listed(names)}" for what, names in parts if names)
    if said:
        given = _describe_text(module)
        raise ValueError(
            f"model is not of the architecture of the module that was fitted: {said}.\nFitted was\n"
            f"{described['text']}\nand given is\n{given}"
        )


def _describe_text(module: Any) -> str:
    return described(module, None)["text"]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array by its name."""
    return {_checks.dotted(path[1:]): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
