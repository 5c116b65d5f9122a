"""What stands among a source's files and is none of its texts: Zarr stores, and the ledgers of failures beside them."""

from __future__ import annotations

import os

from zstore.embed.files import LEDGER, Place


class Ours:
    """Tells the store that a run writes, its ledger, and the ledgers of other stores. Makes no request for ``to``."""

    def __init__(self, to: str | os.PathLike[str] | None) -> None:
        self._folders: dict[str, str] = {}
        self._store = "" if to is None else self._name(Place.named(os.fspath(to)))

    def has(self, place: Place) -> bool:
        """Whether this file or folder is the run's store, a part of it, or its ledger."""
        name = self._name(place)
        return bool(self._store) and (name in (self._store, self._store + LEDGER) or name.startswith(self._store + "/"))

    def leaves_out(self, file: Place) -> bool:
        """Whether this file of a folder is no text of it."""
        return self.has(file) or is_ledger(file)

    def _name(self, place: Place) -> str:
        """The same for two ways to write a path."""
        if place.remote:
            return place.shown.rstrip("/")
        folder, name = os.path.split(os.path.abspath(place.path))
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder).rstrip("/")
        return f"{self._folders[folder]}/{name}"


def is_store(folder: Place) -> bool:
    """Whether this folder is a Zarr store."""
    return folder.within("zarr.json").exists()


def is_ledger(file: Place) -> bool:
    """Whether this is the ledger of a store beside it."""
    return file.path.endswith(LEDGER) and is_store(file.beside(LEDGER))
