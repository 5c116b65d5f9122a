"""What `zstore embed` could not embed, from the ledger beside the store: <store>.failures.jsonl.

ls prints one line per item: its id, the stage, the reason and the place, with tabs between them. retry reads the source again,
embeds the items that are in the ledger and no others, and takes out those that now have a vector. export writes the ledger to
TO: JSON Lines, or CSV where its name ends in .csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from zstore.cli import output, stores
from zstore.cli.output import Usage
from zstore.embed.check import wrong_with
from zstore.embed.ledger import Ledger
from zstore.embed.types import Failure, Item
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
    output.say(f"{_items(len(failures))} without a vector")
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
    before = {("place", f.place) if f.id is None else ("id", str(f.id)) for f in ledger.all()}
    if not before:
        _must_be_a_store(args)
        output.say("the ledger is empty: there is nothing to retry")
        output.emit(args, {"ledger": ledger.url, "retried": 0, "mended": 0, "failed": 0}, [])
        return output.OK
    settings = _settings(args, ledger)
    chosen = _Chosen(before, cut=bool(settings.get("passages")))
    from zstore.embed import embed

    # With a limit, a run draws no conclusion from what its source lacks.
    embed(chosen.of(_read(settings)), args.url, storage_options=stores.storage_options(args), limit=sys.maxsize, **settings)
    ledger = Ledger(args.url, stores.storage_options(args))
    ledger.clear(chosen.mended_ids, chosen.mended_places)
    failed = len(ledger)
    facts = {"ledger": ledger.url, "retried": chosen.count, "mended": len(before) - failed, "failed": failed}
    output.emit(args, facts, [f"{_items(chosen.count)} of {_items(len(before))} retried; {_items(failed)} without a vector"])
    return output.OK


def _settings(args: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    """The arguments of ``embed``: the last run's, but for those that were given."""
    settings = {**(ledger.run or {})}
    settings.update({"source": args.others} if args.others else {}, **({"model": args.model} if args.model else {}))
    if settings.get("source") in (None, "-", ["-"]):
        raise Usage("the last run's source can't be read again: name one, zstore failures retry URL SRC")
    if settings.get("model") is None:
        raise Usage("the last run's model can't be named again: give --model")
    return settings


def _read(settings: dict[str, Any]) -> Iterator[Item | Failure]:
    """The source's items. Takes what it uses out of the settings."""
    from zstore.embed.sources import read

    taken: dict[str, Any] = {name: settings[name] for name in ("id", "text", "keep") if name in settings}
    return read(settings.pop("source"), format=settings.pop("format", None),
                storage_options=settings.pop("source_options", None), **taken)


class _Chosen:
    """Of a source those items that the ledger names, by id, or by place where they had none."""

    def __init__(self, keys: set[tuple[str, str]], cut: bool) -> None:
        """``cut``: texts were cut into passages, so that the ledger may say doc#3 of doc."""
        self._keys = keys | ({("id", id.rpartition("#")[0]) for kind, id in keys if kind == "id"} if cut else set())
        self._cut, self.count = cut, 0
        self.mended_ids: list[Any] = []         # texts that are passages now, whose ids are others
        self.mended_places: list[str] = []      # where there is an item now

    def of(self, items: Iterator[Item | Failure]) -> Iterator[Item | Failure]:
        for item in items:
            at_place = ("place", item.place) in self._keys
            if at_place or ("id", str(item.id)) in self._keys:
                self.count += 1
                if at_place and isinstance(item, Item):
                    self.mended_places.append(item.place)
                if self._cut and isinstance(item, Item) and wrong_with(item.text) is None:
                    self.mended_ids.append(item.id)
                yield item


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
    writer.writerow(("id", "stage", "reason", "place", "sample"))
    writer.writerows((f.id, f.stage, f.reason, f.place, f.sample) for f in failures)
    return text.getvalue()


def _jsonl(failures: list[Failure]) -> str:
    return "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)


def _items(count: int) -> str:
    return f"{count:,} {'item' if count == 1 else 'items'}"


ACTIONS: dict[str, Callable[[argparse.Namespace, Ledger], int]] = {"ls": _ls, "retry": _retry, "export": _export}
