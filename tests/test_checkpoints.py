"""Checkpoints: a run that was interrupted, however and wherever, and started again ends with the same bits."""

import dataclasses
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from orbax.checkpoint import v1 as orbax

import jaxfit as jf
from jaxfit import nn
from jaxfit.callbacks import Callback, Checkpoint, EarlyStopping, ReduceOnPlateau
from jaxfit.data import from_files
from jaxfit.optimizers import LBFGS, SGD, Adam, AdamW, LevenbergMarquardt

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 3)).astype(np.float32)  # five batches of 5, the last of 3
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=23)).astype(np.float32)
START = {"slope": np.zeros(3, np.float32), "offset": np.float32(0)}
BATCHES = [(X[at : at + 5], Y[at : at + 5]) for at in range(0, 23, 5)]

pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def plane(params, x):
    return x @ params["slope"] + params["offset"]


def network(seed=0):
    rngs = nn.Rngs(seed)
    return nn.Sequential(
        nn.Linear(3, 4, rngs=rngs), nn.BatchNorm1d(4, rngs=rngs), nn.ReLU(), nn.Dropout(0.3, rngs=rngs),
        nn.Linear(4, 1, rngs=rngs), nn.Flatten(0),
    )  # fmt: skip


def small():
    return nn.Sequential(nn.Linear(3, 1, rngs=nn.Rngs(0)), nn.Flatten(0))


