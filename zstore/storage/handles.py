"""What is open on a distant storage: an object that is read by ranges, or one that is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from zstore.storage.backend import Backend, Unmet
from zstore.storage.base import Handle
from zstore.storage.patience import patiently
from zstore.storage.ranges import Piece, at_once, merged, share


class RemoteHandle:
    """One object, read by ranges; its last bytes may be here already.

    Where the service tells generations apart, each read asks for the one that was opened, and raises OSError once it is
    gone. Elsewhere a replace is noticed only when a read comes back with the wrong length; what is inside the bytes has its
    own checks, one floor up.
    """

    def __init__(self, backend: Callable[[], Backend], name: str, shown: str, size: int, generation: str, end: bytes) -> None:
        self.size = size
        self.generation = generation
        self._backend, self._name, self._shown = backend, name, shown
        self._end = end

    def read(self, offset: int, length: int) -> bytes:
        """See ``Handle.read``; one request, none for nothing, and none for the end that came at opening."""
        start, stop = clipped(self, offset, length)
        here = self.at_hand(start, stop)
        return self.ask(start, stop) if here is None else here

    def at_hand(self, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop) where no request is needed."""
        first = self.size - len(self._end)
        if stop <= start:
            return b""
        return self._end[start - first:stop - first] if start >= first else None

    def ask(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), not empty, with one request."""
        try:
            got = patiently(lambda: self._backend().get(self._name, start, stop, generation=self.generation))
        except Unmet:
            raise OSError(f"{self._shown} changed while it was read") from None
        if len(got.data) != stop - start:
            raise OSError(f"{self._shown} changed while it was read: {stop - start} bytes wanted, {len(got.data)} came")
        return got.data

    def fileno(self) -> None:
        """None: nothing to map."""

    def close(self) -> None:
        """Nothing is held."""


class PinnedHandle:
    """One object whose bytes are in memory."""

    def __init__(self, data: bytes, generation: str = "") -> None:
        self._data = data
        self.size = len(data)
        self.generation = generation

    def read(self, offset: int, length: int) -> bytes:
        """See ``Handle.read``."""
        start, stop = clipped(self, offset, length)
        return self._data[start:stop]

    def fileno(self) -> None:
        """None: nothing to map."""

    def close(self) -> None:
        """The bytes go with the handle."""


def clipped(handle: Handle, offset: int, length: int) -> tuple[int, int]:
    """The range within the object; ValueError where it is negative."""
    if offset < 0 or length < 0:
        raise ValueError(f"cannot read {length} bytes from offset {offset}")
    return offset, min(offset + length, handle.size)


def read_all(wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
    """``handle.read(offset, length)`` of all these: neighbours in one request, the requests at once."""
    out = [b""] * len(wanted)
    far: dict[int, tuple[RemoteHandle, list[tuple[int, int, int]]]] = {}
    for number, (handle, offset, length) in enumerate(wanted):
        start, stop = clipped(handle, offset, length)
        here = handle.at_hand(start, stop) if isinstance(handle, RemoteHandle) else handle.read(offset, length)
        if here is not None:
            out[number] = here
        elif isinstance(handle, RemoteHandle):
            far.setdefault(id(handle), (handle, []))[1].append((number, start, stop))

    def fill(handle: RemoteHandle, piece: Piece) -> None:
        data = handle.ask(piece.start, piece.stop)
        for number, start, stop in piece.members:
            out[number] = data[start - piece.start:stop - piece.start]

    most = share(sum(stop - start for _, ranges in far.values() for _, start, stop in ranges))
    at_once([partial(fill, handle, piece) for handle, ranges in far.values() for piece in merged(ranges, most)])
    return out
