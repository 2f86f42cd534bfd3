"""What a function computes, as a hashable key: equal keys mean that one compiled program serves both.

A lambda that is written anew has a new identity and the same meaning, so identity compiles too often; its code alone
says too little, because a changed closure, default, global or class attribute changes the answer. The key therefore
holds the code and every value that it may refer to. What shows no value and is not known to stay the same has a key
that equals no other: that costs a compilation, never a wrong answer. Libraries are taken not to change. What code finds
by a computed name (`getattr(module, name)`, `globals()[name]`) or a library in a ContextVar cannot be seen.
"""

import collections
import copyreg
import dis
import enum
import functools
import hashlib
import sys
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxfit._libraries import is_library, is_library_class, is_public

_PLAIN = {type(None), bool, int, str, bytes, type(Ellipsis), type(NotImplemented)}
_ATOMS: tuple[Any, ...] = (str, int, float, complex, bytes)
_CONTAINERS = (tuple, list, set, frozenset)  # the order of a set counts too: code that walks through it sees it
_BASES = {dict, bytearray, *_ATOMS, *_CONTAINERS}
_COMPARABLE = (np.dtype, jax.Device, jax.sharding.Sharding, jax.sharding.Mesh, jax.sharding.PartitionSpec)
_COMPARABLE += (jax.ShapeDtypeStruct, jax.tree_util.PyTreeDef)  # immutable, and compared by value
_FIXED = (np.ufunc, type(threading.Lock()), type(threading.RLock()))
_FIXED += (types.MemberDescriptorType, types.GetSetDescriptorType, types.MethodDescriptorType)
_FIXED += (types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_FIXED += (type(vars(collections.namedtuple("_", "field"))["field"]),)
_JIT = type(jax.jit(lambda: None))
_JIT_OPTIONS = (
    *("static_argnums", "static_argnames", "donate_argnums", "donate_argnames", "in_shardings_leaves"),
    *("out_shardings_leaves", "compiler_options_kvs", "device", "backend", "keep_unused", "inline"),
)
_UNREAD = {"__dict__", "__weakref__", "__doc__", "__module__", "__orig_bases__", "__parameters__", "__type_params__"}
_UNREAD |= {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__firstlineno__"}
_UNREAD |= {"__static_attributes__", "__dataclass_fields__", "__dataclass_params__", "_abc_impl", "_mmap"}
_PICKLED_BY = {"__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"}
_COMPARED_BYTES = 1 << 16  # a device array up to this size is compared by value, a larger one by identity
_MOST_VALUES = 1 << 18  # no key is made of more


class _Identity:
    """Compares by identity and keeps its object alive, so that no other can take over the identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def fingerprint(value: Any) -> Hashable:
    """The key of a value: of functions, of what they close over and refer to, and of plain data.

    Args:
        value: A function or any other object.

    Returns:
        A hashable key; two values with equal keys behave the same when traced.
    """
    walk = _Walk(value)
    read = 0
    while read < len(walk.queue) or walk.look_into_modules():
        if read >= _MOST_VALUES:
            walk.never()
            break
        walk.visit(walk.queue[read])
        read += 1
    return tuple(walk.key)


class _Walk:
    """A walk through all that a value refers to, breadth first and without recursion.

    Every value writes a few entries whose first tells how many values it appends to the queue, so that the flat key
    can be read in one way only. The queue keeps temporary values alive: their ids stay theirs.
    """

    __slots__ = ("done", "key", "modules", "names", "queue", "seen")

    def __init__(self, value: Any):
        self.key: list[Hashable] = []
        self.queue = [value]
        self.seen: dict[int, int] = {}
        self.names: dict[str, None] = {}  # all that the code met so far may look up in a module
        self.modules: dict[int, types.ModuleType] = {}  # the users' modules among the values
        self.done: set[tuple[int, str]] = set()

    def never(self) -> None:
        """Makes the key unequal to any other."""
        self.key.append(object())

    def add(self, *entries: Hashable, then: Iterable[Any] = ()) -> None:
        """Writes entries and queues the values that follow."""
        start = len(self.queue)
        self.queue.extend(then)
        self.key += (*entries, len(self.queue) - start)

    def visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self.key += (kind, value)
        elif kind is float:
            self.key += (kind, value.hex())  # tells 0.0 from -0.0, and nan is equal to itself
        elif id(value) in self.seen:  # a function that calls itself, a value that is shared
            self.key += ("seen", self.seen[id(value)])
        else:
            self.seen[id(value)] = len(self.seen)
            try:
                _reader_of(kind)(self, value)
            except Exception:  # a user's attribute that raises, a C type that does not tell its state
                self.never()

    def look_into_modules(self) -> bool:
        """Queues what the code met so far may mean by `module.name`; False where all of it is in the key."""
        before = len(self.queue)
        for number, module in enumerate(list(self.modules.values())):
            scope = vars(module)
            for name in self.names:
                if name in scope and (number, name) not in self.done:
                    self.done.add((number, name))
                    self.add("in module", number, name, then=(scope[name],))
        return len(self.queue) > before


def _read_function(walk: _Walk, function: types.FunctionType) -> None:
    code, scope = function.__code__, function.__globals__
    library = is_library(scope.get("__name__"), scope.get("__file__"))
    if library and function.__closure__ is None and "<locals>" not in code.co_qualname:
        return walk.key.append(_Identity(function))
    found = ()
    if not library:
        names, imports = _names(code)
        walk.names.update(dict.fromkeys(names))
        found = tuple([name for name in names if name in scope])
        if imports:
            walk.queue.append(_imported(names, scope.get("__package__") or ""))
    values = function.__defaults__, function.__kwdefaults__, function.__dict__ or None, function.__closure__
    return walk.add("function", code, found, then=(*values, *[scope[name] for name in found]))


def _read_cell(walk: _Walk, cell: types.CellType) -> None:
    try:
        walk.add("cell", then=(cell.cell_contents,))
    except ValueError:  # not filled yet
        walk.add("cell")


def _read_builtin(walk: _Walk, function: types.BuiltinFunctionType) -> None:
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        walk.key.append(_Identity(function))
    else:
        walk.add("builtin", function.__qualname__, then=(owner,))


def _read_module(walk: _Walk, module: types.ModuleType) -> None:
    walk.key += ("module", _Identity(module))
    scope = vars(module)
    if not is_library(scope.get("__name__"), scope.get("__file__")):
        walk.modules[id(module)] = module


def _read_class(walk: _Walk, kind: type) -> None:
    """A class is itself, and for a user's class also what its namespace and its bases hold now."""
    if is_library_class(kind):
        return walk.key.append(_Identity(kind))
    space = {name: value for name, value in vars(kind).items() if name not in _UNREAD}
    return walk.add("class", _Identity(kind), tuple(space), then=(type(kind), kind.__bases__, *space.values()))


def _read_container(walk: _Walk, values: Iterable[Any]) -> None:
    walk.add(type(values), then=values)


def _read_dict(walk: _Walk, values: dict) -> None:
    walk.add(dict, then=values)
    walk.queue.extend(values.values())


def _reader(*attributes: str) -> Callable[[_Walk, Any], None]:
    """A reader of objects that are no more than these attributes."""

    def read(walk: _Walk, value: Any) -> None:
        walk.add(type(value), then=[getattr(value, name, None) for name in attributes])

    return read


def _read_jitted(walk: _Walk, function: Any) -> None:
    if is_public(function):
        return walk.key.append(_Identity(function))
    options = [getattr(getattr(function, "_jit_info", None), name, None) for name in _JIT_OPTIONS]
    return walk.add("jit", then=(function.__wrapped__, *options))


@functools.lru_cache(maxsize=1024)
def _reader_of(kind: type) -> Callable[[_Walk, Any], None]:
    """What reads objects of a class."""
    if kind in _READERS:
        return _READERS[kind]
    # jax.extend.core has these by name, and would double the time of the import.
    of_jax = kind.__module__.startswith("jax.") and kind.__name__ in ("Primitive", "Jaxpr", "ClosedJaxpr")
    if (
        kind is object
        or of_jax
        or issubclass(kind, (Tracer, *_FIXED))
        or (issubclass(kind, enum.Enum) and is_library_class(kind))
    ):
        return lambda walk, value: walk.key.append(_Identity(value))
    for base, reader in _BASE_READERS.items():
        if issubclass(kind, base):
            return reader
    if issubclass(kind, _COMPARABLE):
        return lambda walk, value: walk.add(kind, value, hash(value))
    return _read_hidden if _layout(kind).hides else _read_object


def _read_object(walk: _Walk, value: Any) -> None:
    """An object of a class written in Python: its class, its attributes, and what it holds as a dict, a tuple..."""
    kind = type(value)
    base: Any = _layout(kind).base
    attributes = _attributes(value)
    if is_library_class(kind) and (is_public(value) or (base is None and not attributes)):
        return walk.key.append(_Identity(value))  # among them marks that a library compares by `is`
    content: Any = None
    if base is not None and base in _ATOMS:
        (content,) = base.__getnewargs__(value)
    elif base in (dict, bytearray):
        content = dict(dict.items(value)) if base is dict else bytearray.hex(value)
    elif base is not None:
        content = list(base.__iter__(value))
    return walk.add("object", tuple(attributes), then=(kind, content, *attributes.values()))


def _read_hidden(walk: _Walk, value: Any) -> None:
    """An object of a class written in C: what it would be pickled as, where its library says that; may raise."""
    kind = type(value)
    if is_library_class(kind) and is_public(value):
        return walk.key.append(_Identity(value))
    if hasattr(kind, "__array__"):
        content: Any = np.asarray(value)
    else:
        told_by = [base for base in kind.__mro__ if not vars(base).keys().isdisjoint(_PICKLED_BY)]
        if hasattr(kind, "__next__") or not all(map(is_library_class, told_by)):
            return walk.never()
        content = copyreg.dispatch_table.get(kind, lambda value: value.__reduce_ex__(4))(value)
        if isinstance(content, str):  # the name of something that there is once
            return walk.key.append(_Identity(value))
        content = [list(part) if hasattr(part, "__next__") else part for part in content]
    attributes = _attributes(value)
    return walk.add("hidden", tuple(attributes), then=(kind, content, *attributes.values()))


def _read_array(walk: _Walk, array: jax.Array) -> None:
    small = array.is_fully_addressable and array.nbytes <= _COMPARED_BYTES
    if not small or array.is_deleted():
        return walk.key.append(_Identity(array))
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    content = np.asarray(jax.random.key_data(array) if is_key else array).tobytes()
    walk.key += (jax.Array, str(array.dtype), getattr(array, "weak_type", None), array.shape, array.sharding, content)
    return None


def _read_numpy(walk: _Walk, array: np.ndarray | np.generic) -> None:
    """By value even where it is large: an array can change in place under the function that refers to it."""
    kind, content = type(array), b""
    attributes: dict[str, Any] = {}
    if kind is not np.ndarray and not is_library(kind.__module__, None):
        attributes = _attributes(array)
    elif isinstance(array, np.ma.MaskedArray):
        attributes = {"mask": np.ma.getmask(array), "fill": array.fill_value}
    if array.dtype.hasobject:
        attributes["objects"] = np.asarray(array).ravel().tolist()
    elif array.nbytes:
        # The bytes themselves: not every dtype has a buffer.
        plain = np.ascontiguousarray(array).view(np.ndarray).reshape(-1).view(np.uint8)
        content = hashlib.blake2b(plain.data, digest_size=16).digest()
    walk.add("numpy", array.dtype, array.shape, content, tuple(attributes), then=(kind, *attributes.values()))


_READERS: dict[Any, Any] = {
    **dict.fromkeys(_CONTAINERS, _read_container),
    dict: _read_dict,
    complex: _reader("real", "imag"),
    _JIT: _read_jitted,
    types.FunctionType: _read_function,
    types.CellType: _read_cell,
    types.BuiltinFunctionType: _read_builtin,
    types.MethodWrapperType: _read_builtin,
    types.MethodType: _reader("__self__", "__func__"),
    functools.partial: _reader("func", "args", "keywords", "__dict__"),
    type(functools.lru_cache(lambda: None)): _reader("__wrapped__", "cache_parameters"),
    staticmethod: _reader("__func__"),
    classmethod: _reader("__func__"),
    property: _reader("fget", "fset", "fdel"),
    types.GenericAlias: _reader("__origin__", "__args__"),
    types.UnionType: _reader("__args__"),
    types.MappingProxyType: lambda walk, value: walk.add("proxy", then=(dict(value),)),
}
_BASE_READERS: dict[Any, Any] = {
    type: _read_class,
    types.ModuleType: _read_module,
    jax.Array: _read_array,
    np.ndarray: _read_numpy,
    np.generic: _read_numpy,
    weakref.ReferenceType: lambda walk, value: walk.add("reference", then=(value(),)),
}


class _Layout(NamedTuple):
    """What objects of a class are made of: a built-in container or number, slots, and bytes that nothing shows."""

    base: type | None
    slots: tuple[types.MemberDescriptorType, ...]
    hides: bool


@functools.lru_cache(maxsize=1024)
def _layout(kind: type) -> _Layout:
    base = next((base for base in kind.__mro__ if base in _BASES), None)
    slots, shown, start = [], 0, base or object
    for owner in set(kind.__mro__) - set(start.__mro__):
        space = vars(owner)
        shown += ("__dict__" in space) + ("__weakref__" in space)
        if "__slots__" in space:
            slots += [member for member in space.values() if isinstance(member, types.MemberDescriptorType)]
    room = start.__basicsize__ + tuple.__itemsize__ * (shown + len(slots))
    return _Layout(base, tuple(slots), kind.__basicsize__ > room or kind.__itemsize__ != start.__itemsize__)


def _attributes(value: Any) -> dict[str, Any]:
    """All that an object carries in sight."""
    found = {}
    for slot in _layout(type(value)).slots:
        try:
            found[f"{slot.__objclass__.__qualname__}.{slot.__name__}"] = slot.__get__(value)
        except AttributeError:  # not set
            continue
    space = getattr(value, "__dict__", found)
    if type(space) is not dict:
        raise TypeError("attributes that are kept elsewhere")
    return found | {name: entry for name, entry in space.items() if name not in _UNREAD}


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], bool]:
    """All names that a piece of code and the code inside it may look up, and whether it imports anything."""
    names, imports = set(code.co_names), dis.opmap["IMPORT_NAME"] in code.co_code[::2]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more, inner = _names(constant)
            names.update(more)
            imports |= inner
    return tuple(sorted(names)), imports


def _imported(names: Iterable[str], package: str) -> list[types.ModuleType]:
    """The modules that code in a package may mean by the names that it imports."""
    found = {package, *names, *(name.partition(".")[0] for name in names)}
    while package:
        found |= {f"{package}.{name}" for name in names}
        package = package.rpartition(".")[0]
    return [sys.modules[name] for name in sorted(found) if name in sys.modules]
