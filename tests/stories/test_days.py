"""Days that a user would recognise: run twice, an update, keys that are no rows, a later column, an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr

import zstore

EXAMPLE = """
    import sys, warnings
    import numpy as np
    import zstore

    warnings.simplefilter("always")
    with zstore.Writer(sys.argv[1], **eval(sys.argv[2])) as writer:
        for epoch in range(3):
            for start in range(0, 60, 20):
                ids = [f"doc-{n}" for n in range(start, start + 20)]
                writer.append(ids, np.full((20, 8), epoch + float(sys.argv[3]), "f4"), epoch=epoch)
            writer.commit()
"""


def test_story_1_twice(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """The example, run twice. The second run warns with counts; every key is there once; the new vectors count."""
    children.run(EXAMPLE, url, "{}", 0.0)
    second = children.start(EXAMPLE, url, "{}", 0.5)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert "UserWarning" in errors and "180 keys (id, epoch) that an earlier session committed are superseded" in errors
    reader = zstore.Reader(url)
    assert len(reader) == 360
    everyone = {f"doc-{n}" for n in range(60)}
    for view, value in ((reader.latest(), 2.5), (reader.epoch(2), 2.5), (reader.epoch(0), 0.5)):
        assert len(view) == 60 and set(view.ids.tolist()) == everyone and (view.vectors == value).all()
    third = children.start(EXAMPLE, url, "dict(mode='x')", 0.0)
    _, errors = third.communicate(timeout=60)
    assert third.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert "AlreadyExists" in last and "360 rows" in last and "2 sessions from 20" in last and "UTC" in last
    assert len(zstore.Reader(url)) == 360
    sound(url)


def test_story_4_update(url: str, sound: Callable[[str], None]) -> None:
    """1,000 documents; the next day three of them changed and are embedded again."""
    rng = np.random.default_rng(0)
    ids = [f"doc-{n}" for n in range(1000)]
    old, new = rng.standard_normal((1000, 16), np.float32), rng.standard_normal((3, 16), np.float32)
    with zstore.Writer(url) as writer:
        for start in range(0, 1000, 128):
            writer.append(ids[start:start + 128], old[start:start + 128])
    changed = ["doc-17", "doc-999", "doc-0"]
    with pytest.warns(UserWarning, match="3 keys"), zstore.Writer(url) as writer:
        writer.append(changed, new)
        commit = writer.commit()
        assert commit is not None and (commit.rows, commit.new_rows, commit.duplicates) == (1003, 3, 3)
    reader = zstore.Reader(url)
    latest = reader.latest()
    assert len(reader) == 1003 and len(latest) == 1000 and sorted(latest.ids.tolist()) == sorted(ids)
    assert (reader.get(changed) == new).all() and (latest.get(changed) == new).all()
    kept = [name for name in ids if name not in changed]
    assert (reader.get(kept) == old[[int(name[4:]) for name in kept]]).all()
    assert (zstore.Reader(url, version=1).get(changed) == old[[17, 999, 0]]).all()
    sound(url)


def test_story_5_keys_are_not_rows(url: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url) as writer:
        writer.append([17, 2, 5], np.array([[17.0, 0], [2, 0], [5, 0]], np.float32))
    reader = zstore.Reader(url)
    assert reader[1].tolist() == [2.0, 0.0]             # row 1
    assert reader.get(17).tolist() == [17.0, 0.0]       # key 17
    assert reader.find(5) == 2 and reader.find([2, 99]).tolist() == [1, -1]
    with pytest.raises(TypeError, match=r"view\.get\('17'\)"):
        reader["17"]
    with pytest.raises(IndexError, match="row 17 is not in a view of 3 rows"):
        reader[17]
    with pytest.raises(ValueError, match=r"integers.*'17'.*int"):
        reader.get("17")
    sound(url)


def test_story_8_later_column(url: str, sound: Callable[[str], None]) -> None:
    """Clusters are found next day, and put beside the rows there are."""
    vectors = np.random.default_rng(0).standard_normal((500, 4), np.float32)
    with zstore.Writer(url, rows_per_shard=128) as writer:
        writer.append([f"s{n}" for n in range(500)], vectors)
    yesterday = zstore.Reader(url)
    clusters = (vectors[:, 0] > 0).astype(np.int16)
    with zstore.Writer(url) as writer:
        commit = writer.add_field("cluster", clusters)
        assert commit.rows == 500
    today = zstore.Reader(url)
    assert (today.field("cluster") == clusters).all() and today.field("cluster").dtype == np.int16
    assert today.get(["s3", "s499"], field="cluster").tolist() == clusters[[3, 499]].tolist()
    assert (today.vectors == vectors).all()
    for old in (yesterday, zstore.Reader(url, version=yesterday.version)):
        with pytest.raises(KeyError, match="no field 'cluster'"):
            old.field("cluster")
    with zstore.Writer(url) as writer:      # new rows may come without one
        writer.append(["t0"], vectors[:1])
        writer.append(["t1"], vectors[:1], cluster=[7])
    after = zstore.Reader(url)
    assert after.field("cluster").tolist() == [*clusters.tolist(), 0, 7]
    group = zarr.open_group(url, mode="r")
    extents: Any = group.attrs["zstore"]["extents"]     # type: ignore[index, call-overload]
    array: Any = group["cluster"]
    assert np.concatenate([array[start:start + count] for start, count in extents]).tolist() == [*clusters.tolist(), 0, 7]
    sound(url)


def test_story_10_an_exception_at_epoch_7(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """A bad batch in the middle of a run ends it: everything before it is there, and nothing of it."""
    child = children.start("""
        import sys
        import numpy as np
        import zstore

        with zstore.Writer(sys.argv[1], rows_per_shard=64) as writer:
            for epoch in range(10):
                for start in range(0, 50, 10):
                    ids = list(range(start, start + 10))
                    vectors = np.full((10, 4), epoch * 100 + start, "f4")
                    if epoch == 7 and start == 30:
                        ids[-1] = None
                    writer.append(ids, vectors, epoch=epoch)
    """, url)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert errors.strip().splitlines()[-1] == "TypeError: the id of row 9 is None; every row needs an id"
    reader = zstore.Reader(url)
    keys = set(zip(reader.ids.tolist(), reader.field("epoch").tolist(), strict=True))
    assert keys == {(n, e) for e in range(7) for n in range(50)} | {(n, 7) for n in range(30)}
    assert len(reader) == len(keys) == 380
    assert (reader.vectors[:, 0] == reader.field("epoch") * 100 + reader.ids // 10 * 10).all()
    sound(url)
