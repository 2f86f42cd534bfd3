"""Drives many fits: block by block on all cores and devices, and what blocks leave unfinished once more together."""

import collections
import contextlib
import functools
import operator
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfit import _compile, _many, _program, _small
from jaxfit._many import Arrays, Ends, Plan
from jaxfit._program import Task
from jaxfit._table import Found, Table, release

_BLOCK_BYTES = {"cpu": 1 << 20}  # of what the fits of a block compute at once: what a core's caches hold
_ELSEWHERE = 1 << 30
_AT_ONCE = 1 << 15  # fits in a call of the program on CPU, so that Python has nothing to say between blocks
_MOST = 1 << 20  # and elsewhere
_LEFT = 16  # a block ends when no more than this share of its fits runs


class Many(NamedTuple):
    """Many fits, checked and ready to run.

    Attributes:
        task: One of them.
        arrays: Their arrays.
        own: Of each leaf of each of these, whether it has an axis of fits: lists of bools.
        fits: How many.
        steps: At most so many steps each.
        absolute: Whether sigma is known in absolute terms.
        wide: Whether they run in float64 although JAX is set to 32 bits.
    """

    task: Task
    arrays: Arrays
    own: Arrays
    fits: int
    steps: int
    absolute: bool
    wide: bool

    @property
    def flags(self) -> tuple[bool, ...]:
        """Of each leaf of the arrays, whether it has an axis of fits."""
        return tuple(flag for part in self.own for flag in part)

    def robust(self) -> "Many":
        """The same fits by the rule that goes carefully."""
        task = self.task._replace(optimizer=self.task.optimizer.robust(), meaning=(self.task.meaning, "second"))
        optimizer = self.arrays.optimizer.robust()
        own = [np.ndim(leaf) > 0 for leaf in jax.tree.leaves(optimizer)]
        return self._replace(
            task=task, arrays=self.arrays._replace(optimizer=optimizer), own=self.own._replace(optimizer=own)
        )

    def share(self, rows: slice) -> "Many":
        """Some of them, neighbours of each other."""
        leaves, tree = jax.tree.flatten(self.arrays)
        mine = [leaf[rows] if own else leaf for leaf, own in zip(leaves, self.flags, strict=True)]
        return self._replace(arrays=tree.unflatten(mine), fits=rows.stop - rows.start)

    def precision(self) -> contextlib.AbstractContextManager:
        """The scope in which they run."""
        return _compile.precision(self.wide)

    def at(self, index: int) -> Task:
        """One of the fits."""
        leaves, tree = jax.tree.flatten(self.arrays)
        like = jax.tree.leaves(Arrays.of(self.task))
        mine = [
            np.asarray(leaf[index], _dtype(one)) if own else leaf
            for leaf, own, one in zip(leaves, self.flags, like, strict=True)
        ]
        task = tree.unflatten(mine).within(self.task)
        plain = jax.tree.map(lambda leaf: leaf.item() if hasattr(leaf, "item") else leaf, task.optimizer)
        return task._replace(optimizer=plain)


def run(
    many: Many,
    out: Path | None = None,
    tell: Callable[[int], None] | None = None,
    devices: list[Any] | None = None,
) -> Found:
    """Runs all fits; there may be none.

    Args:
        many: The fits.
        out: A folder for the results, which are then memory-mapped files; None keeps them in memory.
        tell: Called with the number of fits that a block has brought to their end.
        devices: Those to run on; None for all of the kind that JAX takes.
    """
    started = time.perf_counter()
    task, optimizer = many.task, many.task.optimizer
    split = _many.can_be_apart(task)
    resumes = bool(optimizer.default_steps) and task.batch_size is None and not task.held.changes
    own_x = task.data is not None and any(many.own.data[: len(jax.tree.leaves(task.data.x))])
    plan = Plan(many.flags, split, resumes, many.absolute, own_x=own_x)
    first = optimizer.first_steps
    limit = many.steps if first is None else min(many.steps, first)
    with many.precision():
        if not many.fits:
            return Table(task, 0, many.absolute, _ends(task, plan)[0], None).finish()
        one_pass = _Pass(many, plan, devices)
        table = Table(task, many.fits, many.absolute, one_pass.shapes, out)
        one_pass.run(None, limit, table.write, tell)
        seconds = one_pass.compile_seconds
        again = table.again(many.steps > limit)
        if first is not None and len(again):
            # The few that ended badly start once more, by the rule that goes carefully.
            careful = many.robust()
            second = _Pass(careful, plan._replace(own=careful.flags, split=False), devices)
            second.run(again, many.steps, table.improve, None)
            seconds += second.compile_seconds
        lost = table.lost()
        if not optimizer.default_steps and len(lost):
            # A fit is a function of the number of its steps: run anew, it stops where all was still finite.
            second = _Pass(many, plan._replace(careful=True), devices)
            second.run(lost, many.steps, table.write, None)
            most = table.found.steps[lost] - 1
            second.run(lost[most >= 0], most[most >= 0], table.back_up, None)
            seconds += second.compile_seconds
    found = table.finish()
    return found._replace(compile_seconds=seconds, run_seconds=time.perf_counter() - started - seconds)


