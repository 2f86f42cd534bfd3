"""Packages whose parts are loaded when they are first asked for (PEP 562): an import pays for what it uses."""

import importlib
import sys
from collections.abc import Callable
from typing import Any


def attach(package: str, names: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: Its `__name__`.
        names: Where each public name is found: a module below the package, relative to it; the name itself for a
            module.
    """

    def getattribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{names[name]}")
        value = module if names[name] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def directory() -> list[str]:
        return sorted({*names, *(name for name in vars(sys.modules[package]) if not name.startswith("_"))})

    return getattribute, directory
