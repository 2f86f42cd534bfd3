"""The options of a fit, checked before any array is looked at."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import optax
from jax.core import Tracer

from jaxfit import _checks, _model, losses, optimizers
from jaxfit._problem import Batch
from jaxfit.losses import _curvature
from jaxfit.optimizers import LevenbergMarquardt, Optax, Optimizer

_FEW = 1_000  # params whose curvature is small enough to be solved with at every step
_RECORDS = ("loss", "gradient_norm", "params")


def optimizer(given: Any, loss: Any, params: Any, whole: bool) -> Optimizer:
    """The optimizer that runs; raises TypeError where it is none.

    Args:
        given: What the user said.
        loss: The loss.
        params: The starting values.
        whole: Whether all the data are there at every step.
    """
    if given is None:
        few = sum(np.size(leaf) for leaf in jax.tree.leaves(params)) <= _FEW
        if whole and few and optimizers.LevenbergMarquardt.serves(loss):
            return optimizers.LevenbergMarquardt()
        return optimizers.Adam(1e-3)
    if isinstance(given, Optimizer):
        return given
    if isinstance(given, optax.GradientTransformation):
        return Optax(given)
    names = [name for name in optimizers.__all__ if isinstance(getattr(optimizers, name), type)]
    way_out = "an optimizer such as jaxfit.optimizers.Adam(0.1), or an optax.GradientTransformation"
    if isinstance(given, type) and issubclass(given, Optimizer):
        way_out = f"{given.__name__}(...), a value with its hyperparameters"
    elif isinstance(given, str):
        by_lower = {name.lower(): name for name in names}
        if given.lower() in by_lower:
            way_out = f"jaxfit.optimizers.{by_lower[given.lower()]}(...)"
    raise TypeError(f"optimizer is {_checks.describe(given)}; expected {way_out}.")


def check_functions(model: Any, loss: Any, metrics: Any) -> None:
    """Raises TypeError where one of the user's functions is none."""
    _model.check_callable("model", model, *_model.MODEL)
    if isinstance(loss, str):
        known = loss in losses.__all__
        way_out = f"write jaxfit.losses.{loss}." if known else _checks.choices(loss, losses.__all__)
        came = _checks.describe(loss)
        raise TypeError(f"loss is {came}; expected a function such as those of jaxfit.losses: {way_out}")
    _model.check_callable("loss", loss, *_model.LOSS)
    if metrics is not None and not isinstance(metrics, dict):
        came = _checks.describe(metrics)
        raise TypeError(f'metrics is {came}; expected a dict of functions, such as {{"error": jaxfit.losses.l1}}.')
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str) or name in _RECORDS:
            raise ValueError(f"metrics has the name {name!r}; expected a string other than {', '.join(_RECORDS)}.")
        _model.check_callable(f"metrics[{name!r}]", metric, *_model.METRIC)


def kind(data: Any) -> str:
    """Which of the three forms of data this is."""
    if isinstance(data, tuple):
        return "arrays"
    if callable(data) and not isinstance(data, Iterable):
        return "sampler"
    if isinstance(data, Iterable) and not hasattr(data, "shape") and not isinstance(data, (str, bytes, dict)):
        return "stream"
    raise TypeError(
        f"data is {_checks.describe(data)}; expected a tuple (x, y), a sampler key -> (x, y), or an "
        "iterable of batches (x, y)."
    )


def check_together(kind: str, optimizer: Optimizer, given: dict[str, Any]) -> None:
    """Raises ValueError where arguments are given that do not go together.

    Args:
        kind: Which form the data have.
        optimizer: Who minimises.
        given: Other arguments of `fit`, by name.
    """
    if kind != "arrays":
        what = "a sampler" if kind == "sampler" else "an iterable of batches"
        for name in ("batch_size", "sigma", "weights"):
            if given[name] is not None:
                raise ValueError(f"{name} goes with arrays (x, y); the batches of {what} come as they are.")
    if given["bounds"] is not None or given["fixed"] is not None:
        optimizer.check_bounds()
    if given["compute_dtype"] is not None and optimizer.needs_full_batch:
        raise ValueError(
            f"compute_dtype gives up digits that {type(optimizer).__name__} needs: leave it out, or take an "
            "optimizer such as Adam."
        )
    validation, metrics = given["validation"], given["metrics"]
    if kind == "sampler" and validation is not None:
        raise ValueError("validation happens after every epoch, and a sampler has none; give data as arrays (x, y).")
    if metrics and kind != "arrays" and validation is None:
        way_out = "give data as arrays (x, y)" if kind == "sampler" else "give validation=(x, y)"
        raise ValueError(f"metrics are computed after every epoch, on data that are in memory: {way_out}.")
    if validation is not None and not isinstance(validation, tuple):
        raise TypeError(f"validation is {_checks.describe(validation)}; expected a tuple (x, y).")
    if kind == "stream" and isinstance(optimizer, LevenbergMarquardt):
        optimizer.check_streamed()
    elif optimizer.needs_full_batch and (kind != "arrays" or given["batch_size"] is not None):
        raise ValueError(
            f"{type(optimizer).__name__} compares the loss of one step with that of the next, so it needs all "
            "the data at every step: give them as arrays (x, y) without batch_size, or take an optimizer such as Adam."
        )


