"""Runs one generation over a gRPC stream of Triton."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from trtllm_forge.triton.client.http import TextChunk, TritonAnswerError, new_request_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtllm_forge.triton.client.tls import GrpcTrust


class GrpcGeneration:
    """One generation over a gRPC stream; starts immediately and can be cancelled.

    Args:
        address: Host and port.
        model: A text model.
        inputs: Values of its input tensors, one element each; int, float, bool or str.
        trust: How to verify the server, if its gRPC is encrypted.
    """

    def __init__(
        self,
        address: str,
        model: str,
        inputs: Mapping[str, str | int | float | bool],
        trust: GrpcTrust | None = None,
    ) -> None:
        import tritonclient.grpc

        self.request_id = new_request_id()
        self._has_ended = False
        self._answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._client = tritonclient.grpc.InferenceServerClient(
            address,
            creds=None if trust is None else trust.credentials(),
            channel_args=None if trust is None else trust.channel_options(),
        )
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        self._client.async_stream_infer(
            model,
            [_grpc_input(name, value) for name, value in inputs.items()],
            request_id=self.request_id,
            enable_empty_final_response=True,
        )

    def chunks(self, timeout_s: float) -> Iterator[TextChunk]:
        """Yield the answers as they arrive, until the last one or a cancel.

        Raises:
            TritonAnswerError: The request ended with an error, or nothing came in time.
        """
        while True:
            try:
                result, error = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                message = f"no response within {timeout_s:g} s over gRPC"
                raise TritonAnswerError(message) from None
            if error is not None:
                raise TritonAnswerError(str(error))
            if result is None:
                return
            text = result.as_numpy("text_output")
            if text is not None and text.size:
                count = result.as_numpy("num_output_tokens")
                yield TextChunk(
                    text="".join(item.decode(errors="replace") for item in text.reshape(-1)),
                    num_input_tokens=None,
                    num_output_tokens=None if count is None else int(count.sum()),
                )
            if result.get_response().parameters["triton_final_response"].bool_param:
                self._has_ended = True
                return

    def cancel(self) -> None:
        """Cancel the request if it is still running, and end the stream.

        If it is cancelled just after it ended, Triton 2.51 keeps it and its model forever.
        """
        self._client.stop_stream(cancel_requests=not self._has_ended)
        self._client.close()
        self._answers.put((None, None))


def _grpc_input(name: str, value: str | int | float | bool) -> Any:
    import numpy as np
    import tritonclient.grpc

    if isinstance(value, str):
        datatype, array = "BYTES", np.array([[value.encode()]], dtype=np.object_)
    elif isinstance(value, bool):
        datatype, array = "BOOL", np.array([[value]], dtype=np.bool_)
    elif isinstance(value, int):
        datatype, array = "INT32", np.array([[value]], dtype=np.int32)
    else:
        datatype, array = "FP32", np.array([[value]], dtype=np.float32)
    tensor = tritonclient.grpc.InferInput(name, [1, 1], datatype)
    tensor.set_data_from_numpy(array)
    return tensor
