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
_PAIRS = re.compile(rb'\[[0-9]+,[0-9]+\]')       # extents, by the thousand
_TOKEN = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_BACKSLASH = 0x5C
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
    _check_size(data, name)
    found = _SEAL.search(data[-64:])
    if found is None:
        raise Corrupt(name, "the document is cut short or is not sealed by a checksum")
    body = data[: len(data) - (len(data[-64:]) - found.start())]
    actual = crc32c(body)
    if actual != int(found[1], 16):
        raise Corrupt(name, "the checksum does not match", expected=found[1].decode(), actual=f"{actual:08x}")
    document = parse_json(body + b"}", name)
    if not isinstance(document, dict):
        raise Corrupt(name, "the document is not a JSON object")
    return document


def parse_json(data: bytes, name: str) -> Any:
    """JSON from a stranger: UTF-8, bounded size and depth, no NaN, no infinity, no surprise exceptions."""
    _check_size(data, name)
    if data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH and _is_deep(_PAIRS.sub(b"", data)):
        raise Corrupt(name, "the document is nested too deeply", expected=f"<= {MAX_JSON_DEPTH}")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Corrupt(name, f"the document is not JSON: {error}") from None


def _check_size(data: bytes, name: str) -> None:
    if len(data) > MAX_JSON_BYTES:
        raise Corrupt(name, "the document is too large", expected=f"<= {MAX_JSON_BYTES} bytes", actual=len(data))


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    # 1e999 is JSON, and Python's infinity: whoever makes an int of it meets an OverflowError.
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text:.40} is too large")
    return number


def _is_deep(data: bytes) -> bool:
    """Whether brackets outside of strings nest deeper than the bound. One pass: a pattern for whole strings would go
    over the rest of the document once per quote that a stranger leaves open."""
    depth, text = 0, False
    for found in _TOKEN.finditer(data):
        token = found[0]
        if token == b'"':
            text = not text
        elif text or token[0] == _BACKSLASH:
            continue
        elif token in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        else:
            depth -= 1
    return False
