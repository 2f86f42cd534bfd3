"""Data that come as batches: the fit is that of the same data in memory, and a bad batch costs nothing before it."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxfit as jf
from jaxfit import FitWarning, Status, nn
from jaxfit.optimizers import LBFGS, SGD, Adam, LevenbergMarquardt, LinearLeastSquares
from reference import HAVE_TORCH

X = np.linspace(-1, 1, 23, dtype=np.float32)
Y = (2 * X + 1 + 0.1 * np.sin(20 * X)).astype(np.float32)
START = np.zeros(2, np.float32)
fit = functools.partial(jf.fit, optimizer=Adam(0.1))


def line(params, x):
    return params[0] * x + params[1]


def parts(x, y, *sizes):
    """Batches of these sizes, of which the last is repeated as often as there are data."""
    found, at, count = [], 0, len(jax.tree.leaves(y)[0])
    while at < count:
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(jax.tree.map(lambda leaf, at=at, size=size: leaf[at : at + size], (x, y)))
        at += size
    return found


def in_memory(size, **options):
    return fit(line, (X, Y), START, batch_size=size, shuffle=False, **options)


def assert_same(one, other):
    """Bit by bit the same result; but for the loss of the end, which is that of the last batch where no more come."""
    assert (one.status, one.steps) == (other.status, other.steps)
    jax.tree.map(np.testing.assert_array_equal, (one.params, one.history), (other.params, other.history))


class Reused:
    """Refills the same two arrays for every batch."""

    def __init__(self, size):
        self.batches = parts(X, Y, size)

    def __iter__(self):
        x, y = (np.empty_like(part) for part in self.batches[0])
        for new_x, new_y in self.batches:
            rows = len(new_x)
            x[:rows], y[:rows] = new_x, new_y
            yield x[:rows], y[:rows]


class Told:
    """Notes the numbers of the passes that it is told."""

    def __init__(self, batches):
        self.batches, self.told = batches, []

    def set_epoch(self, number):
        self.told.append(number)

    def __iter__(self):
        return iter(self.batches)


class Pairs:
    """The samples one by one, as torch and grain want them."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


def torch_loader(size):
    from torch.utils.data import DataLoader

    return DataLoader(Pairs(), batch_size=size)


def grain_dataset(size):
    import grain

    return grain.MapDataset.source(Pairs()).batch(size)


def from_files(size):
    return jf.data.from_files((X, Y), batch_size=size)


SOURCES = {
    "list": lambda size: parts(X, Y, size),
    "lists of numbers": lambda size: [[x.tolist(), y.tolist()] for x, y in parts(X, Y, size)],
    "arrays of JAX": lambda size: [tuple(map(jnp.asarray, pair)) for pair in parts(X, Y, size)],
    "arrays in float64": lambda size: [tuple(part.astype(float) for part in pair) for pair in parts(X, Y, size)],
    "map": lambda size: Told(parts(X, Y, size)),
    "memory used again": Reused,
    "from_files": from_files,
}
if importlib.util.find_spec("grain") is not None:
    SOURCES["grain"] = grain_dataset
if HAVE_TORCH:
    SOURCES["torch"] = torch_loader


