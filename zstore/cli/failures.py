"""What `zstore embed` could not embed, from the ledger beside the store: <store>.failures.jsonl.

ls prints one line per item: its id, the stage, the reason and the place, with tabs between them. retry reads the source again,
embeds the items that are in the ledger, and takes out those that are now embedded. Where the ledger names a line without an
id, any item may be the one, and all that the store lacks are embedded. export writes the ledger to TO: JSON Lines, or CSV where
its name ends in .csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from zstore.cli import output, stores
from zstore.cli.output import Usage
from zstore.embed.again import Retry, remembered, same
from zstore.embed.ledger import Ledger, key_of
from zstore.embed.types import Failure
from zstore.errors import NotFound

EXAMPLES = """\
  zstore failures ls docs.zarr
  zstore failures retry docs.zarr
  zstore failures retry docs.zarr docs-mended.jsonl
  zstore failures export docs.zarr failed.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, metavar="ls | retry | export")
    stores.add_url(parser)
    parser.add_argument("others", nargs="*", metavar="SRC | TO",
                        help="retry: sources to read instead of the last run's; export: the file to write, - is stdout")
    parser.add_argument("--model", help="retry: the model, where the last run's can't be named again")
    parser.add_argument("--takeover", action="store_true",
                        help="retry: write although another writer lives; that one is fenced")
    stores.add_options(parser, "--source-option", "the source")


def run(args: argparse.Namespace) -> int:
    ledger = Ledger(args.url, stores.storage_options(args))
    return ACTIONS[args.action](args, ledger)


def _ls(args: argparse.Namespace, ledger: Ledger) -> int:
    if args.others:
        raise Usage("ls takes a store and no more")
    failures = ledger.all()
    if not failures:
        _must_be_a_store(args)
    facts = {"ledger": ledger.url, "failures": [asdict(failure) for failure in failures]}
    output.emit(args, facts, ("\t".join(("" if f.id is None else str(f.id), f.stage, f.reason, f.place)) for f in failures))
    output.say(f"{_items(len(failures))} not embedded")
    return output.OK


def _export(args: argparse.Namespace, ledger: Ledger) -> int:
    if len(args.others) != 1:
        raise Usage("export takes a store and the file to write: zstore failures export URL TO")
    (to,) = args.others
    if to == "-" and args.json:
        raise Usage("export to - writes to stdout, and so does --json")
    failures = ledger.all()
    if not failures:
        _must_be_a_store(args)
    content = _csv(failures) if to.lower().endswith(".csv") else _jsonl(failures)
    if to == "-":
        sys.stdout.write(content)
        return output.OK
    with open(to, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(content)
    output.say(f"wrote {_items(len(failures))} to {to}")
    output.emit(args, {"ledger": ledger.url, "to": to, "failures": len(failures)}, [])
    return output.OK


def _retry(args: argparse.Namespace, ledger: Ledger) -> int:
    before = ledger.all()
    if not before:
        _must_be_a_store(args)
        output.say("the ledger is empty: there is nothing to retry")
        output.emit(args, {"ledger": ledger.url, "retried": 0, "mended": 0, "failed": 0, "written": 0}, [])
        return output.OK
    run, settings = _settings(args, ledger)
    epoch = settings.get("epoch", 0)
    source = Retry(run, (failure for failure in before if failure.epoch == epoch), cut=bool(settings.get("passages")))
    from zstore.embed import embed

    # With a limit, a run draws no conclusion from what its source lacks.
    report = embed(source, args.url, storage_options=stores.storage_options(args), limit=sys.maxsize, takeover=args.takeover,
                   source_options=dict(args.source_option) or None, **settings)
    ledger = Ledger(args.url, stores.storage_options(args))
    # The whole source was read, and what failed there with an id has an entry of its own by now.
    ledger.clear(places=source.named, epoch=epoch)
    nameless = source.nameless - source.there
    found = min(source.others, len(nameless)) if run["source"] == args.others else 0
    if found == len(nameless):
        ledger.clear(places=nameless, epoch=epoch)
    elif found:
        output.say(f"{_items(len(nameless))} had no id, and the source has {found:,} that may be among them; embed the whole "
                   "mended source to settle which")
    if others := sum(failure.epoch != epoch for failure in before):
        output.say(f"{_items(others)} of other epochs left as they are: embed their source again, with --epoch")
    retried, failed = len(source.met) + len(source.there) + found, len(ledger)
    mended = len({*map(key_of, before)} - {*map(key_of, ledger.all())})
    facts = {"ledger": ledger.url, "retried": retried, "mended": mended, "failed": failed,
             "written": report.embedded + report.copied}
    output.emit(args, facts, [f"{retried:,} of {_items(len(before))} retried; {_items(failed)} not embedded"])
    return output.OK


def _settings(args: argparse.Namespace, ledger: Ledger) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to read, and the other arguments of ``embed``: the last run's, but for those that were given."""
    settings = {**(ledger.run or {})}
    run: dict[str, Any] = {name: settings.pop(name) for name in ("source", "typed") if name in settings}
    if args.others and not same(remembered(args.others, None)["source"], run.get("source")):
        run = {"source": args.others}
    if run.get("source") in (None, "-"):
        raise Usage("the last run's source can't be named again: it was stdin, a program's own, or a URL with credentials; "
                    "name one, zstore failures retry URL SRC")
    if args.model:
        settings["model"] = args.model
    if settings.get("model") is None:
        raise Usage("the last run's model can't be named again: give --model")
    return run, settings


def _must_be_a_store(args: argparse.Namespace) -> None:
    """A mistyped URL has no ledger either."""
    from zstore.maintenance.describe import describe

    try:
        describe(args.url, storage_options=stores.storage_options(args))
    except NotFound as error:
        raise type(error)(f"{error}; and it has no ledger of failures") from None


def _csv(failures: list[Failure]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("id", "stage", "reason", "place", "sample", "epoch"))
    writer.writerows((f.id, f.stage, f.reason, f.place, f.sample, f.epoch) for f in failures)
    return text.getvalue()


def _jsonl(failures: list[Failure]) -> str:
    return "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)


def _items(count: int) -> str:
    return f"{count:,} {'item' if count == 1 else 'items'}"


ACTIONS: dict[str, Callable[[argparse.Namespace, Ledger], int]] = {"ls": _ls, "retry": _retry, "export": _export}
