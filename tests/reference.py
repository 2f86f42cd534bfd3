"""What torch computes, live where torch is installed and from the stored file where it is not.

A parity module (`parity_losses.py`, `parity_optimizers.py`, …) holds `cases() -> {name: function}`; each function
imports torch inside itself and returns `{array name: NumPy array}`. `make_reference.py` runs them all and stores what
they return under `tests/data/torch_<group>.npz`. A test asks `reference(group, name)` and never learns which it got.
"""

import functools
import importlib
import importlib.util
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
GROUPS = ("losses", "networks", "nn", "optimizers", "weights")
HAVE_TORCH = importlib.util.find_spec("torch") is not None


def cases(group):
    return importlib.import_module(f"parity_{group}").cases()


@functools.cache
def stored(group):
    """All stored cases of a group: `{case: {array name: array}}`."""
    found = {}
    with np.load(DATA / f"torch_{group}.npz") as file:
        for path in file.files:
            case, array = path.rsplit("/", 1)
            found.setdefault(case, {})[array] = file[path]
    return found


@functools.cache
def reference(group, case):
    return cases(group)[case]() if HAVE_TORCH else stored(group)[case]
