"""What must hold of a store after a crash, held against the ledger of the life that it cut short."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import zstore
from zstore.errors import StoreNotFound
from zstore.testing.life import Account, Place, Row, State, id_of, notes_of, number_of, vectors_of

AFTER = 9000        # rows of this number and up are the examination's own


def examine(place: Place, account: Account, *, strings: bool = False) -> list[str]:
    """Everything that is wrong, in words; the store is written on, so look at a store once.

    Head and every acknowledged version give exactly the rows that the ledger allows, ``verify`` finds nothing, a new writer
    opens, appends, commits and closes, zarr-python reads what our Reader reads, and gc takes nothing that is needed."""
    problems: list[str] = []

    def look(what: str, check: Callable[[], list[str]]) -> None:
        try:
            problems.extend(f"{what}: {problem}" for problem in check())
        except Exception as error:
            problems.append(f"{what}: {type(error).__name__}: {error}")

    before = State()
    try:
        before = state_of(place)
        look("head", lambda: [] if before in account.head else [f"{_told(before)}, not {_allowed(account)}"])
        look("versions", lambda: _versions(place, account))
        look("tags", lambda: _tags(place, account))
        look("verify", lambda: _findings(place))
        look("zarr", lambda: _foreign(place, must=False))
        look("compacting", lambda: _copy(place, account))
    except StoreNotFound as error:
        if account.exists or State() not in account.head:
            problems.append(f"the store is gone: {error}")
    except Exception as error:
        problems.append(f"head: {type(error).__name__}: {error}")
    look("writing on", lambda: _write_on(place, before, strings))
    look("zarr after writing on", lambda: _foreign(place, must=True))
    # The session that crashed is fenced by now: what of it no version names is litter, and nothing else may go.
    look("gc", lambda: [] if zstore.gc(place.url, storage_options=place.options) is not None else ["it gave nothing"])
    look("versions after gc", lambda: _versions(place, account, written_on=True))
    look("verify after gc", lambda: _findings(place))
    return problems


def state_of(place: Place, version: int | None = None) -> State:
    """What a version holds; ValueError where a value is not the one that its row has."""
    # No cache: two states of one store, side by side, hold shards of one identity with different bytes.
    with zstore.Reader(place.url, version=version, cache_bytes=0, storage_options=place.options) as reader:
        noted = "note" in reader._now()[0].schema.fields
        columns = {"ids": reader.ids, "epoch": reader.field("epoch"), "vectors": reader.vectors}
        if noted:
            columns["note"] = reader.field("note")
        return State(tuple(sorted(rows_of(columns))), noted)


def _findings(place: Place) -> list[str]:
    return [str(finding) for finding in zstore.verify(place.url, storage_options=place.options)]


def rows_of(columns: dict[str, Any]) -> list[Row]:
    """The rows, in their order; ValueError where they are not bit for bit what was appended."""
    vectors = np.asarray(columns["vectors"])
    rows = [(number_of(identity), int(epoch), int(take))
            for identity, epoch, take in zip(columns["ids"].tolist(), columns["epoch"].tolist(), vectors[:, 2], strict=True)]
    if np.ascontiguousarray(vectors).tobytes() != vectors_of(rows).tobytes():
        raise ValueError(f"vectors are not those of the rows {rows}: {vectors.tolist()}")
    if "note" in columns and np.asarray(columns["note"]).tobytes() != notes_of(rows).tobytes():
        raise ValueError(f"notes are not those of the rows {rows}: {columns['note'].tolist()}")
    if len(set(rows)) != len(rows):
        raise ValueError(f"a row is there twice: {rows}")
    return rows


def _versions(place: Place, account: Account, *, written_on: bool = False) -> list[str]:
    problems = []
    commits = {commit.version: commit.commit_id for commit in zstore.history(place.url, storage_options=place.options)}
    states = {version: state_of(place, version) for version in commits}
    for version, state in states.items():
        own = written_on and state.rows and state.rows[-1][0] >= AFTER
        if state not in account.ever and not own:
            problems.append(f"version {version} holds {_told(state)}, which nobody committed")
    for version, (wanted, commit_id) in account.versions.items():
        if commits.get(version) != commit_id:
            problems.append(f"version {version} was told as commit {commit_id}, and is {commits.get(version)}")
        elif states[version] != wanted:
            problems.append(f"version {version} holds {_told(states[version])}, not {_told(wanted)}")
    return problems


def _tags(place: Place, account: Account) -> list[str]:
    problems = []
    for tag, version in account.tags.items():
        with zstore.Reader(place.url, tag=tag, storage_options=place.options) as reader:
            if reader.version != version:
                problems.append(f"{tag} names version {reader.version}, not {version}")
    return problems


def _copy(place: Place, account: Account) -> list[str]:
    """A compacted store is there wholly or not at all, and a second run ends what the first began."""
    copy, problems = place.copy, list[str]()
    wanted = state_of(place)
    try:
        state = state_of(copy)
        problems += [] if state == wanted else [f"it holds {_told(state)}"]
        problems += [f"verify: {finding}" for finding in _findings(copy)]
    except StoreNotFound as error:
        if account.copied:
            return [f"the compacted store is gone: {error}"]
        if place.distant or not os.path.exists(copy.url):
            return []
    zstore.compact(place.url, copy.url, **place.compact_options)
    problems += [] if state_of(copy) == wanted else [f"it ends as {_told(state_of(copy))}"]
    return problems + [f"verify at its end: {finding}" for finding in _findings(copy)] + _foreign(copy, must=True)


def _write_on(place: Place, before: State, strings: bool) -> list[str]:
    rows: list[Row] = [(AFTER + i, 0, 0) for i in range(3)]
    ids = [id_of(number, strings) for number, _, _ in rows]
    fields = {"note": notes_of(rows)} if before.noted else {}
    with zstore.Writer(place.url, commit_every_s=None, rows_per_shard=8, takeover=place.distant,
                       storage_options=place.options) as writer:
        writer.append(ids, vectors_of(rows), **fields)
        writer.commit()
    now, wanted = state_of(place), State(tuple(sorted((*before.rows, *rows))), before.noted)
    return [] if now == wanted else [f"head is {_told(now)}, not {_told(wanted)}"]


def _foreign(place: Place, *, must: bool) -> list[str]:
    """zarr-python shows the rows of the version that the root names: all of them, and no other."""
    import zarr

    store: Any = place.url
    if place.distant:
        store = zarr.storage.FsspecStore.from_url(place.url, storage_options=place.options, read_only=True)
    try:
        group = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        return ["there is no root"] if must else []
    ours: Any = group.attrs["zstore"]
    head = zstore.history(place.url, storage_options=place.options)[-1].version
    if must and ours["version"] != head:
        return [f"the root names version {ours['version']}, not head {head}"]
    if not ours["extents"]:
        return []
    columns: dict[str, Any] = {}
    for name in group.array_keys():
        array: Any = group[name]
        columns[name] = np.concatenate([np.asarray(array[start:start + count]) for start, count in ours["extents"]])
    seen, wanted = State(tuple(sorted(rows_of(columns))), "note" in columns), state_of(place, ours["version"])
    return [] if seen == wanted else [f"it shows {_told(seen)}, and version {ours['version']} is {_told(wanted)}"]


def _told(state: State) -> str:
    return f"{list(state.rows)}{' with notes' if state.noted else ''}"


def _allowed(account: Account) -> str:
    return " or ".join(map(_told, account.head))
