"""A TensorRT engine's runtime on a machine that is only described, and hints as they are typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.contents import CheckpointConfig
from trtllm_forge.config.keys import PRECISION_FLAGS, config_keys
from trtllm_forge.config.load import load_flags
from trtllm_forge.machine.executors.local import LocalExecutor
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.runtimes.trtllm import TrtLlmRuntime
from trtllm_forge.runtimes.trtllm.tools import IMAGE_EXAMPLES_DIR, Tools

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.contents import Quantization
    from trtllm_forge.config.schema import ForgeConfig


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
        own_architecture="",
    )


def engine_checkpoint(
    architecture: str = "GPTBigCodeForCausalLM",
    *,
    quantization: Quantization | None = None,
    **changes: Any,
) -> CheckpointConfig:
    """Return what is read of a checkpoint of 32 layers, 32 heads and 8 KV heads."""
    values: dict[str, Any] = {
        "model_type": "any",
        "max_seq_len": 4096,
        "vocab_size": 32000,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "eos_token_ids": (0,),
        "dtype": "float16",
        "document": {},
        **changes,
    }
    return CheckpointConfig(architecture=architecture, quantization=quantization, **values)


def engine_config(line: str = "") -> ForgeConfig:
    """Return what ``forge build org/model LINE`` asks for."""
    return load_flags(typed_flags(f"forge build org/model {line}")).config


def typed_flags(command: str) -> dict[str, object]:
    """Return the options of a ``forge build`` command as the command line reads them."""
    words = shlex.split(command)
    assert words[:3] == ["forge", "build", "org/model"], command
    by_flag = {key.flag: key for key in config_keys() if key.name != "precision"}
    flags: dict[str, object] = {"model": words[2]}
    rest = iter(words[3:])
    for word in rest:
        if (name := word[2:].replace("-", "_")) in PRECISION_FLAGS:
            flags[name] = True
        elif word in by_flag:
            key = by_flag[word]
            flags[key.name] = True if key.kind == "bool" else next(rest)
        else:
            flags[by_flag[word.replace("--no-", "--", 1)].name] = False
    return flags
