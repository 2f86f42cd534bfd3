"""The benchmarks run, in a process of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_benchmarks_run():
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for words in (
        "jaxfit, warm",
        "first call after import",
        "import jaxfit",
        "jax.numpy.sin",
        "torch",
        "1 of 1 killed runs",
    ):
        assert words in done.stdout
