"""Drafts that are bytes in memory, of storages whose objects appear whole with one request."""

from __future__ import annotations

from collections.abc import Sequence

from zstore._typing import Buffer
from zstore.storage.base import Draft, octets


class BytesDraft(Draft):
    """Bytes; None once used."""

    __slots__ = ("data",)

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.data: bytes | None = b"".join([octets(part) for part in parts])


def own(draft: Draft) -> BytesDraft:
    """The draft, of this sort; TypeError for another storage's."""
    if not isinstance(draft, BytesDraft):
        raise TypeError(f"not a draft of this storage: {draft!r}")
    return draft


def spent(draft: Draft) -> bytes:
    """The draft's bytes, which it has no more. FileNotFoundError for one that was used or discarded."""
    mine = own(draft)
    data, mine.data = mine.data, None
    if data is None:
        raise FileNotFoundError("this draft was used or discarded before")
    return data
