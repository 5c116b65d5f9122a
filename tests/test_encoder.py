"""The encoder that goes past numcodecs writes numcodecs' own bytes, and without it nothing else changes."""

from __future__ import annotations

import numcodecs.blosc
import numpy as np
import pytest

from zstore.format import codecs
from zstore.format.checksum import crc32c
from zstore.format.codecs import chunk_codec


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
