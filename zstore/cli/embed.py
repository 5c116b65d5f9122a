"""Embed every text of a source into a store, which is made or continued.

What the store holds already, by id and text, is skipped, so that the same command continues a run that was stopped, and
brings a store up to date with a source that changed. Items that can't be embedded are written to a ledger beside the store
(`zstore failures ls`) and cost no other item; the exit code is 0 then too, unless --max-failures says how many are too many,
or not one item of the source could be embedded.
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
    from zstore.embed.run import Run
    from zstore.embed.types import Report

EXAMPLES = """\
  zstore embed docs.jsonl --to docs.zarr --model all-MiniLM-L6-v2
  zstore embed docs.csv.gz --to docs.zarr --model ./my-model --id doc_id --text body --keep title,url
  zstore embed texts/ --to docs.zarr --model hash:384 --passages 1000 --overlap 200
  zstore embed docs.jsonl --to s3://bucket/docs.zarr --model ./my-model --prune
  zstore embed docs.jsonl --to docs.zarr --model ./my-model --dry-run"""

READING = ("id", "text", "format", "passages", "overlap", "max_chars")
SETTINGS = ("prompt", "dim", "dtype", "normalize", "device")
RUNNING = ("epoch", "on_bad", "max_failures", "prune", "window", "commit_s", "limit", "metrics", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", nargs="+", help="JSON Lines, CSV, TSV, Parquet, text files, folders, or - for "
                        "stdin; paths or any fsspec URLs, as they are or packed with gzip or zstd")
    parser.add_argument("--to", dest="url", metavar="URL", required=True, help="the store: a path, or any fsspec URL")
    parser.add_argument("--model", metavar="MODEL", required=True, help="a model's name or folder, or hash:384 (no model)")
    _add_reading(parser)
    model = parser.add_argument_group("the model")
    model.add_argument("--prompt", help="a prompt of the model by name, or the text that goes before each text")
    model.add_argument("--dim", type=_count, metavar="N", help="the first N dimensions only")
    model.add_argument("--dtype", help="what the model computes in: float32, bfloat16")
    model.add_argument("--normalize", action=argparse.BooleanOptionalAction, default=None, help="vectors of length 1")
    model.add_argument("--device", help="where the model works: cpu, cuda, cuda:1, mps (a GPU, if there is one)")
    _add_running(parser)
    store = parser.add_argument_group("the store")
    store.add_argument("--epoch", type=int, default=0, metavar="N", help="tells one model's vectors from another's (0)")
    store.add_argument("--codec", choices=("lossless", "small", "raw"), help="of a new store (lossless)")
    store.add_argument("--takeover", action="store_true", help="write although another writer lives; that one is fenced")
    stores.add_only_writer(parser)
    stores.add_storage(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("the source")
    source.add_argument("--id", default="id", metavar="NAME", help="the column of the ids (id); NAME:string makes all strings")
    source.add_argument("--text", default="text", metavar="NAME", help="the column of the texts (text)")
    source.add_argument("--keep", default="", metavar="A,B",
                        help="columns to store beside the vectors; A:int64 says a type (int64, float64, bool, string), without "
                             "one numbers are float64")
    source.add_argument("--format", help="jsonl, csv, tsv, parquet, text or dataset, where the name doesn't tell")
    source.add_argument("--passages", type=_count, metavar="N", help="cut each text into passages of N characters")
    source.add_argument("--overlap", type=int, default=0, metavar="N", help="by which passages overlap (0)")
    source.add_argument("--max-chars", type=_count, metavar="N", help="longer texts fail instead of being cut")
    source.add_argument("--limit", type=_count, metavar="N", help="the first N items only")
    stores.add_options(parser, "--source-option", "the source")


def _add_running(parser: argparse.ArgumentParser) -> None:
    from zstore.embed.engine import WINDOW

    run = parser.add_argument_group("the run")
    prune = run.add_mutually_exclusive_group()
    prune.add_argument("--prune", action="store_true", help="hide rows that the source has no more, for good")
    prune.add_argument("--prune-all", dest="prune", action="store_const", const="all", help="also more than half of them")
    run.add_argument("--on-bad", choices=("quarantine", "skip", "fail"), default="quarantine",
                     help="what happens to items that can't be embedded (quarantine)")
    run.add_argument("--max-failures", type=_count_or_none, metavar="N", help="stop when more items than N failed")
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
    reading |= {"keep": [name.strip() for name in args.keep.split(",") if name.strip()],
                "source_options": dict(args.source_option) or None}
    source = args.source[0] if len(args.source) == 1 else args.source
    options = {**reading, **{name: getattr(args, name) for name in (*SETTINGS, *RUNNING)}, "model": args.model,
               "budget": args.budget, "exact": args.exact, "storage_options": stores.storage_options(args)}
    if args.dry_run:
        return _dry_run(args, source, options)
    writer = {"codec": args.codec, "takeover": args.takeover, "only_writer": args.only_writer}
    run: Run | None = None
    try:
        with _interrupts():
            from zstore.embed.run import Run

            run = Run(source, args.url, progress=_bar(args), writer=writer, **options)
            report = run.go()
    except KeyboardInterrupt:
        if run is None:
            raise output.Interrupted("interrupted before anything was embedded") from None
        report, run.report.interrupted = run.report, True       # a second one, while the first was seen to
    return _told(args, report)


def _told(args: argparse.Namespace, report: Report) -> int:
    """The summary, and what the exit code says."""
    facts: dict[str, Any] = {"url": args.url, **asdict(report)}
    again = _command(args)
    if report.interrupted:
        facts["continue"] = again
    output.emit(args, facts, _lines(args, report))
    if report.interrupted:
        how = "with the same input, this continues it" if "-" in args.source else "this continues it"
        output.say(f"zstore: interrupted; what was embedded is committed, and {how}:\n  {again}")
        return output.INTERRUPTED
    if not report.seen:
        output.say("zstore: the source holds no items")
    elif not (report.embedded or report.copied or report.skipped):
        what = "the one item" if report.seen == 1 else f"not one of the {report.seen:,} items"
        output.say(output.redact(f"zstore: {what} could {'not ' * (report.seen == 1)}be embedded; the first failure is "
                                 f"{report.first_failure}"))
        return output.ERROR
    return output.OK


def _lines(args: argparse.Namespace, report: Report) -> Iterator[str]:
    yield (f"{report.embedded:,} embedded, {report.copied:,} copied from rows with the same text, {report.skipped:,} were "
           f"there, {report.failed:,} failed; {_plural(report.seen, 'item')} in {report.seconds:,.1f} s")
    if report.tokens and report.seconds:
        yield (f"{report.tokens:,} tokens, {report.tokens / report.seconds:,.0f} a second, padding "
               f"{1 - report.tokens / report.padded:.1%}; {_plural(report.commits, 'commit')}")
    if report.changed:
        yield f"{report.changed:,} of them were there with another text"
    if report.pruned:
        yield f"{_plural(report.pruned, 'row')} that the source has no more: hidden"
    if report.absent:
        yield f"{_plural(report.absent, 'row')} not in the source any more{'' if args.prune else '; --prune hides them'}"
    if report.left_out:
        yield f"{report.left_out:,} more can't be embedded and were passed over, as --on-bad skip asks"
    if report.failed:
        yield f"what failed, and why: zstore failures ls {shlex.quote(output.redact(args.url))}"


def _dry_run(args: argparse.Namespace, source: Any, options: dict[str, Any]) -> int:
    from zstore.embed.dry_run import dry_run

    facts = dry_run(source, args.url, **options)
    output.emit(args, facts, _dry_lines(args, facts))
    return output.OK


def _dry_lines(args: argparse.Namespace, facts: dict[str, Any]) -> Iterator[str]:
    own, best, found = facts["own"], facts["best"], facts["budgets"]
    if found:
        yield f"{'budget':>8} {'docs/s':>10} {'tokens/s':>12} {'padding':>8} {'memory':>10}"
    for budget, figures in found.items():
        yield (f"{budget:>8} {figures['docs_per_s']:>10,.1f} {figures['tokens_per_s']:>12,.0f} {figures['padding']:>8.1%} "
               f"{figures['memory_bytes'] / 2**20:>6,.0f} MiB{', the one of this model' * (budget == own)}")
    if found:
        yield ("no budget is clearly faster than this model's own" if best == own else
               f"clearly faster than this model's own: --budget {best}")
    if facts["total"] is None:
        yield f"the items of the source are not counted; each takes about {facts['bytes_per_row']:,} bytes on disk"
    else:
        yield (f"{_plural(facts['total'], 'item')}, about {facts['todo']:,} to embed; with a budget of {args.budget or best}: "
               f"{_spoken(facts['hours'] * 3600)}, {facts['bytes'] / 2**20:,.1f} MiB on disk before compression")
    if args.workers > 1:
        yield "timed in one process; more share this machine's processors, and gain where each has a GPU"
    yield (f"{_plural(facts['seen'], 'item')} looked at: {facts['there']:,} there, {facts['failed']:,} failed, "
           f"{facts['sample']:,} timed; nothing was stored")


def _spoken(seconds: float) -> str:
    """"about 2 h 5 min", with no more figures than an estimate has."""
    if seconds < 1:
        return "less than a second"
    if seconds < 60:
        return f"about {seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"about {minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours:,} h {minutes} min" if hours else f"about {minutes} min"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _command(args: argparse.Namespace) -> str:
    """The command as it was typed, without secrets."""
    secrets = output.secrets([*(args.options or []), *args.source_option])
    return "... | " * ("-" in args.source) + output.redact(shlex.join(["zstore", *args.words]), secrets)


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


def _count_or_none(text: str) -> int:
    if not stores.is_number(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _count(text: str) -> int:
    if not stores.is_number(text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
