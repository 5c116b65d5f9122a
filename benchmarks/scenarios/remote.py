"""Object storage 20 ms away: writing with commits every 50 batches and every batch, opening, random rows, one key, a scan."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import slow_s3
from benchmarks.contender import Cannot, Contender
from benchmarks.data import EVERY, Data, fold
from benchmarks.figures import Figure, Samples
from benchmarks.scenarios.checks import same, store_is_whole

FIGURES = (
    Figure("append", "k rows/s", more_is_better=True),
    Figure("commit of 12,800 rows", "ms"), Figure("commit of 12,800 rows: sent", "MB"),
    Figure("commit of 256 rows", "ms"), Figure("commit of 256 rows: PUTs", "requests"),
    Figure("commit of 256 rows: others", "requests"), Figure("commit of 256 rows: one after another", "requests"),
    Figure("commit of 256 rows: sent", "MB"),
    Figure("open, first of a process", "ms"), Figure("open", "ms"), Figure("open: requests", "requests"),
    Figure("gather cold", "ms"), Figure("gather cold: requests", "requests"), Figure("gather cold: received", "MB"),
    Figure("gather warm", "ms"),
    Figure("scan", "MB/s", more_is_better=True), Figure("scan: requests", "requests"),
    Figure("one key cold", "ms"), Figure("one key cold: requests", "requests"), Figure("one key warm", "ms"),
    Figure("gather from a cache folder", "ms"), Figure("gather from a cache folder: requests", "requests"))
STORE, STEPS, COLD = None, ("write", "small", "first", "again", "scan", "key", "keep"), ()
PLACES = {"small": "small"}
FAR = slow_s3.Distance()
DEFAULT_ROWS, ROWS, SMALL, TURNS, MOST_S = 50_000, 1_000, 20, 10, 30.0


@contextmanager
def serve() -> Iterator[dict[str, Any]]:
    """The server of a whole run: ``place`` and ``storage_options``, where the user named no bucket of their own."""
    with slow_s3.Server(FAR) as server:
        yield {"place": server.url("benchmarks"), "storage_options": server.options}


class Meter:
    """What the server was asked, where it counts."""

    def __init__(self, contender: Contender) -> None:
        self._endpoint = str((contender.storage_options or {}).get("endpoint_url", ""))
        self.take()

    def take(self) -> dict[str, float]:
        """Since the last time: {"PUTs", "others", "requests", "one after another", "sent", "received"}; empty without
        counts. Sizes in MB."""
        told = slow_s3.counts(self._endpoint, forget=True) if self._endpoint else None
        if told is None:
            return {}
        every = sum(told[method] for method in slow_s3.METHODS)
        return {"PUTs": told["PUT"], "others": every - told["PUT"], "requests": every, "one after another": told["rounds"],
                "sent": told["in"] / 1e6, "received": told["out"] / 1e6}


def timed(samples: Samples, name: str, act: Callable[[], Any], meter: Meter | None = None) -> Any:
    """Do it; its milliseconds, and what it asked of the server, go to the samples under this name."""
    if meter is not None:
        meter.take()
    begin = time.perf_counter()
    found = act()
    samples.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
    known = {figure.name for figure in FIGURES}
    for what, value in (meter.take() if meter is not None else {}).items():
        if f"{name}: {what}" in known:
            samples.setdefault(f"{name}: {what}", []).append(value)
    return found


def write(contender: Contender, data: Data, size: int) -> Samples:
    """All rows; the clock runs from the first batch to the end of the last commit, and not while a store is created."""
    samples: Samples = {}
    meter, batches = Meter(contender), data.batches()
    contender.create()
    begin = time.perf_counter()
    for number, batch in enumerate(batches, 1):
        contender.append(*batch)
        if number % EVERY == 0:
            timed(samples, "commit of 12,800 rows", contender.commit, meter)
    contender.finish()
    samples["append"] = [data.rows / (time.perf_counter() - begin) / 1e3]
    store_is_whole(contender, data)
    return samples


def small(contender: Contender, data: Data, size: int) -> Samples:
    """A commit after each of some batches; the first, which makes the store, does not count."""
    samples: Samples = {}
    meter, batches = Meter(contender), data.batches()
    contender.create()
    for number, batch in enumerate(batches[:SMALL + 1]):
        contender.append(*batch)
        timed(samples if number else {}, "commit of 256 rows", contender.commit, meter)
    contender.finish()
    return samples


def first(contender: Contender, data: Data, size: int) -> Samples:
    """A process that has read nothing: it opens, takes random rows, and takes them again."""
    samples: Samples = {}
    rows = _rows(data)
    timed(samples, "open, first of a process", lambda: _opened(contender, data))
    for name in ("gather cold", "gather warm"):
        same(timed(samples, name, lambda: contender.gather(rows), Meter(contender)), data.at(rows))
    return samples


def again(contender: Contender, data: Data, size: int) -> Samples:
    """Open after open in one process."""
    samples: Samples = {}
    meter = Meter(contender)
    for turn in range(TURNS):
        timed(samples if turn else {}, "open", lambda: _opened(contender, data), meter)
        contender.close()
    return samples


def scan(contender: Contender, data: Data, size: int) -> Samples:
    """All rows once, in order, by a process that has read nothing."""
    samples: Samples = {}
    contender.open()

    def whole() -> tuple[int, int]:
        found, rows = 0, 0
        for block in contender.scan():
            found ^= fold(block)
            rows += len(block)
        return rows, found
    assert timed(samples, "scan", whole, Meter(contender)) == (data.rows, data.fold()), "other rows than were written"
    samples["scan"] = [data.nbytes / 1e3 / took for took in samples["scan"]]
    return samples


def key(contender: Contender, data: Data, size: int) -> Samples:
    """One vector by its key, by a process that has read nothing; then others."""
    samples: Samples = {}
    rows = _rows(data)
    ids, epochs, wanted = data.ids(rows), data.epochs(rows).tolist(), data.at(rows)
    contender.open()
    meter, until = Meter(contender), time.monotonic() + MOST_S
    for number in range(TURNS + 1):
        found = timed(samples, "one key warm" if number else "one key cold",
                      lambda at=number: contender.key(ids[at], epochs[at]), meter)       # type: ignore[misc]
        same(found, wanted[number])
        if number and time.monotonic() > until:
            break
    return samples


def keep(contender: Contender, data: Data, size: int) -> Samples:
    """Random rows that a cache folder has from an earlier opening."""
    samples: Samples = {}
    if not hasattr(contender, "cache_dir"):
        raise Cannot("it keeps nothing of what it read in a local folder")
    rows = _rows(data)
    with tempfile.TemporaryDirectory() as folder:
        contender.cache_dir = folder
        for turn in range(3):
            contender.open()
            kept = samples if turn else {}
            same(timed(kept, "gather from a cache folder", lambda: contender.gather(rows), Meter(contender)), data.at(rows))
            contender.close()
    return samples


def _rows(data: Data) -> Any:
    return np.random.default_rng(4).integers(0, data.rows, min(ROWS, data.rows))


def _opened(contender: Contender, data: Data) -> None:
    contender.open()
    assert contender.count() == data.rows


def limits(data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """The distance that is set, and what the server alone can do without it."""
    far, row = FAR, data.row_bytes
    server = slow_s3.alone()
    trip = {"one round trip": 1e3 * far.latency_s}
    return {"append": {"the set bandwidth of all connections": far.total / row / 1e3,
                       "the server alone, PUTs of 1 MB": server["PUT of 1 MB, per s"] * 1e6 / row / 1e3},
            "scan": {"the set bandwidth of one connection": far.connection / 1e6, "and of all of them": far.total / 1e6,
                     "the server alone, GETs of 8 MB": server["GET of 8 MB, MB/s"]},
            "gather cold": {"the server alone, as many GETs of 24 KB as rows": 1e3 * ROWS / server["GET of 24 KB, per s"]},
            "commit of 256 rows": trip, "open": trip, "one key cold": trip}
