"""What a run in chunks is fed with: the data that the task holds, or groups of batches that come from outside."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _classes, _errors, _inputs, _program
from jaxfit._batches import Batches, Place
from jaxfit._data import Group, Whole
from jaxfit._interrupt import Asked
from jaxfit._problem import Batch
from jaxfit._program import Task
from jaxfit.optimizers import State

_GROUP_BYTES = 1 << 20  # of batches that are handed over together: small steps are paid for by the dozen
_GROUP_MOST = 32
_BREATH = 0.2  # seconds after which a group is not waited for any longer


class Piece(NamedTuple):
    """The data of some steps.

    Attributes:
        group: The batches, or what was summed over them; None for those that the task deals itself.
        steps: How many there are.
        place: Where the stream stands behind them.
    """

    group: Any
    steps: int
    place: Place


class PassOver(NamedTuple):
    """A pass over the data is over.

    Attributes:
        place: Where the stream stands, at the beginning of the next one.
    """

    place: Place


class DataEnded(NamedTuple):
    """There are no more batches."""


class Arrived(NamedTuple):
    """What a stream has yielded.

    Attributes:
        batch: A batch, or several behind each other.
        size: The samples in a batch.
        place: Where the stream stands behind it.
    """

    batch: Batch
    size: int
    place: Place


class Broken(NamedTuple):
    """A batch could not be had.

    Attributes:
        message: Which, and why.
        error: What was raised.
    """

    message: str
    error: Exception


class Memory:
    """The task's own data, which never end."""

    def __init__(self, task: Task):
        self.steps_per_epoch = task.steps_per_epoch
        self.first = task.data
        self.place = Place()

    def move_to(self, step: int, place: Place) -> None:
        """The step's number alone says where the data are."""

    def take(self, step: int, most: int, state: State) -> Piece:
        """The data of the next steps."""
        del step, state
        return Piece(None, most, self.place)

    def sample(self, step: int) -> Piece:
        """Some data to look at where no step was taken."""
        del step
        return Piece(None, 1, self.place)


