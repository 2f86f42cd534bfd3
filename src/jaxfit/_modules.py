"""Flax modules as pure functions: all that the library knows of `flax.nnx` and `flax.linen`.

A module is split once into its structure and its arrays. The structure belongs to the program that is compiled; the
arrays travel as plain pytrees and are merged with it inside the trace, so no step walks through an object in Python.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.core import Tracer

from jaxfit import _checks, _compile, _model
from jaxfit._fingerprint import fingerprint

_NOTHING = "without params, so there is nothing to fit; give it a layer such as"
_INITIAL_STREAM = 0xFFFFFFFD  # the number of a step never gets there
# What authors call the switch between training and evaluation, and whether it is on in training.
_SWITCHES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
_SWITCHES |= {"inference": False, "eval_mode": False, "is_train": True}


class Network(NamedTuple):
    """A module as pure functions of its arrays.

    Attributes:
        train: `train(params, carried, x, key, still) -> (prediction, carried)`, in training mode but for the parts of
            an nnx module at the paths `still`.
        evaluate: `evaluate(carried, params, x, key) -> prediction`, in evaluation mode.
        rebuild: `rebuild(carried, params) -> module`: a copy of the user's with these arrays, in evaluation mode; a
            partial of it where its `__call__` has a switch.
        params: Its trainable arrays, a nested dict.
        carried: All its other arrays (batch statistics, constants), a nested dict.
        meaning: What the functions compute, as a key.
        given: The user's module.
    """

    train: Callable
    evaluate: Callable
    rebuild: Callable
    params: Any
    carried: Any
    meaning: Hashable
    given: Any


def unwrapped(model: Any) -> Any:
    """The module in a partial that only sets its switch, as a fitted one may be; anything else as it is."""
    function, keywords = _checks.unwrapped(model)
    return function if _model.kind(function) is not None and keywords.keys() <= _SWITCHES.keys() else model


def adapt(model: Any, params: Any, x: Any, seed: tuple[Any, str]) -> Network:
    """A flax module as pure functions.

    Args:
        model: An `nnx.Module` or a `linen.Module`.
        params: Arrays to start from in place of the module's own, for linen also its variables; None for none.
        x: What it is called with: a pytree of arrays or of their shapes.
        seed: The data and the kind of the key that a linen module's initial values come from.

    Raises:
        TypeError: It cannot be called, or not be traced.
        ValueError: It has no params, or those given do not fit.
    """
    found = _of_nnx(model, params) if _model.kind(model) == "nnx" else _of_linen(model, params, x, seed)
    if not jax.tree.leaves(found.params):
        raise ValueError(f"model is a {type(model).__name__} {_NOTHING} Linear.")
    return found


# -- nnx ------------------------------------------------------------------------------------------------------------


def _of_nnx(module: Any, params: Any) -> Network:
    from flax import nnx

    if not callable(module):
        raise TypeError(f"model is a {type(module).__name__} without __call__; expected a module to call with x.")
    graph, weights, draws, rest = _split(module)
    call = type(module).__call__
    on, off = _keywords(call, training=True), _keywords(call, training=False)

    def merged(params: Any, carried: Any, draws: Any, *, training: bool, still: tuple[Any, ...] = ()) -> Any:
        found = nnx.merge(graph, nnx.State(params), nnx.State(draws), nnx.State(carried))
        return _in_mode(found, training=training, still=still)

    def train(params: Any, carried: Any, x: Any, key: Any, still: tuple[Any, ...] = ()) -> tuple[Any, Any]:
        model = merged(params, carried, _drawn(draws, key), training=True, still=still)
        prediction = model(x, **on)
        return prediction, _kept(carried, _split(model)[3])

    def evaluate(carried: Any, params: Any, x: Any, key: Any = None) -> Any:
        key = random.key(0) if key is None else key
        return merged(params, carried, _drawn(draws, key), training=False)(x, **off)

    def rebuild(carried: Any, params: Any) -> Any:
        found = merged(params, carried, draws, training=False)
        return functools.partial(found, **off) if off else found

    if params is not None:
        params = _checked(params, weights)
    # The mode that the module is in does not count: it is set in the trace.
    entries = [entry for entry in graph.attributes if not _is_switch(entry[0], getattr(entry[1], "value", entry[1]))]
    meaning = fingerprint((graph.nodes, entries, call)), jax.tree.structure((draws, rest))
    return Network(train, evaluate, rebuild, weights if params is None else params, rest, meaning, module)


def _is_switch(name: Any, value: Any) -> bool:
    """Whether an attribute of a module says in which mode it is."""
    return name in _SWITCHES and (value is None or isinstance(value, bool))


def _in_mode(module: Any, *, training: bool, still: tuple[Any, ...] = ()) -> Any:
    """Sets an nnx module that nobody else has to training or evaluation mode; its parts at `still` to the latter."""
    from flax import nnx

    for path, part in list(nnx.iter_modules(module)):
        on = training and not any(path[: len(fixed)] == fixed for fixed in still)
        modes = {"deterministic": not on, "use_running_average": not on}
        set_view = getattr(part, "set_view", None)
        if set_view is not None:
            known = inspect.signature(set_view).parameters
            set_view(**{name: value for name, value in modes.items() if name in known})
        for name, value in list(vars(part).items()):
            if _is_switch(name, value):
                setattr(part, name, _SWITCHES[name] == on)
    return module


def _split(module: Any) -> tuple[Any, Any, Any, Any]:
    """Structure, params, random state and all else of an nnx module; arrays as nested dicts."""
    from flax import nnx

    graph, *states = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, draws, rest = (_arrays(nnx.to_pure_dict(nnx.as_pure(state))) for state in states)
    return graph, params, draws, rest


def _arrays(tree: Any) -> Any:
    """A pytree with plain numbers and NumPy arrays as JAX arrays."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(np.asarray(leaf)), tree)


