"""The batches of an iterable, pass after pass, and the place where it stands, so that a later run can go on there."""

import base64
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from jaxfit import _checks

_END = object()


class Place(NamedTuple):
    """Where a stream stands.

    Attributes:
        epoch: The number of the pass.
        batch: How many batches of it have been handed out.
        state: What the iterator of the pass says of itself, as text, or those of all processes; None where it says
            nothing.
    """

    epoch: int = 0
    batch: int = 0
    state: str | None = None


class Batches:
    """What an iterable yields, which is started anew for every pass.

    An iterable with `set_epoch` is told the number of the pass before it starts. An iterator with `get_state` and
    `set_state` can be put where an earlier one stood; others are run through up to there.

    Attributes:
        source: The iterable.
        place: Where it stands, behind the batch that was handed out last.
        tells: Whether the state of the iterator is asked for with every batch.
    """

    def __init__(self, data: Iterable):
        self.source: Any = data
        self._iterator: Any = None
        self._peeked: tuple[Any, Place] | None = None
        self.place = Place()
        self.tells = False

    def peek(self) -> Any:
        """The next batch, which stays the next; None where there is none."""
        if self._peeked is None:
            here = self.place
            self._peeked = self._pulled()
            self.place = here
        batch = self._peeked[0]
        return None if batch is _END else batch

    def begin_with(self, source: Any) -> None:
        """Takes the batches of another iterable from their beginning."""
        self.source, self._iterator, self._peeked, self.place = source, None, None, Place()

    def next(self, most: int = 1) -> Any:
        """The next batch; None at the end of a pass.

        Args:
            most: So many batches are welcome in one, behind each other, where the iterator has a function
                `next_batches(most) -> (pair, count)` for that.

        Raises:
            StopIteration: No new pass can be had: an iterator is used up.
            ValueError: There are no batches at all.
            Exception: Whatever the iterable raises.
        """
        if self._peeked is None:
            batch, place = self._pulled(most)
        else:
            (batch, place), self._peeked = self._peeked, None
        if batch is not _END:
            self.place = place
            return batch
        if self.place.batch == 0:
            if self.place.epoch == 0:
                raise ValueError("data is an iterable without batches; expected at least one pair (x, y).")
            raise StopIteration
        self.place, self._iterator = Place(self.place.epoch + 1), None
        return None

    def _pulled(self, most: int = 1) -> tuple[Any, Place]:
        if self._iterator is None:
            self._start()
        iterator: Any = self._iterator
        several = getattr(iterator, "next_batches", None)
        try:
            batch, count = (next(iterator), 1) if several is None else several(most)
        except StopIteration:
            return _END, self.place
        epoch, number, _ = self.place
        return batch, Place(epoch, number + count, self._state())

    def _start(self) -> None:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(self.place.epoch)
        self._iterator = iter(self.source)

    def _state(self) -> str | None:
        if not self.tells or not hasattr(self._iterator, "get_state") or not hasattr(self._iterator, "set_state"):
            return None
        state = self._iterator.get_state()
        if isinstance(state, bytes):
            return "bytes:" + base64.b64encode(state).decode()
        try:
            return "json:" + json.dumps(state)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"get_state() of the data's iterator returns {_checks.describe(state)}; expected bytes, or what JSON "
                "can hold."
            ) from error

    def move_to(self, place: Place) -> None:
        """Goes on from the place where an earlier stream of the same data stood.

        Raises:
            ValueError: The data end before it.
        """
        knows_epochs = hasattr(self.source, "set_epoch")
        if place.state is not None and place.state.startswith("each:"):
            # That of this process's own part; among others there is none, and the parts are run through.
            states = json.loads(place.state.removeprefix("each:"))
            own = states[jax.process_index()] if len(states) == jax.process_count() else ""
            place = place._replace(state=own or None)
        if place.state is not None or (knows_epochs and place.epoch != self.place.epoch):
            self._iterator, self._peeked, self.place = None, None, Place(place.epoch)
        if place.state is not None:
            self._start()
            kind, _, text = place.state.partition(":")
            self._iterator.set_state(base64.b64decode(text) if kind == "bytes" else json.loads(text))
            self.place = place
        while self.place[:2] != place[:2]:
            try:
                self.next()
            except StopIteration:
                here = f"after batch {place.batch} of pass {place.epoch}"
                raise ValueError(
                    f"the checkpoint stands {here}, and the data end before that; give them anew."
                ) from None
