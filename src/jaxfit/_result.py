"""The result of a fit: a frozen value, and what can be asked of it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from jaxfit import _compile, _inputs, _model, _report
from jaxfit._fingerprint import fingerprint
from jaxfit._inference import Evidence
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
        model: The model.
        optimizer: The optimizer that ran.
        data: The data that are in memory, as (x, y), not copied; None for a fit to samples or a stream.
        start: The starting values, NumPy arrays.
        loss_function: The loss.
        bounds: (lower, upper), pytrees like the params, of NumPy arrays with -inf and inf for none; None without any.
        fixed: Which params were held at their starting values, a pytree like them of NumPy bools; None for none.
    """

    params: Any
    loss: float
    status: Status
    message: str
    steps: int
    history: dict[str, Any]
    compile_seconds: float
    run_seconds: float
    model: Callable
    optimizer: Optimizer
    start: Any
    _batch: Batch | None
    _sampler: Callable | None
    _wide: bool
    _weigh: Callable[[], Evidence | None]
    loss_function: Callable | None = None
    bounds: tuple[Any, Any] | None = None
    fixed: Any = None
    _again: Callable[[Any, Any], "FitResult"] | None = None  # the same fit from other params, some of them fixed there

    @functools.cached_property
    def evidence(self) -> Evidence | None:
        """What a second-order optimizer knows of the fit at its end; None from the others."""
        with self.precision():
            return self._weigh()

    @property
    def data(self) -> tuple[Any, Any] | None:
        """The data as (x, y); None for a fit to samples or to a stream."""
        return None if self._batch is None else (self._batch.x, self._batch.y)

    @property
    def success(self) -> bool:
        """Whether the fit ended as it should."""
        return self.status.ok

    def predict(self, x: Any) -> Any:
        """The model's prediction at new points.

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
            prediction, _ = _compile.call(
                self.model,
                ("predict", fingerprint(self.model)),
                self.params,
                x,
                check=lambda: _model.traced("model", self.model, self.params, x),
            )
            return jax.device_get(prediction) if self._wide else prediction

    def precision(self) -> contextlib.AbstractContextManager:
        """The scope in which this fit ran: 64 bits where it needed them."""
        return jax.enable_x64(True) if self._wide else contextlib.nullcontext()

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
