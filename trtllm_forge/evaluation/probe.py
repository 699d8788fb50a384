"""Asks a running server the questions that a deployment has to answer right.

Each probe is one request, or two, that checks one fact; it is no measurement. Texts are greedy
and without an end id, so that they are as long as asked for whatever the model writes.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import ForgeError
from trtllm_forge.triton.client.grpc import GrpcGeneration
from trtllm_forge.triton.client.http import TensorSpec, TextChunk, TritonAnswerError, TritonHttp
from trtllm_forge.triton.repository.names import FRONT_MODEL, POSTPROCESSING
from trtllm_forge.triton.repository.repository import read_model_configs
from trtllm_forge.triton.repository.served_models import served_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.triton.client.address import ServerUrls

# The model that an ensemble runs once per response of the engine, its last.
_CHUNK_MODEL = POSTPROCESSING
_PROMPT = "def add(a, b):\n    return"
_SHORT_TOKENS = 32
_TINY_TOKENS = 4
_FATAL = ("live", "ready")
_LONG_RUN_S = 2.0
_MOST_TOKENS = 4096
_NO_END_ID = -1
_ANSWER_TIMEOUT_S = 120.0
_QUIET_S = 0.3
_QUIET_SLACK_S = 2.0
_POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The outcome of one probe; ``detail`` says what was found and, on failure, what was wanted."""

    name: str
    ok: bool
    seconds: float
    detail: str


class _WrongAnswer(Exception):
    """A probe's answer is not what it has to be; the text says both."""


def probe_server(
    urls: ServerUrls, repository_dir: Path | None, reporter: Reporter, *, front: str = FRONT_MODEL
) -> tuple[ProbeResult, ...]:
    """Return one result per probe, in order; what a dead server cannot answer is left out.

    Args:
        urls: Where the server answers. Without a gRPC address, ``cancel`` closes its HTTP
            connection instead.
        repository_dir: What it should serve; without it, ``metadata`` looks for the tensors
            that forge's own commands use.
        reporter: Told how far it is.
        front: The model to ask.
    """
    prober = _Prober(urls, repository_dir, front)
    results = []
    probes = (
        ("live", prober.live),
        ("ready", prober.ready),
        ("metadata", prober.metadata),
        ("text", prober.text),
        ("streaming", prober.streaming),
        ("batching", prober.batching),
        ("cancel", prober.cancel),
    )
    for number, (name, probe) in enumerate(probes):
        reporter.progress("probe", number, len(probes), "probes")
        result = _timed(name, probe)
        results.append(result)
        if name in _FATAL and not result.ok:
            break
    return tuple(results)


def _timed(name: str, probe: Callable[[], str]) -> ProbeResult:
    started = time.monotonic()
    try:
        detail, ok = probe(), True
    except _WrongAnswer as error:
        detail, ok = str(error), False
    except ForgeError as error:
        detail, ok = f"{error.what}: {error.why}" if error.why else error.what, False
    return ProbeResult(name=name, ok=ok, seconds=time.monotonic() - started, detail=detail)