class _Pass:
    """One way to run fits, compiled: with a rule, in blocks of one size.

    Attributes:
        shapes: The shapes of how one fit ends.
        compile_seconds: Spent on compilation.
    """

    def __init__(self, many: Many, plan: Plan, devices: list[Any] | None):
        self.many, self.plan, self.compile_seconds = many, plan, 0.0
        usual = _devices()
        self._devices = usual if devices is None else devices
        self._mesh = None
        if len(self._devices) > 1 or self._devices[0] != usual[0]:
            self._mesh = Mesh(np.array(self._devices), ("fits",), axis_types=(AxisType.Auto,))
        self._blocks, self._block = _sizes(many, plan.split, self._devices)
        self._key = _key(many.task, plan)
        self._x64 = _compile.setting("jax_enable_x64")
        self.shapes, self._state = _ends(many.task, plan)
        blank = jax.tree.map(lambda leaf: np.zeros(self._shape + leaf.shape, leaf.dtype), self._state)
        self._blank = jax.tree.map(jnp.asarray, self._placed(blank))
        self._call: Callable | None = None

    @property
    def _shape(self) -> tuple[int, int]:
        return self._blocks, self._block

    @property
    def size(self) -> int:
        """How many fits a call of the program takes."""
        return self._blocks * self._block

    def _placed(self, tree: Any) -> Any:
        """Arrays with the axes of blocks and fits, dealt over the devices where there are several."""
        if self._mesh is None:
            return tree
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec(None, "fits")))

    def _everywhere(self, leaf: Any) -> Any:
        """What all fits share, on all devices."""
        return leaf if self._mesh is None else jax.device_put(leaf, NamedSharding(self._mesh, PartitionSpec()))

    def run(
        self,
        chosen: np.ndarray | None,
        steps: Any,
        write: Callable[[Any, Ends, np.ndarray], None],
        tell: Callable[[int], None] | None,
    ) -> None:
        """Runs fits.

        Args:
            chosen: Their indices; None for all.
            steps: At most so many: one number, or one for each of them.
            write: Called with indices, how these fits ended, in NumPy arrays, and how many steps they had.
            tell: Called with the number of fits that have ended.
        """
        count = self.many.fits if chosen is None else len(chosen)
        pool = _Unfinished()
        few = np.int32(self._block // _LEFT if self.plan.resumes and count > self._block else 0)

        def fresh() -> Iterator[tuple[Any, np.ndarray]]:
            for start in range(0, count, self.size):
                stop = min(start + self.size, count)
                limit = np.broadcast_to(np.asarray(steps, np.int32), (count,))[start:stop]
                yield (slice(start, stop) if chosen is None else chosen[start:stop]), limit

        def ended(at: Any, limit: np.ndarray, taken: Any, rows: list[Any], ends: Ends, state: Any) -> None:
            ends = ends._replace(steps=ends.steps + taken)
            running = ends.running & (ends.steps < limit)
            write(at, ends, limit)
            if running.any():
                which = np.flatnonzero(running)
                numbers = np.arange(at.start, at.stop) if isinstance(at, slice) else at
                # Their rows too: one by one, a file would be mapped into memory page by page.
                mine = [np.asarray(leaf[which]) for leaf in rows]
                after = jax.tree.map(lambda leaf: _flat(leaf)[which], state)
                pool.add(numbers[which], limit[which], ends.steps[which], mine, after)
            if tell is not None:
                tell(len(running) - int(running.sum()))

        with _workers(self._devices) as workers:
            # A few calls ahead of what has been written: memory holds no more than that.
            ahead: collections.deque[tuple[Any, ...]] = collections.deque()

            def finish_one() -> None:
                at, limit, taken, future = ahead.popleft()
                ended(at, limit, taken, *future.result())

            def submit(at: Any, limit: np.ndarray, taken: Any, rows: Any, state: Any, left: Any) -> None:
                while len(ahead) > 2 * workers.count:
                    finish_one()
                if self._call is None:
                    self._compile(at, limit)
                future = workers.submit(self._block_of_fits, at, limit - taken, rows, state, left)
                ahead.append((at, limit, taken, future))

            for at, limit in fresh():
                submit(at, limit, 0, None, None, few)
                if pool.count >= self.size:
                    submit(*pool.take(self.size), few)
            while ahead or pool.count:
                while ahead:
                    finish_one()
                if pool.count:
                    submit(*pool.take(self.size), np.int32(0))

    def _compile(self, at: Any, limit: np.ndarray) -> None:
        leaves, tree = jax.tree.flatten(self._arguments(self._dealt(at), limit, None, np.int32(0)))
        program = _many.program(self.many.task, self.plan, (self.shapes, self._state))
        self._call, seconds = _compile.ready(program, self._key, leaves, tree, options=_compile.LEAN)
        self.compile_seconds += seconds

    def _dealt(self, at: Any) -> list[Any]:
        """The rows of these fits, of each leaf of the arrays that has an axis of fits."""
        pairs = zip(jax.tree.leaves(self.many.arrays), self.many.flags, strict=True)
        dealt = [leaf[at] for leaf, own in pairs if own]
        for leaf in jax.tree.leaves(self.many.arrays):
            release(leaf)
        return dealt

    def _arguments(self, dealt: list[Any], limit: np.ndarray, state: Any, few: Any) -> tuple[Any, ...]:
        """The arguments of the program for fits with these rows, filled up by fits that take no steps."""
        many, total, given = self.many, self.size, iter(dealt)
        leaves, tree = jax.tree.flatten(many.arrays)
        like = jax.tree.leaves(Arrays.of(many.task))
        arrays = tree.unflatten(
            [
                self._placed(_filled(_cast(next(given), _dtype(one)), self._shape)) if own else self._everywhere(leaf)
                for leaf, own, one in zip(leaves, many.flags, like, strict=True)
            ]
        )
        steps = np.full(total, -1, np.int32)
        steps[: len(limit)] = limit
        resumed = self._blank
        if state is not None:
            resumed = self._placed(jax.tree.map(lambda leaf: _filled(leaf, self._shape), state))
        steps, fresh = self._placed((steps.reshape(self._shape), np.full(self._shape, state is None)))
        return arrays, np.int32(-(-len(limit) // self._block)), steps, few, resumed, fresh

    def _block_of_fits(
        self, at: Any, limit: np.ndarray, rows: Any, state: Any, few: Any
    ) -> tuple[list[Any], Ends, Any]:
        """Runs one call of the program: the rows that it got, how the fits ended, and their states."""
        with jax.enable_x64(self._x64):  # settings hold for a thread
            assert self._call is not None
            dealt = self._dealt(at) if rows is None else rows
            ends, after = self._call(*jax.tree.leaves(self._arguments(dealt, limit, state, few)))
            flat = jax.tree.map(lambda leaf: _flat(leaf)[: len(limit)], ends)
        return dealt, flat, after


def _key(task: Task, plan: Plan) -> Any:
    """What the program of such fits is."""
    return _program.program_key(task, ("many", plan, task.batch_size, task.shuffle))


def _ends(task: Task, plan: Plan) -> tuple[Ends, Any]:
    """The shapes of how one fit ends, and of its state, kept."""
    leaves, tree = jax.tree.flatten(Arrays.of(task))
    key = _key(task, plan), tree, tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves), _compile.settings()
    return _compile.kept(("ends", key), lambda: _shapes(task, plan))


def _shapes(task: Task, plan: Plan) -> tuple[Ends, Any]:
    """The shapes of how one fit ends, and of the state that it can go on from."""
    state = ()
    if plan.resumes:
        like = _many.apart(task) if plan.split else task
        state = jax.eval_shape(lambda: like.optimizer.init(like.problem, like.params))
    _program.check(task, task.data)
    one = functools.partial(_many.one, task, plan._replace(own=()))
    return jax.eval_shape(one, np.int32(0), np.int32(0), state, np.True_)[0], state


class _Unfinished:
    """Fits that blocks have left running, with the states that they go on from."""

    def __init__(self):
        self._parts: list[tuple[Any, ...]] = []
        self.count = 0

    def add(self, *part: Any) -> None:
        self._parts.append(part)
        self.count += len(part[0])

    def take(self, most: int) -> tuple[Any, Any, Any, Any, Any]:
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._parts)
        self._parts = []
        taken = jax.tree.map(operator.itemgetter(slice(most)), whole)
        rest = jax.tree.map(operator.itemgetter(slice(most, None)), whole)
        self.count = 0
        if len(rest[0]):
            self.add(*rest)
        return taken


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.result_type(float)


def _cast(part: Any, dtype: Any) -> Any:
    return part.astype(dtype) if isinstance(part, jax.Array) else np.asarray(part, dtype)


def _flat(leaf: Any) -> np.ndarray:
    """An array [blocks, fits of a block, ...] as one of fits; rows are such already."""
    return np.asarray(leaf).reshape(-1, *leaf.shape[2:])


def _filled(part: Any, shape: tuple[int, int]) -> Any:
    """Rows as [blocks, fits of a block, ...], filled up by copies of the last."""
    missing = shape[0] * shape[1] - len(part)
    if missing:
        xp = jnp if isinstance(part, jax.Array) else np
        part = xp.concatenate([part, xp.broadcast_to(part[-1:], (missing, *part.shape[1:]))])
    return part.reshape(*shape, *part.shape[1:])


def _devices() -> list[Any]:
    """The devices to run on: all of the kind that JAX takes, or the one that the user has set."""
    chosen = _compile.setting("jax_default_device")
    return jax.local_devices() if chosen is None or isinstance(chosen, str) else [chosen]


def _sizes(many: Many, split: bool, given: list[Any]) -> tuple[int, int]:
    """The number of blocks in a call of the program, and of fits in a block."""
    kind, devices, task = given[0].platform, len(given), many.task
    on_cpu = kind == "cpu"
    params = sum(np.size(leaf) for leaf in jax.tree.leaves(task.params))
    held = sum(np.size(leaf) * _dtype(leaf).itemsize for leaf in jax.tree.leaves((task.data, task.params)))
    a_fit = max(1, held) * (params + 1 if _small.is_few(params) else 4)
    each = -(-many.fits // (devices * (_cores() if on_cpu and not split else 1)))
    block = _BLOCK_BYTES.get(kind, _ELSEWHERE) // a_fit
    if not split:
        block = max(block, each if a_fit * each <= _ELSEWHERE else _ELSEWHERE // a_fit)
    block = max(1, min(block, _AT_ONCE // 4 if on_cpu else _MOST, each))
    if not split:
        return 1, block * devices
    # A power of two would lay all samples of a fit into the same places of the caches; a few different sizes will do.
    block = 16 if block <= 16 else 16 + (1 << max(4, (block - 17).bit_length()))
    blocks = 1
    if on_cpu:
        blocks = 1 << max(0, min(_AT_ONCE // block, -(-many.fits // (block * _cores()))).bit_length() - 1)
    return blocks, block * devices


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Workers:
    """Threads that call programs: XLA runs small operations on one core, so that each core needs a call of its own."""

    def __init__(self, count: int):
        self.count, self._threads = count, ThreadPoolExecutor(count)

    def submit(self, *call: Any) -> Future:
        return self._threads.submit(*call)

    def __enter__(self):
        return self

    def __exit__(self, *_: Any):
        self._threads.shutdown(cancel_futures=True)


def _workers(devices: list[Any]) -> _Workers:
    return _Workers(_cores() if devices[0].platform == "cpu" and len(devices) == 1 else 2)
