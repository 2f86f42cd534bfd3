"""What compiles and what does not: a second fit that means the same compiles nothing; one that differs never reuses."""

import array
import collections
import dataclasses
import enum
import functools
import importlib
import operator
import re
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jaxfit as jf
from jaxfit._fingerprint import fingerprint
from jaxfit.optimizers import SGD, Adam
from reference import HAVE_TORCH

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


@dataclasses.dataclass
class Layer:
    factor: float
    act: object = jnp.tanh

    def __call__(self, params, x):
        return self.act(self.factor * params * x)


class Pair(collections.namedtuple("Pair", "a b")):
    pass


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


class Plain:
    pass


class Holder(dict):
    pass


class Hostile:
    @property
    def __dict__(self):
        raise RuntimeError("no")


def clipped(slope):
    """A function with a derivative rule of its own."""

    @jax.custom_jvp
    def function(x):
        return x

    function.defjvp(lambda primals, tangents: (primals[0], slope * tangents[0]))
    return function


def passed(slope):
    @jax.custom_vjp
    def function(x):
        return x

    function.defvjp(lambda x: (x, None), lambda _, gradient: (slope * gradient,))
    return function


def run(source, **scope):
    """The names that a notebook's cell leaves behind."""
    exec(source, scope)
    return scope


SAME_MEANING = {
    "slotted objects": lambda: [Slotted(float(i)) for i in range(5)],
    "plain objects": lambda: [Plain() for _ in range(8)],
    "dataclass": lambda: Layer(2.0),
    "named tuple": lambda: Pair(1, [2.0]),
    "enum": lambda: make([Side.LEFT, Side.RIGHT, jax.lax.Precision.HIGHEST]),
    "custom jvp": lambda: clipped(2.0),
    "custom vjp": lambda: passed(2.0),
    "jit options": lambda: jax.jit(make(2.0), static_argnums=0),
    "gradient": lambda: jax.grad(jax.checkpoint(make(2.0))),
    "lru_cache": lambda: functools.lru_cache(make(2.0)),
    "singledispatch": lambda: functools.singledispatch(make(2.0)),
    "jax functions": lambda: [jnp.sin, jnp.add, jax.nn.relu, jax.nn.gelu, jax.lax.exp, jax.lax.exp_p, jnp.float32, jnp],
    "numpy functions": lambda: [np.sum, np.add, np.linalg.norm, np.float32, np.dtype("f4"), max, len, operator.add],
    "devices": lambda: [jax.devices()[0], jax.sharding.SingleDeviceSharding(jax.devices()[0]), jax.P("a")],
    "mesh": lambda: jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()[:1]), "a"), jax.P("a")),
    "types": lambda: [list[int], int | None, re.compile("a+"), range(3), slice(1, 2), Side, Layer, object],
    "getters": lambda: [operator.itemgetter(1), operator.attrgetter("a"), operator.methodcaller("f", 2)],
    "C containers": lambda: [collections.deque([1.0]), array.array("d", [2.0]), types.MappingProxyType({"a": [1]})],
    "dicts": lambda: [collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("aab")],
    "object array": lambda: make(np.array([1, None, "x"], object)),
    "masked array": lambda: make(np.ma.masked_array(np.arange(3.0), [0, 1, 0])),
    "bfloat16": lambda: make(np.arange(3).astype(ml_dtypes.bfloat16)),
    "dates": lambda: make(np.array(["2020-01-01"], "datetime64[D]")),
    "structured array": lambda: make(np.zeros(2, [("a", "f4"), ("b", "i4")])),
    "numpy scalars": lambda: [np.float32(1), np.datetime64("2020-01-01"), ml_dtypes.bfloat16(2), np.zeros((0, 3))],
    "numbers": lambda: [complex(0.0, -0.0), float("nan"), complex("nan"), 1 << 80, b"x", bytearray(b"y")],
    "bound builtin": lambda: {"a": 1.0}.get,
    "random key": lambda: make(jax.random.key(3)),
    "schedules": lambda: [optax.warmup_cosine_decay_schedule(0, 0.1, 5, 50), optax.piecewise_constant_schedule(0.1)],
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 9)),
    "masked optax": lambda: optax.masked(optax.multi_transform({"a": optax.sgd(0.1)}, {"w": "a"}), {"w": True}),
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
    "slotted objects": ([Slotted(1.0), Slotted(2.0), Slotted(3.0)], [Slotted(1.0), Slotted(5.0), Slotted(9.0)]),
    "sharing": ([Slotted(1.0)] * 2, [Slotted(1.0), Slotted(1.0)]),
    "jvp rule": (clipped(1.0), clipped(5.0)),
    "vjp rule": (passed(1.0), passed(5.0)),
    "jit options": (jax.jit(line, static_argnums=0), jax.jit(line, static_argnums=1)),
    "wraps": (functools.wraps(jnp.sin)(make(1.0)), functools.wraps(jnp.sin)(make(2.0))),
    "library's name": (
        functools.wraps(jnp.sin)(run("f = lambda x: k * x", k=1.0)["f"]),
        functools.wraps(jnp.sin)(run("f = lambda x: k * x", k=2.0)["f"]),
    ),
    "standard library's name": (
        run("f = lambda x: k * x", k=1.0, __name__="signal", __file__="/home/user/signal.py")["f"],
        run("f = lambda x: k * x", k=2.0, __name__="signal", __file__="/home/user/signal.py")["f"],
    ),
    "dtype without a buffer": (np.zeros(2, ml_dtypes.bfloat16), np.zeros(2, np.float16)),
    "fields": (np.zeros(2, [("a", "f4")]), np.zeros(2, [("b", "f4")])),
    "enum": (Side.LEFT, Side.RIGHT),
    "complex": (complex(0.0, 0.0), complex(0.0, -0.0)),
    "default factory": (collections.defaultdict(int), collections.defaultdict(list)),
    "lru_cache": (functools.lru_cache(make(1.0)), functools.lru_cache(make(2.0))),
    "named tuple": (Pair(1, 2), (1, 2)),
    "getters": (operator.itemgetter(1), operator.itemgetter(2)),
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


