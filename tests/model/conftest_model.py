"""A stage for the real code: stores, writers that die without a word, and several of them in one process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import zstore
from zstore.storage import open_storage
from zstore.testing.gate import Actor, Gate, Stop
from zstore.writing import registry

HEAD = Stop("exists", "_zstore/commits/*", in_a_row=True)
RECORD = "_zstore/commits/*"


class Real:
    """One store, and what was opened on it. ``rows`` are ids; the vector of a row says its id, and the writer's number."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url, self.options = url, options
        self.writers: list[zstore.Writer] = []

    def writer(self, **how: Any) -> zstore.Writer:
        """A writer without a clock; 4 rows a shard, 2 a chunk of the ids at most."""
        how = {"rows_per_shard": 4, "commit_every_s": None, "storage_options": self.options} | how
        writer = zstore.Writer(self.url, **how)
        self.writers.append(writer)
        return writer

    def wrote(self, *ids: int, **how: Any) -> zstore.Writer:
        """A writer that committed these rows."""
        writer = self.writer(**how)
        self.rows(writer, *ids)
        return writer

    def closed(self, *ids: int, **how: Any) -> None:
        """A writer that committed these rows, and closed."""
        self.wrote(*ids, **how).close()

    def rows(self, writer: zstore.Writer, *ids: int) -> None:
        """Append these rows and commit."""
        self.append(writer, *ids)
        writer.commit()

    def append(self, writer: zstore.Writer, *ids: int) -> None:
        writer.append(list(ids), np.array([[i, -i] for i in ids], np.float32))

    def die(self, writer: zstore.Writer) -> None:
        """As a kill: nothing is committed, the locks are free."""
        writer._let_go()

    def ids(self, **version: Any) -> list[int]:
        """The ids of a version, sorted; every row holds its own vector, and `find` finds it."""
        with zstore.Reader(self.url, storage_options=self.options, **version) as reader:
            ids: list[int] = reader.ids.tolist()
            assert np.asarray(reader.vectors).tolist() == [[i, -i] for i in ids]
            assert (reader.find(ids) >= 0).all()
        return sorted(ids)

    def root(self) -> int:
        """The version that Zarr's group document is at."""
        document = json.loads(open_storage(self.url, self.options).read("zarr.json"))
        return int(document["attributes"]["zstore"]["version"])

    def check(self, *ids: int) -> None:
        """Head has exactly these rows, the root is at head, and `verify` finds nothing."""
        assert self.ids() == sorted(ids)
        assert zstore.verify(self.url, storage_options=self.options) == []
        assert self.root() == zstore.history(self.url, storage_options=self.options)[-1].version

    def end(self) -> None:
        for writer in self.writers:
            if not writer._closed:
                self.die(writer)
        if self.url.startswith("memory://"):
            fs = fsspec.filesystem("memory")
            if fs.exists(self.url.removeprefix("memory://")):
                fs.rm(self.url.removeprefix("memory://"), recursive=True)


class Race(Real):
    """A store behind a gate."""

    def __init__(self, url: str, gate: Gate, options: dict[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self.gate = gate

    def actor(self, call: Callable[[], Any]) -> Actor:
        """Someone who does this; everything that it opens is gated."""
        return self.gate.start(call)

    def acting(self, what: Callable[[zstore.Writer], Any], **how: Any) -> tuple[zstore.Writer, Actor]:
        """A writer that is open by now, and an actor that will do this with it."""
        actor = self.gate.start(lambda: what(writer))
        writer = actor.adopt(lambda: self.writer(**how))
        return writer, actor


@pytest.fixture
def many_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several writers in one process, as if each had its own: nobody closes the earlier one."""
    monkeypatch.setattr(registry, "enter", lambda url, writer: None)


@pytest.fixture(params=["memory", "local"])
def race(request: pytest.FixtureRequest, tmp_path: Path, many_writers: None) -> Iterator[Race]:
    with Gate().installed() as gate:
        made = Race(f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "run.zarr"), gate)
        yield made
    made.end()
