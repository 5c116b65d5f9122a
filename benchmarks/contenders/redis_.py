"""Redis: a real server of its own on a unix socket, MSET and MGET in batches.

A row lies under "epoch:id". Redis has no row numbers: one list holds the keys in the order in which they came, and a client
reads that list once, at its first question by number. The server ends with the contender, and is started again by the next:
opening is the start of a server that reads its file.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.contender import Cannot, Contender, Missing
from benchmarks.data import Array, Data, dtype_of

BATCH, SCAN_ROWS, ORDER = 1_000, 4_096, "order"


class Redis(Contender):
    """An append-only file, synced each second."""

    durable = False
    durability = "its own fsync, once a second: what came after it is lost with the machine"
    settings = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0", "--save", "")
    ending = "nosave"

    def __init__(self, place: str, data: Data, storage_options: dict[str, Any] | None = None) -> None:
        super().__init__(place, data, storage_options)
        if shutil.which("redis-server") is None:
            raise Missing("apt-get install redis-server")
        self._server: subprocess.Popen[bytes] | None = None
        self._extra: dict[str, Any] = {}

    def _start(self) -> None:
        self._order: list[bytes] | None = None
        if self._server is not None:
            return
        # A socket's path may have 107 characters and no more; a longer place has its socket elsewhere.
        self._elsewhere = tempfile.mkdtemp(prefix="redis-") if len(self.place) > 90 else None
        socket = f"{self._elsewhere or self.place}/socket"
        self._server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", self.place, "--daemonize", "no",
             "--rdbcompression", "no", *self.settings], stdout=subprocess.DEVNULL, preexec_fn=_end_with_parent)
        self._client = redis.Redis(unix_socket_path=socket, retry=Retry(NoBackoff(), 0))
        for _ in range(60_000):
            try:
                if not self._client.info("persistence")["loading"]:
                    break
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                if self._server.poll() is not None:
                    raise RuntimeError(f"redis-server ended with {self._server.returncode}") from None
            time.sleep(0.001)

    # -- writing ----------------------------------------------------------------------------------------------------------
    def create(self) -> None:
        Path(self.place).mkdir(parents=True)
        self._start()

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        keys = [f"{epoch}:{name}" for name in ids]
        rows = np.ascontiguousarray(vectors).view(np.uint8)
        pipe = self._client.pipeline(transaction=True)
        pipe.mset(dict(zip(keys, [row.tobytes() for row in rows], strict=True)))
        pipe.rpush(ORDER, *keys)
        pipe.execute()

    def commit(self) -> None:
        """Every call was answered already; the file is synced by the server's own clock."""

    def finish(self) -> None:
        """The server stays until ``close``."""

    def resume(self, rows: int) -> None:
        self._start()
        if self.count() < rows:
            raise Cannot(f"{self.count():,} of {rows:,} rows are left: what no file holds dies with the server")
        late = self._client.lrange(ORDER, rows, -1)
        for at in range(0, len(late), BATCH):
            self._client.unlink(*late[at:at + BATCH])
        self._client.ltrim(ORDER, 0, rows - 1)

    # -- reading ----------------------------------------------------------------------------------------------------------
    def open(self) -> None:
        self._start()

    def count(self) -> int:
        return int(self._client.llen(ORDER))

    def _keys(self) -> list[bytes]:
        if self._order is None:
            self._order = self._client.lrange(ORDER, 0, -1)
        return self._order

    def _get(self, keys: list[Any]) -> Array:
        """MGET by a thousand."""
        values: list[bytes] = []
        for at in range(0, len(keys), BATCH):
            values += self._client.mget(keys[at:at + BATCH])
        return np.frombuffer(b"".join(values), dtype_of(self.data.dtype)).reshape(-1, self.data.dim)

    def gather(self, rows: Array) -> Array:
        order = self._keys()
        return self._get([order[row] for row in np.asarray(rows).tolist()])

    def key(self, id: str, epoch: int) -> Array:
        return np.frombuffer(self._client.get(f"{epoch}:{id}"), dtype_of(self.data.dtype))

    def keys(self, ids: list[str], epoch: int) -> Array:
        return self._get([f"{epoch}:{name}" for name in ids])

    def scan(self) -> Iterator[Array]:
        order = self._keys()
        for at in range(0, len(order), SCAN_ROWS):
            yield self._get(order[at:at + SCAN_ROWS])

    def epoch(self, epoch: int) -> Array:
        head = f"{epoch}:".encode()
        return self._get([key for key in self._keys() if key.startswith(head)])

    def extra(self) -> dict[str, Any]:
        self._measure()
        return dict(self._extra)

    def _measure(self) -> None:
        if self._server is not None:
            self._extra = {"server_mb": round(self._client.info("memory")["used_memory_rss"] / 1e6)}

    def close(self) -> None:
        """End the server, by its pid if it does not go."""
        if self._server is None:
            return
        self._measure()
        try:
            self._client.shutdown(nosave=self.ending == "nosave", save=self.ending == "save")
        except redis.ConnectionError:
            pass
        self._client.close()
        try:
            self._server.wait(60)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None
        if self._elsewhere is not None:
            shutil.rmtree(self._elsewhere, ignore_errors=True)


class RedisMemory(Redis):
    """Memory alone while it runs; a snapshot when it ends, so that the next process finds the rows."""

    durable = False
    durability = "none while it runs: memory; a snapshot, not synced, when it ends"
    settings = ("--appendonly", "no", "--save", "")
    ending = "save"


def _end_with_parent() -> None:
    """A contender that is killed takes its server along, as a preempted machine does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
