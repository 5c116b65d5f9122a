"""`verify`: silent about every sound store, and loud about every byte of a named object that is not what it was."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import FormatError, StoreNotFound
from zstore.format.checksum import open_json, seal_json
from zstore.maintenance.verify import Finding

PER_SHARD = 64
Damage = Callable[[Path], None]
pytestmark = pytest.mark.filterwarnings("ignore:.*rolled back", "ignore:.*superseded")


def fill(writer: zstore.Writer, start: int, count: int, epoch: int = 0, **fields: Any) -> None:
    rows = np.arange(start, start + count)
    ids: Any = [f"doc-{row}" for row in rows] if writer.strings else rows  # type: ignore[attr-defined]
    writer.append(ids, np.stack([rows, -rows, rows * 7], 1).astype("f4"), epoch=epoch, label=rows, **fields)


def open_writer(url: Path | str, ids: str = "str", **options: Any) -> zstore.Writer:
    writer = zstore.Writer(url, commit_every_s=None, **options)
    writer.strings = ids == "str"  # type: ignore[attr-defined]
    return writer


def make(url: Path | str, codec: str = "lossless", ids: str = "str") -> None:
    """Two sessions, a handed-over tail, three commits, a tag; 210 rows in four shards."""
    with open_writer(url, ids, codec=codec, rows_per_shard=PER_SHARD) as writer:
        fill(writer, 0, 40)
        writer.commit(tag="first", meta={"loss": 0.5})
        fill(writer, 40, 110)
        writer.commit()
    with open_writer(url, ids) as writer:
        fill(writer, 150, 60, epoch=1)


def tree(url: Path) -> dict[str, str]:
    """Every object of the store but the locks, by its hash."""
    return {str(path.relative_to(url)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(url.rglob("*")) if path.is_file() and "live" not in path.parts}


def named(url: Path) -> list[str]:
    """What records name, and what is derived: everything in a store that was closed cleanly."""
    return [name for name in tree(url) if "/tmp/" not in name]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sound")
    out = {}
    for codec, ids in (("lossless", "str"), ("raw", "int64"), ("small", "int64"), ("raw", "str")):
        out[f"{codec}-{ids}"] = home / f"{codec}-{ids}.zarr"
        make(out[f"{codec}-{ids}"], codec, ids)
    return out


@pytest.fixture
def store(sound: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(sound["lossless-str"], tmp_path / "a.zarr")
    yield tmp_path / "a.zarr"


def of(findings: list[Finding], name: str) -> Finding:
    found = [finding for finding in findings if finding.object == name]
    assert len(found) == 1, (name, findings)
    return found[0]


# -- sound stores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("shape", ["lossless-str", "raw-int64", "small-int64", "raw-str"])
def test_a_sound_store_has_no_findings(sound: dict[str, Path], shape: str, quick: bool) -> None:
    before = tree(sound[shape])
    assert zstore.verify(sound[shape], quick=quick) == []
    assert tree(sound[shape]) == before


@pytest.mark.parametrize("codec", ["lossless", "raw"])
def test_a_long_life_is_sound(tmp_path: Path, codec: str) -> None:
    url = tmp_path / "a.zarr"
    make(url, codec)
    with open_writer(url, at=2) as writer:          # rolled back
        fill(writer, 500, 30)
        mark = writer.commit().mark
        fill(writer, 530, 200)
        for start in range(800, 1000, 10):          # enough runs for a merge
            fill(writer, start, 10)
            writer.commit()
    with open_writer(url) as writer:
        writer.load_state_dict(mark)                # a second opening by the same writer
        fill(writer, 600, 10)
        rows = writer.commit().rows
        writer.add_field("cluster", np.arange(rows))
        fill(writer, 610, 100)
    zstore.rollback(url, 5)
    zstore.rollback(url, mark)
    with open_writer(url, attrs={"note": "more"}) as writer:
        fill(writer, 2000, 3)
    with open_writer(url, session="a") as one, open_writer(url, session="a", member=1) as two:
        for start in range(3000, 3200, 40):         # shards claimed in turns
            fill(one, start, 20)
            fill(two, start + 20, 20)
            one.commit()
        two.commit()
    assert zstore.verify(url) == []
    assert zstore.verify(url, quick=True) == []


def test_what_a_crash_leaves_is_no_finding(store: Path) -> None:
    for name, data in (("_zstore/tmp/00000000000000000003-x", b"half"), ("_zstore/live/00000000000000000099", b""),
                       ("vectors/c.9.0", b"never named"), ("_zstore/index/00000000000000000003-" + "0" * 32, b"unnamed"),
                       ("_zstore/claims/9.json", b"")):
        (store / name).write_bytes(data)
    assert zstore.verify(store) == []


def test_documents_one_commit_behind_are_no_finding_and_are_brought_on(store: Path) -> None:
    behind = {name: (store / name).read_bytes() for name in named(store) if name.endswith("zarr.json")}
    with open_writer(store) as writer:
        fill(writer, 900, 100)
        writer.commit()
        before = {name: (store / name).read_bytes() for name in behind}
        fill(writer, 1000, 100)
    after = {name: (store / name).read_bytes() for name in behind}
    for name, data in before.items():
        (store / name).write_bytes(data)            # killed before the last projection
    assert zstore.verify(store) == []
    assert zstore.verify(store, repair=True) == []
    assert {name: (store / name).read_bytes() for name in behind} == after
    for name, data in behind.items():
        (store / name).write_bytes(data)            # no crash leaves them that far behind
    assert zstore.verify(store) != []


def test_beside_a_live_writer(tmp_path: Path) -> None:
    url, stop, failed = tmp_path / "a.zarr", threading.Event(), []
    make(url)

    def write() -> None:
        try:
            with open_writer(url) as writer:
                for start in range(10_000, 10**6, 23):
                    fill(writer, start, 23)
                    writer.commit()
                    if stop.is_set():
                        return
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for turn in range(12):
            assert zstore.verify(url, quick=turn % 2 == 1) == []
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert zstore.verify(url) == []


def test_memory_store() -> None:
    make("memory://verify/a.zarr")
    assert zstore.verify("memory://verify/a.zarr") == []


def test_no_store_and_newer_format(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        zstore.verify(tmp_path / "nothing.zarr")
    record = store / f"_zstore/commits/{3:020d}.json"
    record.write_bytes(seal_json({**open_json(record.read_bytes(), ""), "format": "2.0"}))
    with pytest.raises(FormatError, match=r"2\.0"):
        zstore.verify(store)


def test_progress_counts_up_to_its_total(store: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    zstore.verify(store, progress=lambda done, total, name: seen.append((done, total, name)))
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1] and all(done <= total for done, total, _ in seen)
    assert {"vectors/c.0.0", "ids/c.3", "zarr.json"} <= {name for _, _, name in seen}


# -- damage ----------------------------------------------------------------------------------------------------------------


def every_object(store: Path) -> Iterator[str]:
    # Tags are named by nobody: only what is in them can be judged, not that they are gone.
    yield from named(store)


@pytest.mark.parametrize("shape", ["lossless-str", "raw-int64"])
def test_every_flipped_byte_is_found(sound: dict[str, Path], tmp_path: Path, shape: str) -> None:
    url = tmp_path / "a.zarr"
    shutil.copytree(sound[shape], url)
    rng = np.random.default_rng(1)
    for name in every_object(url):
        path, size = url / name, (url / name).stat().st_size
        whole = path.read_bytes()
        few = {0, size - 1, *rng.integers(0, size, 6).tolist()}
        for at in sorted(few):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1:])
            if name.endswith("zarr.json") and same_json(path.read_bytes(), whole):
                continue
            assert name in {finding.object for finding in zstore.verify(url)}, (name, at, size)
        path.write_bytes(whole)
    assert zstore.verify(url) == []


def test_the_document_of_a_field_that_head_lacks(store: Path) -> None:
    with open_writer(store) as writer:
        writer.add_field("cluster", np.arange(210))
    zstore.rollback(store, 1)
    whole = (store / "cluster/zarr.json").read_bytes()
    (store / "cluster/zarr.json").write_bytes(whole.replace(b"row", b"raw"))
    assert of(zstore.verify(store), "cluster/zarr.json").mends
    assert zstore.verify(store, repair=True) == []
    assert same_json((store / "cluster/zarr.json").read_bytes(), whole)
    assert zstore.verify(store) == []


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("shape", ["lossless-str", "raw-int64", "small-int64"])
def test_every_truncated_emptied_or_deleted_object_is_found(sound: dict[str, Path], tmp_path: Path, shape: str,
                                                            quick: bool) -> None:
    url = tmp_path / "a.zarr"
    shutil.copytree(sound[shape], url)
    for name in every_object(url):
        path = url / name
        whole = path.read_bytes()
        for size in (len(whole) // 2, len(whole) - 1, 0, None):
            if size is None:
                path.unlink()
                if "tags/" in name:
                    path.write_bytes(whole)
                    continue
            else:
                path.write_bytes(whole[:size])
            if not same_json(whole[:size or 0], whole):
                assert name in {finding.object for finding in zstore.verify(url, quick=quick)}, (name, size)
        path.write_bytes(whole)
    assert zstore.verify(url, quick=quick) == []


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("shape", ["lossless-str", "raw-int64"])
def test_every_swapped_pair_is_found(sound: dict[str, Path], tmp_path: Path, shape: str, quick: bool) -> None:
    url = tmp_path / "a.zarr"
    shutil.copytree(sound[shape], url)
    groups: dict[str, list[str]] = {}
    for name in every_object(url):
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    groups["fields"] = ["vectors/zarr.json", "ids/zarr.json", "label/zarr.json"]
    groups["shards"] = ["vectors/c.0.0", "ids/c.0", "label/c.0", "epoch/c.0"]
    for folder, names in groups.items():
        for one, other in itertools.pairwise(names):
            data = (url / one).read_bytes(), (url / other).read_bytes()
            if data[0] == data[1] or (folder == "_zstore/claims" and session(data[0]) == session(data[1])):
                continue        # two claims of one session say the same
            (url / one).write_bytes(data[1])
            (url / other).write_bytes(data[0])
            found = {finding.object for finding in zstore.verify(url, quick=quick)}
            assert found & {one, other}, (one, other)
            (url / one).write_bytes(data[0])
            (url / other).write_bytes(data[1])
    assert zstore.verify(url) == []


def session(claim: bytes) -> Any:
    return open_json(claim, "")["session"]


@pytest.mark.parametrize("codec", ["lossless", "raw"])
def test_older_copies_and_objects_of_a_diverged_copy_are_found(tmp_path: Path, codec: str) -> None:
    url, older, other = tmp_path / "a.zarr", tmp_path / "older.zarr", tmp_path / "other.zarr"
    with open_writer(url, codec=codec, rows_per_shard=PER_SHARD) as writer:
        fill(writer, 0, 90)
        writer.commit()
        shutil.copytree(url, older)
        fill(writer, 90, 20)
    shutil.copytree(url, other)
    for store, start in ((url, 110), (other, 5000)):
        with open_writer(store) as writer:
            for at in range(start, start + 90, 30):
                fill(writer, at, 30)
                writer.commit()
    for donor in (older, other):
        for name in sorted(set(named(url)) & set(named(donor))):
            whole, foreign = (url / name).read_bytes(), (donor / name).read_bytes()
            if whole == foreign:
                continue
            (url / name).write_bytes(foreign)
            for quick in (False, True):
                found = {finding.object for finding in zstore.verify(url, quick=quick)}
                # A record that went another way shows where the next one, or the root, contradicts it.
                assert name in found or ("commits" in name and found), (donor.name, name, found)
            (url / name).write_bytes(whole)
    assert zstore.verify(url) == []


# -- what a finding says -----------------------------------------------------------------------------------------------


def test_a_shard_is_named_with_its_rows_and_keys(store: Path) -> None:
    (store / "vectors/c.2.0").unlink()
    found = of(zstore.verify(store), "vectors/c.2.0")
    assert "missing" in found.problem and found.mends is None
    assert found.rows == [[128, 64]]
    assert found.keys == [(f"doc-{row}", 1 if row >= 150 else 0) for row in range(128, 148)]


def test_a_chunk_is_named_with_its_own_rows(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with open_writer(url, "int64", codec="raw", rows_per_shard=512) as writer:
        for start in range(0, 600, 100):
            rows = np.arange(start, start + 100)
            writer.append(rows, np.zeros((100, 512), "f4"), label=rows)
    chunk = zstore.Reader(url)._now()[0].schema.vectors.chunk_rows
    assert chunk < 64
    data = bytearray((url / "vectors/c.0.0").read_bytes())
    data[3 * chunk * 2048 + 5] ^= 1
    (url / "vectors/c.0.0").write_bytes(data)
    found = of(zstore.verify(url), "vectors/c.0.0")
    assert found.rows == [[3 * chunk, chunk]]
    assert found.keys[0] == (3 * chunk, 0) and len(found.keys) == min(chunk, 20)
    assert zstore.verify(url, quick=True) == []


def test_rows_are_heads_and_cut_rows_have_none(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with open_writer(url, rows_per_shard=PER_SHARD) as writer:
        fill(writer, 0, 64)
        mark = writer.commit()
        fill(writer, 64, 64)
    with open_writer(url, at=mark) as writer:
        fill(writer, 700, 64)
    (url / "label/c.1").unlink()            # cut: only version 2 has these rows
    found = of(zstore.verify(url), "label/c.1")
    assert found.rows == [] and found.keys == [] and "other versions" in found.problem
    (url / "label/c.2").unlink()
    found = of(zstore.verify(url), "label/c.2")
    assert found.rows == [[64, 64]] and found.keys[0] == ("doc-700", 0)


def test_a_lost_record_is_named_with_what_it_added(store: Path) -> None:
    name = f"_zstore/commits/{2:020d}.json"
    (store / name).unlink()
    found = of(zstore.verify(store), name)
    assert found.rows == [[40, 110]] and found.keys[0] == ("doc-40", 0)


def test_a_lost_head_is_seen_by_the_root(store: Path) -> None:
    head = zstore.Reader(store).version
    name = f"_zstore/commits/{head:020d}.json"
    (store / name).unlink()
    before = tree(store)
    for repair in (False, True):            # the only witness is not written over
        found = of(zstore.verify(store, repair=repair), name)
        assert found.rows == [[150, 60]] and found.mends is None
    assert tree(store) == before


# -- repair ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["lossless-str", "raw-int64"])
@pytest.mark.parametrize("how", ["delete", "damage"])
def test_repair_mends_what_is_derived_and_touches_nothing_else(sound: dict[str, Path], tmp_path: Path, shape: str,
                                                               how: str, caplog: pytest.LogCaptureFixture) -> None:
    url = tmp_path / "a.zarr"
    shutil.copytree(sound[shape], url)
    before = tree(url)
    derived = [name for name in before if name.endswith("zarr.json") or "/index/" in name or "/claims/" in name]
    for name in derived:
        if how == "delete":
            (url / name).unlink()
        else:
            (url / name).write_bytes(b"nonsense")
    found = zstore.verify(url)
    assert {finding.object for finding in found} == set(derived)
    assert all(finding.mends for finding in found)
    assert tree(url) != before
    with caplog.at_level("WARNING", "zstore"):
        assert zstore.verify(url, repair=True) == []
    assert "mended" in caplog.text
    after = tree(url)
    # Claims have a nonce of their own; everything else is what it was, byte by byte.
    assert {name for name in before if before[name] != after.get(name)} == {n for n in derived if "/claims/" in n}
    assert set(after) == set(before)
    assert zstore.verify(url) == []


def test_repair_makes_merged_runs_again(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    with open_writer(url, rows_per_shard=PER_SHARD) as writer:
        for start in range(0, 400, 10):
            fill(writer, start, 10)
            writer.commit()
    runs = {run for commit in range(zstore.Reader(url).version + 1)
            for run in open_json((url / f"_zstore/commits/{commit:020d}.json").read_bytes(), "")["index"]}
    for path in (url / "_zstore/index").iterdir():
        if path.name not in runs:           # a merge that the last commit came too early for
            path.unlink()
    before = tree(url)
    merged = list((url / "_zstore/index").iterdir())
    largest = max(merged, key=lambda path: path.stat().st_size)
    assert largest.stat().st_size > 4 * min(path.stat().st_size for path in merged)
    for path in merged:
        path.unlink()
    assert zstore.verify(url, repair=True) == []
    assert tree(url) == before


def test_repair_leaves_damaged_rows_alone(store: Path) -> None:
    for name in ("vectors/c.1.0", "epoch/c.3"):
        data = bytearray((store / name).read_bytes())
        data[3] ^= 1
        (store / name).write_bytes(data)
    run = next((store / "_zstore/index").iterdir())
    (store / "zarr.json").unlink()
    before = tree(store)
    left = zstore.verify(store, repair=True)
    assert {finding.object for finding in left} == {"vectors/c.1.0", "epoch/c.3"}
    after = tree(store)
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {"zarr.json"}
    assert run.exists()


def test_a_lying_index_is_found(store: Path) -> None:
    from zstore.format.run import Entries, parse_run, run_parts

    path = next(iter(sorted((store / "_zstore/index").iterdir())))
    header, entries = parse_run(path.read_bytes(), path.name)
    key = entries.key.copy()
    key[3] += 1
    parts = run_parts(header, Entries(key, entries.check, entries.epoch, entries.address))
    path.write_bytes(b"".join(bytes(part) for part in parts))
    found = of(zstore.verify(store), f"_zstore/index/{path.name}")
    assert "other keys" in found.problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert zstore.verify(store, repair=True) == []


def test_chunks_of_one_length_exchanged(url: str) -> None:
    """Each is sound by itself, and a CRC32C over chunks that end with their own is a constant: the trailer's says more."""
    with zstore.Writer(url, codec="raw", rows_per_shard=4096) as writer:
        writer.append(np.arange(4096), np.zeros((4096, 2), np.float32), text=[f"text-{i:05}" for i in range(4096)])
    path = Path(url) / "text/c.0"
    data = bytearray(path.read_bytes())
    table = np.frombuffer(bytes(data[-4 - 16 * 4:-4]), "<u8").reshape(-1, 2).astype(int)
    (a, length), (b, other) = table[0].tolist(), table[1].tolist()
    assert length == other
    data[a:a + length], data[b:b + length] = data[b:b + length], data[a:a + length]
    path.write_bytes(data)
    assert [finding.object for finding in zstore.verify(url)] == ["text/c.0"]
