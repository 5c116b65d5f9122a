"""A store is data from a stranger: nothing in it runs, waits for ever, or leads out of its folder."""

from __future__ import annotations

import ast
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Corrupt, ZStoreError
from zstore.storage.base import MOST_READ

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HOUSE = Path(zstore.__file__).parent
RUNS = {"eval", "exec", "compile", "__import__", "execfile"}
READS = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml", "runpy"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    url = tmp_path / "a" / "run.zarr"
    with zstore.Writer(url, codec="raw", rows_per_shard=16, commit_every_s=None) as writer:
        writer.append(list(range(20)), np.arange(80, dtype="f4").reshape(20, 4))
        writer.commit(tag="t")
    return url


def test_nothing_stored_is_ever_run() -> None:
    wrong = []
    for path in HOUSE.rglob("*.py"):
        if path.is_relative_to(HOUSE / "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            if READS & {name.partition(".")[0] for name in names}:
                wrong.append((path.name, node.lineno, names))
            if isinstance(node, ast.Call):
                called = node.func
                if isinstance(called, ast.Name) and called.id in RUNS:
                    wrong.append((path.name, node.lineno, [called.id]))
                if any(word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                       for word in node.keywords):
                    wrong.append((path.name, node.lineno, ["allow_pickle"]))
                if isinstance(called, ast.Attribute) and called.attr == "load" and isinstance(called.value, ast.Name) and (
                        called.value.id in ("np", "numpy", "torch")) and not path.is_relative_to(HOUSE / "demo") and not any(
                        word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
                        for word in node.keywords):
                    wrong.append((path.name, node.lineno, ["load"]))
    assert not wrong


# -- links, pipes, devices -------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def read_everything(url: Path) -> None:
    try:
        with zstore.Reader(url) as reader:
            assert reader.vectors.shape[0] in (0, 20)
            reader.get([3])
    except ZStoreError:
        pass
    zstore.verify(url)


@pytest.mark.parametrize("name", ["vectors/c.0.0", "vectors/c.1.0", "ids/c.0", "zarr.json", f"_zstore/commits/{1:020d}.json",
                                  "_zstore/claims/0.json", "_zstore/tags/t.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "dangling", "folder"])
def test_what_is_no_file_neither_blocks_nor_leaks(store: Path, name: str, kind: str) -> None:
    (store / name).unlink()
    if kind == "pipe":
        os.mkfifo(store / name)
    elif kind == "folder":
        (store / name).mkdir()
    else:
        (store / name).symlink_to({"device": "/dev/zero", "loop": store / name, "dangling": "/no/such/file"}[kind])
    try:
        read_everything(store)
    except OSError as error:
        assert str(store) in str(error) or name in str(error)


@pytest.mark.parametrize("name", ["vectors/c.0.0", "zarr.json", f"_zstore/commits/{1:020d}.json"])
def test_a_link_to_a_foreign_file_gives_nothing_of_it(store: Path, tmp_path: Path, name: str) -> None:
    """Links are followed to read: what they lead to is checked like everything else, and shown to nobody."""
    (tmp_path / "private").write_bytes(b"the owner's own words" * 100)
    (store / name).unlink()
    (store / name).symlink_to(tmp_path / "private")
    said = [finding.problem for finding in zstore.verify(store)]
    assert said and "owner" not in " ".join(said)
    try:
        assert b"owner" not in np.asarray(zstore.Reader(store).vectors).tobytes()
    except ZStoreError as error:
        assert "owner" not in str(error)


@pytest.mark.parametrize("folder", ["vectors", "ids", "_zstore/tmp", "_zstore/commits", "_zstore/claims", "_zstore/index",
                                    "_zstore/live", "_zstore/tags", "_zstore"])
def test_what_is_written_never_leaves_the_store(store: Path, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside" / "kept"
    outside.parent.mkdir()
    shutil.move(store / folder, outside)
    (store / folder).symlink_to(outside)
    before = tree(outside)
    with pytest.raises((OSError, ZStoreError)), zstore.Writer(store, commit_every_s=None) as writer:
        writer.append(list(range(100, 140)), np.ones((40, 4), "f4"))
        writer.commit(tag="u")
    for act in (lambda: zstore.verify(store, repair=True), lambda: zstore.gc(store), lambda: zstore.rollback(store, 1),
                lambda: zstore.delete(store, [3])):
        try:
            act()
        except (OSError, ZStoreError):
            pass
    assert tree(outside) == before


def test_an_object_that_is_a_link_is_replaced_and_not_followed(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for name in ("zarr.json", "vectors/zarr.json", "_zstore/claims/7.json", f"_zstore/live/{2:020d}", "vectors/c.2.0"):
        mine.write_bytes(b"mine")
        if (store / name).exists():
            (store / name).unlink()
        (store / name).symlink_to(mine)
        try:
            with zstore.Writer(store, commit_every_s=None) as writer:
                writer.append([1000], np.ones((1, 4), "f4"))
        except (OSError, ZStoreError):
            pass
        zstore.verify(store, repair=True)
        assert mine.read_bytes() == b"mine", name
        if (store / name).is_symlink():
            (store / name).unlink()


def test_a_store_may_itself_be_a_link(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    with zstore.Writer(link, commit_every_s=None) as writer:
        writer.append([100], np.ones((1, 4), "f4"))
    assert len(zstore.Reader(link)) == 21 and zstore.verify(link) == []


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[Any]:
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["zarr.json", "vectors/zarr.json", f"_zstore/commits/{1:020d}.json", "_zstore/claims/0.json",
                                  "_zstore/tags/t.json"])
def test_a_document_of_terabytes_is_not_read(store: Path, name: str, traced: Any) -> None:
    os.truncate(store / name, 2**40)        # sparse: it takes no room on the disk
    assert name in {finding.object for finding in zstore.verify(store)}
    if "commits" in name:
        with pytest.raises(Corrupt, match="too large"):
            zstore.Reader(store, version=1)
    if "tags" in name:
        with pytest.raises(Corrupt, match="too large"):
            zstore.Reader(store, tag="t")
    assert len(zstore.Reader(store, version=0)) == 0
    assert traced() < MOST_READ // 4


def test_a_shard_of_terabytes_is_not_read(store: Path, traced: Any) -> None:
    os.truncate(store / "vectors/c.0.0", 2**40)
    assert "vectors/c.0.0" in {finding.object for finding in zstore.verify(store)}
    with pytest.raises(Corrupt):
        zstore.Reader(store)[0]
    assert traced() < 2**24


def test_fields_have_a_bound_that_the_writer_keeps_too(tmp_path: Path) -> None:
    many = {f"f{number}": "int8" for number in range(2000)}
    with (pytest.raises(ValueError, match="fields are too many"),
          zstore.Writer(tmp_path / "a.zarr", fields=many, commit_every_s=None) as writer):
        writer.append([1], np.ones((1, 4), "f4"), **{name: [1] for name in many})
    assert not (tmp_path / "a.zarr" / "zarr.json").exists()
