"""What `fit` makes of all that a user gave before anything runs: a task, checked."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxfit import (
    _checks,
    _classes,
    _compile,
    _inputs,
    _limits,
    _model,
    _modules,
    _networks,
    _options,
    _program,
    _traced,
)
from jaxfit._batches import Batches
from jaxfit._fingerprint import fingerprint
from jaxfit._problem import Batch, Problem
from jaxfit._program import Held, Task
from jaxfit.optimizers import Optimizer


class Prepared(NamedTuple):
    """A fit, ready to run.

    Attributes:
        task: The fit.
        model: The model.
        kind: Which form the data have: "arrays", "sampler" or "stream".
        data: The batches of a stream, or what the user gave.
        start: All params that it starts from.
        stays: Which of them stay, a pytree of bools like them, or None.
        wide: Whether it runs in float64 although JAX is set to 32 bits.
        traced: Whether it is part of a function that JAX transforms.
    """

    task: Task
    model: Any
    kind: str
    data: Any
    start: Any
    stays: Any
    wide: bool
    traced: bool

    def precision(self) -> contextlib.AbstractContextManager:
        """The scope in which it runs: 64 bits where it needs them."""
        return _compile.precision(self.wide)


def prepare(
    model: Callable,
    data: Any,
    params: Any,
    *,
    loss: Callable,
    optimizer: Any = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    sigma: Any = None,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    validation: tuple[Any, Any] | None = None,
    metrics: dict[str, Callable] | None = None,
    record: tuple[str, ...] = (),
    compute_dtype: Any = None,
    key: Any = 0,
    on_nonfinite: str = "stop",
) -> Prepared:
    """Checks the arguments of `fit`, which tells what they mean and what is raised, and builds its task."""
    _options.check_functions(model, loss, metrics)
    kind = _options.kind(data)
    if kind == "stream":
        data = Batches(data)
    if not isinstance(shuffle, bool):
        raise TypeError(f"shuffle is {_checks.describe(shuffle)}; expected True or False.")
    seed = _inputs.seed(key)
    dtype = _networks.dtype(compute_dtype)
    given_sampler = data if kind == "sampler" else None
    guessed = params is None and hasattr(model, "guess")
    if guessed:
        params = guess(model, data, kind)
    network = None
    model = _modules.unwrapped(model)
    if _model.kind(model) is not None:
        network = _networks.prepare(model, params, data, kind, batch_size, seed)
        params, data = network.params, network.data
    steady = (network is None or network.is_steady) and dtype is None
    chosen = _options.optimizer(optimizer, loss, params, whole=kind == "arrays" and batch_size is None and steady)
    given = {"batch_size": batch_size, "sigma": sigma, "weights": weights, "bounds": bounds, "fixed": fixed}
    given |= {"validation": validation, "metrics": metrics, "compute_dtype": compute_dtype}
    _options.check_together(kind, chosen, given)
    chosen.check_loss(loss)
    skips = _options.skips(on_nonfinite, chosen)
    arrays = (data if kind == "arrays" else None), params, sigma, weights, bounds, chosen, key
    traced = _traced.is_traced(*arrays, loss, *([network.carried] if network else [model]))
    if traced and kind == "stream":
        raise TypeError("an iterable of batches cannot be run inside jit, vmap or grad; give data as arrays (x, y).")
    widen = chosen.is_second_order and (network is None or _compile.setting("jax_enable_x64"))
    # What a second-order optimizer streams over tells its precision by its first batch.
    sample = data.peek() if isinstance(data, Batches) and chosen.is_second_order else data
    start = _inputs.params(params, tuple(sample) if isinstance(sample, list) else sample, widen=widen, traced=traced)
    stays = _limits.fixed(fixed, start.tree)
    fitted, held, still = start.tree, Held(), stays
    if network is not None:
        fitted, held, still = _networks.parted(network, chosen, start.tree, stays)
    limits, first = _limits.bounds(bounds, getattr(model, "bounds", None), still, fitted, guessed=guessed)
    with _compile.precision(start.wide):
        batch = None
        if kind == "arrays":
            batch = _samples(data, network and network.batch, loss, sigma, weights, start.wide, batch_size)
        look = None if validation is None else other_data(validation, batch, start.wide, batch_size)
        own = network.network.meaning if network else fingerprint(model)
        meaning = _meaning(own, loss, metrics, chosen, given_sampler, dtype)
        task = Task(
            problem=Problem(model, loss, _options.sums(loss), draws=network is not None and network.nature.draws),
            optimizer=chosen,
            params=first,
            data=batch,
            sampler=given_sampler,
            batch_size=_options.batch_size(batch_size, batch),
            shuffle=shuffle,
            bounds=limits,
            validation=look,
            metrics=dict(metrics or {}),
            record=_options.record(record),
            seed=seed[0],
            key_kind=seed[1],
            meaning=meaning,
            network=network and network.network,
            held=held,
            compute_dtype=dtype,
            skips=skips,
            row_bytes=_networks.block_bytes(network, look) if network and (look or metrics) else 0,
        )
        task = task._replace(problem=_program.at(task, None, *held[:2]))
        if not traced:
            task = task._replace(
                classes=_classes.check(task, own, network and network.nature, _first(data, start.wide))
            )
        if not traced and chosen.in_blocks and batch is not None:
            block = _program.blocks(task.problem, task.params, batch, (meaning, network and fingerprint(held)))
            task = task._replace(problem=task.problem._replace(block=block))
    begun = start.tree if network else first
    return Prepared(task, model, kind, data, begun, stays, start.wide, traced)


def _samples(data: Any, batch: Batch | None, loss: Callable, sigma: Any, weights: Any, wide: bool, size: Any) -> Batch:
    """Data in memory, with what goes with y; `batch` where they have been looked at already."""
    batch = batch or _inputs.arrays(data, wide, ragged=size is None)
    if sigma is not None:
        batch = batch._replace(sigma=_inputs.spread("sigma", sigma, batch, wide, rows_only=False))
    if weights is not None:
        batch = batch._replace(weights=_inputs.spread("weights", weights, batch, wide, rows_only=True))
        _options.check_weights(loss, batch)
    return batch


def _first(data: Any, wide: bool) -> Batch | None:
    """The first batch of a stream, where it is one; what is wrong with it is said when it is dealt."""
    pair = data.peek() if isinstance(data, Batches) else None
    with contextlib.suppress(TypeError, ValueError):
        return _inputs.arrays(tuple(pair), wide) if isinstance(pair, (tuple, list)) else None
    return None


def other_data(given: Any, batch: Batch | None, wide: bool, size: Any) -> Batch:
    """Validation data."""
    look = _inputs.arrays(given, wide, "validation", ragged=size is None)
    if batch is not None and getattr(batch.sigma, "ndim", 1) == 0:
        return look._replace(sigma=batch.sigma)  # one number holds for all samples, those too
    return look


def _meaning(model: Any, loss: Callable, metrics: Any, optimizer: Optimizer, sampler: Any, dtype: Any) -> Any:
    """All that decides what the compiled program computes, beside shapes and flags; `model` is the model's own key."""
    structure = jax.tree.structure(optimizer)
    if any(callable(value) or isinstance(value, tuple) for _, value in optimizer.tree_flatten()[1][1]):
        structure = fingerprint((type(optimizer), optimizer.tree_flatten()[1]))  # functions count by what they do
    functions = model, fingerprint(loss), sampler and fingerprint(sampler)
    return (*functions, structure, metrics and fingerprint(metrics), dtype)


def guess(model: Any, data: Any, kind: str) -> Any:
    """The starting values of a model that finds them in the data."""
    if kind != "arrays" or _traced.is_traced(data):
        raise TypeError("params is None, and a guess needs data in memory: give params, or data as arrays (x, y).")
    arrays = _inputs.arrays(data, wide=True)
    return model.guess(arrays.x, arrays.y)


def step_limit(task: Task, steps: Any, epochs: Any) -> int:
    """How many steps a fit may take whose batches the program deals."""
    steps, epochs = _options.limit(task.optimizer, steps, epochs)
    if epochs is not None:
        if task.steps_per_epoch is None:
            raise ValueError("epochs are passes over the data, and a sampler has no end: give steps.")
        steps = epochs * task.steps_per_epoch
    assert steps is not None
    if steps >= 2**31 - 1:
        raise ValueError(f"the fit would take {steps} steps; expected fewer than 2**31 - 1.")
    return steps
