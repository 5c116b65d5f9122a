"""The demo's parent: starts the training, kills it, resumes it, and judges what is in the store afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

import zstore
from zstore.errors import AlreadyExists, MissingExtra

MARKER = ".zstore-demo"      # a folder that holds it is a demo's, and the next demo may clear it
STORE, REFERENCE, CHECKPOINT, PICTURE = "run.zarr", "uninterrupted.zarr", "checkpoint.pt", "picture.png"
LOG, REPORT = "children.log", "report.json"
_OURS = (STORE, REFERENCE, CHECKPOINT, PICTURE, LOG, REPORT)
_NEEDS = {"torch": "torch", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def tell(folder: Path, epochs: int, *, keep: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the demo in ``folder``, telling each step; gives what was found. Raises ZStoreError where a row is amiss."""
    _check_extras()
    begin = time.perf_counter()
    _prepare(folder)
    store, reference, checkpoint = folder / STORE, folder / REFERENCE, folder / CHECKPOINT
    facts: dict[str, Any] = {"store": str(store), "epochs": epochs}
    with open(folder / LOG, "w", encoding="utf-8") as log:
        say(f"1  a small network learns handwritten digits for {epochs} epochs; each batch's penultimate layer goes "
            f"to {store}")
        facts["killed"] = _train_and_kill(store, epochs, checkpoint, log, say)
        say("3  a new process loads the checkpoint, rolls the store back to its mark, and trains to the end")
        facts["cost"] = _train(store, epochs, log, "--resume", str(checkpoint))
        say("4  the same training once more, never interrupted, into another store: what should have come out")
        _train(reference, epochs, log)
        facts["rows"] = _judge(store, reference, epochs, say)
        say(f"   recording cost {facts['cost']['append_us']:.0f} µs per step, beside {facts['cost']['step_us']:.0f} µs "
            "of training (medians)")
        say("6  a new process opens the store and reads it through the mapping")
        facts["report"] = _read(folder, log, say)
    if not keep:
        _clear(folder, (REFERENCE, CHECKPOINT, LOG, REPORT))
    say(f"done in {time.perf_counter() - begin:.0f} s; look further with: zstore info {store}")
    return facts


def _train_and_kill(store: Path, epochs: int, checkpoint: Path, log: IO[str],
                    say: Callable[[str], None]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    with _trainer(store, "--epochs", epochs, "--checkpoint", checkpoint, log=log) as (child, events):
        for event in events:
            if event["event"] == "checkpoint":
                facts["checkpoint"] = event
                say(f"   checkpoint in epoch {event['epoch']} after step {event['step']}: network, optimizer, random "
                    f"state, and the store's mark (version {event['version']})")
            elif event["event"] == "committed":
                facts["committed"] = event
                say(f"   training goes on past it: version {event['version']} is committed with {event['rows']:,} rows")
            elif event["event"] == "kill me":
                child.kill()
                say(f"2  kill -9, in epoch {event['epoch']} after step {event['step']}, with rows appended that no "
                    "commit names yet")
                break
        if child.wait() >= 0:
            raise zstore.ZStoreError(f"the training ended before it could be killed; see {log.name}")
    with zstore.Reader(str(store)) as run:
        say(f"   what the kill left: version {run.version} with {len(run):,} rows, whole, and more than the checkpoint "
            "knows of")
        facts["left"] = {"version": run.version, "rows": len(run)}
    return facts


def _train(store: Path, epochs: int, log: IO[str], *options: str) -> dict[str, Any]:
    """A training that is left in peace; gives what recording cost it."""
    cost: dict[str, Any] = {}
    with _trainer(store, "--epochs", epochs, *options, log=log) as (child, events):
        for event in events:
            if event["event"] == "done":
                cost = event
        if child.wait() != 0:
            raise zstore.ZStoreError(f"the training failed: {_last_line(log)}; see {log.name}")
    return {name: cost[name] for name in ("append_us", "step_us")}


def _judge(store: Path, reference: Path, epochs: int, say: Callable[[str], None]) -> int:
    """Every sample at every epoch exactly once, and each as in the run that was never interrupted."""
    with zstore.Reader(str(store)) as run, zstore.Reader(str(reference)) as expected:
        numbers = np.array([int(name.removeprefix("digit-")) for name in run.ids])
        samples = int(numbers.max()) + 1
        seen = np.bincount(run.field("epoch") * samples + numbers, minlength=samples * epochs)
        lost, doubled = int((seen == 0).sum()), int((seen > 1).sum())
        if lost or doubled or len(run) != samples * epochs:
            raise zstore.ZStoreError(f"{lost} (sample, epoch) pairs are lost and {doubled} are doubled in {store}")
        say(f"5  {len(run):,} rows = {samples:,} samples × {epochs} epochs: each is there once, none lost, "
            "none doubled")
        for name in ("ids", "epoch", "vectors", "label", "loss"):
            ours, theirs = run.field(name), expected.field(name)
            if ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
                raise zstore.ZStoreError(f"field {name!r} of the resumed run differs from the uninterrupted run's")
        say("   bit for bit the rows of the run that was never interrupted, in the same order")
        return len(run)


def _read(folder: Path, log: IO[str], say: Callable[[str], None]) -> dict[str, Any]:
    command = [sys.executable, "-m", "zstore.demo.report", *(str(folder / name) for name in (STORE, PICTURE, REPORT))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=_environment(), text=True,
                          encoding="utf-8") as child:
        assert child.stdout is not None
        for line in child.stdout:
            say(f"   {line.rstrip()}")
    if child.returncode != 0:
        raise zstore.ZStoreError(f"the reader failed: {_last_line(log)}; see {log.name}")
    facts: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return facts


Child: TypeAlias = tuple["subprocess.Popen[str]", Iterator[dict[str, Any]]]


@contextmanager
def _trainer(*words: object, log: IO[str]) -> Iterator[Child]:
    """A training process, and the events that it tells; it does not outlive the block."""
    command = [sys.executable, "-m", "zstore.demo.train", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=_environment(), text=True,
                          encoding="utf-8") as child:
        assert child.stdout is not None
        try:
            yield child, map(json.loads, child.stdout)
        finally:
            child.kill()


def _environment() -> dict[str, str]:
    """Ours, with this very zstore first, and UTF-8 whatever the locale says."""
    here = str(Path(zstore.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([here, others] if others else [here])
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


def _last_line(log: IO[str]) -> str:
    lines = Path(log.name).read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _check_extras() -> None:
    missing = [package for module, package in _NEEDS.items() if find_spec(module) is None]
    if missing:
        raise MissingExtra(f"the demo needs {', '.join(missing)}: pip install \"zstore[demo]\"")


def _prepare(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AlreadyExists(f"{folder} is a file; give the demo a folder with --dir")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise AlreadyExists(f"{folder} has something else in it; give the demo an empty folder with --dir")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    _clear(folder, _OURS)


def _clear(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
