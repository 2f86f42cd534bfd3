"""What makes a run this run and no other, in words and digests that are the same in every process."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxfit import _checks, _code, _mesh, _modules, _processes
from jaxfit._prepare import Prepared

_WHOLE = 1 << 28  # bytes of an array that are all read; of a larger one, so many spread over it
_STRETCH = 1 << 16


def of(ready: Prepared, first: Any = None) -> dict[str, Any]:
    """The identity of a run: for each argument of `fit` that matters, a text, and the code of functions.

    How long the run is, what watches it, and on how many devices and processes it runs, does not matter: a run can be
    resumed to go on longer, and elsewhere.

    Args:
        ready: The fit.
        first: What the first batch of a stream is like.
    """
    task = ready.task
    found = {
        "model": _of_model(ready),
        "params": _arrays(ready.start),
        "loss": _of_function(task.problem.loss),
        "optimizer": _of_optimizer(task.optimizer),
        "data": _of_data(ready, first),
        "batch_size": {"text": repr(task.batch_size)},
        "shuffle": {"text": repr(task.shuffle)},
        "bounds": _arrays(task.bounds),
        "fixed": _arrays(ready.stays),
        "validation": _arrays(task.validation),
        "record": {"text": repr(task.record)},
        "compute_dtype": {"text": repr(task.compute_dtype)},
        "on_nonfinite": {"text": "skip" if task.skips else "stop"},
        "key": {"text": f"{task.key_kind} {np.asarray(task.seed).tobytes().hex()}"},
    }
    found |= {f"metrics[{name!r}]": _of_function(metric) for name, metric in task.metrics.items()}
    if task.data is not None:
        found["sigma"], found["weights"] = _arrays(task.data.sigma), _arrays(task.data.weights)
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two runs, as clauses by the names of `fit`'s arguments."""
    found = []
    for name in dict.fromkeys([*before, *now]):
        was, is_ = before.get(name, {"text": "not there"}), now.get(name, {"text": "not there"})
        if was["text"] != is_["text"]:
            found.append(f"{name} was {was['text']} and is {is_['text']}")
        elif (clause := _code.compared(was.get("code"), is_.get("code"))) != "":
            found.append(f"{name} is {is_['text']} as it was, but {clause}")
        elif None not in (was.get("digest"), is_.get("digest")) and was["digest"] != is_["digest"]:
            found.append(f"{name} has the same shapes as it had, {is_['text']}, but other values")
    return found


def check_same(own: dict[str, Any]) -> None:
    """Raises ValueError, in all processes that share a run, where it is not the same one in all of them.

    Args:
        own: The identity of this process's run.
    """
    first, *others = map(json.loads, _processes.texts(json.dumps(own)))
    for process, other in enumerate(others, 1):
        found = differences(first, other)
        if found:
            raise ValueError(
                f"process {process} was given other arguments than process 0: {'; '.join(found)} there. Expected the "
                "same in every process. Data of which each process has a part go in as an iterable of batches, or as "
                "arrays of jax.make_array_from_process_local_data."
            )


def _of_model(ready: Prepared) -> dict[str, Any]:
    if ready.task.network is None:
        return _of_function(ready.model)
    module = ready.task.network.given
    text = f"{type(module).__name__} with params {_checks.describe_tree(ready.task.network.params)}"
    parts = {f"layer {name or type(part).__name__}": _part(part) for name, part in _modules.parts(module)}
    code = _code.code_of(type(module).__call__)
    return {"text": text, "code": code | {"parts": code["parts"] | parts} if code else None}


def _part(module: Any) -> str:
    """A layer, as a digest of its class and of its settings; its arrays are told apart elsewhere."""
    kind = type(module)
    call = _code.code_of(kind.__call__) if callable(module) else None
    return _code.digest(kind.__qualname__ + repr(call and call["parts"]) + _modules.settings(module, _code.text))


def _of_function(function: Callable) -> dict[str, Any]:
    plain, keywords = _checks.unwrapped(function)
    name = getattr(plain, "__qualname__", None) or type(plain).__name__
    options = ", ".join(f"{key}={_short(value)}" for key, value in sorted(keywords.items()))
    return {"text": f"{name}({options})" if options else name, "code": _code.code_of(function)}


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else _checks.describe(value)


def _of_optimizer(optimizer: Any) -> dict[str, Any]:
    functions = [value for _, value in optimizer.tree_flatten()[1][1] if callable(value) or isinstance(value, tuple)]
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(optimizer))
    found: dict[str, Any] = {"text": text, "digest": _digest(jax.tree.leaves(optimizer))}
    if functions:  # schedules, and what an optax transformation is made of
        parts = [_code.code_of(part) for part in jax.tree.leaves(functions) if callable(part)]
        named = {f"{name} of its function {at}": entry for at, code in enumerate(parts) if code
                 for name, entry in code["parts"].items()}  # fmt: skip
        tag = sys.implementation.cache_tag
        found["code"] = {"python": tag, "parts": {"": "", **named}, "source": None} if named else None
    return found


def _of_data(ready: Prepared, first: Any) -> dict[str, Any]:
    if ready.kind == "sampler":
        return _of_function(ready.data)
    if ready.kind == "stream":
        source = ready.data.source
        if hasattr(source, "identity"):
            return {"text": str(source.identity)}
        # An order may be drawn anew in each process; what lies in memory as it is, does not change.
        text = f"batches of a {type(source).__name__}, the first {_checks.describe_tree(tuple(first[:2]))}"
        whole = isinstance(source, list) and not isinstance(jax.tree.leaves(first)[0], jax.ShapeDtypeStruct)
        return {"text": text} | ({"digest": _digest(jax.tree.leaves(source))} if whole else {})
    assert ready.task.data is not None
    return _arrays((ready.task.data.x, ready.task.data.y))


def _arrays(tree: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves(tree)
    return {"text": _checks.describe_tree(tree) if leaves else "not given", "digest": _digest(leaves)}


def _digest(leaves: list[Any]) -> str | None:
    """The content of arrays; of very large ones that of stretches from their first to their last byte.

    None where other processes have parts of a very large one: nobody can have all of it.
    """
    if any(_mesh.is_global(leaf) and leaf.nbytes > _WHOLE for leaf in leaves):
        return None
    found = hashlib.blake2b(digest_size=16)
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if _mesh.is_global(leaf):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode())
        if array.dtype.hasobject or not array.size:
            continue
        if array.nbytes <= _WHOLE or not array.flags.c_contiguous:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            continue
        content = array.view(np.ndarray).reshape(-1).view(np.uint8)
        starts = np.linspace(0, len(content) - _STRETCH, _WHOLE // _STRETCH, dtype=np.int64)
        for start in starts:
            found.update(content[start : start + _STRETCH].data)
    return found.hexdigest()
