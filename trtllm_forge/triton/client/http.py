"""Client of a Triton: health, metadata, statistics, and the generate extension.

Thin, over the standard library's HTTP: a JSON key that a model declares becomes that tensor.
Importing httpx instead adds 50 to 70 ms to each start of ``forge serve`` and ``forge ps``, and
its client sends about 30 % fewer requests per second.

Every generation carries a request id, because the ensemble's postprocessing keeps its state per
id.
"""

from __future__ import annotations

import http.client
import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from trtllm_forge.errors import ConfigError, ForgeError, ProbeError, ServerError
from trtllm_forge.triton.client.address import CONTROL_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtllm_forge.files.digest import JsonValue

_HEALTH_TIMEOUT_S = 5.0
_PIECE_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor as the server describes it; the shape includes a batch axis, if any."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """A served model's tensors."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True)
class TextChunk:
    """One answer of a text model: the text, and token counts if the model returns them."""

    text: str
    num_input_tokens: int | None
    num_output_tokens: int | None


class TritonAnswerError(ProbeError):
    """The server answered a request with an error; ``what`` is the server's own text."""


class TritonHttp:
    """One server's HTTP endpoint.

    Args:
        url: Scheme, host and port: ``http://127.0.0.1:8000``.
        timeout_s: How long to wait for each piece of an answer.
        control_key: The key to its model control, if that is restricted.

    Raises:
        ConfigError: ``url`` is not of that form.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 120.0, control_key: str | None = None
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            self._port = parts.port
        except ValueError:
            self._port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or self._port == -1:
            what = f"{url} is not the address of a server"
            raise ConfigError(what, hint="--http http://127.0.0.1:8000")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._timeout_s = timeout_s
        self._headers = {CONTROL_HEADER: control_key} if control_key else {}

    def is_live(self) -> bool:
        """Return whether the server's process is up and answering."""
        return self._is_healthy("/v2/health/live")

    def is_ready(self) -> bool:
        """Return whether the server can serve all its models."""
        return self._is_healthy("/v2/health/ready")

    def is_model_ready(self, model: str) -> bool:
        """Return whether one model can serve."""
        return self._is_healthy(f"/v2/models/{quote(model)}/ready")

    def server_version(self) -> str:
        """Return the server's own version."""
        with self._reading():
            return str(self._json("GET", "/v2")["version"])

    def models(self) -> tuple[tuple[str, str, str], ...]:
        """Return name, version and state of every model, by name.

        Raises:
            TritonAnswerError: Its model control is restricted, and the key is not known.
            ServerError: No server answers, or it is not a Triton.
        """
        with self._reading():
            index = self._json("POST", "/v2/repository/index")
            rows = ((m["name"], m.get("version", ""), m.get("state", "UNAVAILABLE")) for m in index)
            return tuple(sorted(rows))

    def ready_models(self, usual: Sequence[str]) -> tuple[str, ...]:
        """Return the models that can serve; those of ``usual`` if it does not list its models."""
        try:
            return tuple(name for name, _, state in self.models() if state == "READY")
        except TritonAnswerError:
            return tuple(name for name in usual if self.is_model_ready(name))

    def load(self, model: str) -> None:
        """Load or reload a model, and return once it is ready.

        Raises:
            TritonAnswerError: It does not load; what was loaded before is still served.
            ServerError: No server answers.
        """
        with self._answer("POST", f"/v2/repository/models/{quote(model)}/load", {}):
            pass

    def unload(self, model: str) -> None:
        """Stop new requests to a model; it unloads when the running ones have ended.

        Raises:
            TritonAnswerError: The server refuses.
            ServerError: No server answers.
        """
        # Keep an ensemble's inner models, which its running requests need.
        with self._answer("POST", f"/v2/repository/models/{quote(model)}/unload", {}):
            pass

    def inner_models(self, model: str) -> tuple[str, ...]:
        """Return the models that an ensemble runs; none for any other model."""
        with self._reading():
            config = self._json("GET", f"/v2/models/{quote(model)}/config")
            steps = config.get("ensemble_scheduling", {}).get("step", ())
            return tuple(step["model_name"] for step in steps)

    def model_metadata(self, model: str) -> ModelMetadata:
        """Return a served model's tensors."""
        with self._reading():
            document = self._json("GET", f"/v2/models/{quote(model)}")
            return ModelMetadata(
                name=document["name"],
                versions=tuple(document.get("versions", ())),
                inputs=tuple(map(_tensor_spec, document.get("inputs", ()))),
                outputs=tuple(map(_tensor_spec, document.get("outputs", ()))),
            )

    def is_decoupled(self, model: str) -> bool:
        """Return whether a model can send several responses per request."""
        with self._reading():
            config = self._json("GET", f"/v2/models/{quote(model)}/config")
            return bool(config.get("model_transaction_policy", {}).get("decoupled", False))

    def inference_count(self, model: str) -> int:
        """Return how many inferences a model has done since it was loaded."""
        with self._reading():
            document = self._json("GET", f"/v2/models/{quote(model)}/stats")
            return sum(int(entry["inference_count"]) for entry in document["model_stats"])

    def generate(self, model: str, inputs: Mapping[str, JsonValue]) -> TextChunk:
        """Return a text model's single answer.

        Raises:
            TritonAnswerError: The server refused the request, or it failed.
            ServerError: No server answers, or it is not a Triton.
        """
        with self._reading():
            return _text_chunk(self._json("POST", f"/v2/models/{quote(model)}/generate", inputs))

    def generate_stream(self, model: str, inputs: Mapping[str, JsonValue]) -> Iterator[TextChunk]:
        """Yield a text model's answers as they arrive; closing the iterator cancels the request.

        Raises:
            TritonAnswerError: The server refused the request, or it failed.
            ServerError: No server answers, it went away meanwhile, or it is not a Triton.
        """
        path = f"/v2/models/{quote(model)}/generate_stream"
        with self._answer("POST", path, inputs) as response:
            for line in self._lines(response):
                if line.startswith(b"data:"):
                    with self._reading():
                        event = json.loads(line[len(b"data:") :])
                        error = event.get("error")
                        chunk = _text_chunk(event)
                    if error is not None:
                        raise TritonAnswerError(str(error))
                    yield chunk

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        # HTTPResponse.readline does not tell a stream that was cut off from one that ended.
        held = b""
        while True:
            with self._receiving():
                piece = response.read1(_PIECE_BYTES)
            if not piece:
                break
            *lines, held = (held + piece).split(b"\n")
            yield from lines
        if held:
            yield held

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            what = f"the server at {self.url} went away in the middle of an answer"
            raise ServerError(what, why=str(error)) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Report an unreadable answer as that of another kind of server."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise self._foreign(why) from error

    def _foreign(self, why: str) -> ServerError:
        return ServerError(f"{self.url} does not answer like a Triton server", why=why)

    def _is_healthy(self, path: str) -> bool:
        connection = self._connection(_HEALTH_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Any:
        with self._answer(method, path, body) as response:
            with self._receiving():
                raw = response.read()
            return json.loads(raw)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, JsonValue] | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection(self._timeout_s)
        try:
            try:
                text = None
                if body is not None:
                    text = json.dumps({"id": body.get("id") or new_request_id(), **body})
                connection.request(method, path, body=text, headers=self._headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                what = f"no server answers at {self.url}"
                raise ServerError(what, why=str(error), hint="forge serve") from error
            if response.status != 200:
                raise self._refusal(response)
            yield response
        finally:
            connection.close()

    def _refusal(self, response: http.client.HTTPResponse) -> ForgeError:
        with self._receiving():
            raw = response.read().decode(errors="replace").strip()
        status = f"HTTP status {response.status}"
        if not raw:
            return TritonAnswerError(status)
        try:
            # A refused stream returns its error as an event.
            return TritonAnswerError(str(json.loads(raw.removeprefix("data:"))["error"]))
        except (ValueError, LookupError, TypeError):
            return self._foreign(f"{status}: {raw.splitlines()[0][:_SHOWN_CHARACTERS]}")

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout_s)


def new_request_id() -> str:
    """Return a unique request id."""
    return f"forge-{uuid.uuid4().hex}"


def _tensor_spec(document: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        name=document["name"],
        datatype=document["datatype"],
        shape=tuple(int(size) for size in document["shape"]),
    )


def _text_chunk(document: Mapping[str, Any]) -> TextChunk:
    text = document.get("text_output", "")
    return TextChunk(
        text=text if isinstance(text, str) else "".join(map(str, text)),
        num_input_tokens=_count(document.get("num_input_tokens")),
        num_output_tokens=_count(document.get("num_output_tokens")),
    )


def _count(value: int | Sequence[int] | None) -> int | None:
    if value is None:
        return None
    return value if isinstance(value, int) else sum(value)
