"""`compact`: a new store of the rows that count; interrupted anywhere it is gone on with; until it is whole it is no store."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zstore
from tests import foreign
from zstore import errors
from zstore.cli.main import main
from zstore.commits.log import Log
from zstore.format.layout import COMMITS
from zstore.format.record import SessionInfo
from zstore.maintenance import compact_order, compact_place, compact_source, compact_write
from zstore.storage import open_storage
from zstore.storage.local import LocalStorage
from zstore.storage.memory import MemoryStorage

Key = tuple[Any, int]
GONE = "person-4711"        # whose rows are deleted
CUT = "doc-cut"             # only in rows that a rollback cut
ORDERS = (None, "epoch", "id")


def vectors(rng: np.random.Generator, rows: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    plain = rng.standard_normal((rows, 4)) * 20
    return plain.astype(np.int8 if dtype == "int8" else "float32" if dtype == "bfloat16" else dtype)


def live(url: str, *, strings: bool = True, codec: str = "lossless", dtype: str = "float32") -> None:
    """A store with a past: three epochs, keys that come again, a rollback, a crash, a late field, a deletion."""
    def names(*numbers: int) -> list[Any]:
        return [f"doc-{n}é" if n % 5 == 0 else f"doc-{n}" + "-of-a-long-name" * (n % 3) for n in numbers] if strings else [
            n * 37 - 500 for n in numbers]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # the rollback, the keys that come again, the deletion
        _live(url, names, codec, dtype)


def _live(url: str, names: Callable[..., list[Any]], codec: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    strings = isinstance(names(1)[0], str)
    with zstore.Writer(url, rows_per_shard=16, codec=codec, dtype=dtype) as writer:
        for epoch in (2, 0):
            order = rng.permutation(23).tolist()
            writer.append(names(*order), vectors(rng, 23, dtype), epoch=epoch, label=[f"l{n}" for n in order],
                          grid=rng.integers(0, 9, (23, 2)))
            writer.commit()
        writer.append([GONE if strings else 4711] * 2, vectors(rng, 2, dtype), epoch=[0, 1], label="gone",
                      grid=np.ones((2, 2), int))
        kept = writer.commit()
        writer.append([CUT if strings else 4712], vectors(rng, 1, dtype), epoch=9, label="cut", grid=np.ones((1, 2), int))
    zstore.rollback(url, kept.version)
    crashed(url, names(*range(100, 140)), vectors(rng, 40, dtype))
    with zstore.Writer(url) as writer:
        again = rng.permutation(23).tolist()[:9]
        writer.append(names(*again), vectors(rng, 9, dtype), epoch=0, label="again", grid=np.zeros((9, 2), int))
        writer.commit()
        writer.add_field("score", np.arange(zstore.Reader(url).__len__(), dtype=np.float32) / 8, fill=-2.5)
        writer.append(names(50, 51, 52), vectors(rng, 3, dtype), epoch=1, label="new", grid=np.full((3, 2), 7))
    zstore.delete(url, [GONE if strings else 4711])


def zstore_rollback_quietly(url: str, version: int) -> None:
    with pytest.warns(UserWarning, match="rolled back"):
        zstore.rollback(url, version)


def crashed(url: str, ids: list[Any], rows: np.ndarray[Any, Any]) -> None:
    """A process that wrote shards, and was killed before it committed them."""
    def child() -> None:
        writer = zstore.Writer(url)
        writer.append(ids, rows, epoch=5, label="lost", grid=np.zeros((len(ids), 2), int))
        LocalStorage.create = lambda *_: kill()     # type: ignore[method-assign]
        writer.commit()

    assert killed(child)


def killed(act: Callable[[], object]) -> bool:
    """Run this in a forked child; whether a SIGKILL ended it. Fails where it ended by an error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return False


def everything(url: str, **which: Any) -> dict[Key, dict[str, Any]]:
    """Each key of a store with the values that `get` gives for it."""
    with zstore.Reader(url, **which) as reader:
        names = [name for name in ("vectors", "label", "grid", "score") if name in reader._now()[0].schema.fields]
        return {(one, epoch): {name: np.asarray(reader.get(one, epoch=epoch, field=name)).tolist() for name in names}
                for one, epoch in keys_of(url, **which)}


def keys_of(url: str, **which: Any) -> list[Key]:
    with zstore.Reader(url, **which) as reader:
        return list(zip(reader.ids.tolist(), reader.field("epoch").tolist(), strict=True))


