"""The failures of the stand-in toolchain: upstream's words, exit codes and signals."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.process.stand_in_runs import compile_engine, last_line, names_in, read_json, starcoder
from tests.stand_ins.toolchain import StandInToolchain, install_toolchain

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def toolchain(tmp_path: Path) -> StandInToolchain:
    return install_toolchain(tmp_path / "toolchain", "1.2.1")


@pytest.fixture
def hf_dir(tmp_path: Path) -> Path:
    return write_files(tmp_path / "hf", checkpoint_files())


@pytest.mark.parametrize(
    ("failure", "output", "error"),
    [
        ("oom", "Error Code 2: OutOfMemory", "AssertionError: Engine building failed, please"),
        ("version_tag", "Version tag does not match", "AssertionError: Engine building failed"),
        ("architecture", "expecting compute 8.6 got compute 9.0", "AssertionError: Engine"),
        ("plugin", "getPluginCreator could not find plugin: AllReduce", "AssertionError"),
        ("crash_rank_1", "Unsupported SM", "AssertionError: Engine building failed"),
        ("disk", "Set gemm_plugin", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_build_fails_with_the_words_of_upstream(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, output: str, error: str
) -> None:
    starcoder(toolchain, hf_dir, "--tp_size", "2")
    failed = compile_engine(toolchain.failing(f"compile:{failure}"), hf_dir)
    assert failed.returncode == 1
    assert output in failed.stdout
    assert last_line(failed).startswith(error)
    built = (hf_dir.parent / "engine" / "rank0.engine").exists()
    assert built == (failure == "crash_rank_1")


@pytest.mark.parametrize(
    ("failure", "number"), [("killed", signal.SIGKILL), ("segv", signal.SIGSEGV)]
)
def test_a_tool_can_die_of_a_signal(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, number: int
) -> None:
    failed = starcoder(toolchain, hf_dir, STAND_IN_FAIL=f"convert:{failure}")
    assert (failed.returncode, failed.stderr) == (-number, "")


def test_a_conversion_runs_out_of_gpu_memory_in_the_words_of_pytorch(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    failed = starcoder(toolchain, hf_dir, STAND_IN_FAIL="convert:oom")
    assert failed.returncode == 1
    assert last_line(failed).startswith("torch.OutOfMemoryError: CUDA out of memory. Tried to")


def test_a_build_can_succeed_and_leave_something_wrong(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain, hf_dir, "--tp_size", "2")
    engine_dir = hf_dir.parent / "engine"
    failures = ("version", "missing_rank_1", "wrong_mapping", "wrong_precision", "empty_rank_0")
    request = ",".join(f"compile:{failure}" for failure in failures)
    assert compile_engine(toolchain, hf_dir, STAND_IN_FAIL=request).returncode == 0
    config = read_json(engine_dir / "config.json")
    assert config["version"] == "0.15.0"
    assert config["pretrained_config"]["mapping"]["world_size"] == 16
    assert config["pretrained_config"]["quantization"]["quant_algo"] == "W8A8_SQ"
    assert names_in(engine_dir) == ["config.json", "rank0.engine"]
    assert (engine_dir / "rank0.engine").stat().st_size == 0


def test_trtllm_build_misses_a_rank_of_the_checkpoint(
    toolchain: StandInToolchain, hf_dir: Path
) -> None:
    starcoder(toolchain.failing("convert:missing_rank_1"), hf_dir, "--tp_size", "2")
    failed = compile_engine(toolchain, hf_dir)
    assert last_line(failed).startswith("FileNotFoundError: [Errno 2] No such file or directory")
    assert last_line(failed).endswith("rank1.safetensors'")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("compile:oops", "stand-in: STAND_IN_FAIL=compile:oops is no failure of this toolchain"),
        ("convert:missing_rank_1", "stand-in: convert:missing_rank_1 needs two ranks, and there"),
    ],
)
def test_a_failure_that_cannot_happen_is_refused(
    toolchain: StandInToolchain, hf_dir: Path, failure: str, error: str
) -> None:
    refused = starcoder(toolchain, hf_dir, STAND_IN_FAIL=failure)
    assert refused.returncode == 1
    assert refused.stderr.startswith(error)
