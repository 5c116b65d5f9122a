"""zstore/format: the bytes that FORMAT.md promises, in both directions, and what it refuses."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zstore
from zstore.errors import Corrupt, FormatError
from zstore.format import dtypes, layout
from zstore.format.checksum import crc32c, open_json, parse_json, seal_json
from zstore.format.codecs import PRESETS, chunk_codec, zarr_codecs
from zstore.format.extents import Extents
from zstore.format.keys import (
    hash_ints,
    hash_string,
    hash_strings,
    pack_strings,
    parse_strings,
    seed_of,
)
from zstore.format.record import Record, SessionInfo, check_format, parse_record
from zstore.format.run import Entries, RunHeader, concat, epoch_spans, parse_run, run_parts
from zstore.format.schema import (
    MAX_SHARD_BYTES,
    Schema,
    check_field_name,
    chunk_rows,
    default_rows_per_shard,
    make_field,
)
from zstore.format.trailer import EMPTY, ShardEnd, end_bytes, identify, parse_end

ROOT = Path(__file__).parents[1]
FORMAT = (ROOT / "FORMAT.md").read_text()
GOLDEN = ROOT / "tests" / "golden" / "example.zarr"
STORE_ID = "0123456789abcdef" * 2
SESSION = "fedcba9876543210" * 2
REFUSED = (Corrupt, FormatError)
quick = settings(max_examples=60, deadline=None)


def block(language: str) -> str:
    """The one block of this language in FORMAT.md."""
    found = re.findall(rf"```{language}\n(.*?)```", FORMAT, re.DOTALL)
    assert len(found) == 1, language
    return str(found[0])


def section(number: int) -> str:
    return FORMAT.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


# -- the worked example -----------------------------------------------------------------------------------------------


def test_the_hex_of_format_md_is_the_golden_shard() -> None:
    assert bytes.fromhex("".join(block("hex").split())) == (GOLDEN / "vectors" / "c.0.0").read_bytes()


def test_the_record_of_format_md_is_the_golden_record() -> None:
    text = re.search(r"```json\n(.*?)```", section(8), re.DOTALL)
    assert text is not None
    data = (GOLDEN / layout.commit_name(1)).read_bytes()
    assert text[1].replace("\n", "").encode() == data.rstrip(b"\n")
    record = parse_record(data, 1, "golden")
    assert record.to_bytes() == data
    assert list(record.extents) == [(0, 2)]


def castagnoli(data: bytes) -> int:
    """CRC32C, bit by bit: an implementation that shares nothing with the one under test."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_golden_shard_by_format_md_alone() -> None:
    data = (GOLDEN / "vectors" / "c.0.0").read_bytes()
    record = json.loads((GOLDEN / "_zstore" / "commits" / f"{1:020d}.json").read_bytes())
    definition = json.loads((GOLDEN / "_zstore" / "commits" / f"{0:020d}.json").read_bytes())["definition"]
    chunk = definition["fields"]["vectors"]["chunk_rows"]
    chunks = definition["rows_per_shard"] // chunk
    assert definition["fields"]["vectors"]["path"] == "vectors"

    index_at = len(data) - 16 * chunks - 4
    assert struct.unpack("<I", data[-4:])[0] == castagnoli(data[index_at:-4])
    for number in range(chunks):
        offset, length = struct.unpack_from("<QQ", data, index_at + 16 * number)
        assert (offset, length) == (number * chunk * 8, chunk * 8)

    trailer_at = index_at - 4 - 4 * chunks - 136
    trailer = data[trailer_at:index_at]
    assert struct.unpack("<I", trailer[-4:])[0] == castagnoli(trailer[:-4])
    assert trailer[:8] == b"ZSTRSHD1"
    assert trailer[8:24].hex() == record["store_id"]
    assert trailer[24:40].hex() == record["session"]["commit_id"]
    assert trailer[40:104] == b"vectors".ljust(64, b"\0")
    shard, rows, body, body_crc, count = struct.unpack_from("<QQQII", trailer, 104)
    assert (shard, rows, body, count) == (0, 2, trailer_at, chunks)
    assert body_crc == castagnoli(data[:trailer_at])
    covered = [max(0, min(chunk, rows - n * chunk)) for n in range(chunks)]
    crcs = struct.unpack_from(f"<{chunks}I", trailer, 136)
    for number, some in enumerate(covered):
        at = number * chunk * 8
        assert crcs[number] == (castagnoli(data[at:at + 8 * some]) if some else 0)
    assert struct.unpack_from("<4f", data) == (1.0, 2.0, 3.0, 4.0)
    assert all(math.isnan(value) for value in struct.unpack_from("<4f", data, 16))


