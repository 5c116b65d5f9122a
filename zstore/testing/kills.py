"""Scripted lives that end by SIGKILL at their n-th system call, and what is left of them."""

from __future__ import annotations

import os
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zstore.testing.examine import examine
from zstore.testing.life import Account, Ledger, Life, Place
from zstore.testing.system import Hook, System, installed, kill_at
from zstore.testing.themes import THEMES

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Kind:
    """A scripted life, and the kind of store that it leads."""

    theme: str
    codec: str = "raw"
    strings: bool = False

    def __str__(self) -> str:
        return f"{self.theme}-{self.codec}-{'str' if self.strings else 'int'}"


KINDS = [Kind("grow"), Kind("grow", "lossless", True), Kind("roll"), Kind("roll", "lossless", True), Kind("column"),
         Kind("column", "small", True), Kind("shared"), Kind("shared", "lossless", True), Kind("many"), Kind("erase"),
         Kind("erase", "lossless", True), Kind("copy"), Kind("copy", "lossless", True)]


@contextmanager
def quiet() -> Iterator[None]:
    """Let a rollback, and a session that supersedes keys, pass without their warning; every other warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(rolled back from|are superseded by|they are deleted)")
        warnings.filterwarnings("ignore", message=".*(does not have a Zarr V3|not part in the Zarr format 3) specification")
        yield


def live(kind: Kind, place: Place, ledger: Ledger) -> None:
    """Lead the life from its first call to its last."""
    with quiet():
        THEMES[kind.theme](Life(place, ledger, codec=kind.codec, strings=kind.strings))


def killed_at(kind: Kind, folder: Path, number: int, *, torn: bool = False) -> bool:
    """Lead the life in a forked child that dies at that call; False where it ended before. Leaves ``store`` and ``ledger``."""
    child = fork(lambda: _led(kind, folder, kill_at(number, torn=torn)), folder / "error")
    return wait(child, folder / "error") == signal.SIGKILL


def calls_of(kind: Kind, folder: Path) -> list[str]:
    """The kind of each call of one whole life, in order. Threads make another run a few calls longer or shorter."""
    kinds: list[str] = []
    folder.mkdir()
    system = System(after=lambda call: kinds.append(call.kind))
    ledger = Ledger(str(folder / "ledger"))
    with installed(system):
        live(kind, Place(str(folder / "store")), ledger)
    ledger.close()
    return kinds


def left_of(kind: Kind, folder: Path) -> list[str]:
    """What is wrong with the store that a life left in this folder."""
    with quiet(), open(folder / "ledger") as lines:
        return examine(Place(str(folder / "store")), Account.of(lines), strings=kind.strings)


def kill_everywhere(kind: Kind, folder: Path, numbers: Iterable[int], *, torn: bool = False) -> tuple[int, list[str]]:
    """Kill at each of these calls, and look at what is left; how many kills, and all that was wrong."""
    kills, problems = 0, []
    for number in numbers:
        place = folder / f"{kind}-{number}-{torn}"
        place.mkdir()
        if killed_at(kind, place, number, torn=torn):
            kills += 1
        where = f"{kind} killed {'half-way in' if torn else 'at'} call {number}"
        problems += [f"{where}: {problem}" for problem in left_of(kind, place)]
        shutil.rmtree(place)
    return kills, problems


def fork(work: Callable[[], None], errors: Path) -> int:
    """A child that does this and ends at once, without a word to anyone; its traceback goes to ``errors``."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def wait(child: int, errors: Path) -> int:
    """The signal that ended the child, or 0; AssertionError where it failed or did not end."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"the child did not end within {PATIENCE_S:.0f} s")
        time.sleep(0.001)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise AssertionError(errors.read_text() if errors.exists() else f"the child ended with {os.WEXITSTATUS(status)}")
    return 0


def _led(kind: Kind, folder: Path, hook: Hook) -> None:
    with installed(System(hook)):
        live(kind, Place(str(folder / "store")), Ledger(str(folder / "ledger")))
