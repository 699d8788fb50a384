"""What forge refuses before it starts a container, and what docker says when it starts none."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tests.ports import port_flags
from tests.process.machine.test_docker import IMAGE, NO_RUNTIME, StandIn
from tests.process.recording import eventually
from tests.rank_repositories import engine_model, write_config
from trtllm_forge.cli.app import app
from trtllm_forge.machine.gpu import Gpu, GpuReport
from trtllm_forge.machine.process import lifeline
from trtllm_forge.serving.plan import container_options

if TYPE_CHECKING:
    from pathlib import Path

OWN_IMAGE = "registry.example/team/triton:7"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    has_gpus(monkeypatch, 1)
    return StandIn(tmp_path, monkeypatch)


@pytest.fixture
def repository_dir(tmp_path: Path) -> Path:
    engine_model(tmp_path / "coder")
    return tmp_path / "coder"


def has_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    one = Gpu(name="NVIDIA H100", memory_bytes=1 << 36, compute_capability="9.0", uuid="GPU-1")
    report = GpuReport(gpus=(one,) * count, reason="" if count else "there is no NVIDIA driver")
    monkeypatch.setattr(container_options, "probe_gpus", lambda: report)


def serve(repository_dir: Path, *flags: str) -> tuple[int, str]:
    """Return exit code and stderr of a ``forge serve`` that does not come to serve."""
    result = CliRunner().invoke(app, ["serve", str(repository_dir), *port_flags(), *flags])
    return result.exit_code, result.stderr


def started(stand_in: StandIn) -> list[list[str]]:
    return [call for call in stand_in.calls if call[0] == "run"]


def test_without_docker_the_reason_is_what_asked_for_it(
    repository_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert serve(repository_dir, "--triton", "docker") == (
        3,
        "error: docker is not on PATH\n"
        "  why:  --triton docker runs Triton in a container\n"
        "  try:  curl -fsSL https://get.docker.com | sudo sh\n",
    )


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("daemon", "docker is installed, but its daemon does not answer"),
        ("permission", "docker is installed, but this user may not access its daemon"),
    ],
)
def test_a_daemon_that_does_not_serve_this_user_is_told(
    repository_dir: Path, stand_in: StandIn, mode: str, what: str
) -> None:
    stand_in.has_image()
    stand_in.fails(mode)

    code, stderr = serve(repository_dir, "--triton", "docker")

    assert (code, stderr.splitlines()[0]) == (3, f"error: {what}")
    assert started(stand_in) == []


def test_an_image_that_is_not_here_is_told_with_its_size_and_the_pull(
    repository_dir: Path, stand_in: StandIn
) -> None:
    assert serve(repository_dir, "--triton", f"docker:{IMAGE}") == (
        3,
        f"error: the image {IMAGE} is not on this machine\n"
        "  why:  forge serve does not pull images; the download is 14.2 GB\n"
        f"  try:  docker pull {IMAGE}\n",
    )


def test_of_the_images_with_the_release_the_one_that_is_here_is_taken(
    repository_dir: Path, stand_in: StandIn
) -> None:
    older = IMAGE.replace("26.07", "26.05")
    (stand_in.dir / "images").write_text(f"{older}\n")

    _, stderr = serve(repository_dir, "--triton", "docker", "-v")

    assert f"using the image {older}: it carries the release and is on this machine\n" in stderr
    assert older in started(stand_in)[0]


def test_a_docker_without_a_runtime_for_gpus_is_told_before_a_container_starts(
    repository_dir: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()
    stand_in.fails("no-gpu")

    code, stderr = serve(repository_dir, "--triton", "docker")

    why = "docker info lists no NVIDIA runtime, and the NVIDIA Container Toolkit is not installed"
    assert (code, stderr) == (3, NO_RUNTIME.format(why=why) + "\n")
    assert started(stand_in) == []


@pytest.mark.parametrize(("ranks", "found"), [(1, 0), (2, 1)])
def test_too_few_gpus_are_told_with_both_numbers(
    tmp_path: Path,
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    found: int,
) -> None:
    stand_in.has_image()
    has_gpus(monkeypatch, found)
    engine_model(tmp_path / "ranked", tp_size=ranks)

    code, stderr = serve(tmp_path / "ranked", "--triton", "docker")

    needed = "1 GPU is needed" if ranks == 1 else "2 GPUs are needed"
    assert (code, stderr.splitlines()[0]) == (3, f"error: {needed}, {found} visible")
    assert started(stand_in) == []


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"Env": ["PATH=/bin", "NVIDIA_TRITON_SERVER_VERSION=25.03"]}, "TensorRT-LLM 0.18.0"),
        ({"Labels": {"com.nvidia.tritonserver.version": "2.59.0"}}, "TensorRT-LLM 0.20.0"),
        ({"Env": ["TRTLLM_VERSION=1.1.0"]}, "TensorRT-LLM 1.1.0"),
        ({"Env": ["NVIDIA_TRITON_SERVER_VERSION=26.07"]}, None),
    ],
    ids=["variable-of-triton", "label-of-triton", "its-own-word", "the-right-one"],
)
def test_an_image_of_ones_own_is_asked_which_release_it_has(
    repository_dir: Path, stand_in: StandIn, config: dict[str, Any], found: str | None
) -> None:
    (stand_in.dir / "images").write_text(f"{OWN_IMAGE}\n")
    (stand_in.dir / "image-configs.json").write_text(json.dumps({OWN_IMAGE: config}))

    code, stderr = serve(repository_dir, "--triton", f"docker:{OWN_IMAGE}")

    assert (found is None) is (len(started(stand_in)) == 1)
    if found is not None:
        assert code == 3
        assert stderr.splitlines()[0].endswith(f", {OWN_IMAGE} has {found}")
    assert "nothing tells" not in stderr


def test_an_image_that_says_nothing_is_a_warning(repository_dir: Path, stand_in: StandIn) -> None:
    (stand_in.dir / "images").write_text(f"{OWN_IMAGE}\n")

    _, stderr = serve(repository_dir, "--triton", f"docker:{OWN_IMAGE}")

    assert stderr.startswith(
        f"warning: cannot tell which TensorRT-LLM is in {OWN_IMAGE}; {repository_dir} is for "
        "1.2.1, and an engine loads only in its own release\n"
    )
    assert len(started(stand_in)) == 1


def test_auto_takes_docker_for_the_backend_that_the_wheel_lacks_and_says_so(
    repository_dir: Path, stand_in: StandIn
) -> None:
    stand_in.has_image()

    _, stderr = serve(repository_dir)

    assert stderr.startswith(
        "Triton comes from docker: model tensorrt_llm needs the tensorrtllm backend, "
        "which no Triton outside a container has on this machine\n"
    )
    assert IMAGE in started(stand_in)[0]


def test_auto_takes_no_docker_for_what_the_wheel_can_serve(
    tmp_path: Path, stand_in: StandIn
) -> None:
    write_config(tmp_path / "mock", "mock", 'backend: "python"', {})

    code, stderr = serve(tmp_path / "mock", "--dry-run")

    assert (code, stderr, stand_in.calls) == (0, "", [])


@pytest.mark.parametrize(
    ("mode", "why", "hint"),
    [
        ("driver", "docker's NVIDIA runtime cannot reach the driver", "nvidia-smi"),
        ("port-taken", "another container or process listens on 127.0.0.1:8000", "docker ps shows"),
        (
            "name-taken",
            "there is already a container forge-serve-coder-",
            "docker rm --force forge-serve-",
        ),
    ],
)
def test_a_container_that_docker_refuses_to_start_is_told_in_dockers_words(
    repository_dir: Path, stand_in: StandIn, mode: str, why: str, hint: str
) -> None:
    stand_in.has_image()
    stand_in.fails(mode)

    code, stderr = serve(repository_dir, "--triton", "docker")

    lines = stderr.splitlines()
    assert code == 7
    assert lines[0].startswith("error: Triton did not start: docker: Error response from daemon: ")
    assert lines[1].startswith(f"  why:  {why}")
    assert lines[2].startswith(f"  try:  {hint}")


def test_the_lifeline_removes_the_containers_of_its_label_and_no_other(stand_in: StandIn) -> None:
    for folder in ("containers", "labels"):
        (stand_in.dir / folder).mkdir()
    for name, stamp in (("mine", "1_1"), ("mine-too", "1_1"), ("other", "1_11")):
        (stand_in.dir / "containers" / name).write_text("999999999")
        (stand_in.dir / "labels" / name).write_text(f"trtllm-forge.stamp={stamp}\n")

    lifeline.remove_leftovers(("container:trtllm-forge.stamp=1_1",))

    assert list(stand_in.containers) == ["other"]


def test_a_container_that_was_in_the_making_is_removed_once_it_is_there(stand_in: StandIn) -> None:
    def make() -> None:
        eventually(lambda: any(call[0] == "ps" for call in stand_in.calls))
        for folder, text in (("containers", "999999999"), ("labels", "trtllm-forge.stamp=1_1")):
            (stand_in.dir / folder).mkdir()
            (stand_in.dir / folder / "late").write_text(text)

    maker = threading.Thread(target=make)
    maker.start()
    lifeline.remove_leftovers(("container:trtllm-forge.stamp=1_1",), is_patient=True)
    maker.join()

    assert [call[0] for call in stand_in.calls].count("rm") == 1
    assert stand_in.containers == {}


def test_the_lifeline_does_without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    left_over = tmp_path / "left-over"
    left_over.touch()

    lifeline.remove_leftovers(("container:trtllm-forge.stamp=1_1", str(left_over)))

    assert not left_over.exists()


def test_a_docker_that_hangs_does_not_hold_the_lifeline_for_ever(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.fails("slow")
    monkeypatch.setattr(lifeline, "_DOCKER_WAIT_S", 0.2)
    started_s = time.monotonic()

    lifeline.remove_leftovers(("container:trtllm-forge.stamp=1_1",), is_patient=True)

    # The stand-in would take a minute to answer once.
    assert time.monotonic() - started_s < 30
