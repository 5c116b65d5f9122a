"""The requests of an S3 storage, numbered, and lives that end by SIGKILL at one of them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zstore.storage.s3 import S3Backend
from zstore.testing.examine import examine
from zstore.testing.kills import Kind, fork, live, quiet, wait
from zstore.testing.life import Account, Ledger, Place
from zstore.testing.s3 import Server


@contextmanager
def watched(before: Callable[[int], None], after: Callable[[int], None]) -> Iterator[list[int]]:
    """Number every request of every S3 storage of this process; gives a list whose one item is how many there were.

    Requests of several threads are under way at once: unlike system calls, they are not put in line."""
    count, lock, plain = [0], threading.Lock(), S3Backend._do

    def do(self: S3Backend, *arguments: Any, **options: Any) -> Any:
        with lock:
            count[0] += 1
            number = count[0]
        before(number)
        try:
            return plain(self, *arguments, **options)
        finally:
            after(number)       # a refusal is an answer too

    vars_of: Any = S3Backend
    vars_of._do = do
    try:
        yield count
    finally:
        vars_of._do = plain


def requests_of(kind: Kind, place: Place, folder: Path) -> int:
    """How many requests one whole life makes."""
    ledger = Ledger(str(folder / "whole"))
    with watched(_nothing, _nothing) as count:
        live(kind, place, ledger)
    ledger.close()
    return count[0]


def kill_at_requests(kind: Kind, server: Server, folder: Path, numbers: Iterable[int], *, answered: bool = False,
                     ) -> tuple[int, list[str]]:
    """Kill at each of these requests, before it is sent, or (``answered``) once it is answered but before anybody hears of
    it; how many kills, and all that was wrong with what was left."""
    kills, problems = 0, []
    for number in numbers:
        spot, place = folder / f"{kind}-{number}-{answered}", Place(server.url(), server.options)
        spot.mkdir()
        child = fork(lambda n=number, p=place, s=spot: _led(kind, p, s, n, answered), spot / "error")  # type: ignore[misc]
        kills += wait(child, spot / "error") == signal.SIGKILL
        with quiet(), open(spot / "ledger") as lines:
            found = examine(place, Account.of(lines), strings=kind.strings)
        problems += [f"{kind} killed {'after' if answered else 'before'} request {number}: {problem}" for problem in found]
        shutil.rmtree(spot)
    return kills, problems


def _led(kind: Kind, place: Place, folder: Path, number: int, answered: bool) -> None:
    def kill(at: int) -> None:
        if at == number:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
    with watched(_nothing if answered else kill, kill if answered else _nothing):
        live(kind, place, Ledger(str(folder / "ledger")))


def _nothing(number: int) -> None:
    """Nothing."""
