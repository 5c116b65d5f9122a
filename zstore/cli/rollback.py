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

EXAMPLES = """\
  zstore rollback runs/a.zarr 12
  zstore rollback runs/a.zarr before-finetune
  zstore rollback runs/a.zarr '{"store_id": "…", "version": 12, "commit_id": "…"}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("to", metavar="TO", help="a version's number, a tag, or a mark as JSON")


def run(args: argparse.Namespace) -> int:
    to = _target(args.to)
    commit = zstore.rollback(args.url, to, storage_options=stores.storage_options(args))
    facts = {"version": commit.version, "commit_id": commit.commit_id, "rows": commit.rows, "mark": commit.mark}
    output.emit(args, facts, [f"version {commit.version} is head: {commit.rows:,} rows, those of {_name(to)}"])
    return output.OK


def _target(text: str) -> Any:
    if text.isdigit():
        return int(text)
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise Usage(f"the mark is no JSON object: {error}") from None


def _name(to: Any) -> str:
    if isinstance(to, str):
        return f"tag {to!r}"
    return f"version {to['version'] if isinstance(to, dict) else to}"
