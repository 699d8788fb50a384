"""Chooses the executor of a build, and says why."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.machine.executors import Executor
    from trtllm_forge.machine.executors.docker import DockerExecutor
    from trtllm_forge.machine.executors.local import Toolchain

_NAMES = ("auto", "docker", "local")


@dataclass(frozen=True, kw_only=True)
class ExecutorChoice:
    """The chosen executor, and the reason in one line."""

    executor: Executor
    reason: str


def choose_executor(
    name: str,
    *,
    image: str | None,
    image_bytes: int | None,
    offline: bool,
    cache_dir: Path,
    release: str | None = None,
    command_with_image: str = "forge versions",
) -> ExecutorChoice:
    """Return the executor of this name; ``auto`` picks what this machine has.

    Looks at PATH and at the packages of ``trtllm-build``'s Python, and starts no container.

    Args:
        name: ``auto``, ``local`` or ``docker``.
        image: The image that carries the release, or None when there is none.
        image_bytes: What pulling it downloads, or None when that is not known.
        offline: Whether downloads are forbidden.
        cache_dir: The store; it is part of container names, and pull logs are kept there.
        release: The TensorRT-LLM the plan is for, or None for any.
        command_with_image: The command for the hint when docker is requested without an image.

    Raises:
        ConfigError: Unknown executor, or no image for docker to run.
    """
    from trtllm_forge.machine.executors.docker import DockerExecutor
    from trtllm_forge.machine.executors.local import LocalExecutor, local_toolchain
    from trtllm_forge.machine.process.docker import gpu_request

    if name not in _NAMES:
        what = f"unknown executor {name}"
        raise ConfigError(
            what, why="the executors are auto, docker and local", hint="--executor auto"
        )
    toolchain = local_toolchain()
    local = LocalExecutor(toolchain=toolchain, release=release)
    if name == "local":
        return ExecutorChoice(executor=local, reason="executor local: requested")
    docker: DockerExecutor | None = None
    if image is not None:
        docker = DockerExecutor(
            image=image,
            image_bytes=image_bytes,
            offline=offline,
            cache_dir=cache_dir,
            gpus=gpu_request(os.environ.get("CUDA_VISIBLE_DEVICES")),
            user=f"{os.getuid()}:{os.getgid()}",
        )
    of_release = f"TensorRT-LLM {release}" if release else "TensorRT-LLM"
    if name == "docker":
        if docker is None:
            what = f"--executor docker has no image to run: none carries {of_release}"
            raise ConfigError(what, hint=command_with_image)
        return ExecutorChoice(executor=docker, reason="executor docker: requested")
    if toolchain is not None and local.is_of_release:
        found = f"{toolchain.executable} is from TensorRT-LLM {toolchain.version}"
        if toolchain.version is None:
            found = f"{toolchain.executable} is on PATH"
        return ExecutorChoice(executor=local, reason=f"executor local: {found}")
    why_not = _why_not_local(toolchain, of_release)
    if docker is None:
        reason = f"executor local: no image carries {of_release}, but {why_not}"
        return ExecutorChoice(executor=local, reason=reason)
    reason = f"executor docker: {why_not}"
    if shutil.which("docker") is None:
        reason += "; docker is not on PATH either, so this can be planned here but not run"
    return ExecutorChoice(executor=docker, reason=reason)


def _why_not_local(toolchain: Toolchain | None, of_release: str) -> str:
    if toolchain is None:
        return "trtllm-build is not on PATH"
    found = (
        f"from TensorRT-LLM {toolchain.version}" if toolchain.version else "from an unknown release"
    )
    return f"{toolchain.executable} is {found}, but the plan is for {of_release}"
