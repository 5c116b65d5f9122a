"""One limit on the decoded chunks of all fields: who may keep how many."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np

from zstore.arena import LEAST, PARALLEL_BYTES, PIECE, Ahead, Arena, Decode, Private
from zstore.storage.limits import available_memory

__all__ = ["LEAST", "PARALLEL_BYTES", "PIECE", "Arena", "Cache", "process_cache"]


class Cache:
    """A limit in bytes on the decoded chunks of all its arenas."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = available_memory() // 4 if limit is None else limit
        self._arenas: weakref.WeakSet[Arena] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self._arenas)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in use, of all arenas that this process knows."""
        return sum(arena.used * arena.slot_bytes for arena in list(self._arenas))

    def arena(self, chunk_rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], decode: Decode, private: Private,
              chunks: int = 0, ahead: Ahead | None = None) -> Arena:
        """A new arena. ``decode(chunk, out)`` writes a whole chunk into uint8; ``private(chunk)`` gives the rows of a
        chunk that is not whole, and so is not kept here, else None; ``chunks``, about how many there are;
        ``ahead(chunks)`` prepares many at once, and gives the two functions to use for them."""
        arena = Arena(self, chunk_rows, shape, dtype, decode, private, chunks, ahead)
        self._arenas.add(arena)
        return arena

    def reclaim(self, nbytes: int, asking: Arena) -> None:
        """Take slots from the largest other arena, unless someone works in it."""
        others = [arena for arena in list(self._arenas) if arena is not asking and arena.used > LEAST]
        if others:
            largest = max(others, key=lambda arena: arena.used * arena.slot_bytes)
            largest.give_up(-(-nbytes // largest.slot_bytes))


_process: Cache | None = None
_process_lock = threading.Lock()


def process_cache() -> Cache:
    """The cache of this process: at most a quarter of the memory that was available when it was first asked for."""
    global _process
    with _process_lock:
        if _process is None:
            _process = Cache()
        return _process


def _in_child() -> None:
    global _process_lock
    _process_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
