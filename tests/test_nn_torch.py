"""Weights from torch and back: what torch answers, names, layouts, files, and what does not fit."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import parity_weights
from jaxfit import nn
from jaxfit._compile import HASTY
from jaxfit.nn import from_torch, to_torch
from reference import HAVE_TORCH, reference, stored

RNGS = nnx.Rngs(0)
# flax's own layers, in the networks written out by hand below
ZEROS = nnx.initializers.zeros
linear = functools.partial(nnx.Linear, kernel_init=ZEROS, rngs=RNGS)
conv = functools.partial(nnx.Conv, kernel_init=ZEROS, rngs=RNGS, padding="VALID")
batch_norm = functools.partial(nnx.BatchNorm, rngs=RNGS)
layer_norm = functools.partial(nnx.LayerNorm, rngs=RNGS)


class Block(nn.Module):
    def __init__(self, features, rngs):
        self.norm = nn.LayerNorm(features)
        self.linear = nn.Linear(features, features, bias=False, rngs=rngs)
        self.gain = nnx.Param(jnp.ones(features))

    def __call__(self, x):
        return x + self.gain * jnp.tanh(self.linear(self.norm(x)))


class Nested(nn.Module):
    def __init__(self, rngs):
        self.stem = nn.Linear(3, 4, rngs=rngs)
        self.blocks = nnx.List([Block(4, rngs), Block(4, rngs)])
        self.shift = nnx.Param(jnp.zeros(4))
        self.center = nnx.BatchStat(jnp.zeros(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 2, rngs=rngs))

    def __call__(self, x):
        x = self.stem(x) + self.shift - self.center
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class ByHand(nn.Module):
    def __init__(self, rngs):
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(4 * 36, 5, rngs=rngs)
        self.norm = nn.BatchNorm1d(5)
        self.fc2 = nn.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1(x)).reshape(len(x), -1)
        return self.fc2(nnx.relu(self.norm(self.fc1(x))))


class Words(nn.Module):
    def __init__(self, rngs):
        self.table = nn.Embedding(11, 4, rngs=rngs)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(self.table(x)).mean(1))


def pool(x):
    return nnx.max_pool(x, (2, 2), (2, 2))


def mlp(rngs):
    return nn.Sequential(
        nn.Linear(3, 8, rngs=rngs), jnp.tanh, nn.Linear(8, 8, rngs=rngs), nn.ReLU(), nn.Linear(8, 2, rngs=rngs)
    )


def cnn(rngs):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, rngs=rngs), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(6, 3, (3, 1), stride=(1, 2), bias=False, rngs=rngs),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 7, rngs=rngs)),
        nn.ReLU(),
        nn.Linear(7, 5, rngs=rngs),
    )


def groups(rngs):
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, groups=2, rngs=rngs),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Conv1d(6, 4, 2, dilation=2, rngs=rngs),
        nn.LayerNorm((6, 4)),
        nn.Flatten(),
        nn.Linear(24, 3, rngs=rngs),
    )


class Branches(nn.Module):
    def __init__(self, rngs):
        self.wide = nn.Conv2d(1, 4, 3, padding=1, rngs=rngs)
        self.narrow = nn.Conv2d(1, 2, 1, rngs=rngs)

    def __call__(self, x):
        return jnp.concatenate([self.wide(x), self.narrow(x), x], -1)


def colours(rngs):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 5, rngs=rngs))


def pooled(rngs):
    return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(rngs=rngs), nn.Linear(12, 5, rngs=rngs))


def branches(rngs):
    return nn.Sequential(Branches(rngs), nn.ReLU(), nn.Flatten(), nn.Linear(63, 10, rngs=rngs))


BUILDERS = {"mlp": mlp, "nested": Nested, "cnn": cnn, "by_hand": ByHand, "groups": groups, "words": Words}
BUILDERS |= {"colours": colours, "pooled": pooled, "branches": branches}


def of_shapes(name):
    """The network of a case without arrays, which costs nothing to make."""
    return nnx.eval_shape(lambda: BUILDERS[name](nn.Rngs(0)))


@functools.cache
def built(name):
    return BUILDERS[name](nn.Rngs(0))


FLATTENED = {"by_hand": {"fc1": 4}, "colours": {"3": 3}, "pooled": {"3": 3}, "branches": {"3": 7}}
# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})
IMAGES = {"cnn", "by_hand", "groups", "colours", "pooled", "branches"}


def state_dict(name, found=reference):
    entries = found("weights", name) if found is reference else found("weights")[name]
    return {key.removeprefix("weight:"): array for key, array in entries.items() if key != "output"}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_array_equal(ours[key], array, err_msg=key, strict=True)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_answers_as_in_torch(name):
    net = from_torch(of_shapes(name), state_dict(name), flattened=FLATTENED.get(name))
    net.eval()
    x = parity_weights.inputs(name)
    y = quick(lambda x: net(x))(np.moveaxis(x, 1, -1) if name in IMAGES else x)
    np.testing.assert_allclose(y, reference("weights", name)["output"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_way_back_gives_the_same_entries(name):
    weights = state_dict(name)
    net = from_torch(of_shapes(name), weights, flattened=FLATTENED.get(name))
    back = to_torch(net, flattened=FLATTENED.get(name))
    same(back, weights)
    assert all(array.flags.c_contiguous and array.flags.writeable and array.flags.owndata for array in back.values())
    same(to_torch(from_torch(net, back, flattened=FLATTENED.get(name)), flattened=FLATTENED.get(name)), weights)


@pytest.mark.parametrize("name", ["mlp", "cnn", "groups", "nested"])
def test_the_order_of_names_is_that_of_torch(name):
    weights = state_dict(name)
    net = built(name) if name == "nested" else from_torch(of_shapes(name), weights)  # flax sorts attributes of copies
    assert list(to_torch(net)) == list(weights)


@pytest.mark.parametrize("name", BUILDERS)
def test_torch_takes_what_comes_back(name):
    flattened = FLATTENED.get(name)
    weights = to_torch(from_torch(of_shapes(name), state_dict(name), flattened=flattened), flattened=flattened)
    if HAVE_TORCH:
        import torch

        net = parity_weights.network(name)
        net.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=True)
        output = net(torch.from_numpy(parity_weights.inputs(name))).detach().numpy()
        np.testing.assert_allclose(output, stored("weights")[name]["output"], rtol=1e-5, atol=1e-6)
        same(to_torch(from_torch(of_shapes(name), net, flattened=flattened), flattened=flattened), weights)
    else:
        same(weights, state_dict(name, stored))


@pytest.mark.parametrize("name", BUILDERS)
def test_stored_weights_are_those_of_torch(name):
    live = reference("weights", name)
    for key, array in stored("weights")[name].items():
        np.testing.assert_allclose(live[key], array, rtol=1e-5, atol=1e-6, err_msg=key, strict=True)


# Layouts written out by hand


def test_kernels_are_turned():
    rng = np.random.default_rng(0)
    image, row, dense = rng.normal(size=(6, 2, 3, 5)), rng.normal(size=(6, 4, 3)), rng.normal(size=(2, 3))
    net = nnx.Dict(a=conv(4, 6, (3, 5), feature_group_count=2), b=conv(4, 6, (3,)), c=linear(3, 2, use_bias=False))
    zeros = {"a.bias": np.zeros(6), "b.bias": np.zeros(6)}
    found = from_torch(net, zeros | {"a.weight": image, "b.weight": row, "c.weight": dense})
    np.testing.assert_array_equal(found.a.kernel[...], image.transpose(2, 3, 1, 0).astype(np.float32))
    np.testing.assert_array_equal(found.b.kernel[...], row.transpose(2, 1, 0).astype(np.float32))
    np.testing.assert_array_equal(found.c.kernel[...], dense.T.astype(np.float32))


def channel_last(array, channels):
    """Features along the last axis, from (channel, height, width) to (height, width, channel), one by one."""
    size = array.shape[-1] // channels
    return np.stack([array[..., c * size + s] for s in range(size) for c in range(channels)], -1)


def dense_entries(name, inputs, outputs=2):
    weight = np.arange(inputs * outputs, dtype=np.float32).reshape(outputs, inputs)
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(outputs, np.float32)}


def conv_entries(name, inputs, outputs):
    return {f"{name}.weight": np.ones((outputs, inputs, 3, 3)), f"{name}.bias": np.zeros(outputs)}


def norm_entries(name, features):
    values = np.arange(features, dtype=np.float32)
    return {f"{name}.{key}": values + k for k, key in enumerate(("weight", "bias", "running_mean", "running_var"))}


def test_layers_after_a_flatten_see_channels_last():
    net = nnx.Sequential(
        conv(2, 3, (3, 3)), pool, nn.Flatten(), nnx.Dropout(0.5, rngs=nnx.Rngs(0)), layer_norm(12), linear(12, 2),
        nnx.relu, linear(2, 2),
    )  # fmt: skip
    norm = {"4.weight": np.arange(12.0), "4.bias": -np.arange(12.0)}
    weights = conv_entries(0, 2, 3) | norm | dense_entries(5, 12) | dense_entries(7, 2)
    found = from_torch(net, weights)
    np.testing.assert_array_equal(found.layers[4].scale[...], channel_last(np.arange(12.0), 3))
    np.testing.assert_array_equal(found.layers[5].kernel[...].T, channel_last(weights["5.weight"], 3))
    np.testing.assert_array_equal(found.layers[7].kernel[...].T, weights["7.weight"])
    assert all(np.array_equal(array, weights[key]) for key, array in to_torch(found).items())


def test_a_normalization_before_the_flatten_tells_the_channels():
    net = nnx.Sequential(batch_norm(3), nnx.Sequential(nn.Flatten()), linear(12, 2))
    weights = norm_entries(0, 3) | dense_entries(2, 12)
    kernel = from_torch(net, weights).layers[2].kernel[...]
    np.testing.assert_array_equal(kernel.T, channel_last(weights["2.weight"], 3))


def test_features_that_no_image_has_stay_in_order():
    for net, name in (
        (nnx.Sequential(nnx.relu, nn.Flatten(), linear(16, 2)), 2),
        (nnx.Sequential(nn.Flatten(), linear(3, 2)), 1),
        (nnx.Sequential(nn.Flatten(1, 2), linear(12, 2)), 1),
        (nnx.Sequential(nnx.Embed(5, 4, rngs=RNGS), nn.Flatten(), nn.Dropout(0.5, rngs=RNGS), linear(12, 2)), 3),
        (nnx.Sequential(layer_norm(4), nn.Flatten(), linear(12, 2)), 2),
        (nnx.Sequential(conv(2, 1, (3, 3)), nn.MaxPool2d(2), nn.Flatten(), linear(12, 2)), 3),
        (nnx.Sequential(linear(4, 3), nn.Flatten(), linear(12, 2)), 2),
        (nnx.Sequential(conv(2, 12, (3, 3)), lambda x: x.mean((1, 2)), nn.Flatten(), linear(12, 2)), 3),
    ):
        weights = to_torch(net) | dense_entries(name, net.layers[name].in_features)
        kernel = from_torch(net, weights).layers[name].kernel[...]
        np.testing.assert_array_equal(kernel.T, weights[f"{name}.weight"])


def test_what_is_named_as_flattened_counts():
    net = nnx.Dict(conv1=conv(2, 4, (3, 3)), fc1=linear(12, 8), norm=batch_norm(12), fc2=linear(8, 2))
    weights = to_torch(net, flattened={}) | dense_entries("fc1", 12, 8) | norm_entries("norm", 12)
    found = from_torch(net, weights, flattened={"fc1": 4, "norm": 4})
    np.testing.assert_array_equal(found.fc1.kernel[...].T, channel_last(weights["fc1.weight"], 4))
    np.testing.assert_array_equal(found.norm.mean[...], channel_last(weights["norm.running_mean"], 4))
    np.testing.assert_array_equal(
        from_torch(net, weights, flattened={}).fc1.kernel[...].T,
        weights["fc1.weight"],
    )
    first = nnx.Sequential(nn.Flatten(), linear(12, 2))
    kernel = from_torch(first, dense_entries(1, 12), flattened={"1": 3}).layers[1].kernel[...]
    np.testing.assert_array_equal(kernel.T, channel_last(dense_entries(1, 12)["1.weight"], 3))


class Doubled(nn.Conv2d):
    def __call__(self, x):
        x = super().__call__(x)
        return jnp.concatenate([x, x], -1)


class Residual(nn.Sequential):
    def __call__(self, x):
        return jnp.concatenate([x, super().__call__(x)], -1)


def held(*layers):
    """A network that is no Sequential itself."""
    return nnx.Dict(head=nnx.Sequential(*layers))


# No number stands there as if it were the right one
UNTOLD = r"'{}' may take a flat image.*do not tell how many.*flattened=\{{'{}': channels\}}; or flattened=\{{\}} "
RGB = r"'{}' may take a flat image.*For RGB images pass flattened=\{{'{}': 3\}}; .* flattened=\{{\}}\.$"


@pytest.mark.parametrize(
    ("build", "flattened", "message"),
    [
        (lambda: nnx.Sequential(nn.Flatten(), linear(48, 5)), {"1": 3}, RGB),
        (lambda: nnx.Sequential(nn.Flatten(), nnx.relu, nn.Dropout(rngs=RNGS), linear(12, 5)), {"3": 3}, RGB),
        (
            lambda: nnx.Sequential(
                functools.partial(nnx.elu, alpha=2), jnp.tanh, nn.Identity(), nnx.Sequential(nn.ReLU(), nn.Flatten()),
                linear(12, 5),
            ),
            {"4": 3},
            RGB,
        ),
        (lambda: held(nn.Flatten(), linear(12, 5)), {"head.1": 3}, RGB),
        (lambda: nnx.Sequential(nn.MaxPool2d(2), nn.Flatten(), linear(8, 5)), {"2": 2}, UNTOLD),
        (lambda: nnx.Sequential(nn.AvgPool2d(2), nn.Flatten(), linear(12, 5)), {"2": 3}, UNTOLD),
        (lambda: nnx.Sequential(pool, nn.Flatten(), linear(8, 5)), {"2": 2}, UNTOLD),
        (lambda: nnx.Sequential(nn.LayerNorm((2, 2)), nn.Flatten(), linear(8, 5)), {"2": 2}, UNTOLD),
        (lambda: nnx.Sequential(Branches(nn.Rngs(0)), nn.Flatten(), linear(63, 10)), {"2": 7}, UNTOLD),
        (lambda: nnx.Sequential(conv(2, 4, (3,)), Block(4, nn.Rngs(0)), nn.Flatten(), linear(8, 2)), {"3": 4}, UNTOLD),
        (lambda: nnx.Sequential(Doubled(2, 4, 3, rngs=RNGS), nn.Flatten(), linear(16, 2)), {"2": 8}, UNTOLD),
        (lambda: nnx.Sequential(Residual(conv(2, 4, (1, 1))), nn.Flatten(), linear(12, 2)), {"2": 6}, UNTOLD),
        (lambda: held(conv(2, 4, (3, 3)), Nested(nn.Rngs(0)), nn.Flatten(), linear(9, 2)), {"head.3": 3}, UNTOLD),
        (
            lambda: nnx.Dict(stem=conv(2, 4, (3, 3)), head=nnx.Sequential(nn.Flatten(), linear(9, 2))),
            {"head.1": 3},
            UNTOLD,
        ),
    ],
)  # fmt: skip
def test_a_linear_after_a_flatten_of_unknown_channels_is_asked_about(build, flattened, message):
    (name, channels), net = *flattened.items(), build()
    for call in (lambda: to_torch(net), lambda: from_torch(net, {})):
        with pytest.raises(ValueError, match=message.format(name, name)):
            call()
    weights = to_torch(net, flattened={})
    width, outputs = weights[f"{name}.weight"].shape[::-1]
    weights |= dense_entries(name, width, outputs)
    same(to_torch(from_torch(net, weights, flattened={}), flattened={}), weights)
    found = from_torch(net, weights, flattened=flattened)
    same(to_torch(found, flattened=flattened), weights)
    in_order = {f"{name}.weight": channel_last(weights[f"{name}.weight"], channels)}
    same(to_torch(found, flattened={}), weights | in_order)


@pytest.mark.parametrize("inputs", [8, 12])
def test_normalizations_follow_the_linear_that_is_named(inputs):
    net = nnx.Sequential(nn.Flatten(), batch_norm(inputs), linear(inputs, 2), batch_norm(2))
    weights = norm_entries(1, inputs) | dense_entries(2, inputs) | norm_entries(3, 2)
    found = from_torch(net, weights, flattened={"2": 2})
    np.testing.assert_array_equal(found.layers[1].mean[...], channel_last(weights["1.running_mean"], 2))
    np.testing.assert_array_equal(found.layers[3].mean[...], weights["3.running_mean"])
    assert all(np.array_equal(to_torch(found, flattened={"2": 2})[key], array) for key, array in weights.items())
    found = from_torch(net, weights, flattened={"2": 2, "1": 1})
    np.testing.assert_array_equal(found.layers[1].mean[...], weights["1.running_mean"])


def test_layers_that_keep_the_channels_are_followed():
    net = nnx.Sequential(
        nnx.Sequential(conv(2, 3, (3, 3)), nn.ReLU()), nn.Identity(), nn.MaxPool2d(2), nnx.Dropout(0.5, rngs=RNGS),
        nnx.GroupNorm(3, num_groups=1, use_bias=False, use_scale=False, rngs=RNGS), pool, nn.Flatten(), nn.Tanh(),
        linear(12, 2),
    )  # fmt: skip
    weights = conv_entries("0.0", 2, 3) | dense_entries(8, 12)
    kernel = from_torch(net, weights).layers[8].kernel[...]
    np.testing.assert_array_equal(kernel.T, channel_last(weights["8.weight"], 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nnx.Dict(conv=conv(2, 4, (3, 3)), fc=linear(12, 2)), UNTOLD.format("fc", "fc")),
        (lambda: nnx.Sequential(conv(2, 4, (3, 3)), lambda x: x.reshape(len(x), -1), linear(12, 2)), "'2' may take"),
        (lambda: nnx.Sequential(conv(2, 4, (3, 3)), nn.Flatten(), nnx.Dict(fc=linear(12, 2))), r"'2\.fc' may take"),
        (lambda: nnx.Sequential(conv(2, 4, (3, 3)), nn.Flatten(), linear(10, 2)), "'2' may take"),
        (lambda: nnx.Sequential(conv(2, 4, (3, 3)), nn.Flatten(2), linear(12, 2)), "'2' may take"),
        (lambda: nnx.Dict(conv=conv(2, 4, (3, 3)), a=linear(8, 8), b=linear(8, 8)), "'a', 'b' may take"),
    ],
)
def test_a_layer_that_may_take_a_flat_image_is_asked_about(build, message):
    for call in (lambda: to_torch(build()), lambda: from_torch(build(), {})):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_normalization_over_an_image_may_be_named():
    values = np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)
    net = nnx.Dict(norm=nn.LayerNorm((2, 3, 4)))
    found = from_torch(net, {"norm.weight": values, "norm.bias": values}, flattened={"norm": 4})
    np.testing.assert_array_equal(found.norm.scale[...], values.transpose(1, 2, 0))
    same(to_torch(found, flattened={"norm": 4}), {"norm.weight": values, "norm.bias": values})
    with pytest.raises(ValueError, match=r"'norm\.weight' has shape \(4, 2, 3\), expected \(2, 3, 4\)"):
        from_torch(net, {"norm.weight": values, "norm.bias": values})
    with pytest.raises(ValueError, match=r"flattened\['norm'\] is 2"):
        to_torch(net, flattened={"norm": 2})


def test_usual_networks_are_not_asked_about():
    net = nnx.Dict(conv=conv(2, 4, (3, 3)), hidden=linear(4, 8), out=linear(8, 2))
    assert to_torch(net)["out.weight"].shape == (2, 8)


# Names


def test_containers_buffers_and_shared_layers():
    class Own(nnx.Module):
        def __init__(self):
            self.weights = nnx.List([nnx.Param(jnp.zeros(2)), nnx.Param(jnp.zeros(()))])
            self.plain = nnx.data([linear(1, 1), (linear(1, 1),)])
            self.by_name = nnx.data({"one": linear(1, 1)})
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
            self.again = self.plain[0]
            self.scratch = nnx.Intermediate(jnp.zeros(3))
            self.nothing = nnx.Param(None)
            self.parent = nnx.data([self])
            self.number = 3

    net = Own()
    names = ["weights.0", "weights.1"]
    names += [f"{layer}.{key}" for layer in ("plain.0", "plain.1.0", "by_name.one", "again") for key in KEYS]
    assert list(to_torch(net)) == names
    values = {name: np.full_like(array, k) for k, (name, array) in enumerate(to_torch(net).items())}
    alone = {name: array for name, array in values.items() if not name.startswith("again")}  # as files leave it out
    found = from_torch(net, alone)
    assert found.again is found.plain[0]
    same(to_torch(found), alone | {f"again.{key}": values[f"plain.0.{key}"] for key in KEYS})


KEYS = ("weight", "bias")


def test_other_normalizations_and_layers_that_torch_lacks():
    net = nnx.Dict(
        group=nnx.GroupNorm(4, num_groups=2, rngs=RNGS),
        rms=nnx.RMSNorm(4, rngs=RNGS),
        plain=nnx.LayerNorm(4, use_scale=False, use_bias=False, rngs=RNGS),
        attend=nnx.MultiHeadAttention(2, 4, decode=False, rngs=RNGS),
    )
    weights = to_torch(net)
    assert list(weights)[:3] == ["group.weight", "group.bias", "rms.weight"]
    assert weights["attend.query.kernel"].shape == (4, 2, 2)
    same(to_torch(from_torch(net, weights)), weights)
    del weights["attend.query.kernel"]
    with pytest.raises(ValueError, match=r"'attend\.query\.kernel' \(4, 2, 2\).* 'attend\.query' is a flax\.nnx\.Lin"):
        from_torch(net, weights | {"attend.query.weight": np.ones((4, 4))})


def test_the_counter_of_batches_may_be_absent():
    weights = norm_entries("0", 3)
    net = nnx.Sequential(batch_norm(3))
    for given in (weights, weights | {"0.num_batches_tracked": np.array(7)}):
        back = to_torch(from_torch(net, given))
        assert back.pop("0.num_batches_tracked") == 0
        same(back, weights)


# Arrays and files


def test_arrays_take_the_dtype_of_the_net():
    net = nnx.Sequential(linear(3, 2, param_dtype=jnp.bfloat16))
    weights = {"0.weight": np.array([[1, 2, np.inf], [np.nan, 1e300, 0.1]]), "0.bias": jnp.array([1, 2])}
    found = from_torch(net, weights)
    assert found.layers[0].kernel.dtype == jnp.bfloat16
    assert to_torch(found)["0.weight"].dtype == jnp.bfloat16
    expected = [[1, 2, np.inf], [np.nan, np.inf, 0.10009765625]]
    np.testing.assert_array_equal(to_torch(found)["0.weight"].astype(np.float32), expected)


def test_weights_are_copies():
    weights = {"0.weight": np.ones((64, 64), np.float32), "0.bias": np.ones(64, np.float32)}
    found = from_torch(nnx.Sequential(linear(64, 64)), weights)
    for array in weights.values():
        array[:] = 7
    to_torch(found)["0.bias"][:] = 7
    assert all((array == 1).all() for array in to_torch(found).values())


class Tensor:
    """What the library uses of a tensor of torch: NumPy does not take one that needs gradients or lies elsewhere."""

    def __init__(self, array, state="with gradients on a device", narrow=False):
        self.array, self.state, self.narrow = np.asarray(array), state, narrow
        self.shape, self.dtype = self.array.shape, "torch.bfloat16" if narrow else "torch.float32"

    def __array__(self, *_, **__):
        raise RuntimeError("call detach and cpu")

    def detach(self):
        return Tensor(self.array, self.state.removeprefix("with gradients "), self.narrow)

    def cpu(self):
        return Tensor(self.array, self.state.removesuffix("on a device"), self.narrow)

    def float(self):
        return Tensor(self.array, self.state)

    def numpy(self):
        assert not self.state
        if self.narrow:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.mark.parametrize("narrow", [False, True])
def test_tensors_come_from_anywhere(narrow):
    weights = dense_entries("0", 3)

    class Module:
        def state_dict(self):
            return {key: Tensor(array, narrow=narrow) for key, array in weights.items()}

    for given in (Module(), Module().state_dict()):
        same(to_torch(from_torch(nnx.Sequential(linear(3, 2)), given)), weights)
    if HAVE_TORCH:
        import torch

        kind = torch.bfloat16 if narrow else torch.float32
        given = {key: torch.tensor(array, dtype=kind, requires_grad=True) for key, array in weights.items()}
        same(to_torch(from_torch(nnx.Sequential(linear(3, 2)), given)), weights)


def test_the_given_net_is_left_as_it_was():
    net, weights = built("mlp"), state_dict("mlp")
    before = to_torch(net)
    same(to_torch(from_torch(net, weights)), weights)
    same(to_torch(net), before)
    assert isinstance(from_torch(net, weights), nn.Sequential)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_files_of_safetensors(tmp_path, dtype, kind):
    from safetensors.numpy import save_file

    net = nnx.Sequential(linear(3, 4, param_dtype=dtype), batch_norm(4))
    weights, path = to_torch(net), tmp_path / "net.safetensors"
    save_file(weights, path)
    same(to_torch(from_torch(net, kind(path))), weights)
    single = nnx.Sequential(linear(3, 4), batch_norm(4))
    found = to_torch(from_torch(single, path))
    assert found["0.weight"].dtype == np.float32
    np.testing.assert_array_equal(found["0.weight"], weights["0.weight"].astype(np.float32))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    net = nnx.Sequential(linear(3, 2))
    with pytest.raises(
        ValueError, match=r"'net\.pt'; expected one of a \.safetensors file.*torch\.load\(path, weights"
    ):
        from_torch(net, "net.pt")
    with pytest.raises(FileNotFoundError, match="none"):
        from_torch(net, tmp_path / "none.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        from_torch(net, tmp_path / "none.safetensors")


def test_torch_is_not_imported():
    source = from_torch.__code__.co_filename
    with open(source) as file:
        assert "import torch" not in file.read()


# What does not fit


def test_all_that_does_not_fit_is_told_at_once():
    net = nnx.Sequential(linear(3, 2), nnx.relu, conv(2, 4, (3, 3)))
    weights = {"0.weight": np.ones((3, 2)), "2.bias": np.ones(4), "4.weight": np.ones((2, 2)), "extra": np.ones(())}
    with pytest.raises(ValueError, match="does not fit") as caught:
        from_torch(net, weights)
    assert str(caught.value) == (
        "from_torch: the state dict does not fit the net. Missing: '0.bias' (2,), '2.weight' (4, 2, 3, 3). "
        "Left over: '4.weight' (2, 2), 'extra' (). Of another shape: '0.weight' has shape (3, 2), expected (2, 3)."
    )


def test_long_lists_end():
    net = nnx.Sequential(*(linear(1, 1) for _ in range(6)))
    with pytest.raises(ValueError, match=r"Missing: ('\d\.\w+' \(1,( 1)?\), ){8}and 4 more\.$"):
        from_torch(net, {})
    surplus = {f"a{k}": np.ones(1) for k in range(9)}
    with pytest.raises(ValueError, match=r"Left over: ('a\d' \(1,\), ){8}and 1 more\.$"):
        from_torch(net, to_torch(net) | surplus)
    with pytest.raises(ValueError, match=r"and 4 more\.$"):
        from_torch(net, {name: np.ones(2) for name in to_torch(net)})


def test_a_prefix_is_recognized():
    net = nnx.Sequential(linear(3, 2))
    weights = {f"module.{name}": array for name, array in to_torch(net).items()}
    with pytest.raises(ValueError, match=r"begin with 'module\.': \{k\.removeprefix\('module\.'\): v for k, v in"):
        from_torch(net, weights)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"state_dict is None; expected names and arrays, e\.g\. torch_net\.state_dict\(\)"),
        ([np.ones(3)], "state_dict is a list"),
        (np.ones(3), r"state_dict is float64\[3\]"),
        ({"epoch": np.array(3), "model": {}}, r"entry 'model' is a dict; .* pass state_dict\['model'\]"),
        ({"0.weight": [1.0]}, "entry '0.weight' is a list; expected an array"),
        ({0: np.ones(3)}, "has the name 0; expected strings"),
    ],
)
def test_a_state_dict_of_another_kind(given, message):
    with pytest.raises(TypeError, match=f"^from_torch: .*{message}"):
        from_torch(nnx.Sequential(linear(3, 2)), given)


@pytest.mark.parametrize("net", [None, {"a": np.ones(3)}, nnx.Linear])
def test_a_net_of_another_kind(net):
    with pytest.raises(TypeError, match=r"^from_torch: net is .*; expected a flax\.nnx\.Module"):
        from_torch(net, {})
    with pytest.raises(TypeError, match=r"^to_torch: net is .*; expected a flax\.nnx\.Module"):
        to_torch(net)


@pytest.mark.parametrize(
    ("flattened", "error", "message"),
    [
        (["fc1"], TypeError, r"flattened is a list; expected layers and numbers of channels, e\.g\. \{\"fc1\": 16\}"),
        ({"fc": 4}, ValueError, "names 'fc', which is no layer of the net; .* did you mean 'fc2'"),
        ({"conv1": 4}, ValueError, "names 'conv1', which is a Conv2d; expected a Linear, BatchNorm or LayerNorm"),
        ({"norm": 2}, ValueError, r"flattened\['norm'\] is 2; the layer's 5 input"),
        ({"fc1": 5}, ValueError, r"flattened\['fc1'\] is 5; the layer's 144 input features are no multiple of that"),
        ({"fc1": 0}, ValueError, r"flattened\['fc1'\] is 0; expected at least 1"),
        ({"fc1": 4.0}, TypeError, r"flattened\['fc1'\] is a float \(4\.0\); expected a whole number"),
    ],
)
def test_bad_flattened(flattened, error, message):
    for call in (
        lambda **kw: to_torch(of_shapes("by_hand"), **kw),
        lambda **kw: from_torch(of_shapes("by_hand"), {}, **kw),
    ):
        with pytest.raises(error, match=message):
            call(flattened=flattened)


def test_variables_that_hold_no_array():
    with pytest.raises(ValueError, match=r"to_torch: '0\.weight' of the net is a shape without an array; fill the net"):
        to_torch(of_shapes("mlp"))
    net = nnx.Dict(a=nnx.Param({"b": jnp.ones(2)}))
    with pytest.raises(ValueError, match="to_torch: 'a' of the net holds a dict; a state dict holds arrays"):
        to_torch(net)


def test_loading_stays_out_of_the_way_of_jit():
    net = nnx.Sequential(linear(3, 2))
    weights = dense_entries("0", 3)
    y = jax.jit(lambda x: from_torch(nnx.eval_shape(lambda: net), weights)(x))(jnp.ones(3))
    np.testing.assert_array_equal(y, weights["0.weight"].sum(1))