class Flat(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(x)[:, 0]


class Anew(NamedTuple):
    """What every process makes for itself: data that remember, or a module."""

    make: Callable


class Again:
    """An iterable of batches that a generator function yields anew for every pass."""

    def __init__(self, batches=BATCHES):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


class Told:
    """Batches whose iterator tells where it stands; notes which were pulled."""

    def __init__(self):
        self.pulled = []

    def __iter__(self):
        return TellingIterator(self.pulled)


class TellingIterator:
    def __init__(self, pulled):
        self.pulled, self.at = pulled, 0

    def __next__(self):
        if self.at == len(BATCHES):
            raise StopIteration
        self.at += 1
        self.pulled.append(self.at - 1)
        return BATCHES[self.at - 1]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def sampler(key):
    x = jax.random.normal(key, (6, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5])


def rows_of_grain():
    return grain.MapDataset.source([(X[at], Y[at]) for at in range(23)]).shuffle(seed=1)


def loader_of_grain():
    rows = grain.sources.RangeDataSource(0, 23, 1)
    order = grain.samplers.IndexSampler(23, shuffle=True, seed=2, num_epochs=1)
    fetch = type("Fetch", (grain.transforms.Map,), {"map": lambda self, at: (X[at], Y[at])})
    steps = [fetch(), grain.transforms.Batch(5)]
    return grain.DataLoader(data_source=rows, sampler=order, operations=steps)


MINIBATCHES = {"model": plane, "data": (X, Y), "params": START, "optimizer": Adam(0.05), "batch_size": 5, "steps": 33}
FULL = {key: value for key, value in MINIBATCHES.items() if key != "batch_size"}
NETWORK = MINIBATCHES | {"model": Anew(network), "params": None, "optimizer": SGD(0.02, momentum=0.9)}
VALIDATED = {"validation": (X[:7], Y[:7]), "metrics": {"l1": jf.losses.l1}}

# What `fit` is given; the data and the model by functions that make them anew, as the next process does.
CASES = {
    "shuffled": MINIBATCHES,
    "epochs, looked at": MINIBATCHES | VALIDATED | {"steps": None, "epochs": 7},
    "all at every step": FULL | VALIDATED,
    "weight averages": MINIBATCHES | {"optimizer": AdamW(0.05, ema_decay=0.9)},
    "a schedule, accumulated": MINIBATCHES | {"optimizer": Adam(lambda count: 0.1 / (1 + count), accumulate=5)},
    "sampler": FULL | {"data": sampler},
    "float64": FULL | {"params": {"slope": np.zeros(3), "offset": 0.0}, "data": (X.astype(float), Y.astype(float))},
    "weighted, bounded, recorded": MINIBATCHES
    | {
        "weights": np.linspace(0, 1, 23),
        "bounds": (-1.0, 0.7),
        "record": ("params", "gradient_norm"),
    },
    "network": NETWORK | VALIDATED,
    "bfloat16, a part is fixed": NETWORK | {"model": Anew(small), "compute_dtype": jnp.bfloat16, "fixed": "0.kernel"},
    "linen": NETWORK | {"model": Anew(Flat)},
    "in order, some are skipped": MINIBATCHES
    | {
        "shuffle": False,
        "on_nonfinite": "skip",
        "data": (X, np.where(Y > 2.5, np.float32(3e38), Y)),
    },
    "list of batches": FULL | {"data": Anew(lambda: list(BATCHES))},
    "list, validated": FULL | VALIDATED | {"data": Anew(lambda: list(BATCHES)), "steps": None, "epochs": 7},
    "generator function": FULL | {"data": Anew(Again)},
    "generator": FULL | {"data": Anew(lambda: iter(BATCHES * 8))},
    "generator that ends": FULL | {"data": Anew(lambda: iter(BATCHES * 5))},
    "iterator that tells": FULL | {"data": Anew(Told)},
    "from_files": FULL | {"data": Anew(lambda: from_files((X, Y), batch_size=5, shuffle=True, key=3, window=11))},
    "grain dataset": FULL | {"data": Anew(lambda: rows_of_grain().batch(5).to_iter_dataset())},
    "grain loader": FULL | {"data": Anew(loader_of_grain)},
}


def fitted(case, folder, *callbacks, every=12, keep=2, **other):
    """The result of a case with checkpoints, as a process does it that knows nothing of any before."""
    given = {name: one.make() if isinstance(one, Anew) else one for name, one in (dict(case) | other).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jf.FitWarning)  # what a result says of itself is compared anyway
        return jf.fit(**given, callbacks=[*callbacks, Checkpoint(folder, every=every, keep=keep)])


class Killed(Exception):  # noqa: N818
    """Ends a run as a crash would."""


class Death(Callback):
    """Is called after so many steps, and raises then."""

    def __init__(self, step):
        self.every, self.step = step, step

    def __call__(self, seen):
        if seen.step == self.step:
            raise Killed


class Witness(Callback):
    """Notes the step that a run goes on from, and what happened after it."""

    def begin(self, run):
        self.start, self.steps, self.rates = run.step, 0, []

    def __call__(self, seen):
        self.steps += len(seen.history["loss"])


def bits(tree):
    """The bytes of all leaves by their paths, with their dtypes and shapes."""

    def plain(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return f"{array.dtype}{array.shape}", array.tobytes()

    return {jax.tree_util.keystr(path): plain(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(found, expected):
    assert (found.message, found.status, found.steps) == (expected.message, expected.status, expected.steps)
    for name in ("loss", "history", "params", "model_state"):
        ours, theirs = bits(getattr(found, name)), bits(getattr(expected, name))
        assert list(ours) == list(theirs), name
        assert [key for key in ours if ours[key] != theirs[key]] == [], name


def interrupted(case, folder, step, **other):
    with pytest.raises(Killed):
        fitted(case, folder, Death(step), **other)


# in one process


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_interrupted_within_an_epoch_ends_with_the_same_bits(name, tmp_path):
    case, witness = CASES[name], Witness()
    expected = fitted(case, tmp_path / "whole")
    interrupted(case, tmp_path / "parts", 14)
    found = fitted(case, tmp_path / "parts", witness)
    assert (witness.start, witness.steps) == (12, len(expected.history["loss"]) - 12)
    if "on_nonfinite" in case:
        assert "skipped" in expected.message
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["epochs, looked at", "list, validated", "from_files"])
@pytest.mark.parametrize(("every", "step"), [("epoch", 6), (10, 11), (5, 10)])
def test_at_an_epochs_end(name, every, step, tmp_path):
    case, witness = CASES[name], Witness()
    expected = fitted(case, tmp_path / "whole", every=every)
    interrupted(case, tmp_path / "parts", step, every=every)
    found = fitted(case, tmp_path / "parts", witness, every=every)
    assert witness.start == (10 if every == 10 else 5)
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["epochs, looked at", "generator that ends", "network", "from_files", "sampler"])
def test_a_run_that_had_finished_gives_its_result_at_once(name, tmp_path):
    expected, witness = fitted(CASES[name], tmp_path), Witness()
    found = fitted(CASES[name], tmp_path, witness)
    assert witness.start == len(expected.history["loss"])
    assert witness.steps == 0
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("name", "longer"),
    [
        ("epochs, looked at", {"epochs": 11}),
        ("list, validated", {"epochs": 11}),
        ("from_files", {"steps": 58}),
        ("generator", {"steps": 39}),
        ("weight averages", {"steps": 58}),
    ],
)
def test_more_steps_go_on(name, longer, tmp_path):
    fitted(CASES[name], tmp_path / "parts")
    found = fitted(CASES[name], tmp_path / "parts", **longer)
    assert_same(found, fitted(CASES[name], tmp_path / "whole", **longer))


def test_a_run_that_went_further_already_is_refused(tmp_path):
    expected = fitted(MINIBATCHES, tmp_path)
    with pytest.raises(ValueError, match=f"to take 20 steps, and its checkpoint stands after step {expected.steps}"):
        fitted(MINIBATCHES, tmp_path, Death(40), steps=20)


def test_interrupted_again_and_again(tmp_path):
    case = CASES["network"]
    for step in (13, 14, 25, 27, 33):
        if step < 33:
            interrupted(case, tmp_path / "parts", step, every=2)
    assert_same(fitted(case, tmp_path / "parts", every=2), fitted(case, tmp_path / "whole", every=2))


def test_chunks_and_callbacks_change_no_bit(tmp_path):
    case = CASES["network"]
    expected = fitted(case, tmp_path / "1", every=1000)
    assert_same(fitted(case, tmp_path / "2", lambda seen: None, every=3), expected)
    assert_same(jf.fit(**case | {"model": network()}), expected)


def test_an_iterator_that_tells_pulls_no_batch_twice(tmp_path):
    whole, parts = Told(), Told()
    case = FULL | {"data": Anew(lambda: whole)}
    fitted(case, tmp_path / "whole")
    interrupted(case, tmp_path / "parts", 14)
    fitted(case | {"data": Anew(lambda: parts)}, tmp_path / "parts")
    assert parts.pulled[0] == 0  # the first of all, which says what the batches look like
    assert parts.pulled[1:] == (list(range(5)) * 8)[12 : 12 + len(parts.pulled) - 1]
    assert 33 - 12 <= len(parts.pulled) - 1 <= 33 - 12 + 1


def test_a_stream_that_ends_before_the_checkpoint_is_refused(tmp_path):
    case = FULL | {"data": Anew(lambda: iter(BATCHES * 8))}
    interrupted(case, tmp_path, 14)
    with pytest.raises(ValueError, match="the checkpoint stands after batch 12 of pass 0, and the data end before"):
        fitted(case | {"data": Anew(lambda: iter(BATCHES * 2))}, tmp_path)


# optimizers that stop by themselves


def rosenbrock(params, x):
    return jnp.array([10 * (params[1] - params[0] ** 2), 1 - params[0]]) + 0 * x


ROSENBROCK = {"model": rosenbrock, "data": (np.zeros(2), np.zeros(2)), "params": np.array([-1.2, 1.0])}
LEAST_SQUARES = {
    "LBFGS": ROSENBROCK | {"optimizer": LBFGS()},
    "LevenbergMarquardt": ROSENBROCK | {"optimizer": LevenbergMarquardt()},
    "of a stream": {
        "model": lambda p, x: p["a"] * jnp.exp(-p["b"] * x),
        "data": [(x, 3 * np.exp(-0.7 * x) + 0.01 * np.sin(9 * x)) for x in np.linspace(0, 4, 30).reshape(3, 10)],
        "params": {"a": 1.0, "b": 3.0},
        "optimizer": LevenbergMarquardt(),
    },
}


@pytest.mark.parametrize("name", LEAST_SQUARES)
def test_optimizers_that_stop_by_themselves(name, tmp_path):
    case, witness = LEAST_SQUARES[name], Witness()
    expected = fitted(case, tmp_path / "whole", every=2)
    assert expected.status is jf.Status.CONVERGED
    interrupted(case, tmp_path / "parts", 3, every=2)
    found = fitted(case, tmp_path / "parts", witness, every=2)
    assert witness.start == 2
    assert_same(found, expected)
    if name != "LBFGS":
        assert bits(found.covariance) == bits(expected.covariance)
    assert_same(fitted(case, tmp_path / "parts", witness, every=2), expected)
    assert (witness.start, witness.steps) == (len(expected.history["loss"]), 0)


BOXBOD = {
    "model": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "data": (np.array([1.0, 2, 3, 5, 7, 10]), np.array([109.0, 149, 149, 191, 213, 224])),
    "params": np.array([1.0, 1.0]),
    "optimizer": LevenbergMarquardt(),
}


@pytest.mark.parametrize("step", [3, 9, 13, 15])
def test_a_second_try(step, tmp_path):
    """From this start the plain rule ends badly, and another one starts anew: see the tests of the optimizer."""
    plain = jf.fit(**BOXBOD)
    last = []
    expected = fitted(BOXBOD, tmp_path / "whole", lambda seen: last.append(seen.step), every=2)
    assert last[-1] > expected.steps + 2, "there was but one try"
    assert step < last[-1]
    interrupted(BOXBOD, tmp_path / "parts", step, every=2)
    found = fitted(BOXBOD, tmp_path / "parts", every=2)
    assert_same(found, expected)
    assert_same(found, plain)
    assert bits(found.covariance) == bits(expected.covariance)
    assert_same(fitted(BOXBOD, tmp_path / "parts", every=2), expected)


# what other callbacks remember


def rising(count=60):
    """A case whose validation loss falls at first and rises later."""
    return MINIBATCHES | {"validation": (X, -0.3 * Y), "steps": None, "epochs": count, "optimizer": SGD(0.01)}


@pytest.mark.parametrize("step", [14, 31, 52])
def test_early_stopping_stops_at_the_same_step_with_the_same_best_params(step, tmp_path):
    stop = lambda: EarlyStopping(patience=12, restore_best=True)
    expected = fitted(rising(), tmp_path / "whole", stop())
    assert expected.status is jf.Status.STOPPED
    assert 0 < expected.steps < len(expected.history["loss"]) < 300
    with pytest.raises(Killed):
        fitted(rising(), tmp_path / "parts", stop(), Death(step))
    found, witness = fitted(rising(), tmp_path / "parts", stop()), Witness()
    assert_same(found, expected)
    assert_same(fitted(rising(), tmp_path / "parts", stop(), witness), expected)
    assert witness.steps == 0


class Rates(Callback):
    """Notes the learning rate of the last step of every epoch."""

    every = "epoch"

    def __init__(self):
        self.found = {}

    def __call__(self, seen):
        self.found[seen.step] = seen.learning_rate


@pytest.mark.parametrize("step", [14, 52, 97])
def test_the_learning_rate_falls_at_the_same_steps(step, tmp_path):
    slower = lambda: ReduceOnPlateau(patience=3, factor=0.5)
    whole, before, after = Rates(), Rates(), Rates()
    expected = fitted(rising(25), tmp_path / "whole", slower(), whole)
    assert len(set(whole.found.values())) > 4
    with pytest.raises(Killed):
        fitted(rising(25), tmp_path / "parts", slower(), before, Death(step))
    found = fitted(rising(25), tmp_path / "parts", slower(), after)
    assert_same(found, expected)
    assert before.found | after.found == whole.found


# refusals


def wave(params, x):
    return x @ params["slope"] - params["offset"]


OTHER = {
    "model": ({"model": wave}, "model was plane and is wave"),
    "params": (
        {"model": lambda p, x: x @ p, "params": np.zeros(3, np.float32)},
        r"params was .*offset.* and is .*float32\[3\]",
    ),
    "start": ({"params": START | {"offset": np.float32(1)}}, "params has the same shapes .* but other values"),
    "hyperparameters": (
        {"optimizer": Adam(0.02)},
        r"optimizer was Adam\(learning_rate=0.05\) and is Adam\(learning_rate=0.02\)",
    ),
    "optimizer": ({"optimizer": SGD(0.05)}, r"optimizer was Adam\(.*\) and is SGD\(learning_rate=0.05\)"),
    "data": ({"data": (X + 1, Y)}, "data has the same shapes as it had, .*, but other values"),
    "fewer data": ({"data": (X[:20], Y[:20])}, r"data was .*\[23, ?3\].* and is .*\[20, ?3\]"),
    "a stream": ({"data": Anew(Again), "batch_size": None}, "data was .* and is batches of a Again"),
    "batch_size": ({"batch_size": 4}, "batch_size was 5 and is 4"),
    "shuffle": ({"shuffle": False}, "shuffle was True and is False"),
    "key": ({"key": 1}, "key was .* and is "),
    "loss": ({"loss": jf.losses.l1}, "loss was mse and is l1"),
    "options of the loss": (
        {"loss": functools.partial(jf.losses.huber, delta=0.5)},
        r"loss was mse and is huber\(delta=0.5\)",
    ),
    "bounds": ({"bounds": (-9.0, 9.0)}, "bounds was not given and is "),
    "fixed": ({"fixed": "offset"}, "fixed was not given and is "),
    "validation": (VALIDATED, r"validation was not given and is .*metrics\['l1'\] was not there and is l1"),
    "record": ({"record": ("gradient_norm",)}, "record was .* and is .*gradient_norm"),
    "compute_dtype": ({"compute_dtype": jnp.bfloat16}, "compute_dtype was None and is .*bfloat16"),
    "on_nonfinite": ({"on_nonfinite": "skip"}, "on_nonfinite was stop and is skip"),
}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The checkpoints of a short run."""
    folder = tmp_path_factory.mktemp("short")
    fitted(MINIBATCHES, folder, steps=5)
    return folder


@pytest.mark.parametrize("name", OTHER)
def test_the_checkpoints_of_another_run_are_refused(name, short):
    changed, told = OTHER[name]
    with pytest.raises(ValueError, match="are those of another run: .*" + told) as caught:
        fitted(MINIBATCHES, short, **changed)
    assert str(short) in str(caught.value)
    assert "or another directory to begin anew" in str(caught.value)
    assert [folder.name for folder in short.iterdir()] == ["5-end"], "they are left as they were"


def test_other_files_are_refused(tmp_path):
    fitted(CASES["from_files"], tmp_path)
    other = Anew(lambda: from_files((X, Y), batch_size=5, shuffle=True, key=4, window=11))
    with pytest.raises(ValueError, match=r"data was .* and is "):
        fitted(CASES["from_files"], tmp_path, data=other)


def test_other_code_of_a_helper_is_refused(tmp_path):
    def model(factor):
        helper = (lambda x: 2 * x) if factor == 2 else (lambda x: 3 * x)
        return lambda params, x: helper(plane(params, x))

    fitted(MINIBATCHES, tmp_path, model=model(2))
    fitted(MINIBATCHES, tmp_path, model=model(2))
    with pytest.raises(ValueError, match=r"model is .* as it was, but it differs in helper"):
        fitted(MINIBATCHES, tmp_path, model=model(3))


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"directory": 3}, TypeError, r"directory is an int \(3\); expected a path"),
        ({"directory": __file__}, ValueError, "test_checkpoints.py', which is a file; expected a folder"),
        ({"every": 0}, ValueError, "Checkpoint: every is 0"),
        ({"every": "epochs"}, TypeError, r"Checkpoint: every is a str \('epochs'\); expected a whole number"),
        ({"every": 2.5}, TypeError, r"Checkpoint: every is a float \(2.5\)"),
        ({"keep": 0}, ValueError, "Checkpoint: keep is 0"),
        ({"keep": None}, TypeError, "Checkpoint: keep is None"),
    ],
)
def test_wrong_arguments(given, error, told, tmp_path):
    with pytest.raises(error, match=told):
        Checkpoint(**{"directory": tmp_path} | given)


# what is in the directory


def run_on(folder, steps, **other):
    """One more of a row of runs, each of which leaves a checkpoint: no matter how long the writing takes."""
    given = MINIBATCHES | {"steps": steps, "callbacks": [Checkpoint(folder, every=1000, **other)]}
    return jf.fit(**given)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_are_kept(keep, tmp_path):
    for steps in (3, 12, 20, 33):
        run_on(tmp_path, steps, keep=keep)
    assert names(tmp_path) == sorted(["3-end", "12-end", "20-end", "33-end"][-keep:])


def test_orbax_itself_reads_them(tmp_path):
    run_on(tmp_path, 3)
    stored = np.asarray(orbax.load(tmp_path / "3-end")["packed"]).tobytes()
    assert b'"step": 3' in stored


def emptied(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def halved(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_arrays(folder):
    shutil.rmtree(folder / "packed", ignore_errors=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def without_all(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("spoil", [emptied, halved, without_arrays, without_all])
def test_one_that_cannot_be_read_is_warned_of_and_the_one_before_is_taken(spoil, tmp_path):
    expected = fitted(MINIBATCHES, tmp_path / "whole")
    for steps in (7, 12):
        run_on(tmp_path / "parts", steps)
    spoil(tmp_path / "parts" / "12-end")
    witness = Witness()
    with pytest.warns(jf.FitWarning, match=r"the checkpoint .*12-end cannot be read .* the one before it is taken"):
        found = jf.fit(**MINIBATCHES, callbacks=[Checkpoint(tmp_path / "parts"), witness])
    assert (witness.start, witness.steps) == (7, 26)
    assert_same(found, expected)


def test_where_none_can_be_read_the_run_begins_anew(tmp_path):
    expected = run_on(tmp_path / "whole", 33)
    run_on(tmp_path / "parts", 12)
    emptied(tmp_path / "parts" / "12-end")
    with pytest.warns(jf.FitWarning, match="cannot be read"):
        assert_same(run_on(tmp_path / "parts", 33), expected)


def test_one_that_cannot_be_read_is_not_kept_in_place_of_a_newer_one(tmp_path):
    run_on(tmp_path, 20, keep=1)
    emptied(tmp_path / "20-end")
    with pytest.warns(jf.FitWarning, match="cannot be read"):
        run_on(tmp_path, 12, keep=1)
    assert "12-end" in names(tmp_path)


def test_one_that_was_being_written_is_passed_over(tmp_path):
    expected = fitted(MINIBATCHES, tmp_path / "whole")
    run_on(tmp_path / "parts", 12)
    half = tmp_path / "parts" / "20.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "parts" / "12-end", half)
    halved(half)
    (tmp_path / "parts" / "20-end.orbax-checkpoint-tmp-1").mkdir()
    witness = Witness()
    found = fitted(MINIBATCHES, tmp_path / "parts", witness)
    assert witness.start == 12
    assert_same(found, expected)


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run-7").mkdir()
    (tmp_path / "7 old").mkdir()
    for steps in (3, 12, 20):
        run_on(tmp_path, steps, keep=1)
    assert names(tmp_path) == ["20-end", "7 old", "notes.txt", "run-7"]


def test_one_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("jaxfit.callbacks._snapshots.FORMAT", 99)
        run_on(tmp_path, 3)
    with pytest.raises(ValueError, match="3-end was written by a newer jaxfit"):
        run_on(tmp_path, 12)


def test_without_orbax_it_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match="pip install orbax-checkpoint"):
        run_on(tmp_path, 3)


# a disk that takes no more


def test_a_full_disk_is_warned_of_and_the_run_goes_on(tmp_path, monkeypatch):
    expected = jf.fit(**MINIBATCHES)

    def save(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(orbax, "save", save)
    with pytest.warns(jf.FitWarning, match="could not be written") as caught:
        found = jf.fit(**MINIBATCHES, callbacks=[Checkpoint(tmp_path, every=12)])
    for warning in caught:
        assert str(tmp_path) in str(warning.message)
        assert "No space left on device" in str(warning.message)
    assert_same(found, expected)
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(jf.FitWarning, match="could not be written to .*file/checkpoints'.* goes on without it"):
        found = jf.fit(**MINIBATCHES, callbacks=[Checkpoint(tmp_path / "file" / "checkpoints", every=12)])
    assert_same(found, jf.fit(**MINIBATCHES))


def test_a_disk_that_has_room_again(tmp_path, monkeypatch):
    calls, save = [], orbax.save

    def full_once(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return save(*args, **options)

    monkeypatch.setattr(orbax, "save", full_once)
    with pytest.warns(jf.FitWarning, match="No space left"):
        jf.fit(**MINIBATCHES, callbacks=[Checkpoint(tmp_path, every=12)])
    assert "33-end" in names(tmp_path)


# Ctrl-C and SIGTERM


@pytest.fixture
def handlers():
    """The handlers of a Python that was just started, and afterwards those that there were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)


