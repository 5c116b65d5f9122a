"""Signs of life, where there are no locks: an object per holder, written anew every 20 seconds, dated by the server.

Whoever looks judges by the server's clock alone: a sign is fresh for 60 seconds. So a dead holder is found dead within a
minute, and one that was renewed while somebody looked is alive.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import Protocol

from zstore.notices import logger
from zstore.storage.base import Renewed
from zstore.storage.patience import patiently

RENEW_S = 20.0
STALE_S = 60.0


class Signs(Protocol):
    """Where signs are kept: objects with dates. Names are ``<folder>/<nonce>``."""

    def touch(self, name: str) -> None:
        """Write the object anew, so that its date is now. OSError when it can't be."""
        ...

    def stamps(self, folder: str) -> dict[str, float]:
        """The dates of the objects in the folder by their last component, in seconds of the server's clock."""
        ...

    def now(self) -> float:
        """The server's clock, the very one that dates objects."""
        ...

    def remove(self, name: str) -> None:
        """Remove the object; absent is fine."""
        ...


class Lease:
    """A sign that is renewed by a daemon thread of its own until ``release``, in the process that made it."""

    def __init__(self, signs: Signs, name: str) -> None:
        self._signs, self._name = signs, name
        self._process = os.getpid()
        self._ended = threading.Event()
        self._touching = threading.Lock()       # no renewal may come after the removal
        threading.Thread(target=self._renew, name="zstore-alive", daemon=True).start()

    def release(self) -> None:
        """Remove the sign. A second time, or in a forked child, it does nothing; a failure is logged, the sign then grows
        stale."""
        if self._process != os.getpid() or self._ended.is_set():
            return
        self._ended.set()
        with self._touching:
            try:
                self._signs.remove(self._name)
            except Exception as error:
                logger.info("a sign of life could not be removed, it is stale in %g s: %s", STALE_S, str(error))

    def _renew(self) -> None:
        pause = RENEW_S
        while not self._ended.wait(pause):
            with self._touching:
                if self._ended.is_set():
                    return
                try:
                    self._signs.touch(self._name)
                    pause = RENEW_S
                except Exception as error:      # an interpreter that ends refuses in ways of its own
                    logger.info("a sign of life could not be renewed, it is tried again: %s", str(error))
                    pause = RENEW_S / 4


class NoLease:
    """What an opener gets that found nobody: it keeps nobody out. The record that it creates decides."""

    def release(self) -> None:
        """There is nothing to let go."""


class Leases:
    """The signs of one store, as one storage sees them. Any method may be called from several threads."""

    def __init__(self, signs: Signs) -> None:
        self._signs = signs
        self._seen: dict[str, dict[str, float]] = {}

    def share(self, name: str) -> Lease:
        """Show a sign of life under this name from now on."""
        sign = f"{name}/{secrets.token_hex(16)}"
        patiently(lambda: self._signs.touch(sign))
        return Lease(self._signs, sign)

    def try_exclusive(self, name: str) -> NoLease | None:
        """None while a sign is fresh; ``Renewed`` once one is newer than when this was first asked, or another came."""
        fresh = self._fresh(name)
        if not fresh:
            self._seen.pop(name, None)
            return NoLease()
        seen = self._seen.setdefault(name, fresh)
        if any(sign not in seen or stamp > seen[sign] for sign, stamp in fresh.items()):
            self._seen.pop(name, None)
            raise Renewed(name)
        return None

    def is_held(self, name: str) -> bool:
        """Whether a sign is fresh."""
        return bool(self._fresh(name))

    def _fresh(self, name: str) -> dict[str, float]:
        stamps = self._signs.stamps(name)
        if not stamps:
            return {}
        now = self._signs.now()
        return {sign: stamp for sign, stamp in stamps.items() if now - stamp < STALE_S}
