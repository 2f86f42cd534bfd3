"""Metrics: scikit-learn's values for every option, jit and vmap, what counts and what does not, and bad input."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

import jaxfit as jf
from jaxfit import metrics
from jaxfit._compile import HASTY

N, C = 40, 5
NAMES = metrics.__all__
REGRESSION = ("mean_absolute_error", "r2")
AVERAGED = ("f1", "precision", "recall")
THEIRS = {"f1": oracle.f1_score, "precision": oracle.precision_score, "recall": oracle.recall_score}

# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


def one_hot(labels):
    return np.eye(C, dtype=np.float32)[labels]


def drawn():
    """Predicted and actual labels: of all classes, and with classes that only one of them has, or neither."""
    rng = np.random.default_rng(1)
    actual = rng.integers(0, C, N)
    predicted = np.where(rng.random(N) < 0.6, actual, rng.integers(0, C, N))
    return {
        "all classes": (predicted, actual),
        "one never predicted": (np.where(predicted == 3, 0, predicted), actual),
        "one never present": (predicted, np.where(actual == 2, 1, actual)),
        "one in neither": (predicted % 4, actual % 4),
        "disjoint": (predicted % 2, actual % 2 + 3),
        "a single class": (0 * predicted + 2, 0 * actual + 2),
        "perfect": (actual, actual),
    }


DATA = drawn()
OPTIONS = list(itertools.product(AVERAGED, ("macro", "micro", "weighted", None), (0.0, 1.0)))
NORMALIZED = (None, "true", "pred", "all")


@quick
def everything(predicted, scores, actual):
    """Every option on labels and on scores, compiled as one program for all data."""
    found = {}
    for name, average, zero in OPTIONS:
        metric = functools.partial(getattr(metrics, name), average=average, zero_division=zero)
        found[f"{name} {average} {zero}"] = metric(predicted, actual, classes=C), metric(scores, actual)
    for normalize in NORMALIZED:
        metric = functools.partial(metrics.confusion_matrix, normalize=normalize)
        found[f"confusion_matrix {normalize}"] = metric(predicted, actual, classes=C), metric(scores, actual)
    found["accuracy"] = metrics.accuracy(predicted, actual), metrics.accuracy(scores, actual)
    return found


@functools.cache
def computed(data):
    predicted, actual = DATA[data]
    return everything(predicted, one_hot(predicted), actual)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("name", "average", "zero"), OPTIONS)
def test_precision_recall_and_f1_are_those_of_scikit_learn(name, average, zero, data):
    predicted, actual = DATA[data]
    labels = range(C) if average is None else None
    expected = THEIRS[name](actual, predicted, average=average, zero_division=zero, labels=labels)
    for found in computed(data)[f"{name} {average} {zero}"]:
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("normalize", NORMALIZED)
def test_confusion_matrix_is_that_of_scikit_learn(normalize, data):
    predicted, actual = DATA[data]
    expected = oracle.confusion_matrix(actual, predicted, labels=range(C), normalize=normalize)
    for found in computed(data)[f"confusion_matrix {normalize}"]:
        assert found.dtype == (jnp.int32 if normalize is None else jnp.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("data", DATA)
def test_accuracy_is_that_of_scikit_learn(data):
    predicted, actual = DATA[data]
    for found in computed(data)["accuracy"]:
        np.testing.assert_allclose(found, oracle.accuracy_score(actual, predicted), rtol=1e-6)


@quick
def binary_ways(scores, predicted, actual):
    """The F1, precision and recall of class 1, for every way to write the same samples."""

    def ways(metric):
        return (
            metric(predicted, actual),
            metric(predicted, actual, classes=2),
            metric(predicted == 1, actual == 1),
            metric(scores, actual, threshold=0.3),
            metric(scores[:, None], actual[:, None].astype(float), threshold=0.3),
            metric(jnp.stack([0.3 + 0 * scores, scores], 1), actual),
        )

    options = {"average": "binary", "zero_division": 1.0}
    return {name: ways(functools.partial(getattr(metrics, name), **options)) for name in AVERAGED}


@pytest.mark.parametrize("present", [(0, 1), (0,), (1,)], ids=["both", "only 0", "only 1"])
@pytest.mark.parametrize("name", AVERAGED)
def test_binary_average_is_that_of_scikit_learn(name, present, rng):
    scores = rng.normal(size=N)
    predicted, actual = (scores > 0.3).astype(int), rng.choice(present, N)
    expected = THEIRS[name](actual, predicted, average="binary", zero_division=1.0)
    np.testing.assert_allclose(binary_ways(scores, predicted, actual)[name], [expected] * 6, rtol=1e-6)


@pytest.mark.parametrize("k", range(1, C + 1))
def test_top_k_accuracy_is_that_of_scikit_learn(k, rng):
    scores, actual = rng.normal(size=(N, C)).astype(np.float32), np.arange(N) % C
    shares = [np.mean([label in row.argsort()[-k:] for row, label in zip(scores, actual, strict=True)])]
    if k < C:  # there scikit-learn warns
        shares.append(oracle.top_k_accuracy_score(actual, scores, k=k))
    found = jax.jit(functools.partial(metrics.top_k_accuracy, k=k))(scores, actual)
    np.testing.assert_allclose([found] * len(shares), shares, rtol=1e-6)


NUMBERS = {
    "one output": lambda rng: rng.normal(size=(2, 30)),
    "several outputs": lambda rng: rng.normal(size=(2, 30, 3)),
    "one perfect output": lambda rng: np.stack([rng.normal(size=(30, 2)), np.zeros((30, 2))]) * [1, 0],
    "constant target": lambda rng: np.stack([rng.normal(size=30), np.full(30, 0.1)]),
    "constant and right": lambda rng: np.full((2, 30), 0.5),
    "one constant output": lambda rng: rng.normal(size=(2, 30, 2)) * [[[1, 1]], [[1, 0]]],
    "far off": lambda rng: rng.normal([[0], [100]], 1, (2, 30)),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_metrics_of_numbers_are_those_of_scikit_learn(case, rng):
    prediction, target = NUMBERS[case](rng).astype(np.float32)
    ours = quick(lambda *pair: {name: getattr(metrics, name)(*pair) for name in REGRESSION})
    found = ours(prediction, target)
    for name, theirs in (("mean_absolute_error", oracle.mean_absolute_error), ("r2", oracle.r2_score)):
        # The mean of thirty 0.1 is not 0.1 in float32 nor in float64: only ours takes that for constant.
        expected = 0.0 if (name, case) == ("r2", "constant target") else theirs(target.astype(float), prediction)
        np.testing.assert_allclose(found[name], expected, rtol=2e-5)


@pytest.mark.parametrize("unit", [1e-30, 1e-3, 1e30])
def test_r2_does_not_depend_on_the_unit(unit):
    prediction, target = np.float32(unit) * np.array([[1, 2, 4], [1, 2, 3]], np.float32)
    np.testing.assert_allclose(quick(metrics.r2)(prediction, target), 0.5, rtol=1e-5)


def test_numbers_that_are_nan_are_seen():
    assert jnp.isnan(metrics.r2([1.0, np.nan], [1.0, 1.0]))
    assert jnp.isnan(metrics.r2([1.0, 2.0], [1.0, np.nan]))
    assert jnp.isnan(metrics.mean_absolute_error([1.0, np.nan], [1.0, 1.0]))


def test_small_cases_by_hand():
    # Class 0: predicted 1, present 2, hit 1; class 1: predicted 2, present 1, hit 1; class 2: nothing is hit.
    predicted, actual = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 3])

    def values(**options):
        return quick(functools.partial(metrics.f1, classes=5, **options))(predicted, actual)

    np.testing.assert_allclose(values(average=None), [2 / 3, 2 / 3, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(values(average="macro"), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(values(average="micro"), 0.5, rtol=1e-6)
    np.testing.assert_allclose(values(average="weighted"), 0.5, rtol=1e-6)
    np.testing.assert_allclose(values(average="macro", zero_division=1.0), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(values(average=None, zero_division=1.0)[4], 1)
    assert metrics.confusion_matrix([1, 1, 0], [0, 1, 0], 2).tolist() == [[1, 1], [0, 1]]
    assert metrics.mean_absolute_error([1, 2], [2, 4]) == 1.5
    assert metrics.r2([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == -3


def test_of_equal_scores_the_first_come_first():
    scores = np.array([[1.0, 1.0, 1.0, 0.0]])
    expected = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])

    @quick
    def shares(scores):
        each = functools.partial(jax.vmap, in_axes=(None, 0))
        top = [each(functools.partial(metrics.top_k_accuracy, k=k))(scores, labels) for k in (1, 2, 3, 4)]
        return jnp.stack(top, 1), each(metrics.accuracy)(scores, labels)

    labels = jnp.arange(4)[:, None]
    for row in (scores, np.full((1, 4), -np.inf)):
        top, first = shares(row)
        np.testing.assert_array_equal(top, expected)
        np.testing.assert_array_equal(first, expected[:, 0])


def test_a_threshold_itself_means_class_0_and_may_be_traced():
    scores, actual = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    swept = jax.vmap(lambda limit: metrics.accuracy(scores, actual, threshold=limit))(jnp.array([-2.0, 0.0, 1.0]))
    assert swept.tolist() == [0.5, 1.0, 0.75]


@pytest.mark.parametrize("name", ["accuracy", "confusion_matrix", "f1", "precision", "recall", "top_k_accuracy"])
def test_pixels_probabilities_and_ignored_samples(name, rng):
    """All ways to write the same samples give the same value."""
    metric = getattr(metrics, name)
    if name == "top_k_accuracy":
        metric = functools.partial(metric, k=2)
    scores, labels = rng.normal(size=(4, C, 3, 2)).astype(np.float32), rng.integers(0, C, (4, 3, 2))
    flat, column = np.moveaxis(scores, 1, -1).reshape(-1, C), labels.ravel()
    soft = np.moveaxis(0.9 * one_hot(labels), -1, 1)
    longer, padded = np.concatenate([flat, flat[:3]]), np.concatenate([column, [-100] * 3])
    whole = [(flat, column), (scores, labels), (scores, soft), (scores, (soft > 0).astype(int)), (longer, padded)]
    fewer = flat[column != 2], column[column != 2]

    def ways(whole, fewer):
        same = [metric(*pair) for pair in whole]
        same.append(metric(whole[-1][0], jnp.where(padded == -100, 77, padded), ignore_index=77))
        return same, metric(*fewer), metric(*whole[1], ignore_index=2)

    (expected, *others), without, ignored = quick(ways)(whole, fewer)
    for other in others:
        np.testing.assert_allclose(other, expected, rtol=1e-6)
    np.testing.assert_allclose(ignored, without, rtol=1e-6)


def test_ignored_labels_also_where_labels_or_a_threshold_are_given():
    assert metrics.accuracy([1, 2, 3], [1, -100, 0]) == 0.5
    assert metrics.accuracy([1.0, -1.0, 1.0], [1, -100, 0], threshold=0.0) == 0.5
    assert metrics.accuracy([-1, 1], [-1, 1]) == 1
    assert metrics.confusion_matrix([1, 0], [-100, 0], classes=2).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_where_everything_is_ignored(zero):

    def found(scores, labels):
        shares = metrics.accuracy(scores, labels), metrics.top_k_accuracy(scores, labels, k=1)
        averages = [
            getattr(metrics, name)(scores, labels, average=average, zero_division=zero)
            for name, average in itertools.product(AVERAGED, ("macro", "micro", "weighted", "binary"))
        ]
        return shares, averages, [metrics.confusion_matrix(scores, labels, normalize=option) for option in NORMALIZED]

    shares, averages, matrices = quick(found)(np.ones((3, 2)), np.full(3, -100))
    assert np.isnan(shares).all()
    assert (np.array(averages) == zero).all()
    assert not np.any(matrices)


def test_nan_scores_are_wrong():
    scores = np.array([[np.nan, 0.0], [0.0, 1.0], [2.0, np.nan]])
    labels = np.array([0, 1, 0])

    def found(scores, labels):
        return {
            "accuracy": metrics.accuracy(scores, labels),
            "top k": metrics.top_k_accuracy(scores, labels, k=2),
            "matrix": metrics.confusion_matrix(scores, labels),
            "recall": metrics.recall(scores, labels, average=None),
            "binary": metrics.accuracy(scores[:, 0], labels, threshold=1.0),
            "target": metrics.accuracy(jnp.nan_to_num(scores), scores),
        }

    values = quick(found)(scores, labels)
    np.testing.assert_allclose([values["accuracy"], values["top k"]], 1 / 3, rtol=1e-6)
    assert values["matrix"].tolist() == [[0, 0], [0, 1]]
    assert values["recall"].tolist() == [0, 1]
    assert values["binary"] == 0
    np.testing.assert_allclose(values["target"], 1 / 3, rtol=1e-6)
    assert metrics.accuracy(scores[:, 1], labels, threshold=0.5) == jnp.float32(2 / 3)


@functools.cache
def compiled(name, **options):
    return quick(functools.partial(getattr(metrics, name), **options))


@pytest.mark.parametrize("label", [2, -1, 2**31 - 1])
@pytest.mark.parametrize("name", ["accuracy", "confusion_matrix", "f1", "precision", "recall", "top_k_accuracy"])
def test_labels_out_of_range_raise_and_are_wrong_under_jit(name, label):
    options = {"k": 2} if name == "top_k_accuracy" else {}
    metric = functools.partial(getattr(metrics, name), **options)
    scores, target = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, label])
    with pytest.raises(ValueError, match=rf"^{name}: target has the label {label}; .* 2 classes"):
        metric(scores, target)
    expected = [[1, 0], [0, 0]] if name == "confusion_matrix" else 0.5
    np.testing.assert_allclose(compiled(name, **options)(scores, target), expected)
    if name not in ("accuracy", "top_k_accuracy"):
        with pytest.raises(ValueError, match=rf"^{name}: prediction has the label {label}; .* 2 classes"):
            metric(target, [0, 1], classes=2)
        np.testing.assert_allclose(compiled(name, classes=2)(target, np.array([0, 1])), expected)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype(dtype):
    predicted, actual = np.array([0, 1, 1], dtype), np.array([0, 1, 0], dtype)
    scores = np.eye(2, dtype=np.float32)[predicted.astype(int)]

    def ways(predicted, scores, actual):
        return metrics.f1(predicted, actual, classes=2), metrics.f1(scores, actual)

    np.testing.assert_allclose(quick(ways)(predicted, scores, actual), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.accuracy(predicted, actual), 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_results_are_at_least_float32(dtype):
    scores = jnp.eye(2, dtype=dtype)
    for metric in (metrics.accuracy, metrics.f1, functools.partial(metrics.top_k_accuracy, k=1)):
        assert jax.eval_shape(metric, scores, jnp.array([0, 1])).dtype == jnp.float32
    large = jnp.array([6e4, -6e4], dtype)
    values = quick(lambda *pair: (metrics.mean_absolute_error(*pair), metrics.r2(*pair)))(large, -large)
    assert {value.dtype for value in values} == {jnp.dtype("float32")}
    np.testing.assert_allclose(values, [2 * float(large[0]), -3])


def test_results_are_float64_where_the_prediction_is():
    with jax.enable_x64(True):
        scores, labels = np.array([[1.0, 0.0]] * 3), np.array([0, 1, 0])
        found = quick(lambda *pair: (metrics.accuracy(*pair), metrics.f1(*pair), metrics.r2(pair[0], pair[0])))
        values = found(scores, labels)
        assert {value.dtype for value in values} == {jnp.dtype("float64")}
        np.testing.assert_allclose(values, [2 / 3, 0.4, 1], rtol=1e-15)
        assert jax.eval_shape(metrics.accuracy, scores.astype(np.float32), labels).dtype == jnp.float32


def test_ten_million_samples_are_counted_right():
    # 2**24 + 10: from here on float32 has no odd numbers, and a sum of ones in float32 stands still.
    n = 2**24 + 10
    predicted, actual = np.ones(n, np.int8), np.ones(n, np.int8)
    actual[: n // 4] = 0
    for metric in (metrics.accuracy, functools.partial(metrics.precision, average="binary")):
        np.testing.assert_allclose(jax.jit(metric)(predicted, actual), 1 - (n // 4) / n, rtol=2e-7)


def examples(rng):
    """Arguments of every metric, several sets of them."""
    scores, labels = rng.normal(size=(3, N, C)).astype(np.float32), rng.integers(0, C, (3, N))
    numbers = dict.fromkeys(REGRESSION, (scores, scores[::-1]))
    return dict.fromkeys(NAMES, (scores, labels)) | numbers


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_vmap_change_nothing(name, rng):
    metric, (predictions, targets) = getattr(metrics, name), examples(rng)[name]
    if name == "top_k_accuracy":
        metric = functools.partial(metric, k=3)
    plain = [metric(*pair) for pair in zip(predictions, targets, strict=True)]
    one, mapped = quick(lambda *pairs: (metric(pairs[0][0], pairs[1][0]), jax.vmap(metric)(*pairs)))(
        predictions, targets
    )
    np.testing.assert_allclose(mapped, plain, rtol=1e-5)
    np.testing.assert_allclose(one, plain[0], rtol=1e-5)
    assert one.dtype == mapped.dtype == plain[0].dtype
    np.testing.assert_allclose(metric(predictions[0].tolist(), targets[0].tolist()), plain[0], rtol=1e-6)


def test_metrics_of_a_fit(rng):
    x = rng.normal(size=(64, 2)).astype(np.float32)
    y = (x[:, 0] > x[:, 1]).astype(int)
    chosen = {
        "accuracy": metrics.accuracy,
        "top 1": functools.partial(metrics.top_k_accuracy, k=1),
        "f1": functools.partial(metrics.f1, average="binary"),
    }
    found = jf.fit(
        lambda params, x: x @ params,
        (x, y),
        np.zeros((2, 2), np.float32),
        loss=jf.losses.cross_entropy,
        optimizer=jf.optimizers.Adam(0.1),
        epochs=20,
        metrics=chosen,
    )
    last = {name: np.asarray(found.history[name])[-1] for name in chosen}
    scores = x @ np.asarray(found.params)
    np.testing.assert_allclose(last["accuracy"], oracle.accuracy_score(y, scores.argmax(1)), atol=0.05)
    assert last["accuracy"] == last["top 1"]
    assert last["f1"] > 0.9


THREE, LABELS = np.ones((2, 3)), [0, 1]
BAD = {
    "logits without threshold": ("accuracy", ([0.1, 0.9], [0, 1]), {}, ValueError, "threshold=0.0 for logits"),
    "one column": ("accuracy", ([[0.1], [0.9]], [0, 1]), {}, ValueError, "single class in axis 1"),
    "one column, threshold": ("f1", ([[0.1], [0.9]], [0, 1]), {"threshold": 0.5}, ValueError, "same shape"),
    "threshold for labels": ("f1", (LABELS, LABELS), {"threshold": 0.5}, ValueError, "Leave threshold out"),
    "threshold for classes": ("recall", (THREE, LABELS), {"threshold": 0.5}, ValueError, "same shape"),
    "two thresholds": ("recall", ([0.5], [1]), {"threshold": [0.5, 1]}, ValueError, "threshold is .*one number"),
    "threshold nan": ("recall", ([0.5], [1]), {"threshold": np.nan}, ValueError, "not NaN"),
    "target not a probability": ("f1", ([0.5], [2.0]), {"threshold": 0.5}, ValueError, "has the value 2.0"),
    "label 2 of two": ("f1", ([0.5], [2]), {"threshold": 0.5}, ValueError, "has the label 2"),
    "column of labels": ("accuracy", (LABELS, [[0], [1]]), {}, ValueError, r"x\[:, 0\]"),
    "column of targets": ("accuracy", (THREE, [[0], [1]]), {}, ValueError, r"labels of shape \(2,\)"),
    "too few targets": ("f1", (THREE, [0]), {}, ValueError, "target has shape"),
    "float labels": ("accuracy", (THREE, [0.0, 1.0]), {}, TypeError, r"target.astype\(int\)"),
    "float targets of labels": ("accuracy", (LABELS, [0.0, 1.0]), {}, TypeError, r"target.astype\(int\)"),
    "integer scores": ("top_k_accuracy", ([[1, 2]], [0]), {"k": 1}, TypeError, r"prediction.astype\(float\)"),
    "integer scores of classes": ("accuracy", ([[1, 2]], [0]), {}, ValueError, "same shape"),
    "a row of scores": ("top_k_accuracy", ([0.1, 0.9], 0), {"k": 1}, ValueError, r"prediction\[None\]"),
    "large label": ("accuracy", (np.array([2**40]), [0]), {}, ValueError, "has the label 1099511627776"),
    "empty": ("accuracy", ([], []), {}, ValueError, "prediction is empty"),
    "empty rows": ("f1", (np.ones((0, 3)), np.ones(0, int)), {}, ValueError, "prediction is empty"),
    "a string": ("accuracy", ("abc", [0]), {}, TypeError, "prediction is a str"),
    "none": ("recall", (THREE, None), {}, TypeError, "target is None"),
    "complex": ("accuracy", (1j * THREE, LABELS), {}, TypeError, "real numbers"),
    "ignore_index": ("accuracy", (THREE, LABELS), {"ignore_index": 0.5}, TypeError, "ignore_index is a float"),
    "large ignore_index": ("f1", (THREE, LABELS), {"ignore_index": 2**31}, ValueError, "32-bit integer"),
    "no classes": ("f1", (LABELS, LABELS), {}, ValueError, "classes=10"),
    "other classes": ("f1", (THREE, LABELS), {"classes": 4}, ValueError, "classes is 4 .* scores of 3"),
    "one class": ("confusion_matrix", (LABELS, LABELS), {"classes": 1}, ValueError, "at least 2"),
    "float classes": ("confusion_matrix", (LABELS, LABELS), {"classes": 2.0}, TypeError, "classes is a float"),
    "average": ("f1", (THREE, LABELS), {"average": "marco"}, ValueError, "did you mean 'macro'"),
    "binary of three": ("f1", (THREE, LABELS), {"average": "binary"}, ValueError, "with 3 classes"),
    "binary of four": ("f1", (LABELS, LABELS), {"average": "binary", "classes": 4}, ValueError, "with 4 classes"),
    "label 2 of binary": ("f1", ([0, 2], LABELS), {"average": "binary"}, ValueError, "has the label 2"),
    "zero_division": ("precision", (THREE, LABELS), {"zero_division": 0.5}, ValueError, "zero_division is 0.5"),
    "zero_division warn": ("recall", (THREE, LABELS), {"zero_division": "warn"}, ValueError, "is a str"),
    "normalize": ("confusion_matrix", (THREE, LABELS), {"normalize": "rows"}, ValueError, "normalize is 'rows'"),
    "normalize bool": ("confusion_matrix", (THREE, LABELS), {"normalize": True}, ValueError, "normalize is True"),
    "k too large": ("top_k_accuracy", (THREE, LABELS), {}, ValueError, "k is 5 and prediction has 3 classes"),
    "k zero": ("top_k_accuracy", (THREE, LABELS), {"k": 0}, ValueError, "k is 0"),
    "k float": ("top_k_accuracy", (THREE, LABELS), {"k": 1.0}, TypeError, "k is a float"),
    "shapes": ("r2", ([1.0, 2.0], [[1.0], [2.0]]), {}, ValueError, "same shape"),
    "shapes of errors": ("mean_absolute_error", ([1.0, 2.0], [1.0]), {}, ValueError, "same shape"),
    "no numbers": ("mean_absolute_error", ([], []), {}, ValueError, "prediction is empty"),
    "one sample": ("r2", ([1.0], [1.0]), {}, ValueError, "two samples or more"),
    "one number": ("r2", (1.0, 1.0), {}, ValueError, "two samples or more"),
    "words": ("r2", (["one"], [1.0]), {}, TypeError, "prediction is a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_with_the_way_out(case):
    name, arguments, options, error, message = BAD[case]
    with pytest.raises(error, match=rf"^{name}: (?s:.*)({message})"):
        getattr(metrics, name)(*arguments, **options)


def test_every_metric_has_a_docstring_with_all_arguments():
    for name in NAMES:
        text = inspect.getdoc(getattr(metrics, name))
        assert all(f"    {argument}: " in text for argument in inspect.signature(getattr(metrics, name)).parameters)
        assert all(f"\n{part}:" in text for part in ("Args", "Returns", "Raises", "Source", "Example"))


# Few shapes, as every new one is compiled.
SHAPES = st.sampled_from([(), (0,), (2,), (2, 3), (2, 1), (2, 3, 2)])
DTYPES = st.sampled_from(["float32", "float16", "int32", "uint8", "bool", "complex64"])
ODD = {
    "average": ["macro", "binary", None, "mean", 3],
    "classes": [None, 2, 3, 0, "2", 2.5],
    "zero_division": [0.0, 1, None, np.nan],
    "ignore_index": [-100, 1, None, 2**70],
    "threshold": [None, 0.5, "0", np.inf],
    "normalize": [None, "true", 1],
    "k": [1, 3, -1, None],
}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_arguments_give_a_result_or_a_message(name, data):
    metric = getattr(metrics, name)
    arguments = {}
    for argument in ("prediction", "target"):
        values = np.full(data.draw(SHAPES), data.draw(st.sampled_from([0, 1, 7])))
        arguments[argument] = data.draw(st.sampled_from([values.astype(data.draw(DTYPES)), values.tolist(), None, "x"]))
    for option in set(inspect.signature(metric).parameters) & set(ODD):
        if data.draw(st.booleans()):
            arguments[option] = data.draw(st.sampled_from(ODD[option]))
    if data.draw(st.booleans()):  # arrays that no metric refuses
        label = data.draw(st.sampled_from([0, 2]))
        numbers = np.ones((2, 3)), np.zeros((2, 3))
        classified = np.ones((2, 3)), np.full(2, label)
        arguments |= dict(zip(("prediction", "target"), numbers if name in REGRESSION else classified, strict=True))
    try:
        value = metric(**arguments)
    except (ValueError, TypeError) as error:
        assert str(error).startswith(f"{name}: ")
    else:
        assert value.dtype in (jnp.float32, jnp.int32)
        assert np.isnan(value).all() or (np.asarray(value) >= (-np.inf if name == "r2" else 0)).all()
