"""Runs of the key index against the ids and epochs that they were made from; and making them again."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zstore._typing import Int64s
from zstore.commits.log import Log
from zstore.errors import Corrupt
from zstore.format.extents import Extents
from zstore.format.layout import INDEX, run_name
from zstore.format.run import Entries, RunHeader, epoch_spans, parse_run, run_parts
from zstore.format.schema import Schema
from zstore.maintenance.checks_columns import KeyColumns, Problem
from zstore.maintenance.checks_log import sentence
from zstore.maintenance.story import RunsOf, Story

STEP = 2**16            # addresses that are compared at once
_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{32}\Z")


@dataclass
class RunCheck:
    """Checks runs in the order of the records that name them first, and learns which addresses each must cover."""

    log: Log
    story: Story
    schema: Schema
    columns: KeyColumns
    quick: bool
    extents: dict[str, Extents] = field(default_factory=dict)       # of every run so far, as it is or should be

    def problems(self, version: int) -> dict[str, Problem]:
        """What is wrong with the runs that this version's record adds, by run."""
        runs = self.story.runs[version]
        out: dict[str, Problem] = {}
        for run in runs.added:
            try:
                header, entries = self._load(run, runs)
                self.extents[run] = header.extents
                wrong = self._header_problem(header, entries)
                if wrong:
                    out[run] = wrong, header.extents
            except Corrupt as error:
                out[run] = sentence(error), Extents()
            except OSError as error:
                out[run] = f"it can't be read: {error}", Extents()
        self._settle(runs, out)
        return out

    def parts(self, run: str, version: int) -> list[Any] | None:
        """The run's bytes as they must have been, from the columns; None where these can't be read."""
        extents = self.extents[run]
        opened = int(run[:20]) if _NAME.match(run) else self.story.runs[version].session
        session = next((name for name, number in self.story.sessions.items() if number == opened), None)
        addresses = extents.addresses()
        hashed = self.columns.hashes(addresses)
        if hashed is None or session is None:
            return None
        key, check, epoch = hashed
        header = RunHeader(self.schema.store_id, session, opened, len(addresses), self.schema.ids_are_strings, extents,
                           epoch_spans(epoch, addresses))
        return run_parts(header, Entries(key, check, epoch, addresses).sorted())

    def _load(self, run: str, runs: RunsOf) -> tuple[RunHeader, Entries]:
        name = run_name(run)
        try:
            header, entries = parse_run(_bytes_of(self.log, name), name, check=not self.quick)
        except FileNotFoundError:
            raise Corrupt(name, "a run of the key index is missing") from None
        if header.store_id != self.schema.store_id or header.strings != self.schema.ids_are_strings:
            raise Corrupt(name, "the run belongs to another store")
        if self.story.sessions.get(header.session) != header.opened or (
                _NAME.match(run) and int(run[:20]) != header.opened):
            raise Corrupt(name, "the run was written by a session that is not its name's, or not of this log")
        return header, entries

    def _header_problem(self, header: RunHeader, entries: Entries) -> str | None:
        if len(header.extents) != header.rows:
            return "its header misstates which addresses it covers"
        if self.quick:
            return None
        order = np.argsort(entries.address, kind="stable")
        addresses, epochs = entries.address[order], entries.epoch[order]
        if not np.array_equal(addresses, header.extents.addresses()):
            return "its entries are not of the addresses that its header names"
        if header.epochs is not None and header.epochs != epoch_spans(epochs, addresses):
            return "its header misstates which epochs lie where"
        if not _is_sorted(entries):
            return "its entries are not in order"
        return self._entries_problem(entries, order, addresses)

    def _entries_problem(self, entries: Entries, order: Int64s, addresses: Int64s) -> str | None:
        """Held against the columns, a piece at a time; what can't be read there is a finding of its own."""
        for at in range(0, len(order), STEP):
            piece = order[at:at + STEP]
            hashed = self.columns.hashes(addresses[at:at + STEP])
            if hashed is None:
                continue
            wrong = ((hashed[0] != entries.key[piece]) | (hashed[1] != entries.check[piece])
                     | (hashed[2] != entries.epoch[piece]))
            if wrong.any():
                first = addresses[at + int(wrong.argmax())]
                return f"it gives other keys than the ids and epochs of its rows (the first at address {first})"
        return None

    def _settle(self, runs: RunsOf, out: dict[str, Problem]) -> None:
        """The added runs cover the record's new rows and those of the runs that they replace, each once."""
        replaced = Extents(pair for run in runs.removed for pair in self.extents.get(run, Extents()))
        left, bad = runs.delta | replaced, [run for run in runs.added if run in out]
        for run in runs.added:
            if run in out:
                continue
            if len(self.extents[run] - left):
                out[run] = "it covers rows that its commit did not add, or that another run covers", self.extents[run]
                bad.append(run)
            else:
                left = left - self.extents[run]
        for run in bad:
            # What no sound run covers is the damaged ones'. A merged run comes first in its record. Where a commit that
            # was spilled into several runs lost more than one, the first takes all: which had what does not matter.
            merged = len(bad) > 1 and run == runs.added[0] and bool(runs.removed)
            self.extents[run] = left & replaced if merged else left
            left = left - self.extents[run]
            out[run] = out[run][0], self.extents[run]
        old, new = left & replaced, left - replaced
        if len(old):
            run = runs.added[0]
            out[run], self.extents[run] = ("it does not cover all rows of the runs that it replaced", old), (
                self.extents[run] | old)
        if len(new):
            run = runs.added[-1]
            out[run], self.extents[run] = ("it does not cover all rows that its commit added", new), self.extents[run] | new


def mend_run(check: RunCheck, run: str, version: int, tag: str) -> bool:
    """Write the run again, under its name, from the ids and epochs of its rows. False where these can't be read."""
    parts = check.parts(run, version)
    if parts is None:
        return False
    storage = check.log.storage
    storage.make_folders([INDEX])
    storage.replace(storage.draft(parts, tag), run_name(run))
    storage.sync([INDEX])
    return True


def _is_sorted(entries: Entries) -> bool:
    same = entries.key[1:] == entries.key[:-1]
    epochs = entries.epoch[1:].astype(np.int64) - entries.epoch[:-1]
    return bool((entries.key[1:] >= entries.key[:-1]).all() and (epochs[same] >= 0).all()
                and (entries.address[1:] > entries.address[:-1])[same & (epochs == 0)].all())


def _bytes_of(log: Log, name: str) -> Any:
    """The whole object, mapped where it is a file: a quick look then reads its ends only."""
    handle = log.storage.open(name)
    try:
        descriptor = handle.fileno()
        if descriptor is None or not handle.size:
            return handle.read(0, handle.size)
        return mmap.mmap(descriptor, handle.size, access=mmap.ACCESS_READ)
    finally:
        handle.close()
