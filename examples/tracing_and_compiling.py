"""Tracing and compiling: when the Python of a function runs, what is compiled, and when it is compiled again.

For those who come from PyTorch: eager calls build a dynamic graph as they go. `jax.jit` runs the Python once to record
a static graph, compiles it, and from then on runs the compiled program alone.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "output" / "tracing_and_compiling.png"


def shapes() -> dict[str, Any]:
    """One program for each shape and dtype: the values are free, the shapes are not."""
    traced = []

    @jax.jit
    def double(x):
        print(f"  tracing double with {x}")  # Python runs while tracing only; jax.debug.print runs at every call
        traced.append(x.shape)
        return 2 * x

    for x in (jnp.ones(3), jnp.zeros(3), jnp.ones(4)):
        print(f"  double({x}) = {double(x)}")
    return {"traced": traced}


def arguments() -> dict[str, Any]:
    """A static argument is a Python value while tracing, and part of the program; a dynamic one is data."""

    def power(x, n):
        result = x
        for _ in range(n - 1):  # n steers Python, so it must be known while tracing: a static argument
            result = result * x
        return result

    graph = jax.make_jaxpr(power, static_argnums=1)(2.0, 4)
    print(f"  the recorded graph of power with n = 4, its loop unrolled:\n{graph}")
    fast_power = jax.jit(power, static_argnames="n")

    @jax.jit
    def looped_power(x, n):
        return jax.lax.fori_loop(1, n, lambda _, result: result * x, x)  # n is data: one program for all of them

    print(f"  2^4 = {fast_power(2.0, n=4)} with n static, {looped_power(2.0, 4)} with n dynamic")
    by_static = [float(fast_power(2.0, n=n)) for n in (3, 4, 5)]
    by_dynamic = [float(looped_power(2.0, n)) for n in (3, 4, 5)]
    return {"multiplications": len(graph.jaxpr.eqns), "by_static": by_static, "by_dynamic": by_dynamic}


def choices() -> dict[str, Any]:
    """An `if` on a value cannot be recorded, for there is no value yet; `jnp.where` can."""

    @jax.jit
    def by_if(x):
        return x if x > 0 else 0.1 * x

    @jax.jit
    def by_where(x):
        return jnp.where(x > 0, x, 0.1 * x)

    try:
        by_if(-2.0)
        refused = ""
    except jax.errors.TracerBoolConversionError as error:
        refused = type(error).__name__
    print(f"  if: {refused}; where: {by_where(-2.0)}")
    return {"refused": refused, "by_where": float(by_where(-2.0))}


def times() -> dict[str, Any]:
    """The first call traces and compiles; later ones run the program."""

    def course(x):
        for _ in range(50):
            x = jnp.sin(x) + 0.1 * x**2
        return x

    def seconds(function) -> float:
        began = time.perf_counter()
        function(jnp.ones(1_000)).block_until_ready()
        return time.perf_counter() - began

    compiled = jax.jit(course)
    seconds(course)  # the first eager call compiles its single operations: not what is compared here
    found = {"operation by\noperation": seconds(course), "jit, first call": seconds(compiled)}
    found["jit, later calls"] = min(seconds(compiled) for _ in range(10))
    print("  " + ", ".join(f"{' '.join(name.split())}: {value * 1e3:.3g} ms" for name, value in found.items()))

    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(found), [value * 1e3 for value in found.values()], color=["0.6", "C1", "C0"])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set(xlabel="time (ms)", xscale="log", title="A function of 200 operations on 1,000 numbers")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    return {"seconds": list(found.values())}


def main() -> dict[str, Any]:
    """Runs all parts."""
    found = {}
    for part in (shapes, arguments, choices, times):
        print(part.__name__)
        found[part.__name__] = part()
    print(f"\nPicture: {PICTURE}")
    return found


if __name__ == "__main__":
    main()
