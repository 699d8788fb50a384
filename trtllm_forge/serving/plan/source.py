"""Chooses the source of the Triton that serves a repository: ``--triton``.

::

    auto             tritonserver on PATH, else an NGC image's own folder, else the wheel; a
                     container if a model needs the C++ backend, only the wheel is installed,
                     and docker is available
    wheel            the one of the nvidia-pytriton wheel, whatever else is installed
    docker           a container of the NGC image with the release the repository was made for
    docker:IMAGE     a container of that image
    PATH             a tritonserver, or a folder that holds bin/tritonserver
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.launch.locate import has_whole_triton, locate_wheel, named_installation
from trtllm_forge.triton.repository.mount import CPP_BACKEND, cpp_models

if TYPE_CHECKING:
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.triton.launch.locate import TritonInstallation

_WORDS = ("auto", "docker", "wheel")
_IMAGE_PREFIX = "docker:"


@dataclass(frozen=True, kw_only=True)
class TritonSource:
    """The requested source.

    Attributes:
        kind: The kind of source.
        path: The named executable or folder.
        image: The named image.
    """

    kind: Literal["auto", "docker", "path", "wheel"]
    path: Path | None = None
    image: str | None = None


def read_source(text: str) -> TritonSource:
    """Return the source that a value of ``--triton`` means.

    Raises:
        ConfigError: It is neither a known word nor a path.
    """
    match text:
        case "auto" | "docker" | "wheel":
            return TritonSource(kind=text)
    if text.startswith(_IMAGE_PREFIX) and (image := text.removeprefix(_IMAGE_PREFIX)):
        return TritonSource(kind="docker", image=image)
    if "/" in text or Path(text).exists():
        return TritonSource(kind="path", path=Path(text).expanduser())
    near = nearest(text.partition(":")[0], _WORDS) or "auto"
    what = f"--triton {text} does not name a Triton"
    why = "expected: auto, wheel, docker, docker:IMAGE or the path of a tritonserver"
    raise ConfigError(what, why=why, hint=f"--triton {near}")


def choose_source(text: str, repository_dir: Path, reporter: Reporter) -> TritonSource:
    """Return the source of the Triton for a repository; note the reason for a container.

    Raises:
        ConfigError: See ``read_source``.
        PrerequisiteError: The repository is a twin, which no image can serve.
    """
    source = read_source(text)
    if source.kind == "docker":
        _require_no_twin(repository_dir)
    if source.kind != "auto" or has_whole_triton() or shutil.which("docker") is None:
        return source
    for model in cpp_models(repository_dir):
        reporter.note(
            f"Triton comes from docker: model {model} needs the {CPP_BACKEND} backend, "
            "which no Triton outside a container has on this machine"
        )
        return TritonSource(kind="docker")
    return source


def named_triton(source: TritonSource, cache_dir: Path) -> TritonInstallation:
    """Return the Triton of a definite source other than a container.

    Raises:
        PrerequisiteError: It is missing or cannot run here.
    """
    return named_installation(source.path) if source.path else locate_wheel(cache_dir)


def _require_no_twin(repository_dir: Path) -> None:
    twin = next(iter(sorted(repository_dir.glob("*/*/engine_worker.py"))), None)
    if twin is not None:
        what = f"{repository_dir} is a twin, which cannot be served in a container"
        why = f"NVIDIA's images have no OpenVINO GenAI, which {twin.parent.parent.name} needs"
        hint = f"forge serve {shlex.quote(str(repository_dir))} --triton wheel"
        raise PrerequisiteError(what, why=why, hint=hint)
