"""Stands between Triton's requests and the engine's process: one thread that answers.

The thread takes what each step brought, sends what is due, and asks now and then whether a
client has gone or a request is late. Nothing else sends, asks or reports figures: Triton does
not survive those in several threads at once.
"""

import itertools
import queue
import sys
import threading
import time

from answers import Answer
from generation import Chunk

_LONGEST_WAIT_S = 0.1


class Dispatcher:
    """Hands generations to the engine, and their chunks to the requests' answers.

    ``submit`` and ``stop`` may be called by any thread.

    Args:
        engine: The ``EngineProcess``.
        outbox: An ``Outbox`` that nobody else uses.
        max_open: Most prompts that may run or wait at once, or None for any number.
        cancellation_check_period_s: How often it is asked whether clients have gone, in seconds.
        metrics: Takes the engine's figures and the tokens of what has finished.
    """

    def __init__(self, engine, outbox, *, max_open, cancellation_check_period_s, metrics):
        self._engine = engine
        self._outbox = outbox
        self._max_open = max_open
        self._period_s = cancellation_check_period_s
        self._metrics = metrics
        self._keys = itertools.count(1)
        self._open = {}  # key of a generation -> its answer and row
        self._lock = threading.Lock()  # held to add to what is open, and to walk through it
        self._to_stop = queue.SimpleQueue()  # ids of requests
        self._next_check = 0.0
        self._failure = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def submit(self, order, sender):
        """Let the generations of a request join the batch; it is answered as they go on.

        Raises:
            RuntimeError: The engine is gone, or too many prompts wait already.
        """
        answer = Answer(order, sender, arrival_ns=time.monotonic_ns())
        with self._lock:
            if self._failure:
                raise RuntimeError(self._failure)
            self._require_room(len(order.generations))
            for row, generation in enumerate(order.generations):
                generation.key = next(self._keys)
                self._open[generation.key] = (answer, row)
                self._engine.start(generation)

    def stop(self, request_id):
        """End every request of this id with what it has; one that is not known is no error."""
        self._to_stop.put(request_id)

    def close(self):
        """End everything and the engine, and wait for both."""
        self._is_closing = True
        self._engine.close()
        self._thread.join()

    def _require_room(self, prompts):
        if self._max_open is not None and len(self._open) + prompts > self._max_open:
            raise RuntimeError(
                f"the queue is full: {len(self._open)} prompts run or wait, the model takes at "
                f"most {self._max_open} (max_batch_size plus max_queue_size)"
            )

    def _run(self):
        while self._failure is None:
            try:
                self._turn()
            except EOFError:
                self._replace_engine()
            except Exception as error:  # a bug; without this thread nothing would be answered
                self._fail(f"{type(error).__name__}: {error}")

    def _turn(self):
        self._take_steps(self._engine.receive(self._outbox.wait_s(_LONGEST_WAIT_S)))
        self._end_stopped()
        self._check()
        self._send_due()

    def _replace_engine(self):
        """Go on with a new engine when the old one's process has ended by itself."""
        if self._is_closing:
            self._fail("the model is being unloaded")
            return
        ending = self._engine.ending()
        print(f"{ending}; starting another", file=sys.stderr, flush=True)
        with self._lock:  # nothing is submitted to an engine that is gone
            lost = {answer for answer, _ in self._open.values()}
            try:
                self._engine.restart()
            except RuntimeError as error:
                self._failure = str(error)
        for answer in lost:
            self._end(answer, lambda answer: answer.fail(ending))

    def _fail(self, message):
        with self._lock:
            self._failure = message
        for answer in self._answers():
            self._end(answer, lambda answer: answer.fail(message))

    def _take_steps(self, steps):
        for _, chunks, figures in steps:
            for key, message in chunks:
                answer, row = self._open.get(key, (None, 0))
                if answer is None:
                    continue  # it was stopped, which the engine had not heard yet
                chunk = Chunk(*message)
                if answer.order.streaming:
                    self._outbox.put(key, chunk)
                else:
                    self._deliver(key, answer, row, chunk)
            if figures is not None:
                self._metrics.update(figures)

    def _send_due(self):
        """Send what is due, the most urgent first, looking for new chunks in between."""
        while (item := self._outbox.take()) is not None:
            key, chunk = item
            answer, row = self._open.get(key, (None, 0))
            if answer is not None:
                self._deliver(key, answer, row, chunk)
            self._take_steps(self._engine.receive(0))

    def _deliver(self, key, answer, row, chunk):
        try:
            answer.take(row, chunk)
        except Exception as error:  # its client is gone, or its tensors odd: its own matter
            message = str(error)
            self._end(answer, lambda answer: answer.fail(message))
            return
        if chunk.is_final:
            self._count(answer.order.generations[row], chunk)
            self._open.pop(key, None)
        if answer.is_over:
            self._close(answer)

    def _count(self, generation, chunk):
        if chunk.account is not None:
            *_, generated, accepted = chunk.account
            self._metrics.count(
                prompt=len(generation.prompt_ids), generated=generated, accepted_draft=accepted
            )

    def _check(self):
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + self._period_s
        for answer in self._answers():
            if answer.is_cancelled():
                self._end(answer, self._finish)
            elif answer.order.deadline is not None and now >= answer.order.deadline:
                self._end(answer, lambda answer: answer.fail("the request's timeout passed"))

    def _end_stopped(self):
        while not self._to_stop.empty():
            request_id = self._to_stop.get()
            for answer in self._answers():
                if answer.order.request_id == request_id:
                    self._end(answer, self._finish)

    def _answers(self):
        with self._lock:
            return {answer for answer, _ in self._open.values()}

    def _finish(self, answer):
        """End an answer with the tokens that have come so far."""
        for key, (other, row) in list(self._open.items()):
            if other is answer:
                chunk = self._outbox.remove(key) or Chunk(0, [], [], 0.0, is_final=False)
                chunk.is_final = True
                answer.take(row, chunk)

    def _end(self, answer, how):
        """End an answer early, and what the engine still does for it."""
        try:
            how(answer)
        except Exception:  # nobody is left to be told
            answer.is_over = True
        self._close(answer)

    def _close(self, answer):
        """Let go of an answer that is over; the engine need not go on for it."""
        with self._lock:
            keys = [key for key, (other, _) in self._open.items() if other is answer]
            for key in keys:
                del self._open[key]
        for key in keys:
            self._outbox.remove(key)
            self._engine.stop(key)
