"""What many fits are made of: which arguments have an axis of fits, one fit as the pattern of all, and their arrays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _checks, _compile, _drive_many, _inputs, _limits, _model, _modules, _options, _program, _tell
from jaxfit._drive_many import Found, Many
from jaxfit._fingerprint import fingerprint
from jaxfit._fit import step_limit
from jaxfit._many import Arrays
from jaxfit._prepare import Prepared, prepare
from jaxfit._problem import Batch
from jaxfit._results import FitResults

_TRIED = 256  # fits among which the pattern is looked for
_SIZES = 1.5  # lists of data sets are filled up to lengths that differ by this factor


class Work(NamedTuple):
    """Many fits, ready to run.

    Attributes:
        ready: One of them.
        parts: Those that run as one, each with their indices among all.
        count: How many there are.
        absolute: Whether sigma is known in absolute terms.
        lengths: The samples of each fit where they differ, else None.
        weighted: Whether the user gave weights.
    """

    ready: Prepared
    parts: list[tuple[np.ndarray, Many]]
    count: int
    absolute: bool
    lengths: np.ndarray | None = None
    weighted: bool = True

    def at(self, index: int) -> _program.Task:
        """One of the fits, with its own samples only."""
        number, many = next((rows, many) for rows, many in self.parts if self.count == many.count or index in rows)
        task = many.at(index if many.count == self.count else int(np.searchsorted(number, index)))
        if self.lengths is None or task.data is None:
            return task
        length = int(self.lengths[index])
        data = jax.tree.map(lambda leaf: leaf[:length] if np.ndim(leaf) else leaf, task.data)
        return task._replace(data=data if self.weighted else data._replace(weights=None))


def run(
    work: Work,
    *,
    out: str | Path | None = None,
    progress: bool = False,
    quiet: bool = False,
    settings: dict[str, np.ndarray] | None = None,
    validation: Any = None,
) -> FitResults:
    """Runs the fits and wraps what came out.

    Args:
        work: The fits.
        out: The folder for the results, or None.
        progress: Whether to tell how far it is.
        quiet: Whether it warns only where all ended badly, not where some did.
        settings: What differs from fit to fit, by name.
        validation: A pair (x, y) whose loss compares the fits, or None.
    """
    folder = None
    if out is not None:
        if len(work.parts) > 1:
            raise ValueError("out goes with arrays; data sets in lists are in memory, and so are their results.")
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(progress, bool):
        raise TypeError(f"progress is {_checks.describe(progress)}; expected True or False.")
    with _tell.bar("fits", work.count) if progress else _tell.nothing() as tell:
        found = [_drive_many.run(many, folder, tell) for _, many in work.parts]
    whole = found[0] if len(found) == 1 else _together([rows for rows, _ in work.parts], found)
    scores = None if validation is None else _scores(work, whole, validation)
    results = FitResults(work, whole, settings or {}, scores)
    if not (quiet and results.success.any()):
        results.warn(stacklevel=4)
    return results


def _scores(work: Work, found: Found, validation: Any) -> np.ndarray:
    """The loss of each fit for other data."""
    task = work.ready.task

    def program(params: Any, carried: Any, batch: Batch) -> Any:
        own = carried if task.held.changes else task.held.carried
        problem = _program.at(task, None, own, task.held.frozen)
        return problem.score(problem.model(params, batch.x), batch)

    with work.ready.precision():
        batch = _inputs.arrays(validation, work.ready.wide, "validation")
        if task.data is not None and getattr(task.data.sigma, "ndim", 1) == 0:
            batch = batch._replace(sigma=task.data.sigma)
        key = "scores", _program.program_key(task, "scores"), fingerprint(task.held)
        several = jax.vmap(program, in_axes=(0, 0, None))
        return np.asarray(_compile.call(several, key, found.params, found.carried, batch)[0])


def _together(rows: list[np.ndarray], found: list[Found]) -> Found:
    """The results of several parts, in the order of all fits."""
    back = np.argsort(np.concatenate(rows))

    def joined(*leaves: Any) -> Any:
        return np.concatenate(leaves)[back]

    seconds = [sum(part.compile_seconds for part in found), sum(part.run_seconds for part in found)]
    tables = jax.tree.map(joined, *(part._replace(compile_seconds=0, run_seconds=0)[:-2] for part in found))
    return Found(*tables, *seconds)


def of_data(model: Callable, data: Any, params: Any, given: dict[str, Any], options: dict[str, Any]) -> Work:
    """Fits of sets of data of their own.

    Args:
        model: The model.
        data: x, of which each leaf may have an axis of fits, and y, all of which has one.
        params: The starting values, whose leaves may have one.
        given: Other arguments that may have one: sigma, weights, bounds, optimizer, key.
        options: Other arguments.
    """
    if not isinstance(data, tuple):
        raise TypeError(
            f"data is {_checks.describe(data)}; expected a tuple (x, y) with the fits as the first axis of y."
        )
    if len(data) != 2:
        raise ValueError(f"data is a tuple of {len(data)}; expected the pair (x, y).")
    x, y = data
    if isinstance(y, (list, tuple)):
        return _of_lists(model, x, y, params, given, options)
    x, y = (jax.tree.map(_as_array, part) for part in (x, y))
    leaves = jax.tree.leaves(y)
    if not leaves or any(np.ndim(leaf) < 2 for leaf in leaves):
        raise ValueError(f"y is {_checks.describe_tree(y)}; expected arrays [fits, n, ...]: fit takes a single set.")
    count = leaves[0].shape[0]
    if any(leaf.shape[0] != count for leaf in leaves) or count == 0:
        raise ValueError(f"y is {_checks.describe_tree(y)}; expected the same number of fits, at least 1, for all.")
    lengths = {leaf.shape[1] for leaf in leaves}
    x_own = jax.tree_util.tree_map_with_path(lambda path, leaf: _x_axis(path, leaf, count, lengths, y), x)
    x = jax.tree.map(lambda leaf, own: leaf if own or leaf.shape[0] in lengths else leaf[0], x, x_own)
    return build(model, (x, y), params, count, given, options, data_own=(x_own, jax.tree.map(lambda _: True, y)))


def _as_array(leaf: Any) -> Any:
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return leaf
    try:
        return np.asarray(leaf)
    except Exception as error:
        raise TypeError(f"data hold {_checks.describe(leaf)}, which NumPy cannot read: {error}") from error


def _x_axis(path: Any, leaf: Any, count: int, lengths: set[int], y: Any) -> bool:
    """Whether a leaf of x has an axis of fits."""
    if leaf.ndim >= 2 and leaf.shape[0] == count and leaf.shape[1] in lengths:
        return True
    if leaf.ndim and (leaf.shape[0] in lengths or (leaf.shape[0] == 1 and leaf.ndim > 1 and leaf.shape[1] in lengths)):
        return False
    n = " or ".join(map(str, sorted(lengths)))
    raise ValueError(
        f"x{jax.tree_util.keystr(path)} is {_checks.describe(leaf)} where y is {_checks.describe_tree(y)}; expected "
        f"[{n}, ...] for all fits, or [{count}, {n}, ...]."
    )


def _of_lists(
    model: Callable, x: Any, y: Sequence, params: Any, given: dict[str, Any], options: dict[str, Any]
) -> Work:
    """Fits of data sets of different lengths: filled up to a few lengths, by samples of weight 0."""
    sets = [np.asarray(one) for one in y]
    if not sets or any(one.ndim == 0 or one.size == 0 for one in sets):
        raise ValueError("y is a list with a number or an empty array in it; expected one array [n, ...] per fit.")
    count, lengths = len(sets), np.array([len(one) for one in sets])
    own: dict[str, Any] = {}
    for name, part in (("x", x), ("sigma", given["sigma"]), ("weights", given["weights"])):
        if isinstance(part, (list, tuple)):
            own[name] = [np.asarray(one) for one in part]
            for index in range(max(count, len(part))):
                came = "nothing" if index >= len(part) else str(own[name][index].shape[:1])
                if index >= min(count, len(part)) or own[name][index].shape[:1] != (lengths[index],):
                    mine = "nothing" if index >= count else f"({lengths[index]},)"
                    raise ValueError(f"{name}[{index}] has length {came} where y[{index}] has {mine}.")
        elif len(set(lengths)) > 1 and (name == "x" or np.ndim(part)):
            raise ValueError(f"{name} is {_checks.describe_tree(part)}; expected a list of arrays, one for each of y.")
    if len(set(lengths)) == 1:
        stacked = {name: np.stack(part) for name, part in own.items()}
        given = given | {name: stacked[name] for name in ("sigma", "weights") if name in stacked}
        return of_data(model, (stacked.get("x", x), np.stack(sets)), params, given, options)
    sizes = np.array([_padded(length, int(lengths.min())) for length in lengths])
    parts, ready = [], None
    for size in sorted(set(sizes)):
        rows = np.flatnonzero(sizes == size)
        filled = {name: np.stack([_filled(part[i], size, "edge") for i in rows]) for name, part in own.items()}
        weight = filled.get("weights", np.ones((len(rows), size), np.float32))
        filled["weights"] = np.where(np.arange(size) < lengths[rows][:, None], weight, 0)
        some = given | {name: filled[name] for name in ("sigma", "weights") if name in filled}
        some = {name: _taken(value, rows, count) for name, value in some.items()}
        data = filled["x"], np.stack([_filled(sets[i], size, "constant") for i in rows])
        one = of_data(model, data, _taken(params, rows, count), some, options)
        ready = ready or one.ready
        parts.append((rows, one.parts[0][1]))
    assert ready is not None
    weighted = given["weights"] is not None
    return Work(ready, parts, count, options.get("absolute_sigma", False), lengths, weighted)


def _padded(length: int, least: int) -> int:
    """The length that a data set is filled up to."""
    size = least
    while size < length:
        size = max(size + 1, int(size * _SIZES))
    return size


def _filled(one: np.ndarray, size: int, mode: Any) -> np.ndarray:
    return np.pad(one, [(0, size - len(one))] + [(0, 0)] * (one.ndim - 1), mode=mode)


def _taken(tree: Any, rows: np.ndarray, count: int) -> Any:
    """Of what may have an axis of fits, these."""
    return jax.tree.map(lambda leaf: leaf[rows] if np.ndim(leaf) and np.shape(leaf)[0] == count else leaf, tree)


def build(
    model: Any,
    data: Any,
    params: Any,
    count: int,
    given: dict[str, Any],
    options: dict[str, Any],
    *,
    data_own: Any = None,
    params_own: Any = None,
    held: Any = None,
) -> Work:
    """Many fits from arguments of which it is known, or can be seen, which have an axis of fits.

    Args:
        model: The model.
        data: What `fit` takes, x and y with an axis of fits where `data_own` says so.
        params: The starting values.
        count: The number of fits.
        given: sigma, weights, bounds, optimizer and key.
        options: Other arguments.
        data_own: Which leaves of x and y have an axis of fits; None for none.
        params_own: Which leaves of params have one; None to find it out.
        held: What modules hold beside their params, with an axis of fits; None for none.
    """
    options = dict(options)
    limit = {name: options.pop(name, None) for name in ("steps", "epochs")}
    absolute = options.pop("absolute_sigma", False)
    y_shapes = None
    if isinstance(data, tuple) and len(data) == 2:
        y_shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data[1])]
        y_shapes = y_shapes if data_own is not None else [(count, *shape) for shape in y_shapes]
    axes = _Axes(count)
    guessed = params is None and hasattr(model, "guess") and data_own is not None
    if guessed:
        params = _guesses(model, data, data_own, count)
        params_own = jax.tree.map(lambda _: True, params)
    sigma_own = axes.spread("sigma", given.get("sigma"), y_shapes)
    weights_own = axes.spread("weights", given.get("weights"), y_shapes and [shape[:2] for shape in y_shapes])
    optimizer, optimizer_own = axes.optimizer(given.get("optimizer"))
    key, seeds = axes.key(given.get("key", 0))
    first = _pattern(data, data_own, params, given, count)

    def cut(tree: Any, own: Any, clean: Callable = lambda leaf: leaf) -> Any:
        return jax.tree.map(lambda leaf, mine: clean(np.asarray(leaf[first])) if mine else leaf, tree, own)

    one_data = data if data_own is None else tuple(cut(*pair, _clean) for pair in zip(data, data_own, strict=True))
    if params_own is None and params is not None:
        params_own = axes.params(model, params, one_data)
    one_params = None if params is None else cut(params, params_own, _clean)
    sides = [axes.bounds(side, one_params) for side in given.get("bounds") or ()]
    ready = prepare(
        model,
        one_data,
        one_params,
        optimizer=optimizer,
        sigma=cut(given.get("sigma"), sigma_own, _positive) if sigma_own is not None else None,
        weights=cut(given.get("weights"), weights_own, _weights) if weights_own is not None else None,
        bounds=given.get("bounds") and tuple(cut(side, own) for side, own in zip(given["bounds"], sides, strict=True)),
        key=key,
        **options,
    )
    if ready.traced:
        raise TypeError("many fits cannot be run inside jit, vmap or grad: there, fit under jax.vmap does the same.")
    task = ready.task
    mine = Arrays.of(task)
    whole_params, own_params = mine.params, jax.tree.map(lambda _: False, mine.params)
    if params is not None and params_own is not None and task.network is None:
        own_params = params_own
        whole_params = jax.tree.map(lambda own, leaf, one: leaf if own else one, params_own, params, mine.params)
    elif held is not None:
        whole_params, own_params = params, jax.tree.map(lambda _: True, params)
    batch, batch_own = mine.data, jax.tree.map(lambda _: False, mine.data)
    if batch is not None:
        pair_own = data_own or jax.tree.map(lambda _: False, (batch.x, batch.y))
        batch_own = Batch(*pair_own, _own_of(sigma_own, batch.sigma), _own_of(weights_own, batch.weights))
        theirs = Batch(*(data if data_own else (batch.x, batch.y)), given.get("sigma"), given.get("weights"))
        batch = jax.tree.map(lambda own, leaf, one: leaf if own else one, batch_own, theirs, batch)
    limits, limits_own = _bounds(task, ready, given.get("bounds"), sides, whole_params, own_params, count)
    numbers, tree = jax.tree.flatten(mine.optimizer)
    theirs, numbers_own = numbers, optimizer_own or [False] * len(numbers)
    if optimizer_own:
        theirs = jax.tree.leaves(given["optimizer"])
    wide = np.float64 if ready.wide or _compile.setting("jax_enable_x64") else np.float32
    pairs = zip(theirs, numbers, numbers_own, strict=True)
    numbers = [np.asarray(leaf, wide) if own else one for leaf, one, own in pairs]
    arrays = Arrays(
        params=whole_params,
        data=batch,
        bounds=limits,
        seed=mine.seed if seeds is None else seeds,
        optimizer=tree.unflatten(numbers),
        held=mine.held if held is None else held,
    )
    own = [
        *jax.tree.leaves(own_params),
        *jax.tree.leaves(batch_own),
        *jax.tree.leaves(limits_own),
        seeds is not None,
        *numbers_own,
        *([held is not None] * len(jax.tree.leaves(mine.held))),
    ]
    with ready.precision():
        many = Many(task, arrays, tuple(own), count, step_limit(task, **limit), absolute, ready.wide)
    return Work(ready, [(np.arange(count), many)], count, absolute)


def _own_of(own: Any, part: Any) -> Any:
    """For each leaf of a part of the data, whether it has an axis of fits."""
    if jax.tree.structure(own) == jax.tree.structure(part):
        return own
    return jax.tree.map(lambda _: any(jax.tree.leaves(own)), part)


def _clean(one: np.ndarray) -> np.ndarray:
    return np.nan_to_num(one, posinf=0, neginf=0) if one.dtype.kind in "fc" else one


def _positive(one: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(one) & (one > 0), one, 1)


def _weights(one: np.ndarray) -> np.ndarray:
    usable = np.where(np.isfinite(one) & (one >= 0), one, 0)
    return usable if usable.any() else np.ones_like(usable)


def _pattern(data: Any, data_own: Any, params: Any, given: dict[str, Any], count: int) -> int:
    """The first of the fits whose arrays are finite, 0 where none is found soon."""
    own = [] if data_own is None else [leaf for leaf, mine in _pairs(data, data_own) if mine]
    own += [leaf for leaf in jax.tree.leaves((params, given.get("sigma"))) if np.shape(leaf)[:1] == (count,)]
    for index in range(min(count, _TRIED)):
        if all(np.isfinite(one).all() for leaf in own if (one := np.asarray(leaf[index])).dtype.kind in "fc"):
            return index
    return 0


def _pairs(tree: Any, other: Any) -> list[tuple[Any, Any]]:
    return list(zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


def _guesses(model: Any, data: Any, data_own: Any, count: int) -> Any:
    """The starting values that a model finds in the data of each fit."""
    found = []
    for index in range(count):
        x, y = jax.tree.map(lambda leaf, own, at=index: np.asarray(leaf[at] if own else leaf), data, data_own)
        found.append(model.guess(_clean(x) if hasattr(x, "dtype") else x, _clean(y)))
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *found)


class _Axes(NamedTuple):
    """Which arguments have an axis of so many fits."""

    count: int

    def spread(self, name: str, given: Any, shapes: Any) -> Any:
        """Whether sigma or weights have one; None where there are none."""
        if given is None:
            return None
        if shapes is None:
            return jax.tree.map(lambda _: False, given)
        known = {*shapes} if name == "weights" else {*shapes, (self.count,)}

        def own(leaf: Any) -> bool:
            shape = np.shape(leaf)
            if shape in {whole[1:] for whole in shapes} or (shape == () and name == "sigma"):
                return False
            if shape in known:
                return True
            expected = " or ".join(map(str, sorted(known | {whole[1:] for whole in shapes})))
            raise ValueError(f"{name} has shape {shape}; expected {expected} for {self.count} fits.")

        return jax.tree.map(own, given)

    def optimizer(self, given: Any) -> tuple[Any, list[bool] | None]:
        """The optimizer of one fit, and which of its numbers have one."""
        if not isinstance(given, _options.Optimizer):
            return given, None
        leaves, tree = jax.tree_util.tree_flatten_with_path(given)
        own, first = [], []
        for path, leaf in leaves:
            shape = np.shape(leaf)
            if shape not in ((), (self.count,)):
                name = f"{type(given).__name__}: {jax.tree_util.keystr(path, simple=True)}"
                raise ValueError(f"{name} has shape {shape}; expected a number, or ({self.count},) for the fits.")
            own.append(bool(shape))
            first.append(float(np.asarray(leaf)[0]) if shape else leaf)
        return tree.unflatten(first), own

    def key(self, given: Any) -> tuple[Any, np.ndarray | None]:
        """The key of one fit, and the data of all where each has its own."""
        if isinstance(given, range) or (isinstance(given, list) and given):
            given = np.asarray(given)
        is_key = isinstance(given, jax.Array) and jax.numpy.issubdtype(given.dtype, jax.dtypes.prng_key)
        several = (is_key and given.ndim == 1) or (
            isinstance(given, (np.ndarray, jax.Array)) and not is_key and given.ndim == 1 and given.dtype != np.uint32
        )
        if not several:
            return given, None
        if len(given) != self.count:
            raise ValueError(f"key has {len(given)} entries; expected one, or {self.count}, one for each fit.")
        each = [one if is_key else int(one) for one in given]
        return each[0], np.stack([_inputs.seed(one)[0] for one in each])

    def params(self, model: Any, given: Any, data: Any) -> Any:
        """Which leaves of the starting values have one: those whose first axis has its length, if the model agrees."""
        own = jax.tree.map(lambda leaf: np.shape(leaf)[:1] == (self.count,), given)
        shared = jax.tree.map(lambda _: False, given)
        if self._fits(model, given, own, data):
            return own
        if any(jax.tree.leaves(own)) and self._fits(model, given, shared, data):
            return shared
        sliced = jax.tree.map(lambda leaf: np.ndim(leaf) > 0, given)
        if not any(jax.tree.leaves(own)) and self._fits(model, given, sliced, data):
            came = _checks.describe_tree(jax.tree.map(np.asarray, given))
            raise ValueError(
                f"params is {came} where y has {self.count} fits; expected the params of one fit for all, or a first "
                f"axis of {self.count}."
            )
        return own

    @staticmethod
    def _fits(model: Any, params: Any, own: Any, data: Any) -> bool:
        """Whether a model takes params without the axes that they are said to have."""
        if _model.kind(_modules.unwrapped(model)) is not None:
            return True
        try:
            one = jax.tree.map(lambda leaf, mine: np.asarray(leaf[0] if mine else leaf, float), params, own)
            prediction = jax.eval_shape(model, one, data[0])
        except Exception:
            return False
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data[1])]
        return [leaf.shape for leaf in jax.tree.leaves(prediction)] == shapes or len(shapes) > 1

    def bounds(self, side: Any, params: Any) -> Any:
        """Which leaves of one side of the bounds have one."""
        shapes = {np.shape(leaf) for leaf in jax.tree.leaves(params)}
        return jax.tree.map(lambda leaf: np.shape(leaf)[:1] == (self.count,) and np.shape(leaf) not in shapes, side)


def _bounds(
    task: _program.Task, ready: Prepared, given: Any, sides: list[Any], params: Any, params_own: Any, count: int
) -> tuple[Any, Any]:
    """The bounds of all fits, and which of their leaves have an axis of fits."""
    if task.bounds is None:
        return None, None
    entries, tree = jax.tree_util.tree_flatten_with_path(task.params)
    stays = [np.zeros(leaf.shape, bool) for _, leaf in entries]
    if ready.stays is not None and task.network is None:
        stays = jax.tree.leaves(ready.stays)
    starts = list(zip(jax.tree.leaves(params), jax.tree.leaves(params_own), strict=True))
    whole, own = [], []
    for at, side in enumerate(task.bounds):
        limits, mine = [], []
        for (path, leaf), one, stay, (start, varies) in zip(entries, jax.tree.leaves(side), stays, starts, strict=True):
            said = None if given is None else _limits.said_of(given[at], path)
            limit, several = one, False
            if sides and any(jax.tree.leaves(sides[at])) and np.shape(said)[:1] == (count,):
                limit, several = np.asarray(said, leaf.dtype), True
                limit = np.broadcast_to(
                    limit.reshape(count, *[1] * (leaf.ndim + 1 - limit.ndim), *limit.shape[1:]), (count, *leaf.shape)
                )
            if stay.any() and (varies or several):
                limit = np.where(stay, np.asarray(start), limit)
                several = True
            limits.append(limit)
            mine.append(several)
        whole.append(limits)
        own.append(mine)
    for (path, _), (start, varies), lower, upper, low, high in zip(entries, starts, *whole, *own, strict=True):
        if (varies or low or high) and not isinstance(start, np.memmap):
            start = np.asarray(start)
            outside = (start < lower) | (start > upper)
            if outside.any():
                at = tuple(map(int, np.argwhere(outside)[0]))
                value = np.broadcast_to(start, outside.shape)[at]
                raise ValueError(
                    f"params: {_checks.stem(path)} of fit {at[0]} starts at {value:.6g}, outside its bounds; expected "
                    "a start within them."
                )
    return tuple(map(tree.unflatten, whole)), tuple(map(tree.unflatten, own))
