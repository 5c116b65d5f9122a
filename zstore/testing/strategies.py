"""Damage, made to order: bytes that rot, and documents whose checksums are right and whose content lies."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from zstore.format.checksum import crc32c, seal_json

Path = tuple[Any, ...]

# What a stranger writes where a number, a name or a list is expected.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**4000, 0.5, -0.0, 1e308, "", "0",
    "NaN", "Infinity", "x", "../x", "/etc/passwd", "a/b", "_zstore", "a\0b", "\ud800", "²", "é" * 70, "c" * 300, [], {}, [[]],
    [[0, 1]], [[0, 2**62]], [[5, 1], [0, 9]], [[0, 3], [1, 2]], [[-1, 4]], [[0, 2**63]], [[0, 1, 2]], [0], {"a": 1},
    "00000000000000000000-" + "0" * 32, "0" * 32, "g" * 32, "1.0", "2.0", "raw", "string", "float32", "int64", [4, 2**40],
    [1] * 64,
]


def flips(data: bytes, count: int | None, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """``(offset, data with one bit flipped there)``: at every byte, or at ``count`` of them, ends among them."""
    rng = np.random.default_rng(seed)
    offsets = np.arange(len(data)) if count is None or count >= len(data) else np.unique(
        np.r_[0, len(data) - 1, rng.integers(0, len(data), count)])
    for at in offsets.tolist():
        yield at, data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1:]


def truncations(data: bytes, count: int | None, seed: int = 0) -> Iterator[bytes]:
    """Shorter copies: of every length, or of ``count`` lengths, 0 and all but one among them."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(len(data)) if count is None or count >= len(data) else np.unique(
        np.r_[0, len(data) - 1, rng.integers(0, len(data), count)])
    for size in sizes.tolist():
        yield data[:size]


def places(document: Any, path: Path = ()) -> Iterator[Path]:
    """The path to every member of a JSON document, the document's own first."""
    yield path
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def with_value(document: Any, path: Path, value: Any) -> Any:
    """A copy with another value at this path."""
    if not path:
        return value
    out = copy.deepcopy(document)
    holder = out
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return out


def without(document: Any, path: Path) -> Any:
    """A copy without the member at this path (which is not the root's)."""
    out = copy.deepcopy(document)
    holder = out
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return out


@st.composite
def lies(draw: st.DrawFn, document: Any) -> Any:
    """The document with one to three of its members replaced, removed, exchanged or nudged."""
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in places(document) if path]
        if not paths:
            return document
        path = draw(st.sampled_from(paths))
        act = draw(st.sampled_from(("replace", "replace", "remove", "exchange", "nudge")))
        old = value_at(document, path)
        if act == "remove":
            document = without(document, path)
        elif act == "exchange":
            document = with_value(document, path, value_at(document, draw(st.sampled_from(paths))))
        elif act == "nudge" and type(old) is int:
            document = with_value(document, path, old + draw(st.sampled_from((-1, 1, 7, 2**20, 2**33))))
        else:
            document = with_value(document, path, draw(st.sampled_from(NASTY)))
    return document


def value_at(document: Any, path: Path) -> Any:
    """The member at this path."""
    for key in path:
        document = document[key]
    return document


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with a few of them overwritten, cut out, doubled or cut off; often where lengths and counts stand."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not out:
            break
        at = draw(st.integers(0, len(out) - 1))
        act = draw(st.sampled_from(("byte", "word", "word", "cut", "double", "end")))
        if act == "byte":
            out[at] = draw(st.integers(0, 255))
        elif act == "word":
            word = struct.pack("<I", draw(st.sampled_from((0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1))))
            at -= at % 4
            out[at:at + 4] = word
        elif act == "cut":
            del out[at:at + draw(st.integers(1, 16))]
        elif act == "double":
            out[at:at] = out[at:at + draw(st.integers(1, 16))]
        else:
            del out[at:]
    return bytes(out)


def sealed(document: Any) -> bytes:
    """Sealed JSON of whatever ``json`` can write; lone surrogates too, as escapes."""
    try:
        return seal_json(document)
    except UnicodeEncodeError:
        import json

        body = json.dumps(document, separators=(",", ":")).encode()[:-1]
        return body + b',"checksum":"%08x"}\n' % crc32c(body)


def with_crc(data: bytes) -> bytes:
    """The bytes with their CRC32C behind them, as runs, trailers, indexes and chunks end."""
    return data + struct.pack("<I", crc32c(data))
