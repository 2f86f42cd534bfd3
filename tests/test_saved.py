"""Results in files: every number comes back bit for bit, and what is not in the file is named."""

import collections
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen

import jaxfit as jf
from jaxfit import _archive, nn

CODE = """
import jax.numpy as jnp
import users_tools

SCALE = 2.0


def shape(t):
    return jnp.exp(users_tools.negative(t))


def decay(params, x):
    "A docstring."
    return params["height"] * shape(x / params["time"]) * SCALE + params["offset"]


def rate(step):
    return 0.1 / (1 + step)
"""
TOOLS = """
SIGN = -1


def negative(t):
    return SIGN * t
"""
PROPERTIES = (
    *("params", "loss", "status", "message", "steps", "history", "compile_seconds", "run_seconds", "start", "bounds"),
    *("fixed", "model_state", "data", "success", "active", "evidence", "covariance", "standard_errors", "correlation"),
    *("chi_squared", "degrees_of_freedom", "reduced_chi_squared", "r_squared", "adjusted_r_squared", "log_likelihood"),
    *("aic", "aicc", "bic", "residuals", "optimizer"),
)
X = np.linspace(0.0, 4.0, 40)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=X.shape)

pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def bits(tree):
    """Structure, types and bytes of a pytree."""
    leaves, structure = jax.tree.flatten(tree)
    found = [
        (type(leaf).__name__, str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        if hasattr(leaf, "dtype")
        else (type(leaf), repr(leaf))
        for leaf in leaves
    ]
    return structure, found


def asked(result, name):
    """What a result answers, or how it refuses."""
    try:
        return bits(getattr(result, name))
    except ValueError as error:
        return str(error)


def assert_same(result, other, without=()):
    for name in PROPERTIES:
        if name not in without:
            assert asked(result, name) == asked(other, name), name
    assert (str(other), other._repr_html_(), repr(other)) == (str(result), result._repr_html_(), repr(result))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def curves(folder):
    """A module of a user's, in a folder that Python looks in."""
    (folder / "users_curves.py").write_text(CODE)
    (folder / "users_tools.py").write_text(TOOLS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("users_curves")
    sys.path.remove(str(folder))
    for name in ("users_curves", "users_tools"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def curve(curves):
    start = {"height": 1.0, "time": 1.0, "offset": 0.25}
    y = 3 * np.exp(-X / 1.5) + 0.25 + 0.02 * NOISE
    limits = {"height": 0.0}, {"time": 9.0}
    sigma = np.linspace(0.02, 0.03, X.size)
    return jf.fit(curves.decay, (X, y), start, sigma=sigma, bounds=limits, fixed="offset", absolute_sigma=True)


@pytest.fixture(scope="module")
def curve_file(curve, folder):
    jf.save(curve, folder / "curve")
    return folder / "curve"


def test_a_curve_comes_back_bit_for_bit(curve, curve_file, curves):
    loaded = jf.load(curve_file)
    assert isinstance(loaded, jf.FitResult)
    assert_same(curve, loaded)
    assert loaded.model is curves.decay
    assert loaded.optimizer == curve.optimizer
    assert loaded.loss_function is jf.losses.mse
    assert loaded.params["height"].dtype == np.float64
    new = np.linspace(0.0, 5.0, 7)
    for ask in (
        lambda result: result.predict(new),
        lambda result: result.confidence_band(new),
        lambda result: result.prediction_band(new, sigma=0.1),
        lambda result: result.confidence_intervals(0.9),
        lambda result: result.confidence_intervals(0.9, method="profile"),
    ):
        assert bits(ask(loaded)) == bits(ask(curve))
    assert len(loaded.plot().axes) == 2
    assert os.listdir(curve_file.parent).count("curve") == 1
    assert not [name for name in os.listdir(curve_file.parent) if name.endswith(".partial")]


def test_a_loaded_result_can_be_saved_again(curve_file, folder):
    jf.save(jf.load(curve_file), str(folder / "twice"))
    assert (folder / "twice").read_bytes() == curve_file.read_bytes()


def test_another_process_finds_the_model(curve, curve_file, folder):
    script = (
        "import jaxfit as jf, numpy as np, sys; result = jf.load(sys.argv[1]); print(result);"
        "print(result.predict(np.array([1.5])).tobytes().hex(), result.covariance.tobytes().hex())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(curve_file)],
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    prediction = curve.predict(np.array([1.5])).tobytes().hex()
    assert run.stdout == f"{curve}\n{prediction} {curve.covariance.tobytes().hex()}\n"


def test_without_its_data(curve, folder):
    path = folder / "lean"
    jf.save(curve, path, data=False)
    loaded = jf.load(path)
    assert loaded.data is None
    assert_same(curve, loaded, without=("data", "residuals"))
    with pytest.raises(ValueError, match=r"residuals are those of data in memory; this result was saved without its"):
        _ = loaded.residuals
    with pytest.raises(ValueError, match="a profile fits the data again; this result was saved without its data"):
        loaded.confidence_intervals(method="profile")
    with pytest.raises(ValueError, match="sigma differs from point to point"):
        loaded.prediction_band(X)
    assert bits(loaded.prediction_band(X, sigma=1.0)) == bits(curve.prediction_band(X, sigma=1.0))
    assert len(loaded.plot().axes) == 1
    jf.save(loaded, folder / "lean again")
    assert_same(curve, jf.load(folder / "lean again"), without=("data", "residuals"))
    assert path.stat().st_size < (folder / "curve").stat().st_size


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("shape(x / params", "shape(2 * x / params", "it differs in its code"),
        ("SCALE = 2.0", "SCALE = 2.5", "it differs in SCALE"),
        ("jnp.exp", "2 * jnp.exp", "it differs in shape"),
        ("def decay", "def decline", "is not there any more"),
    ],
)
def test_a_model_that_has_changed_is_not_taken(curves, curve, curve_file, monkeypatch, old, new, says):
    changed = type(sys)("users_curves")
    exec(CODE.replace(old, new), vars(changed))
    monkeypatch.setitem(sys.modules, "users_curves", changed)
    loaded = jf.load(curve_file)
    assert_same(curve, loaded, without=("residuals",))
    with pytest.raises(ValueError, match=f"the model users_curves.decay .*{says}.*load\\(path, model=") as refused:
        loaded.predict(1.0)
    assert "differs" not in says or str(refused.value).count(says + ".") == 1
    given = jf.load(curve_file, model=curves.decay)
    assert bits(given.predict(X)) == bits(curve.predict(X))


def test_what_other_modules_hold_counts_too(curve, curve_file, curves, monkeypatch):
    tools = curves.users_tools
    monkeypatch.setattr(tools, "SIGN", -2)
    with pytest.raises(ValueError, match=r"it differs in users_tools\.SIGN\."):
        jf.load(curve_file).predict(X)
    monkeypatch.undo()
    assert bits(jf.load(curve_file).predict(X)) == bits(curve.predict(X))
    monkeypatch.setattr(tools, "negative", lambda t: -t)
    with pytest.raises(ValueError, match=r"it differs in users_tools\.negative, "):
        jf.load(curve_file).predict(X)


def test_new_words_in_a_docstring_change_nothing(curve, curve_file, monkeypatch):
    changed = type(sys)("users_curves")
    exec("\n\n" + CODE.replace("A docstring", "Another docstring"), vars(changed))
    monkeypatch.setitem(sys.modules, "users_curves", changed)
    assert bits(jf.load(curve_file).predict(X)) == bits(curve.predict(X))
    monkeypatch.delitem(sys.modules, "users_curves")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match="the model belongs to users_curves, which cannot be imported"):
        jf.load(curve_file).predict(X)


def test_a_lambda_has_to_be_given(folder):
    line = lambda params, x: params[0] + params[1] * x
    result = jf.fit(line, (X, 2 * X + NOISE), np.zeros(2), loss=functools.partial(jf.losses.huber, delta=1.5))
    path = folder / "line.any.suffix"
    jf.save(result, path)
    loaded = jf.load(path)
    assert_same(result, loaded, without=("residuals",))
    assert loaded.loss_function.func is jf.losses.huber
    assert loaded.loss_function.keywords == {"delta": 1.5}
    for ask in (lambda: loaded.predict(X), lambda: loaded.model, lambda: loaded.plot(), lambda: loaded.residuals):
        with pytest.raises(ValueError, match=r"is not in the file: a lambda has no name\. Give it: jaxfit\.load\(path"):
            ask()
    given = jf.load(path, model=lambda params, x: params[0] + params[1] * x)
    assert_same(result, given)
    assert bits(given.confidence_band(X)) == bits(result.confidence_band(X))
    with pytest.warns(jf.FitWarning, match="The model given is not, to the letter, a lambda as it was fitted: it diff"):
        jf.load(path, model=lambda params, x: params[0] - params[1] * x)
    with pytest.raises(TypeError, match="model is a float"):
        jf.load(path, model=3.0)
    with pytest.raises(TypeError, match="a flax module; the fit was one of a function, a lambda"):
        jf.load(path, model=nn.Linear(1, 1, rngs=nn.Rngs(0)))


def test_a_sum_of_library_curves_is_found(folder):
    model = (jf.models.linear.named("first") + 2.0 * jf.models.constant - 0.5).named("whole")
    start = {"first": {"slope": 1.0, "intercept": 0.0}, "constant": {"value": 0.0}}
    result = jf.fit(model, (X, 3 * X + NOISE), start, fixed="constant")
    jf.save(result, folder / "named")
    loaded = jf.load(folder / "named")
    assert loaded.model == model
    assert repr(loaded.model) == repr(model)
    assert_same(result, loaded)
    band = bits(result.prediction_band(X))
    assert bits(loaded.prediction_band(X)) == band
    jf.save(result, folder / "named", data=False)
    assert bits(jf.load(folder / "named").prediction_band(X)) == band


def test_a_first_order_fit_with_all_its_history(curves, folder):
    narrow = X.astype(np.float32)
    start = {"height": 1.0, "time": np.float32(1), "offset": 0.0}
    result = jf.fit(
        curves.decay,
        (narrow, 2 * np.exp(-narrow)),
        start,
        optimizer=jf.optimizers.Adam(curves.rate, clip_norm=1.0),
        epochs=3,
        batch_size=10,
        validation=(narrow, narrow),
        metrics={"l1": jf.losses.l1},
        record=("params", "gradient_norm"),
    )
    jf.save(result, folder / "adam")
    loaded = jf.load(folder / "adam")
    assert_same(result, loaded, without=("optimizer",))
    assert loaded.optimizer == result.optimizer
    assert set(loaded.history) >= {"loss", "params", "gradient_norm", "validation_loss", "validation_l1"}
    assert bits(loaded.predict(narrow)) == bits(result.predict(narrow))
    assert len(loaded.plot().axes) == len(result.plot().axes)


def test_a_schedule_without_a_name_is_a_name_alone(folder):
    made = jf.optimizers.Adam(optax.cosine_decay_schedule(0.1, 30))
    result = jf.fit(slope, (X, 2 * X), 0.0, optimizer=made, steps=2)
    jf.save(result, folder / "schedule")
    loaded, again = jf.load(folder / "schedule"), jf.load(folder / "schedule")
    assert_same(result, loaded, without=("optimizer",))
    assert repr(loaded.optimizer) == repr(made) == "Adam(learning_rate=<cosine_decay_schedule>)"
    assert loaded.optimizer == again.optimizer != made
    with pytest.raises(ValueError, match=r"the learning_rate of Adam, cosine_decay_schedule.* is not in the file"):
        loaded.optimizer.learning_rate(0)


def network(seed):
    rngs, width = nn.Rngs(seed), 4
    return nn.Sequential(
        nn.Linear(3, width, rngs=rngs), nn.BatchNorm1d(width, rngs=rngs), nn.ReLU(), nn.Dropout(0.2, rngs=rngs),
        nn.Linear(width, 1, rngs=rngs),
    )  # fmt: skip


def test_an_nnx_module_has_to_be_given(folder):
    x = RNG.normal(size=(32, 3)).astype(np.float32)
    adam = jf.optimizers.Adam(0.01)
    result = jf.fit(network(0), (x, x[:, :1]), optimizer=adam, steps=2)
    path = folder / "net"
    jf.save(result, path)
    bare = jf.load(path)
    assert_same(result, bare, without=("residuals",))
    with pytest.raises(ValueError, match=r"(?s)not the module: give it one like.*\(0\): Linear\(in_features=3"):
        bare.predict(x)
    own = network(7)
    before = bits(nn.parameters(own))
    loaded = jf.load(path, model=own)
    assert_same(result, loaded)
    assert bits(loaded.predict(x)) == bits(result.predict(x))
    assert bits(nn.parameters(loaded.model)) == bits(nn.parameters(result.model))
    assert loaded.model.layers[1].use_running_average
    assert bits(nn.parameters(own)) == before  # left as it was
    short = nn.Sequential(own.layers[0], own.layers[4])
    says = r"(?s)it lacks 1.scale \(4,\), .*; it has also 1.kernel \(4, 1\); it has other shapes: 1.bias \(1,\) instead"
    with pytest.raises(
        ValueError, match=says + r" of \(4,\)\.\nFitted was\nSequential.*BatchNorm.*\nand given is\nSeq"
    ):
        jf.load(path, model=short)
    with pytest.raises(TypeError, match="expected an nnx module like the one that was fitted"):
        jf.load(path, model=lambda params, x: x)


class Tower(linen.Module):
    width: int = 4

    @linen.compact
    def __call__(self, x, train: bool = False):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(self.width)(x))
        return linen.Dense(1)(linen.relu(x))


