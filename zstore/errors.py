"""What can go wrong, drawn as a tree.

ZStoreError
├── NotFound (KeyError)                     a key, field, epoch, version or tag that is not there
│   └── StoreNotFound (FileNotFoundError)   no store at this URL
├── AlreadyExists (FileExistsError)         something is in the way
├── Conflict (RuntimeError)                 another writer lives
│   └── StaleWriter                         a newer session took the store over; this writer is fenced
├── InDoubt (OSError)                       a commit may or may not have landed; the writer writes no more
├── BehindCheckpoint (LookupError)          the store lacks the commit that a checkpoint names
├── FormatError (ValueError)                not a store that this release can read
├── Corrupt (OSError)                       stored bytes that fail a check
└── MissingExtra (ImportError)              an optional package is not installed

Bad arguments are plain ``ValueError`` and ``TypeError``. Every message says what is wrong and the way out.
"""

from __future__ import annotations


class ZStoreError(Exception):
    """The base of every error that zstore defines."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument and OSError a tuple; ours print as they are.
        return str(self.args[0]) if self.args else ""


class NotFound(ZStoreError, KeyError):
    """A key, field, epoch, version or tag that the store does not have."""


class StoreNotFound(NotFound, FileNotFoundError):
    """There is no store at this URL."""


class AlreadyExists(ZStoreError, FileExistsError):
    """A store, or something that is not one, is in the way."""


class Conflict(ZStoreError, RuntimeError):
    """Another writer lives, or the store changed under this one."""


class StaleWriter(Conflict):
    """A newer session has taken the store over: this writer can publish nothing more."""


class InDoubt(ZStoreError, OSError):
    """A commit may or may not be on the disk; it is there wholly or not at all, and this writer writes no more."""


class BehindCheckpoint(ZStoreError, LookupError):
    """The store does not hold the commit that a checkpoint's mark names."""


class FormatError(ZStoreError, ValueError):
    """The object at this place is not what this release can read."""


class Corrupt(ZStoreError, OSError):
    """Stored bytes that fail a check.

    Attributes: ``object`` (the damaged object's name), ``offset`` (bytes from its start, or None), ``expected`` and
    ``actual`` (what the check compared, as text).
    """

    def __init__(self, object: str, problem: str, *, offset: int | None = None,
                 expected: object = None, actual: object = None) -> None:
        at = "" if offset is None else f" at byte {offset}"
        detail = "" if expected is None and actual is None else f" (expected {expected}, found {actual})"
        super().__init__(f"{object}{at}: {problem}{detail}; run `zstore verify` on the store")
        self.object, self.problem, self.offset = object, problem, offset
        self.expected, self.actual = expected, actual

    def __reduce__(self) -> tuple[object, ...]:
        return (_corrupt, (self.object, self.problem, self.offset, self.expected, self.actual))


def _corrupt(object: str, problem: str, offset: int | None, expected: object, actual: object) -> Corrupt:
    return Corrupt(object, problem, offset=offset, expected=expected, actual=actual)


class MissingExtra(ZStoreError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""
