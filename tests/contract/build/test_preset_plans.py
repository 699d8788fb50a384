"""Plans for presets on a machine without a network, a token, weights or a GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pytest

from trtllm_forge.build.build import prepare_build
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.geometry import read_geometry
from trtllm_forge.checkpoint.parameters import count_parameters
from trtllm_forge.checkpoint.presets import Preset, all_presets, find_preset, shipped_config
from trtllm_forge.config.schema import BuildSection, ForgeConfig
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import CheckpointError
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from trtllm_forge.build.document import PreparedBuild

PRESETS = all_presets()

RuntimeName = Literal["trtllm", "llmapi", "openvino"]


class ListeningReporter(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def runtime_of(preset: Preset) -> RuntimeName:
    architecture = shipped_config(preset).document["architectures"][0]
    return "trtllm" if find_architecture(architecture, model="").engine_flow else "llmapi"


def plan(
    model: str, runtime: RuntimeName, *, planning: bool = True, **build: Any
) -> tuple[PreparedBuild, list[str]]:
    reporter = ListeningReporter()
    config = ForgeConfig(model=model, runtime=runtime, build=BuildSection(**build))
    prepared = prepare_build(config, read_settings(), reporter, planning=planning)
    return prepared, reporter.warnings


def unreachable(preset: Preset) -> str:
    return (
        "config.json is not available from the Hub (cannot reach the Hub at http://127.0.0.1:9 for "
        f"{preset.repo_id}): planned with the numbers that ship with forge"
    )


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_is_planned_without_the_hub(preset: Preset) -> None:
    runtime = runtime_of(preset)
    prepared, warnings = plan(preset.name, runtime)
    document: dict[str, Any] = json.loads(json.dumps(prepared.document()))
    shipped = shipped_config(preset)
    geometry = read_geometry(shipped.document)
    parameters = count_parameters(geometry)
    assert document["model"] == {
        "repo_id": preset.repo_id,
        "revision": None,
        "architecture": shipped.document["architectures"][0],
        "family": preset.family,
    }
    names = ["download", "convert", "compile", "render", "check"]
    assert [stage["name"] for stage in document["stages"]] == (
        names if runtime == "trtllm" else ["download", "render", "check"]
    )
    assert all(stage["run"] for stage in document["stages"])
    commands = {stage["name"]: stage["commands"] for stage in document["stages"]}
    if runtime == "trtllm":
        assert [len(commands[name]) for name in names] == [0, 1, 1, 0, 0]
    assert document["estimates"]["parameters"] == parameters
    assert document["estimates"]["checkpoint_bytes"] == parameters * geometry.dtype_bytes
    assert document["notes"][: 1 + len(shipped.caveats)] == [unreachable(preset), *shipped.caveats]
    assert warnings == document["notes"]
    assert "needs     checkpoint" in prepared.text()


def test_starcoder_converts_with_its_variant() -> None:
    prepared, _ = plan("starcoder", "trtllm", precision="int4")
    convert = prepared.plan[1].commands[0].inner_argv
    assert convert[convert.index("--gpt_variant") + 1] == "starcoder"


def test_twin_is_estimated_from_the_shape_without_the_hub() -> None:
    prepared, _ = plan("starcoder2-3b", "openvino", precision="int8")
    assert prepared.document()["estimates"] == {
        "checkpoint_bytes": 3_030_371_328 * 4,
        "artifact_bytes": int(3_030_371_328 * 8.5 / 8),
    }


def test_hub_id_of_a_preset_is_planned_alike() -> None:
    by_name, _ = plan("qwen2.5-coder-7b", "trtllm")
    by_id, warnings = plan("Qwen/Qwen2.5-Coder-7B", "trtllm")
    assert by_id.document() == by_name.document()
    assert warnings


def test_key_of_a_plan_without_the_hub_is_of_a_revision_that_no_build_has() -> None:
    prepared, _ = plan("gpt2", "trtllm")
    download = prepared.plan[0].stage
    assert download.parameters["revision"] is None
    assert download.parameters["files"] == {}


@pytest.mark.parametrize(
    ("model", "planning"),
    [("starcoder", False), ("acme/no-preset", True)],
    ids=["a real build", "no preset"],
)
def test_hub_that_does_not_answer_still_ends(model: str, planning: bool) -> None:
    preset = find_preset(model)
    repo_id = preset.repo_id if preset else model
    with pytest.raises(CheckpointError) as caught:
        plan(model, "trtllm", planning=planning)
    error = caught.value
    assert error.exit_code == 4
    assert (error.what, error.why, error.hint) == (
        f"cannot reach the Hub at http://127.0.0.1:9 for {repo_id}",
        "[Errno 111] Connection refused",
        f"HF_HUB_OFFLINE=1 forge build {model}  # uses what the Hugging Face cache holds",
    )