def test_a_linen_module(folder):
    x = RNG.normal(size=(16, 3)).astype(np.float32)
    result = jf.fit(Tower(), (x, x[:, :1]), optimizer=jf.optimizers.Adam(0.01), steps=3)
    jf.save(result, folder / "tower", data=False)
    loaded = jf.load(folder / "tower", model=Tower())
    assert_same(result, loaded, without=("data", "residuals"))
    assert bits(loaded.predict(x)) == bits(result.predict(x))
    assert bits(loaded.model.func.variables) == bits(result.model.func.variables)
    with pytest.raises(ValueError, match=r"instead of .*(?s:.)*width = 5"):
        jf.load(folder / "tower", model=Tower(5))
    with pytest.raises(TypeError, match="expected a linen module"):
        jf.load(folder / "tower", model=network(7))


def sampler(key):
    x = jax.random.normal(key, (4,))
    return x, 2 * x


def slope(params, x):
    return params * x


def test_a_sampler_is_found_by_its_name_or_left_out(folder, monkeypatch):
    result = jf.fit(slope, sampler, 0.0, optimizer=jf.optimizers.SGD(0.1), steps=5)
    jf.save(result, folder / "drawn")
    loaded = jf.load(folder / "drawn")
    assert_same(result, loaded)
    assert loaded.data is None
    assert len(loaded.plot().axes) == 2
    monkeypatch.setattr(sys.modules[__name__], "sampler", None)
    assert len(jf.load(folder / "drawn").plot().axes) == 1


