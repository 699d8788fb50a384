"""Triton model ``postprocessing``: token ids to text.

In an ensemble it sees ids and lengths and no end mark. A request with an id gets exact text
over its chunks, because what a chunk leaves unfinished is kept per id and sequence until the
next one; a request without an id is decoded chunk by chunk.

When its own request has been cancelled it passes that on to the engine, which an ensemble
does not do by itself.
"""

import time
from collections import OrderedDict

import numpy as np
import triton_python_backend_utils as pb_utils
from detokenizer import IncrementalDetokenizer
from model_folder import ModelFolder, load_tokenizer
from stop_request import stop_engine

_MAX_STATES = 4096
_STATE_LIFETIME_S = 120.0


class TritonPythonModel:
    """Shapes below: B rows of the request, beam sequences per row, L ids."""

    def initialize(self, args):
        """Load the tokenizer."""
        folder = ModelFolder(args)
        self._tokenizer = load_tokenizer(folder.path("tokenizer_dir")).tokenizer
        self._skip_special_tokens = folder.flag("skip_special_tokens", default=True)
        self._engine_model = folder.text("tensorrt_llm_model_name", "tensorrt_llm")
        self._states = OrderedDict()  # (request id, sequence) -> (last use, detokenizer)
        self._cancelled = OrderedDict()

    def execute(self, requests):
        """Answer a dynamic batch: one response per request, in order."""
        responses = []
        for request in requests:
            try:
                responses.append(self._respond(request))
            except Exception as error:  # belongs to this request alone
                message = pb_utils.TritonError(str(error))
                responses.append(pb_utils.InferenceResponse(error=message))
        self._expire()
        return responses

    def _respond(self, request):
        request_id = request.request_id()
        if request_id and request.is_cancelled():
            self._stop_engine(request_id)
        ids = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        sequences = ids.reshape(-1, ids.shape[-1])
        texts = [
            self._text(request_id, index, sequence[:length].tolist())
            for index, (sequence, length) in enumerate(zip(sequences, lengths.flat, strict=True))
        ]
        output = np.array([text.encode("utf-8") for text in texts], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)])

    def _text(self, request_id, sequence, ids):
        if not request_id:
            return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)
        key = (request_id, sequence)
        _, detokenizer = self._states.pop(key, (0.0, None))
        if detokenizer is None:
            detokenizer = IncrementalDetokenizer(
                self._tokenizer, skip_special_tokens=self._skip_special_tokens
            )
        text = detokenizer.push(ids)
        self._states[key] = (time.monotonic(), detokenizer)
        return text

    def _expire(self):
        """Forget what has not been used for long, oldest first, and keep the rest bounded."""
        oldest_allowed = time.monotonic() - _STATE_LIFETIME_S
        for states in (self._states, self._cancelled):
            while states:
                last_use = next(iter(states.values()))[0]
                if len(states) <= _MAX_STATES and last_use >= oldest_allowed:
                    break
                states.popitem(last=False)

    def _stop_engine(self, request_id):
        """Ask the engine, once per request, to stop what runs under this id."""
        if request_id in self._cancelled:
            return
        self._cancelled[request_id] = (time.monotonic(), None)
        stop_engine(self._engine_model, request_id)
