"""Bad input raises ValueError or TypeError before anything is compiled, with a sentence that helps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxfit as jf
from jaxfit.optimizers import Adam

X = np.linspace(-1, 1, 12, dtype=np.float32)
Y = 2 * X + 1
START = np.zeros(2, np.float32)
NAN = np.where(X > 0.5, np.nan, X)


def line(params, x):
    return params[0] * x + params[1]


def call(model=line, data=(X, Y), params=START, **options):
    options = {"optimizer": Adam(0.1)} | options
    if "epochs" not in options:
        options = {"steps": 3} | options
    return jf.fit(model, data, params, **options)


VALUE, TYPE = ValueError, TypeError
CASES = [
    # data
    (VALUE, r"x has 12, y has 5; expected the same leading axis", {"data": (X, Y[:5])}),
    (VALUE, r"x is float32\[0\], which is empty; expected at least one sample", {"data": (X[:0], Y[:0])}),
    (VALUE, r"y: 3 of its 12 values are not finite, the first nan at \[9\]", {"data": (X, NAN)}),
    (
        VALUE,
        r"x: 1 of its 12 values are not finite, the first -inf at \[0\]",
        {"data": (np.where(X == -1, -np.inf, X), Y)},
    ),
    (VALUE, r"x is a single number", {"data": (1.0, Y)}),
    (VALUE, r"data is a tuple of 3; expected the pair", {"data": (X, Y, Y)}),
    (VALUE, r"y holds no arrays", {"data": (X, {})}),
    (TYPE, r"y\[0\] is <U1\[\]; expected an array of numbers", {"data": (X, ["a"] * 12)}),
    (TYPE, r"data is a str \('abc'\); expected a tuple \(x, y\)", {"data": "abc"}),
    (TYPE, r"data is None; expected a tuple", {"data": None}),
    (TYPE, r"data is float32\[12\]; expected a tuple", {"data": X}),
    (TYPE, r"data is a dict; expected a tuple", {"data": {"x": X, "y": Y}}),
    (TYPE, r"batch 0 of the data is float32\[12\]; expected a pair \(x, y\)", {"data": [X, Y]}),
    (VALUE, r"iterable without batches", {"data": []}),
    (VALUE, r"y: .* give params as NumPy float64", {"data": (X, np.full(12, 1e300))}),
    # samplers
    (TYPE, r"the sampler takes \(\)", {"data": lambda: (X, Y)}),
    (TYPE, r"the sampler returns float32\[\]; expected a tuple \(x, y\)", {"data": lambda key: jax.random.normal(key)}),
    (VALUE, r"expected arrays x and y with one row per sample", {"data": lambda key: (jnp.zeros(3), jnp.zeros(4))}),
    (TYPE, r"the sampler cannot be traced", {"data": lambda key: (np.asarray(jax.random.bits(key, 3)), 1)}),
    # params
    (TYPE, r"params is None; expected starting values", {"params": None}),
    (VALUE, r"params is \{\}, which holds no numbers", {"params": {}}),
    (TYPE, r"params\['a'\] is the integer 1; .* write 1\.0", {"params": {"a": 1, "b": 0.0}}),
    (TYPE, r"params is int64\[2\]; .* astype\(float\)", {"params": np.zeros(2, int)}),
    (TYPE, r"params is complex64\[2\]", {"params": np.zeros(2, np.complex64)}),
    (TYPE, r"params is a bool \(True\)", {"params": True}),
    (TYPE, r"params is a str", {"params": "zero"}),
    (VALUE, r"params: 1 of its 2 values are not finite, the first nan at \[1\]", {"params": np.array([0, np.nan])}),
    (VALUE, r"params: inf; expected finite", {"params": math.inf}),
    # model
    (TYPE, r"model is an int \(3\); expected a function model\(params, x\)", {"model": 3}),
    (TYPE, r"model is the class dict", {"model": dict}),
    (TYPE, r"model takes \(x, a, b\); expected a function model\(params, x\)", {"model": lambda x, a, b: a * x + b}),
    (TYPE, r"model cannot be traced by JAX .*jax\.numpy in place of NumPy", {"model": lambda p, x: np.sin(x) * p[0]}),
    (TYPE, r"model cannot be traced", {"model": lambda p, x: x if p[0] > 0 else -x}),
    (TYPE, r"model cannot be traced", {"model": lambda p, x: math.sin(p[0]) * x}),
    (TYPE, r"model cannot be traced", {"model": lambda p, x: x[x > 0]}),
    (VALUE, r"model fails on .*float32\[12\]: KeyError: 'c'", {"model": lambda p, x: p["c"] * x, "params": {"a": 1.0}}),
    (TYPE, r"model fails on .*incompatible shapes", {"model": lambda p, x: p + x}),
    (
        VALUE,
        r"predicts float32\[12, 1\] where y is float32\[12\]\. Make .* by prediction\[:, 0\] or y\[:, None\]",
        {"model": lambda p, x: x[:, None]},
    ),
    (VALUE, r"e\.g\. by y\[:, 0\] or prediction\[:, None\]", {"data": (X, Y[:, None])}),
    (TYPE, r"It is called as model\(params, x\)", {"model": lambda x, p: p["a"] * x, "params": {"a": 1.0}}),
    (
        VALUE,
        r"predicts float32\[5\] where y is float32\[12\]\. .* one row per sample",
        {"model": lambda p, x: x[:5] * p[0]},
    ),
    (VALUE, r"predicts float32\[\] where", {"model": lambda p, x: p[0], "loss": lambda p, t: jnp.mean((p - t) ** 2)}),
    (VALUE, r"prediction has shape \(12, 2\), target has shape \(12,\)", {"model": lambda p, x: x[:, None] * p}),
    (
        TYPE,
        r"model fails on .* float32\[2\].*reshape",
        {"model": lambda p, x: x.reshape(5, 1)[:, 0], "batch_size": 5},
    ),
    (TYPE, r"prediction is bool\[12\]", {"model": lambda p, x: x > p[0]}),
    (TYPE, r"model fails on", {"model": lambda p, x: "text"}),
    # loss and metrics
    (TYPE, r"loss is a str \('mse'\).*write jaxfit\.losses\.mse", {"loss": "mse"}),
    (TYPE, r"loss is a str \('huberr'\).*did you mean 'huber'", {"loss": "huberr"}),
    (TYPE, r"loss is None", {"loss": None}),
    (TYPE, r"loss takes \(p\)", {"loss": lambda p: p}),
    (TYPE, r"loss returns float32\[12\]; expected a single real number", {"loss": lambda p, t: (p - t) ** 2}),
    (TYPE, r"loss returns int32\[\]", {"loss": lambda p, t: jnp.int32(1)}),
    (VALUE, r"loss fails on this: ZeroDivisionError", {"loss": lambda p, t: 1 / 0}),
    (TYPE, r"metrics is a list; expected a dict", {"metrics": [jf.losses.l1]}),
    (TYPE, r"metrics\['a'\] is None", {"metrics": {"a": None}}),
    (TYPE, r"metrics\['a'\] returns {.*}; expected a number or an array", {"metrics": {"a": lambda p, t: (p, t)}}),
    # optimizer
    (TYPE, r"optimizer is a str \('adam'\); expected jaxfit\.optimizers\.Adam\(\.\.\.\)", {"optimizer": "adam"}),
    (TYPE, r"optimizer is the class Adam; expected Adam\(\.\.\.\)", {"optimizer": Adam}),
    (TYPE, r"optimizer is a float \(0\.1\)", {"optimizer": 0.1}),
    (TYPE, r"optimizer cannot be traced by JAX.*jnp\.where", {"optimizer": Adam(lambda s: 0.1 if s < 3 else 0.01)}),
    (TYPE, r"optimizer fails on these params, Adam", {"optimizer": Adam(lambda: 0.1)}),
    (TYPE, r"optimizer fails on these params, Adam", {"optimizer": Adam(np.array([0.1, 0.2, 0.3]))}),
    # how long, in which portions
    (VALUE, r"both steps \(3\) and epochs \(2\)", {"steps": 3, "epochs": 2}),
    (VALUE, r"Adam does not stop by itself: give steps=", {"steps": None}),
    (VALUE, r"steps is -1; expected at least 1", {"steps": -1}),
    (VALUE, r"steps is 0; expected at least 1", {"steps": 0}),
    (TYPE, r"steps is a float \(1\.5\)", {"steps": 1.5}),
    (TYPE, r"steps is a bool", {"steps": True}),
    (VALUE, r"epochs is 0", {"epochs": 0}),
    (VALUE, r"the fit would take 12000000000 steps", {"epochs": 10**9, "batch_size": 1}),
    (VALUE, r"batch_size is 13; expected at most 12", {"batch_size": 13}),
    (VALUE, r"batch_size is 0; expected at least 1", {"batch_size": 0}),
    (VALUE, r"epochs are passes over the data, and a sampler has no end", {"epochs": 2, "data": lambda key: (X, Y)}),
    (VALUE, r"batch_size goes with arrays", {"batch_size": 2, "data": lambda key: (X, Y)}),
    (VALUE, r"sigma goes with arrays", {"sigma": 1.0, "data": [(X, Y)]}),
    # weights and validation
    (VALUE, r"sigma has shape \(5,\) and y has \(12,\)", {"sigma": np.ones(5)}),
    (VALUE, r"sigma goes down to 0\.0; expected standard deviations above 0", {"sigma": np.zeros(12)}),
    (VALUE, r"sigma goes down to -1", {"sigma": -1.0}),
    (VALUE, r"sigma: .*nan", {"sigma": NAN}),
    (TYPE, r"sigma is <U3\[\]", {"sigma": "one"}),
    (VALUE, r"weights goes down to -1", {"weights": X}),
    (VALUE, r"weights are all 0", {"weights": np.zeros(12)}),
    (VALUE, r"weights has shape \(\)", {"weights": 1.0}),
    (TYPE, r"weights need a loss that gives one number per sample", {"weights": np.ones(12), "loss": lambda p, t: 0.0}),
    (TYPE, r"validation is float32\[12\]; expected a tuple", {"validation": X}),
    (VALUE, r"x and y differ .* x of validation has 12, y of validation has 3", {"validation": (X, Y[:3])}),
    (VALUE, r"validation happens after every epoch", {"validation": (X, Y), "data": lambda key: (X, Y)}),
    (VALUE, r"metrics has the name 'loss'; expected a string other than", {"metrics": {"loss": jf.losses.l1}}),
    (VALUE, r"metrics has the name 1", {"metrics": {1: jf.losses.l1}}),
    (VALUE, r"metrics are computed .*validation=\(x, y\)", {"metrics": {"a": jf.losses.l1}, "data": [(X, Y)]}),
    (VALUE, r"metrics are computed .*arrays", {"metrics": {"a": jf.losses.l1}, "data": lambda key: (X, Y)}),
    (
        VALUE,
        r"weights do not go with the loss's own weight",
        {"weights": np.ones(12), "loss": functools.partial(jf.losses.mse, weight=np.ones(12))},
    ),
    (
        VALUE,
        r"weights do not go with labels that the loss ignores \(-100\)",
        {
            "weights": np.ones(12),
            "loss": jf.losses.cross_entropy,
            "data": (X, np.where(X > 0, -100, 1)),
            "model": lambda p, x: x[:, None] * p,
        },
    ),
    # the rest
    (TYPE, r"record is None; expected a tuple", {"record": None}),
    (TYPE, r"shuffle is a str \('no'\)", {"shuffle": "no"}),
    (TYPE, r"params is no pytree", {"params": {"a": 1.0, 1: 2.0}}),
    (TYPE, r"record is 'params'; expected a tuple of names", {"record": "params"}),
    (VALUE, r"record is 'parms'; did you mean 'params'", {"record": ("parms",)}),
    (TYPE, r"key is a str \('a'\)", {"key": "a"}),
    (TYPE, r"key is a float", {"key": 0.5}),
    (TYPE, r"key is key<fry>\[2\]", {"key": jax.random.split(jax.random.key(0))}),
]


@pytest.mark.parametrize(("error", "message", "options"), CASES, ids=[message for _, message, _ in CASES])
def test_a_sentence_for_each(compilations, error, message, options):
    with pytest.raises(error, match=message):
        call(**options)
    assert compilations() == 0


def test_predict_checks_its_x():
    result = call()
    for x, message in [(NAN, "x: 3 of its 12 values"), ({}, "x holds no arrays"), ("a", "x is <U1")]:
        with pytest.raises((ValueError, TypeError), match=message):
            result.predict(x)


numbers = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.complex64, np.dtype("U3")]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
junk = st.one_of(
    numbers,
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.floats(width=32), max_size=3),
    st.dictionaries(st.text(max_size=2), numbers, max_size=2),
    st.tuples(numbers, numbers),
)
ARGUMENTS = (
    "model", "data", "params", "loss", "optimizer", "steps", "epochs", "batch_size", "sigma", "weights", "validation",
    "metrics", "record", "key",
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(argument=st.sampled_from(ARGUMENTS), value=junk)
def test_junk_is_refused_or_fitted(argument, value):
    """Whatever an argument is, either a fit comes out, with finite params, or one of the two errors with a sentence."""
    options = {"steps": None, "epochs": value} if argument == "epochs" else {argument: value}
    if argument in ("steps", "epochs") and isinstance(value, int) and value > 50:
        options = {name: given and 50 for name, given in options.items()}
    try:
        with np.errstate(all="ignore"):
            result = call(**options)
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 20
        assert "0x" not in str(error)
    except jf.FitWarning as warning:
        assert str(warning).endswith(".")
    else:
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(result.params))