def test_the_golden_documents_seal_as_format_md_says() -> None:
    for path in [*(GOLDEN / "_zstore" / "commits").iterdir(), *(GOLDEN / "_zstore" / "claims").iterdir()]:
        data = path.read_bytes().rstrip(b"\n")
        body, comma, _ = data.rpartition(b',"checksum":')
        assert comma
        assert json.loads(data)["checksum"] == f"{castagnoli(body):08x}"


def test_the_golden_run_by_format_md_alone() -> None:
    record = json.loads((GOLDEN / "_zstore" / "commits" / f"{1:020d}.json").read_bytes())
    data = (GOLDEN / "_zstore" / "index" / record["index"][0]).read_bytes()
    size, crc = struct.unpack("<II", data[-8:])
    assert crc == castagnoli(data[:-4])
    header = json.loads(data[-8 - size:-8])
    assert (header["rows"], header["ids"], header["extents"], header["epochs"]) == (2, "int64", [[0, 2]], [[0, 0, 2]])
    assert data[:8] == b"ZSTRRUN1"
    keys, addresses = struct.unpack_from("<2Q", data, 8), struct.unpack_from("<2q", data, 24)
    assert [key ^ 1 << 63 for key in keys] == [7, 9]
    assert addresses == (0, 1)
    assert struct.unpack_from("<2i", data, 40) == (0, 0)
    assert len(data) == 8 + 2 * 20 + size + 8


def test_zstore_and_zarr_read_the_golden_store() -> None:
    zarr = pytest.importorskip("zarr")
    with zstore.Reader(GOLDEN) as reader:
        assert reader.ids.tolist() == [7, 9]
        assert reader.vectors.tolist() == [[1, 2], [3, 4]]
    group = zarr.open_group(str(GOLDEN), mode="r")
    assert group["vectors"][:2].tolist() == [[1, 2], [3, 4]]


def test_the_key_hash_of_format_md() -> None:
    found = re.search(r'With S = (\d+), "([^"]+)" has key (0x[0-9A-F]+) and check (0x[0-9A-F]+)', FORMAT)
    assert found is not None
    assert hash_string(found[2].encode(), int(found[1])) == (int(found[3], 16), int(found[4], 16))


def hash_by_format_md(item: bytes, seed: int) -> tuple[int, int]:
    """Section 5, written down again."""
    k, m, full = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 2**64 - 1

    def mix(x: int) -> int:
        for _ in range(2):
            x ^= x >> 32
            x = x * m & full
        return x ^ x >> 32
    a, b = len(item) * k & full ^ seed, len(item) + seed * k & full
    for at in range(0, len(item), 8):
        w = int.from_bytes(item[at:at + 8].ljust(8, b"\0"), "little")
        a, b = mix(a ^ w), (b ^ w) * k & full
        b ^= b >> 29
    return mix(a), mix(b) >> 32


def test_the_python_of_format_md_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    with zstore.Writer("runs/a.zarr", commit_every_s=None, rows_per_shard=8) as writer:
        writer.append(range(8), rows[:8])
        mark = writer.commit()
        writer.append(range(8, 14), rows[8:14])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)        # six rows are cut
        with zstore.Writer("runs/a.zarr", commit_every_s=None, at=mark) as writer:
            writer.append(range(14, 20), rows[14:])
    names: dict[str, Any] = {}
    exec(block("python"), names)
    assert len(names["extents"]) == 2
    assert names["vectors"].tolist() == [*rows[:8].tolist(), *rows[14:].tolist()]


# -- extents ----------------------------------------------------------------------------------------------------------

addresses = st.sets(st.integers(0, 60))


def runs(items: set[int]) -> Extents:
    return Extents((item, 1) for item in items)


