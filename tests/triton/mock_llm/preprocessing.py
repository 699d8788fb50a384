"""Characters are tokens; 0 ends a text. Stop words of one character each."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        def tensor(name: str) -> Any:
            found = pb_utils.get_input_tensor_by_name(request, name)
            return None if found is None else found.as_numpy()

        ids = [ord(character) for character in tensor("QUERY")[0][0].decode()]
        words = tensor("STOP_WORDS_DICT")
        stop = [] if words is None else [ord(word.decode()) for word in words[0] if word]
        offsets = list(range(1, len(stop) + 1))
        end_id = tensor("END_ID")
        output = {
            "INPUT_ID": np.array([ids], np.int32),
            "REQUEST_INPUT_LEN": np.array([[len(ids)]], np.int32),
            "REQUEST_OUTPUT_LEN": tensor("REQUEST_OUTPUT_LEN"),
            "OUT_END_ID": np.zeros((1, 1), np.int32) if end_id is None else end_id,
            "STOP_WORDS_IDS": np.array([[stop or [0], offsets or [-1]]], np.int32),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in output.items()])
