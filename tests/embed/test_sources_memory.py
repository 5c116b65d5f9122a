"""A source far larger than the memory that reading it takes. Each reads in a process of its own, whose peak is its own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

ALLOWED = 96 << 20          # bytes that reading may add
SIZE = 512 << 20            # of the source, unpacked

READ = """
    import resource, sys
    from zstore.embed.sources import read
    from zstore.embed.check import checked
    try:
        import pyarrow.parquet                  # what the packages themselves take is not counted
    except ImportError:
        pass
    def peak():
        try:                                    # getrusage tells the parent's peak too, until the child outgrows it
            with open("/proc/self/status") as file:
                return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        except FileNotFoundError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before, count, failures, size = peak(), 0, 0, 0
    for item in checked(read(sys.argv[1])):
        count += 1
        failures += not hasattr(item, "text")
        size += len(getattr(item, "text", ""))
    print(count, failures, size, peak() - before)
"""


def grown(children: Any, path: Path) -> tuple[int, int, int]:
    count, failures, size, growth = map(int, children.run(READ, path).split())
    assert growth < ALLOWED, f"{growth >> 20} MiB"
    return count, failures, size


def test_lines_are_read_one_by_one(children: Any, tmp_path: Path) -> None:
    text = "some words of a text, " * 1500
    line = json.dumps({"id": 1, "text": text}).encode() + b"\n"
    rows = SIZE // len(line)
    with gzip.open(tmp_path / "docs.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(rows):
            file.write(line)
    assert grown(children, tmp_path / "docs.jsonl.gz") == (rows, 0, rows * len(text))


def test_a_line_without_an_end_is_one_failure(children: Any, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "docs.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"id": 1, "text": "good"}\n{"id": 2, "text": "')
        for _ in range(SIZE >> 20):
            file.write(bytes(1 << 20))
        file.write(b'"}\n{"id": 3, "text": "good"}\n')
    assert grown(children, tmp_path / "docs.jsonl.gz") == (3, 1, 8)


def test_a_row_group_is_not_read_whole(children: Any, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = 8192
    texts = pa.array([f"{n:06d}" * 6000 for n in range(rows)])
    pq.write_table(pa.table({"id": range(rows), "text": texts}), tmp_path / "docs.parquet", row_group_size=rows,
                   use_dictionary=False, compression="none", write_batch_size=32)    # pages of 1 MiB
    assert (tmp_path / "docs.parquet").stat().st_size > 280 << 20
    assert grown(children, tmp_path / "docs.parquet") == (rows, 0, rows * 36_000)
