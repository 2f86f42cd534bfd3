"""`fit_many`: many fits of one model in one compiled program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optax

from jaxfit import _gather, losses
from jaxfit._results import FitResults
from jaxfit._together import Processes
from jaxfit.optimizers import Optimizer


def fit_many(
    model: Callable,
    data: tuple[Any, Any],
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
    compute_dtype: Any = None,
    key: Any = 0,
    out: str | Path | None = None,
    progress: bool = False,
    mesh: Any = None,
) -> FitResults:
    """Fits a model to many sets of data at once: one fit per pixel, per trace, per voxel.

    Each fit is that of `fit` with the same arguments, to rounding. They run side by side in one compiled program, block
    by block, on all cores or devices. One bad fit never harms another: what has NaN in its data gets NaN params and the
    status "non_finite", and the others are, bit for bit, what they are without it. Fits that take longer than most are
    gathered up and finished together.

    The fast path, for models of up to six params under Levenberg–Marquardt whose prediction for a sample depends on
    that sample alone, needs no LAPACK and no matrix products; all others run under `vmap` as they are.

    Args:
        model: A pure function `model(params, x) -> prediction` for one fit; or a flax module.
        data: A tuple `(x, y)`. y has the fits as its first axis: [fits, n, ...], or pytrees of such arrays; or it is a
            list of arrays [n_i, ...], one per fit and of any length. x is shared by all fits, [n, ...], or has the
            first axis too, [fits, n, ...]; a list where y is one. Arrays on disk (`numpy.memmap`, as from
            `numpy.load(path, mmap_mode="r")`) are read block by block. NaN and infinities in y spoil their fit alone.
            Arrays are not copied: `results[i]` looks at them again.
        params: The starting values: those of one fit for all, or arrays with a first axis of fits, each leaf for
            itself. None for models that guess them, fit by fit.
        loss: As in `fit`.
        optimizer: As in `fit`; each of its numbers may be an array [fits].
        steps: As in `fit`.
        epochs: As in `fit`.
        batch_size: As in `fit`.
        shuffle: As in `fit`.
        sigma: As in `fit`: one number, of the shape of one fit's y, or with a first axis of fits ([fits] for a number
            each). What is not above 0 spoils its fit.
        absolute_sigma: As in `fit`.
        weights: One weight per sample, [n] or [fits, n]. Samples of weight 0 do not count, and may be NaN: so data sets
            of different lengths go into one array.
        bounds: As in `fit`; each side may have a first axis of fits.
        fixed: As in `fit`: the same params for all fits, each at its own start.
        compute_dtype: As in `fit`.
        key: As in `fit`: one for all fits, or an array of ints or keys [fits].
        out: A folder, made where there is none, to write the results to, as `.npy` files that are memory-mapped: for
            more fits than memory holds. Files of earlier results there are replaced. None keeps the results in memory.
        progress: Whether a bar on stderr tells how far it is; of several processes, in the first one, of its share.
        mesh: A `jax.sharding.Mesh` of the devices to run on, all of them and no others; its axes may be any. None for
            all devices of this process that are of the kind that JAX takes, or the one of `jax_default_device`.

    After `jax.distributed.initialize`, the devices of a mesh may be those of several processes. All processes then call
    `fit_many` with the same arguments, also those without a device in the mesh. Each runs a share of the fits on its
    own devices, in proportion to their number, reads the rows of its share only, and in the end has all results; the
    seconds that these tell are those of the slowest. `out` must be a folder that all of them see; files of their own
    in it, which are gone in the end, hold the results of each until all have ended.

    Returns:
        A `FitResults`: arrays with a first axis of fits. `results[i]` is the i-th as a `FitResult`.

    Raises:
        TypeError: An argument is of the wrong kind, or the model cannot be traced.
        ValueError: An argument has a wrong value or shape: also axes whose lengths disagree, which it names. Of several
            processes, also that it has another shape in one of them, or is wrong there.
        RuntimeError: Another process could not run its share.

    Warns:
        FitWarning: Some fits did not end as they should; how many in what way. `results.success` tells which.

    Source: the layout in which fits lie side by side is that of Przybylski et al. (2017), "Gpufit: an open-source
    toolkit for GPU-accelerated curve fitting".

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 4.0, 20)
        >>> rates = np.array([0.5, 1.0, 2.0])
        >>> decay = lambda params, x: params["height"] * jnp.exp(-params["rate"] * x)
        >>> y = 3 * np.exp(-rates[:, None] * x)
        >>> results = jf.fit_many(decay, (x, y), {"height": 1.0, "rate": 1.0})
        >>> results.params["rate"].round(6).tolist()
        [0.5, 1.0, 2.0]
        >>> results[2].params["height"].round(6).item()
        3.0
    """
    given = {"sigma": sigma, "weights": weights, "bounds": bounds, "optimizer": optimizer, "key": key}
    options = {"loss": loss, "fixed": fixed, "batch_size": batch_size, "shuffle": shuffle}
    options |= {"compute_dtype": compute_dtype, "steps": steps, "epochs": epochs, "absolute_sigma": absolute_sigma}
    processes = Processes(mesh)
    processes.agree(given | options | {"model": model, "data": data, "params": params, "out": out, "mesh": mesh})
    work = processes.all(lambda: _gather.of_data(model, data, params, given, options, processes), _gather.pattern)
    return _gather.run(work, out=out, progress=progress, processes=processes)
