"""Removing litter: what no version names and no session can name any more goes, and nothing else, at any moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.cli.main import main
from zstore.commits.claims import claim_path, claim_shard
from zstore.commits.log import Log
from zstore.commits.opening import Request, open_session
from zstore.errors import Conflict, Corrupt, FormatError, StaleWriter, StoreNotFound
from zstore.format.checksum import open_json, seal_json
from zstore.storage import open_storage
from zstore.storage.local import LocalStorage
from zstore.writing import registry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FIELDS = ("vectors", "ids", "epoch")


def batch(numbers: Any) -> tuple[Any, Any]:
    numbers = np.asarray(numbers)
    return numbers, np.stack([numbers, -numbers], axis=1).astype(np.float32)


def ids_of(url: str, **version: Any) -> list[int]:
    with zstore.Reader(url, **version) as reader:
        assert (reader.vectors[:, 0] == reader.ids).all()
        found: list[int] = reader.ids.tolist()
        return found


def every_version(url: str) -> list[list[int]]:
    return [ids_of(url, version=commit.version) for commit in zstore.history(url)]


def tree(url: str) -> set[str]:
    return {str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Session 0 left two committed shards and, uncommitted, three sealed ones, a run and half a record. Session 2 took over,
    wrote rows (version 3), and closed; session 5, head's, rolled back to version 1."""
    url = str(tmp_path_factory.mktemp("made") / "run.zarr")
    lost = zstore.Writer(url, rows_per_shard=4, commit_every_s=None)
    lost.append(*batch(range(8)))
    lost.commit()
    lost.append(*batch(range(100, 112)))
    with pytest.MonkeyPatch.context() as broken:
        def refuse(self: LocalStorage, draft: Any, name: str) -> bool:
            if "/commits/" in name:
                raise OSError(5, "Input/output error")
            return real(self, draft, name)
        real = LocalStorage.create
        broken.setattr(LocalStorage, "create", refuse)
        with pytest.raises(OSError, match="Input/output"):
            lost.commit()
    registry.leave(lost.url, lost)          # as if it were another process's
    with zstore.Writer(url, takeover=True, commit_every_s=None) as writer:
        writer.append(*batch(range(8, 14)))
        writer.commit()
    with pytest.raises(StaleWriter):
        lost.close()
    zstore.rollback(url, 1)
    return Path(url)


@pytest.fixture
def store(url: str, made: Path) -> str:
    shutil.copytree(made, url)
    return url


def head_session(url: str) -> int:
    return Log(open_storage(url)).head().session.opened


