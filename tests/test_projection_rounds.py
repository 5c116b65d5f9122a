"""Zarr's documents on a distant store: written at once, over what was last seen of them, and looked at only if that is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.commits import projection
from zstore.commits.log import Log
from zstore.commits.opening import Request, open_session
from zstore.errors import StaleWriter
from zstore.storage import open_storage
from zstore.testing.s3 import Server


@pytest.fixture
def writer(s3: Server) -> Iterator[zstore.Writer]:
    with zstore.Writer(s3.url(), storage_options=s3.options, commit_every_s=None) as made:
        append(made, 0)
        made.commit()
        s3.requests()
        yield made


def append(writer: zstore.Writer, first: int, count: int = 10) -> None:
    writer.append([f"id-{row}" for row in range(first, first + count)], np.ones((count, 4), np.float32))


def documents(s3: Server) -> list[str]:
    return [line.split()[0] for line in s3.requests() if line.partition("?")[0].endswith("zarr.json")]


def root(writer: zstore.Writer, s3: Server) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(open_storage(writer.url, s3.options).read("zarr.json"))
    return body


def test_a_commit_looks_at_no_document(writer: zstore.Writer, s3: Server) -> None:
    append(writer, 10)
    writer.commit()
    assert documents(s3) == ["PUT"] * 4
    assert root(writer, s3)["attributes"]["zstore"]["version"] == 2


@pytest.mark.parametrize("name", ["zarr.json", "vectors/zarr.json"])
@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_document_that_is_not_what_was_seen_is_looked_at_and_mended(writer: zstore.Writer, s3: Server, name: str,
                                                                      harm: str) -> None:
    storage = open_storage(writer.url, s3.options)
    if harm == "gone":
        storage.delete(name)
    else:
        storage.replace(storage.draft([b"{}"], "t"), name)
    append(writer, 10)
    commit = writer.commit()
    assert commit is not None and json.loads(storage.read(name))["node_type"] in ("group", "array")
    assert root(writer, s3)["attributes"]["zstore"]["commit_id"] == commit.commit_id


def test_another_members_newer_documents_stand(writer: zstore.Writer, s3: Server) -> None:
    """A member that was overtaken between its record and its documents takes nothing back."""
    log = Log(open_storage(writer.url, s3.options))
    known: projection.Known = {}
    old = log.head()
    projection.project(log, "t", known)
    append(writer, 10)
    writer.commit()
    stale = Log(log.storage)
    stale._head = old
    for name, (body, generation) in list(known.items()):
        known[name] = body.replace(b'"version": 1', b'"version": 0'), generation
    s3.requests()
    projection.project(stale, "t", known)
    assert root(writer, s3)["attributes"]["zstore"]["version"] == 2
    assert json.loads(log.storage.read("vectors/zarr.json"))["shape"][0] == 20


def test_the_arrays_documents_are_written_at_once_and_before_the_groups(writer: zstore.Writer, s3: Server,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    together, order, plain = threading.Barrier(3, timeout=30), [], projection._put

    def put(storage: Any, name: str, *rest: Any) -> None:
        if name != "zarr.json":
            together.wait()             # one after another they would wait for ever
        plain(storage, name, *rest)
        order.append(name)
    monkeypatch.setattr(projection, "_put", put)
    append(writer, 10)
    writer.commit()
    assert order[-1] == "zarr.json" and sorted(order[:-1]) == ["epoch/zarr.json", "ids/zarr.json", "vectors/zarr.json"]


def test_a_writer_that_was_fenced_learns_it_by_the_number_that_is_taken(s3: Server) -> None:
    """It asks for no head before its record; the number that it would have is taken, and head then says by whom."""
    url = s3.url()
    with pytest.raises(StaleWriter), zstore.Writer(url, storage_options=s3.options, commit_every_s=None) as writer:
        append(writer, 0)
        writer.commit()
        log = Log(open_storage(url, s3.options))
        session = open_session(log, Request("other", takeover=True))
        session.lock.release()
        append(writer, 10)
        s3.requests()
        with pytest.raises(StaleWriter):
            writer.commit()
        asked = [line for line in s3.requests() if "/commits/" in line]
        assert asked[0].startswith("PUT ")
    assert zstore.Reader(url, storage_options=s3.options).ids.tolist() == [f"id-{row}" for row in range(10)]