def _drawn(draws: Any, key: jax.Array) -> Any:
    """The random state of an nnx module at a step: each stream's key from the step's, its count at 0."""
    leaves, tree = jax.tree.flatten(draws)
    fresh = []
    for index, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = random.fold_in(key, index)
            fresh.append(random.split(own, leaf.shape) if leaf.shape else own)
        else:
            fresh.append(jnp.zeros_like(leaf))
    return tree.unflatten(fresh)


# -- linen ----------------------------------------------------------------------------------------------------------


def _of_linen(module: Any, variables: Any, x: Any, seed: tuple[Any, str]) -> Network:
    if module.scope is not None:  # bound to its variables, as a fitted one is
        module, bound = module.unbind()
        variables = bound if variables is None else variables
    on, off = _keywords(type(module).__call__, training=True), _keywords(type(module).__call__, training=False)
    trained, tested = _switched(module, training=True), _switched(module, training=False)
    meaning = fingerprint(_skeleton(module))
    own = variables if _is_whole(variables) else _initial(tested, off, meaning, x, seed)
    if "params" not in own:
        raise ValueError(f"model is a {type(module).__name__} {_NOTHING} Dense.")
    carried = {key: _plain(value) for key, value in own.items()}
    params = carried.pop("params")
    if variables is not None and own is not variables:
        params = _checked(variables, params)

    def train(params: Any, carried: Any, x: Any, key: Any, still: tuple[Any, ...] = ()) -> tuple[Any, Any]:
        del still
        found = trained.apply({"params": params, **carried}, x, rngs=_streams(key), mutable=list(carried), **on)
        prediction, after = found
        return prediction, _kept(carried, after)

    def evaluate(carried: Any, params: Any, x: Any, key: Any = None) -> Any:
        streams = _streams(random.key(0) if key is None else key)
        return tested.apply({"params": params, **carried}, x, rngs=streams, **off)

    def rebuild(carried: Any, params: Any) -> Any:
        bound = tested.bind({"params": params, **carried}, rngs=_streams(random.key(0)))
        return functools.partial(bound, **off) if off else bound

    return Network(train, evaluate, rebuild, params, carried, meaning, module)


