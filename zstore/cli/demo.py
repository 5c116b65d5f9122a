"""Train, kill, resume and read back, on handwritten digits, in under a minute and offline.

A small network learns scikit-learn's digits on the CPU while every sample's penultimate layer is recorded at every
epoch. The training is killed in the middle and resumed from its checkpoint; then a new process opens the store, prints
what it finds, and draws how the classes separate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zstore.cli import output
from zstore.cli.output import Usage

EXAMPLES = """\
  zstore demo
  zstore demo --dir /tmp/demo --epochs 20"""

LEAST = 3     # one epoch to checkpoint in, one to be killed in, one before them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, default=Path("zstore-demo"), metavar="DIR",
                        help="a new folder, or an earlier demo's, which is replaced (zstore-demo)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help=f"{LEAST} or more (12)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint and the uninterrupted run's store too")


def run(args: argparse.Namespace) -> int:
    if args.epochs < LEAST:
        raise Usage(f"the demo needs {LEAST} epochs or more: it is killed in the one after its checkpoint")
    from zstore.demo.story import tell

    facts = tell(args.dir, args.epochs, keep=args.keep, say=output.say if args.json else _print)
    output.emit(args, facts, [])
    return output.OK


def _print(line: str) -> None:
    print(line, flush=True)
