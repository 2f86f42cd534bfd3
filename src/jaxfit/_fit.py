"""`fit`: checks what it was given, lets the loop run as one compiled program, and wraps what came out."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, cast

import optax

from jaxfit import _launch, _processes, _traced, _wrap, losses
from jaxfit._prepare import prepare, step_limit
from jaxfit._result import FitResult
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
    compute_dtype: Any = None,
    key: Any = 0,
    callbacks: Iterable[Any] = (),
    progress: bool | None = None,
    on_nonfinite: str = "stop",
    mesh: Any = None,
    shard_params: Any = None,
) -> FitResult:
    """Fits a model to data: finds the params that make the loss small.

    The whole fit is one compiled program; a long one, and one that callbacks watch, runs in chunks of compiled steps.
    A second fit of the same model with other data of the same shapes, another key or other hyperparameters compiles
    nothing.

    Args:
        model: A pure function `model(params, x) -> prediction`, written with `jax.numpy`; or a module, a
            `flax.nnx.Module` (those of `jaxfit.nn` are some) or a `flax.linen.Module`, that is called as `model(x)`.
            A module is left as it was: `result.model` is a fitted copy in evaluation mode. Dropout acts in training
            alone, with random numbers from `key`; running statistics are carried from step to step.
        data: One of

            - a tuple `(x, y)`: arrays, or pytrees of arrays, with one row per sample: [n, ...];
            - a sampler, a function `key -> (x, y)` that draws a fresh batch at every step; step i gets
              `jax.random.fold_in(key, i)`;
            - an iterable of batches `(x, y)`, such as a list, `jaxfit.data.from_files`, torch's DataLoader or grain's:
              it is started anew for each epoch, and the next batches are fetched while the device computes.
        params: The starting values: a float, or a pytree of floats and float arrays. Their precision is that of the
            fit: NumPy float64 fits in float64, whatever JAX is set to, and gives NumPy float64 back. Python floats
            take the precision of arrays (x, y), and are float32 with a sampler or a stream. A second-order optimizer
            takes the precision of the data where it is higher. A module brings its own, and a linen module is
            initialised from `key` on the first batch; params given for one are those of an earlier result, or a linen
            module's variables.
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
            below it; several in a tuple), bools in the structure of params, or a function `(path, leaf) -> bool` of the
            keys that lead to an array of params. Parts of an nnx module all of whose params stay evaluate while the
            others train.
        validation: A pair `(x, y)` whose loss is written into `history["validation_loss"]` after every epoch; of sigma
            and weights it takes a sigma that is one number.
        metrics: Functions `metric(prediction, y)` by name, such as those of `jaxfit.metrics`, that return a number or
            an array; computed after every epoch on the validation data (`history["validation_<name>"]`), or on the data
            where there are none (`history["<name>"]`).
        record: What else the history keeps of every step: "params" (those that the step started from) and
            "gradient_norm".
        compute_dtype: The precision that a first-order optimizer's steps compute the model and its gradient in, such as
            `jnp.bfloat16`; params, loss, validation and predictions keep that of the params.
        key: An int or a JAX key. All randomness of the fit comes from it.
        callbacks: Who watches the run, and may end it: those of `jaxfit.callbacks`, or functions of a `Seen`.
        progress: Whether a bar on stderr shows how far the run is; None for a run that will be long, where somebody
            sits at a terminal or a notebook.
        on_nonfinite: What to do at a step whose loss or gradient is NaN or infinite: "stop" there; or "skip" its
            update and go on, for batches of which some are bad (the message counts them). NaN in the data themselves
            is refused, as ever.
        mesh: A `jax.sharding.Mesh` of devices that the fit is spread over, by the compiler: samples along its axis
            "data" (or its first), params whole on every device. The result is that of one device, but for the order of
            sums; the batch size need not be a multiple of the devices. Axes may be of any type. None for one device.
            Its devices may be those of several processes, after `jax.distributed.initialize`: then each of them calls
            this with the same arguments. Of arrays each is given all, or they are global ones (those of
            `jax.make_array_from_process_local_data`); of an iterable of batches each yields its own part of every
            batch, and parts are put together in the order of the processes; `jaxfit.data.from_files` deals its rows.
        shard_params: How large params, and with them the optimizer's state, are spread over the mesh, for networks
            that one device cannot hold: the name of another axis of it, over which each matrix is spread along its
            longest dimension; or a `jax.sharding.PartitionSpec` for each array, in the structure of the params.

    In chunks, or with a stream, Ctrl-C and SIGTERM end the run after the steps under way: its result is that of the
    steps taken, with the status `interrupted`. A second Ctrl-C acts at once.

    Returns:
        A `FitResult`: params, status, history, and what can be asked of them. Inside a function that JAX transforms
        by `jit`, `vmap` or `grad`, where values are not known yet, a `TracedResult`: the same params, loss, covariance
        and standard errors as a pytree. The derivative of a second-order fit's params is that of the equation which
        they solve (the implicit function theorem), so no step is differentiated.

    Raises:
        TypeError: An argument is of the wrong kind, or the model cannot be traced.
        ValueError: An argument has a wrong value or shape; also NaN or infinity in the data or in params; or arguments
            differ between the processes of a mesh.
        RuntimeError: A process that shares the fit is gone.

    Warns:
        FitWarning: The fit ended in a way that its user should know of: it diverged, its loss turned NaN or infinite,
            it reached its limit of steps, was interrupted, or a batch could not be had, in which cases the result holds
            the last params whose loss is finite; or the data do not determine some of the params, which it names.

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
    with _processes.in_step(_processes.is_shared(mesh)):
        ready = prepare(
            model,
            data,
            params,
            loss=loss,
            optimizer=optimizer,
            batch_size=batch_size,
            shuffle=shuffle,
            sigma=sigma,
            weights=weights,
            bounds=bounds,
            fixed=fixed,
            validation=validation,
            metrics=metrics,
            record=record,
            compute_dtype=compute_dtype,
            key=key,
            on_nonfinite=on_nonfinite,
        )
    task = ready.task
    with ready.precision():
        if ready.traced:
            if callbacks or progress or mesh is not None:
                raise TypeError(
                    "callbacks, progress and mesh belong to a fit that is driven from outside; inside jit, vmap or "
                    "grad, leave them out."
                )
            return cast("FitResult", _traced.fit(task, step_limit(task, steps, epochs), absolute_sigma))
        ended = _launch.launch(ready, steps, epochs, callbacks, progress, mesh, shard_params)
    again = functools.partial(
        fit, ready.model, ready.data, loss=loss, optimizer=task.optimizer, sigma=sigma, absolute_sigma=absolute_sigma,
        weights=weights, bounds=bounds,
    )  # fmt: skip
    return _wrap.wrap(
        task,
        ended,
        ready.wide,
        absolute_sigma,
        ready.start,
        ready.stays,
        None if ready.kind == "stream" else lambda at, fixed: again(at, fixed=fixed),
    )
