"""Modules as their users write them: switches in odd places, parts that stay, odd variables, streams, many rows."""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxfit as jf
from jaxfit import FitWarning, _forward, losses, nn
from jaxfit.optimizers import SGD, Adam

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(16, 3)).astype(np.float32)
Y = RANDOM.normal(size=(16, 1)).astype(np.float32)
fit = functools.partial(jf.fit, optimizer=Adam(0.05), steps=3)


def linear(into=3, out=1):
    return nn.Linear(into, out, rngs=nn.Rngs(0))


class Scaled(nnx.Module):
    """Has an attribute with the name of a switch that is none."""

    def __init__(self, inference):
        self.layer, self.inference = linear(), inference

    def __call__(self, x):
        return self.layer(x) * self.inference


def test_attributes_named_like_a_switch_count_unless_they_are_one():
    first, second = (fit(Scaled(factor), (X, Y)) for factor in (1.0, 3.0))
    assert first.history["loss"][0] == pytest.approx(float(np.mean((linear()(X) - Y) ** 2)), rel=1e-5)
    assert second.history["loss"][0] == pytest.approx(float(np.mean((3 * linear()(X) - Y) ** 2)), rel=1e-5)


class Dropping(nnx.Module):
    """Is told by its caller whether it trains."""

    def __init__(self):
        self.layer, self.dropout = linear(3, 3), nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x, training=True):
        return self.dropout(self.layer(x), deterministic=not training)


class DroppingFlax(linen.Module):
    training: bool = True

    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=not self.training)(linen.Dense(3)(x))


def test_a_fitted_module_with_a_switch_evaluates_and_can_be_fitted_again():
    result = fit(Dropping(), (X, X))
    np.testing.assert_allclose(result.model(X), result.predict(X), rtol=1e-6)
    again = fit(result.model, (X, X), optimizer=SGD(0.0))
    np.testing.assert_array_equal(again.predict(X), result.predict(X))


def test_switches_inside_other_modules():
    inside = fit(linen.Sequential([DroppingFlax(), linen.Dense(1)]), (X, Y))
    np.testing.assert_array_equal(inside.predict(X), inside.predict(X[::-1])[::-1])
    with pytest.warns(FitWarning, match="draws random numbers in evaluation too"):
        fit(nn.Sequential(Dropping(), linear()), (X, Y))


def test_a_fitted_linen_module_is_fitted_on():
    first = jf.fit(linen.Dense(1), (X, Y), optimizer=Adam(0.1), steps=30)
    again = fit(first.model, (X, Y), key=1)
    assert again.history["loss"][0] == pytest.approx(first.loss, rel=1e-5)


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "stream"])
def test_the_loss_of_a_failed_fit_is_that_of_its_average(stream):
    data = itertools.repeat((10 * X, Y), 60) if stream else (10 * X, Y)
    with pytest.warns(FitWarning, match="smaller learning rate"):
        result = jf.fit(nn.Sequential(linear()), data, optimizer=SGD(3.0, ema_decay=0.5), steps=60)
    errors = np.asarray(result.predict(10 * X), np.float64) - Y
    assert result.loss == pytest.approx(np.mean(errors**2), rel=1e-3)


def test_parts_that_stay_evaluate_while_the_others_train():
    backbone = nn.Sequential(linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5, rngs=nn.Rngs(1)))
    result = fit(nn.Sequential(backbone, linear(4)), (3 * X + 5, Y), fixed="0", record=("params",))
    expected = nnx.view(backbone, deterministic=True, use_running_average=True)(X)
    np.testing.assert_allclose(result.model[0](X), expected, rtol=1e-6)
    row = jax.tree.map(lambda rows: rows[1], result.history["params"])
    assert jax.tree.map(np.shape, row) == jax.tree.map(np.shape, result.params)
    # With its features as they are, the last layer's fit is that of a linear model to them.
    alone = fit(linear(4), (np.asarray(nnx.view(backbone, deterministic=True, use_running_average=True)(3 * X + 5)), Y))
    np.testing.assert_allclose(result.history["loss"], alone.history["loss"], rtol=1e-4)


