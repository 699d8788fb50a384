"""The docker executor against a stand-in for the docker command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.process.recording import RecordingReporter, eventually, is_running
from trtllm_forge.cli.console import error_text
from trtllm_forge.errors import BuildError, PrerequisiteError
from trtllm_forge.machine.executors.docker import DockerExecutor
from trtllm_forge.machine.process.command import Command, run_command
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.machine.process.managed import ManagedProcess

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
LABEL = "compile-0a1b"
STAND_IN = Path(__file__).parents[2] / "stand_ins" / "docker"
NO_RUNTIME = (
    "error: docker has no NVIDIA runtime, so a container gets no GPU\n"
    "  why:  {why}\n"
    "        the command below comes with the package nvidia-container-toolkit\n"
    "  try:  sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)


class ProgressReporter(RecordingReporter):
    """Keeps progress and warnings as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[str, int, int, str]] = []
        self.warnings: list[str] = []

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        self.layers.append((name, done, total, unit))

    def warning(self, text: str) -> None:
        self.warnings.append(text)


class StandIn:
    """The stand-in on PATH, with what it keeps."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dir = folder / "daemon"
        self.dir.mkdir()
        self._patch = monkeypatch
        tools_dir = folder / "bin"
        tools_dir.mkdir()
        (tools_dir / "docker").symlink_to(STAND_IN)
        (tools_dir / "python3").symlink_to(sys.executable)
        # Nothing else, so that a toolkit of NVIDIA's on this machine is not seen.
        monkeypatch.setenv("PATH", str(tools_dir))
        monkeypatch.setenv("STAND_IN_DOCKER_DIR", str(self.dir))
        monkeypatch.setenv("STAND_IN_DOCKER_RUNS", "1")

    def fails(self, *modes: str) -> None:
        self._patch.setenv("STAND_IN_DOCKER_FAILS", ",".join(modes))

    def has_image(self) -> None:
        (self.dir / "images").write_text(f"{IMAGE}\n")

    @property
    def calls(self) -> list[list[str]]:
        path = self.dir / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def containers(self) -> dict[str, int]:
        paths = list((self.dir / "containers").glob("*"))
        return {path.name: int(path.read_text()) for path in paths if path.stat().st_size}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def executor(
    tmp_path: Path,
    *,
    offline: bool = False,
    image_bytes: int | None = 14_200_000_000,
    gpus: str | None = '"device=0,1"',
    answer_wait_s: float = 60.0,
) -> DockerExecutor:
    return DockerExecutor(
        image=IMAGE,
        image_bytes=image_bytes,
        offline=offline,
        cache_dir=tmp_path / "cache",
        gpus=gpus,
        user=f"{os.getuid()}:{os.getgid()}",
        answer_wait_s=answer_wait_s,
    )


def never_asked(question: str) -> bool:
    pytest.fail(f"asked: {question}")


def refused(docker: DockerExecutor, *, agrees: bool = True) -> tuple[int, str]:
    """Return the exit code and the full text that ``require`` ends in."""
    with pytest.raises(PrerequisiteError) as caught:
        docker.require(RecordingReporter(), confirm=lambda _: agrees)
    return caught.value.exit_code, error_text(caught.value)


# --- before a build


def test_image_that_is_here_is_tried_with_the_gpus_and_nothing_is_pulled(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    reporter = RecordingReporter()

    executor(tmp_path).require(reporter, confirm=never_asked)

    trial = ["run", "--rm", "--pull", "never", "--network", "none"]
    assert stand_in.calls == [
        ["version", "--format", "{{.Server.Version}}"],
        ["image", "inspect", "--format", "{{.Id}}", IMAGE],
        [*trial, "--gpus", '"device=0,1"', "--entrypoint", "true", IMAGE],
    ]
    assert [list(argv[1:]) for argv in reporter.commands] == stand_in.calls


def test_gpu_is_not_tried_when_no_command_needs_one(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.has_image()
    stand_in.fails("no-gpu")
    executor(tmp_path, gpus=None).require(RecordingReporter(), confirm=never_asked, needs_gpu=False)
    assert [call[0] for call in stand_in.calls] == ["version", "image"]


def test_missing_image_is_pulled_after_asking_and_its_layers_are_counted(
    tmp_path: Path, stand_in: StandIn
) -> None:
    asked: list[str] = []
    reporter = ProgressReporter()

    def agree(question: str) -> bool:
        asked.append(question)
        return True

    executor(tmp_path).require(reporter, confirm=agree)

    assert asked == [f"pull {IMAGE}? It is a download of 14.20 GB"]
    assert reporter.notes == [f"pulling {IMAGE}, a download of 14.20 GB"]
    assert reporter.layers == [
        ("docker pull", 0, 1, "layers"),
        ("docker pull", 0, 2, "layers"),
        ("docker pull", 1, 2, "layers"),
        ("docker pull", 2, 2, "layers"),
    ]
    log = (tmp_path / "cache" / "docker" / "pull.log").read_text()
    assert log.endswith(f"Status: Downloaded newer image for {IMAGE}\n")
    assert ["pull", IMAGE] in stand_in.calls


def test_download_of_unknown_size_is_asked_for_as_such(tmp_path: Path, stand_in: StandIn) -> None:
    assert refused(executor(tmp_path, image_bytes=None), agrees=False) == (
        3,
        f"error: the image {IMAGE} is not on this machine and was not pulled\n"
        "  why:  the download of an unknown size was not confirmed; pass --yes\n"
        f"  try:  docker pull {IMAGE}",
    )


def test_refused_pull_names_the_size_and_the_command(tmp_path: Path, stand_in: StandIn) -> None:
    assert refused(executor(tmp_path), agrees=False) == (
        3,
        f"error: the image {IMAGE} is not on this machine and was not pulled\n"
        "  why:  the download of 14.20 GB was not confirmed; pass --yes\n"
        f"  try:  docker pull {IMAGE}",
    )
    assert ["pull", IMAGE] not in stand_in.calls


def test_missing_image_is_refused_offline_without_asking(tmp_path: Path, stand_in: StandIn) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        executor(tmp_path, offline=True).require(RecordingReporter(), confirm=never_asked)
    assert (caught.value.exit_code, error_text(caught.value)) == (
        3,
        f"error: the image {IMAGE} is not on this machine, and forge is offline\n"
        "  why:  docker image inspect does not find it\n"
        f"  try:  docker pull {IMAGE}",
    )
    assert ["pull", IMAGE] not in stand_in.calls


@pytest.mark.parametrize(
    ("mode", "why", "hint"),
    [
        (
            "pull-unknown",
            "26.07-trtllm-python-py3: Pulling from nvidia/tritonserver\n"
            f"        Error response from daemon: manifest for {IMAGE} not found: "
            "manifest unknown",
            "forge versions",
        ),
        (
            "pull-denied",
            "26.07-trtllm-python-py3: Pulling from nvidia/tritonserver\n"
            "        Error response from daemon: unauthorized: "
            "access to nvcr.io/nvidia/tritonserver is not allowed",
            "docker login nvcr.io",
        ),
        (
            "pull-disk-full",
            "26.07-trtllm-python-py3: Pulling from nvidia/tritonserver\n"
            "        1a2b3c4d5e6f: Pulling fs layer\n"
            "        2b3c4d5e6f70: Pulling fs layer\n"
            "        write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            "docker system df",
        ),
    ],
    ids=["unknown", "denied", "disk-full"],
)
def test_failed_pull_says_why_and_what_to_do(
    tmp_path: Path, stand_in: StandIn, mode: str, why: str, hint: str
) -> None:
    stand_in.fails(mode)
    assert refused(executor(tmp_path)) == (
        3,
        f"error: docker pull {IMAGE}: exit code 1\n"
        f"  why:  {why}\n"
        f"  try:  {hint}\n"
        f"  log:  {tmp_path}/cache/docker/pull.log",
    )


def test_daemon_that_does_not_answer_is_refused(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.fails("daemon")
    assert refused(executor(tmp_path)) == (
        3,
        "error: docker is installed, but its daemon does not answer\n"
        "  why:  Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
        "Is the docker daemon running?\n"
        "  try:  sudo systemctl start docker",
    )


def test_daemon_that_this_user_may_not_talk_to_is_refused(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.fails("permission")
    assert refused(executor(tmp_path)) == (
        3,
        "error: docker is installed, but this user may not access its daemon\n"
        "  why:  permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: "
        "permission denied\n"
        '  try:  sudo usermod -aG docker "$USER" && newgrp docker',
    )


def test_docker_that_hangs_is_given_up(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.fails("slow")
    assert refused(executor(tmp_path, answer_wait_s=0.2)) == (
        3,
        "error: docker did not answer within 0 s: docker version --format {{.Server.Version}}\n"
        "  try:  sudo systemctl restart docker",
    )


def test_docker_that_cannot_tell_what_it_has_is_refused(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.fails("inspect")
    assert refused(executor(tmp_path)) == (
        3,
        f"error: docker cannot tell whether it has the image {IMAGE}\n"
        "  why:  Error response from daemon: failed to read the content store\n"
        f"  try:  docker image inspect {IMAGE}",
    )


def test_docker_without_an_nvidia_runtime_is_refused_before_the_pull(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.fails("no-gpu")
    why = "docker info lists no NVIDIA runtime, and the NVIDIA Container Toolkit is not installed"
    assert refused(executor(tmp_path)) == (3, NO_RUNTIME.format(why=why))
    assert ["pull", IMAGE] not in stand_in.calls


def test_docker_without_an_nvidia_runtime_is_refused_when_the_image_is_here(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    stand_in.fails("no-gpu")
    why = (
        "docker: Error response from daemon: "
        'could not select device driver "" with capabilities: [[gpu]]'
    )
    assert refused(executor(tmp_path)) == (3, NO_RUNTIME.format(why=why))


def test_driver_that_does_not_work_is_told_in_dockers_words(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    stand_in.fails("driver")
    assert refused(executor(tmp_path)) == (
        3,
        f"error: docker cannot start {IMAGE} with a GPU\n"
        "  why:  docker: Error response from daemon: failed to create task for container: "
        "error running prestart hook #0: nvidia-container-cli: initialization error: "
        "nvml error: driver not loaded\n"
        "  try:  nvidia-smi",
    )


def test_gpus_that_are_all_hidden_are_refused(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.has_image()
    assert refused(executor(tmp_path, gpus=None)) == (
        3,
        "error: no GPU for the container: CUDA_VISIBLE_DEVICES hides them all\n"
        "  why:  executor docker passes on the GPUs visible to forge\n"
        "  try:  unset CUDA_VISIBLE_DEVICES",
    )


# --- a command in a container


def in_container(
    docker: DockerExecutor,
    code: str,
    *args: str,
    mounts: tuple[Mount, ...] = (),
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Command:
    command = Command(argv=("python3", "-c", code, *args), env=env or {}, cwd=cwd)
    return docker.wrap(command, mounts=mounts, needs_gpu=True, label=LABEL)


def run(command: Command, tmp_path: Path) -> list[str]:
    reporter = RecordingReporter()
    run_command(
        command,
        source="compile",
        error=BuildError,
        log_path=tmp_path / "compile.log",
        reporter=reporter,
    )
    return [line for _, line in reporter.lines]


def test_command_reads_and_writes_through_its_mounts_whatever_their_names_are(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.has_image()
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    read_dir, write_dir = tmp_path / 'check,"point', tmp_path / "out put"
    read_dir.mkdir()
    write_dir.mkdir()
    (read_dir / "config.json").write_text("{}")
    code = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[2], 'seen').write_text('\\n'.join(os.listdir(sys.argv[1])))\n"
        "print(os.getcwd())\n"
        "print(*sorted(n for n in os.environ if n != 'LC_CTYPE'))"
    )
    mounts = (
        Mount(source=read_dir, target=str(read_dir), read_only=True),
        Mount(source=write_dir, target="/output", read_only=False),
    )
    command = in_container(
        executor(tmp_path),
        code,
        str(read_dir),
        "/output",
        mounts=mounts,
        env={"OMPI_MCA_btl": "self"},
        cwd=read_dir,
    )

    lines = run(command, tmp_path)

    assert (write_dir / "seen").read_text() == "config.json"
    assert lines == [str(read_dir), "HF_HUB_OFFLINE HOME OMPI_MCA_btl PATH USER"]
    assert stand_in.containers == {}


def test_stand_in_catches_a_path_that_is_on_no_mount(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.has_image()
    with pytest.raises(BuildError) as caught:
        run(in_container(executor(tmp_path), "pass", str(tmp_path)), tmp_path)
    assert caught.value.why == f"the stand-in for docker: {tmp_path} is on no mount"


def test_stand_in_catches_a_write_below_a_read_only_mount(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    code = "import pathlib, sys; pathlib.Path(sys.argv[1], 'new').touch()"
    (tmp_path / "data").mkdir()
    mount = Mount(source=tmp_path / "data", target="/data", read_only=True)
    with pytest.raises(BuildError) as caught:
        run(in_container(executor(tmp_path), code, "/data", mounts=(mount,)), tmp_path)
    assert caught.value.why == (
        "the stand-in for docker: the command wrote below a read-only mount"
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--gpus", "device=0,1", IMAGE, "true"],
        ["run", "--mount", 'type=bind,source=/a"b,target=/c', IMAGE, "true"],
        ["run", "--remove", IMAGE, "true"],
        ["run", "--networ", "none", IMAGE, "true"],
        ["pull", "--yes", IMAGE],
    ],
    ids=["gpus-unquoted", "quote-in-a-plain-field", "unknown", "abbreviated", "flag-of-another"],
)
def test_stand_in_refuses_what_docker_would(stand_in: StandIn, argv: list[str]) -> None:
    stand_in.has_image()
    answer = subprocess.run(["docker", *argv], capture_output=True, check=False)
    assert answer.returncode == 2


def test_failed_command_of_a_container_is_told_without_the_wrapping(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    with pytest.raises(BuildError) as caught:
        run(in_container(executor(tmp_path), "raise SystemExit('no such plugin')"), tmp_path)
    assert error_text(caught.value) == (
        "error: compile: exit code 1: python3 -c 'raise SystemExit('\"'\"'no such plugin'\"'\"')'\n"
        "  why:  no such plugin\n"
        f"  log:  {tmp_path}/compile.log"
    )


# --- the end of a container

SLEEP = "import time; print('started', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def started(
    docker: DockerExecutor, code: str, tmp_path: Path, reporter: RecordingReporter
) -> ManagedProcess:
    return ManagedProcess(
        in_container(docker, code).argv,
        source="compile",
        log_path=tmp_path / "compile.log",
        reporter=reporter,
        grace_s=0.2,
    )


def container_pid(stand_in: StandIn, reporter: RecordingReporter, name: str) -> int:
    assert eventually(lambda: ("compile", "started") in reporter.lines)
    return stand_in.containers[name]


def test_stopped_client_hands_the_signal_on_and_nothing_is_left(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    docker, reporter = executor(tmp_path), RecordingReporter()
    with started(docker, SLEEP, tmp_path, reporter) as child:
        pid = container_pid(stand_in, reporter, docker.container_name(LABEL))
        child.stop(grace_s=15.0)
    assert not is_running(pid)
    assert stand_in.containers == {}


def test_container_that_outlives_its_killed_client_is_cleaned_up(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    docker, reporter = executor(tmp_path), ProgressReporter()
    with started(docker, DEAF, tmp_path, reporter):
        pid = container_pid(stand_in, reporter, docker.container_name(LABEL))
    assert is_running(pid)

    docker.clean_up(LABEL, reporter)

    assert eventually(lambda: not is_running(pid))
    assert (stand_in.containers, reporter.warnings) == ({}, [])
    name = docker.container_name(LABEL)
    assert stand_in.calls[-1] == ["rm", "--force", "--volumes", name]


def test_cleaning_up_where_nothing_is_left_says_nothing(tmp_path: Path, stand_in: StandIn) -> None:
    reporter = ProgressReporter()
    executor(tmp_path).clean_up(LABEL, reporter)
    assert reporter.warnings == []


def test_container_that_cannot_be_removed_is_a_warning_with_the_command(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.fails("rm")
    docker, reporter = executor(tmp_path), ProgressReporter()
    docker.clean_up(LABEL, reporter)
    name = docker.container_name(LABEL)
    assert reporter.warnings == [
        f"Error response from daemon: cannot remove container {name}: it is stuck; "
        f"a container is left behind, remove it with: docker rm --force --volumes {name}"
    ]


def test_cleaning_up_with_a_docker_that_hangs_is_a_warning(
    tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.fails("slow")
    docker, reporter = executor(tmp_path, answer_wait_s=0.2), ProgressReporter()
    docker.clean_up(LABEL, reporter)
    command = f"docker rm --force --volumes {docker.container_name(LABEL)}"
    assert reporter.warnings == [
        f"docker did not answer within 0 s: {command}; "
        f"a container may be left behind, remove it with: {command}"
    ]


def test_cleaning_up_without_docker_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reporter = ProgressReporter()
    executor(tmp_path).clean_up(LABEL, reporter)
    assert reporter.warnings == []


def test_interrupt_during_a_pull_ends_it(tmp_path: Path, stand_in: StandIn) -> None:
    def agree(question: str) -> bool:
        stand_in.fails("slow")
        return True

    def interrupt() -> None:
        eventually(lambda: ["pull", IMAGE] in stand_in.calls)
        signal.pthread_kill(main.ident or 0, signal.SIGINT)

    main = threading.main_thread()
    # A shell's background job starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            executor(tmp_path).require(RecordingReporter(), confirm=agree)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
