"""What was written of late under names that are used once: such an object stays as it is, so its bytes are known."""

from __future__ import annotations

MOST_BYTES = 16 << 20


class Fresh:
    """Names to bytes, the latest ``MOST_BYTES`` of them. Safe among threads, and without a lock that a fork could break:
    each step is one of a dict's."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        """This was written, and the service said so."""
        self._objects.pop(name, None)
        self._objects[name] = data
        total = 0
        for held, kept in reversed(list(self._objects.items())):
            total += len(kept)
            if total > MOST_BYTES:
                self._objects.pop(held, None)

    def get(self, name: str) -> bytes | None:
        """Its bytes; None where they are not known."""
        return self._objects.get(name)

    def drop(self, name: str) -> None:
        """It is no more, or may be other bytes."""
        self._objects.pop(name, None)
