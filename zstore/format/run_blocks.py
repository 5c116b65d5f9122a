"""A checksum of each 64 KiB of a run's columns, so that a reader checks no more of a large run than it looks at.

The header names them: ``"blocks"``, the little-endian CRC32Cs as base64. Runs of release 0.1 have none and are checked whole.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from zstore._typing import Buffer, Int64s
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c

SHIFT = 16
BLOCK = 1 << SHIFT


class BlockSums:
    """The checksums of bytes that come part by part."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._open, self._left = 0, BLOCK

    def add(self, part: Buffer) -> None:
        """The next bytes."""
        view, at = memoryview(part).cast("B"), 0
        while at < len(view):
            piece = view[at:at + self._left]
            self._open = crc32c(piece, self._open)
            at, self._left = at + len(piece), self._left - len(piece)
            if not self._left:
                self._sums.append(self._open)
                self._open, self._left = 0, BLOCK

    def listed(self) -> bytes:
        """All of them so far, the last block's too, as the header has them."""
        sums = [*self._sums, self._open] if self._left < BLOCK else self._sums
        return np.array(sums, "<u4").tobytes()


def written(sums: bytes) -> str:
    """As JSON has them."""
    return base64.b64encode(sums).decode()


def read(text: Any, size: int) -> bytes:
    """Those of a header, of ``size`` bytes; b"" for none. ValueError or TypeError where they can't be these."""
    if text is None:
        return b""
    try:
        sums = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"blocks: {error}") from None
    if len(sums) != 4 * -(-size // BLOCK):
        raise ValueError("blocks")
    return sums


class Blocks:
    """Which blocks of a run were held against their checksums. Safe among threads: a block may be checked twice."""

    def __init__(self, name: str, data: memoryview, sums: bytes) -> None:
        self.name = name
        self.known = bytearray(len(sums) // 4)      # 1: checked
        self.nbytes = len(data)
        self._data, self._sums = data, np.frombuffer(sums, "<u4")
        self._seen = np.frombuffer(self.known, bool)

    def check(self, number: int) -> None:
        """Corrupt unless this block has its checksum."""
        actual, expected = crc32c(self._data[number << SHIFT:(number + 1) << SHIFT]), int(self._sums[number])
        if actual != expected:
            raise Corrupt(self.name, "a block of the run fails its CRC32C", offset=number << SHIFT, expected=f"{expected:08x}",
                          actual=f"{actual:08x}")
        self.known[number] = 1

    def need(self, one: int, other: int) -> None:
        """Check the blocks of the bytes at these two places, unless they were."""
        known = self.known
        if not known[one >> SHIFT]:
            self.check(one >> SHIFT)
        if not known[other >> SHIFT]:
            self.check(other >> SHIFT)

    def touch(self, places: Int64s) -> None:
        """Check the blocks of the bytes at these places that were not checked yet."""
        numbers = places >> SHIFT
        fresh = numbers[~self._seen[numbers]]
        for number in np.unique(fresh).tolist() if len(fresh) else ():
            self.check(number)

    def check_all(self) -> None:
        """Check what was not checked yet."""
        for number in np.flatnonzero(~self._seen).tolist():
            self.check(number)
