"""Batches dealt to several processes: together they are the batches of one, bit for bit, and each reads its own."""

import inspect
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from jaxfit.data import _arrays, _csv, _parquet, from_files
from test_data_files import FORMATS, NAMES, ROWS, numbers, without, written

SHARES = {
    "one": [lambda rows: (0, rows)],
    "two": [lambda rows, at=at: (rows * at // 2, rows * (at + 1) // 2) for at in range(2)],
    "three": [lambda rows, at=at: (rows * at // 3, rows * (at + 1) // 3) for at in range(3)],
    "five": [lambda rows, at=at: (min(rows, 5 * at), min(rows, 5 * at + 5) if at < 4 else rows) for at in range(5)],
    "uneven": [lambda rows: (0, 1), lambda rows: (1, 1), lambda rows: (1, rows)],
    "none": [lambda rows: (rows, rows), lambda rows: (0, rows)],
}


def parts(arguments, shares, **given):
    """The batches of an epoch as each process sees them."""
    dealt = []
    for share in shares:
        stream = from_files(**arguments, **given)
        stream.deal(share)
        stream.set_epoch(1)
        dealt.append(list(stream))
    return dealt


def check_together(dealt, shares, whole):
    """That the shares of every batch are its rows, where they belong."""
    for share, batches in zip(shares, dealt, strict=True):
        assert len(batches) == len(whole)
        for found, expected in zip(batches, whole, strict=True):
            start, stop = share(len(expected[1]))
            for mine, all_rows in zip(found, expected, strict=True):
                np.testing.assert_array_equal(mine, all_rows[start:stop], strict=True)


def epoch_one(arguments, **given):
    stream = from_files(**arguments, **given)
    stream.set_epoch(1)
    return list(stream)


@pytest.fixture(scope="module", params=FORMATS)
def arguments(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of some rows even in small files, which windows cut."""
    for module in (_arrays, _csv):
        monkeypatch.setattr(module, "block_rows", lambda window, rows=0: 9)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("names", "batch_size", "window"),
    [(("one", "three"), 20, 14), (("five",), 16, 40), (("uneven", "two"), 25, None), (("none",), ROWS, 30)],
)
def test_shares_together_are_the_batches(arguments, names, batch_size, window, shuffle):
    given = {"batch_size": batch_size, "window": window, "shuffle": shuffle, "key": 3}
    whole = epoch_one(arguments, **given)
    for name in names:
        check_together(parts(arguments, SHARES[name], **given), SHARES[name], whole)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 200),
    batch_size=st.integers(1, 200),
    window=st.integers(1, 200),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_any_sizes_and_shares(rows, batch_size, window, shuffle, data):
    y = np.arange(rows)
    size = min(batch_size, rows)
    cuts = {}
    for each in {size, rows % size} - {0}:
        cuts[each] = sorted(data.draw(st.tuples(*[st.integers(0, each)] * 2)))
    shares = [
        lambda rows: (0, cuts[rows][0]),
        lambda rows: (cuts[rows][0], cuts[rows][1]),
        lambda rows: (cuts[rows][1], rows),
    ]
    given = {"batch_size": size, "window": window, "shuffle": shuffle}
    whole = epoch_one({"path": (y, y[:, None])}, **given)
    check_together(parts({"path": (y, y[:, None])}, shares, **given), shares, whole)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shuffle", [False, True])
def test_several_batches_in_one(arguments, shuffle):
    given = {"batch_size": 10, "window": 32, "shuffle": shuffle}
    whole = list(from_files(**arguments, **given))
    for share in (*SHARES["three"][1:], SHARES["none"][0]):
        stream = from_files(**arguments, **given)
        stream.deal(share)
        batches, done = iter(stream), 0
        for most, expected in ((1, 1), (4, 4), (3, 3), (9, 2), (9, 1)):
            (x, y), count = batches.next_batches(most)
            assert count == expected
            start, stop = share(stream.size(done))
            assert len(x) == len(y) == count * (stop - start)
            for found, at in ((x, 0), (y, 1)):
                rows = [batch[at][start:stop] for batch in whole[done : done + count]]
                np.testing.assert_array_equal(found, np.concatenate(rows), strict=True)
            done += count
        with pytest.raises(StopIteration):
            batches.next_batches(4)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shuffle", [False, True])
def test_another_number_of_processes_goes_on(arguments, shuffle):
    given = {"batch_size": 12, "window": 30, "shuffle": shuffle}
    whole = epoch_one(arguments, **given)
    before = from_files(**arguments, **given)
    layout, identity = before.layout, before.identity
    before.deal(SHARES["two"][1])
    before.set_epoch(1)
    batches = iter(before)
    for number in range(5):
        state = json.loads(json.dumps(batches.get_state()))
        assert (state["epoch"], state["batch"]) == (1, number)
        next(batches)
    assert (before.layout, before.identity, len(before)) == (layout, identity, 9)
    for shares in (SHARES["one"], SHARES["three"]):
        rest = []
        for share in shares:
            stream = from_files(**arguments, **given)
            stream.deal(share)
            resumed = iter(stream)
            resumed.set_state(state)
            rest.append(list(resumed))
        check_together(rest, shares, whole[4:])


def test_a_pass_keeps_the_share_it_began_with():
    y = np.arange(20)
    stream = from_files((y, y), batch_size=8)
    everything = iter(stream)
    stream.deal(lambda rows: (0, rows // 4))
    quarter = iter(stream)
    stream.deal(None)
    assert [len(batch[1]) for batch in everything] == [8, 8, 4]
    assert [batch[1].tolist() for batch in quarter] == [[0, 1], [8, 9], [16]]
    assert [len(batch[1]) for batch in stream] == [8, 8, 4]


def test_a_share_of_no_rows(tmp_path):
    stream = from_files(**written(tmp_path, "npz"), batch_size=10, shuffle=True, dtype="float32")
    stream.deal(lambda rows: (rows, rows))
    os.remove(tmp_path / "data.npz")  # nothing of it is read
    batches = list(stream)
    assert len(batches) == 11
    assert all((x.shape, y.shape) == ((0, 3), (0,)) and x.dtype == y.dtype == np.float32 for x, y in batches)


def test_the_sizes_of_batches():
    y = np.arange(25)
    stream = from_files((y, y), batch_size=10)
    stream.deal(lambda rows: (0, 1))
    assert [stream.size(number) for number in range(3)] == [10, 10, 5]
    with pytest.raises(ValueError, match="number is 3; expected at most 2"):
        stream.size(3)
    with pytest.raises(ValueError, match="number is -1; expected at least 0"):
        stream.size(-1)


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (lambda rows: (-1, 2), ValueError, r"share answered \(-1, 2\) for a batch of 10 rows; expected 0 <= start"),
        (lambda rows: (3, 2), ValueError, r"share answered \(3, 2\) for a batch of 10 rows; .* start <= stop <= 10"),
        (lambda rows: (0, 11), ValueError, r"share answered \(0, 11\) for a batch of 10 rows"),
        (lambda rows: (0, 6), ValueError, r"share answered \(0, 6\) for a batch of 5 rows; .* stop <= 5"),
        (lambda rows: rows, TypeError, r"share answered 10 for a batch of 10 rows; expected a pair \(start, stop\)"),
        (lambda rows: (0, 2.5), TypeError, r"share answered \(0, 2.5\) for a batch of 10 rows; expected a pair"),
        (lambda rows: None, TypeError, "share answered None for a batch of 10 rows; expected a pair"),
        ((0, 5), TypeError, r"share is a tuple; expected a function rows -> \(start, stop\), or None"),
    ],
)
def test_a_share_that_is_nonsense(share, error, message):
    y = np.arange(25)
    stream = from_files((y, y), batch_size=10)
    stream.deal(lambda rows: (0, np.int64(2)))
    with pytest.raises(error, match=message):
        stream.deal(share)
    assert [len(batch[1]) for batch in stream] == [2, 2, 2]


def spoilt(folder, kind, row, value=np.nan):
    """Data with one NaN; and what its error says."""
    x, y = numbers()
    x[row, 1] = value
    named = rf"x of row {row} \(counted from 0\) is nan"
    if kind == "arrays":
        return {"path": (x, y)}, named
    if kind == "npy":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        return {"path": (folder / "x.npy", folder / "y.npy")}, named
    if kind == "compressed":
        np.savez_compressed(folder / "data.npz", x=x, y=y)
        return {"path": folder / "data.npz"}, named
    frame = pd.DataFrame(x, columns=NAMES).assign(y=y)
    columns = {"x": NAMES, "y": "y"}
    if kind == "csv":
        frame.to_csv(folder / "data.csv", index=False, na_rep="what")
        return {"path": folder / "data.csv", **columns}, rf"line {row + 2}: column 'b' holds 'what'"
    if kind == "null":
        frame.to_parquet(folder / "data.parquet", row_group_size=50)
        return {"path": folder / "data.parquet", **columns}, rf"column 'b' is null in row {row} \(counted from 0\)"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.set_column(1, "b", pa.array(x[:, 1], from_pandas=False))
    pq.write_table(table, folder / "data.parquet", row_group_size=50)
    return {"path": folder / "data.parquet", **columns}, named


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "npy", "compressed", "csv", "null", "parquet"])
def test_a_row_is_checked_by_its_own_process(kind, shuffle, tmp_path):
    given = {"batch_size": 10, "window": 64, "shuffle": shuffle, "key": 1}
    row = 77
    sound, _ = spoilt(tmp_path, kind, row, 0.0)
    place = [value for _, y in epoch_one(sound, **given) for value in y].index(row + 0.5)
    arguments, message = spoilt(tmp_path, kind, row)
    own = 0
    batch, inside = divmod(place, 10)
    for share in SHARES["three"]:
        stream = from_files(**arguments, **given)
        stream.deal(share)
        stream.set_epoch(1)
        start, stop = share(stream.size(batch))
        if start <= inside < stop:
            own += 1
            with pytest.raises(ValueError, match=message):
                list(stream)
        else:
            assert len(list(stream)) == 11
    assert own == 1


def test_batches_before_an_error_are_handed_out():
    y = np.arange(100.0)
    y[25] = np.inf
    stream = from_files((y, y), batch_size=10, window=15)
    stream.deal(lambda rows: (0, 4))
    assert len(list(stream)) == 10  # row 25 is another's
    stream.deal(lambda rows: (4, rows))
    batches = iter(stream)
    (_, found), count = batches.next_batches(9)
    assert (count, found.tolist()) == (1, [4, 5, 6, 7, 8, 9])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"x of row 25 \(counted"):
            batches.next_batches(9)


def test_csv_by_numpy(tmp_path, monkeypatch):
    arguments = written(tmp_path, "csv")
    without(monkeypatch, "pandas")
    given = {"batch_size": 16, "window": 80, "shuffle": True}
    whole = epoch_one(arguments, **given)
    check_together(parts(arguments, SHARES["three"], **given), SHARES["three"], whole)


def test_lines_that_vanish(tmp_path):
    arguments = written(tmp_path, "csv")
    stream = from_files(**arguments, batch_size=64, window=640)
    stream.deal(lambda rows: (rows // 2, rows))
    text = arguments["path"].read_bytes()
    at = text.index(b"\n50.5,") + 1
    end = text.index(b"\n", at)
    arguments["path"].write_bytes(text[:at] + b"\n" * (end - at) + text[end:])
    with pytest.raises(ValueError, match="they are not the numbers that they were: there are 9 and there were 10"):
        list(stream)


@pytest.mark.parametrize("kind", ["npy", "memmap", "npz", "fortran"])
def test_far_rows_are_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_arrays, "_GAP_BYTES", 1)
    read = []
    for array in (_arrays._Held, _arrays._Stored):
        plain = array.read
        monkeypatch.setattr(
            array, "read", lambda self, pieces, plain=plain: (read.extend(pieces), plain(self, pieces))[1]
        )
    stream = from_files(**written(tmp_path, kind), batch_size=10)
    stream.deal(lambda rows: (rows // 2, rows * 7 // 10))
    assert [len(y) for _, y in stream] == [2] * 10 + [1]
    assert read == [*((10 * at + 5, 2) for at in range(10)), (101, 1)] * 2


def test_only_a_share_is_held_and_converted(tmp_path, monkeypatch):
    taken = []
    module = inspect.getmodule(type(from_files(**written(tmp_path, "npy"), batch_size=1)))
    take_over = module.take_over
    monkeypatch.setattr(module, "take_over", lambda out, *rest: (taken.append(len(out)), take_over(out, *rest))[1])
    for kind in ("npy", "compressed", "csv", "parquet"):
        stream = from_files(**written(tmp_path, kind), batch_size=20, window=60, shuffle=True)
        stream.deal(lambda rows: (0, rows // 4))
        batches = iter(stream)
        next(batches)
        assert len(batches._window[0]) <= 60 // 4 + 1
        taken.clear()
        stream.set_epoch(0)
        rows = sum(len(y) for _, y in stream)
        assert sum(taken) == 2 * rows == 2 * (5 * 5 + 3 // 4)


def test_compressed_arrays_are_unpacked_once(tmp_path, monkeypatch):
    opened = []
    plain = _arrays._Packed.read
    monkeypatch.setattr(
        _arrays._Packed, "read", lambda self, pieces: (opened.append(pieces[0]), plain(self, pieces))[1]
    )
    stream = from_files(**written(tmp_path, "compressed"), batch_size=50, window=5)
    stream.deal(lambda rows: (rows // 2, rows // 2 + rows // 6))
    assert len(list(stream)) == 3
    assert [start for start, _ in opened] == [25, 25]  # x and y


def test_a_row_group_is_unpacked_once(tmp_path, monkeypatch):
    opened = []
    plain = _parquet.Columns.read
    monkeypatch.setattr(_parquet.Columns, "read", lambda self, *where: (opened.append(where), plain(self, *where))[1])
    frame = pd.DataFrame({"x": numbers()[1], "y": numbers()[1]})
    frame.to_parquet(tmp_path / "x.parquet")
    stream = from_files(tmp_path / "x.parquet", "x", "y", batch_size=50, window=5, shuffle=True)
    stream.deal(lambda rows: (rows // 2, rows // 2 + 1))
    assert len(list(stream)) == 3
    assert len(opened) == 1


def test_csv_lines_of_others_are_not_parsed(tmp_path, monkeypatch):
    stream = from_files(**written(tmp_path, "csv"), batch_size=20, window=1280)
    stream.deal(lambda rows: (0, rows // 4))
    parse, lines = _csv._parser(), []
    monkeypatch.setattr(
        _csv, "_parser", lambda: lambda text, used: (lines.append(text.count(b"\n")), parse(text, used))[1]
    )
    assert len(list(stream)) == 6
    assert sum(lines) == 25
