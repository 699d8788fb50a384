"""What executors make of a command, and which one is taken."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest

from trtllm_forge.cli.console import error_text
from trtllm_forge.errors import ConfigError, ForgeError, PrerequisiteError
from trtllm_forge.machine.executors.choice import ExecutorChoice, choose_executor
from trtllm_forge.machine.executors.docker import DockerExecutor
from trtllm_forge.machine.executors.local import LocalExecutor, Toolchain, local_toolchain
from trtllm_forge.machine.process.command import Command
from trtllm_forge.machine.process.docker import Mount, gpu_request
from trtllm_forge.reporter import SilentReporter

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
CACHE_DIR = Path("/data/cache")
CONTAINER = "forge-66bc2612-compile-0a1b"


def docker(
    *, gpus: str | None = "all", user: str = "1000:100", cache_dir: Path = CACHE_DIR
) -> DockerExecutor:
    return DockerExecutor(
        image=IMAGE,
        image_bytes=14_200_000_000,
        offline=False,
        cache_dir=cache_dir,
        gpus=gpus,
        user=user,
    )


def wrapped(
    *mounts: Mount,
    command: Command | None = None,
    gpus: str | None = "all",
    needs_gpu: bool = True,
    needs_network: bool = False,
) -> list[str]:
    return list(
        docker(gpus=gpus)
        .wrap(
            command or Command(argv=("trtllm-build",)),
            mounts=mounts,
            needs_gpu=needs_gpu,
            needs_network=needs_network,
            label="compile-0a1b",
        )
        .argv
    )


def values(argv: list[str], flag: str) -> list[str]:
    return [argv[place + 1] for place, word in enumerate(argv) if word == flag]


def test_docker_runs_the_command_with_the_mounts_the_gpus_and_no_network() -> None:
    command = Command(
        argv=("trtllm-build", "--checkpoint_dir", "/data/ckpt", "--output_dir", "/data/out"),
        env={"OMPI_MCA_btl": "self,vader"},
        cwd=Path("/data/out"),
    )
    mounts = (
        Mount(source=Path("/data/ckpt"), target="/data/ckpt", read_only=True),
        Mount(source=Path("/data/out"), target="/data/out", read_only=False),
    )

    made = docker().wrap(command, mounts=mounts, needs_gpu=True, label="compile-0a1b")

    assert made == Command(
        argv=(
            *("docker", "run", "--rm", "--init", "--pull", "never"),
            *("--name", CONTAINER, "--label", "trtllm-forge=compile-0a1b"),
            *("--gpus", "all", "--ipc", "host"),
            *("--ulimit", "memlock=-1", "--ulimit", "stack=67108864"),
            *("--user", "1000:100", "--network", "none", "--hostname", "localhost"),
            *("--mount", "type=bind,source=/data/ckpt,target=/data/ckpt,readonly"),
            *("--mount", "type=bind,source=/data/out,target=/data/out"),
            *("--workdir", "/data/out"),
            *("--env", "HOME=/tmp", "--env", "USER=forge", "--env", "HF_HUB_OFFLINE=1"),
            *("--env", "OMPI_MCA_btl=self,vader"),
            IMAGE,
            *command.argv,
        ),
        inner_argv=command.argv,
    )


def test_docker_gives_no_gpu_and_a_network_where_the_command_asks_for_that() -> None:
    assert wrapped(needs_gpu=False, needs_network=True) == [
        *("docker", "run", "--rm", "--init", "--pull", "never"),
        *("--name", CONTAINER, "--label", "trtllm-forge=compile-0a1b"),
        *("--ipc", "host", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864"),
        *("--user", "1000:100", "--workdir", "/tmp"),
        *("--env", "HOME=/tmp", "--env", "USER=forge"),
        *(IMAGE, "trtllm-build"),
    ]


@pytest.mark.parametrize(
    "path",
    ["/a b/c", "/a,b", '/a"b', "/a,readonly", '/",target="', "/ünï"],
    ids=["space", "comma", "quote", "option", "both", "letters"],
)
def test_mounted_path_is_read_back_from_the_csv_as_it_was(path: str) -> None:
    (option,) = values(wrapped(Mount(source=Path(path), target=path, read_only=False)), "--mount")
    assert list(csv.reader([option], strict=True)) == [
        ["type=bind", f"source={path}", f"target={path}"]
    ]


def test_mount_given_twice_is_made_once() -> None:
    mount = Mount(source=Path("/a"), target="/a", read_only=True)
    assert values(wrapped(mount, mount), "--mount") == ["type=bind,source=/a,target=/a,readonly"]


@pytest.mark.parametrize(
    ("visible", "request_text"),
    [
        (None, "all"),
        ("0", "device=0"),
        ("2, 3", '"device=2,3"'),
        ("GPU-8932f937-d72c,MIG-a1", '"device=GPU-8932f937-d72c,MIG-a1"'),
        ("1,-1,2", "device=1"),
        ("", None),
        ("-1", None),
        ("NoDevFiles", None),
    ],
)
def test_gpus_follow_what_cuda_would_see(visible: str | None, request_text: str | None) -> None:
    assert gpu_request(visible) == request_text


def test_gpus_that_the_command_names_come_before_those_of_forge_and_are_not_renumbered() -> None:
    command = Command(argv=("true",), env={"CUDA_VISIBLE_DEVICES": "3"})
    argv = wrapped(command=command, gpus="device=1")
    assert values(argv, "--gpus") == ["device=3"]
    assert values(argv, "--env") == ["HOME=/tmp", "USER=forge", "HF_HUB_OFFLINE=1"]


def test_plan_where_every_gpu_is_hidden_asks_for_all() -> None:
    assert values(wrapped(gpus=None), "--gpus") == ["all"]


def test_no_token_of_forges_environment_is_in_the_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    assert "hf_s3cret" not in " ".join(wrapped())


def test_container_is_named_apart_from_those_of_another_user_and_another_cache() -> None:
    names = {
        executor.container_name("compile-0a1b")
        for executor in (docker(), docker(user="1001:100"), docker(cache_dir=Path("/other")))
    }
    assert len(names) == 3
    assert CONTAINER in names


def test_label_that_docker_would_refuse_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not a container label: 'a/b'"):
        docker().container_name("a/b")


def test_local_executor_leaves_the_command_as_it_is() -> None:
    command = Command(argv=("trtllm-build", "-x"), env={"A": "1"}, cwd=Path("/data"))
    mount = Mount(source=Path("/a"), target="/a", read_only=True)
    executor = LocalExecutor(toolchain=None, release=None)

    made = executor.wrap(command, mounts=[mount], needs_gpu=True, label="compile-0a1b")

    assert made == Command(
        argv=command.argv, inner_argv=command.argv, env=command.env, cwd=command.cwd
    )


# --- the toolchain of this machine


def install_trtllm_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, first_lines: str = ""
) -> Toolchain:
    """Put a ``trtllm-build`` on PATH, and beside it a Python that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python3"
    answer = f"echo {version}" if version else "exit 1"
    write_script(python, f"#!/bin/sh\n{answer}\n")
    write_script(folder / "trtllm-build", first_lines or f"#!{python}\nimport tensorrt_llm\n")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return Toolchain(
        executable=folder / "trtllm-build",
        python=python,
        version=version or None,
        examples_dir=None,
    )


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def no_tools(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", str(folder))


def test_version_is_read_from_the_metadata_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    (packages / "tensorrt_llm-1.2.1.dist-info").mkdir(parents=True)
    (packages / "tensorrt_llm-1.2.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 1.2.1\n"
    )
    (packages / "tensorrt_llm").mkdir()
    (packages / "tensorrt_llm" / "__init__.py").write_text("raise SystemExit('imported')\n")
    write_script(tmp_path / "trtllm-build", f"#!{sys.executable}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(packages))

    assert local_toolchain(examples_dir=packages) == Toolchain(
        executable=tmp_path / "trtllm-build",
        python=Path(sys.executable),
        version="1.2.1",
        examples_dir=packages,
    )


def test_no_trtllm_build_on_path_is_no_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_tools(monkeypatch, tmp_path)
    assert local_toolchain() is None


def test_python_that_cannot_say_the_version_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = install_trtllm_build(tmp_path, monkeypatch, version="")
    assert local_toolchain(examples_dir=tmp_path / "none") == expected


@pytest.mark.parametrize(
    "first_lines",
    [
        "#!/usr/bin/env python3\n",
        "#!/bin/sh\n'''exec' \"{folder}/python3\" \"$0\" \"$@\"\n' '''\n",
        "#!/bin/bash\nexec something\n",
    ],
    ids=["env", "long-path", "no-python"],
)
def test_interpreter_of_a_console_script_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_lines: str
) -> None:
    folder = tmp_path / "a folder"
    text = first_lines.replace("{folder}", str(folder))
    install_trtllm_build(folder, monkeypatch, version="1.2.1", first_lines=text)
    toolchain = local_toolchain()
    assert toolchain is not None
    assert (toolchain.python, toolchain.version) == (folder / "python3", "1.2.1")


# --- the choice


def choose(
    name: str, *, image: str | None = IMAGE, release: str | None = "1.2.1"
) -> ExecutorChoice:
    return choose_executor(
        name,
        image=image,
        image_bytes=14_200_000_000,
        offline=False,
        cache_dir=CACHE_DIR,
        release=release,
    )


def taken(choice: ExecutorChoice) -> tuple[str, str]:
    return choice.executor.name, choice.reason


@pytest.mark.parametrize(
    ("installed", "release"),
    [("1.2.1", "1.2.1"), ("1.2.1+cu130", "1.2.1"), ("1.1.0", None)],
    ids=["same", "local-part", "any"],
)
def test_auto_takes_the_toolchain_of_this_machine_when_it_is_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, release: str | None
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version=installed)
    reason = f"executor local: {toolchain.executable} is from TensorRT-LLM {installed}"
    assert taken(choose("auto", release=release)) == ("local", reason)


