"""Where a warning points: at the line of the caller's that it is about, once for each."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.notices import warn

OURS = """
def call(work):
    work()

@contextmanager
def block(work):
    yield
    work()

def on_a_thread(work):
    thread = Thread(target=work)
    thread.start()
    thread.join()

def said():
    warn("so")
"""


@pytest.fixture
def ours() -> dict[str, Any]:
    """What a module of zstore's could hold."""
    scope = {"__name__": "zstore.somewhere", "contextmanager": contextmanager, "Thread": threading.Thread, "warn": warn}
    exec(OURS, scope)
    return scope


def place(told: Any) -> tuple[str, str]:
    assert len(told) == 1
    return told[0].filename, Path(told[0].filename).read_text(encoding="utf-8").splitlines()[told[0].lineno - 1].strip()


def test_it_points_at_the_caller_through_zstore_its_blocks_and_its_threads(ours: dict[str, Any]) -> None:
    with pytest.warns(UserWarning) as told:
        ours["call"](ours["said"])
    assert place(told) == (__file__, 'ours["call"](ours["said"])')
    with pytest.warns(UserWarning) as told, ours["block"](ours["said"]):
        pass
    assert place(told) == (__file__, 'with pytest.warns(UserWarning) as told, ours["block"](ours["said"]):')
    with pytest.warns(UserWarning) as told:
        ours["on_a_thread"](ours["said"])
    assert place(told) == (__file__, 'ours["on_a_thread"](ours["said"])')


def test_a_thread_that_nobody_in_zstore_waits_for_points_at_none_of_the_callers_lines(ours: dict[str, Any]) -> None:
    with pytest.warns(UserWarning) as told:
        thread = threading.Thread(target=ours["said"])
        thread.start()
        thread.join()
    assert len(told) == 1 and told[0].filename != __file__


def test_each_line_of_the_callers_hears_it_once(ours: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            ours["said"]()
        ours["said"]()
    assert len(told) == len({warning.lineno for warning in told}) == 2


def test_a_roll_back_points_at_the_line_that_asked_for_it(url: str) -> None:
    with zstore.Writer(url) as writer:
        writer.append([1], np.ones((1, 2), np.float32))
    with zstore.Writer(url) as writer, pytest.warns(UserWarning, match="rolled back from version") as told:
        writer.load_state_dict(None)
    assert place(told) == (__file__, "writer.load_state_dict(None)")
