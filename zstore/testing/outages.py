"""Scripted lives that lose power at every call, and what is left of them."""

from __future__ import annotations

import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from zstore.testing.examine import examine
from zstore.testing.kills import Kind, live, quiet
from zstore.testing.life import Account, Ledger, Place
from zstore.testing.powerloss import Disk, Heard, Journal, Tree, digest, lay, states
from zstore.testing.system import Call, System, installed


def journal_of(kind: Kind, folder: Path) -> Journal:
    """Lead the life once in this folder, which is made."""
    folder.mkdir()
    journal = Journal(str(folder))
    ledger = Ledger(str(folder.parent / f"{folder.name}-ledger"), journal.hear)
    with installed(journal.system()):
        live(kind, Place(str(folder / "store")), ledger)
    ledger.close()
    return journal


@dataclass(frozen=True)
class Moment:
    """One way in which a power loss before an entry of the journal may leave the disk."""

    entry: int
    how: str
    tree: Tree
    told: tuple[str, ...]


def moments(journal: Journal, at: Container[int] | None = None, *, randoms: int = 2) -> Iterator[Moment]:
    """The states before these entries (None: before each, and at the end), no two of them alike in what is left and in what
    was told."""
    disk, told, seen = Disk(), list[str](), set[tuple[bytes, int]]()
    for number in range(len(journal.entries) + 1):
        if at is None or number in at:
            for how, tree in states(disk, number, randoms):
                key = digest(tree), len(told)
                if key not in seen:
                    seen.add(key)
                    yield Moment(number, how, tree, tuple(told))
        if number < len(journal.entries):
            entry = journal.entries[number]
            if isinstance(entry, Heard):
                told.append(entry.line)
            else:
                disk.apply(entry)


def found_after(kind: Kind, moment: Moment, folder: Path) -> list[str]:
    """What is wrong with a store that is found like this; the folder is used and removed."""
    folder.mkdir()
    lay(moment.tree, folder)
    with quiet(), installed(System()):
        problems = examine(Place(str(folder / "store")), Account.of(moment.told), strings=kind.strings)
    shutil.rmtree(folder)
    return [f"{kind}, power lost at entry {moment.entry}, {moment.how}: {problem}" for problem in problems]


def lose_everywhere(kind: Kind, journal: Journal, folder: Path, at: Container[int] | None = None, *, randoms: int = 2,
                    enough: int | None = None) -> tuple[int, list[str]]:
    """Look at every moment; how many states, and all that was wrong, or the first ``enough`` of it."""
    count, problems = 0, list[str]()
    for moment in moments(journal, at, randoms=randoms):
        count += 1
        problems += found_after(kind, moment, folder / f"{kind}-{moment.entry}")
        if enough is not None and len(problems) >= enough:
            break
    return count, problems


def decisive(journal: Journal, folder: str = "_zstore/commits") -> set[int]:
    """The moments at which a missing or late sync must show: when names in this folder have just become durable, and the
    end."""
    after = {number + 1 for number, entry in enumerate(journal.entries)
             if isinstance(entry, Call) and entry.kind == "fsync folder" and f"/{entry.path}".endswith(f"/{folder}")}
    return after | {len(journal.entries)}
