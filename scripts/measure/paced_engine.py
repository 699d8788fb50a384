"""An engine that takes no core, as one on a GPU does: the twin's ``engine.py`` for row 11.

It stands in the place of the rendered module of that name. A step takes a fixed time that grows
with the batch, for which it sleeps, and brings each request the next of ids that repeat. Only what
carries its tokens needs the machine: the engine loop, the model, Triton, the text path, the client.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

# 16 requests at once give 10,700 tokens per second, 64 give 15,000.
STEP_S = 0.00058
STEP_S_PER_REQUEST = 0.0000577
BLOCK_TOKENS = 32
FIRST_ID, LAST_ID = 300, 1299
"""Ids of the sample's tokenizer that stand for text; they are given in turn."""


class _Status(enum.Enum):
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class _FinishReason(enum.Enum):
    NONE = enum.auto()
    LENGTH = enum.auto()


class _Handle:
    def __init__(self, max_tokens: int) -> None:
        self._left = max_tokens
        self._token = FIRST_ID
        self._outputs: deque[dict[int, SimpleNamespace]] = deque()

    def get_status(self) -> _Status:
        return _Status.RUNNING if self._left else _Status.FINISHED

    def can_read(self) -> bool:
        return bool(self._outputs)

    def read(self) -> dict[int, SimpleNamespace]:
        return self._outputs.popleft()

    def stop(self) -> None:
        self._left = 0

    def advance(self) -> None:
        self._left -= 1
        self._token = self._token + 1 if self._token < LAST_ID else FIRST_ID
        reason = _FinishReason.NONE if self._left else _FinishReason.LENGTH
        output = SimpleNamespace(
            generated_ids=[self._token], generated_log_probs=[], finish_reason=reason, score=0.0
        )
        self._outputs.append({0: output})


class Engine:
    """Engine and pipeline in one; takes the arguments of the engine it stands for."""

    def __init__(self, *, limits: dict[str, Any], max_batch_size: int, **_settings: Any) -> None:
        self.pipeline = self
        self.max_batch_size = max_batch_size
        self.max_seq_len = limits["max_seq_len"]
        self.eos_token_ids = frozenset(limits["eos_token_ids"])
        self._running: list[_Handle] = []
        self._free_s = 0.0

    def facts(self) -> dict[str, int]:
        """Return what the model has to know: no thread of this machine computes."""
        return {"threads": 0, "kv_blocks": 1 << 16, "block_tokens": BLOCK_TOKENS}

    def cache_usage(self) -> float:
        """Return how much of the KV cache is in use, in percent: it has none."""
        return 0.0

    def refusal(self, _generation: Any) -> None:
        """Return None: it takes everything."""

    def start(self, generation: Any) -> _Handle:
        """Let a request join the next step."""
        handle = _Handle(generation.max_tokens)
        self._running.append(handle)
        return handle

    def step(self) -> None:
        """Sleep for as long as the step takes, and bring each request a token."""
        self._running = [one for one in self._running if one.get_status() is _Status.RUNNING]
        step_s = STEP_S + STEP_S_PER_REQUEST * len(self._running)
        self._free_s = max(self._free_s, time.monotonic() - step_s) + step_s
        time.sleep(max(0.0, self._free_s - time.monotonic()))
        for handle in self._running:
            handle.advance()
