"""Make an older version the head. Nothing is erased: the rows that it cuts stay readable at their versions.

TO is a version's number, a tag, or the mark in a checkpoint, as JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import zstore
from zstore.cli import output, stores
from zstore.cli.output import Usage
from zstore.errors import NotFound
from zstore.maintenance.describe import describe

EXAMPLES = """\
  zstore rollback runs/a.zarr 12
  zstore rollback runs/a.zarr before-finetune
  zstore rollback runs/a.zarr '{"store_id": "…", "version": 12, "commit_id": "…"}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("to", metavar="TO", help="a version's number, a tag, or a mark as JSON")
    stores.add_only_writer(parser)


def run(args: argparse.Namespace) -> int:
    to = _target(args.to)
    if isinstance(to, int):
        _refuse_a_tag(args, to)
    commit = zstore.rollback(args.url, to, only_writer=args.only_writer, storage_options=stores.storage_options(args))
    facts = {"version": commit.version, "commit_id": commit.commit_id, "rows": commit.rows, "mark": commit.mark}
    output.emit(args, facts, [f"version {commit.version} is head: {commit.rows:,} rows, those of {_name(to)}"])
    return output.OK


def _target(text: str) -> Any:
    if stores.is_number(text):
        return int(text)
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise Usage(f"the mark is no JSON object: {error}") from None


def _refuse_a_tag(args: argparse.Namespace, version: int) -> None:
    # Nobody can make such a tag any more, but stores of before may have one.
    try:
        meant = describe(args.url, tag=args.to, storage_options=stores.storage_options(args)).commit.version
    except NotFound:
        return
    if meant != version:
        raise Usage(f"{args.to!r} is a version's number and also the tag of version {meant}: give {meant} for the tag, or "
                    "the version's mark as JSON")


def _name(to: Any) -> str:
    if isinstance(to, str):
        return f"tag {to!r}"
    return f"version {to['version'] if isinstance(to, dict) else to}"
