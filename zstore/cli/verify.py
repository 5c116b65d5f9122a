"""Check a store's objects against what the format promises, and name each damaged object, its rows and its keys.

Exits 0 on a sound store, 4 where damage remains. What a crash may leave behind is no damage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zstore
from zstore.cli import output, stores

EXAMPLES = """\
  zstore verify runs/a.zarr
  zstore verify runs/a.zarr --quick
  zstore verify runs/a.zarr --repair"""

SHOWN = 5     # runs of rows, and keys, of one finding in the text; --json has all that verify gives


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("--quick", action="store_true", help="check structure only; read no shard's body")
    parser.add_argument("--repair", action="store_true", help="mend what is derived; no committed byte is touched")
    parser.add_argument("--progress", action="store_true", help="show progress even where stderr is no terminal")


def run(args: argparse.Namespace) -> int:
    with _progress(args.progress or sys.stderr.isatty()) as progress:
        findings = zstore.verify(args.url, quick=args.quick, repair=args.repair, progress=progress,
                                 storage_options=stores.storage_options(args))
    output.emit(args, {"findings": [_facts(f) for f in findings]}, _lines(findings, quick=args.quick))
    return output.DAMAGE if findings else output.OK


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on stderr that is told of each object: how many were checked, of how many, and its name."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" objects", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        def told(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)

        yield told


def _facts(finding: Any) -> dict[str, Any]:
    return {"object": finding.object, "problem": finding.problem, "rows": finding.rows, "keys": finding.keys,
            "mends": finding.mends}


def _lines(findings: list[Any], *, quick: bool) -> Iterator[str]:
    for finding in findings:
        yield f"{output.coloured(finding.object, 31)}: {finding.problem}{_where(finding)}"
        if finding.mends:
            yield f"  --repair: {finding.mends}"
    if findings:
        yield f"{len(findings)} damaged {'object' if len(findings) == 1 else 'objects'}"
    else:
        yield output.coloured("sound", 32) + (" in structure; no shard's body was read" if quick else "")


def _where(finding: Any) -> str:
    """The rows of head's version, and the first few keys, that a damage takes."""
    rows = sum(count for _, count in finding.rows)
    if not rows:
        return ""
    runs = ", ".join(f"{start}..{start + count - 1}" if count > 1 else str(start) for start, count in finding.rows[:SHOWN])
    runs += ", ..." if len(finding.rows) > SHOWN else ""
    keys = ", ".join(f"{name!r} at epoch {epoch}" for name, epoch in finding.keys[:SHOWN])
    more = ", ..." if len(finding.keys) > SHOWN else ""
    return f"; {'row' if rows == 1 else 'rows'} {runs}{': ' if keys else ''}{keys}{more}"
