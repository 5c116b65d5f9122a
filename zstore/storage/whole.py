"""A whole object as one buffer, which takes memory only where it is looked at."""

from __future__ import annotations

import mmap

from zstore._typing import Buffer
from zstore.storage.base import Storage


def whole(storage: Storage, name: str) -> Buffer:
    """The object's bytes: mapped read-only where it is a file, else read. FileNotFoundError when absent."""
    handle = storage.open(name)
    try:
        descriptor = handle.fileno()
        if descriptor is None or not handle.size:
            return handle.read(0, handle.size)
        return memoryview(mmap.mmap(descriptor, handle.size, access=mmap.ACCESS_READ))
    finally:
        handle.close()
