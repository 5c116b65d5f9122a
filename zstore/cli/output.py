"""What the commands print, and how an error becomes one sentence, one JSON object and one exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from zstore import errors

OK, ERROR, USAGE, NOT_FOUND, DAMAGE, CONFLICT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_KINDS = {ERROR: "error", USAGE: "usage", NOT_FOUND: "not_found", DAMAGE: "damage", CONFLICT: "conflict",
          INTERRUPTED: "interrupted"}
_OF_ARGUMENTS = (ValueError, TypeError)     # these very types: FormatError is a kind of ValueError
# What messages advise to programs, and what it is called here.
_IN_WORDS = {
    'write missing="nan" to get NaN rows, or ask view.find(ids) which are there': "leave out the ids that are not there",
    "only_writer=True": "--only-writer", "takeover=True": "--takeover",
    "storage_options are": "-o is", "src_options are": "--src-option is", "dst_options are": "--dst-option is",
}
_SECRET = re.compile(r"key|secret|token|password|passwd|credential|sas|connection_string|sig", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]+")


class Usage(Exception):
    """The command was called in a way that it does not have."""


class Interrupted(Exception):
    """Control-C."""


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    if isinstance(error, Usage) or type(error) in _OF_ARGUMENTS:
        return USAGE
    if isinstance(error, (FileNotFoundError, errors.NotFound, errors.BehindCheckpoint)):
        return NOT_FOUND
    if isinstance(error, errors.Corrupt):
        return DAMAGE
    if isinstance(error, (errors.Conflict, errors.AlreadyExists)):
        return CONFLICT
    if isinstance(error, Interrupted):
        return INTERRUPTED
    return ERROR


def fail(error: BaseException, *, as_json: bool, secrets: Iterable[str] = ()) -> None:
    """Say what went wrong on stderr, and with ``--json`` as an object on stdout."""
    message = redact(_sentence(error), secrets)
    say(f"zstore: {message}")
    if as_json:
        kind = _KINDS[exit_code(error)]
        print(json.dumps({"error": {"code": kind, "type": type(error).__name__, "message": message}}), flush=True)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for python, here in _IN_WORDS.items():
        text = text.replace(python, here)
    if isinstance(error, (errors.ZStoreError, Usage, Interrupted, OSError)) or type(error) in _OF_ARGUMENTS:
        return text
    # Not one of those that a user's mistake raises: the name helps whoever reads the report of it.
    return f"{type(error).__name__}: {text} (--debug shows where)"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without passwords in URLs, signed queries, and the given secrets."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _QUERY.sub(r"\1?***", _USERINFO.sub("***@", text))


def secrets(options: list[tuple[str, Any]] | None) -> list[str]:
    """The values of ``-o`` options that no message may show."""
    return [value for key, value in options or [] if _SECRET.search(key) and isinstance(value, str) and value]


def say(message: str) -> None:
    """A message for people, on stderr."""
    try:
        print(message, file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass


def emit(args: argparse.Namespace, facts: dict[str, Any], lines: Iterable[str]) -> None:
    """The result, on stdout: the facts as one JSON object, or the lines."""
    if args.json:
        print(json.dumps(facts, ensure_ascii=False, allow_nan=False))
        return
    for line in lines:
        print(line)


def coloured(text: str, code: int) -> str:
    """The text in a colour of ANSI's, where stdout is a terminal that nobody asked to be plain."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"
