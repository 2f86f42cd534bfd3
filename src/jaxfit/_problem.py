"""What is minimised: model, loss, weights and bounds, as the loss, gradient and Gauss–Newton terms of a batch."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfit import _convolutions, _small
from jaxfit.losses import _curvature

_LANES = 8  # the parts of a block: on CPU the cores share them
_BLOCK_BYTES = {"cpu": 1 << 23}  # of a block's prediction and Jacobian: what the caches hold
_ELSEWHERE = 1 << 28


class Batch(NamedTuple):
    """Some of the data.

    Attributes:
        x: What the model is given: a pytree of arrays [n, ...].
        y: What it should answer: a pytree of arrays [n, ...].
        sigma: Standard deviations of y, in y's units, of y's shape or a scalar; None for none.
        weights: One weight per sample, [n]; None for none.
    """

    x: Any
    y: Any
    sigma: Any = None
    weights: Any = None


class GaussNewton(NamedTuple):
    """The local shape of a loss, as the prediction's derivatives give it.

    Attributes:
        loss: The loss, a scalar.
        gradient: Its gradient J'g, [p], where g is the loss's gradient in the prediction.
        curvature: J'HJ, [p, p], where H is the curvature of the loss in the prediction. Both are arrays, or numbers
            apart where the params are.
    """

    loss: jax.Array
    gradient: Any
    curvature: Any


class Problem(NamedTuple):
    """A model and a loss: all that an optimizer has to know of what it minimises.

    Attributes:
        model: `model(params, x) -> prediction`, as it is evaluated.
        loss: `loss(prediction, target) -> scalar`.
        sums: Whether the loss is a sum over the samples; otherwise it is their (weighted) mean.
        bounds: The least and the largest params allowed, two pytrees of arrays like them; None for none.
        block: How many samples are handled at once for the Gauss–Newton terms; None for all.
        draws: Whether the model is random, and takes a key at every step.
        train: How a model is trained that behaves otherwise then, or carries something from step to step:
            `train(params, carried, x, key) -> (prediction, carried)`; None for a plain function.
        spread: How samples lie on a mesh of devices; None for one device.
    """

    model: Callable
    loss: Callable
    sums: bool = False
    bounds: tuple[Any, Any] | None = None
    block: int | None = None
    draws: bool = False
    train: Callable | None = None
    spread: Any = None

    def compared(self, prediction: Any, batch: Batch) -> tuple[Any, Any]:
        """Prediction and target as the loss takes them.

        That is in units of sigma: for squared errors, the loss is then chi squared. A loss of this library takes a
        pytree as one vector of all its numbers, and a complex number as the pair of its parts.
        """
        target, sigma = batch.y, batch.sigma
        if _curvature.is_ours(self.loss):
            if not hasattr(target, "shape"):
                sigma = sigma if hasattr(sigma, "shape") or sigma is None else _vector(sigma)
                prediction, target = _vector(prediction), _vector(target)
            if jnp.iscomplexobj(prediction) or jnp.iscomplexobj(target):
                prediction, target = _pairs(prediction), _pairs(target)
                sigma = sigma[..., None] if sigma is not None and jnp.ndim(sigma) else sigma
        if sigma is not None:
            prediction, target = prediction / sigma, target / sigma
        return prediction, target

    def score(self, prediction: Any, batch: Batch) -> jax.Array:
        """The loss of a prediction for a batch."""
        prediction, target = self.compared(prediction, batch)
        if batch.weights is None:
            return self.loss(prediction, target)
        losses = self.loss(prediction, target, reduction="none")
        weights = per_row(batch.weights, losses)
        total, count = jnp.sum(weights * losses), jnp.sum(jnp.broadcast_to(weights, losses.shape))
        # A batch in which no sample counts has nothing to say: loss and gradient 0, not 0 / 0.
        return total if self.sums else total / jnp.where(count == 0, 1, count)

    def value(self, params: Any, batch: Batch) -> jax.Array:
        """The loss of a batch, a scalar."""
        return self.score(self.model(params, batch.x), batch)

    def training_value(self, params: Any, batch: Batch, carried: Any, key: Any) -> tuple[jax.Array, Any]:
        """The loss of a batch in training, a scalar, and what is carried on to the next step."""
        if self.train is None:
            return self.value(params, batch), carried
        prediction, carried = self.train(params, carried, batch.x, key)
        return self.score(prediction, batch), carried

    def value_and_gradient(self, params: Any, batch: Batch) -> tuple[jax.Array, Any]:
        """The loss of a batch and its gradient with respect to the params, a pytree like them."""
        return self.training_value_and_gradient(params, batch, (), None)[:2]

    def training_value_and_gradient(
        self, params: Any, batch: Batch, carried: Any, key: Any
    ) -> tuple[jax.Array, Any, Any]:
        """The loss of a batch in training, its gradient, a pytree like the params, and what is carried on."""
        both = _convolutions.in_order(jax.value_and_grad(self.training_value, has_aux=True))
        (loss, carried), gradient = both(params, batch, carried, key)
        return loss, gradient, carried

    def within(self, params: Any) -> Any:
        """The params, each moved to the nearest that its bounds allow."""
        return params if self.bounds is None else jax.tree.map(jnp.clip, params, *self.bounds)

    def gauss_newton(self, flat: jax.Array, unravel: Callable, batch: Batch) -> GaussNewton:
        """The Gauss–Newton terms at params given as one vector, [p], of which `unravel` makes the pytree."""
        if isinstance(flat, _small.Apart):
            return self._summed_apart(flat, unravel, batch)

        def terms(batch: Batch, mass: Any) -> GaussNewton:
            def along(direction: Any) -> tuple[Any, Any, Any]:
                return jax.jvp(
                    lambda flat: self.compared(self.model(unravel(flat), batch.x), batch),
                    (flat,),
                    (direction,),
                    has_aux=True,
                )

            # One copy of the model: the prediction, and one directional derivative for each param.
            prediction, columns, target = jax.vmap(along, out_axes=(None, 0, None))(np.eye(flat.size, dtype=flat.dtype))
            rows = columns.reshape(flat.size, -1)
            if _curvature.is_squared(self.loss):
                return self._squared(rows, prediction - target, batch.weights, mass)
            loss, slope, curve = self._shape(prediction, target, batch.weights, mass)
            # One product for both: the data are read once.
            curved = curve(columns).reshape(flat.size, -1)
            product = rows @ jnp.concatenate([curved, slope.reshape(1, -1)]).T
            return GaussNewton(loss, product[:, -1], product[:, :-1])

        return self._summed(terms, batch)

    def bending(self, flat: jax.Array, direction: jax.Array, unravel: Callable, batch: Batch) -> jax.Array:
        """J'Hk, [p], where k is the model's second derivative along a direction."""

        def terms(batch: Batch, mass: Any) -> jax.Array:
            def model(flat: jax.Array) -> tuple[Any, Any]:
                return self.compared(self.model(unravel(flat), batch.x), batch)

            def along(flat: jax.Array) -> Any:
                return jax.jvp(model, (flat,), (direction,), has_aux=True)

            (prediction, _, target), (_, second, _) = jax.jvp(along, (flat,), (direction,))
            _, _, curve = self._shape(prediction, target, batch.weights, mass)
            _, pull, _ = jax.vjp(model, flat, has_aux=True)
            return pull(curve(second[None])[0])[0]

        return self._summed(terms, batch)

    def _squared(self, rows: jax.Array, residual: jax.Array, weights: Any, mass: Any) -> GaussNewton:
        """The terms of the squared error, all from one product of the Jacobian and the residual with themselves.

        Args:
            rows: The Jacobian, [p, m].
            residual: [n, ...], m numbers.
            weights: One per sample, [n], or None.
            mass: What the samples of all blocks weigh.
        """
        (columns, residual), factor = self._weighed([rows.reshape(-1, *residual.shape), residual], weights, mass)
        both = jnp.concatenate([columns.reshape(len(rows), -1), residual.reshape(1, -1)])
        product = (both @ both.T if self.block is None else _small.gram(both)) * factor
        return GaussNewton(product[-1, -1], 2 * product[:-1, -1], 2 * product[:-1, :-1])

    def _summed_apart(self, flat: _small.Apart, unravel: Callable, batch: Batch) -> GaussNewton:
        """The terms at params given apart: sums over samples, each of which is handled by itself.

        Many fits side by side get the samples as the outer axis and the fits as the inner one, in which their numbers
        lie next to each other, whatever the order in which the caller batches them.
        """
        mass = self.mass(batch)
        dealt = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, batch)  # a single sigma is that of all samples

        def of_one(flat: _small.Apart, sample: Batch, mass: Any) -> GaussNewton:
            row = jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[None], sample, dealt)
            return self._terms_apart(flat, unravel, row, mass)

        def summed(of_samples: Callable, *arguments: Any) -> GaussNewton:
            each = jax.vmap(of_samples, in_axes=(None, dealt, None))(*arguments)
            # All sums in one pass: XLA would read the samples' terms once for each of them.
            parts, tree = jax.tree.flatten(each)
            zeros = [np.zeros((), part.dtype) for part in parts]
            return tree.unflatten(lax.reduce(parts, zeros, lambda some, more: [*map(operator.add, some, more)], (0,)))

        alone = jax.custom_batching.custom_vmap(functools.partial(summed, of_one))

        @alone.def_vmap
        def _(_: int, batched: Any, flat: Any, batch: Batch, mass: Any) -> Any:
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
            moved = jax.tree.map(
                lambda leaf, fits, axis: leaf if fits is None or axis is None else jnp.moveaxis(leaf, 1, 0),
                batch,
                axes[1],
                dealt,
            )
            terms = summed(jax.vmap(of_one, in_axes=axes), flat, moved, mass)
            return terms, jax.tree.map(lambda _: True, terms)

        return alone(flat, batch, mass)

    def _terms_apart(self, flat: _small.Apart, unravel: Callable, batch: Batch, mass: Any) -> GaussNewton:
        """The terms of a few samples at params given apart."""
        columns, prediction, target = [], None, None
        for index in range(flat.size):

            def compared(number: Any, index: int = index) -> tuple[Any, Any]:
                return self.compared(self.model(unravel(flat.but(index, number)), batch.x), batch)

            along = jnp.ones_like(flat[index])
            prediction, column, target = jax.jvp(compared, (flat[index],), (along,), has_aux=True)
            columns.append(column)
        assert prediction is not None
        places = _small.triangle(flat.size)
        if _curvature.is_squared(self.loss):
            both, factor = self._weighed([*columns, prediction - target], batch.weights, mass)
            # One sample has an axis of length 1, which XLA's sums over samples take long to see through.
            product = _small.gram([row[0] for row in both] if len(both[0]) == 1 else both) * factor
            gradient = _small.Apart(2 * product.at(flat.size, i) for i in range(flat.size))
            curvature = _small.Triangle(2 * product.at(i, j) for i, j in places)
            return GaussNewton(product.at(flat.size, flat.size), gradient, curvature)
        loss, slope, curve = self._shape(prediction, target, batch.weights, mass)
        curved = [curve(column[None])[0] for column in columns]
        gradient = _small.Apart(jnp.sum(column * slope) for column in columns)
        return GaussNewton(loss, gradient, _small.Triangle(jnp.sum(columns[i] * curved[j]) for i, j in places))

    def _weighed(self, rows: list[Any], weights: Any, mass: Any) -> tuple[list[Any], Any]:
        """Jacobian and residual so that their products, times the factor that comes with them, are the terms."""
        residual = rows[-1]
        own = _curvature.weight(self.loss)
        factor = self._share(residual, weights, mass) * (1 if own is None else jnp.asarray(own, residual.dtype))
        if not jnp.ndim(factor):
            return rows, factor
        # A square root on each side keeps the product symmetric.
        root = jnp.sqrt(jnp.broadcast_to(factor, residual.shape))
        return [row * root for row in rows], 1

    def _share(self, values: jax.Array, weights: Any, mass: Any) -> Any:
        """By what the losses of samples are multiplied in their sum."""
        rows = 1 if weights is None else per_row(weights, values)
        return rows if self.sums else rows / (mass * (values.size // values.shape[0]))

    def _shape(self, prediction: Any, target: Any, weights: Any, mass: Any) -> tuple[jax.Array, jax.Array, Callable]:
        """The loss, its gradient in the prediction, and a function that multiplies [k, ...] by its curvature there.

        Args:
            prediction: As the loss takes it.
            target: Likewise.
            weights: One per sample, [n], or None.
            mass: What the samples of all blocks weigh.
        """

        def share(values: jax.Array) -> Any:
            return self._share(values, weights, mass)

        def total(prediction: jax.Array) -> jax.Array:
            losses = self.loss(prediction, target, reduction="none")
            return jnp.sum(losses * share(losses))

        loss, slope = jax.value_and_grad(total)(prediction)
        if _curvature.by_rows(self.loss):
            bend = functools.partial(jax.jvp, jax.grad(total), (prediction,))
            return loss, slope, jax.vmap(lambda column: bend((column,))[1])
        explicit = _curvature.by_entries(self.loss)
        if explicit is None:  # entries act alone: the second derivative along all of them at once is its diagonal
            _, diagonal = jax.jvp(jax.grad(total), (prediction,), (jnp.ones_like(prediction),))
        else:
            diagonal = explicit(prediction, target) * share(prediction)
        return loss, slope, lambda columns: columns * diagonal

    def mass(self, batch: Batch) -> Any:
        """What all samples of a batch weigh."""
        found = _curvature.mass(self.loss, batch.y, rows_of(batch)) if batch.weights is None else jnp.sum(batch.weights)
        return found if isinstance(found, int) else jnp.where(found == 0, 1, found)

    def _summed(self, terms: Callable[[Batch, Any], Any], batch: Batch) -> Any:
        """What `terms` gives for all samples: the sum of what it gives for the blocks."""
        rows, mass = rows_of(batch), self.mass(batch)
        if self.block is None or self.block >= rows:
            return terms(batch, mass)
        if self.spread is not None:
            return self._summed_over_devices(terms, batch, mass)
        size = self.block

        def add(index: jax.Array, found: Any) -> Any:
            part = _block(batch, index, size)
            # XLA deals the lanes over the cores.
            lanes = jax.tree.map(lambda leaf: leaf.reshape(_LANES, -1, *leaf.shape[1:]) if leaf.ndim else leaf, part)
            each = jax.vmap(terms, in_axes=(_dealt(part), None))(lanes, mass)
            return jax.tree.map(lambda total, parts: total + jnp.sum(parts, axis=0), found, each)

        return lax.fori_loop(0, -(-rows // size), add, _zeros(jax.eval_shape(terms, batch, mass)))

    def _summed_over_devices(self, terms: Callable[[Batch, Any], Any], batch: Batch, mass: Any) -> Any:
        """The same on a mesh: each device sums over blocks of its own samples, and the devices' sums are added."""
        shards, rows = self.spread.shards, rows_of(batch)
        each = -(-rows // shards)
        if rows % shards:  # samples that do not count make all devices have equally many
            ones = jnp.ones(rows, jnp.result_type(float)) if batch.weights is None else batch.weights
            batch = jax.tree.map(
                lambda leaf: jnp.concatenate([leaf, leaf[: shards * each - rows]]) if leaf.ndim else leaf,
                batch._replace(weights=ones),
            )
            counts = jnp.arange(shards * each) < rows
            batch = batch._replace(weights=jnp.where(counts, batch.weights, 0))
        dealt = jax.tree.map(lambda leaf: leaf.reshape(shards, each, *leaf.shape[1:]) if leaf.ndim else leaf, batch)
        dealt, axes = self.spread.held(dealt), _dealt(batch)
        assert self.block is not None
        size = min(self.block, each)

        def one(batch: Batch, index: jax.Array) -> Any:
            return terms(_block(batch, index, size), mass)

        def add(index: jax.Array, found: Any) -> Any:
            return jax.tree.map(jnp.add, found, jax.vmap(one, in_axes=(axes, None))(dealt, index))

        blank = _zeros(jax.eval_shape(jax.vmap(one, in_axes=(axes, None)), dealt, jnp.int32(0)))
        found = lax.fori_loop(0, -(-each // size), add, blank)
        return jax.tree.map(lambda parts: jnp.sum(parts, axis=0), found)


class Known(Problem):
    """A problem whose Gauss–Newton terms have been summed already, over data that were never together: its batch."""

    def value(self, params: Any, batch: Any) -> jax.Array:
        """The loss."""
        del params
        return batch.loss

    def gauss_newton(self, flat: Any, unravel: Callable, batch: Any) -> GaussNewton:
        """The terms."""
        del flat, unravel
        return batch


class Totals(NamedTuple):
    """Gauss–Newton terms summed over batches, with what rounding lost on the way (Neumaier's summation).

    Attributes:
        sums: The terms, each batch's with the weight of its samples, and what the samples weigh.
        lost: What is to be added to them.
    """

    sums: tuple[GaussNewton, jax.Array]
    lost: tuple[GaussNewton, jax.Array]

    @classmethod
    def from_nothing(cls, blank: GaussNewton) -> "Totals":
        """Before the first batch.

        Args:
            blank: Terms that are 0.
        """
        zero: Any = np.zeros((), blank.gradient.dtype)
        return cls((blank._replace(loss=zero), zero), (blank._replace(loss=zero), zero))

    def plus(self, problem: Problem, flat: Any, unravel: Callable, batch: Batch) -> "Totals":
        """With the terms of one more batch."""
        mass = jnp.asarray(1 if problem.sums else problem.mass(batch), self.sums[1].dtype)
        more = jax.tree.map(lambda entry: entry * mass, problem.gauss_newton(flat, unravel, batch)), mass

        def lost(total: jax.Array, more: jax.Array) -> jax.Array:
            together = total + more
            large = jnp.abs(total) >= jnp.abs(more)
            return jnp.where(large, (total - together) + more, (more - together) + total)

        rest = jax.tree.map(lambda before, total, more: before + lost(total, more), self.lost, self.sums, more)
        return Totals(jax.tree.map(jnp.add, self.sums, more), rest)

    @property
    def mass(self) -> Any:
        """What all samples weigh."""
        return self.sums[1] + self.lost[1]

    def mean(self, sums: bool) -> GaussNewton:
        """The terms of all batches together."""
        return jax.tree.map(lambda total, lost: (total + lost) / (1 if sums else self.mass), self.sums[0], self.lost[0])


def _block(batch: Batch, index: Any, size: int) -> Batch:
    """The block of this number; the last reaches back to be full, and what was counted already does not count again."""
    rows = rows_of(batch)
    start = jnp.minimum(index * size, rows - size)
    part = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size) if leaf.ndim else leaf, batch)
    if rows % size:
        new = start + jnp.arange(size) >= index * size
        part = part._replace(weights=jnp.where(new, 1.0 if part.weights is None else part.weights, 0.0))
    return part


def _dealt(batch: Batch) -> Any:
    """Where each array has the axis of samples: single numbers have none."""
    return jax.tree.map(lambda leaf: 0 if leaf.ndim else None, batch)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def block_size(params: int, batch: Batch, loss: Callable) -> int | None:
    """How many samples to handle at once for the Gauss–Newton terms, None for all.

    Args:
        params: The number of params.
        batch: The data.
        loss: The loss.
    """
    if not (hasattr(batch.y, "shape") and _curvature.serves(loss) and _curvature.in_parts(loss)):
        return None
    rows = batch.y.shape[0]
    if any(leaf.shape[0] != rows for leaf in jax.tree.leaves(batch.x)):
        return None
    a_row = batch.y.size // rows * batch.y.dtype.itemsize * (params + 4)
    lane = _BLOCK_BYTES.get(jax.default_backend(), _ELSEWHERE) // (_LANES * max(a_row, 1))
    block = _LANES * max(lane, 1)
    if 2 * block > rows:
        return None
    # Blocks that divide the samples evenly need no account of what has been counted.
    least = -(-rows // block)
    even = (rows // number for number in range(least, 2 * least) if rows % (_LANES * number) == 0)
    return next(even, block)


def is_row_by_row(model: Callable, params: Any, few: Any) -> jax.Array:
    """Whether the prediction for a sample depends on that sample alone, tried on a few: a bool scalar.

    Args:
        model: `model(params, x) -> prediction`.
        params: Where it is tried; the derivative there along a direction is tried too.
        few: x of an even number of samples.
    """
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)

    def tried(x: Any) -> Any:
        return jax.jvp(lambda params: model(params, x), (params,), (direction,))

    half = jax.tree.leaves(few)[0].shape[0] // 2
    halves = [tried(jax.tree.map(lambda leaf: leaf[:half], few)), tried(jax.tree.map(lambda leaf: leaf[half:], few))]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
    back = jax.tree.map(lambda leaf: leaf[::-1], tried(jax.tree.map(lambda leaf: leaf[::-1], few)))

    def equal(one: jax.Array, other: jax.Array) -> jax.Array:
        near = jnp.abs(one - other) <= jnp.sqrt(jnp.finfo(one.dtype).eps) * (jnp.abs(one) + jnp.abs(other))
        return jnp.all(near | (jnp.isnan(one) & jnp.isnan(other)))

    together = tried(few)
    checks = [
        equal(*pair) for other in (joined, back) for pair in zip(*map(jax.tree.leaves, (together, other)), strict=True)
    ]
    return jnp.all(jnp.stack(checks))


def rows_of(batch: Batch) -> int:
    """The number of samples; of a pytree, which is taken as one vector, that of its numbers."""
    return batch.y.shape[0] if hasattr(batch.y, "shape") else sum(leaf.size for leaf in jax.tree.leaves(batch.y))


def per_row(weights: Any, values: Any) -> Any:
    """One number per sample, [n], so that it multiplies values of shape [n, ...]."""
    return weights.reshape(-1, *[1] * (values.ndim - 1)) if jnp.ndim(weights) else weights


def _vector(tree: Any) -> jax.Array:
    """All numbers of a pytree as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _pairs(values: jax.Array) -> jax.Array:
    """Complex numbers [...] as pairs of real ones, [..., 2]."""
    return jnp.stack([jnp.real(values), jnp.imag(values)], axis=-1)