def in_order(keys: list[Key], order: str | None) -> list[Key]:
    """What the rows' order should be, by other means: of equal keys the last stays."""
    last = {key: row for row, key in enumerate(keys)}
    kept = [key for row, key in enumerate(keys) if last[key] == row]

    def plain(one: Any) -> Any:
        return one.encode() if isinstance(one, str) else one
    if order == "epoch":
        return sorted(kept, key=lambda key: (key[1], plain(key[0])))
    return sorted(kept, key=lambda key: (plain(key[0]), key[1])) if order == "id" else kept


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A copy of a store with a past, made once for each kind."""
    made: dict[str, Path] = {}

    def copy(target: Path, **kind: Any) -> str:
        name = json.dumps(kind, sort_keys=True)
        if name not in made:
            made[name] = tmp_path_factory.mktemp("lived") / "src.zarr"
            live(str(made[name]), **kind)
        shutil.copytree(made[name], target)
        return str(target)
    return copy


@pytest.fixture
def src(tmp_path: Path, lived: Callable[..., str]) -> str:
    return lived(tmp_path / "src.zarr")


@pytest.fixture
def dst(tmp_path: Path) -> str:
    return str(tmp_path / "dst.zarr")


def test_the_test_store_has_a_past(src: str) -> None:
    keys, record = keys_of(src), Log(open_storage(src)).head()
    assert len(set(keys)) < len(keys)
    assert len(list(record.extents)) >= 3
    assert record.deletes is not None
    assert any(Path(src, "_zstore", "claims").iterdir())


# What comes out.

EVERYDAY = [(True, None, None, None), (True, "raw", "float16", "epoch"), (True, "small", "bfloat16", "id"),
            (False, "lossless", "float64", "epoch"), (False, "raw", "float32", "id"), (False, "small", "float16", None)]
EVERY = [pytest.param(*kind, marks=() if kind in EVERYDAY else pytest.mark.slow)
         for kind in itertools.product((True, False), (None, "raw", "small", "lossless"),
                                       (None, "float16", "bfloat16", "float32", "float64"), ORDERS)]


@pytest.mark.parametrize(("strings", "codec", "dtype", "order"), EVERY)
def test_every_key_has_its_row_in_the_order_asked(tmp_path: Path, lived: Callable[..., str], dst: str, sound: Any,
                                                  strings: bool, codec: str | None, dtype: str | None,
                                                  order: str | None) -> None:
    src = lived(tmp_path / "src.zarr", strings=strings)
    commit = zstore.compact(src, dst, codec=codec, dtype=dtype, order=order)

    was, now = everything(src), everything(dst)
    for values in was.values():
        with zstore.Reader(dst) as reader:
            values["vectors"] = np.array(values["vectors"], np.float32).astype(reader.vectors.dtype).tolist()
    assert now == was
    assert keys_of(dst) == in_order(keys_of(src), order)
    assert (commit.rows, commit.new_rows, commit.version) == (len(was), len(was), 1)
    assert commit == zstore.history(dst)[-1]
    record = Log(open_storage(dst)).head()
    assert list(record.extents) == [(0, len(was))]
    assert record.store_id != Log(open_storage(src)).head().store_id
    sound(dst)


@pytest.mark.parametrize("codec", ["raw", "small"])
def test_any_codec_is_read(tmp_path: Path, lived: Callable[..., str], dst: str, sound: Any, codec: str) -> None:
    src = lived(tmp_path / "src.zarr", codec=codec)
    zstore.compact(src, dst, codec="lossless", order="id")
    assert everything(dst) == everything(src)
    sound(dst)


def test_integers_become_floats_and_others_only_where_they_fit(tmp_path: Path, lived: Callable[..., str], dst: str) -> None:
    src = lived(tmp_path / "src.zarr", dtype="int8")
    zstore.compact(src, dst, dtype="float16")
    assert everything(dst) == everything(src)
    with pytest.raises(ValueError, match=r"the vector of the id 'doc-.* uint8 can't hold"):
        zstore.compact(src, dst + "2", dtype="uint8")


@pytest.mark.parametrize("order", ORDERS)
def test_many_small_ranges_give_the_same_order(src: str, dst: str, order: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("RANGE_ROWS", 5), ("SCAN_ROWS", 7), ("SAMPLES", 2)):
        monkeypatch.setattr(compact_order, name, rows)
    monkeypatch.setattr(compact_write, "SPILL_ROWS", 20)
    zstore.compact(src, dst, order=order)
    assert keys_of(dst) == in_order(keys_of(src), order)
    assert everything(dst) == everything(src)
    assert len(Log(open_storage(dst)).head().index) > 1


def test_foreign_readers_read_it_whole_without_extents(src: str, dst: str) -> None:
    zstore.compact(src, dst)
    group = zarr.open_group(dst, mode="r")
    with zstore.Reader(dst) as reader:
        assert len(reader) == group["vectors"].shape[0]             # type: ignore[union-attr]
        for name in ("vectors", "ids", "epoch", "label", "grid", "score"):
            assert np.array_equal(np.asarray(group[name][:]), reader.field(name)), name    # type: ignore[index]
            assert np.array_equal(foreign.by_zarr(dst, [name])[name], reader.field(name)), name


def test_fields_attributes_and_fills_stay(tmp_path: Path, dst: str) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url, attrs={"model": "m"}, rows_per_shard=8) as writer:
        writer.append([1, 2], np.ones((2, 3), np.float32), note=["a", ""])
        writer.commit()
        writer.add_field("late", [5, 6], fill=-1)
    zstore.compact(url, dst, dtype="float16")
    with zstore.Writer(dst) as writer:
        writer.append([3], np.zeros((1, 3), np.float16), epoch=4, note="c")     # late may be left out, still
    with zstore.Reader(dst) as reader:
        assert reader.attrs == {"model": "m"}
        assert reader.field("late").tolist() == [5, 6, -1]
        assert reader.field("note").tolist() == ["a", "", "c"]
        assert reader._now()[0].schema.rows_per_shard == 8


def test_the_default_shard_is_the_new_types(tmp_path: Path, dst: str) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url) as writer:
        writer.append([1], np.ones((1, 384), np.float32))
    zstore.compact(url, dst, dtype="float16")
    half = str(tmp_path / "half.zarr")
    with zstore.Writer(half) as writer:
        writer.append([1], np.ones((1, 384), np.float16))
    rows = [Log(open_storage(place)).head() for place in (url, dst, half)]
    schemas = [Log(open_storage(place)).schema_of(record) for place, record in zip((url, dst, half), rows, strict=True)]
    assert schemas[1].rows_per_shard == schemas[2].rows_per_shard > schemas[0].rows_per_shard
    assert schemas[1].fields == schemas[2].fields


def test_a_writer_goes_on_in_the_unfilled_shard(src: str, dst: str, sound: Any) -> None:
    commit = zstore.compact(src, dst, order="epoch")
    with zstore.Writer(dst) as writer:
        writer.append(["later"], np.ones((1, 4), np.float32), epoch=7, label="x", grid=np.zeros((1, 2), int))
    record = Log(open_storage(dst)).head()
    assert list(record.extents) == [(0, commit.rows + 1)]
    assert everything(dst, version=1) == everything(src)
    sound(dst)


def test_an_empty_store_stays_one(tmp_path: Path, dst: str, sound: Any) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url) as writer:
        writer.append([1], np.ones((1, 2), np.float32))
    zstore_rollback_quietly(url, 0)
    for order in ORDERS:
        commit = zstore.compact(url, f"{dst}{order}", order=order)
        assert (commit.rows, commit.version, len(zstore.Reader(f"{dst}{order}"))) == (0, 1, 0)
        sound(f"{dst}{order}")


def test_what_is_not_finite_is_kept_and_counted(tmp_path: Path, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "a.zarr")
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    rows[3, 0], rows[17, 1] = np.nan, np.inf
    with zstore.Writer(url, rows_per_shard=8) as writer, pytest.warns(UserWarning, match="NaN"):
        writer.append(range(20), rows)
        writer.commit()
    interrupted_at_record(url, dst, monkeypatch, dtype="float16")
    commit = zstore.compact(url, dst, dtype="float16")          # counts those of shards that it finds finished, too
    assert commit.nonfinite == 2
    assert np.array_equal(zstore.Reader(dst).vectors, rows.astype(np.float16), equal_nan=True)


def test_an_overflow_names_the_id_and_leaves_no_store(tmp_path: Path, dst: str) -> None:
    url = str(tmp_path / "a.zarr")
    rows = np.ones((20, 2), np.float32)
    rows[13, 1] = 1e6
    with zstore.Writer(url, rows_per_shard=8) as writer:
        writer.append([f"doc-{n}" for n in range(20)], rows)
    with pytest.raises(ValueError, match=r"'doc-13' .*float16 can't hold"):
        zstore.compact(url, dst, dtype="float16")
    with pytest.raises(errors.StoreNotFound):
        zstore.Reader(dst)


def test_a_damaged_raw_shard_is_not_blessed(tmp_path: Path, dst: str) -> None:
    url = str(tmp_path / "a.zarr")
    with zstore.Writer(url, rows_per_shard=4096, codec="raw") as writer:        # wide enough to be mapped
        writer.append(range(8192), np.ones((8192, 4), np.float32))
    shard = Path(url, "vectors", "c.0.0")
    data = bytearray(shard.read_bytes())
    data[777] ^= 1
    shard.write_bytes(data)
    with pytest.raises(errors.Corrupt, match="CRC32C"):
        zstore.compact(url, dst, order="id")


# Cut short, and gone on with.

class Cut(OSError):
    """The operation at which a test lets the disk fail."""


STEPS = ("make_folders", "draft", "replace", "rewrite", "create", "sync", "share_live")


def at_step(patch: pytest.MonkeyPatch, folder: str, number: int, act: Callable[[], None]) -> list[str]:
    """Act before the storage's n-th operation on the store there; gives a list that grows by each."""
    lock, seen = threading.Lock(), list[str]()

    def wrapped(name: str, real: Any) -> Any:
        def step(self: LocalStorage, *args: Any, **kwargs: Any) -> Any:
            if self.url == folder:
                with lock:
                    seen.append(name)
                    now = len(seen)
                if now == number:
                    act()
            return real(self, *args, **kwargs)
        return step
    for name in STEPS:
        patch.setattr(LocalStorage, name, wrapped(name, getattr(LocalStorage, name)))
    return seen