def _is_whole(variables: Any) -> bool:
    """Whether these are all variables of a linen module, not its params alone."""
    return hasattr(variables, "items") and "params" in variables


def _initial(module: Any, keywords: dict[str, bool], meaning: Hashable, x: Any, seed: tuple[Any, str]) -> Any:
    """The variables that a linen module begins with, in a program that is compiled once."""
    data, impl = seed

    def program(data: Any, x: Any) -> Any:
        key = random.fold_in(random.wrap_key_data(jnp.asarray(data), impl=impl), _INITIAL_STREAM)
        return module.init(_streams(key), x, **keywords)

    def one(leaf: Any) -> Any:
        """The first sample: of x only that is looked at, and only by modules whose initial values depend on data."""
        return np.zeros((1, *leaf.shape[1:]), leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf[:1]

    first = jax.tree.map(one, x)
    came = _checks.describe_tree(first)
    check = functools.partial(_model.traced, _model.called(module), program, data, first, came=came)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, first))):
        check()
        return program(data, first)
    return _compile.call(program, ("linen variables", meaning, impl), data, first, check=check)[0]


def _streams(key: jax.Array) -> dict[str, jax.Array]:
    """Linen's random streams; those with other names fall back to that of the params."""
    return {"params": random.fold_in(key, 0), "dropout": random.fold_in(key, 1)}


def _fields(module: Any) -> dict[str, Any]:
    """What a linen module was made of, without its place in another."""
    names = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    return {name: getattr(module, name, None) for name in names}


def _switched(value: Any, *, training: bool) -> Any:
    """A linen module whose fields, and those of the modules in them, say whether it trains."""
    inner = functools.partial(_switched, training=training)
    if _model.kind(value) == "linen":
        fields = _fields(value)
        new = {
            name: _SWITCHES[name] == training if _is_switch(name, field) else inner(field)
            for name, field in fields.items()
        }
        changed = {name: field for name, field in new.items() if field is not fields[name]}
        return value.clone(**changed) if changed else value
    if type(value) in (tuple, list):
        entries = [inner(entry) for entry in value]
        same = all(new is old for new, old in zip(entries, value, strict=True))
        return value if same else type(value)(entries)
    return value


def _plain(tree: Any) -> Any:
    """Nested dicts of JAX arrays, out of flax's frozen ones."""
    return {key: _plain(value) for key, value in tree.items()} if hasattr(tree, "items") else jnp.asarray(tree)


def _skeleton(value: Any) -> Any:
    """What a linen module is, without what changes while it is bound and called."""
    if _model.kind(value) == "linen":
        return type(value), value.name, {name: _skeleton(field) for name, field in _fields(value).items()}
    if isinstance(value, (tuple, list)):
        return type(value), [_skeleton(entry) for entry in value]
    if hasattr(value, "items"):
        return {key: _skeleton(entry) for key, entry in value.items()}
    return value


def parts(module: Any) -> list[tuple[str, Any]]:
    """A module and all modules inside it, with their names."""
    if _model.kind(module) == "nnx":
        from flax import nnx

        return [("/".join(map(str, path)), part) for path, part in nnx.iter_modules(module)]
    found, queue = [], [("", module)]
    while queue:
        name, part = queue.pop(0)
        if _model.kind(part) == "linen":
            found.append((name, part))
            queue += [(f"{name}/{key}".strip("/"), value) for key, value in _fields(part).items()]
        elif isinstance(part, (tuple, list)):
            queue += [(f"{name}/{at}".strip("/"), value) for at, value in enumerate(part)]
    return found


