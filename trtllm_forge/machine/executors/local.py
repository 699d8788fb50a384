"""Runs commands on this machine, with the TensorRT-LLM installed here."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process.secrets import environment_without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtllm_forge.machine.executors import ExecutorName
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.machine.process.docker import Mount
    from trtllm_forge.reporter import Reporter

IMAGE_EXAMPLES_DIR = Path("/app/examples")
"""Where Triton's images keep TensorRT-LLM's examples, converters included.

Source: triton-inference-server/tensorrtllm_backend dockerfile/Dockerfile.triton.trt_llm_backend.
"""

_ANSWER_WAIT_S = 60.0
# Read the package's metadata: importing the package takes half a minute and a GPU.
_VERSION_CODE = "from importlib.metadata import version; print(version('tensorrt_llm'))"


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """The TensorRT-LLM of this machine.

    Attributes:
        executable: The ``trtllm-build`` on PATH.
        python: The interpreter it runs under, for the scripts that go with it.
        version: Version of its ``tensorrt_llm``, or None when that Python has no such package.
        examples_dir: TensorRT-LLM's examples, or None where there are none.
    """

    executable: Path
    python: Path
    version: str | None
    examples_dir: Path | None


def local_toolchain(*, examples_dir: Path = IMAGE_EXAMPLES_DIR) -> Toolchain | None:
    """Return the TensorRT-LLM of this machine, or None without a ``trtllm-build`` on PATH.

    Starts that installation's Python to read the version, without importing TensorRT-LLM.
    """
    found = shutil.which("trtllm-build")
    if found is None:
        return None
    executable = Path(found).absolute()
    python = _interpreter_of(executable)
    return Toolchain(
        executable=executable,
        python=python,
        version=_version_in(python),
        examples_dir=examples_dir if examples_dir.is_dir() else None,
    )


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Runs commands unchanged.

    Attributes:
        toolchain: The installed TensorRT-LLM, or None.
        release: The TensorRT-LLM the plan is for, or None for any.
    """

    toolchain: Toolchain | None
    release: str | None

    @property
    def name(self) -> ExecutorName:
        """Return the executor's name."""
        return "local"

    @property
    def is_of_release(self) -> bool:
        """Return whether the toolchain is installed and of the planned release."""
        if self.toolchain is None:
            return False
        if self.release is None:
            return True
        # A local version part, as in 1.2.1+cu13, does not make it another release.
        return (self.toolchain.version or "").partition("+")[0] == self.release

    def wrap(
        self,
        command: Command,
        *,
        mounts: Sequence[Mount],  # noqa: ARG002 (of the protocol)
        needs_gpu: bool,  # noqa: ARG002 (of the protocol)
        needs_network: bool = False,  # noqa: ARG002 (of the protocol)
        label: str,  # noqa: ARG002 (of the protocol)
    ) -> Command:
        """Return the command itself."""
        return replace(command, inner_argv=command.inner_argv or command.argv)

    def require(
        self,
        reporter: Reporter,  # noqa: ARG002 (of the protocol)
        *,
        confirm: Callable[[str], bool],  # noqa: ARG002 (of the protocol)
        needs_gpu: bool = True,  # noqa: ARG002 (of the protocol)
    ) -> None:
        """Check that the release is installed here.

        Raises:
            PrerequisiteError: There is no ``trtllm-build``, or it is of another release.
        """
        wanted = f"tensorrt-llm=={self.release}" if self.release else "trtllm-forge[trtllm]"
        if self.toolchain is None:
            what = "trtllm-build is not on PATH"
            why = (
                "executor local runs the TensorRT-LLM installed here; --executor docker needs none"
            )
            raise PrerequisiteError(what, why=why, hint=f"pip install {shlex.quote(wanted)}")
        if self.is_of_release:
            return
        python = self.toolchain.python
        if self.toolchain.version is None:
            what = f"{self.toolchain.executable} belongs to an unknown TensorRT-LLM release"
            why = f"{python} has no package tensorrt_llm, and the plan is for {self.release}"
        else:
            what = (
                f"TensorRT-LLM {self.release} is needed, "
                f"{self.toolchain.executable} belongs to {self.toolchain.version}"
            )
            why = f"an engine loads only in its own release; {python} has the other one"
        hint = shlex.join([str(python), "-m", "pip", "install", wanted])
        raise PrerequisiteError(what, why=why, hint=hint)

    def clean_up(self, label: str, reporter: Reporter) -> None:
        """Do nothing: the process group of a command ends with it."""


def _interpreter_of(executable: Path) -> Path:
    """Return the Python that a console script runs under.

    pip writes it into the first line or, where that is too long or contains a space, after an
    ``exec`` for ``sh`` in the second.
    """
    with executable.open("rb") as file:
        first, second = (file.readline(4096).decode(errors="replace").strip() for _ in range(2))
    words = first.removeprefix("#!").split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        named = next((word for word in words[1:] if not word.startswith("-")), "")
        found = shutil.which(named) if named else None
        words = [found] if found else []
    if words and Path(words[0]).name == "sh" and second.startswith("'''exec'"):
        words = shlex.split(second.removeprefix("'''exec'"))[:1]
    if words and "python" in Path(words[0]).name:
        return Path(words[0])
    for name in ("python3", "python"):
        if (executable.parent / name).is_file():
            return executable.parent / name
    return Path(shutil.which("python3") or "python3")


def _version_in(python: Path) -> str | None:
    try:
        answer = subprocess.run(
            [str(python), "-c", _VERSION_CODE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_WAIT_S,
            env=environment_without_secrets(),
            # Python searches the working directory for packages first.
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
