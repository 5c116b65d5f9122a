"""Stored bytes are a stranger's: whatever they say, a parser answers with an error of ours, soon, and in bounded memory.

The damage is behind the checksums, which are made right again: only then does a parser see it.
"""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from damage_stores import copied, make, objects, restore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zstore
from zstore.errors import ZStoreError
from zstore.format import dtypes
from zstore.format.checksum import MAX_JSON_BYTES, crc32c, open_json, parse_json
from zstore.format.codecs import PRESETS, chunk_codec
from zstore.format.extents import Extents
from zstore.format.keys import pack_strings, parse_strings
from zstore.format.record import parse_record
from zstore.format.run import Entries, parse_run
from zstore.format.schema import Schema, make_field
from zstore.format.trailer import end_bytes, identify, parse_end
from zstore.shards.build import FieldBody
from zstore.shards.read import open_shard
from zstore.tables import Table
from zstore.testing.strategies import lies, mangled, sealed, with_crc

MEMORY = 64 * 2**20
# ZSTORE_FUZZ=100 looks a hundred times longer.
LONGER = int(os.environ.get("ZSTORE_FUZZ", "1"))
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300 * LONGER)]
many = settings(max_examples=30 * LONGER, deadline=None, suppress_health_check=list(HealthCheck))
few = settings(max_examples=8 * LONGER, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def bounded(nbytes: int = MEMORY) -> Iterator[None]:
    """Fails where more memory than this is taken at any time inside, even if it is given back."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def refused_or_read(act: Callable[[], object], *also: type[BaseException]) -> bool:
    """Runs it in bounded memory; True where it was read. Any error that is not ours comes through, and fails."""
    with bounded():
        try:
            act()
        except (ZStoreError, *also):
            return False
    return True


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    out = {}
    for codec, ids in (("raw", "int64"), ("lossless", "str")):
        out[codec] = folder / f"{codec}.zarr"
        make(out[codec], codec, ids)
    return out


@cache
def documents(url: Path, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(where, open_json(data, where)) for where, data in objects(url).items() if f"/{kind}/" in where]


# -- JSON ------------------------------------------------------------------------------------------------------------


@many
@given(data=st.data())
def test_records(home: dict[str, Path], data: st.DataObject) -> None:
    where, document = data.draw(st.sampled_from(documents(home["lossless"], "commits")))
    lie = data.draw(lies(document))

    def act() -> None:
        record = parse_record(sealed(lie), document["version"], where)
        assert len(record.extents) >= 0 and zstore.Commit.of(record).when
        parse_record(record.to_bytes(), record.version, where)
        assert isinstance(repr(record.extents), str) and record.mark
    refused_or_read(act)


@many
@given(data=st.data())
def test_bytes_of_documents(home: dict[str, Path], data: st.DataObject) -> None:
    where, document = data.draw(st.sampled_from(documents(home["raw"], "commits") + documents(home["raw"], "claims")))
    body = data.draw(mangled(json.dumps(document).encode()))
    refused_or_read(lambda: open_json(body[:-1] + b',"checksum":"%08x"}' % crc32c(body[:-1]), where))
    refused_or_read(lambda: parse_json(body, where))


@pytest.mark.parametrize("data", [
    b"[" * 10**6, b'{"a":' * 10**5, b'["' + b'\\"' * (2 * 10**6) + b"[" * 40, b'"' * 10**6 + b"[" * 40,
    b'[{"\\' * 10**5, "[".encode("utf-16") * 10**5, b'{"a": 1e999}', b"[" + b"9" * 5000 + b"]", b"\xff\xfe[", b"NaN",
    b'"\\ud800"x', b"", b"\0", b'{"a": -1e400}'], ids=range(14))
def test_bombs_of_json(data: bytes) -> None:
    began = time.process_time()
    assert not refused_or_read(lambda: parse_json(data, "x"))
    assert time.process_time() - began < 20       # a pattern that looks again from every quote takes days


def test_json_above_its_bound_is_refused_before_it_is_parsed() -> None:
    data = b'{"a":"' + bytes(MAX_JSON_BYTES).replace(b"\0", b"x") + b'"}'
    for act in (lambda: parse_json(data, "x"), lambda: open_json(data, "x")):
        with bounded(2**20), pytest.raises(ZStoreError, match="too large"):
            act()


@many
@given(pairs=st.lists(st.lists(st.one_of(st.integers(-2**64, 2**64), st.sampled_from([None, "1", 1.5, True])), max_size=3)))
def test_extents(pairs: list[Any]) -> None:
    def act() -> None:
        extents = Extents.read(pairs)
        assert extents.end <= 2**62 and len(extents) <= 2**62
        assert extents | extents == extents and len(extents - extents) == 0 and extents & extents == extents
        extents.slice(0, 5).addresses()
        extents.rows(np.array([-1, 0, 2**62]))
    refused_or_read(act, ValueError, TypeError)


# -- shards ----------------------------------------------------------------------------------------------------------

STORE, SESSION = "0123456789abcdef" * 2, "fedcba9876543210" * 2
ROWS, STEP = 16, 4
KINDS = [(preset, dtype) for preset in PRESETS for dtype in ("float32", "string", "int64")]


class Objects:
    """A storage of one object."""

    url, distant = "test://", False

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def open(self, name: str, end: int = 0) -> Objects:
        return self

    generation = ""

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset:offset + length]

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


def shard_of(preset: str, dtype: str, rows: int = 10) -> tuple[Schema, bytes]:
    shape = () if dtype == "string" else (3,)
    field = make_field("text", dtype, shape, ROWS)
    field = type(field)(field.name, dtype, shape, STEP, "text", dtypes.fill_value(dtype))
    schema = Schema(STORE, ROWS, preset, {"text": field})
    body = FieldBody(schema, field)
    values: Any = pack_strings([f"row {row}" for row in range(rows)]) if dtype == "string" else (
        np.arange(rows * 3).reshape(rows, 3).astype(dtype))
    whole = rows // STEP * STEP
    part = values.slice(whole, rows) if dtype == "string" else values[whole:]
    body.add(0, values, whole)
    behind = body.add_partial(whole, part, rows - whole)
    return schema, b"".join(bytes(p) for p in body.finish(rows, STORE, SESSION, 0, behind))


def read_all(schema: Schema, data: bytes) -> None:
    """Everything that is ever asked of a shard."""
    field = schema.fields["text"]
    shard = open_shard(Objects(data), schema, field, 0)  # type: ignore[arg-type]
    for chunk in range(ROWS // STEP):
        for act in ((shard.strings, shard.texts) if field.is_string else (
                lambda at: shard.chunk_into(at, np.empty(STEP * field.row_bytes, np.uint8)),)):
            try:
                act(chunk)
            except ZStoreError:
                pass
    try:
        shard.verify()
        shard.body()
    except ZStoreError:
        pass


@pytest.mark.parametrize(("preset", "dtype"), KINDS)
@few
@given(data=st.data())
def test_ends_of_shards(preset: str, dtype: str, data: st.DataObject) -> None:
    schema, whole = shard_of(preset, dtype)
    fixed = schema.chunk_codec(schema.fields["text"]).fixed
    end = end_bytes(ROWS // STEP, fixed)
    index = 16 * (ROWS // STEP)
    body, trailer, table = whole[:-end], whole[-end:-index - 8], whole[-index - 4:-4]
    lied = body + with_crc(data.draw(mangled(trailer))) + with_crc(data.draw(mangled(table)))
    refused_or_read(lambda: read_all(schema, lied))
    refused_or_read(lambda: identify(parse_end(lied[-end:], len(lied), ROWS // STEP, fixed, "x"), STORE, "text", 0, "x"))


@pytest.mark.parametrize(("preset", "dtype"), KINDS)
@many
@given(data=st.data())
def test_chunks(preset: str, dtype: str, data: st.DataObject) -> None:
    codec = chunk_codec(preset, dtype)
    plain = struct.pack("<I", STEP) + pack_strings(["a", "bcd", "é" * 40, ""]).body if dtype == "string" else bytes(range(48))
    stored = codec.encode(plain)
    body = data.draw(mangled(stored[:-4] if codec.checked else stored))
    lied = with_crc(body) if codec.checked else body

    def act() -> None:
        if dtype != "string":
            codec.decode_into(lied, np.empty(48, np.uint8), "x")
            return
        text = codec.decode_string(lied, 4 + STEP * 1028, "x")
        assert len(text) <= 4 + STEP * 1028 or preset == "raw"
        parse_strings(text[4:], STEP)
    refused_or_read(act, ValueError)


@pytest.mark.parametrize("preset", ["lossless", "small"])
@pytest.mark.parametrize("claim", [2**31 - 1, 2**32 - 1, 2**28, 0, 47, 49])
def test_a_chunk_that_claims_more_than_its_geometry_is_refused_before_decoding(preset: str, claim: int) -> None:
    for dtype in ("float32", "string"):
        codec = chunk_codec(preset, dtype)
        body = bytearray(codec.encode(bytes(48))[:-4])
        body[4:8] = struct.pack("<I", claim)
        with bounded(2**20), pytest.raises(ZStoreError):
            if dtype == "string":
                codec.decode_string(with_crc(bytes(body)), 46 if claim < 100 else 2**20, "x")
            else:
                codec.decode_into(with_crc(bytes(body)), np.empty(48, np.uint8), "x")


@many
@given(data=st.data())
def test_strings(data: st.DataObject) -> None:
    body = data.draw(mangled(pack_strings(["a", "bcd", "é" * 9]).body))
    refused_or_read(lambda: parse_strings(body, data.draw(st.integers(0, 9))), ValueError)


# -- the index -------------------------------------------------------------------------------------------------------


@cache
def runs(url: Path) -> list[tuple[str, bytes]]:
    return [(where, data) for where, data in objects(url).items() if "/index/" in where]


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@many
@given(data=st.data())
def test_runs(home: dict[str, Path], codec: str, data: st.DataObject) -> None:
    where, whole = data.draw(st.sampled_from(runs(home[codec])))
    length = struct.unpack("<I", whole[-8:-4])[0]
    columns, header = whole[:-8 - length], json.loads(whole[-8 - length:-8])
    if data.draw(st.booleans()):
        header = data.draw(lies(header))
    else:
        columns = data.draw(mangled(columns))
    text = json.dumps(header).encode()
    lied = with_crc(columns + text + struct.pack("<I", data.draw(st.sampled_from([len(text)] * 8 + [0, 2**32 - 1]))))

    def act() -> None:
        found, entries = parse_run(lied, where)
        search(entries)
        found.extents.slice(0, 9).addresses()
    refused_or_read(act)


def search(entries: Entries) -> None:
    """As the index does: a table over the keys is sized by them."""
    if len(entries):
        table = Table(entries, None)
        some = np.r_[entries.key[:2], np.array([0, 2**63, 2**64 - 1], np.uint64)]
        for epoch in (None, 1):
            table.find(some, np.zeros(len(some), np.uint32), epoch, lambda addresses: addresses >= 0)
            table.find_one(int(some[0]), 0, epoch, lambda address: address >= 0)


@many
@given(data=st.data())
def test_lists_of_deleted_keys(data: st.DataObject) -> None:
    deletes = pytest.importorskip("zstore.format.deletes")
    strings = data.draw(st.booleans())
    keys = deletes.Keys(np.arange(5, dtype=np.uint64), np.arange(5, dtype=np.uint32), np.full(5, -1, np.int32))
    name = f"_zstore/deletes/{deletes.deletes_id(7, SESSION)}"
    before = deletes.deletes_id(3, SESSION)
    whole = b"".join(bytes(p) for p in deletes.deletes_parts(deletes.Deletes(STORE, 7, SESSION, 99, before, strings, keys)))
    length = struct.unpack("<I", whole[-8:-4])[0]
    columns, header = whole[:-8 - length], json.loads(whole[-8 - length:-8])
    assert deletes.parse_deletes(whole, name).previous == before
    text = json.dumps(data.draw(lies(header))).encode()
    refused_or_read(lambda: deletes.parse_deletes(with_crc(columns + text + struct.pack("<I", len(text))), name))
    refused_or_read(lambda: deletes.parse_deletes(with_crc(data.draw(mangled(columns)) + text), name))
    for again in (deletes.deletes_id(7, SESSION), deletes.deletes_id(8, SESSION)):      # a chain that never ends
        text = json.dumps({**header, "previous": again}).encode()
        with pytest.raises(ZStoreError):
            deletes.parse_deletes(with_crc(columns + text + struct.pack("<I", len(text))), name)


# -- whole stores ----------------------------------------------------------------------------------------------------


def live(url: Path) -> None:
    """A day with a stranger's store: everything that looks at it."""
    for act in (lambda: look(url), lambda: zstore.history(url), lambda: zstore.verify(url),
                lambda: zstore.verify(url, quick=True), lambda: zstore.Reader(url, version=1),
                lambda: zstore.Reader(url, tag="first"), lambda: describe(url)):
        try:
            act()
        except ZStoreError:
            pass


def describe(url: Path) -> None:
    from zstore.maintenance.describe import describe as asked

    asked(url)


def look(url: Path) -> None:
    with zstore.Reader(url) as reader:
        for act in (lambda: reader.epochs, lambda: reader[:3], lambda: by_key(reader, 4), lambda: by_key(reader, "doc-1-é"),
                    lambda: reader.latest().select(slice(0, 3)).vectors, lambda: reader.epoch(1), lambda: repr(reader),
                    lambda: reader[[0]], lambda: reader.select([0]).field("text"), lambda: next(reader.batches(4)).ids,
                    lambda: reader.refresh()):
            try:
                act()
            except (ZStoreError, IndexError, StopIteration):
                pass        # of our own asking: a row that an emptied store has not


def by_key(reader: zstore.Reader, item: Any) -> None:
    try:
        reader.find([item])
    except (TypeError, ValueError):
        return              # an id of the other kind
    reader.get(item)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@pytest.mark.parametrize("kind", ["commits", "claims", "tags", "root", "array"])
@few
@given(data=st.data())
def test_stores_with_one_lying_document(home: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, codec: str,
                                        kind: str, data: st.DataObject) -> None:
    url = tmp_path_factory.getbasetemp() / f"lying-{codec}.zarr"
    if not url.exists():
        copied(home[codec], url)
    if kind in ("root", "array"):
        where = "zarr.json" if kind == "root" else "vectors/zarr.json"
        sound = (url / where).read_bytes()
        lied = json.dumps(data.draw(lies(json.loads(sound)))).encode()
    else:
        where, document = data.draw(st.sampled_from(documents(url, kind)))
        sound = (url / where).read_bytes()
        lied = sealed(data.draw(lies(document)))
    try:
        (url / where).write_bytes(lied)
        with bounded(2**28):
            live(url)
    finally:
        (url / where).write_bytes(sound)


# Directed: what a fuzzer needs luck for. (path in record 0 or in head, value)
ABSURD: list[tuple[tuple[Any, ...], Any]] = [
    *[(("definition", "fields", "label", "path"), path) for path in
      ("../x", "/etc", "_zstore", "_zstore/commits", "a/b", "a\0", "vectors", ".", "", "x" * 60, 7, None, ["a"])],
    (("definition", "rows_per_shard"), 2**40), (("definition", "rows_per_shard"), 0), (("definition", "rows_per_shard"), True),
    (("definition", "rows_per_shard"), 16.0), (("definition", "fields", "vectors", "chunk_rows"), 0),
    (("definition", "fields", "vectors", "shape"), [2**40]), (("definition", "fields", "vectors", "shape"), [1] * 10**4),
    (("definition", "fields", "vectors", "shape"), [-4]), (("definition", "fields", "vectors", "shape"), 10**9),
    (("definition", "fields", "vectors", "dtype"), "object"), (("definition", "fields", "text", "chunk_rows"), 2**24),
    (("definition", "fields"), {f"f{i}": {} for i in range(3000)}), (("definition", "codec"), "pickle"),
    (("definition", "fields", "label", "fill"), 10**30), (("definition", "fields", "label", "fill"), "x"),
    (("extents",), [[0, 2**62]]), (("extents",), [[2**62 - 1, 1]]), (("extents",), [[0, 10], [5, 10]]),
    (("extents",), [[10, 5], [0, 5]]), (("extents",), [[0, 2**40]]), (("length",), 2**62), (("next",), 2**62),
    (("time",), 1e300), (("time",), "now"), (("session", "since"), 10**400), (("session", "pid"), 1e308),
    (("session", "opened"), 2**62), (("session", "at"), {"store_id": "x", "version": 10**300, "commit_id": "x"}),
    (("schema",), 18), (("schema",), 2**62), (("index",), ["../../x"]), (("index",), ["a" * 10**5]),
    (("index",), ["x" * 40] * 1000), (("tail",), 2**62), (("deletes",), 2**62), (("deletes",), 18), (("version",), 2**63)]


@pytest.mark.parametrize(("path", "value"), ABSURD, ids=range(len(ABSURD)))
def test_absurd_stores(home: dict[str, Path], tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    from zstore.testing.strategies import with_value

    url = copied(home["raw"], tmp_path / "a.zarr")
    sound = objects(url)
    head = max(where for where in sound if "/commits/" in where)
    for where in {head, f"_zstore/commits/{0:020d}.json"}:
        document = open_json(sound[where], where)
        if path[0] == "definition" and "definition" not in document:
            continue
        document = with_value(document, path, value)
        if path == ("extents",):
            document["length"] = max(document["length"], max((s + n for s, n in value), default=0))
            document["next"] = document["length"] // 16 + 1
        (url / where).write_bytes(sealed(document))
        with bounded(2**28):
            live(url)
            assert where in {finding.object for finding in zstore.verify(url)}
        restore(url, {where: sound[where]})


def test_walks_are_bounded(home: dict[str, Path], tmp_path: Path) -> None:
    url = copied(home["raw"], tmp_path / "a.zarr")
    sound = objects(url)
    head = (url / f"_zstore/commits/{18:020d}.json").read_bytes()
    root = json.loads(sound["zarr.json"])
    for stray in ("9" * 20, f"{2**62:020d}", "²" * 20):
        path = url / f"_zstore/commits/{stray}.json"
        path.write_bytes(head)
        root["attributes"]["zstore"]["version"] = 2**62
        (url / "zarr.json").write_bytes(json.dumps(root).encode())
        with bounded():
            live(url)
            found = {finding.object for finding in zstore.verify(url)}
        assert stray == "²" * 20 or f"_zstore/commits/{stray}.json" in found
        path.unlink()
    restore(url, sound)
    assert zstore.verify(url) == []
