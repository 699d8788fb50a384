"""What the stand-in toolchain says of its machine without being started."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.stand_in_runs import last_line, run
from tests.stand_ins.toolchain import A10G, H100, StandInToolchain, install_toolchain

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def toolchain(tmp_path: Path) -> StandInToolchain:
    return install_toolchain(tmp_path / "toolchain", "1.2.1")


GPU_FACTS = """
import importlib.metadata, json, pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(1)
print(json.dumps([
    pynvml.nvmlSystemGetDriverVersion(),
    pynvml.nvmlDeviceGetCount(),
    pynvml.nvmlDeviceGetName(handle),
    pynvml.nvmlDeviceGetCudaComputeCapability(handle),
    pynvml.nvmlDeviceGetMemoryInfo(handle).total,
    importlib.metadata.version("tensorrt_llm"),
    importlib.metadata.version("tensorrt"),
]))
"""


def test_site_folder_answers_for_nvml_and_the_installed_versions(tmp_path: Path) -> None:
    toolchain = install_toolchain(tmp_path, gpus=(H100, A10G))
    told = run(toolchain, [sys.executable, "-c", GPU_FACTS])
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == [
        "590.44.01",
        2,
        "NVIDIA A10G",
        [8, 6],
        24_146_608_128,
        "1.2.1",
        "10.14.1.48",
    ]


def test_machine_without_gpus_has_no_nvml_library(tmp_path: Path) -> None:
    toolchain = install_toolchain(tmp_path, gpus=())
    told = run(toolchain, [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"])
    assert last_line(told) == "pynvml.NVMLError_LibraryNotFound: NVML Shared Library Not Found"


def test_importing_tensorrt_llm_is_an_error(toolchain: StandInToolchain) -> None:
    told = run(toolchain, [sys.executable, "-c", "import tensorrt_llm"])
    assert last_line(told) == (
        "ImportError: stand-in: importing tensorrt_llm takes a minute and a GPU; read its metadata"
    )


def test_trtllm_build_names_its_interpreter_as_pip_writes_it(toolchain: StandInToolchain) -> None:
    first, second, *_ = toolchain.trtllm_build_path.read_text(encoding="utf-8").splitlines()
    assert first == "#!/bin/sh"
    assert second == f"""'''exec' {sys.executable} "$0" "$@\""""


def test_an_image_brings_its_python_and_its_builder(toolchain: StandInToolchain) -> None:
    assert sorted(path.name for path in toolchain.image_bin_dir.iterdir()) == [
        "python3",
        "trtllm-build",
    ]
    told = run(toolchain, [str(toolchain.image_bin_dir / "python3"), "-c", "print(1 + 1)"])
    assert told.stdout == "2\n"
    assert (toolchain.app_dir / "examples").is_dir()
