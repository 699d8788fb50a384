"""The load generator, a process of its own: a closed loop over ``generate_stream``.

It reads a ``LoadPlan`` with ``host``, ``port``, ``model`` and ``tokenizer`` as JSON from stdin
and writes ``Rates`` to stdout. It shares the machine with the server, so it does as little as
possible while the load runs: chunks are kept with their times and read afterwards.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scripts.measure.streams import LoadPlan, Stream, prompt, rates

if TYPE_CHECKING:
    from collections.abc import Callable

CORE_MODEL = "tensorrt_llm"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model to load, and the tokenizer that makes prompts for one that takes ids."""

    host: str
    port: int
    model: str
    tokenizer: str

    def encoder(self) -> Callable[[str], list[int]]:
        """Return what turns text into ids; never called for a model that takes text."""
        if self.model != CORE_MODEL:
            return lambda _text: []
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(self.tokenizer)
        return lambda text: list(tokenizer.encode(text).ids)

    def request(self, text: str, ids: list[int], length: int) -> bytes:
        """Return a streaming request as it goes over the wire."""
        inputs: dict[str, Any]
        if self.model == CORE_MODEL:
            inputs = {"input_ids": ids, "input_lengths": len(ids), "request_output_len": length}
            inputs["streaming"] = True
        else:
            inputs = {"text_input": text, "max_tokens": length, "stream": True}
        inputs |= {"id": uuid.uuid4().hex, "end_id": -1, "return_num_output_tokens": True}
        body = json.dumps(inputs).encode()
        head = (
            f"POST /v2/models/{self.model}/generate_stream HTTP/1.1\r\nHost: {self.host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Load:
    """What the slots of one load share."""

    def __init__(self, endpoint: Endpoint, plan: LoadPlan) -> None:
        self.endpoint = endpoint
        self.plan = plan
        self.encode = endpoint.encoder()
        self.next_prompt = plan.first_prompt
        self.end_s = time.perf_counter() + plan.warm_up_s + plan.window_s
        self.open_slots = plan.concurrency
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.finished: list[tuple[float, int, list[tuple[float, bytes]]]] = []

    def fail(self, message: str) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(message))

    def close_slot(self) -> None:
        self.open_slots -= 1
        if self.open_slots == 0 and not self.over.done():
            self.over.set_result(None)


class _Slot(asyncio.Protocol):
    """One connection; sends a request, collects its chunks, sends the next."""

    def __init__(self, load: _Load, number: int) -> None:
        self._load = load
        self._length = load.plan.first_length(number)
        self._rest = b""
        self._chunks: list[tuple[float, bytes]] = []
        self._sent_s = 0.0
        self._transport: Any = None
        self._is_done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._chunks.append((now_s, line[5:]))
            elif line == b"0\r":  # the size of the last HTTP chunk
                self._finish(now_s)
            elif line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                self._load.fail(line.decode(errors="replace").strip())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_done:
            self._load.fail(f"the server closed a connection: {exc}")

    def _send(self) -> None:
        load = self._load
        text = prompt(load.next_prompt)
        load.next_prompt += 1
        request = load.endpoint.request(text, load.encode(text), self._length)
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def _finish(self, now_s: float) -> None:
        self._load.finished.append((self._sent_s, self._length, self._chunks))
        self._chunks = []
        self._length = self._load.plan.output_tokens
        if now_s < self._load.end_s:
            self._send()
        else:
            self._is_done = True
            self._transport.close()
            self._load.close_slot()


async def run(endpoint: Endpoint, plan: LoadPlan) -> tuple[list[Stream], float]:
    """Return the streams of a load, and when its window ended.

    Raises:
        RuntimeError: A request was refused or answered with an error.
    """
    load = _Load(endpoint, plan)
    loop = asyncio.get_running_loop()
    for number in range(plan.concurrency):
        await loop.create_connection(partial(_Slot, load, number), endpoint.host, endpoint.port)
    await load.over
    return [_stream(*finished) for finished in load.finished], load.end_s


def _stream(sent_s: float, length: int, chunks: list[tuple[float, bytes]]) -> Stream:
    stream = Stream(sent_s=sent_s, expected_tokens=length)
    for time_s, text in chunks:
        document = json.loads(text)
        if "error" in document:
            raise RuntimeError(document["error"])
        stream.chunks.append((time_s, int(document.get("num_output_tokens", 0))))
    return stream


def main() -> None:
    """Run the load that stdin describes."""
    order = json.load(sys.stdin)
    plan = LoadPlan(**order.pop("plan"))
    streams, end_s = asyncio.run(run(Endpoint(**order), plan))
    print(json.dumps(asdict(rates(streams, end_s - plan.window_s, end_s))))


if __name__ == "__main__":
    main()
