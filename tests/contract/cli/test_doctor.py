"""``forge doctor`` on machines that are described: GPUs, tools and docker are stand-ins."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.process.build.test_trtllm_build import put_in_place
from tests.stand_ins.toolchain import H100, T4, StandInGpu, StandInToolchain, install_toolchain
from trtllm_forge.cli.app import app
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.runtimes import openvino
from trtllm_forge.support import machine_checks

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
IN_IMAGE = f'docker run --rm -it --gpus all --ipc host -v "$PWD":/work -w /work {IMAGE} bash'
NO_TRITON = "no tritonserver on PATH or in /opt/tritonserver; an image of the release has one"
NO_EXTRA = "the extra `cpu` is incomplete: no-such-torch missing"
NO_GPU = "none: there is no NVIDIA driver: its library libnvidia-ml.so.1 was not found"
NO_TOOLS = (
    "trtllm-build is not on PATH (executor local runs the TensorRT-LLM installed here; "
    "--executor docker needs none)"
)
INSTALL_TOOLS = "pip install 'trtllm-forge[trtllm]'"


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def examined(line: str = "doctor") -> dict[str, Any]:
    code, stdout, stderr = run(f"{line} --json")
    assert (code, stderr) == (0, "")
    document: dict[str, Any] = json.loads(stdout)
    assert document["schema"] == 1
    return document


def found(document: dict[str, Any], section: str, name: str) -> list[tuple[str, str, str]]:
    """Return state, detail and hint of the checks of this name."""
    part = document["machine"] if section == "machine" else document["runtimes"][section]
    return [
        (check["state"], check["detail"], check["hint"])
        for check in part["checks"]
        if check["name"] == name
    ]


class Machine:
    """A machine of which only what a test puts there can be seen."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dir = folder
        self._patch = monkeypatch
        self.bin_dir = folder / "bin"
        self.bin_dir.mkdir()
        (self.bin_dir / "python3").symlink_to(sys.executable)
        monkeypatch.setattr(machine_checks, "_IMAGE_TRITON", folder / "no-image")
        monkeypatch.setattr(machine_checks, "_SMALL_DISK_BYTES", 0)
        self.has_gpus()

    def has_gpus(
        self, *gpus: StandInGpu, driver: str = "590.44.01", release: str = "1.2.1"
    ) -> StandInToolchain:
        """Give it GPUs; the tools of the release lie beside, on no PATH."""
        folder = self._dir / f"toolchain-{len(list(self._dir.iterdir()))}"
        toolchain = install_toolchain(folder, release, gpus=gpus, driver=driver)
        put_in_place(toolchain, self._patch)
        self._patch.delenv("FORGE_EXAMPLES_DIR")
        self._patch.delenv("HF_TOKEN")
        self._patch.setenv("PATH", str(self.bin_dir))
        return toolchain

    def has_tools(self, toolchain: StandInToolchain) -> None:
        self._patch.setenv("PATH", f"{self.bin_dir}{os.pathsep}{toolchain.bin_dir}")

    def has_docker(self, *failures: str, image: bool = True) -> None:
        (self.bin_dir / "docker").symlink_to(ROOT / "tests" / "stand_ins" / "docker")
        state_dir = self._dir / "docker-state"
        state_dir.mkdir()
        (state_dir / "images").write_text(f"{IMAGE}\n" if image else "")
        self._patch.setenv("STAND_IN_DOCKER_DIR", str(state_dir))
        self._patch.setenv("STAND_IN_DOCKER_FAILS", ",".join(failures))

    @property
    def docker_commands(self) -> set[str]:
        lines = (self._dir / "docker-state" / "calls.jsonl").read_text().splitlines()
        return {json.loads(line)[0] for line in lines}

    def has_triton(self, *backends: str) -> Path:
        executable = self._dir / "tritonserver" / "bin" / "tritonserver"
        executable.parent.mkdir(parents=True)
        executable.touch(mode=0o755)
        for name in backends:
            (self._dir / "tritonserver" / "backends" / name).mkdir(parents=True)
        path = os.environ["PATH"]
        self._patch.setenv("PATH", f"{path}{os.pathsep}{executable.parent}")
        return executable


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def no_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the extra ``cpu`` be absent."""

    def refuse() -> None:
        what = "no Triton found"
        why = "nvidia-pytriton is not installed"
        raise PrerequisiteError(what, why=why, hint="pip install 'trtllm-forge[cpu]'")

    monkeypatch.setattr(machine_checks, "TWIN_PACKAGES", ("no-such-torch",))
    monkeypatch.setattr(machine_checks, "NEWEST_PYTHON", (3, 99))
    monkeypatch.setattr(machine_checks, "find_wheel", refuse)


@pytest.mark.usefixtures("machine", "no_twin")
def test_bare_machine_is_told_what_each_runtime_lacks() -> None:
    code, stdout, stderr = run("doctor")

    assert (code, stderr) == (0, "")
    shared, *runtimes = stdout.rstrip("\n").split("\n\n")
    assert [line.split()[:2] for line in shared.splitlines() if "try:" not in line] == [
        *(["machine"], ["ok", "python"], ["ok", "memory"], ["ok", "cache"], ["missing", "gpu"]),
        *(["ok", "hub"], ["warn", "hub"], ["ok", "hub"]),
    ]
    assert "\n  missing  gpu           none: there is no NVIDIA driver: " in shared
    hint = "pip install 'trtllm-forge[cpu]'"
    assert runtimes == [
        _section(
            "openvino: cannot build, cannot serve",
            ("missing", "packages", NO_EXTRA, hint),
            ("missing", "triton", "no Triton found (nvidia-pytriton is not installed)", hint),
        ),
        _section(
            "trtllm (TensorRT-LLM 1.2.1): cannot build, cannot serve",
            ("missing", "trtllm-build", NO_TOOLS, INSTALL_TOOLS),
            (
                "missing",
                "docker",
                f"docker is not on PATH (executor docker runs {IMAGE}; inside it, "
                "--executor local needs no docker)",
                "curl -fsSL https://get.docker.com | sudo sh",
            ),
            ("missing", "triton", NO_TRITON, IN_IMAGE),
            (
                "warn",
                "mpi",
                "no mpirun, which engines with several ranks need",
                "sudo apt-get install openmpi-bin",
            ),
        ),
        _section(
            "llmapi (TensorRT-LLM 1.2.1): builds, cannot serve",
            ("missing", "triton", NO_TRITON, IN_IMAGE),
            ("missing", "tensorrt_llm", "no TensorRT-LLM in this environment", INSTALL_TOOLS),
        ),
    ]


def _section(heading: str, *checks: tuple[str, str, str, str]) -> str:
    lines = [heading]
    for state, name, detail, hint in checks:
        lines += [f"  {state:<9}{name:<14}{detail}", f"{'':<25}try: {hint}"]
    return "\n".join(lines)


@pytest.mark.usefixtures("machine")
def test_required_runtime_that_cannot_be_built_for_ends_with_3() -> None:
    code, stdout, stderr = run("doctor --require trtllm")

    assert code == 3
    assert stdout.startswith("machine\n")
    assert stderr == (
        "error: this machine cannot build for runtime trtllm\n"
        f"  why:  gpu: {NO_GPU}\n"
        f"        trtllm-build: {NO_TOOLS}\n"
        f"        docker: docker is not on PATH (executor docker runs {IMAGE}; inside it, "
        "--executor local needs no docker)\n"
        f"  try:  {INSTALL_TOOLS}\n"
    )


@pytest.mark.usefixtures("machine")
def test_required_runtime_in_json_mode_is_one_document_with_the_error() -> None:
    code, stdout, stderr = run("doctor --require llmapi --json")

    assert (code, stderr) == (3, "")
    document = json.loads(stdout)
    assert document["error"]["what"] == "this machine cannot serve runtime llmapi"
    assert (document["error"]["exit_code"], document["error"]["log_path"]) == (3, None)
    assert document["runtimes"]["llmapi"]["builds"] is True


@pytest.mark.usefixtures("machine", "no_twin")
def test_required_twin_without_the_extra_names_the_extra() -> None:
    code, _, stderr = run("doctor --require openvino")

    assert (code, stderr) == (
        3,
        "error: this machine cannot build for runtime openvino\n"
        f"  why:  packages: {NO_EXTRA}\n"
        "  try:  pip install 'trtllm-forge[cpu]'\n",
    )


@pytest.mark.usefixtures("machine", "no_twin")
def test_python_that_the_extra_has_no_builds_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "NEWEST_PYTHON", (3, 9))

    assert found(examined(), "openvino", "packages") == [
        (
            "missing",
            f"{NO_EXTRA}; it needs Python 3.10 to 3.12, but this is {platform.python_version()}",
            "python3.12 -m venv .venv",
        )
    ]


@pytest.mark.usefixtures("machine")
def test_twin_with_its_packages_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "TWIN_PACKAGES", ("typer", "rich"))

    document = examined("doctor --require openvino")

    assert document["runtimes"]["openvino"]["builds"] is True
    assert found(document, "openvino", "packages") == [
        ("ok", f"typer {version('typer')}, rich {version('rich')}", "")
    ]


def test_packages_looked_for_are_those_that_a_build_asks_for() -> None:
    assert machine_checks.TWIN_PACKAGES == openvino._PACKAGES


def test_gpus_and_tools_of_this_environment_build_engines(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = machine.has_gpus(H100, H100)
    machine.has_tools(toolchain)
    monkeypatch.setenv("FORGE_EXAMPLES_DIR", str(toolchain.examples_dir))

    document = examined("doctor --require trtllm")

    gpu = ("ok", "NVIDIA H100 80GB HBM3, 79.6 GiB, sm_90, driver 590.44.01", "")
    assert found(document, "machine", "gpu") == [gpu, gpu]
    assert document["machine"]["gpus"][0] == {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 85_520_809_984,
        "architecture": "sm_90",
        "driver_version": "590.44.01",
    }
    engines = document["runtimes"]["trtllm"]
    assert (engines["builds"], engines["serves"]) == (True, False)
    assert found(document, "trtllm", "trtllm-build") == [
        ("ok", f"1.2.1 at {toolchain.trtllm_build_path}", "")
    ]
    assert found(document, "trtllm", "examples") == [("ok", str(toolchain.examples_dir), "")]
    assert found(document, "trtllm", "driver") == [
        ("ok", "590.44.01, image 26.07 was built with 590.44.01", "")
    ]
    assert [state for state, _, _ in found(document, "trtllm", "architecture")] == ["ok"]
    # One way to run the tools is enough.
    assert [state for state, _, _ in found(document, "trtllm", "docker")] == ["warn"]


def test_tools_without_the_converters_do_not_build(machine: Machine) -> None:
    machine.has_tools(machine.has_gpus(H100))

    document = examined()

    assert document["runtimes"]["trtllm"]["builds"] is False
    assert found(document, "trtllm", "examples") == [
        (
            "missing",
            "this environment has no converters; "
            "set examples_dir to the examples folder of a clone",
            "git clone --depth 1 --branch v1.2.1 https://github.com/NVIDIA/TensorRT-LLM",
        )
    ]


def test_tools_of_another_release_than_the_one_asked_for_are_missing(machine: Machine) -> None:
    toolchain = machine.has_gpus(H100)
    machine.has_tools(toolchain)

    ((state, detail, hint),) = found(
        examined("doctor --trtllm-version 0.20.0"), "trtllm", "trtllm-build"
    )

    assert state == "missing"
    assert detail.startswith(
        f"TensorRT-LLM 0.20.0 is needed, {toolchain.trtllm_build_path} belongs to 1.2.1 ("
    )
    assert hint.endswith(" -m pip install tensorrt-llm==0.20.0")


def test_older_driver_is_a_warning_that_names_the_image_for_it(machine: Machine) -> None:
    machine.has_gpus(H100, driver="575.57.08")

    assert found(examined(), "trtllm", "driver") == [
        (
            "warn",
            "575.57.08, image 26.07 was built with 590.44.01; an older one works only on "
            "data centre GPUs, through CUDA forward compatibility; image 25.10 fits this driver",
            "forge versions 1.0.0",
        )
    ]


def test_gpu_that_the_release_does_not_list_is_a_warning(machine: Machine) -> None:
    machine.has_gpus(T4)

    assert found(examined("doctor --trtllm-version 0.16.0"), "trtllm", "architecture") == [
        (
            "warn",
            "sm_75 is not listed for 0.16.0, which has sm_80, sm_86, sm_89, sm_90",
            "",
        )
    ]


def test_release_without_the_engine_flow_builds_no_engines(machine: Machine) -> None:
    toolchain = machine.has_gpus(H100)
    machine.has_tools(toolchain)

    document = examined("doctor --trtllm-version 1.4.0rc1")

    assert document["runtimes"]["trtllm"]["builds"] is False
    assert found(document, "trtllm", "engine flow") == [
        ("missing", "TensorRT-LLM 1.4.0rc1 builds no engines", "forge versions")
    ]
    assert found(document, "trtllm", "docker") == [
        ("missing", "no image carries this release", "forge versions")
    ]


def test_docker_with_image_and_gpu_builds_engines(machine: Machine) -> None:
    machine.has_gpus(H100)
    machine.has_docker()

    document = examined("doctor --require trtllm")

    docker = machine.bin_dir / "docker"
    assert found(document, "trtllm", "docker") == [("ok", f"{docker}, its daemon answers", "")]
    assert found(document, "trtllm", "docker gpu") == [("ok", "a container starts with it", "")]
    assert found(document, "trtllm", "image") == [("ok", IMAGE, "")]
    assert [state for state, _, _ in found(document, "trtllm", "trtllm-build")] == ["warn"]


def test_image_that_is_not_here_is_named_and_never_pulled(machine: Machine) -> None:
    machine.has_gpus(H100)
    machine.has_docker(image=False)

    document = examined("doctor --require trtllm")

    assert found(document, "trtllm", "image") == [
        (
            "warn",
            f"{IMAGE} is not on this machine; it is a download of 14.2 GB",
            f"docker pull {IMAGE}",
        )
    ]
    assert found(document, "trtllm", "docker gpu") == [("ok", "not tried without the image", "")]
    assert machine.docker_commands <= {"version", "image", "info"}


def test_image_without_the_converters_does_not_build(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has_gpus(H100)
    machine.has_docker()
    examples = [
        (
            "missing",
            "the image has no converters; set examples_dir to the examples folder of a clone",
            "git clone --depth 1 --branch v0.16.0 https://github.com/NVIDIA/TensorRT-LLM",
        )
    ]

    without = examined("doctor --trtllm-version 0.16.0")
    monkeypatch.setenv("FORGE_EXAMPLES_DIR", str(Path.cwd()))
    named = examined("doctor --trtllm-version 0.16.0 --require trtllm")

    assert without["runtimes"]["trtllm"]["builds"] is False
    assert found(without, "trtllm", "examples") == examples
    assert named["runtimes"]["trtllm"]["builds"] is True


def test_installed_release_is_the_one_that_is_looked_at(machine: Machine) -> None:
    machine.has_tools(machine.has_gpus(H100, release="0.16.0"))

    assert examined()["trtllm_version"] == "0.16.0"


def test_docker_without_a_gpu_starts_no_container(machine: Machine) -> None:
    machine.has_docker()

    document = examined()

    assert document["runtimes"]["trtllm"]["builds"] is False
    assert found(document, "trtllm", "docker gpu") == []
    assert machine.docker_commands == {"version", "image"}


@pytest.mark.parametrize(
    ("failure", "name", "detail", "hint"),
    [
        (
            "daemon",
            "docker",
            "docker is installed, but its daemon does not answer (Cannot connect to the Docker "
            "daemon at unix:///var/run/docker.sock. Is the docker daemon running?)",
            "sudo systemctl start docker",
        ),
        (
            "permission",
            "docker",
            "docker is installed, but this user may not access its daemon (permission denied while "
            "trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: dial "
            "unix /var/run/docker.sock: connect: permission denied)",
            'sudo usermod -aG docker "$USER" && newgrp docker',
        ),
        (
            "no-gpu",
            "docker gpu",
            "docker has no NVIDIA runtime, so a container gets no GPU (docker: Error response "
            'from daemon: could not select device driver "" with capabilities: [[gpu]])',
            "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        ),
    ],
)
def test_docker_that_cannot_run_a_build_says_why(
    machine: Machine, failure: str, name: str, detail: str, hint: str
) -> None:
    machine.has_gpus(H100)
    machine.has_docker(failure)

    document = examined()

    assert document["runtimes"]["trtllm"]["builds"] is False
    assert found(document, "trtllm", name) == [("missing", detail, hint)]


def test_triton_with_the_backend_serves_engines_and_the_llm_api(machine: Machine) -> None:
    toolchain = machine.has_gpus(H100)
    machine.has_tools(toolchain)
    executable = machine.has_triton("tensorrtllm", "python")

    document = examined("doctor --require llmapi")

    assert found(document, "trtllm", "triton") == [
        ("ok", f"{executable} with backend tensorrtllm", "")
    ]
    assert found(document, "llmapi", "tensorrt_llm") == [("ok", "1.2.1", "")]
    assert [document["runtimes"][name]["serves"] for name in ("trtllm", "llmapi")] == [True, True]


def test_triton_without_the_backend_does_not_serve_engines(machine: Machine) -> None:
    machine.has_gpus(H100)
    executable = machine.has_triton("python")
    backend_dir = executable.parent.parent / "backends" / "tensorrtllm"

    document = examined()

    assert document["runtimes"]["trtllm"]["serves"] is False
    assert found(document, "trtllm", "triton") == [
        (
            "missing",
            f"{executable} has no backend tensorrtllm: {backend_dir} does not exist",
            IN_IMAGE,
        )
    ]


def test_docker_with_a_gpu_serves_engines_without_a_triton_beside_it(machine: Machine) -> None:
    machine.has_gpus(H100)
    machine.has_docker()

    document = examined("doctor --require trtllm")

    engines = document["runtimes"]["trtllm"]
    assert (engines["builds"], engines["serves"]) == (True, True)
    assert found(document, "trtllm", "triton") == [
        (
            "warn",
            f"{NO_TRITON}; forge serve can start one in docker",
            "forge serve --triton docker",
        )
    ]


def test_token_is_said_to_be_there_and_never_shown(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(examined(), "machine", "hub token") == [
        ("warn", "none; gated models need one", "hf auth login")
    ]

    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    _, stdout, stderr = run("doctor -vv")

    assert "  ok       hub token     present\n" in stdout
    assert "hf_of_the_user" not in stdout + stderr


@pytest.mark.usefixtures("machine")
def test_offline_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_OFFLINE", "true")

    assert found(examined(), "machine", "hub") == [
        ("warn", "offline is set: only cached files are available", "")
    ]


def test_hidden_gpus_are_told_apart_from_absent_ones(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has_gpus(H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    assert found(examined(), "machine", "gpu") == [
        (
            "missing",
            "none: CUDA_VISIBLE_DEVICES hides every GPU",
            "unset CUDA_VISIBLE_DEVICES",
        )
    ]


@pytest.mark.usefixtures("machine")
def test_disk_that_is_nearly_full_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_SMALL_DISK_BYTES", 1 << 70)

    ((state, detail, hint),) = found(examined(), "machine", "cache")

    assert state == "warn"
    free, _, rest = detail.partition(" free")
    assert re.fullmatch(r"\d+\.\d [MGT]iB", free)
    assert rest == f" in {os.environ['XDG_CACHE_HOME']}/trtllm-forge, which is little for a model"
    assert hint == "FORGE_CACHE_DIR=/larger/disk forge doctor"


@pytest.mark.usefixtures("machine")
def test_unknown_runtime_and_release_are_usage_mistakes() -> None:
    assert run("doctor --require cuda")[0] == 2
    code, _, stderr = run("doctor --trtllm-version 9.0.0")

    assert code == 2
    assert stderr.startswith("error: TensorRT-LLM 9.0.0 is not a release that this forge knows\n")


@pytest.mark.usefixtures("machine")
def test_nothing_is_written(isolated_home: Path) -> None:
    run("doctor")

    assert [path for path in isolated_home.rglob("*") if path.is_file()] == []


def test_no_engine_library_is_imported_to_see_whether_it_is_there() -> None:
    code = (
        "import sys\n"
        "from trtllm_forge.cli.app import app\n"
        "try: app(['doctor', '--json'], prog_name='forge')\n"
        "except SystemExit: pass\n"
        "print('modules:', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    modules = set(done.stdout.rpartition("modules:")[2].split())
    heavy = {"torch", "openvino", "openvino_genai", "transformers", "numpy", "tensorrt_llm"}
    assert "trtllm_forge" in modules
    assert modules & heavy == set()