def fail() -> None:
    raise Cut(5, "the disk failed here")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted_at_record(src: str, dst: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Everything written but record 1."""
    real = LocalStorage.create

    def refuse(self: LocalStorage, draft: Any, name: str) -> bool:
        if name.endswith("1.json") and COMMITS in name:
            fail()
        return real(self, draft, name)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "create", refuse)
        with pytest.raises(Cut):
            zstore.compact(src, dst, **options)


def shards(url: str) -> dict[str, int]:
    """Every shard object, with the file that it is."""
    return {str(path.relative_to(url)): path.stat().st_ino for path in sorted(Path(url).glob("*/c.*"))}


def steps_of(src: str, dst: str, **options: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        seen = at_step(patch, dst, 0, fail)
        zstore.compact(src, dst, **options)
    shutil.rmtree(dst)
    return len(seen)


@pytest.mark.parametrize(("how", "first", "stride"), [
    ("killed", 1, 12), ("failed", 7, 12),
    pytest.param("killed", 1, 1, marks=pytest.mark.slow), pytest.param("failed", 1, 1, marks=pytest.mark.slow)])
def test_cut_short_at_every_step_and_called_again(src: str, dst: str, sound: Any, how: str, first: int, stride: int) -> None:
    """SIGKILL, or an error of the disk, at each operation; then the same call makes the same store."""
    wanted, order = everything(src), in_order(keys_of(src), "id")
    total = steps_of(src, dst, order="id")
    assert total > 60
    for number in sorted({*range(first, total + 1, stride), *range(total - 9, total + 1)}):      # the last ones make it whole
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, dst, number, kill if how == "killed" else fail)
            if how == "killed":
                assert killed(lambda: zstore.compact(src, dst, order="id")), f"not killed at {number}"
            else:
                failed_or_warned(src, dst)
        whole = Path(dst, COMMITS, f"{1:020d}.json").exists()
        there = shards(dst)
        if whole:
            assert keys_of(dst) == order
        else:
            assert_invisible(dst)
        zstore.compact(src, dst, order="id")
        assert keys_of(dst) == order, f"cut at {number}"
        now = shards(dst)
        assert {name: now[name] for name in there} == there, "a finished shard was written again"
        if number % 4 == 0:
            assert everything(dst) == wanted
            sound(dst)
        shutil.rmtree(dst)


def failed_or_warned(src: str, dst: str) -> None:
    """An error before the store is whole; after that, where only Zarr's documents are missing, a warning."""
    try:
        zstore.compact(src, dst, order="id")
    except Cut:
        assert not Path(dst, "zarr.json").exists()
    except UserWarning as warning:
        assert "could not be written" in str(warning)
        assert len(zstore.Reader(dst)) > 0


def assert_invisible(dst: str) -> None:
    with pytest.raises(errors.StoreNotFound):
        zstore.Reader(dst)
    with pytest.raises(errors.StoreNotFound):
        zstore.history(dst)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(dst, mode="r")


def test_until_it_is_whole_it_is_no_store_to_anybody(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at_record(src, dst, monkeypatch)
    before = {path: path.read_bytes() for path in sorted(Path(dst).rglob("*")) if path.is_file() and "live" not in path.parts}
    assert_invisible(dst)
    with pytest.raises(errors.StoreNotFound):
        zstore.Reader(dst, version=0)
    with pytest.raises(errors.StoreNotFound, match="still being made"):
        zstore.verify(dst)
    with pytest.raises(errors.StoreNotFound):
        zstore.compact(dst, dst + "2")
    for takeover in (False, True):
        with pytest.raises(errors.Conflict, match="still being made"):
            zstore.Writer(dst, takeover=takeover).append([1], np.ones((1, 4), np.float32))
    with pytest.raises((errors.Conflict, errors.StoreNotFound)):
        zstore.rollback(dst, 0)
    with pytest.raises((errors.Conflict, errors.StoreNotFound)):
        zstore.delete(dst, ["doc-3"])
    after = {path: path.read_bytes() for path in sorted(Path(dst).rglob("*")) if path.is_file() and "live" not in path.parts}
    assert after == before


def test_names_are_durable_before_the_record_that_makes_it_a_store(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGKILL keeps the page cache: only the order of calls shows what a power loss would take."""
    stale: set[str] = set()         # folders with names that no sync has seen
    records = []

    def watch(name: str, after: Callable[..., None]) -> None:
        real = getattr(LocalStorage, name)

        def call(self: LocalStorage, first: Any, *rest: Any) -> Any:
            first = list(first) if name == "sync" else first
            result = real(self, first, *rest)
            if self.url == dst:
                after(first, *rest)
            return result
        monkeypatch.setattr(LocalStorage, name, call)

    def named(draft: Any, name: str, *_: Any) -> None:
        folder = name.rpartition("/")[0]
        if folder == COMMITS:
            records.append((name, set(stale)))
        stale.add(folder)
    for name in ("create", "replace", "rewrite"):
        watch(name, named)
    watch("sync", lambda folders: stale.difference_update(folders))
    zstore.compact(src, dst)
    assert [(name[-6:], left) for name, left in records] == [("0.json", set()), ("1.json", set())]
    assert not stale


def damage(kind: str, dst: str, other: str) -> Path:
    """Make one finished object what no finished object is; gives its path."""
    target = Path(dst, "vectors", "c.1.0")
    data = bytearray(target.read_bytes())
    if kind == "flipped":
        data[5] ^= 1
        target.write_bytes(data)
    elif kind == "cut":
        target.write_bytes(data[:-7])
    elif kind == "swapped":
        target.write_bytes(Path(dst, "vectors", "c.0.0").read_bytes())
    elif kind == "another store's":
        target.write_bytes(Path(other, "vectors", "c.1.0").read_bytes())
    elif kind == "shorter":
        record = Log(open_storage(dst)).head()
        schema = Log(open_storage(dst)).schema_of(record)
        maker = compact_write.ShardMaker(open_storage(dst), schema, record.session, None, None, True)   # type: ignore[arg-type]
        old = np.ones((9, 4), np.float32)
        target.write_bytes(b"".join(map(bytes, maker._object(schema.vectors, 1, 9, old))))
    return target


@pytest.mark.parametrize("kind", ["flipped", "cut", "swapped", "another store's", "shorter"])
@pytest.mark.parametrize("codec", ["lossless", "raw"])
def test_a_shard_that_is_not_finished_is_written_again(src: str, dst: str, sound: Any, monkeypatch: pytest.MonkeyPatch,
                                                       kind: str, codec: str) -> None:
    interrupted_at_record(src, dst, monkeypatch, order="epoch", codec=codec)
    zstore.compact(src, dst + "2", order="epoch", codec=codec)
    spoilt = damage(kind, dst, dst + "2")
    before = shards(dst)
    zstore.compact(src, dst, order="epoch", codec=codec)
    changed = [name for name, file in shards(dst).items() if before[name] != file]
    assert changed == [str(spoilt.relative_to(dst))]
    assert everything(dst) == everything(src)
    sound(dst)


def test_it_goes_on_with_the_version_where_it_began(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = everything(src)
    interrupted_at_record(src, dst, monkeypatch)
    with zstore.Writer(src) as writer:
        writer.append(["new"], np.ones((1, 4), np.float32), label="x", grid=np.zeros((1, 2), int))
    with pytest.warns(UserWarning, match="where it was begun"):
        zstore.compact(src, dst)
    assert everything(dst) == wanted
    with pytest.raises(errors.AlreadyExists, match="is a store already"):
        zstore.compact(src, dst)            # whole, and the source is another version's by now


def deleted(src: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zstore.delete(src, ["doc-3"])


def test_rows_that_were_deleted_meanwhile_never_come_to_light(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at_record(src, dst, monkeypatch)
    Path(dst, "vectors", "c.0.0").unlink()
    deleted(src)
    before = shards(dst)
    with pytest.raises(errors.Conflict, match="deleted"):
        zstore.compact(src, dst)
    assert shards(dst) == before, "it was seen before anything was written"
    assert_invisible(dst)


def test_rows_that_are_deleted_while_it_runs_neither(src: str, dst: str) -> None:
    def delete(done: int, total: int) -> None:
        if done == total:
            deleted(src)
    with pytest.raises(errors.Conflict, match="deleted"):
        zstore.compact(src, dst, progress=delete)
    assert_invisible(dst)


def when(monkeypatch: pytest.MonkeyPatch, method: str, applies: Callable[[LocalStorage, Any], bool],
         act: Callable[[], None]) -> list[str]:
    """Act once, right after such a call of the storage; the list says that it was done."""
    real, done = getattr(LocalStorage, method), list[str]()

    def call(self: LocalStorage, *args: Any) -> Any:
        result = real(self, *args)
        if not done and applies(self, args[-1]):
            done.append(method)
            act()
        return result
    monkeypatch.setattr(LocalStorage, method, call)
    return done


def test_rows_that_are_deleted_while_it_makes_names_durable_neither(src: str, dst: str,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    done = when(monkeypatch, "sync", lambda self, folders: self.url == dst and "vectors" in folders, lambda: deleted(src))
    with pytest.raises(errors.Conflict, match="deleted"):
        zstore.compact(src, dst)
    assert done
    assert_invisible(dst)


def test_rows_that_are_deleted_as_it_becomes_a_store_are_told_of(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    last = f"{COMMITS}/{1:020d}.json"
    done = when(monkeypatch, "create", lambda self, name: self.url == dst and name == last, lambda: deleted(src))
    with pytest.warns(UserWarning, match=r"ARE IN IT; delete them there too, or remove .* and compact again"):
        zstore.compact(src, dst)
    assert done


def test_version_0_is_empty_as_in_every_store(src: str, dst: str) -> None:
    """What a run that starts over goes back to."""
    zstore.compact(src, dst)
    assert len(zstore.Reader(dst, version=0)) == 0
    rows = len(zstore.Reader(dst))
    with pytest.warns(UserWarning, match=f"{rows:,} rows are cut"), zstore.Writer(dst) as writer:
        writer.load_state_dict(None)
    assert len(zstore.Reader(dst)) == 0 and len(zstore.Reader(dst, version=1)) == rows
    assert zstore.verify(dst) == []


@pytest.mark.parametrize(("option", "first", "then"), [("codec", "raw", None), ("dtype", None, "float16"),
                                                       ("order", "id", "epoch"), ("order", "id", None)])
def test_other_options_than_it_was_begun_with(src: str, dst: str, monkeypatch: pytest.MonkeyPatch, option: str, first: Any,
                                              then: Any) -> None:
    interrupted_at_record(src, dst, monkeypatch, **{option: first})
    with pytest.raises(ValueError, match=f"{option}=.*{option}="):
        zstore.compact(src, dst, **{option: then})
    zstore.compact(src, dst, **{option: first})


def test_the_defaults_named_are_no_other_options(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at_record(src, dst, monkeypatch)
    zstore.compact(src, dst, codec="lossless", dtype="float32")


def test_another_source_than_it_was_begun_with(tmp_path: Path, src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_at_record(src, dst, monkeypatch)
    live(str(tmp_path / "other.zarr"))
    with pytest.raises(ValueError, match="is being made from store"):
        zstore.compact(tmp_path / "other.zarr", dst)


def test_called_again_on_a_whole_store_gives_its_commit(src: str, dst: str) -> None:
    commit = zstore.compact(src, dst)
    Path(dst, "zarr.json").unlink()         # killed before Zarr's documents were there
    before = shards(dst)
    assert zstore.compact(src, dst) == commit
    assert shards(dst) == before
    assert Path(dst, "zarr.json").exists()


# Two at once.

def test_another_run_says_conflict_and_a_dead_ones_place_is_free(src: str, dst: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStorage, "patience_s", 0.05)
    seen: list[str] = []

    def second(done: int, total: int) -> None:
        if not seen:
            with pytest.raises(errors.Conflict, match="another compact"):
                zstore.compact(src, dst)
            seen.append("refused")
    zstore.compact(src, dst, progress=second)
    assert seen == ["refused"]

    shutil.rmtree(dst)
    assert killed(lambda: zstore.compact(src, dst, progress=lambda done, total: kill()))
    seen.clear()
    zstore.compact(src, dst, progress=second)       # one that goes on keeps others out as well
    assert seen == ["refused"]
    assert everything(dst) == everything(src)


def test_two_that_begin_at_the_same_moment(src: str, dst: str, monkeypatch: pytest.MonkeyPatch, sound: Any) -> None:
    monkeypatch.setattr(LocalStorage, "patience_s", 0.05)
    meet, ends = threading.Barrier(2), []
    real = LocalStorage.create

    def create(self: LocalStorage, draft: Any, name: str) -> bool:
        if name.endswith("0.json") and COMMITS in name:
            meet.wait(20)
        return real(self, draft, name)
    monkeypatch.setattr(LocalStorage, "create", create)
    done = threading.Event()

    def one() -> None:
        def wait(rows: int, total: int) -> None:
            done.wait(20)
        try:
            zstore.compact(src, dst, progress=wait)
            ends.append("made")
        except errors.Conflict:
            ends.append("refused")
            done.set()
    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ends) == ["made", "refused"]
    sound(dst)


def test_one_that_was_thought_dead_changes_nothing(tmp_path: Path, src: str) -> None:
    """Storages without locks let two run: an object that is there is refused, and what stands is taken if it is finished."""
    dst = str(tmp_path / "dst.zarr")
    zstore.compact(src, dst, order="id")
    storage = open_storage(dst)
    first = Log(storage).read(0)
    schema, source = Log(storage).schema_of(first), Log(open_storage(src)).head()
    read = compact_source.Source(open_storage(src), Log(open_storage(src)).schema_of(source), source)
    before, asked = shards(dst), []

    class Conditional(LocalStorage):
        def rewrite(self, draft: Any, name: str, over: str | None) -> str:
            asked.append(name)
            self.discard(draft)
            raise errors.Conflict("something else has the name")
    maker = compact_write.ShardMaker(Conditional(dst), schema, first.session, read, compact_order.plan_rows(read, "id"), False)
    maker.write_all(None)
    assert shards(dst) == before
    assert sorted(asked) == sorted(before)


def maker_of(storage: Any, src: str, session: SessionInfo | None = None, *, resumed: bool) -> compact_write.ShardMaker:
    """As a run of the same making would have it."""
    log, old = Log(storage), Log(open_storage(src))
    first, head = log.read(0), old.head()
    read = compact_source.Source(old.storage, old.schema_of(head), head)
    return compact_write.ShardMaker(storage, log.schema_of(first), session or first.session, read,
                                    compact_order.plan_rows(read, None), resumed)


class Conditional(LocalStorage):
    """Refuses what should be new and is not."""

    def rewrite(self, draft: Any, name: str, over: str | None) -> str:
        if over is None and self.exists(name):
            self.discard(draft)
            raise errors.Conflict("something else has the name")
        return super().rewrite(draft, name, over)


def more(url: str, **options: Any) -> None:
    """A Writer takes the unfilled shard, and goes on in it."""
    with zstore.Writer(url, takeover=True, **options) as writer:
        writer.append(["later"], np.full((1, 4), 5, np.float32), epoch=7, label="x", grid=np.zeros((1, 2), int))


@pytest.mark.parametrize("resumed", [False, True])
def test_it_wakes_when_others_write_on(src: str, dst: str, sound: Any, resumed: bool) -> None:
    """Another run made the store meanwhile, and acknowledged rows lie in its last shard."""
    zstore.compact(src, dst)
    more(dst)
    before = shards(dst)
    maker_of(Conditional(dst), src, resumed=resumed).write_all(None)
    assert shards(dst) == before
    sound(dst)


@pytest.mark.parametrize("change", ["session", "rows"])
def test_what_another_put_there_stays(src: str, dst: str, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Even where no record 1 says whose it is."""
    interrupted_at_record(src, dst, monkeypatch)
    first = Log(open_storage(dst)).read(0)
    rows, session = (16, first.session) if change == "rows" else (3, replace(first.session, commit_id="ab" * 16))
    last = max(int(path.suffixes[0][1:]) for path in Path(dst, "vectors").glob("c.*.0"))
    other, vectors = maker_of(open_storage(dst), src, session, resumed=True), Path(dst, "vectors", f"c.{last}.0")
    vectors.write_bytes(b"".join(map(bytes, other._object(other._schema.vectors, last, rows, np.ones((rows, 4), np.float32)))))
    before = vectors.read_bytes()
    with pytest.raises(errors.Conflict, match="another writer's"):
        maker_of(Conditional(dst), src, resumed=False).write_all(None)
    assert vectors.read_bytes() == before


# Where it may be made.

def test_places_that_are_taken(tmp_path: Path, src: str, lived: Callable[..., str]) -> None:
    other = lived(tmp_path / "other.zarr", strings=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (other, folder, tmp_path / "file"):
        with pytest.raises(errors.AlreadyExists):
            zstore.compact(src, place)
    assert (folder / "thesis.txt").read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_never_within_its_source(tmp_path: Path, src: str) -> None:
    (tmp_path / "link").symlink_to(src)
    before = sorted(path for path in Path(src).rglob("*"))
    for place in (src, src + "/", f"file://{src}", f"{src}/inner.zarr", tmp_path / "link", tmp_path / "link" / "inner"):
        with pytest.raises(ValueError, match="source"):
            zstore.compact(src, place)
    assert sorted(path for path in Path(src).rglob("*")) == before


@pytest.mark.parametrize(("option", "value", "error"), [("codec", "zip", ValueError), ("dtype", "int64", ValueError),
                                                        ("order", "time", ValueError), ("dtype", "int8", TypeError)])
def test_odd_options_touch_nothing(src: str, dst: str, option: str, value: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        zstore.compact(src, dst, **{option: value})         # type: ignore[arg-type]
    assert not Path(dst).exists()


def test_no_source(tmp_path: Path, dst: str) -> None:
    with pytest.raises(errors.StoreNotFound):
        zstore.compact(tmp_path / "nothing", dst)
    assert not Path(dst).exists()


@pytest.mark.parametrize("rewrites", [True, False])
def test_from_memory_to_disk_and_back(src: str, dst: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
                                      rewrites: bool) -> None:
    monkeypatch.setattr(MemoryStorage, "rewrites", rewrites)
    there = f"memory://compact-{rewrites}.zarr"
    zstore.compact(src, there, order="id")
    zstore.compact(there, dst, codec="raw", order="epoch")
    assert everything(dst) == everything(there) == everything(src)
    with pytest.raises(ValueError, match="inside of the source"):
        zstore.compact(there, there + "/inner")
    with zstore.Writer(there) as writer:
        writer.append(["later"], np.ones((1, 4), np.float32), label="x", grid=np.zeros((1, 2), int))
    assert zstore.verify(there) == []


# Nothing of what is gone.

def test_erase(src: str, dst: str) -> None:
    """A person's rows, deleted and compacted away, are in no byte; nor are superseded and cut ones."""
    old = zstore.history(src)
    with zstore.Reader(src, version=next(commit.version for commit in old if commit.rows == 48)) as reader:
        person = [reader.get(GONE, epoch=epoch).tobytes() for epoch in (0, 1)]
        beaten = {key: reader.get(key[0], epoch=key[1]).tobytes()
                  for key in keys_of(src, version=reader.version) if key[0] != GONE}
    alive = {key: np.array(values["vectors"], np.float32).tobytes() for key, values in everything(src).items()}
    superseded = [row for key, row in beaten.items() if alive[key] != row]
    assert len(superseded) == 9
    zstore.compact(src, dst, codec="raw")
    raw = dst + "-raw"                      # and what the bytes of the vectors would be found by
    zstore.compact(src, raw, codec="raw", order="id")
    for place in (dst, raw):
        held = b"\n".join(path.read_bytes() for path in Path(place).rglob("*") if path.is_file())
        assert all(row in held for row in alive.values()), "the search finds what is there"
        for secret in (GONE.encode(), CUT.encode(), b"lost", b"gone", *person, *superseded):
            assert secret not in held
    zstore.compact(src, dst + "-2")
    assert not any(GONE.encode() in path.read_bytes() for path in Path(dst + "-2").rglob("*") if path.is_file())


# Memory.

PEAK = """
    import sys, threading, time
    import zstore, zstore.maintenance.compact
    from zstore.maintenance import compact_order, compact_source, compact_write
    compact_order.RANGE_ROWS, compact_order.SCAN_ROWS, compact_write.SPILL_ROWS = 2**12, 2**11, 2**13
    compact_source.CACHE_BYTES = 2**23

    def held():
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return sum(int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem"))
    before, most, over = held(), 0, False
    def watch():
        global most
        while not over:
            most = max(most, held())
            time.sleep(0.005)
    thread = threading.Thread(target=watch)
    thread.start()
    zstore.compact(sys.argv[1], sys.argv[2], order=None if sys.argv[3] == "None" else sys.argv[3])
    over = True
    thread.join()
    print(most - before)
"""


@pytest.mark.parametrize("order", [pytest.param(None, marks=pytest.mark.slow), pytest.param("epoch", marks=pytest.mark.slow),
                                   "id"])
def test_memory_does_not_grow_with_the_store(tmp_path: Path, children: Any, order: str | None) -> None:
    def store(name: str, shards_: int) -> str:
        rng = np.random.default_rng(3)
        with zstore.Writer(tmp_path / name, rows_per_shard=2048, dim=256) as writer:
            for shard in range(shards_):
                ids = [f"document-{n}" for n in rng.permutation(2048 * shards_)[:2048]]
                writer.append(ids, rng.standard_normal((2048, 256), np.float32), epoch=shard % 3)
        return str(tmp_path / name)
    small, large = ([children.run(PEAK, store(f"{count}", count), tmp_path / f"{count}.out", order)]
                    for count in (8, 48))       # 16 MiB, 96 MiB
    # The cache, of 8 MiB here, is full in both; nothing else may grow by the rows, of which the one has 80 MiB more.
    assert int(large[0]) < int(small[0]) + 16 * 1024


@pytest.mark.parametrize("order", ["epoch", "id"])
def test_ordering_takes_the_memory_of_one_range(tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANGE_ROWS", "SCAN_ROWS"):
        monkeypatch.setattr(compact_order, name, 2**11)
    monkeypatch.setattr("zstore.chunks.TEXT_CHUNKS", 2)
    url, peaks = str(tmp_path / "a.zarr"), []
    rng = np.random.default_rng(5)
    with zstore.Writer(url, rows_per_shard=2**12) as writer:
        for epoch in range(8):
            ids = rng.permutation(2**12).tolist()
            writer.append([f"document-{n:040d}" for n in ids], np.ones((2**12, 1), np.float32), epoch=epoch)
        writer.commit()
    log = Log(open_storage(url))
    record = log.head()
    for rows in (2**12, 2**15):
        some = replace(record, extents=record.extents.slice(0, rows))
        source = compact_source.Source(log.storage, log.schema_of(record), some)
        tracemalloc.start()
        plan = compact_order.plan_rows(source, order)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(plan) == rows
    assert peaks[1] < 1.5 * peaks[0]


# Object storage.

def test_to_s3_and_back(src: str, dst: str, s3: Any, sound: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there, options = s3.url(), s3.options
    monkeypatch.setattr(compact_write, "AT_ONCE_AFAR", 1)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Cut(5, "stopped half way")
    with pytest.raises(Cut):
        zstore.compact(src, there, order="id", dst_options=options, progress=stop)
    with pytest.raises(errors.StoreNotFound):
        zstore.Reader(there, storage_options=options)
    s3.requests()
    zstore.compact(src, there, order="id", dst_options=options)
    put = [request for request in s3.requests() if request.startswith("PUT") and "/vectors/c." in request]
    assert 0 < len(put) < len(shards_of(there, options)), "what was finished is not written again"
    with zstore.Reader(there, storage_options=options) as reader:
        keys = list(zip(reader.ids.tolist(), reader.field("epoch").tolist(), strict=True))
    assert keys == in_order(keys_of(src), "id")
    assert zstore.verify(there, storage_options=options) == []
    zstore.compact(there, dst, src_options=options)
    assert everything(dst) == everything(src)
    sound(dst)


@pytest.mark.parametrize("begun", [False, True])
def test_on_s3_one_that_sleeps_and_wakes_takes_nobodys_rows(src: str, s3: Any, monkeypatch: pytest.MonkeyPatch,
                                                            begun: bool) -> None:
    there, options = s3.url(), s3.options
    monkeypatch.setattr(compact_write, "AT_ONCE_AFAR", 1)
    if begun:
        def stop(done: int, total: int) -> None:
            raise Cut(5, "stopped")
        with pytest.raises(Cut):
            zstore.compact(src, there, dst_options=options, progress=stop)
    monkeypatch.setattr(compact_place, "_hold", lambda dst: dst.storage.share_live(f"_zstore/live/{0:020d}"))
    real, slept = compact_write._generation if begun else compact_write.ShardMaker._put, list[int]()

    def wakes(*args: Any) -> Any:
        """It sleeps before it writes; when it goes on from another run, right after it has seen what is there."""
        seen = real(*args) if begun else None
        if not slept:
            slept.append(1)
            zstore.compact(src, there, dst_options=options)
            more(there, storage_options=options)
        return seen if begun else real(*args)
    monkeypatch.setattr(*((compact_write, "_generation") if begun else (compact_write.ShardMaker, "_put")), wakes)
    zstore.compact(src, there, dst_options=options)
    assert slept
    with zstore.Reader(there, storage_options=options) as reader:
        assert reader.get("later", epoch=7).tolist() == [5, 5, 5, 5]
    assert zstore.verify(there, storage_options=options) == []


def shards_of(url: str, options: dict[str, Any]) -> list[str]:
    return [name for name in open_storage(url, options).list("vectors") if name.startswith("c.")]


# The command.

def test_the_command(src: str, dst: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", src, dst, "--codec", "small", "--dtype", "float16", "--order", "id", "--progress"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{dst}: {len(everything(src))} rows in one extent\n"
    assert "rows" in said.err
    with zstore.Reader(dst) as reader:
        assert (reader._now()[0].schema.codec, reader.vectors.dtype) == ("small", np.float16)
    assert main(["compact", src, dst + "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["version"]) == (len(everything(src)), 1)


def test_the_commands_errors(tmp_path: Path, src: str, dst: str, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", str(tmp_path / "nothing"), dst]) == 3
    assert main(["compact", src, src]) == 2
    assert main(["compact", src, dst, "--order", "time"]) == 2
    interrupted_at_record(src, dst, monkeypatch)
    lock = open_storage(dst).share_live(f"_zstore/live/{0:020d}")
    monkeypatch.setattr(LocalStorage, "patience_s", 0.05)
    assert main(["compact", src, dst]) == 5
    lock.release()
    assert all(line.startswith("zstore: ") for line in capsys.readouterr().err.splitlines())
