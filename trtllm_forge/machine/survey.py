"""Surveys this machine: its GPUs, memory, cores and TensorRT-LLM."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.machine.executors.local import local_toolchain
from trtllm_forge.machine.gpu import probe_gpus

if TYPE_CHECKING:
    from trtllm_forge.machine.executors.local import Toolchain
    from trtllm_forge.machine.gpu import GpuReport

_CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts that forge's choices depend on.

    Attributes:
        gpus: The visible GPUs, or why there are none.
        toolchain: TensorRT-LLM of this environment, or None.
        docker: The docker executable, or None.
        free_memory_bytes: Host memory a new process can have, within a container's limit.
        cpu_count: Cores this process may use.
    """

    gpus: GpuReport
    toolchain: Toolchain | None
    docker: Path | None
    free_memory_bytes: int
    cpu_count: int

    @property
    def has_gpu(self) -> bool:
        """Return whether a GPU is visible."""
        return bool(self.gpus.gpus)

    @property
    def can_build_engines(self) -> bool:
        """Return whether this machine has a GPU and a way to run TensorRT-LLM's tools."""
        return self.has_gpu and (self.toolchain is not None or self.docker is not None)


def look_at_machine() -> Machine:
    """Return the survey of this machine, without starting TensorRT-LLM or a container."""
    docker = shutil.which("docker")
    return Machine(
        gpus=probe_gpus(),
        toolchain=local_toolchain(),
        docker=Path(docker) if docker else None,
        free_memory_bytes=free_memory_bytes(),
        cpu_count=len(os.sched_getaffinity(0)),
    )


def free_memory_bytes() -> int:
    """Return the free memory for a new process in bytes, within the cgroup's limit."""
    free = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for name in _CGROUP_FILES:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return min(free, int(text))
    return free
