"""What waits to be sent: the chunks of all streams, joined per stream for a few milliseconds.

A response costs about the same whatever it holds, in Triton, in postprocessing and in the
client, and on a small machine it costs the engine's own time. So the tokens of a stream are
joined, for longer the more streams there are; its first and its last chunk go at once.
"""

import time
from collections import deque

# What a response of the ensemble takes of one core, the client's share included.
_RESPONSE_COST_S = 0.0006
_SHORTEST_S = 0.018
# Of the cores that the engine leaves free, and of all: what responses may take.
_FREE_SHARE = 0.9
_COMMON_SHARE = 0.05


class Pace:
    """Says for how long tokens are joined.

    Args:
        bound_s: The longest it may be, in seconds.
        cores: Cores of the machine.
        engine_threads: How many of them the engine computes on.
    """

    def __init__(self, bound_s, *, cores, engine_threads):
        self._bound_s = bound_s
        free = max(0, cores - engine_threads)
        self._budget = _FREE_SHARE * free + _COMMON_SHARE * cores

    def interval_s(self, streams):
        """Return the interval at which so many streams are sent, in seconds."""
        affordable = streams * _RESPONSE_COST_S / self._budget
        return min(self._bound_s, max(_SHORTEST_S, affordable))


class Outbox:
    """Chunks on their way out, by the key of their generation. Used by one thread.

    All streams are sent together at each tick of the pace: one after another they keep the
    processes behind awake, and cost less than each by itself.

    Args:
        pace: The ``Pace``.
        clock: Gives the time in seconds.
    """

    def __init__(self, pace, clock=time.monotonic):
        self._pace = pace
        self._clock = clock
        self._chunks = {}
        self._due = {}  # for each of these chunks, when it may go
        self._begun = set()  # the streams whose first chunk has gone
        self._tick = 0.0

    def put(self, key, chunk):
        """Take a chunk; a first, last or failed one must not wait."""
        if key not in self._chunks:
            self._chunks[key] = chunk
            self._due[key] = self._next_tick() if key in self._begun else 0.0
        elif chunk.error:
            self._chunks[key] = chunk
        else:
            self._chunks[key].join(chunk)
        if chunk.is_final:
            self._due[key] = 0.0

    def wait_s(self, longest_s):
        """Return for how long nothing is due, in seconds, at most ``longest_s``."""
        if not self._due:
            return longest_s
        return min(longest_s, max(0.0, min(self._due.values()) - self._clock()))

    def take(self):
        """Remove what has been due for longest and return its key and chunk, or None."""
        if not self._due:
            return None
        key = min(self._due, key=self._due.__getitem__)
        if self._due[key] > self._clock():
            return None
        del self._due[key]
        chunk = self._chunks.pop(key)
        if chunk.is_final:
            self._begun.discard(key)
        else:
            self._begun.add(key)
        return key, chunk

    def remove(self, key):
        """Remove a stream and return the chunk of it that waits, or None."""
        self._begun.discard(key)
        self._due.pop(key, None)
        return self._chunks.pop(key, None)

    def _next_tick(self):
        now = self._clock()
        if now >= self._tick:
            self._tick = now + self._pace.interval_s(len(self._begun))
        return self._tick


class UnjoinedOutbox:
    """Sends every chunk by itself, in the order they came; an ``Outbox`` that joins nothing."""

    def __init__(self):
        self._items = deque()

    def put(self, key, chunk):
        """Take a chunk."""
        self._items.append((key, chunk))

    def wait_s(self, longest_s):
        """Return 0 while something waits, else ``longest_s``."""
        return 0.0 if self._items else longest_s

    def take(self):
        """Remove the oldest chunk and return it with its key, or None."""
        return self._items.popleft() if self._items else None

    def remove(self, key):
        """Drop what waits for a stream; its tokens are lost with it."""
        self._items = deque(item for item in self._items if item[0] != key)