def masked_array():
    return np.ma.masked_array(np.zeros(3), [False] * 3)


def labelled():
    holder = Holder()
    holder.scale = 1.0
    return holder


def module():
    made = types.ModuleType("settings_of_a_user")
    made.SCALE = made.SHIFT = 1.0
    return made


IN_PLACE = {
    "array": (lambda: np.zeros(3), lambda it: it.fill(2)),
    "dict": (lambda: {"a": 1.0}, lambda it: it.update(a=2.0)),
    "object": (lambda: types.SimpleNamespace(scale=1.0), lambda it: setattr(it, "scale", 2.0)),
    "deque": (lambda: collections.deque([1.0]), lambda it: it.append(2.0)),
    "array.array": (lambda: array.array("d", [1.0]), lambda it: it.append(2.0)),
    "bytearray": (lambda: bytearray(b"a"), lambda it: it.append(2)),
    "object array": (lambda: np.array([1, None], object), lambda it: it.fill(2)),
    "mask": (masked_array, lambda it: it.mask.__setitem__(0, True)),
    "attribute of a dict": (labelled, lambda it: setattr(it, "scale", 2.0)),
    "entry of a dict's subclass": (labelled, lambda it: it.update(a=2.0)),
    "order": (lambda: collections.OrderedDict(a=1, b=2), lambda it: it.move_to_end("a")),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place_is_noticed(name):
    new, change = IN_PLACE[name]
    value = new()
    functions = [make(value), make([value]), functools.partial(line, x=value), Slotted(value)]
    if isinstance(value, dict):
        functions += [make(value.get), make(value.__getitem__)]
    before = [fingerprint(function) for function in functions]
    assert before == [fingerprint(function) for function in functions]
    if type(value) is dict:
        functions.append(make(types.MappingProxyType(value)))
        before.append(fingerprint(functions[-1]))
    change(value)
    for function, key in zip(functions, before, strict=True):
        assert fingerprint(function) != key


def test_a_changed_array_of_another_library_is_noticed():
    arrays = [array.array("d", [0.0, 0.0])]
    if HAVE_TORCH:
        arrays.append(importlib.import_module("torch").zeros(2))
    for values in arrays:
        function = make(values)
        before = fingerprint(function)
        assert fingerprint(function) == before
        values[0] = 2.0
        assert fingerprint(function) != before


@pytest.mark.parametrize(
    "source",
    [
        "f = lambda p, x: mod.SCALE * p",
        "one = lambda p: mod.SHIFT * p\nf = lambda p, x: one(p) + mod.SCALE",
        "one = lambda p: mod.SCALE * p\nf = lambda p, x: mod.SHIFT + one(p)",
        "f = (lambda inner: lambda p, x: inner.SCALE * p)(mod)",
        "f = lambda p, x, inner=mod: inner.SCALE * p",
        "box = {'m': [mod]}\nf = lambda p, x: box['m'][0].SCALE * p",
        "def f(p, x):\n    import settings_of_a_user as inner\n    return inner.SCALE * p",
        "def f(p, x):\n    from settings_of_a_user import SCALE\n    return SCALE * p",
    ],
)
def test_a_changed_module_is_noticed(monkeypatch, source):
    mod = module()
    monkeypatch.setitem(sys.modules, mod.__name__, mod)
    function = run(source, mod=mod)["f"]
    before = fingerprint(function)
    assert fingerprint(function) == before
    mod.OTHER = 2.0
    assert fingerprint(function) == before
    mod.SCALE = 2.0
    assert fingerprint(function) != before


NET = """
class Base:
    k = 1.0
class Net(Base):
    def __call__(self, p, x):
        return act(p) * self.k
    @property
    def scale(self):
        return {scale}
    @classmethod
    def of(cls, p):
        return cls.k * p
    @staticmethod
    def still(p):
        return act(p)
act = lambda p: p
factor = 1.0
net = Net()
"""


@pytest.mark.parametrize(
    "change",
    [
        "act = lambda p: 2 * p",
        "factor = 2.0",
        "Net.k = 2.0",
        "Base.k = 2.0",
        "Net.__call__ = lambda self, p, x: p",
        "Net.scale = property(lambda self: 2.0)",
    ],
)
@pytest.mark.parametrize("use", ["net", "lambda p, x: net(p, x)", "lambda p, x: p * Net.k", "Net.of", "net.__call__"])
def test_a_redefinition_in_a_notebook_is_noticed(change, use):
    scope = run(NET.format(scale="factor"))
    function = eval(use, scope)
    before = fingerprint(function)
    assert fingerprint(function) == before
    exec(change, scope)
    assert fingerprint(function) != before


def test_a_changed_class_over_a_librarys_class_is_noticed():
    scope = run("class Mine(Base):\n    k = 1.0\n", Base=optax.GradientTransformation)
    value = scope["Mine"](line, line)
    before = fingerprint(value)
    assert fingerprint(value) == before
    scope["Mine"].k = 2.0
    assert fingerprint(value) != before


@pytest.mark.parametrize("value", [Hostile(), iter([1]), (n for n in "a"), memoryview(b"a")], ids=type)
def test_what_hides_its_state_equals_nothing(value):
    assert fingerprint(make(value)) != fingerprint(make(value))


def test_a_large_or_deep_or_tangled_graph_has_a_key():
    deep = shared = ()
    ring = [Plain() for _ in range(50)]
    for _ in range(20_000):
        deep = [deep]
    for _ in range(200):
        shared = (shared, shared)
    for node in ring:
        node.all = ring
    for value in (deep, shared, ring):
        key = fingerprint(value)
        assert key == fingerprint(value)
        assert hash(key) == hash(fingerprint(value))
    assert len(fingerprint(shared)) < 2000
    endless = list(map(float, range(300_000)))
    assert fingerprint(endless) != fingerprint(endless)


def test_terms_of_a_model_are_told_apart():
    def params(*scales):
        terms = [Slotted(scale) for scale in scales]
        model = lambda params, x: sum(term(params[0], x) for term in terms)
        return jf.fit(model, (X, X), START, optimizer=SGD(1e-3), steps=5).params

    assert not np.array_equal(params(1.0, 2.0, 3.0), params(1.0, 5.0, 9.0))


def test_derivative_rules_are_told_apart():
    def params(rule, slope):
        function = rule(slope)
        model = lambda params, x: function(params[0] * x)
        return jf.fit(model, (X, X), START, optimizer=SGD(0.1), steps=5).params

    for rule in (clipped, passed):
        assert not np.array_equal(params(rule, 1.0), params(rule, 5.0))


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

    monkeypatch.setattr(_compile, "HASTY", {"xla_no_such_option": True, "xla_backend_optimization_level": 1})
    jf.fit(line, (X[:3], X[:3]), START, optimizer=SGD(0.1), steps=1)
    assert _compile.HASTY == {"xla_backend_optimization_level": 1}


def test_programs_are_not_kept_for_ever(monkeypatch):
    from jaxfit import _compile

    monkeypatch.setattr(_compile, "_PROGRAMS_KEPT", 2)
    for n in range(5, 9):
        jf.fit(line, (X[:n], X[:n]), START, optimizer=SGD(0.1), steps=1)
    assert len(_compile._programs) == 2
