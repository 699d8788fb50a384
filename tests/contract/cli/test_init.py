"""``forge init``: the file it writes, and what it leaves alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from typer.testing import CliRunner

from trtllm_forge.cli.app import app

PATH = Path("forge.yaml")


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def test_init_writes_the_file_and_names_the_next_command() -> None:
    assert run("init starcoder") == (0, "wrote forge.yaml\n", "next: forge config show\n")
    assert "\nmodel: starcoder\n" in PATH.read_text(encoding="utf-8")


def test_init_leaves_no_scratch_file() -> None:
    run("init starcoder")

    assert [path.name for path in Path().iterdir()] == ["forge.yaml"]


def test_init_dry_run_prints_what_it_would_write_and_writes_nothing() -> None:
    code, stdout, _ = run("init sample --int4 --dry-run")

    assert code == 0
    assert "\n  precision: int4\n" in stdout
    assert not PATH.exists()
    run("init sample --int4")
    assert PATH.read_text(encoding="utf-8") == stdout


def test_init_does_not_overwrite() -> None:
    PATH.write_text("model: mine\n", encoding="utf-8")

    assert run("init sample") == (
        2,
        "",
        "error: forge.yaml already exists\n"
        "  why:  it may hold your own values\n"
        "  try:  forge init --force\n",
    )
    assert PATH.read_text(encoding="utf-8") == "model: mine\n"


def test_init_force_overwrites() -> None:
    PATH.write_text("model: mine\n", encoding="utf-8")

    assert run("init sample --force")[0] == 0
    assert "\nmodel: sample\n" in PATH.read_text(encoding="utf-8")


def test_init_refuses_an_unknown_preset_with_the_nearest() -> None:
    code, _, stderr = run("init starcodr")

    assert code == 2
    assert stderr.startswith('error: unknown preset "starcodr"\n')
    assert "starcoder" in stderr.splitlines()[-1]
    assert not PATH.exists()


def test_init_in_a_folder_that_cannot_be_written_is_a_config_error() -> None:
    PATH.mkdir()

    code, _, stderr = run("init sample --force")

    assert code == 2
    assert stderr == "error: forge.yaml cannot be written\n  why:  is a directory\n"
    assert [path.name for path in Path().iterdir()] == ["forge.yaml"]


def test_init_json_is_one_document() -> None:
    code, stdout, stderr = run("init sample --json")

    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert (document["schema"], document["path"]) == (1, "forge.yaml")
    assert document["text"] == PATH.read_text(encoding="utf-8")


def test_written_file_is_read_back_with_its_lines() -> None:
    run("init starcoder --int4 --tp 2")
    lines = PATH.read_text(encoding="utf-8").splitlines()

    code, stdout, _ = run("config show --json")

    values = json.loads(stdout)["values"]
    assert code == 0
    assert values["build.tp_size"] == {
        "value": 2,
        "origin": f"forge.yaml:{lines.index('  tp_size: 2') + 1}",
    }
    assert {path for path, entry in values.items() if entry["origin"] != "default"} == {
        "model",
        "build.precision",
        "build.tp_size",
    }
