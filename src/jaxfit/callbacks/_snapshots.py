"""A snapshot of a run as the arrays that orbax stores, and back."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _checks, _mesh
from jaxfit._batches import Place
from jaxfit._crew import Snapshot
from jaxfit._log import Log
from jaxfit.optimizers import Optimizer, State

FORMAT = 1
_SMALL = 1 << 20  # bytes


def packed(snapshot: Snapshot, identity: dict[str, Any] | None) -> dict[str, Any]:
    """A snapshot as a pytree of arrays."""
    told = {
        "format": FORMAT,
        "identity": identity,
        "step": snapshot.step,
        "steps": snapshot.log.steps,
        "epochs": snapshot.log.epochs,
        "attempt": snapshot.attempt,
        "optimizer": [_number(leaf) for leaf in jax.tree.leaves(snapshot.optimizer)],
        "place": snapshot.place,
        "stop": snapshot.stop,
        "loss": snapshot.loss,
        "converged": snapshot.converged,
        "failure": snapshot.failure,
        "memories": {
            name: {key: value for key, value in memory.items() if not isinstance(value, State)}
            for name, memory in snapshot.memories.items()
        },
    }
    states = {
        f"{name}/{key}": _leaves(value)
        for name, memory in snapshot.memories.items()
        for key, value in memory.items()
        if isinstance(value, State)
    }
    rows = {name: _leaves(table) for name, table in snapshot.log.rows().items()}
    looks = {name: _leaves(table) for name, table in snapshot.log.looks().items()}
    tree = {"state": _leaves(snapshot.state), "rows": rows, "looks": looks, "memories": states}
    return _packed(told, tree)


def _leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a pytree by their number; random keys as their data."""

    def plain(leaf: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaf = jax.random.key_data(leaf) if is_key else leaf
        # What lies on the devices of several processes is written by all of them.
        whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        return np.asarray(leaf) if whole else leaf

    return {f"{index:05d}": plain(leaf) for index, leaf in enumerate(jax.tree.leaves(tree))}


def _packed(told: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """What orbax stores: the larger arrays, and one array of bytes with what was told, as JSON, and all small arrays.

    An array costs orbax some milliseconds however small it is.
    """
    entries, _ = jax.tree_util.tree_flatten_with_path(tree)
    told["arrays"] = [
        [[key.key for key in path], str(leaf.dtype), list(leaf.shape), _is_small(leaf)] for path, leaf in entries
    ]
    text = json.dumps(told, default=_plain_number).encode()
    small = [np.ascontiguousarray(leaf).tobytes() for _, leaf in entries if _is_small(leaf)]
    packed = np.frombuffer(b"".join([len(text).to_bytes(8, "little"), text, *small]), np.uint8)
    large = {f"{index}": leaf for index, (_, leaf) in enumerate(entries) if not _is_small(leaf)}
    return {"packed": packed, **({"large": large} if large else {})}


def _plain_number(value: Any) -> Any:
    """A number of NumPy's or JAX's as JSON has it."""
    if np.ndim(value) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(
        f"the memory of a callback holds {_checks.describe(value)}; expected numbers, strings and optimizer states."
    )


def _is_small(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.nbytes <= _SMALL


def unpacked(stored: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was told, and the arrays as a nested dict."""
    packed = np.asarray(stored["packed"]).tobytes()
    start = 8 + int.from_bytes(packed[:8], "little")
    told = json.loads(packed[8:start])
    tree: dict[str, Any] = {"state": {}, "rows": {}, "looks": {}, "memories": {}}
    for index, (path, name, shape, is_small) in enumerate(told["arrays"]):
        dtype = jnp.dtype(name)
        size = dtype.itemsize * math.prod(shape)
        if is_small:
            if start + size > len(packed):
                raise ValueError("it ends too early")
            array = np.frombuffer(packed[start : start + size], dtype).reshape(shape)
            start += size
        else:
            array = np.asarray(stored["large"][f"{index}"])
            if array.dtype != dtype or list(array.shape) != shape:
                raise ValueError(f"an array is {_checks.describe(array)}; expected {name}{shape}")
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = array
    return told, tree


def _number(leaf: Any) -> float | None:
    return float(leaf) if _checks.is_number(leaf) else None


def snapshot(told: dict[str, Any], found: dict[str, Any], state: State, optimizer: Optimizer) -> Snapshot:
    log = Log()
    log.add_steps({name: _unflattened(rows, name, state) for name, rows in found["rows"].items()}, told["steps"])
    if told["epochs"]:
        log.add_epochs({name: looks["00000"] for name, looks in found["looks"].items()}, told["epochs"])
    else:
        log.expect(found["looks"])
    leaves, tree = jax.tree.flatten(optimizer)
    kept = [old if new is None else new for new, old in zip(told["optimizer"], leaves, strict=True)]
    memories = {name: dict(memory) for name, memory in told["memories"].items()}
    for path, arrays in found["memories"].items():
        name, _, key = path.rpartition("/")
        memories[name][key] = _like(arrays, state)
    return Snapshot(
        step=told["step"],
        attempt=told["attempt"],
        state=_like(found["state"], state),
        optimizer=tree.unflatten(kept),
        place=Place(*told["place"]),
        log=log,
        memories=memories,
        stop=told["stop"],
        loss=told["loss"],
        converged=told["converged"],
        failure=told["failure"],
    )


def _unflattened(rows: dict[str, np.ndarray], name: str, state: State) -> Any:
    arrays = [rows[key] for key in sorted(rows)]
    return jax.tree.structure(state.params).unflatten(arrays) if name == "params" else arrays[0]


def _like(arrays: dict[str, np.ndarray], state: State) -> State:
    """A state with these arrays, in the structure of another one."""
    leaves, tree = jax.tree.flatten(state)

    def again(array: np.ndarray, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return _mesh.laid_out(array, leaf.sharding) if leaf.committed else jnp.array(array)

    return tree.unflatten([again(arrays[key], leaf) for key, leaf in zip(sorted(arrays), leaves, strict=True)])
