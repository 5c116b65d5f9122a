"""``zstore``: finds the command, runs it, and turns whatever goes wrong into one sentence and an exit code.

A command's module is imported only when that command runs, so that ``zstore --help`` imports neither numpy nor zarr.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, cast

from zstore.cli import output

COMMANDS = {
    "info": "what a store holds; instant on a live store of any size",
    "get": "print vectors, or another field, by sample id and epoch",
    "log": "the history of a store, newest first",
    "verify": "check a store's objects against what the format promises",
    "rollback": "make an older version, a tag or a checkpoint's mark the head",
    "delete": "hide the rows of sample ids, at once and for good",
    "gc": "remove what crashed and fenced writers left and no version names",
    "compact": "make a new store of the rows that count, in another codec, type or order",
    "embed": "embed every text of a source, resumably, into a store that is made or continued",
    "failures": "what could not be embedded, and why; try again, or write it out",
    "demo": "train, kill, resume and read back: what zstore is for, in under a minute",
}

EPILOG = """\
A URL is a path, or any address that fsspec knows. Results go to stdout, messages and progress to stderr.
Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 damage found, 5 conflict, 130 interrupted.
`zstore COMMAND --help` shows a command's options and examples."""


class Command(Protocol):
    """What a command's module has; its docstring is the text of ``--help``."""

    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """Reports a usage error as all others are reported: one sentence, or with ``--json`` one object."""

    def error(self, message: str) -> NoReturn:
        raise output.Usage(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")     # an id that this terminal has no letters for
    try:
        return _dispatch(words)
    except KeyboardInterrupt:                     # while a command is being imported
        output.fail(output.Interrupted("interrupted"), as_json="--json" in words)
        return output.INTERRUPTED
    except SystemExit as end:                     # argparse: --help and --version
        return _flushed(int(end.code or 0))
    except output.Usage as error:
        output.fail(error, as_json="--json" in words)
        return output.USAGE


def _dispatch(words: list[str]) -> int:
    if words and words[0] in COMMANDS:
        name, command = words[0], _load(words[0])
        args = _command_parser(name, command).parse_args(words[1:], argparse.Namespace(words=words))
        return _guarded(command, args)
    parser = _top_parser()
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return output.USAGE


def _load(name: str) -> Command:
    return cast(Command, importlib.import_module(f"zstore.cli.{name}"))


def _top_parser() -> Parser:
    listing = "\n".join(f"  {name:<10}{summary}" for name, summary in COMMANDS.items())
    parser = Parser("zstore", usage="zstore COMMAND [options]", formatter_class=argparse.RawDescriptionHelpFormatter,
                    description=f"Embeddings of a training run, kept in one Zarr store.\n\ncommands:\n{listing}",
                    epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print zstore's version")
    parser.add_argument("command", nargs="?", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        import zstore

        print(f"zstore {zstore.__version__}")
        sys.exit(0)


def _command_parser(name: str, command: Command) -> Parser:
    parser = Parser(f"zstore {name}", formatter_class=argparse.RawDescriptionHelpFormatter,
                    description=command.__doc__, epilog=f"examples:\n{command.EXAMPLES}")
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _guarded(command: Command, args: argparse.Namespace) -> int:
    """Run a command; any error becomes its sentence and its code."""
    try:
        with _plain_notices():
            return _flushed(command.run(args))
    except BrokenPipeError:
        return _quiet()
    except KeyboardInterrupt:
        output.fail(output.Interrupted("interrupted"), as_json=args.json)
        return output.INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        output.fail(error, as_json=args.json, secrets=output.secrets(getattr(args, "options", None)))
        return output.exit_code(error)


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _quiet()
    return code


def _quiet() -> int:
    # The reader of our output (`head`, say) has enough. Python would complain again when it flushes stdout at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextmanager
def _plain_notices() -> Iterator[None]:
    """zstore's notices come as sentences on stderr, by its logger; Python's warnings are for programmers."""
    handler = _Stderr(logging.WARNING)
    logger = logging.getLogger("zstore")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)


class _Stderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        output.say(f"zstore: {output.redact(record.getMessage())}")


if __name__ == "__main__":
    sys.exit(main())
