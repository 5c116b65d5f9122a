"""Days on which something went wrong, and what was left of them: every committed row, and no other."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import BehindCheckpoint

RANK = """
    import sys
    import numpy as np
    import zstore

    url, rank, epochs, share = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    ids = np.arange(rank * share, (rank + 1) * share)
    with zstore.Writer(url, session="launch-1", member=rank, rows_per_shard=32, codec=sys.argv[5]) as writer:
        print("up", flush=True)
        for epoch in range(epochs):
            try:
                there = zstore.Reader(url).find(ids, epoch=epoch) >= 0
            except FileNotFoundError:
                there = np.zeros(share, bool)
            for start in range(0, share, 5):
                mine = ids[start:start + 5][~there[start:start + 5]]
                if len(mine):
                    writer.append(mine, np.repeat(mine[:, None] + epoch / 8, 4, axis=1).astype("f4"), epoch=epoch)
            commit = writer.commit()
            print("committed", epoch, flush=True)
"""


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_rank_3_dies(url: str, children: Any, codec: str, sound: Callable[[str], None]) -> None:
    """Eight processes; one is killed at some moment and started again, six times. The union is exact."""
    epochs, share, chance = 4, 23, random.Random(3)

    def start(rank: int) -> Any:
        return children.start(RANK, url, rank, epochs, share, codec)

    ranks = [start(rank) for rank in range(8)]
    for _ in range(6):
        children.line(ranks[3])                         # it is in
        time.sleep(chance.random() * 0.15)
        children.kill(ranks[3])
        ranks[3] = start(3)
    for child in ranks:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
    reader = zstore.Reader(url)
    keys = list(zip(reader.ids.tolist(), reader.field("epoch").tolist(), strict=True))
    assert sorted(keys) == [(i, epoch) for i in range(8 * share) for epoch in range(epochs)]
    assert (reader.vectors == (reader.ids + reader.field("epoch") / 8)[:, None]).all()
    last = reader.latest()                              # what a run without kills gives
    order = np.argsort(last.ids)
    assert last.ids[order].tolist() == list(range(8 * share))
    assert (last.vectors[order] == np.arange(8 * share)[:, None] + np.float32((epochs - 1) / 8)).all()
    sound(url)


ZOMBIE = """
    import sys
    import numpy as np
    import zstore

    def batch(start, count):
        ids = np.arange(start, start + count)
        return ids, np.repeat(ids[:, None], 4, axis=1).astype("f4")

    writer = zstore.Writer(sys.argv[1], rows_per_shard=16, codec=sys.argv[2], commit_every_s=None)
    writer.append(*batch(0, 10))
    writer.commit()
    writer.append(*batch(10, 3))                        # never committed
    print("going", flush=True)
    sys.stdin.readline()
    said = set()
    for start in range(1000, 1050, 5):                  # three shards' worth
        try:
            writer.append(*batch(start, 5))
        except zstore.errors.StaleWriter as error:
            said.add(str(error))
    try:
        writer.commit()
    except zstore.errors.StaleWriter as error:
        said.add(str(error))
    print(len(said) == 1 and "was taken over" in said.pop(), flush=True)
"""


def objects(url: str) -> dict[str, bytes]:
    """Every object that counts: what lies in the fields, and the log."""
    root = Path(url)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and not any(
            path.is_relative_to(root / f"_zstore/{folder}") for folder in ("tmp", "live"))}


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_zombie(url: str, children: Any, codec: str, sound: Callable[[str], None]) -> None:
    """Stopped in the midst of its work, it wakes after its successor has committed, and fills shards: nothing changes."""
    zombie = children.start(ZOMBIE, url, codec)
    assert children.line(zombie) == "going"
    zombie.send_signal(signal.SIGSTOP)
    ids = np.arange(100, 140)
    with zstore.Writer(url, takeover=True) as successor:
        successor.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
    # Shard 0 is its own: there it may add rows that nobody names. All else is as it was.
    before = {name: data for name, data in objects(url).items() if "/c.0" not in name}
    version = zstore.Reader(url).version
    zombie.send_signal(signal.SIGCONT)
    children.tell(zombie)
    assert children.line(zombie) == "True"
    zombie.stdin.close()
    zombie.wait(60)
    after = objects(url)
    assert {name: after[name] for name in before} == before
    reader = zstore.Reader(url)
    assert reader.version == version
    assert reader.ids.tolist() == [*range(10), *range(100, 140)] and (reader.vectors == reader.ids[:, None]).all()
    sound(url)


STOPPED_TAKER = """
    import sys
    import numpy as np
    import zstore

    writer = zstore.Writer(sys.argv[1], commit_every_s=None)
    ids = np.arange(6, 9)
    writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))         # into the tail that it took over
    print("took", flush=True)
    sys.stdin.readline()
    ids = np.arange(500, 540)
    try:
        writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
        writer.commit()
    except zstore.errors.StaleWriter:
        print("stale", flush=True)
