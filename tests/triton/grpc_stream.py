"""A gRPC stream that can be cancelled."""

from __future__ import annotations

import queue
import uuid
from typing import Any

import numpy as np
import tritonclient.grpc as grpc


class GrpcStream:
    """One streamed request on a connection of its own."""

    def __init__(
        self, address: str, model: str, inputs: dict[str, Any], *, timeout_us: int | None = None
    ) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client = grpc.InferenceServerClient(address)
        self._client.start_stream(lambda result, error: self._answers.put(error or result))
        tensors = []
        for name, value in inputs.items():
            array = np.array(value)
            datatype = {"i": "INT32", "b": "BOOL", "O": "BYTES"}[array.dtype.kind]
            tensor = grpc.InferInput(name, array.shape, datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        self._client.async_stream_infer(
            model, tensors, request_id=str(uuid.uuid4()), timeout=timeout_us
        )

    def first(self) -> Any:
        """Wait for the first answer, or the next."""
        return self._answers.get(timeout=30)

    def cancel(self) -> None:
        """Cancel the request and close the connection."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def long_inputs(model: str, tokens: int) -> dict[str, Any]:
    """Return the inputs of a streamed generation of ``tokens`` tokens."""
    length = np.array([[tokens]], np.int32)
    end_id = np.array([[-1]], np.int32)
    if model == "tensorrt_llm":
        return {
            "input_ids": np.array([[526, 901, 70]], np.int32),
            "input_lengths": np.array([[3]], np.int32),
            "request_output_len": length,
            "streaming": np.array([[True]]),
            "end_id": end_id,
        }
    return {
        "text_input": np.array([[b"def "]], np.object_),
        "max_tokens": length,
        "stream": np.array([[True]]),
        "end_id": end_id,
    }
