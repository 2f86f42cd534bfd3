"""Networks: torch's values and gradients, starting values, modes, what is printed, and what bad input gets."""

import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import parity_nn
from jaxfit import nn
from jaxfit._compile import HASTY
from reference import HAVE_TORCH, reference, stored

CASES = parity_nn.table()

# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


def merged(graphdef, *states):
    """A network of its own: flax's merge alone takes the state's variables, which the trace around may have made."""
    return nnx.merge(graphdef, *jax.tree.map(lambda array: array, states))


# One block of each kind, with an input.
BLOCKS = {
    "AvgPool2d": (lambda rngs: nn.AvgPool2d(2), (2, 4, 4, 3)),
    "BatchNorm1d": (lambda rngs: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm2d": (lambda rngs: nn.BatchNorm2d(3), (2, 4, 4, 3)),
    "Conv1d": (lambda rngs: nn.Conv1d(3, 2, 3, padding=1, rngs=rngs), (2, 6, 3)),
    "Conv2d": (lambda rngs: nn.Conv2d(3, 2, 3, padding="same", rngs=rngs), (2, 4, 4, 3)),
    "Dropout": (lambda rngs: nn.Dropout(0.3, rngs=rngs), (5, 3)),
    "ELU": (lambda rngs: nn.ELU(), (5, 3)),
    "Embedding": (lambda rngs: nn.Embedding(4, 3, padding_idx=1, rngs=rngs), (2, 3)),
    "Flatten": (lambda rngs: nn.Flatten(), (2, 3, 4)),
    "GELU": (lambda rngs: nn.GELU(), (5, 3)),
    "Identity": (lambda rngs: nn.Identity(), (5, 3)),
    "LayerNorm": (lambda rngs: nn.LayerNorm((2, 3)), (5, 2, 3)),
    "LeakyReLU": (lambda rngs: nn.LeakyReLU(), (5, 3)),
    "Linear": (lambda rngs: nn.Linear(3, 2, rngs=rngs), (5, 3)),
    "LogSoftmax": (lambda rngs: nn.LogSoftmax(), (5, 3)),
    "MaxPool2d": (lambda rngs: nn.MaxPool2d(2), (2, 4, 4, 3)),
    "ReLU": (lambda rngs: nn.ReLU(), (5, 3)),
    "Sequential": (lambda rngs: nn.Sequential(nn.Linear(3, 2, rngs=rngs), jnp.tanh), (5, 3)),
    "SiLU": (lambda rngs: nn.SiLU(), (5, 3)),
    "Sigmoid": (lambda rngs: nn.Sigmoid(), (5, 3)),
    "Softmax": (lambda rngs: nn.Softmax(), (5, 3)),
    "Softplus": (lambda rngs: nn.Softplus(), (5, 3)),
    "Tanh": (lambda rngs: nn.Tanh(), (5, 3)),
}


def given(name):
    """An input for a block."""
    x = np.random.default_rng(0).normal(size=BLOCKS[name][1]).astype(np.float32)
    return np.abs(x).astype(np.int32) if name == "Embedding" else x


@functools.cache
def built(name, seed=0):
    """A block of a kind as it starts; nothing here changes it but its own calls."""
    return BLOCKS[name][0](nn.Rngs(seed))


@functools.cache
def abstract(make):
    """A layer without arrays: its shapes are enough for what is printed and refused."""
    return nnx.eval_shape(lambda: make(nn.Rngs(0)))


def test_the_public_names():
    others = {"Module", "Rngs", "from_torch", "parameters", "summary", "to_torch"}
    assert set(nn.__all__) == BLOCKS.keys() | others
    assert nn.Rngs is nnx.Rngs
    assert set(nn.__all__) <= set(dir(nn))


# Torch's layout and ours.


def last(array, case):
    """Channels last, where a case has channels and enough axes for it to matter."""
    axis = {"Conv": 1, "MaxPool": 1, "AvgPool": 1, "BatchNorm": 1}.get(re.sub(r"[12]d$", "", case.layer))
    return array if axis is None or array.ndim < 3 else np.moveaxis(array, axis, -1)


def our_name(case, name):
    ours = {"Embedding": "embedding", "LayerNorm": "scale", "BatchNorm1d": "scale", "BatchNorm2d": "scale"}
    return ours.get(case.layer, "kernel") if name == "weight" else name


def our_weight(array, case, name):
    """Kernels have their axes in the other order; in convolutions the spatial ones keep theirs."""
    if our_name(case, name) != "kernel":
        return array
    return np.moveaxis(array, (1, 0), (-2, -1))


def inputs(case):
    return [last(x, case) for x in case.x] if case.layer.startswith("BatchNorm") else [last(case.x, case)]


def of_case(case):
    options = {"param_dtype": jnp.float64} if case.weights or "Norm" in case.layer else {}
    make = functools.partial(getattr(nn, case.layer), **case.arguments, **options)
    if case.layer in ("Conv1d", "Conv2d", "Embedding", "Linear"):  # shapes alone: random weights would be overwritten
        layer = nnx.eval_shape(lambda: make(rngs=nn.Rngs(0)))
    else:
        layer = make()
    for name, array in case.weights.items():
        variable, weight = getattr(layer, our_name(case, name)), jnp.asarray(our_weight(array, case, name))
        assert (variable.shape, variable.dtype) == (weight.shape, weight.dtype)
        variable.set_value(weight)
    return layer


def run(case, graphdef, params, rest, batches):
    """Value and gradients, and what `by_torch` tells of batch normalisation."""

    def value(params, x, rest):
        layer = merged(graphdef, params, rest)
        values = layer(x)
        weight = jnp.asarray(last(parity_nn.cotangent(reference("nn", case.name)["value"].shape), case))
        return jnp.sum(values * weight), (values, nnx.state(layer, nnx.Not(nnx.Param)))

    differentiable = jnp.issubdtype(batches[0].dtype, jnp.floating)
    wanted = (0, 1) if differentiable else (0,)
    slopes, (values, kept) = jax.grad(value, wanted, has_aux=True)(params, batches[0], rest)
    found = {"value": values, **({"grad_x": slopes[1]} if differentiable else {})}
    found |= {f"grad_{name}": slopes[0][our_name(case, name)].get_value() for name in case.weights}
    if len(batches) > 1:
        layer = merged(graphdef, params, kept)
        layer(batches[1])
        found |= {"mean": layer.mean[...], "var": layer.var[...]}
        found["evaluated"] = nnx.view(layer, use_running_average=True)(batches[2])
    return found


@functools.cache
def computed():
    """Values and gradients of all cases, compiled as one program: many small ones take far longer."""
    with jax.enable_x64(True):
        split = {name: nnx.split(of_case(case), nnx.Param, ...) for name, case in CASES.items()}
        graphdefs = {name: parts[0] for name, parts in split.items()}

        def everything(states, batches):
            return {name: run(case, graphdefs[name], *states[name], batches[name]) for name, case in CASES.items()}

        states = {name: parts[1:] for name, parts in split.items()}
        found = quick(everything)(states, {name: inputs(case) for name, case in CASES.items()})
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name):
    case, ours, theirs = CASES[name], computed()[name], reference("nn", name)
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        weight = key.removeprefix("grad_")
        expected = our_weight(array, case, weight) if weight in case.weights else last(array, case)
        np.testing.assert_allclose(ours[key], expected, rtol=1e-10, atol=1e-12, err_msg=key, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_stored_values_are_those_of_torch(name):
    if HAVE_TORCH:
        for key, array in stored("nn")[name].items():
            live = reference("nn", name)[key]
            np.testing.assert_allclose(live, array, rtol=1e-10, atol=1e-12, err_msg=key, strict=True)
    else:
        assert stored("nn")[name].keys() == computed()[name].keys()


def test_every_block_has_cases():
    without = {"Dropout", "Sequential"}
    assert {case.layer for case in CASES.values()} == BLOCKS.keys() - without


# What holds for every block.


@functools.cache
def everything_of_blocks():
    """Values, derivatives along a direction and values of two networks at once, as one program."""
    split = {name: [nnx.split(built(name, seed)) for seed in (0, 1)] for name in BLOCKS}

    def one(name, states, x):
        def value(x, state):
            return merged(split[name][0][0], state)(x)

        found = {"value": value(x, states[0])}
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)
        if jax.tree.leaves(stacked) and name != "Dropout":
            found["both"] = jax.vmap(value, (None, 0))(x, stacked)
            found["each"] = [value(x, state) for state in states]
        if name != "Embedding":
            total = lambda x, state: jnp.sum(jnp.sin(value(x, state)))
            found["along"] = jnp.sum(jax.grad(total)(x, states[0]) * jnp.cos(x))
            found["tangent"] = jax.jvp(lambda x: total(x, states[0]), (x,), (jnp.cos(x),))[1]
        return found

    states = {name: [state for _, state in pairs] for name, pairs in split.items()}
    return quick(lambda states: {name: one(name, states[name], given(name)) for name in BLOCKS})(states)


