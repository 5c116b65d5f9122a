"""An S3 server on this machine that is as far away as one likes: a latency per request, a bandwidth, and counts.

``python -m benchmarks.slow_s3`` serves until its input ends; ``Server`` does that in a process of its own. It is one thread
of Python: ``alone`` measures what it can do without latency and bounds, which is the limit of everything measured with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.s3_distance import COUNTS, METHODS, Connection, Distance, Front

__all__ = ["METHODS", "Distance", "Server", "alone", "ask", "counts"]


class Server:
    """``with Server() as server``: the server with one bucket; ``options`` are the ``storage_options`` of s3fs for it."""

    def __init__(self, distance: Distance | None = None, bucket: str = "bucket") -> None:
        self.bucket, self.distance = bucket, distance or Distance()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slow_s3", json.dumps(asdict(self.distance))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1])
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()
        if not self.endpoint:
            self.close()
            raise OSError("the S3 server did not start")
        ask(self.endpoint, "PUT", f"/{bucket}")
        counts(self.endpoint, forget=True)

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint, "key": "tester", "secret": "tester's secret",
                "client_kwargs": {"region_name": "us-east-1"}}

    def url(self, name: str) -> str:
        """A place in the bucket."""
        return f"s3://{self.bucket}/{name}"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def counts(endpoint: str, forget: bool = False) -> dict[str, int] | None:
    """Requests by method, "in" and "out" (bytes of bodies), "rounds" (how many requests had to wait for one another: the
    longest chain of which each began after the reply to the one before); None where a server does not count."""
    try:
        status, body = ask(endpoint, "DELETE" if forget else "GET", COUNTS)
        return dict(json.loads(body)) if status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None


def ask(endpoint: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    where = urlsplit(endpoint)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(str(where.hostname), where.port, timeout=60)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def alone(times: int = 100, threads: int = 4) -> dict[str, float]:
    """What the server can do without latency and bounds, with clients that do nothing but ask: {"PUT of 1 MB": per second,
    "GET of 24 KB": per second, "GET of 8 MB": MB/s}."""
    with Server(Distance(0, 0, 0)) as server:
        ask(server.endpoint, "PUT", f"/{server.bucket}/large", bytes(8_000_000))
        kinds = {"PUT of 1 MB, per s": ("PUT", "one", bytes(1_000_000), "", 1.0),
                 "GET of 24 KB, per s": ("GET", "large", b"", "bytes=1000-25575", 1.0),
                 "GET of 8 MB, MB/s": ("GET", "large", b"", "", 8.0)}
        return {name: _rate(server, threads, times, *what) for name, what in kinds.items()}


def _rate(server: Server, threads: int, times: int, method: str, key: str, body: bytes, span: str, weight: float) -> float:
    where = urlsplit(server.endpoint)

    def work(number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection(str(where.hostname), where.port)) as connection:
            path, headers = f"/{server.bucket}/{key}{number if body else ''}", {"Range": span} if span else {}
            for _ in range(times // threads):
                connection.request(method, path, body, headers)
                connection.getresponse().read()

    begin = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return weight * times / (time.perf_counter() - begin)


async def serve(distance: Distance) -> None:
    """Print the endpoint, serve for ever."""
    front = Front(distance)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(front), "127.0.0.1", 0, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """The server process: it ends with its input."""
    def until_the_end() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=until_the_end, daemon=True).start()
    asyncio.run(serve(Distance(**json.loads(sys.argv[1])) if len(sys.argv) > 1 else Distance()))


if __name__ == "__main__":
    main()
