"""Members of shared sessions that are killed at random moments, again and again, in one store after another.

Nobody scripts the moments here, and the members are real processes that commit at once. Each keeps a ledger of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zstore
from zstore.errors import StoreNotFound
from zstore.testing.examine import state_of
from zstore.testing.kills import fork, quiet, wait
from zstore.testing.life import Place, Row, vectors_of

MEMBERS = 3
ROWS = 400              # of one child, at most
ROUNDS = 8              # of one store
LONGEST_S = 60.0        # of a round; its children end without their parent too
PATIENCE_S = 1.0        # with members that have come to their end


@dataclass
class Tally:
    """What a storm did, and what it found wrong."""

    kills: int = 0
    commits: int = 0
    rows: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)


def storm(folder: Path, kills: int, seed: int) -> Tally:
    """Kill so many children, and look at the store after every round of them."""
    chance, tally = random.Random(seed), Tally()
    number = 0
    while tally.kills < kills:
        place = folder / f"storm-{number}"
        place.mkdir()
        number += 1
        for turn in range(ROUNDS):
            if tally.kills < kills:
                _round(place, turn, chance, tally)
        _end(place, tally)
        shutil.rmtree(place)
    return tally


def member(place: Path, child: int, token: str, number: int, seed: int) -> None:
    """A member's life: small batches, some filling shards, and a commit after each few, until its rows are used up."""
    chance = random.Random(seed)
    ledger = os.open(place / f"ledger-{child}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    with quiet():
        writer = zstore.Writer(str(place / "store"), rows_per_shard=16, commit_every_s=None,
                               session=token, member=number)
        start = at = child * ROWS
        while at < start + ROWS - 40:
            pending: list[int] = []
            for _ in range(chance.randint(1, 3)):
                rows: list[Row] = [(at + i, 0, 0) for i in range(chance.choice((1, 3, 9)))]
                at += len(rows)
                writer.append([n for n, _, _ in rows], vectors_of(rows))
                pending += [n for n, _, _ in rows]
            os.write(ledger, json.dumps(["begin", pending]).encode() + b"\n")
            writer.commit()
            os.write(ledger, json.dumps(["done", pending]).encode() + b"\n")
        writer.close()


def _round(place: Path, turn: int, chance: random.Random, tally: Tally) -> None:
    children: dict[int, Path] = {}
    token = f"launch-{turn}"
    used = turn * (MEMBERS + 1)

    def start(number: int) -> None:
        nonlocal used
        used += 1
        child, seed, errors = used, chance.randrange(2**31), place / f"error-{used}"
        children[fork(lambda: member(place, child, token, number, seed), errors)] = errors

    for number in range(MEMBERS):
        start(number)
    errors = place / f"error-gc-{turn}"
    children[fork(lambda: _collect(place), errors)] = errors
    again = chance.random() < 0.5
    try:
        while children:
            _let_them_work(place, chance)
            child = chance.choice(list(children))
            os.kill(child, signal.SIGKILL)
            if wait(child, children.pop(child)) == signal.SIGKILL:
                tally.kills += 1
            if again:           # a member that is restarted while the others live
                again = False
                start(0)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    _look(place, turn, tally)


def _let_them_work(place: Path, chance: random.Random) -> None:
    """Some steps of theirs, then a moment more; on a busy machine a time alone would kill them before they begin."""
    wanted, until = _steps(place) + chance.randrange(20), time.monotonic() + PATIENCE_S
    while _steps(place) < wanted and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(chance.random() * 0.03)


def _collect(place: Path) -> None:
    """gc, again and again, beside living members and among the remains of dead ones, until it is killed itself."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        with suppress(StoreNotFound):
            zstore.gc(str(place / "store"))
        time.sleep(0.01)


def _steps(place: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in place.glob("ledger-*"))


def _look(place: Path, turn: int, tally: Tally) -> None:
    """Every row that was told is there, what was under way is there wholly or not at all, and nothing else is."""
    url = str(place / "store")
    begun, done = _ledgers(place)
    told = {number for batch in done for number in batch}
    try:
        there = {number for number, _, _ in state_of(Place(url)).rows}
        findings = [str(finding) for finding in zstore.verify(url)]
    except StoreNotFound as error:
        there, findings = set(), [str(error)] if told else []
    lost = told - there
    tally.lost += len(lost)
    tally.problems += findings
    if lost:
        tally.problems.append(f"round {turn}: rows that were committed are gone: {sorted(lost)}")
    for batch in begun:
        if len(there & set(batch)) not in (0, len(batch)):
            tally.problems.append(f"round {turn}: half of a commit is there: {sorted(there & set(batch))} of {batch}")
    strangers = there - {number for batch in begun for number in batch}
    if strangers:
        tally.problems.append(f"round {turn}: rows that nobody committed: {sorted(strangers)}")


def _end(place: Path, tally: Tally) -> None:
    """A store that went through it all is collected and compacted, and still has its rows."""
    url = str(place / "store")
    _, done = _ledgers(place)
    tally.commits += len(done)
    if not done:
        return
    before = state_of(Place(url))
    tally.rows += len(before.rows)
    with quiet():
        zstore.Writer(url).close()      # fences them all
        zstore.gc(url)
        zstore.compact(url, f"{url}-compacted")
    for name in (url, f"{url}-compacted"):
        if state_of(Place(name)) != before:
            tally.problems.append(f"{name} holds other rows than before gc and compact")
        tally.problems += [str(finding) for finding in zstore.verify(name)]


def _ledgers(place: Path) -> tuple[list[list[int]], list[list[int]]]:
    lines = [line for path in sorted(place.glob("ledger-*")) for line in _lines(path)]
    return [numbers for what, numbers in lines if what == "begin"], [numbers for what, numbers in lines if what == "done"]


def _lines(path: Path) -> Iterator[tuple[str, list[int]]]:
    for line in path.read_text().splitlines():
        try:
            what, numbers = json.loads(line)
        except ValueError:
            return
        yield what, numbers
