"""Columns of a Parquet file as data, with pyarrow (the extra `parquet`); its row groups are the blocks."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxfit.data._parts import Pieces, Rows, check_size, places, size_of

_PIECE_BYTES = 1 << 23  # each costs pyarrow a little per column
_BUFFER_BYTES = 1 << 16
_LARGE_BYTES = 1 << 25


class _Values:
    """Rows of some columns as Arrow has them: they become an array where some are asked for."""

    def __init__(self, name: str, rows: Rows, batch: Any, first: int):
        self._name, self._rows, self._batch, self._first = name, rows, batch, first

    def __len__(self) -> int:
        return len(self._batch)

    def __getitem__(self, chosen: slice | np.ndarray, /) -> np.ndarray:
        numbers = [self._column(name, chosen) for name in self._rows.columns]
        if not self._rows.shape:
            return numbers[0]
        out = np.empty((len(numbers[0]), len(numbers)), self._rows.dtype)
        for at, column in enumerate(numbers):
            out[:, at] = column
        return out

    def _column(self, name: str, chosen: slice | np.ndarray) -> np.ndarray:
        column = self._batch.column(name)
        column = column[chosen] if isinstance(chosen, slice) else column.take(_arrow()[0].array(chosen))
        if column.null_count:
            row = self._first + np.arange(len(self))[chosen][np.flatnonzero(column.is_null())[0]]
            raise ValueError(
                f"{self._name}: column {name!r} is null in row {row} (counted from 0); expected a number: drop or mend "
                "such rows."
            )
        return column.to_numpy(zero_copy_only=False)


class Columns(NamedTuple):
    """A Parquet file as a part of the data.

    Attributes:
        name: The path.
        title: The file's name.
        size: Its bytes.
        bounds: Where its row groups begin among its rows, int64 [groups + 1].
        x: What x is.
        y: What y is.
        groups: The numbers of the row groups that are not empty.
        metadata: What pyarrow knows of the file.
    """

    name: str
    title: str
    size: int
    bounds: np.ndarray
    x: Rows
    y: Rows
    groups: list[int]
    metadata: Any

    def read(self, block: int, start: int) -> Pieces:
        """The rows of a row group from its row `start` on."""
        arrow, parquet = _arrow()
        row = int(self.bounds[block]) + start
        check_size(self.name, size_of(self.name), self.size, row)
        used = list(dict.fromkeys((*self.x.columns, *self.y.columns)))
        count, group, left = max(1, _PIECE_BYTES // (self.x.bytes + self.y.bytes)), self.groups[block], start
        # Without a buffer, which costs time, pyarrow holds the compressed columns of the whole row group.
        buffer = _BUFFER_BYTES if self.metadata.row_group(group).total_byte_size > _LARGE_BYTES else 0
        try:
            with parquet.ParquetFile(self.name, metadata=self.metadata, pre_buffer=False, buffer_size=buffer) as file:
                for batch in file.iter_batches(count, [group], used):
                    skipped = min(left, len(batch))
                    left -= skipped
                    if skipped < len(batch):
                        batch = batch.slice(skipped)
                        yield _Values(self.name, self.x, batch, row), _Values(self.name, self.y, batch, row)
                        row += len(batch)
        except (arrow.ArrowException, OSError) as error:
            place = f"row group {group}, from row {row} on"
            raise ValueError(f"{self.name}: {place}, cannot be read: {error}.") from error

    def choose(self, block: int, rows: np.ndarray) -> None:
        """A row group is read forward."""


def of_parquet(path: str, x: Any, y: Any, columns: Callable) -> Columns:
    """A Parquet file.

    Args:
        path: The file.
        x: The column of x, or a list of them.
        y: The column of y, or a list of them.
        columns: Makes a list of names of x or y.
    """
    arrow, parquet = _arrow()
    size = size_of(path)
    try:
        with parquet.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet file: {error}.") from error
    parts: list[Rows] = []
    for what, given in (("x", x), ("y", y)):
        names = columns(what, given)
        places(path, what, names, schema.names)
        dtypes = [_dtype(arrow, path, what, schema.field(name)) for name in names]
        parts.append(Rows(() if isinstance(given, str) else (len(names),), np.result_type(*dtypes), tuple(names)))
    rows = np.array([metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)], np.int64)
    groups = np.flatnonzero(rows)
    if not len(groups):
        raise ValueError(f"{path} has no rows; expected at least one.")
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows[groups])])
    return Columns(path, os.path.basename(path), size, bounds, parts[0], parts[1], groups.tolist(), metadata)


def _dtype(arrow: Any, path: str, what: str, field: Any) -> np.dtype:
    kinds = arrow.types
    if any(check(field.type) for check in (kinds.is_integer, kinds.is_floating, kinds.is_boolean)):
        return np.dtype(field.type.to_pandas_dtype())
    raise TypeError(f"column {field.name!r} ({what}) of {path} is of type {field.type}; expected numbers.")


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files are read with pyarrow, which is not installed: pip install jaxfit[parquet]."
        ) from error
    return pyarrow, parquet
