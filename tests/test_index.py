"""The key index against a dict."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zstore.errors import Corrupt
from zstore.format import keys, layout
from zstore.format.extents import Extents
from zstore.format.run import Entries, RunHeader, epoch_spans, run_parts
from zstore.format.schema import Schema, make_field
from zstore.index import KeyIndex, count_duplicates, merge_runs

STORE = "0123456789abcdef" * 2


class Folder:
    """As much of a storage as an index needs."""

    distant = False

    url = "test"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def open(self, name: str, end: int = 0) -> Any:
        if name not in self.objects:
            raise FileNotFoundError(name)
        return Bytes(self.objects[name])


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset:offset + length]

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


class Values:
    """A column that is an array."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def span(self, start: int, count: int) -> np.ndarray[Any, Any]:
        return self.values[start:start + count]

    def string_ids(self, start: int, count: int) -> list[keys.StringIds]:
        return [keys.pack_strings([str(item) for item in self.values[start:start + count]])]


def schema(strings: bool) -> Schema:
    fields = [make_field("vectors", "float32", (4,), 64), make_field("ids", "string" if strings else "int64", (), 64),
              make_field("epoch", "int32", (), 64)]
    return Schema(STORE, 64, "raw", {field.name: field for field in fields})


def hashed(ids: list[Any], strings: bool) -> tuple[Any, Any]:
    if strings:
        return keys.hash_strings(keys.pack_strings([f"id-{item}" for item in ids]), keys.seed_of(STORE))
    return keys.hash_ints(np.array(ids, np.int64)), np.zeros(len(ids), np.uint32)


def build(rows: list[tuple[int, int]], cuts: list[int], extents: Extents, strings: bool, lost: int = -1) -> KeyIndex:
    """Rows are (id, epoch) by address; a run ends at each cut."""
    folder = Folder()
    bounds = sorted({0, *(cut for cut in cuts if cut < len(rows)), len(rows)})
    names = []
    for number, (low, high) in enumerate(pairwise(bounds)):
        part = rows[low:high]
        key, check = hashed([item for item, _ in part], strings)
        epochs = np.array([epoch for _, epoch in part], np.int32)
        addresses = np.arange(low, high)
        header = RunHeader(STORE, STORE, 0, len(part), strings, Extents([(low, high - low)]),
                           epoch_spans(epochs, addresses) if number % 3 else None)
        names.append(f"run{number}")
        if number != lost:
            folder.objects[layout.run_name(names[-1])] = b"".join(
                bytes(p) for p in run_parts(header, Entries(key, check, epochs, addresses).sorted()))
    ids = np.array([f"id-{item}" if strings else item for item, _ in rows], object if strings else np.int64)
    epoch = np.array([epoch for _, epoch in rows], np.int32)
    return KeyIndex(folder, schema(strings), tuple(names), extents, Values(ids), Values(epoch))  # type: ignore[arg-type]


def model(rows: list[tuple[int, int]], extents: Extents, item: int, epoch: int | None) -> int:
    live = set(extents.addresses().tolist())
    found = [(e, address) for address, (i, e) in enumerate(rows)
             if i == item and address in live and (epoch is None or e == epoch)]
    return max(found)[1] if found else -1


cases = st.tuples(
    st.lists(st.tuples(st.integers(-3, 12), st.integers(0, 4)), max_size=60), st.lists(st.integers(1, 60), max_size=6),
    st.lists(st.tuples(st.integers(0, 59), st.integers(1, 20)), max_size=4), st.booleans(), st.integers(-1, 3))


@settings(max_examples=150, deadline=None)
@given(cases, st.booleans())
def test_lookup_is_the_model(case: tuple[Any, ...], joined: bool) -> None:
    rows, cuts, holes, strings, lost = case
    extents = Extents([(0, len(rows))]) - Extents(holes)
    index = build(rows, cuts, extents, strings, lost)
    asked = list(range(-4, 14))
    key, check = hashed(asked, strings)
    if joined:
        index._work = 10**9
        index.lookup(key, check, None)
    for epoch in (None, 0, 3, 9):
        expected = [model(rows, extents, item, epoch) for item in asked]
        assert index.lookup(key, check, epoch).tolist() == expected
        assert [index.lookup_one(int(k), int(c), epoch) for k, c in zip(key, check, strict=True)] == expected
    each = np.array([item % 5 for item in asked], np.int32)
    expected = [model(rows, extents, item, int(e)) for item, e in zip(asked, each, strict=True)]
    assert index.lookup(key, check, each).tolist() == expected
    assert index.contains(key, check, each).tolist() == [address >= 0 for address in expected]
    odd = [model(rows, extents & Extents([(a, 1) for a in range(1, 60, 2)]), item, None) for item in asked]
    assert index.lookup(key, check, None, lambda a: (a % 2 == 1) & extents.contains(a)).tolist() == odd
    live = extents.addresses().tolist()
    assert index.epochs().tolist() == sorted({rows[address][1] for address in live})
    for epoch in (0, 2):
        assert index.epoch_addresses(epoch).addresses().tolist() == [a for a in live if rows[a][1] == epoch]
    assert sorted(index.entries().address.tolist()) == live


