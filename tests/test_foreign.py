"""Others read what we wrote: zarr-python, TensorStore and xarray give exactly the rows that were appended, at the extents
that the root's attribute lists, after every commit, beside a writer, after a crash, after a rollback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

import zstore
import zstore_bfloat16
from zstore.format.dtypes import numpy_dtype

sys.path.insert(0, str(Path(__file__).parent))
import foreign

HERE = Path(__file__).parent
CODECS = ("lossless", "small", "raw")
DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8")
# Every codec meets every dtype; every codec, and every dtype, meets both kinds of id.
STORES = [(codec, dtype, ("str", "int64")[(i + j) % 2]) for i, codec in enumerate(CODECS) for j, dtype in enumerate(DTYPES)]
HAVE = [name for name in foreign.READERS if find_spec(name)]
OLD_ZARR = zarr.__version__.startswith("3.1.")
DIM, PER_SHARD = 5, 96
ENV = {**os.environ, "PYTHONPATH": str(HERE.parent)}


class Book:
    """What was appended, in order, and how much of it counts."""

    def __init__(self, dtype: str, ids: str) -> None:
        self.dtype, self.ids, self.rng = dtype, ids, np.random.default_rng(7)
        self.rows: dict[str, list[Any]] = {}
        self.count = 0

    def batch(self, n: int, epoch: int) -> dict[str, Any]:
        numbers = self.rng.integers(0, 10**6, n)
        ids = [f"döc-{number}" for number in numbers] if self.ids == "str" else numbers - 5 * 10**5
        vectors = (self.rng.standard_normal((n, DIM)) * 9).astype(numpy_dtype(self.dtype))
        return {"ids": ids, "vectors": vectors, "epoch": np.full(n, epoch, np.int32),
                "flag": self.rng.random(n) < 0.5, "label": numbers % 7, "small": (numbers % 100).astype("uint8"),
                "text": ["" if number % 3 else f"t{number}é" for number in numbers],
                "view": self.rng.standard_normal((n, 2, 3)).astype("f4")}

    def append(self, writer: zstore.Writer, n: int, epoch: int = 0) -> None:
        batch = self.batch(n, epoch)
        for name, column in batch.items():
            self.rows.setdefault(name, []).extend(column)
        writer.append(batch.pop("ids"), batch.pop("vectors"), **batch)

    def committed(self) -> None:
        self.count = len(self.rows["ids"])

    def cut(self, count: int) -> None:
        for column in self.rows.values():
            del column[count:]
        self.count = count

    def expected(self, name: str) -> np.ndarray[Any, Any]:
        return foreign.as_plain(np.asarray(self.rows[name][:self.count]))


def readable(reader: str, url: str) -> list[str]:
    """The arrays that this reader can read, as FORMAT.md lists them."""
    strings = {name for name, array in foreign.root(url)["consolidated_metadata"]["metadata"].items()
               if array["data_type"] == "string"}
    return [name for name in foreign.arrays(url) if not (reader == "tensorstore" and name in strings)]


def check(book: Book, url: str, readers: list[str] = HAVE) -> None:
    for reader in readers:
        names = readable(reader, url)
        columns = foreign.READERS[reader](url, names)
        assert sorted(columns) == names
        for name in names:
            same(columns[name], book.expected(name), f"{reader} {name}")
    ours = zstore.Reader(url)
    assert len(ours) == book.count
    for name in foreign.arrays(url):
        same(np.asarray(ours.field(name)), book.expected(name), f"zstore {name}")


def same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], what: str) -> None:
    found = foreign.as_plain(found)
    assert found.shape == wanted.shape, what
    assert found.dtype.kind == wanted.dtype.kind or not wanted.size, what
    np.testing.assert_array_equal(found, wanted, err_msg=what)


@pytest.mark.parametrize(("codec", "dtype", "ids"), STORES)
def test_a_run(tmp_path: Path, codec: str, dtype: str, ids: str) -> None:
    url, book = str(tmp_path / "a.zarr"), Book(dtype, ids)
    with zstore.Writer(url, codec=codec, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
        for epoch, n in enumerate((30, 50, 150)):           # a tail, a fuller tail, a full shard and a tail
            book.append(writer, n, epoch)
            mark = writer.commit()
            book.committed()
            check(book, url)
        kept = book.count
        book.append(writer, 250, 3)                         # shards that are written, and that no record names
        await_shard(url, 4)
        check(book, url)
    book.committed()
    check(book, url)
    with pytest.warns(UserWarning, match="250 rows are cut"):
        writer = zstore.Writer(url, at=mark, commit_every_s=None)
    with writer:
        book.cut(kept)
        check(book, url)
        book.append(writer, 40, 9)
        writer.commit()
        book.committed()
        check(book, url)
    # A second session that goes on with the handed-over tail.
    with zstore.Writer(url, commit_every_s=None) as writer:
        book.append(writer, 20, 10)
    book.committed()
    check(book, url)
    assert zstore.verify(url) == []


def test_memory_store() -> None:
    url, book = "memory://foreign/a.zarr", Book("float32", "str")
    with zstore.Writer(url, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
        for n in (40, 130):
            book.append(writer, n)
            writer.commit()
            book.committed()
            check(book, url, ["zarr"])
        book.append(writer, 200)
        await_shard(url, 2)
        check(book, url, ["zarr"])


def await_shard(url: str, shard: int) -> None:
    """Wait until the background has written this shard of every field."""
    deadline = time.monotonic() + 20
    for name, array in foreign.root(url)["consolidated_metadata"]["metadata"].items():
        key = f"{url}/{name}/c.{shard}" + ".0" * (len(array["shape"]) - 1)
        while not fsspec.open(key).fs.exists(key):
            assert time.monotonic() < deadline, key
            time.sleep(0.005)


def test_a_field_that_came_later(tmp_path: Path) -> None:
    url, book = str(tmp_path / "a.zarr"), Book("float32", "int64")
    with zstore.Writer(url, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
        book.append(writer, 130)
        book.committed()
        clusters = list(range(130))
        writer.add_field("cluster", clusters, fill=-7)
        book.rows["cluster"] = clusters
        check(book, url)
        book.append(writer, 60)
        writer.commit()
        book.committed()
        book.rows["cluster"] = clusters + [-7] * 60
        check(book, url)


# -- alone, in a process that has no zstore ----------------------------------------------------------------------------


def alone(reader: str, url: str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", str(HERE / "foreign.py"), reader, url, str(out), *options],
                          capture_output=True, text=True, env=ENV)


@pytest.mark.parametrize("reader", HAVE)
def test_no_zstore_is_needed(tmp_path: Path, reader: str) -> None:
    url, book = str(tmp_path / "a.zarr"), Book("bfloat16" if reader != "tensorstore" else "float32", "int64")
    with zstore.Writer(url, rows_per_shard=PER_SHARD) as writer:
        batch = book.batch(200, 0)
        batch.pop("text")               # no strings: TensorStore reads the whole group
        book.rows = {name: list(column) for name, column in batch.items()}
        writer.append(batch.pop("ids"), batch.pop("vectors"), **batch)
    book.committed()
    done = alone(reader, url, tmp_path / "rows.npz", "--bfloat16")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "rows.npz") as found:
        for name in found:
            same(found[name], book.expected(name), name)
        assert sorted(found) == foreign.arrays(url)


@pytest.mark.skipif(not OLD_ZARR, reason="newer zarr finds the data type by its entry point")
@pytest.mark.parametrize("reader", [name for name in HAVE if name != "tensorstore"])
def test_bfloat16_needs_one_import_in_zarr_3_1(tmp_path: Path, reader: str) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url, dtype="bfloat16") as writer:
        writer.append(["a"], np.ones((1, 4), "f4"))
    done = alone(reader, url, tmp_path / "rows.npz")
    assert done.returncode != 0 and "bfloat16" in done.stderr


@pytest.mark.skipif("tensorstore" not in HAVE, reason="TensorStore is not installed")
def test_tensorstore_reads_no_strings(tmp_path: Path) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url) as writer:
        writer.append(["a"], np.ones((1, 4), "f4"))
    with pytest.raises(ValueError, match="string"):
        foreign.by_tensorstore(url, ["ids"])


@pytest.mark.parametrize(("text", "bits"), [
    ("NaN", 0x7FC0), ("0x7fc1", 0x7FC1), ("Infinity", 0x7F80), ("-Infinity", 0xFF80), (1.5, 0x3FC0), (0.0, 0)])
def test_fill_values_of_bfloat16(text: Any, bits: int) -> None:
    scalar = zstore_bfloat16.BFloat16().from_json_scalar(text, zarr_format=3)
    assert int(np.asarray(scalar).view(np.uint16)) == bits
    assert zstore_bfloat16.BFloat16().to_json_scalar(scalar, zarr_format=3) == text


def test_zarr_writes_bfloat16_that_it_reads(tmp_path: Path) -> None:
    rows = np.arange(40).reshape(10, 4).astype(numpy_dtype("bfloat16"))
    array = zarr.create_array(str(tmp_path / "a"), shape=rows.shape, chunks=(2, 4), shards=(4, 4), dtype=rows.dtype)
    array[:] = rows
    np.testing.assert_array_equal(np.asarray(zarr.open_array(str(tmp_path / "a"), mode="r")[:]), rows)
    with pytest.raises(TypeError):
        zstore_bfloat16.BFloat16().cast_scalar("much")


# -- killed --------------------------------------------------------------------------------------------------------------

VICTIM = textwrap.dedent("""
    import os, signal, sys
    import numpy as np
    import zstore
    from zstore.storage.local import LocalStorage

    url, codec, fatal, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

    def deadly(name):
        call = getattr(LocalStorage, name)
        def counted(self, *args, **kwargs):
            global left
            if name == fatal and armed:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(self, *args, **kwargs)
        return counted

    armed = False
    for name in ("draft", "replace", "create", "sync"):
        setattr(LocalStorage, name, deadly(name))
    writer = zstore.Writer(url, codec=codec, rows_per_shard=64, commit_every_s=None)
    at = 0
    while True:
        n = 7 + at % 31
        rows = np.arange(at, at + n)
        writer.append([f"r{row}" for row in rows], np.stack([rows, -rows, rows * 3], 1).astype("f4"), label=rows)
        at += n
        armed = at > 150
        if at % 3 == 0:
            print(writer.commit().rows, flush=True)
