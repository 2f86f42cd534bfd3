"""A fit spread over the devices of a mesh: samples along one axis, and params, where asked for, along another.

The work is the compiler's (GSPMD): arrays are laid out over the devices, batches are held to that layout, and the sums
over devices follow. A step is the same program as on one device, and so is its result, up to the order of sums.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfit import _checks, _processes
from jaxfit._problem import Batch

_DATA = "data"


class Spread(NamedTuple):
    """How a fit lies on a mesh.

    Attributes:
        mesh: The mesh, all of whose axes leave the layout to the compiler.
        rows: The name of the axis that samples are spread over.
        specs: Over which axes each array of the params is spread, in the order of the leaves.
        data: The rows of each array of the data, without those that fill up the last device; 0 for a single number.
        validation: The same of the validation data.
    """

    mesh: Mesh
    rows: str
    specs: tuple[PartitionSpec, ...]
    data: tuple[int, ...] = ()
    validation: tuple[int, ...] = ()

    @property
    def shards(self) -> int:
        """Over how many devices rows are spread."""
        return self.mesh.shape[self.rows]

    def copies(self, tree: Any) -> Any:
        """Arrays, whole on every device."""
        return jax.tree.map(lambda leaf: laid_out(leaf, NamedSharding(self.mesh, PartitionSpec())), tree)

    def dealt(self, data: Any) -> Any:
        """Arrays [n, ...], their rows dealt out to the devices; zeros fill up the last one."""
        layout = NamedSharding(self.mesh, PartitionSpec(self.rows))

        def deal(leaf: Any) -> Any:
            if not np.ndim(leaf):
                return self.copies(leaf)
            rows = leaf.shape[0]
            missing = -rows % self.shards
            if is_global(leaf):  # dealt out already, perhaps over the devices in another order
                return _filled(leaf, missing, layout)

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[0].indices(rows + missing)
                return _with_zeros(np.asarray(leaf[start : min(stop, rows)]), stop - start)

            return jax.make_array_from_callback((rows + missing, *leaf.shape[1:]), layout, part)

        return jax.tree.map(deal, data)

    def batches(self, data: Any, size: int, first: int = 0) -> Any:
        """Batches behind each other, their rows dealt out to the devices; zeros fill up the last one.

        Args:
            data: Arrays [batches, rows, ...], global, or of which this process has the rows that its devices get.
            size: The rows of a batch.
            first: Which of them is the first that this process has.
        """
        layout = NamedSharding(self.mesh, PartitionSpec(None, self.rows))
        padded = size + -size % self.shards

        def deal(leaf: Any) -> jax.Array:
            if is_global(leaf):
                return _filled(leaf, padded - size, layout, axis=1)
            leaf = np.asarray(leaf)

            def part(index: Any) -> np.ndarray:
                start, stop, _ = index[1].indices(padded)
                found = leaf[:, max(start - first, 0) : max(min(stop, size) - first, 0)]
                return np.moveaxis(_with_zeros(np.moveaxis(found, 1, 0), stop - start), 0, 1)

            return jax.make_array_from_callback((len(leaf), padded, *leaf.shape[2:]), layout, part)

        return jax.tree.map(deal, data)

    def shares(self, size: int) -> list[tuple[int, int]]:
        """From where to where the rows of a batch reach that the devices of each process get."""
        layout = NamedSharding(self.mesh, PartitionSpec(self.rows))
        found = [(size, 0)] * jax.process_count()
        for device, (rows,) in layout.devices_indices_map((size + -size % self.shards,)).items():
            start, stop = found[device.process_index]
            at, end, _ = rows.indices(size + -size % self.shards)
            found[device.process_index] = min(start, at), min(max(stop, end), size)
        return [(min(start, stop), stop) for start, stop in found]

    def shapes(self, data: Batch, lengths: tuple[int, ...]) -> Batch:
        """The shapes of arrays without what fills up the last device; so many rows of each."""
        leaves, tree = jax.tree.flatten(data)
        return tree.unflatten(
            [
                jax.ShapeDtypeStruct((length, *leaf.shape[1:]) if leaf.ndim else (), leaf.dtype)
                for leaf, length in zip(leaves, lengths, strict=True)
            ]
        )

    def trimmed(self, data: Any, lengths: tuple[int, ...]) -> Any:
        """Arrays without what fills up the last device, inside a program; so many rows of each."""
        leaves, tree = jax.tree.flatten(data)
        pairs = zip(leaves, lengths, strict=True)
        return self.held(tree.unflatten([leaf[:length] if leaf.ndim else leaf for leaf, length in pairs]))

    def held(self, batch: Batch) -> Batch:
        """A batch whose rows are spread over the devices, inside a program; they need not be a multiple of them."""
        layout = NamedSharding(self.mesh, PartitionSpec(self.rows))
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, layout) if leaf.ndim else leaf, batch)

    def params(self, params: Any) -> Any:
        """Params, laid out."""
        leaves, tree = jax.tree.flatten(params)
        pairs = zip(leaves, self.specs, strict=True)
        return tree.unflatten([laid_out(leaf, NamedSharding(self.mesh, spec)) for leaf, spec in pairs])

    def like_params(self, state: Any, params: Any) -> Any:
        """An optimizer's state whose arrays lie as the params of their shapes do, inside a program."""
        layouts = {leaf.shape: spec for leaf, spec in zip(jax.tree.leaves(params), self.specs, strict=True)}

        def lay(leaf: Any) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return leaf
            spec = layouts.get(leaf.shape, PartitionSpec())
            return lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return jax.tree.map(lay, state)

    def told(self, progress: Any) -> Any:
        """What a program hands back, inside it: all but the state whole on every device, for any host to read."""
        whole = NamedSharding(self.mesh, PartitionSpec())

        def lay(leaf: Any) -> Any:
            return lax.with_sharding_constraint(leaf, whole)

        state = self.like_params(progress.state, progress.state.params)
        return jax.tree.map(lay, progress._replace(state=None))._replace(state=state)

    @property
    def words(self) -> str:
        """The devices and the axes, in words."""
        kinds = sorted({device.device_kind for device in self.mesh.devices.flat})
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        hosts = len({device.process_index for device in self.mesh.devices.flat})
        several = f" of {hosts} processes" if hosts > 1 else ""
        one = "" if self.mesh.size == 1 else "s"
        return f"{self.mesh.size} device{one} ({', '.join(kinds)}){several}, {axes}"

    @property
    def is_shared(self) -> bool:
        """Whether several processes take part."""
        return _processes.is_shared(self.mesh)

    @property
    def is_whole(self) -> bool:
        """Whether every device has all params."""
        return not any(any(spec) for spec in self.specs)


