"""Whole stores on remote storage: S3 over HTTP, a service that creates but does not rewrite, and one for a single writer."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import zstore
from zstore.errors import Conflict, StaleWriter
from zstore.storage import leases
from zstore.storage.backend import Doubtful, Unmet
from zstore.storage.s3 import S3Backend

pytest.importorskip("s3fs")
pytest.importorskip("moto")

DIM = 8
Place = tuple[str, dict[str, Any]]


def vectors(ids: Any, epoch: int = 0) -> Any:
    return (np.asarray(ids, "f4")[:, None] + np.arange(DIM, dtype="f4") / 16 + 1000 * epoch).astype("f4")


def append(writer: zstore.Writer, ids: Any, epoch: int = 0) -> None:
    writer.append(np.asarray(ids), vectors(ids, epoch), epoch=epoch)


def assert_holds(place: Place, rows: dict[int, list[int]], **version: Any) -> None:
    """The store is sound and holds exactly these ids in these epochs, each with its vector."""
    url, options = place
    with zstore.Reader(url, storage_options=options, **version) as reader:
        keys = list(zip(reader.field("epoch").tolist(), reader.ids.tolist(), strict=True))
        assert sorted(keys) == sorted((epoch, id) for epoch, ids in rows.items() for id in ids)
        for epoch, ids in rows.items():
            np.testing.assert_array_equal(reader.get(ids, epoch=epoch), vectors(ids, epoch))
    assert zstore.verify(url, storage_options=options) == []


@pytest.fixture
def place(s3: Any) -> Place:
    return s3.url(), s3.options


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life that are stale in seconds."""
    monkeypatch.setattr(leases, "STALE_S", 3.0)
    monkeypatch.setattr(leases, "RENEW_S", 0.5)


def life(place: Place, codec: str) -> dict[int, list[int]]:
    """Create, append over shards, commit, take the tail, roll back, add a field, tag; gives what head then holds."""
    url, options = place
    with zstore.Writer(url, storage_options=options, rows_per_shard=64, codec=codec) as writer:
        append(writer, range(100))
        first = writer.commit(tag="first", meta={"lr": 0.1})
        append(writer, range(50), 1)
    assert first is not None
    assert_holds(place, {0: [*range(100)], 1: [*range(50)]})
    with zstore.Writer(url, storage_options=options) as writer:
        append(writer, range(50, 70), 1)
        mark = writer.state_dict()
        append(writer, range(70), 2)
    with pytest.warns(UserWarning, match="70 rows are cut"):
        writer = zstore.Writer(url, storage_options=options, at=mark)
    with writer:
        append(writer, range(30), 3)
        writer.commit()
        label = np.arange(200, dtype="i4")
        writer.add_field("label", label, fill=-1)
        append(writer, range(30, 40), 3)
    rows = {0: [*range(100)], 1: [*range(70)], 3: [*range(40)]}
    assert_holds(place, rows)
    assert_holds(place, {0: [*range(100)]}, tag="first")
    with zstore.Reader(url, storage_options=options) as reader:
        assert reader.field("label").tolist() == [*range(200), *[-1] * 10]
    return rows


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_whole_life_on_s3(place: Place, codec: str) -> None:
    rows = life(place, codec)
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.FsspecStore.from_url(place[0], storage_options=place[1], read_only=True)
    group = zarr.open_group(store, mode="r")
    extents = group.attrs["zstore"]["extents"]
    ids = np.concatenate([group["ids"][start:start + count] for start, count in extents])
    stored = np.concatenate([group["vectors"][start:start + count] for start, count in extents])
    np.testing.assert_array_equal(stored, np.concatenate([vectors(each, epoch) for epoch, each in rows.items()]))
    assert ids.tolist() == [id for each in rows.values() for id in each]


def test_opening_head_takes_four_requests_and_no_listing(s3: Any, place: Place) -> None:
    url, options = place
    with zstore.Writer(url, storage_options=options, rows_per_shard=16) as writer:
        for epoch in range(5):
            append(writer, range(10), epoch)
            writer.commit()
    s3.requests()
    with zstore.Reader(url, storage_options=options) as reader:
        assert len(reader) == 50
        asked = s3.requests()
    assert len(asked) <= 4 and not [one for one in asked if "list-type" in one]


