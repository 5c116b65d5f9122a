"""Print vectors, or another field, by sample id and epoch. Without --epoch: each id's at its highest epoch.

One line per id and epoch: the id, the epoch (where given), the value; tabs between them, spaces within a vector.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.cli import output, stores

EXAMPLES = """\
  zstore get runs/a.zarr doc-17
  zstore get runs/a.zarr doc-17 doc-3 --epoch 0 1 2 --json
  zstore get runs/a.zarr 17 --field label
  zstore get runs/a.zarr doc-17 --epoch 0 1 2 --npy path.npy"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stores.add_url(parser)
    parser.add_argument("ids", nargs="+", metavar="ID", help="sample ids, of the store's kind: integers or strings")
    parser.add_argument("--epoch", nargs="+", type=int, metavar="N", help="the epochs; all ids are looked up at each")
    parser.add_argument("--field", default="vectors", metavar="NAME", help="the field to print (vectors)")
    parser.add_argument("--npy", metavar="FILE", help="write the array to FILE instead: (ids, [epochs,] ...)")
    stores.add_version(parser)


def run(args: argparse.Namespace) -> int:
    with stores.reader(args) as store:
        ids = stores.parse_ids(args.ids, store)
        values = _plain(np.asarray(store.get(ids, epoch=args.epoch, field=args.field)))
    facts = {"ids": ids, "epoch": args.epoch, "field": args.field, "shape": list(values.shape),
             "dtype": _name(values)}
    if args.npy:
        with open(args.npy, "wb") as file:
            np.save(file, values, allow_pickle=False)
        output.say(f"wrote {tuple(values.shape)} {values.dtype} to {args.npy}")
        output.emit(args, {**facts, "npy": args.npy}, [])
    else:
        if args.json:
            facts["values"] = _jsonable(values.tolist())
        output.emit(args, facts, _lines(args, ids, values))
    return output.OK


def _plain(values: Array) -> Array:
    """The values in a type that prints and saves everywhere: bfloat16 is widened, which loses nothing."""
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def _name(values: Array) -> str:
    return "string" if values.dtype.kind in "TUO" else str(values.dtype)


def _lines(args: argparse.Namespace, ids: list[Any], values: Array) -> Iterator[str]:
    if args.epoch is None:
        for key, value in zip(ids, values, strict=True):
            yield f"{key}\t{_text(value)}"
        return
    flat = values.reshape(len(ids) * len(args.epoch), *values.shape[2:])
    for (key, epoch), value in zip(product(ids, args.epoch), flat, strict=True):
        yield f"{key}\t{epoch}\t{_text(value)}"


def _text(value: Any) -> str:
    return " ".join(str(item) for item in np.ravel(value)) if isinstance(value, np.ndarray) else str(value)


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