class Signal(Callback):
    """Sends signals to this process after so many steps."""

    def __init__(self, number, step, times=1):
        self.every, self.step, self.number, self.times = step, step, number, times

    def __call__(self, seen):
        if seen.step == self.step and not seen.is_last:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("name", ["shuffled", "list, validated", "from_files"])
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_an_interrupted_run_has_a_result_and_goes_on(name, number, word, tmp_path, handlers):
    case, witness, last = CASES[name], Witness(), []
    expected = fitted(case, tmp_path / "whole")
    given = {key: one.make() if isinstance(one, Anew) else one for key, one in case.items()}
    callbacks = [Signal(number, 13), lambda seen: last.append(seen.step), Checkpoint(tmp_path / "parts", every=1000)]
    with pytest.warns(jf.FitWarning, match=f"Interrupted by {word} after step "):
        part = jf.fit(**given, callbacks=callbacks)
    assert part.status is jf.Status.INTERRUPTED
    assert not part.success
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert 13 <= part.steps == len(part.history["loss"]) == last[-1] < 33
    np.testing.assert_array_equal(part.history["loss"], expected.history["loss"][: part.steps])
    assert part.predict(X).shape == (23,)
    assert names(tmp_path / "parts") == [f"{part.steps}-end"]
    assert_same(fitted(case, tmp_path / "parts", witness), expected)
    assert witness.start == part.steps


