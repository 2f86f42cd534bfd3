"""Batches from an iterable, checked and handed over by the dozen; of several processes each brings its part of them."""

import copy
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _classes, _inputs, _mesh, _processes
from jaxfit._batches import Batches, Place
from jaxfit._data import Group
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


class Broken(NamedTuple):
    """A batch could not be had.

    Attributes:
        message: Which, and why.
        error: What was raised.
    """

    message: str
    error: Exception


class _Arrived(NamedTuple):
    """What an iterable has yielded.

    Attributes:
        batch: A batch, or several behind each other.
        number: How many.
        size: The samples in each, with those of other processes where they are known.
        place: Where the stream stands behind it.
    """

    batch: Batch
    number: int
    size: int
    place: Place


class _Group:
    """Batches behind each other, in memory of its own: what yields them may use its arrays again.

    Attributes:
        data: The samples, arrays [room, rows, ...].
        count: How many batches there are.
        size: The samples in a batch, with those of other processes where they are known.
        first: Which sample of a batch is the first that this process has.
        place: Where the stream stands behind them.
    """

    def __init__(self, arrived: _Arrived, room: int):
        self.count, self.size, self.first, self.place = 0, arrived.size, 0, arrived.place
        self._alone = room == 1
        if not self._alone:
            rows = _samples(arrived.batch) // arrived.number
            self.data = jax.tree.map(lambda leaf: np.empty((room, rows, *leaf.shape[1:]), leaf.dtype), arrived.batch)

    @property
    def rows(self) -> int:
        """The samples of a batch that this process has."""
        return jax.tree.leaves(self.data)[0].shape[1]

    def add(self, arrived: _Arrived) -> None:
        """Appends a batch, or several."""
        end = self.count + arrived.number
        if self._alone:
            self.data = jax.tree.map(_alone, arrived.batch)
        else:
            for rows, leaf in zip(jax.tree.leaves(self.data), jax.tree.leaves(arrived.batch), strict=True):
                rows[self.count : end] = np.asarray(leaf).reshape(arrived.number, *rows.shape[1:])
        self.count, self.place = end, arrived.place

    def cut(self, count: int) -> None:
        """Drops all batches but so many."""
        if count < self.count:
            self.place = Place(self.place.epoch, self.place.batch - self.count + count)
            self.count = count


