"""Weights from torch and back: names, layouts and the order in which an image's features lie in a row."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfit import _checks
from jaxfit.nn import _activations, _pool, _simple

Net = TypeVar("Net", bound=nnx.Module)

_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm)
_NORM_NAMES = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
_NAMES = {nnx.Linear: {"kernel": "weight"}, nnx.Conv: {"kernel": "weight"}, nnx.Embed: {"embedding": "weight"}}
_NAMES |= dict.fromkeys(_NORMS, _NORM_NAMES)
_ORDER = ("weight", "bias", "running_mean", "running_var")  # torch's, of one layer
_FLATTENED = (nnx.Linear, nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm)  # layers that can follow the order of features
_PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation)  # variables that are no weights
_IMAGE_LAYERS = (nnx.Conv, nnx.ConvTranspose, _pool.MaxPool2d, _pool.AvgPool2d)
_ELEMENTWISE = (
    *(nnx.Dropout, nnx.PReLU, _simple.Identity),
    *(_activations.ReLU, _activations.LeakyReLU, _activations.ELU, _activations.GELU, _activations.SiLU),
    *(_activations.Sigmoid, _activations.Tanh, _activations.Softplus, _activations.Softmax, _activations.LogSoftmax),
)
_FUNCTIONS = (jnp.tanh, jnp.sin, jnp.cos, jnp.exp, jnp.abs, jnp.square, jnp.asarray, jnp.array)  # and those of jax.nn
_UNKNOWN = 0  # in place of a number of channels
_INPUT = -1  # likewise: what the network is given, as images or not
_COUNTER = "num_batches_tracked"
_SHOWN = 8  # entries of a kind in a message


def from_torch(net: Net, state_dict: Any, *, flattened: Mapping[str, int] | None = None) -> Net:
    """A copy of a network with the weights that a network of torch has.

    Entries belong to attributes of the same path, `"features.0.weight"` to `net.features.layers[0].kernel`; the
    `layers` of a `Sequential` and what flax calls its arrays are translated, and so are the layouts: torch's channels
    come first, here they come last. Where torch's Flatten orders the features of an image as (channel, height, width),
    here they are (height, width, channel). The first Linear after a Flatten gets its inputs in that order by itself
    where both stand in one `Sequential` and the layers before tell the number of channels, and so do normalizations
    between the two and a LayerNorm over several axes of an image. Convolutions and a BatchNorm tell it; pooling,
    activations, Dropout, Identity, nested Sequentials and plain functions keep it (do not change it in such a
    function); behind any other module, one of your own say, it is unknown, and `flattened` has to tell it.

    A Flatten of the network's own input is the case to know about: nothing there tells images from other arrays. For
    `Sequential(Flatten(), Linear(3072, 10))` on RGB images pass `flattened={"1": 3}`. ValueError asks where the Linear
    takes 3 n² inputs, those of a square RGB image; else the input counts as no image or one of a single channel, so
    other images of several channels need `flattened` unasked.

    Args:
        net: An `nnx.Module` of the same architecture; it is left as it was. `nnx.eval_shape` may have made it.
        state_dict: Names and arrays (of torch, NumPy or JAX, on any device), a `torch.nn.Module`, or the path of a
            `.safetensors` file. They take the dtypes of the net's arrays. A checkpoint of `torch.save` is first
            loaded: `torch.load(path, weights_only=True)`.
        flattened: Layers whose input is an image that was made flat, where the above does not tell it, by their paths
            in torch, with the image's number of channels: `{"fc1": 16}`. For a Linear after a Flatten in one
            `Sequential` it holds for the normalizations between them too. Where it is None, ValueError asks about each
            Linear after a Flatten with unknown channels, and outside a `Sequential` about each that looks like one (its
            inputs are a multiple of a convolution's channels and no other layer's outputs). `{}` says that there is
            none, or that the images have one channel.

    Returns:
        The copy.

    Raises:
        TypeError: Net is no module, or the state dict is not one.
        ValueError: Entries are missing, left over or of other shapes, all in one message; or flattened does not fit or
            has to be given.
        ImportError: The path of a file came and safetensors is not installed.

    Source: names and layouts as in `torch.nn.Module.state_dict`.

    Example:
        >>> import numpy as np
        >>> from jaxfit import nn
        >>> net = nn.Sequential(nn.Linear(3, 1, rngs=nn.Rngs(0)), nn.ReLU())
        >>> net = nn.from_torch(net, {"0.weight": np.array([[1.0, 2.0, 3.0]]), "0.bias": np.array([4.0])})
        >>> net(np.ones(3)).tolist()
        [10.0]
    """
    _need_module("from_torch", net)
    given = _arrays(state_dict)
    copy = nnx.clone(net)
    entries = [entry for entry in _entries("from_torch", copy, flattened) if entry.variable is not None]
    _check_fit(copy, entries, given)
    for entry in entries:
        if entry.name in given:
            array = entry.ours(_as_numpy(given[entry.name]))
            with np.errstate(over="ignore", invalid="ignore"):  # a weight may well be infinite
                # astype copies: torch goes on to write into the memory that its arrays share
                entry.variable.set_value(jnp.asarray(array.astype(entry.variable.dtype)))
    return copy


def to_torch(net: nnx.Module, *, flattened: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """A network's weights by the names and in the layouts of torch.

    `torch_net.load_state_dict({k: torch.from_numpy(v) for k, v in nn.to_torch(net).items()})` puts them into a network
    of torch of the same architecture, and `safetensors.numpy.save_file(nn.to_torch(net), path)` into a file. What
    `from_torch` says about names and layouts holds the other way round.

    Args:
        net: An `nnx.Module`.
        flattened: As for `from_torch`.

    Returns:
        Contiguous arrays of the net's dtypes, in torch's order. Copies of a module that flax makes have their
        attributes in alphabetical order, and so are the names then. `num_batches_tracked` of a BatchNorm is 0. torch
        takes no bfloat16 from NumPy: there `torch.from_numpy(v.astype("float32"))`, which `load_state_dict` casts.

    Raises:
        TypeError: Net is no module.
        ValueError: An array has no place in a state dict, or flattened does not fit or has to be given.

    Source: names and layouts as in `torch.nn.Module.state_dict`.

    Example:
        >>> from jaxfit import nn
        >>> net = nn.Sequential(nn.Linear(3, 2, rngs=nn.Rngs(0)), nn.ReLU())
        >>> {name: array.shape for name, array in nn.to_torch(net).items()}
        {'0.weight': (2, 3), '0.bias': (2,)}
    """
    _need_module("to_torch", net)
    return {entry.name: _array(entry) for entry in _entries("to_torch", net, flattened)}


def _array(entry: "_Entry") -> np.ndarray:
    """An entry's array as torch has it."""
    if entry.variable is None:
        return np.zeros((), np.int64)
    value = entry.variable.get_value()
    if isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(f"to_torch: {entry.name!r} of the net is a shape without an array; fill the net first.")
    return np.array(entry.theirs(np.asarray(value)), order="C")  # a copy, which may be written to: torch asks for that


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One entry of a state dict, and the variable it belongs to (None: torch alone has it)."""

    name: str
    variable: Any
    layout: str = "same"  # or "linear", "conv", "features" of a flat image, "image"
    channels: int = 1  # of the image whose flat features lie along the input axis; 1 leaves them in order

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has in torch."""
        *front, last = self.variable.shape or (0,)
        if self.layout == "conv":
            return (last, front[-1], *front[:-1])
        return (last, *front) if self.layout in ("linear", "image") else tuple(self.variable.shape)

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """An array of the net in torch's layout."""
        if self.layout == "linear":
            return array.reshape(-1, self.channels, array.shape[1]).transpose(2, 1, 0).reshape(array.shape[::-1])
        if self.layout == "features":
            return array.reshape(-1, self.channels).T.reshape(-1)
        if self.layout == "conv":
            return array.transpose(-1, -2, *range(array.ndim - 2))
        return np.moveaxis(array, -1, 0) if self.layout == "image" else array

    def ours(self, array: np.ndarray) -> np.ndarray:
        """An array of torch's in the layout of the net."""
        if self.layout == "linear":
            return array.reshape(len(array), self.channels, -1).transpose(2, 1, 0).reshape(array.shape[::-1])
        if self.layout == "features":
            return array.reshape(self.channels, -1).T.reshape(-1)
        if self.layout == "conv":
            return array.transpose(*range(2, array.ndim), 1, 0)
        return np.moveaxis(array, 0, -1) if self.layout == "image" else array


