"""Triton model ``postprocessing``: token ids to text.

In an ensemble it sees ids and lengths, and neither the prompt nor an end mark. A request with an
id gets exact text over its chunks, because what a chunk leaves unfinished is kept per id until
the next one; a request without an id is decoded chunk by chunk.

One end can be known: an engine sends a chunk without ids only when the generation is over
(createResponse in TensorRT-LLM's batch_manager/llmRequest.h). A generation that stops at its
length sends none, so what it left inside a character is kept until it expires.

When its own request has been cancelled it passes that on to the engine, which an ensemble
does not do by itself.
"""

import time
from collections import OrderedDict

import numpy as np
import triton_python_backend_utils as pb_utils
from detokenizer import IncrementalDetokenizer, TokenText
from model_folder import ModelFolder, load_tokenizer
from stop_request import stop_engine

_MAX_STATES = 4096
_STATE_LIFETIME_S = 120.0


class TritonPythonModel:
    """Shapes below: B rows of the request, beam sequences per row, L ids."""

    def initialize(self, args):
        """Load the tokenizer."""
        folder = ModelFolder(args)
        self._token_text = TokenText(
            load_tokenizer(folder.path("tokenizer_dir")).tokenizer,
            skip_special_tokens=folder.flag("skip_special_tokens", default=True),
        )
        self._engine_model = folder.text("tensorrt_llm_model_name", "tensorrt_llm")
        self._states = OrderedDict()  # request id -> (last use, detokenizer)
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
        # The number of rows is said: it cannot be worked out where every row is empty.
        rows = ids.reshape(lengths.size, ids.shape[-1])
        sequences = [row[:length].tolist() for row, length in zip(rows, lengths.flat, strict=True)]
        # The beams of a chunk replace those of the chunk before, so nothing is kept of them.
        if request_id and len(sequences) == 1:
            texts = [self._next_text(request_id, sequences[0])]
        else:
            texts = [self._whole_text(sequence) for sequence in sequences]
        output = np.array([text.encode("utf-8") for text in texts], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)])

    def _next_text(self, request_id, ids):
        """Return the text of a chunk, as far as it is certain; an empty chunk is the last."""
        _, detokenizer = self._states.pop(request_id, (0.0, None))
        if not ids:
            return detokenizer.finish() if detokenizer else ""
        if detokenizer is None or self._token_text.begins_text(ids):
            detokenizer = self._detokenizer(ids)
        text = detokenizer.push(ids)
        self._states[request_id] = (time.monotonic(), detokenizer)
        return text

    def _whole_text(self, ids):
        detokenizer = self._detokenizer(ids)
        return detokenizer.push(ids) + detokenizer.finish()

    def _detokenizer(self, ids):
        """Return the detokenizer of a text that begins with these ids.

        They continue the prompt unless they hold it. Where no mark begins a prompt, the two
        cannot be told apart, and they count as a text of their own.
        """
        text = self._token_text
        is_continuation = bool(text.prompt_start) and not text.begins_text(ids)
        return IncrementalDetokenizer(text, text.any_prompt if is_continuation else ())

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
