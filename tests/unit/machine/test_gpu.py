from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.machine.gpu import Gpu, detect_gpus, named_gpu, probe_gpus
from trtllm_forge.text.quantities import GIB

if TYPE_CHECKING:
    from collections.abc import Callable


class StandInNvmlError(Exception):
    """Stands in for pynvml.NVMLError."""


class StandInLibraryNotFound(StandInNvmlError):
    pass


class StandInDriverNotLoaded(StandInNvmlError):
    pass


class StandInNoPermission(StandInNvmlError):
    pass


@dataclass
class StandInNvml:
    """Stands in for the module pynvml: two GPUs, and failures on request."""

    uuids: list[str] = field(default_factory=lambda: ["GPU-aaa1", "GPU-bbb2"])
    fails_at_start: Exception | None = None
    fails_at_version: Exception | None = None
    broken: tuple[int, ...] = ()
    bytes_for_text: bool = False
    shut_down: int = 0

    NVMLError = StandInNvmlError
    NVMLError_LibraryNotFound = StandInLibraryNotFound
    NVMLError_DriverNotLoaded = StandInDriverNotLoaded
    NVMLError_NoPermission = StandInNoPermission

    def nvmlInit(self) -> None:
        if self.fails_at_start:
            raise self.fails_at_start

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlSystemGetDriverVersion(self) -> str | bytes:
        if self.fails_at_version:
            raise self.fails_at_version
        return self._text("570.86.15")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.broken:
            raise StandInNvmlError("GPU is lost")
        return index

    def nvmlDeviceGetCudaComputeCapability(self, device: int) -> tuple[int, int]:
        return (9, 0) if device == 0 else (12, 0)

    def nvmlDeviceGetName(self, device: int) -> str | bytes:
        return self._text(f"GPU {device}")

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(total=(80 + device) * GIB)

    def nvmlDeviceGetUUID(self, device: int) -> str | bytes:
        return self._text(self.uuids[device])

    def _text(self, text: str) -> str | bytes:
        return text.encode() if self.bytes_for_text else text


FIRST = Gpu(
    name="GPU 0",
    memory_bytes=80 * GIB,
    compute_capability="9.0",
    driver_version="570.86.15",
    index=0,
    uuid="GPU-aaa1",
)
SECOND = Gpu(
    name="GPU 1",
    memory_bytes=81 * GIB,
    compute_capability="12.0",
    driver_version="570.86.15",
    index=1,
    uuid="GPU-bbb2",
)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandInNvml], StandInNvml]:
    def put(nvml: StandInNvml) -> StandInNvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


@pytest.mark.parametrize("bytes_for_text", [False, True], ids=["str", "bytes"])
def test_every_gpu_is_read_whole(
    install: Callable[[StandInNvml], StandInNvml], bytes_for_text: bool
) -> None:
    nvml = install(StandInNvml(bytes_for_text=bytes_for_text))
    assert detect_gpus() == (FIRST, SECOND)
    assert nvml.shut_down == 1


def test_architecture_is_spelled_as_compilers_do() -> None:
    assert (FIRST.architecture, SECOND.architecture) == ("sm_90", "sm_120")


