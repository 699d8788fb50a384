"""The runtimes, which execute artifacts: one module each, behind one protocol."""

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
        backend: Its Triton backend.
        parameters: Its ``config.pbtxt`` parameters, in the order they are written.
        python_files: Template files below ``templates/`` for its version folder.
        layout: ``engine`` for upstream's five models, ``llmapi`` for this one only.
        text_files: Texts of further files, by their path below its folder.
        checkpoint_dir: Where the repository holds the HF checkpoint; empty if it does not.
    """

    backend: str
    parameters: Mapping[str, str]
    python_files: tuple[str, ...] = field(default=())
    layout: Layout = "engine"
    text_files: Mapping[str, str] = field(default_factory=dict)
    checkpoint_dir: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How well a fact that a plan relies on is confirmed.

    Attributes:
        subject: The tool and the release.
        level: ``exact`` if read at the release, ``nearest`` if read at one near it.
        note: How near, in words.
        source: Repository, commit and path.
    """

    subject: str
    level: EvidenceLevel
    note: str
    source: str


class Runtime(Protocol):
    """The interface of every runtime."""

    @property
    def name(self) -> RuntimeName:
        """Return the runtime's name."""

    def require_support(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> None:
        """Raise ``ConfigError`` for a precision, size or architecture it does not support."""

    def require_machine(self, reporter: Reporter, *, confirm: Callable[[str], bool]) -> None:
        """Raise ``PrerequisiteError`` if this machine cannot build for it.

        ``confirm`` is called before anything large is downloaded.
        """

    def stages(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Stage]:
        """Return the stages between ``download`` and ``render``."""

    def engine_model(self, config: ForgeConfig, kv_fraction: float) -> EngineModel:
        """Return how to fill in the ``tensorrt_llm`` model."""

    def evidence(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[Evidence]:
        """Return how well the facts about the release's tools are confirmed."""

    def notes(self, config: ForgeConfig, checkpoint: CheckpointConfig) -> Sequence[str]:
        """Return what the user should know before the run, one sentence each."""
