"""The result of one fit in a file, and what it is when it comes out of one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfit import _named, _saved_network
from jaxfit._fit import fit
from jaxfit._inference import Evidence
from jaxfit._modules import Network
from jaxfit._problem import Batch
from jaxfit._result import FitResult
from jaxfit._status import Status

_GIVE_MODEL = "Give it: jaxfit.load(path, model=...)."
_PARAMS = ("params", "loss", "message", "steps", "history", "compile_seconds", "run_seconds", "start", "bounds")
_PARAMS += ("fixed", "model_state")  # what is stored as it is
_DESCRIBED = ("model", "loss_function", "optimizer", "sampler")
_TOLD = ("report", "html", "goodness", "sigma", "had_data")
ENTRIES = {*_PARAMS, *_DESCRIBED, *_TOLD, "status", "wide", "evidence", "data"}
_GOODNESS = ("r_squared", "adjusted_r_squared", "log_likelihood")  # what takes the data to know


class File(NamedTuple):
    """What a file tells beside the numbers.

    Attributes:
        described: "model", "loss", "optimizer", "sampler" as plain values.
        evidence: What a second-order optimizer knew at the end, or None.
        report: As it was printed.
        html: The same for a notebook.
        goodness: What takes the data to know, by name.
        sigma: What `prediction_band` takes for that of the fit: a number; None where it differs from point to point.
        had_data: Whether the fit had its data in memory.
        given: The model that `load` was given, or None.
    """

    described: dict[str, Any]
    evidence: Evidence | None
    report: str
    html: str
    goodness: dict[str, float]
    sigma: Any
    had_data: bool
    given: Any = None


def content(result: FitResult, data: bool) -> Any:
    """All of a result, as a pytree of arrays and plain values."""
    evidence, batch = result.evidence, result._batch
    file = result._file if isinstance(result, SavedResult) else _file(result)
    return {
        **{name: getattr(result, name) for name in _PARAMS},
        "status": result.status.value,
        "wide": result._wide,
        **file.described,
        "evidence": evidence and evidence._asdict(),
        "data": batch._asdict() if data and batch is not None else None,
        "report": str(result),
        "html": result._repr_html_(),
        "goodness": file.goodness,
        "sigma": file.sigma,
        "had_data": file.had_data,
    }


def _file(result: FitResult) -> File:
    """What a file has to tell of a result of a fit."""
    batch = result._batch
    described = {
        "model": _saved_network.described(result._network.given, _features(result))
        if result._network is not None
        else _named.described(result._function),
        "loss_function": _named.described(result.loss_function),
        "optimizer": _named.describe_optimizer(result.optimizer),
        "sampler": result._sampler and _named.described(result._sampler),
    }
    goodness = {}
    for name in _GOODNESS if result.evidence is not None and batch is not None else ():
        try:
            goodness[name] = getattr(result, name)
        except ValueError:  # it has no meaning for this loss, which the loaded result says too
            continue
    sigma: Any = 1.0 if batch is None or batch.sigma is None else batch.sigma
    if any(np.ndim(leaf) for leaf in jax.tree.leaves(sigma)) or not jax.tree_util.all_leaves([sigma]):
        sigma = None
    return File(described, result.evidence, "", "", goodness, sigma, batch is not None)


def _features(result: FitResult) -> Any:
    """An x of the fit, or its shapes; None where a stream dealt it."""
    if result._batch is not None:
        return result._batch.x
    if result._sampler is None:
        return None
    with result.precision():
        return jax.eval_shape(result._sampler, jax.random.key(0))[0]


def built(stored: Any, given: Any, widened: bool) -> FitResult:
    """The result that a file tells of."""
    described = {name: stored[name] for name in _DESCRIBED}
    evidence = stored["evidence"] and Evidence(**stored["evidence"])
    told = {name: stored[name] for name in _TOLD}
    network = None
    if given is not None and described["model"]["kind"] == "network":
        network = _saved_network.adapted(given, described["model"], stored["params"], stored["model_state"])
    result = object.__new__(SavedResult)  # what is found by its name is looked for when it is asked for
    vars(result).update(
        {name: stored[name] for name in _PARAMS},
        status=Status(stored["status"]),
        _batch=stored["data"] and Batch(**stored["data"]),
        _wide=stored["wide"] or widened,
        _network=network,
        _file=File(described, evidence, **told, given=given),
    )
    return result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SavedResult(FitResult):
    """A result out of a file: what is found by its name is looked for when it is asked for."""

    _file: File = None  # type: ignore[assignment]

    @functools.cached_property
    def optimizer(self) -> Any:  # type: ignore[override]
        return _named.find_optimizer(self._file.described["optimizer"])

    @functools.cached_property
    def loss_function(self) -> Any:  # type: ignore[override]
        return _named.found_or_lost(self._file.described["loss_function"], "loss")

    @functools.cached_property
    def _sampler(self) -> Callable | None:  # type: ignore[override]
        described = self._file.described["sampler"]
        found = None if described is None else _named.found_or_lost(described, "sampler")
        return None if isinstance(found, _named.Lost) else found

    @functools.cached_property
    def _function(self) -> Callable:  # type: ignore[override]
        described, network = self._file.described["model"], self._network
        if network is not None:
            return functools.partial(network.evaluate, self.model_state)
        if described["kind"] == "network":
            raise ValueError(_saved_network.missing(described))
        if self._file.given is not None:
            return self._file.given
        return _named.find(described, "model", _GIVE_MODEL)

    def _rebuild(self) -> Any:  # type: ignore[override]
        network: Network | None = self._network
        return self._function if network is None else network.rebuild(self.model_state, self.params)

    def _weigh(self) -> Evidence | None:  # type: ignore[override]
        return self._file.evidence

    def _again(self, at: Any, fixed: Any) -> FitResult:  # type: ignore[override]
        """The same fit from other params, some of them fixed."""
        batch, evidence, bounds = self._batch, self.evidence, self.bounds
        assert evidence is not None  # only a profile asks, of a fit that has it
        if batch is None:
            raise self._no_data("a profile fits the data again")
        if bounds is not None and self.fixed is not None:  # of what was fixed they say nothing but where
            room = [(bounds[0], -np.inf), (bounds[1], np.inf)]
            bounds = tuple(
                jax.tree.map(lambda end, still, none=none: np.where(still, none, end), side, self.fixed)
                for side, none in room
            )
        return fit(
            self._function if self._network is None else self._network.given,
            (batch.x, batch.y),
            at,
            fixed=fixed,
            loss=self.loss_function,
            optimizer=self.optimizer,
            sigma=batch.sigma,
            absolute_sigma=evidence.absolute,
            weights=batch.weights,
            bounds=bounds,
        )

    def _loss_sum(self, params: Any) -> float:
        if self._batch is None:
            raise self._no_data("a profile looks at the data again")
        return super()._loss_sum(params)

    def _no_data(self, what: str) -> ValueError:
        """The error of what looks at data that are not in the file."""
        if self._file.had_data:
            return ValueError(f"{what}; this result was saved without its data: save(result, path, data=True).")
        return ValueError(f"{what}; this fit saw samples or a stream of batches, which no file holds.")

    def _told(self, name: str) -> Any:
        """What takes the data to know: out of the file where they are not there."""
        if self._batch is None and name in self._file.goodness:
            return self._file.goodness[name]
        return getattr(super(), name)

    @property
    def residuals(self) -> Any:
        if self._batch is None and self._file.had_data:
            raise self._no_data("residuals are those of data in memory")
        return super().residuals

    @property
    def r_squared(self) -> float:
        return self._told("r_squared")

    @property
    def adjusted_r_squared(self) -> float:
        return self._told("adjusted_r_squared")

    @property
    def log_likelihood(self) -> float:
        return self._told("log_likelihood")

    def prediction_band(self, x: Any, level: float = 0.95, *, sigma: Any = None) -> tuple[Any, Any]:
        if self._batch is None and sigma is None:
            sigma = self._file.sigma
            if sigma is None:
                raise ValueError(
                    "sigma differs from point to point in this fit; give that of the new observations: "
                    "prediction_band(x, sigma=...)."
                )
        return super().prediction_band(x, level, sigma=sigma)

    def __str__(self):
        return self._file.report

    def _repr_html_(self) -> str:
        return self._file.html