@pytest.mark.parametrize("name", BLOCKS)
def test_two_of_a_kind_have_one_structure(name):
    first, second = nnx.split(built(name))[0], nnx.split(built(name, 1))[0]
    assert first == second
    assert hash(first) == hash(second)
    if name != "Sequential":  # which holds a function
        assert pickle.loads(pickle.dumps(first)) == second


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_key_gives_the_same_weights(name):
    arrays, again, others = (nn.parameters(net) for net in (built(name), BLOCKS[name][0](nn.Rngs(0)), built(name, 1)))
    assert arrays.keys() == again.keys() == others.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(array, again[path])
        assert "Norm" in name or (array != others[path]).any()


@pytest.mark.parametrize("name", BLOCKS)
def test_jit_is_plain(name):
    compiled = everything_of_blocks()[name]["value"]
    plain = BLOCKS[name][0](nn.Rngs(0))(given(name))
    np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)
    assert plain.dtype == jnp.float32


@pytest.mark.parametrize(
    "name", [name for name in BLOCKS if re.match("BatchNorm|Conv|Embed|LayerNorm|Linear|Seq", name)]
)
def test_vmap_over_networks_is_a_loop(name):
    found = everything_of_blocks()[name]
    np.testing.assert_allclose(found["both"], jnp.stack(found["each"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - {"Embedding"}))
def test_tangents_agree_with_gradients(name):
    found = everything_of_blocks()[name]
    np.testing.assert_allclose(found["along"], found["tangent"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_arrays_may_be_abstract(name):
    layer = abstract(BLOCKS[name][0])
    assert repr(layer) == repr(built(name))
    x = given(name)
    assert nn.summary(layer, jax.ShapeDtypeStruct(x.shape, x.dtype)) == nn.summary(built(name), x)


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "Conv2d", "LayerNorm", "BatchNorm1d", "BatchNorm2d", "Embedding"])
def test_dtypes_are_passed_on(name):
    arguments = {"Linear": (3, 2), "Conv1d": (3, 2, 1), "Conv2d": (3, 2, 1), "Embedding": (9, 2)}.get(name, (3,))

    def make(rngs):
        options = {} if "Norm" in name else {"rngs": rngs}
        return getattr(nn, name)(*arguments, **options, dtype=jnp.bfloat16, param_dtype=jnp.float16)

    graphdef, state = nnx.split(abstract(make))
    assert {array.dtype for array in nn.parameters(abstract(make)).values()} == {jnp.dtype("float16")}
    x = jnp.ones((5, 3)) if name == "LayerNorm" else given(name)
    assert jax.eval_shape(lambda state: merged(graphdef, state)(x), state).dtype == jnp.bfloat16


# Starting values.


def test_starting_values_are_distributed_as_those_of_torch():
    @quick
    def started():
        rngs = nn.Rngs(0)
        layers = {
            100: nn.Linear(100, 400, rngs=rngs),
            60: nn.Conv1d(20, 400, 3, rngs=rngs),
            45: nn.Conv2d(10, 400, (3, 3), groups=2, rngs=rngs),
        }
        table = nn.Embedding(300, 100, padding_idx=-1, rngs=rngs)
        return {fan_in: nn.parameters(layer) for fan_in, layer in layers.items()}, table.embedding[...]

    layers, table = jax.tree.map(np.asarray, started())
    for fan_in, arrays in layers.items():
        bound = 1 / np.sqrt(fan_in)
        assert [*arrays] == ["bias", "kernel"]  # sorted by jit
        for array in arrays.values():
            assert 0.95 * bound < np.max(np.abs(array)) <= bound
            assert abs(np.mean(array)) < 0.1 * bound
            np.testing.assert_allclose(np.var(array), bound**2 / 3, rtol=0.15)
    np.testing.assert_allclose([np.mean(table[:-1]), np.var(table[:-1])], [0, 1], atol=0.03)
    assert not table[-1].any()
    assert table[:-1].any(1).all()


def test_norms_start_with_constants():
    layer = nn.BatchNorm2d(3)
    constants = {name: getattr(layer, name)[...].tolist() for name in ("scale", "bias", "mean", "var")}
    assert constants == {"scale": [1, 1, 1], "bias": [0, 0, 0], "mean": [0, 0, 0], "var": [1, 1, 1]}
    assert nn.parameters(nn.LayerNorm(3, elementwise_affine=False)) == {}
    assert [*nn.parameters(nn.LayerNorm(3, bias=False))] == ["scale"]
    assert nn.parameters(nn.BatchNorm1d(3, affine=False)) == {}


def test_layers_of_one_network_start_differently():
    rngs = nn.Rngs(0)
    first, second = nn.Linear(3, 4, rngs=rngs), nn.Linear(3, 4, rngs=rngs)
    assert not jnp.allclose(first.kernel[...], second.kernel[...])
    assert not jnp.allclose(first.kernel[0], first.bias[...])


# Modes.


def test_dropout_drops_its_share_and_scales_the_rest():
    layer = nn.Dropout(0.3, rngs=nn.Rngs(0))
    x = np.ones((200, 200), np.float32)
    first, second = layer(x), layer(x)
    for y in map(np.asarray, (first, second)):
        np.testing.assert_allclose(np.mean(y == 0), 0.3, atol=0.01)
        np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    assert (first != second).any()
    np.testing.assert_array_equal(nn.Dropout(0.3, rngs=nn.Rngs(0))(x), first)
    np.testing.assert_array_equal(nnx.view(layer, deterministic=True)(x), x)
    np.testing.assert_array_equal(layer(x, deterministic=True), x)
    assert layer(x).min() == 0  # the view has changed nothing here
    np.testing.assert_array_equal(layer.eval()(x), x)
    assert layer.train()(x).min() == 0


@pytest.mark.parametrize(("p", "kept"), [(0, 1.0), (1, 0.0)])
def test_dropout_of_nothing_and_of_everything(p, kept):
    x = jnp.arange(1.0, 5.0)
    layer = nn.Dropout(p, rngs=nn.Rngs(0))
    np.testing.assert_array_equal(layer(x), kept * x)
    np.testing.assert_array_equal(jax.grad(lambda x: layer(x).sum())(x), np.full(4, kept))


def test_modes_reach_all_layers():
    rngs = nn.Rngs(0)
    inner = nn.Sequential(nn.Dropout(rngs=rngs), nn.BatchNorm1d(3))
    net = nn.Sequential(inner, nn.Dropout(rngs=rngs))
    x = jnp.ones((8, 3))
    assert net.eval() is net
    np.testing.assert_allclose(net(x), x, rtol=1e-4)
    assert inner[1].var[...].tolist() == [1, 1, 1]
    assert net.train() is net
    assert (net(x) == 0).any()
    assert inner[1].var[...].tolist() != [1, 1, 1]
    viewed = nnx.view(net, deterministic=True, use_running_average=True)
    np.testing.assert_array_equal(viewed(x), viewed(x))
    np.testing.assert_array_equal(net(x, deterministic=True, use_running_average=True), viewed(x))


def test_batch_statistics_leave_out_what_is_masked():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    masked, short = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    y = masked(x, mask=np.arange(6)[:, None] < 4)
    np.testing.assert_allclose(y[:4], short(x[:4]), rtol=1e-5)
    np.testing.assert_allclose(masked.var[...], short.var[...], rtol=1e-5)
    np.testing.assert_allclose(masked.mean[...], short.mean[...], rtol=1e-5)


def test_running_statistics_keep_their_dtype():
    layer = nn.BatchNorm1d(3)
    with jax.enable_x64(True):
        assert layer(np.random.default_rng(0).normal(size=(6, 3))).dtype == jnp.float64
    assert layer.mean[...].dtype == layer.var[...].dtype == jnp.float32


def test_norms_are_exact_far_from_zero():
    x = np.float32(1e4) + np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True, dtype=float)) / x.std(-1, keepdims=True, dtype=float)
    np.testing.assert_allclose(nn.LayerNorm(8)(x), expected, atol=5e-3)
    expected = (x - x.mean(0, dtype=float)) / x.std(0, dtype=float)
    np.testing.assert_allclose(nn.BatchNorm1d(8)(x), expected, atol=5e-3)


