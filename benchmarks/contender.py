"""What a contender is: one system behind the same few verbs, and the ways in which it may be absent."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.data import Array, Data

OWN = "its own fsync"
BY_US = "syncfs after each commit, by the benchmark"
NONE = "none: lost with the machine"


class Missing(Exception):
    """The contender is not installed here; the text says what to install."""


class Cannot(Exception):
    """The contender has no such thing; the text says why, or what its users do instead."""


class Contender:
    """One system at one place. Written by ``create``, ``append``, ``commit``, ``finish``; read by ``open`` and what follows
    it. Every call has done its work when it returns: no lazy results, and nothing of the caller's arrays is kept."""

    durability: ClassVar[str] = OWN
    durable: ClassVar[bool] = True          # what was committed survives a power loss, vectors, ids and epochs
    remote: ClassVar[bool] = False          # its place may be a URL of object storage

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None) -> None:
        self.place, self.data, self.storage_options = place, data, storage_options

    # -- writing ----------------------------------------------------------------------------------------------------------
    def create(self) -> None:
        """A new, empty store."""
        raise Cannot("it is not written row by row")

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        """One batch: (n,) ids, one epoch, (n, dim) vectors, which the caller may overwrite at once."""
        raise Cannot("it is not written row by row")

    def commit(self) -> None:
        """What was appended is now as durable as ``durability`` says."""
        raise Cannot("it has no commit")

    def finish(self) -> None:
        """Commit what is left and close."""
        self.commit()

    def resume(self, rows: int) -> None:
        """The writer died; open again for appending behind the first ``rows`` rows, which were committed. Rows that came
        after them do not count any more."""
        raise Cannot("it can't go back to a row count")

    # -- reading ----------------------------------------------------------------------------------------------------------
    def open(self) -> None:
        """Open for reading, in a process that may never have written."""
        raise Cannot("it is not read")

    def count(self) -> int:
        """How many rows there are."""
        raise Cannot("it does not count its rows")

    def gather(self, rows: Array) -> Array:
        """The vectors of these row numbers, (n, dim), in this order."""
        raise Cannot("it has no row numbers")

    def key(self, id: str, epoch: int) -> Array:
        """One vector, (dim,)."""
        raise Cannot("it has no keys")

    def keys(self, ids: list[str], epoch: int) -> Array:
        """The vectors of these ids at one epoch, (n, dim), in this order."""
        raise Cannot("it has no keys")

    def scan(self) -> Iterator[Array]:
        """All rows in order, as (n, dim) blocks of the contender's own size; views where it has them."""
        raise Cannot("it is not scanned")

    def epoch(self, epoch: int) -> Array:
        """Every vector of one epoch as one matrix; a view where it has one. No row that came again after a preemption
        counts twice."""
        raise Cannot("it has no epochs")

    def close(self) -> None:
        """Let go of everything, and end every process that was started."""

    # -- about it ---------------------------------------------------------------------------------------------------------
    def extra(self) -> dict[str, Any]:
        """Figures that only this contender has, such as the memory of its server in MB: {"server_mb": 950}."""
        return {}


def sync_file_system(folder: str) -> None:
    """Make durable whatever the system that holds this folder has cached: for contenders that never sync by themselves."""
    if sys.platform != "linux":
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs", folder)
    finally:
        os.close(descriptor)


def size_of(place: str) -> tuple[int, int]:
    """(bytes, files) below a local place."""
    path = Path(place)
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_blocks * 512 if entry.suffix == ".mdb" else entry.stat().st_size for entry in files), len(files)
