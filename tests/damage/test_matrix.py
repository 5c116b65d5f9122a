"""Every kind of object, damaged in every way: ``verify`` names it, and no read gives a wrong value.

Objects that are judged apart are damaged together, all of a store at once; that asks no less of ``verify``, which must
name every one of them. By default a sample of bytes and lengths; with ``-m slow`` every byte, of every shape of store.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage_stores import SHAPES, by_key, copied, fill, findings, kind_of, make, objects, open_writer, restore, rows

pytest.importorskip("hypothesis")       # the bytes are damaged by the fuzzer's own hands
import zstore
from zstore.errors import Corrupt, ZStoreError
from zstore.testing.strategies import flips, truncations

EVERYDAY = [("raw", "int64"), ("lossless", "str"), ("small", "int64")]
SHARDS = ("vectors", "ids", "epoch", "label", "text", "cluster")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Path]]:
    home = tmp_path_factory.mktemp("sound")
    out = {}
    for codec, ids in SHAPES:
        out[codec, ids] = home / f"{codec}-{ids}.zarr"
        make(out[codec, ids], codec, ids)
    yield out
    shutil.rmtree(home)


Store = tuple[Path, dict[str, bytes]]


@pytest.fixture
def store(request: pytest.FixtureRequest, shapes: dict[tuple[str, str], Path], tmp_path: Path) -> Store:
    url = copied(shapes[request.param], tmp_path / "a.zarr")
    return url, objects(url)


one_shape = pytest.mark.parametrize("store", EVERYDAY[1:2], indirect=True, ids="-".join)
everyday = pytest.mark.parametrize("store", EVERYDAY, indirect=True, ids="-".join)
all_shapes = pytest.mark.parametrize("store", SHAPES, indirect=True, ids="-".join)


def same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def is_damage(where: str, data: bytes, sound: bytes) -> bool:
    """A JSON document says the same with a blank more, or without the line's end; all else is exact."""
    return data != sound and not (where.endswith(".json") and same_json(data, sound))


def layers(sound: dict[str, bytes], kinds: tuple[str, ...], ways: str, count: int | None) -> Iterator[dict[str, bytes]]:
    """One damage to every object of these kinds, until each has had all of its own."""
    def own(where: str, data: bytes) -> Iterator[bytes]:
        if ways == "flip":
            return (flipped for _, flipped in flips(data, count, seed=len(where)))
        return truncations(data, count, seed=len(where))

    each = {where: own(where, data) for where, data in sound.items() if kind_of(where) in kinds}
    for row in itertools.zip_longest(*each.values()):
        yield {where: data for where, data in zip(each, row, strict=True)
               if data is not None and is_damage(where, data, sound[where])}


def check_every_layer(store: Store, kinds: tuple[str, ...], ways: str, count: int | None) -> None:
    url, sound = store
    seen = 0
    for damage in layers(sound, kinds, ways, count):
        restore(url, damage)
        missed = set(damage) - findings(url)
        assert not missed, {where: damage[where] for where in missed}
        restore(url, {where: sound[where] for where in damage})
        seen += len(damage)
    assert seen >= len([where for where in sound if kind_of(where) in kinds])
    assert findings(url) == set()


APART = (*SHARDS, "claims", "tags", "index", "deletes")


@everyday
@pytest.mark.parametrize("ways", ["flip", "truncate"])
@pytest.mark.parametrize("kinds", [APART, ("documents",)], ids=["apart", "documents"])
def test_a_damaged_object_is_named(store: Store, kinds: tuple[str, ...], ways: str) -> None:
    check_every_layer(store, kinds, ways, 10)


@pytest.mark.slow
@all_shapes
@pytest.mark.parametrize("ways", ["flip", "truncate"])
@pytest.mark.parametrize("kinds", [APART, ("documents",)], ids=["apart", "documents"])
def test_every_byte_and_every_length(store: Store, kinds: tuple[str, ...], ways: str) -> None:
    check_every_layer(store, kinds, ways, None)


@one_shape
@pytest.mark.parametrize("ways", ["flip", "truncate"])
def test_a_damaged_record_is_named(store: Store, ways: str) -> None:
    check_records(store, ways, 3)


@pytest.mark.slow
@all_shapes
@pytest.mark.parametrize("ways", ["flip", "truncate"])
def test_every_byte_and_every_length_of_a_record(store: Store, ways: str) -> None:
    check_records(store, ways, None)


def check_records(store: Store, ways: str, count: int | None) -> None:
    """One at a time: records are held against each other, and a neighbour's accusation would hide what was missed."""
    url, sound = store
    for where in [where for where in sound if kind_of(where) == "commits"]:
        for damage in layers({where: sound[where]}, ("commits",), ways, count):
            restore(url, damage)
            if damage:
                assert where in findings(url, quick=True), damage
        restore(url, {where: sound[where]})
    assert findings(url) == set()


