"""A process is killed at every system call of a scripted life; what it was told is there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from zstore.testing.kills import KINDS, Kind, calls_of, kill_everywhere

pytest.importorskip("zarr")

SPARE = 20      # threads make one run a few calls longer than another


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_killed_now_and_then(kind: Kind, tmp_path: Path) -> None:
    kinds = calls_of(kind, tmp_path / "whole")
    step = len(kinds) // 4
    start = 1 + KINDS.index(kind) * 3
    numbers = range(start, len(kinds) - SPARE, step)
    kills, problems = kill_everywhere(kind, tmp_path, numbers)
    assert not problems
    assert kills == len(numbers)


def test_killed_in_the_midst_of_a_write(tmp_path: Path) -> None:
    kind = Kind("grow")
    writes = [number for number, call in enumerate(calls_of(kind, tmp_path / "whole"), 1) if call == "write"]
    kills, problems = kill_everywhere(kind, tmp_path, writes[3:-3:12], torn=True)
    assert not problems
    assert kills == len(writes[3:-3:12])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_killed_at_every_call(kind: Kind, torn: bool, tmp_path: Path) -> None:
    kinds = calls_of(kind, tmp_path / "whole")
    numbers = [n for n in range(1, len(kinds) + SPARE) if not torn or n > len(kinds) or kinds[n - 1] == "write"]
    kills, problems = kill_everywhere(kind, tmp_path, numbers, torn=torn)
    assert not problems
    assert kills > len(numbers) - 2 * SPARE
