"""What can be asked of a result: predictions, a report to read, pictures."""

import dataclasses
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfit as jf
from jaxfit import _report
from jaxfit.optimizers import SGD, Adam

X = np.linspace(-1, 1, 23, dtype=np.float32)
START = {"slope": 0.0, "intercept": np.float32(0)}

pytestmark = pytest.mark.usefixtures("compiled_at_level_0")


def line(params, x):
    return params["slope"] * x + params["intercept"]


def sampler(key):
    x = jax.random.normal(key, (8,))
    return x, 3 * x - 1


@pytest.fixture(scope="module")
def result():
    return jf.fit(
        line, (X, 2 * X + 1), START, optimizer=SGD(0.3), steps=300, validation=(X, X), metrics={"l1": jf.losses.l1}
    )


def test_predict_applies_the_model(result):
    new = np.array([[0.0, 10.0], [-3.0, 1.0]], np.float32)
    np.testing.assert_allclose(result.predict(new), 2 * new + 1, rtol=1e-4)
    np.testing.assert_allclose(result.predict(5.0), 11, rtol=1e-4)
    np.testing.assert_allclose(result.predict([1.0, 2.0]), [3, 5], rtol=1e-4)


def test_predict_in_float64():
    wide = jf.fit(
        line, (X.astype(float), X.astype(float)), {"slope": 0.0, "intercept": 0.0}, optimizer=SGD(0.3), steps=50
    )
    prediction = wide.predict(np.array([1 / 3]))
    assert isinstance(prediction, np.ndarray)
    np.testing.assert_allclose(prediction, wide.params["slope"] / 3 + wide.params["intercept"], rtol=1e-15)


def test_a_result_is_frozen(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.params = None


def test_the_report_says_what_one_wants_to_know(result):
    report = str(result)
    lines = report.splitlines()
    assert lines[0] == "Fit of line by SGD(learning_rate=0.3)"
    assert lines[1] == "  completed: Took all 300 steps."
    for row in ("slope", "intercept", "loss", "validation loss", "validation l1", "data", "precision", "time"):
        assert sum(line.strip().startswith(row) for line in lines) == 1, row
    slope = next(line for line in lines if "slope" in line).split()
    assert float(slope[1]) == pytest.approx(2, abs=1e-4)
    assert slope[2] == "0"
    assert "23 samples" in report
    assert "float32 on cpu" in report
    assert max(map(len, lines)) <= 88
    assert repr(result).startswith("FitResult(status=Status.COMPLETED, loss=")


def test_the_report_of_many_params_is_short():
    model = lambda params, x: (x[:, None] @ params["w"] + params["b"])[:, 0]
    start = {"w": jnp.ones((1, 5000)) / 5000, "b": jnp.zeros(5000)}
    report = str(jf.fit(model, (X, X), start, optimizer=Adam(1e-3), steps=2))
    assert len(report.splitlines()) < 16
    assert "(1, 5000)" in report
    assert "10,000 numbers in all" in report


@pytest.mark.parametrize(
    ("params", "names"),
    [(1.0, ["params"]), ([1.0, 2.0], ["params[0]", "params[1]"]), ({"w": jnp.zeros((1, 2))}, ["w[0, 0]", "w[0, 1]"])],
)
def test_every_number_has_a_name(params, names):
    numbers = lambda p: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(p)])
    report = str(jf.fit(lambda p, x: sum(c * x**k for k, c in enumerate(numbers(p))), (X, X), params))
    for name in names:
        assert f"  {name} " in report


def test_the_report_of_a_failure_gives_its_sentence():
    with pytest.warns(jf.FitWarning):
        failed = jf.fit(line, (X, X), START, optimizer=SGD(1e8), steps=100)
    assert "  diverged: The loss went from" in str(failed)
    assert "smaller learning rate" in str(failed)


