"""From what the engine says to Triton's responses. Used by the dispatcher's thread alone."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class SingleAnswer:
    """Stands where a decoupled model has a response sender; gives the one response it got."""

    def __init__(self, request):
        self.is_cancelled = request.is_cancelled
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
    """Turns the chunks of one request into its responses.

    Attributes:
        order: What was asked for, an ``Order``.
        arrival_ns: When the request came, on the monotonic clock.
        is_over: Its last response has been sent.
    """

    def __init__(self, order, sender, *, arrival_ns):
        self.order = order
        self.arrival_ns = arrival_ns
        self.is_over = False
        self._sender = sender
        self._open_rows = len(order.generations)
        self._whole = {}  # (row, sequence) -> chunk, for what is not streamed

    def is_cancelled(self):
        """Return whether the client has gone."""
        return self._sender.is_cancelled()

    def take(self, row, chunk):
        """Send a chunk, or keep it where the answer is not streamed."""
        if self.is_over:
            return
        if chunk.error:
            # One response ends the request: the other rows' answers would have no final flag.
            self.fail(chunk.error)
        elif self.order.streaming:
            self._send(row, [chunk])
        else:
            whole = self._whole.setdefault((row, chunk.sequence), chunk)
            if whole is not chunk:
                whole.join(chunk)
            if chunk.is_final:
                self._send_whole(row)

    def fail(self, message):
        """End the request with an error."""
        self.is_over = True
        send_error(self._sender, message)

    def _send_whole(self, row):
        chunks = [chunk for (of_row, _), chunk in sorted(self._whole.items()) if of_row == row]
        if self.order.generations[row].sampling.beam_width > 1 or len(chunks) == 1:
            self._send(row, chunks)
            return
        for chunk in chunks:
            self._send(row, [chunk], sequence_index=chunk.sequence, is_last=chunk is chunks[-1])

    def _send(self, row, chunks, *, sequence_index=None, is_last=True):
        """Send the chunks of one row as one response; the row's last one ends it."""
        is_final = is_last and any(chunk.is_final for chunk in chunks)
        tensors = self._tensors(row, chunks, is_final=is_final)
        if sequence_index is not None:
            tensors["sequence_index"] = _one(sequence_index, np.int32)
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in tensors.items()]
        )
        self._open_rows -= is_final
        if self._open_rows == 0:
            self.is_over = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._sender.send(response)

    def _tensors(self, row, chunks, *, is_final):
        order, generation = self.order, self.order.generations[row]
        prompt = [] if order.exclude_input or order.streaming else generation.prompt_ids.tolist()
        sequences = [prompt + chunk.ids if prompt else chunk.ids for chunk in chunks]
        tensors = {
            "output_ids": _padded(sequences, np.int32),
            "sequence_length": np.array([[len(ids) for ids in sequences]], np.int32),
        }
        if generation.want_log_probs:
            tensors["cum_log_probs"] = np.array([[c.cum_log_prob for c in chunks]], np.float32)
            tensors["output_log_probs"] = _padded([c.log_probs for c in chunks], np.float32)
        if len(order.generations) > 1:
            tensors["batch_index"] = _one(row, np.int32)
        if order.want_input_count:
            tensors["num_input_tokens"] = _one(len(generation.prompt_ids), np.int32)
        if order.want_output_count:
            tensors["num_output_tokens"] = _one(sum(len(c.ids) for c in chunks), np.int32)
        if order.want_perf and is_final:
            tensors |= self._perf_tensors(chunks[-1])
        return tensors

    def _perf_tensors(self, chunk):
        """Return clock readings, int64 nanoseconds, and accepted draft tokens, all ``[1, 1]``."""
        scheduled, first, last, _, accepted = chunk.account or (0, 0, 0, 0, 0)
        readings = {
            "arrival_time_ns": self.arrival_ns,
            "first_scheduled_time_ns": scheduled,
            "first_token_time_ns": first,
            "last_token_time_ns": last,
        }
        tensors = {name: _one(value, np.int64) for name, value in readings.items()}
        return tensors | {"total_accepted_draft_tokens": _one(accepted, np.int32)}


def _one(value, dtype):
    return np.array([[value]], dtype)


def _padded(sequences, dtype):
    """Return ``[1, sequences, L]``, short ones filled with -1."""
    if len(sequences) == 1:
        return np.array([sequences], dtype)
    width = max(map(len, sequences))
    padded = np.full((1, len(sequences), width), -1, dtype)
    for row, sequence in zip(padded[0], sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def send_error(sender, message):
    """End a request with an error."""
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
