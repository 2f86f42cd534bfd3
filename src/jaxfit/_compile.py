"""Compiles a program once for all fits that mean the same, and says how long that took."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

_PROGRAMS_KEPT = 256
_FOUND_KEPT = 1024  # findings are small
# What a user may set around a call that changes the program, and that JAX's own cache would tell apart too.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_default_prng_impl",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_explicit_x64_dtypes",
    "jax_allow_f16_reductions",
    "jax_optimization_level",
    "jax_memory_fitting_level",
    "jax_use_direct_linearize",
    "jax_enable_checks",
)

_programs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
_found: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
_lock = threading.Lock()


# Options of XLA's on CPU. They come and go; those that this XLA does not know are dropped.
# For programs whose time goes into compiling them: half the compilation, the same speed within 10 %, measured on fits
# of a few params with jaxlib 0.10.
HASTY: dict[str, bool | str] = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": "1"}
# For long sums over blocks of data: a third less to compile, as fast, and a quarter less memory.
LEAN: dict[str, bool | str] = {"xla_cpu_use_fusion_emitters": False}


def call(
    program: Callable,
    key: Hashable,
    *args: Any,
    check: Callable[[], None] | None = None,
    options: dict[str, bool | str] | None = None,
) -> tuple[Any, float]:
    """Calls a program on arrays, compiled; compiles only where no equal program for such arrays is kept.

    Args:
        program: `program(*args)`, to be traced. It may refer to anything that `key` describes.
        key: What the program is, beside the shapes and dtypes of its arguments.
        args: Pytrees of NumPy arrays, JAX arrays and Python numbers.
        check: Called before a compilation, to raise what tracing would raise less clearly.
        options: How to compile it on CPU: `HASTY`, `LEAN`, or None for XLA's own way.

    Returns:
        What the program returns, and the seconds that compilation took, 0.0 where none was needed.
    """
    if setting("jax_disable_jit"):  # somebody steps through the model by hand
        if check is not None:
            check()
        return program(*args), 0.0
    leaves, tree = jax.tree.flatten(args)
    compiled, seconds = ready(program, key, leaves, tree, check=check, options=options)
    return compiled(*leaves), seconds


def ready(
    program: Callable,
    key: Hashable,
    leaves: list[Any],
    tree: Any,
    *,
    check: Callable[[], None] | None = None,
    options: dict[str, bool | str] | None = None,
) -> tuple[Callable, float]:
    """A program compiled for arguments with these leaves, to be called with the leaves, and the seconds that this took.

    Args:
        program: As in `call`, and so all others.
        key: What it is.
        leaves: The leaves of its arguments, or of others of their shapes.
        tree: The structure of its arguments.
        check: Called before a compilation.
        options: How to compile it.
    """
    whole = (key, tree, tuple(map(_kind, leaves)), settings())
    with _lock:
        compiled = _programs.get(whole)
        if compiled is not None:
            _programs.move_to_end(whole)
    if compiled is not None:
        return compiled, 0.0
    started = time.perf_counter()
    if check is not None:
        check()
    # Flat arguments: the tree belongs to the key, and a call has no tree left to walk.
    lowered = jax.jit(lambda *flat: program(*tree.unflatten(flat))).lower(*leaves)
    compiled = lowered.compile() if options is None else _with_options(lowered, options)
    seconds = time.perf_counter() - started
    with _lock:
        _programs[whole] = compiled
        while len(_programs) > _PROGRAMS_KEPT:
            _programs.popitem(last=False)
    return compiled, seconds


def kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gave for an equal key; made where it is not kept."""
    with _lock:
        if key in _found:
            _found.move_to_end(key)
            return _found[key]
    value = make()
    with _lock:
        _found[key] = value
        while len(_found) > _FOUND_KEPT:
            _found.popitem(last=False)
    return value


def _with_options(lowered: jax.stages.Lowered, options: dict[str, bool | str]) -> jax.stages.Compiled:
    """Compiles with these options on CPU; elsewhere, and where XLA knows none of them, as ever."""
    while options and jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=dict(options))
        except jax.errors.JaxRuntimeError as error:
            unknown = [name for name in options if f"No such compile option: '{name}'" in str(error)]
            if not unknown:
                raise
            del options[unknown[0]]  # for later programs too
    return lowered.compile()


def precision(wide: bool) -> contextlib.AbstractContextManager:
    """The scope of a fit: 64 bits where it needs them although JAX is set to 32."""
    return jax.enable_x64(True) if wide else contextlib.nullcontext()


def settings() -> tuple[Any, ...]:
    """All settings of JAX's that change a program, as they are in this scope."""
    return tuple(map(setting, _SETTINGS))


def setting(name: str) -> Any:
    """One of JAX's settings, as it is in this scope; None for one that this JAX does not have."""
    return getattr(jax.config, name, None)


def _kind(leaf: Any) -> Hashable:
    """What compilation depends on in an argument."""
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype
    if isinstance(leaf, jax.Array):
        weak = getattr(leaf, "weak_type", False)  # an array of keys has none
        if not leaf.committed and not weak:
            return leaf.shape, leaf.dtype  # the same to a program as a NumPy array
        return leaf.shape, leaf.dtype, weak, leaf.sharding if leaf.committed else None
    return type(leaf)
