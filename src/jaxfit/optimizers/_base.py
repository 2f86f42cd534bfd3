"""What every optimizer is: a frozen value that is a pytree of its numbers, with two pure functions, `init` and `step`.

Numbers (a learning rate, a decay) are leaves, so a new number compiles nothing and `vmap` over them is a sweep. What
changes the program (a flag, a schedule, an option that is off) is structure and belongs to the tree's definition.
"""

import abc
import dataclasses
from typing import Any, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxfit import _checks
from jaxfit._problem import Batch, GaussNewton, Problem


class Info(NamedTuple):
    """What one step found out: looked at, written into the history, never needed to go on.

    Attributes:
        loss: The loss at the params that the step started from, a scalar.
        gradient_norm: The Euclidean norm of its gradient there, a scalar.
        converged: Whether the optimizer has nothing left to do, a bool scalar.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    converged: jax.Array | bool


class State(NamedTuple):
    """All that a later step needs.

    Attributes:
        params: The params now.
        inner: What the optimizer remembers (momenta, counts).
        carried: What the model itself carries from step to step (running statistics); nothing for a plain function.
    """

    params: Any
    inner: Any
    carried: Any = ()


def number(
    *, default: Any, least: float = 0.0, below: float | None = None, schedule: bool = False, kw_only: bool = False
) -> Any:
    """A field that holds a number, or a tuple of numbers: leaves of the optimizer.

    Args:
        default: The number that is used when none is given.
        least: The smallest value allowed.
        below: A bound that the value must stay under.
        schedule: Whether a function `step count -> number` may stand in its place.
        kw_only: Whether it must be given by name.
    """
    metadata = {"least": least, "below": below, "schedule": schedule}
    return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


def flag(*, default: Any, kw_only: bool, kinds: tuple[type, ...] = (bool,)) -> Any:
    """A field that decides which program is compiled: part of the structure, not a leaf."""
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"kinds": kinds})


@dataclass_transform(frozen_default=True, field_specifiers=(number, flag))
@dataclasses.dataclass(frozen=True, eq=False)
class Optimizer(abc.ABC):
    """The base of all optimizers. A subclass is a frozen dataclass of `number` and `flag` fields."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, repr=False, eq=False)(cls)  # what is shared is not generated again
        jax.tree_util.register_pytree_with_keys_class(cls)

    @abc.abstractmethod
    def init(self, problem: Problem, params: Any) -> State:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: State, batch: Batch, key: jax.Array) -> tuple[State, Info]:
        """One step from `state` on one batch; `key` feeds whatever is random in it."""

    @property
    def averages(self) -> bool:
        """Whether what the fit hands back is an average, not the params that the steps start from."""
        return False

    def answer(self, state: State) -> Any:
        """The params that a fit which ends in this state hands back."""
        return state.params

    @property
    def default_steps(self) -> int | None:
        """The step limit of a fit that names none; None where the optimizer has no stopping rule of its own."""
        return None

    def check_loss(self, loss: Any) -> None:
        """Raises TypeError where it cannot minimise a loss."""
        del loss

    @property
    def is_second_order(self) -> bool:
        """Whether it wants all the precision that the data have: float64 data make a float64 fit."""
        return False

    @property
    def needs_full_batch(self) -> bool:
        """Whether a step compares its loss with the last step's, and so needs the same data at every step."""
        return False

    @property
    def in_blocks(self) -> bool:
        """Whether it asks for Gauss–Newton terms, which can be summed block by block."""
        return False

    def check_bounds(self) -> None:  # noqa: B027 (most have nothing to say)
        """Raises TypeError where its steps cannot be held within bounds by moving what left them back."""

    def penalty(self, flat: jax.Array) -> jax.Array | float:
        """What it adds to the sum of the losses at params given as one vector, [p]; 0 for most."""
        del flat
        return 0.0

    def check_end(self, state: State) -> None:  # noqa: B027 (most take every model)
        """Raises ValueError where the state at the end says that the model is not one that it can fit."""

    def terms(self, state: State) -> GaussNewton | None:
        """The Gauss–Newton terms at the state's params, where the optimizer knows them."""
        del state
        return None

    @property
    def keeps_the_best(self) -> bool:
        """Whether no step leads to params that are worse or not finite."""
        return False

    @property
    def first_steps(self) -> int | None:
        """The limit of a first try that a second may follow; None where there is but one."""
        return None

    def robust(self) -> "Optimizer":
        """The rule to go by from the start where this one ended badly; itself where there is no other."""
        return self

    def doubts(self, state: State, held: Any) -> Any:
        """Whether an end at which it converged is one to doubt: a bool, traced where the state is.

        Args:
            state: The state at the end.
            held: Which params a bound holds back, a bool vector [p]; None for none.
        """
        del state, held
        return False

    def second_try(self, state: State, converged: bool, held: np.ndarray | None) -> "Optimizer | None":
        """Who starts anew where this optimizer ended badly; None where the end is sound, or there is nobody.

        Args:
            state: The state at the end.
            converged: Whether it converged there.
            held: Which params a bound holds back, a bool [p]; None for none.
        """
        del state, converged, held
        return None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(type(self).__name__, field, getattr(self, field.name))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        (mine, structure), (others, its) = jax.tree.flatten(self), jax.tree.flatten(other)
        return structure == its and all(map(np.array_equal, mine, others))

    def __hash__(self) -> int:
        return hash(jax.tree.structure(self))

    def __repr__(self):
        """The call that makes this value again, without what is at its default; a learning rate is always told."""
        fields = sorted(dataclasses.fields(self), key=lambda field: field.kw_only is True)
        shown = [f for f in fields if f.name == "learning_rate" or getattr(self, f.name) is not f.default]
        entries = ", ".join(f"{f.name}={_shown(getattr(self, f.name))}" for f in shown)
        return f"{type(self).__name__}({entries})"

    def tree_flatten(self):
        """Leaves are the numbers that are there; a schedule, None and a plain zero (an option that is off) are not."""
        names, leaves, structure = [], [], []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if "kinds" in field.metadata or is_off(value) or callable(value):
                structure.append((field.name, value))
            else:
                names.append(field.name)
                leaves.append(value)
        return leaves, (tuple(names), tuple(structure))

    def tree_flatten_with_keys(self):
        """The same, with the names of the leaves."""
        leaves, structure = self.tree_flatten()
        keys = map(jax.tree_util.GetAttrKey, structure[0])
        return list(zip(keys, leaves, strict=True)), structure

    @classmethod
    def tree_unflatten(cls, structure, leaves):
        """Rebuilds without checks: JAX puts placeholders and tracers where numbers were."""
        names, static = structure
        self = object.__new__(cls)
        for name, value in (*zip(names, leaves, strict=True), *static):
            object.__setattr__(self, name, value)
        return self


