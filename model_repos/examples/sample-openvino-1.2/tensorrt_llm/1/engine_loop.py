"""The thread that owns the pipeline: requests join and leave the running batch at each step.

Nothing else touches the pipeline or asks whether a request was cancelled. Triton's calls only
put things into queues; what a step brought goes to each generation's sink.
"""

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from generation import Chunk, Generation


@dataclass(eq=False)
class _Running:
    generation: Generation
    handle: Any
    longest_stop: int


class EngineLoop:
    """Runs generations until closed. ``submit`` and ``stop`` may be called by any thread."""

    def __init__(self, engine, *, cancellation_check_period_s, after_step):
        self._engine = engine
        self._after_step = after_step
        self._period_s = cancellation_check_period_s
        self._inbox = queue.SimpleQueue()  # Generation, or str: the id to stop; None: close
        self._running = []
        self._next_key = 0
        self._next_check = 0.0
        self._thread = threading.Thread(target=self._run, name="engine-loop", daemon=True)
        self._thread.start()

    def submit(self, generation):
        """Let a generation join the batch at the next step."""
        generation.arrival_ns = time.monotonic_ns()
        self._inbox.put(generation)

    def stop(self, request_id):
        """End every generation of this id; one that is not known is no error."""
        self._inbox.put(request_id)

    def close(self):
        """End everything and wait for the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self):
        while self._turn():
            pass
        self._fail_all("the model is being unloaded")
        self._after_step()

    def _turn(self):
        """Act on what has come and do a step; return whether the loop goes on."""
        goes_on = True
        try:
            goes_on = self._take_inbox()
            if goes_on and self._running:
                self._step()
        except Exception as error:  # the pipeline is lost for what is in it
            self._fail_all(_message(error))
        try:
            self._after_step()
        except Exception as error:  # one answer that cannot be sent must not end the loop
            self._fail_all(_message(error))
        return goes_on

    def _take_inbox(self):
        """Act on what has come; wait for something when nothing runs. False means close."""
        while True:
            try:
                item = self._inbox.get(block=not self._running)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, str):
                self._end_where(lambda generation, id_=item: generation.request_id == id_)
            else:
                self._admit(item)
            if self._inbox.empty():
                return True

    def _admit(self, generation):
        # As TensorRT-LLM does, the output is cut to what the engine's sequence length leaves.
        room = self._engine.max_seq_len - len(generation.prompt_ids)
        generation.max_tokens = min(generation.max_tokens, room)
        refusal = self._engine.refusal(generation)
        if refusal:
            generation.sink(_ended(refusal))
            return
        try:
            handle = self._engine.start(self._next_key, generation)
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            generation.sink(_ended(_message(error)))
            return
        self._next_key += 1
        generation.first_scheduled_ns = time.monotonic_ns()
        longest = max(map(len, generation.stop_words), default=0)
        self._running.append(_Running(generation, handle, longest))

    def _step(self):
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + self._period_s
            self._end_where(lambda generation: generation.is_cancelled())
            self._end_late(now)
        if not self._running:
            return
        self._engine.pipeline.step()
        self._running = [running for running in self._running if self._deliver(running)]

    def _deliver(self, running):
        """Pass on what a step brought; return whether the generation goes on."""
        generation, handle = running.generation, running.handle
        status = handle.get_status()
        if not handle.can_read():
            if _is_running(status):
                return True
            # Ended without a last token: the library could not go on.
            generation.sink(_ended("the KV cache could not hold the request any longer"))
            return False
        # One output per step is waiting; there are more when a step was done in between.
        is_over = False
        while handle.can_read() and not is_over:
            outputs = handle.read()
            now_ns = time.monotonic_ns()
            generation.first_token_ns = generation.first_token_ns or now_ns
            generation.last_token_ns = now_ns
            is_over = not _is_running(status) and not handle.can_read()
            count = len(outputs)
            for index, (_sequence, output) in enumerate(_in_order(outputs)):
                chunk, has_ended = self._chunk(running, index, output)
                is_over = is_over or (has_ended and count == 1)
                if has_ended and count == 1 and _is_running(status):
                    handle.stop()
                chunk.is_final = is_over and index == count - 1
                generation.sink(chunk)
        return not is_over

    def _chunk(self, running, index, output):
        """Return what a sequence gained, and whether an end id or a stop word ends it."""
        generation = running.generation
        ids = list(output.generated_ids)
        log_probs = list(output.generated_log_probs) if generation.want_log_probs else []
        has_ended = False
        ends = {generation.end_id, *self._engine.eos_token_ids} if generation.end_id >= 0 else ()
        if ids and ids[-1] in ends and str(output.finish_reason).endswith("STOP"):
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

    def _end_where(self, is_meant):
        """End the generations that are meant, with the tokens they have so far."""
        kept = []
        for running in self._running:
            if is_meant(running.generation):
                running.handle.stop()
                running.generation.sink(Chunk(0, [], [], 0.0, is_final=True))
            else:
                kept.append(running)
        has_ended_all = self._running and not kept
        self._running = kept
        if has_ended_all:
            self._engine.pipeline.step()  # lets the pipeline drop what was stopped

    def _end_late(self, now):
        for running in list(self._running):
            deadline = running.generation.deadline
            if deadline is not None and now >= deadline:
                running.handle.stop()
                running.generation.sink(_ended("the request's timeout passed"))
                self._running.remove(running)

    def _fail_all(self, message):
        for running in self._running:
            running.handle.stop()
            running.generation.sink(_ended(message))
        self._running = []


def _ended(message):
    return Chunk(0, [], [], 0.0, is_final=True, error=message)


def _message(error):
    """Return the last line of what the library says; the lines before it name source files."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _is_running(status):
    return status.name == "RUNNING"


def _in_order(outputs):
    """Return sequences best first; the library keys beams by numbers of its own."""
    return sorted(outputs.items(), key=lambda item: (-item[1].score, item[0]))


def _ends_with_any(tail, words):
    return any(tuple(tail[-len(word) :]) == word for word in words)
