"""``forge plan``: the plan of ``forge build``, word for word."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trtllm_forge.cli.app import app
from trtllm_forge.cli.lazy import load_command
from trtllm_forge.machine.gpu import GpuReport


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the plans be those of a machine without a GPU, whatever this one has."""
    monkeypatch.setattr("trtllm_forge.machine.survey.probe_gpus", lambda: GpuReport(gpus=()))


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    "rest",
    [
        "sample --int4",
        "sample --runtime trtllm --tp 2 --gpu h100-80g",
        "sample --runtime trtllm --fp8 --trtllm-version 0.20.0 --gpu l40s --json",
        "sample --runtime openvino --output somewhere --force render --json",
    ],
)
def test_plan_prints_what_a_dry_run_of_build_prints(rest: str) -> None:
    assert run(f"plan {rest}") == run(f"build {rest} --dry-run")


def test_plan_makes_nothing(isolated_home: Path) -> None:
    code, _, _ = run("plan sample --int4 --yes")

    assert code == 0
    assert list(Path().iterdir()) == []
    stages = ("download", "compile", "render")
    assert [path for path in isolated_home.rglob("*") if path.name in stages] == []


def test_plan_refuses_what_build_refuses() -> None:
    code, stdout, stderr = run("plan sample --runtime openvino --tp 2 --json")

    assert (code, stderr) == (2, run("build sample --runtime openvino --tp 2 --json")[2])
    assert json.loads(stdout)["error"]["what"] == (
        "runtime openvino has world size 1, 2 was requested"
    )


def test_plan_takes_every_option_of_build() -> None:
    group: Any = typer.main.get_command(app)
    words = [
        [word for param in load_command(group.commands[name]).params for word in param.opts]
        for name in ("plan", "build")
    ]

    assert words[0] == words[1]