def test_a_tail_is_taken_and_only_its_writer_rewrites_it(s3: Any, place: Place) -> None:
    url, options = place
    for turn in range(3):
        with zstore.Writer(url, storage_options=options, rows_per_shard=64, codec="raw") as writer:
            append(writer, range(turn * 10, turn * 10 + 10))
    assert {one.rpartition("/")[2] for one in s3.requests() if one.startswith("PUT") and "/vectors/c." in one} == {"c.0.0"}
    assert_holds(place, {0: [*range(30)]})


def test_takeover_fences_the_one_that_lives(place: Place) -> None:
    url, options = place
    old = zstore.Writer(url, storage_options=options, rows_per_shard=16)
    append(old, range(10))
    old.commit()
    append(old, range(10, 60))
    new = _elsewhere(url, options, takeover=True)
    append(new, range(100, 110))
    new.commit()
    with pytest.raises(StaleWriter):
        old.commit()
    with pytest.raises(StaleWriter):
        old.close()
    append(new, range(110, 150))
    new.close()
    assert_holds(place, {0: [*range(10), *range(100, 150)]})


def _elsewhere(url: str, options: dict[str, Any], **more: Any) -> zstore.Writer:
    """A writer that the registry of this process does not connect with the first."""
    from zstore.writing import registry

    held = registry._open.pop(url)
    try:
        return zstore.Writer(url, storage_options=options, **more)
    finally:
        registry._open[url] = held + registry._open.get(url, [])


HOLDER = """
    import sys, time
    import numpy as np
    import zstore
    from zstore.storage import leases
    leases.RENEW_S = 0.5
    url, options = sys.argv[1], eval(sys.argv[2])
    writer = zstore.Writer(url, storage_options=options, rows_per_shard=64)
    ids = np.arange(10)
    writer.append(ids, (ids[:, None] + np.arange(8, dtype="f4") / 16).astype("f4"))
    writer.commit()
    writer.append(ids, np.zeros((10, 8), "f4"), epoch=9)
    print("up", flush=True)
    time.sleep(60)
"""


def test_a_living_session_is_refused_and_a_dead_one_found_dead(place: Place, quick: None, children: Any) -> None:
    url, options = place
    child = children.start(HOLDER, url, repr(options))
    assert children.line(child) == "up"
    with pytest.raises(Conflict, match=f"is being written by pid {child.pid}"):
        zstore.Writer(url, storage_options=options)
    children.kill(child)
    with zstore.Writer(url, storage_options=options) as writer:
        append(writer, range(10, 20))
    assert_holds(place, {0: [*range(20)]})


MEMBER = """
    import sys
    import numpy as np
    import zstore
    url, options, member = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
    with zstore.Writer(url, storage_options=options, session="launch", member=member, rows_per_shard=16) as writer:
        for turn in range(4):
            ids = np.arange(10) + 100 * member + 10 * turn
            writer.append(ids, (ids[:, None] + np.arange(8, dtype="f4") / 16).astype("f4"))
            writer.commit()
"""


def test_two_processes_share_a_session(place: Place, children: Any) -> None:
    members = [children.start(MEMBER, place[0], repr(place[1]), member) for member in range(2)]
    for member in members:
        _, errors = member.communicate(timeout=120)
        assert member.returncode == 0, errors
    assert_holds(place, {0: [*range(40), *range(100, 140)]})


def test_a_writer_that_is_left_open_commits_when_its_process_ends(place: Place, children: Any) -> None:
    children.run("""
        import sys
        import numpy as np
        import zstore
        writer = zstore.Writer(sys.argv[1], storage_options=eval(sys.argv[2]), rows_per_shard=16)
        ids = np.arange(100)
        writer.append(ids, (ids[:, None] + np.arange(8, dtype="f4") / 16).astype("f4"))
    """, place[0], repr(place[1]))
    assert_holds(place, {0: [*range(100)]})


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_reader_goes_on_while_the_tail_that_it_reads_is_rewritten(place: Place, codec: str) -> None:
    url, options = place
    with zstore.Writer(url, storage_options=options, rows_per_shard=8192, codec=codec) as writer:
        append(writer, range(3000))
        writer.commit()
        with zstore.Reader(url, storage_options=options) as reader:
            assert reader[5].tolist() == vectors([5])[0].tolist()       # the shard is open, by the end that it has now
            append(writer, range(3000, 6000))
            writer.commit()
            np.testing.assert_array_equal(reader.vectors, vectors(range(3000)))
            assert reader.refresh()
            np.testing.assert_array_equal(reader.vectors, vectors(range(6000)))
    assert_holds(place, {0: [*range(6000)]})


