"""Neural networks through `fit`: torch's training runs, modules of every kind, dropout, precision, messages."""

import functools
import itertools

import flax.core
import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

import jaxfit as jf
import parity_networks as parity
from jaxfit import FitWarning, Status, _compile, _convolutions, _forward, losses, nn
from jaxfit.optimizers import LBFGS, SGD, Adam, LevenbergMarquardt
from reference import reference, stored

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(12, 3)).astype(np.float32)
Y = np.sin(X.sum(1, keepdims=True))
LABELS = np.arange(12) % 3
FACTOR = 1.0
fit = functools.partial(jf.fit, optimizer=Adam(0.05))
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=_compile.HASTY | {"xla_backend_optimization_level": 0})


pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def row(tree, index):
    return jax.tree.map(lambda rows: rows[index], tree)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(one, other):
    """Whether two pytrees are equal bit by bit."""
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True)
    )


def close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def mse(prediction, target):
    return np.mean((np.asarray(prediction, float) - target) ** 2)


def mlp(seed=0, middle=None, out=1, last=()):
    rngs = nn.Rngs(seed)
    middle = nn.Tanh() if middle is None else middle
    return nn.Sequential(nn.Linear(3, 4, rngs=rngs), middle, nn.Linear(4, out, rngs=rngs), *last)


def dropping(seed=0, p=0.5):
    return mlp(seed, nn.Dropout(p, rngs=nn.Rngs(1)))


def normed(seed=0):
    return mlp(seed, nn.BatchNorm1d(4))


def arrays_of(module):
    """All that a module is: objects and values of its parts, by path."""
    found = {}
    for path, part in nnx.iter_modules(module):
        for name, value in vars(part).items():
            array = np.array(jax.random.key_data(value[...])) if _is_key(value) else None
            if isinstance(value, nnx.Variable) and array is None:
                array = np.array(value[...])
            found[(*path, name)] = (id(value), repr(value) if array is None else array.tobytes())
    return found


def _is_key(value):
    return isinstance(value, nnx.Variable) and jnp.issubdtype(value[...].dtype, jax.dtypes.prng_key)


# Training as torch does it.

RENAMED = {"momentum": "momentum", "lr": "learning_rate"}
LOSSES = {
    "sum": lambda out, label: jnp.sum((label - out) ** 2),
    "mse": losses.mse,
    "cross_entropy": losses.cross_entropy,
}


def build(run, dtype):
    options = {"Linear": {"param_dtype": dtype, "rngs": nn.Rngs(0)}, "BatchNorm1d": {"param_dtype": dtype}}
    options |= dict.fromkeys(("Conv2d", "Embedding"), options["Linear"])
    options |= {"BatchNorm2d": options["BatchNorm1d"]}
    return nn.Sequential(*(getattr(nn, name)(*given, **options.get(name, {})) for name, *given in run.layers))


def trained(name, dtype):
    run, expected = parity.RUNS[name], reference("networks", name)
    weights = {key.removeprefix("start."): value for key, value in expected.items() if key.startswith("start.")}
    net = nn.from_torch(nnx.eval_shape(lambda: build(run, dtype)), weights)
    x = np.moveaxis(run.x, 1, -1) if run.x.ndim == 4 else run.x
    result = jf.fit(
        net,
        tuple(array.astype(dtype) if array.dtype.kind == "f" else array for array in (x, run.y)),
        loss=LOSSES[run.loss],
        optimizer=getattr(jf.optimizers, run.optimizer)(**{RENAMED[k]: v for k, v in run.options.items()}),
        epochs=run.epochs,
        batch_size=run.batch_size,
        shuffle=False,
    )
    return result, x.astype(dtype) if x.dtype.kind == "f" else x, expected


@pytest.mark.parametrize("name", parity.RUNS)
def test_a_whole_run_follows_torch(name):
    with jax.enable_x64(True):
        result, x, expected = trained(name, np.float64)
        np.testing.assert_allclose(result.history["loss"], expected["losses"], rtol=1e-8, atol=1e-16)
        state = nn.to_torch(result.model)
        ends = {key.removeprefix("end."): value for key, value in expected.items() if key.startswith("end.")}
        assert {key for key in state if not key.endswith("num_batches_tracked")} == set(ends)
        for key, value in ends.items():
            np.testing.assert_allclose(state[key], value, rtol=1e-8, atol=1e-10, err_msg=key)
        for evaluated in (result.predict(x), quick(lambda x: result.model(x))(x)):
            np.testing.assert_allclose(evaluated, expected["evaluated"], rtol=1e-7, atol=1e-9)
        assert {leaf.dtype for leaf in leaves((result.params, result.model_state))} == {np.dtype(np.float64)}


