"""The package as a whole: its public names, what importing it loads, and that it leaves JAX's settings alone."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxfit as jf

ROOT = Path(__file__).parent.parent
LOSSES = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding", "cross_entropy", "ctc",
    "gaussian_nll", "hinge_embedding", "huber", "kl_div", "l1", "margin_ranking", "mse", "multi_margin",
    "multilabel_margin", "multilabel_soft_margin", "nll", "poisson_nll", "smooth_l1", "soft_margin", "triplet_margin",
    "triplet_margin_with_distance",
]  # fmt: skip


def python(code, *options):
    """What a piece of code prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names():
    assert jf.__all__ == [
        "FitResult",
        "FitResults",
        "FitWarning",
        "Status",
        "TracedResult",
        "bootstrap",
        "callbacks",
        "curve_fit",
        "data",
        "ensemble",
        "fit",
        "fit_many",
        "load",
        "losses",
        "metrics",
        "models",
        "multistart",
        "nn",
        "optimizers",
        "plotting",
        "save",
        "sweep",
    ]
    assert jf.losses.__all__ == LOSSES
    for name in jf.__all__:
        assert getattr(jf, name).__doc__
    for module in (jf, jf.callbacks, jf.data, jf.losses, jf.metrics, jf.models, jf.nn, jf.optimizers):
        assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = jf.fitt


@pytest.mark.parametrize("module", ["callbacks", "data", "losses", "metrics", "models", "nn", "optimizers"])
def test_public_functions_and_classes_are_documented(module):
    module = getattr(jf, module)
    for name in module.__all__:
        thing = getattr(module, name)
        documentation = inspect.getdoc(thing)
        assert documentation, name
        if inspect.isfunction(thing):
            for section in ("Args:", "Returns:", "Raises:", ">>> "):
                assert section in documentation, f"{name} lacks {section}"


IMPORT = """
import json, sys, jax, optax
heavy = ["flax", "matplotlib", "orbax", "tensorboardX", "rich", "scipy.optimize", "torch", "IPython"]
def loaded():
    return [name for name in heavy if name in sys.modules]
baseline = loaded()
import jaxfit
print(json.dumps({"baseline": baseline, "loaded": loaded(), "devices": repr(jax._src.xla_bridge._backends)}))
"""


@pytest.fixture(scope="module")
def imported():
    """What importing it does, in a fresh interpreter that has imported jax and optax."""
    return json.loads(python(IMPORT))


def test_importing_it_loads_no_more_than_it_needs(imported):
    assert imported["loaded"] == imported["baseline"]


def test_importing_it_initialises_no_device(imported):
    assert imported["devices"] == "{}"


def test_it_never_touches_the_settings_of_jax():
    settings = {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")}
    jf.fit(lambda p, x: p * x, (np.ones(3), np.ones(3)), 1.0, optimizer=jf.optimizers.Adam(0.1), steps=2)
    assert settings == {name: getattr(jax.config, name) for name in settings}
    for path in (ROOT / "src").rglob("*.py"):
        assert "config.update" not in path.read_text(), path


def test_nothing_is_printed_unasked(capfd):
    jf.fit(lambda p, x: p * x, (np.ones(3), np.ones(3)), 1.0, key=12345)
    assert capfd.readouterr() == ("", "")


def test_python_optimised_gives_the_same():
    """No check hangs on an assert that `python -O` leaves out."""
    code = "import jaxfit as jf, numpy as np; jf.fit(lambda p, x: p * x, (np.ones(3), np.ones(2)), 1.0, steps=2)"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: x and y differ" in done.stderr
