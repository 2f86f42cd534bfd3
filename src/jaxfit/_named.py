"""Functions by name: how a file says which function ran, and how it is found again, with the same code or not at all.

A description is a dict of plain values. It never holds code: what is found by it is what is installed here.
"""

import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from jaxfit import _checks, _code, _report, _tree_json, losses
from jaxfit._tree_json import UnreadableError, located
from jaxfit.optimizers import Optimizer

_OURS = "jaxfit."


@dataclasses.dataclass(frozen=True)
class Lost:
    """Stands where a function was that is not found: it has its name, and raises ValueError when it is called.

    Attributes:
        name: The function's qualified name.
        why: Why it is not found, as a sentence.
    """

    name: str
    why: str

    def __post_init__(self):
        object.__setattr__(self, "__qualname__", self.name)
        object.__setattr__(self, "__name__", self.name.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError."""
        del args, kwargs
        raise ValueError(self.why)


def describe(function: Any) -> Any:
    """Which function it is, in plain values; of kind "lost" where no other program finds it by its name.

    Args:
        function: A function, a partial of one, or a curve of `jaxfit.models`.
    """
    if isinstance(function, Lost):
        return {"kind": "lost", "name": function.name, "why": function.why, "code": None}
    try:
        if isinstance(function, functools.partial):
            inner = describe(function.func)
            _tree_json.encode((function.args, function.keywords), _tree_json.Collected(), "")
            if inner["kind"] == "lost":
                return inner
            return {"kind": "partial", "function": inner, "args": function.args, "keywords": dict(function.keywords)}
        curve = _describe_curve(function)
    except TypeError:  # something that a file cannot hold
        return _lost(function, "what is bound to it cannot be written down")
    return _describe_function(function) if curve is None else curve


def _describe_function(function: Any) -> Any:
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return _lost(function, f"{_checks.describe(function)} has no name")
    if "<lambda>" in name or "<locals>" in name:
        return _lost(function, "a lambda has no name" if "<lambda>" in name else "it was made inside a function")
    if module == "__main__":
        return _lost(function, "it belongs to a script or a notebook, not to a module that can be imported")
    place = f"{module}:{name}"
    if getattr(losses, name, None) is function:
        place = f"jaxfit.losses:{name}"
    if located(place) is not function:
        return _lost(function, f"{place.replace(':', '.')} is not it")
    return {"kind": "function", "place": place, "code": None if place.startswith(_OURS) else _code.code_of(function)}


def _lost(function: Any, why: str) -> Any:
    name = getattr(function, "__qualname__", None) or type(function).__name__
    return {"kind": "lost", "name": name, "why": why, "code": _code.code_of(function)}


def _describe_curve(curve: Any) -> Any:
    """Which curve of `jaxfit.models` it is; None for anything else."""
    models = sys.modules.get("jaxfit.models._base")
    if models is None or not isinstance(curve, models.Model):
        return None
    if curve.expression is not None:
        return {"kind": "sum", "of": _describe_expression(curve.expression), "name": curve.name}
    name = getattr(curve.function, "__name__", "")[1:]
    origin: Any = getattr(sys.modules["jaxfit.models"], name, None)
    if isinstance(origin, models.Model) and dataclasses.replace(origin, name=curve.name) == curve:
        return {"kind": "curve", "place": f"jaxfit.models:{name}", "name": curve.name}
    parts = {key: getattr(curve, key) for key in ("names", "lower", "upper", "name", "formula")}
    function, guesser = describe(curve.function), curve.guesser and describe(curve.guesser)
    for part in (function, guesser):
        if part is not None and part["kind"] == "lost":
            return part
    return {"kind": "own curve", "function": function, "guesser": guesser, "parts": parts}


def _describe_expression(node: Any) -> Any:
    if isinstance(node, float):
        return node
    found = _describe_curve(node)
    if found is not None:
        if found["kind"] == "lost":
            raise TypeError("a part of it is lost")
        return found
    return {"kind": node.operator, "left": _describe_expression(node.left), "right": _describe_expression(node.right)}


def find(description: Any, what: str, way_out: str) -> Any:
    """The function that a description tells of.

    Args:
        description: What `describe` gave.
        what: What it is called in messages: "model", "loss".
        way_out: What to do where it is not found, as a sentence.

    Raises:
        ValueError: It is not found, or its code is another one now.
    """
    again = functools.partial(find, what=what, way_out=way_out)
    kind = description["kind"]
    if kind == "lost":
        raise ValueError(f"the {what}, {description['name']}, is not in the file: {description['why']}. {way_out}")
    if kind == "partial":
        return functools.partial(again(description["function"]), *description["args"], **description["keywords"])
    if kind == "curve":
        return _located(description["place"], what, way_out).named(description["name"])
    if kind == "sum":
        found = _sum(description["of"], again)
        return found.named(description["name"]) if description["name"] else found
    if kind == "own curve":
        from jaxfit.models import Model

        guesser = description["guesser"] and again(description["guesser"])
        return Model(again(description["function"]), guesser=guesser, **description["parts"])
    if kind != "function":
        raise UnreadableError(f"it tells of a function of the kind {kind!r}, which this version does not know")
    place = description["place"]
    function = _located(place, what, way_out)
    differs = _code.difference(description["code"], function)
    if differs:
        raise ValueError(
            f"the {what} {place.replace(':', '.')} is not what it was when the result was saved: {differs}. {way_out}"
        )
    return function


def _located(place: str, what: str, way_out: str) -> Any:
    module = place.partition(":")[0]
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"the {what} would be {place.replace(':', '.')}, a part of Python. {way_out}")
    try:
        importlib.import_module(module)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the {what} belongs to {module}, which cannot be imported ({reason}). {way_out}") from error
    found = located(place)
    if not callable(found):
        raise ValueError(f"the {what} {place.replace(':', '.')} is not there any more. {way_out}")
    return found


def _sum(node: Any, again: Callable[[Any], Any]) -> Any:
    if isinstance(node, (float, int)):
        return node
    if node["kind"] not in ("+", "-", "*"):
        return again(node)
    left, right = _sum(node["left"], again), _sum(node["right"], again)
    return left + right if node["kind"] == "+" else left - right if node["kind"] == "-" else left * right


def described(function: Any) -> Any:
    """As `describe`, with the name that a report gives it."""
    return describe(function) | {"shown": _report.name_of(function)}


# -- optimizers -----------------------------------------------------------------------------------------------------


def describe_optimizer(optimizer: Optimizer) -> Any:
    """An optimizer in plain values: its class, its numbers, and its schedules by name.

    Raises:
        TypeError: It holds something else.
    """
    values = {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}
    functions = {name for name, value in values.items() if callable(value) or hasattr(value, "update")}
    kind = type(optimizer)
    place = f"{kind.__module__}:{kind.__qualname__}"
    return {
        "place": f"jaxfit.optimizers:{kind.__name__}" if place.startswith("jaxfit.optimizers.") else place,
        "values": {name: value for name, value in values.items() if name not in functions},
        "functions": {name: describe(values[name]) for name in sorted(functions)},
        "shown": repr(optimizer),
    }


def find_optimizer(description: Any) -> Any:
    """The optimizer that a description tells of; a schedule that is not found is one that cannot be called.

    Raises:
        ValueError: Its class is not found.
    """
    way_out = "Make it importable to ask for it."
    place = description["place"]
    kind = _located(place, "optimizer", way_out)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"the optimizer {place.replace(':', '.')} is none any more. {way_out}")
    values = description["values"] | {
        name: found_or_lost(inner, f"{name} of {kind.__name__}") for name, inner in description["functions"].items()
    }
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    if not values.keys() <= known.keys():
        strange = ", ".join(sorted(values.keys() - known.keys()))
        raise ValueError(f"the optimizer {kind.__name__} has no {strange} in this version of jaxfit.")
    optimizer = object.__new__(kind)
    for name, default in known.items():
        value = values.get(name, default)
        same = type(value) is type(default) and value == default
        object.__setattr__(optimizer, name, default if same else value)  # what is at its default is not printed
    return optimizer


def found_or_lost(description: Any, what: str) -> Any:
    """The function that a description tells of, or a stand-in."""
    try:
        return find(description, what, "")
    except UnreadableError:
        raise
    except ValueError as error:
        name = description.get("name") or description.get("place", "").rpartition(":")[2]
        return Lost(name or "a function", str(error).strip())
