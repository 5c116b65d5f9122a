"""Several processes, one store: every text once, whoever dies."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from shared import Counting, Slow, documents, held, made, rows, write

import zstore
from zstore._typing import Array
from zstore.cli.main import main
from zstore.embed import embed
from zstore.embed.gpus import device
from zstore.embed.hashing import HashingEncoder
from zstore.embed.ledger import Ledger

HERE = Path(__file__).parent
STUCK = """
    import sys

    sys.path.insert(0, sys.argv[3])
    from shared import Slow
    from zstore.embed import embed, workers

    workers._SILENCE_S = 0.5

    if __name__ == "__main__":
        print("ready", flush=True)
        embed(sys.argv[1], sys.argv[2], model=Slow(32), workers=2, commit_s=0.2, window=64, budget=512)
"""
CHILD = """
    import sys

    sys.path.insert(0, sys.argv[3])
    from shared import Slow
    from zstore.embed import embed

    if __name__ == "__main__":
        print("ready", flush=True)
        embed(sys.argv[1], sys.argv[2], model=Slow(32), workers=2, commit_s=0.2, window=64, budget=512)
"""


def test_every_text_once_and_again_nothing(url: str, sound: Callable[[str], None]) -> None:
    docs = documents(3000)
    source = [*docs, ("bad", "")]
    report = embed(source, url, model=Slow(32), workers=2, window=64, budget=512)       # slow, so that both take part
    assert held(url) == made(docs) and rows(url) == 3000
    assert (report.seen, report.embedded, report.copied, report.failed) == (3001, 2970, 30, 1)
    assert [failure.id for failure in Ledger(url).all()] == ["bad"] and report.tokens > 0
    again = embed(source, url, model="hash:32", workers=2)
    assert (again.embedded, again.skipped) == (0, 3000)
    more = documents(3100)
    assert embed(more, url, model=Counting(), workers=2).embedded == 99
    assert held(url) == made(more)
    sound(url)


def test_kept_fields_come_along(url: str) -> None:
    docs = [{"id": n, "text": f"text {n}", "title": f"Title {n}"} for n in range(200)]
    embed(docs, url, model="hash:32", workers=2, keep=["title"])
    with zstore.Reader(url) as reader:
        assert dict(zip(reader.ids.tolist(), reader.field("title").tolist(), strict=True)) == {
            n: f"Title {n}" for n in range(200)}


class Leaving(Counting):
    """Ends its process in order, as a library may."""

    def encode(self, tokens: Sequence[Any]) -> Array:
        if self.texts > 200:
            os._exit(0)
        return super().encode(tokens)


class Where(HashingEncoder):
    """Writes down on which GPU it would be."""

    def __init__(self, folder: str) -> None:
        super().__init__(32)
        self.folder = folder

    def encode(self, tokens: Sequence[Any]) -> Array:
        (Path(self.folder) / os.environ.get("CUDA_VISIBLE_DEVICES", "none")).touch()
        time.sleep(0.01)
        return super().encode(tokens)


def test_a_worker_that_leaves_in_order_is_an_error_too(url: str) -> None:
    docs = documents(2000)
    with pytest.raises(RuntimeError, match="died with exit code 0; what was committed is there"):
        embed(docs, url, model=Leaving(), workers=2, window=64, budget=512)
    embed(docs, url, model=Counting())
    assert held(url) == made(docs)


def test_a_source_that_breaks_loses_nothing_that_it_gave(url: str) -> None:
    docs = [(identity, f"{text} of {identity}") for identity, text in documents(3000)]      # no two equal

    def broken() -> Iterator[tuple[str, str]]:
        yield from docs
        raise OSError("the disk is gone")
    with pytest.raises(OSError, match="the disk is gone"):
        embed(broken(), url, model="hash:32", workers=2)
    assert held(url) == made(docs)


def test_a_slow_source_is_not_waited_for(url: str) -> None:
    """What the processes have is embedded and committed, although no window is full."""
    docs = documents(1500)

    def slow() -> Iterator[tuple[str, str]]:
        yield from docs[:1100]
        until = time.monotonic() + 60
        while not rows(url):
            assert time.monotonic() < until, "nothing was committed while the source was slow"
            time.sleep(0.02)
        yield from docs[1100:]
    embed(slow(), url, model="hash:32", workers=2, commit_s=0.1)
    assert held(url) == made(docs)


@pytest.mark.parametrize(("given", "there", "wanted"), [
    (None, 0, [None, None]), (None, 1, [None, None]), (None, 2, ["0", "1", "0"]), ("3,5", 8, ["3", "5", "3"]),
    ("2", 8, [None, None]), ("", 8, [None]), ("GPU-aa, GPU-bb", 0, ["GPU-aa", "GPU-bb"])])
def test_processes_share_out_the_gpus_that_were_given(given: str | None, there: int, wanted: list[str | None]) -> None:
    assert [device(number, given, there) for number in range(1, len(wanted) + 1)] == wanted


def test_each_process_sees_its_gpu(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")       # as a cluster's scheduler sets it
    (tmp_path / "seen").mkdir()
    embed(documents(2000), url, model=Where(str(tmp_path / "seen")), workers=2, window=64, budget=512)
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["3", "5"]


def test_a_worker_that_is_stuck_is_named_and_can_be_left(url: str, children: Any, tmp_path: Path) -> None:
    docs = documents(4000)
    child = _at_work(children, write(tmp_path / "docs.jsonl", docs), url, STUCK)
    worker = _worker_of(child.pid)
    os.kill(worker, signal.SIGSTOP)
    for _ in range(2):          # once it waits for its results, and once for its end
        while f"waiting for the worker process {worker}" not in (line := child.stderr.readline()):
            assert line, "it ended without a word"
        os.kill(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) != 0 and not Path(f"/proc/{worker}").exists()
    embed(docs, url, model=Counting())
    assert held(url) == made(docs)


def _at_work(children: Any, source: Path, url: str, script: str = CHILD) -> Any:
    """A child whose workers have committed rows."""
    child = children.start(script, source, url, HERE)
    children.line(child)
    while rows(url) == 0:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.02)
    return child


def test_a_worker_that_dies_is_an_error_and_the_rest_is_continued(url: str, children: Any, tmp_path: Path) -> None:
    docs = documents(4000)
    source = write(tmp_path / "docs.jsonl", docs)
    child = _at_work(children, source, url)
    os.kill(_worker_of(child.pid), signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1 and "died with exit code -9" in err
    there = rows(url)
    report = embed(source, url, model=Counting())
    assert report.skipped == there > 0 and held(url) == made(docs)


def test_a_killed_parent_leaves_no_worker(url: str, children: Any, tmp_path: Path) -> None:
    docs = documents(4000)
    source = write(tmp_path / "docs.jsonl", docs)
    child = _at_work(children, source, url)
    worker = _worker_of(child.pid)
    children.kill(child)
    while Path(f"/proc/{worker}").exists() and "zombie" not in Path(f"/proc/{worker}/status").read_text():
        time.sleep(0.05)
    embed(source, url, model=Counting())
    assert held(url) == made(docs)


def test_what_the_model_refuses_everywhere_is_told(url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        embed(documents(50), url, model=Counting(stop_at=1, error=ZeroDivisionError), workers=2)
    assert rows(url) == 0


def _full(writer: Any, close: Callable[[Any], None] = zstore.Writer.close) -> None:
    close(writer)
    raise OSError(28, "No space left on device")


class Unstored(Slow):
    """Its process can't commit what it has at the end."""

    def encode(self, tokens: Sequence[Any]) -> Array:
        zstore.Writer.close = _full         # type: ignore[method-assign]
        return super().encode(tokens)


