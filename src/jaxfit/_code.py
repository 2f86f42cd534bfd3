"""What the code of a function is, in digests that are the same in every process."""

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxfit._libraries import is_library


def code_of(function: Any) -> Any:
    """Digests of a function's code and of what of the user's own it refers to, by name; None where it has none."""
    parts = dict(_digests(function))
    try:
        source = digest(inspect.getsource(inspect.unwrap(function)))
    except (TypeError, OSError):
        source = None
    return {"python": sys.implementation.cache_tag, "parts": parts, "source": source} if parts else None


def difference(code: Any, function: Any) -> str:
    """What differs between a function and the one that had this code, in a few words; empty for nothing."""
    return "" if code is None else compared(code, code_of(function))


def compared(code: Any, now: Any) -> str:
    """What differs between the codes of two functions, in a few words; empty for nothing."""
    if code is None:
        return ""
    if now is None:
        return "it has no Python code now"
    if code["python"] != now["python"]:
        if code["source"] is not None and code["source"] == now["source"]:
            return ""
        return f"its code cannot be compared between {code['python']} and {now['python']}"
    before, after = code["parts"], now["parts"]
    # The function itself comes first, and may bear another name.
    pairs = list(zip([*before][:1], [*after][:1], strict=True)) + [(name, name) for name in [*before][1:]]
    names = [name for name, other in pairs if before[name] != after.get(other)]
    names += [name for name in [*after][1:] if name not in before]
    return f"it differs in {', '.join(names)}" if names else ""


def _digests(function: Any) -> Iterator[tuple[str, str]]:
    """The parts of a function's meaning, each with its digest, the function itself first."""
    queue, seen = [("", function)], set()
    home = getattr(inspect.unwrap(function) if callable(function) else function, "__module__", None)
    while queue:
        name, value = queue.pop(0)
        if isinstance(value, functools.partial):
            given = text((value.args, dict(sorted(value.keywords.items()))))
            yield f"{name} as a partial".strip(), digest(given)
            value = value.func
        if isinstance(value, types.MethodType):
            yield f"{name} bound to its object".strip(), digest(text(value.__self__))
            value = value.__func__
        value = inspect.unwrap(value) if callable(value) else value
        if not isinstance(value, types.FunctionType):
            if not name and not isinstance(value, type) and callable(value) and _is_users(type(value)):
                yield "its attributes", digest(text(value))
                queue.append(("its __call__", type(value).__call__))
            elif name:
                yield name, digest(text(value))
            continue
        scope, code = value.__globals__, value.__code__
        cells = value.__closure__ or ()
        library = is_library(scope.get("__name__"), scope.get("__file__"))
        if library and name and not cells:
            yield name, digest(f"{value.__module__}:{value.__qualname__}")
            continue
        bound = text((value.__defaults__, value.__kwdefaults__))
        yield name or "its code", digest(_code_text(code, value.__doc__) + bound)
        for key, inner in _used(value, library):
            # Of another module's it says which: names are told apart.
            label = key if library or value.__module__ == home else f"{value.__module__}.{key}"
            if (label, id(inner)) not in seen:
                seen.add((label, id(inner)))
                queue.append((label, inner))


def _used(function: types.FunctionType, library: bool) -> Iterator[tuple[str, Any]]:
    """What a function refers to, by name: in its closure, its module, and in other modules of the user's."""
    scope, code = function.__globals__, function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if _filled(cell):
            yield name, cell.cell_contents
    for name in () if library else _names(code):
        if name not in scope:
            continue
        yield name, scope[name]
        if isinstance(scope[name], types.ModuleType):
            inside = vars(scope[name])
            if not is_library(inside.get("__name__"), inside.get("__file__")):
                yield from ((f"{name}.{inner}", inside[inner]) for inner in _attributes(code) if inner in inside)


def _attributes(code: types.CodeType) -> list[str]:
    """All names that code may look up in what it has found."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return list(dict.fromkeys([*code.co_names, *(name for part in inner for name in _attributes(part))]))


def _is_users(kind: type) -> bool:
    """Whether a class is the user's own."""
    module = sys.modules.get(kind.__module__)
    return not is_library(kind.__module__, getattr(module, "__file__", None))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _names(code: types.CodeType) -> list[str]:
    """All names that code looks up in its module, in order; attributes of other things are none."""
    found = [each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return list(dict.fromkeys([*found, *(name for part in inner for name in _names(part))]))


def _code_text(code: types.CodeType, doc: str | None = None) -> str:
    """Code as text, without where it stands and what its docstring says."""
    consts = [
        _code_text(const) if isinstance(const, types.CodeType) else "" if doc and const == doc else text(const)
        for const in code.co_consts
    ]
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, counts, consts))


def text(value: Any, within: tuple[int, ...] = ()) -> str:
    """A value as text that is the same in every process; of objects of libraries it says no more than their class."""
    if id(value) in within:
        return "itself"
    inner = functools.partial(text, within=(*within, id(value)))
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        content = np.asarray(value) if not getattr(value, "is_deleted", lambda: False)() else np.zeros(0)
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(content).tobytes()).hexdigest()}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}[{', '.join(map(inner, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}[{', '.join(sorted(map(inner, value)))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inner(key)}: {inner(entry)}" for key, entry in value.items()) + "}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, functools.partial):
        return f"partial[{inner((value.func, value.args, value.keywords))}]"
    if isinstance(value, types.MethodType):
        return f"method[{inner(value.__func__)} of {inner(value.__self__)}]"
    if isinstance(value, types.FunctionType):
        place = f"{value.__module__}:{value.__qualname__}"
        library = is_library(value.__globals__.get("__name__"), value.__globals__.get("__file__"))
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return place + ("" if library else _code_text(value.__code__, value.__doc__)) + (inner(cells) if cells else "")
    if callable(value) and hasattr(value, "__qualname__"):  # classes, and functions of C's and jax's
        return f"{value.__module__}:{value.__qualname__}"
    kind = type(value)
    place = f"{kind.__module__}:{kind.__qualname__}"
    if _is_users(kind) or dataclasses.is_dataclass(value):
        return place + inner(dict(sorted(getattr(value, "__dict__", {}).items())))
    return place


def digest(content: str) -> str:
    """A short text that stands for a longer one."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
