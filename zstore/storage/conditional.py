"""Writing under a condition, through lost replies: what did the request that was not answered do?

An object is looked at under its very name. Its bytes hold a nonce, or a shard's trailer, so bytes that equal ours are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from zstore.errors import Conflict, InDoubt
from zstore.storage.backend import Backend, Doubtful, NoSize, Unmet
from zstore.storage.patience import Patience

_WHOLE_BYTES = 1 << 20      # up to here an object is compared whole, above by its end
_END_BYTES = 64 << 10


class Likeness(NamedTuple):
    """By what one of our objects is known again: its size and the hash of its end, where a shard's trailer is."""

    size: int
    end: bytes


def likeness(end: bytes, size: int) -> Likeness:
    """That of an object of this size that ends so."""
    end = end[-(_WHOLE_BYTES if size <= _WHOLE_BYTES else _END_BYTES):]
    return Likeness(size, hashlib.blake2b(end, digest_size=16).digest())


def create(backend: Backend, name: str, data: bytes, shown: str) -> bool:
    """Create the object if absent: True when these bytes are there by our doing, False when others are.

    InDoubt when the time is up and the request may yet be done; TimeoutError when it surely never left."""
    patience, sent, why = Patience(), False, ""
    while True:
        try:
            try:
                backend.put(name, data, absent=True)
                return True
            except Unmet:
                pass
            except Doubtful as error:
                sent, why = sent or error.sent, str(error)
            mine = _holds(backend, name, data)
            if mine is not None:
                return mine
        except Doubtful as error:           # nor can it be looked at
            why = why or str(error)
        except OSError as error:            # settled now, but what of the try before?
            if not sent:
                raise
            raise _in_doubt(shown, str(error)) from None
        if not patience.rest():
            raise _in_doubt(shown, why) if sent else TimeoutError(f"{shown} could not be created: {why}")


def rewrite(backend: Backend, name: str, data: bytes, over: str | None, shown: str,
            tried: dict[Likeness, None]) -> str:
    """Write the object over the generation ``over`` (None: nothing is there) and give the new one.

    ``tried`` is what was written under this name earlier, without an answer: should it be there by now, it is ours too and
    is written over. Conflict when something else is there; TimeoutError when the time is up, and then ``tried`` holds these
    bytes too."""
    patience, mine, why = Patience(), likeness(data, len(data)), ""
    while True:
        try:
            tried[mine] = None      # before the request: whatever goes wrong from here on, it may have landed
            try:
                generation = backend.put(name, data, absent=over is None, over=over)
                tried.clear()
                return generation
            except (Unmet, Doubtful) as error:
                why = str(error)
            found = _look(backend, name)
            if found is not None and found[0] == mine:
                tried.clear()
                return found[1]
            if found is not None and found[1] != over:
                if found[0] not in tried:
                    raise Conflict(f"{shown} is not what this writer wrote last: another writer has it, or a copy of the store "
                                   "was put in its place; nothing was changed")
                over = found[1]
            elif found is None and over is not None:
                raise Conflict(f"{shown} was removed by somebody else while it was written")
        except Doubtful as error:
            why = why or str(error)
        if not patience.rest():
            raise TimeoutError(f"{shown} could not be written: {why}")


def probe(backend: Backend, name: str) -> tuple[bool, bool]:
    """Whether creation and rewriting are conditional here, found out with an object that the caller removes."""
    create_holds = rewrite_holds = False
    try:
        backend.put(name, b"probe", absent=True)
        create_holds = _refused(lambda: backend.put(name, b"probe 2", absent=True))
        if backend.conditional:
            rewrite_holds = _refused(lambda: backend.put(name, b"probe 3", over='"00000000000000000000000000000000"'))
    except Unmet:
        raise Doubtful(f"{name}: a name that nobody can have used is taken") from None
    return create_holds, rewrite_holds


def _in_doubt(shown: str, why: str) -> InDoubt:
    return InDoubt(f"{shown}: the service did not say whether it was created ({why}); it is there wholly or not at all. Open "
                   "the store again to see which")


def _refused(put: Callable[[], str]) -> bool:
    try:
        put()
    except Unmet:
        return True
    return False


def _holds(backend: Backend, name: str, data: bytes) -> bool | None:
    try:
        return backend.get(name).data == data
    except FileNotFoundError:
        return None


def _look(backend: Backend, name: str) -> tuple[Likeness, str] | None:
    """What is under the name, and its generation; None for nothing."""
    try:
        try:
            got = backend.get(name, -_WHOLE_BYTES)
        except NoSize:
            got = backend.get(name)
    except FileNotFoundError:
        return None
    return likeness(got.data, got.size), got.generation
