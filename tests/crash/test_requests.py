"""A process is killed at a request to object storage; what it was told is there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zstore.testing.kills import Kind
from zstore.testing.life import Place

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
pytest.importorskip("zarr")

from zstore.testing.requests import kill_at_requests, requests_of
from zstore.testing.s3 import Server

KINDS = [Kind("grow"), Kind("grow", "lossless", True), Kind("roll"), Kind("column"), Kind("shared"), Kind("erase"),
         Kind("copy")]
SPARE = 40      # threads make one run a few requests longer than another


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


def test_killed_now_and_then(server: Server, tmp_path: Path) -> None:
    kind = Kind("column")
    last = requests_of(kind, Place(server.url(), server.options), tmp_path)
    for answered in (False, True):
        numbers = [last // 3 + 10 * answered]
        kills, problems = kill_at_requests(kind, server, tmp_path, numbers, answered=answered)
        assert not problems
        assert kills == len(numbers)


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_killed_at_every_request(kind: Kind, answered: bool, server: Server, tmp_path: Path) -> None:
    last = requests_of(kind, Place(server.url(), server.options), tmp_path)
    kills, problems = kill_at_requests(kind, server, tmp_path, range(1, last + SPARE), answered=answered)
    assert not problems
    assert kills > last - SPARE
