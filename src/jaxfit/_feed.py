"""What a run in chunks is fed with: the data that the task holds, or what is summed over a stream of batches."""

from typing import Any

import jax

from jaxfit import _errors, _problem, _program
from jaxfit._batches import Batches, Place
from jaxfit._data import Whole
from jaxfit._interrupt import Asked
from jaxfit._program import Task
from jaxfit._stream import Broken, DataEnded, PassOver, Piece, Stream
from jaxfit.optimizers import State


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
        self._stream, self._asked = Stream(task, batches, wide, asked, alone=True), asked
        self.first = self._stream.first
        losses, rows = _errors.sizes(task.problem, task.params, self.first)
        self._each, self._part = losses / rows, losses / _problem.rows_of(self.first)
        if not task.is_shared:
            size = _program.blocks(task.problem, task.params, self.first, (task.meaning, "stream"))
            task = task._replace(problem=task.problem._replace(block=size))
        self._task = task
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
        del most
        if self._piece is not None and bool(state.inner.done):
            return self._piece  # the step only says so
        totals, rows = None, 0
        while not isinstance(event := self._stream.take(step, 1, state), PassOver):
            if isinstance(event, (DataEnded, Broken)):
                return event
            if self._asked.by is not None:
                return None
            before = totals
            totals, seconds = _program.add_terms(self._task, state, before, event.group, self.first)
            # One batch is read while the device computes, not many; processes talk to each other when it has.
            jax.block_until_ready(totals if self._task.is_shared else before)
            self.compile_seconds += seconds
            rows += event.group.size
        assert totals is not None
        sums = self._task.problem.sums
        if self.total is None:
            self.total = 1.0 if sums else float(totals.mass) * self._part
            self.observations = round(rows * self._each)
        summed: Any = totals.mean(sums)  # which is a batch to a `Known` problem
        self._piece = Piece(Whole(summed), 1, event.place)
        return self._piece

    def sample(self, step: int) -> Piece | None:
        """What was summed last."""
        del step
        return self._piece