def test_auto_takes_docker_when_the_toolchain_is_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version="1.1.0")
    write_script(tmp_path / "docker", "#!/bin/sh\n")
    reason = (
        f"executor docker: {toolchain.executable} is from TensorRT-LLM 1.1.0, "
        "but the plan is for TensorRT-LLM 1.2.1"
    )
    assert taken(choose("auto")) == ("docker", reason)


def test_auto_takes_docker_when_the_release_of_the_toolchain_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version="")
    write_script(tmp_path / "docker", "#!/bin/sh\n")
    reason = (
        f"executor docker: {toolchain.executable} is from an unknown release, "
        "but the plan is for TensorRT-LLM 1.2.1"
    )
    assert taken(choose("auto")) == ("docker", reason)


def test_auto_plans_for_docker_where_there_is_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_tools(monkeypatch, tmp_path)
    reason = (
        "executor docker: trtllm-build is not on PATH; "
        "docker is not on PATH either, so this can be planned here but not run"
    )
    assert taken(choose("auto")) == ("docker", reason)


def test_auto_without_an_image_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_tools(monkeypatch, tmp_path)
    reason = "executor local: no image carries TensorRT-LLM 1.2.1, but trtllm-build is not on PATH"
    assert taken(choose("auto", image=None)) == ("local", reason)