# Sequential.


def test_sequential_is_a_sequence():
    rngs = nn.Rngs(0)
    net = nn.Sequential(nn.Linear(2, 3, rngs=rngs), jnp.tanh, nn.Linear(3, 1, rngs=rngs))
    assert len(net) == 3
    assert [*net][1] is net[1] is jnp.tanh
    assert net[-1] is net[2]
    assert len(net[:2]) == 2
    assert net[:2][0] is net[0]
    with pytest.raises(IndexError, match="has 3 layers; there is no layer 3"):
        net[3]
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(net(x), net[2](jnp.tanh(net[0](x))))
    assert nn.Sequential()(x) is x


def test_sequential_passes_tuples_dicts_and_keywords():
    two = nn.Sequential(lambda x: (x, 2 * x), lambda a, b: {"b": a, "a": b}, lambda a, b: a - b)
    assert two(3.0) == 3.0
    scaled = nn.Sequential(lambda x: x, lambda x, scale=1.0: scale * x, jnp.negative)
    assert scaled(3.0, scale=2.0) == -6.0


# What is printed and listed.


class Block(nn.Module):
    """A network as users write it."""

    def __init__(self, rngs):
        self.features = nn.Sequential(nn.Linear(2, 4, rngs=rngs), jnp.tanh)
        self.theirs = nnx.Linear(4, 3, use_bias=False, rngs=rngs)
        self.blocks = nnx.List([nn.Linear(3, 3, rngs=rngs), nn.ReLU()])
        self.w = nnx.Param(jnp.ones((3, 4)))
        self.again = self.theirs
        self.apply_norm = nn.BatchNorm1d(4)
        self.unused = nn.Dropout(0.25, rngs=rngs)

    def __call__(self, x):
        y = self.theirs(self.features(x))
        for layer in self.blocks:
            y = layer(y)
        return self.apply_norm(y @ self.w[...])


