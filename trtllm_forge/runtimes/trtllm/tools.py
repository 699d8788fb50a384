"""Locate TensorRT-LLM's tools and run their commands."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trtllm_forge.errors import BuildError
from trtllm_forge.machine.process.command import Command, run_command
from trtllm_forge.machine.process.docker import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.machine.executors import Executor
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.reporter import Reporter

IMAGE_EXAMPLES_DIR = "/app/examples"
"""Where the Triton images hold TensorRT-LLM's examples."""

_ENVIRONMENT = {
    # The checkpoint is already on disk; the tool must not fetch anything else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True, kw_only=True)
class Tools:
    """One release's tools, and the machine they run on.

    Attributes:
        release: The TensorRT-LLM release.
        executor: Where the commands run.
        python: The interpreter that has ``tensorrt_llm``.
        builder: ``trtllm-build``, by path or name.
        examples_dir: TensorRT-LLM's examples, as a path for the tools.
        mounts: Folders of this machine that the tools read or write.
        gpu_count: GPUs visible to the tools; 0 if unknown.
        gpu_memory_bytes: Memory of the smallest one; 0 if unknown.
        gpu_architecture: ``sm_90``, or empty if unknown.
        free_memory_bytes: Free memory of the host.
        cpu_count: Cores of the host.
    """

    release: Release
    executor: Executor
    python: str
    builder: str
    examples_dir: str
    mounts: tuple[Mount, ...]
    gpu_count: int
    gpu_memory_bytes: int
    gpu_architecture: str
    free_memory_bytes: int
    cpu_count: int

    @property
    def sm(self) -> int | None:
        """Return the GPU's compute capability times ten, or None if unknown."""
        digits = self.gpu_architecture.removeprefix("sm_").rstrip("af")
        return int(digits) if digits.isdigit() else None

    def script(self, path: str) -> str:
        """Return the path of an example script; ``path`` begins with ``examples/``."""
        return str(PurePosixPath(self.examples_dir) / PurePosixPath(path).relative_to("examples"))

    def command(
        self,
        argv: Sequence[str],
        *,
        stage: str,
        work_dir: Path,
        mounts: Sequence[Mount] = (),
        needs_network: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Command:
        """Return ``argv`` wrapped for the executor, with ``variables`` in its environment."""
        env = {**({} if needs_network else _ENVIRONMENT), **(variables or {})}
        inner = Command(argv=tuple(argv), inner_argv=tuple(argv), env=env, cwd=None)
        work_mount = Mount(source=work_dir, target=str(work_dir), read_only=False)
        return self.executor.wrap(
            inner,
            mounts=(*self.mounts, *mounts, work_mount),
            needs_gpu=True,
            needs_network=needs_network,
            label=_label(stage, work_dir),
        )

    def run(
        self, commands: Sequence[Command], *, stage: str, work_dir: Path, reporter: Reporter
    ) -> None:
        """Run the commands of a stage to their end.

        Raises:
            BuildError: One failed or was killed.
            PrerequisiteError: One could not be started.
        """
        label = _label(stage, work_dir)
        # A killed forge may have left a container, which outlives the command that started it.
        self.executor.clean_up(label, reporter)
        try:
            for command in commands:
                run_command(
                    command,
                    source=stage,
                    error=BuildError,
                    log_path=_log_path(work_dir),
                    reporter=reporter,
                )
        except BaseException:
            self.executor.clean_up(label, reporter)
            raise


@contextmanager
def naming_log(work_dir: Path) -> Iterator[None]:
    """Add the commands' log to an error about their results."""
    try:
        yield
    except BuildError as error:
        path = _log_path(work_dir)
        error.log_path = path if path.exists() else None
        raise


def _log_path(work_dir: Path) -> Path:
    return work_dir.with_suffix(".log")


def _label(stage: str, work_dir: Path) -> str:
    # The scratch folder is named after the stage's key.
    return f"{stage}-{work_dir.name.lstrip('.')[:12]}"
