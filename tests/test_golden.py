"""Stores that releases wrote: this release reads each value of them, and finds nothing wrong with them."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import zstore

GOLDEN = Path(__file__).parent / "golden"
STORES = sorted(path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("[0-9]*/*.zarr"))

# (row, epoch) in order of address; a row's id, vector, label and note follow from its number.
EARLY = [(0, 0), (1, 0), (2, 0), (3, 0)]
SHARED = [*EARLY, (100, 0), (101, 0)]
ADDED = [*SHARED, (1, 1), (2, 1), (10, 1), (11, 1), (12, 1), (13, 1)]
CUT = [*ADDED, (50, 2), (51, 2)]
LAST = [*ADDED, (60, 3), (61, 3), (62, 3), (63, 3)]
HEAD = [pair for pair in LAST if pair[0] not in (2, 61)]
TAGS = {"early": EARLY, "added": ADDED, "cut": CUT, "last": LAST}


def id_of(row: int, store: str) -> object:
    return 3 * row if "int64" in store else f"id-{row}-ü"


def check(reader: zstore.Reader, store: str, expected: list[tuple[int, int]]) -> None:
    rows = [row for row, _ in expected]
    assert reader.ids.tolist() == [id_of(row, store) for row in rows]
    assert reader.field("epoch").tolist() == [epoch for _, epoch in expected]
    assert reader.vectors.dtype.name == store.rpartition("-")[2].removesuffix(".zarr")
    assert reader.vectors.astype("f8").tolist() == [[row, row + 0.5, -row] for row in rows]
    assert reader.field("label").dtype == np.int16 and reader.field("label").tolist() == [row % 3 for row in rows]
    assert reader.field("note").tolist() == [f"note {row % 2}" for row in rows]
    for row, epoch in expected:
        assert reader.get(id_of(row, store), epoch=epoch).astype("f8").tolist() == [row, row + 0.5, -row]
    assert reader.epochs.tolist() == sorted({epoch for _, epoch in expected})


def test_there_is_one_of_each_kind() -> None:
    kinds = {tuple(Path(store).stem.split("-")) for store in STORES}
    assert kinds >= {(codec, ids, "float32") for codec in ("raw", "lossless", "small") for ids in ("int64", "str")}
    assert any("bfloat16" in kind for kind in kinds)


def test_the_files_are_those_of_the_provenance() -> None:
    page = (GOLDEN / "PROVENANCE.md").read_text()
    listed = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (.+)$", page, re.MULTILINE)}
    there = {path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in GOLDEN.rglob("*") if path.is_file() and any(part.endswith(".zarr") for part in path.parts)}
    assert there == listed and len(listed) > 100


@pytest.mark.parametrize("store", STORES)
def test_this_release_reads_it(store: str) -> None:
    with zstore.Reader(GOLDEN / store) as reader:
        check(reader, store, HEAD)
        assert reader.field("cluster").tolist()[:2] == [0, 10]
        with pytest.raises(KeyError):
            reader.get(id_of(2, store))
        latest = dict(zip(reader.latest().ids.tolist(), reader.latest().field("epoch").tolist(), strict=True))
        assert latest == {id_of(row, store): epoch for row, epoch in HEAD}
    for tag, expected in TAGS.items():
        with zstore.Reader(GOLDEN / store, tag=tag) as reader:
            check(reader, store, expected)
    assert zstore.history(GOLDEN / store)[1].meta == {"loss": 0.5}


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_wrong_with_it(store: str, tmp_path: Path) -> None:
    assert zstore.verify(GOLDEN / store) == []
    url = tmp_path / "a.zarr"
    shutil.copytree(GOLDEN / store, url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zstore.rollback(url, "last")        # what was deleted stays deleted
        with zstore.Reader(url) as reader:
            check(reader, store, HEAD)
        with zstore.Writer(url, commit_every_s=None) as writer:
            writer.append([id_of(200, store)], np.zeros((1, 3)), epoch=9, label=[1], note=["x"])
    assert zstore.verify(url) == [] and len(zstore.Reader(url)) == len(HEAD) + 1


@pytest.mark.parametrize("store", [store for store in STORES if "float32" in store and "bfloat" not in store])
def test_zarr_reads_it(store: str) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(GOLDEN / store), mode="r")
    extents = group.attrs["zstore"]["extents"]
    vectors = np.concatenate([group["vectors"][start:start + count] for start, count in extents])
    assert vectors.tolist() == [[row, row + 0.5, -row] for row, _ in HEAD]
