"""What the end of a fit becomes: a result, with its evidence and the doubts that go with it."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxfit import _checks, _drive, _ended, _errors, _mesh, _modules, _program, losses
from jaxfit._inference import Evidence, regular_inverse
from jaxfit._problem import Batch
from jaxfit._program import Task
from jaxfit._report import named_numbers
from jaxfit._result import FitResult
from jaxfit._status import FitWarning, Status
from jaxfit.losses import _curvature


def wrap(
    task: Task,
    ended: _ended.Ended,
    wide: bool,
    absolute_sigma: bool,
    start: Any,
    fixed: Any,
    again: Callable[[Any, Any], FitResult] | None,
) -> FitResult:
    """The result of a fit; warns where it ended in a way that its user should know of.

    Args:
        task: The fit.
        ended: How it ended.
        wide: Whether it ran in float64 although JAX is set to 32 bits.
        absolute_sigma: Whether sigma is known in absolute terms.
        start: All params that it started from.
        fixed: Which of them stayed, or None.
        again: The same fit from other params, some of them fixed; None where the data cannot be had again.
    """
    status, message = ended.verdict(task.optimizer)
    doubt = _doubt(task, ended) if status.ok else ""
    message += doubt and f" {doubt}"
    if doubt or not status.ok:
        warnings.warn(message, FitWarning, stacklevel=3)
    return built(task, ended, (status, message), wide, absolute_sigma, start, fixed, again)


def built(
    task: Task,
    ended: _ended.Ended,
    verdict: tuple[Status, str],
    wide: bool,
    absolute_sigma: bool,
    start: Any,
    fixed: Any,
    again: Callable[[Any, Any], FitResult] | None,
) -> FitResult:
    """The result of a fit whose status and message, the verdict, are known; the other arguments are those of `wrap`."""
    params, function, network = task.optimizer.answer(ended.state), task.problem.model, task.network
    carried = task.held.after(ended.state.carried)
    bounds, frozen, rebuild = task.bounds, task.held.frozen, lambda: task.problem.model
    history = {**ended.history, **ended.epochs}
    weigh: Callable[[], Evidence | None] = functools.partial(_evidence, task, ended, absolute_sigma)
    if _is_global(task):
        # One process alone cannot ask such data for anything later: all do so now.
        evidence = weigh()
        weigh, again, task = lambda: evidence, None, task._replace(data=None)
    if network is not None:
        if "params" in history:
            rows = len(ended.history["loss"])
            stays = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (rows, *leaf.shape)), frozen)
            history["params"] = _modules.joined(history["params"], stays)
        params = _modules.joined(params, frozen)
        bounds = bounds and tuple(_modules.joined(side, frozen) for side in bounds)
        function = functools.partial(network.evaluate, carried)
        rebuild = functools.partial(network.rebuild, carried, params)
    return FitResult(
        params=_mesh.fetched(params) if wide else params,
        loss=ended.loss,
        status=verdict[0],
        message=verdict[1],
        steps=ended.steps,
        history=history,
        compile_seconds=ended.compile_seconds,
        run_seconds=ended.run_seconds,
        model_state=carried if network else {},
        optimizer=task.optimizer,
        start=jax.tree.map(np.array, start),
        _batch=task.data,
        _sampler=task.sampler,
        _wide=wide,
        _function=function,
        _rebuild=rebuild,
        _network=network,
        _weigh=weigh,
        loss_function=task.problem.loss,
        bounds=bounds,
        fixed=fixed,
        devices=ended.devices,
        _again=again,
    )


def _is_global(task: Task) -> bool:
    """Whether the data lie on the devices of several processes."""
    return any(map(_mesh.is_global, jax.tree.leaves(task.data)))


def _doubt(task: Task, ended: _ended.Ended) -> str:
    """Which params the data do not determine, as a sentence; empty where they determine all, or nobody knows."""
    terms = task.optimizer.terms(ended.state)
    if terms is None:
        return ""
    if ended.loss == 0 and task.data is not None and not _is_global(task) and _vanishes(task.data):
        return "The squares of y are too small for its precision, so their sum is 0: scale y, or give sigma."
    curvature = np.asarray(terms.curvature)
    if task.bounds is None and curvature.dtype == np.float64 and np.isfinite(regular_inverse(curvature)).all():
        return ""  # a quick look at the usual case
    lost = Evidence(curvature, 0, None, True, held=_drive.held(task, ended.state)).undetermined
    if not lost.any():
        return ""
    names = [name for name, _ in named_numbers(ended.state.params)]
    few = [name for name, gone in zip(names, lost, strict=True) if gone]
    idle = [name for name, gone, bend in zip(names, lost, np.diagonal(curvature), strict=True) if gone and bend == 0]
    numbers = sum(leaf.size for leaf in jax.tree.leaves(task.data and task.data.y))
    why = "Give more data, fix some of these params, or leave them out."
    if idle:
        why = f"{_listed(idle)} had no effect on the prediction: start elsewhere, fix or leave out what has none."
    elif numbers < len(names):
        why = f"There are {numbers} numbers in y for {len(names)} params: give more data, or fix some params."
    return f"The data do not determine {_listed(few)}, whose standard errors are infinite. {why}"


def _vanishes(data: Batch) -> bool:
    """Whether y, in units of sigma, is not 0 but has squares that are, or nearly."""
    sigma = 1 if data.sigma is None else np.min([np.min(leaf) for leaf in jax.tree.leaves(data.sigma)])
    most = max(float(np.max(np.abs(np.asarray(leaf, complex)))) for leaf in jax.tree.leaves(data.y)) / float(sigma)
    kind = np.finfo(np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(data.y)), np.float32))
    return most > 0 and most**2 < float(kind.tiny) / float(kind.eps) ** 2


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _evidence(task: Task, ended: _ended.Ended, absolute_sigma: bool) -> Evidence | None:
    """What an optimizer that knows the curvature can say of the params; None from the others."""
    terms = task.optimizer.terms(ended.state)
    loss, robust = task.problem.loss, _curvature.is_robust(task.problem.loss)
    if terms is None or (task.data is None and (ended.total is None or robust)):
        return None
    total, observations = ended.total, ended.observations
    if task.data is not None:
        total, observations = _errors.observations(task.problem, task.params, task.data)
    assert total is not None
    total, held = float(total), _drive.held(task, ended.state)
    return Evidence(
        _program.sandwich(task, ended.state.params, held) if robust else np.asarray(terms.curvature) * total,
        int(observations),
        ended.loss * total if _checks.unwrapped(loss)[0] is losses.mse else None,
        absolute_sigma,
        held=held,
        loss_sum=ended.loss * total,
    )