def _entries(function: str, net: nnx.Module, flattened: Mapping[str, int] | None) -> list[_Entry]:
    nodes = list(_walk("", net, ()))
    channels = _channels(function, nodes, flattened)
    return [entry for path, node in nodes for entry in _own_entries(function, path, node, channels.get(path, 1))]


def _own_entries(function: str, path: str, node: Any, channels: int) -> Iterator[_Entry]:
    """What one layer holds itself, in torch's order: the weights of a layer, its statistics after them."""
    names = next((names for kind, names in _NAMES.items() if isinstance(node, kind)), None)
    known = names is not None
    found = [((names or {}).get(name, name), variable) for name, variable in _variables(node)]
    rank = {name: k for k, name in enumerate(_ORDER)} if known else {}
    found.sort(key=lambda item: (not isinstance(item[1], nnx.Param), rank.get(item[0], len(rank))))
    for name, variable in found:
        if not (hasattr(variable.get_value(), "shape") and hasattr(variable.get_value(), "dtype")):
            came = _checks.describe(variable.get_value())
            raise ValueError(f"{function}: {_join(path, name)!r} of the net holds {came}; a state dict holds arrays.")
        yield _Entry(_join(path, name), variable, _layout(node, name, variable, channels), channels)
    if isinstance(node, nnx.BatchNorm):
        yield _Entry(_join(path, _COUNTER), None)