class TestTheSameAsInMemory:
    @pytest.mark.parametrize("size", [1, 4, 22, 23])
    @pytest.mark.parametrize("name", SOURCES)
    def test_bit_by_bit(self, name, size):
        options = {"epochs": 3} if size > 1 else {"steps": 57}  # which end within a pass
        expected = in_memory(size if size < 23 else None, **options)
        assert_same(fit(line, SOURCES[name](size), START, **options), expected)

    def test_validation_and_records_too(self):
        options = {"validation": (X[:5], Y[:5]), "metrics": {"l1": jf.losses.l1}, "record": ("params", "gradient_norm")}
        for limit in ({"epochs": 3}, {"steps": 18}, {"steps": 17}, {"steps": 19}):
            streamed, whole = fit(line, parts(X, Y, 4), START, **options, **limit), in_memory(4, **options, **limit)
            assert_same(streamed, whole)
            assert len(streamed.history["validation_loss"]) == streamed.steps // 6

    @pytest.mark.parametrize("sizes", [[7, 3, 7, 1, 5], [2, 23], [5, 10, 5, 5], [3, 3, 9, 3]], ids=str)
    def test_sizes_that_change(self, sizes):
        """A batch of another size is a step of its own, in its place; also one twice as large as the first."""
        result = fit(line, parts(X, Y, *sizes), START, optimizer=SGD(0.1), epochs=2)
        params = START.astype(float)
        for x, y in 2 * parts(X.astype(float), Y.astype(float), *sizes):
            errors = params[0] * x + params[1] - y
            params = params - 0.2 * np.array([np.mean(errors * x), np.mean(errors)])
        assert result.steps == 2 * len(parts(X, Y, *sizes))
        np.testing.assert_allclose(result.params, params, rtol=1e-5)

    def test_x_and_y_as_pytrees(self):
        x, y = {"t": X, "offset": np.ones((23, 1), np.float32)}, (Y, -Y)
        model = lambda params, x: (params[0] * x["t"] + params[1] * x["offset"][:, 0], -params[0] * x["t"] - params[1])
        loss = lambda prediction, target: sum(map(jf.losses.mse, prediction, target))
        options = {"loss": loss, "epochs": 3}
        whole = fit(model, (x, y), START, batch_size=4, shuffle=False, **options)
        assert_same(fit(model, parts(x, y, 4), START, **options), whole)

    def test_large_batches(self, rng):
        """So large that they are handed over one by one."""
        x = rng.normal(size=(3, 200_000)).astype(np.float32)
        y = 2 * x + 1
        stream = list(zip(x, y, strict=True))
        whole = fit(line, (x.ravel(), y.ravel()), START, epochs=2, batch_size=200_000, shuffle=False)
        assert_same(fit(line, stream, START, epochs=2), whole)

    def test_a_module(self):
        def module():
            rngs = nnx.Rngs(0)
            layers = nn.Linear(1, 4, rngs=rngs), nn.BatchNorm1d(4, rngs=rngs), nn.Dropout(0.2, rngs=rngs)
            return nn.Sequential(*layers, nn.Linear(4, 1, rngs=rngs))

        x, y = X[:, None], Y[:, None]
        streamed = fit(module(), parts(x, y, 6), epochs=3, key=7)
        whole = fit(module(), (x, y), batch_size=6, shuffle=False, epochs=3, key=7)
        for one, other in zip(
            jax.tree.leaves((streamed.params, streamed.model_state, streamed.history)),
            jax.tree.leaves((whole.params, whole.model_state, whole.history)),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class TestPasses:
    def test_set_epoch(self):
        stream = Told(parts(X, Y, 6))
        fit(line, stream, START, epochs=3)
        assert stream.told[:3] == [0, 1, 2]
        assert stream.told[3:] in ([], [3])

    def test_another_order_in_each_pass(self):
        """What set_epoch changes is what is fitted."""

        class Turned(Told):
            def __iter__(self):
                return iter(self.batches[:: -1 if self.told[-1] % 2 else 1])

        batches = parts(X, Y, 6)
        result = fit(line, Turned(batches), START, epochs=2)
        assert_same(result, fit(line, batches + batches[::-1], START, epochs=1))

    def test_one_pass_of_an_iterator(self):
        whole = in_memory(6, epochs=1)
        assert_same(fit(line, (pair for pair in parts(X, Y, 6)), START, epochs=1), whole)
        assert_same(fit(line, iter(parts(X, Y, 6)), START, steps=4), whole)

    def test_an_iterator_that_ends_before_the_steps_do(self):
        whole = in_memory(6, epochs=1)
        for limit in ({"steps": 5}, {"epochs": 2}):
            with pytest.warns(FitWarning, match=r"The batches ended after step 4\. Give a list"):
                result = fit(line, (pair for pair in parts(X, Y, 6)), START, validation=(X, Y), **limit)
            assert (result.status, result.steps) == (Status.DATA_ENDED, 4)
            assert len(result.history["validation_loss"]) == 1
            np.testing.assert_array_equal(result.params, whole.params)

    def test_what_has_no_batches(self):
        for nothing in ([], iter([]), (pair for pair in ())):
            with pytest.raises(ValueError, match=r"iterable without batches; expected at least one pair"):
                fit(line, nothing, START, steps=3)

    def test_compilations(self, compilations):
        model = lambda params, x: params[0] * x + params[1] + 0 * x
        fit(model, parts(X, Y, 6), START, epochs=2)
        assert compilations() <= 5
        for stream, limit in (
            (parts(X, Y, 6), {"steps": 40}),
            (Reused(6), {"epochs": 3}),
            (parts(X[:12], Y[:12], 6), {"epochs": 1}),
            (jf.data.from_files((X, Y), batch_size=6), {"epochs": 2}),
        ):
            fit(model, stream, START + 1, optimizer=Adam(0.03), key=3, **limit)
            assert compilations() == 0


def raising():
    yield from parts(X, Y, 6)[:2]
    raise OSError("the disk is gone")


def with_third(batch):
    return [*parts(X, Y, 6)[:2], batch, *parts(X, Y, 6)[2:]]


NAN = np.array([0, np.nan, 1, 2, 3, 4], np.float32)
FAILURES = {
    "raises": (raising, "Batch 2 could not be had: OSError: the disk is gone"),
    "columns": (lambda: with_third((X[:6, None], Y[:6])), r"batch 2: x is float32\[6, 1\], and float32\[6\] in"),
    "dtype": (lambda: with_third((X[:6], np.arange(6))), r"batch 2: y is int.*, and float32\[6\] in the first batch"),
    "structure": (lambda: with_third(({"t": X[:6]}, Y[:6])), r"batch 2: x is .*t.*, and float32\[6\] in the first"),
    "rows": (lambda: with_third((X[:6], Y[:5])), r"batch 2"),
    "nan": (lambda: with_third((X[:6], NAN)), r"y of batch 2: .*nan at \[1\]"),
    "infinity": (lambda: with_third((X[:6] / 0, Y[:6])), r"x of batch 2: .*inf at \[0\]"),
    "no pair": (lambda: with_third(X[:6]), r"batch 2 of the data is float32\[6\]; expected a pair \(x, y\)"),
    "three": (lambda: with_third((X[:6], Y[:6], Y[:6])), r"batch 2 of the data is .*; expected a pair \(x, y\)"),
    "empty": (lambda: with_third((X[:0], Y[:0])), r"batch 2"),
    "words": (lambda: with_third((X[:6], ["a"] * 6)), r"batch 2"),
}  # fmt: skip


class TestFailures:
    @pytest.mark.filterwarnings("ignore:divide by zero")
    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.parametrize("name", FAILURES)
    def test_the_steps_before_a_bad_batch_count(self, name):
        make, message = FAILURES[name]
        stream = make()
        before = fit(line, parts(X, Y, 6), START, steps=2)
        with pytest.warns(FitWarning, match=message):
            result = fit(line, stream, START, epochs=3)
        assert (result.status, result.steps, result.success) == (Status.DATA_FAILED, 2, False)
        assert result.message.endswith("The steps before it count; mend the data and start again.")
        np.testing.assert_array_equal(result.params, before.params)
        np.testing.assert_array_equal(result.history["loss"], before.history["loss"])
        assert np.isfinite(result.loss)

    def test_in_a_later_pass(self):
        class Later(Told):
            def __iter__(self):
                return iter(with_third((X[:6], NAN)) if self.told[-1] == 1 else self.batches)

        with pytest.warns(FitWarning, match=r"y of batch 2 of pass 1: .*nan at \[1\]"):
            result = fit(line, Later(parts(X, Y, 6)), START, epochs=3, validation=(X, Y))
        assert (result.status, result.steps) == (Status.DATA_FAILED, 6)
        assert len(result.history["validation_loss"]) == 1
        np.testing.assert_array_equal(result.params, in_memory(6, steps=6).params)

    def test_a_file_names_file_and_row(self):
        y = Y.copy()
        y[15] = np.nan
        stream = jf.data.from_files((X, y), batch_size=6, window=6)
        with pytest.warns(FitWarning, match=r"[Bb]atch 2.*row 15"):
            result = fit(line, stream, START, epochs=3)
        assert (result.status, result.steps) == (Status.DATA_FAILED, 2)

    @pytest.mark.parametrize("is_module", [True, False], ids=["module", "function"])
    def test_labels_out_of_range(self, rng, is_module):
        x, labels = rng.normal(size=(24, 2)).astype(np.float32), rng.integers(0, 3, 24)
        model = nn.Linear(2, 3, rngs=nnx.Rngs(0)) if is_module else lambda weights, x: x @ weights
        options = {"loss": jf.losses.cross_entropy}
        wrong = labels.copy()
        wrong[14] = 3
        start = None if is_module else np.zeros((2, 3), np.float32)
        with pytest.warns(FitWarning, match=r"y of batch 2.* 3"):
            result = fit(model, parts(x, wrong, 6), start, epochs=2, **options)
        assert (result.status, result.steps) == (Status.DATA_FAILED, 2)
        before = fit(model, parts(x, labels, 6), start, steps=2, **options)
        jax.tree.map(np.testing.assert_array_equal, result.params, before.params)

    @pytest.mark.parametrize("name", ["raises", "nan", "no pair"])
    def test_in_the_first_batch_it_is_raised(self, name):
        def fails():
            raise OSError("the disk is gone")
            yield

        stream, kind, message = {
            "raises": (fails(), OSError, "the disk is gone"),
            "nan": ([(X[:6], NAN)], ValueError, r"y of batch 0: .*nan at \[1\]"),
            "no pair": ([X, X], TypeError, r"batch 0 of the data is float32\[23\]; expected a pair"),
        }[name]
        with pytest.raises(kind, match=message):
            fit(line, stream, START, epochs=2)


T = np.linspace(0, 4, 60)
DECAY = 2.5 * np.exp(-1.3 * T) + 0.5 + 0.05 * np.sin(9 * T)
AT = np.array([1.0, 1.0, 0.0])
curve = functools.partial(jf.fit, optimizer=LevenbergMarquardt(acceleration=False))


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x) + params[2]


