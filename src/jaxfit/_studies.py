"""Studies that are many fits: from many starts, over hyperparameters, of several seeds, to resampled data."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxfit import _checks, _gather, _inputs, _limits, _model, _modules, _options, losses
from jaxfit._axes import Dealt
from jaxfit._fit import fit
from jaxfit._prepare import guess, prepare
from jaxfit._results import FitResults
from jaxfit.optimizers import Optimizer

_METHODS = ("sobol", "latin_hypercube")


def multistart(
    model: Callable,
    data: Any,
    params: Any = None,
    *,
    starts: Any = 32,
    method: str = "sobol",
    loss: Callable = losses.mse,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    steps: int | None = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    key: Any = 0,
) -> FitResults:
    """Fits a model to one set of data from many starting values at once: for losses with several minima.

    Args:
        model: As in `fit`, a function.
        data: As in `fit`, a tuple (x, y).
        params: One start, which is the first of all, and gives those that are drawn their structure. None for a model
            that guesses it, or where `starts` are all.
        starts: How many starts there are in all, drawn within `bounds`; or the starts themselves, a pytree like the
            params with a first axis of starts.
        method: How starts are drawn: "sobol", which fills the box evenly, or "latin_hypercube".
        loss: As in `fit`, and so `optimizer`, `steps`, `sigma`, `absolute_sigma`, `weights` and `fixed`.
        optimizer: See there.
        steps: See there.
        sigma: See there.
        absolute_sigma: See there.
        weights: See there.
        bounds: As in `fit`; finite for all params that are not fixed where starts are drawn.
        fixed: See `fit`.
        key: An int or a JAX key: the draw depends on nothing else.

    Returns:
        A `FitResults` with all fits; `best` is the one of the least loss, a `FitResult`, and `order` ranks them all.

    Raises:
        TypeError: As in `fit`.
        ValueError: As in `fit`; or the bounds that starts are drawn within are not finite.

    Warns:
        FitWarning: All of the fits ended badly.

    Source: Sobol (1967) with Owen's scrambling, McKay et al. (1979), as `scipy.stats.qmc` has them.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> x = np.linspace(0.0, 10.0, 50)
        >>> wave = lambda params, x: jnp.sin(params["frequency"] * x)
        >>> bounds = ({"frequency": 0.1}, {"frequency": 10.0})
        >>> results = jf.multistart(wave, (x, np.sin(4 * x)), {"frequency": 1.0}, bounds=bounds)
        >>> round(float(results.best.params["frequency"]), 6)
        4.0
    """
    _checks.one_of("multistart", "method", method, _METHODS)
    _gather.refuse_traced(data, params, starts, sigma, weights, bounds, optimizer, key)
    if _model.kind(_modules.unwrapped(model)) is not None:
        raise TypeError(
            "model is a flax module; expected a function. jaxfit.ensemble trains networks from many starts."
        )
    if params is None and isinstance(starts, int) and hasattr(model, "guess"):
        params = guess(model, data, _options.kind(data))
    if isinstance(starts, (int, np.integer)) and not isinstance(starts, bool):
        count = _checks.count("starts", starts)
        begun = _drawn(params, data, count, method, bounds, getattr(model, "bounds", None), fixed, key)
    else:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(starts)}
        if len(sizes) != 1 or sizes <= {(), (0,)}:
            came = _checks.describe_tree(starts)
            raise ValueError(f"starts is {came}; expected a number, or params with a first axis of starts.")
        begun = jax.tree.map(np.asarray, starts)
        if params is not None:
            if jax.tree.structure(params) != jax.tree.structure(starts):
                raise ValueError(
                    f"starts is {_checks.describe_tree(begun)} where params is "
                    f"{_checks.describe_tree(jax.tree.map(np.asarray, params))}; expected the same structure."
                )
            begun = jax.tree.map(lambda one, some: np.concatenate([np.asarray(one)[None], some]), params, begun)
        count = len(jax.tree.leaves(begun)[0])
    given = {"sigma": sigma, "weights": weights, "bounds": bounds, "optimizer": optimizer, "key": key}
    options = {"loss": loss, "fixed": fixed, "steps": steps, "absolute_sigma": absolute_sigma}
    work = _gather.build(model, data, Dealt.each(begun), count, given, options)
    return _gather.run(work, quiet=True)


def _drawn(params: Any, data: Any, count: int, method: str, bounds: Any, default: Any, fixed: Any, key: Any) -> Any:
    """Starts within the bounds, the first of them that of the user."""
    from scipy.stats import qmc

    start = _inputs.params(params, data, widen=True).tree
    stays = _limits.fixed(fixed, start)
    limits, start = _limits.bounds(bounds, default, stays, start)
    leaves, tree = jax.tree.flatten(start)
    box = limits and [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(side)]).astype(float) for side in limits
    ]
    if box is None or not np.isfinite(box).all():
        raise ValueError(
            "bounds leave a param without limit, and starts are drawn within them: give finite bounds for all params "
            "that are not fixed, or the starts themselves."
        )
    seed = int(np.random.default_rng(np.asarray(_inputs.seed(key)[0], np.uint32).tolist()).integers(2**31))
    kind: Any = qmc.Sobol if method == "sobol" else qmc.LatinHypercube
    keyword = "rng" if "rng" in inspect.signature(kind).parameters else "seed"  # its name before SciPy 1.15
    engine = kind(len(box[0]), **{keyword: seed})
    # A power of two of Sobol's points fills the box evenly; the first of them are then taken.
    number = 1 << max(count - 1, 1).bit_length() if method == "sobol" else count
    drawn = box[0] + engine.random(number)[:count] * (box[1] - box[0])
    drawn[0] = np.concatenate([np.ravel(leaf) for leaf in leaves])
    # Rounding, also to the precision of the params, must not lead out of the box.
    drawn = np.clip(drawn.astype(np.result_type(*leaves)), *(side.astype(np.result_type(*leaves)) for side in box))
    parts = np.split(drawn, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    pairs = zip(parts, leaves, strict=True)
    return tree.unflatten([part.reshape(count, *leaf.shape).astype(leaf.dtype) for part, leaf in pairs])


def sweep(
    model: Callable,
    data: Any,
    params: Any = None,
    *,
    grid: dict[str, Any],
    optimizer: Optimizer | None = None,
    loss: Callable = losses.mse,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    sigma: Any = None,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    validation: tuple[Any, Any] | None = None,
    compute_dtype: Any = None,
    key: Any = 0,
) -> FitResults:
    """Fits a model under every combination of hyperparameters, all in one compiled program.

    Args:
        model: As in `fit`: a function or a flax module.
        data: As in `fit`: a tuple (x, y) or a sampler.
        params: As in `fit`.
        grid: For each name the values to try: numbers of the optimizer, such as "learning_rate" and "weight_decay", and
            "key" for the seed of the fit. All their combinations are fitted.
        optimizer: One of `jaxfit.optimizers`, whose other numbers stay as they are.
        loss: As in `fit`, and so all that are not told of here.
        steps: See there.
        epochs: See there.
        batch_size: See there.
        shuffle: See there.
        sigma: See there.
        weights: See there.
        bounds: See there.
        fixed: See there.
        validation: A pair (x, y) whose loss at the end ranks the fits, in the place of that of the data.
        compute_dtype: See there.
        key: See there.

    Returns:
        A `FitResults` with one fit for each combination, the last name of the grid varying fastest; `settings` tells
        which is which, `scores` how well it did, and `best` is the best, a `FitResult`.

    Raises:
        TypeError: As in `fit`; or the grid is no dict of numbers.
        ValueError: As in `fit`; or the optimizer has no such number.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = lambda params, x: params * x
        >>> grid = {"learning_rate": [0.001, 0.1, 1.0]}
        >>> results = jf.sweep(line, (x, 3 * x), 0.0, grid=grid, optimizer=jf.optimizers.SGD(0.1), steps=50)
        >>> results.settings["learning_rate"].tolist(), int(results.order[0])
        ([0.001, 0.1, 1.0], 2)
    """
    _gather.refuse_traced(data, params, sigma, weights, bounds, optimizer, key)
    if not isinstance(grid, dict) or not grid:
        came = "an empty dict" if isinstance(grid, dict) else _checks.describe(grid)
        raise TypeError(f'grid is {came}; expected a dict such as {{"learning_rate": [0.01, 0.1]}}.')
    values = {name: _values(name, some) for name, some in grid.items()}
    combined = list(itertools.product(*values.values()))
    settings = {name: np.array(column) for name, column in zip(values, zip(*combined, strict=True), strict=True)}
    if "key" in settings:
        settings["key"] = settings["key"].astype(np.int64)
    chosen = optimizer
    if set(settings) != {"key"}:
        if not isinstance(optimizer, Optimizer):
            came = _checks.describe(optimizer)
            raise TypeError(f"optimizer is {came}; expected one of jaxfit.optimizers, whose numbers the grid names.")
        known = [field.name for field in dataclasses.fields(optimizer) if "kinds" not in field.metadata]
        for name in settings:
            if name not in (*known, "key"):
                hint = _checks.choices(name, (*known, "key"))
                raise ValueError(f"grid names {name!r}, which {type(optimizer).__name__} does not have; {hint}")
        for name, some in values.items():  # one by one, so that a value out of range is named
            for value in some if name != "key" else ():
                dataclasses.replace(optimizer, **{name: float(value)})
        numbers = {name: np.asarray(some, float) for name, some in settings.items() if name != "key"}
        chosen = dataclasses.replace(optimizer, **numbers)
    given = {"sigma": sigma, "weights": weights, "bounds": bounds, "optimizer": chosen}
    given["key"] = settings.get("key", key)
    options = {"loss": loss, "fixed": fixed, "steps": steps, "epochs": epochs, "batch_size": batch_size}
    options |= {"shuffle": shuffle, "compute_dtype": compute_dtype, "validation": validation}
    model, start, held = _modules.unwrapped(model), Dealt.shared(params), None
    if _model.kind(model) == "linen" and params is None and "key" in settings:  # each is initialised from its own key
        seeds = settings["key"].tolist()
        start, held = _members([model] * len(seeds), data, seeds, given | {"optimizer": optimizer}, options)
    return _gather.run(_gather.build(model, data, start, len(combined), given, options, held=held), settings=settings)


def _values(name: str, given: Any) -> list[Any]:
    """The values of one hyperparameter."""
    try:
        values = [given] if np.ndim(given) == 0 else list(np.asarray(given))
    except (TypeError, ValueError):  # rows of different lengths, JAX keys
        values = []
    whole = "whole numbers" if name == "key" else "numbers"
    kinds = (int, np.integer) if name == "key" else (int, float, np.integer, np.floating)
    for value in values or [given]:
        if not isinstance(value, kinds) or not _checks.is_number(value):
            verb = "is" if value is given else "has"
            raise TypeError(f"grid[{name!r}] {verb} {_checks.describe(value)}; expected {whole} to try.")
    return values


def ensemble(
    model: Callable,
    data: Any,
    params: Any = None,
    *,
    members: int = 8,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    loss: Callable = losses.mse,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    shuffle: bool = True,
    sigma: Any = None,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    compute_dtype: Any = None,
    key: Any = 0,
) -> FitResults:
    """Trains several networks from several seeds at once: their spread tells how far to trust them.

    Each member starts from params of its own, and has a key of its own for shuffling and dropout.

    Args:
        model: A function `rngs -> module` that makes a flax nnx module, called with `nnx.Rngs(seed)` for each member; a
            flax linen module, which is initialised for each; or a function `model(params, x)` with `params`.
        data: As in `fit`.
        params: For a function `model(params, x)`: a function `key -> params`, or a pytree of arrays with a first axis
            of members.
        members: How many.
        optimizer: As in `fit`, and so all that are not told of here.
        loss: See there.
        steps: See there.
        epochs: See there.
        batch_size: See there.
        shuffle: See there.
        sigma: See there.
        weights: See there.
        bounds: See there.
        fixed: See there.
        compute_dtype: See there.
        key: An int or a JAX key, from which those of the members come by `jax.random.split`.

    Returns:
        A `FitResults` of the members: `spread(x)` is the mean of their predictions with its deviation.

    Raises:
        TypeError: As in `fit`.
        ValueError: As in `fit`.

    Source: Lakshminarayanan, Pritzel and Blundell (2017), "Simple and scalable predictive uncertainty estimation using
    deep ensembles".

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxfit as jf
        >>> from jaxfit import nn
        >>> x = jnp.linspace(-1.0, 1.0, 32)[:, None]
        >>> make = lambda rngs: nn.Sequential(nn.Linear(1, 8, rngs=rngs), nn.Tanh(), nn.Linear(8, 1, rngs=rngs))
        >>> results = jf.ensemble(make, (x, x**2), members=4, optimizer=jf.optimizers.Adam(0.02), steps=100)
        >>> mean, deviation = results.spread(jnp.array([[0.0], [3.0]]))
        >>> bool(deviation[1, 0] > deviation[0, 0])
        True
    """
    count = _checks.count("members", members)
    _gather.refuse_traced(data, params, sigma, weights, bounds, optimizer, key)
    seed, kind = _inputs.seed(key)
    keys = jax.random.split(jax.random.wrap_key_data(seed, impl=kind), count)
    given = {"sigma": sigma, "weights": weights, "bounds": bounds, "optimizer": optimizer, "key": keys}
    options = {"loss": loss, "fixed": fixed, "steps": steps, "epochs": epochs, "batch_size": batch_size}
    options |= {"shuffle": shuffle, "compute_dtype": compute_dtype}
    model = _modules.unwrapped(model)
    if _model.kind(model) == "nnx":
        raise TypeError(
            "model is a module with params of its own, the same for all members; expected a function that makes one: "
            "lambda rngs: nn.Sequential(nn.Linear(1, 8, rngs=rngs), ...)."
        )
    if _model.kind(model) is None and params is not None:
        _model.check_callable("model", model, *_model.MODEL)
        _model.check_signature("model", model, *_model.MODEL)
        if callable(params):
            each = [params(one) for one in keys]
            params = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *each)
        for leaf in jax.tree.leaves(params):
            if np.shape(leaf)[:1] != (count,):
                raise ValueError(
                    f"params has a leaf {_checks.describe(leaf)}; expected a first axis of {count} members."
                )
        return _gather.run(_gather.build(model, data, Dealt.each(params), count, given, options))
    if params is not None:
        raise ValueError("params go with a function model(params, x); a linen module is initialised for each member.")
    made = [_made(model, one) for one in keys] if _model.kind(model) is None else [model] * count
    start, held = _members(made, data, keys, given, options)
    return _gather.run(_gather.build(made[0], data, start, count, given, options, held=held))


def _members(modules: list[Any], data: Any, keys: Any, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """The params of modules, and what else they hold, with an axis of members."""
    settings = {name: value for name, value in options.items() if name not in ("steps", "epochs", "validation")}
    settings |= {name: given[name] for name in ("sigma", "weights", "bounds", "optimizer")}
    tasks = [prepare(module, data, None, key=one, **settings).task for module, one in zip(modules, keys, strict=True)]
    stacked, held = jax.tree.map(
        lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]),
        *((task.params, task.held[:2]) for task in tasks),
    )
    return Dealt.each(stacked), held


def _made(make: Callable, key: Any) -> Any:
    """A module for a member."""
    way_out = "It makes a flax nnx module; a function model(params, x) needs params."
    if isinstance(make, type):
        name = make.__name__
        raise TypeError(f"model is the class {name}; expected a function: lambda rngs: {name}(..., rngs=rngs).")
    _model.check_callable("model", make, ("rngs",), way_out)
    _model.check_signature("model", make, ("rngs",), way_out)
    from flax import nnx

    module = make(nnx.Rngs(key))
    if _model.kind(module) is None:
        raise TypeError(
            f"model returns {_checks.describe(module)} for nnx.Rngs; expected a flax module, or params for a function "
            "model(params, x)."
        )
    return module


def bootstrap(
    model: Callable,
    data: tuple[Any, Any],
    params: Any = None,
    *,
    samples: int = 1000,
    loss: Callable = losses.mse,
    optimizer: Optimizer | optax.GradientTransformation | None = None,
    steps: int | None = None,
    sigma: Any = None,
    absolute_sigma: bool = False,
    weights: Any = None,
    bounds: tuple[Any, Any] | None = None,
    fixed: Any = None,
    key: Any = 0,
) -> FitResults:
    """Fits a model to resampled data: errors of the params without the theory of normal errors.

    Each resample draws as many samples as there are, with replacement, by giving each the number of times that it was
    drawn as its weight. All fits start from that of the data themselves.

    Args:
        model: As in `fit`, a function.
        data: As in `fit`, a tuple (x, y).
        params: As in `fit`.
        samples: How many resamples.
        loss: As in `fit`, one that takes weights of samples; and so all that are not told of here.
        optimizer: See there.
        steps: See there.
        sigma: See there.
        absolute_sigma: See there.
        weights: See there.
        bounds: See there.
        fixed: See there.
        key: An int or a JAX key: the draw depends on nothing else.

    Returns:
        A `FitResults` of the resampled fits: `percentile_intervals(level)` are the intervals of the params.

    Raises:
        TypeError: As in `fit`.
        ValueError: As in `fit`.

    Source: Efron (1979), "Bootstrap methods: another look at the jackknife".

    Example:
        >>> import numpy as np
        >>> import jaxfit as jf
        >>> rng = np.random.default_rng(0)
        >>> x = rng.uniform(0.0, 1.0, 200)
        >>> y = 2 * x + rng.normal(size=200)
        >>> results = jf.bootstrap(lambda params, x: params * x, (x, y), 1.0, samples=500)
        >>> lower, upper = results.percentile_intervals(0.95)
        >>> bool(lower < 2 < upper)
        True
    """
    count = _checks.count("samples", samples)
    _gather.refuse_traced(data, params, sigma, weights, bounds, optimizer, key)
    if _options.kind(data) != "arrays":
        raise TypeError("data are not in memory, and cannot be resampled; expected a tuple (x, y).")
    shared = {"loss": loss, "fixed": fixed, "steps": steps, "absolute_sigma": absolute_sigma}
    alike = {"sigma": sigma, "bounds": bounds, "optimizer": optimizer}
    whole = fit(model, data, params, weights=weights, **shared, **alike)
    assert whole.data is not None
    rows = jax.tree.leaves(whole.data[1])[0].shape[0]
    seed = np.asarray(_inputs.seed(key)[0]).tolist()
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=count)
    own = drawn * (1.0 if weights is None else np.asarray(weights))
    given = alike | {"weights": own.astype(_weight_dtype(whole)), "optimizer": whole.optimizer}
    start = Dealt.shared(jax.tree.map(np.asarray, whole.params))
    return _gather.run(_gather.build(model, whole.data, start, count, given, shared))


def _weight_dtype(result: Any) -> Any:
    return np.result_type(*(np.asarray(leaf).dtype for leaf in jax.tree.leaves(result.params)), np.float32)
