"""``--triton``: the wheel although another is on PATH, and one that is named by its path."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.triton.mock_repository import build_mock_repository
from tests.triton.test_launch import forge_serve
from trtllm_forge.config.settings import read_settings
from trtllm_forge.triton.client.http import TritonHttp
from trtllm_forge.triton.launch.locate import locate_wheel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.triton


def text_of(document: dict[str, object]) -> str:
    answer = TritonHttp(str(document["http"])).generate(
        "ensemble", {"text_input": "hello", "max_tokens": 3}
    )
    return answer.text


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_the_wheel_is_taken_although_another_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_executable(tmp_path / "bin" / "tritonserver", "#!/bin/sh\necho not this one\nexit 3\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    repository_dir = build_mock_repository(tmp_path / "mock")
    with forge_serve(repository_dir, "--triton", "wheel") as (_, document):
        assert text_of(document) == "hellofgh"
    with forge_serve(repository_dir) as (_, document):
        error = document["error"]
    assert isinstance(error, dict)
    assert error["why"] == "its last lines: not this one"


@pytest.mark.parametrize("named", ["t", "t/bin/tritonserver"], ids=["folder", "executable"])
def test_a_triton_that_is_named_serves_with_its_own_backends(tmp_path: Path, named: str) -> None:
    wheel = locate_wheel(read_settings().cache_dir)
    assert wheel.backend_dir is not None
    exports = "".join(f"export {name}={shlex.quote(v)}\n" for name, v in wheel.env.items())
    script = f'#!/bin/sh\n{exports}exec {shlex.quote(str(wheel.executable))} "$@"\n'
    write_executable(tmp_path / "t" / "bin" / "tritonserver", script)
    (tmp_path / "t" / "backends").symlink_to(wheel.backend_dir)

    repository_dir = build_mock_repository(tmp_path / "mock")
    with forge_serve(repository_dir, "--triton", str(tmp_path / named)) as (_, document):
        assert text_of(document) == "hellofgh"