@quick
@given(addresses, addresses)
def test_extents_are_sets(a: set[int], b: set[int]) -> None:
    x, y = runs(a), runs(b)
    assert set(x.addresses().tolist()) == a
    assert x | y == runs(a | b)
    assert x & y == runs(a & b)
    assert x - y == runs(a - b)
    assert (x == y) == (a == b)
    assert hash(x | y) == hash(runs(a | b))
    assert len(x) == len(a)
    assert x.end == max(a, default=-1) + 1


@quick
@given(addresses, st.integers(-3, 70), st.integers(-3, 70))
def test_rows_of_extents(a: set[int], start: int, stop: int) -> None:
    x, ordered = runs(a), sorted(a)
    assert x.addresses().tolist() == ordered
    assert x.rows(np.arange(70)).tolist() == [ordered.index(n) if n in a else -1 for n in range(70)]
    assert x.contains(np.arange(70)).tolist() == [n in a for n in range(70)]
    assert x.addresses(np.arange(len(a))[::-1]).tolist() == ordered[::-1]
    low, high = max(start, 0), max(stop, 0)
    assert x.slice(low, high).addresses().tolist() == ordered[low:high]
    assert Extents.of_addresses(np.array(ordered, np.int64)) == x
    one = x.one_run()
    assert (one is not None) == (len(list(x)) < 2)
    assert Extents(list(x)) == x
    merged = list(x)
    assert all(s + c < t for (s, c), (t, _) in itertools.pairwise(merged))


# -- sealed documents -------------------------------------------------------------------------------------------------

json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.text(max_size=8)
                           | st.floats(allow_nan=False, allow_infinity=False),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                           max_leaves=8)


@quick
@given(st.dictionaries(st.text(max_size=8).filter(lambda key: key != "checksum"), json_values, max_size=4))
def test_what_is_sealed_opens(document: dict[str, Any]) -> None:
    data = seal_json(document)
    assert open_json(data, "x") == document
    assert open_json(data.rstrip(b"\n"), "x") == document


def session() -> SessionInfo:
    return SessionInfo(0, SESSION, "t" * 32, "host", 4242, 0, 17.25, None)


def schema(codec: str = "lossless", ids: str = "string", dtype: str = "float32", rows: int = 8) -> Schema:
    fields = {"vectors": make_field("vectors", dtype, (3,), rows), "ids": make_field("ids", ids, (), rows),
              "epoch": make_field("epoch", "int32", (), rows, fill=-1)}
    return Schema(STORE_ID, rows, codec, fields, {"note": "ü"})


def record() -> Record:
    return Record(STORE_ID, 3, "ab" * 16, "cd" * 16, session(), 99.5, 3, Extents([(0, 4), (8, 2)]), 16, 2, 1,
                  ("00-aa", "00-bb"), 2, {"loss": 0.5}, schema(), 2, 1, 0, 1)


def test_a_record_is_what_it_was() -> None:
    first = record()
    again = parse_record(first.to_bytes(), 3, "r")
    assert again == first
    assert again.definition is not None
    assert again.definition.fields == schema().fields
    assert again.to_bytes() == first.to_bytes()


