"""Foreign eyes on a store that is being written: zarr-python and TensorStore never see a committed row change or fail.

A child appends a few rows, commits, rolls shards over, rolls back, is killed at any moment and started again. Meanwhile
every address that some root document ever named is read again and again, with no code of ours.
"""

from __future__ import annotations

import importlib.util
import json
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore

HAVE = [name for name in ("zarr", "tensorstore") if importlib.util.find_spec(name)]
PER_SHARD = 32
# A row's vector follows from its id, so that whoever reads it knows what it must be; ids are never given twice.
WRITER = """
import os, random, sys, warnings
import numpy as np
import zstore

warnings.simplefilter("ignore")
url, codec, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
at = rng.randrange(zstore.Reader(url).version + 1) if rng.random() < 0.3 and os.path.exists(url + "/zarr.json") else None
writer = zstore.Writer(url, codec=codec, rows_per_shard=32, commit_every_s=None, at=at, takeover=True)
row = seed * 1_000_000
print("open", flush=True)
while True:
    for _ in range(rng.randrange(1, 4)):
        count = rng.randrange(1, 15)
        ids = np.arange(row, row + count)
        writer.append(ids, (ids[:, None] % 1000 * np.array([1, -1, 0.5])).astype("f4"), label=ids % 7)
        row += count
    commit = writer.commit()
    if rng.random() < 0.05 and commit is not None:
        writer.close()
        zstore.rollback(url, rng.randrange(commit.version))
        writer = zstore.Writer(url, commit_every_s=None)
"""


class Eyes:
    """One foreign library; it opens the store anew each time, or keeps an array that it opened long ago."""

    def __init__(self, library: str, url: str) -> None:
        self.library, self.url = library, url
        self._kept: dict[str, Any] = {}

    def column(self, name: str, start: int, count: int, *, kept: bool) -> np.ndarray[Any, Any]:
        array = self._kept.get(name) if kept else None
        if array is None or array.shape[0] < start + count:
            array = self._kept[name] = self._open(name)
        part = array[start:start + count]
        return np.asarray(part.read().result() if self.library == "tensorstore" else part)

    def _open(self, name: str) -> Any:
        if self.library == "tensorstore":
            import tensorstore as ts

            return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{self.url}/{name}/"}},
                           recheck_cached_data=True, recheck_cached_metadata=True, read=True).result()
        import zarr

        return zarr.open_group(self.url, mode="r")[name]


def named(url: str) -> tuple[int, list[list[int]]]:
    ours = json.loads((Path(url) / "zarr.json").read_bytes())["attributes"]["zstore"]
    return ours["version"], ours["extents"]


def watch(url: str, children: Any, codec: str, libraries: list[str], seconds: float) -> dict[str, int]:
    rng = random.Random(7)
    eyes = [Eyes(library, url) for library in libraries]
    truth: dict[int, int] = {}                  # address: the id that was seen there first
    seen = {"versions": 0, "kills": 0, "rows": 0, "openings": 0}
    last, begun, end = -1, 1, time.monotonic() + seconds
    child = children.start(WRITER, url, codec, begun)
    while time.monotonic() < end or not (seen["kills"] and seen["versions"] > 5):
        assert time.monotonic() < end + 120, seen
        if child.poll() is not None:
            raise AssertionError(child.communicate()[1])
        if rng.random() < 0.04 and children.line(child) == "open":
            children.kill(child)
            seen["kills"], begun = seen["kills"] + 1, begun + 1
            child = children.start(WRITER, url, codec, begun)
        try:
            version, extents = named(url)
        except FileNotFoundError:
            continue                            # not yet projected for the first time
        if version > last:
            last, seen["versions"] = version, seen["versions"] + 1
        else:
            assert version == last, "the root went back"
        old = sorted(truth)
        spans = [(start, count) for start, count in extents] + [(old[rng.randrange(len(old))], 1) for _ in range(4) if old]
        for eye in eyes:
            kept = rng.random() < 0.5
            for start, count in spans[-12:] if rng.random() < 0.8 else spans:
                ids = eye.column("ids", start, count, kept=kept)
                vectors = eye.column("vectors", start, count, kept=kept)
                labels = eye.column("label", start, count, kept=kept)
                for address, row in enumerate(ids.tolist(), start):
                    assert truth.setdefault(address, row) == row, f"{eye.library}: address {address} was {truth[address]}"
                assert np.array_equal(vectors, (ids[:, None] % 1000 * np.array([1, -1, 0.5])).astype("f4")), (
                    eye.library, start, count)
                assert np.array_equal(labels, ids % 7)
                seen["rows"] += count
    children.kill(child)
    return seen


@pytest.mark.skipif(not HAVE, reason="no foreign reader is installed")
@pytest.mark.parametrize(("codec", "seconds"), [
    ("raw", 4), ("lossless", 4), *(pytest.param(codec, 120, marks=pytest.mark.slow) for codec in ("raw", "lossless", "small"))])
def test_committed_rows_stay_as_they_are(url: str, children: Any, sound: Any, codec: str, seconds: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zstore.Writer(url, codec=codec, rows_per_shard=PER_SHARD, commit_every_s=None) as writer:
            writer.append([0], np.zeros((1, 3), "f4"), label=[0])
        seen = watch(url, children, codec, HAVE, seconds)
        with zstore.Writer(url, takeover=True, commit_every_s=None):
            pass
        assert seen["kills"] and seen["versions"] > 5 and seen["rows"] > 100
        with zstore.Reader(url) as reader:
            ids = reader.ids
            assert np.array_equal(reader.vectors, (ids[:, None] % 1000 * np.array([1, -1, 0.5])).astype("f4"))
        sound(url)
