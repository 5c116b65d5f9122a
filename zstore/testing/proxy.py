"""A bad network between a client and an S3 server, on this machine: requests fail, replies get lost, copies come late.

``Proxy`` stands between the two and does to each request what its ``plan`` says. Nothing in it is random, and the client
cannot tell it from the real thing.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from zstore.testing.wire import HOP, Reply, Request, Stream, reset, send

#: What can be done to a request; "pass" is nothing.
ACTIONS = (
    "500", "503", "409", "412",                             # answered in the server's place, and not passed on
    "lost 500", "lost 503", "lost 409", "lost reset",       # passed on; the client is told something else, or nothing
    "reset", "torn request", "torn reply",                  # the connection ends before, in the midst of either
    "slow", "black hole", "lost black hole",                # answered late; never answered, and passed on or not
    "twice", "twice, first reply",                          # the server gets it twice; the client gets one reply
    "late 500", "late reset", "late 503",                   # the client is told so now; the server gets it later
    "late twice",                                           # passed on and answered, and once more later
    "stale",                                                # a listing: the one before, or an empty one
)
SLOW_S = 0.05
_CODES = {500: "InternalError", 503: "SlowDown", 409: "ConditionalRequestConflict", 412: "PreconditionFailed"}


@dataclass
class Proxy:
    """``with Proxy(server.endpoint) as proxy``: what asks ``proxy.endpoint`` reaches the server, as ``plan`` lets it.

    ``plan`` gives the action for a request; it runs under a lock, for one request after another. ``after``: how many further
    requests a late one waits for. ``seen`` is what was asked, by kind, in order.
    """

    server: str
    plan: Callable[[Request], str] = field(default_factory=lambda: _pass)
    after: int = 1
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        where = urlsplit(self.server)
        self._to = (str(where.hostname), int(where.port or 80))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._late: list[tuple[int, Request]] = []      # how many requests came before it is due
        self._listings: dict[str, Reply] = {}
        self._open: dict[threading.Thread, socket.socket] = {}
        self._door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()

    def deliver_late(self) -> int:
        """Pass on every late request now; how many there were."""
        with self._lock:
            due, self._late = self._late, []
        for _, request in reversed(due):        # the oldest comes last, over all that is newer
            self._pass(request)
        return len(due)

    def close(self) -> None:
        """End every connection, and the threads."""
        self._ended.set()
        # A close alone would leave the thread in accept().
        _quietly(lambda: self._door.shutdown(socket.SHUT_RDWR))
        self._door.close()
        self._acceptor.join(10)
        with self._lock:
            threads = dict(self._open)
        for client in threads.values():
            _quietly(lambda client=client: client.shutdown(socket.SHUT_RDWR))       # type: ignore[misc]
        for thread in threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(client,), name="proxy-connection", daemon=True)
            with self._lock:
                self._open[thread] = client
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        stream = Stream(client)
        try:
            while not self._ended.is_set():
                request = stream.request()
                if request is None or not self._act(request, client):
                    return
        except (OSError, http.client.HTTPException):
            pass                        # the client went away
        finally:
            client.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _act(self, request: Request, client: socket.socket) -> bool:
        """Do what the plan says; whether the connection goes on."""
        with self._lock:
            due = [late for number, late in self._late if number <= len(self.seen)]
            self._late = [(number, late) for number, late in self._late if number > len(self.seen)]
            self.seen.append(request.what)
            action = self.plan(request)
        for late in due:                # before this one, so that it finds what they did
            self._pass(late)
        how, _, told = action.partition(" ")
        if action.startswith("late "):
            with self._lock:
                self._late.append((len(self.seen) + self.after, request))
            action = "pass" if told == "twice" else told
        elif how == "lost":
            self._pass(request)
            action = told
        if action == "reset":
            return reset(client)
        if action == "black hole":
            self._ended.wait(1e6) if client.recv(1) else None       # until the client has enough of it
            return False
        if action == "torn request":
            self._pass_half(request)
            return reset(client)
        if action.isdigit():
            return send(client, request, _refusal(int(action), request))
        if action == "slow":
            time.sleep(SLOW_S)
        reply = self._pass(request)
        if action.startswith("twice"):
            second = self._pass(request)
            reply = second if action == "twice" else reply
        if request.what == "list":
            with self._lock:
                before = self._listings.get(request.target)
                self._listings[request.target] = reply
            if action == "stale":
                reply = before or _emptied(reply)
        if action == "torn reply":
            return send(client, request, reply, half=True)
        return send(client, request, reply)

    def _pass(self, request: Request) -> Reply:
        """Hand it to the server and wait for what it says."""
        connection = http.client.HTTPConnection(*self._to, timeout=60)
        try:
            connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in HOP | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body)
            answer = connection.getresponse()
            return Reply(answer.status, answer.reason, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _pass_half(self, request: Request) -> None:
        """The server gets the head and half of the body, and then the end of the connection."""
        with socket.create_connection(self._to, timeout=60) as server:
            lines = [f"{request.method} {request.target} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in request.headers if name.lower() not in HOP | {"content-length"}]
            head = "\r\n".join([*lines, f"Content-Length: {len(request.body)}", "", ""]).encode("latin-1")
            server.sendall((head + request.body[:len(request.body) // 2]) if request.body else head[:len(head) // 2])
            server.shutdown(socket.SHUT_WR)
            _quietly(lambda: server.recv(1 << 16))


def _refusal(status: int, request: Request) -> Reply:
    code = _CODES[status]
    condition = "<Condition>If-None-Match</Condition>" if status == 412 and request.header("if-none-match") else ""
    body = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>injected {code}</Message>{condition}'
            "<RequestId>0</RequestId></Error>").encode()
    return Reply(status, code, [("Content-Type", "application/xml")], body)


def _emptied(reply: Reply) -> Reply:
    """The same listing without its entries."""
    text = reply.body.decode()
    for tag in ("Contents", "CommonPrefixes"):
        while f"<{tag}>" in text:
            start, end = text.index(f"<{tag}>"), text.index(f"</{tag}>") + len(tag) + 3
            text = text[:start] + text[end:]
    return Reply(reply.status, reply.reason, reply.headers, text.encode())


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except OSError:
        pass


def _pass(request: Request) -> str:
    return "pass"
