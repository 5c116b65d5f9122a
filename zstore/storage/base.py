"""What every storage offers, and the names that it accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias, cast

import numpy as np

from zstore._typing import Buffer

TMP = "_zstore/tmp"
MOST_READ = 2**26 + 2**10       # of an object that is read whole: the format's largest document, and a little

Names: TypeAlias = list[str]
Kind: TypeAlias = Literal["nothing", "empty", "file", "folder"]


class Handle(Protocol):
    """One generation of one object, pinned: a later replace or delete does not change what it reads.

    Remote handles (see ``remote``) cannot pin; they raise OSError where they notice that the object changed.
    """

    @property
    def size(self) -> int:
        """The object's length in bytes."""
        ...

    @property
    def generation(self) -> str:
        """What ``rewrite`` takes as ``over``; "" where the storage does not tell generations apart."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``, fewer only at the end. ValueError when negative or closed."""
        ...

    def fileno(self) -> int | None:
        """The open descriptor, for mmap; None where there is none. It stays the handle's: do not close it."""
        ...

    def close(self) -> None:
        """Let go of the object; closing again does nothing."""
        ...


class Renewed(Exception):
    """Whoever holds this live object showed a sign of life while we looked: waiting longer is no use."""


class Lock(Protocol):
    """A held lock. It ends with ``release`` or with the process, never by garbage collection."""

    def release(self) -> None:
        """Let go. A second release, and a release in a forked child, do nothing."""
        ...


class Draft:
    """Bytes that have no name yet. Good for one ``replace``, ``create`` or ``discard`` of the storage that made it."""

    __slots__ = ()


class Growing(Protocol):
    """A draft that is written piece by piece. Ends with ``finish`` or ``discard``; a crash leaves a temporary object."""

    def add(self, parts: Sequence[Buffer]) -> None:
        """Write the parts behind what there is, and start them on their way to the disk; not durable."""
        ...

    def finish(self, parts: Sequence[Buffer]) -> Draft:
        """Write the last parts; all of it is on the disk at return. Whatever it raises, nothing is left."""
        ...

    def discard(self) -> None:
        """Drop it; a second time, or after ``finish`` failed, is fine."""
        ...


