"""A Triton that answers at a fixed pace, over HTTP and gRPC; prints its addresses as JSON.

Words in a prompt make it misbehave: REFUSE, BREAK (an error after the first chunk), DROP (it hangs
up after it), HANG, NOTHING (an answer without a token), GARBAGE (what is no event). Arguments:
``--first-s``, ``--gap-s``, ``--chunk`` tokens, ``--drafts``, ``--uncounted``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc.aio  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT_INPUTS = {
    "text_input": "BYTES",
    "max_tokens": "INT32",
    "stream": "BOOL",
    "end_id": "INT32",
    "exclude_input_in_output": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
    "return_perf_metrics": "BOOL",
}
ID_INPUTS = {
    "input_ids": "INT32",
    "input_lengths": "INT32",
    "request_output_len": "INT32",
    "streaming": "BOOL",
    "end_id": "INT32",
    "return_num_output_tokens": "BOOL",
}
MODELS = {
    "ensemble": TEXT_INPUTS,
    "tensorrt_llm_bls": TEXT_INPUTS,
    "tensorrt_llm": ID_INPUTS,
    "plain": TEXT_INPUTS,
    "preprocessing": {"QUERY": "BYTES"},
}
DATATYPES = {"text_output": "BYTES"}
PREFIX_CHARACTERS = 400


class ModelError(Exception):
    """The model answers with an error."""


class HangUpError(Exception):
    """The server goes away."""


class Model:
    """Writes words at a pace."""

    def __init__(self, pace: argparse.Namespace) -> None:
        self._pace = pace
        self._seen: set[str] = set()

    async def answers(self, inputs: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the responses of one request."""
        pace = self._pace
        prompt = str(inputs.get("text_input", ""))
        total = int(inputs.get("max_tokens", inputs.get("request_output_len", 0)))
        if "REFUSE" in prompt:
            raise ModelError("no such thing")
        if "HANG" in prompt:
            await asyncio.sleep(3600)
        if "NOTHING" in prompt:
            yield {"text_output": "", "num_output_tokens": 0}
            return
        prefix = prompt[:PREFIX_CHARACTERS]
        is_seen = len(prompt) > PREFIX_CHARACTERS and prefix in self._seen
        self._seen.add(prefix)
        await asyncio.sleep(pace.first_s / (10 if is_seen else 1))
        for done in range(0, total, pace.chunk):
            if done:
                await asyncio.sleep(pace.gap_s)
            yield self._response(inputs, min(pace.chunk, total - done), done + pace.chunk >= total)
            if "BREAK" in prompt:
                raise ModelError("the engine stopped")
            if "DROP" in prompt:
                raise HangUpError

    def _response(self, inputs: dict[str, Any], tokens: int, is_last: bool) -> dict[str, Any]:
        response: dict[str, Any] = {}
        if "input_ids" in inputs:
            response |= {"output_ids": list(range(tokens)), "sequence_length": tokens}
        else:
            response["text_output"] = " word" * tokens
            if inputs.get("return_num_input_tokens"):
                response["num_input_tokens"] = len(inputs["text_input"].split())
        if inputs.get("return_num_output_tokens") and not self._pace.uncounted:
            response["num_output_tokens"] = tokens
        if inputs.get("return_perf_metrics") and self._pace.drafts and is_last:
            response |= {"total_draft_tokens": 8, "total_accepted_draft_tokens": 4}
        return response


class HttpFront:
    """Health, metadata and ``generate_stream``."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                if path.endswith("/generate_stream"):
                    await self._stream(writer, json.loads(body))
                else:
                    self._answer(writer, 200, document(path))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, HangUpError):
            pass
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, inputs: dict[str, Any]) -> None:
        has_started = False
        if "GARBAGE" in str(inputs.get("text_input")):
            self._start(writer)
            self._chunk(writer, b"data: {not json\n\n")
            writer.write(b"0\r\n\r\n")
            return
        try:
            async for response in self._model.answers(inputs):
                if not has_started:
                    self._start(writer)
                    has_started = True
                self._event(writer, response)
                await writer.drain()
        except ModelError as error:
            if not has_started:
                self._answer(writer, 400, {"error": str(error)})
                return
            self._event(writer, {"error": str(error)})
        writer.write(b"0\r\n\r\n")

    def _start(self, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    def _event(self, writer: asyncio.StreamWriter, content: dict[str, Any]) -> None:
        self._chunk(writer, b"data: " + json.dumps(content).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")

    def _answer(self, writer: asyncio.StreamWriter, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def document(path: str) -> object:
    """Return what Triton says of itself and of its models."""
    if path == "/v2":
        return {"name": "triton", "version": "2.51.0"}
    if path.endswith("/index"):
        return [{"name": name, "version": "1", "state": "READY"} for name in MODELS]
    name = path.split("/")[3]
    if path.endswith("/config"):
        return {"model_transaction_policy": {"decoupled": name != "plain"}}
    inputs = [
        {"name": tensor, "datatype": datatype, "shape": [-1, -1 if tensor == "input_ids" else 1]}
        for tensor, datatype in MODELS[name].items()
    ]
    return {"name": name, "versions": ["1"], "inputs": inputs, "outputs": []}


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]
    """``ModelStreamInfer``."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == "/inference.GRPCInferenceService/ModelStreamInfer"
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            request = service_pb2.ModelInferRequest.FromString(message)
            try:
                async for response in self._model.answers(inputs_of(request)):
                    yield response_of(response)
            except ModelError as error:
                answer = service_pb2.ModelStreamInferResponse(error_message=str(error))
                yield answer.SerializeToString()
            except HangUpError:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


def inputs_of(request: Any) -> dict[str, Any]:
    """Return the first element of each tensor; all of the ids."""
    found: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            found[tensor.name] = raw[4:].decode()
            assert int.from_bytes(raw[:4], "little") == len(raw) - 4
        elif tensor.datatype == "BOOL":
            found[tensor.name] = bool(raw[0])
        else:
            values = [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]
            assert list(tensor.shape) == [1, len(values)]
            found[tensor.name] = values if tensor.name == "input_ids" else values[0]
    return found


def response_of(tensors: dict[str, Any]) -> bytes:
    """Return a response as it travels."""
    answer = service_pb2.ModelStreamInferResponse()
    for name, value in tensors.items():
        output = answer.infer_response.outputs.add()
        output.name = name
        output.datatype = DATATYPES.get(name, "INT32")
        values = value if isinstance(value, list) else [value]
        output.shape.extend([1, len(values)])
        if output.datatype == "BYTES":
            text = str(value).encode()
            raw = len(text).to_bytes(4, "little") + text
        else:
            raw = b"".join(number.to_bytes(4, "little") for number in values)
        answer.infer_response.raw_output_contents.append(raw)
    message: bytes = answer.SerializeToString()
    return message


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-s", type=float, default=0.02)
    parser.add_argument("--gap-s", type=float, default=0.005)
    parser.add_argument("--chunk", type=int, default=2)
    parser.add_argument("--drafts", action="store_true")
    parser.add_argument("--uncounted", action="store_true")
    model = Model(parser.parse_args())
    http = await asyncio.start_server(HttpFront(model).serve, "127.0.0.1", 0)
    rpc = grpc.aio.server()
    rpc.add_generic_rpc_handlers((GrpcFront(model),))
    grpc_port = rpc.add_insecure_port("127.0.0.1:0")
    await rpc.start()
    http_port = http.sockets[0].getsockname()[1]
    urls = {"http": f"http://127.0.0.1:{http_port}", "grpc": f"127.0.0.1:{grpc_port}"}
    print(json.dumps(urls), flush=True)
    await http.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
