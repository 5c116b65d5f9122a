"""A storage that cannot rewrite on a condition: every shard object is written once, with one content."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.storage.local import LocalStorage


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bytes]]:
    """Every content that each shard object was given, on a storage that says that it cannot rewrite."""
    contents: dict[str, list[bytes]] = {}
    real = LocalStorage.rewrite

    def rewrite(self: LocalStorage, draft: Any, name: str, over: str | None) -> str:
        if "/c." in name:
            contents.setdefault(name, []).append(Path(draft.path).read_bytes())
        return real(self, draft, name, over)

    monkeypatch.setattr(LocalStorage, "rewrites", False)
    monkeypatch.setattr(LocalStorage, "rewrite", rewrite)
    return contents


def batch(start: int, count: int, kind: str) -> tuple[Any, np.ndarray]:
    ids = np.arange(start, start + count)
    vectors = ids[:, None].astype(np.float32) + np.arange(3, dtype=np.float32)
    return ([f"id-{i}" for i in ids] if kind == "str" else ids), vectors


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@pytest.mark.parametrize("kind", ["int64", "str"])
def test_objects_have_one_content(url: str, codec: str, kind: str, written: dict[str, list[bytes]],
                                  sound: Callable[[str], None], rows_of: Callable[..., dict[Any, Any]]) -> None:
    done = 0
    for count in (5, 30, 1, 16):
        with zstore.Writer(url, codec=codec, rows_per_shard=16) as writer:
            for _ in range(3):
                writer.append(*batch(done, count, kind))
                done += count
                writer.commit()
    assert written and all(len(contents) == 1 for contents in written.values())
    wanted = {(f"id-{i}" if kind == "str" else i, 0): [i, i + 1.0, i + 2.0] for i in range(done)}
    assert rows_of(url) == wanted
    sound(url)


def again(call: Callable[[], object]) -> None:
    """What went wrong in the background is raised once, by the next call, which then has done nothing."""
    try:
        call()
    except OSError:
        call()


def test_a_failed_write_is_written_again_as_it_was(url: str, written: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch,
                                                   sound: Callable[[str], None]) -> None:
    broken = True
    real = LocalStorage.rewrite

    def rewrite(self: LocalStorage, draft: Any, name: str, over: str | None) -> str:
        got = real(self, draft, name, over)
        if broken and name.startswith("ids/c."):
            raise OSError(5, "the reply was lost", name)
        return got

    monkeypatch.setattr(LocalStorage, "rewrite", rewrite)
    with zstore.Writer(url, codec="raw", rows_per_shard=16) as writer:
        writer.append(*batch(0, 5, "int64"))
        for start in (5, 10, 15):
            with pytest.raises(OSError, match="the reply was lost"):
                writer.commit()
            broken = False
            again(lambda at=start: writer.append(*batch(at, 5, "int64")))      # type: ignore[misc]
            broken = True
        broken = False
        again(writer.commit)
    assert all(len(set(contents)) == 1 for contents in written.values())
    assert len(written["ids/c.0"]) > 1
    assert len(zstore.Reader(url)) == 20
    sound(url)


def test_appends_beside_commits(url: str, written: dict[str, list[bytes]], sound: Callable[[str], None]) -> None:
    """Rows that come in while a commit writes go into the next shard; none is lost, none twice."""
    with zstore.Writer(url, codec="lossless", rows_per_shard=64) as writer:
        writer.append(*batch(0, 1, "int64"))

        def load() -> None:
            for start in range(1, 3001, 10):
                writer.append(*batch(start, 10, "int64"))
        thread = threading.Thread(target=load)
        thread.start()
        while thread.is_alive():
            writer.commit()
        thread.join()
    assert sorted(zstore.Reader(url).ids.tolist()) == list(range(3001))
    assert all(len(set(contents)) == 1 for contents in written.values())
    sound(url)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_shard_that_ends_with_a_block(url: str, codec: str, written: dict[str, list[bytes]],
                                        sound: Callable[[str], None]) -> None:
    """Commits that fall on the end of a block end the shard as well, and hand none over."""
    with zstore.Writer(url, codec=codec, rows_per_shard=4096) as writer:
        for start in range(0, 4096, 1024):
            writer.append(*batch(start, 1024, "int64"))
            writer.commit()
    assert len(written["vectors/c.0.0"]) == 1 and all(len(contents) == 1 for contents in written.values())
    assert zstore.Reader(url)._now()[0].record.tail is None
    assert zstore.Reader(url).ids.tolist() == list(range(4096))
    sound(url)
