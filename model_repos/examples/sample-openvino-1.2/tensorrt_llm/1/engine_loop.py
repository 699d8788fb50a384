"""Steps the pipeline: generations join and leave the running batch between two steps.

One thread uses a loop and its pipeline, from the first call to the last. What waits and what
runs is kept here, so that the pipeline is given no more sequences than it can run at once.
"""

import queue
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from generation import Chunk, Generation


@dataclass(eq=False)
class _Running:
    generation: Generation
    handle: Any
    longest_stop: int


class EngineLoop:
    """Runs what comes out of an inbox until that says to close.

    Args:
        engine: The engine to step.
        inbox: Its ``get(block)`` gives the next ``Generation``, the key of one to stop, or None
            to close; it raises ``queue.Empty`` when there is nothing and it must not block.
        emit: Called with a generation and each of its chunks.
        after_step: Called after each turn, when all its chunks have been emitted.
    """

    def __init__(self, engine, inbox, *, emit, after_step):
        self._engine = engine
        self._inbox = inbox
        self._emit = emit
        self._after_step = after_step
        self._waiting = deque()
        self._running = []
        self.steps = 0

    @property
    def waiting(self):
        """Return how many generations wait for their first step."""
        return len(self._waiting)

    @property
    def running(self):
        """Return how many generations are in the batch."""
        return len(self._running)

    @property
    def in_context(self):
        """Return how many of those have no token yet: their prompts are being processed."""
        return sum(not running.generation.first_token_ns for running in self._running)

    def run(self):
        """Do turns until the inbox says to close."""
        while self._turn():
            pass
        self._fail_all("the model is being unloaded")
        self._after_step()

    def _turn(self):
        """Act on what has come and do a step; return whether the loop goes on."""
        goes_on = True
        try:
            goes_on = self._take_inbox()
            if goes_on:
                self._admit_waiting()
                if self._running:
                    self._step()
        except Exception as error:  # the pipeline is lost for what is in it
            self._fail_running(_message(error))
        self._after_step()
        return goes_on

    def _take_inbox(self):
        """Act on what has come; wait for something when nothing runs. False means close."""
        may_wait = not (self._running or self._waiting)
        while True:
            try:
                item = self._inbox.get(block=may_wait)
            except queue.Empty:
                return True
            may_wait = False
            if item is None:
                return False
            if isinstance(item, int):
                self._stop(item)
            else:
                self._waiting.append(item)

    def _admit_waiting(self):
        """Let generations join in the order they came, as far as there is room."""
        taken = sum(running.generation.sampling.sequences for running in self._running)
        while self._waiting:
            taken += self._waiting[0].sampling.sequences
            # One that needs more than there can ever be has the engine for itself.
            if self._running and taken > self._engine.max_batch_size:
                return
            self._admit(self._waiting.popleft())

    def _admit(self, generation):
        # As TensorRT-LLM does, the output is cut to what the engine's sequence length leaves.
        room = self._engine.max_seq_len - len(generation.prompt_ids)
        generation.max_tokens = min(generation.max_tokens, room)
        refusal = self._engine.refusal(generation)
        if refusal:
            self._emit(generation, _ended(refusal))
            return
        try:
            handle = self._engine.start(generation)
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            self._emit(generation, _ended(_message(error)))
            return
        generation.first_scheduled_ns = time.monotonic_ns()
        longest = max(map(len, generation.stop_words), default=0)
        self._running.append(_Running(generation, handle, longest))

    def _step(self):
        self._engine.pipeline.step()
        self.steps += 1
        now_ns = time.monotonic_ns()
        ended = [running for running in self._running if not self._deliver(running, now_ns)]
        if ended:
            self._running = [running for running in self._running if running not in ended]

    def _deliver(self, running, now_ns):
        """Pass on what a step brought; return whether the generation goes on."""
        generation, handle = running.generation, running.handle
        if not handle.can_read():
            if _is_running(handle):
                return True
            # Ended without a last token: the library could not go on.
            self._emit(generation, _ended("the KV cache could not hold the request any longer"))
            return False
        generation.first_token_ns = generation.first_token_ns or now_ns
        generation.last_token_ns = now_ns
        # One output per step is waiting; there are more when a step was done in between.
        while True:
            outputs = handle.read()
            generation.steps += 1
            has_more = handle.can_read()
            is_over = not has_more and not _is_running(handle)
            if len(outputs) == 1:
                (output,) = outputs.values()
                chunk, has_ended = self._chunk(running, 0, output)
                if has_ended and not is_over:
                    handle.stop()
                    is_over = True
                self._emit_last(generation, chunk) if is_over else self._emit(generation, chunk)
            else:
                self._emit_sequences(running, outputs, is_over=is_over)
            if is_over or not has_more:
                return not is_over

    def _emit_sequences(self, running, outputs, *, is_over):
        chunks = [
            self._chunk(running, index, output)[0]
            for index, output in enumerate(_in_order(outputs))
        ]
        for chunk in chunks[:-1]:
            self._emit(running.generation, chunk)
        emit = self._emit_last if is_over else self._emit
        for chunk in chunks[-1:]:
            emit(running.generation, chunk)

    def _emit_last(self, generation, chunk):
        chunk.is_final = True
        # A step brings a token of its own; what it brings beyond that was drafted.
        is_single = generation.sampling.sequences == 1
        chunk.account = (
            generation.first_scheduled_ns,
            generation.first_token_ns,
            generation.last_token_ns,
            generation.tokens,
            generation.tokens - generation.steps if is_single else 0,
        )
        self._emit(generation, chunk)

    def _chunk(self, running, index, output):
        """Return what a sequence gained, and whether an end id or a stop word ends it."""
        generation = running.generation
        ids = list(output.generated_ids)
        generation.tokens += len(ids)
        log_probs = list(output.generated_log_probs) if generation.want_log_probs else []
        has_ended = False
        if ids and self._is_end(generation, ids[-1]) and _is_stop(output):
            # The end id is no part of the text.
            ids.pop()
            del log_probs[len(ids) :]
            has_ended = True
        if running.longest_stop and not has_ended:
            tail = generation.generated.setdefault(index, [])
            for position, token in enumerate(ids):
                tail.append(token)
                if _ends_with_any(tail, generation.stop_words):
                    del ids[position + 1 :], log_probs[position + 1 :]
                    has_ended = True
                    break
            del tail[: -running.longest_stop]
        return Chunk(index, ids, log_probs, float(output.score), is_final=False), has_ended

    def _is_end(self, generation, token):
        if generation.end_id < 0:
            return False
        return token == generation.end_id or token in self._engine.eos_token_ids

    def _stop(self, key):
        """End a generation without a word; one that is not known is no error."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.key != key)
        kept = []
        for running in self._running:
            if running.generation.key == key:
                running.handle.stop()
            else:
                kept.append(running)
        has_ended_all = self._running and not kept
        self._running = kept
        if has_ended_all:
            self._engine.pipeline.step()  # lets the pipeline drop what was stopped

    def _fail_running(self, message):
        for running in self._running:
            running.handle.stop()
            self._emit(running.generation, _ended(message))
        self._running = []

    def _fail_all(self, message):
        self._fail_running(message)
        for generation in self._waiting:
            self._emit(generation, _ended(message))
        self._waiting.clear()


def _ended(message):
    return Chunk(0, [], [], 0.0, is_final=True, error=message)


def _message(error):
    """Return the last line of what the library says; the lines before it name source files."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _is_running(handle):
    return handle.get_status().name == "RUNNING"


def _is_stop(output):
    return output.finish_reason.name == "STOP"


def _in_order(outputs):
    """Return sequences best first; the library keys beams by numbers of its own."""
    in_order = sorted(outputs.items(), key=lambda item: (-item[1].score, item[0]))
    return [output for _, output in in_order]


def _ends_with_any(tail, words):
    return any(tuple(tail[-len(word) :]) == word for word in words)