def _layout(node: Any, name: str, variable: Any, channels: int) -> str:
    if name == "weight" and isinstance(node, nnx.Linear):
        return "linear"
    if name == "weight" and isinstance(node, nnx.Conv):
        return "conv"
    if isinstance(node, _FLATTENED[1:]) and channels > 1:
        return "features" if len(variable.shape) == 1 else "image"
    return "same"


def _walk(path: str, node: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """A node and all nodes below it with their paths in torch; one that is shared comes once for each path."""
    yield path, node
    above = (*above, id(node))  # a parent that a child knows is no child of its
    for name, child in _members(node):
        if isinstance(child, (nnx.Pytree, list, tuple, dict)) and id(child) not in above:
            yield from _walk(_join(path, name), child, above)


def _members(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, (list, tuple, nnx.List)):
        return [(str(k), value) for k, value in enumerate(node)]
    held = node if isinstance(node, dict) else vars(node)
    members = [(str(name), value) for name, value in held.items() if not str(name).startswith("_pytree__")]
    if isinstance(node, nnx.Sequential):
        members = [item for item in members if item[0] != "layers"]
        members += [(str(k), layer) for k, layer in enumerate(node.layers)]
    return members


def _variables(node: Any) -> list[tuple[str, Any]]:
    """The weights that a node holds itself."""
    return [
        (name, value)
        for name, value in _members(node)
        if isinstance(value, nnx.Variable) and not isinstance(value, _PASSING) and value.get_value() is not None
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# Which layers see an image's features in a row


def _channels(function: str, nodes: list[tuple[str, Any]], flattened: Mapping[str, int] | None) -> dict[str, int]:
    """The layers whose input is a flat image, by path, with the image's number of channels."""
    by_path = dict(nodes)
    seen: dict[str, tuple[int, str]] = {}
    for path, node in nodes:
        if isinstance(node, nnx.Sequential):
            for layer, channels, flatten in _within(path, node, _start(path, nodes)):
                seen.setdefault(layer, (channels, flatten))  # the outermost Sequential sees most
    found = {layer: channels for layer, (channels, _) in seen.items() if channels > 0}
    found |= {layer: 1 for layer, (channels, _) in seen.items() if channels == _INPUT and not _is_rgb(by_path[layer])}
    asked = {flatten: layer for layer, (_, flatten) in seen.items() if layer not in found}  # the last after a Flatten
    if flattened is not None:
        named = _named(function, by_path, flattened)
        after = {seen[layer][1]: channels for layer, channels in named.items() if layer in seen}
        found |= {layer: after[place] for layer, (channels, place) in seen.items() if channels <= 0 and place in after}
        found |= named
    layers = [(path, node) for path, node in nodes if isinstance(node, _FLATTENED)]
    unfit = {path for path, node in layers if path in found and not _divides(found[path], node)}
    for path in unfit:
        if flattened is not None and path in flattened:
            width = _width(by_path[path])
            raise ValueError(
                f"{function}: flattened[{path!r}] is {found[path]}; the layer's {width} input features are no multiple "
                f"of that. Expected the number of channels of the image that is made flat."
            )
        del found[path]
    if flattened is None:
        linears = {path for path, node in layers if isinstance(node, nnx.Linear)}
        inputs = {layer for layer in asked.values() if seen[layer][0] == _INPUT}
        _ask_about(function, nodes, found, unfit & linears | set(asked.values()), inputs)
    return found


def _start(path: str, nodes: list[tuple[str, Any]]) -> int:
    """What a Sequential is given, as far as that is known."""
    outermost = not path and _is_of_libraries(nodes[0][1])
    images = any(isinstance(node, _IMAGE_LAYERS) for _, node in nodes)  # they may well come before it
    return _INPUT if outermost or not images else _UNKNOWN


def _within(path: str, sequential: nnx.Sequential, channels: int) -> Iterator[tuple[str, int, str]]:
    """Follows the number of channels through a Sequential.

    Yields the layers that take a flat image, or may do so, with the number of channels and the place of the Flatten.
    """
    flatten = None  # its place, as long as the features are in a row
    for place, layer in _in_a_row(path, sequential):
        if isinstance(layer, _FLATTENED) and (flatten is not None or (channels > 0 and _rank(layer) > 1)):
            yield place, channels, place if flatten is None else flatten
        if _is_flatten(layer):
            channels, flat = _flat(layer, channels)
            flatten = (place if flatten is None else flatten) if flat else None
        else:
            channels, flat = _after(layer, channels, flatten is not None)
            flatten = flatten if flat else None


def _flat(layer: Any, channels: int) -> tuple[int, bool]:
    """What a Flatten makes of a number of channels, and whether the last axis now holds features of several axes."""
    last = getattr(layer, "end_dim", -1) == -1
    whole = last and getattr(layer, "start_dim", 1) in (0, 1)
    return channels if whole or channels in (1, _INPUT) else _UNKNOWN, last


def _after(layer: Any, channels: int, flat: bool) -> tuple[int, bool]:
    """The number of channels after a layer, 1 where torch has the features last as well; and whether they are flat."""
    same = channels in (1, _INPUT)
    if not isinstance(layer, nnx.Pytree):  # a plain function; what the network is given may be pooled by one
        return channels if flat or channels != _INPUT or _is_elementwise(layer) else _UNKNOWN, flat
    if not _is_of_libraries(layer):
        return _UNKNOWN, False
    if isinstance(layer, (nnx.Conv, nnx.ConvTranspose)):
        return layer.out_features, False
    if isinstance(layer, (nnx.Linear, nnx.Embed)):
        return 1 if flat or same or isinstance(layer, nnx.Embed) else _UNKNOWN, False
    if isinstance(layer, _ELEMENTWISE) or (flat and isinstance(layer, _NORMS)):
        return channels, flat
    if isinstance(layer, (nnx.BatchNorm, nnx.GroupNorm, nnx.InstanceNorm)):
        return _width(layer) or max(channels, _UNKNOWN), False
    if isinstance(layer, _NORMS) and channels == _INPUT:
        return 1 if _rank(layer) == 1 else _UNKNOWN, False
    if isinstance(layer, (*_NORMS, *_IMAGE_LAYERS)):
        return max(channels, _UNKNOWN), False
    return _UNKNOWN, False


def _is_flatten(layer: Any) -> bool:
    return any(kind.__name__ == "Flatten" for kind in type(layer).__mro__)


def _is_of_libraries(layer: Any) -> bool:
    """Whether what a layer computes is written in flax or here, and not in a class of the user's."""
    return getattr(type(layer).__call__, "__module__", "").partition(".")[0] in ("flax", "jaxfit")


def _is_elementwise(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", "")
    return getattr(jax.nn, name, None) is function or any(function is known for known in _FUNCTIONS)


def _is_rgb(layer: Any) -> bool:
    """Whether a layer takes as many features as a square image of three channels has."""
    pixels, rest = divmod(_width(layer), 3)
    return rest == 0 and pixels > 1 and math.isqrt(pixels) ** 2 == pixels


def _in_a_row(path: str, sequential: nnx.Sequential) -> Iterator[tuple[str, Any]]:
    for k, layer in enumerate(sequential.layers):
        place = _join(path, str(k))
        if isinstance(layer, nnx.Sequential) and _is_of_libraries(layer):
            yield from _in_a_row(place, layer)
        else:
            yield place, layer


def _width(layer: Any) -> int:
    """The number of features that a layer takes along the last axis."""
    if isinstance(layer, nnx.Linear):
        return math.prod(np.atleast_1d(layer.in_features).tolist())
    return next((math.prod(variable.shape) for _, variable in _variables(layer)), 0)


def _rank(layer: Any) -> int:
    """Over how many axes a normalization has weights."""
    return 1 if isinstance(layer, nnx.Linear) else max((len(v.shape) for _, v in _variables(layer)), default=1)


def _divides(channels: int, layer: Any) -> bool:
    """Whether the features of a layer may be those of an image with so many channels."""
    if _rank(layer) > 1:
        return all(variable.shape[-1] == channels for _, variable in _variables(layer))
    return _width(layer) % channels == 0


def _named(function: str, nodes: dict[str, Any], flattened: Any) -> dict[str, int]:
    """The argument flattened, checked."""
    if not isinstance(flattened, Mapping):
        raise TypeError(
            f"{function}: flattened is {_checks.describe(flattened)}; expected layers and numbers of channels, e.g. "
            f'{{"fc1": 16}}.'
        )
    layers = [path for path, node in nodes.items() if isinstance(node, _FLATTENED)]
    for path, channels in flattened.items():
        if path not in layers:
            what = f"is {_checks.describe(nodes[path])}" if path in nodes else "is no layer of the net"
            raise ValueError(
                f"{function}: flattened names {path!r}, which {what}; expected a Linear, BatchNorm or LayerNorm by its "
                f"path in torch{': ' + _checks.choices(path, layers) if layers else '.'}"
            )
        _checks.count(f"{function}: flattened[{path!r}]", channels)
    return {path: int(channels) for path, channels in flattened.items()}


def _ask_about(
    function: str, nodes: list[tuple[str, Any]], found: dict[str, int], asked: set[str], inputs: set[str]
) -> None:
    """Raises where a layer seems to take a flat image and nobody said so: its weights would be silently wrong."""
    convolutions = {node.out_features for _, node in nodes if isinstance(node, nnx.Conv)}
    linears = {path: node for path, node in nodes if isinstance(node, nnx.Linear)}
    # Such a width may well come from a Linear before; one that keeps the width has it from elsewhere itself.
    known = {node.out_features for node in linears.values() if node.out_features != _width(node)}
    known |= convolutions | {node.features for _, node in nodes if isinstance(node, nnx.Embed)}

    def looks_flat(width: int) -> bool:
        return width not in known and any(channels > 1 and width % channels == 0 for channels in convolutions)

    doubtful = []
    for path, node in nodes:
        if path in asked or (path in linears and path not in found and looks_flat(_width(node))):
            doubtful.append(path)
    if doubtful:
        if inputs.issuperset(doubtful):
            way_out = (
                f"For RGB images pass flattened={{{doubtful[0]!r}: 3}}; where images have one channel, or there are "
                f"none, flattened={{}}."
            )
        else:
            way_out = (
                f"The layers before do not tell how many channels it has. Say which do, with that number: "
                f"flattened={{{doubtful[0]!r}: channels}}; or flattened={{}} where none does or the images have one "
                f"channel."
            )
        raise ValueError(
            f"{function}: {_listed(map(repr, doubtful))} may take a flat image, whose features torch orders by channel "
            f"first and this network by channel last. {way_out}"
        )


# What came


def _need_module(function: str, net: Any) -> None:
    if not isinstance(net, nnx.Module):
        raise TypeError(
            f"{function}: net is {_checks.describe(net)}; expected a flax.nnx.Module, e.g. nn.Sequential(...)."
        )


def _arrays(state_dict: Any) -> Mapping[str, Any]:
    """The entries of a state dict, of the module that has one, or of a file."""
    if isinstance(state_dict, (str, os.PathLike)):
        return _of_file(os.fspath(state_dict))
    if not isinstance(state_dict, (Mapping, type)) and callable(getattr(state_dict, "state_dict", None)):
        state_dict = state_dict.state_dict()
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"from_torch: state_dict is {_checks.describe(state_dict)}; expected names and arrays, e.g. "
            f"torch_net.state_dict(), a torch.nn.Module, or the path of a .safetensors file."
        )
    for name, value in state_dict.items():
        if isinstance(value, Mapping):
            raise TypeError(
                f"from_torch: entry {name!r} is {_checks.describe(value)}; expected an array. If the weights are in "
                f"there, pass state_dict[{name!r}]."
            )
        if not isinstance(name, str):
            raise TypeError(f"from_torch: state_dict has the name {name!r}; expected strings, e.g. '0.weight'.")
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise TypeError(
                f"from_torch: entry {name!r} is {_checks.describe(value)}; expected an array of torch, NumPy or JAX."
            )
    return state_dict


def _of_file(path: Any) -> Mapping[str, np.ndarray]:
    if not str(path).endswith(".safetensors"):
        raise ValueError(
            f"from_torch: state_dict is the path {str(path)!r}; expected one of a .safetensors file. Load another "
            f"first, e.g. torch.load(path, weights_only=True)."
        )
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "from_torch reads a file with safetensors: install it, e.g. pip install safetensors."
        ) from error
    return load_file(path)


def _as_numpy(array: Any) -> np.ndarray:
    """An array of torch's, or any other, on the host."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    tensor = array.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # NumPy knows no bfloat16; float32 holds all of its values
        return tensor.float().numpy()


def _check_fit(net: nnx.Module, entries: list[_Entry], given: Mapping[str, Any]) -> None:
    """Raises ValueError with all that does not fit at once."""
    names = {entry.name for entry in entries}
    # A variable under two names needs one of them: files leave out what is shared.
    filled = {id(entry.variable) for entry in entries if entry.name in given}
    missing = [entry for entry in entries if entry.name not in given and id(entry.variable) not in filled]
    surplus = [name for name in given if name not in names and name.rpartition(".")[2] != _COUNTER]
    shapes = [(entry, tuple(given[entry.name].shape)) for entry in entries if entry.name in given]
    misshaped = [(entry, shape) for entry, shape in shapes if shape != entry.shape]
    parts = []
    if missing:
        parts.append("Missing: " + _listed(f"{entry.name!r} {entry.shape}" for entry in missing) + ".")
    if surplus:
        parts.append("Left over: " + _listed(f"{name!r} {tuple(given[name].shape)}" for name in surplus) + ".")
    if misshaped:
        came = (f"{entry.name!r} has shape {shape}, expected {entry.shape}" for entry, shape in misshaped)
        parts.append("Of another shape: " + _listed(came) + ".")
    if parts:
        parts += _ways_out(net, names, missing, surplus)
        raise ValueError("from_torch: the state dict does not fit the net. " + " ".join(parts))


def _ways_out(net: nnx.Module, names: set[str], missing: list[_Entry], surplus: list[str]) -> Iterator[str]:
    prefixes = {name.partition(".")[0] + "." for name in surplus}
    if len(prefixes) == 1 and names & {name.partition(".")[2] for name in surplus}:
        prefix = prefixes.pop()
        yield f"The names begin with {prefix!r}: {{k.removeprefix({prefix!r}): v for k, v in state_dict.items()}}."
    lacking = {entry.name.rpartition(".")[0] for entry in missing}
    for path, node in _walk("", net, ()):
        if path in lacking and _unknown(node):
            yield (
                f"{path!r} is a flax.nnx.{type(node).__name__}, which torch has no like of: its entries keep flax's "
                f"names and shapes."
            )
            return


def _unknown(node: Any) -> bool:
    """Whether a layer is one of flax's whose weights have no names in torch."""
    of_flax = any(kind.__module__.startswith("flax.nnx.nn.") for kind in type(node).__mro__)
    return of_flax and not isinstance(node, tuple(_NAMES))


def _listed(items: Any) -> str:
    items = list(items)
    more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return ", ".join(items[:_SHOWN] + more)