PRINTED = """\
Block(
  (features): Sequential(
    (0): Linear(in_features=2, out_features=4, bias=True)
    (1): tanh
  )
  (theirs): Linear(in_features=4, out_features=3, use_bias=False)
  (blocks): List(
    (0): Linear(in_features=3, out_features=3, bias=True)
    (1): ReLU()
  )
  (w): Parameter(3, 4)
  (again): Linear(in_features=4, out_features=3, use_bias=False)
  (apply_norm): BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True)
  (unused): Dropout(p=0.25)
)"""

TABLE = """\
Layer       Type         Output  Parameters
(net)       Block        (8, 4)          12
features.0  Linear       (8, 4)          12
features.1  tanh         (8, 4)           0
theirs      Linear       (8, 3)          12
blocks.0    Linear       (8, 3)          12
blocks.1    ReLU         (8, 3)           0
apply_norm  BatchNorm1d  (8, 4)           8
unused      Dropout      -                0
Total                                    56  (224 bytes)"""

PATHS = ["features.0.kernel", "features.0.bias", "theirs.kernel", "blocks.0.kernel", "blocks.0.bias", "w"]
PATHS += ["apply_norm.scale", "apply_norm.bias"]


@pytest.mark.parametrize("again", [False, True])
def test_a_network_of_ones_own(again):
    net = Block(nn.Rngs(0))
    if again:  # flax sorts the attributes then
        net = merged(*nnx.split(net))
    assert repr(net) == str(net) == PRINTED
    assert [*nn.parameters(net)] == PATHS
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.Param, nnx.BatchStat)[0]))
    assert nn.summary(net, jax.ShapeDtypeStruct((8, 2), jnp.float32)) == TABLE
    after = nnx.to_pure_dict(nnx.state(net, nnx.Param, nnx.BatchStat)[0])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert type(net) is Block


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda rngs: nn.Linear(2, 5, False, rngs=rngs), "Linear(in_features=2, out_features=5, bias=False)"),
        (lambda rngs: nn.Conv1d(3, 8, 5, rngs=rngs), "Conv1d(3, 8, kernel_size=(5,), stride=(1,))"),
        (
            lambda rngs: nn.Conv2d(4, 8, 3, 2, 1, dilation=2, groups=2, bias=False, rngs=rngs),
            "Conv2d(4, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, bias=False)",
        ),
        (
            lambda rngs: nn.Conv2d(3, 8, 3, padding="same", rngs=rngs),
            "Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=same)",
        ),
        (lambda rngs: nn.Embedding(5, 3, padding_idx=-1, rngs=rngs), "Embedding(5, 3, padding_idx=4)"),
        (lambda rngs: nn.LayerNorm(5), "LayerNorm((5,), eps=1e-05, elementwise_affine=True)"),
        (lambda rngs: nn.LayerNorm(5, bias=False), "LayerNorm((5,), eps=1e-05, elementwise_affine=True, bias=False)"),
        (lambda rngs: nn.MaxPool2d(3, 2), "MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(0, 0))"),
        (lambda rngs: nn.Softplus(), "Softplus(beta=1, threshold=20)"),
        (lambda rngs: nn.GELU("tanh"), "GELU(approximate='tanh')"),
        (lambda rngs: nn.Softmax(1), "Softmax(dim=1)"),
        (lambda rngs: nn.Sequential(), "Sequential()"),
        (lambda rngs: nn.Sequential(functools.partial(jnp.clip, min=0)), "Sequential(\n  (0): clip\n)"),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)
