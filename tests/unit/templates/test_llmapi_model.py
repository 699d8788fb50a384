"""The modules of the model over the LLM API, without Triton: settings, requests and the loop."""

from __future__ import annotations

import asyncio
import importlib
import queue
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trtllm_forge.files.resources import templates_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_FOLDERS = (
    templates_dir() / "llmapi" / "tensorrt_llm" / "1",
    Path(__file__).parent.parent.parent / "stand_ins",
)
FINAL = 1
DEADLINE_S = 10


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Triton's module, with the names that answers need."""
    for folder in _FOLDERS:
        monkeypatch.syspath_prepend(str(folder))
    names = {"llm_answer", "llm_loop", "llm_request", "llm_settings"}
    kept = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    triton = importlib.import_module("triton_python_backend_utils")
    monkeypatch.setattr(triton, "TRITONSERVER_RESPONSE_COMPLETE_FINAL", FINAL, raising=False)
    monkeypatch.setattr(triton, "InferenceResponse", Response, raising=False)
    monkeypatch.setattr(triton, "TritonError", TritonError, raising=False)
    yield triton
    for name in names & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(kept)


class TritonError:
    CANCELLED = "cancelled"

    def __init__(self, message: str, code: str = "internal") -> None:
        self.words = (code, message)


class Response:
    def __init__(self, tensors: list[Any] | None = None, error: TritonError | None = None) -> None:
        self.words = error.words if error else [t.as_numpy().tolist() for t in tensors or ()]


def module(name: str) -> Any:
    return importlib.import_module(name)


# Settings


def settings(folder: Path, text: str) -> Any:
    (folder / "model.yaml").write_text(text)
    return module("llm_settings").read_settings(str(folder))


def test_settings_without_a_section_for_triton_have_its_defaults(
    triton: Any, tmp_path: Path
) -> None:
    read = settings(tmp_path, "model: org/coder\ndtype: auto\n")
    assert read.arguments == {"model": "org/coder", "dtype": "auto"}
    assert (read.max_batch_size, read.is_decoupled) == (0, False)
    assert read.cancellation_check_period_s == 0.1


