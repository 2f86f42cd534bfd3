"""Losses: torch's values and gradients, finite slopes, shapes and dtypes, and what bad input gets."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parity_losses
from jaxfit import losses
from jaxfit._compile import HASTY
from reference import HAVE_TORCH, reference, stored

CASES = parity_losses.table()
NAMES = losses.__all__
INF = np.inf

# Small programs, each run once: compiling is what the tests spend their time on.
quick = functools.partial(jax.jit, compiler_options=HASTY | {"xla_backend_optimization_level": 0})


@functools.cache
def computed(loss):
    """Values and gradients of all cases of a loss, compiled as one program: many small ones take twice as long."""
    cases = {name: case for name, case in CASES.items() if case.loss == loss}

    def value(free, case):
        arguments = {key: free.get(key, array) for key, array in case.arrays.items()}
        if loss == "ctc":
            arguments["log_probs"] = jax.nn.log_softmax(arguments["log_probs"])
        values = getattr(losses, loss)(**arguments, **case.options)
        return jnp.sum(values * parity_losses.cotangent(values.shape)), values

    def everything(free):
        return {name: jax.value_and_grad(value, has_aux=True)(free[name], case) for name, case in cases.items()}

    with jax.enable_x64(True):
        free = {name: {key: case.arrays[key] for key in case.differentiate} for name, case in cases.items()}
        found = quick(everything)(free)
        return {
            name: {"value": np.asarray(values)} | {f"grad_{key}": np.asarray(array) for key, array in slopes.items()}
            for name, ((_, values), slopes) in found.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name):
    ours, theirs = computed(CASES[name].loss)[name], reference("losses", name)
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        assert ours[key].dtype == array.dtype
        np.testing.assert_allclose(ours[key], array, rtol=1e-10, atol=1e-12, err_msg=key, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_stored_values_are_those_of_torch(name):
    live = reference("losses", name) if HAVE_TORCH else computed(CASES[name].loss)[name]
    for key, array in stored("losses")[name].items():
        np.testing.assert_allclose(live[key], array, rtol=1e-10, atol=1e-12, err_msg=key, strict=True)


def test_every_loss_has_cases_for_every_option():
    assert {case.loss for case in CASES.values()} == set(NAMES)
    for name in NAMES:
        used = {key for case in CASES.values() if case.loss == name for key in (*case.arrays, *case.options)}
        assert used == set(inspect.signature(getattr(losses, name)).parameters)


@functools.cache
def example(loss):
    """A plain case of each loss, as float32 arrays."""
    case = next(case for case in CASES.values() if case.loss == loss)
    return {key: array.astype(np.float32) if array.dtype == float else array for key, array in case.arrays.items()}


@pytest.mark.parametrize("loss", NAMES)
def test_jit_and_reductions_agree(loss):
    function, arrays = getattr(losses, loss), example(loss)

    def reduced(arrays):
        return {reduction: function(**arrays, reduction=reduction) for reduction in ("mean", "sum", "none")}

    values = quick(reduced)(arrays)
    np.testing.assert_allclose(values["sum"], np.sum(values["none"]), rtol=1e-6)
    each = values["none"] / np.maximum(arrays["target_lengths"], 1) if loss == "ctc" else values["none"]
    np.testing.assert_allclose(values["mean"], np.mean(each), rtol=1e-6)
    plain = function(**arrays)
    np.testing.assert_allclose(plain, values["mean"], rtol=1e-6)
    assert plain.dtype == values["none"].dtype == jnp.float32


@pytest.mark.parametrize("loss", NAMES)
def test_vmap_is_a_loop(loss):
    function, arrays = getattr(losses, loss), example(loss)
    first = next(iter(arrays))
    several = np.stack([arrays[first], 0.5 * arrays[first]])

    def one(array):
        return function(**{**arrays, first: array})

    batched, looped = quick(lambda several: (jax.vmap(one)(several), [one(array) for array in several]))(several)
    np.testing.assert_allclose(batched, looped, rtol=2e-6)


@pytest.mark.parametrize("loss", NAMES)
def test_half_precision_stays(loss):
    first = next(iter(example(loss)))

    def values(arrays):
        return jax.value_and_grad(lambda x: getattr(losses, loss)(**{**arrays, first: x}))(arrays[first])

    dtypes = (jnp.float16, jnp.bfloat16, jnp.float32)
    arrays = [{k: a.astype(t) if a.dtype == np.float32 else a for k, a in example(loss).items()} for t in dtypes]
    *halves, (exact, _) = quick(lambda arrays: [values(a) for a in arrays])(arrays)
    for (value, slope), dtype in zip(halves, dtypes, strict=False):
        assert value.dtype == slope.dtype == dtype
        assert np.isfinite(slope.astype(np.float32)).all()
        np.testing.assert_allclose(float(value), float(exact), rtol=0.05, atol=0.02)


def test_half_precision_sums_do_not_overflow():
    large = jnp.full(1000, 20.0, jnp.float16)
    assert float(losses.mse(large, 0 * large)) == 400.0
    assert float(losses.mse(large, 0 * large, weight=jnp.ones(1000))) == 400.0


@pytest.mark.parametrize(
    ("loss", "option", "values"),
    [("huber", "delta", [0.5, 2.0]), ("smooth_l1", "beta", [0.0, 2.0]), ("hinge_embedding", "margin", [0.5, 2.0])],
)
def test_numeric_options_may_be_traced(loss, option, values):
    function, arrays = getattr(losses, loss), example(loss)
    swept = jax.vmap(lambda value: function(**arrays, **{option: value}))(jnp.array(values))
    np.testing.assert_allclose(swept, [function(**arrays, **{option: value}) for value in values], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "arguments", "expected"),
    [
        ("kl_div", ([-INF, -1.0], [0.0, 1.0]), [0.0, 1.0]),
        ("cross_entropy", ([[1.0, -INF]], [[1.0, 0.0]]), [0.0]),
        ("soft_margin", ([1e3, -1e3, 1e3], [-1.0, 1.0, 1.0]), [1e3, 1e3, 0.0]),
        ("poisson_nll", ([0.0, 1.0], [0.0, 0.0]), [1.0, np.e]),
        ("triplet_margin", ([[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]), [1.0]),
        ("cosine_embedding", ([[0.0, 0.0]], [[0.0, 0.0]], [1.0]), [1.0]),
        ("smooth_l1", ([INF], [0.0]), [INF]),
        ("huber", ([INF], [0.0]), [INF]),
    ],
)
def test_values_and_slopes_are_clean_where_torch_overflows_or_divides_by_zero(loss, arguments, expected):
    arguments = [jnp.array(a) for a in arguments]
    function = functools.partial(getattr(losses, loss), reduction="none")
    np.testing.assert_allclose(function(*arguments), expected, rtol=1e-6, atol=1e-12)
    everywhere = tuple(range(len(arguments)))
    for slope in quick(jax.grad(lambda *a: jnp.sum(function(*a)), everywhere))(*arguments):
        assert not jnp.isnan(slope).any()
    if loss == "poisson_nll":
        slope = quick(jax.grad(lambda t: losses.poisson_nll(arguments[0], t, full=True)))(arguments[1])
        assert jnp.isfinite(slope).all()


def test_ctc_without_alignment_in_a_batch_leaves_the_others_alone():
    log_probs = jax.nn.log_softmax(jnp.zeros((2, 2, 3)))
    arguments = (np.array([[1, 1], [1, 2]]), np.array([2, 2]), np.array([2, 2]))
    values = losses.ctc(log_probs, *arguments, reduction="none")
    assert values[0] == jnp.inf
    np.testing.assert_allclose(values[1], np.log(9), rtol=1e-6)
    slope = jax.grad(lambda x: losses.ctc(x, *arguments, zero_infinity=True))(log_probs)
    assert (slope[:, 0] == 0).all()
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_dtype(dtype):
    prediction = np.arange(6.0).reshape(2, 3)
    expected = losses.cross_entropy(prediction, np.array([2, 0]))
    assert losses.cross_entropy(prediction, np.array([2, 0], dtype)) == expected
    assert quick(losses.cross_entropy)(prediction, np.array([2, 0], dtype)) == expected


@pytest.mark.parametrize("label", [3, -1, 2**31 - 1])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll", "multi_margin"])
def test_labels_out_of_range_raise_and_are_nan_under_jit(loss, label):
    prediction, target = np.zeros((2, 3)), np.array([0, label])
    with pytest.raises(ValueError, match=rf"{loss}: target has the label {label}; .* 3 classes"):
        getattr(losses, loss)(prediction, target)
    assert jnp.isnan(quick(getattr(losses, loss))(prediction, target))


def test_ctc_labels_and_lengths_out_of_range():
    log_probs = np.zeros((4, 1, 3))
    with pytest.raises(ValueError, match=r"ctc: targets has the label 3"):
        losses.ctc(log_probs, np.array([[3]]), np.array([4]), np.array([1]))
    with pytest.raises(ValueError, match=r"ctc: input_lengths has the entry 5"):
        losses.ctc(log_probs, np.array([[1]]), np.array([5]), np.array([1]))
    with pytest.raises(ValueError, match=r"ctc: target_lengths has the entry 2"):
        losses.ctc(log_probs, np.array([[1]]), np.array([4]), np.array([2]))
    with pytest.raises(ValueError, match=r"ctc: targets has 1 labels; expected 2"):
        losses.ctc(log_probs, np.array([1]), np.array([4]), np.array([2]))
    compiled = quick(losses.ctc)
    assert jnp.isnan(compiled(log_probs, np.array([[3]]), np.array([4]), np.array([1])))
    assert jnp.isnan(compiled(log_probs, np.array([[1]]), np.array([5]), np.array([1])))
    joined = compiled(log_probs, np.array([1, 2]), np.array([4]), np.array([2]))
    np.testing.assert_allclose(joined, losses.ctc(log_probs, [[1, 2]], [4], [2]), rtol=1e-6)


BAD = [
    ("mse", ([1.0, 2.0], [[1.0], [2.0]]), {}, ValueError, "same shape"),
    ("mse", ([1, 2], [1, 2]), {}, TypeError, "prediction is int32"),
    ("mse", ([1j], [1.0]), {}, TypeError, "real numbers"),
    ("mse", ("abc", [1.0]), {}, TypeError, "prediction is a str"),
    ("mse", ([1.0], None), {}, TypeError, "target is None"),
    ("mse", ([], []), {}, ValueError, "empty"),
    ("mse", ([1.0], [1.0]), {"reduction": "means"}, ValueError, "did you mean 'mean'"),
    ("mse", ([1.0], [1.0]), {"reduction": "avg"}, ValueError, "reduction is 'avg'"),
    ("mse", ([1.0], [1.0]), {"weight": [1.0, 2.0]}, ValueError, "weight has shape"),
    ("mse", ([1.0], [1.0]), {"reduction": "batchmean"}, ValueError, "reduction"),
    ("huber", ([1.0], [1.0]), {"delta": 0.0}, ValueError, "greater than 0"),
    ("huber", ([1.0], [1.0]), {"delta": INF}, ValueError, "delta is inf"),
    ("huber", ([1.0], [1.0]), {"delta": [1.0]}, ValueError, "expected one number"),
    ("smooth_l1", ([1.0], [1.0]), {"beta": -1.0}, ValueError, "at least 0"),
    ("gaussian_nll", ([1.0], [1.0], [-1.0]), {}, ValueError, "negative"),
    ("gaussian_nll", (np.ones((4, 3)), np.ones((4, 3)), np.ones(3)), {}, ValueError, "var has shape"),
    ("binary_cross_entropy", ([1.5], [1.0]), {}, ValueError, "binary_cross_entropy_with_logits"),
    ("binary_cross_entropy", ([0.5], [1.0]), {"weight": np.ones((2, 1))}, ValueError, "broadcasts"),
    ("binary_cross_entropy_with_logits", ([0.5], [1.0]), {"pos_weight": np.ones(2)}, ValueError, "pos_weight"),
    ("cross_entropy", (np.ones((2, 3)), [0.0, 1.0]), {}, TypeError, r"labels.astype\(int\)"),
    ("cross_entropy", (np.ones((2, 3)), np.ones((2, 3), int)), {}, TypeError, "probabilities"),
    ("cross_entropy", (np.ones((2, 3)), [[0], [1]]), {}, ValueError, "target has shape"),
    ("cross_entropy", (np.ones((2, 3)), [0, 1]), {"weight": np.ones(2)}, ValueError, "weight has shape"),
    ("cross_entropy", (np.ones((2, 3)), [0, 1]), {"label_smoothing": 1.5}, ValueError, "at most 1"),
    ("cross_entropy", (np.ones((2, 3)), [0, 1]), {"ignore_index": 1.5}, TypeError, "ignore_index"),
    ("cross_entropy", (1.0, 0), {}, ValueError, "one number"),
    ("nll", (np.ones((2, 3)), [True, False]), {}, TypeError, "integer"),
    ("margin_ranking", ([1.0], [[1.0]], [1.0]), {}, ValueError, "same shape"),
    ("multi_margin", (np.ones((2, 3)), [0, 1]), {"p": 3}, ValueError, "1 or 2"),
    ("multi_margin", (np.ones((2, 3, 4)), [0, 1]), {}, ValueError, "flatten|Flatten"),
    ("multilabel_margin", (np.ones((2, 3)), [0, 1]), {}, ValueError, "same shape"),
    ("cosine_embedding", (np.ones((2, 3)), np.ones((2, 3)), [[1], [1]]), {}, ValueError, "target has shape"),
    ("triplet_margin", ([1.0], [1.0], [1.0]), {"margin": 0.0}, ValueError, "greater than 0"),
    ("triplet_margin", ([1.0], [1.0], [1.0]), {"p": 0}, ValueError, "p is an int"),
    ("triplet_margin_with_distance", ([1.0], [1.0], [1.0]), {"distance_function": 3}, TypeError, "function of two"),
    ("ctc", (np.ones((2, 1, 3)), [[1.0]], [2], [1]), {}, TypeError, "integer class labels"),
    ("ctc", (np.ones((2, 1, 3)), [[1]], [2.0], [1]), {}, TypeError, "input_lengths"),
    ("ctc", (np.ones((2, 1, 3)), [[1]], [2], [1]), {"blank": 3}, ValueError, "blank is 3"),
    ("ctc", (np.ones(3), [[1]], [2], [1]), {}, ValueError, "log_probs has shape"),
]


@pytest.mark.parametrize(("loss", "arguments", "options", "error", "message"), BAD)
def test_bad_input_is_named_with_the_way_out(loss, arguments, options, error, message):
    with pytest.raises(error, match=rf"^{loss}: (?s:.*)({message})"):
        getattr(losses, loss)(*arguments, **options)


SHAPES = st.sampled_from([(), (0,), (2,), (2, 3), (2, 1), (1, 2, 3)])
DTYPES = st.sampled_from(["float32", "float64", "float16", "bfloat16", "int32", "uint8", "bool", "complex64"])


@pytest.mark.parametrize("loss", NAMES)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_arrays_give_a_result_of_the_right_shape_or_a_message(loss, data):
    function = getattr(losses, loss)
    first_shape = data.draw(SHAPES)
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            shape = data.draw(st.one_of(st.just(first_shape), SHAPES))
            low = data.draw(st.sampled_from([0, 0, 1, 7]))
            numbers = np.full(shape, low)
            numbers = numbers.astype(bool) if data.draw(st.booleans()) else numbers
            dtype = jnp.dtype(data.draw(DTYPES).replace("float64", "float32"))
            arguments[name] = jnp.asarray(numbers.astype(dtype))  # JAX would compile the cast anew for each shape
    if data.draw(st.booleans()):  # the arrays that no loss refuses for its dtype
        first = next(iter(arguments))
        arguments[first] = jnp.asarray(np.ones(first_shape, np.float32))
    message = f"{loss}: "
    try:
        values = function(**arguments, reduction="none")
    except (ValueError, TypeError) as error:
        message = str(error)
    else:
        assert jnp.issubdtype(values.dtype, jnp.floating)
        shapes = {array.shape for array in arguments.values()}
        allowed = {s[:cut] for s in shapes for cut in range(len(s) + 1)} | {s[:1] + s[2:] for s in shapes}
        assert values.shape in allowed | {s[1:2] for s in shapes}
    assert message.startswith(f"{loss}: ")
