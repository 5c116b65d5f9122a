"""Whole reads and writes, and durability, on plain file descriptors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zstore._typing import Buffer
from zstore.storage.base import octets

if sys.platform == "darwin":
    import fcntl

_IOV_MAX = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16
if _IOV_MAX <= 0:
    _IOV_MAX = 1024
# macOS refuses a writev of more than INT_MAX bytes, and Linux cuts it short there.
_CALL_MAX = 1 << 30


@contextmanager
def named(path: str) -> Iterator[None]:
    """Give an OSError that has no filename this one, and make "read-only file system" a PermissionError."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        if error.errno == errno.EROFS and not isinstance(error, PermissionError):
            raise PermissionError(error.errno, error.strerror, error.filename) from error
        raise


def write_all(descriptor: int, parts: Sequence[Buffer]) -> None:
    """Write every byte of the parts, in order, however short the single writes are. Not durable."""
    for batch in _batches(parts):
        while batch:
            written = os.writev(descriptor, batch)
            if written == 0:
                raise OSError(errno.EIO, "the write made no progress")
            batch = _after(batch, written)


def _batches(parts: Sequence[Buffer]) -> Iterator[list[memoryview]]:
    batch: list[memoryview] = []
    room = _CALL_MAX
    for part in parts:
        view = octets(part)
        while view.nbytes:
            piece, view = view[:room], view[room:]
            batch.append(piece)
            room -= piece.nbytes
            if len(batch) == _IOV_MAX or room == 0:
                yield batch
                batch, room = [], _CALL_MAX
    if batch:
        yield batch


def _after(batch: list[memoryview], written: int) -> list[memoryview]:
    for place, view in enumerate(batch):
        if written < view.nbytes:
            return [view[written:], *batch[place + 1:]]
        written -= view.nbytes
    return []


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``, fewer only at the end of the file."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    pieces = [data]
    got = len(data)
    while got < length:
        data = os.pread(descriptor, length - got, offset + got)
        if not data:
            break
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def read_into(descriptor: int, offset: int, parts: Sequence[memoryview], nbytes: int) -> None:
    """Fill the parts (writable bytes, ``nbytes`` together), one after another, from ``offset``. OSError where the file ends
    before."""
    if len(parts) <= _IOV_MAX and os.preadv(descriptor, parts, offset) == nbytes:
        return
    for low in range(0, len(parts), _IOV_MAX):
        batch = list(parts[low:low + _IOV_MAX])
        while batch:
            got = os.preadv(descriptor, batch, offset)
            if got == 0:
                raise OSError(errno.EIO, "the file ends before what is read from it")
            batch, offset = _after(batch, got), offset + got


def flush(descriptor: int) -> None:
    """fsync. After a failure the pages may be clean and lost, so never try the same descriptor again."""
    if sys.platform == "darwin":
        # There fsync leaves the bytes in the drive's own cache; some file systems know only that.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(descriptor)


def flush_folder(path: str) -> None:
    """Make the names in a folder durable, as far as its file system can."""
    with named(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flush(descriptor)
        except OSError as error:
            # Some network and FUSE file systems have no fsync of a folder at all; nothing more can be done there.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