@pytest.mark.parametrize("name", ["local", "docker"])
def test_executor_that_is_asked_for_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    no_tools(monkeypatch, tmp_path)
    assert taken(choose(name)) == (name, f"executor {name}: requested")


def test_docker_executor_gets_the_visible_gpus_and_this_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setattr("os.getuid", lambda: 1000)
    monkeypatch.setattr("os.getgid", lambda: 100)
    assert choose("docker").executor == docker(gpus='"device=1,2"')


# --- refusals


def refusal(error: ForgeError) -> tuple[int, str]:
    return error.exit_code, error_text(error)


def test_unknown_executor_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        choose("podman")
    assert refusal(caught.value) == (
        2,
        "error: unknown executor podman\n"
        "  why:  the executors are auto, docker and local\n"
        "  try:  --executor auto",
    )


def test_docker_without_an_image_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        choose("docker", image=None)
    assert refusal(caught.value) == (
        2,
        "error: --executor docker has no image to run: none carries TensorRT-LLM 1.2.1\n"
        "  try:  forge versions",
    )


def require(executor: LocalExecutor) -> None:
    executor.require(SilentReporter(), confirm=lambda _: False)


def test_local_executor_without_a_toolchain_is_refused() -> None:
    with pytest.raises(PrerequisiteError) as caught:
        require(LocalExecutor(toolchain=None, release="1.2.1"))
    assert refusal(caught.value) == (
        3,
        "error: trtllm-build is not on PATH\n"
        "  why:  executor local runs the TensorRT-LLM installed here; "
        "--executor docker needs none\n"
        "  try:  pip install tensorrt-llm==1.2.1",
    )


def test_local_executor_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version="1.1.0")
    with pytest.raises(PrerequisiteError) as caught:
        require(LocalExecutor(toolchain=toolchain, release="1.2.1"))
    assert refusal(caught.value) == (
        3,
        f"error: TensorRT-LLM 1.2.1 is needed, {tmp_path}/trtllm-build belongs to 1.1.0\n"
        f"  why:  an engine loads only in its own release; {tmp_path}/python3 has the other one\n"
        f"  try:  {tmp_path}/python3 -m pip install tensorrt-llm==1.2.1",
    )


def test_local_executor_of_an_unknown_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version="")
    with pytest.raises(PrerequisiteError) as caught:
        require(LocalExecutor(toolchain=toolchain, release="1.2.1"))
    assert refusal(caught.value) == (
        3,
        f"error: {tmp_path}/trtllm-build belongs to an unknown TensorRT-LLM release\n"
        f"  why:  {tmp_path}/python3 has no package tensorrt_llm, and the plan is for 1.2.1\n"
        f"  try:  {tmp_path}/python3 -m pip install tensorrt-llm==1.2.1",
    )


def test_local_executor_of_the_release_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = install_trtllm_build(tmp_path, monkeypatch, version="1.2.1")
    executor = LocalExecutor(toolchain=toolchain, release="1.2.1")

    require(executor)

    assert executor.is_of_release


def test_docker_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_tools(monkeypatch, tmp_path)
    assert shutil.which("docker") is None
    with pytest.raises(PrerequisiteError) as caught:
        docker().require(SilentReporter(), confirm=lambda _: False)
    assert refusal(caught.value) == (
        3,
        "error: docker is not on PATH\n"
        f"  why:  executor docker runs {IMAGE}; inside it, --executor local needs no docker\n"
        "  try:  curl -fsSL https://get.docker.com | sudo sh",
    )
