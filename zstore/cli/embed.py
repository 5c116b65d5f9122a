"""Embed every text of a source into a store, which is made or continued.

What the store holds already, by id and text, is skipped, so that the same command continues a run that was stopped, and
brings a store up to date with a source that changed. Items that can't be embedded are written to a ledger beside the store
(`zstore failures ls`) and cost no other item; the exit code is 0 then too, unless --max-failures says how many are too many.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from zstore.cli import output, stores

if TYPE_CHECKING:
    from zstore.embed.types import Report

EXAMPLES = """\
  zstore embed docs.jsonl --to docs.zarr --model all-MiniLM-L6-v2
  zstore embed docs.csv.gz --to docs.zarr --model ./my-model --id doc_id --text body --keep title,url
  zstore embed texts/ --to docs.zarr --model hash:384 --passages 1000 --overlap 200
  zstore embed docs.jsonl --to s3://bucket/docs.zarr --model ./my-model --prune
  zstore embed docs.jsonl --to docs.zarr --model ./my-model --dry-run"""

READING = ("id", "text", "format", "passages", "overlap", "max_chars")
SETTINGS = ("prompt", "dim", "dtype", "normalize")
RUNNING = ("epoch", "on_bad", "max_failures", "prune", "window", "commit_s", "limit", "metrics", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="JSON Lines, CSV, TSV, Parquet, text files, a folder, or - for stdin; a "
                        "path or any fsspec URL, as it is or packed with gzip or zstd")
    parser.add_argument("--to", dest="url", metavar="URL", required=True, help="the store: a path, or any fsspec URL")
    parser.add_argument("--model", metavar="MODEL", required=True, help="a model's name or folder, or hash:384 (no model)")
    _add_reading(parser)
    model = parser.add_argument_group("the model")
    model.add_argument("--prompt", help="a prompt of the model by name, or the text that goes before each text")
    model.add_argument("--dim", type=_count, metavar="N", help="the first N dimensions only")
    model.add_argument("--dtype", help="what the model computes in: float32, bfloat16")
    model.add_argument("--normalize", action=argparse.BooleanOptionalAction, default=None, help="vectors of length 1")
    _add_running(parser)
    store = parser.add_argument_group("the store")
    store.add_argument("--epoch", type=int, default=0, metavar="N", help="tells one model's vectors from another's (0)")
    store.add_argument("--codec", choices=("lossless", "small", "raw"), help="of a new store (lossless)")
    store.add_argument("--takeover", action="store_true", help="write although another writer lives; that one is fenced")
    stores.add_only_writer(parser)
    stores.add_storage(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("the source")
    source.add_argument("--id", default="id", metavar="NAME", help="the column of the ids (id)")
    source.add_argument("--text", default="text", metavar="NAME", help="the column of the texts (text)")
    source.add_argument("--keep", default="", metavar="A,B", help="columns to store beside the vectors")
    source.add_argument("--format", help="jsonl, csv, tsv, parquet, text or dataset, where the name doesn't tell")
    source.add_argument("--passages", type=_count, metavar="N", help="cut each text into passages of N characters")
    source.add_argument("--overlap", type=int, default=0, metavar="N", help="by which passages overlap (0)")
    source.add_argument("--max-chars", type=_count, metavar="N", help="longer texts fail instead of being cut")
    source.add_argument("--limit", type=_count, metavar="N", help="the first N items only")
    stores.add_options(parser, "--source-option", "the source")


def _add_running(parser: argparse.ArgumentParser) -> None:
    from zstore.embed.engine import WINDOW

    run = parser.add_argument_group("the run")
    run.add_argument("--prune", action="store_true", help="hide rows that the source has no more, for good")
    run.add_argument("--on-bad", choices=("quarantine", "skip", "fail"), default="quarantine",
                     help="what happens to items that can't be embedded (quarantine)")
    run.add_argument("--max-failures", type=int, metavar="N", help="stop when more items than N failed")
    run.add_argument("--exact", action="store_true", help="no padding: a vector hangs on its text alone, bit for bit")
    run.add_argument("--workers", type=_count, default=1, metavar="N", help="processes, each with the model (1)")
    run.add_argument("--window", type=_count, default=WINDOW, metavar="N", help=f"texts sorted by length together ({WINDOW})")
    run.add_argument("--budget", type=_count, metavar="N", help="padded tokens of a batch (the model's)")
    run.add_argument("--commit-s", type=float, default=5.0, metavar="S", help="seconds between commits (5)")
    run.add_argument("--metrics", metavar="FILE", help="append the figures of the bar, as lines of JSON")
    run.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None,
                     help="a bar on stderr (where that is a terminal)")
    run.add_argument("--dry-run", action="store_true", help="time a sample at several budgets; store nothing")


def run(args: argparse.Namespace) -> int:
    reading = {name: getattr(args, name) for name in READING}
    reading |= {"keep": tuple(filter(None, args.keep.split(","))), "source_options": dict(args.source_option) or None}
    settings = {name: getattr(args, name) for name in SETTINGS}
    if args.dry_run:
        return _dry_run(args, {**reading, **settings})
    from zstore.embed.run import Run

    options = {name: getattr(args, name) for name in RUNNING}
    writer = {"codec": args.codec, "takeover": args.takeover, "only_writer": args.only_writer}
    with _interrupts():
        report = Run(args.source, args.url, model=args.model, budget=args.budget, exact=args.exact, progress=_bar(args),
                     storage_options=stores.storage_options(args), writer=writer, **reading, **settings, **options).go()
    facts: dict[str, Any] = {"url": args.url, **asdict(report)}
    again = _command(args)
    if report.interrupted:
        facts["continue"] = again
    output.emit(args, facts, _lines(args, report))
    if report.interrupted:
        output.say(f"zstore: interrupted; what was embedded is committed, and this continues it:\n  {again}")
        return output.INTERRUPTED
    return output.OK


def _lines(args: argparse.Namespace, report: Report) -> Iterator[str]:
    yield (f"{report.embedded:,} embedded, {report.copied:,} copied from rows with the same text, {report.skipped:,} were "
           f"there, {report.failed:,} failed; {report.seen:,} items in {report.seconds:,.1f} s")
    if report.tokens and report.seconds:
        yield (f"{report.tokens:,} tokens, {report.tokens / report.seconds:,.0f} a second, padding "
               f"{1 - report.tokens / report.padded:.1%}; {report.commits:,} commits")
    if report.pruned:
        yield f"{report.pruned:,} rows that the source has no more are hidden"
    if report.absent:
        yield f"{report.absent:,} rows are not in the source any more; --prune hides them"
    if report.failed:
        yield f"what failed, and why: zstore failures ls {shlex.quote(output.redact(args.url))}"


def _dry_run(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from zstore.embed.dry_run import dry_run
    from zstore.embed.progress import clock

    facts = dry_run(args.source, model=args.model, exact=args.exact, **options)
    lines = [f"{'budget':>8} {'docs/s':>10} {'tokens/s':>12} {'padding':>8}"]
    lines += [f"{budget:>8} {found['docs_per_s']:>10,.1f} {found['tokens_per_s']:>12,.0f} {found['padding']:>8.1%}"
              for budget, found in facts["budgets"].items()]
    if facts["total"] is None:
        lines.append(f"the items of the source are not counted; each takes about {facts['bytes_per_row']:,} bytes on disk")
    else:
        lines.append(f"{facts['total']:,} items with --budget {facts['best']}: about {clock(facts['hours'] * 3600)} (h:mm:ss), "
                     f"{facts['bytes'] / 2**20:,.1f} MiB on disk before compression")
    lines.append(f"{facts['sample']:,} items were tried, {facts['failed']:,} of them failed; "
                 f"{facts['memory_bytes'] / 2**20:,.0f} MiB of memory; nothing was stored")
    output.emit(args, facts, lines)
    return output.OK


def _command(args: argparse.Namespace) -> str:
    """The command as it was typed, without secrets."""
    secrets = output.secrets([*(args.options or []), *args.source_option])
    return output.redact(shlex.join(["zstore", *args.words]), secrets)


def _bar(args: argparse.Namespace) -> bool:
    return sys.stderr.isatty() if args.progress is None else bool(args.progress)


@contextmanager
def _interrupts() -> Iterator[None]:
    """A machine that is taken away says SIGTERM: that ends the run in order, as Control-C does."""
    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:          # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _count(text: str) -> int:
    if not stores.is_number(text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
