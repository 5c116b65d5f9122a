"""Every contender of the benchmarks gives back what was written: by row, by key, by epoch, in order, and after a resume."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contenders
from benchmarks.contender import Cannot, Contender, Missing
from benchmarks.contenders.buffered import COMMIT_ROWS, chunk_rows
from benchmarks.data import Data, dtype_of, fold
from benchmarks.scenarios.checks import same

ROWS, DIM, COMMITTED = 3_000, 32, 1_500        # rows committed, then written on, then written again after a resume
WIDE = 1_024                                    # values of a row of which a chunk of 1 MB holds 256

# What is checked is the values; a rival's warnings are its own.
pytestmark = pytest.mark.filterwarnings("ignore")


@functools.cache
def data_of(dtype: str, dim: int = DIM) -> Data:
    """Rows whose every vector is another. 4,093 distinct ones: more than there are rows."""
    return Data(np.random.default_rng(11).standard_normal((4_093, dim), np.float32), ROWS, dim, dtype)


@pytest.fixture(autouse=True)
def zarr_as_it_was() -> Iterator[None]:
    """A contender may choose zarr's codec pipeline for its process."""
    import zarr
    yield
    zarr.config.reset()


def opened(name: str, place: Path, data: Data) -> contextlib.closing[Contender]:
    try:
        return contextlib.closing(contenders.make(name, str(place), data))
    except Missing as why:
        pytest.skip(f"{name} is missing: {why}")


def write(contender: Contender, data: Data, start: int, stop: int) -> None:
    """Batches in an array that is overwritten as soon as the call is back; a commit after every third."""
    for number, (ids, epoch, vectors) in enumerate(data.batches(start, stop), 1):
        lent = vectors.copy()
        contender.append(list(ids), epoch, lent)
        lent.view(np.uint8)[:] = 0xA5
        if number % 3 == 0:
            contender.commit()
    contender.commit()


def everything_is_right(contender: Contender, data: Data) -> None:
    contender.open()
    assert contender.count() == data.rows
    rng = np.random.default_rng(0)
    rows = rng.integers(0, data.rows, 500)
    rows[:2], rows[2] = [0, data.rows - 1], rows[3]         # both ends, and one twice
    same(contender.gather(rows), data.at(rows))
    same(contender.gather([7]), data.at([7]))
    for epoch in (0, 2, 4):
        rows = epoch * data.per_epoch + rng.permutation(data.per_epoch)[:50]
        rows[1] = rows[0]
        same(contender.keys(data.ids(rows), epoch), data.at(rows))
        same(contender.key(data.ids(rows)[3], epoch), data.at(rows)[3])
        same(contender.epoch(epoch), data.at(np.arange(epoch * data.per_epoch, (epoch + 1) * data.per_epoch)))
    found, seen = 0, 0
    for block in contender.scan():
        same(block, data.at(np.arange(seen, seen + len(block))))
        found, seen = found ^ fold(block), seen + len(block)
    assert (seen, found) == (data.rows, data.fold())


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_what_was_written_is_there(name: str, tmp_path: Path) -> None:
    data = data_of(contenders.CONTENDERS[name].dtype or "float32")
    with opened(name, tmp_path / "store", data) as contender:
        contender.create()
        write(contender, data, 0, data.rows)
        contender.finish()
        everything_is_right(contender, data)
        contender.close()
        everything_is_right(contender, data)        # what was closed opens again
        assert contender.durability


@pytest.mark.parametrize("name", contenders.CONTENDERS)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(name: str, tmp_path: Path) -> None:
    data = data_of(contenders.CONTENDERS[name].dtype or "float32", WIDE)
    with opened(name, tmp_path / "store", data) as contender:
        contender.create()
        write(contender, data, 0, COMMITTED)
        write(contender, data, COMMITTED, COMMITTED + 700)      # committed as well, but the checkpoint is older
        contender.finish()
        try:
            contender.resume(COMMITTED)
        except Cannot as why:
            pytest.skip(f"{name} does not resume: {why}")
        contender.finish()
        contender.open()
        assert contender.count() == COMMITTED       # what came after it is gone, also if it never comes again
        contender.close()
        contender.resume(COMMITTED)
        write(contender, data, COMMITTED, data.rows)
        contender.finish()
        everything_is_right(contender, data)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name, entry in contenders.CONTENDERS.items() if entry.dtype is None])
def test_small_types_come_back_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    data = data_of(dtype)
    with opened(name, tmp_path / "store", data) as contender:
        contender.create()
        write(contender, data, 0, data.rows)
        contender.finish()
        contender.open()
        rows = np.random.default_rng(1).integers(0, data.rows, 100)
        same(contender.gather(rows), data.at(rows))
        same(contender.keys(data.ids(rows[:1]), int(data.epochs(rows[:1])[0])), data.at(rows[:1]))
        found = contender.gather([0])
        assert found.dtype == dtype_of(dtype)


@pytest.mark.skipif(os.name != "posix", reason="looks at processes")
@pytest.mark.parametrize("name", [name for name, entry in contenders.CONTENDERS.items() if entry.module == "redis_"])
def test_a_closed_server_is_gone(name: str, tmp_path: Path) -> None:
    data = data_of("float32")
    with opened(name, tmp_path / "store", data) as contender:
        contender.create()
        server = contender._server      # type: ignore[attr-defined]
        write(contender, data, 0, 256)
        assert server.poll() is None and contender.extra()["server_mb"] > 0
    assert server.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_contender_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = contenders.Entry("no_such_module", "Nothing", "some-package")
    monkeypatch.setitem(contenders.CONTENDERS, "nothing", entry)
    with pytest.raises(Missing, match="pip install some-package"):
        contenders.make("nothing", str(tmp_path), data_of("float32"))


@pytest.mark.parametrize("row_bytes", [64, 1_536, 6_144, 32_768, 1 << 21])
def test_chunks_divide_a_commit(row_bytes: int) -> None:
    rows = chunk_rows(row_bytes)
    assert COMMIT_ROWS % rows == 0 and (rows == 1 or rows * row_bytes <= 1 << 20)
