"""Small real stores with every kind of object in them, and what may be asked of a damaged one."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from zstore.errors import ZStoreError

PER_SHARD = 16
SHAPES = [(codec, ids) for codec in ("raw", "lossless", "small") for ids in ("int64", "str")]
Rows = dict[tuple[Any, int], tuple[str, ...]]


def name(row: int, ids: str) -> Any:
    return row * 7 - 3 if ids == "int64" else f"doc-{row}-é"


def vector(row: int) -> np.ndarray[Any, Any]:
    return np.array([row, -row, row * 0.5, 3], np.float32)


def fill(writer: zstore.Writer, ids: str, start: int, count: int, epoch: int = 0) -> None:
    rows = range(start, start + count)
    writer.append([name(row, ids) for row in rows], np.stack([vector(row) for row in rows]), epoch=epoch,
                  label=np.array(rows, np.int32), text=[f"text {row % 5}" for row in rows])


def open_writer(url: Path | str, **options: Any) -> zstore.Writer:
    return zstore.Writer(url, commit_every_s=None, **options)


def make(url: Path | str, codec: str, ids: str) -> None:
    """Two sessions, a tail handed over, an added field, a rollback, merged runs, two tags, keys deleted twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_writer(url, codec=codec, rows_per_shard=PER_SHARD) as writer:
            fill(writer, ids, 0, 10)
            writer.commit(tag="first", meta={"loss": 0.5})
            fill(writer, ids, 10, 25)
        with open_writer(url) as writer:
            for start in range(35, 53, 2):
                fill(writer, ids, start, 2, epoch=1)
                writer.commit()
            writer.add_field("cluster", np.arange(53) % 4)
            fill(writer, ids, 53, 20, epoch=1)
            writer.commit(tag="second")
        with open_writer(url, at="second") as writer:
            fill(writer, ids, 80, 7, epoch=2)
            writer.commit()
            fill(writer, ids, 90, 5, epoch=2)
        zstore.delete(url, [name(12, ids), name(81, ids)])
        zstore.delete(url, [name(91, ids)])


def objects(url: Path) -> dict[str, bytes]:
    """Every object that a record names or that is derived from records, and the tags."""
    named: set[str] = set()
    for path in (url / "_zstore/commits").iterdir():
        record = json.loads(path.read_bytes())
        named |= {f"_zstore/index/{run}" for run in record["index"]}
    out = {}
    for path in sorted(url.rglob("*")):
        where = str(path.relative_to(url))
        if path.is_file() and "/tmp/" not in where and "/live/" not in where and (
                "/index/" not in where or where in named):
            out[where] = path.read_bytes()
    return out


def kind_of(where: str) -> str:
    """``claims``, ``commits``, ``deletes``, ``index``, ``tags``, ``documents``, or a field's shards by its name."""
    folder, _, last = where.rpartition("/")
    if last == "zarr.json":
        return "documents"
    return folder.rpartition("/")[2]


def restore(url: Path, sound: dict[str, bytes]) -> None:
    """Write the objects again as they were."""
    for where, data in sound.items():
        (url / where).parent.mkdir(parents=True, exist_ok=True)
        (url / where).write_bytes(data)


def rows(url: Path | str, **options: Any) -> Rows:
    """Every row of head by its key, all fields."""
    with zstore.Reader(url, **options) as reader:
        names = [*sorted(reader._now()[0].columns)]
        columns = {field: reader.field(field).tolist() for field in names}
        keys = zip(columns["ids"], columns["epoch"], strict=True)
        return {key: tuple(str(columns[field][row]) for field in names) for row, key in enumerate(keys)}


def by_key(url: Path | str, keys: list[tuple[Any, int]]) -> list[Any]:
    """The vectors of these keys, through the index."""
    with zstore.Reader(url) as reader:
        return [reader.get(key, epoch=epoch).tolist() for key, epoch in keys]


def findings(url: Path | str, **options: Any) -> set[str]:
    return {finding.object for finding in zstore.verify(url, **options)}


def copied(source: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target


__all__ = ["PER_SHARD", "SHAPES", "Rows", "ZStoreError", "by_key", "copied", "fill", "findings", "kind_of", "make", "name",
           "objects", "open_writer", "restore", "rows", "vector"]
