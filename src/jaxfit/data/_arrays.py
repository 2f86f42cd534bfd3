"""Arrays as data: in memory, in `.npy` files, and as members of an `.npz` file.

Files are read, not mapped: a file that is cut short while it is read raises, where a mapped one kills the process, and
no page has to be given back.

Source: the format of `.npy` is that of `numpy.lib.format`; where the bytes of a member of a zip file begin is said in
its local header (APPNOTE.TXT of PKWARE, 4.3.7).
"""

import itertools
import os
import struct
import zipfile
import zlib
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxfit import _checks
from jaxfit._table import release
from jaxfit.data._parts import (
    PIECE_BYTES,
    Chosen,
    Pieces,
    Rows,
    block_rows,
    check_numbers,
    check_size,
    even_bounds,
    size_of,
)

_GAP_BYTES = 1 << 17  # between rows that are wanted, fewer are read through: a disk reads so far ahead by itself


class _Array(Protocol):
    """An array that is read row by row."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...

    @property
    def together(self) -> int | None:
        """The bytes of a row that lie side by side in the file; None where it can only be read forward."""
        ...

    def read(self, pieces: list[tuple[int, int]]) -> Generator[np.ndarray, None, None]:
        """Pieces of rows, each given as its first row and how many; gapless where it is read forward."""
        ...


class _Held(NamedTuple):
    """An array in memory, or a memmap."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def together(self) -> int:
        return _row_bytes(self)

    def read(self, pieces: list[tuple[int, int]]) -> Generator[np.ndarray, None, None]:
        for start, count in pieces:
            try:
                yield self.array[start : start + count]
            finally:  # also where nobody asks for more
                release(self.array)


class _Stored(NamedTuple):
    """An array that lies in a file as it is.

    Attributes:
        path: The file.
        size: Its bytes.
        offset: Where the numbers begin.
        shape: The shape.
        dtype: The dtype in the file.
        by_columns: Whether it lies column by column (Fortran's order).
    """

    path: str
    size: int
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool

    @property
    def together(self) -> int:
        return self.dtype.itemsize if self.by_columns else _row_bytes(self)

    def read(self, pieces: list[tuple[int, int]]) -> Generator[np.ndarray, None, None]:
        # An axis of numbers that lie together: rows, or in Fortran's order each column.
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        with open(self.path, "rb") as file:
            check_size(self.path, os.fstat(file.fileno()).st_size, self.size, pieces[0][0])
            for start, count in pieces:
                if self.by_columns:
                    columns = [self._numbers(file, at * self.shape[0] + start, count, start) for at in range(width)]
                    yield np.concatenate(columns).reshape(*self.shape[:0:-1], count).T
                else:
                    yield self._numbers(file, start * width, count * width, start).reshape(count, *self.shape[1:])

    def _numbers(self, file: Any, first: int, count: int, row: int) -> np.ndarray:
        file.seek(self.offset + first * self.dtype.itemsize)
        numbers = np.fromfile(file, self.dtype, count)
        if len(numbers) < count:
            check_size(self.path, os.fstat(file.fileno()).st_size, self.size, row)
            raise OSError(f"{self.path} cannot be read at row {row}: the file ends too early.")
        return numbers


class _Packed(NamedTuple):
    """A compressed member of a zip file, which can only be read forward."""

    path: str
    size: int
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def together(self) -> None:
        return None

    def read(self, pieces: list[tuple[int, int]]) -> Generator[np.ndarray, None, None]:
        bytes_per_row, start = _row_bytes(self), pieces[0][0]
        check_size(self.path, size_of(self.path), self.size, start)
        row = 0
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                _header(file, self.path)
                before = start * bytes_per_row
                while before:
                    before -= len(self._exactly(file, min(before, PIECE_BYTES)))
                row = start
                for _, count in pieces:
                    numbers = np.frombuffer(self._exactly(file, count * bytes_per_row), self.dtype)
                    yield numbers.reshape(count, *self.shape[1:])
                    row += count
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.path}: {self.member!r} cannot be read from row {row} on: {error}.") from error

    def _exactly(self, file: Any, count: int) -> bytes:
        data = file.read(count)
        if len(data) < count:
            raise EOFError("it ends too early")
        return data


