"""What a commit will name: the rows since the last one, their index entries, and runs that were written ahead."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zstore.errors import Corrupt
from zstore.format.extents import Extents
from zstore.format.keys import StringIds, concat_strings, hash_ints, hash_strings, seed_of
from zstore.format.layout import run_name
from zstore.format.record import SessionInfo
from zstore.format.run import Entries, RunHeader, epoch_spans, parse_run, run_parts
from zstore.format.schema import Schema
from zstore.storage.base import Storage
from zstore.storage.whole import whole

SPILL_ROWS = 2**19          # 12 MB of entries: more than that is written as a run ahead of the commit


@dataclass(frozen=True)
class Noted:
    """Consecutive rows that have their addresses, not hashed yet."""

    ids: Any                            # StringIds, or int64
    epochs: npt.NDArray[np.int32]
    address: int


def make_entries(noted: list[Noted], seed: int) -> Entries:
    """Index entries of these rows, hashed all at once: numpy hands the interpreter lock over at every call, and a
    training loop waits for each of them to come back."""
    ids = [piece.ids for piece in noted]
    if isinstance(ids[0], StringIds):
        key, check = hash_strings(concat_strings(ids), seed)
    else:
        key = hash_ints(np.concatenate(ids))
        check = np.zeros(len(key), np.uint32)
    addresses = np.concatenate([np.arange(n.address, n.address + len(n.epochs), dtype=np.int64) for n in noted])
    return Entries(key, check, np.concatenate([piece.epochs for piece in noted]), addresses)


def write_run(storage: Storage, schema: Schema, session: SessionInfo, entries: Entries) -> str:
    """One durable run of these entries, which come by ascending address; its name is durable after a sync of the index
    folder."""
    header = RunHeader(schema.store_id, session.commit_id, session.opened, len(entries), schema.ids_are_strings,
                       Extents.of_addresses(entries.address), epoch_spans(entries.epoch, entries.address))
    return put_run(storage, header, entries.sorted())


def put_run(storage: Storage, header: RunHeader, entries: Entries) -> str:
    """Write a run of sorted entries under a name that was never used."""
    run = f"{header.opened:020d}-{secrets.token_hex(16)}"
    storage.replace(storage.draft(run_parts(header, entries), f"{header.opened:020d}"), run_name(run), once=True)
    return run


def read_run(storage: Storage, run: str) -> tuple[RunHeader, Entries]:
    """A run; its columns are views of the mapped file where it is one. Corrupt when it is damaged or missing."""
    try:
        return parse_run(whole(storage, run_name(run)), run_name(run))
    except FileNotFoundError:
        raise Corrupt(run_name(run), "the run is missing") from None


@dataclass(frozen=True)
class Cut:
    """The pending rows that one commit names."""

    extents: Extents
    runs: tuple[str, ...]
    notes: int
    rows: int
    nonfinite: int


@dataclass
class Pending:
    """Rows that no record names yet. Used under the pipeline's lock."""

    storage: Storage
    schema: Schema
    session: SessionInfo
    extents: list[tuple[int, int]] = field(default_factory=list)
    noted: list[Noted] = field(default_factory=list)
    spilled: list[str] = field(default_factory=list)
    rows: int = 0
    nonfinite: int = 0
    unspilled: int = 0
    spilt: Callable[[], None] | None = None     # called when a run was written ahead

    def note(self, ids: Any, epochs: npt.NDArray[np.int32], address: int, nonfinite: int) -> None:
        """These rows have their addresses now; the arrays are copied."""
        count = len(epochs)
        self.noted.append(Noted(ids if isinstance(ids, StringIds) else ids.copy(), epochs.copy(), address))
        self.extents.append((address, count))
        self.rows += count
        self.unspilled += count
        self.nonfinite += nonfinite

    def spill(self, *, force: bool = False) -> None:
        """Write the entries of what was noted as a run once they are many, or when asked to."""
        if self.unspilled and (force or self.unspilled >= SPILL_ROWS):
            entries = make_entries(self.noted, seed_of(self.schema.store_id))
            self.spilled.append(write_run(self.storage, self.schema, self.session, entries))
            self.noted.clear()
            self.unspilled = 0
            if not force and self.spilt is not None:
                self.spilt()

    def cut(self) -> Cut:
        """What there is now, with every entry in a run."""
        self.spill(force=True)
        return Cut(Extents(self.extents), tuple(self.spilled), len(self.extents), self.rows, self.nonfinite)

    def drop(self, cut: Cut) -> None:
        """A record names these now."""
        del self.extents[:cut.notes]
        del self.spilled[:len(cut.runs)]
        self.rows -= cut.rows
        self.nonfinite -= cut.nonfinite