LITTER = {f"{name}/c.{shard}{'.0' * (name == 'vectors')}" for name in FIELDS for shard in (2, 3, 4)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener soon takes a session that looks alive for alive."""
    monkeypatch.setattr(LocalStorage, "patience_s", 0.1)


# -- what goes -----------------------------------------------------------------------------------------------------

def test_litter_goes_and_versions_stay(store: str, sound: Callable[[str], None]) -> None:
    before, versions = tree(store), every_version(store)
    planned = zstore.gc(store, dry_run=True)
    assert tree(store) == before and len(planned) == len(set(planned))
    assert zstore.gc(store) == planned
    assert before - tree(store) == set(planned)
    assert set(planned) >= LITTER
    runs = [name for name in planned if name.startswith("_zstore/index/")]
    assert runs and all(int(name.split("/")[-1][:20]) == 0 for name in runs)
    lives = [name for name in planned if name.startswith("_zstore/live/")]
    assert lives and all(int(name.split("/")[-1]) < head_session(store) for name in lives)
    (half,) = set(planned) - LITTER - set(runs) - set(lives)
    assert half.startswith(f"_zstore/tmp/{0:020d}-")
    assert every_version(store) == versions
    assert zstore.gc(store) == []
    sound(store)
    with zstore.Writer(store) as writer:                # addresses that the litter had are never given again
        writer.append(*batch(range(50, 60)))
    assert ids_of(store) == [*range(8), *range(50, 60)]
    assert every_version(store)[:len(versions)] == versions
    assert not LITTER & tree(store)
    sound(store)


def test_cut_deleted_and_superseded_rows_are_no_litter(url: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=4) as writer:
        for _ in range(2):
            writer.append(*batch(range(8)))
            writer.commit()
    zstore.rollback(url, 0)
    zstore.delete(url, [0, 1, 2, 3])
    with zstore.Writer(url) as writer:
        writer.append(*batch(range(20, 22)))
    versions, before = every_version(url), tree(url)
    gone = zstore.gc(url)
    assert all(name.startswith("_zstore/live/") for name in gone) and before - tree(url) == set(gone)
    assert every_version(url) == versions
    zstore.rollback(url, 2)
    assert ids_of(url) == [4, 5, 6, 7] * 2
    sound(url)


def test_half_written_files_and_probes(store: str) -> None:
    head, tmp = head_session(store), Path(store) / "_zstore" / "tmp"
    names = {f"{0:020d}-{'a' * 32}": True, f"{head - 1:020d}-{'b' * 32}": True, f"{head:020d}-{'c' * 32}": False,
             f"{head + 1:020d}-{'d' * 32}": False, f"probe-{'e' * 32}": True, f"clock-{'f' * 32}": True, "notes": False}
    for name in names:
        (tmp / name).write_bytes(b"x")
    zstore.gc(store)
    assert {name: not (tmp / name).exists() for name in names} == names


def test_a_probe_that_comes_meanwhile_stays(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, real = Path(store) / "_zstore" / "tmp" / "probe-1", Log.find

    def find(self: Log, version: int) -> Any:
        if version == 1:                # gc reads the records
            probe.write_bytes(b"x")
        return real(self, version)
    monkeypatch.setattr(Log, "find", find)
    zstore.gc(store)
    assert probe.exists()


def test_signs_of_life(store: str) -> None:
    """As a file that is locked, or as a folder of renewed objects."""
    head, live = head_session(store), Path(store) / "_zstore" / "live"
    for path in live.iterdir():
        path.unlink()
    names = {f"{0:020d}": True, f"{head - 1:020d}/{'a' * 32}": True, f"{head:020d}/{'b' * 32}": False,
             f"{head + 1:020d}": False, f"{head + 2:020d}/{'c' * 32}": False, "0": False}
    for name in names:
        (live / name).parent.mkdir(exist_ok=True)
        (live / name).write_bytes(b"")
    gone = zstore.gc(store)
    assert {name: not (live / name).exists() for name in names} == names
    assert {f"_zstore/live/{name}" for name, goes in names.items() if goes} <= set(gone)


def test_a_list_of_deleted_keys_that_no_record_names(store: str) -> None:
    zstore.delete(store, 3)
    folder = Path(store) / "_zstore" / "deletes"
    (named,) = folder.iterdir()
    head = head_session(store)
    (folder / f"{1:020d}-{'a' * 32}").write_bytes(b"x")
    (folder / f"{head:020d}-{'b' * 32}").write_bytes(b"x")         # another opener's, of this very number
    zstore.gc(store)
    assert {path.name for path in folder.iterdir()} == {named.name, f"{head:020d}-{'b' * 32}"}
    zstore.Writer(store).close()
    zstore.gc(store)
    assert [path.name for path in folder.iterdir()] == [named.name]


# -- fields that were never published ------------------------------------------------------------------------------

def add_half(url: str, name: str) -> str:
    """A session that crashed, or was fenced, between writing a column and its record. Gives its folder."""
    log = Log(open_storage(url))
    path = claim_path(log.storage, log.head().session, name)
    (Path(url) / path).mkdir()
    for shard in range(2):
        (Path(url) / path / f"c.{shard}").write_bytes(b"half")
    return path


def test_a_field_that_was_never_published(store: str, sound: Callable[[str], None]) -> None:
    path = add_half(store, "label")
    assert not [name for name in zstore.gc(store) if name.startswith("label")]      # head's session may yet publish it
    with zstore.Writer(store) as writer:
        gone = zstore.gc(store)
        assert {name for name in gone if name.startswith("label")} == {f"{path}/c.0", f"{path}/c.1"}
        commit = writer.add_field("label", np.arange(8))
    assert zstore.gc(store) == [] and commit.rows == 8
    zstore.Writer(store).close()
    zstore.gc(store)
    assert zstore.Reader(store).field("label").tolist() == list(range(8))
    sound(store)


def test_what_others_keep_beside_the_fields_stays(store: str) -> None:
    kept = []
    for folder in ("notes", "2", "3"):          # shards 2 and 3 have claims of that name
        (Path(store) / folder).mkdir()
        (Path(store) / folder / "c.0").write_bytes(b"mine")
        kept.append(f"{folder}/c.0")
    for name in ("vectors/notes.txt", "vectors/c.02.0", "ids/c.2.0", "_zstore/index/mine"):
        (Path(store) / name).write_bytes(b"mine")
        kept.append(name)
    zstore.gc(store)
    assert set(kept) <= tree(store)


# -- whose it is ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("claim", ["missing", "damaged", "of another shard", "of an unknown session", "of a later session"])
def test_what_has_no_known_owner_stays(store: str, claim: str) -> None:
    path = Path(store) / "_zstore" / "claims" / "3.json"
    document = open_json(path.read_bytes(), path.name)
    if claim == "missing":
        path.unlink()
    elif claim == "damaged":
        path.write_bytes(path.read_bytes()[:-4])
    elif claim == "of another shard":
        path.write_bytes((path.parent / "2.json").read_bytes())
    elif claim == "of an unknown session":
        path.write_bytes(seal_json({**document, "session": "0" * 32}))
    else:
        path.write_bytes(seal_json({**document, "opened": 99}))
    gone = set(zstore.gc(store))
    assert gone & LITTER == {name for name in LITTER if "c.3" not in name}


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_a_record_that_can_not_be_read_stops_it(store: str, version: int, damage: str) -> None:
    path = Path(store) / "_zstore" / "commits" / f"{version:020d}.json"
    path.write_bytes(path.read_bytes()[:-4]) if damage == "damaged" else path.unlink()
    before = tree(store)
    with pytest.raises((Corrupt, FormatError), match=path.name):
        zstore.gc(store)
    assert tree(store) == before


def test_no_store(url: str) -> None:
    with pytest.raises(StoreNotFound):
        zstore.gc(url)


# -- beside the living ---------------------------------------------------------------------------------------------

def test_a_living_writer_is_left_alone(store: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(store, rows_per_shard=4, commit_every_s=None) as writer:
        writer.append(*batch(range(50, 70)))
        writer._core.pipeline.await_seal()                              # type: ignore[union-attr]
        assert set(zstore.gc(store)) >= LITTER
        writer.append(*batch(range(70, 75)))
        writer.commit()
        zstore.gc(store)
        writer.append(*batch(range(75, 80)))
    assert ids_of(store) == [*range(8), *range(50, 80)]
    sound(store)


def test_a_tail_that_a_living_session_took_over(url: str, sound: Callable[[str], None]) -> None:
    """Its claim is of a fenced session, and its object holds rows that no record names yet."""
    with zstore.Writer(url, rows_per_shard=8, commit_every_s=None) as writer:
        writer.append(*batch(range(5)))
    with zstore.Writer(url, commit_every_s=None) as writer:
        writer.append(*batch(range(5, 8)))
        writer._core.pipeline.await_seal()                              # type: ignore[union-attr]
        assert all(name.startswith("_zstore/live/") for name in zstore.gc(url))
        writer.commit()
        assert zstore.gc(url) == []
    assert ids_of(url) == list(range(8)) and len([n for n in tree(url) if n.startswith("_zstore/claims")]) == 1
    sound(url)


@pytest.fixture
def after_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Call it with what happens once gc has read head and all records, just before it lists."""
    done: list[bool] = []

    def put(act: Callable[[], object]) -> None:
        real = LocalStorage.list

        def listed(self: LocalStorage, folder: str) -> Any:
            if not folder.startswith("_zstore/tmp") and not done:
                done.append(True)
                act()
            return real(self, folder)
        monkeypatch.setattr(LocalStorage, "list", listed)
    yield put
    assert done


@pytest.mark.parametrize("then", ["commits", "waits"])
def test_a_session_that_opens_after_gc_read_head(store: str, then: str, after_head: Callable[..., None],
                                                 sound: Callable[[str], None]) -> None:
    """gc reads head (session 5); a session opens, writes shards; gc lists them, unnamed; it commits; gc deletes."""
    writers = []

    def meanwhile() -> None:
        writer = zstore.Writer(store, commit_every_s=None)
        writers.append(writer)
        writer.append(*batch(range(50, 64)))
        writer._core.pipeline.await_seal()                              # type: ignore[union-attr]
        if then == "commits":
            writer.commit()
    after_head(meanwhile)
    assert set(zstore.gc(store)) >= LITTER
    writers[0].close()
    assert ids_of(store) == [*range(8), *range(50, 64)]
    sound(store)


def test_a_rollback_after_gc_read_head(store: str, after_head: Callable[..., None], sound: Callable[[str], None]) -> None:
    after_head(lambda: zstore.rollback(store, 3))
    zstore.gc(store)
    assert ids_of(store) == list(range(14))
    sound(store)


def test_a_delete_after_gc_read_head(store: str, after_head: Callable[..., None], sound: Callable[[str], None]) -> None:
    after_head(lambda: zstore.delete(store, 3))
    zstore.gc(store)
    zstore.rollback(store, 1)
    assert ids_of(store) == [n for n in range(8) if n != 3]
    sound(store)


@pytest.mark.parametrize("what", ["open", "delete"])
def test_an_opener_that_slept_while_others_wrote_and_gc_ran(store: str, what: str, monkeypatch: pytest.MonkeyPatch,
                                                            sound: Callable[[str], None]) -> None:
    """gc takes the half-written record, and the list of keys, of an opener whose number is long gone; it starts over."""
    real, done = LocalStorage.create, list[str]()

    def create(self: LocalStorage, draft: Any, name: str) -> bool:
        if "/commits/" in name and not done:
            done.append(name)
            for token in ("other", "another"):
                open_session(Log(open_storage(store)), Request(token, takeover=True, keep_tail=True)).lock.release()
            gone = zstore.gc(store)
            assert any(entry.startswith("_zstore/tmp/") for entry in gone)
            assert any(entry.startswith("_zstore/deletes/") for entry in gone) == (what == "delete")
        return real(self, draft, name)
    monkeypatch.setattr(LocalStorage, "create", create)
    if what == "open":
        with zstore.Writer(store) as writer:
            writer.append(*batch([50]))
        assert ids_of(store) == [*range(8), 50]
    else:
        zstore.delete(store, 3)
        zstore.rollback(store, 1)
        assert ids_of(store) == [n for n in range(8) if n != 3]
    sound(store)


def test_the_living_stay_protected(store: str, impatient: None) -> None:
    """gc never removes the sign of life of head's session: a polite opener is refused before and after."""
    with zstore.Writer(store) as writer:
        writer.append(*batch([50]))
        zstore.gc(store)
        with pytest.raises(Conflict):
            zstore.rollback(store, 1)
        writer.commit()
    assert ids_of(store) == [*range(8), 50]


def test_readers_go_on(store: str) -> None:
    old = zstore.Reader(store, version=3)
    half = old.vectors[:2].copy()
    zstore.gc(store)
    assert (old.vectors[:2] == half).all() and old.ids.tolist() == list(range(14))


def test_it_opens_no_session(store: str) -> None:
    before = {name for name in tree(store) if "/commits/" in name or "/claims/" in name}
    versions = len(zstore.history(store))
    zstore.gc(store)
    assert len(zstore.history(store)) == versions
    assert {name for name in tree(store) if "/commits/" in name or "/claims/" in name} == before


def test_in_memory() -> None:
    url = f"memory://test-gc-{os.getpid()}"
    with zstore.Writer(url, rows_per_shard=4) as writer:
        writer.append(*batch(range(6)))
    storage = open_storage(url)
    shard = claim_shard(storage, Log(storage).head().session, 2)
    storage.replace(storage.draft([b"half"], "x"), f"vectors/c.{shard}.0")
    zstore.rollback(url, 1)
    assert f"vectors/c.{shard}.0" in zstore.gc(url, dry_run=True)
    zstore.gc(url)
    assert ids_of(url) == list(range(6)) and not storage.exists(f"vectors/c.{shard}.0")


def test_on_s3(s3: Any) -> None:
    url = s3.url("gc")
    with zstore.Writer(url, rows_per_shard=4, storage_options=s3.options) as writer:
        writer.append(*batch(range(6)))
    storage = open_storage(url, s3.options)
    session = Log(storage).head().session
    shard = claim_shard(storage, session, 2)
    left = {f"vectors/c.{shard}.0", f"_zstore/live/{0:020d}/{'a' * 32}", f"_zstore/tmp/probe-{'b' * 32}"}
    stay = {f"_zstore/live/{99:020d}/{'c' * 32}"}
    zstore.rollback(url, 1, storage_options=s3.options)
    for name in left | stay:        # only now: a fresh sign of life would keep the rollback waiting
        storage.replace(storage.draft([b"x"], "x"), name)
    assert left <= set(zstore.gc(url, storage_options=s3.options))
    assert not any(map(storage.exists, left)) and all(map(storage.exists, stay))
    assert zstore.gc(url, storage_options=s3.options) == [] == zstore.verify(url, storage_options=s3.options)
    with zstore.Reader(url, storage_options=s3.options) as reader:
        assert reader.ids.tolist() == list(range(6))


# -- the command ---------------------------------------------------------------------------------------------------

def test_the_command(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", store, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    names = out.splitlines()
    assert LITTER <= set(names) <= tree(store) and err == f"{len(names)} objects would be removed\n"
    assert main(["gc", store, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"objects": names, "removed": True} and err == f"{len(names)} objects removed\n"
    assert not set(names) & tree(store)
    assert main(["gc", store + "x"]) == 3
