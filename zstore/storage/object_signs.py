"""Where a remote storage keeps its signs of life: small objects, dated by the service."""

from __future__ import annotations

import os
from collections.abc import Callable

from zstore.storage.backend import Backend
from zstore.storage.patience import patiently


class ObjectSigns:
    """See ``leases.Signs``. ``touch`` and ``remove`` are tried once: a lease does so again by itself, or grows stale."""

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend

    def touch(self, name: str) -> None:
        """See ``Signs.touch``; one request."""
        self._backend().put(name, os.urandom(8))

    def stamps(self, folder: str) -> dict[str, float]:
        """See ``Signs.stamps``."""
        return {entry.name: entry.modified for entry in patiently(lambda: self._backend().list(folder)) if not entry.is_folder}

    def now(self) -> float:
        """See ``Signs.now``."""
        return patiently(lambda: self._backend().now())

    def remove(self, name: str) -> None:
        """See ``Signs.remove``; one request."""
        self._backend().delete(name)
