"""Fixtures that several test files share."""

import os

import jax
import jaxlib
import numpy as np
import pytest

from jaxfit import _compile

# What the tests compile themselves, and every operation outside jit, is compiled as fits are; and on one core, as a
# worker has no more to itself. Processes that tests start do so too. An XLA that does not know a flag ends the process.
if jaxlib.__version__.startswith("0.10.") and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# The files that take longest, the longest first: what comes last should be short, so that no worker is left waiting.
LONG = (
    "test_examples", "test_checkpoints", "test_mesh", "test_many_on_a_mesh", "test_fit_many", "test_networks",
    "test_benchmarks", "test_optimizers", "test_levenberg_marquardt", "test_losses", "test_studies", "test_streams",
    "test_callbacks", "test_traced", "test_data_dealt", "test_curve_fit", "test_fit", "test_closed_form",
)  # fmt: skip

_compilations = []


def _listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(duration)


jax.monitoring.register_event_duration_secs_listener(_listen)


def pytest_collection_modifyitems(items):
    """Puts the longest files first; the others keep their order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture
def compilations():
    """A function that tells how many programs XLA has compiled since it was last asked."""

    def since_last():
        count = len(_compilations)
        _compilations.clear()
        return count

    since_last()
    return since_last


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def compiled_at_level_0():
    """For small programs, each run once: compiling is what such tests spend their time on."""
    with pytest.MonkeyPatch.context() as patch:
        for options in (_compile.LEAN, _compile.HASTY):
            patch.setitem(options, "xla_backend_optimization_level", "0")
        yield