def test_blocks_are_printed_as_torch_prints(make, text):
    assert repr(abstract(make)) == text


def test_what_holds_itself_is_printed():
    net = nn.Module()
    net.itself = net
    assert repr(net) == "Module(\n  (itself): Module(...)\n)"


def test_layers_called_twice_show_all_their_shapes():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Tanh()

        def __call__(self, x):
            return self.layer(self.layer(x)[0]), x

    net = Twice()
    assert re.split("  +", nn.summary(net, np.ones((2, 3))).splitlines()[1]) == ["layer", "Tanh", "(2, 3); (3,)", "0"]
    assert "(2, 3), (2, 3)" in nn.summary(nn.Identity(), (np.ones((2, 3)), np.ones((2, 3))))


# Bad input.


@pytest.mark.parametrize("layer", ["Linear", "Conv1d", "Conv2d", "Embedding", "Dropout"])
def test_random_numbers_are_asked_for(layer):
    arguments = {"Linear": (2, 3), "Embedding": (2, 3), "Dropout": ()}.get(layer, (2, 3, 1))
    way_out = re.escape("rngs=jaxfit.nn.Rngs(0), one for all layers of a network.")
    with pytest.raises(TypeError, match=f"^{layer}: rngs is missing; give {way_out}"):
        getattr(nn, layer)(*arguments)
    with pytest.raises(TypeError, match=f"^{layer}: rngs is an int \\(0\\); expected jaxfit.nn.Rngs, e.g. {way_out}"):
        getattr(nn, layer)(*arguments, rngs=0)


