"""A stand-in for the engine's process: the test says what its steps bring, and when it dies."""

from __future__ import annotations

import queue
from typing import Any

DEADLINE_S = 10


class ScriptedProcess:
    """What the dispatcher sees of an ``EngineProcess``."""

    def __init__(self) -> None:
        self.started: queue.Queue[Any] = queue.Queue()
        self.stopped: queue.Queue[int] = queue.Queue()
        self.restarts = 0
        self.restart_error: Exception | None = None
        self._messages: queue.Queue[Any] = queue.Queue()

    def start(self, generation: Any) -> None:
        self.started.put(generation)

    def stop(self, key: int) -> None:
        self.stopped.put(key)

    def bring(self, *chunks: tuple[int, Any], figures: Any = None) -> None:
        """Let a step have brought chunks, each with the key of its generation."""
        sent = [(key, chunk.message()) for key, chunk in chunks]
        self._messages.put(("step", sent, figures))

    def die(self) -> None:
        """Let the process end by itself."""
        self._messages.put(None)

    def receive(self, timeout_s: float | None) -> list[Any]:
        try:
            message = self._messages.get(block=timeout_s != 0, timeout=timeout_s or None)
        except queue.Empty:
            return []
        if message is None:
            raise EOFError
        return [message]

    def restart(self) -> None:
        self.restarts += 1
        if self.restart_error:
            raise self.restart_error

    def ending(self) -> str:
        return "the engine's process ended with signal 9"

    def close(self) -> None:
        self.die()
