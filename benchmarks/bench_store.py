"""Append, gather, keys, open and memory beside np.memmap and LMDB, in one run.

    python benchmarks/bench_store.py [--rows 500000] [--dim 384] [--rounds 3] [--dir FOLDER] [--json]

Batches of 256 rows with string ids, made durable every 50 batches. Every contender runs in a fresh process, in turn, round
after round; the table gives medians and the ratio to np.memmap (append, gather) or LMDB (keys) of the same run. Durability:
np.memmap flushes (msync) each 50 batches, zstore commits (fsync of data, names and record), LMDB commits a synced
transaction. Ratios count; the times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, EVERY, BLOCK, EPOCHS, SEED = 256, 50, 20_480, 5, 7
Result = dict[str, Any]


class Data:
    """The rows: unit vectors from a fixed seed, ids "doc-0000000" that come again in each of five epochs."""

    def __init__(self, rows: int, dim: int) -> None:
        block = np.random.default_rng(SEED).standard_normal((BLOCK + BATCH, dim), np.float32)
        self.block = block / np.linalg.norm(block, axis=1, keepdims=True)
        self.rows, self.dim, self.per_epoch = rows, dim, -(-rows // EPOCHS // BATCH) * BATCH

    def batches(self) -> list[tuple[list[str], int, int, int]]:
        """(ids, epoch, start, stop) of every batch; made before anything is timed."""
        return [([f"doc-{row % self.per_epoch:07d}" for row in range(start, min(start + BATCH, self.rows))],
                 start // self.per_epoch, start, min(start + BATCH, self.rows)) for start in range(0, self.rows, BATCH)]

    def vectors(self, start: int, stop: int) -> Any:
        at = start % BLOCK
        return self.block[at:at + stop - start]

    def at(self, rows: Any) -> Any:
        """The vectors of these row numbers, by the rule that made them."""
        starts = rows // BATCH * BATCH
        return self.block[starts % BLOCK + rows - starts]


def append_memmap(data: Data, folder: Path) -> Result:
    batches = data.batches()
    store = np.memmap(folder / "memmap", np.float32, "w+", shape=(data.rows, data.dim))
    begin = time.perf_counter()
    for number, (_, _, start, stop) in enumerate(batches, 1):
        store[start:stop] = data.vectors(start, stop)
        if number % EVERY == 0:
            store.flush()
    store.flush()
    return {"rows_s": data.rows / (time.perf_counter() - begin), "bytes": (folder / "memmap").stat().st_size}


def append_zstore(codec: str) -> Callable[[Data, Path], Result]:
    def run(data: Data, folder: Path) -> Result:
        import zstore
        batches, url = data.batches(), folder / f"{codec}.zarr"
        warm_up(folder / "warm.zarr", data)
        before, appends, commits = peak_bytes(), [], []
        begin = time.perf_counter()
        with zstore.Writer(url, codec=codec) as writer:
            for number, (ids, epoch, start, stop) in enumerate(batches, 1):
                tick = time.perf_counter()
                writer.append(ids, data.vectors(start, stop), epoch=epoch)
                appends.append(time.perf_counter() - tick)
                if number % EVERY == 0:
                    tick = time.perf_counter()
                    writer.commit()
                    commits.append(time.perf_counter() - tick)
        took = time.perf_counter() - begin
        shard = zstore.Reader(url)
        rows = json.loads((url / "vectors" / "zarr.json").read_text())["chunk_grid"]["configuration"]["chunk_shape"][0]
        assert len(shard) == data.rows
        return {"rows_s": data.rows / took, "bytes": sum(f.stat().st_size for f in url.rglob("*") if f.is_file()),
                "append_ms": quantiles(appends), "commit_ms": quantiles(commits),
                "memory_shards": (peak_bytes() - before) / (rows * data.dim * 4)}
    return run


def warm_up(url: Path, data: Data) -> None:
    """Import everything, so that the memory and time of the run are the run's."""
    import zstore
    with zstore.Writer(url) as writer:
        writer.append(["a"], data.block[:1])
    shutil.rmtree(url)