@pytest.fixture(scope="module")
def many():
    y = np.array([1.0, 1.5, 2.0, 2.5])[:, None] * X + NOISE
    return jf.fit_many(slope, (X, y), np.arange(4.0), sigma=0.01)


def test_many_fits(many, folder):
    names = ("params", "loss", "steps", "status", "success", "covariance", "standard_errors", "chi_squared", "message")
    names += ("degrees_of_freedom", "reduced_chi_squared", "scores", "order", "compile_seconds", "run_seconds")
    for data in (True, False):
        jf.save(many, folder / "many", data=data)
        loaded = jf.load(folder / "many")
        assert isinstance(loaded, jf.FitResults)
        assert str(loaded) == str(many)
        for name in names:
            assert str(asked(loaded, name)) == str(asked(many, name)), name
        assert len(loaded) == 4
        assert bits(loaded.predict(X)) == bits(many.predict(X))
        assert bits(loaded.percentile_intervals()) == bits(many.percentile_intervals())
        if data:
            assert_same(many[2], loaded[2])
            jf.save(loaded, folder / "many again")
            assert (folder / "many again").read_bytes() == (folder / "many").read_bytes()
        else:
            with pytest.raises(ValueError, match="these results were saved without them"):
                _ = loaded[2]


def test_statuses_are_kept_by_name(many, folder):
    jf.save(many, folder / "now")

    def older(header):
        """A file of a version that had the statuses in another order."""
        text = json.dumps(header)
        assert text.count('"completed"') == text.count('"converged"') == 1
        swapped = text.replace('"completed"', '"?"').replace('"converged"', '"completed"').replace('"?"', '"converged"')
        return json.loads(swapped)

    loaded = jf.load(rewritten(folder / "now", folder / "older", older))
    assert many.status.tolist() == ["converged"] * 4
    assert loaded.status.tolist() == ["completed"] * 4