class Stream:
    """Batches from an iterable, checked and in groups.

    Of several processes, each brings a part of every batch. What `deal` deals out (`jaxfit.data`) is dealt, so that
    the batches are those of one process; of other iterables the parts are put together in the order of the processes.

    Attributes:
        first: What the first batch is like, with what other processes have of it: all others have its shapes, but for
            the number of samples.
        steps_per_epoch: None: nobody knows.
    """

    steps_per_epoch = None

    def __init__(self, task: Task, batches: Batches, wide: bool, asked: Asked, *, alone: bool = False):
        self._task, self._batches, self._wide, self._asked = task, batches, wide, asked
        self._shared = task.is_shared
        self._waiting: Any = None  # what came after the last group: a batch of another size with its place, or an event
        self._dealt: Any = None  # what knows the sizes of batches of which this process gets its rows only
        if self._shared and hasattr(batches.source, "deal"):
            assert task.spread is not None
            spread, here = task.spread, jax.process_index()
            self._dealt = copy.copy(batches.source)  # the user's own goes on dealing all rows
            self._dealt.deal(lambda rows: spread.shares(rows)[here])
            batches.begin_with(self._dealt)
        with _processes.in_step(self._shared):
            pair = batches.peek()
            if pair is None:
                batches.next()  # says that there is nothing
            self._first = self._checked(pair, 0, 0)
        self._rows = _samples(self._first)
        self._size = self._dealt.size(0) if self._dealt else self._rows
        self.first = self._whole(self._first)
        grouped = not alone and (self._dealt is not None or not self._shared)
        self._most = max(1, min(_GROUP_MOST, _GROUP_BYTES // max(_bytes(self._first), 1))) if grouped else 1
        if self._shared:  # parts may differ in size
            self._most = int(_processes.gathered(self._most).min())
        self._fetched: Any = None

    @property
    def place(self) -> Place:
        """Where the stream stands."""
        return self._batches.place

    def move_to(self, step: int, place: Place) -> None:
        """Goes on where an earlier run stood."""
        del step
        self._batches.move_to(place)

    def fetch(self, step: int, most: int) -> None:
        """Has the next batches ready for this step, at most so many: on the device, but where processes agree first."""
        found = self._collected(most)
        self._fetched = found if self._shared else self._handed(found, step)

    def take(self, step: int, most: int, state: State) -> Piece | PassOver | DataEnded | Broken:
        """The next batches, at most so many: what there is until the pass ends; or what happened in their place."""
        del state
        found, self._fetched = self._fetched, None
        found = self._collected(most) if found is None else found
        return self._handed(self._agreed(found) if self._shared else found, step)

    def sample(self, step: int) -> Piece:
        """Some data to look at where no step was taken."""
        arrived = _Arrived(self._first, 1, self._size, self.place)
        group = _Group(arrived, self._most)
        group.add(arrived)
        return self._handed(self._located(group) if self._shared else group, step)

    def _handed(self, group: Any, step: int) -> Any:
        """A group on its way to the device, or to those of a mesh; an event as it is."""
        if not isinstance(group, _Group):
            return group
        spread = self._task.spread
        put = jax.device_put(group.data) if spread is None else spread.batches(group.data, group.size, group.first)
        return Piece(Group(put, np.int32(step), group.size), group.count, group.place)

    # -- batch by batch -----------------------------------------------------------------------------------------------

    def _collected(self, most: int) -> Any:
        """The next batches as a group, at most so many; or what happened in their place."""
        group: _Group | None = None
        room, begun = min(most, self._most), time.perf_counter()
        while group is None or group.count < room:
            slow = self._asked.by or time.perf_counter() - begun > _BREATH
            if group is not None and slow and not self._shared:  # all processes take the same steps
                break
            event = self._next(room if group is None else room - group.count)
            if not isinstance(event, _Arrived):
                if group is None:
                    return event
                self._waiting = event
                break
            # Only what hands over several batches in one has them cut apart again.
            odd = event.size != self._size
            if odd and group is not None:
                self._waiting = event
                break
            group = group or _Group(event, 1 if odd else self._most)
            group.add(event)
            if odd:
                break
        if self._most > 1 and not self._looks_sound(group):
            self._cut_to_sound(group)
            if group.count == 0:
                event, self._waiting = self._waiting, None
                return event
        return group

    def _next(self, most: int) -> Any:
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
        count = self.place.batch - number
        size = self._dealt.size(number) if self._dealt else None
        plain = self._plain(pair, count) if size in (None, self._size) else None
        if plain is not None:
            return _Arrived(plain, count, self._size, self.place)
        try:
            batch = self._checked(pair, epoch, number)
            return _Arrived(batch, count, size or _samples(batch) // count, self.place)
        except (TypeError, ValueError) as error:
            return Broken(f"A batch could not be used: {error}", error)

    def _plain(self, pair: Any, count: int) -> Batch | None:
        """Batches of two NumPy arrays that are like those of the first, but for their values; None for others.

        What is looked at once for a group costs a small step less than what is looked at for every batch.
        """
        if self._most == 1 or type(pair) not in (tuple, list) or len(pair) != 2:
            return None
        for part, model in zip(pair, self._first, strict=False):
            if type(part) is not np.ndarray or type(model) is not np.ndarray:
                return None
            if part.dtype != model.dtype or part.shape != (count * self._rows, *model.shape[1:]):
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
        if self._dealt is not None and len(pair[0]) == 0:
            return _inputs.blank(tuple(pair), self._wide)  # all rows of this batch are those of other processes
        batch = _inputs.arrays(tuple(pair), self._wide, name=name)
        first = getattr(self, "_first", None)
        if first is not None:
            _check_alike(name, batch, first)
        if self._task.classes is not None:
            _classes.labels(self._task.problem.loss, batch.y, self._task.classes, f"y of {name}")
        return batch

    def _looks_sound(self, group: _Group) -> bool:
        """Whether the values of a group are finite, and its labels in their range."""
        if not group.rows:
            return True
        part = jax.tree.map(lambda leaf: leaf[: group.count].reshape(-1, *leaf.shape[2:]), group.data)
        try:
            _inputs.arrays((part.x, part.y), self._wide)
            if self._task.classes is not None:
                _classes.labels(self._task.problem.loss, part.y, self._task.classes)
        except (TypeError, ValueError):
            return False
        return True

    def _cut_to_sound(self, group: _Group) -> None:
        """Keeps the batches before one whose values are not what they should be, which waits as an event."""
        epoch, first = group.place.epoch, group.place.batch - group.count
        for index in range(group.count):
            batch = jax.tree.map(lambda leaf, at=index: leaf[at], group.data)
            try:
                self._checked(tuple(batch[:2]), epoch, first + index)
            except (TypeError, ValueError) as error:
                self._waiting = Broken(f"A batch could not be used: {error}", error)
                group.cut(index)
                return

    # -- of several processes -----------------------------------------------------------------------------------------

    def _agreed(self, found: Any) -> Any:
        """What all processes go on with, where this one has found a group or an event."""
        kinds: tuple[type, ...] = (_Group, PassOver, DataEnded, Broken)
        count, rows = (found.count, found.rows) if isinstance(found, _Group) else (0, 0)
        told = _processes.gathered([kinds.index(type(found)), count, rows])
        which = told[:, 0]
        if (which == kinds.index(Broken)).any():
            messages = _processes.texts(found.message if isinstance(found, Broken) else "")
            process, text = next((number, text) for number, text in enumerate(messages) if text)
            message = f"In process {process}: {text[0].lower()}{text[1:]}"
            return found if isinstance(found, Broken) else Broken(message, ValueError(message))
        if len(set(which)) > 1:
            lacking = ", ".join(map(str, np.flatnonzero(which != kinds.index(_Group))))
            message = (
                f"Process {lacking} of {len(which)} has no more batches, and the others have. Expected equally many in "
                "every process."
            )
            return Broken(message, ValueError(message))
        if isinstance(found, _Group):
            found.cut(int(told[:, 1].min()))  # the next one is broken in some process
            return self._located(found, told[:, 2])
        return found

    def _located(self, group: _Group, rows: Any = None) -> _Group:
        """A group that knows which rows of its batches this process has.

        Args:
            group: The group.
            rows: How many rows of a batch each process has, [processes]; None for those of the first batch.
        """
        spread = self._task.spread
        assert spread is not None
        here = jax.process_index()
        if self._dealt is not None:
            group.first = spread.shares(group.size)[here][0]
            return group
        if any(map(_mesh.is_global, jax.tree.leaves(group.data))):
            return group
        rows = _processes.gathered(group.rows) if rows is None else rows
        ends = np.cumsum(rows)
        group.size, group.first = int(ends[-1]), int(ends[here] - rows[here])
        needed = spread.shares(group.size)
        if any(start < end - count or stop > end for (start, stop), end, count in zip(needed, ends, rows, strict=True)):
            group.data, group.first = _processes.joined(group.data, rows), 0
        return group

    def _whole(self, first: Batch) -> Batch:
        """What a batch of all processes is like, where this one has this part of it."""
        if not self._shared or any(map(_mesh.is_global, jax.tree.leaves(first))):
            return first
        size = self._size if self._dealt else int(_processes.gathered(self._rows).sum())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), first)


def _alone(leaf: Any) -> Any:
    """An array of one batch; of NumPy's a copy: what yields it may use it again while the device computes."""
    return leaf[None] if isinstance(leaf, jax.Array) else np.array(leaf)[None]


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