def test_a_second_ctrl_c_acts_at_once(tmp_path, handlers):
    with pytest.raises(KeyboardInterrupt):
        fitted(MINIBATCHES, tmp_path / "parts", Signal(signal.SIGINT, 14, times=2))
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert_same(fitted(MINIBATCHES, tmp_path / "parts"), fitted(MINIBATCHES, tmp_path / "whole"))


def test_handlers_of_others_stay_theirs(tmp_path, handlers):
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append("mine"))
    mine = signal.getsignal(signal.SIGINT)
    found = fitted(MINIBATCHES, tmp_path, Signal(signal.SIGINT, 14))
    assert (heard, found.status) == (["mine"], jf.Status.COMPLETED)
    assert signal.getsignal(signal.SIGINT) is mine
    assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]


@pytest.mark.parametrize("name", ["shuffled", "from_files"])
def test_in_another_thread(name, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fitted(CASES[name], tmp_path / "there")))
    thread.start()
    thread.join()
    assert_same(found[0], fitted(CASES[name], tmp_path / "here"))


# kill -9

SCRIPT = """
import sys
from pathlib import Path

import jax
import numpy as np

import jaxfit as jf
from jaxfit import _compile, nn
from jaxfit.data import from_files

for options in (_compile.LEAN, _compile.HASTY):  # as in the process of the tests
    options["xla_backend_optimization_level"] = "0"

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(size=(500, 8)).astype(np.float32)
y = np.argmax(x[:, :3], axis=1).astype(np.int32)
rngs = nn.Rngs(0)
net = nn.Sequential(
    nn.Linear(8, 32, rngs=rngs), nn.BatchNorm1d(32, rngs=rngs), nn.ReLU(), nn.Dropout(0.2, rngs=rngs),
    nn.Linear(32, 3, rngs=rngs),
)
sources = {
    "memory": {"data": (x[100:], y[100:]), "batch_size": 32},
    "files": {"data": from_files((x[100:], y[100:]), batch_size=32, shuffle=True, key=1)},
}
found = {}
for name, source in sources.items():
    result = jf.fit(
        net, **source, loss=jf.losses.cross_entropy, optimizer=jf.optimizers.SGD(0.01, momentum=0.9), epochs=150,
        validation=(x[:100], y[:100]), metrics={"accuracy": jf.metrics.accuracy}, progress=False,
        callbacks=[
            lambda seen: print(name, seen.step, flush=True), jf.callbacks.EarlyStopping(patience=10_000),
            jf.callbacks.Checkpoint(folder / name, every=70),
        ],
    )
    for part in ("params", "model_state", "history"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(result, part)):
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            found[f"{name} {part} {jax.tree_util.keystr(path)}"] = leaf
    found |= {f"{name} loss": result.loss, f"{name} steps": result.steps, f"{name} message": result.message}
np.savez(folder / "found.npz", **found)
"""


