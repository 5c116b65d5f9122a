"""Bytes of distant objects, kept in files of a local folder that many processes and stores may share.

A key goes in, bytes come out; what they mean is the caller's. A file carries its key and a checksum of itself, and its
name is the hash of its key, so a damaged, foreign, cut or unreadable file is a miss, and is removed. Files appear by rename;
nothing is synced, for a crash may cost no more than speed.

The folder has a few *bins*, each with a share of the bytes, a lock for whoever adds to it, and a count of its bytes. The
count rises before the files appear, so a killed writer leaves it too high, never too low; it is made anew from the files
when it reaches the bin's share, and the files that were used longest ago go.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from zstore import notices
from zstore._typing import Buffer
from zstore.storage import flocks
from zstore.storage.base import octets
from zstore.storage.descriptors import read_at, write_all

MOST_BYTES = 10 << 30       # of all bins together; less where the disk has not four times as much to give
BINS = 16
TOUCH_S = 60.0              # a file that was used is marked so at most this often
LOCK_WAIT_S = 1.0           # a reader that can't add within this time goes on without
REST_S = 60.0               # nor does it try again for so long

_MAGIC = b"ZSTRKEPT"
_HEAD = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
_COUNT = "bytes"            # the file with a bin's count
_DRAFT = "draft-"
_BLOCK = 4096               # what a file takes on the disk is a multiple of it
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK      # a pipe in a file's place must not hold us up


_File: TypeAlias = tuple[str, bytes, Buffer]       # path, key, bytes


class ChunkCache:
    """Keys to bytes. Safe among threads, processes and forked children; nothing that happens to the folder later is an
    error: one notice is given, and everything is a miss.

    ``scope`` is part of every key. A key names its bytes for ever: there is no replacing.
    """

    def __init__(self, folder: str | os.PathLike[str], scope: str = "") -> None:
        """Make the folder where it is absent. OSError where it is a file, or may not be written."""
        place = os.fspath(folder)
        if not isinstance(place, str) or not place or "\0" in place:
            raise ValueError(f"cache_dir must name a folder, not {folder!r}")
        self.folder = os.path.abspath(place)
        self._root = os.path.join(self.folder, "zstore-1")
        self._scope = scope.encode()
        self._told = False
        self._rests_until = 0.0
        self._share = 0
        try:
            self._enter()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise type(error)(f"cache_dir {self.folder} can't be used: {error.strerror or error}; give a folder that "
                                  "may be written, or none") from None
            self._rest(error)

    @property
    def limit(self) -> int:
        """Bytes that all files together may take."""
        return self._share * BINS

    def get(self, key: bytes, length: int | None = None) -> bytes | None:
        """The bytes that were put under this key, whole and unharmed (and of this length); None where they are not here."""
        path, key = self._place(key)
        try:
            data = self._read(path, len(key), length)
        except FileNotFoundError:
            return None
        except OSError:
            data = None
        body = None if data is None else _opened(data, key)
        if body is None or (length is not None and len(body) != length):
            _remove(path)
            return None
        return body

    def put(self, items: Iterable[tuple[bytes, Buffer]]) -> None:
        """Keep these bytes under their keys, if there is room, and nobody is in the way for long."""
        if time.monotonic() < self._rests_until:
            return
        bins: dict[str, list[_File]] = {}
        for key, data in items:
            path, full = self._place(key)
            bins.setdefault(os.path.dirname(path), []).append((path, full, data))
        try:
            for folder, files in bins.items():
                self._add(folder, files)
        except OSError as error:
            self._rest(error)

    def _place(self, key: bytes) -> tuple[str, bytes]:
        full = self._scope + b"\0" + key
        name = hashlib.sha256(full).hexdigest()
        return os.path.join(self._root, f"{int(name[:2], 16) % BINS:02}", name), full

    def _enter(self) -> None:
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        os.makedirs(self._root, exist_ok=True)
        probe = os.path.join(self._root, uuid.uuid4().hex)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        os.unlink(probe)
        disk = os.statvfs(self._root)
        held = sum(_counted(os.path.join(self._root, f"{at:02}")) or 0 for at in range(BINS))
        self._share = min(MOST_BYTES, (disk.f_bavail * disk.f_frsize + held) // 4) // BINS

    def _read(self, path: str, key_bytes: int, length: int | None) -> bytes | None:
        descriptor = os.open(path, _OPEN)
        try:
            status = os.fstat(descriptor)
            most = self._share if length is None else _HEAD.size + key_bytes + length + 4
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                return None
            data = read_at(descriptor, 0, status.st_size)
            if time.time() - status.st_mtime > TOUCH_S:
                with suppress(OSError):         # a folder that may only be read serves as well
                    os.utime(descriptor)
            return data
        finally:
            os.close(descriptor)

    def _add(self, folder: str, files: Sequence[_File]) -> None:
        os.makedirs(folder, exist_ok=True)
        with _locked(os.path.join(folder, "lock")) as held:
            if not held:
                self._rests_until = time.monotonic() + REST_S
                return
            # Half of the share at most goes to one call, so that what it brings in does not drive itself out.
            wanted, total = [], 0
            for path, key, data in files:
                taken = _taken(_HEAD.size + len(key) + len(octets(data)) + _CRC.size)
                if total + taken <= self._share // 2 and not os.path.lexists(path):
                    wanted.append((path, key, data))
                    total += taken
            if not wanted:
                return
            count = _counted(folder)
            if count is None or count + total > self._share:
                count = _swept(folder, min(self._share - total, self._share * 7 // 8))
            _write(os.path.join(folder, _COUNT), [b"%020d" % (count + total)])
            for path, key, data in wanted:
                _write(path, _closed(key, data))

    def _rest(self, error: OSError) -> None:
        self._rests_until = time.monotonic() + REST_S
        if not self._told:
            self._told = True
            notices.warn(f"the cache folder {self.folder} can't be written ({error.strerror or error}); what is not in it "
                         "is read from the store each time, which is slower")


def _closed(key: bytes, data: Buffer) -> list[Buffer]:
    pieces: list[Buffer] = [_HEAD.pack(_MAGIC, len(key)) + key, octets(data)]
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(octets(piece), crc)
    return [*pieces, _CRC.pack(crc)]


def _opened(data: bytes, key: bytes) -> bytes | None:
    """The bytes in a file, if it is whole and this key's."""
    head = _HEAD.pack(_MAGIC, len(key)) + key
    if len(data) < len(head) + _CRC.size or not data.startswith(head):
        return None
    view = memoryview(data)
    if zlib.crc32(view[:-_CRC.size]) != _CRC.unpack(view[-_CRC.size:])[0]:
        return None
    return data[len(head):-_CRC.size]