def append_lmdb(data: Data, folder: Path) -> Result:
    import lmdb
    batches = data.batches()
    env = lmdb.open(str(folder / "lmdb"), map_size=2**34)
    begin = time.perf_counter()
    for first in range(0, len(batches), EVERY):
        items = [(f"{key}:{epoch}".encode(), row.tobytes()) for ids, epoch, start, stop in batches[first:first + EVERY]
                 for key, row in zip(ids, data.vectors(start, stop), strict=True)]
        with env.begin(write=True) as txn:
            txn.cursor().putmulti(items)
    return {"rows_s": data.rows / (time.perf_counter() - begin), "bytes": (folder / "lmdb" / "data.mdb").stat().st_size}


def gather(data: Data, folder: Path) -> Result:
    """10,000 random rows: np.memmap[...], raw, lossless once warm. In turn, in one process: they share its caches."""
    import zstore
    rng = np.random.default_rng(1)
    memmap = np.memmap(folder / "memmap", np.float32, "r", shape=(data.rows, data.dim))
    raw, lossless = zstore.Reader(folder / "raw.zarr"), zstore.Reader(folder / "lossless.zarr")
    contenders = {"np.memmap": memmap.__getitem__, "raw": raw.__getitem__, "lossless, warm": lossless.__getitem__}
    cold: Result = {}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    everything = rng.permutation(data.rows)
    for name, take in contenders.items():
        begin = time.perf_counter()
        assert np.array_equal(take(everything[:10_000]), data.at(everything[:10_000])), name
        cold[name] = 10_000 / (time.perf_counter() - begin)
        for at in range(0, data.rows, 50_000):
            take(everything[at:at + 50_000])
    for _ in range(15):
        rows = rng.integers(0, data.rows, 10_000)
        for name, take in contenders.items():
            begin = time.perf_counter()
            got = take(rows)
            times[name].append(time.perf_counter() - begin)
            assert np.array_equal(got, data.at(rows)), name
    return {"rows_s": {name: 10_000 / statistics.median(t) for name, t in times.items()}, "first_rows_s": cold}


def keys(data: Data, folder: Path) -> Result:
    """The vectors of 10,000 random string keys at one epoch, as one matrix; and one key at a time."""
    import lmdb

    import zstore
    rng = np.random.default_rng(2)
    env = lmdb.open(str(folder / "lmdb"), readonly=True, map_size=2**34)
    reader = zstore.Reader(folder / "raw.zarr")
    names = [f"doc-{row:07d}" for row in range(min(data.per_epoch, data.rows))]

    def from_lmdb(ids: list[str], epoch: int) -> Any:
        out = np.empty((len(ids), data.dim), np.float32)
        with env.begin(buffers=True) as txn:
            for place, key in enumerate(ids):
                out[place] = np.frombuffer(txn.get(f"{key}:{epoch}".encode()), np.float32)
        return out

    def from_zstore(ids: list[str], epoch: int) -> Any:
        return reader.get(ids, epoch=epoch)

    contenders = {"LMDB": from_lmdb, "raw": from_zstore}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(20):
        chosen = rng.integers(0, len(names), 10_000)
        ids, epoch = [names[i] for i in chosen], turn % ((data.rows - 1) // data.per_epoch + 1)
        known = chosen + epoch * data.per_epoch < data.rows
        ids = [i for i, k in zip(ids, known.tolist(), strict=True) if k]
        want = data.at(chosen[known] + epoch * data.per_epoch)
        for name, ask in contenders.items():
            begin = time.perf_counter()
            got = ask(ids, epoch)
            if turn >= 5:
                times[name].append((time.perf_counter() - begin) / len(ids))
            assert np.array_equal(got, want), name
    ones = []
    for i in rng.integers(0, len(names), 3_000).tolist():
        begin = time.perf_counter()
        reader.get(names[i], epoch=0)
        ones.append(time.perf_counter() - begin)
    return {"rows_s": {name: 1 / statistics.median(t) for name, t in times.items()}, "one_key_us": quantiles(ones, 1e6)}


def opening(data: Data, folder: Path) -> Result:
    """Open a store of 10 M rows in a process that has imported zstore; and the import itself, in fresh processes."""
    import zstore
    url = folder / "ten_million.zarr"
    with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
        for start in range(0, 10_000_000, 100_000):
            writer.append(np.arange(start, start + 100_000), np.zeros((100_000, 4), np.float16))
            if start % 1_000_000 == 0:
                writer.commit()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        assert len(zstore.Reader(url)) == 10_000_000
        times.append(time.perf_counter() - begin)
    imports = []
    for _ in range(7):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import zstore; zstore.Reader; zstore.Writer"], check=True)
        both = time.perf_counter() - begin
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        imports.append(both - (time.perf_counter() - begin))
    shutil.rmtree(url)
    return {"open_ms": quantiles(times), "import_s": statistics.median(imports)}


def quantiles(values: list[float], unit: float = 1e3) -> Result:
    p50, p99, most = np.percentile(np.array(values) * unit, [50, 99, 100]).tolist()
    return {"p50": p50, "p99": p99, "max": most}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


APPENDS: dict[str, Callable[[Data, Path], Result]] = {
    "np.memmap": append_memmap, "raw": append_zstore("raw"), "lossless": append_zstore("lossless"), "LMDB": append_lmdb}
PARTS: dict[str, Callable[[Data, Path], Result]] = {**APPENDS, "gather": gather, "keys": keys, "open": opening}


def in_fresh_process(part: str, args: argparse.Namespace, folder: Path) -> Result:
    command = [sys.executable, __file__, "--rows", str(args.rows), "--dim", str(args.dim), "--dir", str(folder), "--part", part]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200)
    return dict(json.loads(done.stdout))


