"""Triton model ``tensorrt_llm`` of the CPU twin: TensorRT-LLM's tensors, OpenVINO's engine.

This file reads requests and writes responses. ``engine_loop`` runs the generations in a
thread of its own. That thread sends, too: the library holds the interpreter's lock while it
computes, so another thread could send only when the loop lets it. A send stalls the loop, so
a stream's tokens are joined for a few milliseconds; its first and its last go at once.
"""

import triton_python_backend_utils as pb_utils
from answers import Answer, Outbox, SingleAnswer, Sink, send_error
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
        self._outbox = Outbox(folder.integer("stream_interval_ms", 20) / 1000)
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
        sender = request.get_response_sender() if self._is_decoupled else SingleAnswer()
        try:
            if is_stop(request):
                self._stop(request, sender)
                return sender
            prompts = self._reader.read(request, self._is_cancelled(request, sender))
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            send_error(sender, str(error))
            return sender
        exclude_input = wants(request, "exclude_input_in_output", default=self._exclude_input)
        answer = Answer(request, sender, prompts, exclude_input)
        for row, generation in enumerate(prompts):
            generation.sink = Sink(self._outbox, answer, row)
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
