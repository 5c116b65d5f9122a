"""Days with more than one process: a notebook, a stray script, loader workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import zstore

# What a notebook's kernel does: it runs the cells that come in, one after the other, and prints what it had to say.
KERNEL = """
    import sys, warnings
    warnings.simplefilter("always")
    space = {"url": sys.argv[1]}
    for cell in iter(sys.stdin.readline, ""):
        exec(eval(cell), space)
        print("done", flush=True)
"""
CELL = """
import numpy as np, zstore, time
writer = zstore.Writer(url, commit_every_s=0.05, rows_per_shard=64)
"""
TEN_BATCHES = """
for batch in range(10):
    ids = np.arange(first + batch * 10, first + batch * 10 + 10)
    writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
"""
AFTER_THE_CLOCK = """
while len(zstore.Reader(url)) < expected:
    time.sleep(0.01)
"""


def test_story_2_notebook(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """A cell with Writer(...) executed twice in one kernel, ten batches, the kernel killed after the clock's commit."""
    kernel = children.start(KERNEL, url)

    def run(cell: str) -> None:
        children.tell(kernel, repr(cell))
        assert children.line(kernel) == "done"

    run(CELL)
    run("first = 0" + TEN_BATCHES)
    run(CELL)                                   # again: what the first one held is committed
    run("expected = 100" + AFTER_THE_CLOCK)
    run("first = 100" + TEN_BATCHES)
    run("expected = 200" + AFTER_THE_CLOCK)     # nobody called commit
    children.kill(kernel)
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == list(range(200)) and (reader.vectors == reader.ids[:, None]).all()
    sound(url)

    kernel = children.start(KERNEL, url)        # a new kernel, the same cell
    run(CELL)
    run("first = 200" + TEN_BATCHES)
    run("writer.close()")
    assert zstore.Reader(url).ids.tolist() == list(range(300))
    sound(url)


TRAINING = """
    import itertools, sys
    import numpy as np
    import zstore

    writer = zstore.Writer(sys.argv[1], rows_per_shard=64)
    first = len(zstore.Reader(sys.argv[1])) if len(sys.argv) > 2 else 0
    for batch in itertools.count():
        ids = np.arange(first + batch * 10, first + batch * 10 + 10)
        writer.append(ids, np.repeat(ids[:, None], 4, axis=1).astype("f4"))
        print(writer.commit().rows, flush=True)
        if not sys.stdin.readline():
            break
"""


def test_story_3_stray(url: str, children: Any, sound: Callable[[str], None]) -> None:
    """Training is under way and somebody opens a Writer on the same store. Then it is killed and started again."""
    training = children.start(TRAINING, url)
    for rows in (10, 20, 30):
        assert int(children.line(training)) == rows
        children.tell(training)
    assert int(children.line(training)) == 40
    stray = children.start("import sys, zstore\nzstore.Writer(sys.argv[1])", url)
    _, errors = stray.communicate(timeout=60)
    assert stray.returncode == 1
    said = errors.strip().splitlines()[-1]
    assert f"is being written by pid {training.pid} on {os.uname().nodename} since 20" in said and "takeover=True" in said
    children.tell(training)                     # training never notices
    assert int(children.line(training)) == 50
    assert len(zstore.history(url)) == 6        # and the stray one left no version

    children.kill(training)
    again = children.start(TRAINING, url, "go on")      # at once, and no flag is needed
    assert int(children.line(again)) == 60
    children.tell(again)
    assert int(children.line(again)) == 70
    again.stdin.close()
    assert again.wait(60) == 0
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == list(range(70)) and (reader.vectors == reader.ids[:, None]).all()
    sound(url)


def test_a_run_that_is_killed_at_any_moment_keeps_what_it_committed(url: str, children: Any,
                                                                    sound: Callable[[str], None]) -> None:
    """Five times: SIGKILL while it appends and commits, then the same command again."""
    source = TRAINING.replace("if not sys.stdin.readline():", "if False:")
    told = 0
    for kill in range(5):
        training = children.start(source, url, *(["go on"] if kill else []))
        for _ in range(3 + kill):
            told = int(children.line(training))
        training.kill()
        out = training.communicate(timeout=60)[0].splitlines()
        told = max([told, *(int(line) for line in out if line.isdigit())])
        with zstore.Reader(url) as reader:
            assert len(reader) >= told
            assert reader.ids.tolist() == list(range(len(reader)))
            assert (reader.vectors == reader.ids[:, None]).all()
        sound(url)


LOADING = """
    import os, sys
    from pathlib import Path
    import numpy as np
    import zstore

    def files():
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
                for path in sorted(Path(url).rglob("*")) if path.is_file()}

    def read(part):
        for view in (reader, zstore.Reader(url)):
            assert len(view) == 300
            picked = np.arange(part, 300, 4)
            assert (view[picked] == picked[:, None]).all() and (view.get(picked.tolist()) == picked[:, None]).all()

    def fork(work):
        child = os.fork()
        if child == 0:
            work()
            sys.exit(0)         # by the front door, with everything that runs at exit
        return child

    url, codec = sys.argv[1:]
    ids = np.arange(300)
    vectors = np.repeat(ids[:, None], 4, axis=1).astype(np.float32)
    writer = zstore.Writer(url, codec=codec, rows_per_shard=64, commit_every_s=None)
    writer.append(ids, vectors)
    writer.commit()
    writer.append(ids[:10] + 300, vectors[:10] + 300)       # pending, and no full shard: the background has nothing to do
    reader = zstore.Reader(url)
    before = files()
    children = [fork(lambda part=part: read(part)) for part in range(4)]
    children.append(fork(lambda: None))
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(len(before), files() == before)
    writer.append(ids + 310, vectors + 310)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_story_6_workers(url: str, codec: str, children: Any, sound: Callable[[str], None]) -> None:
    """A Writer is open, rows are pending; four forked loader workers read, and one child leaves by the front door."""
    files, same = children.run(LOADING, url, codec).split()
    assert int(files) > 15 and same == "True"
    after = zstore.Reader(url)
    assert after.ids.tolist() == list(range(610)) and (after.vectors == after.ids[:, None]).all()
    sound(url)