def test_a_sweep_of_networks(folder):
    x = RNG.normal(size=(8, 3)).astype(np.float32)
    grid = {"learning_rate": [0.01, 0.1]}
    net = nn.Linear(3, 1, rngs=nn.Rngs(0))
    sweep = jf.sweep(net, (x, x[:, :1]), grid=grid, optimizer=jf.optimizers.SGD(), steps=2, fixed="bias")
    jf.save(sweep, folder / "sweep")
    bare, loaded = jf.load(folder / "sweep"), jf.load(folder / "sweep", model=net)
    for results in (bare, loaded):
        assert bits(results.params) == bits(sweep.params)
        assert bits(results.settings) == bits(sweep.settings)
        assert str(results) == str(sweep)
    assert bits(loaded.predict(x)) == bits(sweep.predict(x))
    assert_same(sweep[1], loaded[1])
    with pytest.raises(ValueError, match="not the module: give it one"):
        bare.predict(x)
    with pytest.raises(ValueError, match="other shapes"):
        jf.load(folder / "sweep", model=nn.Linear(1, 1, rngs=nn.Rngs(0)))


Point = collections.namedtuple("Point", "left right")


def test_every_kind_of_value_comes_back(tmp_path):
    value = {
        "z": [1, -0.0, float("nan"), float("-inf"), 2**80, True, None, "text", 1 + 2j, complex("nan")],
        "numbered": {3: jnp.zeros(2), -1: "b"},
        "scalars": (np.float64(1.5), np.bool_(True), np.int8(3), ml_dtypes.bfloat16(1.25)),
        "a": Point(np.arange(6.0).reshape(2, 3).T, {"deep": ()}),
        "ordered": collections.OrderedDict(b=np.zeros((0, 2), ">f4"), a=np.array(1)),
        "jax": [jnp.arange(3), jnp.ones(2, jnp.bfloat16), jnp.array([True]), jnp.ones(2, jnp.complex64)],
        "small": [np.ones(3, ml_dtypes.float8_e4m3fn), np.array([np.nan, np.inf]), np.ones((), ml_dtypes.bfloat16)],
        "frozen": linen.FrozenDict({"kernel": jnp.ones(2)}),
    }
    _archive.write(str(tmp_path / "value"), "value", value)
    _, back, reader = _archive.read(str(tmp_path / "value"), lambda *found: found)
    assert bits(back) == bits(value)
    assert list(back) == list(value)
    assert not reader.widened
    assert jax.random.key_data(_trip(tmp_path, jax.random.key(3))).tolist() == [0, 3]
    with jax.enable_x64(True):
        wide = jnp.arange(2.0)
        assert bits(_trip(tmp_path, wide)) == bits(wide)
    assert bits(_trip(tmp_path, wide)) == bits(np.arange(2.0))


