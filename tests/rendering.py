"""Renders model repositories from a checkpoint of two small files and a small engine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.checkpoint_builder import write_files
from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.config.schema import BuildSection, ForgeConfig, RepositorySection
from trtllm_forge.config.settings import read_settings
from trtllm_forge.files.resources import data_path
from trtllm_forge.machine.gpu import GpuReport
from trtllm_forge.machine.survey import Machine
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes import EngineModel
from trtllm_forge.runtimes.choice import choose_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.runtimes import RuntimeName
    from trtllm_forge.triton.repository.contract import Layout

RUNTIMES: tuple[RuntimeName, ...] = ("openvino", "trtllm")
"""Those of the engine layout."""

MODEL_YAML = "model: /models/tensorrt_llm/1/checkpoint\n"
LLMAPI = EngineModel(
    layout="llmapi",
    backend="python",
    parameters={},
    text_files={"1/model.yaml": MODEL_YAML},
    checkpoint_dir="tensorrt_llm/1/checkpoint",
)
_MACHINE = Machine(
    gpus=GpuReport(gpus=()), toolchain=None, docker=None, free_memory_bytes=1 << 34, cpu_count=1
)


def stage(
    runtime: RuntimeName = "openvino",
    *,
    build: BuildSection | None = None,
    trtllm_version: str = "1.2.1",
    **options: Any,
) -> RenderStage:
    """Return the stage as a build of a StarCoder would have it on a machine without a GPU."""
    config = ForgeConfig(
        model="sample",
        runtime=runtime,
        executor="local",
        build=build or BuildSection(),
        repository=RepositorySection(**options),
        trtllm_version=trtllm_version,
    )
    architecture = find_architecture("GPTBigCodeForCausalLM", model="sample")
    choice = choose_runtime(config, architecture, _MACHINE, read_settings())
    return RenderStage(
        trtllm_version=trtllm_version,
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=choice.runtime.engine_model(config, 0.2),
    )


def llmapi_stage(trtllm_version: str = "1.2.1", engine_model: EngineModel = LLMAPI) -> RenderStage:
    """Return the stage of the one model over the LLM API."""
    return RenderStage(
        trtllm_version=trtllm_version,
        max_batch_size=64,
        repository=RepositorySection(),
        engine_model=engine_model,
    )


def render(
    root: Path, rendered: RenderStage, *, engine: str = "{}", reporter: SilentReporter | None = None
) -> Path:
    """Render into ``root/repository`` from a checkpoint of two small files and a small engine."""
    download_dir = write_files(
        root / "download", {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
    )
    inputs = {"download": download_dir}
    if rendered.engine_model.layout == "engine":
        files = {"engine.json": engine.encode(), "openvino_model.bin": b"x"}
        inputs["compile"] = write_files(root / "compile", files)
    work_dir = root / "repository"
    work_dir.mkdir()
    rendered.run(work_dir, inputs, reporter or SilentReporter())
    return work_dir


def configs(root: Path, rendered: RenderStage, *, engine: str = "{}") -> dict[str, Any]:
    """Render, and return each model's configuration."""
    return parse_configs(render(root, rendered, engine=engine))


def parse_configs(repository_dir: Path) -> dict[str, Any]:
    """Return each model's configuration, unknown fields refused."""
    return {
        path.parent.name: text_format.Parse(
            path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()
        )
        for path in repository_dir.glob("*/config.pbtxt")
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def contract_models(release: str, layout: Layout = "engine") -> Any:
    """Return the models of a release's file, read here again, for an engine of defaults."""
    folder = data_path("contracts" if layout == "engine" else "contracts/llmapi")
    document = json.loads((folder / f"{release}.json").read_text(encoding="utf-8"))
    source = document.get("same_as", release)
    text = (folder / f"{source}.json").read_text(encoding="utf-8")
    for name, data_type in {
        "logits_datatype": "TYPE_FP32",
        "encoder_input_features_data_type": "TYPE_FP16",
        "prompt_embedding_table_data_type": "TYPE_FP16",
    }.items():
        text = text.replace(f"${{{name}}}", data_type)
    assert "${" not in text
    return json.loads(text)["models"]


def tensors_of(messages: Any) -> list[dict[str, Any]]:
    """Return tensors in the words of the contract's file."""
    tensors = []
    for message in messages:
        tensor: dict[str, Any] = {
            "name": message.name,
            "data_type": model_config_pb2.DataType.Name(message.data_type),
            "dims": list(message.dims),
        }
        if message.HasField("reshape"):
            tensor["reshape"] = list(message.reshape.shape)
        for flag in ("optional", "allow_ragged_batch"):
            if getattr(message, flag, False):
                tensor[flag] = True
        tensors.append(tensor)
    return tensors


def without_false(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    flags = ("optional", "allow_ragged_batch")
    return [
        {key: value for key, value in tensor.items() if key not in flags or value}
        for tensor in tensors
    ]


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


class Notes(SilentReporter):
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def parameter_names(path: Path) -> list[str]:
    """Return the parameters in the order in which the file has them."""
    text = path.read_text(encoding="utf-8")
    return re.findall(r'^parameters: \{ key: "([^"]+)"', text, re.MULTILINE)
