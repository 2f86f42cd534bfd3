"""What `fit` does first where the model is a flax module: finds out what it is called with, and parts its params."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import random

from jaxfit import _checks, _forward, _inputs, _model, _modules, _options
from jaxfit._batches import Batches
from jaxfit._modules import Network
from jaxfit._problem import Batch
from jaxfit._program import Held
from jaxfit._status import FitWarning
from jaxfit.optimizers import Optimizer

_EXPECTED = "expected a floating-point dtype such as jnp.bfloat16."


class Prepared(NamedTuple):
    """A module, ready to be fitted.

    Attributes:
        network: The module as pure functions.
        nature: What its program tells.
        data: The data.
        batch: Data that are arrays, checked; None for others.
    """

    network: Network
    nature: _forward.Nature
    data: Any
    batch: Batch | None

    @property
    def params(self) -> Any:
        """All its params."""
        return self.network.params

    @property
    def carried(self) -> Any:
        """All its other arrays."""
        return self.network.carried

    @property
    def is_steady(self) -> bool:
        """Whether the same params have the same loss at every step."""
        return not (self.nature.draws or self.nature.changes)


def prepare(model: Any, params: Any, data: Any, kind: str, batch_size: Any, seed: Any) -> Prepared:
    """Adapts a module and looks at its program.

    Args:
        model: The module.
        params: Arrays to start from in place of its own, or None.
        data: What the user gave.
        kind: Which form that has.
        batch_size: Samples in a batch of arrays; None for all.
        seed: The data and the kind of the fit's key.
    """
    batch = None
    if kind == "arrays":
        batch = _inputs.arrays(data, False, ragged=batch_size is None)
        x, size = batch.x, _options.batch_size(batch_size, batch)
    elif kind == "sampler":
        key = jax.eval_shape(lambda: random.wrap_key_data(seed[0], impl=seed[1]))
        sample = _model.traced("the sampler", data, key)
        x, size = sample[0] if isinstance(sample, tuple) and len(sample) == 2 else sample, None
    else:
        x, size = _first(data), None
    network = _modules.adapt(model, params, x, seed)
    name = _model.called(model)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size or leaf.shape[0], *leaf.shape[1:]), leaf.dtype), x)
    looked = network.meaning, network.evaluate, network.train, network.params, network.carried, shapes
    nature = _forward.look(*looked, name)
    if nature.unsteady:
        warnings.warn(
            f"The {name} draws random numbers in evaluation too, so validation, metrics and predictions have them: let "
            "one of its attributes, or an argument of its own __call__, be named train or deterministic.",
            FitWarning,
            stacklevel=4,
        )
    return Prepared(network, nature, data, batch)


def _first(batches: Batches) -> Any:
    """The x of the first batch, which is not taken."""
    first = batches.peek()
    if first is None:
        batches.next()  # says that there is nothing
    if not (isinstance(first, (tuple, list)) and len(first) == 2):
        return jnp.zeros((1, 1))  # refused when the batches are dealt
    return _inputs.arrays(tuple(first), False, name="batch 0").x


def parted(prepared: Prepared, optimizer: Optimizer, params: Any, stays: Any) -> tuple[Any, Held, Any]:
    """The params that are fitted, what a module holds beside them, and which entries of the fitted ones stay.

    Args:
        prepared: The module.
        optimizer: Who minimises.
        params: All its params.
        stays: Which of them stay, a pytree of bool arrays like them; None for none.

    Raises:
        ValueError: The optimizer compares losses, and the module has another one every time.
    """
    held = Held(carried=prepared.carried, changes=prepared.nature.changes)
    if optimizer.needs_full_batch:
        _check_steady(type(optimizer).__name__, prepared)
        return params, held, stays  # bounds hold what stays: errors and curvature know of all params
    if stays is None:
        return params, held, None
    whole = jax.tree.map(lambda still: bool(still.all()), stays)
    rest = jax.tree.map(lambda still: None if still.all() else still, stays)
    fitted, frozen = _modules.parted(params, whole) if any(jax.tree.leaves(whole)) else (params, ())
    some = any(still.any() for still in jax.tree.leaves(rest))
    return fitted, held._replace(frozen=frozen), rest if some else None


def _check_steady(name: str, prepared: Prepared) -> None:
    if not prepared.is_steady:
        what = "draws random numbers" if prepared.nature.draws else "changes what it carries, as BatchNorm does,"
        raise ValueError(
            f"{name} compares the loss of one step with that of the next, and the model, a "
            f"{type(prepared.network.given).__name__}, {what} in training: take an optimizer such as "
            "jaxfit.optimizers.Adam(1e-3)."
        )


def block_bytes(prepared: Prepared, validation: Batch | None) -> int:
    """What a sample takes in a look after an epoch; 0 for a look at all at once, where samples are seen together."""
    nature, network, look = prepared.nature, prepared.network, validation or prepared.batch
    if look is None or jax.tree.leaves(look.x)[0].shape[0] <= _forward.rows_at_once(nature.row_bytes):
        return 0
    tried = network.meaning, network.evaluate, network.params, network.carried, look.x
    return nature.row_bytes if _forward.is_row_by_row(*tried) else 0


def dtype(given: Any) -> Any:
    """A floating-point dtype to compute in; None for None."""
    if given is None:
        return None
    try:
        found = jnp.dtype(given)
    except TypeError as error:
        raise TypeError(
            f"compute_dtype is {_checks.describe(given)}; expected a dtype such as jnp.bfloat16."
        ) from error
    if not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"compute_dtype is {found}; expected a floating-point dtype such as jnp.bfloat16.")
    return found
