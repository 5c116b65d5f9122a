"""Bad places, bad options, and damaged stores: one clear error, and nothing is touched."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import zstore
from zstore.errors import (
    AlreadyExists,
    BehindCheckpoint,
    Corrupt,
    FormatError,
    MissingExtra,
    NotFound,
    StoreNotFound,
)
from zstore.format.checksum import open_json, seal_json
from zstore.storage.local import LocalStorage

GOOD = np.arange(8, dtype=np.float32).reshape(2, 4)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, but for the locks of the living."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and "_zstore/live" not in str(path)}


@pytest.fixture
def store(url: str) -> Path:
    """Four rows in two commits, the first tagged "first"."""
    with zstore.Writer(url, codec="raw", rows_per_shard=4, attrs={"run": "a"}) as writer:
        writer.append(["doc-1", "doc-2"], GOOD, epoch=0, label=[1, 2])
        writer.commit(tag="first")
        writer.append(["doc-1", "doc-2"], GOOD, epoch=1, label=[1, 2])
    return Path(url)


# -- places -----------------------------------------------------------------------------------------------------------

def test_a_path_that_is_a_file(url: str) -> None:
    Path(url).write_text("mine")
    with pytest.raises(AlreadyExists, match="is a file; a store is a folder: choose another path"):
        zstore.Writer(url)
    with pytest.raises(StoreNotFound, match="is a file, not a store"):
        zstore.Reader(url)
    assert Path(url).read_text() == "mine"


def test_a_path_below_a_file(url: str) -> None:
    Path(url).write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        zstore.Writer(url + "/deeper/run.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_another_zarr_group(url: str, zarr_format: Any) -> None:
    zarr.open_group(url, mode="w", zarr_format=zarr_format).create_array("x", shape=(3,), dtype="f4")
    before = tree(Path(url))
    with pytest.raises(AlreadyExists, match="another Zarr group or array, not a zstore store"):
        zstore.Writer(url)
    with pytest.raises(StoreNotFound, match="not a zstore store"):
        zstore.Reader(url)
    assert tree(Path(url)) == before


def test_a_folder_with_other_things(url: str) -> None:
    os.makedirs(url + "/photos")
    with pytest.raises(AlreadyExists, match="a folder with other things in it"):
        zstore.Writer(url)
    assert os.listdir(url) == ["photos"]


def test_an_empty_folder_is_no_store_yet(url: str, sound: Callable[[str], None]) -> None:
    os.makedirs(url)
    with pytest.raises(StoreNotFound):
        zstore.Reader(url)
    with zstore.Writer(url, mode="x", rows_per_shard=4) as writer:
        writer.append([1, 2], GOOD)
    assert len(zstore.Reader(url)) == 2
    sound(url)


@pytest.mark.parametrize(("url", "error", "words"), [
    ("", ValueError, "empty"), ("a\0b", ValueError, "null"), (b"a", TypeError, "bytes"), (3, TypeError, "int"),
    ("nosuch://x/y", ValueError, "unknown URL scheme nosuch://")])
def test_what_is_no_url(url: Any, error: type[Exception], words: str) -> None:
    for opener in (zstore.Writer, zstore.Reader, zstore.history):
        with pytest.raises(error, match=words):
            opener(url)


def test_a_scheme_whose_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(scheme: str) -> Any:
        raise ImportError(f"Install it to use {scheme}")
    # By the module table: fsspec.registry, as an attribute, is a dict of the same name.
    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "get_filesystem_class", absent)
    for opener in (zstore.Writer, zstore.Reader):
        with pytest.raises(MissingExtra, match=r's3:// URLs need s3fs: pip install "zstore\[s3\]"'):
            opener("s3://bucket/run.zarr")
        with pytest.raises(MissingExtra, match=r"gs:// URLs need gcsfs: pip install \"zstore\[gcs\]\""):
            opener("gs://bucket/run.zarr")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can see. pytest's own are closed to others, and closed again by each session."""
    folder = Path(tempfile.mkdtemp(prefix="zstore-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# Everything is imported before: the other user may not even see where Python's own modules lie.
AS_NOBODY = """
        import os, sys
        import numpy as np
        import zstore
        with zstore.Writer(sys.argv[1], rows_per_shard=4) as writer:
            writer.append(["a"], np.zeros((1, 4), "f4"))
        zstore.Reader(sys.argv[1]).get("a", epoch=0)
        os.setgid(65534); os.setuid(65534)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_read_only_folder(store: Path, public: Path, children: Any) -> None:
    """Another user may read a store of ours, and is told in one sentence that writing is not for them."""
    store = Path(shutil.copytree(store, public / "run.zarr"))
    before = tree(store)
    out = children.run(AS_NOBODY + """
        for place in sys.argv[2:]:
            try:
                with zstore.Writer(place, rows_per_shard=4) as writer:
                    writer.append([1], np.zeros((1, 4), "f4"))
            except PermissionError as error:
                print(type(error).__name__, error)
    """, public / "warm.zarr", store, public / "new.zarr")
    lines = out.splitlines()
    assert len(lines) == 2 and all(line.startswith("PermissionError cannot write ") for line in lines), out
    assert all("not writable for this user" in line for line in lines)
    assert tree(store) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_another_user_can_be_read(store: Path, public: Path, children: Any) -> None:
    store = Path(shutil.copytree(store, public / "run.zarr"))
    out = children.run(AS_NOBODY + """
        reader = zstore.Reader(sys.argv[2])
        print(len(reader), reader.get("doc-1", epoch=1).tolist())
    """, public / "warm.zarr", store)
    assert out.strip() == "4 [0.0, 1.0, 2.0, 3.0]"


# -- options ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "both"), [
    ({"dim": 8}, ("dim=8", "(4,)")),
    ({"dtype": "float16"}, ("dtype='float16'", "'float32'")),
    ({"id_dtype": int}, ("id_dtype='int64'", "'string'")),
    ({"codec": "small"}, ("codec='small'", "'raw'")),
    ({"rows_per_shard": 8}, ("rows_per_shard=8", "4")),
    ({"attrs": {"run": "b"}}, ("attrs['run']='b'", "'a'")),
    ({"fields": {}}, ("fields={}", "label")),
    ({"fields": {"label": "int32"}}, ("int32", "int64")),
    ({"fields": {"label": int, "loss": "float32"}}, ("loss", "label")),
])
def test_options_that_contradict_the_store(store: Path, options: dict[str, Any], both: tuple[str, str]) -> None:
    before = tree(store)
    with pytest.raises(ValueError, match="contradicts") as caught:
        zstore.Writer(store, **options)
    assert all(word in str(caught.value) for word in both) and "leave the option out" in str(caught.value)
    assert tree(store) == before


def test_options_that_agree(store: Path) -> None:
    with zstore.Writer(store, dim=4, dtype="float32", id_dtype=str, codec="raw", rows_per_shard=4, attrs={"run": "a"},
                       fields={"label": "int64"}) as writer:
        writer.append(["x"], GOOD[:1], label=3)
    assert len(zstore.Reader(store)) == 5


@pytest.mark.parametrize(("options", "words"), [
    ({"mode": "w"}, "mode must be 'a'"), ({"dim": 0}, "dim must be"), ({"dim": 2.5}, "dim must be"),
    ({"dtype": "int32"}, "dtype must be one of"), ({"id_dtype": "float32"}, "id_dtype must be"),
    ({"codec": "zip"}, "codec must be one of"), ({"rows_per_shard": 0}, "rows_per_shard must be"),
    ({"commit_every_s": 0}, "commit_every_s must be"), ({"commit_every_s": "60"}, "commit_every_s must be"),
    ({"fields": {"row": "int64"}}, "'row' is reserved"), ({"fields": {"x": "complex64"}}, "'x' can't be of dtype"),
    ({"fields": {"x": ("float32", 0)}}, "shape of the field 'x' must be"), ({"session": ""}, "session must be"),
    ({"storage_options": {"anon": True}}, "storage_options are for remote URLs")])
def test_options_that_make_no_sense(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        zstore.Writer(url, **options)
    assert not os.path.exists(url)


# -- what is not there ------------------------------------------------------------------------------------------------

def test_no_store(url: str) -> None:
    for call in (zstore.Reader, zstore.history, lambda at: zstore.rollback(at, 0)):
        with pytest.raises(StoreNotFound, match="there is no store at") as caught:
            call(url)
        assert url in str(caught.value)
    for mark in ({"store_id": "0" * 32, "version": 3, "commit_id": "1" * 32}, 3, "tag"):
        with pytest.raises(BehindCheckpoint, match="no store"):
            zstore.Writer(url, at=mark)
    assert not os.path.exists(url)


def test_unknown_things_name_near_ones(store: Path) -> None:
    reader = zstore.Reader(store)
    for call, words in (
            (lambda: zstore.Reader(store, version=9), "no version 9; head is 2"),
            (lambda: zstore.Reader(store, tag="frist"), "no tag 'frist'; there is 'first'"),
            (lambda: reader.epoch(5), "no rows at epoch 5; the epochs are 0, 1"),
            (lambda: reader.get("doc-11"), "'doc-11'; did you mean 'doc-1'"),
            (lambda: reader.get("doc-1", epoch=7), "'doc-1' at epoch 7; the epochs are 0..1"),
            (lambda: reader.field("lable"), "no field 'lable'; the fields are"),
            (lambda: zstore.rollback(store, 9), "no version 9"),
            (lambda: zstore.rollback(store, "frist"), "no tag 'frist'")):
        with pytest.raises(NotFound) as caught:
            call()
        assert isinstance(caught.value, KeyError) and words in str(caught.value), str(caught.value)


# -- other formats and damage --------------------------------------------------------------------------------------------

def commit_path(store: Path, version: int) -> Path:
    return store / "_zstore" / "commits" / f"{version:020d}.json"


def head_path(store: Path) -> Path:
    return max((store / "_zstore" / "commits").iterdir())


def rewrite(path: Path, **members: Any) -> None:
    """A document with other members and a right checksum."""
    path.write_bytes(seal_json({**open_json(path.read_bytes(), path.name), **members}))


@pytest.mark.parametrize("which", ["head", "first"])
def test_a_newer_format(store: Path, which: str) -> None:
    rewrite(head_path(store) if which == "head" else commit_path(store, 0), format="2.0")
    before = tree(store)
    for opener in (zstore.Reader, zstore.Writer):
        with pytest.raises(FormatError, match=r"format 2\.0, this release reads format 1; upgrade zstore"):
            opener(store)
    assert tree(store) == before


def test_a_newer_minor_is_read(store: Path) -> None:
    rewrite(head_path(store), format="1.7", novelty={"x": [1]})
    assert len(zstore.Reader(store)) == 4
    with zstore.Writer(store) as writer:
        writer.append(["x"], GOOD[:1], label=3)
    assert len(zstore.Reader(store)) == 5


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:len(data) // 2],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "other text": lambda data: b"not json",
    "nested deeply": lambda data: b"[" * 200_000,
    "grown": lambda data: data + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["head", "schema"])
def test_a_damaged_record(store: Path, damage: str, which: str) -> None:
    path = head_path(store) if which == "head" else commit_path(store, 0)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = tree(store)
    for opener in (zstore.Reader, zstore.Writer):
        with pytest.raises(Corrupt) as caught:
            opener(store)
        assert path.name in str(caught.value) and "zstore verify" in str(caught.value)
    assert tree(store) == before


def test_a_record_under_another_number(store: Path) -> None:
    shutil.copy(commit_path(store, 1), head_path(store))
    with pytest.raises(Corrupt, match="another version"):
        zstore.Reader(store)


@pytest.mark.parametrize("member", ["extents", "session", "store_id", "length", "index"])
def test_a_record_with_an_absurd_member(store: Path, member: str) -> None:
    for value in (None, -1, "x", [[0, -5]], {"a": 1}):
        document = open_json(head_path(store).read_bytes(), "head")
        head_path(store).write_bytes(seal_json({**document, member: value}))
        with pytest.raises((Corrupt, FormatError)):
            zstore.Reader(store)
        head_path(store).write_bytes(seal_json(document))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["zarr.json", "vectors/zarr.json"])
def test_damaged_zarr_documents_are_made_again(store: Path, damage: str, name: str, sound: Callable[[str], None]) -> None:
    good = json.loads((store / name).read_bytes())
    (store / name).write_bytes(DAMAGES[damage]((store / name).read_bytes()))
    assert len(zstore.Reader(store)) == 4           # our readers never need them
    with zstore.Writer(store) as writer:
        writer.append(["x"], GOOD[:1], label=3)
    again = json.loads((store / name).read_bytes())
    assert set(again) == set(good)
    assert zarr.open_group(str(store), mode="r")["vectors"].shape == (5, 4)
    sound(str(store))


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_a_damaged_tag(store: Path, damage: str) -> None:
    path = store / "_zstore" / "tags" / "first.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(NotFound if damage == "missing" else Corrupt, match="first"):
        zstore.Reader(store, tag="first")
    assert len(zstore.Reader(store)) == 4


@pytest.mark.parametrize("members", [{"version": None}, {"version": "x"}, {"version": -1}, {"version": 2}, {"version": 99},
                                     {"commit_id": "0" * 32}, {"tag": "other"}])
def test_a_tag_that_makes_no_sense(store: Path, members: dict[str, Any]) -> None:
    rewrite(store / "_zstore" / "tags" / "first.json", **members)
    with pytest.raises(Corrupt, match="first"):
        zstore.Reader(store, tag="first")


@pytest.mark.parametrize("name", ["vectors/c.0.0", "ids/c.0", "epoch/c.0"])
def test_a_missing_shard(store: Path, name: str) -> None:
    (store / name).unlink()
    with pytest.raises(Corrupt, match=name.replace(".", r"\.")) as caught:
        reader = zstore.Reader(store)
        assert reader.vectors is not None and reader.ids is not None and reader.field("epoch") is not None
    assert caught.value.object == name


def test_a_missing_index_run_costs_speed_only(store: Path) -> None:
    for path in (store / "_zstore" / "index").iterdir():
        path.unlink()
    assert zstore.Reader(store).get("doc-2", epoch=1).tolist() == GOOD[1].tolist()
    with zstore.Writer(store) as writer:
        writer.append(["doc-2"], GOOD[:1], epoch=1, label=3)
        commit = writer.commit()
        assert commit is not None and commit.duplicates == 1
        with pytest.warns(UserWarning, match="1 keys"):
            writer.close()


def test_a_mark_of_another_store(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    with zstore.Writer(other, rows_per_shard=4) as writer:
        writer.append(["x"], GOOD[:1])
        mark = writer.state_dict()
    with pytest.raises(ValueError, match="point the run at the store"):
        zstore.Writer(store, at=mark)
    for junk in ({}, {"store_id": 1}, {"version": 1}):
        with pytest.raises(ValueError, match="not a mark"):
            zstore.Writer(store, at=junk)
    with pytest.raises(TypeError, match="a version number, a tag, a mark or a Commit"):
        zstore.Writer(store, at=1.5)
    with pytest.raises(ValueError, match="0 or more"):
        zstore.Writer(store, at=-1)
    assert len(zstore.Reader(store)) == 4


def test_a_store_that_is_made_while_the_place_is_looked_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that start together: one has made the store between the other's two looks."""
    kind = LocalStorage.kind

    def meanwhile(self: LocalStorage) -> Any:
        monkeypatch.setattr(LocalStorage, "kind", kind)
        with zstore.Writer(url, session="launch") as other:
            other.append([1], np.zeros((1, 4), np.float32))
        return kind(self)

    monkeypatch.setattr(LocalStorage, "kind", meanwhile)
    with zstore.Writer(url, session="launch", member=1) as writer:
        writer.append([2], np.zeros((1, 4), np.float32))
    assert zstore.Reader(url).ids.tolist() == [1, 2]
