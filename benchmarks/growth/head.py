"""Opening head of a store of 10^8 rows and 10^5 commits: `python -m benchmarks.growth.head [--commits N] [--rows N]`.

Its log is written record by record through the format's own words, without the rows: opening reads none. A hundred thousand
real commits make the same records (`python -m benchmarks growth commits --most 1e5`), in a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import zstore
from benchmarks.growth.measure import counted, in_process
from zstore.commits.log import Log
from zstore.commits.projection import project
from zstore.format.extents import Extents
from zstore.format.layout import commit_name
from zstore.format.record import Record
from zstore.storage import open_storage


def make(url: str, commits: int, rows: int, extents: int) -> None:
    """The log of such a store; its rows lie in so many extents, and its index is that of the first commit."""
    with zstore.Writer(url, codec="raw", commit_every_s=None) as writer:
        writer.append(np.arange(16), np.ones((16, 32), np.float16))
    log = Log(open_storage(url))
    first = head = log.head()
    each = rows // extents
    for version in range(head.version + 1, commits):
        upto = max(version * extents // commits, 1)
        head = _next(head, version, first, Extents((n * (each + 1), each) for n in range(upto)) if version > commits - 3 else
                     first.extents)
        Path(url, commit_name(version)).write_bytes(head.to_bytes())
    project(Log(open_storage(url)), f"{0:020d}")


def _next(head: Record, version: int, first: Record, extents: Extents) -> Record:
    return replace(head, version=version, commit_id=f"{version:032x}", parent=head.commit_id, extents=extents, tail=None,
                   length=max(head.length, extents.end), index=first.index * 20, new_rows=0, definition=None, schema=0)


def main() -> None:
    """Make it, and open it in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=10**5)
    parser.add_argument("--rows", type=int, default=10**8)
    parser.add_argument("--extents", type=int, default=1)
    parser.add_argument("--dir", metavar="FOLDER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zstore-head-", dir=args.dir) as folder:
        url = str(Path(folder) / "head.zarr")
        make(url, args.commits, args.rows, args.extents)
        found = in_process("open_probe", {"url": url})
        with counted() as count, zstore.Reader(url) as reader:
            found |= {"requests": count[0], "version": reader.version, "rows": len(reader)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