def batch_size(given: Any, batch: Batch | None) -> int | None:
    """The size of a batch, None where that is all the data; raises ValueError where it is more."""
    if given is None or batch is None:
        return None
    size, samples = _checks.count("batch_size", given), jax.tree.leaves(batch.y)[0].shape[0]
    if size > samples:
        raise ValueError(f"batch_size is {size}; expected at most {samples}, the number of samples in the data.")
    return size if size < samples else None


def record(given: Any) -> tuple[str, ...]:
    """What a row of the history holds, always with the loss; raises ValueError for a name that is not known."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"record is {given!r}; expected a tuple of names such as ('params',).")
    for name in given:
        _checks.one_of("fit", "record", name, _RECORDS)
    return tuple(name for name in _RECORDS if name == "loss" or name in given)


def skips(given: Any, optimizer: Optimizer) -> bool:
    """Whether a step whose loss or gradient is not finite is left out."""
    _checks.one_of("fit", "on_nonfinite", given, ("stop", "skip"))
    if given == "skip" and optimizer.needs_full_batch:
        raise ValueError(
            f'on_nonfinite="skip" is for batches of which some are bad; {type(optimizer).__name__} sees the same data '
            "at every step: leave it out, and mend the data."
        )
    return given == "skip"


def sums(loss: Callable) -> bool:
    """Whether a loss of jaxfit's kind is a sum over the samples, not their mean."""
    if _curvature.is_ours(loss):  # without a look at its signature: this is asked at every fit
        return _checks.unwrapped(loss)[1].get("reduction") == "sum"
    return _option(loss, "reduction") == "sum"


def takes_weights(loss: Callable) -> bool:
    """Whether a loss can be weighted by samples."""
    plain = _option(loss, "reduction") not in (None, "batchmean")
    return plain and _option(loss, "weight") is None and _option(loss, "ignore_index") is None


def check_weights(loss: Callable, batch: Batch) -> None:
    """Raises where a loss cannot be weighted by samples: where it is not a plain sum or mean of theirs."""
    if _option(loss, "reduction") is None:
        raise TypeError(
            "weights need a loss that gives one number per sample, by reduction='none', as those of jaxfit.losses do; "
            "for a loss of your own, hand the weights to it inside x or y."
        )
    if _option(loss, "reduction") == "batchmean" or _option(loss, "weight") is not None:
        raise ValueError("weights do not go with the loss's own weight or reduction='batchmean'; give one of them.")
    ignored = _option(loss, "ignore_index")
    if isinstance(batch.y, Tracer):
        return
    if ignored is not None and jax.numpy.issubdtype(batch.y.dtype, np.integer) and bool((batch.y == ignored).any()):
        raise ValueError(f"weights do not go with labels that the loss ignores ({ignored}); give those the weight 0.")


def _option(loss: Callable, name: str) -> Any:
    """What a loss takes an option to be, by a partial or by default; None where it has no such option."""
    parameter = inspect.signature(loss).parameters.get(name)
    return None if parameter is None else parameter.default


def limit(optimizer: Optimizer, steps: Any, epochs: Any) -> tuple[int | None, int | None]:
    """Steps and epochs, of which just one is left."""
    if steps is not None and epochs is not None:
        raise ValueError(f"both steps ({steps}) and epochs ({epochs}) are given; expected one of them.")
    if steps is None and epochs is None:
        if optimizer.default_steps is None:
            name = type(optimizer).__name__
            raise ValueError(f"{name} does not stop by itself: give steps=, or epochs= for passes over the data.")
        steps = optimizer.default_steps
    if epochs is not None:
        return None, _checks.count("epochs", epochs)
    return _checks.count("steps", steps), None
