"""A whole object as one buffer, which takes memory only where it is looked at."""

from __future__ import annotations

import mmap
from itertools import pairwise

from zstore._typing import Buffer
from zstore.storage.base import Handle, Storage

END_BYTES = 1 << 20         # a distant object of no more comes with one request
PIECE_BYTES = 8 << 20


def whole(storage: Storage, name: str) -> Buffer:
    """The object's bytes: mapped read-only where it is a file, else read. FileNotFoundError when absent."""
    handle = storage.open(name, END_BYTES)
    try:
        if storage.distant:
            return _in_pieces(storage, handle)
        descriptor = handle.fileno()
        if descriptor is None or not handle.size:
            return handle.read(0, handle.size)
        return memoryview(mmap.mmap(descriptor, handle.size, access=mmap.ACCESS_READ))
    finally:
        handle.close()


def _in_pieces(storage: Storage, handle: Handle) -> bytes:
    end = max(handle.size - END_BYTES, 0)
    cuts = [*range(0, end, PIECE_BYTES), end, handle.size]
    return b"".join(storage.read_ranges([(handle, start, stop - start) for start, stop in pairwise(cuts)]))
