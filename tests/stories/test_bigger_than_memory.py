"""Story 9: a compressed store four times the memory there is is scanned from end to end; a writer's memory is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore

ROOT = Path(__file__).parents[2]
DIM = 384
LIMIT = 2 * 2**30
ROWS = 4 * LIMIT // (4 * DIM)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and VmHWM are Linux's")

SCAN = """
    import json, resource, sys
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import numpy as np
    import zstore
    reader = zstore.Reader(sys.argv[1])
    try:
        reader.vectors
        refused = ""
    except MemoryError as error:
        refused = str(error)
    rows, total, firsts = 0, 0.0, []
    for batch in reader.batches():
        vectors = batch.vectors
        firsts.append(float(vectors[0, 0]))
        total += float(vectors[:, 0].sum(dtype=np.float64))
        assert (vectors[:, 1] == 1).all()
        rows += len(vectors)
    picked = np.random.default_rng(3).integers(0, rows, 500)
    values = reader[picked][:, 0]
    got = reader.get(picked[:100])[:, 0]
    print(json.dumps({"rows": rows, "total": total, "refused": refused, "sorted": firsts == sorted(firsts),
                      "picked": bool((values == picked).all() and (got == picked[:100]).all())}))
"""

APPEND = """
    import json, sys
    import numpy as np
    import zstore
    def peak():
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    url, codec, shard, shards = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rng = np.random.default_rng(1)
    block = rng.standard_normal((256, 384)).astype(np.float32)
    warm = zstore.Writer(url + ".warm", codec=codec, commit_every_s=None)
    warm.append([str(i) for i in range(256)], block)        # what the first batch imports and starts is not the run's
    warm.close()
    ids = [f"doc-{i:08d}" for i in range(256)]
    start, peaks = peak(), []
    with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=shard) as writer:
        for step in range(shards * shard // 256):
            writer.append(ids, block, epoch=step)
            if step % 50 == 49:
                writer.commit()
                peaks.append(peak() - start)
    print(json.dumps({"above": peak() - start, "peaks": peaks, "shard": shard * 384 * 4}))
"""


def child(source: str, *arguments: object) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)], env=env, text=True,
                          capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_full_scan_of_four_times_the_memory_finishes(tmp_path: Path) -> None:
    """8 GiB of float32, which compress well: the first number of each row is its own, the second is 1."""
    url, step = tmp_path / "big.zarr", 2**16
    vectors = np.zeros((step, DIM), np.float32)
    vectors[:, 1] = 1
    with zstore.Writer(url, codec="lossless", commit_every_s=None) as writer:
        for start in range(0, ROWS, step):
            count = min(step, ROWS - start)
            vectors[:count, 0] = np.arange(start, start + count)
            writer.append(range(start, start + count), vectors[:count])
    assert sum(path.stat().st_size for path in url.rglob("*") if path.is_file()) < 2.5e9
    found = child(SCAN, url, LIMIT)
    assert found["rows"] == ROWS
    assert found["total"] == ROWS * (ROWS - 1) / 2
    assert found["sorted"] and found["picked"]
    assert "8.0 GiB" in found["refused"] and "view.batches()" in found["refused"]


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_writer_s_memory_is_bounded_however_long_the_run(tmp_path: Path, codec: str) -> None:
    found = child(APPEND, tmp_path / "w.zarr", codec, 2**14, 12)
    assert found["above"] < 4 * found["shard"], found
