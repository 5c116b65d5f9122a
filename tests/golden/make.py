"""Makes the golden store anew and puts its bytes into FORMAT.md: only where format 1 itself changes, before its release.

    python tests/golden/make.py

Its times and host are fixed, so that nobody's machine is named; everything else is what the Writer wrote.
"""

from __future__ import annotations

import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np

import zstore
from zstore.format import keys

HERE = Path(__file__).parent
FORMAT = HERE.parent.parent / "FORMAT.md"
STORE = HERE / "example.zarr"


def make() -> None:
    shutil.rmtree(STORE, ignore_errors=True)
    socket.gethostname, time.time = (lambda: "example"), (lambda: 1_700_000_000.0)
    with zstore.Writer(STORE, codec="raw", rows_per_shard=4, commit_every_s=None) as writer:
        writer.append([7, 9], np.array([[1, 2], [3, 4]], np.float32))
        writer.commit(tag="first")
    for litter in (STORE / "_zstore" / "live").iterdir():
        litter.unlink()


def describe() -> None:
    shard = (STORE / "vectors" / "c.0.0").read_bytes()
    lines = [" ".join(shard[at:at + 4].hex() for at in range(row, min(row + 32, len(shard)), 4))
             for row in range(0, len(shard), 32)]
    record = (STORE / "_zstore" / "commits" / f"{1:020d}.json").read_text().strip()
    wrapped = re.sub(r"(.{1,118})(,|$)", r"\1\2\n", record).strip()
    key, check = keys.hash_string(b"doc-17", 1)
    text = FORMAT.read_text()
    text = re.sub(r"(?s)(```hex\n).*?(\n```)", lambda m: m[1] + "\n".join(lines) + m[2], text)
    text = re.sub(r"(?s)(wrapped here\):\n\n```json\n).*?(\n```)", lambda m: m[1] + wrapped + m[2], text)
    text = re.sub(r'("doc-17" has key )0x\w+( and check )0x\w+', rf"\g<1>0x{key:016X}\g<2>0x{check:08X}", text)
    FORMAT.write_text(text)


if __name__ == "__main__":
    make()
    describe()
