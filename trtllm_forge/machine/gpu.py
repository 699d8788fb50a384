"""Finds the GPUs of this machine, and knows the properties of common ones.

``detect_gpus`` and ``probe_gpus`` ask NVIDIA's management library (NVML); ``named_gpu`` answers
from ``data/gpus.yaml``, so that a plan can be made for a GPU of another machine. Nothing here
needs CUDA, and MIG instances are never changed.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.text.quantities import GIB
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, found here or looked up by name.

    Attributes:
        name: The vendor's name.
        memory_bytes: Total memory; NVML's figure, else the data sheet's GB as GiB.
        compute_capability: Major and minor, such as ``9.0``.
        driver_version: The driver's version, None for a GPU looked up by name.
        index: NVML's index, None for a GPU looked up by name.
        uuid: NVML's UUID, None for a GPU looked up by name.
    """

    name: str
    memory_bytes: int
    compute_capability: str
    driver_version: str | None = None
    index: int | None = None
    uuid: str | None = None

    @property
    def architecture(self) -> str:
        """The compute capability as compilers spell it, such as ``sm_90``."""
        return f"sm_{self.compute_capability.replace('.', '')}"


@dataclass(frozen=True, kw_only=True)
class GpuReport:
    """The GPUs that NVML reports.

    Attributes:
        gpus: The visible GPUs, in the order in which CUDA numbers them.
        reason: Why there are none, or why some are missing; else empty.
    """

    gpus: tuple[Gpu, ...]
    reason: str = ""


def detect_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that a CUDA program started here would see; none without a driver."""
    return probe_gpus().gpus


def probe_gpus(environment: Mapping[str, str] | None = None) -> GpuReport:
    """Return the visible GPUs, and why there are none or some are missing.

    ``CUDA_VISIBLE_DEVICES`` is honoured: indices or UUIDs; as in CUDA, the list ends at the
    first entry that matches no GPU. Indices are taken in PCI bus order, which is
    CUDA's when ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` and on every machine whose GPUs are alike.

    Args:
        environment: Variables to read; None for those of this process.
    """
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return GpuReport(gpus=(), reason="the Python package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return GpuReport(gpus=(), reason=_why_no_nvml(error, pynvml))
    try:
        gpus, reason = _all_gpus(pynvml)
    except pynvml.NVMLError as error:
        gpus, reason = (), f"the NVIDIA driver returned an error: {error}"
    finally:
        _shut_down(pynvml)
    variables = os.environ if environment is None else environment
    wanted = variables.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or not gpus:
        return GpuReport(gpus=gpus, reason=reason)
    return _visible(gpus, wanted, reason)


def free_gpu_bytes() -> tuple[int, ...]:
    """Return the free memory of each GPU of this machine; empty without a driver."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        devices = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(int(pynvml.nvmlDeviceGetMemoryInfo(device).free) for device in devices)
    except pynvml.NVMLError:
        return ()
    finally:
        _shut_down(pynvml)


def named_gpu(name: str) -> Gpu:
    """Return a common GPU by its short name, such as ``h100-80g``, ignoring case.

    Raises:
        ConfigError: Unknown name.
    """
    known = _load()
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    gpu = known.get(read_yaml("gpus.yaml")["aliases"].get(wanted, wanted))
    if gpu is not None:
        return gpu
    of_family = (other for other in known if wanted and other.startswith(f"{wanted}-"))
    close = nearest(wanted, known, cutoff=0.5) or next(of_family, "h100-80g")
    hint = f"--gpu {close}"
    what = f'unknown GPU "{name}"'
    raise ConfigError(what, why=f"known GPUs: {', '.join(known)}", hint=hint)


@lru_cache(maxsize=1)
def _load() -> dict[str, Gpu]:
    document = read_yaml("gpus.yaml")
    return {
        name: Gpu(
            name=fields["name"],
            memory_bytes=fields["memory_gib"] * GIB,
            compute_capability=fields["compute_capability"],
        )
        for name, fields in document["gpus"].items()
    }


def _why_no_nvml(error: Exception, pynvml: Any) -> str:
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return "there is no NVIDIA driver: its library libnvidia-ml.so.1 was not found"
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA driver is installed but its kernel module is not loaded"
    if isinstance(error, pynvml.NVMLError_NoPermission):
        return "the NVIDIA driver refuses this user: /dev/nvidiactl cannot be opened"
    return f"the NVIDIA driver does not answer: {error}"


def _all_gpus(pynvml: Any) -> tuple[tuple[Gpu, ...], str]:
    driver_version = _text(pynvml.nvmlSystemGetDriverVersion())
    found: list[Gpu] = []
    silent: list[str] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        # One broken or inaccessible GPU must not hide the others.
        try:
            found.append(_gpu(pynvml, index, driver_version))
        except pynvml.NVMLError as error:
            silent.append(f"GPU {index} does not answer: {error}")
    if not found and not silent:
        return (), "the NVIDIA driver is loaded but sees no GPU"
    return tuple(found), "; ".join(silent)


def _gpu(pynvml: Any, index: int, driver_version: str) -> Gpu:
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    return Gpu(
        name=_text(pynvml.nvmlDeviceGetName(device)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(device).total),
        compute_capability=f"{major}.{minor}",
        driver_version=driver_version,
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(device)),
    )


def _shut_down(pynvml: Any) -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        # What was already read stays valid.
        return


def _visible(gpus: Sequence[Gpu], wanted: str, reason: str) -> GpuReport:
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        gpu = _entry(gpus, entry)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    if chosen:
        return GpuReport(gpus=tuple(chosen), reason=reason)
    if not wanted.strip() or wanted.strip() == "-1":
        said = "CUDA_VISIBLE_DEVICES hides every GPU"
    else:
        said = f"CUDA_VISIBLE_DEVICES={wanted} names none of the {len(gpus)} here"
    return GpuReport(gpus=(), reason="; ".join(filter(None, (said, reason))))


def _entry(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    if entry.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    if not entry.startswith("GPU-"):
        return None
    # CUDA accepts any UUID prefix that matches exactly one GPU.
    found = [gpu for gpu in gpus if (gpu.uuid or "").startswith(entry)]
    return found[0] if len(found) == 1 else None


def _text(value: str | bytes) -> str:
    # nvidia-ml-py before 12 returned bytes, and some builds still do.
    return value.decode() if isinstance(value, bytes) else value
