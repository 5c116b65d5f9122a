"""The keys that one commit deleted: an object of its own, named by the commit, never removed.

    8 bytes "ZSTRDEL1" · n × u64 key · n × i32 epoch (-1: every epoch of the id) · n × u32 check (string ids only)
    · header, JSON · u32 header bytes · u32 CRC32C of everything before it

The keys ascend by (key, check, epoch), and none comes twice.

Keys, not addresses: a version that head does not hold may have rows of them too, and no rollback brings these back.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zstore._typing import Array, Buffer
from zstore.errors import Corrupt
from zstore.format.checksum import crc32c, parse_json
from zstore.format.extents import MAX_ADDRESS
from zstore.format.record import FORMAT_MAJOR, FORMAT_MINOR, check_format

MAGIC = b"ZSTRDEL1"
EVERY_EPOCH = -1
_FOOT = struct.Struct("<II")
_NAME = re.compile(r"([0-9]{20})-([0-9a-f]{32})\Z")


@dataclass(frozen=True)
class Keys:
    """Keys, of one length n: key uint64, check uint32 (zeros for integer ids), epoch int32 (-1: every epoch)."""

    key: npt.NDArray[np.uint64]
    check: npt.NDArray[np.uint32]
    epoch: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.key)

    def ascend(self) -> bool:
        """They ascend by (key, check, epoch), and none comes twice."""
        more = self.epoch[1:] > self.epoch[:-1]
        for column in (self.check, self.key):
            more = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & more)
        return bool(more.all())

    def distinct(self) -> Keys:
        """Each once, by (key, check, epoch)."""
        order = np.lexsort((self.epoch, self.check, self.key))
        key, check, epoch = self.key[order], self.check[order], self.epoch[order]
        again = (key[1:] == key[:-1]) & (check[1:] == check[:-1]) & (epoch[1:] == epoch[:-1])
        first = ~np.concatenate([np.zeros(min(len(key), 1), bool), again])
        return Keys(key[first], check[first], epoch[first])


@dataclass(frozen=True)
class Deletes:
    """What commit ``version`` deleted: every row of these keys below ``length``, in every version. ``previous`` is the
    object of the commit that deleted before it (see ``deletes_id``), or None."""

    store_id: str
    version: int
    commit_id: str
    length: int
    previous: str | None
    strings: bool
    keys: Keys


def deletes_id(version: int, commit_id: str) -> str:
    """The last part of the object's name. The commit's id is in it, so that two openers which try for one number never
    write one object."""
    return f"{version:020d}-{commit_id}"


def parse_id(text: str) -> tuple[int, str] | None:
    """Version and commit id of the last part of a name; None where it is none."""
    found = _NAME.match(text)
    return (int(found[1]), found[2]) if found else None


def deletes_parts(deletes: Deletes) -> Sequence[Buffer]:
    """The object's bytes, in parts."""
    document = {"format": f"{FORMAT_MAJOR}.{FORMAT_MINOR}", "store_id": deletes.store_id, "version": deletes.version,
                "commit_id": deletes.commit_id, "length": deletes.length, "previous": deletes.previous,
                "keys": len(deletes.keys), "ids": "string" if deletes.strings else "int64"}
    text = json.dumps(document, separators=(",", ":")).encode()
    columns: list[Array] = [deletes.keys.key.astype("<u8"), deletes.keys.epoch.astype("<i4")]
    if deletes.strings:
        columns.append(deletes.keys.check.astype("<u4"))
    parts: list[Buffer] = [MAGIC, *(column.tobytes() for column in columns), text, struct.pack("<I", len(text))]
    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return [*parts, struct.pack("<I", crc)]


def parse_deletes(data: Buffer, name: str) -> Deletes:
    """The object as it lies under ``name``, whose last part it must bear out. ``Corrupt`` names what is wrong."""
    view = memoryview(data).cast("B")
    if len(view) < len(MAGIC) + _FOOT.size or bytes(view[:8]) != MAGIC:
        raise Corrupt(name, "this is not a list of deleted keys")
    text_bytes, crc = _FOOT.unpack(view[-_FOOT.size:])
    actual = crc32c(view[:-4])
    if actual != crc:
        raise Corrupt(name, "the list of deleted keys fails its CRC32C", expected=f"{crc:08x}", actual=f"{actual:08x}")
    text_at = len(view) - _FOOT.size - text_bytes
    if text_at < len(MAGIC):
        raise Corrupt(name, "the header of the deleted keys does not fit in it")
    found = _header(bytes(view[text_at:-_FOOT.size]), name, view[len(MAGIC):text_at])
    if deletes_id(found.version, found.commit_id) != name.rpartition("/")[2]:
        raise Corrupt(name, "the list of deleted keys is another commit's", expected=name.rpartition("/")[2],
                      actual=deletes_id(found.version, found.commit_id))
    return found


def _header(text: bytes, name: str, body: memoryview) -> Deletes:
    document = parse_json(text, name)
    if not isinstance(document, dict):
        raise Corrupt(name, "the header of the deleted keys is not a JSON object")
    check_format(document.get("format"), name)
    try:
        version, length, n = (document[member] for member in ("version", "length", "keys"))
        if not all(type(count) is int and 0 <= count <= MAX_ADDRESS for count in (version, length, n)):
            raise ValueError("version, length or keys")
        strings, previous = document["ids"] == "string", document["previous"]
        if previous is not None:
            before = parse_id(previous)
            if before is None or before[0] >= version:
                raise ValueError(f"previous {previous!r:.80}")
        if not all(isinstance(document[member], str) for member in ("store_id", "commit_id")):
            raise ValueError("store_id or commit_id")
        return Deletes(document["store_id"], version, document["commit_id"], length, previous, strings,
                       _keys(body, n, strings, name))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(name, f"the header of the deleted keys lacks or misstates a member: {error!r}") from None


def _keys(body: memoryview, n: int, strings: bool, name: str) -> Keys:
    if len(body) != n * (16 if strings else 12):
        raise Corrupt(name, "the list of deleted keys has another length than its header says",
                      expected=n * (16 if strings else 12), actual=len(body))
    key, epoch = np.frombuffer(body, "<u8", n), np.frombuffer(body, "<i4", n, 8 * n)
    check = np.frombuffer(body, "<u4", n, 12 * n) if strings else np.zeros(n, np.uint32)
    if n and int(epoch.min()) < EVERY_EPOCH:
        raise ValueError("an epoch")
    keys = Keys(key, check, epoch)
    if not keys.ascend():
        raise Corrupt(name, "the deleted keys do not ascend, or one comes twice")
    return keys
