"""What ``--triton`` says, and the Triton that it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process.recording import RecordingReporter
from tests.rank_repositories import engine_model, twin_model, write_config
from trtllm_forge.cli.console import error_text
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.serving.plan import source as triton_source
from trtllm_forge.serving.plan.source import TritonSource, choose_source, named_triton, read_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("auto", TritonSource(kind="auto")),
        ("wheel", TritonSource(kind="wheel")),
        ("docker", TritonSource(kind="docker")),
        ("docker:r.example:5000/t:1", TritonSource(kind="docker", image="r.example:5000/t:1")),
        ("/opt/t", TritonSource(kind="path", path=Path("/opt/t"))),
        ("./docker", TritonSource(kind="path", path=Path("docker"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_source_is_read(text: str, source: TritonSource) -> None:
    assert read_source(text) == source


def test_a_path_may_begin_with_the_home_folder() -> None:
    assert read_source("~/t").path == Path.home() / "t"


def test_a_name_in_this_folder_is_a_path() -> None:
    Path("tritonserver").touch()

    assert read_source("tritonserver").path == Path("tritonserver")


@pytest.mark.parametrize(
    ("text", "nearest"), [("dokcer", "docker"), ("docker:", "docker"), ("pytriton", "auto")]
)
def test_a_word_that_is_none_is_refused_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_source(text)

    assert error_text(caught.value) == (
        f"error: --triton {text} does not name a Triton\n"
        "  why:  expected: auto, wheel, docker, docker:IMAGE or the path of a tritonserver\n"
        f"  try:  --triton {nearest}"
    )


def machine(monkeypatch: pytest.MonkeyPatch, tools_dir: Path, *, has_docker: bool) -> None:
    tools_dir.mkdir()
    if has_docker:
        (tools_dir / "docker").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tools_dir))


@pytest.mark.parametrize("has_docker", [True, False])
@pytest.mark.parametrize("has_whole", [True, False])
@pytest.mark.parametrize("needs_backend", [True, False])
def test_auto_takes_docker_only_where_nothing_else_has_the_backend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_docker: bool,
    has_whole: bool,
    needs_backend: bool,
) -> None:
    machine(monkeypatch, tmp_path / "bin", has_docker=has_docker)
    monkeypatch.setattr(triton_source, "has_whole_triton", lambda: has_whole)
    root = tmp_path / "coder"
    if needs_backend:
        engine_model(root)
    else:
        write_config(root, "mock", 'backend: "python"', {})
    reporter = RecordingReporter()

    source = choose_source("auto", root, reporter)

    is_docker = has_docker and needs_backend and not has_whole
    assert source.kind == ("docker" if is_docker else "auto")
    assert len(reporter.notes) == is_docker


def test_a_twin_is_never_served_in_docker(tmp_path: Path) -> None:
    twin_model(tmp_path)
    (tmp_path / "tensorrt_llm" / "1" / "engine_worker.py").touch()

    assert choose_source("auto", tmp_path, RecordingReporter()).kind == "auto"
    with pytest.raises(PrerequisiteError, match="is a twin, which cannot be served in a container"):
        choose_source("docker", tmp_path, RecordingReporter())


def test_a_folder_is_taken_with_its_own_backends(tmp_path: Path) -> None:
    executable = tmp_path / "t" / "bin" / "tritonserver"
    executable.parent.mkdir(parents=True)
    executable.touch(mode=0o755)
    (tmp_path / "t" / "backends").mkdir()

    for named in (tmp_path / "t", executable):
        found = named_triton(read_source(str(named)), tmp_path / "cache")
        assert (found.executable, found.origin) == (executable, "path")
        assert found.backend_dir == tmp_path / "t" / "backends"


def test_an_executable_alone_has_the_backends_it_looks_for_itself(tmp_path: Path) -> None:
    (tmp_path / "tritonserver").touch(mode=0o755)

    found = named_triton(read_source(str(tmp_path / "tritonserver")), tmp_path / "cache")

    assert found.backend_dir is None


def test_what_is_not_there_or_not_executable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        named_triton(read_source(str(tmp_path)), tmp_path / "cache")
    assert error_text(caught.value) == (
        f"error: --triton {tmp_path}: there is no {tmp_path}/bin/tritonserver\n"
        "  why:  expected: a tritonserver, or a folder that holds bin/tritonserver"
    )

    path = tmp_path / "tritonserver"
    path.touch(mode=0o644)
    with pytest.raises(PrerequisiteError) as caught:
        named_triton(read_source(str(path)), tmp_path / "cache")
    assert error_text(caught.value) == (
        f"error: --triton {path}: {path} is not executable\n  try:  chmod +x {path}"
    )
