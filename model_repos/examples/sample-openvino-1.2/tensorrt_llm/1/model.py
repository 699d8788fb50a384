"""Triton model ``tensorrt_llm`` of the CPU twin: TensorRT-LLM's tensors, OpenVINO's engine.

Here requests are read. The engine runs in a process of its own (``engine_worker``), and what
it brings is sent by one thread (``dispatcher``).
"""

import os

import triton_python_backend_utils as pb_utils
from answers import SingleAnswer, send_error
from dispatcher import Dispatcher
from engine_metrics import EngineMetrics
from engine_process import EngineProcess, engine_settings
from model_folder import ModelFolder
from outbox import Outbox, Pace, UnjoinedOutbox
from rendezvous import join_ranks
from request_reader import RequestReader, is_stop


class TritonPythonModel:
    """Shapes below: B rows of the request, L ids of one chunk."""

    def initialize(self, args):
        """Load the engine and start its process; a rank above 0 waits for rank 0 to leave."""
        self._rank = join_ranks(pb_utils.Logger.log_info)
        if not self._rank.is_leader:
            return
        folder = ModelFolder(args)
        policy = folder.config.get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        max_batch_size = max(1, folder.config["max_batch_size"])
        max_queue_size = _max_queue_size(folder.config)
        self._reader = RequestReader(
            max_beam_width=folder.integer("max_beam_width", 1),
            is_decoupled=self._is_decoupled,
            exclude_input=folder.flag("exclude_input_in_output", default=False),
        )
        engine = EngineProcess(engine_settings(folder))
        bound_ms = folder.integer("stream_interval_ms", 100)
        pace = Pace(
            bound_ms / 1000,
            cores=len(os.sched_getaffinity(0)),
            engine_threads=engine.facts["threads"],
        )
        self._dispatcher = Dispatcher(
            engine,
            Outbox(pace) if bound_ms else UnjoinedOutbox(),
            max_open=max_batch_size + max_queue_size if max_queue_size else None,
            cancellation_check_period_s=folder.integer("cancellation_check_period_ms", 100) / 1000,
            metrics=EngineMetrics(
                model=args["model_name"],
                version=args["model_version"],
                max_batch_size=max_batch_size,
                kv_blocks=engine.facts["kv_blocks"],
                block_tokens=engine.facts["block_tokens"],
            ),
        )

    def execute(self, requests):
        """Start the generations of each request; a decoupled model answers them later."""
        answers = [self._start(request) for request in requests]
        if self._is_decoupled:
            return None
        return [answer.wait() for answer in answers]

    def finalize(self):
        """End the engine's process."""
        if self._rank.is_leader:
            self._dispatcher.close()
        self._rank.leave()

    def _start(self, request):
        sender = request.get_response_sender() if self._is_decoupled else SingleAnswer(request)
        try:
            if is_stop(request):
                self._stop(request, sender)
            else:
                self._dispatcher.submit(self._reader.read(request), sender)
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            send_error(sender, str(error))
        return sender

    def _stop(self, request, sender):
        if not request.request_id():
            raise ValueError("stop needs the id of the request to stop; this request has none")
        self._dispatcher.stop(request.request_id())
        if self._is_decoupled:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            sender.send(pb_utils.InferenceResponse([]))


def _max_queue_size(config):
    """Return how many prompts may wait, 0 for any number, as for Triton's own queues."""
    policy = config.get("dynamic_batching", {}).get("default_queue_policy", {})
    return int(policy.get("max_queue_size", 0))