@pytest.fixture
def started():
    """A function that runs a script in a new process, whose output is read line by line; none outlives the test."""
    processes = []

    def start(script, folder):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-W", "error", script, folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        with process:
            pass


def test_kill_9_at_any_moment_changes_no_bit(started, tmp_path):
    script, rng = tmp_path / "run.py", random.Random(1)
    script.write_text(SCRIPT)
    undisturbed = started(script, tmp_path / "whole")
    for name in ("memory", "memory", "files", "files"):
        process = started(script, tmp_path / "parts")
        assert any(line.startswith(name) for line in process.stdout), process.stderr.read()
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it had ended before"
    for process in (started(script, tmp_path / "parts"), undisturbed):
        errors = process.communicate()[1]
        assert (process.returncode, errors) == (0, "")
    whole, parts = (np.load(tmp_path / name / "found.npz") for name in ("whole", "parts"))
    assert len(whole.files) > 20
    assert whole.files == parts.files
    assert [name for name in whole.files if whole[name].tobytes() != parts[name].tobytes()] == []
    assert whole["memory history ['loss']"].shape == whole["files history ['loss']"].shape == (150 * 13,)
    assert whole["files history ['validation_accuracy']"][-1] > 0.9


# -- what a review found --------------------------------------------------------------------------------------------