def test_another_file_can_be_named(
    triton: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.yaml").write_text("model: x\ntriton_config: {decoupled: true}\n")
    monkeypatch.setenv("LLM_CONFIG_PATH", "other.yaml")
    assert settings(tmp_path, "model: y\n").arguments == {"model": "x"}


@pytest.mark.parametrize("text", ["", "[]", "dtype: auto\n"], ids=["empty", "list", "no-model"])
def test_a_file_without_a_model_is_refused(triton: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"model\.yaml names no model$"):
        settings(tmp_path, text)


def test_a_repository_that_was_moved_finds_the_checkpoint_beside_the_model(
    triton: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "1"
    place.mkdir()
    moved = "model: /nowhere/tensorrt_llm/1/checkpoint\n"
    assert settings(place, moved).arguments["model"] == "/nowhere/tensorrt_llm/1/checkpoint"
    (place / "checkpoint").mkdir()
    assert settings(place, moved).arguments["model"] == str(place / "checkpoint")
    assert settings(place, f"model: {elsewhere}\n").arguments["model"] == str(elsewhere)
    assert settings(place, "model: org/coder\n").arguments["model"] == "org/coder"


# Requests


def read(triton: Any, **tensors: Any) -> Any:
    arrays = {"text_input": np.array([b"def "], np.object_), **tensors}
    request = triton.Request(arrays)
    return module("llm_request").read_request(request, is_decoupled=True)


def test_a_bare_prompt_has_the_defaults_of_the_contract(triton: Any) -> None:
    request = read(triton)
    assert (request.prompt, request.streaming, request.outputs) == ("def ", False, ())
    assert request.sampling == {"exclude_input_from_output": False, "return_perf_metrics": False}


def test_every_sampling_parameter_reaches_the_engine_as_a_plain_value(triton: Any) -> None:
    sent: dict[str, Any] = {
        "best_of": np.array([2], np.int32),
        "temperature": np.array([0.5], np.float32),
        "top_k": np.array([3], np.int32),
        "top_p": np.array([0.25], np.float32),
        "frequency_penalty": np.array([0.125], np.float32),
        "presence_penalty": np.array([-0.5], np.float32),
        "max_tokens": np.array([7], np.int32),
        "seed": np.array([2**63], np.uint64),
        "stop": np.array(["é".encode(), b"", b"end"], np.object_),
        "exclude_input_from_output": np.array([True]),
        "return_perf_metrics": np.array([True]),
    }
    request = read(triton, **{f"sampling_param_{name}": value for name, value in sent.items()})
    expected = {
        "best_of": 2,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.25,
        "frequency_penalty": 0.125,
        "presence_penalty": -0.5,
        "max_tokens": 7,
        "seed": 2**63,
        "stop": ["é", "end"],
        "exclude_input_from_output": True,
        "return_perf_metrics": True,
    }
    assert request.sampling == expected
    kinds = {name: type(value) for name, value in request.sampling.items()}
    assert kinds == {name: type(value) for name, value in expected.items()}


def test_outputs_are_those_that_are_asked_for(triton: Any) -> None:
    yes, no = np.array([True]), np.array([False])
    request = read(triton, return_finish_reason=yes, return_stop_reason=no, streaming=yes)
    assert (request.outputs, request.streaming) == (("finish_reason",), True)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"text_input": np.array([], np.object_)}, "text_input holds 0 prompts, a request has 1"),
        (
            {"sampling_param_top_k": np.array([1, 2], np.int32)},
            "sampling_param_top_k holds 2 values, a request has 1",
        ),
        ({"lora_id": np.array([1], np.uint64)}, "lora_id is not supported by this model"),
        (
            {"image_url": np.array([b"http://x"], np.object_)},
            "image_url is not supported by this model",
        ),
    ],
    ids=["no-prompt", "two-values", "lora", "image"],
)
def test_what_cannot_be_honoured_is_refused(
    triton: Any, tensors: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        read(triton, **tensors)


# The loop


class Sender:
    """Keeps what is sent; ``is_broken`` is a client that has gone."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.answers: queue.Queue[Any] = queue.Queue()
        self.is_broken = is_broken
        self.given_up = False

    def send(self, response: Any, flags: int = 0) -> None:
        if self.is_broken:
            raise RuntimeError("the response sender is closed")
        self.answers.put((response.words, flags))

    def is_cancelled(self) -> bool:
        return self.given_up

    def answer(self) -> Any:
        return self.answers.get(timeout=DEADLINE_S)


class Result:
    """A generation that brings ``texts``, and then ends or waits until it is aborted."""

    def __init__(self, texts: list[str], *, waits: bool) -> None:
        self.texts = texts
        self.aborted = asyncio.Event()
        self.waits = waits

    def abort(self) -> None:
        self.aborted.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for number, text in enumerate(self.texts, start=1):
            sequence = SimpleNamespace(text=text)
            is_last = number == len(self.texts) and not self.waits
            yield SimpleNamespace(outputs=[sequence], finished=is_last)
        if self.waits:
            await self.aborted.wait()


class Llm:
    """Gives scripted results, made in the loop as the library does."""

    def __init__(self, *scripts: tuple[list[str], bool]) -> None:
        self.scripts = list(scripts)

    def generate_async(self, *_: object, **__: object) -> Result:
        texts, waits = self.scripts.pop(0)
        return Result(texts, waits=waits)


REQUEST = SimpleNamespace(prompt="def ", sampling={}, streaming=True, outputs=())
CANCELLED = (("cancelled", "Request cancelled by client"), FINAL)


@pytest.fixture
def start(triton: Any) -> Iterator[Any]:
    loops = []

    def start(*scripts: tuple[list[str], bool]) -> Any:
        loop = module("llm_loop").LlmLoop(
            Llm(*scripts), SimpleNamespace, cancellation_check_period_s=0.001
        )
        loops.append(loop)
        return loop

    yield start
    for loop in loops:
        if not loop._loop.is_closed():
            loop.close()


def test_a_client_that_gives_up_frees_the_engine(start: Any) -> None:
    loop, sender = start((["a"], True)), Sender()
    loop.submit("1", REQUEST, sender)
    assert sender.answer() == ([[b"a"]], 0)
    sender.given_up = True
    assert sender.answer() == CANCELLED


def test_closing_answers_what_still_runs(start: Any) -> None:
    loop, sender = start((["a"], True)), Sender()
    loop.submit("1", REQUEST, sender)
    assert sender.answer() == ([[b"a"]], 0)
    loop.close()
    assert sender.answer() == CANCELLED


def test_a_generation_that_ends_with_nothing_is_answered(start: Any) -> None:
    loop, sender = start(([], False)), Sender()
    loop.submit("1", REQUEST, sender)
    assert sender.answer() == CANCELLED


def test_stop_ends_every_generation_of_its_id_and_no_other(start: Any) -> None:
    loop = start((["a"], True), (["b"], True), (["c"], True))
    senders = [Sender(), Sender(), Sender()]
    for request_id, sender in zip(("1", "1", "2"), senders, strict=True):
        loop.submit(request_id, REQUEST, sender)
        sender.answer()
    loop.stop("1")
    assert [senders[0].answer(), senders[1].answer()] == [([[b"a"]], FINAL), ([[b"b"]], FINAL)]
    assert senders[2].answers.empty()


def test_a_client_that_has_gone_harms_no_other(start: Any) -> None:
    loop, gone, sender = start((["a"], False), (["b"], False)), Sender(is_broken=True), Sender()
    loop.submit("1", REQUEST, gone)
    loop.submit("2", REQUEST, sender)
    assert sender.answer() == ([[b"b"]], FINAL)