def _trip(folder, value):
    _archive.write(str(folder / "trip"), "value", value)
    return _archive.read(str(folder / "trip"), lambda kind, content, reader: content)


def test_a_fit_in_64_bits_is_one_where_jax_is_set_to_32(folder):
    with jax.enable_x64(True):
        result = jf.fit(slope, (X, 2 * X), jnp.zeros(()), optimizer=jf.optimizers.SGD(0.01), steps=5)
        prediction = result.predict(X)
        jf.save(result, folder / "wide")
    loaded = jf.load(folder / "wide", model=slope)
    assert loaded.params == np.asarray(result.params)
    assert np.asarray(prediction).tobytes() == loaded.predict(X).tobytes()


def test_what_cannot_be_saved(curve, tmp_path):
    for wrong in (3, {"params": 1}, None):
        with pytest.raises(TypeError, match="expected a FitResult or FitResults"):
            jf.save(wrong, tmp_path / "a")
    with pytest.raises(TypeError, match="path is an int"):
        jf.save(curve, 3)
    with pytest.raises(TypeError, match="data is a str"):
        jf.save(curve, tmp_path / "a", data="yes")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; make it first"):
        jf.save(curve, tmp_path / "nowhere" / "a")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        jf.save(curve, tmp_path)
    Local = collections.namedtuple("Local", "slope")
    result = jf.fit(lambda params, x: params.slope * x, (X, X), Local(1.0), optimizer=jf.optimizers.SGD(0.01), steps=1)
    (tmp_path / "kept").write_text("before")
    with pytest.raises(TypeError, match=r"result\['params'\] is the class Local, which no other program finds"):
        jf.save(result, tmp_path / "kept")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "before")]

    def traced(y):
        found = jf.fit(slope, (X, y), 0.0, optimizer=jf.optimizers.SGD(0.01), steps=1)
        with pytest.raises(TypeError, match="return it from the transformed function"):
            jf.save(found, tmp_path / "traced")
        return found.params

    jax.jit(traced)(X)


