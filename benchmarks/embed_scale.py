"""``zstore.embed`` at size, with the hashing encoder: what memory a long run takes, and ten million rows by four processes.

    python -m benchmarks embed_scale                                  about ten minutes and 3 GB of disk on two cores
    python -m benchmarks embed_scale --items 3000000 --rows 0         the first part alone, longer

First, ``--items`` documents in one process, whose memory is read from the system as it goes: ``anonymous`` is what it took for
itself, ``files`` are pages of files, which the system may take back. Then ``--rows`` documents by ``--workers`` processes into
one store: every id must be there once, with its own vector, and a second run must find nothing to do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from zstore.embed import embed
from zstore.embed.hashing import HashingEncoder

DIM = 64
MODEL = f"hash:{DIM}"
Figures = tuple[int, int, int]      # items, bytes of anonymous memory, bytes of files


def documents(count: int) -> Iterator[tuple[str, str]]:
    """Each text once."""
    return ((f"doc-{n}", text(n)) for n in range(count))


def text(n: int) -> str:
    return f"document {n} of a large corpus, with the words {n * 7919 % 104_729} and {n % 613}"


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: its own, and those of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024, int(status["RssFile"].split()[0]) * 1024


def watched(count: int, url: str, outbox: Any) -> None:
    """In a process of its own: embed, and tell the memory now and then."""
    found: list[Figures] = []

    def note(figures: dict[str, Any]) -> None:
        found.append((figures["done"], *resident()))

    report = embed(documents(count), url, model=MODEL, progress=note)
    outbox.put((found, report.seconds))


def memory(count: int, url: str) -> dict[str, Any]:
    """The memory of one run at each tenth of it, and bytes an item between the first tenth and the end."""
    context = multiprocessing.get_context("spawn")
    outbox = context.SimpleQueue()
    process = context.Process(target=watched, args=(count, url, outbox))
    process.start()
    found, seconds = outbox.get()
    process.join()
    check(url, count)
    tenths = [next(figures for figures in found if figures[0] >= part * count // 10) for part in range(1, 11)]
    own = [max(bytes_ for done, bytes_, _ in found if low[0] <= done <= high[0])
           for low, high in pairwise(tenths)]
    return {"items": count, "seconds": seconds, "tenths": tenths, "bytes_per_item": (own[-1] - own[0]) / (count * 0.8),
            "most": max(one + other for _, one, other in found)}


def together(count: int, workers: int, url: str) -> dict[str, Any]:
    """Several processes, one store; and once more."""
    report = embed(documents(count), url, model=MODEL, workers=workers)
    assert (report.embedded, report.failed, report.copied) == (count, 0, 0), report
    check(url, count)
    again = embed(documents(count), url, model=MODEL, workers=workers)
    assert (again.embedded, again.skipped) == (0, count), again
    return {"rows": count, "workers": workers, "seconds": report.seconds, "again": again.seconds, "commits": report.commits}


def check(url: str, count: int) -> None:
    """Every document once; of each part of the store a row's vector is made anew."""
    encoder, there = HashingEncoder(DIM), np.zeros(count, np.bool_)
    with zstore.Reader(url) as reader:
        assert len(reader) == count, f"{len(reader):,} rows of {count:,} documents"
        for part in reader.batches(65_536):
            numbers = np.array([int(identity[4:]) for identity in part.ids.tolist()])
            there[numbers] = True
            middle = len(part) // 2
            (wanted,) = encoder.encode(encoder.tokenize([text(int(numbers[middle]))]))
            assert np.array_equal(part.vectors[middle], wanted), f"doc-{numbers[middle]} has another's vector"
    assert there.all(), f"{count - int(there.sum()):,} documents are missing"


def main(argv: list[str]) -> int:
    """The exit status."""
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="embed-scale-", dir=args.folder) as folder:
        if args.items:
            print(memory_text(memory(args.items, f"{folder}/memory.zarr")), flush=True)
        if args.rows:
            started = time.perf_counter()
            found = together(args.rows, args.workers, f"{folder}/together.zarr")
            print(f"{found['rows']:,} rows of {DIM} dimensions by {found['workers']} processes: {found['seconds']:,.0f} s, "
                  f"{found['rows'] / found['seconds']:,.0f} a second, {found['commits']} commits, every one once; again, "
                  f"nothing to do: {found['again']:,.0f} s; with the checks {time.perf_counter() - started:,.0f} s")
    return 0


def memory_text(found: dict[str, Any]) -> str:
    """A table for people."""
    lines = [f"{found['items']:,} items in {found['seconds']:,.0f} s, {found['most'] / 2**20:,.0f} MiB at most",
             f"{'items':>12} {'anonymous':>10} {'files':>10}"]
    lines += [f"{done:12,} {own / 2**20:6,.0f} MiB {files / 2**20:6,.0f} MiB" for done, own, files in found["tenths"]]
    lines.append(f"anonymous memory grows by {found['bytes_per_item']:.1f} bytes an item")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m benchmarks embed_scale", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--items", type=int, default=1_000_000)
    made.add_argument("--rows", type=int, default=10_000_000)
    made.add_argument("--workers", type=int, default=4)
    made.add_argument("--folder", help="where the stores are for a while")
    return made