@everyday
@pytest.mark.parametrize("quick", [False, True])
def test_a_deleted_object_is_named(store: Store, quick: bool) -> None:
    # Tags are named by nobody: one that is not there can't be missed.
    together = {where for where in store[1] if kind_of(where) in (*SHARDS, "claims", "index", "deletes")}
    check_deleted(store, quick, [together, *({where} for where in store[1] if where not in together)])


@pytest.mark.slow
@all_shapes
@pytest.mark.parametrize("quick", [False, True])
def test_an_object_that_alone_is_deleted_is_named(store: Store, quick: bool) -> None:
    check_deleted(store, quick, [{where} for where in store[1]])


def check_deleted(store: Store, quick: bool, groups: list[set[str]]) -> None:
    url, sound = store
    for group in groups:
        lost = {where for where in group if kind_of(where) != "tags"}
        for where in lost:
            (url / where).unlink()
        assert lost <= findings(url, quick=quick), lost
        restore(url, {where: sound[where] for where in lost})


# -- exchanged -------------------------------------------------------------------------------------------------------


def siblings(sound: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """Pairs of one folder, and the same shard of two fields."""
    for _, group in itertools.groupby(sound, key=lambda where: where.rpartition("/")[0]):
        yield from itertools.pairwise(where for where in group if not where.endswith("zarr.json"))
    for one, other in itertools.pairwise(SHARDS):
        yield from ((here, there) for here in sound for there in sound if kind_of(here) == one and kind_of(there) == other
                    and here.split("/")[1].split(".")[1] == there.split("/")[1].split(".")[1])
    yield from itertools.pairwise(where for where in sound if where.endswith("zarr.json"))


@one_shape
def test_exchanged_siblings_are_both_named(store: Store) -> None:
    check_exchanged(store, every=4)


@pytest.mark.slow
@all_shapes
def test_all_exchanged_siblings_are_both_named(store: Store) -> None:
    check_exchanged(store, every=1)


def of_one_commit(one: str, other: str) -> bool:
    """Two runs that one commit wrote stand side by side for every reader: under each other's name they give what they gave."""
    return kind_of(one) == kind_of(other) == "index" and one.partition("-")[0] == other.partition("-")[0]


def check_exchanged(store: Store, every: int) -> None:
    url, sound = store
    truth = rows(url)
    for one, other in itertools.islice(siblings(sound), 0, None, every):
        if sound[one] == sound[other]:
            continue
        restore(url, {one: sound[other], other: sound[one]})
        found = findings(url)
        assert {one, other} <= found or of_one_commit(one, other), (one, other, found)
        assert_no_wrong_value(url, truth)
        restore(url, {one: sound[one], other: sound[other]})
    assert findings(url) == set()


@pytest.mark.parametrize(("codec", "ids"), [
    EVERYDAY[1], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES if shape != EVERYDAY[1])])
def test_what_comes_from_an_older_copy_or_a_twin_is_named(tmp_path: Path, codec: str, ids: str) -> None:
    url, older, twin = tmp_path / "a.zarr", tmp_path / "older.zarr", tmp_path / "twin.zarr"
    make(url, codec, ids)
    shutil.copytree(url, older)
    for store, start in ((url, 200), (twin, 300)):
        if store is twin:
            shutil.copytree(older, twin)
        with open_writer(store) as writer:
            for at in range(start, start + 60, 20):
                fill(writer, ids, at, 20 + (at == start and store is twin), epoch=3)
                writer.commit(tag="same" if at == start else None)
        with open_writer(store) as writer:
            writer.add_field("late", [start] * len(zstore.Reader(store)))
            fill(writer, ids, start + 90, 9, epoch=4)
    truth, sound = rows(url), objects(url)
    kinds = set()
    for donor in (older, twin):
        theirs = objects(donor)
        for where in sorted(set(sound) & set(theirs)):
            if sound[where] == theirs[where]:
                continue
            (url / where).write_bytes(theirs[where])
            found = findings(url, quick=True)      # what the bodies hold is right: it is the wrong body
            assert where in found, (donor.name, where, found)
            if kind_of(where) != "commits":
                assert_no_wrong_value(url, truth)
            kinds.add(kind_of(where))
            (url / where).write_bytes(sound[where])
    assert kinds >= {"vectors", "ids", "epoch", "commits", "claims", "tags", "documents", "late"}
    assert findings(url) == set()


def test_the_last_record_of_a_twin_is_named(tmp_path: Path) -> None:
    """It follows the same parent, and nobody follows it: only the root says that it is not the one."""
    url, twin = tmp_path / "a.zarr", tmp_path / "twin.zarr"
    make(url, "lossless", "str")
    shutil.copytree(url, twin)
    for store in (url, twin):
        zstore.rollback(store, "first")
    head = f"_zstore/commits/{zstore.Reader(url).version:020d}.json"
    sound = (url / head).read_bytes()
    (url / head).write_bytes((twin / head).read_bytes())
    assert {head, "zarr.json"} <= findings(url)
    (url / head).write_bytes(sound)
    assert findings(url) == set()


