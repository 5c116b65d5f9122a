"""HTTP/1.1 as bytes on a connection: whole requests come in, whole or half replies go out."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect"}
_MOST_BYTES = 64 << 20


@dataclass
class Request:
    """One request, whole. ``key`` is the object's, without bucket and query."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def header(self, name: str) -> str:
        """Its value, "" where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def what(self) -> str:
        """Its kind, by the object: "claim", "shard", "over" (a shard written again), "run", "record", "tag", "live",
        "document", "list", "other"; in front the method where it is not PUT."""
        key = self.key
        if self.method == "GET" and "list-type" in self.query:
            return "list"
        kind = next((name for name, part in _KINDS if part in f"/{key}"), "other")
        if kind == "shard" and self.method == "PUT" and self.header("if-match"):
            kind = "over"
        return kind if self.method == "PUT" else f"{self.method} {kind}"


_KINDS = (("claim", "/_zstore/claims/"), ("run", "/_zstore/index/"), ("record", "/_zstore/commits/"), ("tag", "/_zstore/tags/"),
          ("live", "/_zstore/live/"), ("document", "zarr.json"), ("shard", "/c."))


@dataclass
class Reply:
    """One reply, whole."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class Stream:
    """Requests from a connection that is kept alive."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._buffer = b""

    def request(self) -> Request | None:
        """The next one, None at the end."""
        try:
            head = self._until(b"\r\n\r\n")
        except EOFError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]
        request = Request(method, target, headers, b"")
        if request.header("expect").lower() == "100-continue":
            self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.header("transfer-encoding").lower() == "chunked":
            request.body = self._chunks()
        else:
            request.body = self._exactly(int(request.header("content-length") or 0))
        return request

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self._until(b"\r\n").split(b";")[0], 16):
            pieces.append(self._exactly(size))
            self._until(b"\r\n")
        while self._until(b"\r\n"):
            pass
        return b"".join(pieces)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        data, _, self._buffer = self._buffer.partition(mark)
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _more(self) -> None:
        data = self._client.recv(1 << 16)
        if not data or len(self._buffer) > _MOST_BYTES:
            raise EOFError
        self._buffer += data


def send(client: socket.socket, request: Request, reply: Reply, *, half: bool = False) -> bool:
    """Send it, or half of it and then a reset; whether the connection goes on."""
    lines = [f"HTTP/1.1 {reply.status} {reply.reason}"]
    lines += [f"{name}: {value}" for name, value in reply.headers
              if name.lower() not in HOP and (name.lower() != "content-length" or request.method == "HEAD")]
    if request.method != "HEAD":
        lines.append(f"Content-Length: {len(reply.body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if half:
        client.sendall(head + reply.body[:len(reply.body) // 2] if reply.body else head[:len(head) // 2])
        return reset(client)
    client.sendall(head + reply.body)
    return True


def reset(client: socket.socket) -> bool:
    """End the connection with an error at the other side; False, for it does not go on."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
