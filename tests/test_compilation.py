"""What compiles and what does not: a second fit that means the same compiles nothing; one that differs never reuses."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfit as jf
from jaxfit._fingerprint import fingerprint
from jaxfit.optimizers import SGD, Adam

X = np.linspace(-1, 1, 23, dtype=np.float32)
START = np.zeros(2, np.float32)
FACTOR = 1.0


def line(params, x):
    return params[0] * x + params[1]


def scaled(params, x):
    return FACTOR * line(params, x)


def sampler(key):
    x = jax.random.normal(key, (8,))
    return x, 3 * x - 1


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 20},
        {"epochs": 2, "batch_size": 5},
        {"epochs": 3, "validation": (X, X)},
        {"steps": 20, "record": ("params",)},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_second_fit_compiles_nothing(compilations, options):
    fit = functools.partial(jf.fit, line, **options)
    fit((X, 2 * X), START, optimizer=Adam(0.1), key=0)
    compilations()
    result = fit((X + 1, 3 * X), START + 1, optimizer=Adam(0.03, betas=(0.8, 0.99)), key=np.int64(9))
    assert compilations() == 0
    assert result.compile_seconds == 0.0
    data, start, key = (jnp.asarray(X), X.tolist()), jnp.asarray(START), jax.random.key(1)
    fit(
        data, start, optimizer=Adam(0.1), key=jax.random.key(2)
    )  # JAX's own way from a key to its data is compiled here
    compilations()
    fit(data, start, optimizer=Adam(0.1), key=key)
    assert compilations() == 0
    result.predict(X)
    compilations()
    result.predict(X + 1)
    assert compilations() == 0


def test_another_number_of_steps_compiles_nothing(compilations):
    jf.fit(line, (X, X), START, optimizer=SGD(0.1), steps=60)
    compilations()
    assert len(jf.fit(line, (X, X), START, optimizer=SGD(0.1), steps=7).history["loss"]) == 7
    assert compilations() == 0


def test_samplers_and_streams_compile_nothing_anew(compilations):
    for data in (sampler, [(X, X)] * 3):
        jf.fit(line, data, START, optimizer=SGD(0.1), steps=5)
        compilations()
        jf.fit(line, data, START, optimizer=SGD(0.2), steps=6, key=2)
        assert compilations() == 0


def test_a_lambda_written_anew_compiles_nothing(compilations):
    def once(factor, rule):
        return jf.fit(lambda params, x: factor * line(params, x), (X, X), START, optimizer=rule, steps=5)

    for make in (lambda: SGD(0.1), lambda: optax.adam(0.1), lambda: Adam(optax.cosine_decay_schedule(0.1, 50))):
        first = once(2.0, make())
        compilations()
        np.testing.assert_array_equal(once(2.0, make()).params, first.params)
        assert compilations() == 0
        assert not np.array_equal(once(3.0, make()).params, first.params)
        assert compilations() == 1


def test_a_fit_that_fails_and_is_run_again_compiles_nothing_more(compilations):
    jf.fit(line, (X, X), START, optimizer=SGD(0.1), steps=60)
    compilations()
    with pytest.warns(jf.FitWarning):
        jf.fit(line, (X, X), START, optimizer=SGD(1e6), steps=60)
    assert compilations() == 0


def test_a_changed_global_is_noticed(monkeypatch):
    first = jf.fit(scaled, (X, X), START, optimizer=SGD(0.1), steps=5)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    second = jf.fit(scaled, (X, X), START, optimizer=SGD(0.1), steps=5)
    assert not np.array_equal(first.params, second.params)


def make(value):
    return lambda params, x: value * params * x


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, params, x):
        return self.scale * params * x


class Child(Slotted):
    __slots__ = ("shift",)


SAME_MEANING = {
    "float": lambda: make(1.5),
    "array": lambda: make(np.arange(3.0)),
    "device array": lambda: make(jnp.arange(3.0)),
    "nested": lambda: make({"a": [1, (2.0, "x")], "f": make(3)}),
    "partial": lambda: functools.partial(make(1.0), x=2),
    "jitted": lambda: jax.jit(make(2.0)),
    "object": lambda: Slotted(make(2.0)),
    "set": lambda: make({1, 2.0}),
    "method": lambda: types.MethodType(make(1.0), 3.0),
    "optax": lambda: optax.chain(optax.clip(1.0), optax.adam(optax.exponential_decay(0.1, 10, 0.5))),
    "loss": lambda: functools.partial(jf.losses.huber, delta=2.0),
    "vectorised": lambda: jax.vmap(make(1.0), in_axes=(None, 0)),
}


@pytest.mark.parametrize("name", SAME_MEANING)
def test_equal_meaning_has_an_equal_key(name):
    one, two = SAME_MEANING[name](), SAME_MEANING[name]()
    assert fingerprint(one) == fingerprint(two)
    assert hash(fingerprint(one)) == hash(fingerprint(two))


DIFFERENT_MEANING = {
    "value": (make(1.0), make(2.0)),
    "type": (make(1), make(1.0)),
    "bool": (make(1), make(True)),
    "sign of zero": (make(0.0), make(-0.0)),
    "array value": (make(np.zeros(3)), make(np.ones(3))),
    "array dtype": (make(np.zeros(3)), make(np.zeros(3, np.float32))),
    "array shape": (make(np.zeros((1, 3))), make(np.zeros(3))),
    "kind of array": (make(np.zeros(3, np.float32)), make(jnp.zeros(3))),
    "code": (lambda p, x: p * x, lambda p, x: p + x),
    "inner function": (make(make(1.0)), make(make(2.0))),
    "default": (eval("lambda p, x, a=1: a"), eval("lambda p, x, a=2: a")),
    "partial": (functools.partial(line, x=1), functools.partial(line, x=2)),
    "slots": (Slotted(1.0), Slotted(2.0)),
    "inherited slots": (Child(1.0), Child(2.0)),
    "optax": (optax.adam(0.1), optax.adam(0.2)),
    "schedule": (optax.linear_schedule(0.1, 0.0, 9), optax.linear_schedule(0.1, 0.0, 10)),
    "order of keys": (make({"a": 1, "b": 2}), make({"b": 2, "a": 1})),
}


@pytest.mark.parametrize("name", DIFFERENT_MEANING)
def test_other_meaning_has_another_key(name):
    one, two = DIFFERENT_MEANING[name]
    assert fingerprint(one) != fingerprint(two)


def test_what_changes_in_place_is_noticed():
    array, settings, thing = np.zeros(3), {"a": 1.0}, types.SimpleNamespace(scale=1.0)
    module = types.ModuleType("settings_of_a_user")
    module.SCALE = 1.0
    in_module = eval("lambda p, x: settings.SCALE * p * x", {"settings": module})
    functions = [make(array), make(settings), make(thing), in_module]
    before = [fingerprint(function) for function in functions]
    assert before == [fingerprint(function) for function in functions]
    array[0] = settings["a"] = thing.scale = module.SCALE = 2.0
    for function, key in zip(functions, before, strict=True):
        assert fingerprint(function) != key


def test_functions_that_refer_to_themselves_have_a_key():
    scope = {}
    exec("def down(p, x):\n    return x if p == 0 else down(p - 1, x)", scope)
    assert fingerprint(scope["down"]) == fingerprint(scope["down"])
    ring = []
    ring.append(ring)
    assert fingerprint(ring) == fingerprint(ring)


def test_data_are_arguments_not_constants():
    """Other data of the same shape must not meet the old program's data."""
    rate = SGD(0.3)
    for slope in (1.0, -2.0, 5.0):
        np.testing.assert_allclose(
            jf.fit(line, (X, slope * X), START, optimizer=rate, steps=200).params, [slope, 0], atol=1e-4
        )


def test_settings_of_jax_belong_to_the_program():
    results = []
    for precision in ("bfloat16", "highest"):
        with jax.default_matmul_precision(precision):
            model = lambda w, x: x @ w
            results.append(
                jf.fit(model, (np.ones((4, 2), np.float32), np.ones(4, np.float32)), START, optimizer=SGD(0.1), steps=2)
            )
    assert all(result.compile_seconds > 0 for result in results)


def test_options_that_xla_does_not_know_are_dropped(monkeypatch):
    from jaxfit import _compile

    monkeypatch.setattr(_compile, "_HASTY", {"xla_no_such_option": True, "xla_backend_optimization_level": 1})
    jf.fit(line, (X[:3], X[:3]), START, optimizer=SGD(0.1), steps=1)
    assert _compile._HASTY == {"xla_backend_optimization_level": 1}


def test_programs_are_not_kept_for_ever(monkeypatch):
    from jaxfit import _compile

    monkeypatch.setattr(_compile, "_PROGRAMS_KEPT", 2)
    for n in range(5, 9):
        jf.fit(line, (X[:n], X[:n]), START, optimizer=SGD(0.1), steps=1)
    assert len(_compile._programs) == 2
