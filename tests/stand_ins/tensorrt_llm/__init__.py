"""A stand-in for TensorRT-LLM's LLM API: no model, no GPU, and as strict about its arguments.

It writes numbered words, one per step. What it knows was typed from the documentation of 1.2,
apart from the tables that the package has. ``STAND_IN_RECORD`` names a file that gets the
arguments of the last engine.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .llmapi.llm_args import (
    CudaGraphConfig,
    KvCacheConfig,
    NGramDecodingConfig,
    SchedulerConfig,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STEP_S = 0.002
_PLAIN = {
    "model": str,
    "tokenizer": str,
    "backend": str,
    "trust_remote_code": bool,
    "tensor_parallel_size": int,
    "pipeline_parallel_size": int,
    "dtype": str,
    "max_batch_size": int,
    "max_seq_len": int,
    "max_num_tokens": int,
    "enable_chunked_prefill": bool,
    "disable_overlap_scheduler": bool,
}
_OBJECTS = {
    "kv_cache_config": KvCacheConfig,
    "scheduler_config": SchedulerConfig,
    "cuda_graph_config": CudaGraphConfig,
}


@dataclass(kw_only=True)
class SamplingParams:
    """The library's name and fields, as far as they are sent; others are refused."""

    best_of: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_tokens: int = 32
    seed: int | None = None
    stop: list[str] | str | None = None
    exclude_input_from_output: bool = True
    return_perf_metrics: bool = False

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")


@dataclass
class CompletionOutput:
    """One sequence."""

    text: str = ""
    finish_reason: str | None = None
    stop_reason: str | None = None
    cumulative_logprob: float | None = None
    request_perf_metrics: Any = None


@dataclass(eq=False)
class RequestOutput:
    """A running generation; the same object comes back at every step, as in the library."""

    llm: LLM
    prompt: str
    sampling: SamplingParams
    streaming: bool
    outputs: list[CompletionOutput] = field(default_factory=lambda: [CompletionOutput()])
    finished: bool = False
    is_aborted: bool = False

    def abort(self) -> None:
        """End the generation at the next step."""
        self.is_aborted = True

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        self.llm.running += 1
        try:
            for number in range(self.sampling.max_tokens):
                await asyncio.sleep(STEP_S)
                self._step(number)
                if self.streaming or self.finished:
                    yield self
                if self.finished:
                    return
        finally:
            self.llm.running -= 1

    def _step(self, number: int) -> None:
        sequence = self.outputs[0]
        if self.prompt == "break" and number == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self.is_aborted:
            self._finish("cancelled")
            return
        word = str(self.llm.running - 1) if self.prompt == "others?" else f" w{number}"
        sequence.text += word
        sequence.cumulative_logprob = -0.5 * (number + 1)
        for stop in self.sampling.stop or ():
            if stop in sequence.text:
                sequence.text = sequence.text.split(stop)[0]
                sequence.stop_reason = stop
                self._finish("stop")
                return
        if number + 1 == self.sampling.max_tokens:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        self.finished = True
        self.outputs[0].finish_reason = reason
        if self.sampling.return_perf_metrics:
            self.outputs[0].request_perf_metrics = _performance()


class LLM:
    """The library's class; an unknown argument, or one of another type, is refused."""

    def __init__(self, **arguments: Any) -> None:
        for name, value in arguments.items():
            _require_argument(name, value)
        if not (Path(arguments["model"]) / "config.json").is_file():
            raise ValueError(f"{arguments['model']} is no checkpoint")
        self.running = 0
        record = os.environ.get("STAND_IN_RECORD")
        if record:
            Path(record).write_text(json.dumps(arguments, default=vars))

    def generate_async(
        self,
        inputs: str,
        sampling_params: SamplingParams | None = None,
        lora_request: None = None,
        prompt_adapter_request: None = None,
        streaming: bool = False,
    ) -> RequestOutput:
        """Start a generation; it has to be called where an event loop runs."""
        asyncio.get_running_loop()
        if not isinstance(inputs, str) or lora_request or prompt_adapter_request:
            raise TypeError("the prompt is a str, and there is no adapter")
        return RequestOutput(self, inputs, sampling_params or SamplingParams(), streaming)

    def shutdown(self) -> None:
        """End the engine, which has to be idle."""
        if self.running:
            raise AssertionError(f"{self.running} generations were still running")


def _require_argument(name: str, value: Any) -> None:
    if name in _OBJECTS:
        if value is not None:
            _OBJECTS[name](**value)
    elif name == "speculative_config":
        if not isinstance(value, NGramDecodingConfig):
            raise ValueError(f"speculative_config: {type(value).__name__} is no decoding config")
    elif name not in _PLAIN:
        raise ValueError(f"{name}: Extra inputs are not permitted")
    elif type(value) is not _PLAIN[name]:
        raise ValueError(f"{name}: {value!r} is no {_PLAIN[name].__name__}")


def _performance() -> SimpleNamespace:
    times = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
    return SimpleNamespace(
        kv_cache_metrics=SimpleNamespace(
            num_reused_blocks=3,
            num_missed_blocks=1,
            num_new_allocated_blocks=2,
            num_total_allocated_blocks=5,
            kv_cache_hit_rate=0.75,
        ),
        timing_metrics=SimpleNamespace(
            **{
                name: datetime.timedelta(days=1, seconds=number, microseconds=1)
                for number, name in enumerate(times)
            }
        ),
        speculative_decoding=SimpleNamespace(
            acceptance_rate=0.5, total_accepted_draft_tokens=4, total_draft_tokens=8
        ),
    )
