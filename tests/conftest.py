"""Fixtures that several test files share."""

import jax
import numpy as np
import pytest

from jaxfit import _compile

# A worker has one core to itself at most: to share a small program's compilation out among several only costs time.
_compile.HASTY["xla_cpu_parallel_codegen_split_count"] = 1

_compilations = []


def _listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(duration)


jax.monitoring.register_event_duration_secs_listener(_listen)


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
