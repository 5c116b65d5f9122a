"""CRC32C, the one checksum of the format, and JSON documents that end with it."""

from __future__ import annotations

import json
import re
from typing import Any

from crc32c import crc32c as _crc32c

from zstore._typing import Buffer
from zstore.errors import Corrupt

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 32
_SEAL = re.compile(rb',\n?"checksum":"([0-9a-f]{8})"\}\n?$')


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C of ``data`` continued from ``value``; releases the interpreter lock on large buffers."""
    return int(_crc32c(data, value))


def seal_json(document: dict[str, Any]) -> bytes:
    """The document as compact JSON whose last member is the CRC32C of all bytes before that member."""
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()[:-1]
    return body + b',"checksum":"%08x"}\n' % crc32c(body)


def open_json(data: bytes, name: str) -> dict[str, Any]:
    """The document of ``seal_json`` without its checksum; ``Corrupt`` naming ``name`` when anything is off."""
    if len(data) > MAX_JSON_BYTES:
        raise Corrupt(name, "the document is too large", expected=f"<= {MAX_JSON_BYTES} bytes", actual=len(data))
    found = _SEAL.search(data[-64:])
    if found is None:
        raise Corrupt(name, "the document is cut short or is not sealed by a checksum")
    body = data[: len(data) - (len(data[-64:]) - found.start())]
    actual = crc32c(body)
    if actual != int(found[1], 16):
        raise Corrupt(name, "the checksum does not match", expected=found[1].decode(), actual=f"{actual:08x}")
    try:
        document = parse_json(body + b"}", name)
    except Corrupt:
        raise
    if not isinstance(document, dict):
        raise Corrupt(name, "the document is not a JSON object")
    return document


def parse_json(data: bytes, name: str) -> Any:
    """JSON from a stranger: bounded depth, no NaN, no surprise exceptions."""
    if data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH and _depth(data) > MAX_JSON_DEPTH:
        raise Corrupt(name, "the document is nested too deeply", expected=f"<= {MAX_JSON_DEPTH}")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Corrupt(name, f"the document is not JSON: {error}") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _depth(data: bytes) -> int:
    """How deep brackets nest outside of strings."""
    deepest = depth = 0
    for bracket in re.findall(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
