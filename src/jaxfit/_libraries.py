"""What counts as a library: code that is taken not to change while a program runs."""

import functools
import os
import sys
from typing import Any

# Functions and classes of these packages, and of Python's own, are taken not to change while a program runs.
_PACKAGES = {"jax", "jaxlib", "jaxfit", "optax", "flax", "numpy", "scipy", "nanobind"}
_INSTALLED_PACKAGES = {"chex", "diffrax", "equinox", "haiku", "jaxopt", "jaxtyping", "ml_dtypes", "torch", "tensorflow"}
_INSTALLED_PACKAGES |= {"IPython", "beartype", "matplotlib", "orbax", "pandas", "rich", "sklearn", "sympy", "tqdm"}
# Where they lie counts too, because a user's file may have such a name.
_STANDARD = (os.path.dirname(os.__file__) + os.sep, os.path.join(sys.base_exec_prefix, "DLLs") + os.sep)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@functools.lru_cache(maxsize=1024)
def is_library(name: str | None, file: str | None) -> bool:
    """Whether a module belongs to a library; a user's file may bear the name of a module of Python's."""
    root = (name or "").partition(".")[0]
    if root in _PACKAGES:
        return True
    installed = file is not None and any(folder in file for folder in _INSTALLED)
    if root in _INSTALLED_PACKAGES:
        return installed
    if root not in sys.stdlib_module_names:
        return False
    return root in sys.builtin_module_names if file is None else file.startswith(_STANDARD) and not installed


@functools.lru_cache(maxsize=4096)
def is_library_class(kind: type) -> bool:
    """Whether a class is a library's own, or one that only C can make."""
    if not kind.__flags__ & 1 << 9:  # Py_TPFLAGS_HEAPTYPE: no class statement makes such a class
        return True
    name, module = kind.__module__, sys.modules.get(kind.__module__)
    if not is_library(name, getattr(module, "__file__", None)):
        return False
    return name.partition(".")[0] not in sys.stdlib_module_names or hasattr(module, kind.__qualname__.partition(".")[0])


def is_public(value: Any) -> bool:
    """Whether a library's module holds this very object under its name."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    scope = {} if module is None else vars(module)
    return name in scope and scope[name] is value and is_library(scope["__name__"], scope.get("__file__"))
