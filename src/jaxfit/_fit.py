"""`fit`: checks what it was given, lets the loop run as one compiled program, and wraps what came out."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax

from jaxfit import _checks, _drive, _inputs, _limits, _options, _program, _traced, losses
from jaxfit._fingerprint import fingerprint
from jaxfit._inference import Evidence, regular_inverse
from jaxfit._problem import Batch, Problem
from jaxfit._program import Task
from jaxfit._report import named_numbers
from jaxfit._result import FitResult
from jaxfit._status import FitWarning
from jaxfit.losses import _curvature
from jaxfit.optimizers import Optimizer


def fit(
    model: Callable,
    data: Any,
    params: Any = None,
    *,
    loss: Callable = losses.mse,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    sigma: Any = None,
    absolute_sigma: bool = False,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    validation: tuple[Any, Any] | None = None,
    metrics: dict[str, Callable] | None = None,
    record: tuple[str, ...] = (),
    key: Any = 0,
) -> FitResult:
    """Fits a model to data: finds the params that make the loss small.

    The whole fit is one compiled program. A second fit of the same model with other data of the same shapes, another
    key or other hyperparameters compiles nothing.

    Args:
        model: A pure function `model(params, x) -> prediction`, written with `jax.numpy`.
        data: One of

            - a tuple `(x, y)`: arrays, or pytrees of arrays, with one row per sample: [n, ...];
            - a sampler, a function `key -> (x, y)` that draws a fresh batch at every step; step i gets
              `jax.random.fold_in(key, i)`;
            - an iterable of batches `(x, y)`; it is started anew for each epoch.
        params: The starting values: a float, or a pytree of floats and float arrays. Their precision is that of the
            fit: NumPy float64 fits in float64, whatever JAX is set to, and gives NumPy float64 back. Python floats
            take the precision of arrays (x, y), and are float32 with a sampler or a stream. A second-order optimizer
            takes the precision of the data where it is higher.
        loss: `loss(prediction, target) -> scalar`: one of `jaxfit.losses`, or your own.
        optimizer: One of `jaxfit.optimizers`, or any `optax.GradientTransformation`. None means `LevenbergMarquardt()`
            for a fit of at most 1,000 numbers to all the data at every step under a loss that it serves, and
            `Adam(1e-3)` for others.
        steps: How many steps to take; at most so many for an optimizer that stops by itself, which needs none.
        epochs: How many passes over the data to make, in place of `steps`.
        batch_size: Samples in a batch; None for all at every step. The last batch of an epoch is smaller where the
            data do not divide evenly.
        shuffle: Whether each epoch deals the samples in a new order.
        sigma: Standard deviations of y, in its units: of y's shape, or one number. The loss is then that of
            `prediction / sigma` and `y / sigma`; the mean squared error becomes chi squared over n.
        absolute_sigma: Whether sigma is known in absolute terms. If not, standard errors take only its proportions and
            find its size in the residuals, as `scipy.optimize.curve_fit` does.
        weights: One weight of at least 0 per sample, [n], for the weighted mean of the losses of the samples
            (their weighted sum where the loss has `reduction="sum"`).
        bounds: A pair (lower, upper) that the params stay within at every step; each is one number for all params, or
            numbers in the structure of params. None or an infinity means no bound; a dict may leave names out.
        fixed: Which params stay at their starting values: names as the report shows them ("offset", or "peak" for all
            below it; several in a tuple), or bools in the structure of params.
        validation: A pair `(x, y)` whose loss is written into `history["validation_loss"]` after every epoch; of sigma
            and weights it takes a sigma that is one number.
        metrics: Functions `metric(prediction, y) -> scalar` by name, computed after every epoch on the validation
            data (`history["validation_<name>"]`), or on the data where there are none (`history["<name>"]`).
        record: What else the history keeps of every step: "params" (those that the step started from) and
            "gradient_norm".
        key: An int or a JAX key. All randomness of the fit comes from it.

    Returns:
        A `FitResult`: params, status, history, and what can be asked of them. Inside a function that JAX transforms
        by `jit`, `vmap` or `grad`, where values are not known yet, a `TracedResult`: the same params, loss, covariance
        and standard errors as a pytree. The derivative of a second-order fit's params is that of the equation which
        they solve (the implicit function theorem), so no step is differentiated.

    Raises:
        TypeError: An argument is of the wrong kind, or the model cannot be traced.
        ValueError: An argument has a wrong value or shape; also NaN or infinity in the data or in params.

    Warns:
        FitWarning: The fit ended in a way that its user should know of: it diverged, its loss turned NaN or infinite,
            it reached its limit of steps, in which cases the result holds the last params whose loss is finite; or the
            data do not determine some of the params, which it names.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params["slope"] * x + params["intercept"]
        >>> start = {"slope": 0.0, "intercept": 0.0}
        >>> result = jf.fit(line, (x, 2 * x + 1), start)
        >>> round(float(result.params["slope"]), 2)
        2.0
        >>> result = jf.fit(line, (x, 2 * x + 1), start, optimizer=jf.optimizers.Adam(0.1), steps=1000)
        >>> round(float(result.params["slope"]), 2)
        2.0
    """
    _options.check_functions(model, loss, metrics)
    kind = _options.kind(data)
    guessed = params is None and hasattr(model, "guess")
    if guessed:
        params = _guess(model, data, kind)
    chosen = _options.optimizer(optimizer, loss, params, whole=kind == "arrays" and batch_size is None)
    given = {"batch_size": batch_size, "sigma": sigma, "weights": weights, "bounds": bounds, "fixed": fixed}
    _options.check_together(kind, chosen, given | {"validation": validation, "metrics": metrics})
    chosen.check_loss(loss)
    if not isinstance(shuffle, bool):
        raise TypeError(f"shuffle is {_checks.describe(shuffle)}; expected True or False.")
    arrays = data if kind == "arrays" else None
    traced = _traced.is_traced(arrays, params, sigma, weights, bounds, chosen, key, model, loss)
    if traced and kind == "stream":
        raise TypeError("an iterable of batches cannot be run inside jit, vmap or grad; give data as arrays (x, y).")
    start = _inputs.params(params, data, widen=chosen.is_second_order, traced=traced)
    stays = _limits.fixed(fixed, start.tree)
    own = getattr(model, "bounds", None)
    limits, first = _limits.bounds(bounds, own, stays, start.tree, guessed=guessed)
    with jax.enable_x64(True) if start.wide else contextlib.nullcontext():
        seed, key_kind = _inputs.seed(key)
        batch = None if kind != "arrays" else _inputs.arrays(data, start.wide, ragged=batch_size is None)
        if batch is not None and sigma is not None:
            batch = batch._replace(sigma=_inputs.spread("sigma", sigma, batch, start.wide, rows_only=False))
        if batch is not None and weights is not None:
            batch = batch._replace(weights=_inputs.spread("weights", weights, batch, start.wide, rows_only=True))
            _options.check_weights(loss, batch)
        ragged = batch_size is None
        look = None if validation is None else _inputs.arrays(validation, start.wide, "validation", ragged=ragged)
        if look is not None and batch is not None and getattr(batch.sigma, "ndim", 1) == 0:
            look = look._replace(sigma=batch.sigma)  # one number holds for all samples, those too
        meaning = _meaning(model, loss, metrics, chosen, data if kind == "sampler" else None)
        task = Task(
            problem=Problem(model, loss, _options.sums(loss)),
            optimizer=chosen,
            params=first,
            data=batch,
            sampler=data if kind == "sampler" else None,
            batch_size=_options.batch_size(batch_size, batch),
            shuffle=shuffle,
            bounds=limits,
            validation=look,
            metrics=dict(metrics or {}),
            record=_options.record(record),
            seed=seed,
            key_kind=key_kind,
            meaning=meaning,
        )
        if traced:
            return cast("FitResult", _traced.fit(task, _steps(task, steps, epochs), absolute_sigma))
        if chosen.in_blocks and batch is not None:
            block = _program.blocks(task.problem, task.params, batch, meaning)
            task = task._replace(problem=task.problem._replace(block=block))
        if kind == "stream":
            ended = _drive.stream(task, data, *_options.limit(chosen, steps, epochs), start.wide)
        else:
            ended = _drive.in_memory(task, _steps(task, steps, epochs))
    again = functools.partial(
        fit, model, data, loss=loss, optimizer=chosen, sigma=sigma, absolute_sigma=absolute_sigma, weights=weights,
        bounds=bounds,
    )  # fmt: skip
    return _wrap(task, ended, start.wide, absolute_sigma, stays, lambda params, fixed: again(params, fixed=fixed))


def _meaning(model: Callable, loss: Callable, metrics: Any, optimizer: Optimizer, sampler: Any) -> Any:
    """All that decides what the compiled program computes, beside shapes and flags."""
    structure = jax.tree.structure(optimizer)
    if any(callable(value) or isinstance(value, tuple) for _, value in optimizer.tree_flatten()[1][1]):
        structure = fingerprint((type(optimizer), optimizer.tree_flatten()[1]))  # functions count by what they do
    functions = fingerprint(model), fingerprint(loss), sampler and fingerprint(sampler)
    return (*functions, structure, metrics and fingerprint(metrics))


def _steps(task: Task, steps: Any, epochs: Any) -> int:
    """How many steps a fit may take whose batches the program deals."""
    steps, epochs = _options.limit(task.optimizer, steps, epochs)
    if epochs is not None:
        if task.steps_per_epoch is None:
            raise ValueError("epochs are passes over the data, and a sampler has no end: give steps.")
        steps = epochs * task.steps_per_epoch
    assert steps is not None
    if steps >= 2**31 - 1:
        raise ValueError(f"the fit would take {steps} steps; expected fewer than 2**31 - 1.")
    return steps


def _guess(model: Any, data: Any, kind: str) -> Any:
    """The starting values of a model that finds them in the data."""
    if kind != "arrays" or _traced.is_traced(data):
        raise TypeError("params is None, and a guess needs data in memory: give params, or data as arrays (x, y).")
    arrays = _inputs.arrays(data, wide=True)
    return model.guess(arrays.x, arrays.y)


def _wrap(
    task: Task,
    ended: _drive.Ended,
    wide: bool,
    absolute_sigma: bool,
    fixed: Any,
    again: Callable[[Any, Any], FitResult],
) -> FitResult:
    status, message = ended.verdict(task.optimizer)
    doubt = _doubt(task, ended) if status.ok else ""
    message += doubt and f" {doubt}"
    if doubt or not status.ok:
        warnings.warn(message, FitWarning, stacklevel=3)
    return FitResult(
        params=jax.device_get(ended.state.params) if wide else ended.state.params,
        loss=ended.loss,
        status=status,
        message=message,
        steps=ended.steps,
        history={**ended.history, **ended.epochs},
        compile_seconds=ended.compile_seconds,
        run_seconds=ended.run_seconds,
        model=task.problem.model,
        optimizer=task.optimizer,
        start=jax.tree.map(np.array, task.params),
        _batch=task.data,
        _sampler=task.sampler,
        _wide=wide,
        _weigh=functools.partial(_evidence, task, ended, absolute_sigma),
        loss_function=task.problem.loss,
        bounds=task.bounds,
        fixed=fixed,
        _again=again,
    )


def _doubt(task: Task, ended: _drive.Ended) -> str:
    """Which params the data do not determine, as a sentence; empty where they determine all, or nobody knows."""
    terms = task.optimizer.terms(ended.state)
    if terms is None:
        return ""
    if ended.loss == 0 and task.data is not None and _vanishes(task.data):
        return "The squares of y are too small for its precision, so their sum is 0: scale y, or give sigma."
    curvature = np.asarray(terms.curvature)
    if task.bounds is None and curvature.dtype == np.float64 and np.isfinite(regular_inverse(curvature)).all():
        return ""  # a quick look at the usual case
    lost = Evidence(curvature, 0, None, True, held=_drive.held(task, ended.state)).undetermined
    if not lost.any():
        return ""
    names = [name for name, _ in named_numbers(ended.state.params)]
    few = [name for name, gone in zip(names, lost, strict=True) if gone]
    idle = [name for name, gone, bend in zip(names, lost, np.diagonal(curvature), strict=True) if gone and bend == 0]
    numbers = sum(leaf.size for leaf in jax.tree.leaves(task.data and task.data.y))
    why = "Give more data, fix some of these params, or leave them out."
    if idle:
        why = f"{_listed(idle)} had no effect on the prediction: start elsewhere, fix or leave out what has none."
    elif numbers < len(names):
        why = f"There are {numbers} numbers in y for {len(names)} params: give more data, or fix some params."
    return f"The data do not determine {_listed(few)}, whose standard errors are infinite. {why}"


def _vanishes(data: Batch) -> bool:
    """Whether y, in units of sigma, is not 0 but has squares that are, or nearly."""
    sigma = 1 if data.sigma is None else np.min([np.min(leaf) for leaf in jax.tree.leaves(data.sigma)])
    most = max(float(np.max(np.abs(np.asarray(leaf, complex)))) for leaf in jax.tree.leaves(data.y)) / float(sigma)
    kind = np.finfo(np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(data.y)), np.float32))
    return most > 0 and most**2 < float(kind.tiny) / float(kind.eps) ** 2


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _evidence(task: Task, ended: _drive.Ended, absolute_sigma: bool) -> Evidence | None:
    """What an optimizer that knows the curvature can say of the params; None from the others."""
    terms = task.optimizer.terms(ended.state)
    if terms is None or task.data is None:
        return None
    loss = task.problem.loss
    total, observations = _program.observations(task)
    total = float(total)
    held, robust = _drive.held(task, ended.state), _curvature.is_robust(loss)
    return Evidence(
        _program.sandwich(task, ended.state.params, held) if robust else np.asarray(terms.curvature) * total,
        int(observations),
        ended.loss * total if _checks.unwrapped(loss)[0] is losses.mse else None,
        absolute_sigma,
        held=held,
        loss_sum=ended.loss * total,
    )
