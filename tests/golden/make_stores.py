"""Makes the golden stores of this release, and PROVENANCE.md: once per release, into a folder of its own.

    python tests/golden/make_stores.py

A store that is here is never made anew: every later release must read these very bytes. Ids, times, host and pid are
fixed, so that nobody's machine is named; everything else is what the Writer wrote.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import shutil
import socket
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import zstore

HERE = Path(__file__).parent
STORES = HERE / zstore.__version__
PROVENANCE = HERE / "PROVENANCE.md"
SHAPES = [*((codec, ids, "float32") for codec in ("raw", "lossless", "small") for ids in ("int64", "str")),
          ("raw", "int64", "bfloat16"), ("lossless", "str", "bfloat16")]


def name_of(codec: str, ids: str, dtype: str) -> str:
    return f"{codec}-{ids}-{dtype}.zarr"


def fixed(store: str) -> None:
    """Everything that would be different the next time, the same for the same store."""
    count, now = itertools.count(), itertools.count(1_700_000_000)
    secrets.token_hex = lambda nbytes=32: hashlib.sha256(f"{store} {next(count)}".encode()).hexdigest()[:2 * nbytes]
    time.time = lambda: float(next(now))
    socket.gethostname, os.getpid = lambda: "example", lambda: 4242


def append(writer: zstore.Writer, ids: str, dtype: str, rows: list[int], epoch: int) -> None:
    from zstore.format.dtypes import numpy_dtype

    vectors = np.array([[row, row + 0.5, -row] for row in rows], np.float32).astype(numpy_dtype(dtype))
    writer.append([3 * row if ids == "int64" else f"id-{row}-ü" for row in rows], vectors, epoch=epoch,
                  label=np.array(rows, np.int16) % 3, note=[f"note {row % 2}" for row in rows])


def live(url: Path, codec: str, ids: str, dtype: str) -> None:
    """Two members of a session, a tag, an added field, a rollback, a handed-over tail, deleted keys."""
    options: dict[str, Any] = {"codec": codec, "rows_per_shard": 8, "commit_every_s": None}
    with zstore.Writer(url, session="launch", **options) as one:
        append(one, ids, dtype, [0, 1, 2, 3], 0)
        one.commit(tag="early", meta={"loss": 0.5})
        with zstore.Writer(url, session="launch", member=1, commit_every_s=None) as two:
            append(two, ids, dtype, [100, 101], 0)
            two.commit()
    with zstore.Writer(url, commit_every_s=None) as writer:
        append(writer, ids, dtype, [1, 2, 10, 11, 12], 1)
        writer.commit()
        writer.add_field("cluster", np.arange(11, dtype=np.int32) * 10)
        append(writer, ids, dtype, [13], 1)
        writer.commit(tag="added")
        append(writer, ids, dtype, [50, 51], 2)
        writer.commit(tag="cut")
    zstore.rollback(url, "added")
    with zstore.Writer(url, commit_every_s=None) as writer:
        append(writer, ids, dtype, [60, 61, 62], 3)
    with zstore.Writer(url, commit_every_s=None) as writer:
        append(writer, ids, dtype, [63], 3)
        writer.commit(tag="last")
    zstore.delete(url, [3 * row if ids == "int64" else f"id-{row}-ü" for row in (2, 61)])


def provenance() -> str:
    """What made the stores, and the hash of every file."""
    stores = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__")
    lines = ["# Golden stores", "",
             "Stores that releases wrote, kept as they are: every later release of format 1 reads them, value for value.",
             "`test_golden.py` holds the values, and holds the files against this page.", "",
             f"`{zstore.__version__}/` was made by zstore {zstore.__version__} (Python {sys.version.split()[0]}, numpy "
             f"{np.__version__}, numcodecs {version('numcodecs')}) with `python tests/golden/make_stores.py`;",
             "`example.zarr`, the worked example of FORMAT.md, with `python tests/golden/make.py`.", "", "```sha256"]
    lines += [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(HERE)}"
              for store in stores for path in sorted(store.rglob("*")) if path.is_file()]
    return "\n".join([*lines, "```"]) + "\n"


def main() -> None:
    warnings.simplefilter("ignore")
    shutil.rmtree(STORES, ignore_errors=True)
    STORES.mkdir()
    for shape in SHAPES:
        url = STORES / name_of(*shape)
        fixed(url.name)
        live(url, *shape)
        for folder in ("live", "tmp"):
            shutil.rmtree(url / "_zstore" / folder)
    PROVENANCE.write_text(provenance())


if __name__ == "__main__":
    main()