# -- reads -----------------------------------------------------------------------------------------------------------


def assert_no_wrong_value(url: Path, truth: dict[object, tuple[str, ...]], **options: bool) -> int:
    """Each field is read alone, and rows by their keys: an error of ours, or what was written. Gives how many were read."""
    read = 0
    try:
        with zstore.Reader(url, **options) as reader:
            names = sorted(reader._now()[0].columns)
            keys = list(truth)
            for at, field in enumerate(names):
                try:
                    values = reader.get([key[0] for key in keys[:40]], field=field)  # type: ignore[index]
                    assert len(values) == 40
                    column = [str(value) for value in reader.field(field).tolist()]
                except ZStoreError:
                    continue
                assert column == [row[at] for row in truth.values()], field
                read += 1
    except ZStoreError:
        pass
    return read


@everyday
def test_no_read_gives_a_wrong_value(store: Store) -> None:
    check_reads(store, 4)


@pytest.mark.slow
@all_shapes
def test_no_read_gives_a_wrong_value_whatever_byte_is_hit(store: Store) -> None:
    check_reads(store, None)


def check_reads(store: Store, count: int | None) -> None:
    url, sound = store
    truth = rows(url)
    # A raw full shard is mapped: it is checked at open where that is asked for.
    options = {"verify": True} if "raw" in sound["vectors/zarr.json"].decode() or b"blosc" not in sound[
        "vectors/zarr.json"] else {}
    shards = sorted({where.split("/")[1].split(".")[1] for where in sound if kind_of(where) == "vectors"})
    for shard in shards:
        mine = {where: data for where, data in sound.items()
                if kind_of(where) in SHARDS and where.split("/")[1].split(".")[1] == shard}
        for ways in ("flip", "truncate"):
            for damage in layers(mine, SHARDS, ways, count):
                restore(url, damage)
                assert_no_wrong_value(url, truth, **options)
                restore(url, {where: mine[where] for where in damage})
    assert assert_no_wrong_value(url, truth, **options) == 6


@one_shape
def test_a_lost_index_or_document_costs_no_answer(store: Store) -> None:
    url, sound = store
    truth = rows(url)
    keys = list(truth)[::7]
    right = by_key(url, keys)  # type: ignore[arg-type]
    for ways in ("flip", "truncate"):
        for damage in layers(sound, ("index", "documents", "claims"), ways, 4):
            restore(url, damage)
            assert by_key(url, keys) == right  # type: ignore[arg-type]
            assert rows(url) == truth
            restore(url, {where: sound[where] for where in damage})


@one_shape
def test_a_damaged_record_or_tag_is_refused_by_its_name(store: Store) -> None:
    url, sound = store
    for where in [where for where in sound if kind_of(where) in ("commits", "tags")]:
        for data in [*(data for _, data in flips(sound[where], 4)), *truncations(sound[where], 2)]:
            if not is_damage(where, data, sound[where]):
                continue
            (url / where).write_bytes(data)
            with pytest.raises(Corrupt) as caught:
                if kind_of(where) == "tags":
                    zstore.Reader(url, tag=Path(where).stem)
                else:
                    zstore.Reader(url, version=int(Path(where).stem))
            assert caught.value.object == where
        restore(url, {where: sound[where]})


# -- repair, and what is no damage -----------------------------------------------------------------------------------


@one_shape
def test_what_verify_says_it_mends_is_mended(store: Store) -> None:
    url, sound = store
    for kinds in (("claims",), ("index",), ("documents",), ("claims", "index", "documents")):
        for ways in ("flip", "truncate"):
            for damage in layers(sound, kinds, ways, 1):
                restore(url, damage)
                assert all(finding.mends for finding in zstore.verify(url))
                assert zstore.verify(url, repair=True) == []
                assert zstore.verify(url) == []
                now = objects(url)
                changed = {where for where in sound if now[where] != sound[where]}
                assert {kind_of(where) for where in changed} <= {"claims"}      # with a nonce of their own
                restore(url, sound)


@one_shape
def test_litter_is_no_finding(store: Store) -> None:
    url, sound = store
    for where, data in (("_zstore/tmp/x-1", b"half"), ("_zstore/live/00000000000000000099", b""), ("vectors/c.77.0", b"x"),
                        (f"_zstore/index/{0:020d}-{'0' * 32}", b"unnamed"), ("_zstore/claims/77.json", b""),
                        ("notes.txt", b"mine"), ("_zstore/commits/README", b"?")):
        (url / where).write_bytes(data)
    assert findings(url) == set()
    assert {where: (url / where).read_bytes() for where in sound} == sound
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(rows(url)) == len(zstore.Reader(url))
