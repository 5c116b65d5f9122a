"""The place where a store is, or shall be: looked at before anything is written."""

from __future__ import annotations

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.whole import check_openable
from zstore.errors import AlreadyExists
from zstore.storage.base import Storage


def check_place(log: Log, mode: str, token: str, only_writer: bool = False) -> None:
    """AlreadyExists where the place is not ours, or holds a store that mode "x" refuses; PermissionError where it can't be
    written; Conflict where it can't be written safely, or where `compact` is still making a store. An empty folder, or
    only ``_zstore`` without record 0, is no store yet and may become one."""
    storage = log.storage
    stranger = "" if log.exists() else _stranger(storage)
    if log.exists():
        check_openable(log, log.head())
        check_new(log, mode, token)
    elif stranger:          # asked again: another rank may have made the store while we looked around
        raise AlreadyExists(stranger)
    storage.writable(only_writer)


def check_new(log: Log, mode: str, token: str) -> None:
    """AlreadyExists where the store that is there is none of this session's, and mode "x" wants a new one."""
    if mode == "x" and log.head().session.token != token:
        raise AlreadyExists(_description(log))


def _stranger(storage: Storage) -> str:
    """What is there that is no store, in a sentence; nothing where a store may be made."""
    kind = storage.kind()
    if kind == "file":
        return f"{storage.url} is a file; a store is a folder: choose another path"
    if kind == "folder" and (storage.list("") or set(storage.folders("")) - {"_zstore"}):
        zarr = any(storage.exists(name) for name in ("zarr.json", ".zgroup", ".zarray"))
        what = "another Zarr group or array" if zarr else "a folder with other things in it"
        return f"{storage.url} is {what}, not a zstore store; choose another path"
    return ""


def _description(log: Log) -> str:
    head = log.head()
    opened, record = [], head
    while True:
        record = log.read(record.session.opened)
        opened.append(Commit.of(record).when)
        if record.version == 0:
            break
        record = log.read(record.version - 1)
    return (f"{log.storage.url} exists: {head.rows:,} rows, version {head.version}, {len(opened)} sessions from {opened[-1]} "
            f"to {opened[0]}; mode='a' continues it, or choose another path")
