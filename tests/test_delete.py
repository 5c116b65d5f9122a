"""Deleting: rows go from every version that follows, whatever it rolls back to, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zstore
from zstore.cli.main import main
from zstore.commits.deletes import _addresses
from zstore.commits.log import Log
from zstore.errors import Conflict, Corrupt, FormatError, StoreNotFound
from zstore.format import deletes as lists
from zstore.format import keys as key_rules
from zstore.format.checksum import open_json, seal_json
from zstore.format.run import Entries
from zstore.maintenance import checks_columns
from zstore.storage import open_storage
from zstore.storage.local import LocalStorage
from zstore.writing import entries

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Gate = Callable[..., None]


def batch(numbers: Any, strings: bool, take: int = 0) -> tuple[Any, Any]:
    """Ids, and vectors that say which id and which take they are of."""
    numbers = np.asarray(numbers)
    ids = [f"doc-{n}" for n in numbers.tolist()] if strings else numbers
    return ids, np.stack([numbers, np.full(len(numbers), take)], axis=1).astype(np.float32)


def one(number: int, strings: bool) -> Any:
    return f"doc-{number}" if strings else number


def held(url: str, **version: Any) -> list[tuple[int, int, int]]:
    """(number, epoch, take) of every row of a version, ascending, superseded ones too."""
    with zstore.Reader(url, **version) as reader:
        return sorted((int(v[0]), int(e), int(v[1])) for v, e in zip(reader.vectors, reader.field("epoch"), strict=True))


def rows(numbers: Any, epochs: Any = (0,), take: int = 0) -> list[tuple[int, int, int]]:
    return sorted((n, e, take) for n in numbers for e in epochs)


@pytest.fixture(params=["int", "str"])
def strings(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "str")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    """Stores that tests copy: one is made in a second, and copied in no time."""
    folder, out = tmp_path_factory.mktemp("made"), {}
    for strings in (False, True):
        path = out["store", strings] = folder / f"store-{strings}"
        with zstore.Writer(path, rows_per_shard=8) as writer:
            for epoch in range(3):
                writer.append(*batch(range(10), strings), epoch=epoch)
                writer.commit()
        again = out["deleted", strings] = folder / f"deleted-{strings}"
        shutil.copytree(path, again)
        zstore.delete(again, [one(3, strings), one(4, strings)])
        zstore.delete(again, one(5, strings), epoch=1)
        zstore.rollback(again, 3)
    return out


@pytest.fixture
def store(url: str, strings: bool, made: dict[tuple[str, bool], Path]) -> str:
    """Versions 1 to 3: epochs 0 to 2 of ten ids; 4 hands the tail over. Shards of 8 rows."""
    shutil.copytree(made["store", strings], url)
    return url


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Call it with a method of the local storage, what its name begins with, and what to do just before: once."""
    def put(method: str, begins: str, act: Callable[[], object]) -> None:
        real: Callable[..., Any] = getattr(LocalStorage, method)
        done: list[Any] = []

        def gated(self: LocalStorage, *arguments: Any, **options: Any) -> Any:
            named = [a for a in arguments if isinstance(a, str) and a.startswith(begins)]
            if named and not done:
                done.append(named)
                act()
            return real(self, *arguments, **options)
        monkeypatch.setattr(LocalStorage, method, gated)
        gates.append(done)
    gates: list[list[Any]] = []
    yield put
    assert all(gates), "a gate was never passed"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener soon takes a session that looks alive for alive."""
    monkeypatch.setattr(LocalStorage, "patience_s", 0.1)


# -- what it hides -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["one", "list", "array", "repeated"])
def test_rows_of_the_ids_are_hidden_at_once(store: str, strings: bool, what: str, sound: Callable[[str], None]) -> None:
    gone = [3] if what == "one" else [3, 7]
    ids: Any = one(3, strings) if what == "one" else [one(n, strings) for n in gone]
    if what == "array":
        ids = np.array(ids)
    if what == "repeated":
        ids = ids * 3
    before = zstore.Reader(store)
    commit = zstore.delete(store, ids)
    left = [n for n in range(10) if n not in gone]
    assert held(store) == rows(left, range(3))
    assert (commit.version, commit.rows, commit.new_rows) == (5, 3 * len(left), 0)
    assert commit == zstore.history(store)[-1]
    assert len(before) == 30 and before.refresh() and len(before) == commit.rows
    assert (before.find([one(n, strings) for n in gone], epoch=[0, 1, 2]) == -1).all()
    assert held(store, version=3) == rows(range(10), range(3))      # its older versions keep them, until compact
    group: Any = zarr.open_group(store, mode="r")
    seen = np.concatenate([group["vectors"][start:start + count] for start, count in group.attrs["zstore"]["extents"]])
    assert sorted(seen[:, 0].tolist()) == sorted(left * 3)          # foreign readers follow
    sound(store)


def test_superseded_rows_go_too(url: str, strings: bool, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=8) as writer:
        for take in range(3):
            writer.append(*batch(range(5), strings, take))
            writer.commit()
    with zstore.Writer(url) as writer:
        writer.append(*batch([2], strings, 9), epoch=1)
    zstore.delete(url, [one(2, strings)], epoch=0)
    assert [row for row in held(url) if row[0] == 2] == [(2, 1, 9)]
    assert len(held(url)) == 3 * 4 + 1
    with zstore.Reader(url) as reader:
        assert len(reader.epoch(0)) == 4 and reader.find(one(2, strings), epoch=0) == -1
        assert reader.get(one(2, strings))[1] == 9
    sound(url)


@pytest.mark.parametrize(("ids", "epoch", "gone"), [
    ([3, 4], 1, [(3, 1), (4, 1)]),
    ([3, 4], [1, 2], [(3, 1), (4, 2)]),
    ([3, 3, 4], np.array([0, 2, 1], np.uint8), [(3, 0), (3, 2), (4, 1)]),
    (3, range(2), [(3, 0), (3, 1)]),
    (3, 7, []),
    ([3], None, [(3, 0), (3, 1), (3, 2)]),
])
def test_epochs(store: str, strings: bool, ids: Any, epoch: Any, gone: list[tuple[int, int]]) -> None:
    ids = one(ids, strings) if isinstance(ids, int) else [one(n, strings) for n in ids]
    zstore.delete(store, ids, epoch=epoch)
    assert held(store) == [row for row in rows(range(10), range(3)) if row[:2] not in gone]


def test_many_ids_against_a_set(url: str, strings: bool, sound: Callable[[str], None]) -> None:
    rng, many = np.random.default_rng(0), 3_000
    with zstore.Writer(url, rows_per_shard=256) as writer:
        for epoch in range(3):
            writer.append(*batch(rng.permutation(many), strings), epoch=epoch)
            writer.commit()
    numbers, epochs = rng.integers(0, many, 2_000), rng.integers(0, 4, 2_000)
    zstore.delete(url, [one(n, strings) for n in numbers.tolist()], epoch=epochs)
    gone = set(zip(numbers.tolist(), epochs.tolist(), strict=True))
    wanted = [row for row in rows(range(many), range(3)) if row[:2] not in gone]
    assert held(url) == wanted
    every = set(rng.integers(0, many, 1_000).tolist())
    zstore.delete(url, batch(sorted(every), strings)[0])
    assert held(url) == [row for row in wanted if row[0] not in every]
    sound(url)


def test_ids_with_one_hash_are_told_apart(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = key_rules.hash_strings
    for module in (key_rules, entries, checks_columns):
        monkeypatch.setattr(module, "hash_strings", lambda ids, seed: (real(ids, seed)[0] & np.uint64(1), real(ids, seed)[1]))
    with zstore.Writer(url, rows_per_shard=8) as writer:
        for epoch in range(3):
            writer.append(*batch(range(10), True), epoch=epoch)
            writer.commit()
    zstore.delete(url, ["doc-3", "doc-4"], epoch=[1, 2])
    zstore.delete(url, "doc-5")
    assert held(url) == [row for row in rows(range(10), range(3)) if row[0] != 5 and row[:2] not in [(3, 1), (4, 2)]]
    assert zstore.verify(url) == []


def test_every_store_hashes_by_its_own_seed(tmp_path: Path) -> None:
    urls = [str(tmp_path / name) for name in "ab"]
    for url in urls:
        with zstore.Writer(url) as writer:
            writer.append(*batch(range(4), True))
        zstore.delete(url, "doc-1")
        assert held(url) == rows([0, 2, 3])
    (first,), (second,) = ([lists.parse_deletes(p.read_bytes(), p.name).keys for p in objects(url)] for url in urls)
    assert first.key.tolist() != second.key.tolist()


@pytest.mark.parametrize("lost", ["missing", "damaged"])
def test_a_lost_index_run_costs_speed_only(store: str, strings: bool, lost: str) -> None:
    run = sorted((Path(store) / "_zstore" / "index").iterdir())[0]
    run.unlink() if lost == "missing" else run.write_bytes(run.read_bytes()[:-9])
    zstore.delete(store, one(3, strings))
    assert held(store) == rows([n for n in range(10) if n != 3], range(3))


def test_in_memory(strings: bool, sound: Callable[[str], None]) -> None:
    url = f"memory://test-delete-{os.getpid()}-{strings}"
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(5), strings))
        mark = writer.state_dict()
    zstore.delete(url, one(3, strings))
    zstore.rollback(url, mark)
    assert held(url) == rows([0, 1, 2, 4])
    sound(url)


def test_on_s3(s3: Any) -> None:
    url = s3.url("delete")
    with zstore.Writer(url, rows_per_shard=4, storage_options=s3.options) as writer:
        writer.append(*batch(range(6), True))
    for n in (3, 5):
        zstore.delete(url, f"doc-{n}", storage_options=s3.options)
    commit = zstore.rollback(url, 1, storage_options=s3.options)
    assert commit.rows == 4 and zstore.verify(url, storage_options=s3.options) == []
    with zstore.Reader(url, storage_options=s3.options) as reader:
        assert reader.ids.tolist() == [f"doc-{n}" for n in (0, 1, 2, 4)]


# -- it is final ---------------------------------------------------------------------------------------------------

def roll_back(url: str, how: str, version: int) -> None:
    mark = zstore.history(url)[version].mark
    if how == "rollback":
        zstore.rollback(url, mark)
    elif how == "at":
        zstore.Writer(url, at=mark).close()
    else:
        with zstore.Writer(url) as writer:
            writer.load_state_dict(mark)


WAYS = ["rollback", "at", "load_state_dict"]


@pytest.mark.parametrize("how", WAYS)
def test_no_rollback_brings_rows_back(store: str, strings: bool, how: str, sound: Callable[[str], None]) -> None:
    zstore.delete(store, one(3, strings))
    zstore.delete(store, one(4, strings), epoch=1)
    roll_back(store, how, 2)
    left = [row for row in rows(range(10), range(2)) if row[0] != 3 and row[:2] != (4, 1)]
    assert held(store) == left
    roll_back(store, how, 3)                    # and forward again, past the first rollback
    assert held(store) == [row for row in rows(range(10), range(3)) if row[0] != 3 and row[:2] != (4, 1)]
    roll_back(store, how, 5)                    # between the two deletes
    assert held(store) == [row for row in rows(range(10), range(3)) if row[0] != 3 and row[:2] != (4, 1)]
    sound(store)


@pytest.mark.parametrize("how", WAYS)
def test_a_delete_of_what_head_does_not_hold_is_kept(store: str, strings: bool, how: str,
                                                     sound: Callable[[str], None]) -> None:
    zstore.rollback(store, 0)
    commit = zstore.delete(store, [one(3, strings), one(12345, strings)])
    assert (commit.rows, commit.version) == (0, 6)
    roll_back(store, how, 2)
    assert held(store) == rows([n for n in range(10) if n != 3], range(2))
    sound(store)


@pytest.mark.parametrize("how", WAYS)
def test_rows_appended_afterwards_count(store: str, strings: bool, how: str, sound: Callable[[str], None]) -> None:
    first = zstore.delete(store, [one(3, strings), one(4, strings)])
    with zstore.Writer(store) as writer:
        writer.append(*batch([3], strings, 1), epoch=0)
        again = writer.commit()
    assert again is not None
    zstore.delete(store, one(5, strings))
    roll_back(store, how, again.version)
    others = [n for n in range(10) if n not in (3, 4, 5)]
    assert held(store) == sorted([*rows(others, range(3)), (3, 0, 1)])
    zstore.delete(store, one(3, strings))
    roll_back(store, how, again.version)
    assert held(store) == rows(others, range(3))
    roll_back(store, how, first.version)
    assert held(store) == rows(others, range(3))
    sound(store)


def test_a_rollback_says_what_stays_away(store: str, strings: bool) -> None:
    zstore.delete(store, one(3, strings))
    with pytest.warns(UserWarning, match="2 rows of version 2 were deleted since, and stay away"):
        assert zstore.rollback(store, 2).rows == 18


@pytest.mark.parametrize("how", WAYS)
def test_a_rollback_that_can_not_know_what_was_deleted_is_refused(store: str, strings: bool, how: str) -> None:
    zstore.delete(store, one(3, strings))
    (lost,) = objects(store)
    lost.unlink()
    with pytest.raises(Corrupt, match=f"_zstore/deletes/{lost.name}: the list of keys .* is missing"):
        roll_back(store, how, 2)
    assert len(held(store)) == 27


# -- tails, counts, what head says ---------------------------------------------------------------------------------

def shards_of(url: str) -> int:
    return len(os.listdir(Path(url) / "_zstore" / "claims"))


@pytest.mark.parametrize(("cut", "shards"), [(1, 1), (4, 2), (None, 2)])
def test_a_tail_is_continued_only_where_extents_end_with_it(url: str, strings: bool, cut: int | None, shards: int,
                                                            sound: Callable[[str], None]) -> None:
    """Of five rows in a shard of eight, one in the midst is deleted, or the last, or all."""
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append(*batch(range(5), strings))
    gone = [cut] if cut is not None else list(range(5))
    zstore.delete(url, [one(n, strings) for n in gone])
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(10, 13), strings))
    assert held(url) == rows([*(n for n in range(5) if n not in gone), 10, 11, 12])
    assert shards_of(url) == shards
    with zstore.Reader(url, version=1) as reader:           # its addresses were given to nobody else
        assert reader.vectors[:, 0].tolist() == list(range(5))
    sound(url)


@pytest.mark.parametrize(("repeat", "expected"), [(False, 0), (True, None)])
def test_the_count_of_superseded_rows(url: str, repeat: bool, expected: int | None) -> None:
    with zstore.Writer(url) as writer:
        for take in range(1 + repeat):
            writer.append(*batch(range(5), False, take))
            writer.commit()
    zstore.delete(url, 3)
    head = Log(open_storage(url)).head()
    assert (head.superseded, head.deletes, head.new_rows) == (expected, head.version, 0)


def test_it_says_what_it_did(store: str, strings: bool) -> None:
    with pytest.warns(UserWarning, match=r"version 5 has 3 rows less: .* until `compact` writes a new store"):
        zstore.delete(store, one(3, strings))


def test_a_projection_that_fails_does_not_unsay_the_delete(store: str, strings: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.maintenance import opening

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(opening, "project", broken)
    with pytest.warns(UserWarning, match="version 5 is committed, but Zarr's documents could not be brought"):
        assert zstore.delete(store, one(3, strings)).rows == 27
    monkeypatch.undo()
    with zstore.Writer(store) as writer:        # the lock was let go of, and the next brings the documents
        writer.append(*batch([20], strings))
    assert zstore.verify(store) == []


# -- refusals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("ids", "epoch", "error", "says"), [
    ("doc-1", None, ValueError, "ids are integers"),
    ([1, "doc-1"], None, TypeError, "mix"),
    ([1.5], None, TypeError, "float"),
    (None, None, TypeError, ""),
    ([1, 2], [0], ValueError, "2 ids and 1 epochs"),
    ([1, 2], [[0, 1]], TypeError, "one int per id"),
    ([1], -1, ValueError, "from 0 to"),
    ([1], 2**40, ValueError, "from 0 to"),
    ([1], 0.5, TypeError, "one int"),
    ([1], True, TypeError, "one int"),
])
def test_what_is_no_key_is_refused_before_anything_is_written(url: str, ids: Any, epoch: Any, error: type[Exception],
                                                              says: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(3), False))
    with pytest.raises(error, match=says):
        zstore.delete(url, ids, epoch=epoch)
    assert len(zstore.history(url)) == 2 and not (Path(url) / "_zstore" / "deletes").exists()


def test_no_ids_publish_nothing(store: str) -> None:
    assert zstore.delete(store, []) == zstore.history(store)[-1]
    assert len(zstore.history(store)) == 5


def test_no_store(url: str) -> None:
    with pytest.raises(StoreNotFound):
        zstore.delete(url, 3)


@pytest.mark.parametrize("session", [None, "launch-1"])
def test_beside_a_living_writer_it_is_refused(url: str, session: str | None, strings: bool,
                                              sound: Callable[[str], None], impatient: None) -> None:
    writer = zstore.Writer(url, session=session)
    writer.append(*batch(range(5), strings))
    writer.commit()
    with pytest.raises(Conflict, match=rf"is being written by pid {os.getpid()} .* wait until it closes, or end it"):
        zstore.delete(url, one(3, strings))
    writer.append(*batch([7], strings))
    writer.close()
    zstore.delete(url, one(3, strings))
    assert held(url) == rows([0, 1, 2, 4, 7])
    sound(url)


def test_a_read_only_place_is_refused(store: str, strings: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: LocalStorage, only_writer: bool = False) -> None:
        raise PermissionError("not writable for this user")
    monkeypatch.setattr(LocalStorage, "writable", refused)
    with pytest.raises(PermissionError, match="not writable"):
        zstore.delete(store, one(3, strings))


# -- races and crashes ---------------------------------------------------------------------------------------------

def objects(url: str) -> list[Path]:
    """The lists of deleted keys, oldest first."""
    return sorted((Path(url) / "_zstore" / "deletes").iterdir())


def test_whoever_loses_its_number_starts_over_from_the_new_head(store: str, strings: bool, gate: Gate,
                                                                sound: Callable[[str], None]) -> None:
    """A writer takes the store over just before the delete's record, and appends rows of the key."""
    def meanwhile() -> None:
        with zstore.Writer(store, takeover=True) as writer:
            writer.append(*batch([3, 30], strings, 5), epoch=7)
    gate("create", "_zstore/commits/", meanwhile)
    commit = zstore.delete(store, one(3, strings))
    assert held(store) == sorted([*rows([n for n in range(10) if n != 3], range(3)), (30, 7, 5)])
    assert [path.name for path in objects(store)] == [lists.deletes_id(commit.version, commit.commit_id)]
    sound(store)


