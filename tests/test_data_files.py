"""Batches from files: the same numbers from every format, every row once an epoch, resumed anywhere, little memory."""

import builtins
import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

import jaxfit as jf
from jaxfit.data import _shuffle, from_files

ROWS = 103
FORMATS = ("arrays", "memmap", "npy", "fortran", "npz", "compressed", "half", "csv", "csvs", "parquet", "parquets")
NAMES = ["a", "b", "c"]


def numbers(rows=ROWS):
    """x [rows, 3] and y [rows], of which every row is another."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 3)), np.arange(rows) + 0.5


def written(folder, kind, rows=ROWS):
    """The arguments of `from_files` for these numbers in a format."""
    x, y = numbers(rows)
    frame = pd.DataFrame(x, columns=NAMES).assign(label="it is, here", y=y)
    cut = rows // 3
    columns = {"x": NAMES, "y": "y"}
    if kind == "arrays":
        return {"path": (x, y)}
    if kind in ("npy", "memmap", "fortran"):
        np.save(folder / "x.npy", np.asfortranarray(x) if kind == "fortran" else x)
        np.save(folder / "y.npy", y)
        paths = (folder / "x.npy", str(folder / "y.npy"))
        return {"path": tuple(np.load(path, mmap_mode="r") for path in paths) if kind == "memmap" else paths}
    if kind == "npz":
        np.savez(folder / "data.npz", other=y, x=x, y=y)
        return {"path": folder / "data.npz"}
    if kind == "compressed":
        np.savez_compressed(folder / "data.npz", inputs=x, targets=y)
        return {"path": folder / "data.npz", "x": "inputs", "y": "targets"}
    if kind == "half":  # one array as it is, the other compressed
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        with zipfile.ZipFile(folder / "data.npz", "w") as archive:
            archive.write(folder / "x.npy", "x.npy")
            archive.write(folder / "y.npy", "y.npy", zipfile.ZIP_DEFLATED)
        return {"path": folder / "data.npz"}
    if kind == "csv":
        text = frame[["y", "c", "label", "a", "b"]].to_csv(index=False)
        # Line breaks of Windows, blank lines, a quoted number, no line break at the end.
        text = text.replace("\n", "\r\n").replace("\r\n0.5,", '\r\n\r\n"0.5",').removesuffix("\r\n")
        (folder / "data.csv").write_bytes(text.encode())
        return {"path": folder / "data.csv", **columns}
    if kind == "csvs":
        frame[:cut].to_csv(folder / "one.csv", index=False)
        frame[cut:][["c", "y", "b", "label", "a"]].to_csv(folder / "two.csv", index=False)
        return {"path": [folder / "one.csv", folder / "two.csv"], **columns}
    if kind == "parquet":
        frame.to_parquet(folder / "data.parquet", row_group_size=10)
        return {"path": folder / "data.parquet", **columns}
    frame[:cut].to_parquet(folder / "one.parquet")
    frame[cut:].to_parquet(folder / "two.parquet", row_group_size=rows // 2)
    return {"path": [folder / "one.parquet", folder / "two.parquet"], **columns}


def epoch(stream):
    """The rows of an epoch in their order."""
    x, y = zip(*stream, strict=True)
    return np.concatenate(x), np.concatenate(y)


@pytest.fixture(params=FORMATS)
def arguments(request, tmp_path):
    return written(tmp_path, request.param)


def without(monkeypatch, name):
    """As if a package were not installed."""
    load = builtins.__import__

    def refuse(module, *args, **kwargs):
        if module.split(".")[0] == name:
            raise ImportError(module)
        return load(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize(("batch_size", "window"), [(10, None), (ROWS, 7), (1, 16), (16, ROWS), (50, 1000)])
def test_every_format_gives_the_same_rows_in_their_order(arguments, batch_size, window):
    x, y = numbers()
    stream = from_files(**arguments, batch_size=batch_size, window=window)
    for _ in range(2):
        batches = list(stream)
        assert [len(batch[1]) for batch in batches[:-1]] == [batch_size] * (len(stream) - 1)
        assert len(batches) == len(stream) == -(-ROWS // batch_size)
        found = epoch(batches)
        np.testing.assert_array_equal(found[0], x, strict=True)
        np.testing.assert_array_equal(found[1], y, strict=True)
    assert stream.rows == ROWS


@pytest.mark.parametrize("window", [None, 16])
def test_shuffled_epochs_deal_every_row_once_and_differ(arguments, window):
    x, y = numbers()
    stream = from_files(**arguments, batch_size=9, shuffle=True, window=window, key=5)
    first, second = epoch(stream), epoch(stream)
    for found in (first, second):
        at = np.argsort(found[1])
        np.testing.assert_array_equal(found[0][at], x, strict=True)
        np.testing.assert_array_equal(found[1][at], y, strict=True)
    again = from_files(**arguments, batch_size=9, shuffle=True, window=window, key=jax.random.key(5))
    again.set_epoch(1)
    np.testing.assert_array_equal(epoch(again)[1], second[1])
    again.set_epoch(0)
    np.testing.assert_array_equal(epoch(again)[1], first[1])
    np.testing.assert_array_equal(epoch(again)[1], second[1])
    assert (first[1] != y).any()
    assert (first[1] != second[1]).any()
    other = from_files(**arguments, batch_size=9, shuffle=True, window=window, key=6)
    assert (epoch(other)[1] != first[1]).any()


def test_blocks_come_from_the_whole_file():
    y = np.arange(10_000)
    stream = from_files((y, y), batch_size=100, shuffle=True, window=1000)
    assert all(batch.std() > 2000 for batch, _ in stream)  # 2887 for rows drawn from all


def test_the_order_is_the_same_on_every_machine():
    y = np.arange(40)
    stream = from_files((y, y), batch_size=8, shuffle=True, window=16, key=3)
    stream.set_epoch(2)
    assert next(iter(stream))[1].tolist() == [8, 14, 13, 7, 15, 23, 11, 5]


def test_compressed_arrays_are_shuffled_within_windows(tmp_path):
    stream = from_files(**written(tmp_path, "compressed"), batch_size=20, shuffle=True, window=20)
    for number, (_, y) in enumerate(stream):
        assert set(y) == set(numbers()[1][20 * number : 20 * number + 20])


@pytest.mark.parametrize("shuffle", [False, True])
def test_resumed_anywhere_the_rest_is_the_same(arguments, shuffle):
    given = {"batch_size": 25, "shuffle": shuffle, "window": 30}
    stream = from_files(**arguments, **given)
    stream.set_epoch(3)
    batches = iter(stream)
    states, dealt = [batches.get_state()], []
    for batch in batches:
        dealt.append(batch)
        states.append(batches.get_state())
    assert len(states) == len(stream) + 1
    for number, state in enumerate(states):
        assert (state["epoch"], state["batch"]) == (3, number)
        other = from_files(**arguments, **given)
        resumed = iter(other)
        if number % 2:  # one that is under way goes back, or on, as well
            next(resumed)
        resumed.set_state(json.loads(json.dumps(state)))
        rest = list(resumed)
        assert len(rest) == len(dealt) - number
        for found, expected in zip(rest, dealt[number:], strict=True):
            np.testing.assert_array_equal(found[0], expected[0], strict=True)
            np.testing.assert_array_equal(found[1], expected[1], strict=True)
        assert iter(other).get_state()["epoch"] == 4


def test_what_lies_before_is_not_read(tmp_path):
    arguments = written(tmp_path, "csv")
    stream = from_files(**arguments, batch_size=10, window=10)
    batches = iter(stream)
    for _ in range(8):
        next(batches)
    state = batches.get_state()
    text = (tmp_path / "data.csv").read_bytes()
    at = text.index(b"3.5,")
    (tmp_path / "data.csv").write_bytes(text[:at] + b"bad" + text[at + 3 :])
    resumed = iter(stream)
    resumed.set_state(state)
    np.testing.assert_array_equal(epoch(resumed)[1], numbers()[1][80:])
    with pytest.raises(ValueError, match=r"data.csv, line 6: column 'y' holds 'bad'; expected a finite number"):
        list(stream)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("rows", {"rows": 99}),
        ("batch_size", {"batch_size": 11}),
        ("shuffle", {"shuffle": False}),
        ("key", {"key": 1}),
        ("window", {"window": 20}),
        ("x", {"x": ["a", "b"]}),
        ("y", {"dtype": (None, "float32")}),
    ],
)
def test_a_state_of_other_batches_is_refused(tmp_path, name, changed):
    given = {"batch_size": 10, "shuffle": True, "window": 30}
    stream = from_files(**written(tmp_path, "parquet"), **given)
    state = iter(stream).get_state()
    arguments = written(tmp_path, "parquet", changed.pop("rows", ROWS))
    other = from_files(**(arguments | given | changed))
    assert other.identity != stream.identity
    if name == "rows":  # the bytes are told first
        name = "bytes"
    with pytest.raises(ValueError, match=rf"state is that of other batches: {name} is .* there and .* here"):
        iter(other).set_state(state)


def test_a_state_that_is_none(tmp_path):
    stream = from_files(**written(tmp_path, "npz"), batch_size=10)
    batches = iter(stream)
    state = batches.get_state()
    for bad, error, message in (
        (None, TypeError, "state is None; expected the dict that get_state has returned"),
        ({"epoch": 0, "batch": 0}, TypeError, "state is a dict; expected the dict that get_state"),
        (state | {"batch": 12}, ValueError, "batch of state is 12; expected at most 11"),
        (state | {"epoch": -1}, ValueError, "epoch of state is -1; expected at least 0"),
    ):
        with pytest.raises(error, match=message):
            batches.set_state(bad)
    with pytest.raises(ValueError, match="number is -1; expected at least 0"):
        stream.set_epoch(-1)


def test_the_identity_does_not_depend_on_the_folder(tmp_path):
    streams = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        streams.append(from_files(**written(tmp_path / name, "csvs"), batch_size=4))
    assert streams[0].identity == streams[1].identity
    assert repr(streams[0]) == "Files(one.csv, two.csv: 103 rows, batch_size=4, shuffle=False, key=0)"
    assert streams[0].files == (str(tmp_path / "one/one.csv"), str(tmp_path / "one/two.csv"))


def test_shapes_and_dtypes(tmp_path):
    table = written(tmp_path, "parquet")["path"]
    x, y = next(iter(from_files(table, "a", ["y", "b"], batch_size=4, dtype="float32")))
    assert x.shape == (4,)
    assert y.shape == (4, 2)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(y[:, 0], numbers()[1][:4])
    images = np.arange(10 * 2 * 3, dtype=">u2").reshape(10, 2, 3)
    labels = np.arange(10, dtype=np.int8)
    for name, array in (("x", np.asfortranarray(images)), ("y", labels)):
        np.save(tmp_path / f"{name}.npy", array)
    for path in ((images, labels), (tmp_path / "x.npy", tmp_path / "y.npy")):
        x, y = epoch(from_files(path, batch_size=3))
        np.testing.assert_array_equal(x, images.astype(np.uint16), strict=True)
        np.testing.assert_array_equal(y, labels, strict=True)
        x, y = next(iter(from_files(path, batch_size=3, dtype=(np.float32, "int32"))))
        assert (x.dtype, y.dtype) == (np.float32, np.int32)


def test_batches_are_the_users_own():
    x = np.zeros((20, 2))
    for shuffle in (False, True):
        stream = from_files((x, x), batch_size=5, shuffle=shuffle)
        for batch, _ in stream:
            assert (batch == 0).all()
            batch += 1
        assert (x == 0).all()


def test_two_passes_at_once(arguments):
    stream = from_files(**arguments, batch_size=10, shuffle=True, window=25)
    alone = [epoch(stream)[1] for _ in range(2)]
    stream.set_epoch(0)
    pairs = list(zip(iter(stream), iter(stream), strict=True))
    for number in range(2):
        np.testing.assert_array_equal(np.concatenate([pair[number][1] for pair in pairs]), alone[number])


def test_csv_by_numpy(tmp_path, monkeypatch):
    arguments = written(tmp_path, "csv")
    without(monkeypatch, "pandas")
    np.testing.assert_array_equal(epoch(from_files(**arguments, batch_size=7, window=20))[0], numbers()[0])


@pytest.mark.parametrize("parser", ["pandas", "numpy"])
@pytest.mark.parametrize("entry", ["", "nan", "inf", "None", "1_000", "1.2.3", '"x"'])
def test_a_malformed_number_is_found(parser, entry, tmp_path, monkeypatch):
    if parser == "numpy":
        without(monkeypatch, "pandas")
    lines = ["y,label,a", *(f'{i},"u,v",{i}' for i in range(200))]
    lines[150] = f"1,caf\u00e9,{entry}"
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(lines), encoding="latin-1")
    held = entry.strip('"')
    with pytest.raises(ValueError, match=rf"bad.csv, line 151: column 'a' holds '{held}'; expected a finite number"):
        list(from_files(path, "a", "y", batch_size=50, window=64, shuffle=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n", "has a header line and no rows"),
        ("1,2\n3,4\n", r"line 1 holds numbers \(1, 2\); expected a header line"),
        ("\nx,y\n", "line 1 is empty; expected a header line"),
        ("x;y\n1;2\n", "line 1 is 'x;y'; expected names with commas between them"),
        ("x,x,y\n1,2,3\n", r"has 2 columns of the name 'x' \(x\)"),
        ("x,z\n1,2\n", r"has no column 'y' \(y\): .* The file has 'x', 'z'"),
        ("x,y\n1,2\n\n3\n", "line 4 has 1 field and the header has 2"),
        ("x,y\n1,2\n3,4,5\n", "line 3 has 3 fields and the header has 2"),
        ('x,y\n1,2\n"3\n",4\n', "line 3: a quote is not closed at the end of the line"),
    ],
)
def test_malformed_csv_is_found_before_anything_is_dealt(text, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        from_files(path, "x", "y", batch_size=1)
    assert "bad.csv" in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5)), min_size=1),
    blank=st.booleans(),
    window=st.integers(1, 200),
)
def test_any_numbers_come_out_of_a_csv_file_as_they_went_in(rows, blank, window, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("x,y\n" + "".join(f"{x!r},{y}\n" + "\n" * blank for x, y in rows))
    x, y = epoch(from_files(path, "x", "y", batch_size=1, window=window))
    np.testing.assert_array_equal(x, [x for x, _ in rows])
    np.testing.assert_array_equal(y, [y for _, y in rows])


def test_lines_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxfit.data._csv.PIECE_BYTES", 16)
    x, y = numbers()
    found = epoch(from_files(**written(tmp_path, "csv"), batch_size=10, shuffle=True))
    at = np.argsort(found[1])
    np.testing.assert_array_equal(found[0][at], x)
    np.testing.assert_array_equal(found[1][at], y)


def wrong(folder):
    """Bad arguments: what is raised, its message, and the arguments."""
    x, y = numbers()
    npy, npz, table, parquet = (written(folder, kind) for kind in ("npy", "npz", "csv", "parquet"))
    np.save(folder / "text.npy", np.array(["a"] * ROWS))
    np.save(folder / "short.npy", y[:-1])
    np.save(folder / "none.npy", y[:0])
    np.save(folder / "one.npy", np.float64(1))
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-8])
    (folder / "empty.csv").touch()
    (folder / "junk.npy").write_bytes(b"junk" * 9)
    (folder / "junk.npz").write_bytes(b"junk" * 9)
    (folder / "junk.parquet").write_bytes(b"junk" * 9)
    np.savez_compressed(folder / "fortran.npz", x=np.asfortranarray(x), y=y)
    pq.write_table(pa.table({"x": ["a", "b"], "y": [1, 2]}), folder / "text.parquet")
    pq.write_table(pa.table({"x": np.zeros(0), "y": np.zeros(0)}), folder / "none.parquet")
    text = {"path": folder / "text.parquet", "x": "x", "y": "y"}
    pair = lambda name: {"path": (folder / name, folder / "y.npy")}
    swapped = {"path": [parquet["path"], folder / "text.parquet"], "x": NAMES, "y": "y"}
    return [
        (TypeError, "path is None; expected a pair", {"path": None}),
        (ValueError, "path is an empty list; expected a pair", {"path": []}),
        (ValueError, "path is 'data.txt'; expected a pair", {"path": "data.txt"}),
        (ValueError, r"path has files of several kinds, .csv, .npz", {"path": ["a.csv", "b.npz"]}),
        (FileNotFoundError, "nowhere.csv does not exist", {"path": "nowhere.csv", "x": "x", "y": "y"}),
        (ValueError, "is a folder; expected a file", {"path": folder / "folder.csv", "x": "x", "y": "y"}),
        (ValueError, r"empty.csv is empty \(0 bytes\)", {"path": folder / "empty.csv", "x": "x", "y": "y"}),
        (ValueError, r"path has 1 .npy file; expected \(\"x.npy\", \"y.npy\"\)", {"path": folder / "x.npy"}),
        (ValueError, r"x is a str \('a'\), and .npy files have no names", npy | {"x": "a"}),
        (ValueError, r"y is a str \('a'\), and arrays have no names", {"path": (x, y), "y": "a"}),
        (TypeError, "y is a list; expected a NumPy array", {"path": (x, [1.0])}),
        (TypeError, "x in .*text.npy is of dtype <U1; expected numbers", pair("text.npy")),
        (ValueError, "x in .*short.npy has 102, y in .*y.npy has 103; expected the same", pair("short.npy")),
        (ValueError, r"none.npy has shape \(0,\), which is empty", pair("none.npy")),
        (ValueError, r"one.npy is a single number", pair("one.npy")),
        (ValueError, r"cut.npy ends too early: its .* need 2600 bytes and it has 2592", pair("cut.npy")),
        (ValueError, "junk.npy is no array in the format of .npy", pair("junk.npy")),
        (ValueError, "junk.npz cannot be read: File is not a zip file", {"path": folder / "junk.npz"}),
        (ValueError, "junk.parquet is no Parquet file", {"path": folder / "junk.parquet", "x": "x", "y": "y"}),
        (ValueError, r"data.npz has no array 'z' \(x\); it has 'other', 'x', 'y'", npz | {"x": "z"}),
        (TypeError, "y is a list; expected the name of one array", npz | {"y": ["y"]}),
        (ValueError, "fortran.npz is compressed and lies column by column", {"path": folder / "fortran.npz"}),
        (TypeError, "x is None; expected the name of a column, or a list of them", table | {"x": None}),
        (ValueError, "y is an empty list; expected the names of columns", table | {"y": []}),
        (ValueError, r"data.csv has no column 'aa' \(x\): did you mean 'a'\? The file has", table | {"x": "aa"}),
        (ValueError, r"data.parquet has no column 'z' \(y\)", parquet | {"y": "z"}),
        (TypeError, r"column 'x' \(x\) of .*text.parquet is of type string", text),
        (ValueError, "none.parquet has no rows", {"path": folder / "none.parquet", "x": "x", "y": "y"}),
        (ValueError, r"text.parquet has no column 'a' \(x\)", swapped),
        (ValueError, "batch_size is 0; expected at least 1", npy | {"batch_size": 0}),
        (TypeError, r"batch_size is a float \(2.0\)", npy | {"batch_size": 2.0}),
        (ValueError, "batch_size is 104 and there are 103 rows", npy | {"batch_size": 104}),
        (ValueError, "window is 0; expected at least 1", npy | {"window": 0}),
        (TypeError, r"shuffle is an int \(1\); expected True or False", npy | {"shuffle": 1}),
        (TypeError, "key is None; expected an int or a single JAX key", npy | {"key": None}),
        (TypeError, r"dtype is a str \('floaty'\); expected a NumPy dtype", npy | {"dtype": "floaty"}),
        (ValueError, "dtype has 3 entries; expected one dtype, or a pair", npy | {"dtype": ("f4", "f4", "f4")}),
        (ValueError, "dtype is <U3, which x of dtype float64 cannot be converted to", npy | {"dtype": "U3"}),
        (ValueError, "dtype is float64, which x of dtype complex128", {"path": (1j * x, y), "dtype": "f8"}),
    ]  # fmt: skip


def test_bad_input_is_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for error, message, arguments in wrong(tmp_path):
        with pytest.raises(error, match=message):
            from_files(**({"batch_size": 5} | arguments))


def test_files_that_differ_in_their_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.zeros(4))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 3)), y=np.zeros(4))
    with pytest.raises(ValueError, match=r"the rows of x have shape \(3,\) in .*b.npz and \(2,\) in .*a.npz"):
        from_files([tmp_path / "a.npz", tmp_path / "b.npz"], batch_size=2)


def test_pyarrow_is_named_where_it_is_missing(tmp_path, monkeypatch):
    arguments = written(tmp_path, "parquet")
    without(monkeypatch, "pyarrow")
    with pytest.raises(ImportError, match=r"pip install jaxfit\[parquet\]"):
        from_files(**arguments, batch_size=5)


def test_numbers_that_are_none_are_found_with_file_and_row(tmp_path):
    x, y = numbers()
    x[77, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(
        ValueError, match=r"x.npy and .*y.npy: x of row 77 \(counted from 0\) is nan at \[1\]; expected finite"
    ):
        list(from_files((tmp_path / "x.npy", tmp_path / "y.npy"), batch_size=5, shuffle=True, window=64))
    frame = pd.DataFrame({"a": x[:, 1], "y": y})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=20)  # where pandas writes null
    with pytest.raises(ValueError, match=r"x.parquet: column 'a' is null in row 77 \(counted from 0\)"):
        list(from_files(tmp_path / "x.parquet", "a", "y", batch_size=5, window=16))
    for dtype, value in (("float32", 1e300), ("int16", 0.5), ("int16", 1e6), ("uint8", -1.0)):
        y[5] = 1
        frame = pd.DataFrame({"a": np.ones(ROWS), "y": np.ones(ROWS)})
        frame.loc[90, "y"] = value
        frame.to_csv(tmp_path / "x.csv", index=False)
        message = rf"x.csv: y of row 90 \(counted from 0\) is {value!r} in column 'y'; which {dtype} cannot hold"
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            list(from_files(tmp_path / "x.csv", "a", "y", batch_size=5, window=16, dtype=(None, dtype)))


def test_lines_that_vanish_while_they_are_read(tmp_path):
    arguments = written(tmp_path, "csv")
    stream = from_files(**arguments, batch_size=10, window=10)
    text = arguments["path"].read_bytes()
    at = text.index(b"\n7.5,") + 1
    end = text.index(b"\n", at)
    arguments["path"].write_bytes(text[:at] + b"\n" * (end - at) + text[end:])
    with pytest.raises(ValueError, match=r"data.csv, lines 10 to 10: they are not the numbers that they were"):
        list(stream)


def test_an_error_comes_again_and_is_not_skipped():
    y = np.arange(100.0)
    y[20] = np.inf
    batches = iter(from_files((y, y), batch_size=10))
    for _ in range(2):
        with pytest.raises(ValueError, match="x of row 20"):
            next(batches)
    batches = iter(from_files((y, y), batch_size=10, window=10))
    assert [next(batches)[1][0] for _ in range(2)] == [0, 10]
    for _ in range(2):
        with pytest.raises(ValueError, match="the pair of arrays: x of row 20"):
            next(batches)


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "csv", "parquet"])
def test_a_file_that_changes_while_it_is_read(kind, tmp_path):
    arguments = written(tmp_path, kind)
    stream = from_files(**arguments, batch_size=10, window=10)
    path = arguments["path"][0] if kind == "npy" else arguments["path"]
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 4)
    with pytest.raises(OSError, match=rf"{os.path.basename(path)} has changed from \d+ to \d+ bytes .*at row 0"):
        list(stream)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("compressed", r"data.npz: 'inputs.npy' cannot be read from row \d+ on"),
        ("parquet", r"data.parquet: row group \d+, from row \d+ on, cannot be read"),
    ],
)
def test_a_file_that_is_damaged(kind, message, tmp_path):
    arguments = written(tmp_path, kind, rows=5000)
    with open(arguments["path"], "r+b") as file:
        file.seek(os.path.getsize(arguments["path"]) // 4)
        file.write(bytes(400))
    with pytest.raises(ValueError, match=message):
        list(from_files(**arguments, batch_size=10))


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    window=st.integers(1, 70),
    key=st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    epoch=st.integers(0, 2**31),
)
def test_an_order_deals_every_row_once(sizes, window, key, epoch):
    bounds = np.cumsum([0, *sizes])
    dealt = _shuffle.order(bounds, window, key, epoch)
    rows = []
    for number in range(-(-sum(sizes) // window)):
        held = np.concatenate([bounds[block] + np.arange(start, end) for block, start, end in dealt.pieces(number)])
        assert len(held) == dealt.rows(number) == min(window, sum(sizes) - number * window)
        permutation = dealt.permutation(number)
        rows.append(held if permutation is None else held[permutation])
    rows = np.concatenate(rows)
    np.testing.assert_array_equal(np.sort(rows), np.arange(sum(sizes)))
    if key is None:
        np.testing.assert_array_equal(rows, np.arange(sum(sizes)))


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 300), batch_size=st.integers(1, 300), window=st.integers(1, 300), data=st.data())
def test_any_sizes_deal_every_row_once_and_resume_anywhere(rows, batch_size, window, data):
    y = np.arange(rows)
    stream = from_files((y[:, None], y), batch_size=min(batch_size, rows), window=window, shuffle=True)
    batches = list(stream)
    x, found = epoch(batches)
    np.testing.assert_array_equal(x[:, 0], found)
    np.testing.assert_array_equal(np.sort(found), y)
    number = data.draw(st.integers(0, len(stream)))
    resumed = iter(stream)
    resumed.set_state(resumed.get_state() | {"epoch": 0, "batch": number})
    rest = [batch[1] for batch in resumed]
    np.testing.assert_array_equal(np.concatenate([*rest, y[:0]]), found[number * stream.batch_size :])


MEMORY = """
import os, resource, sys
import numpy as np
from jaxfit.data import from_files