def settings(module: Any, told: Callable[[Any], str]) -> str:
    """What a module is set to, without its arrays and the modules inside it, as text.

    Args:
        module: The module.
        told: What tells a value.
    """
    from flax import nnx

    own = _fields(module) if _model.kind(module) == "linen" else vars(module)
    kinds = (nnx.Variable, nnx.RngStream, nnx.Rngs, jax.Array, np.ndarray)

    def plain(value: Any) -> Any:
        if isinstance(value, kinds) or _model.kind(value) is not None:
            return type(value).__name__
        return [plain(leaf) for leaf in value] if isinstance(value, (tuple, list, nnx.List)) else value

    kept = {key: plain(value) for key, value in own.items() if not key.startswith("_pytree")}
    return ", ".join(f"{key}={told(value)}" for key, value in sorted(kept.items()) if not _is_switch(key, value))


# -- both -----------------------------------------------------------------------------------------------------------


def joined(params: Any, frozen: Any) -> Any:
    """All params of a module, of those that are fitted and those that stay; each has None where the other has arrays.

    Args:
        params: A pytree.
        frozen: The same with the other leaves; () for none.
    """
    if frozen == ():
        return params
    return jax.tree.map(
        lambda mine, other: other if mine is None else mine, params, frozen, is_leaf=lambda leaf: leaf is None
    )


def still(frozen: Any, path: tuple[Any, ...] = ()) -> tuple[tuple[Any, ...], ...]:
    """The paths of the parts of a module all of whose params stay: these evaluate while the others train."""
    if not isinstance(frozen, dict) or not frozen:
        return ()
    if all(leaf is not None for leaf in jax.tree.leaves(frozen, is_leaf=lambda leaf: leaf is None)):
        return (path,)
    return tuple(found for key, below in frozen.items() for found in still(below, (*path, key)))


def parted(params: Any, stays: Any) -> tuple[Any, Any]:
    """Params whose leaves `stays`, a pytree of bools like them, lets go, and those that it holds; None elsewhere."""
    return (
        jax.tree.map(lambda leaf, still: None if still else leaf, params, stays),
        jax.tree.map(lambda leaf, still: leaf if still else None, params, stays),
    )


def computing_in(dtype: Any, train: Callable) -> Callable:
    """Training that computes in another precision, and keeps params, what is carried and predictions in their own.

    Args:
        dtype: The floating-point dtype.
        train: `train(params, carried, x, key) -> (prediction, carried)`.
    """

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, np.floating) else leaf, tree)

    def lowered(params: Any, carried: Any, x: Any, key: Any) -> tuple[Any, Any]:
        prediction, carried = train(cast(params, dtype), carried, cast(x, dtype), key)
        return cast(prediction, jnp.result_type(*jax.tree.leaves(params))), carried

    return lowered


def _keywords(call: Callable, *, training: bool) -> dict[str, bool]:
    """What to call a module with where its `__call__` has a switch for training."""
    return {name: _SWITCHES[name] == training for name in inspect.signature(call).parameters if name in _SWITCHES}


def _kept(before: Any, after: Any) -> Any:
    """What a module carries after a call, in the structure that it had before: what it only noted down is dropped."""
    if isinstance(before, dict):
        return {key: _kept(value, after.get(key, value)) for key, value in before.items()}
    if before is None or jnp.issubdtype(before.dtype, jax.dtypes.prng_key):
        return None if before is None else after
    if jnp.shape(after) != jnp.shape(before):
        raise ValueError(
            f"the model changes the shape of what it carries, {_checks.describe(before)} to {_checks.describe(after)}; "
            "a fit needs the same shapes at every step."
        )
    return jnp.asarray(after, before.dtype)


def _checked(params: Any, own: Any) -> Any:
    """Params given in place of an nnx module's own, in whose structure they are."""
    shapes = [jax.tree.map(np.shape, tree) for tree in (params, own)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"params is {_checks.describe_tree(params)}; expected the structure and shapes of the model's own, "
            f"{_checks.describe_tree(own)}, such as the params of an earlier result."
        )
    return jax.tree.map(jnp.asarray, params)