"""


def rows(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(start, start + count)
    return ids, np.repeat(ids[:, None], 4, axis=1).astype(np.float32)


def test_empty_visit(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """A Writer that only looks in, between two that write: it costs nothing, and launders nobody's claim to a shard."""
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 3))
    with zstore.Writer(url):
        pass
    with zstore.Writer(url) as writer:
        writer.append(*rows(3, 3))
    assert list(zstore.Reader(url)._now()[0].record.extents) == [(0, 6)]      # one shard, gone on with

    taker = children.start(STOPPED_TAKER, url)
    assert children.line(taker) == "took"
    taker.send_signal(signal.SIGSTOP)
    with zstore.Writer(url, takeover=True):             # a notebook's cell: opens, appends nothing, closes
        pass
    with zstore.Writer(url) as writer:
        writer.append(*rows(20, 5))
    taker.send_signal(signal.SIGCONT)
    children.tell(taker)
    assert children.line(taker) == "stale"
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == [*range(6), *range(20, 25)] and (reader.vectors == reader.ids[:, None]).all()
    sound(url)


def test_backup(url: str, tmp_path: Path, sound: Callable[[str], None]) -> None:
    """The store is restored from yesterday's copy, and the run resumes from today's checkpoint: refused, either way."""
    backup = str(tmp_path / "yesterday.zarr")
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 5))
    shutil.copytree(url, backup)
    with zstore.Writer(url) as writer:
        writer.append(*rows(5, 5))
        mark = writer.state_dict()
    shutil.rmtree(url)
    shutil.copytree(backup, url)
    before = objects(url)
    with pytest.raises(BehindCheckpoint, match="commits are missing; restore the store, or load an older checkpoint"):
        zstore.Writer(url, at=mark)
    assert objects(url) == before                       # refused at the door
    with zstore.Writer(url) as writer:                  # it went another way meanwhile
        writer.append(*rows(50, 5))
        writer.commit()
        writer.append(*rows(60, 5))
    with pytest.raises(BehindCheckpoint, match="was restored or went another way"), zstore.Writer(url) as writer:
        writer.load_state_dict(mark)
    assert zstore.Reader(url).ids.tolist() == [*range(5), *range(50, 55), *range(60, 65)]
    sound(url)


def test_twins(url: str, tmp_path: Path, sound: Callable[[str], None]) -> None:
    """`cp -r`, and both go on: each has its own rows, in one process that reads both through one cache."""
    twin = str(tmp_path / "twin.zarr")
    with zstore.Writer(url, rows_per_shard=16, codec="lossless") as writer:
        writer.append(*rows(0, 24))
    shutil.copytree(url, twin)
    readers = [zstore.Reader(url), zstore.Reader(twin)]
    assert all((reader.vectors == reader.ids[:, None]).all() for reader in readers)
    for place, first in ((url, 100), (twin, 200)):
        with zstore.Writer(place) as writer:
            writer.append(*rows(first, 24))
    for reader, first in zip(readers, (100, 200), strict=True):
        reader.refresh()
        assert reader.ids.tolist() == [*range(24), *range(first, first + 24)]
        assert (reader.vectors == reader.ids[:, None]).all()
        assert reader.find([100, 200]).tolist() == ([24, -1] if first == 100 else [-1, 24])
    sound(url)
    sound(twin)


