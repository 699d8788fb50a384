"""A load of ``generate_stream`` that shares no code with ``forge bench``, to check that by.

One thread, plain sockets, only the standard library. A closed loop of ``--concurrency`` requests,
with the prompts of a file as ``forge bench --prompts`` takes it, runs until stdin ends, or for
``--requests``. Then the answers, but for the first of each slot, go to stdout as JSON, one list
each: when it was sent, when its first text was received, when its end was, and its tokens. Times
are of the system's monotonic clock, which all processes share::

    python scripts/plain_client.py --concurrency 4 http://127.0.0.1:8000 prompts.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = ("exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens")
_SOME_TEXT = re.compile(rb'"text_output": ?"[^"]')
_COUNT = re.compile(rb'"num_output_tokens": ?(\d+)')

Answer = tuple[float, float, float, int]


class Connection:
    """A socket with one request after another on it.

    Attributes:
        answers: What has been answered whole.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: list[Answer] = []

    def fileno(self) -> int:
        """Return the descriptor, for the selector."""
        return self._socket.fileno()

    def ask(self, message: bytes) -> None:
        """Send a request."""
        self._answer = b""
        self._first = 0.0
        self._sent = time.monotonic()
        self._socket.sendall(message)

    def read(self) -> bool:
        """Take what has come; return whether that ends the answer."""
        piece = self._socket.recv(1 << 16)
        now = time.monotonic()
        if not piece:
            message = f"the server hung up after {self._answer!r}"
            raise SystemExit(message)
        self._answer += piece
        if not self._first and _SOME_TEXT.search(self._answer):
            self._first = now
        if not self._answer.endswith(b"\r\n0\r\n\r\n"):
            return False
        tokens = sum(map(int, _COUNT.findall(self._answer)))
        if not (self._first and tokens):
            message = f"the server answered {self._answer!r}"
            raise SystemExit(message)
        self.answers.append((self._sent, self._first, now, tokens))
        return True


def main() -> None:
    """Run the load that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--requests", type=int, help="end after so many instead")
    arguments = parser.parse_args()
    items = [json.loads(line) for line in arguments.prompts.read_text().splitlines()]
    print(json.dumps(run(arguments.url, items, arguments.concurrency, arguments.requests)))


def run(
    url: str, items: list[dict[str, Any]], concurrency: int, requests: int | None
) -> list[Answer]:
    """Return the answers to all requests but the first of each connection.

    Args:
        url: The server's HTTP address.
        items: The prompts, with ``prompt`` and ``output_tokens``.
        concurrency: Connections.
        requests: How many are sent; None for as many as there is time for until stdin ends.
    """
    count = None if requests is None else concurrency + requests
    messages: Iterator[bytes] = (
        _request(number, item)
        for number, item in enumerate(itertools.islice(itertools.cycle(items), count))
    )
    connections = [Connection(url) for _ in range(concurrency)]
    open_connections = set(connections)
    with selectors.DefaultSelector() as selector:
        if requests is None:
            selector.register(sys.stdin, selectors.EVENT_READ)
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.ask(next(messages))
        while open_connections:
            for key, _ in selector.select():
                if not isinstance(key.fileobj, Connection):
                    messages = iter(())
                    selector.unregister(key.fileobj)
                elif key.fileobj.read():
                    message = next(messages, None)
                    if message is None:
                        selector.unregister(key.fileobj)
                        open_connections.discard(key.fileobj)
                    else:
                        key.fileobj.ask(message)
    return sorted(answer for connection in connections for answer in connection.answers[1:])


def _request(number: int, item: dict[str, Any]) -> bytes:
    inputs = {"text_input": item["prompt"], "max_tokens": item["output_tokens"], "end_id": -1}
    inputs |= dict.fromkeys(("stream", *_FLAGS), True)
    body = json.dumps({"id": f"plain-{time.time_ns()}-{number}", **inputs})
    head = (
        "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


if __name__ == "__main__":
    main()