def test_a_run_in_float32_follows_torch_too():
    result, x, expected = trained("classifier", np.float32)
    np.testing.assert_allclose(result.history["loss"], expected["losses"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.predict(x), expected["evaluated"], rtol=1e-3, atol=1e-4)


def test_losses_of_simple_lines_vanish():
    """As in a first lesson: both nets learn to multiply by 3."""
    for name, least in {"line": 1e-4, "two layers": 1e-6}.items():
        result, x, _ = trained(name, np.float32)
        assert result.history["loss"][-6:].max() < least
        np.testing.assert_allclose(result.predict(x), 3 * x, atol=0.02)


def test_the_stored_runs_are_those_of_torch():
    assert set(stored("networks")) == set(parity.RUNS)
    for name in parity.RUNS:
        for key, array in reference("networks", name).items():
            np.testing.assert_allclose(stored("networks")[name][key], array, rtol=1e-8, atol=1e-10, err_msg=name)


# Modules of flax.nnx.

SWITCHES = {
    "deterministic": False,
    "training": True,
    "train": True,
    "is_training": True,
    "use_running_average": False,
    "inference": False,
    "eval_mode": False,
}


class ByAttribute(nnx.Module):
    """Adds 10 in training."""

    def __init__(self, switch, value):
        self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        self.switch = switch
        setattr(self, switch, value)

    def __call__(self, x):
        trains = getattr(self, self.switch) == SWITCHES[self.switch]
        return self.linear(x) + (10.0 if trains else 0.0)


class ByFlag(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def __call__(self, x, *, train):
        return self.linear(x) + (10.0 if train else 0.0)


class ByDefault(ByFlag):
    def __call__(self, x, deterministic=True):
        return self.linear(x) + (0.0 if deterministic else 10.0)


MODED = {
    **{f"{name}-{value}": (ByAttribute, name, value) for name, value in zip(SWITCHES, itertools.cycle([True, False]))},
    "training-True": (ByAttribute, "training", True),
    "deterministic-False": (ByAttribute, "deterministic", False),
    "flag": (ByFlag,),
    "default": (ByDefault,),
}


@pytest.mark.parametrize("case", MODED)
def test_training_and_evaluation_are_switched(case):
    make, *given = MODED[case]
    net = make(*given)
    before = arrays_of(net)
    plain = np.asarray(net.linear(X))
    result = fit(net, (X, Y), steps=1, validation=(X, Y), optimizer=SGD(0.0))
    np.testing.assert_allclose(result.history["loss"], [mse(plain + 10, Y)], rtol=1e-5)
    np.testing.assert_allclose(result.history["validation_loss"], [mse(plain, Y)], rtol=1e-5)
    np.testing.assert_allclose(result.predict(X), plain, rtol=1e-5)
    if make is not ByFlag:
        np.testing.assert_allclose(result.model(X), plain, rtol=1e-5)
    assert arrays_of(net) == before


class Tied(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(3)
        self.first = nnx.Linear(3, 3, use_bias=False, rngs=rngs)
        self.second = self.first
        self.shift = nnx.Variable(jnp.full((1,), 0.25))

    def __call__(self, x):
        return jnp.sum(self.second(jnp.tanh(self.first(x))), axis=1, keepdims=True) + self.shift[...]


def test_weights_that_are_tied_stay_so_and_constants_stay():
    net = Tied()
    kernel = jnp.asarray(net.first.kernel[...])
    result = fit(net, (X, Y), steps=3, optimizer=SGD(0.1))

    def loss(kernel):
        return jnp.mean((jnp.sum(jnp.tanh(X @ kernel) @ kernel, axis=1, keepdims=True) + 0.25 - Y) ** 2)

    for _ in range(3):
        kernel = kernel - 0.1 * jax.grad(loss)(kernel)
    assert len(leaves(result.params)) == 1
    np.testing.assert_allclose(leaves(result.params)[0], kernel, rtol=1e-5)
    assert result.model.first is result.model.second
    close(result.model_state, {"shift": np.full(1, 0.25, np.float32)}, rtol=0)


class Mixed(nnx.Module):
    """Plain flax layers, noise from a stream of its own, a dict of inputs."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(params=seed, noise=5, dropout=6)
        self.rngs = rngs
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)])
        self.last = nnx.Linear(4, 1, rngs=rngs)
        self.noisy = True
        self.deterministic = None

    def __call__(self, x):
        h = x["a"]
        for layer in self.layers:
            h = layer(h)
        if not self.deterministic:
            h = h + 0.1 * jax.random.normal(self.rngs.noise(), h.shape)
        return self.last(h) + 0 * x["b"][:, None]


def test_a_module_is_left_as_it_was_and_the_result_evaluates():
    net, data = Mixed(), ({"a": X, "b": X[:, 0]}, Y)
    before = arrays_of(net)
    result = fit(net, data, steps=5, validation=data)
    assert arrays_of(net) == before
    state = nnx.to_pure_dict(nnx.state(net, nnx.Param))
    assert jax.tree.map(np.shape, result.params) == jax.tree.map(np.shape, state)
    assert not same(result.params, state)
    assert set(result.model_state["layers"][1]) == {"mean", "var"}
    assert not np.array_equal(result.model_state["layers"][1]["mean"], np.zeros(4))
    assert same(nnx.to_pure_dict(nnx.state(result.model, nnx.Param)), result.params)
    for _ in range(2):
        np.testing.assert_allclose(result.model(data[0]), result.predict(data[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.history["validation_loss"][-1], mse(result.predict(data[0]), Y), rtol=1e-5)
    np.testing.assert_allclose(
        result.predict({"a": X[:1], "b": X[:1, 0]}), result.predict(data[0])[:1], rtol=1e-5, atol=1e-6
    )


def test_a_fit_goes_on_from_params_or_from_a_fitted_model():
    whole = fit(mlp(), (X, Y), steps=6, optimizer=SGD(0.1))
    half = fit(mlp(), (X, Y), steps=3, optimizer=SGD(0.1))
    for options in ({"model": mlp(5), "params": half.params}, {"model": half.model}):
        rest = fit(options.pop("model"), (X, Y), steps=3, optimizer=SGD(0.1), **options)
        close(rest.params, whole.params, rtol=1e-5, atol=1e-7)


def test_statistics_go_on_from_a_fitted_model():
    whole = fit(normed(), (X, Y), steps=6, optimizer=SGD(0.1))
    half = fit(normed(), (X, Y), steps=3, optimizer=SGD(0.1))
    rest = fit(half.model, (X, Y), steps=3, optimizer=SGD(0.1))
    close(rest.params, whole.params, rtol=1e-4, atol=1e-6)
    close(rest.model_state, whole.model_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [12, 5])
def test_predictions_and_validation_in_blocks_are_those_at_once(monkeypatch, size):
    net = mlp(middle=nn.Softplus())
    x = np.concatenate([X, -X])[: size + 11]
    y = np.sin(x[:, :1])
    result = fit(net, (X, Y), steps=2)
    at_once = np.asarray(result.predict(x))
    row = result._network and _forward.look(
        result._network.meaning, result._network.evaluate, None, result.params, result.model_state, x
    )
    monkeypatch.setattr(_forward, "_BLOCK_BYTES", row.row_bytes * 4)
    assert _forward.rows_at_once(row.row_bytes) == 4
    np.testing.assert_allclose(result.predict(x), at_once, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.predict(x[:1]), at_once[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.predict(x[:4]), at_once[:4], rtol=1e-5, atol=1e-6)
    again = fit(net, (X, Y), steps=2, validation=(x, y), metrics={"l1": losses.l1})  # shapes that are new here
    np.testing.assert_allclose(again.history["validation_loss"][-1], mse(at_once, y), rtol=1e-4)
    np.testing.assert_allclose(again.history["validation_l1"][-1], np.mean(np.abs(at_once - y)), rtol=1e-4)


# Modules of flax.linen.


class LinenTrain(linen.Module):
    rate: float = 0.5

    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x))
        return linen.Dense(1)(linen.Dropout(self.rate, deterministic=not train)(x))


class LinenDeterministic(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic=True):
        x = linen.BatchNorm(use_running_average=deterministic)(linen.Dense(4)(x))
        return linen.Dense(1)(linen.Dropout(0.5)(x, deterministic=deterministic))


class LinenField(linen.Module):
    deterministic: bool = True

    def setup(self):
        self.layers = [linen.Dense(4), linen.BatchNorm(use_running_average=self.deterministic), linen.Dense(1)]
        self.dropout = linen.Dropout(0.5, deterministic=self.deterministic)

    def __call__(self, x):
        return self.layers[2](self.dropout(self.layers[1](self.layers[0](x))))


class LinenNotes(linen.Module):
    """Notes down what it computes on its way."""

    @linen.compact
    def __call__(self, x):
        x = linen.Dense(4)(x)
        self.sow("intermediates", "hidden", x)
        return linen.Dense(1)(x)


def evaluated(module, variables, x):
    if isinstance(module, LinenTrain):
        return module.apply(variables, x, train=False)
    return module.apply(variables, x)


@pytest.mark.parametrize("make", [LinenTrain, LinenDeterministic, LinenField])
def test_linen_modules(make):
    module = make()
    result = fit(module, (X, Y), steps=4, key=7, validation=(X, Y))
    again, other = (fit(make(), (X, Y), steps=4, key=key, validation=(X, Y)) for key in (7, 8))
    assert same((result.params, result.model_state), (again.params, again.model_state))
    assert not same(result.start, other.start)
    assert not np.array_equal(result.history["loss"], other.history["loss"])
    assert set(result.model_state) == {"batch_stats"}
    mean, var = (leaves(result.model_state)[i] for i in (0, 1))
    assert np.abs(mean).max() > 1e-4
    assert np.abs(var - 1).max() > 1e-4
    expected = evaluated(module, {"params": result.params, **result.model_state}, X)
    for prediction in (result.predict(X), result.model(X)):
        np.testing.assert_allclose(prediction, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.history["validation_loss"][-1], mse(expected, Y), rtol=1e-5)
    assert module == make()


def test_linen_variables_may_be_given():
    module = LinenTrain(0.0)
    variables = module.init(jax.random.key(3), X, train=False)
    kept = jax.tree.map(np.array, variables)
    results = [
        fit(module, (X, Y), given, steps=3, optimizer=SGD(0.1))
        for given in (variables, flax.core.freeze(variables), jax.tree.map(np.asarray, variables))
    ]
    assert same(variables, kept)
    assert same(results[0].start, kept["params"])
    for result in results[1:]:
        assert same((result.params, result.model_state), (results[0].params, results[0].model_state))
    other = fit(LinenTrain(0.3), (X, Y), variables, steps=3, optimizer=SGD(0.1))
    assert other.history["loss"][0] != results[0].history["loss"][0]
    whole = fit(module, (X, Y), variables, steps=6, optimizer=SGD(0.1))
    rest = fit(module, (X, Y), {"params": results[0].params, **results[0].model_state}, steps=3, optimizer=SGD(0.1))
    close(rest.params, whole.params, rtol=1e-4, atol=1e-6)
    close(rest.model_state, whole.model_state, rtol=1e-5, atol=1e-6)


def test_linen_params_of_an_earlier_result_may_be_given():
    first = fit(linen.Dense(1), (X, Y), steps=3, optimizer=SGD(0.1))
    second = fit(linen.Dense(1), (X, Y), first.params, steps=3, optimizer=SGD(0.1))
    close(second.params, fit(linen.Dense(1), (X, Y), steps=6, optimizer=SGD(0.1)).params, rtol=1e-5, atol=1e-7)


def test_what_a_linen_module_notes_down_is_dropped():
    result = fit(LinenNotes(), (X, Y), steps=3)
    assert result.model_state == {}
    expected = LinenNotes().apply({"params": result.params}, X)
    for prediction in (result.predict(X), result.model(X)):
        np.testing.assert_allclose(prediction, expected, rtol=1e-5, atol=1e-6)


# Dropout, keys and forms of data.


def test_dropout_acts_in_training_alone_and_by_the_key():
    first, again, other = (fit(dropping(), (X, Y), steps=5, key=key, validation=(X, Y)) for key in (0, 0, 1))
    assert same(first.params, again.params)
    np.testing.assert_array_equal(first.history["loss"], again.history["loss"])
    assert first.history["loss"][0] != other.history["loss"][0]
    assert not same(first.params, other.params)
    np.testing.assert_array_equal(first.predict(X), first.predict(X))
    np.testing.assert_allclose(first.model(X), first.predict(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first.history["validation_loss"][-1], mse(first.predict(X), Y), rtol=1e-5)
    still = fit(dropping(), (X, Y), steps=20, optimizer=SGD(0.0))
    assert len(np.unique(still.history["loss"])) == 20  # each step draws anew


def test_dropout_keeps_what_it_should_on_average():
    class Kept(nnx.Module):
        def __init__(self):
            self.scale, self.dropout = nnx.Param(jnp.ones(1)), nn.Dropout(0.25, rngs=nn.Rngs(0))

        def __call__(self, x):
            return self.scale[...] * self.dropout(x)

    ones = np.ones((5000, 1), np.float32)
    total = fit(Kept(), (ones, ones), steps=4, optimizer=SGD(0.0), loss=lambda p, t: jnp.mean(p * t)).history["loss"]
    np.testing.assert_allclose(total, 1, atol=0.05)
    assert len(set(total)) == 4


def test_no_dropout_is_dropout_of_none():
    nets = dropping(p=0.0), mlp(middle=nn.Identity())
    result, expected = (fit(net, (X, Y), epochs=3, batch_size=4) for net in nets)
    assert result.status is Status.COMPLETED
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])
    assert same(result.params, expected.params)


def parts(size=4):
    return [(X[first : first + size], Y[first : first + size]) for first in range(0, 12, size)]


def sampler(key):
    del key
    return jnp.asarray(X), jnp.asarray(Y)


@pytest.mark.parametrize("make", [normed, dropping])
def test_the_same_batches_give_the_same_params_whatever_they_come_from(make):
    expected = fit(make(), (X, Y), epochs=2, batch_size=4, shuffle=False)
    for data, limit in [
        (parts(), {"epochs": 2}),
        ((pair for pair in parts() + parts()), {"steps": 6}),
    ]:
        result = fit(make(), data, **limit)
        assert result.steps == 6
        np.testing.assert_allclose(result.history["loss"], expected.history["loss"], rtol=1e-5)
        close((result.params, result.model_state), (expected.params, expected.model_state), rtol=1e-4, atol=1e-6)
    drawn, whole = fit(make(), sampler, steps=3), fit(make(), (X, Y), steps=3)
    close((drawn.params, drawn.model_state), (whole.params, whole.model_state), rtol=1e-4, atol=1e-6)


def test_streams_have_validation_in_evaluation_mode():
    result = fit(dropping(), parts(), epochs=2, validation=(X, Y), metrics={"l1": losses.l1})
    np.testing.assert_allclose(result.history["validation_loss"][-1], mse(result.predict(X), Y), rtol=1e-5)
    assert result.history["validation_l1"].shape == (2,)


def test_epochs_are_so_many_steps():
    by_epochs = fit(dropping(), (X, Y), epochs=3, batch_size=5, key=2)
    by_steps = fit(dropping(), (X, Y), steps=9, batch_size=5, key=2)
    assert by_epochs.steps == by_steps.steps == 9
    assert same((by_epochs.params, by_epochs.model_state), (by_steps.params, by_steps.model_state))
    np.testing.assert_array_equal(by_epochs.history["loss"], by_steps.history["loss"])


# Params that stay.

START = nnx.to_pure_dict(nnx.state(mlp(), nnx.Param))
FIXED = {
    "layer": ("layers.0", {(0, "bias"), (0, "kernel")}),
    "array": ("layers.0.kernel", {(0, "kernel")}),
    "several": (("layers.0.bias", "layers.2"), {(0, "bias"), (2, "bias"), (2, "kernel")}),
    "tree": ({"layers": {0: True, 2: {"bias": True}}}, {(0, "bias"), (0, "kernel"), (2, "bias")}),
    "function": (lambda path, leaf: path[-1] == "kernel" and leaf.shape[0] == 4, {(2, "kernel")}),
}


@pytest.mark.parametrize("case", FIXED)
def test_what_is_fixed_stays_bit_by_bit(case):
    fixed, stays = FIXED[case]
    seen = []

    def begin(params):
        seen.append(jax.tree.map(jnp.shape, params))
        return optax.EmptyState()

    rule = optax.GradientTransformation(begin, lambda g, s, p: (jax.tree.map(lambda a: -0.1 * a, g), s))
    for optimizer in (Adam(0.1), rule)[: 1 + (case == "several")]:
        result = fit(mlp(), (X, Y), fixed=fixed, steps=3, optimizer=optimizer)
        for layer, name in itertools.product((0, 2), ("bias", "kernel")):
            moved = not np.array_equal(result.params["layers"][layer][name], START["layers"][layer][name])
            assert moved == ((layer, name) not in stays), (layer, name)
            assert np.all(result.fixed["layers"][layer][name]) == ((layer, name) in stays)
        assert same(nnx.to_pure_dict(nnx.state(result.model, nnx.Param)), result.params)
    for tree in seen:  # an optimizer never hears of what stays
        assert len(jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, tuple))) == 4 - len(stays)
    assert bool(seen) == (case == "several")


def test_one_number_of_an_array_may_stay():
    result = fit(mlp(), (X, Y), fixed="0.bias[1]", steps=3)
    moved = result.params["layers"][0]["bias"] != START["layers"][0]["bias"]
    assert moved.tolist() == [True, False, True, True]


def test_fixed_layers_of_linen_and_with_bounds():
    bounds = tuple({"Dense_1": {"bias": side}} for side in (-0.05, 0.06))
    result = fit(LinenTrain(), (X, Y + 3), fixed="Dense_0", steps=4, bounds=bounds)
    assert same(jax.tree.map(np.asarray, result.params["Dense_0"]), result.start["Dense_0"])
    np.testing.assert_allclose(result.params["Dense_1"]["bias"], 0.06, rtol=1e-6)
    assert not np.array_equal(result.params["BatchNorm_0"]["scale"], result.start["BatchNorm_0"]["scale"])


def small(seed=0):
    rngs = nn.Rngs(seed)
    return nn.Sequential(nn.Linear(1, 2, rngs=rngs), nn.Tanh(), nn.Linear(2, 1, rngs=rngs))


LINE_X = np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
LINE_Y = np.tanh(1.5 * LINE_X) - 0.3 + 0.05 * np.random.default_rng(2).normal(size=(40, 1)).astype(np.float32)


def test_levenberg_marquardt_holds_what_is_fixed():
    begun = small()
    result = jf.fit(begun, (LINE_X, LINE_Y), optimizer=LevenbergMarquardt(), fixed="layers.0")
    assert result.status is Status.CONVERGED
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(result.params["layers"][0][name], getattr(begun[0], name)[...])
    hidden = np.tanh(LINE_X @ np.asarray(begun[0].kernel[...], float) + np.asarray(begun[0].bias[...], float))
    best, *_ = np.linalg.lstsq(np.c_[hidden, np.ones(40)], LINE_Y, rcond=None)
    np.testing.assert_allclose(result.params["layers"][2]["kernel"], best[:2], rtol=1e-2)
    errors = result.standard_errors["layers"]
    assert all(np.isfinite(leaf).all() for leaf in leaves(errors[2]))
    assert all(np.isnan(leaf).all() for leaf in leaves(errors[0]))


def test_names_that_are_unknown_and_params_that_all_stay_are_refused():
    for fixed, message in [
        ("layers.0.kernal", r"fixed names 'layers\.0\.kernal', .* did you mean '(layers\.)?0\.kernel'"),
        ({"layers": {1: True}}, r"fixed names 1, which params does not have"),
        ("layers", r"fixed holds all params"),
        (lambda path, leaf: True, r"fixed holds all params"),
        ({"layers": True}, r"fixed holds all params"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(mlp(), (X, Y), fixed=fixed, steps=1)


# Which optimizer.


def test_small_nets_without_chance_are_fitted_with_standard_errors():
    result = jf.fit(small(3), (LINE_X, LINE_Y))
    assert isinstance(result.optimizer, LevenbergMarquardt)
    assert result.status is Status.CONVERGED
    assert result.loss < 0.004
    assert jax.tree.map(np.shape, result.standard_errors) == jax.tree.map(np.shape, result.params)
    assert all((leaf > 0).all() and np.isfinite(leaf).all() for leaf in leaves(result.standard_errors))


@pytest.mark.parametrize("make", [dropping, normed])
def test_nets_with_chance_or_statistics_take_adam(make):
    with pytest.raises(ValueError, match="Adam does not stop by itself: give steps="):
        jf.fit(make(), (X, Y))
    assert jf.fit(make(), (X, Y), steps=2).optimizer == Adam(1e-3)
    what = "draws random numbers" if make is dropping else "changes what it carries, as BatchNorm does,"
    for optimizer in (LevenbergMarquardt(), LBFGS()):
        message = f"{type(optimizer).__name__} compares the loss .* the model, a Sequential, {what} in training"
        with pytest.raises(ValueError, match=message):
            jf.fit(make(), (X, Y), optimizer=optimizer)


def test_lbfgs_fits_a_net():
    result = jf.fit(small(3), (LINE_X, LINE_Y), optimizer=LBFGS(), steps=100)
    assert result.history["loss"][-1] < result.history["loss"][0] / 5


# Half precision in training.


def test_training_in_bfloat16_keeps_params_in_float32():
    # A bias before BatchNorm has no effect, and Adam would carry it wherever rounding points.
    full = fit(normed(), (X, Y), steps=15, optimizer=SGD(0.1))
    half = fit(normed(), (X, Y), steps=15, optimizer=SGD(0.1), compute_dtype=jnp.bfloat16, validation=(X, Y))
    np.testing.assert_allclose(half.history["loss"], full.history["loss"], rtol=0.1)
    assert not np.array_equal(half.history["loss"], full.history["loss"])
    for result in (full, half):
        assert {leaf.dtype for leaf in leaves((result.params, result.model_state))} == {np.dtype(np.float32)}
        assert result.predict(X).dtype == np.float32
    close(half.model_state, full.model_state, rtol=0.1, atol=0.02)
    np.testing.assert_allclose(half.history["validation_loss"][-1], mse(half.predict(X), Y), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "float16"])
def test_functions_are_computed_in_half_precision_too(dtype):
    def model(params, x):
        assert params["a"].dtype == params["b"].dtype == x.dtype
        return jnp.exp(params["a"] * x) + params["b"] + (x.dtype == dtype)  # 1 more in training

    start = {"a": np.float32(0.3), "b": np.float32(0.1)}
    x, y = LINE_X[:, 0], LINE_Y[:, 0]
    half = fit(model, (x, y), start, steps=2, optimizer=SGD(0.1), compute_dtype=dtype, record=("params",))
    full = fit(lambda params, x: model(params, x) + 1, (x, y), start, steps=2, optimizer=SGD(0.1))
    np.testing.assert_allclose(half.history["loss"], full.history["loss"], rtol=0.03)
    assert half.history["loss"][0] != full.history["loss"][0]
    assert {leaf.dtype for leaf in leaves(half.params)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(half.predict(x), model(half.params, x), rtol=1e-6)


def test_integers_stay_integers_in_half_precision():
    tokens = np.arange(24).reshape(12, 2) % 300
    net = nn.Sequential(nn.Embedding(300, 2, rngs=nn.Rngs(0)), nn.Flatten(), nn.Linear(4, 3, rngs=nn.Rngs(0)))
    options = {"steps": 3, "loss": losses.cross_entropy}
    half, full = (fit(net, (tokens, LABELS), compute_dtype=d, **options) for d in (jnp.bfloat16, None))
    np.testing.assert_allclose(half.history["loss"], full.history["loss"], rtol=0.05)


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("bf16", TypeError, r"compute_dtype is a str \('bf16'\); expected a dtype such as jnp\.bfloat16"),
        (3, TypeError, r"compute_dtype is an int \(3\)"),
        ("int8", ValueError, r"compute_dtype is int8; expected a floating-point dtype"),
        (jnp.complex64, ValueError, r"compute_dtype is complex64; expected a floating-point dtype"),
    ],
    ids=str,
)
def test_other_dtypes_are_refused(dtype, error, message):
    with pytest.raises(error, match=message):
        fit(mlp(), (X, Y), steps=1, compute_dtype=dtype)


def test_second_order_optimizers_need_all_digits():
    for model in (small(), lambda params, x: params * x):
        params = None if isinstance(model, nn.Module) else 1.0
        for optimizer in (LevenbergMarquardt(), LBFGS()):
            with pytest.raises(
                ValueError, match=f"compute_dtype gives up digits that {type(optimizer).__name__} needs"
            ):
                jf.fit(model, (LINE_X, LINE_Y), params, optimizer=optimizer, compute_dtype=jnp.bfloat16)


# What compiles.


@pytest.mark.parametrize("make", [mlp, dropping, normed, LinenTrain])
def test_an_equal_net_compiles_nothing(compilations, make):
    is_linen = make is LinenTrain
    options = {"epochs": 2, "batch_size": 4, "validation": (X, Y), "fixed": "Dense_0" if is_linen else "layers.0"}
    first = fit(make(), (X, Y), **options)
    first.predict(X)
    compilations()
    net = make() if is_linen else make(9)
    second = fit(net, (X + 1, 2 * Y), **options | {"optimizer": Adam(0.2), "key": 5})
    assert compilations() == 0
    assert second.compile_seconds == 0
    assert not same(first.params, second.params)
    second.predict(X + 2)
    assert compilations() == 0
    frozen = second.params["Dense_0"] if is_linen else second.params["layers"][0]
    begun = second.start["Dense_0"] if is_linen else second.start["layers"][0]
    assert same(jax.tree.map(np.asarray, frozen), begun)


def test_other_constants_compile_nothing_and_count(compilations):
    def net(shift):
        made = Tied()
        made.shift[...] = jnp.full((1,), shift)
        return made

    first = fit(net(0.0), (X, Y), steps=2, optimizer=SGD(0.0))
    first.predict(X)
    compilations()
    second = fit(net(1.0), (X, Y), steps=2, optimizer=SGD(0.0))
    plain = np.asarray(first.predict(X))
    np.testing.assert_allclose(second.predict(X), plain + 1, rtol=1e-5)
    assert compilations() == 0
    np.testing.assert_allclose(second.history["loss"][0], mse(plain + 1, Y), rtol=1e-5)


def redefined(factor, kind):
    """A class by the same name, whose call says something else."""
    if kind == "nnx":

        class Net(nnx.Module):
            def __init__(self):
                self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

            if factor == 1:

                def __call__(self, x):
                    return self.linear(x)
            else:

                def __call__(self, x):
                    return self.linear(x) * 3

        return Net()

    class Net(linen.Module):
        if factor == 1:

            @linen.compact
            def __call__(self, x):
                return linen.Dense(1)(x)
        else:

            @linen.compact
            def __call__(self, x):
                return linen.Dense(1)(x) * 3

    return Net()


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_class_that_is_written_anew_counts(compilations, kind):
    one = fit(redefined(1, kind), (X, Y), steps=2, optimizer=SGD(0.0))
    prediction = np.asarray(one.predict(X))
    compilations()
    three = fit(redefined(3, kind), (X, Y), steps=2, optimizer=SGD(0.0))
    assert compilations() > 0
    np.testing.assert_allclose(three.predict(X), 3 * prediction, rtol=1e-5)
    np.testing.assert_allclose(three.history["loss"][0], mse(3 * prediction, Y), rtol=1e-5)


class Scaled(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.scaled(self.linear(x))

    def scaled(self, y):
        return FACTOR * y


class ScaledLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return self.scaled(linen.Dense(1)(x))

    def scaled(self, y):
        return FACTOR * y


class Outer(nnx.Module):
    def __init__(self):
        self.inner = Scaled()

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("make", [Scaled, Outer, ScaledLinen])
def test_another_global_counts(monkeypatch, make):
    """Also one that a method or a part of the module refers to."""
    first = fit(make(), (X, Y), steps=2, optimizer=SGD(0.0))
    prediction = np.asarray(first.predict(X))
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    second = fit(make(), (X, Y), steps=2, optimizer=SGD(0.0))
    np.testing.assert_allclose(second.history["loss"][0], mse(2 * prediction, Y), rtol=1e-5)
    np.testing.assert_allclose(second.predict(X), 2 * prediction, rtol=1e-5)


def test_another_activation_or_attribute_counts():
    tanh, relu = (fit(mlp(middle=layer), (X, Y), steps=1, optimizer=SGD(0.0)) for layer in (jnp.tanh, jnp.abs))
    assert tanh.history["loss"][0] != relu.history["loss"][0]
    elus = [fit(mlp(middle=nn.ELU(alpha)), (X, Y), steps=1, optimizer=SGD(0.0)) for alpha in (1.0, 0.1)]
    assert elus[0].history["loss"][0] != elus[1].history["loss"][0]
    assert not np.array_equal(elus[0].predict(X), elus[1].predict(X))


# Convolutions.

SIGNALS = RANDOM.normal(size=(5, 12, 4)).astype(np.float32)
IMAGES = RANDOM.normal(size=(5, 7, 6, 4)).astype(np.float32)
CONVOLUTIONS = {
    "1d": (1, {"window_strides": (1,), "padding": "VALID"}),
    "1d stride dilation": (1, {"window_strides": (2,), "padding": [(2, 1)], "rhs_dilation": (3,)}),
    "1d groups": (1, {"window_strides": (1,), "padding": "SAME", "feature_group_count": 2}),
    "2d same": (2, {"window_strides": (1, 1), "padding": "SAME"}),
    "2d stride": (2, {"window_strides": (2, 3), "padding": [(1, 0), (0, 2)]}),
    "2d groups dilation": (
        2,
        {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1), "feature_group_count": 4},
    ),
    "2d transposed": (2, {"window_strides": (1, 1), "padding": [(1, 1), (1, 1)], "lhs_dilation": (2, 2)}),
}
ORDERS = {1: {"first": ("NCH", "OIH", "NCH"), "last": ("NHC", "HIO", "NHC")}}
ORDERS[2] = {"first": ("NCHW", "OIHW", "NCHW"), "last": ("NHWC", "HWIO", "NHWC")}


def convolving(case, order="first", around=lambda function: function):
    """A model with two convolutions, its starting params and x."""
    rank, options = CONVOLUTIONS[case]
    numbers = ORDERS[rank][order]
    x = SIGNALS if rank == 1 else IMAGES
    x = np.moveaxis(x, -1, 1) if order == "first" else x
    groups = options.get("feature_group_count", 1)
    random = np.random.default_rng(1)
    place = {"H": 3, "W": 2, "I": 4 // groups, "O": 4}
    second = {"H": 1, "W": 2, "I": 4, "O": 3}
    kernels = [random.normal(size=[sizes[axis] for axis in numbers[1]]) for sizes in (place, second)]

    def first(x, kernel):
        return jax.nn.relu(lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options))

    def model(params, x):
        x = around(first)(x, params[0])
        x = lax.conv_general_dilated(x, params[1], (1,) * rank, "SAME", dimension_numbers=numbers)
        return jnp.mean(jnp.sin(x), axis=tuple(range(1, rank + 2)))

    return model, [0.3 * kernel.astype(np.float32) for kernel in kernels], x


def by_hand(model, params, x, y, steps, rate):
    step = quick(jax.value_and_grad(lambda params: jnp.mean((model(params, x) - y) ** 2)))
    found = []
    for _ in range(steps):
        value, gradient = step(params)
        found.append(float(value))
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
    return found, params


def check_by_hand(model, start, x):
    y = np.linspace(0, 1, 5, dtype=np.float32)
    result = jf.fit(model, (x, y), start, optimizer=SGD(0.5), steps=3)
    found, params = by_hand(model, start, x, y, 3, 0.5)
    np.testing.assert_allclose(result.history["loss"], found, rtol=1e-4)
    close(result.params, params, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case not in ("1d", "2d same")])
def test_convolutions_take_the_steps_of_a_plain_loop(case):
    check_by_hand(*convolving(case, "first" if CONVOLUTIONS[case][0] == 2 else "last"))


def custom_derivative(function):
    wrapped = jax.custom_vjp(function)

    def forward(x, kernel):
        return jax.vjp(function, x, kernel)

    wrapped.defvjp(forward, lambda pull, cotangent: pull(cotangent))
    return wrapped


def in_a_loop(function):
    return lambda x, kernel: lax.map(lambda row: function(row[None], kernel)[0], x)


AROUND = {"remat of jit": lambda f: jax.checkpoint(jax.jit(f))}
AROUND |= {"custom_vjp": custom_derivative, "loop": in_a_loop}


@pytest.mark.parametrize("around", AROUND)
def test_convolutions_inside_other_programs(around):
    model, start, x = convolving("2d stride", around=AROUND[around])
    check_by_hand(model, start, x)
    both = quick(lambda start, x: (_convolutions.in_order(model)(start, x), model(start, x)))
    np.testing.assert_allclose(*both(start, x), rtol=1e-4, atol=1e-5)


def all_convolutions(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            yield equation
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from all_convolutions(inner)


@pytest.mark.parametrize(("case", "order"), [*((case, "first") for case in CONVOLUTIONS), ("2d stride", "last")])
def test_all_convolutions_are_in_the_order_that_is_fast(case, order):
    model, start, x = convolving(case, order, jax.jit)
    gradient = jax.value_and_grad(lambda params, x: jnp.sum(model(params, x) ** 2), argnums=(0, 1))
    jaxpr = jax.make_jaxpr(_convolutions.in_order(gradient))(start, x).jaxpr
    found = list(all_convolutions(jaxpr))
    assert len(found) >= 4  # gradients of filters may be products of matrices
    last = CONVOLUTIONS[case][0] + 1
    space = tuple(range(1, last))
    fast = ((0, last, *space), (last, last - 1, *range(last - 1)), (0, last, *space))
    assert {tuple(map(tuple, equation.params["dimension_numbers"])) for equation in found} == {fast}


def test_in_order_leaves_what_does_not_convolve_alone():
    def function(tree):
        return {"a": tree["b"] * 2, "c": 3.0}

    found = _convolutions.in_order(function)({"b": jnp.ones(2)})
    assert found["c"] == 3.0
    assert found["a"].tolist() == [2, 2]


# What is refused, and what is warned of.


def classifier(last=(), out=3):
    return mlp(out=out, last=last)


WRONG_LABELS = np.where(np.arange(12) == 5, 3, LABELS)
CLASSES = {"loss": losses.cross_entropy, "steps": 2}
IGNORING_7 = functools.partial(losses.cross_entropy, ignore_index=7)
OUT_OF_RANGE = r"the label {} at \[{}\], 1 of {} out of range; the model predicts 3 classes, so labels go from 0 to 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": (X, WRONG_LABELS)}, "y has " + OUT_OF_RANGE.format(3, 5, 12)),
        ({"data": (X, WRONG_LABELS), "batch_size": 4}, "y has " + OUT_OF_RANGE.format(3, 5, 12)),
        ({"data": (X, LABELS - 1)}, r"y has the label -1 at \[0\], 4 of 12 out of range"),
        ({"validation": (X[:6], WRONG_LABELS[:6])}, "y of validation has " + OUT_OF_RANGE.format(3, 5, 6)),
        ({"data": [(X[:8], WRONG_LABELS[:8]), (X, LABELS)]}, "y of batch 0 has " + OUT_OF_RANGE.format(3, 5, 8)),
        ({"data": (X, WRONG_LABELS), "loss": losses.nll, "model": classifier([nn.LogSoftmax()])}, "y has the label 3"),
        (
            {
                "data": (X, np.where(LABELS == 0, -100, 1)),
                "loss": functools.partial(losses.cross_entropy, ignore_index=7),
            },
            "y has the label -100",
        ),
    ],
    ids=["data", "batches", "negative", "validation", "stream", "nll", "other index"],
)
def test_labels_out_of_range_are_named(options, message):
    options = {"model": classifier(), "data": (X, LABELS), **CLASSES} | options
    with pytest.raises(ValueError, match=message):
        fit(**options)


def test_labels_that_are_no_integers_are_named():
    with pytest.raises(
        TypeError, match=r"y is float32\[12\]; cross_entropy takes integer labels from 0 to 2: .*astype"
    ):
        fit(classifier(), (X, LABELS.astype(np.float32)), **CLASSES)
    with pytest.raises(TypeError, match=r"y of validation is float32\[12\]"):
        fit(classifier(), (X, LABELS), validation=(X, LABELS.astype(np.float32)), **CLASSES)


def test_pure_functions_have_their_labels_checked_too():
    with pytest.raises(ValueError, match=r"y has the label 3 at \[5\]"):
        fit(lambda params, x: x @ params, (X, WRONG_LABELS), np.zeros((3, 3), np.float32), **CLASSES)


def test_labels_that_are_ignored_pass():
    marked = np.where(np.arange(12) < 4, -100, LABELS)
    result = fit(classifier(), (X, marked), **CLASSES)
    rest = fit(classifier(), (X[4:], LABELS[4:]), **CLASSES)
    np.testing.assert_allclose(result.history["loss"], rest.history["loss"], rtol=1e-5)
    own = functools.partial(losses.cross_entropy, ignore_index=9)
    other = fit(classifier(), (X, np.where(np.arange(12) < 4, 9, LABELS)), loss=own, steps=2)
    np.testing.assert_allclose(other.history["loss"], rest.history["loss"], rtol=1e-5)


def test_probabilities_as_targets_pass():
    result = fit(classifier(), (X, np.eye(3, dtype=np.float32)[LABELS]), **CLASSES)
    plain = fit(classifier(), (X, LABELS), **CLASSES)
    np.testing.assert_allclose(result.history["loss"], plain.history["loss"], rtol=1e-5)


def softmax_function(params, x):
    return jax.nn.softmax(x @ params, axis=-1)


SQUARE = np.eye(3, dtype=np.float32)
BINARY = {"loss": losses.binary_cross_entropy_with_logits, "data": (X, (Y > 0).astype(np.float32))}


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({"model": classifier([nn.Softmax(-1)])}, "Softmax"),
        ({"model": classifier([jax.nn.softmax])}, "Softmax"),
        ({"model": softmax_function, "params": SQUARE}, "Softmax"),
        ({"model": classifier([nn.Softmax(-1)]), "data": [(X, LABELS)] * 2}, "Softmax"),
        ({"model": classifier([nn.LogSoftmax()])}, None),
        ({"model": classifier()}, None),
        ({"model": classifier([nn.Softmax(-1), lambda p: p * 5])}, None),
        ({"model": lambda params, x: jax.nn.log_softmax(x @ params), "params": SQUARE}, None),
        ({"model": lambda params, x: x @ params / 2.0, "params": SQUARE}, None),
        ({"model": classifier([nn.Softmax(-1)]), "loss": losses.mse, "data": (X, SQUARE[LABELS])}, None),
        ({"model": mlp(last=[nn.Sigmoid()]), **BINARY}, "Sigmoid"),
        ({"model": lambda p, x: jax.nn.sigmoid(x @ p), "params": SQUARE[:, :1], **BINARY}, "Sigmoid"),
        ({"model": mlp(), **BINARY}, None),
        ({"model": mlp(last=[nn.Sigmoid()]), **BINARY, "loss": losses.binary_cross_entropy}, None),
    ],
    ids=[
        "module", "function in a module", "function", "stream", "LogSoftmax", "logits", "scaled", "log function",
        "quotient", "mse", "Sigmoid", "sigmoid function", "binary logits", "binary probabilities",
    ],
)  # fmt: skip
def test_a_step_that_the_loss_takes_by_itself_is_warned_of(options, ending):
    options = {"data": (X, LABELS), **CLASSES} | options
    if ending is None:
        fit(**options)  # warnings are errors here
        return
    with pytest.warns(FitWarning, match=f"The model ends in {ending}, and .* Leave {ending} out of the model"):
        fit(**options)


class Wrong(nnx.Module):
    def __init__(self):
        self.inner = nnx.List([nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(5, 1, rngs=nnx.Rngs(0))])

    def __call__(self, x):
        for layer in self.inner:
            x = layer(x)
        return x


class WrongLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1, name="last")(linen.Dense(4, name="first")(x) @ jnp.ones((5, 5)))


class WrongInside(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Conv(2, (3, 3, 3), name="convolution")(x[0])


class Fold(linen.Module):
    def __call__(self, x):
        return x


VALUE, TYPE = ValueError, TypeError
REFUSED = {
    "no params": (VALUE, r"model is a Sequential without params, so there is nothing to fit", nn.Sequential(nn.ReLU())),
    "no layers": (VALUE, r"model is a Fold without params, so there is nothing to fit", Fold()),
    "a class": (TYPE, r"model is the class Linear", nn.Linear),
    "a class of linen": (TYPE, r"model is the class Dense", linen.Dense),
    "a nn layer": (VALUE, r"in its layer (layers\.|\[)?2\]?, a Linear, on float32\[12, 3\]: "
                   r".*Linear\(in_features=5, .* takes x \[\.\.\., 5\]; x has shape \(12, 4\)",
                   nn.Sequential(nn.Linear(3, 4, rngs=nn.Rngs(0)), nn.ReLU(), nn.Linear(5, 1, rngs=nn.Rngs(0)))),
    "a nn net": (VALUE, r"Linear\(in_features=4, .* x has shape \(12, 3\)", nn.Linear(4, 1, rngs=nn.Rngs(0))),
    "a plain layer": (TYPE, r"in its layer inner\.1, a Linear, on float32\[12, 3\]: .*\(4,\) and \(5,\)", Wrong()),
    "a plain net": (TYPE, r"fails on float32\[12, 3\]: .*\(3,\) and \(2,\)", nnx.Linear(2, 1, rngs=nnx.Rngs(0))),
    "linen": (TYPE, r"model.* fails on .*float32\[1, 3\].*: ", WrongLinen()),
    "a linen layer": (VALUE, r"in its layer convolution, a Conv, on", WrongInside()),
    "uncallable": (TYPE, r"model is a Bare", type("Bare", (nnx.Module,), {})()),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_do_not_fit_are_refused(case):
    error, message, model = REFUSED[case]
    with pytest.raises(error, match=message) as raised:
        fit(model, (X, Y), steps=2)
    if not case.startswith("a class") and case != "uncallable":
        assert "model(params, x)" not in str(raised.value)  # nobody calls a module like that


def test_linen_variables_of_another_width_name_the_layer():
    variables = LinenTrain().init(jax.random.key(0), X[:, :2], train=False)
    with pytest.raises(ValueError, match=r"in its layer Dense_0, a Dense, on float32\[12, 3\]"):
        fit(LinenTrain(), (X, Y), variables, steps=1)


def test_params_that_do_not_fit_a_module_are_refused():
    other = fit(mlp(middle=nn.ReLU(), out=3), (X, LABELS), **CLASSES).params
    for given in (other, {"a": X}, X, {"layers": {}}):
        with pytest.raises(ValueError, match=r"params is .*; expected the structure and shapes of the model's own"):
            fit(mlp(), (X, Y), given, steps=1)
    dense = linen.Dense(1).init(jax.random.key(0), X)
    for given in ({"batch_stats": dense["params"]}, X):
        with pytest.raises(ValueError, match=r"params is .*; expected the structure and shapes of the model's own"):
            fit(linen.Dense(1), (X, Y), given, steps=1)
    with pytest.raises((ValueError, TypeError), match=r"params.*nan"):
        fit(mlp(), (X, Y), jax.tree.map(lambda a: a * np.nan, START), steps=1)


def test_layers_without_random_numbers_are_refused():
    for make in (lambda: nn.Linear(3, 1), lambda: nn.Dropout(0.5), lambda: nn.Embedding(3, 1)):
        with pytest.raises(TypeError, match=r"rngs is missing; give rngs=jaxfit\.nn\.Rngs\(0\)"):
            make()


def confusion(prediction, target):
    return jnp.zeros((3, 3), int).at[target, jnp.argmax(prediction, 1)].add(1)


def test_metrics_may_be_arrays():
    options = {"loss": losses.cross_entropy, "epochs": 3, "metrics": {"confusion": confusion}}
    result = fit(classifier(), (X, LABELS), **options)
    validated = fit(classifier(), (X, LABELS), validation=(X[:7], LABELS[:7]), **options)
    streamed = fit(
        classifier(),
        [(X[:5], LABELS[:5]), (X[5:10], LABELS[5:10])],
        validation=(X, LABELS),
        **options,
    )
    for found, rows in (
        (result.history["confusion"], 12),
        (validated.history["validation_confusion"], 7),
        (streamed.history["validation_confusion"], 12),
    ):
        assert found.shape == (3, 3, 3)
        np.testing.assert_array_equal(found.sum((1, 2)), [rows] * 3)
    np.testing.assert_array_equal(result.history["confusion"][-1], confusion(result.predict(X), LABELS))


def test_a_last_batch_of_one_sample_is_told_to_a_batch_norm():
    data = np.concatenate([X, X[:1]]), np.concatenate([Y, Y[:1]])
    message = r"^model.* fails in its layer (layers\.|\[)?1\]?, a BatchNorm1d, .*one number for each"
    with pytest.raises(ValueError, match=message):
        fit(normed(), data, epochs=1, batch_size=4)


# What else a module may be.


class Counting(nnx.Module):
    """Counts its steps."""

    def __init__(self):
        self.linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        self.count = nnx.Variable(jnp.zeros((), jnp.int32))
        self.calls = 0

    def __call__(self, x):
        self.count[...] = self.count[...] + 1
        self.calls += 1
        return self.linear(x)


def test_what_a_module_counts_is_carried():
    net = Counting()
    result = fit(net, (X, Y), steps=7, compute_dtype=jnp.bfloat16)
    assert result.model_state["count"] == 7
    assert result.model_state["count"].dtype == np.int32
    assert (int(net.count[...]), net.calls) == (0, 0)


class Wrapped(nnx.Module):
    """Two inputs and two outputs, under transformations of flax's own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm, self.linear = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        return self.inner(*x)

    @nnx.remat
    def inner(self, x, mask):
        y = self.linear(self.dropout(self.norm(x))) * mask
        return {"column": y, "row": y[:, 0]}


def test_modules_of_several_inputs_and_outputs_under_flax_transformations():
    net, x = Wrapped(), (X, np.ones((12, 1), np.float32))
    before = arrays_of(net)
    result = fit(net, (x, {"column": Y, "row": Y[:, 0]}), steps=3)
    assert arrays_of(net) == before
    found = result.predict(x)
    np.testing.assert_array_equal(found["column"][:, 0], found["row"])
    close(result.model(x), found, rtol=1e-5, atol=1e-6)
    assert np.abs(result.model_state["norm"]["mean"]).max() > 0


def test_weights_go_with_the_samples_of_a_net():
    weights = (np.arange(12) < 7).astype(np.float32)
    some, few = fit(mlp(), (X, Y), weights=weights, steps=3), fit(mlp(), (X[:7], Y[:7]), steps=3)
    np.testing.assert_allclose(some.history["loss"], few.history["loss"], rtol=1e-5)
    close(some.params, few.params, rtol=1e-3, atol=1e-5)


# Inside functions that JAX transforms.


def test_fits_of_a_net_from_many_starts_under_vmap():
    net = normed()
    seeds = [nnx.to_pure_dict(nnx.state(normed(seed), nnx.Param)) for seed in (1, 2, 3)]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *seeds)
    together = jax.vmap(lambda params: fit(net, (X, Y), params, steps=4, optimizer=SGD(0.1)).params)(stacked)
    for index, seed in enumerate(seeds):
        alone = fit(net, (X, Y), seed, steps=4, optimizer=SGD(0.1)).params
        close(row(together, index), alone, rtol=1e-3, atol=1e-5)


def test_fits_of_a_net_to_many_data_under_jit_and_vmap():
    net, targets = dropping(), jnp.stack([Y, 2 * Y])
    together = quick(jax.vmap(lambda y: fit(net, (X, y), steps=3).params))(targets)
    for index in range(2):
        alone = fit(dropping(), (X, np.asarray(targets[index])), steps=3)
        close(row(together, index), alone.params, rtol=1e-4, atol=1e-6)


def test_nets_that_are_made_inside_vmap():
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(lambda key: fit(dropping(key), (X, Y), steps=3, key=key).params)(keys)
    for index in range(2):
        alone = fit(dropping(keys[index]), (X, Y), steps=3, key=keys[index]).params
        close(row(together, index), alone, rtol=1e-4, atol=1e-6)


def test_linen_nets_are_initialised_inside_vmap():
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(lambda key: fit(linen.Dense(1), (X, Y), steps=3, key=key).params)(keys)
    for index in range(2):
        alone = fit(linen.Dense(1), (X, Y), steps=3, key=keys[index]).params
        close(row(together, index), alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["plain", "batch norm", "fixed", "average"])
def test_a_traced_fit_is_the_fit(case):
    make = normed if case == "batch norm" else mlp
    fixed = "layers.0" if case == "fixed" else None
    rule = SGD(0.1, ema_decay=0.8) if case == "average" else SGD(0.1)

    def run(y):
        result = fit(make(), (X, y), steps=4, optimizer=rule, fixed=fixed)
        return result.params, result.predict(X)

    (params, prediction), (expected, predicted) = quick(run)(Y), run(Y)
    close(params, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(prediction, predicted, rtol=1e-4, atol=1e-5)
