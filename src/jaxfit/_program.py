"""One fit as compiled programs: what `fit` and its drivers call, with everything that decides what is compiled."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from jaxfit import _checks, _compile, _data, _errors, _forward, _loop, _model, _modules, _problem, _small
from jaxfit._fingerprint import fingerprint
from jaxfit._mesh import Spread
from jaxfit._modules import Network
from jaxfit._problem import Batch, Known, Problem, Totals
from jaxfit.losses import _curvature
from jaxfit.optimizers import Optimizer, State

_HASTY_OPERATIONS = 1e10  # a few tenths of a second on two cores, less than is saved by compiling hastily


class Held(NamedTuple):
    """What a module holds beside the params that are fitted.

    Attributes:
        carried: Batch statistics and other arrays of its own.
        frozen: The params that stay, in the structure of all params with None for the others.
        changes: Whether training changes what is carried.
    """

    carried: Any = ()
    frozen: Any = ()
    changes: bool = False

    def after(self, carried: Any) -> Any:
        """What is carried at a fit's end, where the optimizer's state has this: it has what training changes."""
        return carried if self.changes else self.carried


class Task(NamedTuple):
    """A fit, checked and ready to run.

    Attributes:
        problem: Model and loss; a module with the arrays that it holds at the start.
        optimizer: Who minimises.
        params: The starting values, a pytree of arrays.
        data: The samples; None where a sampler draws them.
        sampler: The function `key -> (x, y)`, or None.
        batch_size: Samples in a batch; None for all of them.
        shuffle: Whether epochs deal the samples in a new order.
        bounds: The least and the largest params allowed, two pytrees of arrays like them; None for none.
        validation: The samples that are looked at after every epoch, or None.
        metrics: What is computed of them, by name.
        record: What a row of the history holds.
        seed: The data of the fit's random key.
        key_kind: Its kind.
        meaning: The fingerprint of all functions in the task.
        network: The module that is the model; None for a function.
        held: What a module holds beside the params that are fitted.
        compute_dtype: What training computes in; None for the precision of the params.
        row_bytes: What the model computes for a sample; 0 where it is given all at once.
        classes: The shape of a prediction [n, classes, ...] whose loss takes labels; None where it takes none.
        skips: Whether a step whose loss or gradient is not finite is left out.
        spread: How it lies on a mesh of devices; None for one device.
    """

    problem: Problem
    optimizer: Optimizer
    params: Any
    data: Batch | None
    sampler: Callable | None
    batch_size: int | None
    shuffle: bool
    bounds: tuple[Any, Any] | None
    validation: Batch | None
    metrics: dict[str, Callable]
    record: tuple[str, ...]
    seed: Any
    key_kind: str
    meaning: Hashable
    network: Network | None = None
    held: Held = Held()
    compute_dtype: Any = None
    row_bytes: int = 0
    classes: tuple[int, ...] | None = None
    skips: bool = False
    spread: Spread | None = None

    @property
    def is_shared(self) -> bool:
        """Whether several processes run it together."""
        return self.spread is not None and self.spread.is_shared

    @property
    def samples(self) -> int:
        """The number of samples in the data."""
        return self.spread.data[0] if self.spread is not None else jax.tree.leaves(self.data)[0].shape[0]

    @property
    def steps_per_epoch(self) -> int | None:
        """None where there are no epochs, or where only the driver can count their steps."""
        if self.data is None:
            return None
        return 1 if self.batch_size is None else -(-self.samples // self.batch_size)

    @property
    def looks_back(self) -> bool:
        """Whether something is computed after every epoch."""
        return self.validation is not None or bool(self.metrics)

    @property
    def looks(self) -> list[str]:
        """The names of what is computed after every epoch."""
        if self.validation is None:
            return list(self.metrics)
        return [*(f"validation_{name}" for name in self.metrics), "validation_loss"]


def whole(
    task: Task, span: _loop.Span, capacity: int, epoch_capacity: int, careful: bool
) -> tuple[_loop.Progress, float]:
    """Runs a fit from its start as one program; also gives the seconds that compilation took."""

    def program(leaves, params, bounds, held, data, validation, seed, span):
        key = random.wrap_key_data(seed, impl=task.key_kind)
        optimizer = tree.unflatten(leaves)
        problem = at(task, bounds, *held)
        source = _source(task, data, key)
        evaluate = functools.partial(_evaluate, task, optimizer, held, data, validation) if task.looks_back else None
        progress = _loop.run(
            optimizer,
            problem,
            source,
            _begun(task, optimizer.init(problem, params), held[0]),
            key,
            span,
            capacity=capacity,
            record=task.record,
            evaluate=evaluate,
            epoch_capacity=epoch_capacity,
            careful=careful,
            skip=task.skips,
        )
        return progress if task.spread is None else task.spread.told(progress)

    leaves, tree = _numbers(task.optimizer)
    kind = ("whole", task.batch_size, task.shuffle, capacity, epoch_capacity, careful)
    arguments = (leaves, task.params, task.bounds, task.held[:2], task.data, task.validation, task.seed, span)
    return _call(task, task.data, program, kind, *arguments, rows=capacity)


def inside(
    task: Task,
    params: Any,
    steps: Any,
    *,
    state: State | None = None,
    few: Any = 0,
    look: bool | None = None,
    careful: bool = False,
) -> _loop.Progress:
    """Runs a fit without a history, inside whatever program is being traced.

    Args:
        task: The fit.
        params: The starting values.
        steps: At most so many; none, and no look at the params either, where it is negative.
        state: The optimizer's state to go on from; None for that before the first step.
        few: Of many fits under `vmap`, how many may be left running at the end.
        look: Whether there is a row more, which tells of the last params; None for one where the optimizer stops by
            itself, and may have converged there.
        careful: Whether a gradient that is not finite ends it, whatever the optimizer.
    """
    key = random.wrap_key_data(jnp.asarray(task.seed), impl=task.key_kind)
    problem = at(task, task.bounds, *task.held[:2])
    state = _begun(task, task.optimizer.init(problem, params), task.held.carried) if state is None else state
    source = _source(task, task.data, key)
    careful = careful or task.optimizer.needs_full_batch
    look = bool(task.optimizer.default_steps) if look is None else look
    span = _loop.Span(0, steps, steps + look)
    return _loop.run(task.optimizer, problem, source, state, key, span, capacity=0, record=(), careful=careful, few=few)


def begin(task: Task, batch: Batch | None) -> tuple[State, float]:
    """The optimizer's state before the first step of a fit that goes on in chunks.

    Args:
        task: The fit.
        batch: The first batch, or all the data; None where a sampler draws them.
    """

    def program(leaves, params, held):
        return _settled(_begun(task, tree.unflatten(leaves).init(at(task, None, *held), params), held[0]))

    leaves, tree = _numbers(task.optimizer)
    return _call(task, batch, program, "begin", leaves, task.params, task.held[:2])


def chunk(
    task: Task, state: State, group: Any, first: Batch | None, span: _loop.Span, capacity: int, drawn: Any = None
) -> tuple[Any, float]:
    """Some steps of a fit from a state, on the data of the task or on batches that came from outside.

    Args:
        task: The fit.
        state: The optimizer's state before the first of the steps.
        group: A source of batches, or of terms that were summed over them for an optimizer that wants no more; None
            for the batches that the task deals itself, which may end epochs.
        first: What a batch is like; None where a sampler draws them.
        span: Which steps.
        capacity: Rows of the history.
        drawn: What the chunk before handed on; None for the first, and for batches from outside.
    """
    own = group is None
    drawn = undrawn(task) if own and drawn is None else drawn
    epochs = capacity // task.steps_per_epoch + 1 if own and task.looks_back and task.steps_per_epoch else 0

    def program(leaves, state, bounds, held, data: Any, validation, seed, span, drawn):
        key = random.wrap_key_data(seed, impl=task.key_kind)
        optimizer, problem = tree.unflatten(leaves), at(task, bounds, *held)
        problem = Known(*problem) if optimizer.in_blocks and not own else problem
        source: Any = data if isinstance(data, _data.Whole) else _source(task, data, key)
        evaluate = functools.partial(_evaluate, task, optimizer, held, data, validation) if epochs else None
        progress = _loop.run(
            optimizer,
            problem,
            source,
            state,
            key,
            span,
            capacity=capacity,
            record=task.record,
            evaluate=evaluate,
            epoch_capacity=epochs,
            careful=True,
            skip=task.skips,
            drawn=drawn,
        )
        progress = progress._replace(state=_settled(progress.state))
        return progress if task.spread is None else task.spread.told(progress)

    leaves, tree = _numbers(task.optimizer)
    data, validation = (task.data, task.validation) if own else (group, None)
    arguments = (leaves, state, task.bounds, task.held[:2], data, validation, task.seed, span, drawn)
    kind = ("chunk", task.batch_size, task.shuffle, capacity, own)
    return _call(task, first, program, kind, *arguments, rows=capacity)


def undrawn(task: Task) -> Any:
    """What the first chunk is told of rounds that were drawn before; None where the steps of a round share nothing."""
    if task.sampler is None and (task.batch_size is None or not task.shuffle):
        return None

    def draw(seed: Any, data: Any) -> Any:
        key = random.wrap_key_data(seed, impl=task.key_kind)
        return _source(task, data, key).draw(key, jnp.int32(0))

    shapes = jax.eval_shape(draw, task.seed, task.data)
    return np.int32(-1), jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def add_terms(
    task: Task, state: State, totals: Totals | None, group: _data.Group, first: Batch
) -> tuple[Totals, float]:
    """The Gauss–Newton terms of one more batch at the point where the next step looks, added to those before.

    Args:
        task: The fit.
        state: The optimizer's state.
        totals: The sums; None where this is the first batch.
        group: The batch.
        first: What a batch is like.
    """
    if totals is None:
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), task.optimizer.terms(state))
        assert blank is not None
        totals = Totals.from_nothing(blank)

    def program(state, held, group, totals):
        _, unravel = _small.vector(state.params)
        batch = group.batch(None, group.first)
        batch = batch if task.spread is None else task.spread.held(batch)
        return totals.plus(at(task, None, *held), state.inner.trial, unravel, batch)

    return _call(task, first, program, "add terms", state, task.held[:2], group, totals)


def look(task: Task, params: Any) -> State:
    """The state of an optimizer that has looked at params and gone nowhere."""

    def program(leaves, params, bounds, held, data):
        optimizer, problem = tree.unflatten(leaves), at(task, bounds, *held)
        return optimizer.step(problem, optimizer.init(problem, params), data, random.key(0))[0]

    leaves, tree = _numbers(task.optimizer)
    arguments = (leaves, params, task.bounds, task.held[:2], task.data)
    return _call(task, task.data, program, "look", *arguments)[0]._replace(params=params)


def evaluate(task: Task, state: State) -> tuple[dict[str, Any], float]:
    """The validation loss and the metrics, outside the loop."""

    def program(leaves, held, validation, state):
        return _evaluate(task, tree.unflatten(leaves), held, None, validation, state)

    leaves, tree = _numbers(task.optimizer)
    return _compile.call(program, program_key(task, "evaluate"), leaves, task.held[:2], task.validation, state)


def at(task: Task, bounds: Any, carried: Any, frozen: Any) -> Problem:
    """The problem of a task inside a program whose arguments are the bounds and what a module holds."""
    problem, network, dtype = task.problem._replace(bounds=bounds), task.network, task.compute_dtype
    if network is None:
        if dtype is None:
            return problem
        return problem._replace(
            train=_modules.computing_in(dtype, lambda params, now, x, _: (problem.model(params, x), now))
        )
    changes, still = task.held.changes, _modules.still(frozen)
    training = functools.partial(network.train, still=still)
    if dtype is not None:
        training = _modules.computing_in(dtype, training)

    def model(params: Any, x: Any) -> Any:
        return network.evaluate(carried, _modules.joined(params, frozen), x)

    def train(params: Any, now: Any, x: Any, key: Any) -> tuple[Any, Any]:
        prediction, after = training(_modules.joined(params, frozen), now if changes else carried, x, key)
        return prediction, after if changes else ()

    return problem._replace(model=model, train=train)


def _settled(state: State) -> State:
    """A state whose arrays have the types that they keep, so that one which was stored runs by the same program."""

    def settled(leaf: Any) -> Any:
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(settled, state)


def _begun(task: Task, state: State, carried: Any) -> State:
    """A state before the first step, with what the model carries from step to step."""
    state = state._replace(carried=carried) if task.held.changes else state
    return state if task.spread is None else task.spread.like_params(state, state.params)


def blocks(problem: Problem, params: Any, data: Batch, meaning: Hashable) -> int | None:
    """How many samples to handle at once for the Gauss–Newton terms; None for all, as where they are few.

    A model whose prediction for one sample depends on other samples gets all of them at once.

    Args:
        problem: The problem.
        params: Where it is tried.
        data: The samples.
        meaning: What the problem is, as a key.
    """
    size = _problem.block_size(sum(leaf.size for leaf in jax.tree.leaves(params)), data, problem.loss)
    if size is None:
        return None

    def evaluate(_: Any, params: Any, x: Any) -> Any:
        return problem.model(params, x)

    return size if _forward.is_row_by_row(meaning, evaluate, params, (), data.x) else None


def sandwich(task: Task, params: Any, held: np.ndarray | None) -> np.ndarray:
    """The inverse covariance of params that a robust loss fitted, [p, p].

    Args:
        task: The fit.
        params: Where it ended.
        held: Which params a bound holds back, a bool [p]; None for none.
    """
    fitted = sum(leaf.size for leaf in jax.tree.leaves(params)) - (0 if held is None else int(held.sum()))
    program = functools.partial(_errors.robust_terms, task.problem)
    key = program_key(task, "sandwich"), fingerprint(task.held)
    (curvature, variance), _ = _compile.call(program, key, params, task.data, np.float32(fitted))
    return np.asarray(curvature) / float(variance)


def _call(
    task: Task, data: Batch | None, program: Callable, kind: Hashable, *arguments: Any, rows: int = 1
) -> tuple[Any, float]:
    """Calls a program of a task, and says so where it is the optimizer that cannot be traced."""
    checked = False

    def check_first() -> None:
        nonlocal checked
        check(task, data)
        checked = True

    try:
        return _compile.call(
            program, program_key(task, kind), *arguments, check=check_first, options=_haste(task, rows)
        )
    except (TypeError, ValueError, AttributeError) as error:
        if not checked:
            raise
        # Model, loss and metrics have been traced one by one already: what is left is the optimizer.
        raise TypeError(_model.complaint("optimizer", error, came=f"these params, {task.optimizer!r}")) from error


def _haste(task: Task, rows: int) -> Any:
    """How to compile a program that takes up to so many steps: hastily where the compilation takes longer than it."""
    params = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    at_once = task.batch_size or (0 if task.data is None else task.samples)
    if params <= 1_000 and at_once <= 10_000:
        return _compile.HASTY
    # Two operations a param and sample forward, four backward: an estimate, too low for convolutions.
    if not task.optimizer.in_blocks and at_once and 6 * params * at_once * rows <= _HASTY_OPERATIONS:
        return _compile.HASTY
    return None if task.problem.block is None else _compile.LEAN


def _numbers(optimizer: Optimizer) -> tuple[list[Any], Any]:
    """The leaves of an optimizer and its tree; plain numbers as floats, so that 1 and np.float64(1) share a program."""
    leaves, tree = jax.tree.flatten(optimizer)
    return [float(leaf) if _checks.is_number(leaf) else leaf for leaf in leaves], tree


def program_key(task: Task, kind: Hashable) -> tuple[Hashable, ...]:
    """All that decides what a program of a task computes, beside shapes."""
    flags = task.problem.draws, task.held.changes, task.row_bytes, task.skips, task.spread
    return (kind, task.meaning, task.problem.sums, task.problem.block, task.record, task.key_kind, flags)


def _source(task: Task, data: Any, key: jax.Array) -> _data.Source:
    if task.spread is None:
        return _plain_source(task, data, key)
    if not isinstance(data, _data.Group | None):  # what a sampler draws or came from outside is held batch by batch
        data = task.spread.trimmed(data, task.spread.data)
    return _data.Held(_plain_source(task, data, key), task.spread.held)


def _plain_source(task: Task, data: Any, key: jax.Array) -> _data.Source:
    if isinstance(data, _data.Group):
        return data
    if task.sampler is not None:
        shape = jax.ShapeDtypeStruct(key.shape, key.dtype)
        return _data.Samples(task.sampler, _data.block_size(task.sampler, shape, jax.eval_shape(task.sampler, shape)))
    assert data is not None
    if task.batch_size is None:
        return _data.Whole(data, epochs=task.looks_back)
    return _data.Minibatches(data, task.batch_size, task.shuffle)


def _evaluate(
    task: Task, optimizer: Optimizer, held: Any, data: Any, validation: Batch | None, state: State
) -> dict[str, jax.Array]:
    """What is written down after an epoch."""
    batch, prefix = (data, "") if validation is None else (validation, "validation_")
    assert batch is not None
    if task.spread is not None:
        batch = task.spread.trimmed(batch, task.spread.data if validation is None else task.spread.validation)
    carried, frozen = held
    problem = at(task, None, state.carried if task.held.changes else carried, frozen)
    params = optimizer.answer(state)
    if task.row_bytes:
        prediction = _forward.predict(functools.partial(problem.model, params), batch.x, task.row_bytes)
    else:
        prediction = problem.model(params, batch.x)
    found = {prefix + name: metric(prediction, batch.y) for name, metric in task.metrics.items()}
    if validation is not None:
        found["validation_loss"] = task.problem.score(prediction, batch)
    return found


def check(task: Task, data: Batch | None) -> None:
    """Traces the user's functions one by one, so that a message can name the one that fails.

    Raises:
        TypeError: One cannot be traced, or does not return what it should.
        ValueError: One fails on shapes like these.
    """
    if task.network is None:
        _model.check_signature("model", task.problem.model, *_model.MODEL)
    _model.check_signature("loss", task.problem.loss, *_model.LOSS)
    for name, metric in task.metrics.items():
        _model.check_signature(f"metrics[{name!r}]", metric, *_model.METRIC)
    if task.sampler is not None:
        _model.check_signature("the sampler", task.sampler, *_model.SAMPLER)
        key = jax.eval_shape(functools.partial(random.wrap_key_data, impl=task.key_kind), task.seed)
        data = _check_sample(_model.traced("the sampler", task.sampler, key))
    assert data is not None
    validation = task.validation
    if task.spread is not None:  # without what fills up the last device
        data = data if data is not task.data else task.spread.shapes(data, task.spread.data)
        validation = None if validation is None else task.spread.shapes(validation, task.spread.validation)
    if _curvature.by_rows(task.problem.loss) and not hasattr(data.y, "shape"):
        raise TypeError(f"cross_entropy takes one array of labels; y is {_checks.describe_tree(data.y)}.")
    size = task.batch_size
    batch = data if size is None else _first_rows(data, size)
    prediction = check_pass(task, batch)
    if size is not None and task.samples % size:
        check_pass(task, _first_rows(data, task.samples % size))
    if validation is not None:
        prediction, batch = check_pass(task, validation, training=False), validation
    for name, metric in task.metrics.items():
        value = _model.traced(f"metrics[{name!r}]", metric, prediction, batch.y)
        if not hasattr(value, "shape"):
            raise TypeError(f"metrics[{name!r}] returns {_checks.describe_tree(value)}; expected a number or an array.")


def _first_rows(data: Batch, size: int) -> Batch:
    """The shapes of a batch of so many samples."""

    def cut(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype) if np.ndim(leaf) else leaf

    return Batch(*(jax.tree.map(cut, part) for part in data))


def _check_sample(sample: Any) -> Batch:
    if not (isinstance(sample, tuple) and len(sample) == 2):
        raise TypeError(f"the sampler returns {_checks.describe_tree(sample)}; expected a tuple (x, y).")
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(sample)}
    if len(lengths) != 1 or lengths <= {(), (0,)}:
        raise ValueError(
            f"the sampler returns {_checks.describe_tree(sample)}; expected arrays x and y with one row per sample."
        )
    return Batch(*sample)


def check_model(task: Task, x: Any, training: bool = False) -> Any:
    """Checks the model on the shapes of x; gives those of its prediction."""
    problem, name, came = task.problem, "model", None
    if task.network is not None:
        name, came = _model.called(task.network.given), _checks.describe_tree(x)
    prediction = _model.traced(name, problem.model, task.params, x, came=came)
    if training and problem.train is not None:
        carried = task.held.carried if task.held.changes else ()
        key = jax.eval_shape(lambda: random.key(0))
        _model.traced(name, problem.train, task.params, carried, x, key, came=came)
    return prediction


def check_pass(task: Task, batch: Batch, training: bool = True) -> Any:
    """Checks model and loss on the shapes of a batch; gives the shapes of the prediction."""
    problem = task.problem
    prediction = check_model(task, batch.x, training)
    pair = f"The model predicts {_checks.describe_tree(prediction)} where y is {_checks.describe_tree(batch.y)}."
    shapes = getattr(prediction, "shape", None), getattr(batch.y, "shape", None)
    if shapes[0] is not None and shapes[1] is not None and shapes[0] != shapes[1]:
        if batch.sigma is not None:
            raise ValueError(f"sigma needs a prediction of y's shape. {pair}")
        if [n for n in shapes[0] if n != 1] == [n for n in shapes[1] if n != 1]:
            # A loss of one's own would broadcast the two to a matrix without a word.
            longer, shorter = ("prediction", "y") if len(shapes[0]) > len(shapes[1]) else ("y", "prediction")
            raise ValueError(f"{pair} Make them equal, e.g. by {longer}[:, 0] or {shorter}[:, None].")
    if shapes == (None, None) and _curvature.is_ours(problem.loss):
        _check_alike(prediction, batch.y, pair)
    if shapes[0] is not None and shapes[1] is not None and shapes[0][:1] != shapes[1][:1]:
        raise ValueError(f"{pair} Expected a prediction with one row per sample.")
    try:
        value = _model.traced("loss", problem.score, prediction, batch, came="this")
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} {pair}") from error.__cause__
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, np.floating):
        came = _checks.describe_tree(value)
        raise TypeError(f"loss returns {came}; expected a single real number, e.g. by jnp.mean over it. {pair}")
    return prediction


def _check_alike(prediction: Any, y: Any, pair: str) -> None:
    """Raises ValueError where two pytrees differ in structure or shapes."""
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (prediction, y)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{pair} Expected a prediction with y's structure and shapes.")