def clear(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def run(args: argparse.Namespace, folder: Path) -> Result:
    found: dict[str, list[Result]] = {name: [] for name in APPENDS}
    for _ in range(args.rounds):
        clear(folder)
        for name in APPENDS:
            found[name].append(in_fresh_process(name, args, folder))
    return {"appends": found, **{part: in_fresh_process(part, args, folder) for part in ("gather", "keys", "open")}}


def report(result: Result) -> None:
    base = [r["rows_s"] for r in result["appends"]["np.memmap"]]
    print(f"\n{'append':16}{'k rows/s':>10}{'/ memmap':>10}{'spread':>14}{'MB':>8}{'append p99':>12}{'commit p50':>12}"
          f"{'memory':>13}")
    for name, rounds in result["appends"].items():
        ratios = sorted(r["rows_s"] / b for r, b in zip(rounds, base, strict=True))
        median = statistics.median(r["rows_s"] for r in rounds)
        last, extra = rounds[-1], ""
        if "append_ms" in last:
            extra = (f"{statistics.median(r['append_ms']['p99'] for r in rounds):9.3f} ms"
                     f"{statistics.median(r['commit_ms']['p50'] for r in rounds):9.1f} ms"
                     f"{max(r['memory_shards'] for r in rounds):6.2f} shards")
        print(f"{name:16}{median / 1e3:10.0f}{statistics.median(ratios):10.2f}{ratios[0]:7.2f}-{ratios[-1]:.2f}"
              f"{last['bytes'] / 1e6:10.0f}{extra}")
    for title, part, against in (("gather, 10,000 random rows", "gather", "np.memmap"),
                                 ("keys, 10,000 random strings", "keys", "LMDB")):
        print(f"\n{title:30}{'k rows/s':>10}  / {against}")
        for name, rows_s in result[part]["rows_s"].items():
            print(f"{name:30}{rows_s / 1e3:10.0f}{rows_s / result[part]['rows_s'][against]:8.2f}")
    print(f"\nfirst gather, before anything is decoded: "
          f"{', '.join(f'{n} {r / 1e3:.0f} k rows/s' for n, r in result['gather']['first_rows_s'].items())}")
    one, opens = result["keys"]["one_key_us"], result["open"]["open_ms"]
    print(f"one key: p50 {one['p50']:.1f} us, p99 {one['p99']:.1f} us")
    print(f"open 10 M rows: p50 {opens['p50']:.1f} ms, max {opens['max']:.1f} ms; "
          f"import zstore with Reader and Writer: {result['open']['import_s']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="a folder on the disk to be measured (default: a temporary one here)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](Data(args.rows, args.dim), args.dir)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=args.dir or Path.cwd()))
    try:
        result = run(args, folder)
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.rows:,} x {args.dim} float32, batches of {BATCH}, durable every {EVERY}; {os.cpu_count()} cores, "
          f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    report(result)


if __name__ == "__main__":
    main()
