"""The failures that can be asked of the tools, with the words, exit codes and signals of upstream.

Sources of the words: NVIDIA/TensorRT-LLM issues 346, 1543, 2451 (out of memory), 1199 (plugin),
tensorrtllm_backend issue 190 (version tag), and ``parallel_build`` in
NVIDIA/TensorRT-LLM@aaacc9bd68b3e839fd25a0c7a80964d9b393ac99:tensorrt_llm/commands/build.py.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from tests.stand_ins.toolchain.logger import log

if TYPE_CHECKING:
    from tests.stand_ins.toolchain.invocation import Invocation

# The first ones end the tool; the others let it succeed and leave something wrong behind.
_ENDINGS = ("oom", "killed", "disk", "hang", "segv")
KINDS = {
    "convert": (*_ENDINGS, "assert", "missing_rank_1", "wrong_mapping", "torn_config"),
    "compile": (
        *_ENDINGS,
        "version_tag",
        "architecture",
        "plugin",
        "crash_rank_1",
        "version",
        "missing_rank_1",
        "wrong_mapping",
        "wrong_precision",
        "wrong_limits",
        "torn_config",
        "empty_rank_0",
    ),
}
_BUILD_FAILED = "Engine building failed, please check error log."


class OutOfMemoryError(RuntimeError):
    """PyTorch's error, under PyTorch's name."""

    __module__ = "torch"


def fail_before_rank(invocation: Invocation, rank: int) -> None:
    """End the tool at this rank if that was asked for."""
    if rank == 0:
        _end(invocation)
    if rank == 1 and invocation.fails("crash_rank_1"):
        log("[MemUsage] Rank 1 Engine build starts - Allocated Memory: Host 8.50 (GiB)")
        _trt("[caskUtils.cpp::trtSmToCask::114] Error Code 1: Internal Error (Unsupported SM)")
        log("Engine building failed, please check the error log.", level="E")
        # What ``parallel_build`` says when a rank brings no engine.
        raise AssertionError(_BUILD_FAILED)


def require_rank_1(invocation: Invocation, world_size: int) -> None:
    """Refuse a failure of rank 1 where there is none: the test would prove nothing."""
    asked = sorted(kind for kind in invocation.failures if kind.endswith("rank_1"))
    if asked and world_size < 2:
        sys.exit(f"stand-in: {invocation.stage}:{asked[0]} needs two ranks, and there is one")


def _end(invocation: Invocation) -> None:
    endings = {
        "oom": _device_memory,
        "killed": _killed,
        "segv": _crashed,
        "disk": _disk_full,
        "hang": _hang,
        "assert": _assert,
        "version_tag": _version_tag,
        "architecture": _architecture,
        "plugin": _plugin,
    }
    for kind, ending in endings.items():
        if invocation.fails(kind):
            ending(invocation)


def _device_memory(invocation: Invocation) -> NoReturn:
    if invocation.stage == "convert":
        message = (
            "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 21.99 "
            "GiB of which 1.12 GiB is free."
        )
        raise OutOfMemoryError(message)
    for place in ("virtualMemoryBuffer.cpp::resizePhysical::154", "globWriter.cpp::433"):
        _trt(f"[{place}] Error Code 2: OutOfMemory (Requested size was 16654532608 bytes.)")
    log("Engine building failed, please check the error log.", level="E")
    raise AssertionError(_BUILD_FAILED)


def _killed(invocation: Invocation) -> None:
    log("Loading weights: the kernel ends a process that takes too much memory without a word")
    os.kill(os.getpid(), signal.SIGKILL)


def _crashed(invocation: Invocation) -> None:
    # No core file: it would land in the working folder of the test.
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def _disk_full(invocation: Invocation) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _hang(invocation: Invocation) -> NoReturn:
    log("Build TensorRT engine Unnamed Network 0")
    while True:
        time.sleep(3600)


def _assert(invocation: Invocation) -> NoReturn:
    raise AssertionError


def _version_tag(invocation: Invocation) -> NoReturn:
    _trt(
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current "
        "Version: 240, Serialized Engine Version: 239)"
    )
    raise AssertionError(_BUILD_FAILED)


def _architecture(invocation: Invocation) -> NoReturn:
    _trt(
        "6: The engine plan file is generated on an incompatible device, expecting compute 8.6 got "
        "compute 9.0, please rebuild."
    )
    raise AssertionError(_BUILD_FAILED)


def _plugin(invocation: Invocation) -> NoReturn:
    _trt("3: getPluginCreator could not find plugin: AllReduce version: 1 namespace: tensorrt_llm")
    raise AssertionError


def _trt(message: str) -> None:
    log(message, level="E", source="TRT")
