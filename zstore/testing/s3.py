"""An S3 server on this machine, with moto: conditional requests hold, and a log says what was asked of it.

It runs in a process of its own, so that it shares no interpreter lock, no event loop and no fork with who asks; the
process ends with the ``Server``, or with the process that made it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

_LOG = "/_zstore_requests"
_START_S = 120.0

_PROGRAM = """
import sys
from zstore.testing.s3 import serve
serve()
"""


class Server:
    """``with Server() as server``: the server, with one bucket.

    ``endpoint`` (``http://127.0.0.1:<port>``) serves other processes too; ``options`` are the ``storage_options`` of a
    store in it; ``url(name)`` is a place in the bucket that nobody used.
    """

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self._process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", _PROGRAM], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        try:
            self.endpoint = self._endpoint()
            self._ask("PUT", f"/{bucket}")
        except BaseException:
            self.close()
            raise

    @property
    def options(self) -> dict[str, Any]:
        """A new ``storage_options`` for s3fs: where the server is, and a key and secret that open nothing else."""
        return {"endpoint_url": self.endpoint, "key": "tester", "secret": "tester's secret",
                "client_kwargs": {"region_name": "us-east-1"}}

    def url(self, name: str = "") -> str:
        """``s3://<bucket>/<name>``; without a name, one of its own."""
        return f"s3://{self.bucket}/{name or uuid.uuid4().hex}"

    def requests(self, forget: bool = True) -> list[str]:
        """What was asked since the last time, in order: "GET /bucket/key?query"."""
        log: list[str] = json.loads(self._ask("DELETE" if forget else "GET", _LOG))
        return log

    def close(self) -> None:
        """End the process; a second time does nothing."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if process.poll() is None:
            process.kill()
        process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _endpoint(self) -> str:
        assert self._process.stdout is not None
        clock = threading.Timer(_START_S, self._process.kill)
        clock.start()
        try:
            port = self._process.stdout.readline().strip()
        finally:
            clock.cancel()
        if not port:
            raise OSError("the S3 server did not start")
        return f"http://127.0.0.1:{port}"

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(self.endpoint + path, method=method)
        # Straight to loopback, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            body: bytes = answer.read()
        return body


def serve() -> None:
    """The server process: print the port, serve until stdin ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None:
            """Say nothing."""

    application = OneByOne(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


class OneByOne:
    """A WSGI application whose requests are taken one by one, and counted.

    moto looks at a condition and then writes, in threads; one lock makes the two one step, as in S3.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            if path == _LOG:
                told, self._log = self._log, [] if method == "DELETE" else self._log
                start_response("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(told).encode()]
            query = environ.get("QUERY_STRING", "")
            self._log.append(f"{method} {path}?{query}" if query else f"{method} {path}")
            return list(self._application(environ, start_response))
