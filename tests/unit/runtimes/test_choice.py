from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine_runtime import engine_config, typed_flags
from tests.small_stage import printed
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.config.load import load_flags
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.machine.executors.local import Toolchain
from trtllm_forge.machine.gpu import GpuReport, named_gpu
from trtllm_forge.machine.survey import Machine
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes.choice import RuntimeChoice, choose_runtime, require_known_release
from trtllm_forge.runtimes.trtllm import TrtLlmRuntime

BIG_CODE = "GPTBigCodeForCausalLM"
LLAMA = "LlamaForCausalLM"
# Only the PyTorch backend has it.
LLM_API_ONLY = "GptOssForCausalLM"
H100 = named_gpu("h100-80g")
TOOLCHAIN = Toolchain(
    executable=Path("/venv/bin/trtllm-build"),
    python=Path("/venv/bin/python"),
    version="1.1.0",
    examples_dir=Path("/app/examples"),
)


def machine(**changes: Any) -> Machine:
    values: dict[str, Any] = {
        "gpus": GpuReport(gpus=(H100,)),
        "toolchain": None,
        "docker": Path("/usr/bin/docker"),
        "free_memory_bytes": 64 << 30,
        "cpu_count": 8,
        **changes,
    }
    return Machine(**values)


NO_GPU = machine(gpus=GpuReport(gpus=(), reason="there is no driver"))


def choose(
    line: str = "", architecture: str = BIG_CODE, on: Machine | None = None
) -> RuntimeChoice:
    command = line if line.startswith("forge build") else f"forge build org/model {line}"
    return choose_runtime(
        load_flags(typed_flags(command)).config,
        find_architecture(architecture, model="org/model"),
        on or machine(),
        read_settings(),
    )