@pytest.mark.parametrize(
    ("wanted", "gpus", "reason"),
    [
        ("1", (SECOND,), ""),
        ("1,0", (SECOND, FIRST), ""),
        ("0,7,1", (FIRST,), ""),
        ("0,0", (FIRST,), ""),
        ("GPU-bbb2", (SECOND,), ""),
        ("GPU-b", (SECOND,), ""),
        ("", (), "CUDA_VISIBLE_DEVICES hides every GPU"),
        ("-1", (), "CUDA_VISIBLE_DEVICES hides every GPU"),
        ("GPU-", (), "CUDA_VISIBLE_DEVICES=GPU- names none of the 2 here"),
        ("9", (), "CUDA_VISIBLE_DEVICES=9 names none of the 2 here"),
        ("MIG-1", (), "CUDA_VISIBLE_DEVICES=MIG-1 names none of the 2 here"),
    ],
)
def test_cuda_visible_devices_chooses_and_orders(
    install: Callable[[StandInNvml], StandInNvml],
    wanted: str,
    gpus: tuple[Gpu, ...],
    reason: str,
) -> None:
    install(StandInNvml())
    report = probe_gpus({"CUDA_VISIBLE_DEVICES": wanted})
    assert (report.gpus, report.reason) == (gpus, reason)


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (
            StandInNvml(fails_at_start=StandInLibraryNotFound("x")),
            "there is no NVIDIA driver: its library libnvidia-ml.so.1 was not found",
        ),
        (
            StandInNvml(fails_at_start=StandInDriverNotLoaded("x")),
            "the NVIDIA driver is installed but its kernel module is not loaded",
        ),
        (
            StandInNvml(fails_at_start=StandInNoPermission("x")),
            "the NVIDIA driver refuses this user: /dev/nvidiactl cannot be opened",
        ),
        (
            StandInNvml(fails_at_start=StandInNvmlError("Driver/library version mismatch")),
            "the NVIDIA driver does not answer: Driver/library version mismatch",
        ),
        (
            StandInNvml(fails_at_version=StandInNvmlError("Unknown Error")),
            "the NVIDIA driver returned an error: Unknown Error",
        ),
        (StandInNvml(uuids=[]), "the NVIDIA driver is loaded but sees no GPU"),
    ],
    ids=["no driver", "not loaded", "forbidden", "mismatch", "broken", "no gpu"],
)
def test_no_gpu_comes_with_the_reason(
    install: Callable[[StandInNvml], StandInNvml], nvml: StandInNvml, reason: str
) -> None:
    install(nvml)
    report = probe_gpus()
    assert (report.gpus, report.reason) == ((), reason)


def test_a_lost_gpu_does_not_hide_the_others(
    install: Callable[[StandInNvml], StandInNvml],
) -> None:
    install(StandInNvml(broken=(0,)))
    report = probe_gpus()
    assert (report.gpus, report.reason) == ((SECOND,), "GPU 0 does not answer: GPU is lost")


def test_a_missing_package_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    report = probe_gpus()
    assert (report.gpus, report.reason) == (
        (),
        "the Python package nvidia-ml-py is not installed",
    )


@pytest.mark.parametrize(
    ("name", "memory_gib", "architecture"),
    [
        ("h100-80g", 80, "sm_90"),
        ("H100", 80, "sm_90"),
        ("a100-40g", 40, "sm_80"),
        ("a10g", 24, "sm_86"),
        ("l40s", 48, "sm_89"),
        ("rtx4090", 24, "sm_89"),
        ("RTX 5090", 32, "sm_120"),
        ("b200", 180, "sm_100"),
        ("t4", 16, "sm_75"),
        ("v100-32g", 32, "sm_70"),
    ],
)
def test_common_gpus_go_by_short_names(name: str, memory_gib: int, architecture: str) -> None:
    gpu = named_gpu(name)
    assert (gpu.memory_bytes, gpu.architecture) == (memory_gib * GIB, architecture)


def test_every_named_gpu_has_a_source_and_every_alias_a_target() -> None:
    document = read_yaml("gpus.yaml")
    assert all(fields["source"] for fields in document["gpus"].values())
    assert set(document["aliases"].values()) <= set(document["gpus"])
    assert not set(document["aliases"]) & set(document["gpus"])


def test_an_unknown_gpu_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        named_gpu("h100-81g")
    error = caught.value
    assert (error.what, error.why, error.hint, error.exit_code) == (
        'unknown GPU "h100-81g"',
        f"known GPUs: {', '.join(read_yaml('gpus.yaml')['gpus'])}",
        "--gpu h100-80g",
        2,
    )
