"""What a very large store on S3 comes to: `python -m benchmarks.arithmetic [--rows 1e10] [--dim 384] [--writers 256]`.

Objects, bytes, requests, commit time and money, from the layout's own functions and from requests that are counted in this run
against a local S3 server. Prices are list prices of S3 Standard; a request is taken to last 30 ms.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zstore.format.checksum import MAX_JSON_BYTES
from zstore.format.extents import Extents
from zstore.format.record import Record, SessionInfo
from zstore.format.run import END_BYTES
from zstore.format.schema import MAX_SHARDS, Schema, default_rows_per_shard, make_field
from zstore.writing.entries import SPILL_ROWS
from zstore.writing.merging import largest_distant

ROUND_TRIP_S = 0.030
PUT_USD, GET_USD, GB_MONTH_USD = 0.005 / 1000, 0.0004 / 1000, 0.023       # S3 Standard, list prices
PUTS_PER_PREFIX_S = 3500
RUN_NAME = "0" * 20 + "-" + "0" * 32
ID_BYTES = 12           # of a string id as it is stored


@dataclass(frozen=True)
class Requests:
    """Of one commit of a member whose shard is not full, and of one open; ``in_a_row``: how many wait for one another."""

    commit_puts: int
    commit_gets: int
    commit_in_a_row: float
    open: int


def schema_of(dim: int, dtype: str) -> Schema:
    """A store of string ids with the default geometry."""
    per_shard = default_rows_per_shard(np.dtype(dtype).itemsize * dim)
    fields = [make_field("vectors", dtype, (dim,), per_shard), make_field("ids", "string", (), per_shard),
              make_field("epoch", "int32", (), per_shard)]
    return Schema("0" * 32, per_shard, "lossless", {field.name: field for field in fields})


def record_bytes(runs: int, extents: int) -> int:
    """Of a commit record that names so much."""
    who = SessionInfo(0, "0" * 32, "0" * 32, "a-host-name", 12345, 0, 1.7e9)
    pairs = Extents([(10**10 + 10**6 * n, 999_999) for n in range(extents)])
    return len(Record("0" * 32, 10**6, "0" * 32, "0" * 32, who, 1.7e9, 0, pairs, 10**11, 10**6, None,
                      (RUN_NAME,) * runs).to_bytes())


def measured() -> Requests | None:
    """Requests of a commit and of an open, counted against a local S3 server; None where there is none to start."""
    try:
        from zstore.testing.s3 import Server
    except ImportError:
        return None
    import zstore
    from zstore.storage.s3 import S3Backend

    spans: list[tuple[float, float]] = []
    plain: Any = S3Backend._do

    def do(self: S3Backend, *arguments: Any, **options: Any) -> Any:
        start = time.monotonic()
        try:
            return plain(self, *arguments, **options)
        finally:
            spans.append((start, time.monotonic()))

    vectors, patched = np.ones((256, 32), np.float32), S3Backend
    with Server() as server:
        url, how = server.url("arithmetic"), server.options
        with zstore.Writer(url, commit_every_s=None, storage_options=how) as writer:
            for number in range(4):
                writer.append([f"doc-{n}" for n in range(256)], vectors, epoch=number)
                if number < 3:
                    writer.commit()
            server.requests()
            try:
                setattr(patched, "_do", do)     # noqa: B010
                writer.commit()
            finally:
                setattr(patched, "_do", plain)  # noqa: B010
            commit = server.requests()
            zstore.Reader(url, storage_options=how).close()
            opened = len(server.requests())
    puts = sum(request.startswith("PUT") for request in commit)
    return Requests(puts, len(commit) - puts, in_a_row(spans), opened)


def in_a_row(spans: list[tuple[float, float]]) -> int:
    """The longest chain of requests of which each began after the one before had ended."""
    chain, free = 0, -math.inf
    for start, end in sorted(spans, key=lambda span: span[1]):
        if start >= free:
            chain, free = chain + 1, end
    return chain


def figures(rows: int, dim: int, dtype: str, writers: int, every_s: float, rate: float, requests: Requests) -> dict[str, Any]:
    """The numbers of one store. ``rate``: rows a second of one writer; a commit of each every ``every_s`` seconds."""
    schema = schema_of(dim, dtype)
    shards, hours = math.ceil(rows / schema.rows_per_shard), rows / (rate * writers) / 3600
    commits = math.ceil(hours * 3600 / every_s) * writers
    entries = min(max(rate * every_s, 1), SPILL_ROWS)
    runs = math.ceil(rows / largest_distant(int(entries)))
    # Shards are objects of each field; a commit rewrites the unfilled one, which leaves no object behind.
    objects = {"shards": shards * len(schema.fields), "claims": shards, "records": commits, "runs": commits + runs}
    bytes_ = rows * (schema.vectors.row_bytes + ID_BYTES + 4 + 24)
    puts = commits * requests.commit_puts + shards * (len(schema.fields) + 1)
    gets = commits * requests.commit_gets
    return {
        "store": f"{rows:.0e} x {dim} {dtype}, {writers} writers", "hours": hours, "rows_per_shard": schema.rows_per_shard,
        "shards": shards, "objects": sum(objects.values()), "objects_by_kind": objects, "tb": bytes_ / 1e12, "commits": commits,
        "puts": puts, "gets": gets, "puts_per_s": puts / (hours * 3600), "usd_puts": puts * PUT_USD, "usd_gets": gets * GET_USD,
        "usd_month": bytes_ / 1e9 * GB_MONTH_USD,
        "commit_ms_alone": 1e3 * ROUND_TRIP_S * requests.commit_in_a_row, "log_commits_per_s_at_most": 1 / (2 * ROUND_TRIP_S),
        "log_commits_per_s_wanted": writers / every_s, "runs_named": runs,
        "record_kb": record_bytes(min(runs, 10**5), writers) / 1e3, "log_tb": commits * record_bytes(
            min(runs // 2, 10**5), writers) / 1e12, "open_requests": requests.open, "run_ends_mb": runs * END_BYTES / 1e6,
        "shards_of_a_field_at_most": MAX_SHARDS}


def limits(f: dict[str, Any]) -> list[tuple[float, str]]:
    """How much of each limit the store uses, the most used first."""
    return sorted([
        (f["log_commits_per_s_wanted"] / f["log_commits_per_s_at_most"], "commits a second on the log: a record is a look at "
         "head and a create, one after another for the whole session"),
        (f["puts_per_s"] / PUTS_PER_PREFIX_S, f"PUTs a second against the {PUTS_PER_PREFIX_S:,} of one prefix"),
        (f["shards"] / f["shards_of_a_field_at_most"], "shards of a field"),
        (f["record_kb"] / (MAX_JSON_BYTES / 1e3), "bytes of a record, most of it the names of index runs, against 64 MiB"),
    ], reverse=True)


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, dict) else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    """Print the numbers of a float32 and of a float16 store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e10)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--writers", type=int, default=256)
    parser.add_argument("--commit-every", type=float, default=60.0, metavar="S")
    parser.add_argument("--rate", type=float, default=1000.0, metavar="ROWS", help="rows a second of one writer")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    requests = measured()
    if requests is None:
        parser.error("no local S3 server: pip install 'moto[server]'")
    stores = [figures(int(args.rows), args.dim, dtype, args.writers, args.commit_every, args.rate, requests)
              for dtype in ("float32", "float16")]
    if args.json:
        print(json.dumps({"requests": asdict(requests), "stores": stores}, indent=1))
        return
    print(f"requests: a commit {requests.commit_puts} PUT and {requests.commit_gets} GET or HEAD, {requests.commit_in_a_row} "
          f"of them one after another; an open {requests.open}")
    for f in stores:
        print(f"\n{f['store']}, {args.rate:,.0f} rows/s each, a commit every {args.commit_every:.0f} s: {f['hours']:.1f} hours")
        for name, value in f.items():
            if name not in ("store", "hours"):
                print(f"  {name:<28}{_shown(value)}")
        print("  limits, the most used first:")
        for used, what in limits(f):
            print(f"    {used:8.2%}  {what}")


if __name__ == "__main__":
    main()