def _write(path: str, pieces: Sequence[Buffer]) -> None:
    """The file appears whole, or not at all; the bin's lock is held."""
    draft = os.path.join(os.path.dirname(path), _DRAFT + uuid.uuid4().hex)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(descriptor, pieces)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except BaseException:
        _remove(draft)
        raise


def _counted(folder: str) -> int | None:
    """A bin's count; None where nobody knows it."""
    try:
        with open(os.path.join(folder, _COUNT), "rb") as file:
            text = file.read(21)
    except OSError:
        return None
    return int(text) if len(text) == 20 and text.isdigit() else None


def _swept(folder: str, most: int) -> int:
    """Count a bin's files anew, and remove those that were used longest ago until they take no more than this. The lock
    is held, so that a draft is a killed writer's."""
    files: list[tuple[int, int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_DRAFT):
                _remove(entry.path)
            elif len(entry.name) == 64:
                with suppress(FileNotFoundError):       # a reader found it damaged
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_mtime_ns, _taken(status.st_size), entry.path))
    total = sum(taken for _, taken, _ in files)
    for _, taken, path in sorted(files):
        if total <= most:
            break
        os.unlink(path)
        total -= taken
    return total


def _taken(nbytes: int) -> int:
    return -(-nbytes // _BLOCK) * _BLOCK


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


@contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Hold a bin's lock; False, and nothing is held, where that takes too long."""
    until = time.monotonic() + LOCK_WAIT_S
    door = flocks.door(path)
    if not door.acquire(timeout=LOCK_WAIT_S):
        yield False
        return
    lock = None
    try:
        while (lock := flocks.take(path, os.O_CREAT | os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
            if time.monotonic() > until:
                break
            time.sleep(0.005)
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()
        door.release()
