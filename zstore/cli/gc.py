"""Remove what crashed, fenced and interrupted writers left and no version names. Nothing that a version shows goes: cut,
deleted and superseded rows are freed by `zstore compact`. Safe while the store is being written and read.
"""

from __future__ import annotations

import argparse

import zstore
from zstore.cli import output, stores

EXAMPLES = """\
  zstore gc runs/a.zarr --dry-run
  zstore gc runs/a.zarr"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("--dry-run", action="store_true", help="name what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    names = zstore.gc(args.url, dry_run=args.dry_run, storage_options=stores.storage_options(args))
    output.emit(args, {"objects": names, "removed": not args.dry_run}, names)
    output.say(f"{len(names):,} {'object' if len(names) == 1 else 'objects'} {'would be ' if args.dry_run else ''}removed")
    return output.OK