# -- a bad network -----------------------------------------------------------------------------------------------------

def test_every_first_answer_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, claims, tails, runs, tags, documents: each first request for a name is done, and its answer lost."""
    put, get = S3Backend.put, S3Backend.get
    lost: set[tuple[str, str]] = set()

    def lose(verb: str, name: str, done: Any) -> Any:
        if (verb, name) not in lost and "probe" not in name:
            lost.add((verb, name))
            raise Doubtful(f"{name}: connection reset")
        return done

    monkeypatch.setattr(S3Backend, "put", lambda self, name, *a, **k: lose("put", name, put(self, name, *a, **k)))
    monkeypatch.setattr(S3Backend, "get", lambda self, name, *a, **k: lose("get", name, get(self, name, *a, **k)))
    life(place, "lossless")
    kinds = {name.split("/")[1] if name.startswith("_zstore") else name.split("/")[-1].split(".")[0] for _, name in lost}
    assert kinds >= {"commits", "claims", "tags", "index", "live", "c", "zarr"}


def test_a_late_duplicate_of_an_older_tail_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request for a shard is delivered once more at the very end, oldest last."""
    put = S3Backend.put
    sent: list[tuple[Any, ...]] = []

    def keep(self: S3Backend, name: str, data: bytes, *, absent: bool = False, over: str | None = None) -> str:
        if "/c." in name:
            sent.append((self, name, data, absent, over))
        return put(self, name, data, absent=absent, over=over)

    monkeypatch.setattr(S3Backend, "put", keep)
    url, options = place
    with zstore.Writer(url, storage_options=options, rows_per_shard=64, codec="raw") as writer:
        for turn in range(4):
            append(writer, range(turn * 10, turn * 10 + 10))
            writer.commit()
    assert len(sent) == 4 * 3
    for service, name, data, absent, over in reversed(sent):
        assert absent or over
        with pytest.raises(Unmet):
            put(service, name, data, absent=absent, over=over)
    assert_holds(place, {0: [*range(40)]})


def test_a_foreign_object_in_the_tails_place_is_not_written_over(s3: Any, place: Place) -> None:
    url, options = place
    writer = zstore.Writer(url, storage_options=options, rows_per_shard=64, codec="raw")
    append(writer, range(10))
    writer.commit()
    service = writer._storage._service  # type: ignore[attr-defined]
    right = service.get("vectors/c.0.0").data
    service.put("vectors/c.0.0", b"somebody else's")
    append(writer, range(10, 20))
    with pytest.raises(Conflict, match=r"vectors/c\.0\.0"):
        writer.commit()
    assert service.get("vectors/c.0.0").data == b"somebody else's"
    service.put("vectors/c.0.0", right)         # put back: the very generation that this writer knows
    writer.close()
    assert_holds(place, {0: [*range(20)]})


# -- other services -----------------------------------------------------------------------------------------------------

@pytest.fixture
def services() -> Iterator[dict[str, Any]]:
    """Two services by fsspec's own memory: ``gs``, which refuses a second creation, and ``plain``, which only writes."""
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry, register_implementation

    class Plain(MemoryFileSystem):
        protocol = "plain"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix(f"{cls.protocol}://").strip("/") if path.strip("/") else ""

    class Creating(Plain):
        protocol = "gs"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
            if mode == "create" and self.exists(path):
                raise FileExistsError(path)
            super().pipe_file(path, value)

    before = dict(_registry)
    for service in (Plain, Creating):
        register_implementation(service.protocol, service, clobber=True)
    yield {"plain": Plain, "gs": Creating}
    _registry.clear()
    _registry.update(before)


