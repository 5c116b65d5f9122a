"""HTTP/1.1 from a distance: what is between a client and the service, which is slow and counts. For ``slow_s3``."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from benchmarks.s3_answers import Frames, Reply, Request, Service

COUNTS = "/_counts"         # GET: the counts; DELETE: the counts, and they begin anew. Neither counted nor slow.
METHODS = ("GET", "HEAD", "LIST", "PUT", "POST", "DELETE")
SLICE = 256 << 10
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class Distance:
    """From the last byte of a request to the first of its reply, and bytes per second in each direction: of one connection,
    and of all of them. 0 is no bound."""

    latency_s: float = 0.020
    connection: float = 100e6
    total: float = 500e6


class Pipe:
    """Bytes per second; who comes later waits until those before are through."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, 0.0

    def through(self, now: float, size: int) -> float:
        """When so many bytes are through that come now."""
        self._free = max(self._free, now) + (size / self._rate if self._rate else 0.0)
        return self._free


class Front:
    """What all connections share: the service, the distance, the counts."""

    def __init__(self, distance: Distance) -> None:
        self.distance, self.service = distance, Service()
        self.up, self.down = Pipe(distance.total), Pipe(distance.total)
        self.forget()

    def forget(self) -> None:
        """The counts begin anew."""
        self.counts = dict.fromkeys((*METHODS, "in", "out"), 0)
        self.rounds = 0             # the longest chain among requests that are answered

    async def answer(self, request: Request, up: Pipe) -> Reply:
        """Wait as long as the way takes, then do it."""
        if request.path == COUNTS:
            told = self.counts | {"rounds": self.rounds}
            if request.method == "DELETE":
                self.forget()
            return Reply(200, {}, json.dumps(told).encode())
        self.counts[request.kind] += 1
        self.counts["in"] += len(request.body)
        counts, chain = self.counts, self.rounds + 1
        await self.pace(len(request.body), up, self.up)
        await asyncio.sleep(self.distance.latency_s)
        reply = self.service.answer(request)
        if counts is self.counts:
            self.counts["out"] += len(reply.body)
            self.rounds = max(self.rounds, chain)
        return reply

    async def pace(self, size: int, *pipes: Pipe) -> None:
        """Until so many bytes are through these pipes."""
        while size > 0:
            now = time.monotonic()
            wait = max(pipe.through(now, min(size, SLICE)) for pipe in pipes) - now
            if wait > 0.001:
                await asyncio.sleep(wait)
            size -= SLICE


class Connection(asyncio.BufferedProtocol):
    """HTTP/1.1: requests come one after another, a body straight into its place."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._up, self._down = Pipe(front.distance.connection), Pipe(front.distance.connection)
        self._head, self._filled = bytearray(_HEAD_BYTES), 0
        self._request: Request | None = None        # its body is still coming
        self._got = 0
        self._frames: Frames | None = None          # of a body that comes without its length
        self._task: asyncio.Task[None] | None = None
        self._flows = asyncio.Event()
        self._flows.set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=4 * SLICE)

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._flows.clear()

    def resume_writing(self) -> None:
        self._flows.set()

    def get_buffer(self, hint: int) -> memoryview:
        if self._request is not None and self._frames is None:
            return memoryview(self._request.body)[self._got:]
        return memoryview(self._head)[self._filled:]

    def buffer_updated(self, count: int) -> None:
        if self._request is not None and self._frames is not None:
            self._unframe(self._request, memoryview(self._head)[:count])
        elif self._request is not None:
            self._got += count
        else:
            self._filled += count
        self._go_on()

    def _go_on(self) -> None:
        if self._task is not None:          # one at a time; a client that sends ahead waits
            if self._filled == _HEAD_BYTES:
                self._transport.pause_reading()
            return
        if self._request is None and not self._begin():
            return
        request = self._request
        assert request is not None
        if self._got == len(request.body) and self._frames is None:
            self._request = None
            self._task = asyncio.get_running_loop().create_task(self._reply(request))

    def _begin(self) -> bool:
        """Take a request's head from what came; whether it is there."""
        end = self._head.find(b"\r\n\r\n", 0, self._filled)
        if end < 0:
            if self._filled == _HEAD_BYTES:
                self._transport.abort()
            return False
        first, *lines = bytes(self._head[:end]).decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        body = bytearray(int(headers.get("content-length", 0)))
        rest = bytes(self._head[end + 4:self._filled])
        self._got = min(len(rest), len(body))
        body[:self._got] = rest[:self._got]
        self._filled = len(rest) - self._got
        self._head[:self._filled] = rest[self._got:]
        framed = headers.get("transfer-encoding", "").lower() == "chunked"
        if headers.get("expect", "").lower() == "100-continue" and (self._got < len(body) or framed):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._request = Request(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, body)
        if framed:
            self._frames, self._filled = Frames(), 0
            self._unframe(self._request, rest)
        return True

    def _unframe(self, request: Request, data: bytes | memoryview) -> None:
        assert self._frames is not None
        if self._frames.add(data):
            request.body, self._frames = self._frames.body, None
            self._got = len(request.body)

    async def _reply(self, request: Request) -> None:
        reply = await self._front.answer(request, self._up)
        length = len(reply.body) if reply.length is None else reply.length
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", f"Date: {formatdate(usegmt=True)}",
                 "Server: slow-s3", *(f"{name}: {value}" for name, value in reply.headers.items())]
        if reply.status not in (204, 304):
            lines.append(f"Content-Length: {length}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        view = memoryview(reply.body)
        for at in range(0, len(view), SLICE):
            await self._front.pace(len(view[at:at + SLICE]), self._down, self._front.down)
            await self._flows.wait()
            self._transport.write(view[at:at + SLICE])
        self._task = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._go_on()
