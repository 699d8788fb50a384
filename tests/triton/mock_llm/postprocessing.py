"""Token ids back to characters; a cancelled request is passed on to the engine by its id."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        if request.is_cancelled() and request.request_id():
            self._stop(request.request_id())
        ids = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().reshape(-1)
        text = "".join(map(chr, ids)).encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([text], np.object_))])

    def _stop(self, request_id: str) -> None:
        one = np.ones((1, 1), np.int32)
        names = ("input_ids", "input_lengths", "request_output_len")
        inputs = [pb_utils.Tensor(name, one) for name in names]
        stop = pb_utils.InferenceRequest(
            model_name="tensorrt_llm",
            request_id=request_id,
            requested_output_names=[],
            inputs=[*inputs, pb_utils.Tensor("stop", np.ones((1, 1), np.bool_))],
        )
        for _ in stop.exec(decoupled=True):
            pass