def rewritten(path, target, change):
    """A copy of a file with another header."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps(change(json.loads(content))) if name == "header.json" else content)
    return target


def test_files_that_are_none_of_ours(curve_file, tmp_path):
    whole = curve_file.read_bytes()
    path = tmp_path / "bad"
    with pytest.raises(FileNotFoundError):
        jf.load(path)
    with pytest.raises(TypeError, match="path is a float"):
        jf.load(1.5)
    for content in (b"", b"some text", np.arange(9).tobytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad is not a file that jaxfit\.save has written"):
            jf.load(path)
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(ValueError, match=r"not one that jaxfit\.save has written"):
        jf.load(tmp_path / "other.npz")
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="bad is cut short"):
        jf.load(path)
    spot = whole.index(np.asarray(X).tobytes())
    path.write_bytes(whole[:spot] + b"\x55" + whole[spot + 1 :])
    with pytest.raises(ValueError, match=r"bad is damaged .*CRC"):
        jf.load(path)
    rewritten(curve_file, path, lambda header: header | {"version": 2, "jaxfit": "9.9"})
    with pytest.raises(ValueError, match=r"jaxfit 9\.9 wrote it in version 2 .* pip install --upgrade jaxfit"):
        jf.load(path)
    rewritten(curve_file, path, lambda header: header | {"content": {"pickle": "gASVBQAAAAAAAAB9lC4="}})
    with pytest.raises(ValueError, match=r"bad is damaged .*'pickle' is no kind of value"):
        jf.load(path)
    rewritten(curve_file, path, lambda header: header | {"content": {"list": []}})
    with pytest.raises(ValueError, match="bad is damaged"):
        jf.load(path)


def test_a_file_calls_nothing(curve_file, tmp_path):
    """Names in a file lead to functions of the model's kind and to nodes of pytrees, to nothing else."""
    evil = {"namedtuple": "subprocess:Popen", "entries": [{"list": ["touch", str(tmp_path / "done")]}]}
    for entry in (evil, evil | {"namedtuple": "os:system"}, {"node": "subprocess:Popen", **evil, "structure": None}):
        entry = {key: entry[key] for key in ("node", "structure", "namedtuple", "entries") if key in entry}
        if "node" in entry:
            entry = {"node": entry["node"], "structure": None, "children": entry["entries"]}
        bad = rewritten(curve_file, tmp_path / "bad", lambda header, entry=entry: header | {"content": entry})
        with pytest.raises(ValueError, match=r"bad (cannot be read|is damaged)"):
            jf.load(bad)
    text = json.dumps(["users_curves:decay"])[1:-1]

    def change(header):
        return json.loads(json.dumps(header).replace(text, '"subprocess:call"'))

    loaded = jf.load(rewritten(curve_file, tmp_path / "bad", change))
    with pytest.raises(ValueError, match=r"the model would be subprocess\.call, a part of Python"):
        loaded.predict(1.0)
    assert [path.name for path in pathlib.Path(tmp_path).iterdir()] == ["bad"]