def drawn(figure):
    """The pixels of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_plot_of_a_classifier_is_its_confusion_matrix():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    start = np.eye(3, dtype=np.float32)
    scores = x @ start

    def share(model, y, loss, params=start):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jf.FitWarning)
            result = jf.fit(model, (x, y), params, loss=loss, optimizer=SGD(0.0), steps=1)
        axes = result.plot().axes[0]
        counts = np.zeros((len(axes.get_xticks()),) * 2, int)
        for text in axes.texts:
            counts[text.get_position()[::-1]] = int(text.get_text() or 0)
        return counts

    labels = np.roll(scores.argmax(1), 1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, scores.argmax(1)), 1)
    np.testing.assert_array_equal(share(lambda p, x: x @ p, labels, jf.losses.cross_entropy), expected)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    np.testing.assert_array_equal(share(lambda p, x: x @ p, one_hot, jf.losses.cross_entropy), expected)
    ignored = np.where(labels == 2, -100, labels)
    counted = share(lambda p, x: x @ p, ignored, jf.losses.cross_entropy)
    np.testing.assert_array_equal(counted, [*expected[:2], [0, 0, 0]])
    binary = (labels > 0).astype(np.float32)
    two = share(lambda p, x: x @ p[:, 0], binary, jf.losses.binary_cross_entropy_with_logits)
    wanted = np.zeros((2, 2), int)
    np.add.at(wanted, ((labels > 0).astype(int), (scores[:, 0] > 0).astype(int)), 1)
    np.testing.assert_array_equal(two, wanted)


def test_plot_draws_data_fit_and_loss(result):
    figure = result.plot()
    fit, loss, metrics = figure.axes
    points, curve = fit.get_lines()
    np.testing.assert_array_equal(points.get_xdata(), X)
    np.testing.assert_allclose(curve.get_ydata(), 2 * curve.get_xdata() + 1, atol=1e-3)
    np.testing.assert_array_equal(loss.get_lines()[0].get_ydata(), np.append(result.history["loss"], result.loss))
    assert loss.get_yscale() == "log"
    names = [name for name in result.history if name not in ("loss", "validation_loss", "params", "gradient_norm")]
    assert [line.get_label() for line in metrics.get_lines()] == [name.replace("_", " ") for name in names]
    np.testing.assert_array_equal(metrics.get_lines()[0].get_ydata(), result.history[names[0]])
    assert [text.get_text() for text in fit.get_legend().get_texts()] == ["data", "fit"]
    assert drawn(figure).std() > 10


@pytest.mark.parametrize(
    ("model", "data", "panels"),
    [
        (lambda p, x: x @ p, (np.ones((9, 2), np.float32), np.ones(9, np.float32)), 2),
        (lambda p, x: x[:, None] * p, (np.ones(9, np.float32), np.ones((9, 2), np.float32)), 2),
        (lambda p, x: x["a"] * p[0] + p[1], ({"a": X}, X), 2),
        (lambda p, x: x * p[0] + p[1], sampler, 2),
        (lambda p, x: x * p[0] + p[1], [(X, X)], 1),
    ],
    ids=["two variables", "two outputs", "a pytree", "a sampler", "a stream"],
)
def test_plot_of_every_form_of_data(model, data, panels):
    figure = jf.fit(model, data, np.zeros(2, np.float32), optimizer=Adam(0.1), steps=5).plot()
    assert len(figure.axes) == panels
    assert drawn(figure).std() > 5


def chwirut2(params, x):
    return jnp.exp(-params[0] * x) / (params[1] + params[2] * x)


def test_plot_of_a_second_order_curve_has_a_band_and_residuals():
    x = np.linspace(0.5, 6, 30)
    y = np.asarray(chwirut2([0.17, 0.005, 0.012], x)) + np.cos(40 * x)
    fitted = jf.fit(chwirut2, (x, y), np.array([0.15, 0.008, 0.01]), sigma=np.full(30, 0.7))
    figure = fitted.plot()
    upper, lower = figure.axes
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["data", "fit", "95 % confidence"]
    assert upper.containers
    assert upper.collections
    points = lower.containers[0].lines[0]
    np.testing.assert_allclose(points.get_ydata(), fitted.residuals)
    assert lower.get_xlabel() == "x"
    assert drawn(figure).std() > 10


def test_plot_of_many_points_has_no_error_bars():
    x = np.linspace(0, 1, 10_000)
    figure = jf.fit(line, (x, np.cos(99 * x)), {"slope": 0.0, "intercept": 0.0}, sigma=0.5).plot()
    assert not figure.axes[0].containers
    assert len(figure.axes[0].get_lines()[0].get_xdata()) == 5_000


def test_plot_of_counts_shows_the_rate_and_not_its_logarithm():
    x = np.arange(20.0)
    counts = np.round(np.exp(0.1 * x + 1))
    start = {"slope": 0.0, "intercept": 0.0}
    figure = jf.fit(line, (x, counts), start, loss=jf.losses.poisson_nll).plot()
    curve = figure.axes[0].get_lines()[1]
    np.testing.assert_allclose(curve.get_ydata()[-1], counts[-1], rtol=0.2)


@pytest.fixture(scope="module")
def curve():
    x = np.linspace(0.1, 3, 30)
    model = lambda params, x: params["<scale>"] * jnp.exp(-params["rate"] * x) + params["offset"]
    start = {"<scale>": 1.0, "rate": 1.0, "offset": 0.25}
    data = x, 2 * np.exp(-1.5 * x) + 0.3 + 0.01 * np.cos(50 * x)
    return jf.fit(model, data, start, bounds=({"<scale>": 0.0, "rate": 0.0, "offset": None}, np.inf))


def test_the_report_of_a_curve_tells_errors_correlations_and_goodness(curve):
    lines = str(curve).splitlines()
    rows = {line.split("   ")[0].strip(): line for line in lines if line.strip()}
    assert "±" in rows["rate"]
    assert rows["<scale>"].endswith("[0, inf)")
    assert rows["offset"].split()[-1] == "0.25"
    assert "Correlations" in rows
    assert any(line.strip().startswith(("offset, rate", "<scale>, rate")) for line in lines)
    for name in ("chi squared", "sigma", "R squared", "log-likelihood", "AIC, BIC"):
        assert name in rows
    assert max(map(len, lines)) <= 88


def test_html_shows_the_same_and_escapes_names(curve):
    page = curve._repr_html_()
    assert "&lt;scale&gt;" in page
    assert "<scale>" not in page
    assert page.count("<table>") == page.count("</table>") == 3
    for text in ("standard error", "[0, inf)", "Correlations", "R squared"):
        assert text in page


def test_at_most_eight_correlations_are_shown():
    x = np.linspace(0, 1, 50)
    model = lambda params, x: jnp.polyval(params, x)
    report = str(jf.fit(model, (x, np.cos(9 * x)), np.zeros(6)))
    shown = report.split("Correlations\n")[1].split("\n\n")[0].splitlines()
    assert len(shown) == 9
    assert shown[-1].strip() == "and 6 more beyond ±0.5"
    sizes = [abs(float(line.split()[-1])) for line in shown[:-1]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.23456789, 0.00123, ("1.23457", "0.00123")),
        (9.9999, 0.1, ("10.000", "0.100")),
        (0.0123, 5.2, ("0.0123", "5.20")),
        (1234567.0, 123.0, ("1234567", "123")),
        (1.5e-12, 3.21e-14, ("1.5000e-12", "3.21e-14")),
        (0.0, 0.5, ("0.000", "0.500")),
        (2.0, 1e-16, ("2.000000000", "1.00e-16")),
        (1 / 3, np.inf, ("0.3333333", "inf")),
        (1 / 3, np.nan, ("0.3333333", "nan")),
    ],
)
def test_digits_of_a_value_are_those_that_its_error_leaves(value, error, shown):
    assert _report.rounded(np.float64(value), error) == shown


def test_plot_with_error_bars_and_with_scores_for_labels():
    figure = jf.fit(line, (X, X), START, optimizer=SGD(0.3), steps=5, sigma=0.1 + X**2).plot()
    assert figure.axes[0].containers
    scores = lambda p, x: x[:, None] * p
    labels = (X > 0).astype(int)
    result = jf.fit(
        scores, (X, labels), np.zeros(2, np.float32), loss=jf.losses.cross_entropy, optimizer=SGD(1.0), steps=9
    )
    assert drawn(result.plot()).std() > 5


def test_without_matplotlib_plot_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        result.plot()
