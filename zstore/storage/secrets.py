"""Credentials stay in the process that was given them.

A pickle goes to files, to other machines, into logs. It carries a ``Ticket``: the printable URL, the options without what
looks like a secret, and a random number under which this process, and its forked children, know the whole. Elsewhere the
ticket opens with the credentials of that place: environment variables, a profile, a role.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from zstore.storage.filesystems import printable

Options = dict[str, Any]
_SECRET = re.compile(r"key|secret|token|passw|pwd|credential|auth|connection_string|signature|headers|cookie|cert|session"
                     r"|^sas|_sas|^sig$|^user$|user_?name|account_name", re.IGNORECASE)
_DEEPEST = 8
_whole: dict[str, tuple[str, Options | None]] = {}      # by ticket
_tickets: dict[tuple[str, str], str] = {}               # the other way round, so that many pickles share one


class Ticket(NamedTuple):
    """``lacks``: something was left out, so that another process needs credentials of its own."""

    url: str
    options: Options | None
    number: str
    lacks: bool


def ticket(url: str, options: Mapping[str, Any] | None) -> Ticket:
    """What may be written down of this URL and its options."""
    whole = None if options is None else dict(options)
    shown, plain = printable(url), None if whole is None else without(whole)
    if (shown, plain) == (url, whole):
        return Ticket(shown, plain, "", False)
    place = (url, repr(sorted(whole.items(), key=lambda item: str(item[0]))) if whole else "")
    number = _tickets.setdefault(place, secrets.token_hex(16))
    _whole[number] = (url, whole)
    return Ticket(shown, plain, number, True)


def redeem(held: Ticket) -> tuple[str, Options | None]:
    """The URL and the options: all of them in the process that wrote the ticket, else without the secrets."""
    return _whole.get(held.number, (held.url, held.options))


def is_foreign(held: Ticket) -> bool:
    """The ticket lacks secrets, and this process never knew them."""
    return held.lacks and held.number not in _whole


def advice(held: Ticket) -> str:
    """What to do where a foreign ticket was refused."""
    return (f"{held.url} was opened from a pickle, in which credentials of storage_options and URLs do not travel: give this "
            "process its own (environment variables, a profile, a role), or open the store here with storage_options")


def without(options: Mapping[str, Any], depth: int = 0) -> Options:
    """A copy with only what is plain and not secret: by the names of its members, at every depth, and URLs as they may be
    printed. What is no plain value may hold anything, and is left out."""
    out: Options = {}
    for name, value in options.items():
        if isinstance(name, str) and not _SECRET.search(name):
            kept, plain = _plain(value, depth)
            if kept:
                out[name] = plain
    return out


def _plain(value: Any, depth: int) -> tuple[bool, Any]:
    if value is None or isinstance(value, (bool, int, float)):
        return True, value
    if isinstance(value, str):
        return True, printable(value)
    if depth == _DEEPEST:
        return False, None
    if isinstance(value, Mapping):
        return True, without(value, depth + 1)
    if isinstance(value, (list, tuple)):
        parts = [_plain(part, depth + 1) for part in value]
        return True, [part for kept, part in parts if kept]
    return False, None
