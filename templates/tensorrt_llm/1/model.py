"""Triton model ``tensorrt_llm`` of the CPU twin: TensorRT-LLM's tensors, OpenVINO's engine.

This file reads requests and writes responses. ``engine_loop`` runs the generations in a
thread of its own. That thread sends, too: the library holds the interpreter's lock while it
computes, so another thread could send only when the loop lets it. A send stalls the loop, so
a stream's tokens are joined for a few milliseconds; its first and its last go at once.
"""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from engine import Engine
from engine_loop import EngineLoop
from model_folder import ModelFolder
from request_reader import RequestReader, is_stop, wants


class TritonPythonModel:
    """Shapes below: B rows of the request, L ids of one chunk."""

    def initialize(self, args):
        """Load the engine and start its threads."""
        folder = ModelFolder(args)
        policy = folder.config.get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        limits = folder.engine_limits()
        max_batch_size = max(1, folder.config["max_batch_size"])
        self._exclude_input = folder.flag("exclude_input_in_output", default=False)
        self._reader = RequestReader(
            max_beam_width=folder.integer("max_beam_width", 1), is_decoupled=self._is_decoupled
        )
        engine = Engine(
            folder.path("gpt_model_path"),
            limits,
            max_batch_size=max_batch_size,
            max_num_tokens=folder.integer("max_num_tokens", 2048),
            kv_fraction=float(folder.text("kv_cache_free_gpu_mem_fraction", "0.9")),
            max_kv_tokens=folder.integer("max_tokens_in_paged_kv_cache"),
            block_reuse=folder.flag("enable_kv_cache_reuse", default=True),
            chunked_context=folder.flag("enable_chunked_context", default=True),
            fast_math=folder.flag("fast_math", default=False),
        )
        self._outbox = _Outbox(folder.integer("stream_interval_ms", 20) / 1000)
        period_ms = folder.integer("cancellation_check_period_ms", 100)
        self._loop = EngineLoop(
            engine,
            cancellation_check_period_s=period_ms / 1000,
            after_step=self._outbox.flush,
        )

    def execute(self, requests):
        """Start the generations of each request; a decoupled model answers them later."""
        answers = [self._start(request) for request in requests]
        if self._is_decoupled:
            return None
        return [answer.wait() for answer in answers]

    def finalize(self):
        """Stop the thread."""
        self._loop.close()

    def _start(self, request):
        sender = request.get_response_sender() if self._is_decoupled else _SingleAnswer()
        try:
            if is_stop(request):
                self._stop(request, sender)
                return sender
            prompts = self._reader.read(request, self._is_cancelled(request, sender))
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            _send_error(sender, str(error))
            return sender
        exclude_input = wants(request, "exclude_input_in_output", default=self._exclude_input)
        answer = _Answer(request, sender, prompts, exclude_input)
        for row, generation in enumerate(prompts):
            generation.sink = _Sink(self._outbox, answer, row)
            self._loop.submit(generation)
        return sender

    def _is_cancelled(self, request, sender):
        return sender.is_cancelled if self._is_decoupled else request.is_cancelled

    def _stop(self, request, sender):
        if not request.request_id():
            raise ValueError("stop needs the id of the request to stop; this request has none")
        self._loop.stop(request.request_id())
        if self._is_decoupled:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            sender.send(pb_utils.InferenceResponse([]))


class _Outbox:
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
            answer.take(row, chunk)
        if is_due:
            # Counted from the end of sending, so that the engine always gets its share.
            self._next_send = time.monotonic() + self._interval_s


class _Sink:
    """Puts the chunks of one generation into the outbox."""

    def __init__(self, outbox, answer, row):
        self._outbox = outbox
        self._answer = answer
        self._row = row

    def __call__(self, chunk):
        self._outbox.put(self._answer, self._row, chunk)


class _SingleAnswer:
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


class _Answer:
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
            self._is_over = True
            for other in self._generations:
                other.is_cancelled = lambda: True
            _send_error(self._sender, chunk.error)
            return
        if generation.streaming:
            self._send(row, chunk, chunk.is_final)
            return
        whole = self._whole.setdefault((row, chunk.sequence), chunk)
        if whole is not chunk:
            whole.join(chunk)
        if chunk.is_final:
            self._send_whole(row)

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


def _send_error(sender, message):
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
