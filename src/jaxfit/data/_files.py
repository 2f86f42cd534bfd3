"""`from_files`: checks what it was given, and looks at the files."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfit import _checks, _inputs
from jaxfit.data import _arrays, _csv, _parquet
from jaxfit.data._batches import Files
from jaxfit.data._parts import Part, Rows

_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
_EXPECTED = (
    'expected a pair ("x.npy", "y.npy"), a pair of NumPy arrays, or a path or a list of paths that end in .npz, .csv '
    "or .parquet"
)


def from_files(
    path: Any,
    x: str | Sequence[str] | None = None,
    y: str | Sequence[str] | None = None,
    *,
    batch_size: int,
    shuffle: bool = False,
    key: Any = 0,
    dtype: Any = None,
    window: int | None = None,
) -> Files:
    r"""Batches from files that may be larger than memory, for `fit` and for loops of your own.

    Every pass over the result is an epoch that deals all rows once, in batches of `batch_size` rows; the last batch of
    an epoch is smaller where the rows do not divide evenly. At any time the memory holds one window of rows and what is
    being read, whatever the size of the files.

    With `shuffle`, each epoch takes blocks of rows in an order of its own, and permutes the rows within each window,
    which is made of about 64 blocks. So a file that is sorted by class is mixed well, and a disk still reads about a
    megabyte at once. The order depends on the key, the epoch and the window alone: it is the same on all machines.

    In a program of several processes, each calls this with the same arguments, and `fit` with a mesh over the devices
    of all of them deals each process its own rows of every batch, so that the batches are those of one process. A
    process holds, converts and checks no rows but its own; where a format allows it, it does not read the others. A
    loop of your own says by `Files.deal` which rows of every batch it wants.

    Args:
        path: The data, told apart by suffix:

            - a pair ("x.npy", "y.npy") of paths, or a pair of NumPy arrays or memmaps (x, y): [n, ...] both;
            - `.npz`: x and y are two of its arrays. A compressed one can only be read forward, so that rows are only
              shuffled within a window (write it by `numpy.savez` to shuffle by blocks, too), and a resumed epoch reads
              what lies before;
            - `.csv`: columns of numbers with commas between them, below a header line, without line breaks inside
              quotes. The file is scanned once for where its lines begin. pandas, where it is installed, parses it
              several times faster;
            - `.parquet` (needs pyarrow: pip install jaxfit[parquet]): columns of numbers. The blocks are its row
              groups; one that is larger than a window is read forward, and its rows are shuffled within windows.
              pyarrow takes a few MB of memory for each column beside.

            A list of paths of one suffix (not `.npy`) is one data set after another.
        x: The name of a column, for batches [batch], or a list of k names, for [batch, k]; in an `.npz` file the name
            of an array, "x" where it is None. None for arrays and `.npy`.
        y: Likewise for the targets.
        batch_size: Rows in a batch, at most those in the files.
        shuffle: Whether each epoch deals the rows in a new order.
        key: An int or a JAX key, for the order.
        dtype: What the batches are converted to: one dtype, or a pair for x and y, where None leaves what is in the
            file. Columns of a CSV file are float64; labels take a pair such as ("float32", "int32").
        window: The rows that are held in memory at once; None for 64 MB of them.

    Returns:
        A `Files`: an iterable of batches (x, y) of NumPy arrays, that knows its length and can be resumed.

    Raises:
        FileNotFoundError: A file does not exist.
        ImportError: A Parquet file came and pyarrow is not installed.
        TypeError: An argument, or what is in a file, is of the wrong kind.
        ValueError: A file is empty or malformed, an array or column is not there, or an argument has a wrong value.
            While batches are dealt: an entry is malformed, NaN or infinite; the message names file and row.
        OSError: A file changes while it is being read.

    Example:
        >>> import pathlib, tempfile
        >>> import jaxfit as jf
        >>> from jaxfit.data import from_files
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "line.csv"
        >>> _ = path.write_text("time,height\n" + "".join(f"{i / 50},{1 + i / 25}\n" for i in range(50)))
        >>> stream = from_files(path, "time", "height", batch_size=10, shuffle=True, dtype="float32")
        >>> stream
        Files(line.csv: 50 rows, batch_size=10, shuffle=True, key=0)
        >>> result = jf.fit(
        ...     lambda params, x: params["slope"] * x + params["start"], stream, {"slope": 0.0, "start": 0.0},
        ...     optimizer=jf.optimizers.Adam(0.1), epochs=100,
        ... )
        >>> round(float(result.params["slope"]), 2)
        2.0
        >>> folder.cleanup()
    """
    batch_size = _checks.count("batch_size", batch_size)
    window = None if window is None else _checks.count("window", window)
    if not isinstance(shuffle, bool):
        raise TypeError(f"shuffle is {_checks.describe(shuffle)}; expected True or False.")
    words = tuple(int(word) for word in _inputs.seed(key)[0])
    parts = _parts(path, x, y, window)
    kinds = _dtype(parts, "x", dtype), _dtype(parts, "y", dtype)
    rows = sum(int(part.bounds[-1]) for part in parts)
    if batch_size > rows:
        raise ValueError(f"batch_size is {batch_size} and there are {rows} rows; expected at most as many.")
    return Files(parts, kinds, batch_size, words if shuffle else None, words, window)


def _parts(path: Any, x: Any, y: Any, window: int | None) -> list[Part]:
    """The files, opened and looked at."""
    if isinstance(path, tuple) and len(path) == 2 and any(isinstance(part, np.ndarray) for part in path):
        _no_names(x, y, "arrays")
        return [_arrays.of_arrays(path, window)]
    several = isinstance(path, (list, tuple))
    paths = [_path(each) for each in path] if several else [_path(path)]
    if not paths:
        raise ValueError(f"path is an empty list; {_EXPECTED}.")
    suffixes = {os.path.splitext(each)[1].lower() for each in paths}
    suffix = next(iter(suffixes))
    if len(suffixes) > 1:
        raise ValueError(f"path has files of several kinds, {', '.join(sorted(suffixes))}; expected one kind.")
    if suffix not in _SUFFIXES:
        raise ValueError(f"path is {paths[0]!r}; {_EXPECTED}.")
    if suffix == ".npy":
        _no_names(x, y, ".npy files")
        if len(paths) != 2:
            raise ValueError(f'path has {len(paths)} .npy file{"s" * (len(paths) > 1)}; expected ("x.npy", "y.npy").')
        return [_arrays.of_npy((paths[0], paths[1]), window)]
    if suffix == ".npz":
        return [_arrays.of_npz(each, "x" if x is None else x, "y" if y is None else y, window) for each in paths]
    if suffix == ".csv":
        return [_csv.of_csv(each, x, y, _columns, window) for each in paths]
    return [_parquet.of_parquet(each, x, y, _columns) for each in paths]


def _path(given: Any) -> str:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"path is {_checks.describe(given)}; {_EXPECTED}.")
    return os.path.expanduser(os.fspath(given))


def _no_names(x: Any, y: Any, what: str) -> None:
    for name, given in (("x", x), ("y", y)):
        if given is not None:
            raise ValueError(f"{name} is {_checks.describe(given)}, and {what} have no names; leave it out.")


def _columns(name: str, given: Any) -> list[str]:
    """The columns of x or y as a list."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"{name} is {_checks.describe(given)}; expected the name of a column, or a list of them.")
    if not names:
        raise ValueError(f"{name} is an empty list; expected the names of columns.")
    return list(names)


def _dtype(parts: list[Part], what: str, dtype: Any) -> Rows:
    """What x or y is in the batches."""
    each: list[Rows] = [getattr(part, what) for part in parts]
    for part, rows in zip(parts, each, strict=True):
        if rows.shape != each[0].shape:
            came = f"{rows.shape} in {part.name} and {each[0].shape} in {parts[0].name}"
            raise ValueError(f"the rows of {what} have shape {came}; expected the same in all files.")
    found = np.result_type(*(rows.dtype for rows in each))
    given = dtype
    if isinstance(dtype, (tuple, list)):
        if len(dtype) != 2:
            raise ValueError(f"dtype has {len(dtype)} entries; expected one dtype, or a pair for x and y.")
        given = dtype["xy".index(what)]
    if given is None:
        return each[0]._replace(dtype=found)
    try:
        wanted = np.dtype(given)
    except TypeError as error:
        raise TypeError(f"dtype is {_checks.describe(given)}; expected a NumPy dtype such as 'float32'.") from error
    if wanted.kind not in "biufc" or (found.kind == "c" and wanted.kind != "c"):
        raise ValueError(f"dtype is {wanted}, which {what} of dtype {found} cannot be converted to.")
    return each[0]._replace(dtype=wanted.newbyteorder("="))
