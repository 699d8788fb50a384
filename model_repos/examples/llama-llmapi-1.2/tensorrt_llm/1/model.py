"""Triton model ``tensorrt_llm`` over TensorRT-LLM's LLM API: text in, text out.

Its tensors are those of TensorRT-LLM's llmapi model. Start Triton without ``mpirun``: the LLM API
starts the processes of further GPUs itself.
"""

import json
from pathlib import Path

from llm_answer import send_cancelled, send_error
from llm_loop import LlmLoop
from llm_request import is_stop, read_request
from llm_settings import read_settings


class TritonPythonModel:
    """Shapes: every input is ``[1]``, but for the stop words ``[-1]``; outputs ``[sequences]``."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Take the two values that ``model.yaml`` has for Triton, where Triton asks for them."""
        settings = read_settings(Path(__file__).parent)
        auto_complete_model_config.set_max_batch_size(settings.max_batch_size)
        policy = {"decoupled": settings.is_decoupled}
        auto_complete_model_config.set_model_transaction_policy(policy)
        return auto_complete_model_config

    def initialize(self, args):
        """Load the checkpoint; what fails here fails the load of the model."""
        # Imported late, because it opens the GPUs.
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict

        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        settings = read_settings(Path(__file__).parent)
        self._llm = LLM(**update_llm_args_with_extra_dict({}, settings.arguments))
        self._loop = LlmLoop(
            self._llm,
            SamplingParams,
            cancellation_check_period_s=settings.cancellation_check_period_s,
        )

    def execute(self, requests):
        """Start the generation of each request, which answers when it likes."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except Exception as error:  # an input that cannot be read
                send_error(sender, f"Error generating request: {error}")

    def finalize(self):
        """End what runs, and the engine."""
        self._loop.close()
        self._llm.shutdown()

    def _take(self, request, sender):
        request_id = request.request_id()
        if is_stop(request):
            self._stop(request_id, sender)
            return
        llm_request = read_request(request, is_decoupled=self._is_decoupled)
        self._loop.submit(request_id, llm_request, sender)

    def _stop(self, request_id, sender):
        if not request_id:
            send_error(sender, "A request id must be provided for request cancellation")
            return
        self._loop.stop(request_id)
        send_cancelled(sender)