def assert_close(streamed, whole, rtol=1e-10):
    assert (streamed.status, streamed.steps) == (whole.status, whole.steps)
    leaves = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    np.testing.assert_allclose(leaves(streamed.params), leaves(whole.params), rtol=rtol)
    np.testing.assert_allclose(streamed.loss, whole.loss, rtol=rtol)
    np.testing.assert_allclose(streamed.history["loss"], whole.history["loss"], rtol=rtol)


@pytest.mark.parametrize("size", [4, 5])
def test_files_of_float64_in_a_fit_of_float32(size):
    wide, narrow = (jf.data.from_files((X.astype(kind), Y.astype(kind)), batch_size=size) for kind in (float, "f4"))
    assert_same(fit(line, wide, START, epochs=3), fit(line, narrow, START, epochs=3))


@pytest.mark.parametrize("model", [line, nn.Linear(1, 1, rngs=nn.Rngs(0))], ids=["function", "module"])
def test_no_batches_at_all(model):
    start = START if model is line else None
    with pytest.raises(ValueError, match="data is an iterable without batches; expected at least one pair"):
        fit(model, [], start, epochs=1)


class TestSecondOrder:
    def test_memory_that_is_used_again(self):
        model = lambda params, x: params[0] * jnp.exp(params[1] * x)
        start = np.array([1.0, 1.0], np.float32)
        assert_close(curve(model, Reused(6), start), curve(model, parts(X, Y, 6), start))

    @pytest.mark.parametrize("sizes", [[7], [60], [1], [13, 2, 20, 11, 7, 5, 2]], ids=str)
    def test_the_same_fit_and_the_same_errors(self, sizes):
        whole = curve(decay, (T, DECAY), AT)
        streamed = jf.fit(decay, parts(T, DECAY, *sizes), AT, optimizer=LevenbergMarquardt())
        assert_close(streamed, whole)
        assert streamed.params.dtype == np.float64
        np.testing.assert_allclose(streamed.covariance, whole.covariance, rtol=1e-8)
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-8)
        for name in ("chi_squared", "reduced_chi_squared", "degrees_of_freedom"):
            np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-8)
        report = str(streamed)
        for text in ("LevenbergMarquardt", "params[0]", f"{whole.standard_errors[0]:.1g}"[:3]):
            assert text in report

    def test_y_as_a_pytree(self):
        def both(params, x):
            return {"a": decay(params, x), "b": 2 * decay(params, x)}

        y = {"a": DECAY, "b": 2 * DECAY}
        whole, streamed = curve(both, (T, y), AT), curve(both, parts(T, y, 7), AT)
        assert_close(streamed, whole)
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-8)
        for name in ("chi_squared", "degrees_of_freedom"):
            np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-8)

    def test_bounds(self):
        bounds = ([0.0, 0.0, 0.55], [5.0, 5.0, 5.0])
        whole = curve(decay, (T, DECAY), [1.0, 1.0, 1.0], bounds=bounds)
        streamed = curve(decay, parts(T, DECAY, 7), [1.0, 1.0, 1.0], bounds=bounds)
        assert_close(streamed, whole)
        assert streamed.params[2] == 0.55
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-8)

    def test_fixed(self):
        named = lambda params, x: decay([params["a"], params["k"], params["c"]], x)
        start = {"a": 1.0, "k": 1.0, "c": 0.4}
        whole = curve(named, (T, DECAY), start, fixed="c")
        streamed = curve(named, parts(T, DECAY, 7), start, fixed="c")
        assert_close(streamed, whole)
        assert streamed.params["c"] == 0.4
        for name in ("a", "k"):
            np.testing.assert_allclose(streamed.standard_errors[name], whole.standard_errors[name], rtol=1e-8)

    def test_huber_has_params_but_no_covariance(self):
        y = DECAY.copy()
        y[::9] += 2
        loss = functools.partial(jf.losses.huber, delta=0.1)
        whole = curve(decay, (T, y), AT, loss=loss)
        streamed = curve(decay, parts(T, y, 7), AT, loss=loss)
        assert_close(streamed, whole)
        for name in ("covariance", "standard_errors"):
            with pytest.raises((ValueError, AttributeError), match=r"."):
                getattr(streamed, name)
        assert "params[0]" in str(streamed)

    def test_poisson(self, rng):
        counts = rng.poisson(20 * np.exp(-T) + 3).astype(float)
        loss = functools.partial(jf.losses.poisson_nll, log_input=False)
        start = [10.0, 0.5, 1.0]
        whole = curve(decay, (T, counts), start, loss=loss)
        streamed = curve(decay, parts(T, counts, 7), start, loss=loss)
        assert_close(streamed, whole)
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-8)

    def test_cross_entropy_whose_mean_is_over_labels(self, rng):
        """A label that is ignored does not count in the mean of its batch."""
        x = rng.normal(size=(80, 2))
        labels = (x @ rng.normal(size=(2, 3)) + rng.gumbel(size=(80, 3))).argmax(axis=1)
        labels[::11] = -100
        model = lambda weights, x: x @ jnp.concatenate([weights, jnp.zeros((2, 1))], axis=1)
        start = np.zeros((2, 2))
        whole = curve(model, (x, labels), start, loss=jf.losses.cross_entropy)
        streamed = curve(model, parts(x, labels, 9), start, loss=jf.losses.cross_entropy)
        assert_close(streamed, whole, rtol=1e-9)
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-7)

    def test_a_sum_is_a_sum(self):
        loss = functools.partial(jf.losses.mse, reduction="sum")
        whole, streamed = (curve(decay, data, AT, loss=loss) for data in ((T, DECAY), parts(T, DECAY, 7)))
        assert_close(streamed, whole)
        np.testing.assert_allclose(streamed.standard_errors, whole.standard_errors, rtol=1e-8)

    def test_a_module(self):
        module = lambda: nn.Sequential(nn.Linear(1, 3, rngs=nnx.Rngs(0)), nn.Tanh(), nn.Linear(3, 1, rngs=nnx.Rngs(1)))
        x, y = T[:, None].astype(np.float32), DECAY[:, None].astype(np.float32)
        with pytest.warns(FitWarning, match="Not converged after 5 steps"):
            whole = curve(module(), (x, y), steps=5)
        with pytest.warns(FitWarning, match="Not converged after 5 steps"):
            streamed = curve(module(), parts(x, y, 7), steps=5)
        np.testing.assert_allclose(streamed.history["loss"], whole.history["loss"], rtol=1e-2)
        np.testing.assert_allclose(streamed.predict(x), whole.predict(x), atol=1e-2)

    def test_a_million_samples_in_float32(self, rng):
        """Their sums are carried so that rounding does not add up."""
        x = rng.uniform(0, 4, 1_000_000).astype(np.float32)
        y = (2.5 * np.exp(-1.3 * x) + 100 + 0.1 * rng.normal(size=x.size)).astype(np.float32)
        start = [1.0, 1.0, 90.0]
        wide = curve(decay, (x.astype(float), y.astype(float)), np.array(start))
        narrow = curve(decay, parts(x, y, 20_000), np.array(start, np.float32))
        assert narrow.params.dtype == np.float32
        assert narrow.status is Status.CONVERGED
        # Within a small part of what the data determine.
        assert (np.abs(narrow.params - wide.params) < 0.05 * wide.standard_errors).all()
        np.testing.assert_allclose(narrow.standard_errors, wide.standard_errors, rtol=1e-2)
        np.testing.assert_allclose(narrow.chi_squared, wide.chi_squared, rtol=1e-3)

    def test_from_files_and_callbacks(self):
        watched = []
        stream = jf.data.from_files((T, DECAY), batch_size=7)
        streamed = curve(decay, stream, AT, callbacks=[lambda seen: watched.extend(seen.history["loss"])])
        assert_close(streamed, curve(decay, (T, DECAY), AT))
        np.testing.assert_array_equal(watched, streamed.history["loss"])

    def test_an_iterator_has_one_pass_only(self):
        with pytest.warns(FitWarning, match=r"ended after step 1"):
            result = curve(decay, iter(parts(T, DECAY, 7)), AT)
        assert (result.status, result.steps) == (Status.DATA_ENDED, 1)

    def test_a_pass_that_fails(self):
        class Fails(Told):
            def __iter__(self):
                for number, pair in enumerate(self.batches):
                    if (len(self.told), number) == (4, 5):
                        raise OSError("the disk is gone")
                    yield pair

        with pytest.warns(FitWarning, match="Batch 5 of pass 3 could not be had: OSError: the disk is gone"):
            result = curve(decay, Fails(parts(T, DECAY, 7)), AT)
        assert (result.status, result.steps) == (Status.DATA_FAILED, 3)
        with pytest.warns(FitWarning):
            whole = curve(decay, (T, DECAY), AT, steps=3)
        np.testing.assert_allclose(result.history["loss"], whole.history["loss"], rtol=1e-10)
        assert np.isfinite(result.params).all()

    def test_compilations(self, compilations):
        model = lambda params, x: decay(params, x) + 0 * x
        curve(model, parts(T, DECAY, 12), AT)
        assert compilations() <= 6
        curve(model, parts(T, DECAY + 1, 12), AT + 1, optimizer=LevenbergMarquardt(1e-10, acceleration=False))
        assert compilations() == 0

    def test_what_is_refused(self):
        stream = parts(T, DECAY, 7)
        with pytest.raises(ValueError, match=r"leave acceleration out, or give the data as arrays"):
            jf.fit(decay, stream, AT, optimizer=LevenbergMarquardt(acceleration=True))
        for optimizer in (LBFGS(), LinearLeastSquares()):
            with pytest.raises(ValueError, match=r"needs all the data at every step: give them as arrays \(x, y\)"):
                jf.fit(lambda params, x: line(params, x), stream, np.zeros(2), optimizer=optimizer)
        for name in ("sigma", "weights", "batch_size"):
            with pytest.raises(ValueError, match=f"{name} goes with arrays"):
                curve(decay, stream, AT, **{name: 1})
