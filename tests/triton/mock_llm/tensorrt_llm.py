"""A stand-in for the engine: every step adds one letter to every running generation.

The parameter ``fault`` makes it wrong in one way, so that each probe can be seen to fail:
``load``, ``serial``, ``deaf_to_cancel``, ``one_chunk``, ``other_text_when_streaming``.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
LETTERS_BEFORE_END = 40


@dataclass
class Generation:
    """One request and the letters it has so far."""

    request_id: str
    sender: Any
    prompt: list[int]
    max_tokens: int
    end_id: int
    streaming: bool
    exclude_input: bool
    count_input: bool
    count_output: bool
    stop_ids: set[int]
    ids: list[int] = field(default_factory=list)
    is_stopped: bool = False


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._step_s = float(parameters["step_ms"]["string_value"]) / 1000
        self._max_seq_len = int(parameters["max_seq_len"]["string_value"])
        self._fault = parameters["fault"]["string_value"]
        if self._fault == "load":
            raise ValueError("engine.json names 3 layers, the engine has 2")
        self._lock = threading.Lock()
        self._running: list[Generation] = []
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._start(request)

    def finalize(self) -> None:
        self._is_closed = True
        self._thread.join()

    def _start(self, request: Any) -> None:
        def tensor(name: str, default: Any) -> Any:
            found = pb_utils.get_input_tensor_by_name(request, name)
            return default if found is None else found.as_numpy().reshape(-1)[0]

        sender = request.get_response_sender()
        if tensor("stop", False):
            with self._lock:
                for generation in self._running:
                    generation.is_stopped |= generation.request_id == request.request_id()
            sender.send(flags=FINAL)
            return
        ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy().reshape(-1)
        words = pb_utils.get_input_tensor_by_name(request, "stop_words_list")
        max_tokens = int(tensor("request_output_len", 0))
        if len(ids) + max_tokens > self._max_seq_len:
            text = f"{len(ids)} and {max_tokens} tokens, at most {self._max_seq_len} fit"
            error = pb_utils.InferenceResponse(error=pb_utils.TritonError(text))
            sender.send(error, flags=FINAL)
            return
        generation = Generation(
            request_id=request.request_id(),
            sender=sender,
            prompt=ids.tolist(),
            max_tokens=max_tokens,
            end_id=int(tensor("end_id", -1)),
            streaming=bool(tensor("streaming", False)),
            exclude_input=bool(tensor("exclude_input_in_output", False)),
            count_input=bool(tensor("return_num_input_tokens", False)),
            count_output=bool(tensor("return_num_output_tokens", False)),
            stop_ids=set() if words is None else set(words.as_numpy()[0][0].tolist()),
        )
        with self._lock:
            self._running.append(generation)

    def _loop(self) -> None:
        while not self._is_closed:
            time.sleep(self._step_s)
            with self._lock:
                running = self._running[:1] if self._fault == "serial" else list(self._running)
            over = [generation for generation in running if self._step(generation)]
            with self._lock:
                self._running = [item for item in self._running if item not in over]

    def _step(self, generation: Generation) -> bool:
        """Add a letter; return whether that was the last."""
        is_deaf = self._fault == "deaf_to_cancel"
        is_cut = not is_deaf and (generation.is_stopped or generation.sender.is_cancelled())
        number = len(generation.ids)
        letter = ord("a") + (len(generation.prompt) + number) % 26
        if self._fault == "other_text_when_streaming" and generation.streaming and number == 3:
            letter = ord("!")
        is_end = number == LETTERS_BEFORE_END and generation.end_id == 0
        fresh = [] if is_cut or is_end else [letter]
        generation.ids += fresh
        is_full = len(generation.ids) == generation.max_tokens
        is_last = is_cut or is_end or is_full or letter in generation.stop_ids
        chunked = generation.streaming and self._fault != "one_chunk"
        if chunked:
            self._send(generation, fresh, is_last)
        elif is_last:
            self._send(generation, generation.ids, is_last)
        return is_last

    def _send(self, generation: Generation, ids: list[int], is_last: bool) -> None:
        whole = generation.streaming or generation.exclude_input
        sequence = ids if whole else generation.prompt + ids
        tensors = [
            pb_utils.Tensor("output_ids", np.array([[sequence]], np.int32)),
            pb_utils.Tensor("sequence_length", np.array([[len(sequence)]], np.int32)),
        ]
        counts = {
            "num_input_tokens": (generation.count_input, len(generation.prompt)),
            "num_output_tokens": (generation.count_output, len(ids)),
        }
        for name, (is_wanted, count) in counts.items():
            if is_wanted:
                tensors.append(pb_utils.Tensor(name, np.array([[count]], np.int32)))
        generation.sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if is_last else 0)
