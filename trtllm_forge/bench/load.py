"""Sends requests, at a pace, and keeps what came back.

A *closed loop* keeps a number of requests in flight: each slot sends its next one when its last
has ended. An *open loop* sends at times that are fixed before, however many are still running,
and so shows what happens when requests come faster than they are served.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from trtllm_forge.bench.metrics import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trtllm_forge.bench.wire import Received, Wire
    from trtllm_forge.files.digest import JsonValue

Arrivals = Literal["poisson", "constant"]

_PAUSE_AFTER_FAILURE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many requests, when.

    Attributes:
        concurrency: Requests in flight in a closed loop; None in an open one.
        rate: Requests per second of an open loop; None in a closed one.
        arrivals: Gaps between the requests of an open loop: drawn, or all the same.
        warm_up: Requests before the window that counts.
        requests: Requests that count; None where the duration decides.
        duration_s: Length of the window that counts; None where the number decides.
        seed: Of the drawn gaps.
    """

    concurrency: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    warm_up: int
    requests: int | None = None
    duration_s: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Return how it is called in tables."""
        return f"{self.concurrency} at once" if self.rate is None else f"{self.rate:g} per s"

    def document(self) -> dict[str, JsonValue]:
        """Return what was asked for; a closed loop draws no arrivals."""
        drawn = {"arrivals", "seed"} if self.rate is None else set()
        fields = {name: value for name, value in asdict(self).items() if name not in drawn}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def extent(self) -> str:
        """Return how much of it counts."""
        if self.duration_s is not None:
            return f"{self.duration_s:g} s"
        return f"{self.requests} requests"


@dataclass(kw_only=True)
class Sent:
    """One request of a load.

    Attributes:
        number: Its place in the load.
        due_s: When it should have been sent; None in a closed loop.
        received: What came back.
        counts: It was sent within the window, and not to warm up.
    """

    number: int
    due_s: float | None
    received: Received
    counts: bool


@dataclass(kw_only=True)
class Traffic:
    """All that a load sent.

    Attributes:
        requests: In the order in which they ended.
        window: The time that counts.
        client_cpu_share: CPU time of this process / time, over the window: 1.0 is one core.
        most_in_flight: The largest number of requests that ran at once.
    """

    requests: list[Sent] = field(default_factory=list)
    window: Window
    client_cpu_share: float
    most_in_flight: int


class _Load:
    """What the tasks of one load share."""

    def __init__(self, wire: Wire, pace: Pace, message: Callable[[int], bytes]) -> None:
        self.wire = wire
        self.pace = pace
        self.message = message
        self.sent: list[Sent] = []
        self.next_number = 0
        self.start_s: float | None = None
        self.start_cpu_s = 0.0
        self.end_cpu_s = 0.0
        self.in_flight = 0
        self.most_in_flight = 0

    def take(self) -> int | None:
        """Return the number of the next request, or None when there is none to send."""
        pace = self.pace
        now_s = time.perf_counter()
        if pace.duration_s is not None and self.start_s is not None:
            if now_s >= self.start_s + pace.duration_s:
                return None
        elif pace.requests is not None and self.next_number >= pace.warm_up + pace.requests:
            return None
        if self.next_number >= pace.warm_up and self.start_s is None:
            self.open_window(now_s)
        self.next_number += 1
        return self.next_number - 1

    def open_window(self, now_s: float) -> None:
        """Let time and CPU time count from now on."""
        self.start_s = now_s
        self.start_cpu_s = time.process_time()

    async def send(self, number: int, due_s: float | None = None) -> bool:
        """Send one request; return whether the wire had an answer to its end."""
        message = self.message(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        received = await self.wire.send(message)
        self.in_flight -= 1
        self.end_cpu_s = time.process_time()
        counts = number >= self.pace.warm_up
        self.sent.append(Sent(number=number, due_s=due_s, received=received, counts=counts))
        return received.failure is None

    def traffic(self) -> Traffic:
        """Return all that was sent, once it has ended."""
        last_s = max((sent.received.ended_s for sent in self.sent), default=time.perf_counter())
        start_s = last_s if self.start_s is None else self.start_s
        # Of a number of requests the last one's end belongs to the window.
        end_s = start_s + (self.pace.duration_s or max(last_s - start_s, 1e-9) * (1 + 1e-12))
        busy_s = self.end_cpu_s - self.start_cpu_s
        return Traffic(
            requests=self.sent,
            window=Window(start_s=start_s, end_s=end_s),
            client_cpu_share=busy_s / max(last_s - start_s, 1e-9),
            most_in_flight=self.most_in_flight,
        )


async def run_load(wire: Wire, pace: Pace, message: Callable[[int], bytes]) -> Traffic:
    """Run a load to the end of its last request.

    Args:
        wire: What carries the requests.
        pace: How many, when.
        message: Gives the request of a number, as the wire encodes it.
    """
    load = _Load(wire, pace, message)
    with _no_garbage_collection():
        if pace.rate is None:
            await asyncio.gather(*(_slot(load) for _ in range(pace.concurrency or 1)))
        else:
            await _open_loop(load, pace.rate)
    return load.traffic()


def arrival_gaps_s(rate: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Give the gaps between requests without end: the same ones for the same seed."""
    drawn = random.Random(seed)
    while True:
        yield drawn.expovariate(rate) if arrivals == "poisson" else 1.0 / rate


async def _slot(load: _Load) -> None:
    while (number := load.take()) is not None:
        if not await load.send(number):
            # A server that refuses at once would be asked in a tight loop.
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)


async def _open_loop(load: _Load, rate: float) -> None:
    tasks: set[asyncio.Task[bool]] = set()
    due_s = time.perf_counter()
    for gap_s in arrival_gaps_s(rate, load.pace.arrivals, load.pace.seed):
        if (early_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(early_s)
        number = load.take()
        if number is None:
            break
        task = asyncio.create_task(load.send(number, due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due_s += gap_s
    if tasks:
        await asyncio.gather(*tasks)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep collections, which stop everything for milliseconds, out of the times."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
