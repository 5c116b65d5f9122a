"""What the tests share: a place for a store, a check that it is sound, and helpers that leave nothing running."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.cli.main import main

ROOT = Path(__file__).parents[1]

# A shell that starts a job in the background has it ignore Control-C, which is inherited; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a store may be made; nothing is there."""
    return str(tmp_path / "run.zarr")


def assert_sound(url: str) -> None:
    """`zstore.verify` finds nothing."""
    if importlib.util.find_spec("zstore.maintenance.verify") is not None:
        assert zstore.verify(url) == []


@pytest.fixture
def sound() -> Callable[[str], None]:
    """Call it with a URL at the end of a test: the store keeps every promise of FORMAT.md."""
    return assert_sound


@pytest.fixture
def rows_of() -> Callable[..., dict[tuple[Any, int], list[float]]]:
    """Every row of head as {(id, epoch): vector}; fails where a key is there twice."""
    def read(url: str, **version: Any) -> dict[tuple[Any, int], list[float]]:
        with zstore.Reader(url, **version) as reader:
            keys = list(zip(reader.ids.tolist(), reader.field("epoch").tolist(), strict=True))
            assert len(set(keys)) == len(keys), "a key is there twice"
            return dict(zip(keys, np.asarray(reader.vectors, np.float64).tolist(), strict=True))
    return read


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A local S3 server, see ``zstore.testing.s3.Server``; one for all tests, each with a place of its own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from zstore.testing.s3 import Server

    with Server() as server:
        yield server


class Ran:
    """What one run of a command gave."""

    def __init__(self, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
        self.code = main(words)
        self.out, self.err = capsys.readouterr()

    @property
    def facts(self) -> dict[str, Any]:
        """Of ``--json``."""
        (line,) = self.out.splitlines()
        facts: dict[str, Any] = json.loads(line)
        return facts


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs ``zstore`` with these words, in this process."""
    return lambda *words: Ran(capsys, [str(word) for word in words])


class Children:
    """Python processes of one test. They end, by their ids, when the test does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[subprocess.Popen[str]] = []

    def start(self, source: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Run this source, with ``sys.argv[1:]``; its output is piped."""
        path = self._folder / f"child-{len(self._all)}.py"
        path.write_text(textwrap.dedent(source))
        env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        child = subprocess.Popen([sys.executable, str(path), *map(str, arguments)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options)
        self._all.append(child)
        return child

    def run(self, source: str, *arguments: object, **options: Any) -> str:
        """Run this source to its end and give what it printed; fails, with its errors, where it fails."""
        child = self.start(source, *arguments, **options)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        return out

    def line(self, child: subprocess.Popen[str]) -> str:
        """The child's next line; fails with its errors where it ended."""
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise AssertionError(f"the child ended: {child.communicate(timeout=60)[1]}")
        return line.strip()

    def tell(self, child: subprocess.Popen[str], word: str = "go") -> None:
        """Write a line to the child's stdin."""
        assert child.stdin is not None
        child.stdin.write(word + "\n")
        child.stdin.flush()

    def kill(self, child: subprocess.Popen[str]) -> None:
        """SIGKILL, and wait until it is gone."""
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)

    def end(self) -> None:
        for child in self._all:
            if child.poll() is None:
                self.kill(child)
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Processes that end with the test."""
    folder = tmp_path / "children"
    folder.mkdir()
    started = Children(folder)
    yield started
    started.end()
