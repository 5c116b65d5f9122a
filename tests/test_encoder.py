"""The encoder that goes past numcodecs writes numcodecs' own bytes, and without it nothing else changes."""

from __future__ import annotations

import numcodecs.blosc
import numpy as np
import pytest

from zstore.format import codecs
from zstore.format.checksum import crc32c
from zstore.format.codecs import chunk_codec
from zstore.format.schema import Schema, make_field
from zstore.shards import build
from zstore.shards.build import FieldBody


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("preset", "name"), [("lossless", b"lz4"), ("small", b"zstd")])
@pytest.mark.parametrize(("dtype", "shuffle"), [("float32", 2), ("float16", 2), ("int8", 2), ("string", 0)])
@pytest.mark.parametrize("values", ["random", "zeros"])
def test_chunks_are_the_bytes_that_numcodecs_makes(direct: bool, preset: str, name: bytes, dtype: str, shuffle: int,
                                                   values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setattr(codecs, "_deflater", lambda: None)
    codec = chunk_codec(preset, dtype)
    chunk = np.random.default_rng(1).bytes(24_576) if values == "random" else bytes(24_576)
    wanted = bytes(numcodecs.blosc.compress(chunk, name, 5, shuffle, 0, max(codec.typesize, 1)))
    assert codec.encode(chunk) == wanted + crc32c(wanted).to_bytes(4, "little")


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("preset", ["lossless", "small"])
@pytest.mark.parametrize("values", ["random", "zeros"])
def test_many_chunks_at_once_are_the_same_bytes_as_one_by_one(direct: bool, preset: str, values: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setattr(codecs, "_deflater", lambda: None)
    codec, size = chunk_codec(preset, "float32"), 24_576
    data = np.random.default_rng(1).bytes(5 * size) if values == "random" else bytes(5 * size)
    rows, out = np.frombuffer(data, np.uint8), np.full(5 * codec.room(size) + 64, 7, np.uint8)
    lengths = codec.encode_run(rows, size, out[:-64])
    wanted = [codec.encode(data[at:at + size]) for at in range(0, len(data), size)]
    assert lengths == [len(chunk) for chunk in wanted]
    assert out[:sum(lengths)].tobytes() == b"".join(wanted)
    assert max(lengths) <= codec.room(size) and (out[-64:] == 7).all()


@pytest.mark.parametrize("round_bytes", [1, 3_000, 2**21])
def test_a_body_of_many_chunks_is_that_of_one_after_another(round_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROUND", round_bytes)
    f = make_field("vectors", "float32", (8,), 1024)
    fields = {name: make_field(name, dtype, (), 1024) for name, dtype in (("ids", "int64"), ("epoch", "int32"))}
    schema = Schema("ab" * 16, 1024, "lossless", {**fields, "vectors": f}, {})
    rows = np.random.default_rng(2).standard_normal((1024, 8), np.float32)
    rows[:512] = 0                          # chunks of unlike lengths
    at_once, singly = FieldBody(schema, f), FieldBody(schema, f)
    step = f.chunk_rows
    for body in (at_once, singly):
        body.add_partial(0, rows[:step // 2], step // 2)        # superseded: dead bytes
    at_once.add(0, rows, 1024)
    for start in range(0, 1024, step):
        singly._append_chunk(start // step, singly._encode(rows, start, start + step))
    assert at_once.dead_bytes == singly.dead_bytes > 0
    one, other = (body.finish(1024, "ab" * 16, "cd" * 16, 0, []) for body in (at_once, singly))
    assert b"".join(one) == b"".join(other)
