"""Hide every row of some sample ids, at once and for good: no rollback brings them back. Their bytes, and the rows of older
versions, stay until `zstore compact` writes a new store. Rows appended under these ids later count again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import zstore
from zstore.cli import output, stores
from zstore.cli.output import Usage
from zstore.maintenance.delete import hide

EXAMPLES = """\
  zstore delete runs/a.zarr doc-17 doc-3
  zstore delete runs/a.zarr doc-17 --epoch 2
  zstore delete runs/a.zarr --ids-from withdrawn.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("ids", nargs="*", metavar="ID", help="sample ids, of the store's kind: integers or strings")
    parser.add_argument("--ids-from", metavar="FILE", help="read ids from FILE too, one per line; - is stdin")
    parser.add_argument("--epoch", type=int, metavar="N", help="only the rows of this epoch (all epochs)")
    stores.add_only_writer(parser)


def run(args: argparse.Namespace) -> int:
    words = [*args.ids, *(_lines_of(args.ids_from) if args.ids_from else ())]
    if not words:
        raise Usage("no ids are given: name them, or a file of them with --ids-from")
    with zstore.Reader(args.url, storage_options=stores.storage_options(args)) as store:
        ids = stores.parse_ids(words, store)
    commit, hidden, _ = hide(args.url, ids, args.epoch, stores.storage_options(args), args.only_writer)
    facts = {"version": commit.version, "commit_id": commit.commit_id, "rows": commit.rows, "deleted": hidden,
             "ids": len(words), "mark": commit.mark}
    output.emit(args, facts, [
        f"version {commit.version} is head: {commit.rows:,} rows; {hidden:,} {'row' if hidden == 1 else 'rows'} of "
        f"{len(words):,} {'id' if len(words) == 1 else 'ids'} deleted"])
    if hidden:
        output.say("older versions still show deleted rows, and their bytes stay, until `zstore compact` writes a new store")
    return output.OK


def _lines_of(place: str) -> Iterator[str]:
    """The lines that are not empty, as they stand."""
    try:
        if place == "-":
            text = sys.stdin.read()
        else:
            with open(place, encoding="utf-8") as file:
                text = file.read()
    except UnicodeDecodeError:
        raise Usage(f"--ids-from takes a text in UTF-8, and {'stdin' if place == '-' else place} is none") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"--ids-from: there is no file {place}") from None
    return (line for line in text.split("\n") if line.strip())
