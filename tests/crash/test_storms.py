"""Members of shared sessions, killed at random moments: what they were told is there, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from zstore.testing.storms import storm


def test_a_shower(tmp_path: Path) -> None:
    tally = storm(tmp_path, 12, seed=1)
    assert not tally.problems
    assert tally.lost == 0
    assert tally.kills >= 12
    assert tally.commits > 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_thousand_kills(tmp_path: Path) -> None:
    tally = storm(tmp_path, 1000, seed=2)
    assert not tally.problems
    assert tally.lost == 0
    assert tally.kills >= 1000
    assert tally.commits > 1000
