"""Columns of a CSV file as data: one scan finds where blocks of lines begin, each of which is parsed when it is needed.

Source: RFC 4180, with a header line, and without line breaks inside quotes.
"""

import csv
import io
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxfit.data._parts import PIECE_BYTES, Chosen, Pieces, Rows, block_rows, check_size, places, size_of

_LINE, _COMMA, _QUOTE, _RETURN = b'\n,"\r'
_MOST_BLOCKS = 1 << 20


class _Block(NamedTuple):
    """Lines of a file.

    Attributes:
        offset: The byte where they begin.
        line: The number of the first, counted from 1.
        row: The number of its first row, counted from 0.
    """

    offset: int
    line: int
    row: int


class Table(NamedTuple):
    """A CSV file as a part of the data.

    Attributes:
        name: The path.
        title: The file's name.
        size: Its bytes.
        bounds: Where its blocks begin among its rows, int64 [blocks + 1].
        x: What x is.
        y: What y is.
        header: The names of all columns.
        wanted: The places of the columns of x, then of y.
        blocks: Its blocks, and what comes after the last: int64 [blocks + 1, 3], each a `_Block`.
    """

    name: str
    title: str
    size: int
    bounds: np.ndarray
    x: Rows
    y: Rows
    header: list[str]
    wanted: list[int]
    blocks: np.ndarray

    def read(self, block: int, start: int) -> Pieces:
        """The rows of a block from its row `start` on."""
        x, y = self._numbers(block, start, None)
        yield x[start:], y[start:]

    def choose(self, block: int, rows: np.ndarray) -> Chosen:
        """Some rows of a block: the lines of others are not parsed."""
        yield self._numbers(block, int(rows[0]), rows)

    def _numbers(self, block: int, row: int, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The rows (x, y) of a block; all of them where `rows` is None."""
        here, after = (_Block(*map(int, entry)) for entry in self.blocks[block : block + 2])
        with open(self.name, "rb") as file:
            check_size(self.name, os.fstat(file.fileno()).st_size, self.size, here.row + row)
            file.seek(here.offset)
            text = file.read(after.offset - here.offset)
        used, count = sorted(set(self.wanted)), after.row - here.row
        values, cause = np.empty((0, 0)), None
        try:
            values = _parser()(text if rows is None else _chosen(text, rows, count), used)
        except (ValueError, OverflowError) as error:
            cause = error
        sound = values.shape == (count if rows is None else len(rows), len(used))
        with np.errstate(all="ignore"):
            total = values.sum()
        if not sound or not np.isfinite(total):
            self._explain(text, here, rows)
        if not sound:
            lines = f"lines {here.line} to {after.line - 1}"
            raise ValueError(f"{self.name}, {lines}: they are not the numbers that they were: {cause}.") from cause
        places = [used.index(at) for at in self.wanted]
        width = len(self.x.columns)
        x, y = values[:, places[:width]], values[:, places[width:]]
        return (x if self.x.shape else x[:, 0]), (y if self.y.shape else y[:, 0])

    def _explain(self, text: bytes, block: _Block, rows: np.ndarray | None) -> None:
        """Raises ValueError with the line and the column of the first entry of these rows that is no finite number."""
        wanted = None if rows is None else set(rows.tolist())
        for row, (number, fields) in enumerate(_lines(text, block.line)):
            if wanted is not None and row not in wanted:
                continue
            if len(fields) != len(self.header):
                _wrong_count(self.name, number, len(fields), len(self.header))
            for at in self.wanted:
                if not _is_number(fields[at]):
                    raise ValueError(
                        f"{self.name}, line {number}: column {self.header[at]!r} holds {fields[at]!r}; expected a "
                        "finite number: drop or mend such lines."
                    )


def of_csv(path: str, x: Any, y: Any, columns: Callable, window: int | None) -> Table:
    """A CSV file, scanned once for where its lines begin.

    Args:
        path: The file.
        x: The column of x, or a list of them.
        y: The column of y, or a list of them.
        columns: Makes a list of names of x or y.
        window: The rows that are held in memory; None for the default.
    """
    size = size_of(path)
    with open(path, "rb") as file:
        header = _header(path, file.readline())
        names = columns("x", x), columns("y", y)
        wanted = [at for what, part in zip("xy", names, strict=True) for at in places(path, what, part, header)]
        rows = [
            Rows(() if isinstance(given, str) else (len(part),), np.dtype(np.float64), tuple(part))
            for given, part in zip((x, y), names, strict=True)
        ]
        held = window or max(1, 64 * PIECE_BYTES // (rows[0].bytes + rows[1].bytes))
        least = size // _MOST_BLOCKS  # bytes
        blocks = np.array(list(_blocks(path, file, len(header), block_rows(held), least)), np.int64)
    if len(blocks) < 2:
        raise ValueError(f"{path} has a header line and no rows; expected at least one row.")
    return Table(path, os.path.basename(path), size, blocks[:, 2], rows[0], rows[1], header, wanted, blocks)


def _header(path: str, line: bytes) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader([line.decode("utf-8-sig")]), [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}, line 1: the header line cannot be read: {error}; expected text in UTF-8.") from error
    if not names or not any(names):
        raise ValueError(f"{path}, line 1 is empty; expected a header line with the names of the columns.")
    if all(map(_is_number, names)):
        raise ValueError(f"{path}, line 1 holds numbers ({', '.join(names[:5])}); expected a header line with names.")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(f"{path}, line 1 is {names[0]!r}; expected names with commas between them.")
    return names


def _blocks(path: str, file: Any, fields: int, most: int, least: int) -> Iterator[_Block]:
    """The blocks of at most so many rows, by one pass over the file, and at the end what comes after the last."""
    offset, line, row = file.tell(), 2, 0
    left = b""
    begun = -1  # where the last block begins
    for chunk in itertools.chain(iter(lambda: file.read(PIECE_BYTES), b""), [b""]):
        if not chunk and not left:
            break
        # At the end of the file the last line may lack its line break.
        text = left + chunk if chunk else left + b"\n"
        cut = text.rfind(b"\n") + 1
        left = text[cut:] if chunk else b""
        if not cut:
            continue
        data = np.frombuffer(text, np.uint8, cut)
        starts, ends, full = _ends(data)
        _check_fields(path, data, ends, full, fields, line)
        for first in range(0, len(full), most):
            at = int(full[first])
            if begun < 0 or offset + int(starts[at]) - begun >= least:
                begun = offset + int(starts[at])
                yield _Block(begun, line + at, row + first)
        offset, line, row = offset + cut, line + len(ends), row + len(full)
    if row:
        yield _Block(min(offset, os.fstat(file.fileno()).st_size), line, row)


def _ends(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each line begins and where its line break is, and which lines are not blank."""
    ends = np.flatnonzero(data == _LINE)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    lengths = ends - starts
    return starts, ends, np.flatnonzero((lengths > 1) | ((lengths == 1) & (data[starts] != _RETURN)))


def _chosen(text: bytes, rows: np.ndarray, count: int) -> bytes:
    """The lines of some of the rows in a text, of which it has so many."""
    text += b"" if text.endswith(b"\n") else b"\n"  # the last line of a file may lack it
    starts, ends, full = _ends(np.frombuffer(text, np.uint8))
    if len(full) != count:
        raise ValueError(f"there are {len(full)} and there were {count}")
    chosen = full[rows]
    return b"".join(text[at:end] for at, end in zip(starts[chosen].tolist(), (ends[chosen] + 1).tolist(), strict=True))


def _check_fields(path: str, data: np.ndarray, ends: np.ndarray, full: np.ndarray, fields: int, line: int) -> None:
    """Raises ValueError where a line has another number of fields than the header."""
    commas, quotes = np.flatnonzero(data == _COMMA), np.flatnonzero(data == _QUOTE)
    if len(quotes):
        open_at = np.flatnonzero(np.searchsorted(quotes, ends) % 2)
        if len(open_at):
            raise ValueError(
                f"{path}, line {line + int(open_at[0])}: a quote is not closed at the end of the line; line breaks "
                "inside quotes are not supported: drop or mend such lines."
            )
        commas = commas[np.searchsorted(quotes, commas) % 2 == 0]
    found = np.diff(np.searchsorted(commas, ends), prepend=0) + 1
    bad = full[found[full] != fields]
    if len(bad):
        _wrong_count(path, line + int(bad[0]), int(found[bad[0]]), fields)


def _wrong_count(path: str, line: int, found: int, expected: int) -> NoReturn:
    raise ValueError(
        f"{path}, line {line} has {found} field{'s' * (found != 1)} and the header has {expected}; expected as many: "
        "drop or mend such lines."
    )


def _lines(text: bytes, first: int) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number."""
    for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), first):
        if line.strip("\r"):
            yield number, next(csv.reader([line.rstrip("\r")]))


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _parser() -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """What parses columns of lines, [rows, columns]: pandas where it is installed, as it is several times faster."""
    try:
        import pandas as pd
    except ImportError:
        return _by_numpy
    # Before 3.1 the default is faster and wrong in the last digit.
    exact: dict[str, Any] = (
        {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
    )

    def by_pandas(text: bytes, used: Sequence[int]) -> np.ndarray:
        frame = pd.read_csv(
            io.BytesIO(text), header=None, usecols=list(used), index_col=False, dtype=np.float64, na_filter=False,
            encoding_errors="replace", **exact,
        )  # fmt: skip
        return frame.to_numpy()

    return by_pandas


def _by_numpy(text: bytes, used: Sequence[int]) -> np.ndarray:
    lines = io.BytesIO(text)
    return np.loadtxt(lines, delimiter=",", usecols=used, quotechar='"', comments=None, ndmin=2, encoding="latin-1")