def test_a_last_commit_that_failed_is_told_after_control_c(url: str) -> None:
    def interrupt(facts: Any) -> None:
        if facts["embedded"]:
            raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="the last rows of a worker process .*No space left on device"), \
            pytest.raises(KeyboardInterrupt):
        embed(documents(3000), url, model=Unstored(32), workers=2, window=64, budget=512, progress=interrupt)
    with pytest.raises(OSError, match="No space left on device"):       # told once, as the error that it is
        embed(documents(3000, seed=1), url, model=Unstored(32), workers=2, window=64, budget=512)


@pytest.mark.parametrize("given", ["cuda:1", "cuda:0"])
def test_one_gpu_for_several_processes_is_refused(given: str, url: str) -> None:
    with pytest.raises(ValueError, match=f"device '{given}' names one GPU, and 2 workers .* leave the number out"):
        embed(documents(3), url, model="hash:8", workers=2, device=given)
    assert rows(url) == 0


def test_control_c_reaches_all_and_ends_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    docs = documents(20_000)
    write(tmp_path / "docs.jsonl", docs)
    words = shlex.split("embed docs.jsonl --to docs.zarr --model hash:32 --workers 2 --commit-s 0.1 --window 16 --budget 64")
    with subprocess.Popen([sys.executable, "-m", "zstore.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                          ) as child:
        while rows("docs.zarr") == 0:
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err
    assert shlex.split(err.strip().splitlines()[-1]) == ["zstore", *words]
    there = rows("docs.zarr")
    assert 0 < there < 20_000
    assert main([*words[:6], "--json"]) == 0
    facts: Any = json.loads(capsys.readouterr().out)
    assert facts["skipped"] == there and held("docs.zarr") == made(docs)


def _worker_of(parent: int) -> int:
    """The process id of one of the workers: a child that is not Python's own tracker of resources."""
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name), reverse=True):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == parent and "spawn_main" in (process / "cmdline").read_text():
                return int(process.name)
        except OSError:
            pass
    raise AssertionError("there is no worker")
