"""Models are taken out of a server in order, beside some that are still on their way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.rendering import render, stage
from trtllm_forge.errors import ServerError
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.serving.plan.served_set import ServedSet, read_served_set, write_served_set
from trtllm_forge.serving.server.drain import drain
from trtllm_forge.serving.swap.model_control import ModelControl
from trtllm_forge.triton.client.http import TritonAnswerError
from trtllm_forge.triton.repository.served_models import ServedRepository

if TYPE_CHECKING:
    from pathlib import Path

INNER = ("postprocessing", "preprocessing", "tensorrt_llm")


class StandInTriton:
    """A stand-in for ``TritonHttp`` that knows states, and tells nothing of what unloads."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.unloaded: list[str] = []

    def models(self) -> list[tuple[str, str, str]]:
        return [(name, "1", state) for name, state in self.states.items()]

    def inner_models(self, model: str) -> tuple[str, ...]:
        if self.states[model] != "READY":
            raise TritonAnswerError(f"Request for unknown model: '{model}'")
        return INNER if model == "ensemble" else ()

    def unload(self, model: str) -> None:
        self.unloaded.append(model)
        del self.states[model]


@pytest.fixture
def triton() -> StandInTriton:
    ready = dict.fromkeys((*INNER, "ensemble"), "READY")
    return StandInTriton(**ready, old="UNLOADING")


@pytest.fixture
def served(tmp_path: Path) -> ServedSet:
    view_dir = tmp_path / "run" / "view"
    view_dir.mkdir(parents=True)
    repository_dir = render(tmp_path, stage("openvino"))
    served = ServedSet(
        view_dir=view_dir,
        repositories=(ServedRepository(name="coder", repository_dir=repository_dir),),
    )
    write_served_set(served)
    return served


@pytest.fixture
def control(tmp_path: Path, triton: StandInTriton, served: ServedSet) -> ModelControl:
    http: Any = triton
    return ModelControl(http, served, tmp_path / "triton.log", SilentReporter())


@pytest.fixture
def repository(served: ServedSet) -> ServedRepository:
    return served.repositories[0]


def test_a_drain_passes_over_what_unloads_already(triton: StandInTriton) -> None:
    http: Any = triton

    assert drain(http, 5.0, lambda: None)
    assert triton.unloaded == ["ensemble", *INNER]


def test_fronts_are_unloaded_before_what_they_call_and_then_forgotten(
    control: ModelControl, triton: StandInTriton, served: ServedSet, repository: ServedRepository
) -> None:
    change = control.unload(repository, timeout_s=0.1)

    assert triton.unloaded == ["ensemble", *INNER]
    assert not change.is_drained  # the one that was unloading is still here
    found = read_served_set(served.view_dir)
    assert found is not None
    assert found.repositories == ()


def test_what_could_not_be_unloaded_is_still_served(
    control: ModelControl,
    triton: StandInTriton,
    served: ServedSet,
    repository: ServedRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(model: str) -> None:
        raise TritonAnswerError(f"failed to unload {model}")

    monkeypatch.setattr(triton, "unload", refuse)

    with pytest.raises(TritonAnswerError):
        control.unload(repository, timeout_s=0.1)

    found = read_served_set(served.view_dir)
    assert found is not None
    assert [one.name for one in found.repositories] == ["coder"]


def test_names_that_are_still_taken_are_not_loaded_again(
    control: ModelControl, triton: StandInTriton, repository: ServedRepository
) -> None:
    triton.states = {"tensorrt_llm": "UNLOADING"}

    with pytest.raises(ServerError) as caught:
        control.load(repository)

    assert caught.value.what == "tensorrt_llm of an earlier coder is still finishing its requests"
