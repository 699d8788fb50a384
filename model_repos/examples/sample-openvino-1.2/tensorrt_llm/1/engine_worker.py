"""The engine's own process: steps the pipeline and tells the model what each step brought.

The library holds the interpreter's lock while it computes. In a process of its own it computes
while the model reads requests and sends answers. Started by ``engine_process`` with the
descriptor of its socket; ends with the process that started it, however that ends.

What comes in, each a tuple of plain values:

    ("load", settings)          once, first; answered with ("loaded", facts) or ("failed", why)
    ("start", generation)       see ``Generation.message``
    ("stop", key)               end it without a word

What goes out after each step: ``("step", chunks, figures)``, chunks as
``(key, Chunk.message())``. Figures come now and then, else None: steps so far, generations that
run, that wait, that have no token yet, the KV cache in use in percent, resident bytes.
"""

import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

from engine_loop import EngineLoop
from generation import Generation
from wire import Wire

_PR_SET_PDEATHSIG = 1
_FIGURES_PERIOD_S = 0.1


class _Inbox:
    """What has come over the wire, as the engine loop takes it."""

    def __init__(self, wire):
        self._wire = wire
        self._items = deque()

    def get(self, *, block):
        """Return the next generation, the key of one to stop, or None when the model is gone."""
        while not self._items:
            try:
                received = self._wire.receive(None if block else 0)
            except (EOFError, ConnectionError):
                return None
            if not received and not block:
                raise queue.Empty
            self._items.extend(received)
        kind, value = self._items.popleft()
        return value if kind == "stop" else Generation.of_message(value)


class _Outgoing:
    """Gathers the chunks of a step and sends them as one message."""

    def __init__(self, wire, engine):
        self._wire = wire
        self._engine = engine
        self._chunks = []
        self._next_figures = 0.0
        self.loop = None

    def emit(self, generation, chunk):
        """Take a chunk of the current step."""
        self._chunks.append((generation.key, chunk.message()))

    def send(self):
        """Send what the step brought, with the engine's figures now and then."""
        now = time.monotonic()
        is_due = now >= self._next_figures or not (self.loop.running or self.loop.waiting)
        if not (self._chunks or is_due):
            return
        figures = None
        if is_due:
            self._next_figures = now + _FIGURES_PERIOD_S
            figures = (
                self.loop.steps,
                self.loop.running,
                self.loop.waiting,
                self.loop.in_context,
                self._engine.cache_usage(),
                _resident_bytes(),
            )
        chunks, self._chunks = self._chunks, []
        self._wire.send_and_receive(("step", chunks, figures))


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _die_with(parent):
    """End with the process that started this one, even in the middle of a step."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main():
    """Load the engine that the first message describes, and run it until the model is gone."""
    _die_with(int(sys.argv[2]))
    # The server may be started as a batch process, to let the engine compute undisturbed.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    # Triton's own signals reach the whole group; the model says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    ((_, settings),) = wire.receive(None)
    try:
        from engine import Engine  # loads the library, which takes most of the start

        engine = Engine(**settings)
    except Exception as error:  # whatever it is, the model says it to Triton
        wire.send(("failed", f"{type(error).__name__}: {error}"))
        return
    wire.send(("loaded", engine.facts()))
    outgoing = _Outgoing(wire, engine)
    outgoing.loop = EngineLoop(engine, _Inbox(wire), emit=outgoing.emit, after_step=outgoing.send)
    try:
        outgoing.loop.run()
    except (EOFError, ConnectionError):  # the model is gone in the middle of a message
        return


if __name__ == "__main__":
    main()
