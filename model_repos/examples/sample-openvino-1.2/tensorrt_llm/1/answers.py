"""From what the engine loop says to Triton's responses. Used by the loop thread alone.

A send stalls the loop, so a stream's tokens are joined for a few milliseconds; its first and
its last go at once.
"""

import contextlib
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from request_reader import wants


class Outbox:
    """Chunks on their way out, joined per sequence. Used by the loop thread alone."""

    def __init__(self, interval_s):
        self._interval_s = interval_s
        self._waiting = {}  # (answer, row, sequence) -> chunk
        self._next_send = 0.0
        self._is_urgent = False

    def put(self, answer, row, chunk):
        """Take a chunk; a first, last or failed one must not wait."""
        key = (answer, row, chunk.sequence)
        joined = self._waiting.get(key)
        if joined is None or chunk.error:
            self._waiting[key] = chunk
        else:
            joined.join(chunk)
        self._is_urgent = self._is_urgent or chunk.is_final or not answer.has_started

    def flush(self):
        """Send what is due."""
        if not self._waiting:
            return
        is_due = time.monotonic() >= self._next_send
        if is_due:
            due, self._waiting = self._waiting, {}
        elif self._is_urgent:
            due = {
                key: chunk
                for key, chunk in self._waiting.items()
                if chunk.is_final or not key[0].has_started
            }
            for key in due:
                del self._waiting[key]
        else:
            return
        self._is_urgent = False
        for (answer, row, _), chunk in due.items():
            try:
                answer.take(row, chunk)
            except Exception as error:  # its client is gone, or its tensors odd: its own matter
                answer.fail(str(error))
        if is_due:
            # Counted from the end of sending, so that the engine always gets its share.
            self._next_send = time.monotonic() + self._interval_s


class Sink:
    """Puts the chunks of one generation into the outbox."""

    def __init__(self, outbox, answer, row):
        self._outbox = outbox
        self._answer = answer
        self._row = row

    def __call__(self, chunk):
        """Take a chunk."""
        self._outbox.put(self._answer, self._row, chunk)


class SingleAnswer:
    """Stands where a decoupled model has a response sender; gives the one response it got."""

    def __init__(self):
        self._ready = threading.Event()
        self._response = None

    def send(self, response=None, flags=0):
        """Keep the response and wake who waits for it."""
        if response is not None:
            self._response = response
        if flags or response is not None:
            self._ready.set()

    def wait(self):
        """Return the response once it is there."""
        self._ready.wait()
        return self._response


class Answer:
    """Turns the chunks of one request into its responses. Used by the loop thread alone."""

    def __init__(self, request, sender, generations, exclude_input):
        self._sender = sender
        self._generations = generations
        self._open_rows = len(generations)
        self._exclude_input = exclude_input
        self._want_input_count = wants(request, "return_num_input_tokens")
        self._want_output_count = wants(request, "return_num_output_tokens")
        self._want_perf = wants(request, "return_perf_metrics")
        self._whole = {}  # (row, sequence) -> chunk, for what is not streamed
        self._is_over = False
        self.has_started = False

    def take(self, row, chunk):
        """Send or keep a chunk."""
        if self._is_over:
            return
        self.has_started = True
        generation = self._generations[row]
        if chunk.error:
            # One response ends the request: the other rows' answers would have no final flag.
            self.fail(chunk.error)
            return
        if generation.streaming:
            self._send(row, chunk, chunk.is_final)
            return
        whole = self._whole.setdefault((row, chunk.sequence), chunk)
        if whole is not chunk:
            whole.join(chunk)
        if chunk.is_final:
            self._send_whole(row)

    def fail(self, message):
        """End the request with an error, if that can still be sent; the engine stops soon."""
        self._is_over = True
        for generation in self._generations:
            generation.is_cancelled = lambda: True
        with contextlib.suppress(Exception):
            send_error(self._sender, message)

    def _send_whole(self, row):
        chunks = [chunk for (of_row, _), chunk in sorted(self._whole.items()) if of_row == row]
        generation = self._generations[row]
        if generation.sampling.beam_width > 1 or len(chunks) == 1:
            self._send_sequences(row, chunks, None, is_final=True)
            return
        for chunk in chunks:
            self._send_sequences(row, [chunk], chunk.sequence, is_final=chunk is chunks[-1])

    def _send(self, row, chunk, is_final):
        self._send_sequences(row, [chunk], None, is_final=is_final)

    def _send_sequences(self, row, chunks, sequence_index, *, is_final):
        generation = self._generations[row]
        prompt = [] if self._exclude_input or generation.streaming else generation.prompt_ids
        sequences = [[*prompt, *chunk.ids] for chunk in chunks]
        tensors = {
            "output_ids": _padded(sequences, np.int32),
            "sequence_length": np.array([[len(ids) for ids in sequences]], np.int32),
        }
        if generation.want_log_probs:
            tensors["cum_log_probs"] = np.array([[c.cum_log_prob for c in chunks]], np.float32)
            tensors["output_log_probs"] = _padded([c.log_probs for c in chunks], np.float32)
        if len(self._generations) > 1:
            tensors["batch_index"] = np.array([[row]], np.int32)
        if sequence_index is not None:
            tensors["sequence_index"] = np.array([[sequence_index]], np.int32)
        if self._want_input_count:
            tensors["num_input_tokens"] = np.array([[len(generation.prompt_ids)]], np.int32)
        if self._want_output_count:
            count = sum(len(chunk.ids) for chunk in chunks)
            tensors["num_output_tokens"] = np.array([[count]], np.int32)
        if self._want_perf:
            tensors.update(_times(generation))
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in tensors.items()]
        )
        self._open_rows -= is_final
        if self._open_rows == 0:
            self._is_over = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._sender.send(response)


def _padded(sequences, dtype):
    """Return ``[1, sequences, L]``, short ones filled with -1."""
    width = max(map(len, sequences))
    padded = np.full((1, len(sequences), width), -1, dtype)
    for row, sequence in zip(padded[0], sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def _times(generation):
    """Return the engine's clock readings, int64 nanoseconds ``[1, 1]``."""
    readings = {
        "arrival_time_ns": generation.arrival_ns,
        "first_scheduled_time_ns": generation.first_scheduled_ns,
        "first_token_time_ns": generation.first_token_ns,
        "last_token_time_ns": generation.last_token_ns,
    }
    return {name: np.array([[value]], np.int64) for name, value in readings.items()}


def send_error(sender, message):
    """End a request with an error."""
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
