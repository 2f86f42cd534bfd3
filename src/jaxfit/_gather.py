"""What many fits are made of: which arguments have an axis of fits, one fit as the pattern of all, and their arrays."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import (
    _axes,
    _checks,
    _compile,
    _drive_many,
    _forward,
    _inputs,
    _limits,
    _model,
    _modules,
    _options,
    _program,
    _table,
    _tell,
    _traced,
)
from jaxfit._axes import Dealt
from jaxfit._drive_many import Many
from jaxfit._fingerprint import fingerprint
from jaxfit._many import Arrays
from jaxfit._prepare import Prepared, other_data, prepare, step_limit
from jaxfit._problem import Batch
from jaxfit._results import FitResults
from jaxfit._table import Found
from jaxfit._together import Processes, said

_TRIED = 256  # fits among which the pattern is looked for
_SIZES = 1.5  # lists of data sets are filled up to lengths that differ by this factor


class Work(NamedTuple):
    """Many fits, ready to run.

    Attributes:
        ready: One of them.
        parts: Those that run as one, each with their indices among all.
        fits: How many there are.
        absolute: Whether sigma is known in absolute terms.
        lengths: The samples of each fit where they differ, else None.
        weighted: Whether the user gave weights.
        look: Other data whose loss compares the fits, or None.
        devices: Those of a mesh that they run on, in words; None without one.
    """

    ready: Prepared
    parts: list[tuple[np.ndarray, Many]]
    fits: int
    absolute: bool
    lengths: np.ndarray | None = None
    weighted: bool = True
    look: Batch | None = None
    devices: str | None = None

    def held(self, found: Found) -> tuple[Any, tuple[int | None, int | None]]:
        """What modules hold at the end beside their params (carried, frozen), and where each has an axis of fits."""
        (carried, frozen), own = self.parts[0][1].arrays.held, any(self.parts[0][1].own.held)
        changes = self.ready.task.held.changes
        return (found.carried if changes else carried, frozen), (0 if own or changes else None, 0 if own else None)

    def at(self, index: int) -> _program.Task:
        """One of the fits, with its own samples only."""
        number, many = next((rows, many) for rows, many in self.parts if self.fits == many.fits or index in rows)
        task = many.at(index if many.fits == self.fits else int(np.searchsorted(number, index)))
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
    processes: Processes | None = None,
) -> FitResults:
    """Runs the fits and wraps what came out.

    Args:
        work: The fits.
        out: The folder for the results, or None.
        progress: Whether to tell how far it is.
        quiet: Whether it warns only where all ended badly, not where some did.
        settings: What differs from fit to fit, by name.
        processes: Who runs them, and on which devices; None for this process on its own.
    """
    processes = processes or Processes()
    folder = processes.all(lambda: _folder(work, out, progress))
    found = _found(work, folder, progress, processes)
    whole = found[0] if len(found) == 1 else _together([rows for rows, _ in work.parts], found)
    scores = None if work.look is None else _scores(work, whole)
    results = FitResults(work._replace(devices=processes.words), whole, settings or {}, scores)
    if not (quiet and results.success.any()):
        results.warn(stacklevel=4)
    return results


def _folder(work: Work, out: Any, progress: Any) -> Path | None:
    """The folder for the results, made where there is none."""
    folder = None
    if out is not None and not isinstance(out, (str, Path)):
        raise TypeError(f"out is {_checks.describe(out)}; expected the path of a folder.")
    if out is not None:
        if len(work.parts) > 1:
            raise ValueError("out goes with arrays; data sets in lists are in memory, and so are their results.")
        folder = Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out is {str(out)!r}, a file; expected a folder.")
        folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(progress, bool):
        raise TypeError(f"progress is {_checks.describe(progress)}; expected True or False.")
    return folder


def _found(work: Work, folder: Path | None, progress: bool, processes: Processes) -> list[Found]:
    """The results of the parts, each of all its fits."""
    started = time.perf_counter()
    several = [many for _, many in work.parts]
    ends = processes.shares([(many.fits, _cost(many)) for many in several])
    mine = [
        many.share(processes.own(end)) if processes.several else many for many, end in zip(several, ends, strict=True)
    ]
    count = sum(many.fits for many in mine)
    own = folder
    if folder is not None and processes.several:
        own = folder / f".share_{processes.rank}"

    def run() -> list[Found]:
        if own is not None:
            own.mkdir(parents=True, exist_ok=True)
        with _tell.bar("fits", count) if progress and count and not processes.rank else _tell.nothing() as tell:
            return [_drive_many.run(many, own, tell, processes.devices) for many in mine]

    if not processes.several:
        return run()
    try:
        found = processes.all(run)
        whole = [_table.joined(one, end, processes, folder) for one, end in zip(found, ends, strict=True)]
        compiled = sum(one.compile_seconds for one in found)
        del found  # its files are still in use
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
    seconds = processes.most(np.array([compiled, time.perf_counter() - started]))
    whole[0] = whole[0]._replace(compile_seconds=seconds[0], run_seconds=seconds[1] - seconds[0])
    return whole


def _cost(many: Many) -> int:
    """What one of the fits costs, more or less: the numbers in its data."""
    return max(1, sum(np.size(leaf) for leaf in jax.tree.leaves(many.task.data)))


def pattern(work: Work) -> dict[str, str]:
    """What must be the same in all processes that run the fits, in words."""
    return said(
        {
            "the pattern of the fits": [
                (many.fits, many.steps, many.wide, many.own, Arrays.of(many.task)) for _, many in work.parts
            ]
        }
    )


def _scores(work: Work, found: Found) -> np.ndarray:
    """The loss of each fit for other data."""
    task = work.ready.task
    held, axes = work.held(found)

    def program(params: Any, carried: Any, frozen: Any, batch: Batch) -> Any:
        problem = _program.at(task, None, carried, frozen)
        return problem.score(problem.model(params, batch.x), batch)

    with work.ready.precision():
        key = "scores", _program.program_key(task, "scores"), axes
        several = jax.vmap(program, in_axes=(0, *axes, None))
        return np.asarray(_compile.call(several, key, found.params, *held, work.look)[0])


def _together(rows: list[np.ndarray], found: list[Found]) -> Found:
    """The results of several parts, in the order of all fits."""
    back = np.argsort(np.concatenate(rows))

    def joined(*leaves: Any) -> Any:
        return np.concatenate(leaves)[back]

    seconds = [sum(part.compile_seconds for part in found), sum(part.run_seconds for part in found)]
    tables = jax.tree.map(joined, *(part._replace(compile_seconds=0, run_seconds=0)[:-2] for part in found))
    return Found(*tables, *seconds)


def refuse_traced(*arguments: Any) -> None:
    """Raises TypeError inside of what JAX transforms."""
    if _traced.is_traced(*arguments):
        raise TypeError("many fits cannot be run inside jit, vmap or grad; there, fit under jax.vmap does the same.")


def of_data(
    model: Callable, data: Any, params: Any, given: dict[str, Any], options: dict[str, Any], processes: Processes
) -> Work:
    """Fits of sets of data of their own.

    Args:
        model: The model.
        data: x, of which each leaf may have an axis of fits, and y, all of which has one.
        params: The starting values, whose leaves may have one.
        given: Other arguments that may have one: sigma, weights, bounds, optimizer, key.
        options: Other arguments.
        processes: Who runs the fits.
    """
    if not isinstance(data, tuple):
        raise TypeError(
            f"data is {_checks.describe(data)}; expected a tuple (x, y) with the fits as the first axis of y."
        )
    if len(data) != 2:
        raise ValueError(f"data is a tuple of {len(data)}; expected the pair (x, y).")
    refuse_traced(model, options.get("loss"), data, params, *given.values())
    if isinstance(data[1], list):
        return _of_lists(model, *data, params, given, options, processes)
    x, y, count = _axes.data(*data)
    first = next((index for index in range(min(count, _TRIED)) if x.is_finite(index) and y.is_finite(index)), 0)
    if params is None and hasattr(model, "guess"):
        start = _guesses(model, lambda index: (x.at(index, _clean), y.at(index, _clean)), count, processes)
    else:
        start = _axes.params(model, params, (x.at(first, _clean), y.at(first, _clean)), count)
    return build(model, (x, y), start, count, given, options, first=first)


def _of_lists(
    model: Any,
    x: Any,
    y: Sequence,
    params: Any,
    given: dict[str, Any],
    options: dict[str, Any],
    processes: Processes,
) -> Work:
    """Fits of data sets in lists: as arrays where all have one length."""
    sets = [np.asarray(one) for one in y]
    if not sets or any(one.ndim == 0 or one.size == 0 for one in sets):
        raise ValueError("y is a list with a number or an empty array in it; expected one array [n, ...] per fit.")
    count, lengths = len(sets), np.array([len(one) for one in sets])
    own: dict[str, Any] = {}
    sigma = _inputs.gathered(given["sigma"])
    if getattr(sigma, "shape", ()) == (count,):
        given = given | {"sigma": sigma}  # a number for each fit
    for name, part in (("x", x), ("sigma", given["sigma"]), ("weights", given["weights"])):
        if isinstance(part, (list, tuple)):
            own[name] = [np.asarray(one) for one in part]
            for index in range(max(count, len(part))):
                came = "nothing" if index >= len(part) else str(own[name][index].shape[:1])
                if index >= min(count, len(part)) or own[name][index].shape[:1] != (lengths[index],):
                    mine = "nothing" if index >= count else f"({lengths[index]},)"
                    raise ValueError(f"{name}[{index}] has length {came} where y[{index}] has {mine}.")
        elif len(set(lengths)) > 1 and (name == "x" or (np.ndim(part) and np.shape(part) != (count,))):
            raise ValueError(f"{name} is {_checks.describe_tree(part)}; expected a list of arrays, one for each of y.")
    if len(set(lengths)) == 1:
        stacked = {name: np.stack(part) for name, part in own.items()}
        given = given | {name: stacked[name] for name in ("sigma", "weights") if name in stacked}
        return of_data(model, (stacked.get("x", x), np.stack(sets)), params, given, options, processes)
    return _of_lengths(model, own, sets, lengths, params, given, options, processes)


def _of_lengths(
    model: Any,
    own: dict[str, Any],
    sets: list[np.ndarray],
    lengths: np.ndarray,
    params: Any,
    given: dict[str, Any],
    options: dict[str, Any],
    processes: Processes,
) -> Work:
    """Fits of data sets of different lengths, filled up to a few lengths by samples of weight 0 where they may be.

    Args:
        model: The model.
        own: Lists of x, and of sigma and weights where they are such, one for each fit.
        sets: y.
        lengths: Their lengths.
        params: The starting values.
        given: Other arguments that may have an axis of fits.
        options: Other arguments.
        processes: Who runs the fits.
    """
    count, one = len(sets), (own["x"][0], sets[0])
    if params is None and hasattr(model, "guess"):
        start = _guesses(model, lambda index: (_clean(own["x"][index]), _clean(sets[index])), count, processes)
    else:
        start = _axes.params(model, params, one, count)
    given = given | {"key": _axes.keys(given["key"])}
    _, numbers = _axes.optimizer(given["optimizer"], count)
    _, seeds = _axes.key(given["key"], count)
    pair = _pair(given["bounds"])
    sides = tuple(_axes.bounds(side, start.at(0) if start.tree is not None else None, count) for side in pair)
    sizes = lengths
    if _may_be_filled(model, start, one, options):
        sizes = np.array([_padded(length, lengths) for length in lengths])
    kind = np.result_type(np.float32, *(one.dtype for one in sets if one.dtype.kind == "f"))
    parts, ready = [], None
    for size in sorted(set(sizes)):
        rows = np.flatnonzero(sizes == size)
        filled = {name: np.stack([_filled(part[i], size, "edge") for i in rows]) for name, part in own.items()}
        y = np.stack([_filled(sets[i], size, "constant") for i in rows])
        some = given | {name: filled[name] for name in ("sigma", "weights") if name in filled}
        if sizes is not lengths:
            weight = filled.get("weights", np.ones((len(rows), size), kind))
            some["weights"] = np.where(np.arange(size) < lengths[rows][:, None], weight, 0)
        if "sigma" not in own and np.shape(given["sigma"]) == (count,):  # a number for each fit
            some["sigma"] = np.asarray(given["sigma"])[rows].reshape(-1, *[1] * (y.ndim - 1)) * np.ones(y.shape)
        if seeds is not None:
            some["key"] = given["key"][rows]
        if numbers is not None and any(numbers.flags):
            leaves = _taken(numbers, rows).tree
            some["optimizer"] = jax.tree.structure(given["optimizer"]).unflatten(leaves)
        if sides:
            some["bounds"] = tuple(_taken(side, rows) for side in sides)
        dealt = Dealt.each(filled["x"]), Dealt.each(y)
        work = build(model, dealt, _taken(start, rows), len(rows), some, options)
        ready = ready or work.ready
        parts.append((rows, work.parts[0][1]))
    assert ready is not None
    weighted = given["weights"] is not None
    return Work(ready, parts, count, options.get("absolute_sigma", False), lengths, weighted)


def _may_be_filled(model: Any, start: Dealt, one: Any, options: dict[str, Any]) -> bool:
    """Whether samples of weight 0 change nothing: they do for a model that looks at all its samples, and in batches."""
    if start.tree is None or options.get("batch_size") is not None or not _options.takes_weights(options["loss"]):
        return False
    if _model.kind(_modules.unwrapped(model)) is not None:
        return False
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), start.at(0, _clean))
    return _forward.is_row_by_row(fingerprint(model), lambda _, params, x: model(params, x), params, (), _clean(one[0]))


def _padded(length: int, lengths: np.ndarray) -> int:
    """The length that a data set is filled up to."""
    size = int(lengths.min())
    while size < length:
        size = max(size + 1, int(size * _SIZES))
    return min(size, int(lengths.max()))


def _filled(one: np.ndarray, size: int, mode: Any) -> np.ndarray:
    return np.pad(one, [(0, size - len(one))] + [(0, 0)] * (one.ndim - 1), mode=mode)


def _taken(dealt: Dealt, rows: np.ndarray) -> Dealt:
    """That of some of the fits."""
    return dealt._replace(tree=jax.tree.map(lambda leaf, own: leaf[rows] if own else leaf, dealt.tree, dealt.own))


def build(
    model: Any,
    data: Any,
    params: Dealt,
    count: int,
    given: dict[str, Any],
    options: dict[str, Any],
    *,
    held: Any = None,
    first: int = 0,
) -> Work:
    """Many fits of which one is the pattern.

    Args:
        model: The model.
        data: x and y, each a `Dealt`; or what `fit` takes, which all share.
        params: The starting values.
        count: The number of fits.
        given: sigma, weights, bounds, optimizer and key, any of which may have an axis of fits.
        options: Other arguments.
        held: What modules hold beside their params, with an axis of fits; None for what all share.
        first: The fit that is the pattern of all.
    """
    options = dict(options)
    if _options.kind(data) == "stream":
        raise TypeError("data is an iterable of batches; expected a tuple (x, y), or a sampler key -> (x, y).")
    limit = {name: options.pop(name, None) for name in ("steps", "epochs")}
    absolute, validation = options.pop("absolute_sigma", False), options.pop("validation", None)
    if validation is not None and not isinstance(validation, tuple):
        raise TypeError(f"validation is {_checks.describe(validation)}; expected a tuple (x, y).")
    pair = data if isinstance(data, tuple) and isinstance(data[0], Dealt) else None
    if pair is None and isinstance(data, tuple) and len(data) == 2:
        data = tuple(map(_inputs.gathered, data))
    whole = pair[1].tree if pair else data[1] if isinstance(data, tuple) and len(data) == 2 else None
    shapes = [np.shape(leaf)[1 if pair else 0 :] for leaf in jax.tree.leaves(whole)]
    sigma = _axes.beside("sigma", given.get("sigma"), shapes, count, alone=True)
    weights = _axes.beside("weights", given.get("weights"), [shape[:1] for shape in shapes], count, alone=False)
    optimizer, numbers = _axes.optimizer(given.get("optimizer"), count)
    key, seeds = _axes.key(given.get("key", 0), count)
    one = params.at(first, _clean) if held is None else None
    sides = [
        side if isinstance(side, Dealt) else _axes.bounds(side, one, count) if pair else Dealt.shared(side)
        for side in _pair(given.get("bounds"))
    ]
    ready = prepare(
        model,
        tuple(part.at(first, _clean) for part in pair) if pair else data,
        one,
        optimizer=optimizer,
        sigma=sigma.at(first, _positive),
        weights=weights.at(first, _usable),
        bounds=tuple(side.at(first) for side in sides) if sides else given.get("bounds"),
        key=key,
        **options,
    )
    task, look = ready.task, None
    if validation is not None:
        with ready.precision():
            look = other_data(validation, task.data, ready.wide, options.get("batch_size"))
            _program.check_pass(task, look, training=False)
    mine = Arrays.of(task)
    batch = Dealt.shared(mine.data)
    if mine.data is not None:
        x, y = pair or map(Dealt.shared, (mine.data.x, mine.data.y))
        parts = [part.over(one) for part, one in zip((x, y, sigma, weights), mine.data, strict=True)]
        batch = Dealt(Batch(*(part.tree for part in parts)), Batch(*(part.own for part in parts)))
    start = params.over(mine.params) if params.tree is not None and task.network is None else Dealt.shared(mine.params)
    start = start if held is None else params
    dealt = Arrays(
        params=start,
        data=batch,
        bounds=_bounds(ready, sides, start, count),
        seed=Dealt(mine.seed if seeds is None else seeds, seeds is not None),
        optimizer=_numbers(numbers, mine.optimizer, ready.wide),
        held=Dealt.shared(mine.held) if held is None else Dealt.each(held),
    )
    arrays = Arrays(*(part.tree for part in dealt))
    with ready.precision():
        own = Arrays(*(part.flags for part in dealt))
        many = Many(task, arrays, own, count, step_limit(task, **limit), absolute, ready.wide)
    return Work(ready, [(np.arange(count), many)], count, absolute, look=look)


def _pair(bounds: Any) -> tuple[Any, ...]:
    """The two sides of bounds; none where they are none, or what `fit` will refuse."""
    return tuple(bounds) if isinstance(bounds, (tuple, list)) and len(bounds) == 2 else ()


def _numbers(given: Dealt | None, one: Any, wide: bool) -> Dealt:
    """The numbers of the optimizers of all fits."""
    leaves, tree = jax.tree.flatten(one)
    dtype = np.float64 if wide or _compile.setting("jax_enable_x64") else np.float32
    whole = Dealt.shared(leaves) if given is None else given.over(leaves)
    numbers = [np.asarray(leaf, dtype) if own else leaf for leaf, own in zip(whole.tree, whole.flags, strict=True)]
    return Dealt(tree.unflatten(numbers), whole.own)


def _clean(one: np.ndarray) -> np.ndarray:
    return np.nan_to_num(one, posinf=0, neginf=0) if one.dtype.kind in "fc" else one


def _positive(one: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(one) & (one > 0), one, 1)


def _usable(one: np.ndarray) -> np.ndarray:
    usable = np.where(np.isfinite(one) & (one >= 0), one, 0)
    return usable if usable.any() else np.ones_like(usable)


def _guesses(model: Any, pair: Callable[[int], tuple[Any, Any]], count: int, processes: Processes) -> Dealt:
    """The starting values that a model finds in the data (x, y) of each fit, each process those of its share."""
    (ends,) = processes.shares([(count, 1)])
    mine = processes.own(ends)
    own = mine.stop - mine.start

    def found() -> Any:
        begun = [model.guess(*pair(index)) for index in (range(mine.start, mine.stop) if own else (0,))]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves])[:own], *begun)

    return Dealt.each(jax.tree.map(lambda leaf: processes.joined(leaf, ends), processes.all(found)))


def _bounds(ready: Prepared, sides: list[Dealt], start: Dealt, count: int) -> Dealt:
    """The bounds of all fits; what stays has no room on either side of its own start.

    Raises:
        ValueError: A fit starts outside of them.
    """
    task = ready.task
    if task.bounds is None:
        return Dealt.shared(None)
    entries, tree = jax.tree_util.tree_flatten_with_path(task.params)
    stays = [np.zeros(leaf.shape, bool) for _, leaf in entries]
    if ready.stays is not None and task.network is None:
        stays = jax.tree.leaves(ready.stays)
    begun = list(zip(jax.tree.leaves(start.tree), start.flags, strict=True))
    whole: list[list[Any]] = [[], []]
    own: list[list[bool]] = [[], []]
    for at, limits in enumerate(task.bounds):
        for (path, leaf), limit, stay, (first, varies) in zip(
            entries, jax.tree.leaves(limits), stays, begun, strict=True
        ):
            side = sides[at] if sides else None
            several = side is not None and bool(_limits.said_of(side.own, path)) and any(side.flags)
            if several and side is not None:
                said = np.asarray(_limits.said_of(side.tree, path), leaf.dtype)
                if np.isnan(said).any():
                    name = ("lower", "upper")[at]
                    raise ValueError(f"bounds: the {name} bound of {_checks.stem(path)} is NaN for some fits.")
                said = said.reshape(count, *[1] * (leaf.ndim + 1 - said.ndim), *said.shape[1:])
                limit = np.broadcast_to(said, (count, *leaf.shape))
            if stay.any() and (varies or several):
                limit, several = np.where(stay, np.asarray(first), limit), True
            whole[at].append(limit)
            own[at].append(several)
    for (path, _), (first, varies), lower, upper, low, high in zip(entries, begun, *whole, *own, strict=True):
        if (varies or low or high) and not isinstance(first, np.memmap):
            outside = np.isfinite(first) & ((np.asarray(first) < lower) | (np.asarray(first) > upper))
            if outside.any():
                at = tuple(map(int, np.argwhere(outside)[0]))
                value = np.broadcast_to(np.asarray(first), outside.shape)[at]
                raise ValueError(
                    f"params: {_checks.stem(path)} of fit {at[0]} starts at {value:.6g}, outside its bounds; expected "
                    "a start within them."
                )
    return Dealt(tuple(map(tree.unflatten, whole)), tuple(map(tree.unflatten, own)))