def is_global(leaf: Any) -> bool:
    """Whether an array has parts on the devices of other processes."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def is_parted(leaf: Any) -> bool:
    """Whether no process has all of an array."""
    return is_global(leaf) and not leaf.is_fully_replicated


def fetched(tree: Any) -> Any:
    """Arrays on the host, but for those of which other processes have parts."""
    leaves, structure = jax.tree.flatten(tree)
    found = iter(jax.device_get([leaf for leaf in leaves if not is_parted(leaf)]))  # all at once
    return structure.unflatten([leaf if is_parted(leaf) else next(found) for leaf in leaves])


def lengths(data: Any) -> tuple[int, ...]:
    """The rows of each array; 0 for a single number."""
    return tuple(leaf.shape[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(data))


def laid_out(array: Any, layout: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has, laid out over devices that may be those of several processes."""
    if is_global(array) or (isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)):
        return jax.device_put(array, layout)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, layout, lambda index: host[index])


def _with_zeros(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows, filled up to so many."""
    missing = count - len(rows)
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)]) if missing else rows


def _filled(array: jax.Array, missing: int, layout: NamedSharding, axis: int = 0) -> jax.Array:
    """A global array with some zeros more along an axis, in this layout."""
    if not missing:
        return jax.device_put(array, layout)
    widths = [(0, missing if at == axis else 0) for at in range(array.ndim)]
    return jax.jit(lambda rows: jnp.pad(rows, widths), out_shardings=layout)(array)


def spread(mesh: Any, shard_params: Any, params: Any, data: Any = None, validation: Any = None) -> Spread:
    """How a fit lies on a mesh.

    Args:
        mesh: A `jax.sharding.Mesh`, whose axes may be of any type.
        shard_params: None for params that every device has; the name of an axis over which large arrays are spread; or
            a pytree of `PartitionSpec`s like the params.
        params: The params.
        data: The data in memory, or None.
        validation: Likewise.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: The mesh lacks an axis, or an array cannot be spread as it says.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f'mesh is {_checks.describe(mesh)}; expected a mesh such as jax.make_mesh((8,), ("data",)).')
    rows = _DATA if _DATA in mesh.axis_names else mesh.axis_names[0]
    found = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    for name, leaf in [("data", leaf) for leaf in jax.tree.leaves((data, validation))]:
        if is_global(leaf) and not leaf.sharding.device_set <= set(mesh.devices.flat):
            raise ValueError(
                f"{name} lie on devices that mesh does not have; expected a mesh of the devices that they were made on."
            )
    specs = _specs(found, shard_params, params, str(rows))
    return Spread(found, str(rows), specs, lengths(data), lengths(validation))