class _Prober:
    def __init__(self, urls: ServerUrls, repository_dir: Path | None, front: str) -> None:
        self._urls = urls
        self._front = front
        self._repository_dir = repository_dir
        self._http = TritonHttp(
            urls.http, timeout_s=_ANSWER_TIMEOUT_S, control_key=urls.control_key
        )
        self._long_run_s: float | None = None

    def live(self) -> str:
        if not self._http.is_live():
            message = f"no server answers at {self._urls.http}"
            raise _WrongAnswer(message)
        return f"Triton {self._http.server_version()} at {self._urls.http}"

    def ready(self) -> str:
        if not self._http.is_ready() or not self._http.is_model_ready(self._front):
            states = ", ".join(f"{name} {state}" for name, _, state in self._http.models())
            message = f"wanted {self._front} and all models READY, found {states or 'no model'}"
            raise _WrongAnswer(message)
        return ", ".join(self._http.ready_models((self._front,)))

    def metadata(self) -> str:
        """Compare what is served with the repository, tensor by tensor."""
        if self._repository_dir is None:
            inputs = {t.name for t in self._http.model_metadata(self._front).inputs}
            if missing := {"text_input", "max_tokens", "stream"} - inputs:
                message = f"wanted inputs of {self._front}, not found: {', '.join(sorted(missing))}"
                raise _WrongAnswer(message)
            return f"{self._front} has the inputs; no repository to compare with"
        configs = read_model_configs(self._repository_dir)
        count, inner = 0, self._http.inner_models(self._front)
        for name, config in configs.items():
            served = self._http.model_metadata(served_name(name, self._front, inner))
            for kind, wanted, found in (
                ("input", _config_tensors(config, config.input), served.inputs),
                ("output", _config_tensors(config, config.output), served.outputs),
            ):
                _compare_tensors(f"{kind} of {name}", wanted, found)
                count += len(wanted)
        return f"{count} tensors of {len(configs)} models are those of {self._repository_dir}"

    def text(self) -> str:
        """Ask for a completion in one piece."""
        chunk = self._whole_text()
        if not chunk.text:
            message = f"wanted text for {_SHORT_TOKENS} tokens, found an empty string"
            raise _WrongAnswer(message)
        if chunk.num_output_tokens not in (None, _SHORT_TOKENS):
            message = f"wanted {_SHORT_TOKENS} tokens, found {chunk.num_output_tokens}"
            raise _WrongAnswer(message)
        return f"{_SHORT_TOKENS} tokens, {len(chunk.text)} characters"

    def streaming(self) -> str:
        """Ask for the same in pieces; together they have to be the same text."""
        wanted = self._whole_text().text
        chunks = [chunk.text for chunk in self._stream(_SHORT_TOKENS)]
        found = "".join(chunks)
        if found != wanted:
            place = _first_difference(wanted, found)
            message = (
                f"wanted the text of the answer in one piece, found another from character "
                f"{place} on: {wanted[place : place + 20]!r} against {found[place : place + 20]!r}"
            )
            raise _WrongAnswer(message)
        pieces = sum(1 for chunk in chunks if chunk)
        if pieces < 2:
            message = f"wanted at least 2 pieces of {_SHORT_TOKENS} tokens, found {pieces}"
            raise _WrongAnswer(message)
        return f"{pieces} pieces, the same text"

    def batching(self) -> str:
        """Send a short request while a long one generates; it must not wait for its end."""
        reader = self._start_long()
        try:
            if next(self._stream(_TINY_TOKENS), None) is None:
                message = "wanted a first token of a short request, found an answer without any"
                raise _WrongAnswer(message)
            has_overlapped = not reader.has_ended
            seconds = reader.wait_for_end(_ANSWER_TIMEOUT_S)
        finally:
            reader.close()
        self._long_run_s = seconds
        if not has_overlapped:
            message = (
                f"wanted the first token of a short request before a long one ends, found it "
                f"after; the long one took {seconds:.2f} s for {reader.tokens} tokens"
            )
            raise _WrongAnswer(message)
        return f"a short request's first token came while one of {reader.tokens} tokens went on"

    def cancel(self) -> str:
        """Cancel a long request; the engine has to stop, and not write on for nobody.

        An ensemble runs its last model once per response of the engine, cancelled or not, so
        that model's count of inferences shows when the engine stopped.
        """
        if self._long_run_s is None:
            reader = self._start_long()
            try:
                self._long_run_s = reader.wait_for_end(_ANSWER_TIMEOUT_S)
            finally:
                reader.close()
        reader = self._start_long(by_grpc=self._urls.own_grpc is not None)
        left_s = self._long_run_s - reader.elapsed_s
        has_ended = reader.has_ended
        reader.close()
        cancelled = time.monotonic()
        if has_ended:
            message = (
                f"wanted an answer in pieces, to cancel it in the middle, found all its "
                f"{reader.tokens} tokens in the first"
            )
            raise _WrongAnswer(message)
        stopped = self._wait_for_quiet(2 * self._long_run_s + _QUIET_SLACK_S)
        if stopped is None:
            message = (
                f"busy, not judged: wanted {self._chunk_model()} to rest after a cancel, "
                f"found it working for {time.monotonic() - cancelled:.2f} s, longer than the "
                "request would have run"
            )
            raise _WrongAnswer(message)
        ran_on_s = max(0.0, stopped - cancelled)
        way = "gRPC" if self._urls.own_grpc else "a closed HTTP connection"
        if ran_on_s > left_s / 2:
            message = (
                f"wanted the engine to stop early after a cancel by {way}, with {left_s:.2f} s of "
                f"work left, found it writing on for {ran_on_s:.2f} s"
            )
            raise _WrongAnswer(message)
        return f"the engine stopped {ran_on_s:.2f} s after a cancel by {way}"

    def _chunk_model(self) -> str:
        steps = self._http.inner_models(self._front)
        return steps[-1] if steps else _CHUNK_MODEL

    def _wait_for_quiet(self, timeout_s: float) -> float | None:
        """Return when the last response was seen, or None if they go on: others' requests."""
        deadline, chunk_model = time.monotonic() + timeout_s, self._chunk_model()
        count, changed = self._http.inference_count(chunk_model), time.monotonic()
        while time.monotonic() < deadline:
            now_count, now = self._http.inference_count(chunk_model), time.monotonic()
            if now_count != count:
                count, changed = now_count, now
            elif now - changed > _QUIET_S:
                return changed
            time.sleep(_POLL_S)
        return None

    def _start_long(self, *, by_grpc: bool = False) -> _StreamReader:
        """Start a request that runs for about two seconds; return after its first chunk."""
        tokens = min(max(int(_LONG_RUN_S * self._pace()), _SHORT_TOKENS * 2), _MOST_TOKENS)
        while True:
            if by_grpc and self._urls.own_grpc:
                source = GrpcGeneration(
                    self._urls.own_grpc,
                    self._front,
                    _inputs(tokens, stream=True),
                    self._urls.grpc_trust,
                )
                reader = _StreamReader(source.chunks(_ANSWER_TIMEOUT_S), source.cancel)
            else:
                reader = _StreamReader(self._stream(tokens))
            try:
                reader.wait_for_first(_ANSWER_TIMEOUT_S)
            except TritonAnswerError:
                # Longer than this engine takes, and it says so instead of stopping there.
                reader.close()
                if tokens <= _SHORT_TOKENS:
                    raise
                tokens //= 2
                continue
            return reader

    def _pace(self) -> float:
        """Return about how many tokens per second one request gets."""
        started = time.monotonic()
        self._whole_text()
        return _SHORT_TOKENS / (time.monotonic() - started)

    def _whole_text(self) -> TextChunk:
        return self._http.generate(self._front, _inputs(_SHORT_TOKENS, stream=False))

    def _stream(self, tokens: int) -> Iterator[TextChunk]:
        return self._http.generate_stream(self._front, _inputs(tokens, stream=True))


