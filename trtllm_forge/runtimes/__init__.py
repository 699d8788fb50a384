"""What executes an artifact: each runtime is a module behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.pipeline.stage import Stage
    from trtllm_forge.releases.catalogue import Evidence as EvidenceLevel
    from trtllm_forge.reporter import Reporter

RuntimeName = Literal["trtllm", "llmapi", "openvino"]
Layout = Literal["engine", "llmapi"]


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """How a runtime fills the ``tensorrt_llm`` model of a repository.

    Attributes:
        backend: Triton's backend for it.
        parameters: Its ``config.pbtxt`` parameters, in the order they are written.
        python_files: Template files, below ``templates/``, its version folder needs.
        layout: Which models stand around it: upstream's five, or itself alone.
        text_files: Further files of it, by their path below its folder, written as they are.
        checkpoint_dir: Where the repository holds the HF checkpoint, empty for not at all.
    """

    backend: str
    parameters: Mapping[str, str]
    python_files: tuple[str, ...] = field(default=())
    layout: Layout = "engine"
    text_files: Mapping[str, str] = field(default_factory=dict)
    checkpoint_dir: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How sure a fact is that a plan rests on.

    Attributes:
        subject: The tool and the release.
        level: ``exact`` when read at the release, ``nearest`` when read near it.
        note: How near, in words.
        source: Repository, commit and path.
    """

    subject: str
    level: EvidenceLevel
    note: str
    source: str


class Runtime(Protocol):
    """What every runtime offers."""

    @property
    def name(self) -> RuntimeName:
        """Return the word the runtime is known by."""

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Raise ``ConfigError`` for a precision, size or architecture it does not take."""

    def require_machine(self, reporter: Reporter, *, confirm: Callable[[str], bool]) -> None:
        """Raise ``PrerequisiteError`` when this machine cannot build for it.

        ``confirm`` is asked before anything large is downloaded for it.
        """

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return the stages between ``download`` and ``render``."""

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return how the ``tensorrt_llm`` model is filled in."""

    def evidence(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Evidence]:
        """Return how sure the facts about the release's tools are."""

    def notes(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[str]:
        """Return what the user should know before the run, a sentence each."""