class Stream:
    """Batches from an iterable, checked and in groups.

    Attributes:
        first: The first batch: all others have its shapes, but for the number of samples.
        steps_per_epoch: None: nobody knows.
    """

    steps_per_epoch = None

    def __init__(self, task: Task, batches: Batches, wide: bool, asked: Asked):
        self._task, self._batches, self._wide, self._asked = task, batches, wide, asked
        pair = batches.peek()
        if pair is None:
            batches.next()  # says that there is nothing
        self.first = self._checked(pair, 0, 0)
        self._size = _samples(self.first)
        self._most = max(1, min(_GROUP_MOST, _GROUP_BYTES // max(_bytes(self.first), 1)))
        self._waiting: Any = None  # what came after the last group: a batch of another size with its place, or an event

    @property
    def place(self) -> Place:
        """Where the stream stands."""
        return self._batches.place

    def move_to(self, step: int, place: Place) -> None:
        """Goes on where an earlier run stood."""
        del step
        self._batches.move_to(place)

    def take(self, step: int, most: int, state: State) -> Piece | PassOver | DataEnded | Broken:
        """The next batches, at most so many: what there is until the pass ends; or what happened in their place."""
        del state
        group: _Group | None = None
        place, room, begun = self.place, min(most, self._most), time.perf_counter()
        together = self._task.spread is not None and self._task.spread.is_shared  # all take the same steps
        while group is None or group.rows < room * self._size:
            if group is not None and not together and (self._asked.by or time.perf_counter() - begun > _BREATH):
                break
            event = self.next(room if group is None else room - group.rows // self._size)
            if isinstance(event, (PassOver, DataEnded, Broken)):
                if group is None:
                    return event
                self._waiting = event
                break
            # Only what hands over several batches in one has them cut apart again.
            odd = event.size != self._size
            if odd and group is not None:
                self._waiting = event
                break
            group = group or _Group(event.batch, 1 if odd else self._most, event.size)
            group.add(event.batch)
            place = event.place
            if odd:
                break
        data, rows, size = group.data, group.rows, group.size
        if self._most > 1 and not self._looks_sound(data, rows):
            rows, place = self._sound(data, place, rows, size)
            if rows == 0:
                event, self._waiting = self._waiting, None
                return event
        return Piece(Group(self._put(data, size), np.int32(step), size), rows // size, place)

    def _put(self, data: Batch, size: int) -> Batch:
        """A group on its way to the device, or to those of a mesh: one batch is dealt out, several are copied."""
        spread = self._task.spread
        if spread is None:
            return jax.device_put(data)
        return spread.dealt(data) if _samples(data) == size else spread.copies(data)

    def _looks_sound(self, data: Batch, rows: int) -> bool:
        """Whether the values of a group are finite, and its labels in their range."""
        part = jax.tree.map(lambda leaf: leaf[:rows], data)
        try:
            _inputs.arrays((part.x, part.y), self._wide)
            if self._task.classes is not None:
                _classes.labels(self._task.problem.loss, part.y, self._task.classes)
        except (TypeError, ValueError):
            return False
        return True

    def _sound(self, data: Batch, place: Place, rows: int, size: int) -> tuple[int, Place]:
        """The samples before a batch whose values are not what they should be, which waits as an event."""
        count = rows // size
        for index in range(count):
            batch = jax.tree.map(lambda leaf, at=index * size: leaf[at : at + size], data)
            event = self._usable(tuple(batch[:2]), place.epoch, place.batch - count + index)
            if isinstance(event, Broken):
                self._waiting = event
                return index * size, Place(place.epoch, place.batch - count + index)
        return rows, place

    def sample(self, step: int) -> Piece:
        """Some data to look at where no step was taken."""
        group = _Group(self.first, self._most, self._size)
        group.add(self.first)
        return Piece(Group(self._put(group.data, self._size), np.int32(step), self._size), 1, self.place)

    def next(self, most: int = 1) -> Any:
        """The next batch, or several in one, with the place behind it; or an event."""
        if self._waiting is not None:
            event, self._waiting = self._waiting, None
            return event
        epoch, number, _ = self.place
        try:
            pair = self._batches.next(most if self._most > 1 else 1)
        except StopIteration:
            return DataEnded()
        except Exception as error:
            what = f"{_named(epoch, number)} could not be had: {type(error).__name__}: {error}".rstrip(".") + "."
            return Broken(what[0].upper() + what[1:], error)
        if pair is None:
            return PassOver(self.place)
        several = self.place.batch - number > 1
        plain = self._plain(pair, several)
        if plain is not None:
            return Arrived(plain, self._size if several else _samples(plain), self.place)
        return self._usable(pair, epoch, number)

    def _usable(self, pair: Any, epoch: int, number: int) -> Any:
        """A batch with the place behind it, or what is wrong with it."""
        try:
            batch = self._checked(pair, epoch, number)
            return Arrived(batch, _samples(batch), self.place)
        except (TypeError, ValueError) as error:
            return Broken(f"A batch could not be used: {error}", error)

    def _plain(self, pair: Any, several: bool) -> Batch | None:
        """A batch of two NumPy arrays that are like those of the first, but for their values; None for others.

        What is looked at once for a group costs a small step less than what is looked at for every batch.
        """
        if self._most == 1 or type(pair) not in (tuple, list) or len(pair) != 2:
            return None
        for part, model in zip(pair, self.first, strict=False):
            if type(part) is not np.ndarray or type(model) is not np.ndarray:
                return None
            if part.dtype != model.dtype or part.shape[1:] != model.shape[1:]:
                return None
            if not several and len(part) != self._size:
                return None
        if len(pair[0]) != len(pair[1]) or (several and len(pair[0]) % self._size):
            return None
        return Batch(*pair)

    def _checked(self, pair: Any, epoch: int, number: int) -> Batch:
        """A batch as arrays."""
        name = _named(epoch, number)
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise TypeError(
                f"{name} of the data is {_checks.describe(pair)}; expected a pair (x, y). Data that are "
                "arrays go in as a tuple (x, y), a function that draws them as key -> (x, y)."
            )
        batch = _inputs.arrays(tuple(pair), self._wide, name=name)
        first = getattr(self, "first", None)
        if first is not None:
            _check_alike(name, batch, first)
        if self._task.classes is not None:
            _classes.labels(self._task.problem.loss, batch.y, self._task.classes, f"y of {name}")
        return batch


class Passes:
    """A stream for an optimizer that wants sums over all the data at every step: a step is a pass over it.

    Attributes:
        first: The first batch.
        steps_per_epoch: 1.
        total: By what the loss is multiplied to be the sum of the losses of all samples; None before the first pass.
        observations: How many of them there are.
    """

    steps_per_epoch = 1

    def __init__(self, task: Task, batches: Batches, wide: bool, asked: Asked):
        self._stream, self._asked = Stream(task, batches, wide, asked), asked
        self.first = self._stream.first
        size = _program.blocks(task.problem, task.params, self.first, (task.meaning, "stream"))
        self._task = task._replace(problem=task.problem._replace(block=size))
        self._piece: Piece | None = None
        self.total: Any = None
        self.observations = 0
        self.compile_seconds = 0.0

    @property
    def place(self) -> Place:
        """Where the stream stands."""
        return self._stream.place

    def move_to(self, step: int, place: Place) -> None:
        """Goes on where an earlier run stood."""
        self._stream.move_to(step, place)

    def take(self, step: int, most: int, state: State) -> Piece | DataEnded | Broken | None:
        """What is summed over the next pass; None where the user asks for an end before that is done."""
        del step, most
        if self._piece is not None and bool(state.inner.done):
            return self._piece  # the step only says so
        totals, total, observations = None, 0.0, 0
        while not isinstance(event := self._stream.next(), PassOver):
            if isinstance(event, (DataEnded, Broken)):
                return event
            if self._asked.by is not None:
                return None
            batch = self._put(event.batch)
            before = totals
            totals, seconds = _program.add_terms(self._task, state, before, batch)
            jax.block_until_ready(before)  # one batch is read while the device computes, not many
            self.compile_seconds += seconds
            if self.total is None:
                more, count = _errors.observations(self._task.problem, self._task.params, batch)
                total, observations = total + float(more), observations + int(count)
        assert totals is not None
        if self.total is None:
            self.total, self.observations = (1.0 if self._task.problem.sums else total), observations
        summed: Any = totals.mean(self._task.problem.sums)  # which is a batch to a `Known` problem
        self._piece = Piece(Whole(summed), 1, event.place)
        return self._piece

    def _put(self, batch: Batch) -> Batch:
        """A batch on its way to the devices."""
        spread = self._task.spread
        if spread is None:
            return _copied(batch)
        return spread.dealt(batch) if _samples(batch) % spread.mesh.shape[spread.rows] == 0 else spread.copies(batch)

    def sample(self, step: int) -> Piece | None:
        """What was summed last."""
        del step
        return self._piece


def _named(epoch: int, number: int) -> str:
    return f"batch {number}" + (f" of pass {epoch}" if epoch else "")


def _samples(batch: Batch) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _bytes(batch: Batch) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(batch))


def _check_alike(name: str, batch: Batch, first: Batch) -> None:
    """Raises ValueError where a batch differs from the first one in more than its number of samples."""
    for letter, part, model in zip("xy", batch, first, strict=False):
        same = jax.tree.structure(part) == jax.tree.structure(model) and all(
            leaf.shape[1:] == other.shape[1:] and leaf.dtype == other.dtype
            for leaf, other in zip(jax.tree.leaves(part), jax.tree.leaves(model), strict=True)
        )
        if not same:
            came, expected = _checks.describe_tree(part), _checks.describe_tree(model)
            raise ValueError(
                f"{name}: {letter} is {came}, and {expected} in the first batch; expected the same but for the number "
                "of samples."
            )


def _copied(batch: Batch) -> Batch:
    """A batch whose NumPy arrays are its own: what yields it may use them again while the device computes."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.array(leaf), batch)


class _Group:
    """Batches behind each other, in memory of its own: what yields them may use its arrays again.

    Attributes:
        data: The samples, with room for more.
        rows: How many there are.
        size: How many make a batch.
    """

    def __init__(self, first: Batch, room: int, size: int):
        self.rows, self.size, self._alone = 0, size, room == 1
        self.data = first
        if not self._alone:
            self.data = jax.tree.map(lambda leaf: np.empty((room * size, *leaf.shape[1:]), leaf.dtype), first)

    def add(self, batch: Batch) -> None:
        """Appends a batch, or several."""
        end = self.rows + _samples(batch)
        if self._alone:
            self.data, self.rows = _copied(batch), end
            return
        for rows, leaf in zip(jax.tree.leaves(self.data), jax.tree.leaves(batch), strict=True):
            rows[self.rows : end] = leaf
        self.rows = end