class Once:
    """An iterable that has but one pass, and does not say so."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


def test_no_batch_of_a_stream_is_lost():
    batches = [(X[i::4], Y[i::4]) for i in range(4)]
    net = nn.Sequential(linear())
    alone = jf.fit(net, batches, optimizer=Adam(0.1), epochs=1)
    once = jf.fit(net, Once(batches), optimizer=Adam(0.1), epochs=1)
    assert alone.steps == once.steps == 4
    np.testing.assert_array_equal(alone.predict(X), once.predict(X))
    assert jf.fit(net, batches, optimizer=Adam(0.1), epochs=2).steps == 8


class Odd(nnx.Module):
    """Holds what is no JAX array."""

    def __init__(self, param, held):
        self.param, self.held = nnx.Param(param), nnx.Variable(held)

    def __call__(self, x):
        return x[:, :1] * self.param[...]


@pytest.mark.parametrize(
    ("param", "held"),
    [(2.0, 2), (np.float64(2), None), (np.full(1, 2.0), jax.random.key(0))],
    ids=["numbers", "float64 and none", "float64 array and key"],
)
def test_variables_that_hold_no_jax_array(param, held):
    result = fit(Odd(param, held), (X, Y))
    assert result.history["loss"][0] == pytest.approx(np.mean((2 * X[:, :1] - Y) ** 2), rel=1e-5)
    assert result.predict(X).dtype == np.float32


def test_float64_data_and_a_float32_net_where_jax_is_set_to_64_bits():
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Not converged", FitWarning)
        x, y = X.astype(float), Y.astype(float)
        for net in (nn.Sequential(linear()), linen.Dense(1)):
            result = jf.fit(net, (x, y))
            expected, *_ = np.linalg.lstsq(np.c_[x, np.ones(16)], y, rcond=None)
            np.testing.assert_allclose(result.predict(x), np.c_[x, np.ones(16)] @ expected, rtol=1e-7, atol=1e-9)


class Centred(nnx.Module):
    """Sees its samples together."""

    def __init__(self):
        self.layer = linear()

    def __call__(self, x):
        found = self.layer(x)
        return found - jnp.mean(found, axis=0)


def test_samples_that_are_seen_together_are_predicted_together(monkeypatch):
    monkeypatch.setattr(_forward, "_BLOCK_BYTES", 64)
    result = fit(Centred(), (X, Y), validation=(X, Y), optimizer=SGD(0.0))
    np.testing.assert_allclose(result.predict(X), result.model(X), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.history["validation_loss"], result.loss, rtol=1e-6)


def test_messages_about_shapes_and_indices():
    images = RANDOM.normal(size=(4, 5, 5, 1)).astype(np.float32)
    pixels = nn.Conv2d(1, 10, 1, rngs=nn.Rngs(0))
    with pytest.raises(ValueError, match=r"classes along axis 1, .* predicts \[n, 5, 5, 10\].*moveaxis"):
        fit(pixels, (images, np.full((4, 5, 5), 9)), loss=losses.cross_entropy)
    result = fit(nn.Sequential(linear()), (X, Y))
    with pytest.raises(ValueError, match=r"x is float32\[0, 3\], which is empty"):
        result.predict(X[:0])
    with pytest.raises(ValueError, match=r"expected samples, \[n, 3\]: give x\[None\] for one"):
        result.predict(X[0])
    with pytest.raises(ValueError, match=r"layer 0, a Linear, on float32\[16, 2\]"):
        result.predict(X[:, :2])
    words = nn.Sequential(nn.Embedding(3, 2, rngs=nn.Rngs(0)), nn.Flatten(), linear(2))
    with pytest.warns(FitWarning, match="Labels or indices out of range make it so too"):
        fit(words, (np.full((16, 1), 7), Y))
