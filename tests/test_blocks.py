"""What `append` copies and what it leaves to the background: whole rows, in order, whatever comes between."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.format import keys
from zstore.format.keys import StringIds, join_strings, pack_joined, pack_strings
from zstore.format.schema import Schema, make_field
from zstore.writing import blocks, pipeline
from zstore.writing.blocks import Block
from zstore.writing.counting import _distinct
from zstore.writing.door import Batch, Door
from zstore.writing.pool import BlockPool

DIM = 4


def schema(ids: str = "string", codec: str = "raw") -> Schema:
    fields = {name: make_field(name, dtype, shape, 64) for name, dtype, shape in (
        ("vectors", "float32", (DIM,)), ("ids", ids, ()), ("epoch", "int32", ()), ("text", "string", ()),
        ("label", "int64", ()))}
    return Schema("00" * 16, 64, codec, fields)


def batch(start: int, count: int, **changed: Any) -> Batch:
    numbers = np.arange(start, start + count)
    given: dict[str, Any] = {"text": [f"t{n}" for n in numbers], "label": numbers, **changed}
    read = Door(schema()).read([f"id-{n}" for n in numbers], np.repeat(numbers[:, None], DIM, 1).astype(np.float32),
                               given.pop("epoch", 5), given)
    assert read is not None
    return read


def column(block: Block, name: str, start: int, stop: int) -> Any:
    rows = block.column(name, start, stop)
    return rows.to_list() if isinstance(rows, StringIds) else rows.tolist()


def test_rows_of_many_batches_stand_in_their_places() -> None:
    block = Block(schema(), 64)
    block.write(0, batch(0, 5), 0, 5)
    block.write(5, batch(100, 9, label=7, text="same", epoch=np.arange(9)), 2, 6)      # the middle of a batch
    block.write(9, batch(9, 3, label=8), 0, 3)
    assert column(block, "ids", 1, 7) == ["id-1", "id-2", "id-3", "id-4", "id-102", "id-103"]
    assert column(block, "ids", 7, 12) == ["id-104", "id-105", "id-9", "id-10", "id-11"]
    assert column(block, "text", 0, 12) == [*(f"t{n}" for n in range(5)), *["same"] * 4, "t9", "t10", "t11"]
    assert column(block, "label", 0, 12) == [0, 1, 2, 3, 4, 7, 7, 7, 7, 8, 8, 8]
    assert column(block, "epoch", 0, 12) == [5] * 5 + [2, 3, 4, 5] + [5] * 3
    assert [row[0] for row in column(block, "vectors", 0, 12)] == [0, 1, 2, 3, 4, 102, 103, 104, 105, 9, 10, 11]


def test_a_write_that_did_not_count_is_overwritten() -> None:
    block = Block(schema(), 64)
    block.write(0, batch(0, 4), 0, 4)
    block.write(4, batch(50, 20, label=1), 0, 20)           # an error came before `filled` was raised
    block.write(4, batch(4, 3, label=2), 0, 3)
    block.write(7, batch(7, 2, label=3), 0, 2)
    assert column(block, "ids", 0, 9) == [f"id-{n}" for n in range(9)]
    assert column(block, "label", 0, 9) == [0, 1, 2, 3, 2, 2, 2, 3, 3]
    assert column(block, "text", 3, 9) == [f"t{n}" for n in range(3, 9)]


def test_strings_wait_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    block, real, calls = Block(schema(), 64), pack_joined, [0]

    def failing(parts: Any) -> StringIds:
        calls[0] += 1
        if calls[0] == 2:
            raise MemoryError
        return real(parts)
    monkeypatch.setattr(blocks, "pack_joined", failing)
    block.write(0, batch(0, 4), 0, 4)
    with pytest.raises(MemoryError):
        block.column("ids", 0, 4)
    block.write(4, batch(4, 4), 0, 4)
    assert column(block, "ids", 0, 8) == [f"id-{n}" for n in range(8)]
    assert column(block, "text", 0, 8) == [f"t{n}" for n in range(8)]


def test_a_block_that_is_used_again_forgets() -> None:
    pool = BlockPool(schema())
    block = pool.take()
    block.write(0, batch(0, 4), 0, 4)
    assert column(block, "ids", 0, 4) == [f"id-{n}" for n in range(4)]
    block.write(4, batch(4, 4), 0, 4)           # it was never counted
    pool.give_back([block])
    assert pool.take() is block
    block.write(0, batch(20, 2), 0, 2)
    assert column(block, "ids", 0, 2) == ["id-20", "id-21"]


@pytest.mark.parametrize("change", [
    lambda x: x.astype(">f4"), np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2], lambda x: x[::-1][::-1],
    lambda x: x.astype(np.float64), lambda x: x.tolist(), lambda x: x.view(np.memmap)])
@pytest.mark.parametrize("count", [3, 200])
def test_arrays_of_every_kind(url: str, change: Callable[[Any], Any], count: int) -> None:
    vectors = np.arange(count * DIM, dtype=np.float32).reshape(count, DIM)
    with zstore.Writer(url, rows_per_shard=64, codec="raw") as writer:
        writer.append(np.arange(count).astype(">i8"), change(vectors), label=np.arange(count, dtype=">i2"))
    with zstore.Reader(url) as reader:
        assert (reader.vectors == vectors).all()
        assert reader.ids.tolist() == reader.field("label").tolist() == list(range(count))


def test_a_batch_larger_than_what_is_copied_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "QUICK_BYTES", 100)
    vectors = np.random.default_rng(0).standard_normal((300, DIM), np.float32)
    with zstore.Writer(url, rows_per_shard=64) as writer:
        for start in range(0, 300, 25):
            writer.append([f"r{n}" for n in range(start, start + 25)], vectors[start:start + 25])
    with zstore.Reader(url) as reader:
        assert (reader.vectors == vectors).all() and reader.ids.tolist() == [f"r{n}" for n in range(300)]


@pytest.mark.parametrize("ids", [list, np.array, lambda items: np.array(items, np.dtypes.StringDType())])
def test_the_callers_thread_packs_no_strings(url: str, ids: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real, threads = keys._pack, set()

    def recorded(text: bytes, rows: int) -> StringIds:
        threads.add(threading.current_thread())
        return real(text, rows)
    monkeypatch.setattr(keys, "_pack", recorded)
    with zstore.Writer(url, rows_per_shard=64) as writer:
        for start in range(0, 400, 10):
            writer.append(ids([f"ä{n}" for n in range(start, start + 10)]), np.ones((10, DIM), np.float32), text="é")
        writer.commit()
        assert threads and threading.current_thread() not in threads
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist() == [f"ä{n}" for n in range(400)] and set(reader.field("text").tolist()) == {"é"}


@pytest.mark.parametrize("items", [[], ["a"], [""], ["", ""], ["ä", "", "漢字" * 9], ["x" * 70_000, "y"]])
def test_joined_strings_are_packed_alike(items: list[str]) -> None:
    one, both = join_strings(items).packed, pack_joined([join_strings(items), join_strings([]), join_strings(items)])
    assert (one.body, one.to_list(), both.to_list()) == (pack_strings(items).body, items, items * 2)


@pytest.mark.parametrize("items", [["\0"], ["a", "b\0"], ["a\0\0\0\0b"], ["", "\0\0\0\0"]])
def test_no_nul_is_joined(items: list[str]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        join_strings(items)


def test_a_spare_block_is_taken_before_one_is_made() -> None:
    pool = BlockPool(schema())
    first = pool.take()
    assert pool.wants_spare() and not pool.wants_spare()        # one at a time
    spare = Block(schema(), pool.rows)
    pool.add(spare)
    assert not pool.wants_spare() and pool.take() is spare is not first
    for _ in range(2 * pool._limit):
        if pool.wants_spare():
            pool.add(Block(schema(), pool.rows))
            pool.take()
    assert pool._made == pool._limit and not pool._spares       # none is asked for beyond the bound


def test_a_spare_that_comes_too_late_is_dropped() -> None:
    pool = BlockPool(schema())
    pool.take()
    assert pool.wants_spare()
    while pool._made < pool._limit:
        pool.take()
    pool.add(Block(schema(), pool.rows))
    assert pool._made == pool._limit and not pool._free


def test_blocks_are_made_ahead_and_a_failure_of_that_costs_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []

    class Failing(Block):
        def __init__(self, *args: Any) -> None:
            made.append(threading.current_thread() is threading.main_thread())
            raise MemoryError
    monkeypatch.setattr(pipeline, "Block", Failing)
    with zstore.Writer(url, rows_per_shard=64, codec="raw") as writer:
        for start in range(0, 400, 8):
            writer.append(list(range(start, start + 8)), np.ones((8, DIM), np.float32))
    assert made and not any(made)
    assert len(zstore.Reader(url)) == 400


@pytest.mark.parametrize("epochs", [[0], [7, 7, 7], [3, 0, 3, 2**31 - 1], list(range(50)) * 2])
def test_distinct_epochs(epochs: list[int]) -> None:
    assert _distinct(np.array(epochs, np.int32)) == frozenset(epochs)


def test_a_commit_imports_nothing_large(url: str) -> None:
    script = ("import sys, numpy, zstore\n"
              "with zstore.Writer(sys.argv[1]) as writer:\n"
              "    for epoch in range(3):\n"
              "        writer.append(['a', 'b'], numpy.ones((2, 4), numpy.float32), epoch=epoch)\n"
              "    writer.append(['a', 'b'], numpy.ones((2, 4), numpy.float32), epoch=numpy.arange(2))\n"
              "    writer.commit()\n"
              "print('numpy.ma' in sys.modules)\n")
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False"]


def test_a_batch_that_an_interrupt_kept_out_leaves_nothing_behind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scalars wait in the block; the next batch brings the same columns as arrays, for the same rows."""
    write, armed = Block.write, [False]

    def interrupted(self: Block, *args: Any) -> None:
        write(self, *args)
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt
    monkeypatch.setattr(Block, "write", interrupted)
    with zstore.Writer(url) as writer:
        writer.append(["a"], np.ones((1, DIM), np.float32), epoch=1, label=np.array([11], np.int32))
        armed[0] = True
        with pytest.raises(KeyboardInterrupt):
            writer.append(["b", "c"], np.ones((2, DIM), np.float32), epoch=7, label=9)
        writer.append(["d", "e"], np.ones((2, DIM), np.float32), epoch=np.array([100, 101]), label=np.array([0, 1], np.int32))
        writer.append(["f"], np.ones((1, DIM), np.float32), epoch=2, label=3)
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == ["a", "d", "e", "f"]
    assert reader.field("epoch").tolist() == [1, 100, 101, 2] and reader.field("label").tolist() == [11, 0, 1, 3]
