"""``forge build --runtime trtllm`` from the checkpoint to the repository, with stand-in tools."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.stand_ins.toolchain import H100, StandInToolchain, install_toolchain
from trtllm_forge.cli.app import app

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine with GPUs and the tools of one release, and forge on it."""

    toolchain: StandInToolchain
    folder: Path

    def build(self, *options: str) -> Ended:
        """Run ``forge build`` in this process; the tools are processes of their own."""
        argv = ["build", "sample", "--runtime", "trtllm", "--output", "out", *options]
        result = CliRunner().invoke(app, argv, prog_name="forge")
        return Ended(exit_code=result.exit_code, stdout=result.stdout, stderr=result.stderr)

    def failing(self, *failures: str) -> Machine:
        """Return the machine whose tools fail as asked."""
        return replace(self, toolchain=self.toolchain.failing(*failures))

    @property
    def repository_dir(self) -> Path:
        return self.folder / "out"


def put_in_place(toolchain: StandInToolchain, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Let this process find the tools, the GPUs, and a secret that no tool may see."""
    for name, value in toolchain.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("STAND_IN_FAIL")
    monkeypatch.setenv("FORGE_EXAMPLES_DIR", str(toolchain.examples_dir))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    spec = importlib.util.spec_from_file_location("pynvml", toolchain.site_dir / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    pynvml = importlib.util.module_from_spec(spec)
    # Before it is executed, since its dataclasses look themselves up there.
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    spec.loader.exec_module(pynvml)
    return Machine(toolchain=toolchain, folder=Path.cwd())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine whose own environment has the tools."""
    toolchain = install_toolchain(tmp_path / "toolchain", gpus=(H100, H100))
    monkeypatch.setenv("FORGE_EXECUTOR", "local")
    return put_in_place(toolchain, monkeypatch)


@pytest.fixture
def docker_state_dir(tmp_path: Path) -> Path:
    """Return the state of a docker that has pulled the image of 1.2.1."""
    state_dir = tmp_path / "docker-state"
    state_dir.mkdir()
    (state_dir / "images").write_text("nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3\n")
    return state_dir


@pytest.fixture
def docker_machine(
    tmp_path: Path, docker_state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """Return a machine that has docker, and the tools in an image alone."""
    path = os.environ["PATH"]
    toolchain = install_toolchain(tmp_path / "toolchain", gpus=(H100, H100))
    machine = put_in_place(toolchain, monkeypatch)
    bin_dir = tmp_path / "docker-bin"
    bin_dir.mkdir()
    (bin_dir / "docker").symlink_to(ROOT / "tests" / "stand_ins" / "docker")
    variables = {
        "PATH": f"{bin_dir}{os.pathsep}{path}",
        "FORGE_EXECUTOR": "docker",
        "STAND_IN_DOCKER_DIR": str(docker_state_dir),
        "STAND_IN_DOCKER_RUNS": "1",
        "STAND_IN_DOCKER_IMAGE_PATH": str(toolchain.image_bin_dir),
        "STAND_IN_DOCKER_APP": str(toolchain.app_dir),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORGE_EXAMPLES_DIR")
    return machine


def tools_started(machine: Machine) -> list[str]:
    return [start["tool"] for start in machine.toolchain.starts()]


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def engine_dir(machine: Machine) -> Path:
    (config,) = (path for path in machine.repository_dir.rglob("engine.json") if path.is_file())
    return config.parent


def test_checkpoint_becomes_a_checked_repository_with_an_engine(machine: Machine) -> None:
    built = machine.build("--int4", "--json")

    assert built.exit_code == 0, built.stderr
    assert tools_started(machine) == ["convert_checkpoint.py", "trtllm-build"]
    engine = engine_dir(machine)
    assert sorted(path.name for path in engine.iterdir()) == [
        "config.json",
        "engine.json",
        "rank0.engine",
    ]
    described = read_json(engine / "engine.json")
    assert (described["runtime"], described["quant_algo"]) == ("trtllm", "W4A16")
    assert described["gpu_architecture"] == "sm_90"
    document = json.loads(built.stdout)
    assert document["runtime"] == "trtllm"
    assert document["trtllm_version"] == "1.2.1"
    lock = read_json(machine.folder / document["lock"])
    assert {"download", "convert", "compile", "render"} <= set(lock["stages"])


def test_starcoder_variant_is_named_whatever_the_path(machine: Machine) -> None:
    machine.build("--int8")

    (converted,) = machine.toolchain.starts("convert_checkpoint.py")
    argv = converted["argv"]
    assert argv[argv.index("--gpt_variant") + 1] == "starcoder"
    assert argv[argv.index("--weight_only_precision") + 1] == "int8"
    assert converted["env"]["HF_HUB_OFFLINE"] == "1"


def test_two_ranks_make_two_engine_files(machine: Machine) -> None:
    built = machine.build("--int4", "--tp", "2")

    assert built.exit_code == 0, built.stderr
    names = sorted(path.name for path in engine_dir(machine).glob("*.engine"))
    assert names == ["rank0.engine", "rank1.engine"]
    assert read_json(engine_dir(machine) / "engine.json")["tp_size"] == 2


def test_second_build_starts_no_tool(machine: Machine) -> None:
    assert machine.build("--int4").exit_code == 0
    again = machine.build("--int4", "--json")

    assert again.exit_code == 0, again.stderr
    assert tools_started(machine) == ["convert_checkpoint.py", "trtllm-build"]
    assert [stage["run"] for stage in json.loads(again.stdout)["stages"]] == [False] * 5


def test_other_limits_compile_again_and_convert_nothing(machine: Machine) -> None:
    machine.build("--int4")
    assert machine.build("--int4", "--max-batch-size", "8").exit_code == 0

    started = ["convert_checkpoint.py", "trtllm-build", "trtllm-build"]
    assert tools_started(machine) == started
    # The second build reads the timings of the first.
    first, second = machine.toolchain.starts("trtllm-build")
    assert "--input_timing_cache" not in first["argv"]
    assert "--input_timing_cache" in second["argv"]
    assert not list(machine.folder.glob("*.cache"))


def test_dry_run_starts_no_tool_and_its_commands_are_those_that_run(machine: Machine) -> None:
    planned = machine.build("--int4", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    assert tools_started(machine) == []
    machine.build("--int4")

    stages = json.loads(planned.stdout)["stages"]
    commands = [command["inner_argv"] for stage in stages for command in stage["commands"]]
    ran = [start["argv"] for start in machine.toolchain.starts()]
    flags = [[word for word in argv if word.startswith("--")] for argv in commands]
    assert flags == [[word for word in argv if word.startswith("--")] for argv in ran]


def test_image_of_the_release_builds_what_the_machine_itself_would(
    docker_machine: Machine, docker_state_dir: Path
) -> None:
    built = docker_machine.build("--int4", "--tp", "2")

    assert built.exit_code == 0, built.stderr
    assert tools_started(docker_machine) == ["convert_checkpoint.py", "trtllm-build"]
    names = sorted(path.name for path in engine_dir(docker_machine).iterdir())
    assert names == ["config.json", "engine.json", "rank0.engine", "rank1.engine"]
    calls = (docker_state_dir / "calls.jsonl").read_text()
    assert "hf_of_the_user" not in calls


FAILURES = {
    "convert:killed": ("convert: signal SIGKILL", "memory"),
    "convert:oom": ("convert: exit code 1", "CUDA out of memory"),
    "convert:missing_rank_1": (
        "the converted checkpoint has 1 of 2 rank files",
        "the converter ended without an error, but rank1.safetensors is missing or empty",
    ),
    "convert:wrong_mapping": ("the converted checkpoint has tp_size 3", "tp_size 2"),
    "convert:torn_config": ("its config.json is invalid", "JSONDecodeError"),
    "compile:killed": ("compile: signal SIGKILL", "memory"),
    "compile:oom": ("compile: exit code 1", "OutOfMemory"),
    "compile:version_tag": ("compile: exit code 1", "Version tag does not match"),
    "compile:architecture": ("compile: exit code 1", "expecting compute 8.6 got"),
    "compile:plugin": ("compile: exit code 1", "could not find plugin"),
    "compile:crash_rank_1": ("compile: exit code 1", "Engine building failed"),
    "compile:version": ("the engine has version 0.15.0", "expected version 1.2.1"),
    "compile:missing_rank_1": ("the engine has 1 of 2 rank files", "rank1.engine"),
    "compile:wrong_mapping": ("the engine has tp_size 16", "expected tp_size 2"),
    "compile:wrong_precision": ("the engine has quant_algo W8A8_SQ", "W4A16"),
    "compile:empty_rank_0": ("rank0.engine", "empty"),
    "compile:wrong_limits": ("the engine has max_batch_size 1", "max_batch_size 64"),
}


@pytest.fixture(scope="module")
def shared_cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store where the checkpoint is converted once for every failure behind it."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_names_its_cause_and_publishes_nothing(
    machine: Machine, failure: str, shared_cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failure.startswith("compile:"):
        monkeypatch.setenv("FORGE_CACHE_DIR", str(shared_cache_dir))
    failed = machine.failing(failure).build("--int4", "--tp", "2")

    assert failed.exit_code == 5, failed.stderr
    for part in FAILURES[failure]:
        assert part in failed.stderr
    # Also of a tool that ended well and left something wrong behind.
    log_path = Path(failed.stderr.rpartition("  log:  ")[2].strip())
    assert "TensorRT-LLM version" in log_path.read_text(encoding="utf-8")
    assert not machine.repository_dir.exists()


def test_build_goes_on_where_it_failed(machine: Machine) -> None:
    assert machine.failing("compile:killed").build("--int4").exit_code == 5
    again = machine.failing().build("--int4")

    assert again.exit_code == 0, again.stderr
    started = ["convert_checkpoint.py", "trtllm-build", "trtllm-build"]
    assert tools_started(machine) == started


def test_full_disk_is_told_as_what_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path / "cache"))
    failed = machine.failing("compile:disk").build("--int4")

    assert failed.exit_code == 5
    assert failed.stderr.partition("error: ")[2] == (
        f"compile: no space left on the disk that holds {tmp_path / 'cache'}\n"
        "  why:  the half-written artifact was removed; nothing else was touched\n"
        "  try:  FORGE_CACHE_DIR=/larger/disk forge build ...\n"
    )
    assert not machine.repository_dir.exists()


def test_older_release_of_the_machine_is_used_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = install_toolchain(tmp_path / "older", "0.16.0", gpus=(H100,))
    monkeypatch.setenv("FORGE_EXECUTOR", "local")
    machine = put_in_place(older, monkeypatch)
    built = machine.build("--int4", "--trtllm-version", "0.16.0")

    assert built.exit_code == 0, built.stderr
    assert read_json(engine_dir(machine) / "config.json")["version"] == "0.16.0"