def resealed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The record with a member changed, under a checksum that holds: what a liar, not an accident, would write."""
    document = open_json(record().to_bytes(), "r")
    change(document)
    return seal_json(document)


def test_unknown_members_and_minors_are_accepted() -> None:
    def newer(document: dict[str, Any]) -> None:
        document.update({"format": "1.9", "colour": "blue"})
        document["definition"]["smell"] = 1
    assert parse_record(resealed(newer), 3, "r").extra == {"colour": "blue"}


@pytest.mark.parametrize("stated", ["2.0", "0.9", "10.1", "x", "", None, 1, 1.0, "²", "1" * 5000, "-1.0", "١.0"])
def test_unknown_majors_are_refused(stated: object) -> None:
    with pytest.raises(FormatError):
        check_format(stated, "r")
    with pytest.raises(FormatError):
        parse_record(resealed(lambda document: document.update(format=stated)), 3, "r")


ABSURD = [-1, 2**63, 2**64, 10**400, 1.5, "7", None, [], {}, True]
COUNTS = ("version", "schema", "length", "next", "new_rows", "duplicates", "nonfinite")


@pytest.mark.parametrize("member", COUNTS)
@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_a_record_with_an_absurd_number_is_refused(member: str, value: object) -> None:
    with pytest.raises(REFUSED):
        parse_record(resealed(lambda document: document.update({member: value})), 3, "r")


BAD_EXTENTS: list[Any] = [
    [[0, 2**62], [2**62, 2**62]], [[2**63 - 1, 2**63 - 1]], [[2**62, 2**63 - 1]], [[0, 2**63 - 1], [5, 2**63 - 1]],
    [[0, 17]], [[-1, 2]], [[0, 1.5]], [["0", "1"]], [[0]], [[0, 1, 2]], [0, 1], {"0": 1}, "ab", None, 7, [[True, True]]]


@pytest.mark.parametrize("extents", BAD_EXTENTS, ids=repr)
def test_a_record_with_absurd_extents_is_refused(extents: object) -> None:
    with pytest.raises(REFUSED), warnings.catch_warnings():
        warnings.simplefilter("error")
        parse_record(resealed(lambda document: document.update(extents=extents)), 3, "r")


@pytest.mark.parametrize(("member", "value"), [
    ("store_id", "zz" * 16), ("store_id", 5), ("commit_id", "AB" * 16), ("commit_id", "ab"), ("parent", 7),
    ("session", None), ("session", {}), ("index", ["../../etc/passwd"]), ("index", "ab"), ("index", [7]),
    ("index", [""]), ("tail", -1), ("tail", "x"), ("deletes", 1.5), ("superseded", -2), ("time", "x"), ("time", None)])
def test_a_record_with_a_misstated_member_is_refused(member: str, value: object) -> None:
    with pytest.raises(REFUSED):
        parse_record(resealed(lambda document: document.update({member: value})), 3, "r")


@pytest.mark.parametrize("member", sorted(open_json(record().to_bytes(), "r")))
def test_a_record_without_a_member_is_refused(member: str) -> None:
    data = resealed(lambda document: document.pop(member))
    if member == "definition":          # only some records hold one
        assert parse_record(data, 3, "r").definition is None
        return
    with pytest.raises(REFUSED):
        parse_record(data, 3, "r")


def test_a_record_under_another_number_is_refused() -> None:
    with pytest.raises(Corrupt, match="another version"):
        parse_record(record().to_bytes(), 4, "r")


DEFINITIONS: list[tuple[tuple[str, ...], Any]] = [
    (("rows_per_shard",), 0), (("rows_per_shard",), 2**40), (("rows_per_shard",), 7), (("rows_per_shard",), "8"),
    (("rows_per_shard",), True), (("codec",), "pcodec"), (("codec",), None), (("codec",), []), (("fields",), []),
    (("fields",), {}), (("attributes",), 3), (("fields", "vectors", "shape"), [2**40]),
    (("fields", "vectors", "shape"), [-1]), (("fields", "vectors", "shape"), [2**62, 2**62]),
    (("fields", "vectors", "shape"), "abc"), (("fields", "vectors", "dtype"), "complex64"),
    (("fields", "vectors", "dtype"), ["float32"]), (("fields", "vectors", "chunk_rows"), 0),
    (("fields", "vectors", "chunk_rows"), 3), (("fields", "vectors", "path"), "../x"),
    (("fields", "vectors", "path"), "a/b"), (("fields", "vectors", "path"), 7), (("fields", "ids"), None),
    (("fields", "ids", "dtype"), "float32"), (("fields", "epoch", "dtype"), "int64"),
    (("fields", "epoch", "shape"), [2])]


@pytest.mark.parametrize(("where", "value"), DEFINITIONS, ids=repr)
def test_an_absurd_schema_is_refused(where: tuple[str, ...], value: object) -> None:
    def change(document: dict[str, Any]) -> None:
        place = document["definition"]
        for name in where[:-1]:
            place = place[name]
        place[where[-1]] = value
    with pytest.raises(REFUSED):
        parse_record(resealed(change), 3, "r")


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[]", b"null", b'{"a":1}', b"\xff\xfe", b'{"a":NaN,"checksum":"00000000"}\n', b"[" * 100_000,
    b'{"a":' * 5000, b'{"a":' + b"1" * 5000 + b"}", b'"\\ud800"'], ids=lambda data: repr(data[:20]))
def test_a_stranger_s_json_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        open_json(data, "x")
    sealed = data.rstrip(b"}") + b',"checksum":"%08x"}\n' % crc32c(data.rstrip(b"}"))
    if data != b'{"a":1}' and data != b"{}":
        with pytest.raises(Corrupt):
            open_json(sealed, "x")


def test_depth_within_strings_does_not_count() -> None:
    assert parse_json(json.dumps({"a": "[" * 100}).encode(), "x") == {"a": "[" * 100}
    with pytest.raises(Corrupt, match="nested too deeply"):
        parse_json(b"[" * 40 + b"]" * 40, "x")


# -- damage: every truncation, every byte -----------------------------------------------------------------------------


def a_run(strings: bool) -> bytes:
    ids = pack_strings(["a", "b", "ccc", "a"])
    key, check = hash_strings(ids, 1) if strings else (hash_ints(np.array([5, -5, 7, 5])), np.zeros(4, np.uint32))
    epochs, places = np.array([0, 0, 1, 1], np.int32), np.array([3, 4, 9, 10])
    header = RunHeader(STORE_ID, SESSION, 2, 4, strings, Extents.of_addresses(places), epoch_spans(epochs, places))
    return b"".join(bytes(part) for part in run_parts(header, Entries(key, check, epochs, places).sorted()))


CHUNKS = 3


def an_end(fixed: bool) -> ShardEnd:
    crcs = np.array([1, 2, 0], np.uint32) if fixed else np.zeros(0, np.uint32)
    return ShardEnd(STORE_ID, SESSION, "vectors", 5, 20, 300, 77, np.array([0, 100, EMPTY], np.uint64),
                    np.array([100, 50, EMPTY], np.uint64), crcs)


def parse_shard_end(data: bytes, fixed: bool) -> ShardEnd:
    end = parse_end(data, 300 + end_bytes(CHUNKS, fixed), CHUNKS, fixed, "x")
    identify(end, STORE_ID, "vectors", 5, "x")
    return end


PARSERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "record": (record().to_bytes(), lambda data: parse_record(data, 3, "x")),
    "sealed": (seal_json({"a": [1, "x"]}), lambda data: open_json(data, "x")),
    "string run": (a_run(True), lambda data: parse_run(data, "x")),
    "integer run": (a_run(False), lambda data: parse_run(data, "x")),
    "fixed end": (an_end(True).to_bytes(), lambda data: parse_shard_end(data, True)),
    "other end": (an_end(False).to_bytes(), lambda data: parse_shard_end(data, False)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation_is_refused(name: str) -> None:
    data, parse = PARSERS[name]
    parse(data)
    least = len(data) - 1 if data.endswith(b"}\n") else len(data)       # the newline is manners
    for length in range(least):
        with pytest.raises(REFUSED):
            parse(data[:length])


@pytest.mark.parametrize("name", PARSERS)
def test_every_flipped_byte_is_refused(name: str) -> None:
    data, parse = PARSERS[name]
    for at in range(len(data) - (1 if data.endswith(b"}\n") else 0)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= flip
            with pytest.raises(REFUSED):
                parse(bytes(damaged))


@pytest.mark.parametrize("name", PARSERS)
@quick
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(name: str, noise: bytes) -> None:
    with pytest.raises(REFUSED):
        PARSERS[name][1](noise)


# -- runs and trailers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strings", [True, False])
def test_a_run_is_what_it_was(strings: bool) -> None:
    header, entries = parse_run(a_run(strings), "x")
    assert (header.store_id, header.session, header.opened, header.rows, header.strings) == (STORE_ID, SESSION, 2, 4, strings)
    assert list(header.extents) == [(3, 2), (9, 2)]
    assert header.epochs == [(0, 3, 2), (1, 9, 2)]
    order = list(zip(entries.key.tolist(), entries.epoch.tolist(), entries.address.tolist(), strict=True))
    assert order == sorted(order)
    assert sorted(entries.address.tolist()) == [3, 4, 9, 10]


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40), st.randoms(use_true_random=False))
def test_entries_sort(items: list[tuple[int, int]], random: Any) -> None:
    places = list(range(len(items)))
    random.shuffle(places)
    entries = Entries(np.array([k for k, _ in items], np.uint64), np.zeros(len(items), np.uint32),
                      np.array([e for _, e in items], np.int32), np.array(places, np.int64))
    out = concat([entries.take(slice(0, 10)), entries.take(slice(10, None))]).sorted()
    found = list(zip(out.key.tolist(), out.epoch.tolist(), out.address.tolist(), strict=True))
    assert found == sorted((k, e, a) for (k, e), a in zip(items, places, strict=True))


def lying_run(**members: Any) -> bytes:
    """A run whose header says something else, under a checksum that holds."""
    data = a_run(False)
    size = struct.unpack("<I", data[-8:-4])[0]
    header = {**json.loads(data[-8 - size:-8]), **members}
    text = json.dumps(header).encode()
    body = data[:-8 - size] + text + struct.pack("<I", len(text))
    return body + struct.pack("<I", crc32c(body))


@pytest.mark.parametrize("members", [
    {"rows": 2**60}, {"rows": -1}, {"rows": 3}, {"rows": "x"}, {"rows": None}, {"rows": 1e308}, {"extents": [[0, 2**64]]},
    {"extents": 7}, {"extents": [[2**63 - 1, 2**63 - 1]]}, {"extents": [[1]]}, {"epochs": [[1, 2]]}, {"epochs": 5},
    {"epochs": [[2**70, 0, 1]]}, {"epochs": [[0, 0, 2**70]]}, {"opened": "x"}, {"opened": None}, {"ids": "string"},
    {"extents": [[0, 1e400]]}, {"store_id": 7}, {"session": None}, {"opened": 1e400}], ids=repr)
def test_a_lying_run_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(REFUSED):
        parse_run(lying_run(**members), "x")


@pytest.mark.parametrize("fixed", [True, False])
def test_a_trailer_is_what_it_was(fixed: bool) -> None:
    end = an_end(fixed)
    data = end.to_bytes()
    assert len(data) == end_bytes(CHUNKS, fixed)
    again = parse_shard_end(data, fixed)
    for name in end.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(end, name)), name


def test_a_trailer_of_nothing() -> None:
    never = np.full(CHUNKS, EMPTY, np.uint64)
    end = replace(an_end(False), rows=0, body_bytes=0, offsets=never, lengths=never)
    assert (parse_end(end.to_bytes(), end_bytes(CHUNKS, False), CHUNKS, False, "x").offsets == EMPTY).all()


@pytest.mark.parametrize("changes", [
    {"body_bytes": 299}, {"body_bytes": 2**63}, {"offsets": np.array([301, 0, 0], np.uint64)},
    {"lengths": np.array([301, 0, 0], np.uint64)},
    {"offsets": np.array([2**64 - 2, 0, 0], np.uint64), "lengths": np.array([2**64 - 2, 0, 0], np.uint64)},
    {"offsets": np.array([200, 0, 0], np.uint64), "lengths": np.array([101, 0, 0], np.uint64)}], ids=repr)
def test_a_lying_trailer_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        parse_shard_end(replace(an_end(False), **changes).to_bytes(), False)


@pytest.mark.parametrize(("what", "change"), [
    ("store", {"store_id": SESSION}), ("field", {"path": "vectorz"}), ("shard", {"shard": 6})])
def test_a_swapped_object_is_found(what: str, change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match=f"another {what}"):
        parse_shard_end(replace(an_end(True), **change).to_bytes(), True)


def test_absurd_numbers_never_allocate() -> None:
    huge = replace(an_end(False), rows=2**63, body_bytes=2**63).to_bytes()
    text = struct.pack("<I", 2**32 - 1) + b"abc"
    codec = chunk_codec("lossless", "string")
    body = bytearray(codec.encode(b"\0" * 64)[:-4])
    body[4:8] = struct.pack("<I", 2**32 - 1)        # blosc's claim of what it will become
    claim = bytes(body) + struct.pack("<I", crc32c(bytes(body)))
    acts: list[Callable[[], object]] = [
        lambda: parse_run(lying_run(rows=2**60), "x"), lambda: parse_shard_end(huge, False),
        lambda: parse_record(resealed(lambda d: d.update(extents=[[0, 2**62]], length=2**62)), 3, "x"),
        lambda: parse_strings(text, 1), lambda: codec.decode_string(claim, 2**20, "x")]
    tracemalloc.start()
    try:
        for act in acts:
            try:
                act()
            except (*REFUSED, ValueError):
                pass
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# -- keys -------------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**64 - 1)
some_ids = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40),
                    max_size=12)


@quick
@given(some_ids, seeds)
def test_hash_in_bulk_is_hash_of_one(items: list[str], seed: int) -> None:
    key, check = hash_strings(pack_strings(items), seed)
    one = [hash_string(item.encode(), seed) for item in items]
    assert list(zip(key.tolist(), check.tolist(), strict=True)) == one
    assert one == [hash_by_format_md(item.encode(), seed) for item in items]


@quick
@given(some_ids, st.data())
def test_packed_strings_come_back(items: list[str], data: st.DataObject) -> None:
    packed = pack_strings(items)
    assert packed.to_list() == items
    again = parse_strings(packed.body, len(items))
    assert again.body == packed.body
    assert again.starts.tolist() == packed.starts.tolist()
    assert again.lengths.tolist() == packed.lengths.tolist()
    stop = data.draw(st.integers(0, len(items)))
    start = data.draw(st.integers(0, stop))
    part = packed.slice(start, stop)
    assert part.to_list() == items[start:stop]
    assert hash_strings(part, 7)[0].tolist() == hash_strings(packed, 7)[0][start:stop].tolist()


def test_packed_strings_are_what_numcodecs_writes() -> None:
    vlen = pytest.importorskip("numcodecs.vlen")
    items = ["a", "äöü", "💡", "x" * 300, ""]
    assert bytes(vlen.VLenUTF8().encode(np.array(items, object))) == struct.pack("<I", 5) + pack_strings(items).body


@pytest.mark.parametrize("length", range(9))
def test_a_cut_string_chunk_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="ends inside an item"):
        parse_strings(pack_strings(["abcde"]).body[:length], 1)


@quick
@given(st.lists(st.integers(-2**63, 2**63 - 1), max_size=20))
def test_integer_keys_keep_the_order_of_ids(items: list[int]) -> None:
    keys = hash_ints(np.array(items, np.int64)).tolist()
    assert keys == [item + 2**63 for item in items]


def test_the_seed_is_the_store_s() -> None:
    assert seed_of("0100000000000000" + "f" * 16) == 1


# -- Zarr's own opinion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize("dtype", dtypes.NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_zarr_reads_our_documents_as_we_meant_them(dtype: str, codec: str) -> None:
    metadata = pytest.importorskip("zarr.core.metadata")
    group_metadata = importlib.import_module("zarr.core.group").GroupMetadata
    if dtype == "bfloat16":
        pytest.importorskip("zstore_bfloat16")
    shape = () if dtype == "string" else (2, 3)
    field = make_field("mine", dtype, shape, 8)
    ours = schema(codec).with_field(field)
    document = layout.array_document(ours, field, 40)
    json.loads(layout.to_bytes(document))           # strict JSON: no NaN
    parsed = metadata.ArrayV3Metadata.from_dict(document)
    assert parsed.shape == (40, *shape)
    assert parsed.dimension_names == ("row", "mine_dim", "mine_dim_1")[:1 + len(shape)]
    assert parsed.chunk_key_encoding.encode_chunk_key((7, *(0 for _ in shape))) == layout.shard_name(field, 7).split("/")[1]
    again = json.loads(json.dumps(parsed.to_dict(), default=str))
    assert set(again) >= set(document) - {"storage_transformers", "attributes"}
    for member in ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "zarr_format", "node_type"):
        assert again[member] == document[member], member
    shard = again["codecs"][0]["configuration"]
    meant = document["codecs"][0]["configuration"]
    assert shard["chunk_shape"] == meant["chunk_shape"]
    assert shard["index_location"] == "end"
    assert [c["name"] for c in shard["index_codecs"]] == ["bytes", "crc32c"]
    assert [c["name"] for c in shard["codecs"]] == [c["name"] for c in meant["codecs"]]
    for theirs, mine in zip(shard["codecs"], zarr_codecs(codec, dtype), strict=True):
        assert dict(mine.get("configuration", {}).items()).items() <= (theirs.get("configuration") or {}).items()

    root = layout.root_document(ours, 40, 3, "ab" * 16, Extents([(0, 9)]))
    group = group_metadata.from_dict(json.loads(layout.to_bytes(root)))
    assert group.attributes["zstore"] == {"format": "1.0", "store_id": STORE_ID, "version": 3, "commit_id": "ab" * 16,
                                          "extents": [[0, 9]]}
    assert group.attributes["note"] == "ü"
    assert set(group.consolidated_metadata.metadata) == {"vectors", "ids", "epoch", "mine"}


# -- codecs, types and geometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", PRESETS)
@pytest.mark.parametrize("dtype", [n for n in dtypes.NAMES if n != "string"])
def test_a_chunk_is_what_it_was(dtype: str, codec: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    rows = np.random.default_rng(5).integers(0, 256, 64 * kind.itemsize).astype(np.uint8)
    coder = chunk_codec(codec, dtype)
    data = coder.encode(rows.data)
    assert coder.fixed == (codec == "raw")
    assert not coder.fixed or len(data) == len(rows)
    out = np.empty_like(rows)
    coder.decode_into(data, out, "x")
    assert (out == rows).all()
    for length in {0, 1, 3, len(data) // 2, len(data) - 1}:
        with pytest.raises(Corrupt):
            coder.decode_into(data[:length], out, "x")
    if coder.checked:
        for at in range(0, len(data), 7):
            with pytest.raises(Corrupt, match="CRC32C"):
                coder.decode_into(data[:at] + bytes([data[at] ^ 64]) + data[at + 1:], out, "x")


@pytest.mark.parametrize("name", dtypes.NAMES)
def test_dtypes_go_there_and_back(name: str) -> None:
    assert dtypes.name_of(name) == name
    fill = dtypes.fill_value(name)
    again = dtypes.fill_from_json(json.loads(json.dumps(dtypes.fill_json(fill))))
    assert again == fill or (again != again and fill != fill)
    if name != "string":
        kind = dtypes.numpy_dtype(name)
        assert kind.itemsize == dtypes.itemsize(name)
        assert dtypes.name_of(kind) == name
        assert dtypes.name_of(kind.newbyteorder(">")) == name
    for value in (float("inf"), float("-inf"), 1.5):
        assert dtypes.fill_from_json(dtypes.fill_json(value)) == value


@pytest.mark.parametrize("kind", ["complex64", "datetime64[s]", object, "V8", None.__class__, 17])
def test_what_no_store_holds_has_no_name(kind: Any) -> None:
    assert dtypes.name_of(kind) is None


@quick
@given(st.integers(1, 2**24))
def test_default_geometry_is_within_bounds(row_bytes: int) -> None:
    rows = default_rows_per_shard(row_bytes)
    assert 1 <= rows <= 2**18
    assert rows * row_bytes <= MAX_SHARD_BYTES
    chunk = chunk_rows("uint8", (row_bytes,), rows)
    assert rows % chunk == 0
    assert chunk == 1 or chunk * row_bytes <= 32 * 2**10
    assert rows % chunk_rows("string", (), rows) == 0


@pytest.mark.parametrize(("row_bytes", "mib"), [(384 * 4, 12), (384 * 2, 12), (768 * 4, 12), (1024 * 4, 16), (320 * 4, 10)])
def test_default_shards_tile_a_mapping_by_huge_pages(row_bytes: int, mib: int) -> None:
    assert default_rows_per_shard(row_bytes) * row_bytes == mib * 2**20


@quick
@given(st.integers(1, 5000), st.integers(0, 5000))
def test_chunks_divide_their_shard(rows: int, width: int) -> None:
    assert rows % chunk_rows("float32", (width,) if width else (), rows) == 0


@pytest.mark.parametrize("name", ["vectors", "ids", "epoch", "row", "ROWS", "zstore", "a b", "", "1a", "a/b", "x" * 49, "ä"])
def test_illegal_field_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="field name"):
        check_field_name(name)


def test_names_of_objects() -> None:
    assert layout.commit_name(7) == "_zstore/commits/00000000000000000007.json"
    assert layout.shard_name(schema().vectors, 3) == "vectors/c.3.0"
    assert layout.shard_name(schema().fields["ids"], 3) == "ids/c.3"
