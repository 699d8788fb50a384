"""A stand-in for the engine, as a Triton model: it answers with ids of the prompt itself.

``runtime_top_k`` leading ids are left out, and chunks are cut at random by ``seed``. As
TensorRT-LLM does, it ends a stream with an empty chunk, but for one that reaches its length.
Stop words are ignored, so that what is cut was cut by the text path.
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# As an engine's step. Triton 2.51 also builds the responses that a Python model gets from a
# decoupled one without Python's lock, and its stub crashes when they come while Python runs.
STEP_S = 0.001
LARGEST_CHUNK = 16
LONG_TEXT = 200


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            answer(request)


def answer(request: Any) -> None:
    def number(name: str, default: int) -> int:
        found = pb_utils.get_input_tensor_by_name(request, name)
        return default if found is None else int(found.as_numpy().flat[0])

    sender = request.get_response_sender()
    if number("stop", 0):
        sender.send(flags=FINAL)
        return
    prompt = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().flatten().tolist()
    length = number("request_output_len", 0)
    ids = prompt[number("runtime_top_k", 0) :]
    is_cut = len(ids) >= length
    ids = ids[:length]
    if number("streaming", 0):
        chunks = cut(ids, number("seed", 0))
        chunks += [] if is_cut else [[]]
    else:
        before = [] if number("exclude_input_in_output", 0) else prompt
        chunks = [[*before, *ids]] * number("num_return_sequences", 1)
    beams = number("beam_width", 1)
    for place, chunk in enumerate(chunks):
        tensors = [
            pb_utils.Tensor("output_ids", np.array([[chunk] * beams], np.int32)),
            pb_utils.Tensor("sequence_length", np.array([[len(chunk)] * beams], np.int32)),
        ]
        is_last = place == len(chunks) - 1
        time.sleep(STEP_S)
        sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if is_last else 0)


def cut(ids: list[int], seed: int) -> list[list[int]]:
    """Return the ids in chunks of random sizes, at least one chunk."""
    chance = random.Random(seed)
    largest = chance.choice([1, 3, LARGEST_CHUNK]) * (8 if len(ids) > LONG_TEXT else 1)
    chunks: list[list[int]] = []
    while ids or not chunks:
        size = chance.randint(1, largest)
        chunks.append(ids[:size])
        ids = ids[size:]
    return chunks
