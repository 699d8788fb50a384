"""Compares the figures of ``forge bench`` with those of a client that shares no code with it.

The other client is threads that read ``generate_stream`` from plain sockets, and does its own
sums. Both load the same server at the same time and with the same lengths, so that whatever else
the machine does hits both alike; the median ratio over the rounds must lie within 5 %::

    python scripts/check_bench.py                                # a server that keeps a pace
    python scripts/check_bench.py http://127.0.0.1:8000          # any other, with an ensemble
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.05
FIGURES = ("tokens per s", "TTFT p50 ms", "TPOT p50 ms", "end to end p50 ms")
_FLAGS = ("exclude_input_in_output", "return_num_input_tokens", "return_num_output_tokens")
_SOME_TEXT = re.compile(rb'"text_output": ?"[^"]')
_COUNT = re.compile(rb'"num_output_tokens": ?(\d+)')
# Seeds that no earlier run has used: the server would know the prompts' prefixes.
_numbers = itertools.count(time.time_ns() // 1_000_000 % 1_000_000_000)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What both clients do."""

    url: str
    concurrency: int
    duration_s: float
    output_tokens: int


Result = tuple[float, float, float, int]
"""When a request was sent, its first text received and its end, and its tokens."""


def main() -> int:
    """Run both clients and print what each found; return 1 when they disagree."""
    arguments = _arguments()
    with _server(arguments.url) as url:
        differing = 0
        for concurrency in map(int, arguments.concurrency.split(",")):
            load = Load(
                url=url,
                concurrency=concurrency,
                duration_s=arguments.duration,
                output_tokens=arguments.output_tokens,
            )
            differing += _compare(load, arguments.rounds)
    return 1 if differing else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url", nargs="?", help="a server's HTTP address")
    parser.add_argument("--concurrency", default="1,4", help="of each of the two clients")
    parser.add_argument("--duration", type=float, default=4.0)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _compare(load: Load, rounds: int) -> int:
    found = [_both(load) for _ in range(rounds)]
    differing = 0
    for place, figure in enumerate(FIGURES):
        bench, other = (statistics.median(one[side][place] for one in found) for side in (0, 1))
        difference = statistics.median(one[0][place] / one[1][place] for one in found) - 1
        is_far = abs(difference) > TOLERANCE
        differing += is_far
        print(
            f"{load.concurrency:>3} at once  {figure:<18}  forge bench {bench:9.2f}  "
            f"other client {other:9.2f}  {difference:+7.2%}{'  DIFFERS' if is_far else ''}",
            flush=True,
        )
    return differing


def _both(load: Load) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Run both clients beside each other; return the figures of each."""
    other = OtherClient(load)
    other.start()
    try:
        figures, ended_s = _bench(load)
    finally:
        results = other.stop()
    return figures, _sums(load, results, ended_s)


def _bench(load: Load) -> tuple[tuple[float, ...], float]:
    """Return the bench's figures, and when its last answer had come."""
    command = [sys.executable, "-m", "trtllm_forge", "bench", "--http", load.url, "--json"]
    command += ["--concurrency", str(load.concurrency), "--duration", str(load.duration_s)]
    command += ["--output-tokens", str(load.output_tokens), "--seed", str(next(_numbers))]
    ended_s = 0.0
    words = ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # The document comes after the last of these lines, so no pipe can be full.
        for line in process.stderr:
            words += line
            if line.startswith("measured "):
                ended_s = time.perf_counter()
                break
        document, rest = process.communicate()
    if process.returncode != 0 or not ended_s:
        raise SystemExit(words + rest + document)
    (figures,) = json.loads(document)["bench"].values()
    times = (figures[name]["p50"] for name in ("ttft_ms", "tpot_ms", "e2e_ms"))
    return (figures["output_tokens_per_s"], *times), ended_s


def _sums(load: Load, results: list[Result], ended_s: float) -> tuple[float, ...]:
    """Return the same figures of what was sent while the bench measured.

    The bench's window ended about one answer before its last answer did.
    """
    answer_s = statistics.median(end - sent for sent, _, end, _ in results)
    stop_s = ended_s - answer_s
    start_s = stop_s - load.duration_s
    within = [result for result in results if start_s <= result[0] < stop_s]
    # By the middle of each answer, so that what is cut off at one end is let in at the other.
    tokens = sum(n for _, first, end, n in results if start_s <= (first + end) / 2 < stop_s)
    return (
        tokens / load.duration_s,
        statistics.median(1000 * (first - sent) for sent, first, _, _ in within),
        statistics.median(1000 * (end - first) / (n - 1) for _, first, end, n in within),
        statistics.median(1000 * (end - sent) for sent, _, end, _ in within),
    )


class OtherClient:
    """Threads that each ask again as soon as they are answered, until they are stopped."""

    def __init__(self, load: Load) -> None:
        path = ROOT / "trtllm_forge" / "data" / "bench" / "completion.jsonl"
        self._items = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
        self._load = load
        self._run = next(_numbers)
        self._places = itertools.count()
        self._results: list[Result] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._slot, args=(number,))
            for number in range(load.concurrency)
        ]

    def start(self) -> None:
        """Start to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Result]:
        """Wait for the last answers and return them all but the first ones."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return sorted(self._results)[self._load.concurrency :]

    def _slot(self, slot: int) -> None:
        address = urlsplit(self._load.url)
        slots, length = self._load.concurrency, self._load.output_tokens
        with socket.create_connection((address.hostname, address.port or 80)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The first answers differ in length: otherwise all threads would go in step.
            self._ask(connection, max(1, length * (slot + 1) // slots))
            while not self._is_over.is_set():
                self._ask(connection, length)

    def _ask(self, connection: socket.socket, output_tokens: int) -> None:
        number = next(self._places)
        item = self._items[number % len(self._items)]
        prompt = f"# case {self._run}-0-{number}\n{item}"
        self._results.append(_ask(connection, prompt, output_tokens))


def _ask(connection: socket.socket, prompt: str, output_tokens: int) -> Result:
    inputs = {"text_input": prompt, "max_tokens": output_tokens, "end_id": -1, "stream": True}
    inputs |= dict.fromkeys(_FLAGS, True)
    body = json.dumps({"id": f"other-{time.time_ns()}-{threading.get_ident()}", **inputs})
    request = (
        "POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    first = end = 0.0
    answer = b""
    sent = time.perf_counter()
    connection.sendall(request)
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        piece = connection.recv(1 << 16)
        end = time.perf_counter()
        if not piece:
            message = f"the server hung up after {answer!r}"
            raise SystemExit(message)
        answer += piece
        if not first and _SOME_TEXT.search(answer):
            first = end
    tokens = sum(map(int, _COUNT.findall(answer)))
    return sent, first, end, tokens


@contextlib.contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "tests.servers.paced_triton"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["http"]
        finally:
            server.kill()


if __name__ == "__main__":
    raise SystemExit(main())