def _shown(value: Any) -> str:
    """A hyperparameter as one would write it; a schedule by the name of the function that made it."""
    if not callable(value):
        return repr(value)
    name = getattr(value, "__qualname__", type(value).__name__).partition(".<locals>")[0]
    return f"<{name}>"


def is_off(value: ArrayLike | tuple | None) -> bool:
    """Whether an optional number was given as a plain zero or None, so that its arithmetic can be left out."""
    return value is None or (_checks.is_number(value) and bool(value == 0))


def _check(optimizer: str, field: dataclasses.Field, value: Any) -> None:
    where = f"{optimizer}: {field.name}"
    if "kinds" in field.metadata:
        kinds = field.metadata["kinds"]
        if not isinstance(value, kinds):
            raise TypeError(f"{where} is {_checks.describe(value)}; expected {' or '.join(k.__name__ for k in kinds)}.")
        return
    if isinstance(field.default, tuple):
        if not (isinstance(value, tuple) and len(value) == len(field.default)):
            raise TypeError(f"{where} is {_checks.describe(value)}; expected a tuple like {field.default}.")
        numbers = value
    else:
        numbers = (value,)
    for entry in numbers:
        _check_number(where, field, entry)


def _check_number(where: str, field: dataclasses.Field, value: Any) -> None:
    least, below, schedule = (field.metadata[name] for name in ("least", "below", "schedule"))
    if (value is None and field.default is None) or (callable(value) and schedule):
        return
    if isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.number):
        return  # an array of values to sweep over, or a tracer: its numbers cannot be compared here
    if not _checks.is_number(value):
        expected = "a number, an array of them or a schedule (step count -> number)" if schedule else "a number"
        raise TypeError(f"{where} is {_checks.describe(value)}; expected {expected}.")
    if not (value >= least and (below is None or value < below)) or value == float("inf"):
        bound = f"at least {least:g}" + ("" if below is None else f" and below {below:g}")
        raise ValueError(f"{where} is {value!r}; expected a finite number, {bound}.")
