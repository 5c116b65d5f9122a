"""From a URL or path to its storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zstore.storage.base import Storage
from zstore.storage.local import LocalStorage

_LOCAL = ("file://", "local://")


def open_storage(url: str | os.PathLike[str], options: Mapping[str, Any] | None = None, *,
                 called: str = "storage_options") -> Storage:
    """The storage of a path, ``file://``, ``memory://`` or any other URL that fsspec serves; makes no request.

    ``options`` go to fsspec; a local path takes none, and the error says what they are ``called``. As everywhere in
    fsspec, ``file://`` paths are taken as they stand, without percent-decoding. ValueError or TypeError for what is no
    URL, MissingExtra for an absent package.
    """
    place = _text(url)
    if "://" not in place or place.startswith(_LOCAL) or isinstance(url, os.PathLike):
        if options:
            raise ValueError(f"{called} are for remote URLs; {place} is a local path")
        return LocalStorage(_path(place) if isinstance(url, str) else place)
    if place.startswith("memory://"):
        from zstore.storage.memory import MemoryStorage

        return MemoryStorage(place, options)
    from zstore.storage.remote import RemoteStorage

    return RemoteStorage(place, options)


def _text(url: object) -> str:
    if not isinstance(url, (str, os.PathLike)):
        raise TypeError(f"a store's URL is a str or a path, not {type(url).__name__}")
    place = os.fspath(url)
    if not isinstance(place, str):
        raise TypeError("a store's URL is a str or a path of str, not of bytes")
    if not place.strip():
        raise ValueError("a store's URL must not be empty")
    if "\0" in place:
        raise ValueError(f"a store's URL must not contain a null character: {place!r}")
    return place


def _path(place: str) -> str:
    for prefix in _LOCAL:
        if place.startswith(prefix):
            rest = place[len(prefix):]
            if not rest:
                raise ValueError(f"{place} names no folder")
            return rest
    return place
