"""Check a store's objects against what the format promises, and name each damaged object, its rows and its keys.

Exits 0 on a sound store, 4 where damage remains. What a crash may leave behind is no damage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import zstore
from zstore.cli import output, stores

EXAMPLES = """\
  zstore verify runs/a.zarr
  zstore verify runs/a.zarr --quick
  zstore verify runs/a.zarr --repair"""

SHOWN = 5     # keys of one finding in the text; --json has them all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("--quick", action="store_true", help="check structure only; read no shard's body")
    parser.add_argument("--repair", action="store_true", help="mend what is derived; no committed byte is touched")
    parser.add_argument("--progress", action="store_true", help="show progress even where stderr is no terminal")


def run(args: argparse.Namespace) -> int:
    findings = zstore.verify(args.url, quick=args.quick, repair=args.repair)
    output.emit(args, {"findings": [_facts(f) for f in findings]}, _lines(findings, args))
    return output.DAMAGE if findings else output.OK
