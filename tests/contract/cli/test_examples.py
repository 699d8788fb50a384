"""The examples in the help of the commands that need no server: each runs as it is typed."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trtllm_forge.cli.app import app
from trtllm_forge.runtimes.openvino import OpenVinoRuntime

NEED_A_SERVER = (
    *("forge serve", "forge status", "forge logs", "forge stop"),
    *("forge probe", "forge complete", "forge load", "forge unload", "forge reload"),
)
# Their own tests run theirs.
NEED_A_REPOSITORY = (
    "forge check",
    "forge package",
    "forge unpack",
    "forge sbom",
    "forge migrate",
    "forge verify",
)


def examples() -> list[str]:
    found: list[str] = []

    def collect(group: Any) -> None:
        for command in group.commands.values():
            if hasattr(command, "commands"):
                collect(command)
            else:
                found.extend(command.epilog.splitlines())

    collect(typer.main.get_command(app))
    left_out = NEED_A_SERVER + NEED_A_REPOSITORY
    return [example for example in found if not example.startswith(left_out)]


@pytest.mark.parametrize("example", examples())
def test_example_runs(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only plans are made here, and those need no extra.
    monkeypatch.setattr(OpenVinoRuntime, "require_machine", lambda _: None)

    result = CliRunner().invoke(app, shlex.split(example)[1:], prog_name="forge")

    assert result.exit_code == 0, result.stderr
    assert result.stdout
