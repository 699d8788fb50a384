"""What executes an artifact: each runtime is a module behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.checkpoint import CheckpointConfig
    from trtllm_forge.config.models import ForgeConfig
    from trtllm_forge.pipeline.stage import Stage

RuntimeName = Literal["trtllm", "llmapi", "openvino"]
Layout = Literal["engine", "llmapi"]

ENGINE_DIR = "tensorrt_llm/1/engine"
"""Where a repository holds its engine, relative to the repository."""


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """How a runtime fills the ``tensorrt_llm`` model of a repository.

    Attributes:
        backend: Triton's backend for it.
        parameters: Its ``config.pbtxt`` parameters, in the order they are written.
        python_files: Template files, below ``templates/``, its version folder needs.
        layout: Which models stand around it: upstream's five, or itself alone.
        text_files: Further files of it, by their path below its folder, written as they are.
    """

    backend: str
    parameters: Mapping[str, str]
    python_files: tuple[str, ...] = field(default=())
    layout: Layout = "engine"
    text_files: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """What every runtime offers."""

    @property
    def name(self) -> RuntimeName:
        """Return the word the runtime is known by."""

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Raise ``ConfigError`` for a precision, size or architecture it does not take."""

    def require_machine(self) -> None:
        """Raise ``PrerequisiteError`` when this machine cannot build for it."""

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return the stages between ``download`` and ``render``.

        Raises:
            PrerequisiteError: This release of forge cannot build for the runtime.
        """

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return how the ``tensorrt_llm`` model is filled in."""


@dataclass(frozen=True, kw_only=True)
class RuntimeChoice:
    """The runtime that was taken, and why, in one line."""

    runtime: Runtime
    reason: str


def choose_runtime(name: str) -> RuntimeChoice:
    """Return the runtime of this name; ``auto`` takes what this release can build for.

    Raises:
        ConfigError: There is no runtime of that name in this release.
    """
    from trtllm_forge.runtimes.openvino import OpenVinoRuntime
    from trtllm_forge.runtimes.trtllm import TrtLlmRuntime

    runtimes: dict[str, Runtime] = {"openvino": OpenVinoRuntime(), "trtllm": TrtLlmRuntime()}
    if name in runtimes:
        return RuntimeChoice(runtime=runtimes[name], reason=f"runtime {name}: asked for")
    if name != "auto":
        what = f"runtime {name} is not in this release of forge"
        why = f"it has {', '.join(sorted(runtimes))}"
        raise ConfigError(what, why=why, hint="--runtime openvino")
    if _has_nvidia_gpu():
        reason = "runtime openvino: a GPU is visible, but this release builds no TensorRT engines"
    else:
        reason = "runtime openvino: no NVIDIA GPU is visible, so the CPU twin is built"
    return RuntimeChoice(runtime=runtimes["openvino"], reason=reason)


def _has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/gpus").is_dir() and any(
        Path("/proc/driver/nvidia/gpus").iterdir()
    )