def refusal(line: str, architecture: str = BIG_CODE, on: Machine | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        choose(line, architecture, on)
    return caught.value


def chosen(choice: RuntimeChoice) -> tuple[str, str]:
    return choice.runtime.name, choice.release.version


def tools_of(choice: RuntimeChoice) -> Any:
    assert isinstance(choice.runtime, TrtLlmRuntime)
    return choice.runtime.tools


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Give the machine a TensorRT-LLM 1.1.0 of its own."""
    monkeypatch.setattr("trtllm_forge.machine.executors.local.local_toolchain", lambda: TOOLCHAIN)
    return machine(toolchain=TOOLCHAIN)


def test_starcoder_takes_the_engine_flow_of_the_newest_release_with_an_image() -> None:
    choice = choose()
    assert chosen(choice) == ("trtllm", "1.2.1")
    assert choice.image is not None
    assert choice.image.triton_release == "26.07"
    assert choice.reasons[:2] == (
        "runtime trtllm: found 1 GPU and a TensorRT-LLM toolchain",
        "TensorRT-LLM 1.2.1: the newest with the engine flow, its newest image is 26.07",
    )
    assert choice.gpu == H100


def test_architecture_that_only_the_llm_api_takes_goes_there() -> None:
    choice = choose("", LLM_API_ONLY)
    assert choice.runtime.name == "llmapi"
    assert choice.executor is None
    assert choice.reasons[0] == (
        "runtime llmapi: found 1 GPU and a TensorRT-LLM toolchain, and GptOssForCausalLM has "
        "no engine flow"
    )


def test_machine_without_a_gpu_builds_the_twin() -> None:
    choice = choose("", on=NO_GPU)
    assert chosen(choice) == ("openvino", "1.2.1")
    assert (choice.image, choice.executor, choice.gpu) == (None, None, None)
    assert choice.reasons == (
        "runtime openvino: no NVIDIA GPU is visible, so the CPU twin is built",
    )


def test_gpu_without_tools_builds_the_twin() -> None:
    assert choose("", on=machine(docker=None)).reasons == (
        "runtime openvino: a GPU is visible, but neither trtllm-build nor docker was found",
    )


def test_twin_takes_the_release_whose_tensors_were_asked_for() -> None:
    assert chosen(choose("--trtllm-version 0.16.0", on=NO_GPU)) == ("openvino", "0.16.0")


def test_installed_release_is_taken_unless_another_or_docker_is_asked_for(
    installed: Machine,
) -> None:
    choice = choose("", on=installed)
    assert chosen(choice) == ("trtllm", "1.1.0")
    assert choice.executor == "local"
    assert choice.reasons[1] == ("TensorRT-LLM 1.1.0: installed here, its newest image is 26.02")
    tools = tools_of(choice)
    assert (tools.python, tools.builder) == ("/venv/bin/python", "/venv/bin/trtllm-build")
    assert tools.examples_dir == "/app/examples"
    assert chosen(choose("--executor docker", on=installed)) == ("trtllm", "1.2.1")
    other = choose("--trtllm-version 1.2.1", on=installed)
    assert (chosen(other), other.executor) == (("trtllm", "1.2.1"), "docker")
    assert tools_of(other).builder == "trtllm-build"


def test_named_gpu_is_what_the_engine_is_for() -> None:
    choice = choose("--runtime trtllm --gpu a10-24g", on=NO_GPU)
    tools = tools_of(choice)
    assert (tools.gpu_architecture, tools.sm, tools.gpu_count) == ("sm_86", 86, 0)
    assert isinstance(choice.runtime, TrtLlmRuntime)
    assert choice.runtime.own_architecture == ""


def test_engine_for_a_named_gpu_is_not_built_on_another() -> None:
    runtime = choose("--runtime trtllm --gpu a10-24g").runtime
    with pytest.raises(PrerequisiteError) as caught:
        runtime.require_machine(SilentReporter(), confirm=lambda _: False)
    assert printed(caught.value) == (
        "error: the engine is for a GPU with sm_86, the one here has sm_90\n"
        "  why:  TensorRT compiles for the GPU it runs on",
        3,
    )


def test_container_sees_the_store_and_the_checkpoint() -> None:
    folder = Path("coder").absolute()
    choice = choose_runtime(
        engine_config("--executor docker"),
        find_architecture(BIG_CODE, model="org/model"),
        machine(),
        read_settings(),
        checkpoint_dir=folder,
    )
    mounts = [(mount.source, mount.read_only) for mount in tools_of(choice).mounts]
    assert mounts == [(read_settings().cache_dir, True), (folder, True)]


def test_examples_of_the_users_are_taken_where_the_image_has_none() -> None:
    without = choose("--trtllm-version 0.16.0 --executor docker")
    assert isinstance(without.runtime, TrtLlmRuntime)
    assert not without.runtime.has_examples
    Path("examples").mkdir()
    line = "--trtllm-version 0.16.0 --examples-dir examples --executor"
    inside, here = choose(f"{line} docker"), choose(f"{line} local")
    assert isinstance(inside.runtime, TrtLlmRuntime)
    assert inside.runtime.has_examples
    assert tools_of(inside).examples_dir == "/app/examples"
    own = Path("examples").absolute()
    assert (own, "/app/examples") in [(m.source, m.target) for m in tools_of(inside).mounts]
    assert tools_of(here).examples_dir == str(own)


def test_examples_that_are_no_folder_are_refused() -> None:
    assert printed(refusal("--examples-dir absent")) == (
        f"error: examples_dir {Path('absent').absolute()} is not a folder\n"
        "  why:  it must be the folder `examples` of a clone of TensorRT-LLM",
        2,
    )


REFUSALS = {
    "starcoder-through-the-llm-api": (
        ("--runtime llmapi --int4 --tp 2", BIG_CODE),
        "error: no release of TensorRT-LLM supports GPTBigCodeForCausalLM through the LLM API\n"
        "  why:  the engine flow does, most recently in TensorRT-LLM 1.2.1\n"
        "  try:  forge build org/model --runtime trtllm --trtllm-version 1.2.1",
    ),
    "newer-than-the-engine-flow": (
        ("--runtime trtllm --trtllm-version 1.3.0rc5 --int4", BIG_CODE),
        "error: TensorRT-LLM 1.3.0rc5 does not have the engine flow\n"
        "  why:  the last release with it is 1.2.1\n"
        "  try:  forge build org/model --int4 --runtime trtllm --trtllm-version 1.2.1",
    ),
    "older-than-the-llm-api": (
        ("--runtime llmapi --trtllm-version 0.21.0", LLAMA),
        "error: TensorRT-LLM 0.21.0 does not have the LLM API\n"
        "  why:  the first release with it is 1.0.0\n"
        "  try:  forge build org/model --runtime llmapi --trtllm-version 1.0.0",
    ),
    "older-than-the-llm-api-of-a-model-that-it-never-takes": (
        ("--runtime llmapi --trtllm-version 0.21.0", BIG_CODE),
        "error: no release of TensorRT-LLM supports GPTBigCodeForCausalLM through the LLM API\n"
        "  why:  the engine flow does, most recently in TensorRT-LLM 1.2.1\n"
        "  try:  forge build org/model --runtime trtllm --trtllm-version 1.2.1",
    ),
    "twin-of-a-release-without-engines": (
        ("--runtime openvino --trtllm-version 1.3.0rc5 --int8", BIG_CODE),
        "error: TensorRT-LLM 1.3.0rc5 does not have the engine flow\n"
        "  why:  the last release with it is 1.2.1; the twin has the tensors of that flow\n"
        "  try:  forge build org/model --int8 --runtime openvino --trtllm-version 1.2.1",
    ),
    "docker-without-an-image": (
        ("--runtime trtllm --trtllm-version 0.18.1 --executor docker --int4", BIG_CODE),
        "error: --executor docker has no image to run: none carries TensorRT-LLM 0.18.1\n"
        "  try:  forge build org/model --runtime trtllm --executor docker --int4 "
        "--trtllm-version 0.18.0",
    ),
    "older-than-the-model": (
        ("--runtime trtllm --trtllm-version 0.21.0 --tp 2", "Qwen3ForCausalLM"),
        "error: the engine flow of TensorRT-LLM 0.21.0 does not support Qwen3ForCausalLM\n"
        "  why:  it is supported since 1.0\n"
        "  try:  forge build org/model --tp 2 --runtime trtllm --trtllm-version 1.0.0",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_go_together_is_refused_with_what_does(name: str) -> None:
    (line, architecture), text = REFUSALS[name]
    error = refusal(line, architecture)
    assert printed(error) == (text, 2)
    assert chosen(choose(error.hint, architecture))[0] in error.hint


def test_release_that_is_not_known_is_refused_with_the_same_build_of_one_that_is() -> None:
    with pytest.raises(ConfigError) as caught:
        require_known_release(engine_config("--int4 --trtllm-version 0.19.5"))
    assert printed(caught.value) == (
        "error: TensorRT-LLM 0.19.5 is not a release that this forge knows\n"
        "  why:  the nearest known release is 0.19.0\n"
        "  try:  forge build org/model --int4 --trtllm-version 0.19.0",
        2,
    )
    require_known_release(load_flags(typed_flags(caught.value.hint)).config)
    require_known_release(engine_config())


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("--runtime trtllm --trtllm-version 1.3.0", "1.2.1"),
        ("--runtime openvino --trtllm-version 1.3.0", "1.2.1"),
        ("--runtime llmapi --trtllm-version 1.3.0", "1.3.0rc29"),
        ("--runtime llmapi --trtllm-version 0.15.0", "1.0.0"),
        ("--runtime llmapi --trtllm-version 9.9", "1.2.1"),
    ],
)
def test_release_that_is_not_known_leads_to_one_that_the_runtime_has(
    line: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        require_known_release(engine_config(line))
    assert caught.value.hint.endswith(f"--trtllm-version {nearest}")


def test_engine_flow_of_a_model_it_never_had_leads_to_the_llm_api() -> None:
    error = refusal("--runtime trtllm", LLM_API_ONLY)
    assert error.what == (
        "no release of TensorRT-LLM supports GptOssForCausalLM through the engine flow"
    )
    assert choose(error.hint, LLM_API_ONLY).runtime.name == "llmapi"