def test_two_deletes_that_try_for_one_number(store: str, strings: bool, gate: Gate, monkeypatch: pytest.MonkeyPatch,
                                             sound: Callable[[str], None]) -> None:
    """Both write their lists before either has its record: neither list is written over."""
    monkeypatch.setattr(LocalStorage, "try_exclusive_live", lambda self, name: self.share_live(name))     # a zombie's lock
    gate("create", "_zstore/commits/", lambda: zstore.delete(store, one(4, strings)))
    commit = zstore.delete(store, one(3, strings))
    assert commit.version == 6 and len(objects(store)) == 2
    zstore.rollback(store, 3)
    assert held(store) == rows([n for n in range(10) if n not in (3, 4)], range(3))
    sound(store)


def test_a_crash_between_the_list_and_the_record(store: str, strings: bool, monkeypatch: pytest.MonkeyPatch,
                                                 sound: Callable[[str], None]) -> None:
    real = LocalStorage.create

    def broken(self: LocalStorage, draft: Any, name: str) -> bool:
        raise OSError(5, "Input/output error")
    monkeypatch.setattr(LocalStorage, "create", broken)
    with pytest.raises(OSError, match="Input/output"):
        zstore.delete(store, one(3, strings))
    monkeypatch.setattr(LocalStorage, "create", real)
    (left,) = objects(store)
    assert held(store) == rows(range(10), range(3))
    sound(store)                                        # litter is no finding
    zstore.delete(store, one(4, strings))               # of the same number, another list
    zstore.rollback(store, 1)
    assert held(store) == rows([n for n in range(10) if n != 4])
    assert f"_zstore/deletes/{left.name}" in zstore.gc(store)
    sound(store)


