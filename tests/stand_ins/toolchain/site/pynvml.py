"""A stand-in for ``nvidia-ml-py``: it answers from ``STAND_IN_GPUS`` and needs no driver.

Without the variable, or with no GPU in it, the library is not there, as on a machine without one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

NVML_SUCCESS = 0
NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_DEVICE_MIG_DISABLE = 0

_TEXTS = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_NO_PERMISSION: "Insufficient Permissions",
    NVML_ERROR_NOT_FOUND: "Not Found",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
}
_MIB = 1024 * 1024
_started = 0


class NVMLError(Exception):
    """The library's error; ``value`` is its number."""

    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS[value])
        self.value = value


class NVMLError_Uninitialized(NVMLError): ...


class NVMLError_InvalidArgument(NVMLError): ...


class NVMLError_NotSupported(NVMLError): ...


class NVMLError_NotFound(NVMLError): ...


class NVMLError_NoPermission(NVMLError): ...


class NVMLError_DriverNotLoaded(NVMLError): ...


class NVMLError_LibraryNotFound(NVMLError): ...


@dataclass(frozen=True)
class _Handle:
    index: int


@dataclass(frozen=True)
class c_nvmlMemory_t:
    """Bytes of memory of one GPU."""

    total: int
    free: int
    used: int


def nvmlInit() -> None:
    global _started
    if not _machine()["gpus"]:
        raise NVMLError_LibraryNotFound(NVML_ERROR_LIBRARY_NOT_FOUND)
    _started += 1


def nvmlInitWithFlags(flags: int) -> None:
    nvmlInit()


def nvmlShutdown() -> None:
    global _started
    _require_start()
    _started -= 1


def nvmlSystemGetDriverVersion() -> str:
    _require_start()
    return str(_machine()["driver"])


def nvmlSystemGetCudaDriverVersion() -> int:
    """Return the newest CUDA of the driver, 13010 for 13.1."""
    major = int(nvmlSystemGetDriverVersion().split(".")[0])
    return {590: 13010, 580: 13000, 575: 12090}.get(major, 12080)


nvmlSystemGetCudaDriverVersion_v2 = nvmlSystemGetCudaDriverVersion


def nvmlDeviceGetCount() -> int:
    _require_start()
    return len(_machine()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> _Handle:
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError_InvalidArgument(NVML_ERROR_INVALID_ARGUMENT)
    return _Handle(index)


def nvmlDeviceGetHandleByUUID(uuid: str) -> _Handle:
    for index in range(nvmlDeviceGetCount()):
        if nvmlDeviceGetUUID(_Handle(index)) == uuid:
            return _Handle(index)
    raise NVMLError_NotFound(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetIndex(handle: _Handle) -> int:
    _require_start()
    return handle.index


def nvmlDeviceGetName(handle: _Handle) -> str:
    return str(_gpu(handle)["name"])


def nvmlDeviceGetUUID(handle: _Handle) -> str:
    _require_start()
    return f"GPU-00000000-0000-0000-0000-{handle.index:012d}"


def nvmlDeviceGetMemoryInfo(handle: _Handle, version: int | None = None) -> c_nvmlMemory_t:
    gpu = _gpu(handle)
    total = int(gpu["memory_bytes"])
    free = gpu.get("free_bytes")
    # A GPU that nothing runs on has a few hundred MiB in use.
    free = total - 512 * _MIB if free is None else int(free)
    return c_nvmlMemory_t(total=total, free=free, used=total - free)


def nvmlDeviceGetCudaComputeCapability(handle: _Handle) -> tuple[int, int]:
    major, minor = _gpu(handle)["compute_capability"]
    return int(major), int(minor)


def nvmlDeviceGetMigMode(handle: _Handle) -> list[int]:
    if nvmlDeviceGetCudaComputeCapability(handle) < (8, 0):
        raise NVMLError_NotSupported(NVML_ERROR_NOT_SUPPORTED)
    return [NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_DISABLE]


def _gpu(handle: _Handle) -> dict[str, Any]:
    _require_start()
    gpu: dict[str, Any] = _machine()["gpus"][handle.index]
    return gpu


def _require_start() -> None:
    if _started < 1:
        raise NVMLError_Uninitialized(NVML_ERROR_UNINITIALIZED)


def _machine() -> dict[str, Any]:
    text = os.environ.get("STAND_IN_GPUS")
    machine: dict[str, Any] = json.loads(text) if text else {"driver": "", "gpus": []}
    return machine
