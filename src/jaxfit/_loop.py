"""The loop: turns an optimizer's crank. Every fit of the library runs through `run`, and nothing else loops over steps.

A chunk of steps is one compiled program. Row i of the history is written before step i is taken, so it belongs to the
params that the step starts from. A fit's last row is looked at but not followed by a step: it is the loss of the
result. The loop stops by itself where the optimizer has converged or the loss is not finite.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from jaxfit._data import Source
from jaxfit._problem import Batch, Problem
from jaxfit.optimizers._base import Optimizer, State

_STEP_STREAM = 0xFFFFFFFE


class Span(NamedTuple):
    """Which steps to take, all int32 scalars.

    Attributes:
        start: The number of the first.
        stop: The number of the first that is not taken any more.
        rows: Up to which number rows are written: `stop`, or one more to look at the loss after the last step.
    """

    start: Any
    stop: Any
    rows: Any


class Progress(NamedTuple):
    """What the loop carries from step to step, and hands back.

    Attributes:
        step: The number of the next row.
        seen: How many rows of this fit there are; fewer than `step` where others run on beside it.
        state: The optimizer's state.
        running: Whether there is anything left to do.
        converged: Whether the optimizer said so.
        history: Rows of what was recorded: a dict of pytrees of arrays [capacity, ...].
        epochs: Rows of what the ends of epochs were asked for: a dict of arrays [epoch capacity].
        drawn: The number of the last round, and what its steps share, where that is handed on; None elsewhere.
    """

    step: jax.Array
    seen: jax.Array
    state: State
    running: jax.Array
    converged: jax.Array
    history: dict[str, Any]
    epochs: dict[str, jax.Array]
    drawn: Any = None


def run(
    optimizer: Optimizer,
    problem: Problem,
    source: Source,
    state: State,
    key: jax.Array,
    span: Span,
    *,
    capacity: int,
    record: tuple[str, ...] = ("loss",),
    evaluate: Callable[[State], dict[str, jax.Array]] | None = None,
    epoch_capacity: int = 0,
    careful: bool = False,
    skip: bool = False,
    few: Any = 0,
    drawn: Any = None,
) -> Progress:
    """Takes steps from `span.start` until `span.stop`, convergence or a loss that is not finite.

    Under `vmap` all fits take their steps together, and none is touched any more after its own end. `span.stop` and
    `span.rows` may then be those of each fit.

    Args:
        optimizer: Whose step is taken.
        problem: What it minimises.
        source: Where the batches come from.
        state: The optimizer's state before the first step.
        key: The key of the whole fit, the same for all chunks.
        span: Which steps.
        capacity: Rows of the history; at least `span.rows - span.start`.
        record: What a row holds: "loss", "gradient_norm", "params"; nothing for a loop without a history.
        evaluate: Asked once at the end of every epoch, `state -> {name: array}`.
        epoch_capacity: Rows of the epochs' history.
        careful: Whether a gradient that is not finite ends it too, before it spoils params that the loss does not show.
            Its norm is then recorded.
        skip: Whether a step whose loss (or gradient, if careful) is not finite is left out, and the run goes on.
        drawn: What an earlier chunk handed on, so that a round which it began is not drawn again; None for nothing.
        few: Under `vmap`, how many of the fits may be left running at the end, for the caller to gather up.

    Returns:
        Where the loop got to.
    """
    few = jnp.asarray(few, jnp.int32)

    def goes_on(running: jax.Array) -> jax.Array:
        return _goes_on(running, few)

    span = Span(*(jnp.asarray(number, jnp.int32) for number in span))
    length = source.steps_per_round
    stream = random.fold_in(key, _STEP_STREAM) if problem.draws else key
    record = (*record, "gradient_norm") if careful and record and "gradient_norm" not in record else record

    # Without rows that tell where each step began, such an optimizer may take one step more.
    unguarded = not record and optimizer.keeps_the_best

    def advance(now: Progress, batch: Batch) -> Progress:
        step_key = random.fold_in(stream, now.step) if problem.draws else key
        after, info = optimizer.step(problem, now.state, batch, step_key)
        if optimizer.averages:  # the last row is about the params that the fit hands back
            answer = functools.partial(problem.training_value, optimizer.answer(now.state), batch, now.state.carried)
            loss = lax.cond(now.step < span.stop, lambda: info.loss, lambda: answer(step_key)[0])
            info = info._replace(loss=loss)
        after = after._replace(params=problem.within(after.params))
        sound = jnp.isfinite(info.loss) & (jnp.isfinite(info.gradient_norm) if careful else True)
        due = now.running & ~jnp.asarray(info.converged) & (now.step < span.stop)
        going = due & sound
        row = {name: now.state.params if name == "params" else getattr(info, name) for name in record}
        return Progress(
            step=now.step + 1,
            seen=now.seen + now.running,
            # A step that starts from what is not finite, or from the last row, is not taken.
            state=after if unguarded else jax.tree.map(functools.partial(lax.select, going), after, now.state),
            running=(due if skip else going) & (True if record else now.step + 1 < span.rows),
            converged=now.converged if record else now.converged | (now.running & sound & info.converged),
            history=_write(now.history, now.step - span.start, row),
            epochs=now.epochs,
            drawn=now.drawn,
        )

    def full_steps(drawn: Any, first: Any, end: Any, now: Progress) -> Progress:
        """Steps on full batches of the round that began at step `first`, up to the row `end`."""
        return lax.while_loop(
            lambda now: goes_on(now.running & (now.step < end)),
            lambda now: advance(now, source.batch(drawn, now.step - first)),
            now,
        )

    def a_round(length: int, now: Progress) -> Progress:
        """The rest of the round that the next row belongs to, of rounds of this length."""
        number = now.step // length
        first = number * length
        drawn = source.draw(key, number) if now.drawn is None else _drawn(source, key, number, now.drawn)
        now = full_steps(drawn, first, jnp.minimum(span.rows, first + length - source.smaller), now)
        if source.smaller:
            due = goes_on(now.running & (now.step < span.rows)) & (now.step == first + length - 1)
            now = lax.cond(due, lambda now: advance(now, source.last(drawn)), lambda now: now, now)
        if evaluate is not None:
            row = number - span.start // length
            over = now.running & (now.step == first + length)
            now = lax.cond(over, functools.partial(_end_epoch, evaluate, row), lambda now: now, now)
        return now if now.drawn is None else now._replace(drawn=(number, drawn))

    now = Progress(
        step=span.start,
        seen=span.start,
        state=state,
        running=span.start < span.rows,
        converged=jnp.asarray(False),
        history=_blank_history(problem, source, state.params, key, capacity, record),
        epochs={} if evaluate is None else _blank(jax.eval_shape(evaluate, state), epoch_capacity),
        drawn=drawn,
    )
    if length is None:
        now = full_steps(None, 0, span.rows, now)
    else:
        one_more = functools.partial(a_round, length)
        now = lax.while_loop(lambda now: goes_on(now.running & (now.step < span.rows)), one_more, now)
    if not record:
        return now
    last = now.step - 1
    # What stopped before its last row, and not at NaN, had converged: seen here once, not carried through all steps.
    stopped = ~now.running & (last < span.stop) & (last >= span.start)
    for name in ("loss", "gradient_norm") if careful else ("loss",):
        stopped &= jnp.isfinite(now.history[name][last - span.start])
    return now._replace(converged=stopped)


@jax.custom_batching.custom_vmap
def _goes_on(running: jax.Array, few: jax.Array) -> jax.Array:
    """Whether a fit runs; under `vmap`, whether more than a few of all fits do, in one answer for all of them.

    One answer lets them take their steps together: with an answer for each, JAX would copy the states of all that have
    ended at every step.
    """
    del few
    return running


@_goes_on.def_vmap
def _(size: int, batched: Any, running: jax.Array, few: jax.Array) -> tuple[jax.Array, bool]:
    del size
    together = jnp.sum(running, dtype=jnp.int32) > jnp.max(few) if batched[0] else running
    return _goes_on(together, few if not batched[1] else jnp.max(few)), False


def _drawn(source: Source, key: jax.Array, number: jax.Array, before: tuple[jax.Array, Any]) -> Any:
    """What the steps of a round share: what has been drawn before, if it was for this round."""
    return lax.cond(number == before[0], lambda: before[1], lambda: source.draw(key, number))


def _end_epoch(evaluate: Callable[[State], dict[str, jax.Array]], row: jax.Array, now: Progress) -> Progress:
    return now._replace(epochs=_write(now.epochs, row, evaluate(now.state)))


def _write(table: Any, row: jax.Array, entries: Any) -> Any:
    return jax.tree.map(lambda rows, entry: rows.at[row].set(jnp.asarray(entry, rows.dtype)), table, entries)


def _blank(entries: Any, capacity: int) -> Any:
    """A table for entries of these shapes."""
    return jax.tree.map(lambda entry: jnp.zeros((capacity, *entry.shape), entry.dtype), entries)


def _blank_history(
    problem: Problem, source: Source, params: Any, key: jax.Array, capacity: int, record: tuple[str, ...]
) -> dict[str, Any]:
    """An empty history; every number in it has the precision of the loss."""
    if not record:
        return {}

    def first_loss(params: Any) -> jax.Array:
        return problem.value(params, source.batch(source.draw(key, jnp.int32(0)), jnp.int32(0)))

    loss = jax.eval_shape(first_loss, params)
    return _blank({name: params if name == "params" else loss for name in record}, capacity)