def test_the_list_is_durable_before_the_record(store: str, strings: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_sync, real_create = LocalStorage.sync, LocalStorage.create

    def sync(self: LocalStorage, folders: Any) -> None:
        folders = list(folders)
        steps.extend(folders)
        real_sync(self, folders)

    def create(self: LocalStorage, draft: Any, name: str) -> bool:
        steps.append(name.rpartition("/")[0])
        return real_create(self, draft, name)
    monkeypatch.setattr(LocalStorage, "sync", sync)
    monkeypatch.setattr(LocalStorage, "create", create)
    zstore.delete(store, one(3, strings))
    assert steps.index("_zstore/deletes") < steps.index("_zstore/commits")


def test_a_delete_by_takeover_fences_the_old_writer_for_good(store: str, strings: bool,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie's commit after the delete is refused, so it can't restate the rows."""
    zombie = zstore.Writer(store, commit_every_s=None)
    zombie.append(*batch([40], strings))
    with monkeypatch.context() as dead:
        dead.setattr(LocalStorage, "try_exclusive_live", lambda self, name: self.share_live(name))
        zstore.delete(store, one(3, strings))
    with pytest.raises(zstore.errors.StaleWriter):
        zombie.commit()
    with pytest.raises(zstore.errors.StaleWriter):
        zombie.close()
    assert held(store) == rows([n for n in range(10) if n != 3], range(3))


# -- verify --------------------------------------------------------------------------------------------------------

@pytest.fixture
def deleted(url: str, strings: bool, made: dict[tuple[str, bool], Path]) -> str:
    """Ids 3 and 4 were deleted (version 5), then 5 at epoch 1 (version 6), then version 3 was rolled back to."""
    shutil.copytree(made["deleted", strings], url)
    return url


def test_a_store_with_deletes_is_sound(deleted: str) -> None:
    assert zstore.verify(deleted) == [] == zstore.verify(deleted, quick=True)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("damage", ["missing", "cut", "swapped", "flipped", "of another store"])
def test_verify_names_a_damaged_list(deleted: str, damage: str, quick: bool, strings: bool, tmp_path: Path) -> None:
    first, second = objects(deleted)
    broken = [first]
    if damage == "missing":
        first.unlink()
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "flipped":
        first.write_bytes(first.read_bytes()[:10] + b"\xff" + first.read_bytes()[11:])
    elif damage == "swapped":
        one_, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one_)
        broken.append(second)
    else:
        found = lists.parse_deletes(first.read_bytes(), first.name)
        other = lists.Deletes("0" * 32, found.version, found.commit_id, found.length, None, strings, found.keys)
        first.write_bytes(b"".join(bytes(part) for part in lists.deletes_parts(other)))
    findings = zstore.verify(deleted, quick=quick)
    assert [f.object for f in findings] == [f"_zstore/deletes/{path.name}" for path in broken]
    assert [f.mends for f in findings] == [None] * len(broken)
    assert [f.object for f in zstore.verify(deleted, repair=True)] == [f.object for f in findings]


def forge(url: str, version: int, **members: Any) -> None:
    """Write a record again with other members, sealed."""
    path = Path(url) / "_zstore" / "commits" / f"{version:020d}.json"
    path.write_bytes(seal_json({**open_json(path.read_bytes(), path.name), **members}))


@pytest.mark.parametrize(("version", "member", "says"), [
    (5, "back", "rows whose keys were deleted"), (7, "back", "rows whose keys were deleted"),
    (5, "lost", "rows that were never deleted"), (7, "lost", "rows that were never deleted"),
    (7, "forgets", "does not carry on what was deleted"),
])
def test_verify_holds_the_rows_against_the_lists(deleted: str, version: int, member: str, says: str) -> None:
    record = Log(open_storage(deleted)).read(version)
    pairs = [list(pair) for pair in record.extents]
    if member == "back":
        forge(deleted, version, extents=[[0, 30]])
    elif member == "lost":
        forge(deleted, version, extents=pairs[1:])
    else:
        forge(deleted, version, deletes=None)
    found = [f for f in zstore.verify(deleted) if f.object.endswith(f"{version:020d}.json") and says in f.problem]
    assert found


# -- bytes ---------------------------------------------------------------------------------------------------------

def a_list(strings: bool) -> tuple[bytes, str]:
    keys = lists.Keys(np.array([5, 5, 9], np.uint64), np.array([0, 7, 1], np.uint32), np.array([-1, 3, 0], np.int32))
    found = lists.Deletes("ab" * 16, 12, "cd" * 16, 400, lists.deletes_id(3, "ef" * 16), strings, keys)
    return b"".join(bytes(part) for part in lists.deletes_parts(found)), f"_zstore/deletes/{lists.deletes_id(12, 'cd' * 16)}"


def test_a_list_comes_back(strings: bool) -> None:
    found = lists.parse_deletes(*a_list(strings))
    assert (found.version, found.length, found.strings) == (12, 400, strings)
    assert found.previous == f"{3:020d}-{'ef' * 16}"
    assert (found.keys.key.tolist(), found.keys.epoch.tolist()) == ([5, 5, 9], [-1, 3, 0])
    assert found.keys.check.tolist() == ([0, 7, 1] if strings else [0, 0, 0])


def test_every_flip_and_every_cut_of_a_list_is_corrupt(strings: bool) -> None:
    data, name = a_list(strings)
    for at in range(len(data)):
        with pytest.raises(Corrupt, match=r"_zstore/deletes/"):
            lists.parse_deletes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1:], name)
        with pytest.raises(Corrupt):
            lists.parse_deletes(data[:at], name)
    with pytest.raises(Corrupt, match="another commit's"):
        lists.parse_deletes(data, name[:-1] + "0")


@pytest.mark.parametrize(("old", "new", "error"), [
    (b'"format":"1.0"', b'"format":"2.0"', FormatError), (b'"keys":3', b'"keys":9', Corrupt),
    (b'"keys":3', b'"keys":1e9', Corrupt), (b'"length":400', b'"length":-1', Corrupt),
    (b'"version":12', b'"version":true', Corrupt), (b'"previous":"0', b'"previous":"9', Corrupt),
    (b'"previous"', b'"previou"', Corrupt), (b'"store_id":"', b'"store_id":3,"x":"', Corrupt),
    (b'{"format"', b'["format"', Corrupt), (b"\xff\xff\xff\xff\x03", b"\xfe\xff\xff\xff\x03", Corrupt),
])
def test_a_sealed_list_of_a_stranger(old: bytes, new: bytes, error: type[Exception]) -> None:
    import struct

    from zstore.format.checksum import crc32c
    data, name = a_list(True)
    assert data.count(old) == 1
    text_bytes = struct.unpack("<I", data[-8:-4])[0] + len(new) - len(old)
    body = data[:-8].replace(old, new) + struct.pack("<I", text_bytes)
    with pytest.raises(error):
        lists.parse_deletes(body + struct.pack("<I", crc32c(body)), name)


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [0, 2, 1]])
def test_a_list_that_does_not_ascend_is_refused(order: list[int], strings: bool) -> None:
    """A key that comes a thousand times would have its rows laid out a thousand times."""
    key, epoch = np.array([5, 5, 9], np.uint64)[order], np.array([-1, 3, 0], np.int32)[order]
    keys = lists.Keys(key, np.zeros(len(order), np.uint32), epoch)
    found = lists.Deletes("ab" * 16, 12, "cd" * 16, 400, None, strings, keys)
    name = f"_zstore/deletes/{lists.deletes_id(12, 'cd' * 16)}"
    with pytest.raises(Corrupt, match="do not ascend"):
        lists.parse_deletes(b"".join(map(bytes, lists.deletes_parts(found))), name)
    distinct = b"".join(map(bytes, lists.deletes_parts(replace(found, keys=keys.distinct()))))
    assert len(lists.parse_deletes(distinct, name).keys) == len(set(order))


def test_keys_that_differ_in_the_check_alone_cost_one_span() -> None:
    """As a forged list may have them; the rows are those with a check that is there."""
    n = 3000
    entries_ = Entries(np.full(n, 5, np.uint64), np.arange(n, dtype=np.uint32) % 7, np.arange(n, dtype=np.int32), np.arange(n))
    keys = lists.Keys(np.full(n, 5, np.uint64), np.arange(3, n + 3, dtype=np.uint32), np.full(n, -1, np.int32))
    tracemalloc.start()
    found = _addresses(entries_, keys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(found.tolist()) == [at for at in range(n) if at % 7 >= 3]
    assert peak < 2**22         # every check's span would be 9 million rows


# -- stores that compact is making ---------------------------------------------------------------------------------

def test_a_store_that_is_being_made_is_no_store_yet(url: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(3), False))
    for path in (Path(url) / "_zstore" / "commits").iterdir():
        if int(path.stem):
            path.unlink()
    forge(url, 0, whole=1)
    calls: list[Callable[[], Any]] = [
        lambda: zstore.Reader(url), lambda: zstore.verify(url), lambda: zstore.history(url), lambda: zstore.gc(url),
        lambda: zstore.delete(url, 1), lambda: zstore.rollback(url, 0)]
    for call in calls:
        with pytest.raises(StoreNotFound, match="still being made by compact"):
            call()
    with pytest.raises(Conflict, match="still being made by compact"):
        zstore.Writer(url)
    assert len(os.listdir(Path(url) / "_zstore" / "commits")) == 1


# -- the command ---------------------------------------------------------------------------------------------------

def ran(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(store: str, strings: bool, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "delete", store, str(one(3, strings)), str(one(4, strings)), "--epoch", "1")
    assert (code, out) == (0, "version 5 is head: 28 rows; 2 rows of 2 ids deleted\n")
    assert "until `zstore compact` writes a new store" in err
    code, out, err = ran(capsys, "delete", store, str(one(3, strings)), "--json")
    facts = json.loads(out)
    assert (code, facts["version"], facts["rows"], facts["deleted"], facts["ids"]) == (0, 6, 26, 2, 1)
    assert facts["mark"] == zstore.history(store)[-1].mark


@pytest.mark.parametrize("place", ["file", "-"])
def test_ids_from_a_file(store: str, strings: bool, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                         monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{one(3, strings)}\n\n{one(4, strings)}\n"
    (tmp_path / "ids").write_text(text)
    monkeypatch.setattr(sys, "stdin", StringIO(text))
    where = str(tmp_path / "ids") if place == "file" else "-"
    code, out, _ = ran(capsys, "delete", store, str(one(5, strings)), "--ids-from", where)
    assert (code, out) == (0, "version 5 is head: 21 rows; 9 rows of 3 ids deleted\n")


@pytest.mark.parametrize(("words", "code", "says"), [
    ([], 2, "no ids are given"), (["x"], 2, "integers"), (["1", "--ids-from", "/nowhere/ids"], 3, "there is no file"),
    (["1", "--epoch", "-3"], 2, "from 0 to"),
])
def test_mistakes_are_one_sentence(url: str, words: list[str], code: int, says: str,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(3), False))
    got, out, err = ran(capsys, "delete", url, *words)
    assert (got, out) == (code, "") and says in err and len(err.splitlines()) == 1


def test_the_command_without_a_store_and_beside_a_writer(url: str, capsys: pytest.CaptureFixture[str],
                                                             impatient: None) -> None:
    assert ran(capsys, "delete", url, "1")[0] == 3
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(3), False))
        writer.commit()
        code, _, err = ran(capsys, "delete", url, "1")
    assert code == 5 and "is being written by" in err
