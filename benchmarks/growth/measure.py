"""What one point of a sweep costs: a reader and a writer, each in a fresh process, and the requests that they make."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BATCH, GATHER = 256, 10_000
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# One of these calls is one request to an object store; the rest are a local disk's own business.
REQUESTS = ("read", "fetch", "open", "exists", "list", "folders", "replace", "rewrite", "create", "delete")


@dataclass(frozen=True)
class Sweep:
    """Where the stores go, and whether this is only to see that it runs."""

    folder: Path
    toy: bool = False

    def url(self, name: str) -> str:
        return str(self.folder / f"{name}.zarr")

    def point(self, at: int, url: str, **how: Any) -> dict[str, Any]:
        """The costs of this store: {"at", measures...}. What the writer's probe appends goes into a copy."""
        files = sum(1 for entry in Path(url).rglob("*") if entry.is_file())
        how |= {"repeats": 2 if self.toy else 7}
        found = in_process("read_probe", {"url": url, **how})
        if how.get("write", True):
            copy = self.url(f"{Path(url).stem}-written")
            shutil.copytree(url, copy, copy_function=os.link)       # a store's files are never changed in place
            found |= in_process("write_probe", {"url": copy, **how})
            shutil.rmtree(copy)
        return {"at": at, **found, "files": files}


def in_process(call: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What this module's function measures in a process of its own."""
    code = "import json, sys; from benchmarks.growth import measure; print(json.dumps(measure.call(*json.loads(sys.argv[1]))))"
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, json.dumps([call, arguments])], text=True, cwd=ROOT,
                          stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(reversed(paths))}, check=True)
    return dict(json.loads(done.stdout))


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The function of this name, called."""
    probes = {"read_probe": read_probe, "write_probe": write_probe, "open_probe": open_probe}
    found: dict[str, Any] = probes[name](**arguments)
    return found


def ids_of(numbers: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(n,) int64: distinct ids in no order, so that keys fall everywhere as those of strings do."""
    with np.errstate(over="ignore"):
        return (np.asarray(numbers, np.uint64) * GOLDEN).view(np.int64)


def read_probe(url: str, ids: int, epochs: list[int], repeats: int, **_: Any) -> dict[str, float]:
    """Of a store whose ids are ``ids_of(range(ids))``, each at some of these epochs."""
    from zstore import Reader  # loaded when it is asked for

    rng = np.random.default_rng(0)
    before, private = _peak_mb(), _private_mb()
    found: dict[str, float] = {"open_ms": 1e3 * median(lambda: Reader(url), repeats)}
    found["open_rss_mb"] = _peak_mb() - before
    with counted() as count, Reader(url):
        found["open_requests"] = count[0]
    reader = Reader(url)
    known = ids_of(rng.integers(0, ids, 200)).tolist()
    where = rng.choice(epochs, 200).tolist()
    found["first_key_ms"] = 1e3 * once(lambda: reader.get(known[0], epoch=where[0]))
    for one, epoch in zip(known, where, strict=True):
        reader.get(one, epoch=epoch)
    found["key_us"] = 1e6 * median_of(reader.get, [((one,), {"epoch": e}) for one, e in zip(known, where, strict=True)])
    found["any_key_us"] = 1e6 * median_of(reader.get, [((one,), {}) for one in known * 2])
    picked = rng.integers(0, len(reader), GATHER)
    reader[picked]
    found["gather_row_us"] = 1e6 / GATHER * median(lambda: reader[picked], repeats)
    found |= {"rss_mb": _peak_mb() - before, "private_mb": _private_mb() - private}
    middle = epochs[len(epochs) // 2]
    found["epochs_ms"] = 1e3 * once(lambda: reader.epochs)
    found["epoch_ms"] = 1e3 * median(lambda: reader.epoch(middle), repeats)
    found["epoch_row_ns"] = 1e6 * found["epoch_ms"] / len(reader.epoch(middle))
    found["latest_ms"] = 1e3 * median(reader.latest, min(repeats, 3))
    found["latest_row_ns"] = 1e6 * found["latest_ms"] / len(reader)
    found |= {"rows": len(reader), "extents": len(reader._now()[0].record.extents.starts),
              "runs": len(reader._now()[0].record.index)}
    return found


def open_probe(url: str, **_: Any) -> dict[str, float]:
    """Of opening alone: the first in this process, the median, and the memory above import."""
    from zstore import Reader  # loaded when it is asked for

    before = _peak_mb()
    first = 1e3 * once(lambda: Reader(url))
    return {"first_open_ms": first, "open_ms": 1e3 * median(lambda: Reader(url), 20), "open_rss_mb": _peak_mb() - before}


def write_probe(url: str, ids: int, epochs: list[int], dim: int, dtype: str, repeats: int, **_: Any) -> dict[str, float]:
    """A writer continues the store with a new epoch of known ids: per commit four batches."""
    from zstore import Writer  # loaded when it is asked for

    before, batches = _peak_mb(), 4
    found: dict[str, float] = {}
    vectors = np.ones((BATCH, dim), dtype)
    opened = time.perf_counter()
    with Writer(url, commit_every_s=None) as writer:
        found["writer_open_ms"] = 1e3 * (time.perf_counter() - opened)
        appends, commits, requests, at = [], [], [], 0
        for number in range(repeats + 1):
            for _ in range(batches):
                batch = ids_of(np.arange(at, at + BATCH) % ids)
                start = time.perf_counter()
                writer.append(batch, vectors, epoch=max(epochs) + 1 + at // ids)
                appends.append(time.perf_counter() - start)
                at += BATCH
            with counted() as count:
                start = time.perf_counter()
                writer.commit()
                commits.append(time.perf_counter() - start)
                requests.append(count[0])
            if number == 0:
                found["first_commit_ms"] = 1e3 * commits[0]
        found |= {"append_us": 1e6 * statistics.median(appends[batches:]), "commit_ms": 1e3 * statistics.median(commits[1:]),
                  "commit_requests": statistics.median(requests[1:]), "writer_rss_mb": _peak_mb() - before}
        newest = max((Path(url) / "_zstore/commits").iterdir(), key=lambda path: path.name)
        found["record_kb"] = newest.stat().st_size / 1e3
    return found


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many requests the local storages of this process make, were they distant: a list whose one item counts."""
    from zstore.storage.local import LocalStorage

    count, lock, storage = [0], threading.Lock(), LocalStorage
    plain = {name: getattr(storage, name) for name in REQUESTS}

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*args: Any, **options: Any) -> Any:
            with lock:
                count[0] += not getattr(inside, "depth", 0)
            inside.depth = getattr(inside, "depth", 0) + 1      # a read that opens is one request
            try:
                return method(*args, **options)
            finally:
                inside.depth -= 1
        return counted_call

    inside = threading.local()
    for name, method in plain.items():
        setattr(storage, name, counting(method))
    try:
        yield count
    finally:
        for name, method in plain.items():
            setattr(storage, name, method)


def once(what: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def median(what: Callable[[], Any], repeats: int) -> float:
    """Seconds of the median call; the first one is not counted."""
    what()
    return statistics.median(once(what) for _ in range(repeats))


def median_of(what: Callable[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> float:
    """Seconds of the median of these calls."""
    return statistics.median(once(lambda a=args, o=options: what(*a, **o)) for args, options in calls)


def _peak_mb() -> float:
    # Not `ru_maxrss` where there is better: that of a new process begins with what its parent had.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _private_mb() -> float:
    """Memory of this process's own, without mapped files; the peak where the system does not tell."""
    return _status("RssAnon") or _peak_mb()


def _status(entry: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(entry))
    except (OSError, StopIteration):
        return None
