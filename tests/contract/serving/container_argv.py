"""What docker is given to serve a repository, taken apart, without a docker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tests.contract.serving.test_launch_differences import FLAGS, dry_run
from trtllm_forge.cli.app import app
from trtllm_forge.machine import gpu
from trtllm_forge.machine.gpu import Gpu, GpuReport
from trtllm_forge.serving.plan import container_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
IN_DOCKER = ("--triton", f"docker:{IMAGE}")
MIB, GIB = 1 << 20, 1 << 30
H100S = tuple(
    Gpu(
        name="NVIDIA H100",
        memory_bytes=80 * GIB,
        compute_capability="9.0",
        index=index,
        uuid=f"GPU-{index}{index}",
    )
    for index in range(8)
)
# How many words each of docker's options takes, from docker run --help.
ONE_WORD = {"--rm", "--init"}
TWO_WORDS = {
    *("--pull", "--name", "--label", "--gpus", "--shm-size", "--ulimit", "--security-opt"),
    *("--user", "--publish", "--mount", "--workdir", "--env"),
}


@pytest.fixture
def has_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def give(count: int) -> None:
        report = GpuReport(gpus=H100S[:count], reason="" if count else "there is no NVIDIA driver")
        monkeypatch.setattr(container_options, "probe_gpus", lambda: report)
        monkeypatch.setattr(gpu, "probe_gpus", lambda: report)

    give(8)
    return give


def taken_apart(argv: list[str]) -> tuple[dict[str, list[str]], str, list[str]]:
    """Return docker's options, the image, and the command inside."""
    assert argv[:2] == ["docker", "run"]
    options: dict[str, list[str]] = {}
    place = 2
    while argv[place].startswith("-"):
        word = argv[place]
        assert word in ONE_WORD | TWO_WORDS
        options.setdefault(word, [])
        if word in TWO_WORDS:
            place += 1
            options[word].append(argv[place])
        place += 1
    return options, argv[place], argv[place + 1 :]


def served(repository_dir: Path, *flags: str) -> tuple[dict[str, list[str]], list[str]]:
    document = dry_run(repository_dir, (*IN_DOCKER, *flags))
    options, image, inside = taken_apart(document["argv"])
    assert image == IMAGE
    assert document["container"]["inner_argv"] == inside
    return options, inside


def error_of(repository_dir: Path, *flags: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        app, ["serve", str(repository_dir), "--dry-run", "--json", *FLAGS, *flags]
    )
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    return {**error, "exit_code": result.exit_code}
