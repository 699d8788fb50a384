"""A stand-in for the engine of the CPU twin, strict about how it is called.

As the library does, it queues one output per request and step, which ``read`` gives one at a
time, and forgets a stopped request at the next step. It complains when a handle is read with
nothing to read, when a forgotten one is used, and when two threads use it.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

END_ID = 0
DEADLINE_S = 10


class GenerationStatus(enum.Enum):
    """The library's words."""

    RUNNING = enum.auto()
    FINISHED = enum.auto()
    IGNORED = enum.auto()
    STOP = enum.auto()


class GenerationFinishReason(enum.Enum):
    """The library's words."""

    NONE = enum.auto()
    STOP = enum.auto()
    LENGTH = enum.auto()


@dataclass
class Output:
    """What one step brought for one sequence."""

    generated_ids: list[int]
    finish_reason: GenerationFinishReason
    score: float = -1.0
    generated_log_probs: list[float] = field(default_factory=list)


class Handle:
    """One request; its tokens come from a script, in pieces of one step each."""

    def __init__(self, engine: ScriptedEngine, script: list[Any], ends: set[int]) -> None:
        self._engine = engine
        self._outputs: deque[dict[int, Output]] = deque()
        self._status = GenerationStatus.RUNNING
        self.script = deque(script)
        self.ends = ends

    def get_status(self) -> GenerationStatus:
        self._engine.require_owner()
        return self._status

    def can_read(self) -> bool:
        self._engine.require_owner()
        return bool(self._outputs)

    def read(self) -> dict[int, Output]:
        self._engine.require_owner()
        if not self._outputs:
            raise AssertionError("read with nothing to read would wait forever")
        return self._outputs.popleft()

    def stop(self) -> None:
        self._engine.require_owner()
        self._status = GenerationStatus.STOP

    def advance(self) -> None:
        """Do this request's part of a step."""
        if not self.script:
            self._status = GenerationStatus.IGNORED
            return
        piece = self.script.popleft()
        if isinstance(piece, dict):
            self._outputs.append(piece)
            self._status = GenerationStatus.FINISHED
            return
        ids = [piece] if isinstance(piece, int) else list(piece)
        reason = GenerationFinishReason.NONE
        if ids[-1] in self.ends:
            reason = GenerationFinishReason.STOP
        elif not self.script:
            reason = GenerationFinishReason.LENGTH
        if reason is not GenerationFinishReason.NONE:
            self._status = GenerationStatus.FINISHED
        log_probs = [-0.5] * len(ids)
        self._outputs.append({7: Output(ids, reason, generated_log_probs=log_probs)})


class ScriptedEngine:
    """Engine and pipeline in one. ``scripts`` are taken in the order requests arrive.

    A gated engine does a step only when ``allow`` has permitted it.
    """

    def __init__(self, scripts: list[Any], *, gated: bool = False) -> None:
        self.pipeline = self
        self.max_seq_len = 100
        self.max_batch_size = 8
        self.eos_token_ids = frozenset({END_ID})
        self.scripts = deque(scripts)
        self.handles: dict[int, Handle] = {}
        self.refusals: dict[int, str] = {}
        self.start_error: Exception | None = None
        self.step_errors: deque[Exception] = deque()
        self.inner_steps = 1
        self.batch_sizes: list[int] = []
        self._steps = threading.Semaphore(0) if gated else None
        self._owner: int | None = None

    def allow(self, steps: int) -> None:
        """Permit steps; called by the test's thread."""
        assert self._steps is not None
        self._steps.release(steps)

    def require_owner(self) -> None:
        """Complain unless every call comes from one thread."""
        me = threading.get_ident()
        self._owner = self._owner or me
        if me != self._owner:
            raise AssertionError("the pipeline was used by a second thread")

    def refusal(self, generation: Any) -> str | None:
        self.require_owner()
        return self.refusals.get(generation.key)

    def start(self, generation: Any) -> Handle:
        self.require_owner()
        key = generation.key
        if self.start_error is not None:
            raise self.start_error
        if key in self.handles:
            raise AssertionError("a key was used twice")
        ends = {generation.end_id, *self.eos_token_ids} if generation.end_id >= 0 else set()
        script = list(self.scripts.popleft())[: generation.max_tokens]
        self.handles[key] = Handle(self, script, ends)
        return self.handles[key]

    def step(self) -> None:
        self.require_owner()
        if self._steps is not None and not self._steps.acquire(timeout=DEADLINE_S):
            raise AssertionError("the loop wanted a step that the test did not permit")
        if self.step_errors:
            raise self.step_errors.popleft()
        for _ in range(self.inner_steps):
            alive = [
                handle
                for handle in self.handles.values()
                if handle.get_status() is GenerationStatus.RUNNING
            ]
            self.batch_sizes.append(len(alive))
            for handle in alive:
                handle.advance()
