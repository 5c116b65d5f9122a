"""What this machine can do at best, in bytes per second: the floor under every contender, measured in the same run."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.data import BATCH, Data

SIZE = 64 << 20


def best(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of some runs, seconds: a limit is what was possible once."""
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def memcpy() -> float:
    """Bytes copied per second from buffer to buffer, one core, neither fresh."""
    source, target = np.ones(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    return SIZE / best(lambda: np.copyto(target, source))


def bandwidth() -> float:
    """Bytes read per second, one core: the fold of `data.fold` over memory that was touched before."""
    words = np.ones(SIZE // 8, np.uint64)
    return SIZE / best(lambda: np.bitwise_xor.reduce(words))


def codec(data: Data) -> tuple[float, float]:
    """Bytes per second (in, out) of blosc lz4 bitshuffle on chunks of 16 rows of this data, one core."""
    from numcodecs import blosc
    itemsize = data.block.dtype.itemsize
    chunks = [np.ascontiguousarray(data.block[at:at + 16]).view(np.uint8) for at in range(0, data.count - 15, 16)]
    blosc.use_threads = False

    def encode() -> list[bytes]:
        return [blosc.compress(chunk, b"lz4", 5, 2, 0, itemsize) for chunk in chunks]
    encoded, size = encode(), sum(chunk.nbytes for chunk in chunks)
    out = np.empty(chunks[0].nbytes, np.uint8)
    return size / best(encode, 3), size / best(lambda: [blosc.decompress(chunk, out) for chunk in encoded], 3)


def checksum() -> float:
    """Bytes per second of crc32c, one core."""
    from crc32c import crc32c
    block = np.ones(SIZE, np.uint8)
    return SIZE / best(lambda: crc32c(block.data))


def write_sync(folder: Path, data: Data, every: int) -> float:
    """Bytes per second of writing the rows in batches to one file, with fdatasync every so many batches."""
    path, batches = folder / "limit", -(-data.rows // BATCH)
    block = np.ascontiguousarray(data.block[:BATCH]).view(np.uint8).reshape(-1).data
    try:
        begin = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for number in range(1, batches + 1):
                file.write(block)
                if number % every == 0 or number == batches:
                    os.fdatasync(file.fileno())
        return batches * len(block) / (time.perf_counter() - begin)
    finally:
        path.unlink(missing_ok=True)


def msync(folder: Path, size: int, times: int = 20) -> float:
    """Seconds that msync takes after ``size`` bytes of a mapped file changed, median."""
    path, took = folder / "limit", []
    try:
        with open(path, "w+b") as file:
            file.truncate(size * times)
            with mmap.mmap(file.fileno(), size * times) as mapping:
                page = b"\1" * size
                for number in range(times):
                    mapping[number * size:(number + 1) * size] = page
                    begin = time.perf_counter()
                    mapping.flush()
                    took.append(time.perf_counter() - begin)
        return float(np.median(took))
    finally:
        path.unlink(missing_ok=True)


def read_file(folder: Path, size: int = 4 * SIZE) -> float:
    """Bytes per second read from the disk in order, its pages dropped before."""
    from benchmarks.process import drop_pages
    path = folder / "limit"
    try:
        with open(path, "wb") as file:
            for _ in range(size // SIZE):
                file.write(os.urandom(1 << 20) * (SIZE >> 20))
        drop_pages(str(path))
        begin = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass
        return size / (time.perf_counter() - begin)
    finally:
        path.unlink(missing_ok=True)