class Storage(Protocol):
    """Named objects below one URL. Every method may be called from several threads.

    An object is never changed in place: it appears, is replaced or goes as a whole. A name is durable only after
    ``sync`` of its folder. A name that is absolute, or has an empty, ``.`` or ``..`` component, is a ValueError.
    """

    @property
    def url(self) -> str:
        """Canonical and printable, without credentials."""
        ...

    @property
    def distant(self) -> bool:
        """A request takes milliseconds: readers ask for many ranges at once."""
        ...

    @property
    def rewrites(self) -> bool:
        """``rewrite`` is conditional, or no condition is needed. False: an object is written once, with one content."""
        ...

    @property
    def patience_s(self) -> float:
        """How long an opener waits before it takes a session that looks alive for alive."""
        ...

    def offers(self) -> dict[str, str]:
        """What of creation, rewriting, locks and mapping holds here, in words for people. May ask the system, once."""
        ...

    def read(self, name: str) -> bytes:
        """The whole object, of one generation. FileNotFoundError when absent; a local file is ``Corrupt``, before a byte
        of it is read, where it is larger than ``MOST_READ``."""
        ...

    def fetch(self, name: str) -> tuple[bytes, str]:
        """The whole object and its generation. FileNotFoundError when absent."""
        ...

    def open(self, name: str, end: int = 0) -> Handle:
        """Pin the object's present generation; so many of its last bytes are wanted at once. FileNotFoundError."""
        ...

    def read_ranges(self, wanted: Sequence[tuple[Handle, int, int]]) -> list[bytes]:
        """``handle.read(offset, length)`` of all these, at once and in few requests where the storage is distant."""
        ...

    def exists(self, name: str) -> bool:
        """Whether an object (not a folder) has this name. Errors other than absence are raised, not False."""
        ...

    def list(self, folder: str) -> Names:
        """Names of the objects directly in the folder, sorted; none when it is absent. "" is the root."""
        ...

    def folders(self, folder: str) -> Names:
        """Names of the folders directly in the folder, sorted; none when it is absent. "" is the root."""
        ...

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make the root and these folders where absent, with their parents. Durable on return."""
        ...

    def draft(self, parts: Sequence[Buffer], tag: str, *, durable: bool = True) -> Draft:
        """Write the parts, joined, to a temporary object; on the disk at return when ``durable``.

        Parts are C-contiguous and may be freed or changed once it returns. Whatever it raises, nothing is left.
        """
        ...

    def begin(self, tag: str) -> Growing | None:
        """An empty draft that grows; None where an object goes out with one request."""
        ...

    def replace(self, draft: Draft, name: str, *, once: bool = False) -> None:
        """Give the draft this name, over what had it. Atomic; the name is not durable before ``sync``.

        ``once``: nobody had the name, and nobody will write other bytes under it; so a distant storage may keep these.
        When it fails the old object stands and the draft is gone.
        """
        ...

    def rewrite(self, draft: Draft, name: str, over: str | None) -> str:
        """Give the draft this name over the generation ``over`` (None: nobody has the name) and give the new one.

        Conflict, and nothing changed, where something else has the name; an own write whose reply was lost is
        recognised by its bytes, which therefore must be unlike anyone else's. Local folders and memory, whose locks
        and fences come before, replace without asking. The draft is gone either way.
        """
        ...

    def create(self, draft: Draft, name: str) -> bool:
        """Give the draft this name if nobody has it; False when taken. Atomic; not durable before ``sync``.

        InDoubt where a distant storage did not say, and the object may yet appear. An own create whose reply was
        lost is recognised by its bytes, as in ``rewrite``. The draft is gone either way, and when it raises.
        """
        ...

    def discard(self, draft: Draft) -> None:
        """Drop a draft; one that was used already is fine."""
        ...

    def sync(self, folders: Iterable[str]) -> None:
        """Make the names in these folders durable. FileNotFoundError when one is absent; OSError when in doubt."""
        ...

    def delete(self, name: str) -> None:
        """Remove the name; absent is fine. Open handles keep reading. Not durable before ``sync``."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """One lock for the whole store among processes and threads; waits; not reentrant; freed by process death."""
        ...

    def share_live(self, name: str) -> Lock:
        """Hold this object shared, made empty if absent; waits while someone holds it exclusively."""
        ...

    def try_exclusive_live(self, name: str) -> Lock | None:
        """Hold this object exclusively, made empty if absent; None, without waiting, when anyone holds it.

        Distant storages have no locks, only signs of life: None while one is fresh, ``Renewed`` once a fresh one
        followed another; the lock that they give keeps nobody out.
        """
        ...

    def is_held(self, name: str) -> bool:
        """Whether anyone holds this live object; changes nothing."""
        ...

    def writable(self, only_writer: bool = False) -> None:
        """Raise, in one sentence, when a store cannot be written here: PermissionError, or Conflict where creation is
        not atomic and the caller does not say that it is the only writer. May write and remove a probe."""
        ...

    def kind(self) -> Kind:
        """What is at the URL: nothing, an empty folder, a file, or a folder with something in it."""
        ...


def checked(name: str) -> str:
    """The name of an object, given back; ValueError for one that could lead out of the store."""
    if not isinstance(name, str):
        raise TypeError(f"an object's name is a str, not {type(name).__name__}")
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"not a name inside a store: {name!r}")
    return name


def checked_folder(folder: str) -> str:
    """Like ``checked``; "" is the root."""
    return checked(folder) if folder != "" else ""


def checked_tag(tag: str) -> str:
    """The tag of a draft: one component of a name."""
    if "/" in checked(tag):
        raise ValueError(f"a draft's tag has no slash: {tag!r}")
    return tag


def octets(part: Buffer) -> memoryview:
    """The part's bytes, not copied. ValueError when they are not contiguous."""
    if isinstance(part, np.ndarray):
        if not part.flags.c_contiguous:
            raise ValueError("a part of an object must be a C-contiguous array")
        # bfloat16 and datetime arrays export no buffer; their bytes do.
        part = part.reshape(-1).view(np.uint8)
    view = memoryview(cast(bytes, part))  # numpy 2.4 types no buffer under Python 3.11, and has one
    if not view.c_contiguous:
        raise ValueError("a part of an object must be contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")