def peak():
    if not os.path.exists("/proc/self/status"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with open("/proc/self/status") as file:  # on Linux ru_maxrss may be that of the process which started this one
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

for batch in from_files((np.ones((9, 4)), np.ones(9)), batch_size=3, shuffle=True):
    pass
before = peak()
names = "x.npy", "y.npy"
for path in (names, tuple(np.load(name, mmap_mode="r") for name in names)):
    rows = 0
    for x, y in from_files(path, batch_size=1000, shuffle=True):
        rows += len(y)
    assert rows == 1_600_000, rows
    print(peak() - before)
"""


def test_a_large_file_takes_little_memory(tmp_path):
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1_600_000, 64)).flush()  # 410 MB, all holes
    np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (1_600_000,)).flush()
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = [float(line) for line in done.stdout.split()]  # MB
    assert len(grown) == 2
    assert max(grown) < 100, grown


@pytest.mark.parametrize("kind", ["npy", "compressed", "csv", "parquet"])
def test_a_fit_to_files(kind, tmp_path):
    arguments = written(tmp_path, kind)
    stream = from_files(**arguments, batch_size=20, shuffle=True, dtype="float32", window=50)
    model = lambda params, x: x @ params
    result = jf.fit(model, stream, np.zeros(3, np.float32), optimizer=jf.optimizers.Adam(0.1), epochs=2)
    again = iter(from_files(**arguments, batch_size=20, shuffle=True, dtype="float32", window=50))
    _, y = next(again)
    assert len(result.history["loss"]) == 2 * len(stream)
    assert result.history["loss"][0] == pytest.approx(np.mean(np.square(y)), rel=1e-5)
