"""What a remote storage asks of the service below it: single requests, and three ways in which one can fail."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

from zstore.storage.base import Kind


class Unmet(Exception):
    """The condition of a request did not hold, and nothing was done: the name is taken, or has another generation."""


class Doubtful(OSError):
    """No clear answer: another try may help. ``sent`` is False where the request surely did not reach the service."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class NoSize(OSError):
    """The service does not say how large the object is: it has to be read whole."""


class Got(NamedTuple):
    """Bytes of an object, the size of the whole object, and its generation ("" where the service tells none)."""

    data: bytes
    size: int
    generation: str


class Entry(NamedTuple):
    """One name in a folder; ``modified`` is in seconds since 1970 by the service's clock (0.0 for folders, or unknown)."""

    name: str
    is_folder: bool
    modified: float


Entries: TypeAlias = list[Entry]


class Backend(Protocol):
    """Names are relative to the store's root, and were checked; "" is the root itself.

    Each call is one request where the service allows it, without a retry. It raises ``Doubtful``, or what is settled:
    FileNotFoundError, PermissionError, another OSError; each names the object and holds no credentials.
    """

    @property
    def atomic(self) -> bool:
        """``put(absent=True)`` is known to be atomic among all clients of this service."""
        ...

    @property
    def conditional(self) -> bool:
        """``put(over=...)`` and ``get(generation=...)`` are conditional."""
        ...

    @property
    def dated(self) -> bool:
        """``list`` tells when an object was written."""
        ...

    def get(self, name: str, start: int = 0, stop: int | None = None, *, generation: str = "") -> Got:
        """The bytes [start, stop), which lie within the object; a negative start with no stop is its last bytes, or all.

        ``Unmet`` when the object has another generation; NoSize where the service tells no size (whole reads are fine)."""
        ...

    def head(self, name: str) -> tuple[int, str]:
        """Size and generation. FileNotFoundError when absent, also for a folder."""
        ...

    def put(self, name: str, data: bytes, *, absent: bool = False, over: str | None = None) -> str:
        """Write the whole object and give its generation; ``Unmet`` when absent is asked for and it is there, or ``over`` is
        given and is not its generation."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object; absent is fine."""
        ...

    def list(self, folder: str) -> Entries:
        """What is directly in the folder, as of now; nothing when it is absent."""
        ...

    def make_folder(self, folder: str) -> None:
        """Make the folder and its parents where the service has such things."""
        ...

    def kind(self) -> Kind:
        """What is at the root."""
        ...

    def now(self) -> float:
        """The service's clock, the one that dates objects: seconds since 1970."""
        ...