def test_a_missing_run_warns_once_and_answers(caplog: pytest.LogCaptureFixture) -> None:
    rows = [(n % 10, n // 10) for n in range(40)]
    index = build(rows, [10, 20], Extents([(0, 40)]), True, lost=1)
    key, check = hashed(list(range(10)), True)
    with caplog.at_level(logging.WARNING, "zstore"):
        assert index.lookup(key, check, 1).tolist() == list(range(10, 20))
        assert index.lookup(key, check, None).tolist() == list(range(30, 40))
    assert len(caplog.records) == 1 and "key index" in caplog.text


def test_a_damaged_run_is_a_missing_one() -> None:
    rows = [(n, 0) for n in range(30)]
    index = build(rows, [10, 20], Extents([(0, 30)]), False)
    folder: Any = index._storage
    name = layout.run_name("run1")
    folder.objects[name] = folder.objects[name][:40] + b"!" + folder.objects[name][41:]
    key, check = hashed(list(range(30)), False)
    assert index.lookup(key, check, 0).tolist() == list(range(30))


def test_what_is_not_visible_hides_nothing() -> None:
    """The highest address of a key was rolled back: the one below it is the answer, not "absent"."""
    rows = [(1, 0), (2, 0), (1, 0), (1, 5)]
    index = build(rows, [], Extents([(0, 2)]), True)
    key, check = hashed([1], True)
    assert index.lookup(key, check, 0).tolist() == [0] and index.lookup(key, check, None).tolist() == [0]
    assert index.lookup_one(int(key[0]), int(check[0]), None) == 0


def test_one_hash_for_two_ids() -> None:
    """The check tells ids apart whose 64 bits agree."""
    key = np.array([7, 7, 7, 7], np.uint64)
    entries = Entries(key, np.array([1, 2, 1, 2], np.uint32), np.array([0, 0, 1, 3], np.int32), np.arange(4)).sorted()
    folder = Folder()
    header = RunHeader(STORE, STORE, 0, 4, True, Extents([(0, 4)]), None)
    folder.objects[layout.run_name("r")] = b"".join(bytes(p) for p in run_parts(header, entries))
    index = KeyIndex(folder, schema(True), ("r",), Extents([(0, 4)]), None, None)  # type: ignore[arg-type]
    one, two = np.array([1], np.uint32), np.array([2], np.uint32)
    assert index.lookup(key[:1], one, None).tolist() == [2] and index.lookup(key[:1], two, None).tolist() == [3]
    assert index.lookup(key[:1], one, 3).tolist() == [-1] and index.lookup_one(7, 1, 0) == 0


def test_merged_runs_hold_each_entry_once() -> None:
    first = Entries(np.array([1, 5], np.uint64), np.zeros(2, np.uint32), np.zeros(2, np.int32), np.array([0, 1]))
    second = Entries(np.array([1, 1], np.uint64), np.zeros(2, np.uint32), np.array([0, 0], np.int32), np.array([0, 9]))
    merged = merge_runs([first, second])
    assert merged.address.tolist() == [0, 9, 1]


def test_duplicates_are_counted() -> None:
    index = build([(1, 0), (2, 0)], [], Extents([(0, 2)]), False)
    key, check = hashed([1, 2, 3], False)
    fresh = Entries(key, check, np.array([0, 1, 0], np.int32), np.arange(10, 13))
    assert count_duplicates(index, fresh) == 1


def test_no_columns_and_no_run_is_damage(tmp_path: Path) -> None:
    index = KeyIndex(Folder(), schema(True), ("gone",), Extents([(0, 3)]), None, None)  # type: ignore[arg-type]
    with pytest.raises(Corrupt):
        index.lookup(*hashed([1], True), None)


def test_a_large_run_is_checked_where_it_is_looked_at(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Before the table of prefixes has paid: a few blocks for one key, exact answers from damaged runs too."""
    monkeypatch.setattr("zstore.tables._AT_ONCE", 0)
    monkeypatch.setattr("zstore.tables._WORTH", 0)
    rows = [(n % 5_000, n // 5_000) for n in range(20_000)]
    for strings in (True, False):
        key, check = hashed(list(range(0, 5_050, 50)), strings)
        wanted = [[model(rows[:5_000], Extents([(0, 5_000)]), n, 0) for n in range(0, 5_050, 50)]]
        wanted += [[a + e * 5_000 if a >= 0 else -1 for a in wanted[0]] for e in (1, 3)]
        index = build(rows, [], Extents([(0, 20_000)]), strings)
        assert [index.lookup_one(int(key[7]), int(check[7]), e) for e in (0, 1, 3, None, 9)] == [
            350, 5_350, 15_350, 15_350, -1]
        table = index._loaded()[0][1].table
        blocks = table._columns.blocks
        assert blocks is not None and 0 < sum(blocks.known) < len(blocks.known)
        for epoch, expected in zip((0, 1, 3), wanted, strict=True):
            assert index.lookup(key, check, epoch).tolist() == expected
        assert index.lookup(key, check, None).tolist() == wanted[2]
        assert table._starts is None
        # The entry of an asked key is among the damaged ones (of integers: 450 is the 451st of four epochs each).
        for at in [8 + 8 * (450 * 4 + 1), *range(8, 20_000 * 20, 7_001)]:
            index = build(rows, [], Extents([(0, 20_000)]), strings)
            folder: Any = index._storage
            name = layout.run_name("run0")
            data = bytearray(folder.objects[name])
            data[at] ^= 0x40
            folder.objects[name] = bytes(data)
            caplog.clear()
            found = [index.lookup_one(int(k), int(c), 1) for k, c in zip(key[::9], check[::9], strict=True)]
            assert found == wanted[1][::9]
            assert index.lookup(key, check, 1).tolist() == wanted[1]
            index.tables()
            assert len(caplog.records) == 1         # found by then, and told once


def test_the_blocks_of_a_run_are_its_bytes() -> None:
    from zstore.format.run_blocks import BLOCK, Blocks, BlockSums

    data = np.random.default_rng(0).integers(0, 256, 2 * BLOCK + 77).astype(np.uint8).tobytes()
    for cuts in ([5], [BLOCK], [BLOCK - 1, BLOCK + 1, 2 * BLOCK], []):
        sums = BlockSums()
        for low, high in pairwise([0, *cuts, len(data)]):
            sums.add(data[low:high])
        blocks = Blocks("x", memoryview(data), sums.listed())
        blocks.check_all()
        assert len(blocks.known) == 3 and all(blocks.known)
    damaged = Blocks("x", memoryview(data[:-1] + bytes([data[-1] ^ 1])), sums.listed())
    damaged.check(0)
    with pytest.raises(Corrupt):
        damaged.check(2)


def test_a_list_is_hashed_as_packed_ids_are() -> None:
    items = ["a", "doc-17", "éà" * 9, "x" * 8, "y" * 16, "z" * 1024]
    for some in (items, items[:1], items[3:5]):
        found = keys.hash_list(some, 9)
        packed = keys.hash_strings(keys.pack_strings(some), 9)
        assert found is not None and all(np.array_equal(a, b) for a, b in zip(found, packed, strict=True))
        assert [keys.hash_string(item.encode(), 9) for item in some] == list(zip(*(f.tolist() for f in found), strict=True))
    for bad in ([], [""], ["a", ""], ["a\0b"], ["\ud800"], ["z" * 1025]):
        assert keys.hash_list(bad, 9) is None


def test_a_lone_key_is_absent_only_where_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose key is damaged looks as if it were another's: its neighbours, which say "not here", are held against
    their checksum first."""
    monkeypatch.setattr("zstore.tables._AT_ONCE", 0)
    monkeypatch.setattr("zstore.tables._WORTH", 0)
    rows = [(n, 0) for n in range(20_000)]
    key, check = hashed(list(range(20_000)), True)
    order = np.argsort(key)
    for at in (0, 1, 3_333, 8_190, 8_191, 8_192, 19_999):       # 8,191 begins a block
        index = build(rows, [], Extents([(0, 20_000)]), True)
        folder: Any = index._storage
        name = layout.run_name("run0")
        data = bytearray(folder.objects[name])
        data[8 + 8 * at + 1] = 0xFF             # a greater key, which stays where it is in the order
        if bytes(data) == folder.objects[name]:
            continue
        folder.objects[name] = bytes(data)
        row = int(order[at])
        assert index.lookup_one(int(key[row]), int(check[row]), 0) == row