""")


@pytest.mark.parametrize(("codec", "fatal", "left"), [
    ("lossless", "draft", 3), ("raw", "draft", 16), ("small", "replace", 9), ("raw", "replace", 22), ("raw", "create", 1),
    ("lossless", "create", 4), ("lossless", "sync", 2), ("raw", "sync", 7)])
def test_after_a_crash(tmp_path: Path, codec: str, fatal: str, left: int) -> None:
    url = str(tmp_path / "a.zarr")
    done = subprocess.run([sys.executable, "-c", VICTIM, url, codec, fatal, str(left)], capture_output=True, text=True,
                          env=ENV)
    assert done.returncode == -signal.SIGKILL, done.stderr
    acknowledged = int(done.stdout.split()[-1])
    assert zstore.verify(url) == []
    # Zarr's documents show head, or, for want of the time to write them, the version before it.
    shown = foreign.root(url)["attributes"]["zstore"]["version"]
    head = zstore.Reader(url).version
    assert shown in (head, head - 1)
    check_numbers(url, len(zstore.Reader(url, version=shown)), acknowledged)
    # The next session brings them to head and goes on.
    with zstore.Writer(url) as writer:
        assert foreign.root(url)["attributes"]["zstore"]["version"] >= head
        rows = len(zstore.Reader(url))
        check_numbers(url, rows, acknowledged)
        numbers = np.arange(rows, rows + 100)
        writer.append([f"r{row}" for row in numbers], np.stack([numbers, -numbers, numbers * 3], 1).astype("f4"),
                      label=numbers)
    check_numbers(url, rows + 100, rows + 100)
    assert zstore.verify(url) == []


def check_numbers(url: str, rows: int, at_least: int) -> None:
    assert rows >= at_least
    numbers = np.arange(rows)
    for reader in HAVE:
        columns = foreign.READERS[reader](url, readable(reader, url))
        np.testing.assert_array_equal(columns["label"], numbers, err_msg=reader)
        np.testing.assert_array_equal(columns["vectors"], np.stack([numbers, -numbers, numbers * 3], 1), err_msg=reader)
        if "ids" in columns:
            assert columns["ids"].tolist() == [f"r{row}" for row in numbers], reader