def root(params, x):
    return jnp.sqrt(params[0]) * x[:, 0]


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_that_ended_at_nan_ends_there_again(every, tmp_path):
    data = X, -X[:, 0]  # a smaller root is better, and the best of all none
    case = FULL | {"model": root, "data": data, "params": np.ones(1, np.float32), "optimizer": SGD(0.2), "steps": 60}
    expected = fitted(case, tmp_path, every=every, keep=5)
    assert not expected.success
    assert 0 < expected.steps < 60
    assert_same(fitted(case, tmp_path, every=every, keep=5), expected)


def test_a_finished_runs_checkpoint_is_not_written_again(tmp_path):
    fitted(MINIBATCHES, tmp_path, keep=1)
    (folder,) = tmp_path.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    fitted(MINIBATCHES, tmp_path, keep=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@dataclasses.dataclass
class Factor:
    value: float


class Line:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, params, x):
        return params[0] * x[:, 0] * self.factor + params[1]

    def steep(self, params, x):
        return self(params, x) * self.factor


def closing(factor):
    held = Factor(factor)
    return lambda params, x: params[0] * x[:, 0] * held.value + params[1]


def looked_up(function):
    table = {"shape": function}
    return lambda params, x: table["shape"](params[0] * x[:, 0]) + params[1]


