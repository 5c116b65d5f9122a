"""Make a new store of the rows that count. What was cut, deleted or superseded is in no byte of it.

SRC may be written meanwhile. DST is no store to anybody until it is whole. Ended early, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import zstore
from zstore.cli import output, stores

EXAMPLES = """\
  zstore compact runs/a.zarr archive/a.zarr
  zstore compact runs/a.zarr archive/a.zarr --codec small --dtype bfloat16
  zstore compact runs/a.zarr s3://bucket/a.zarr --order id --dst-option anon=false"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="the store to read: a path, or any fsspec URL")
    parser.add_argument("dst", metavar="DST", help="where to make the new one; nothing may be there")
    parser.add_argument("--codec", choices=("lossless", "small", "raw"), help="the new store's codec (default: SRC's)")
    parser.add_argument("--dtype", metavar="TYPE", help="the vectors' type, such as bfloat16 (default: SRC's)")
    parser.add_argument("--order", choices=("epoch", "id"),
                        help="epoch: by epoch, then id; id: by id, then epoch (default: as they are)")
    parser.add_argument("--only-writer", action="store_true", help="nobody else writes at DST, whose storage can't tell")
    stores.add_options(parser, "--src-option", "SRC")
    stores.add_options(parser, "--dst-option", "DST")
    parser.add_argument("--progress", action="store_true", help="show progress even where stderr is no terminal")


def run(args: argparse.Namespace) -> int:
    args.options = [*args.src_option, *args.dst_option]     # whose secrets no message may show
    with _progress(args.progress or sys.stderr.isatty()) as progress:
        commit = zstore.compact(args.src, args.dst, codec=args.codec, dtype=args.dtype, order=args.order,
                                only_writer=args.only_writer, src_options=dict(args.src_option) or None,
                                dst_options=dict(args.dst_option) or None, progress=progress)
    facts = {"store_id": commit.store_id, "version": commit.version, "commit_id": commit.commit_id, "rows": commit.rows}
    output.emit(args, facts, [f"{args.dst}: {commit.rows:,} rows in one extent"])
    return output.OK


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr that is told how many rows are there, of how many."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" rows", unit_scale=True, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
        yield told