TWO_RANKS = """
    import json, sys
    import numpy as np
    import zstore

    url, rank, mark = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    if rank == 1:
        sys.stdin.readline()                            # the slow one loads its checkpoint when the other has committed
    with zstore.Writer(url, session="launch-2", member=rank, at=mark) as writer:
        ids = np.arange(100 * (rank + 1), 100 * (rank + 1) + 7)
        writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
        writer.commit()
        print("committed", flush=True)
        sys.stdin.readline()
"""


def test_two_ranks_load_one_mark(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """The slow rank's load cuts nothing that the fast one has committed since."""
    import json

    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 5))
        mark = writer.commit().mark
        writer.append(*rows(5, 5))                      # after the checkpoint: to be cut
    fast, slow = (children.start(TWO_RANKS, url, rank, json.dumps(mark)) for rank in (0, 1))
    assert children.line(fast) == "committed"
    children.tell(slow)
    assert children.line(slow) == "committed"
    for child in (fast, slow):
        children.tell(child)
        assert child.wait(60) == 0
    reader = zstore.Reader(url)
    assert sorted(reader.ids.tolist()) == [*range(5), *range(100, 107), *range(200, 207)]
    assert (reader.vectors == reader.ids[:, None]).all()
    sound(url)


LATE_COLUMN = """
    import sys, time
    import numpy as np
    import zstore, zstore.writing.columns as columns

    real = {"claim": columns.claim_path, "publish": columns.publish}
    def stop(*args):
        print("here", flush=True)
        time.sleep(600)
    if sys.argv[2] == "claimed":
        columns.claim_path = lambda *args: (real["claim"](*args), stop())
    elif sys.argv[2] == "written":
        columns.publish = stop
    else:
        columns.publish = lambda *args: (real["publish"](*args), stop())
    with zstore.Writer(sys.argv[1]) as writer:
        writer.add_field("label", np.arange(40, dtype="i4"), fill=-1)
"""


@pytest.mark.parametrize("moment", ["claimed", "written", "published"])
def test_late_column_under_a_crash(url: str, children: Any, moment: str, sound: Callable[[str], None]) -> None:
    """Killed while it adds a field: the field is there whole, or not at all and can be added again."""
    with zstore.Writer(url, rows_per_shard=16) as writer:
        writer.append(*rows(0, 40))
        before = writer.commit().version
    child = children.start(LATE_COLUMN, url, moment)
    assert children.line(child) == "here"
    children.kill(child)
    sound(url)
    with zstore.Writer(url) as writer:
        if moment != "published":
            with pytest.raises(KeyError, match="label"):
                zstore.Reader(url).field("label")
            writer.add_field("label", np.arange(40, dtype="i4") * 2, fill=-1)
        writer.append(*rows(40, 3))
        writer.append(*rows(43, 2), label=np.array([7, 8], "i4"))
    reader = zstore.Reader(url)
    factor = 1 if moment == "published" else 2
    assert reader.field("label").tolist() == [*(np.arange(40) * factor).tolist(), -1, -1, -1, 7, 8]
    assert reader.ids.tolist() == list(range(45)) and (reader.vectors == reader.ids[:, None]).all()
    with pytest.raises(KeyError, match="label"):
        zstore.Reader(url, version=before).field("label")
    sound(url)


def test_who_leaves_cleanly_costs_one_hole_at_most(url: str, sound: Callable[[str], None]) -> None:
    """Members come, commit often, and leave, while one stays: the rows lie in no more runs than there were members."""
    with zstore.Writer(url, session="launch-3", codec="raw", rows_per_shard=64) as stays:
        stays.append(*rows(0, 10))
        stays.commit()
        for member in range(1, 7):
            with zstore.Writer(url, session="launch-3", member=member) as writer:
                for part in range(4):
                    writer.append(*rows(1000 * member + 10 * part, 10))
                    writer.commit()
    reader = zstore.Reader(url)
    assert len(reader) == 10 + 6 * 40
    assert len(reader._now()[0].record.extents.pairs) <= 7
    sound(url)
