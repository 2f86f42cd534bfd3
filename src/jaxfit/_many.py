"""Many fits side by side, inside one program: `vmap` over a fit, in blocks, without history.

A fit of few params is taken apart first: its params, and all that its optimizer remembers, become numbers that are
arrays of their own, so that side by side every operation is one over the fits. That is what a processor's vector units
and a graphics card want: fifteen to twenty-five times as fast as small matrices next to each other.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from jaxfit import _errors, _forward, _problem, _program, _small
from jaxfit._problem import Batch
from jaxfit._program import Task
from jaxfit.losses import _curvature
from jaxfit.optimizers import LevenbergMarquardt


class Arrays(NamedTuple):
    """What may differ from fit to fit: pytrees of arrays, of which some have the fits as their first axis.

    Attributes:
        params: The starting values.
        data: The samples.
        bounds: The least and the largest params, or None.
        seed: The data of the random key.
        optimizer: The numbers of the optimizer.
        held: What a module holds beside the params that are fitted.
    """

    params: Any
    data: Any
    bounds: Any
    seed: Any
    optimizer: Any
    held: Any

    @classmethod
    def of(cls, task: Task) -> "Arrays":
        """Those of a task."""
        return cls(task.params, task.data, task.bounds, task.seed, task.optimizer, task.held[:2])

    def within(self, task: Task) -> Task:
        """The task with these in place of its own."""
        held = task.held._replace(carried=self.held[0], frozen=self.held[1])
        return task._replace(
            params=self.params, data=self.data, bounds=self.bounds, seed=self.seed, optimizer=self.optimizer, held=held
        )


class Ends(NamedTuple):
    """How fits ended, each array with the fits as its first axis.

    Attributes:
        params: The params.
        loss: The loss there; NaN where it never was finite.
        first: The loss at the start; NaN from an optimizer that never lets it rise.
        steps: The steps taken since the program began, int32.
        running: Whether it has not ended yet.
        converged: Whether the optimizer said so.
        doubts: Whether the optimizer doubts that end.
        errors: What the curvature says of the params; () where nobody knows it. Matrices may be numbers apart.
        curvature: The curvature, likewise.
        carried: What the model carries at the end; () where training does not change it.
    """

    params: Any
    loss: Any
    first: Any
    steps: Any
    running: Any
    converged: Any
    doubts: Any
    errors: Any
    curvature: Any
    carried: Any


def can_be_apart(task: Task) -> bool:
    """Whether the params of a fit can be taken apart, and its samples one by one."""
    data, optimizer = task.data, task.optimizer
    if not isinstance(optimizer, LevenbergMarquardt) or optimizer.acceleration or data is None or task.network:
        return False
    rows = getattr(data.y, "shape", (0,))[0]
    few = _small.is_few(sum(leaf.size for leaf in jax.tree.leaves(task.params)))
    if not few or rows == 0 or any(leaf.shape[:1] != (rows,) for leaf in jax.tree.leaves(data.x)):
        return False
    if not _curvature.in_parts(task.problem.loss):
        return False
    clean = jax.tree.map(np.nan_to_num, (task.params, data.x))
    return _forward.is_row_by_row(
        task.meaning, lambda _, params, x: task.problem.model(params, x), clean[0], (), clean[1]
    )


def apart(task: Task) -> Task:
    """The same fit with its params taken apart."""
    model, like = task.problem.model, task.params
    bounds = task.bounds and (_numbers(task.bounds[0]), _numbers(task.bounds[1]))
    problem = task.problem._replace(model=lambda params, x: model(together(params, like), x), bounds=bounds, block=None)
    return task._replace(problem=problem, params=_numbers(like), bounds=bounds)


def _numbers(params: Any) -> _small.Apart:
    leaves = map(jnp.asarray, jax.tree.leaves(params))
    return _small.Apart(leaf[at] for leaf in leaves for at in np.ndindex(leaf.shape))


def together(numbers: _small.Apart, like: Any) -> Any:
    """Numbers apart as the pytree of arrays that they were."""
    leaves, tree = jax.tree.flatten(like)
    given = iter(numbers.numbers)
    parts = [[next(given) for _ in np.ndindex(leaf.shape)] for leaf in leaves]
    return tree.unflatten(
        [
            jnp.stack(some).reshape(leaf.shape) if leaf.ndim else some[0]
            for some, leaf in zip(parts, leaves, strict=True)
        ]
    )


class Plan(NamedTuple):
    """What a program of many fits does, beside the task.

    Attributes:
        own: Of each leaf of the arrays, whether it has an axis of fits.
        split: Whether params are taken apart.
        resumes: Whether fits can go on from a state.
        absolute: Whether sigma is known in absolute terms.
        careful: Whether a gradient that is not finite ends a fit of any optimizer.
        own_x: Whether each fit has an x of its own.
    """

    own: tuple[bool, ...]
    split: bool
    resumes: bool
    absolute: bool
    careful: bool = False
    own_x: bool = False


def one(task: Task, plan: Plan, steps: Any, few: Any, state: Any, fresh: Any) -> tuple[Ends, Any]:
    """One fit inside a program: how it ended, and the optimizer's state.

    Args:
        task: The fit.
        plan: How it is run.
        steps: At most so many; below 0 for none at all.
        few: Of the fits side by side, how many may be left running.
        state: The state to go on from where it is not fresh; () for fits that never go on.
        fresh: Whether it starts.
    """
    task = task if task.data is None else task._replace(data=_clean(task.data, plan.own_x))
    like, task = task.params, apart(task) if plan.split else task
    problem, optimizer, data = _program.at(task, task.bounds, *task.held[:2]), task.optimizer, task.data
    begun = None
    if plan.resumes:
        begun = jax.tree.map(functools.partial(jnp.where, fresh), optimizer.init(problem, task.params), state)
    now = _program.inside(task, task.params, steps, state=begun, few=few, look=not plan.split, careful=plan.careful)
    params, terms = optimizer.answer(now.state), optimizer.terms(now.state)
    whole = together(params, like) if plan.split else params
    unknown, no = jnp.asarray(jnp.nan, jnp.float32), jnp.asarray(False)
    ends = Ends(whole, unknown, unknown, now.seen, now.running, now.converged, no, (), (), now.state.carried)
    after = now.state if plan.resumes else ()
    if not plan.split:  # the row more that these have had is no step
        ends = ends._replace(steps=now.seen - 1)
    if terms is None or data is None:
        carried = task.held.after(now.state.carried)
        last = _program.at(task, task.bounds, carried, task.held.frozen)
        begin, end = (data, data) if data is not None else (_sample(task, 0), _sample(task, ends.steps))
        return ends._replace(loss=last.value(params, end), first=problem.value(task.params, begin)), after
    found = jnp.isfinite(terms.loss)  # not so only where not even the start has a loss
    ends = ends._replace(loss=jnp.where(found, terms.loss, jnp.nan), steps=jnp.where(found, ends.steps, 0))
    errors = _errors.errors(problem, params, data, terms, None if plan.split else optimizer.penalty, plan.absolute)
    return ends._replace(
        doubts=jnp.asarray(optimizer.doubts(now.state, errors.held)),
        errors=errors,
        curvature=terms.curvature,
    ), after


def _clean(data: Batch, own_x: bool) -> Batch:
    """Samples of which those of weight 0 may be anything; NaN in place of what cannot be a sigma or a weight."""
    sigma, weights = data.sigma, data.weights
    if sigma is not None:
        sigma = jax.tree.map(lambda leaf: jnp.where((leaf > 0) & jnp.isfinite(leaf), leaf, jnp.nan), sigma)
    if weights is None:
        return data._replace(sigma=sigma)
    counts = weights > 0
    first = jnp.argmax(counts)  # some sample that counts: it is in the domain of the model

    def filled(leaf: Any) -> Any:
        if not jnp.ndim(leaf):
            return leaf
        return jnp.where(_problem.per_row(counts, leaf), leaf, jnp.asarray(leaf)[first])

    y, sigma = jax.tree.map(filled, (data.y, sigma))
    x = jax.tree.map(filled, data.x) if own_x else data.x  # one x for all has been looked at
    sound = (weights >= 0) & jnp.isfinite(weights) & jnp.any(counts)
    return Batch(x, y, sigma, jnp.where(sound, weights, jnp.nan))


def _sample(task: Task, step: Any) -> Batch:
    """What a sampler draws for a step."""
    assert task.sampler is not None
    key = random.wrap_key_data(jnp.asarray(task.seed), impl=task.key_kind)
    return Batch(*task.sampler(random.fold_in(key, step)))


def program(task: Task, plan: Plan, shapes: Any) -> Callable:
    """The program of many fits: `(arrays, blocks, steps, few, state, fresh) -> (ends, state)`.

    What has an axis of fits has two here, blocks and the fits of each, and so have steps, state and fresh: blocks run
    one after the other, so that what is worked on stays in the caches. The first so many blocks are run.

    Args:
        task: One of the fits.
        plan: How they are run.
        shapes: Of what `one` returns.
    """

    def run(arrays: Arrays, blocks: Any, steps: Any, few: Any, state: Any, fresh: Any) -> tuple[Ends, Any]:
        leaves, tree = jax.tree.flatten(arrays)

        def alone(mine: list[Any], steps: Any, state: Any, fresh: Any) -> tuple[Ends, Any]:
            given = iter(mine)
            whole = tree.unflatten([next(given) if own else leaf for leaf, own in zip(leaves, plan.own, strict=True)])
            return one(whole.within(task), plan, steps, few, state, fresh)

        mine = [leaf for leaf, own in zip(leaves, plan.own, strict=True) if own]
        dealt = mine, steps, state, fresh

        def block(number: Any) -> Any:
            at = functools.partial(lax.dynamic_index_in_dim, index=number, keepdims=False)
            return jax.vmap(alone)(*jax.tree.map(at, dealt))

        def add(number: Any, found: Any) -> Any:
            return jax.tree.map(lambda table, rows: table.at[number].set(rows), found, block(number))

        room = jax.tree.map(lambda leaf: jnp.zeros((*fresh.shape, *leaf.shape), leaf.dtype), shapes)
        return lax.fori_loop(0, blocks, add, room)

    return run