def test_a_service_that_creates_but_does_not_rewrite(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard is written with one content only, so that a late duplicate changes nothing."""
    contents: dict[str, set[bytes]] = {}
    creating = services["gs"]
    pipe = creating.pipe_file

    def keep(self: Any, path: str, value: bytes, *a: Any, **k: Any) -> None:
        contents.setdefault(path, set()).add(bytes(value))
        pipe(self, path, value, *a, **k)

    monkeypatch.setattr(creating, "pipe_file", keep)
    place = (f"gs://bucket/{uuid.uuid4().hex}", {})
    life(place, "lossless")
    shards = [path for path in contents if "/c." in path]
    assert len(shards) > 9 and not [path for path in shards if len(contents[path]) > 1]


def test_a_tail_that_was_copied_to_a_service_without_rewriting_is_left(services: dict[str, Any], tmp_path: Path) -> None:
    with zstore.Writer(tmp_path / "a.zarr", rows_per_shard=64, codec="raw") as writer:
        append(writer, range(10))
    url, copy = f"gs://bucket/{uuid.uuid4().hex}", services["gs"]()
    for path in (tmp_path / "a.zarr").rglob("*"):
        if path.is_file():
            copy.pipe_file(f"{url}/{path.relative_to(tmp_path / 'a.zarr')}", path.read_bytes())
    before = copy.cat_file(f"{url}/vectors/c.0.0")
    with zstore.Writer(url) as writer:
        append(writer, range(10, 20))
    assert copy.cat_file(f"{url}/vectors/c.0.0") == before
    assert_holds((url, {}), {0: [*range(20)]})


def test_a_service_without_atomic_creation_is_for_one_writer(services: dict[str, Any]) -> None:
    url = f"plain://bucket/{uuid.uuid4().hex}"
    with pytest.raises(Conflict, match="only_writer=True"):
        zstore.Writer(url)
    assert not services["plain"].store
    with zstore.Writer(url, only_writer=True, rows_per_shard=64) as writer:
        append(writer, range(100))
        writer.commit()
        append(writer, range(50), 1)
    with pytest.raises(Conflict, match="only_writer=True"):
        zstore.Writer(url)
    with zstore.Writer(url, only_writer=True) as writer:
        append(writer, range(50, 70), 1)
    assert_holds((url, {}), {0: [*range(100)], 1: [*range(70)]})


KILLED = """
    import os, sys
    import numpy as np
    import zstore
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.registry import register_implementation

    class Folder(LocalFileSystem):
        protocol = "folder"
        left = int(sys.argv[2])

        def pipe_file(self, path, value, *a, **k):
            Folder.left -= 1
            if Folder.left < 0:
                with open(path, "wb") as half:
                    half.write(bytes(value)[:len(value) // 2])
                os._exit(9)
            super().pipe_file(path, value, *a, **k)

        @classmethod
        def _strip_protocol(cls, path):
            return LocalFileSystem._strip_protocol(path.replace("folder://", "file://"))

    register_implementation("folder", Folder, clobber=True)
    with zstore.Writer(f"folder://{sys.argv[1]}", only_writer=True, rows_per_shard=64) as writer:
        for epoch in range(4):
            ids = np.arange(30)
            vectors = ids[:, None] + np.arange(8) / 16 + 1000 * epoch
            if not os.path.exists(sys.argv[1] + f".{epoch}"):
                writer.append(ids, vectors.astype("f4"), epoch=epoch)
                writer.commit()
                open(sys.argv[1] + f".{epoch}", "w").close()
    print("done")
"""


def test_a_single_writer_that_is_killed_half_way_through_a_write_goes_on(tmp_path: Path, children: Any) -> None:
    """Killed at some of its writes, an object half written; what was acknowledged is there, and the last run ends."""
    url = str(tmp_path / "a.zarr")
    ends = []
    for writes in (3, 11, 20, 33, 120):
        child = children.start(KILLED, url, writes)
        out, errors = child.communicate(timeout=60)
        assert child.returncode in (0, 9), errors
        acknowledged = [epoch for epoch in range(4) if os.path.exists(f"{url}.{epoch}")]
        if acknowledged:
            with zstore.Reader(url) as reader:
                for epoch in acknowledged:
                    np.testing.assert_array_equal(reader.get([*range(30)], epoch=epoch), vectors(range(30), epoch))
            assert zstore.verify(url) == []
        ends.append(child.returncode)
        if child.returncode == 0:
            assert out.strip() == "done"
            break
    assert ends[0] == 9 and ends[-1] == 0


def test_no_secret_is_in_the_store_or_in_what_is_printed(s3: Any, place: Place, caplog: pytest.LogCaptureFixture,
                                                        rows_of: Callable[..., Any]) -> None:
    url, options = place
    secret = "a-secret-of-" + uuid.uuid4().hex
    options["secret"] = secret
    with caplog.at_level(1, "zstore"), zstore.Writer(url, storage_options=options) as writer:
        append(writer, range(10))
        said = repr(writer) + writer.url
    with zstore.Reader(url, storage_options=options) as reader:
        said += repr(reader)
    assert secret not in said + caplog.text
    from zstore.storage import open_storage

    storage = open_storage(url, options)
    folders = [""]
    while folders:
        folder = folders.pop()
        inside = f"{folder}/" if folder else ""
        folders += [inside + name for name in storage.folders(folder)]
        for name in storage.list(folder):
            assert secret.encode() not in storage.read(inside + name)


def test_what_surely_never_left_this_machine_is_not_in_doubt(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes as a record is created: an error, and when it is back the same writer commits."""
    url, options = place
    monkeypatch.setattr("zstore.storage.patience.PATIENCE_S", 0.3)
    monkeypatch.setattr("zstore.commits.publish.IN_DOUBT_S", 0.0)
    real = {"put": S3Backend.put, "get": S3Backend.get}
    down: list[bool] = []

    def broken(what: str) -> Callable[..., Any]:
        def call(self: Any, name: str, *args: Any, **options: Any) -> Any:
            if what == "put" and "commits/" in name:
                down.append(True)
            if down:
                raise Doubtful("connection refused", sent=False)
            return real[what](self, name, *args, **options)
        return call

    with zstore.Writer(url, storage_options=options, commit_every_s=None) as writer:
        append(writer, [1])
        writer.commit()
        append(writer, [2])
        with monkeypatch.context() as patch:
            for what in real:
                patch.setattr(S3Backend, what, broken(what))
            with pytest.raises(TimeoutError):
                writer.commit()
        writer.commit()
    assert_holds(place, {0: [1, 2]})


def test_a_put_that_landed_though_it_failed_in_a_way_of_its_own(place: Place) -> None:
    """An answer that nobody can read: the next, longer tail goes over what is there."""
    url, options = place
    with zstore.Writer(url, storage_options=options, commit_every_s=None) as writer:
        append(writer, [1])
        writer.commit()
        fs = writer._storage._fs
        call, spoiled = fs._call_s3, []

        async def bad(method: str, *args: Any, **more: Any) -> Any:
            answer = await call(method, *args, **more)
            if method == "put_object" and "/c.0" in more["Key"] and not spoiled:
                spoiled.append(more["Key"])
                raise ValueError("unparsable answer")
            return answer

        fs._call_s3 = bad
        try:
            append(writer, [2])
            with pytest.raises(OSError, match="unparsable answer"):
                writer.commit()
            append(writer, [3])
            writer.commit()
        finally:
            fs._call_s3 = call
    assert spoiled
    assert_holds(place, {0: [1, 2, 3]})


def test_a_column_that_was_added_to_is_no_tail_again(place: Place) -> None:
    """add_field begins a fresh shard, also for a writer that loads its own mark behind it."""
    url, options = place
    with zstore.Writer(url, storage_options=options, rows_per_shard=64) as writer:
        append(writer, range(20))
    with zstore.Writer(url, storage_options=options) as writer:
        writer.add_field("x", np.arange(20, dtype="i4"), fill=-1)
        before = writer._storage.read("x/c.0")
        writer.load_state_dict(writer.state_dict())
        append(writer, range(20, 30))
        writer.commit()
        assert writer._storage.read("x/c.0") == before
    assert_holds(place, {0: list(range(30))})
