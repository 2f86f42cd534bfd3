"""The file of a saved result: a zip archive of a header in JSON and arrays in NumPy's format, written in one piece."""

import contextlib
import json
import os
import secrets
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfit import _checks, _tree_json
from jaxfit._tree_json import Reader, UnreadableError

_FORMAT = "jaxfit result"
_VERSION = 1
_HEADER = "header.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal results make equal files


def checked(path: Any) -> str:
    """A path as a string; TypeError where it is none."""
    found = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(found, str):
        raise TypeError(f"path is {_checks.describe(path)}; expected the path of a file, a str or a pathlib.Path.")
    return found


def write(path: str, kind: str, content: Any) -> None:
    """Writes a file all at once: what was there before stays until the new one is whole.

    Args:
        path: The file.
        kind: What it holds.
        content: A pytree of arrays and plain values.

    Raises:
        TypeError: The content holds what a file cannot.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder {folder} does not exist; make it first, or save somewhere else.")
    if os.path.isdir(target):
        raise IsADirectoryError(f"{path} is a folder; expected the path of a file.")
    arrays = _tree_json.Collected()
    header = {"format": _FORMAT, "version": _VERSION, **_made_by(), "kind": kind}
    header["content"] = _tree_json.encode(content, arrays, "result")
    text = json.dumps(header, allow_nan=False, separators=(",", ":"))
    partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(zipfile.ZipInfo(_HEADER, _LONG_AGO), text)
                for number, array in enumerate(arrays.each):
                    with archive.open(zipfile.ZipInfo(_entry(number), _LONG_AGO), "w", force_zip64=True) as entry:
                        _tree_json.write(array, entry)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _made_by() -> dict[str, str]:
    own = sys.modules[__name__.partition(".")[0]].__version__  # who imports this has imported that
    return {"jaxfit": own, "python": sys.version.split()[0], "numpy": np.__version__}


def _entry(number: int) -> str:
    return f"arrays/{number}.npy"


def read(path: str, build: Callable[[str, Any, Reader], Any]) -> Any:
    """Reads a file that `write` has written.

    Args:
        path: The file.
        build: Makes the answer of the kind, the content and its reader, while the file is open.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not one of ours, cut short, damaged, or of a version that is not known yet.
    """
    with open(path, "rb") as file:
        whole = zipfile.is_zipfile(file)
        file.seek(0)
        if not whole and file.read(4) == b"PK\x03\x04":
            raise ValueError(f"{path} is cut short: its end is missing. Copy or save it once more.")
        if not whole:
            raise ValueError(f"{path} is not a file that jaxfit.save has written.")
        try:
            with zipfile.ZipFile(file) as archive:
                header = _header(archive, path)
                kind, node = header["kind"], header["content"]
                reader = Reader(lambda number: _array(archive, number))
                content = reader.decode(node)
        except UnreadableError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        except Exception as error:  # the many ways in which a broken archive fails
            raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}). Save the result anew.") from error
    return build(kind, content, reader)


def _header(archive: zipfile.ZipFile, path: str) -> dict[str, Any]:
    known = _HEADER in archive.namelist()
    header = json.loads(archive.read(_HEADER)) if known else None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise UnreadableError("it is an archive, but not one that jaxfit.save has written.")
    if header["version"] > _VERSION:
        raise UnreadableError(
            f"jaxfit {header['jaxfit']} wrote it in version {header['version']} of the format, and this is jaxfit "
            f"{_made_by()['jaxfit']}, which knows version {_VERSION}: pip install --upgrade jaxfit."
        )
    del path
    return header


def _array(archive: zipfile.ZipFile, number: int) -> np.ndarray:
    with archive.open(_entry(number)) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):  # also has the archive compare its checksum
            raise ValueError(f"{_entry(number)} is longer than its array")
    return array
