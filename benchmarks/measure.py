"""Timing, and tables of what was timed."""

import contextlib
import importlib.util
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTPUT = Path(__file__).parent / "output"


def alternating(calls: dict[str, Callable[[], Any]], repeats: int, pause: float = 0.05) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn, so that a machine that drifts does so for all of them.

    Each is called once before it is timed: the one before may have left its threads spinning and the caches full.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            call()
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def fresh(code: str, repeats: int = 3, here: bool = False) -> list[float]:
    """Seconds that a piece of code takes in a new Python process; it prints them itself as its last word."""
    return [printed(code, here)[-1] for _ in range(repeats)]


def printed(code: str, here: bool = False) -> list[float]:
    """The numbers in the last line that a piece of code prints in a new Python process.

    In this one if `here`, among what is imported and compiled already: that shows that it runs, and no more.
    """
    if here:
        with contextlib.redirect_stdout(io.StringIO()) as caught:
            exec(code, {})
        text = caught.getvalue()
    else:
        new = [sys.executable, "-c", code]
        text = subprocess.run(new, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return [float(word) for word in text.splitlines()[-1].split()]


def missing(module: str) -> str | None:
    """A line for the table where a peer is not installed."""
    return None if importlib.util.find_spec(module) else f"{module} is not installed: pip install {module}"


def row(what: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    """A row of a table: the best and the median of some measurements."""
    return {"what": what, "best_s": min(seconds), "median_s": statistics.median(seconds), **more}


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    import jax

    names = [line for line in _cpu_info() if line.startswith("model name")]
    versions = {name: _version(name) for name in ("jax", "jaxlib", "optax", "numpy", "torch", "jaxfit")}
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def show(title: str, rows: list[dict[str, Any]], notes: list[str]) -> None:
    """Prints a table in Markdown, as README takes it."""
    print(f"\n## {title}\n")
    print("| what | best | median | |\n|---|---|---|---|")
    for entry in rows:
        print(f"| {entry['what']} | {_time(entry['best_s'])} | {_time(entry['median_s'])} | {entry.get('note', '')} |")
    for note in notes:
        print(f"\n{note}")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def write(name: str, tables: dict[str, Any]) -> Path:
    """Keeps all tables as JSON."""
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "tables": tables}, indent=2) + "\n")
    return path
