"""Where the batches of the steps come from: whole arrays, minibatches, a sampler. Pure, and pytrees of their data.

A source deals its batches in rounds. Once a round it draws what the round's steps share (the order of an epoch, a
block of samples), and each step takes its batch from that. What a step gets depends on the key and on the number of
the step alone, so neither chunking nor an interruption changes a result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax, random

from jaxfit._problem import Batch

_SHUFFLE_STREAM = 0xFFFFFFFF  # the number of a step never gets there
_BLOCK_STEPS = 64
_BLOCK_BYTES = 1 << 18


class Source(Protocol):
    """What the loop asks of the data.

    Attributes:
        steps_per_round: The steps that share a draw; None where nothing is ever drawn.
        smaller: Whether the last step of a round has a smaller batch than the others.
    """

    @property
    def steps_per_round(self) -> int | None: ...
    @property
    def smaller(self) -> bool: ...

    def draw(self, key: jax.Array, number: jax.Array) -> Any:
        """What the steps of round `number` share."""
        ...

    def batch(self, drawn: Any, position: jax.Array) -> Batch:
        """The batch of the step at this position in its round."""
        ...

    def last(self, drawn: Any) -> Batch:
        """The smaller batch at the end of a round."""
        ...


def _rows(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whole:
    """All the data at every step; an epoch is one step.

    Attributes:
        data: The data.
        epochs: Whether rounds are kept, because something happens at the end of an epoch.
    """

    data: Batch
    epochs: bool = dataclasses.field(default=False, metadata={"static": True})
    smaller = False

    @property
    def steps_per_round(self) -> int | None:
        return 1 if self.epochs else None

    def draw(self, key: jax.Array, number: jax.Array) -> None:
        del key, number

    def batch(self, drawn: None, position: jax.Array) -> Batch:
        del drawn, position
        return self.data

    def last(self, drawn: None) -> Batch:
        del drawn
        return self.data


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Minibatches:
    """Batches of `size` samples, in order or shuffled anew each epoch; the last of an epoch may be smaller.

    Attributes:
        data: The data, n samples.
        size: The samples in a batch, at most n.
        shuffle: Whether each epoch has an order of its own.
    """

    data: Batch
    size: int = dataclasses.field(metadata={"static": True})
    shuffle: bool = dataclasses.field(metadata={"static": True})

    @property
    def samples(self) -> int:
        return _rows(self.data.y)

    @property
    def steps_per_round(self) -> int:
        return -(-self.samples // self.size)

    @property
    def smaller(self) -> bool:
        return self.samples % self.size != 0

    def draw(self, key: jax.Array, number: jax.Array) -> jax.Array | None:
        if not self.shuffle:
            return None
        return random.permutation(random.fold_in(random.fold_in(key, _SHUFFLE_STREAM), number), self.samples)

    def batch(self, drawn: jax.Array | None, position: jax.Array) -> Batch:
        return self._take(drawn, position * self.size, self.size)

    def last(self, drawn: jax.Array | None) -> Batch:
        full = self.samples - self.samples % self.size
        return self._take(drawn, full, self.samples - full)

    def _take(self, order: jax.Array | None, start: Any, size: int) -> Batch:
        if order is None:
            return self._each(lambda rows: lax.dynamic_slice_in_dim(rows, start, size))
        chosen = lax.dynamic_slice_in_dim(order, start, size)
        return self._each(lambda rows: jnp.asarray(rows).at[chosen].get(unique_indices=True, mode="promise_in_bounds"))

    def _each(self, take: Callable) -> Batch:
        """Applies to all arrays that have one row per sample; a scalar sigma has none."""
        return jax.tree.map(lambda leaf: take(leaf) if leaf.ndim else leaf, self.data)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Group:
    """Batches that came from outside one after another, for the steps from `first` on.

    Attributes:
        data: The samples, arrays [batches, size, ...]; on a mesh with zeros behind, to fill up the last device.
        first: The number of the step that gets the first batch, an int32 scalar.
        size: The samples in a batch.
    """

    data: Batch
    first: Any
    size: int = dataclasses.field(metadata={"static": True})
    smaller = False
    steps_per_round = None

    def draw(self, key: jax.Array, number: jax.Array) -> None:
        del key, number

    def batch(self, drawn: None, position: jax.Array) -> Batch:
        del drawn

        def take(rows: jax.Array) -> jax.Array:
            return lax.dynamic_index_in_dim(rows, position - self.first, keepdims=False)[: self.size]

        return jax.tree.map(take, self.data)

    def last(self, drawn: None) -> Batch:
        raise NotImplementedError  # all its batches have one size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Held:
    """Another source, whose batches are held to a layout over devices.

    Attributes:
        source: The source.
        hold: What holds a batch.
    """

    source: Any
    hold: Callable[[Batch], Batch] = dataclasses.field(metadata={"static": True})

    @property
    def smaller(self) -> bool:
        return self.source.smaller

    @property
    def steps_per_round(self) -> int | None:
        return self.source.steps_per_round

    def draw(self, key: jax.Array, number: jax.Array) -> Any:
        return self.source.draw(key, number)

    def batch(self, drawn: Any, position: jax.Array) -> Batch:
        return self.hold(self.source.batch(drawn, position))

    def last(self, drawn: Any) -> Batch:
        return self.hold(self.source.last(drawn))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """A fresh batch at every step from a function `key -> (x, y)`, which is given `fold_in(key, step)`.

    Attributes:
        sampler: The function.
        block: How many batches are drawn at once: random numbers are far cheaper in bulk.
    """

    sampler: Callable = dataclasses.field(metadata={"static": True})
    block: int = dataclasses.field(metadata={"static": True})
    smaller = False

    @property
    def steps_per_round(self) -> int:
        return self.block

    def draw(self, key: jax.Array, number: jax.Array) -> Any:
        if self.block == 1:
            return self.sampler(random.fold_in(key, number))
        steps = number * self.block + jnp.arange(self.block, dtype=jnp.int32)
        return jax.vmap(lambda step: self.sampler(random.fold_in(key, step)))(steps)

    def batch(self, drawn: Any, position: jax.Array) -> Batch:
        if self.block > 1:
            drawn = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, position, keepdims=False), drawn)
        return Batch(*drawn)

    def last(self, drawn: Any) -> Batch:
        return self.batch(drawn, jnp.int32(self.block - 1))


def block_size(sampler: Callable, key: jax.ShapeDtypeStruct, sample: Any) -> int:
    """How many samples to draw at once: as many as stay in the cache, one where the sampler cannot be batched.

    Args:
        sampler: The function `key -> (x, y)`.
        key: The shape of a key.
        sample: The shapes of one sample.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(sample))
    block = max(1, min(_BLOCK_STEPS, _BLOCK_BYTES // max(size, 1)))
    if block > 1:
        try:
            jax.eval_shape(jax.vmap(sampler), jax.ShapeDtypeStruct((block, *key.shape), key.dtype))
        except Exception:  # whatever it does that has no batched form, it can still be called step by step
            return 1
    return block
