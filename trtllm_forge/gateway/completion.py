"""Asks a running server for one completion, or for the text between a prefix and a suffix."""

from __future__ import annotations

import shlex
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.checkpoint.fim import assemble_fim_prompt
from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.client.http import TextChunk, TritonHttp
from trtllm_forge.triton.repository.names import FRONT_MODEL, TOKENIZER_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path

    from trtllm_forge.checkpoint.fim import FimTemplate
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.triton.client.address import ServerUrls

FinishReason = Literal["length", "stop"]

DEFAULT_MAX_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; what is None is left to the server, whose default is greedy."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of a completion; None where the server does not count them."""

    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """From the request sent; ``ttft_ms`` is None where the server cannot stream."""

    ttft_ms: float | None
    total_ms: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What the server wrote.

    Attributes:
        text: The text, without the prompt and without a stop string.
        finish_reason: ``length`` when as many tokens came as were asked for, else ``stop``.
            The models' contract carries no reason.
        usage: Token counts.
        timing: Times.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timing: Timing


def complete(
    urls: ServerUrls,
    prompt: str,
    *,
    repository_dir: Path | None = None,
    suffix: str | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    sampling: Sampling | None = None,
    stop: tuple[str, ...] = (),
    on_text: Callable[[str], None] | None = None,
    front: str = FRONT_MODEL,
) -> Completion:
    """Return the completion of ``prompt``, or of the gap before ``suffix``.

    Args:
        urls: Where the server answers.
        prompt: The text to go on from; with ``suffix``, what stands before the gap.
        repository_dir: What is served, whose tokenizer tells how FIM prompts look.
        suffix: What stands behind the gap.
        max_tokens: How many tokens to write at most.
        sampling: How to choose them.
        stop: Strings that end the text; not part of it.
        on_text: Called with each piece as it comes.
        front: The model to ask.

    Raises:
        ConfigError: ``suffix`` is given and the served model has no FIM tokens.
        ServerError: No server answers.
        TritonAnswerError: The server refused the request.
    """
    if suffix is not None:
        template = _fim_template(repository_dir, prompt)
        prompt = assemble_fim_prompt(template, prefix=prompt, suffix=suffix)
        stop = (*stop, *template.stop)
    http = TritonHttp(urls.http)
    can_stream = http.is_decoupled(front)
    inputs = _inputs(prompt, max_tokens, sampling or Sampling(), stop, stream=can_stream)
    if "seed" in inputs and not _has_input(http, front, "seed"):
        # Up to TensorRT-LLM 0.19 it has another name, and what is not known is not refused.
        inputs["random_seed"] = inputs.pop("seed")
    started = time.monotonic()
    cutter = StopCutter(stop)
    counter = _TokenCounter()
    first_s = None
    pieces = []
    with closing(_answers(http, front, inputs, can_stream=can_stream)) as chunks:
        for text in _pieces(chunks, cutter, counter):
            first_s = first_s if first_s is not None else time.monotonic() - started
            pieces.append(text)
            if on_text is not None:
                on_text(text)
    total_s = time.monotonic() - started
    written = counter.completion_tokens
    is_full = written is not None and written >= max_tokens and not cutter.has_stopped
    return Completion(
        text="".join(pieces),
        finish_reason="length" if is_full else "stop",
        usage=Usage(prompt_tokens=counter.prompt_tokens, completion_tokens=written),
        timing=Timing(
            ttft_ms=first_s * 1000 if can_stream and first_s is not None else None,
            total_ms=total_s * 1000,
        ),
    )


def _has_input(http: TritonHttp, front: str, name: str) -> bool:
    return any(tensor.name == name for tensor in http.model_metadata(front).inputs)


def _answers(
    http: TritonHttp, front: str, inputs: Mapping[str, JsonValue], *, can_stream: bool
) -> Generator[TextChunk, None, None]:
    if can_stream:
        yield from http.generate_stream(front, inputs)
    else:
        yield http.generate(front, inputs)


def _pieces(
    chunks: Iterable[TextChunk], cutter: StopCutter, counter: _TokenCounter
) -> Iterator[str]:
    """Give the pieces of text to show; stop reading at a stop string, which cancels the rest."""
    for chunk in chunks:
        counter.add(chunk)
        if text := cutter.push(chunk.text):
            yield text
        if cutter.has_stopped:
            return
    if text := cutter.flush():
        yield text


def _inputs(
    prompt: str, max_tokens: int, sampling: Sampling, stop: tuple[str, ...], *, stream: bool
) -> dict[str, JsonValue]:
    top_p = sampling.top_p
    if sampling.temperature and sampling.top_k is None and top_p is None:
        # TensorRT-LLM draws tokens only where top_k or top_p says so, whatever the temperature.
        top_p = 1.0
    optional: dict[str, JsonValue] = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": top_p,
        "seed": sampling.seed,
        "stop_words": list(stop) or None,
    }
    return {
        "text_input": prompt,
        "max_tokens": max_tokens,
        "stream": stream,
        "exclude_input_in_output": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _fim_template(repository_dir: Path | None, prompt: str) -> FimTemplate:
    from trtllm_forge.checkpoint.presets import fim_template_from_tokenizer

    if repository_dir is None:
        what = "--suffix needs the served repository, whose tokenizer tells how FIM prompts look"
        why = "the server at this address was not started by this user's forge"
        raise ConfigError(what, why=why, hint=f"forge complete {shlex.quote(prompt)}")
    tokenizer_dir = repository_dir / TOKENIZER_DIR
    is_there = (tokenizer_dir / "tokenizer.json").is_file()
    template = fim_template_from_tokenizer(tokenizer_dir) if is_there else None
    if template is None:
        what = f"the model of {repository_dir.name} was not trained to fill in the middle"
        why = (
            f"{tokenizer_dir / 'tokenizer.json'} has no FIM tokens"
            if is_there
            else f"there is no {tokenizer_dir / 'tokenizer.json'}"
        )
        raise ConfigError(what, why=why, hint=f"forge complete {shlex.quote(prompt)}")
    return template


class _TokenCounter:
    """Adds up the token counts of the chunks; a stream's output counts are per chunk."""

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    def add(self, chunk: TextChunk) -> None:
        if chunk.num_input_tokens is not None:
            self.prompt_tokens = chunk.num_input_tokens
        if chunk.num_output_tokens is not None:
            self.completion_tokens = (self.completion_tokens or 0) + chunk.num_output_tokens


class StopCutter:
    """Cuts a text that comes in pieces at the first stop string.

    The first is the one that is complete first, and of two that end together the longer: the
    same as in the models, which cut by the same rule. What could be the start of one is held
    back until the next piece tells.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.has_stopped = False
        self._stop = tuple(filter(None, stop))
        self._held = ""

    def push(self, text: str) -> str:
        """Return what may be shown of the text so far."""
        if self.has_stopped:
            return ""
        text = self._held + text
        places = ((text.find(word), len(word)) for word in self._stop)
        found = [(place + length, place) for place, length in places if place >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            # The one that was complete first, however the text came in pieces.
            return text[: min(found)[1]]
        keep = max((self._overlap(text, word) for word in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = self._held, ""
        return text

    @staticmethod
    def _overlap(text: str, word: str) -> int:
        """Return how many characters at the end of a text could begin a stop string."""
        longest = min(len(text), len(word) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(word[:n])), 0)
