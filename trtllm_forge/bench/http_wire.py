"""The ``generate_stream`` extension over HTTP/1.1 connections that are kept open.

While a load runs only the head of an answer is read, and where it ends; the events are taken
apart afterwards.

Streaming 50 tokens to 16 requests at once takes 15 % of a core this way and 75 % with httpx,
which completes 10 to 15 % fewer of them: the client would then show in the figures.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from trtllm_forge.bench.wire import Failure, Received, Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtllm_forge.bench.target import Target
    from trtllm_forge.triton.client.address import ServerUrls

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"


def open_wire(urls: ServerUrls, *, timeout_s: float) -> HttpWire:
    """Return a wire to a server's HTTP service."""
    return HttpWire(urls.http, timeout_s=timeout_s)


class HttpWire:
    """A pool of connections to one server: each is used by one request at a time.

    Args:
        url: Scheme, host and port.
        timeout_s: How long a whole answer may take.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._netloc = parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []

    def encode(self, target: Target, inputs: Mapping[str, Any]) -> bytes:
        """Return the request's head and JSON body."""
        body = json.dumps({"id": f"forge-{uuid.uuid4().hex}", **inputs}).encode()
        head = (
            f"POST /v2/models/{quote(target.model)}/generate_stream HTTP/1.1\r\n"
            f"Host: {self._netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def send(self, message: bytes) -> Received:
        """Send over an idle connection, or a new one, whose opening counts as part of it."""
        received = Received(sent_s=time.perf_counter())
        try:
            connection = self._take_idle() or await self._connect()
        except OSError as error:
            received.failure = Failure(kind="disconnected", message=str(error))
        except asyncio.TimeoutError:
            received.failure = Failure(kind="timeout", message="no connection in time")
        else:
            await connection.ask(message, received, self._timeout_s)
            if connection.is_open:
                self._idle.append(connection)
        received.ended_s = received.ended_s or time.perf_counter()
        return received

    def read(self, received: Received) -> list[Response]:
        """Return the events of a stream, or the error that came instead."""
        head, rest = _split_head(received.pieces)
        body = _unchunked(rest) if b"chunked" in head.lower() else iter(rest)
        responses = []
        for time_s, line in _lines(body):
            if line.startswith(b"data:"):
                responses.append(_response(time_s, json.loads(line[5:])))
            elif line.startswith(b"{"):
                responses.append(_response(time_s, json.loads(line)))
        return responses

    async def close(self) -> None:
        """Close the idle connections; every other has closed itself."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        """Return a connection that the server has not closed in the meantime."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await asyncio.wait_for(
            loop.create_connection(_Connection, self._host, self._port, ssl=self._tls),
            self._timeout_s,
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection and the one request that is on it."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._over: asyncio.Future[None] | None = None
        self._received = Received(sent_s=0.0)
        self._head = b""
        self._tail = b""
        self._missing_bytes: int | None = None

    async def ask(self, message: bytes, received: Received, timeout_s: float) -> None:
        """Send a request and wait until its answer has ended, in whatever way."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self._received = received
        self._head = self._tail = b""
        self._missing_bytes = None
        if self._transport is None or self._transport.is_closing():
            self._fail(Failure(kind="disconnected", message="the server closed the connection"))
        else:
            self._transport.write(message)
        timer = loop.call_later(timeout_s, self._expire, timeout_s)
        try:
            await self._over
        finally:
            timer.cancel()
            if not self._over.done() or self._over.cancelled():
                self.close()

    def close(self) -> None:
        """Close it, and with it cancel a request that still runs."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
            self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Note when the bytes came, and whether they are the last ones."""
        now_s = time.perf_counter()
        self._received.pieces.append((now_s, data))
        if self._missing_bytes is None:
            if not self._read_head(data):
                return
            data = self._head.partition(_HEAD_END)[2]
            # The last chunk may be the only one, without a line end of another before it.
            self._tail = b"\r\n"
        if self._missing_bytes is not None and self._missing_bytes >= 0:
            self._missing_bytes -= len(data)
            if self._missing_bytes <= 0:
                self._finish(now_s)
        else:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            if self._tail == _LAST_CHUNK:
                self._finish(now_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that was on it."""
        self.is_open = False
        message = str(exc) if exc else "the server closed the connection"
        self._fail(Failure(kind="disconnected", message=message))

    def _read_head(self, data: bytes) -> bool:
        """Return whether the head is whole; then the length of the body is known, or chunked."""
        self._head += data
        head, end, _ = self._head.partition(_HEAD_END)
        if not end:
            return False
        self._missing_bytes = -1
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                self._missing_bytes = int(value)
        return True

    def _expire(self, timeout_s: float) -> None:
        message = f"no whole answer within {timeout_s:g} s"
        self._fail(Failure(kind="timeout", message=message))
        self.close()

    def _finish(self, now_s: float) -> None:
        self._received.ended_s = now_s
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fail(self, failure: Failure) -> None:
        if self._over is not None and not self._over.done():
            self._received.failure = failure
            self._finish(time.perf_counter())


def _split_head(pieces: Sequence[tuple[float, bytes]]) -> tuple[bytes, list[tuple[float, bytes]]]:
    head = b""
    for number, (time_s, data) in enumerate(pieces):
        head += data
        if _HEAD_END in head:
            head, _, body = head.partition(_HEAD_END)
            return head, [(time_s, body), *pieces[number + 1 :]]
    return head, []


def _unchunked(pieces: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Give the content of HTTP chunks, each part with the time when it came."""
    held = b""
    missing = 0
    for time_s, data in pieces:
        held += data
        while held:
            if missing:
                part, held = held[:missing], held[missing:]
                missing -= len(part)
                yield time_s, part
                continue
            # Between two chunks stands a line end, before the size of the next.
            size, end, rest = held.removeprefix(b"\r\n").partition(b"\r\n")
            if not end:
                break
            held = rest
            missing = int(size.partition(b";")[0], 16)
            if not missing:
                return


def _lines(pieces: Iterator[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Give lines, each with the time when its end came."""
    held = b""
    time_s = 0.0
    for time_s, data in pieces:
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            yield time_s, line
    if held:
        yield time_s, held


def _response(time_s: float, document: object) -> Response:
    if not isinstance(document, dict):
        message = f"an event is a {type(document).__name__}, wanted an object"
        raise ValueError(message)
    error = document.get("error")
    tensors = {
        name: value if isinstance(value, list) else [value] for name, value in document.items()
    }
    return Response(time_s=time_s, tensors=tensors, error=None if error is None else str(error))