def check_processes(mesh: Mesh) -> None:
    """Raises ValueError where a mesh has devices of some processes but not of all, or of others alone."""
    lacking = set(range(jax.process_count())) - {device.process_index for device in mesh.devices.flat}
    if lacking and (_processes.is_shared(mesh) or jax.process_index() in lacking):
        raise ValueError(
            f"mesh has no devices of process {min(lacking)}; expected a mesh of the devices of all "
            f"{jax.process_count()} processes, as jax.make_mesh takes them of jax.devices(), or of this process alone, "
            "jax.local_devices()."
        )


def _specs(mesh: Mesh, given: Any, params: Any, rows: str) -> tuple[PartitionSpec, ...]:
    leaves = jax.tree.leaves(params)
    if given is None:
        return (PartitionSpec(),) * len(leaves)
    if isinstance(given, str):
        if given not in mesh.axis_names or given == rows:
            raise ValueError(
                f"shard_params is {given!r}; expected an axis of the mesh beside {rows!r}, which samples are spread "
                f"over: it has {', '.join(map(repr, mesh.axis_names))}."
            )
        return tuple(_largest(leaf, given, mesh.shape[given]) for leaf in leaves)
    specs, tree = jax.tree.flatten(given, is_leaf=lambda leaf: leaf is None or isinstance(leaf, PartitionSpec))
    if tree != jax.tree.structure(params) or not all(isinstance(spec, PartitionSpec | None) for spec in specs):
        raise TypeError(
            f"shard_params is {_checks.describe(given)}; expected the name of an axis of the mesh, or a "
            "PartitionSpec for each array in the structure of the params, None for those that stay whole."
        )
    found = tuple(PartitionSpec() if spec is None else spec for spec in specs)
    for (path, leaf), spec in zip(jax.tree_util.tree_leaves_with_path(params), found, strict=True):
        _check(f"params{jax.tree_util.keystr(path)}", leaf, spec, mesh)
    return found


def _largest(leaf: Any, axis: str, count: int) -> PartitionSpec:
    """The longest dimension spread over an axis of the mesh, if it can be dealt evenly."""
    even = [(size, at) for at, size in enumerate(leaf.shape) if size % count == 0]
    if leaf.ndim < 2 or not even:  # vectors are small
        return PartitionSpec()
    _, at = max(even, key=lambda pair: (pair[0], pair[1]))
    return PartitionSpec(*[axis if place == at else None for place in range(leaf.ndim)])


def _check(name: str, leaf: Any, spec: PartitionSpec, mesh: Mesh) -> None:
    if len(spec) > np.ndim(leaf):
        raise ValueError(f"shard_params has {spec} for {name}, which is {_checks.describe(leaf)}: too many axes.")
    for size, axes in zip(np.shape(leaf), spec, strict=False):
        names = axes if isinstance(axes, tuple) else () if axes is None else (axes,)
        unknown = [axis for axis in names if axis not in mesh.axis_names]
        if unknown:
            raise ValueError(
                f"shard_params has {spec} for {name}; the mesh has the axes {', '.join(map(repr, mesh.axis_names))}."
            )
        count = math.prod(mesh.shape[axis] for axis in names)
        if size % count:
            raise ValueError(f"shard_params has {spec} for {name}; {count} devices do not divide its {size} evenly.")
