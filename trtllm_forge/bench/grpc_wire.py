"""``ModelStreamInfer`` over gRPC: a stream per request, on a few shared connections.

Messages stay bytes while a load runs: they are written before and taken apart afterwards.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from trtllm_forge.bench.wire import Failure, FailureKind, Received, Response
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.bench.target import Target
    from trtllm_forge.triton.client.address import ServerUrls
    from trtllm_forge.triton.client.tls import GrpcTrust

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_MOST_MESSAGE_BYTES = 1 << 30
_FORMATS = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP32": "<f4",
    "FP64": "<f8",
}


def open_wire(urls: ServerUrls, *, timeout_s: float) -> GrpcWire:
    """Return a wire to a server's gRPC service.

    Raises:
        ConfigError: Its address is not known, or forge is not let in.
    """
    if urls.grpc is None:
        what = f"the gRPC address of the server at {urls.http} is not known"
        why = "that server was not started by this user's forge"
        raise ConfigError(what, why=why, hint="forge bench --protocol grpc --grpc 127.0.0.1:8001")
    if urls.own_grpc is None:
        what = f"the gRPC service of {urls.http} requires a client certificate"
        why = "the server's certificate, which forge would present, is not signed for clients"
        raise ConfigError(what, why=why, hint="forge bench --protocol http")
    address = urls.grpc.rpartition("/")[2]
    return GrpcWire(address, timeout_s=timeout_s, trust=urls.grpc_trust)


class GrpcWire:
    """Streams to one server.

    Args:
        address: Host and port.
        timeout_s: How long a whole answer may take.
        trust: What the server is held to, where its gRPC is encrypted.
    """

    def __init__(self, address: str, *, timeout_s: float, trust: GrpcTrust | None = None) -> None:
        import grpc.aio  # type: ignore[import-untyped]

        self._timeout_s = timeout_s
        options = [
            ("grpc.max_receive_message_length", _MOST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MOST_MESSAGE_BYTES),
        ]
        if trust is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(
                address, trust.credentials(), options=[*options, *trust.channel_options()]
            )
        # Without serializers a message is bytes in and bytes out.
        self._stream = self._channel.stream_stream(_METHOD)

    def encode(self, target: Target, inputs: Mapping[str, Any]) -> bytes:
        """Return a ``ModelInferRequest``, shaped as the model's metadata says."""
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelInferRequest(
            model_name=target.model, id=f"forge-{uuid.uuid4().hex}"
        )
        for name, value in inputs.items():
            spec = target.tensors[name]
            values = value if isinstance(value, list) else [value]
            tensor = request.inputs.add()
            tensor.name = name
            tensor.datatype = spec.datatype
            tensor.shape.extend([1] * (len(spec.shape) - 1) + [len(values)])
            request.raw_input_contents.append(_packed(spec.datatype, values))
        message: bytes = request.SerializeToString()
        return message

    async def send(self, message: bytes) -> Received:
        """Send a request on a stream of its own and read that to its end."""
        import grpc

        received = Received(sent_s=time.perf_counter())
        call = self._stream(timeout=self._timeout_s)
        try:
            await call.write(message)
            await call.done_writing()
            async for piece in call:
                received.pieces.append((time.perf_counter(), piece))
        except grpc.RpcError as error:
            received.failure = _failure(error.code(), error.details())
        except asyncio.InvalidStateError:  # it ended while the request was being written
            received.failure = _failure(await call.code(), await call.details())
        except asyncio.CancelledError:
            call.cancel()
            raise
        received.ended_s = time.perf_counter()
        return received

    def read(self, received: Received) -> list[Response]:
        """Return the responses of a stream; Triton's last, empty one is none."""
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        responses = []
        for time_s, piece in received.pieces:
            try:
                message = service_pb2.ModelStreamInferResponse.FromString(piece)
            except DecodeError as error:
                raise ValueError(str(error)) from error
            response = message.infer_response
            tensors = {
                output.name: _unpacked(output.datatype, raw)
                for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)
            }
            if message.error_message or tensors:
                responses.append(
                    Response(time_s=time_s, tensors=tensors, error=message.error_message or None)
                )
        return responses

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return values as the protocol carries them; a string has its length before it."""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    import numpy as np

    return np.array(values, dtype=_FORMATS[datatype]).tobytes()


def _unpacked(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        import numpy as np

        # What has no format here, half floats, holds no figure that is looked at.
        known = _FORMATS.get(datatype)
        return np.frombuffer(raw, dtype=known).tolist() if known else []
    texts = []
    place = 0
    while place < len(raw):
        length = int.from_bytes(raw[place : place + 4], "little")
        texts.append(raw[place + 4 : place + 4 + length].decode(errors="replace"))
        place += 4 + length
    return texts


def _failure(code: object, details: str) -> Failure:
    import grpc

    kinds: dict[object, FailureKind] = {
        grpc.StatusCode.UNAVAILABLE: "disconnected",
        grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    }
    return Failure(kind=kinds.get(code, "refused"), message=details)
