"""Power is lost at every moment of a scripted life: what was acknowledged is there, and nothing else; and a sync that is
missing, or comes late, is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zstore.testing.kills import KINDS, Kind
from zstore.testing.outages import decisive, journal_of, lose_everywhere
from zstore.testing.powerloss import Disk, Journal, half, sure, whole
from zstore.testing.system import Call

pytest.importorskip("zarr")

GROW, ERASE, COLUMN, COPY = Kind("grow"), Kind("erase"), Kind("column"), Kind("copy")
EVERYDAY = [Kind("grow"), Kind("roll", "lossless", True), Kind("column"), Kind("shared"), Kind("erase", "lossless", True),
            Kind("copy")]


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Journal]:
    """The journal of each life, led once."""
    led: dict[Kind, Journal] = {}

    def journal(kind: Kind) -> Journal:
        if kind not in led:
            led[kind] = journal_of(kind, tmp_path_factory.mktemp("life") / "disk")
        return led[kind]
    return journal


@pytest.mark.parametrize("kind", EVERYDAY, ids=str)
def test_a_power_loss_now_and_then(kind: Kind, journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    journal = journals(kind)
    count, problems = lose_everywhere(kind, journal, tmp_path, range(7, len(journal.entries), 80), randoms=1)
    assert not problems
    assert count > 10


def test_the_moments_of_the_tests_below_are_sound(journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    """With every sync in its place nothing is found, so what they find comes of the sync that they took."""
    for kind in (GROW, ERASE, COLUMN, COPY):
        journal = journals(kind)
        count, problems = lose_everywhere(kind, journal, tmp_path, decisive(journal), randoms=0)
        assert not problems
        assert count > 15


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_power_loss_at_every_moment(kind: Kind, journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    count, problems = lose_everywhere(kind, journals(kind), tmp_path)
    assert not problems
    assert count > 500


Wanted = Callable[[str, str], bool]


def of_file(end: Callable[[str], bool]) -> Wanted:
    return lambda kind, name: kind == "fsync" and end(name)


def of_folder(path: str) -> Wanted:
    return lambda kind, name: kind == "fsync folder" and name == path


def below(folder: str) -> Wanted:
    return of_file(lambda name: name.startswith(f"store/{folder}/"))


SYNCS: dict[str, tuple[Kind, Wanted]] = {
    "a shard's bytes": (GROW, of_file(lambda name: "/c." in name)),
    "a run's bytes": (GROW, below("_zstore/index")),
    "a record's bytes": (GROW, below("_zstore/commits")),
    "a claim's bytes": (GROW, below("_zstore/claims")),
    "a tag's bytes": (GROW, below("_zstore/tags")),
    "the bytes of deleted keys": (ERASE, below("_zstore/deletes")),
    "an array document's bytes": (GROW, of_file(lambda name: name.count("/") == 2 and name.endswith("/zarr.json"))),
    "the root's bytes": (GROW, of_file(lambda name: name == "store/zarr.json")),
    "a field's names": (GROW, of_folder("store/vectors")),
    "the index's names": (GROW, of_folder("store/_zstore/index")),
    "the records' names": (GROW, of_folder("store/_zstore/commits")),
    "the claims' names": (GROW, of_folder("store/_zstore/claims")),
    "the tags' names": (GROW, of_folder("store/_zstore/tags")),
    "the names of deleted keys": (ERASE, of_folder("store/_zstore/deletes")),
    "the store's own names": (GROW, of_folder("store")),
    "the names of our folders": (GROW, of_folder("store/_zstore")),
    "a late field's names": (COLUMN, of_folder("store/note")),
    "a compacted field's names": (COPY, of_folder("store-compacted/vectors")),
    "the compacted index's names": (COPY, of_folder("store-compacted/_zstore/index")),
    "the compacted claims' names": (COPY, of_folder("store-compacted/_zstore/claims")),
    "the store's name": (GROW, of_folder(".")),
}
LATE = ["a shard's bytes", "a run's bytes", "a claim's bytes", "the bytes of deleted keys", "a field's names",
        "the index's names", "the claims' names", "the names of deleted keys", "a late field's names",
        "a compacted field's names", "the compacted index's names"]


@pytest.mark.parametrize("what", SYNCS)
def test_a_missing_sync_is_seen(what: str, journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    kind, wanted = SYNCS[what]
    journal = journals(kind).without(wanted)
    assert len(journal.entries) < len(journals(kind).entries), "there was no such sync to leave out"
    _, problems = lose_everywhere(kind, journal, tmp_path, decisive(journal), randoms=0, enough=1)
    assert problems


@pytest.mark.parametrize("what", LATE)
def test_a_sync_behind_the_record_is_seen(what: str, journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    kind, wanted = SYNCS[what]
    journal = journals(kind).late(wanted, SYNCS["the records' names"][1])
    assert journal.entries != journals(kind).entries, "there was no such sync to delay"
    _, problems = lose_everywhere(kind, journal, tmp_path, decisive(journal), randoms=0, enough=1)
    assert problems


def test_a_root_that_is_durable_before_its_arrays_is_seen(journals: Callable[[Kind], Journal], tmp_path: Path) -> None:
    root = SYNCS["the store's own names"][1]
    fields = ("store/vectors", "store/ids", "store/epoch")

    def arrays(kind: str, name: str) -> bool:
        return kind == "fsync folder" and name in fields

    journal = journals(GROW).late(arrays, root)
    at = decisive(journal, "store")
    assert not lose_everywhere(GROW, journals(GROW), tmp_path, sorted(decisive(journals(GROW), "store"))[-4:], randoms=0)[1]
    problems = lose_everywhere(GROW, journal, tmp_path, at, randoms=0, enough=1)[1]
    assert any("zarr" in problem for problem in problems)


def disk(*calls: tuple[str, ...]) -> Disk:
    made = Disk()
    for number, (kind, path, *rest) in enumerate(calls):
        target, data = ("", rest[0].encode()) if kind == "write" else (rest[0] if rest else "", b"")
        made.apply(Call(number, kind, path, target, data))
    return made


def none(count: int) -> list[bool]:
    return [False] * count


def every(count: int) -> list[bool]:
    return [True] * count


def test_the_model_keeps_names_and_bytes_apart() -> None:
    made = disk(("mkdir", "a"), ("fsync folder", "."), ("create", "a/x"), ("write", "a/x", "1234"), ("fsync", "a/x"))
    assert made.left(none, whole) == {"a": None}
    assert made.left(every, sure) == {"a": None, "a/x": b"1234"}
    named = disk(("mkdir", "a"), ("fsync folder", "."), ("create", "a/x"), ("write", "a/x", "1234"), ("fsync folder", "a"))
    assert named.left(none, sure) == {"a": None, "a/x": b""}
    assert named.left(none, half) == {"a": None, "a/x": b"12"}


def test_the_model_renames_by_half() -> None:
    made = disk(("create", "old"), ("create", "new"), ("write", "new", "22"), ("fsync", "new"), ("fsync folder", "."),
                ("rename", "new", "old"))
    assert made.left(none, sure) == {"old": b"", "new": b"22"}
    assert made.left(lambda count: [True, False], sure) == {"old": b"22", "new": b"22"}
    assert made.left(lambda count: [False, True], sure) == {"old": b""}
    assert made.left(every, sure) == {"old": b"22"}


def test_what_a_lost_folder_held_is_lost() -> None:
    made = disk(("mkdir", "a"), ("create", "a/x"), ("fsync", "a/x"), ("fsync folder", "a"))
    assert made.left(none, sure) == {}