class Arrays(NamedTuple):
    """A pair of arrays as a part of the data.

    Attributes:
        name: The paths, or a word for what is in memory.
        title: The names without the folder.
        size: The bytes of the files.
        bounds: Where its blocks begin among its rows, int64 [blocks + 1].
        x: What x is.
        y: What y is.
        pair: The arrays.
        gap: So many rows are passed over sooner than read; None where they can only be read forward.
    """

    name: str
    title: str
    size: int
    bounds: np.ndarray
    x: Rows
    y: Rows
    pair: tuple[_Array, _Array]
    gap: int | None

    def read(self, block: int, start: int) -> Pieces:
        """The rows of a block from its row `start` on."""
        return self._read(self._pieces(int(self.bounds[block]) + start, int(self.bounds[block + 1])))

    def choose(self, block: int, rows: np.ndarray) -> Chosen | None:
        """Some rows of a block."""
        return None if self.gap is None else self._choose(int(self.bounds[block]) + rows, self.gap)

    def _choose(self, rows: np.ndarray, gap: int) -> Chosen:
        cuts = [0, *(np.flatnonzero(np.diff(rows) > gap) + 1).tolist(), len(rows)]
        pieces, wanted = [], []
        for begin, end in itertools.pairwise(cuts):
            for start, count in self._pieces(int(rows[begin]), int(rows[end - 1]) + 1):
                low, high = np.searchsorted(rows, (start, start + count))
                if low < high:
                    pieces.append((start, count))
                    wanted.append(rows[low:high] - start)
        for (x, y), inside in zip(self._read(pieces), wanted, strict=True):
            yield x[inside], y[inside]

    def _pieces(self, first: int, end: int) -> list[tuple[int, int]]:
        """The rows from one to another in pieces, each where it begins and of how many."""
        count = max(1, PIECE_BYTES // (self.x.bytes + self.y.bytes))
        return [(at, min(count, end - at)) for at in range(first, end, count)]

    def _read(self, pieces: list[tuple[int, int]]) -> Pieces:
        parts = [array.read(pieces) for array in self.pair]
        try:
            yield from zip(*parts, strict=True)
        finally:
            for part in parts:
                part.close()


def of_arrays(pair: tuple[Any, Any], window: int | None) -> "Arrays":
    """A pair of NumPy arrays."""
    titles = []
    for what, array in zip("xy", pair, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{what} is {_checks.describe(array)}; expected a NumPy array, or paths for both.")
        file = getattr(array, "filename", None)
        titles.append(os.path.basename(file) if isinstance(file, (str, os.PathLike)) else _checks.describe(array))
    name = "the pair of arrays"
    return _arrays((_Held(pair[0]), _Held(pair[1])), (name, name), ", ".join(titles), 0, window)


def of_npy(paths: tuple[str, str], window: int | None) -> Arrays:
    """A pair of `.npy` files."""
    found = []
    for path in paths:
        size = size_of(path)
        with open(path, "rb") as file:
            shape, by_columns, dtype = _header(file, path)
            found.append(_stored(path, path, size, file.tell(), shape, dtype, by_columns))
    title = ", ".join(os.path.basename(path) for path in paths)
    return _arrays((found[0], found[1]), paths, title, found[0].size + found[1].size, window)


def of_npz(path: str, x: Any, y: Any, window: int | None) -> Arrays:
    """Two members of an `.npz` file."""
    size, found = size_of(path), []
    try:
        with zipfile.ZipFile(path) as archive:
            known = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            for what, name in (("x", x), ("y", y)):
                if not isinstance(name, str):
                    raise TypeError(f"{what} is {_checks.describe(name)}; expected the name of one array in {path}.")
                if name not in known:
                    shown = ", ".join(map(repr, known))
                    raise ValueError(f"{path} has no array {name!r} ({what}); it has {shown}: give {what}=<name>.")
                found.append(_member(archive, path, size, f"{name}.npy"))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} cannot be read: {error}; expected a file that numpy.savez has written.") from error
    except RuntimeError as error:  # what zipfile raises of a member with a password
        raise ValueError(f"{path} cannot be read: {error}.") from error
    names = f"{x!r} in {path}", f"{y!r} in {path}"
    return _arrays((found[0], found[1]), names, os.path.basename(path), size, window, path)


def _member(archive: zipfile.ZipFile, path: str, size: int, member: str) -> _Array:
    info = archive.getinfo(member)
    with archive.open(member) as packed:
        shape, by_columns, dtype = _header(packed, f"{member!r} in {path}")
        begin = packed.tell()
    if info.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)
            offset = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + begin
        return _stored(f"{member!r} in {path}", path, size, offset, shape, dtype, by_columns)
    if by_columns:
        raise ValueError(
            f"{member!r} in {path} is compressed and lies column by column (Fortran's order), so that no row can be "
            "read without the whole; save numpy.ascontiguousarray of it, or by numpy.savez."
        )
    return _Packed(path, size, member, shape, dtype)


def _header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether it lies column by column, and the dtype of an array in the format of `.npy`."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)
    except ValueError as error:
        raise ValueError(f"{name} is no array in the format of .npy: {error}.") from error


def _stored(
    name: str, path: str, size: int, offset: int, shape: tuple[int, ...], dtype: np.dtype, by_columns: bool
) -> _Stored:
    expected = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if size < expected and not dtype.hasobject:
        raise ValueError(f"{name} ends too early: its {shape} of {dtype} need {expected} bytes and it has {size}.")
    return _Stored(path, size, offset, shape, dtype, by_columns)


def _arrays(
    pair: tuple[_Array, _Array], names: tuple[str, str], title: str, size: int, window: int | None, path: str = ""
) -> Arrays:
    for what, name, array in zip("xy", names, pair, strict=True):
        check_numbers(name, what, array.dtype)
        if len(array.shape) == 0:
            raise ValueError(f"{what} in {name} is a single number; expected an array with one row per sample.")
        if 0 in array.shape:
            raise ValueError(f"{what} in {name} has shape {array.shape}, which is empty; expected at least one row.")
    x, y = (Rows(array.shape[1:], array.dtype.newbyteorder("=")) for array in pair)
    rows = [array.shape[0] for array in pair]
    if rows[0] != rows[1]:
        came = f"x in {names[0]} has {rows[0]}, y in {names[1]} has {rows[1]}"
        raise ValueError(f"x and y differ in their number of rows: {came}; expected the same for both.")
    together = [array.together for array in pair]
    gap = None if None in together else -(-_GAP_BYTES // sum(filter(None, together)))
    held = window or default_window(x, y)
    bounds = even_bounds(rows[0], rows[0] if gap is None or rows[0] <= held else block_rows(held, rows[0]))
    name = path or (names[0] if names[0] == names[1] else " and ".join(names))
    return Arrays(name, title, size, bounds, x, y, pair, gap)


def _row_bytes(array: _Array) -> int:
    return array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))


def default_window(x: Rows, y: Rows) -> int:
    """The rows that are held in memory where nobody says how many: 64 MB, so that a block of them is read at once."""
    return max(1, 64 * PIECE_BYTES // (x.bytes + y.bytes))
