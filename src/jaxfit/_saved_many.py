"""The results of many fits in a file: their tables, and what it takes to look at one of the fits again."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxfit import _named, _program, _saved_network
from jaxfit._drive_many import Many
from jaxfit._fingerprint import fingerprint
from jaxfit._gather import Work
from jaxfit._many import Arrays
from jaxfit._prepare import Prepared
from jaxfit._problem import Batch, Problem
from jaxfit._program import Held, Task
from jaxfit._result import FitResult
from jaxfit._results import FitResults
from jaxfit._status import Status
from jaxfit._table import Found

_GIVE_MODEL = "Give it: jaxfit.load(path, model=...)."
_FLAGS = ("batch_size", "shuffle", "key_kind", "row_bytes", "classes")  # of a task, stored as they are
ENTRIES = {"model", "loss_function", "optimizer", "sampler", "found", "params", "settings", "scores", "work", "wide"}
ENTRIES |= {"start", "stays", "task", "pattern", "parts", "has_data", "statuses"}


def content(results: FitResults, data: bool) -> Any:
    """All of the results of many fits, as a pytree of arrays and plain values."""
    if isinstance(results, SavedResults):
        stored = results._file.content
        return stored if data else _without_data(stored)
    work = results._work
    ready, task = work.ready, work.ready.task
    network = task.network
    stored = {
        "model": _saved_network.described(network.given, _features(task))
        if network is not None
        else _named.described(ready.model),
        "loss_function": _named.described(task.problem.loss),
        "optimizer": _named.describe_optimizer(task.optimizer),
        "sampler": task.sampler and _named.described(task.sampler),
        "found": results._found._asdict(),
        "params": None if task.held.frozen == () else results.params,  # those that stay too
        "settings": results.settings,
        "scores": results._scores,
        "work": {name: getattr(work, name) for name in ("fits", "absolute", "lengths", "weighted", "devices")},
        "wide": ready.wide,
        "start": ready.start,
        "stays": ready.stays,
        "task": {name: getattr(task, name) for name in _FLAGS}
        | {name: getattr(task.problem, name) for name in ("sums", "block", "draws")}
        | {"changes": task.held.changes, "compute_dtype": task.compute_dtype and np.dtype(task.compute_dtype).name},
        "pattern": _plain(Arrays.of(task)),
        "parts": [
            {"rows": rows, "arrays": _plain(many.arrays), "own": list(many.own), "fits": many.fits, "steps": many.steps}
            for rows, many in work.parts
        ],
        "has_data": True,
        "statuses": [status.value for status in Status],  # whose places the codes are
    }
    return stored if data else _without_data(stored)


def _features(task: Task) -> Any:
    return None if task.data is None else task.data.x


def _plain(arrays: Arrays) -> Any:
    batch = arrays.data
    return arrays._asdict() | {
        "optimizer": _named.describe_optimizer(arrays.optimizer),
        "data": batch and batch._asdict(),
    }


def _without_data(stored: Any) -> Any:
    if stored["pattern"]["data"] is None:  # samples are drawn again
        return stored
    at = Arrays._fields.index("data")
    parts = [
        part
        | {
            "arrays": part["arrays"] | {"data": None},
            "own": [[] if i == at else own for i, own in enumerate(part["own"])],
        }
        for part in stored["parts"]
    ]
    return stored | {"pattern": stored["pattern"] | {"data": None}, "parts": parts, "has_data": False}


class File(NamedTuple):
    """What a file tells, and the model that `load` was given, or None."""

    content: Any
    given: Any


def built(stored: Any, given: Any, widened: bool) -> FitResults:
    """The results that a file tells of."""
    now = [status.value for status in Status]
    codes = np.array([now.index(value) for value in stored["statuses"]], np.int8)[stored["found"]["codes"]]
    stored = stored | {"wide": stored["wide"] or widened, "statuses": now}
    stored["found"] = stored["found"] | {"codes": codes}
    if given is not None and stored["model"]["kind"] == "network":
        _one_network(stored, given)
    described = stored["model"]
    why = _saved_network.missing(described) if described["kind"] == "network" else _GIVE_MODEL
    work = _work(stored, _named.Lost(described["shown"], why), None)
    found = Found(**stored["found"])
    if stored["params"] is not None:
        found = found._replace(params=stored["params"])
    return SavedResults(work, found, stored["settings"], stored["scores"], File(stored, given))


def _one_network(stored: Any, given: Any) -> Any:
    """The module that `load` was given, checked against what the first of the fits held."""
    carried, _ = stored["pattern"]["held"]
    whole = stored["found"]["params"] if stored["params"] is None else stored["params"]
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), whole)
    return _saved_network.adapted(given, stored["model"], first, carried)


def _arrays(plain: Any) -> Arrays:
    optimizer, batch = _named.find_optimizer(plain["optimizer"]), plain["data"]
    return Arrays(**plain | {"optimizer": optimizer, "data": batch and Batch(**batch)})


def _work(stored: Any, model: Any, network: Any) -> Work:
    """The fits as they were, ready to run but for the model where that is a stand-in."""
    pattern, flags = _arrays(stored["pattern"]), stored["task"]
    loss = _named.found_or_lost(stored["loss_function"], "loss")
    sampler = stored["sampler"] and _named.found_or_lost(stored["sampler"], "sampler")
    dtype = flags["compute_dtype"] and jnp.dtype(flags["compute_dtype"])
    carried, frozen = pattern.held
    own = network.meaning if network is not None else fingerprint(model)
    task = Task(
        problem=Problem(model, loss, flags["sums"], None, flags["block"], flags["draws"]),
        params=None,
        optimizer=pattern.optimizer,
        data=None,
        sampler=sampler,
        bounds=None,
        validation=None,
        metrics={},
        record=("loss",),
        seed=None,
        meaning=("saved", own, fingerprint((loss, sampler, pattern.optimizer)), dtype),
        network=network,
        held=Held(carried, frozen, flags["changes"]),
        compute_dtype=dtype,
        **{name: flags[name] for name in _FLAGS},
    )
    task = pattern.within(task)
    task = task._replace(problem=_program.at(task, None, carried, frozen))
    kind = "arrays" if sampler is None else "sampler"
    ready = Prepared(task, model, kind, sampler, stored["start"], stored["stays"], stored["wide"], False)
    absolute = stored["work"]["absolute"]
    parts = [
        (
            part["rows"],
            Many(
                task, _arrays(part["arrays"]), Arrays(*part["own"]), part["fits"], part["steps"], absolute, ready.wide
            ),
        )
        for part in stored["parts"]
    ]
    return Work(ready, parts, **stored["work"])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SavedResults(FitResults):
    """The results of many fits out of a file; the model is looked for when it is asked for."""

    _file: File = None  # type: ignore[assignment]

    @functools.cached_property
    def _whole(self) -> FitResults:
        """The same with the model."""
        stored, given = self._file
        network, described = None, stored["model"]
        if described["kind"] == "network":
            if given is None:
                raise ValueError(_saved_network.missing(described))
            network = _one_network(stored, given)
        model = _named.find(described, "model", _GIVE_MODEL) if given is None else given
        work = _work(stored, model, network)
        return FitResults(work, Found(**stored["found"]), self.settings, self._scores)

    def predict(self, x: Any) -> Any:
        return self._whole.predict(x)

    def _one(self, index: int) -> FitResult:
        if not self._file.content["has_data"]:
            raise ValueError(
                "a fit is looked at again on its data; these results were saved without them: "
                "save(results, path, data=True) keeps them."
            )
        return self._whole._one(index)