R = nn.Rngs(0)
BAD_ARGUMENTS = {
    "linear-zero": (lambda: nn.Linear(0, 2, rngs=R), ValueError, "Linear: in_features is 0; expected at least 1"),
    "linear-float": (lambda: nn.Linear(2, 2.0, rngs=R), TypeError, r"Linear: out_features is a float \(2.0\)"),
    "linear-bias": (lambda: nn.Linear(2, 3, 4, rngs=R), TypeError, r"Linear: bias is an int \(4\); expected True"),
    "conv-negative": (lambda: nn.Conv1d(2, -1, 3, rngs=R), ValueError, "Conv1d: out_channels is -1"),
    "conv-kernel": (lambda: nn.Conv2d(2, 2, (3, 3, 3), rngs=R), ValueError, "expected 2 whole numbers, or one"),
    "conv-stride": (lambda: nn.Conv2d(2, 2, 3, 0, rngs=R), ValueError, "Conv2d: stride is 0"),
    "conv-groups": (lambda: nn.Conv2d(3, 2, 3, groups=2, rngs=R), ValueError, "in_channels is 3 and groups 2"),
    "conv-padding": (lambda: nn.Conv1d(3, 2, 3, padding="SAME", rngs=R), ValueError, "did you mean|choose one of"),
    "conv-same": (lambda: nn.Conv1d(3, 2, 3, 2, padding="same", rngs=R), ValueError, "expected stride 1"),
    "pool-padding": (lambda: nn.MaxPool2d(2, padding=2), ValueError, "at most half of the kernel"),
    "pool-kernel": (lambda: nn.AvgPool2d(None), TypeError, "AvgPool2d: kernel_size is None"),
    "pool-count": (lambda: nn.AvgPool2d(2, count_include_pad=1), TypeError, "expected True or False"),
    "dropout-p": (lambda: nn.Dropout(1.5, rngs=R), ValueError, "Dropout: p is 1.5; expected .* from 0 to 1"),
    "dropout-text": (lambda: nn.Dropout("half", rngs=R), TypeError, r"Dropout: p is a str \('half'\)"),
    "dropout-nan": (lambda: nn.Dropout(float("nan"), rngs=R), ValueError, "p is nan"),
    "embedding": (lambda: nn.Embedding(0, 2, rngs=R), ValueError, "num_embeddings is 0"),
    "padding-idx": (lambda: nn.Embedding(3, 2, 3, rngs=R), ValueError, "padding_idx is 3; expected one of 0 to 2"),
    "layernorm": (lambda: nn.LayerNorm((2, 0)), ValueError, "LayerNorm: normalized_shape is 0"),
    "layernorm-empty": (lambda: nn.LayerNorm(()), ValueError, r"normalized_shape is \(\); expected 1 whole number"),
    "layernorm-eps": (lambda: nn.LayerNorm(2, eps=-1), ValueError, "eps is -1; expected a finite number of at least 0"),
    "batchnorm": (lambda: nn.BatchNorm1d(True), TypeError, "BatchNorm1d: num_features is a bool"),
    "momentum": (lambda: nn.BatchNorm2d(2, momentum=None), TypeError, "BatchNorm2d: momentum is None"),
    "batchnorm-rngs": (lambda: nn.BatchNorm2d(2, rngs=1), TypeError, r"BatchNorm2d: rngs is an int \(1\)"),
    "gelu": (lambda: nn.GELU("tan"), ValueError, "GELU: approximate is 'tan'; did you mean 'tanh'"),
    "softplus": (lambda: nn.Softplus(0), ValueError, "Softplus: beta is 0; expected a number above 0"),
    "softmax": (lambda: nn.Softmax(None), TypeError, "Softmax: dim is None; expected a whole number"),
    "elu": (lambda: nn.ELU(float("inf")), ValueError, "ELU: alpha is inf; expected a finite number."),
    "class": (lambda: nn.Sequential(nn.ReLU), TypeError, r"layer 0 is the class ReLU; .* e.g. ReLU\(...\)"),
    "list": (lambda: nn.Sequential([nn.ReLU()]), TypeError, r"layer 0 is a list; .* Sequential\(\*layers\)"),
    "parameters": (lambda: nn.parameters({}), TypeError, "parameters: net is a dict; expected a module"),
    "summary": (lambda: nn.summary(jnp.tanh, 1.0), TypeError, "summary: net is a"),
    "not-called": (lambda: nn.summary(nnx.List([]), 1.0), TypeError, "summary: List has no __call__"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case):
    make, error, message = BAD_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        make()


BAD_INPUTS = {
    "linear": (
        lambda rngs: nn.Linear(64, 10, rngs=rngs),
        (8, 63),
        "Linear(in_features=64, out_features=10, bias=True) takes x [..., 64]; x has shape (8, 63).",
    ),
    "linear-number": (lambda rngs: nn.Linear(1, 1, rngs=rngs), (), "takes x [..., 1]; x has shape ()."),
    "conv1d": (lambda rngs: nn.Conv1d(3, 2, 3, rngs=rngs), (8, 4), "takes x [..., L, 3]; x has shape (8, 4)."),
    "conv2d": (
        lambda rngs: nn.Conv2d(3, 2, 3, rngs=rngs),
        (2, 3, 9, 9),
        "Channels come last: give jnp.moveaxis(x, -3, -1).",
    ),
    "conv-small": (
        lambda rngs: nn.Conv2d(3, 2, 5, padding=1, rngs=rngs),
        (9, 2, 3),
        "its kernel reaches over (5, 5), x of shape",
    ),
    "pool": (lambda rngs: nn.MaxPool2d(2), (4, 4), "takes x [N, H, W, C] or [H, W, C]; x has shape (4, 4)."),
    "pool-small": (lambda rngs: nn.AvgPool2d(5), (4, 5, 1), "has (4, 5) with padding"),
    "layernorm": (lambda rngs: nn.LayerNorm((3, 4)), (4, 3), "takes x [..., 3, 4]; x has shape (4, 3)."),
    "batchnorm1d": (
        lambda rngs: nn.BatchNorm1d(3),
        (2, 3, 5),
        "takes x [N, 3] or [N, L, 3]; x has shape (2, 3, 5). Channels",
    ),
    "batchnorm2d": (lambda rngs: nn.BatchNorm2d(3), (5, 3), "takes x [N, H, W, 3]; x has shape (5, 3)."),
    "batchnorm-one": (lambda rngs: nn.BatchNorm1d(3), (1, 3), "one number for each channel; expected more in training"),
    "softmax": (lambda rngs: nn.Softmax(2), (3, 4), "takes x with an axis 2; x has shape (3, 4)."),
    "flatten": (lambda rngs: nn.Flatten(), (3,), "takes x with these axes; x has shape (3,)."),
    "flatten-order": (lambda rngs: nn.Flatten(2, 1), (3, 4, 5), "axis start_dim comes after end_dim"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_that_do_not_fit(case):
    make, shape, message = BAD_INPUTS[case]
    layer = abstract(make)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(jnp.ones(shape))
    with pytest.raises(ValueError, match="^layer 1 of Sequential: layer 0 of Sequential: .*" + re.escape(message)):
        nn.Sequential(nn.Identity(), nn.Sequential(layer))(jnp.ones(shape))


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - {"Identity", "Sequential"}))
def test_inputs_of_the_wrong_kind(name):
    layer, x = built(name), given(name)
    with pytest.raises(TypeError, match=f"^{name}.*: x is a str"):
        layer("text")
    with pytest.raises(TypeError, match=f"^{name}.*: x is complex64.*; expected real numbers"):
        layer(x.astype(np.complex64))


@pytest.mark.parametrize("name", ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "MaxPool2d", "Sigmoid", "Dropout", "Tanh"])
def test_integers_are_no_floats(name):
    layer, x = built(name), given(name)
    with pytest.raises(TypeError, match=f"^{name}.*: x is int32.*; expected floating-point numbers"):
        layer(x.astype(np.int32))


def test_numbers_to_embed():
    layer = nn.Embedding(5, 3, rngs=nn.Rngs(0))
    with pytest.raises(TypeError, match=r"Embedding\(5, 3\): x is float32\[2\]; expected integers"):
        layer(jnp.ones(2))
    for wrong in ([0, 5], [-1, 2], np.array([2**40])):
        with pytest.raises(ValueError, match=r"x has the number .*; expected 0 to 4"):
            layer(wrong)
    compiled = jax.jit(lambda x: layer(x))(jnp.array([-1, 0, 5], jnp.int8))
    assert jnp.isnan(compiled).any(1).tolist() == [True, False, True]


def test_errors_of_other_kinds_get_a_note():
    def fails(_):
        raise KeyError("w")

    with pytest.raises(KeyError, match=r"^'w'") as caught:
        nn.Sequential(nn.Identity(), fails)(1.0)
    assert caught.value.__notes__ == ["Raised in layer 1 of Sequential."]
