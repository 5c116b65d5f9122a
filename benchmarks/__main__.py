"""zstore beside what people use, on this machine or in your bucket.

    python -m benchmarks append gather            some scenarios; "all" for every one
    python -m benchmarks all --save               and keep the results, for README and plots
    python -m benchmarks gather --url s3://bucket/prefix --rows 100000
    python -m benchmarks compare v0.1.0 .         two checkouts of zstore, in turn
    python -m benchmarks embed                    how fast texts become vectors
    python -m benchmarks corpus                   147,000 real texts, killed, changed and mended; each vector compared
    python -m benchmarks embed_scale              memory over a million texts; ten million rows by four processes
    python -m benchmarks finetune                 what recording costs a real fine-tuning
    python -m benchmarks growth rows              how a store's costs grow
    python -m benchmarks members                  commits a second of a shared session, and lost numbers
    python -m benchmarks report                   README table and plots from the kept results
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks import table
from benchmarks.run import Options, Run
from benchmarks.scenarios import NAMES

RESULTS = Path(__file__).parent / "results"
OTHERS = ("compare", "corpus", "embed", "embed_scale", "finetune", "growth", "members", "report")


def parser() -> argparse.ArgumentParser:
    """The command line of the scenarios."""
    made = argparse.ArgumentParser("python -m benchmarks", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("scenario", nargs="+", choices=[*NAMES, "all"], metavar="SCENARIO",
                      help=f"{', '.join(NAMES)}, all; or {', '.join(OTHERS)} (each has its own --help)")
    made.add_argument("--url", help="a folder on the disk, or a prefix of the bucket, to measure (default: a folder here)")
    made.add_argument("-o", "--option", action="append", default=[], metavar="KEY=VALUE", help="a storage option; may repeat")
    made.add_argument("--rows", type=int, help="rows of a run (default: 500,000; 150,000 where all stores stand side by side)")
    made.add_argument("--dim", type=int, default=384)
    made.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    made.add_argument("--data", default="real", help="real (made once by a model), random, or an .npy file (default: real)")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--size", type=int, default=10_000, help="rows of a gather, keys of a lookup")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="this contender; may repeat")
    made.add_argument("--json", action="store_true", help="results as JSON on stdout")
    made.add_argument("--save", action="store_true", help=f"keep each result as {RESULTS.name}/SCENARIO.json")
    return made


def main(argv: list[str]) -> int:
    """The exit status."""
    if argv and argv[0] in OTHERS:
        return other(argv[0], argv[1:])
    args = parser().parse_args(argv)
    if args.rows is not None and args.rows < 1_000:
        parser().error(f"--rows is {args.rows}; 1,000 at least")
    options = dict(part.split("=", 1) for part in args.option)
    remote = args.url is not None and "://" in args.url
    place = args.url if remote else tempfile.mkdtemp(prefix="benchmarks-", dir=args.url)
    results = []
    try:
        for name in NAMES if "all" in args.scenario else args.scenario:
            result = Run(name, Options(place, args.rows, args.dim, args.dtype, args.data, args.rounds, args.size,
                                       tuple(args.only), options or None)).result()
            results.append(result)
            if args.save:
                RESULTS.mkdir(exist_ok=True)
                (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
            if not args.json:
                print(table.text(result), flush=True)
    finally:
        if not remote:
            shutil.rmtree(place, ignore_errors=True)
    if args.json:
        print(json.dumps(results))
    return 0 if all(result["contenders"] for result in results) else 1


def other(command: str, argv: list[str]) -> int:
    """The commands that are no scenario: a module each."""
    status: int = import_module(f"benchmarks.{command}").main(argv)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
