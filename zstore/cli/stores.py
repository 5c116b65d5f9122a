"""Arguments that every command on a store shares, and what they open."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import zstore
from zstore.cli.output import Usage

_INTEGER = re.compile(r"[+-]?[0-9]{1,100}")


def add_url(parser: argparse.ArgumentParser) -> None:
    """The store's URL and its storage options."""
    parser.add_argument("url", metavar="URL", help="the store: a path, or any fsspec URL")
    add_storage(parser)


def add_storage(parser: argparse.ArgumentParser) -> None:
    """The storage options of the store."""
    parser.add_argument("-o", dest="options", metavar="KEY=VALUE", action="append", type=_option,
                        help="an option of the URL's storage, such as -o anon=true; may be given again")


def add_options(parser: argparse.ArgumentParser, flag: str, whose: str) -> None:
    """Storage options of one of several URLs."""
    parser.add_argument(flag, metavar="KEY=VALUE", action="append", type=_option, default=[],
                        help=f"an option of {whose}'s storage, such as anon=true; may be given again")


def add_version(parser: argparse.ArgumentParser) -> None:
    """Which version to read."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=_count, metavar="N", help="the version to read instead of head")
    which.add_argument("--tag", metavar="NAME", help="the tagged version to read instead of head")


def add_only_writer(parser: argparse.ArgumentParser) -> None:
    """The word of whoever writes where the storage can't tell."""
    parser.add_argument("--only-writer", action="store_true", help="nobody else writes here, whose storage can't tell")


def storage_options(args: argparse.Namespace) -> dict[str, Any] | None:
    return dict(args.options) if args.options else None


def reader(args: argparse.Namespace, *, version: int | None = None) -> zstore.Reader:
    """The store, open for reading at the version that the arguments name, or at the one given."""
    if version is not None:
        return zstore.Reader(args.url, version=version, storage_options=storage_options(args))
    return zstore.Reader(args.url, version=args.version, tag=args.tag, storage_options=storage_options(args))


def has_int_ids(view: zstore.View) -> bool:
    """Whether the store's ids are integers; reads one id."""
    return bool(view.select(slice(0, 1)).ids.dtype.kind == "i")


def parse_ids(words: list[str], view: zstore.View) -> list[int] | list[str]:
    """Ids as the store keeps them."""
    if not has_int_ids(view):
        return words
    return [_integer(word) for word in words]


def _integer(word: str) -> int:
    if not _INTEGER.fullmatch(word.strip()):
        raise Usage(f"the ids of this store are integers, and {word!r} is none")
    number = int(word)
    if not -2**63 <= number < 2**63:
        raise Usage(f"the ids of this store are integers of 64 bits, and {word} does not fit in them")
    return number


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{key!r} is not of the form KEY=VALUE")
    try:
        return key, json.loads(value)      # true, 8, {"region_name": "eu-west-1"}
    except ValueError:
        return key, value


def is_number(text: str) -> bool:
    """Decimal digits of ASCII, and nothing else."""
    return text.isascii() and text.isdecimal()


def _count(text: str) -> int:
    if not is_number(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version's number")
    return int(text)