class _StreamReader:
    """Reads a stream in a thread of its own, so that another can run beside it."""

    def __init__(
        self, chunks: Iterator[TextChunk], cancel: Callable[[], None] | None = None
    ) -> None:
        self.tokens = 0
        self._chunks = chunks
        self._cancel = cancel
        self._started = time.monotonic()
        self._ended: float | None = None
        self._error: ForgeError | None = None
        self._has_first = threading.Event()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="probe stream", daemon=True)
        self._thread.start()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the request was sent."""
        return time.monotonic() - self._started

    @property
    def has_ended(self) -> bool:
        """Return whether the last chunk has come."""
        return self._ended is not None

    def wait_for_first(self, timeout_s: float) -> None:
        """Wait for the first chunk; raise what came instead."""
        if not self._has_first.wait(timeout_s):
            message = f"wanted a first chunk within {timeout_s:g} s, found none"
            raise _WrongAnswer(message)
        if self._error is not None:
            raise self._error

    def wait_for_end(self, timeout_s: float) -> float:
        """Wait for the last chunk; return how long the whole took, in seconds."""
        self._thread.join(timeout_s)
        if self._error is not None:
            raise self._error
        if self._ended is None:
            message = f"wanted the end of a stream within {timeout_s:g} s, found it going on"
            raise _WrongAnswer(message)
        return self._ended - self._started

    def close(self) -> None:
        """Cancel what is still going on."""
        self._is_closed.set()
        if self._cancel is not None:
            self._cancel()
        self._thread.join(_ANSWER_TIMEOUT_S)

    def _read(self) -> None:
        try:
            for chunk in self._chunks:
                self.tokens += chunk.num_output_tokens or 1
                self._has_first.set()
                if self._is_closed.is_set():
                    return
            self._ended = time.monotonic()
        except ForgeError as error:
            self._error = error
        finally:
            self._has_first.set()
            getattr(self._chunks, "close", lambda: None)()


def _inputs(tokens: int, *, stream: bool) -> dict[str, str | int | bool]:
    return {
        "text_input": _PROMPT,
        "max_tokens": tokens,
        "end_id": _NO_END_ID,
        "top_k": 1,
        "stream": stream,
        "exclude_input_in_output": True,
        "return_num_output_tokens": True,
    }


def _config_tensors(config: Any, tensors: Any) -> tuple[TensorSpec, ...]:
    """Return tensors of a parsed configuration as the server's metadata would show them."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    described = []
    for tensor in tensors:
        name = (
            type(tensor)
            .DESCRIPTOR.fields_by_name["data_type"]
            .enum_type.values_by_number[tensor.data_type]
            .name
        )
        datatype = "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")
        described.append(
            TensorSpec(name=tensor.name, datatype=datatype, shape=(*batch, *tensor.dims))
        )
    return tuple(described)


def _compare_tensors(
    what: str, wanted: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    for tensor in wanted:
        other = by_name.pop(tensor.name, None)
        if other != tensor:
            served = _spell(other) if other else "none of that name"
            message = f"wanted {what} {_spell(tensor)}, found {served}"
            raise _WrongAnswer(message)
    if by_name:
        message = f"wanted no {what} named {next(iter(by_name))}, found one"
        raise _WrongAnswer(message)


def _spell(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.datatype}[{','.join(map(str, tensor.shape))}]"


def _first_difference(left: str, right: str) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