def scaled(params, x, factor):
    return params[0] * x[:, 0] * factor + params[1]


def layers(shape=nnx.relu, rate=0.1):
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), shape, nnx.Dropout(rate, rngs=rngs), nnx.Linear(4, 1, rngs=rngs))


def stack(shape):
    return linen.Sequential([linen.Dense(3), shape, linen.Dense(1)])


ADAM = {"optimizer": Adam(0.01)}
# The same again, made anew, must be taken for the same, and what comes after it must not.
ALIKE = {
    "a dataclass in a closure": (lambda: {"model": closing(1.0)}, lambda: {"model": closing(2.0)}),
    "functions in a dict": (lambda: {"model": looked_up(jnp.sin)}, lambda: {"model": looked_up(jnp.cos)}),
    "an array in a partial": tuple(
        lambda number=number: {"model": functools.partial(scaled, factor=np.array([number], np.float32))}
        for number in (1, 2)
    ),
    "attributes": (lambda: {"model": Line(1.0)}, lambda: {"model": Line(2.0)}),
    "a bound method": (lambda: {"model": Line(1.0).steep}, lambda: {"model": Line(2.0).steep}),
    "a function between layers": (lambda: {"model": layers()}, lambda: {"model": layers(nnx.tanh)}),
    "a rate of dropout": (lambda: {"model": layers()}, lambda: {"model": layers(rate=0.5)}),
    "linen": (lambda: {"model": stack(linen.relu)}, lambda: {"model": stack(linen.tanh)}),
    "optax": (lambda: {"optimizer": optax.adam(0.1)}, lambda: {"optimizer": optax.adam(0.2)}),
    "a chain": tuple(
        lambda most=most: {"optimizer": optax.chain(optax.clip(most), optax.sgd(0.1))} for most in (1.0, 2.0)
    ),
    "a schedule": tuple(
        lambda steps=steps: {"optimizer": Adam(optax.cosine_decay_schedule(0.1, steps))} for steps in (100, 200)
    ),
    "batches of a list": tuple(
        lambda more=more: {"data": [(x, y + more) for x, y in BATCHES], "batch_size": None} for more in (0, 1)
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_same_is_known_again_and_what_differs_is_refused(name, tmp_path):
    same, other = ALIKE[name]
    is_module = isinstance(same().get("model"), (nnx.Module, linen.Module))
    start = np.zeros(2, np.float32)
    plain = MINIBATCHES | ADAM | {"model": closing(1.0), "params": start, "steps": 2, "batch_size": None}
    plain |= {"params": None, "data": (X, Y[:, None])} if is_module else {}
    for _ in range(2):
        jf.fit(**plain | same(), callbacks=[Checkpoint(tmp_path, every=2)])
    with pytest.raises(ValueError, match="those of another run"):
        jf.fit(**plain | other(), callbacks=[Checkpoint(tmp_path, every=2)])


def test_an_attribute_is_no_global(tmp_path, monkeypatch):
    model = lambda params, x: params[0] * x[:, 0] + params[1] * jnp.ones_like(x[:, 0]).mean()
    monkeypatch.setitem(globals(), "mean", 1)
    case = MINIBATCHES | ADAM | {"model": model, "params": np.zeros(2, np.float32), "steps": 2}
    jf.fit(**case, callbacks=[Checkpoint(tmp_path)])
    monkeypatch.setitem(globals(), "mean", 2)
    jf.fit(**case, callbacks=[Checkpoint(tmp_path)])


def test_an_exception_leaves_a_checkpoint_of_where_the_run_stood(tmp_path):
    expected = fitted(MINIBATCHES, tmp_path / "whole", every=1000)
    with pytest.raises(Killed):
        fitted(MINIBATCHES, tmp_path / "parts", Death(14), every=1000)
    witness = Witness()
    assert_same(fitted(MINIBATCHES, tmp_path / "parts", witness, every=1000), expected)
    assert witness.start > 0


def test_two_of_them_in_one_run(tmp_path):
    more = Checkpoint(tmp_path / "more", every=7)
    expected = fitted(MINIBATCHES, tmp_path / "one", more, every=10)
    assert {path.name for path in (tmp_path / "more").iterdir()} <= {"7", "14", "21", "28", "33-end"}
    assert_same(fitted(MINIBATCHES, tmp_path / "more"), expected)


def test_a_memory_of_numpys_numbers(tmp_path):
    class Counter(Callback):
        def begin(self, _):
            self.count = np.int64(0)

        def __call__(self, _):
            self.count += 1

        def memory(self):
            return {"count": self.count}

        def recall(self, memory):
            self.recalled = memory["count"]

    fitted(MINIBATCHES, tmp_path, Counter())
    again = Counter()
    fitted(MINIBATCHES, tmp_path, again)
    assert again.recalled >= 1
