"""Whether a function can be traced without anybody noticing, told from its bytecode before it is called.

Tracing calls a function, and calls it on tracers: who counts calls, writes to a list or an attribute, or asks for the
type of an argument would see that. So every value that the function may refer to is looked at: numbers, arrays, JAX's
functions and functions that are traceable themselves are allowed, and nothing that stores outside its own locals. What
is not known to be harmless is not traceable: that costs speed, never a wrong answer.
"""

import dis
import enum
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

_JAX = {"jax", "jaxlib", "jaxfit", "optax"}
_JIT = type(jax.jit(lambda: None))
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), slice, range, np.dtype, np.generic)
_BUILTINS = (
    abs,
    all,
    any,
    complex,
    dict,
    divmod,
    enumerate,
    float,
    int,
    len,
    list,
    map,
    max,
    min,
    pow,
    range,
    reversed,
)
_BUILTINS += (round, slice, sorted, sum, tuple, zip, bool)
# Of values that come from outside, the methods that change them in place.
_CHANGES = {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "add", "update", "discard"}
_CHANGES |= {
    "setdefault",
    "popitem",
    "fill",
    "put",
    "resize",
    "partition",
    "setflags",
    "setfield",
    "byteswap",
    "itemset",
}
_CHANGES |= {"difference_update", "intersection_update", "symmetric_difference_update"}
_STORES = ("STORE_GLOBAL", "STORE_NAME", "STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "DELETE_", "IMPORT_", "YIELD_")
_STORES += ("PUSH_EXC_INFO", "SETUP_", "BEFORE_WITH", "BEFORE_ASYNC", "LOAD_SPECIAL", "LOAD_BUILD_CLASS", "LOAD_LOCALS")


class Use(enum.Enum):
    """What a function is made of."""

    HOST = "something that tracing may change or miss"
    PLAIN = "arithmetic alone, which NumPy and JAX both do"
    JAX = "functions of JAX"


class _RefusedError(Exception):
    """The function may do what tracing must not do."""


class _Code(NamedTuple):
    """What a piece of code, and the code inside it, refers to.

    Attributes:
        chains: Dotted names whose first part comes from outside: ("jnp", "exp"). A bool tells a closure's from globals.
        names: All names of attributes and methods.
        harmless: Whether nothing is stored outside its locals, and no error is caught.
    """

    chains: tuple[tuple[bool, tuple[str, ...]], ...]
    names: frozenset[str]
    harmless: bool


def use(function: Callable) -> Use:
    """What a function is made of; HOST where tracing it might be noticed.

    Args:
        function: Any callable.
    """
    if not callable(function):
        return Use.HOST
    look = _Look()
    try:
        look.at(function)
        for container in look.containers:
            if look.names & _CHANGES & set(dir(container)):
                return Use.HOST
    except (_RefusedError, RecursionError):
        return Use.HOST
    return Use.JAX if look.jax else Use.PLAIN


class _Look:
    """A look at all that a function refers to."""

    def __init__(self):
        self.seen: dict[int, Any] = {}
        self.containers: list[type] = []
        self.names: set[str] = set()
        self.jax = False

    def at(self, value: Any) -> None:
        """Looks at one value; raises _RefusedError where it is not known to be harmless."""
        if isinstance(value, _PLAIN):
            return
        if id(value) in self.seen:
            return
        self.seen[id(value)] = value
        kind = type(value)
        if isinstance(value, types.FunctionType):
            self._at_function(value)
        elif isinstance(value, types.MethodType):
            self._at_method(value.__self__, value.__func__)
        elif kind is _JIT:
            self.jax = True
            self.at(value.__wrapped__)
        elif kind is functools.partial:
            self.all([value.func, *value.args, *value.keywords.values()])
        elif kind in (list, tuple, set, frozenset, dict):
            self.containers.append(kind)
            self.all([*value, *value.values()] if kind is dict else value)
        elif kind is np.ndarray and value.dtype.kind in "fiub":
            self.containers.append(kind)
        elif value is jax.Array or isinstance(value, jax.Array) or _root(kind.__module__) in _JAX:
            self.jax = True
        elif isinstance(value, type) and issubclass(value, np.generic):
            return
        elif not any(value is known for known in _BUILTINS):
            self._at_object(value)

    def all(self, values: Iterable[Any]) -> None:
        """Looks at several values."""
        for value in values:
            self.at(value)

    def _at_function(self, function: types.FunctionType) -> None:
        if _root(function.__globals__.get("__name__")) in _JAX:
            self.jax = True
            return self.at(getattr(function, "__wrapped__", None))
        if function.__code__.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            raise _RefusedError
        found = _read(function.__code__)
        if not found.harmless:
            raise _RefusedError
        self.names |= found.names
        self.all(function.__defaults__ or ())
        self.all((function.__kwdefaults__ or {}).values())
        closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        return self.all(_resolved(chain, _scope(function, closure, free, chain[0])) for free, chain in found.chains)

    def _at_method(self, owner: Any, function: Any) -> None:
        """A method, and what of its object it may use."""
        if isinstance(owner, (type, types.ModuleType)) or not isinstance(function, types.FunctionType):
            raise _RefusedError
        kind = type(owner)
        if any(name in vars(base) for base in kind.__mro__[:-1] for name in ("__getattr__", "__getattribute__")):
            raise _RefusedError
        self.at(function)
        names: set[str] = set()
        while names != self.names:  # a method may lead to further names
            names = set(self.names)
            for name in names:
                self._at_attribute(owner, name)

    def _at_attribute(self, owner: Any, name: str) -> None:
        value = inspect.getattr_static(owner, name, None)
        value = getattr(owner, name, None) if isinstance(value, types.MemberDescriptorType) else value
        if isinstance(value, staticmethod):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        self.at(value)

    def _at_object(self, value: Any) -> None:
        """An object that is called, of a class written in Python."""
        call = inspect.getattr_static(type(value), "__call__", None)
        if isinstance(value, type) or not isinstance(call, types.FunctionType):
            raise _RefusedError
        self._at_method(value, call)


def _root(module: Any) -> str:
    return str(module or "").partition(".")[0]


def _scope(function: types.FunctionType, closure: dict[str, Any], free: bool, name: str) -> Any:
    """What a name means in a function; raises _RefusedError where it means nothing yet."""
    if free:
        try:
            return closure[name].cell_contents
        except ValueError as error:
            raise _RefusedError from error
    builtins = function.__globals__.get("__builtins__", {})
    builtins = builtins if isinstance(builtins, dict) else vars(builtins)
    if name in function.__globals__:
        return function.__globals__[name]
    if name in builtins:
        return builtins[name]
    raise _RefusedError


def _resolved(chain: tuple[str, ...], value: Any) -> Any:
    """The value of a dotted name, as far as it leads through modules."""
    for name in chain[1:]:
        if not isinstance(value, types.ModuleType):
            return value
        if _root(value.__name__) in _JAX:
            return jax.Array  # whatever it is, it is JAX's
        if name not in vars(value):
            raise _RefusedError
        value = vars(value)[name]
    if isinstance(value, types.ModuleType):
        raise _RefusedError
    return value


@functools.lru_cache(maxsize=1024)
def _read(code: types.CodeType) -> _Code:
    """What a piece of code refers to."""
    chains, names, harmless = set(), set(), True
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    own = set(code.co_cellvars)
    instructions = [entry for entry in dis.get_instructions(code) if entry.opname not in ("CACHE", "PUSH_NULL", "COPY")]
    for index, entry in enumerate(instructions):
        following = instructions[index + 1 : index + 8]
        if entry.opname.startswith(_STORES) or (entry.opname == "STORE_DEREF" and entry.argval not in own):
            harmless = False
        elif entry.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            names.add(entry.argval)
        elif entry.opname == "LOAD_GLOBAL":
            chains.add((False, (entry.argval, *_attributes(following))))
        elif entry.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF") and entry.argval not in own:
            chains.add((True, (entry.argval, *_attributes(following))))
        if ("LOAD_FAST" in entry.opname or entry.opname == "LOAD_DEREF") and _last(entry) in arguments:
            harmless &= not set(_attributes(following)) & _CHANGES
        elif entry.opname == "BINARY_OP" and entry.argrepr.endswith("=") and following:
            harmless &= not (following[0].opname.startswith("STORE_") and _first(following[0]) in arguments)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _read(constant)
            harmless &= inner.harmless
            names |= inner.names
            chains |= {(free, chain) for free, chain in inner.chains if not (free and chain[0] in own)}
    return _Code(tuple(sorted(chains)), frozenset(names), harmless)


def _attributes(instructions: Iterable[dis.Instruction]) -> Iterator[str]:
    """The attributes that are taken one after the other."""
    for entry in instructions:
        if entry.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            return
        yield entry.argval


def _first(entry: dis.Instruction) -> Any:
    return entry.argval[0] if isinstance(entry.argval, tuple) else entry.argval


def _last(entry: dis.Instruction) -> Any:
    return entry.argval[-1] if isinstance(entry.argval, tuple) else entry.argval
