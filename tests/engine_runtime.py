"""A TensorRT engine's runtime on a machine that is only described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtllm_forge.architectures import find_architecture
from trtllm_forge.executors.local import LocalExecutor
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.runtimes.trtllm import TrtLlmRuntime
from trtllm_forge.runtimes.trtllm.tools import IMAGE_EXAMPLES_DIR, Tools


def engine_tools(version: str = "1.2.1", **changes: Any) -> Tools:
    """Return a release's tools on one GPU of 80 GiB."""
    values: dict[str, Any] = {
        "executor": LocalExecutor(toolchain=None, release=version),
        "python": "python3",
        "builder": "trtllm-build",
        "examples_dir": IMAGE_EXAMPLES_DIR,
        "mounts": (),
        "gpu_count": 1,
        "gpu_memory_bytes": 80 << 30,
        "gpu_architecture": "sm_90",
        "free_memory_bytes": 64 << 30,
        "cpu_count": 8,
        **changes,
    }
    return Tools(release=read_catalogue().find(version), **values)


def engine_runtime(
    version: str = "1.2.1",
    architecture: str = "GPTBigCodeForCausalLM",
    *,
    weights_bytes: int | None = None,
    cache_dir: Path = Path("/cache"),
    **changes: Any,
) -> TrtLlmRuntime:
    """Return the runtime of one release for one architecture."""
    return TrtLlmRuntime(
        architecture=find_architecture(architecture, model="test"),
        tools=engine_tools(version, **changes),
        weights_bytes=weights_bytes,
        cache_dir=cache_dir,
        has_examples=True,
        wanted_architecture="",
    )
