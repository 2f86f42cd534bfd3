"""The result of a fit: a frozen value, and what can be asked of it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from jaxfit import _checks, _compile, _forward, _inputs, _model, _report
from jaxfit._fingerprint import fingerprint
from jaxfit._inference import Evidence
from jaxfit._modules import Network
from jaxfit._problem import Batch
from jaxfit._status import Status
from jaxfit._uncertainty import Uncertainty
from jaxfit.optimizers import Optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FitResult(Uncertainty):
    """What `fit` found. `print(result)` shows it as a report, and so does a notebook.

    Attributes:
        params: The fitted params, a pytree like the starting values. JAX arrays; NumPy float64 arrays where a fit ran
            in float64 although JAX is set to 32 bits.
        loss: The loss at `params`: of all the data; of one more batch in a fit by batches; of the last one in a stream.
        status: How the fit ended, a `Status`.
        message: The same as a sentence, with the figures of this fit.
        steps: The steps taken to `params`.
        history: What was recorded, NumPy arrays by name. "loss" [steps]: the loss that each step started from.
            "params" and "gradient_norm" if they were asked for; "validation_loss" and the metrics have one entry per
            epoch.
        compile_seconds: Seconds spent on compilation: 0.0 where an equal fit had been compiled before.
        run_seconds: Seconds spent on the rest.
        model: The model; of a flax module a copy with the fitted params, in evaluation mode, to call with x.
        model_state: What a module carries beside its params (batch statistics), a nested dict; empty for functions.
        optimizer: The optimizer that ran.
        data: The data that are in memory, as (x, y), not copied; None for a fit to samples or a stream.
        start: The starting values, NumPy arrays.
        loss_function: The loss.
        bounds: (lower, upper), pytrees like the params, of NumPy arrays with -inf and inf for none; None without any.
        fixed: Which params were held at their starting values, a pytree like them of NumPy bools; None for none.
        devices: The devices of the mesh that it ran on, in words; None for a fit without a mesh.
    """

    params: Any
    loss: float
    status: Status
    message: str
    steps: int
    history: dict[str, Any]
    compile_seconds: float
    run_seconds: float
    optimizer: Optimizer
    start: Any
    _batch: Batch | None
    _sampler: Callable | None
    _wide: bool
    _weigh: Callable[[], Evidence | None]
    _function: Callable  # (params, x) -> prediction
    _rebuild: Callable[[], Any]
    loss_function: Callable | None = None
    bounds: tuple[Any, Any] | None = None
    fixed: Any = None
    model_state: Any = dataclasses.field(default_factory=dict)
    devices: str | None = None
    _network: Network | None = None
    _again: Callable[[Any, Any], "FitResult"] | None = None  # the same fit from other params, some of them fixed there

    @functools.cached_property
    def evidence(self) -> Evidence | None:
        """What a second-order optimizer knows of the fit at its end; None from the others."""
        with self.precision():
            return self._weigh()

    @functools.cached_property
    def model(self) -> Any:
        """The model; of a flax module a copy with the fitted params, in evaluation mode, to call with x."""
        return self._rebuild()

    @property
    def data(self) -> tuple[Any, Any] | None:
        """The data as (x, y); None for a fit to samples or to a stream."""
        return None if self._batch is None else (self._batch.x, self._batch.y)

    @property
    def success(self) -> bool:
        """Whether the fit ended as it should."""
        return self.status.ok

    def predict(self, x: Any) -> Any:
        """The model's prediction at new points; a module's in evaluation mode, and in batches where x is large.

        Args:
            x: What the model takes, as in the data: a pytree of arrays [n, ...].

        Returns:
            What the model returns for the fitted params, in the precision of the fit.

        Raises:
            TypeError: x is not numbers.
            ValueError: x is empty or not finite, or the model fails on its shape.
        """
        with self.precision():
            x = _inputs.features(x, self._wide)
            if self._network is not None:
                self._check_axes(x)
                meaning, evaluate = self._network.meaning, self._network.evaluate
                name = _model.called(self._network.given)
                return _forward.predict_blocks(meaning, evaluate, self.params, self.model_state, x, name)
            prediction, _ = _compile.call(
                self._function,
                ("predict", fingerprint(self._function)),
                self.params,
                x,
                check=lambda: _model.traced("model", self._function, self.params, x),
            )
            return jax.device_get(prediction) if self._wide else prediction

    def _check_axes(self, x: Any) -> None:
        """Raises ValueError where a module is given a sample without the axis of samples, which it may take too."""
        fitted = jax.tree.leaves(self._batch.x) if self._batch is not None else []
        for mine, leaf in zip(fitted, jax.tree.leaves(x), strict=False):
            if leaf.ndim == mine.ndim - 1 and leaf.shape == mine.shape[1:]:
                shape = ", ".join(map(str, ("n", *mine.shape[1:])))
                raise ValueError(f"x is {_checks.describe(leaf)}; expected samples, [{shape}]: give x[None] for one.")

    def precision(self) -> contextlib.AbstractContextManager:
        """The scope in which this fit ran: 64 bits where it needed them."""
        return _compile.precision(self._wide)

    def plot(self) -> "Figure":
        """Draws the data with the fit, and its residuals with their errors or the loss at every step.

        Returns:
            A matplotlib figure; `figure.savefig(path)` keeps it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from jaxfit import plotting

        return plotting.plot(self)

    def __str__(self):
        return _report.text(self)

    def _repr_html_(self) -> str:
        return _report.html(self)

    def __repr__(self):
        return f"FitResult(status={self.status!r}, loss={self.loss:.6g}, steps={self.steps})"
