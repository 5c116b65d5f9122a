"""The writers of this process: one per store, closed at exit, inert in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Protocol

from zstore.notices import warn


class Closable(Protocol):
    """What the registry needs of a Writer."""

    token: str

    def close(self) -> None: ...


_lock = threading.Lock()
_open: dict[str, list[Closable]] = {}
_pid = os.getpid()


def enter(url: str, writer: Closable) -> None:
    """Register a new writer. An earlier one of this process is closed first, with a warning, unless both share a
    session: a notebook's cell that is run again must neither fail nor lose what the first run appended."""
    with _lock:
        earlier = [other for other in _open.get(url, []) if other.token != writer.token]
    for other in earlier:
        try:
            other.close()
        except Exception as error:
            said = f"closing it failed, and what it had not committed is lost: {error}"
        else:
            said = "that writer was closed (what it held is committed)"
        leave(url, other)
        warn(f"{url} was still open for writing in this process; {said}")
    with _lock:
        _open.setdefault(url, []).append(writer)


def leave(url: str, writer: Closable) -> None:
    """The writer is closed."""
    with _lock:
        writers = _open.get(url, [])
        if writer in writers:
            writers.remove(writer)
        if not writers:
            _open.pop(url, None)


@atexit.register
def _close_all() -> None:
    if os.getpid() != _pid:
        return
    with _lock:
        writers = [writer for group in _open.values() for writer in group]
    for writer in writers:
        try:
            writer.close()
        except Exception as error:
            warn(f"a writer that was open at exit could not commit: {error}")


def _in_child() -> None:
    # The child has no part in the parent's writers: it closes none of them.
    global _lock, _pid
    _lock, _pid = threading.Lock(), os.getpid()
    _open.clear()


os.register_at_fork(after_in_child=_in_child)
