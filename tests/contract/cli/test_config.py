"""``forge config show``: values with origins, and mistakes as printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from trtllm_forge.cli.app import app
from trtllm_forge.config.schema import Precision


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def test_show_names_flag_variable_file_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("forge.yaml").write_text("build:\n  max_seq_len: 512\n", encoding="utf-8")
    monkeypatch.setenv("FORGE_TP_SIZE", "2")

    code, stdout, stderr = run("config show sample --int4 --json")

    assert (code, stderr) == (0, "")
    values = json.loads(stdout)["values"]
    assert values["model"] == {"value": "sample", "origin": "MODEL"}
    assert values["build.precision"] == {"value": "int4", "origin": "--int4"}
    assert values["build.tp_size"] == {"value": 2, "origin": "FORGE_TP_SIZE"}
    assert values["build.max_seq_len"] == {"value": 512, "origin": "forge.yaml:2"}
    assert values["build.pp_size"] == {"value": 1, "origin": "default"}


def test_show_prints_one_line_per_key() -> None:
    code, stdout, _ = run("config show starcoder")

    assert code == 0
    rows = [line.split() for line in stdout.splitlines()]
    assert rows[0] == ["model", "starcoder", "MODEL"]
    assert ["build.max_seq_len", "unset", "default"] in rows


def test_show_reads_the_named_file() -> None:
    Path("ci.yaml").write_text("model: sample\n", encoding="utf-8")

    _, stdout, _ = run("config show --config ci.yaml")

    assert stdout.splitlines()[0].split() == ["model", "sample", "ci.yaml:1"]


def test_no_forms_of_flags_are_shown_as_typed() -> None:
    _, stdout, _ = run("config show --no-decoupled --json")

    entry = json.loads(stdout)["values"]["repository.decoupled"]
    assert entry == {"value": False, "origin": "--no-decoupled"}


def test_mistakes_are_printed_together() -> None:
    Path("forge.yaml").write_text(
        "model: starcoder\nbuild:\n  max_batchsize: 64\n  tp_size: 0\n", encoding="utf-8"
    )

    assert run("config show --int4 --int8") == (
        2,
        "",
        "error: the configuration has 3 mistakes\n"
        "  why:  forge.yaml:3: build.max_batchsize is not a key, the nearest is "
        "build.max_batch_size\n"
        "        the command line: a build has one precision, but --int8 and --int4 were given\n"
        "        forge.yaml:4: build.tp_size is 0, wanted: whole number of at least 1\n"
        "  try:  write max_batch_size instead of max_batchsize in forge.yaml:3\n"
        "        keep --int8\n"
        "        write tp_size: 1 in forge.yaml:4\n",
    )


def test_one_mistake_is_printed_as_the_error_itself() -> None:
    assert run("config show --max-batch-size many") == (
        2,
        "",
        "error: build.max_batch_size is many, wanted: whole number 1 to 2048\n"
        "  why:  --max-batch-size\n"
        "  try:  --max-batch-size 64\n",
    )


@pytest.mark.parametrize("word", get_args(Precision))
def test_every_precision_has_its_flag(word: str) -> None:
    code, stdout, _ = run(f"config show --{word.replace('_', '-')} --json")

    assert code == 0
    assert json.loads(stdout)["values"]["build.precision"]["value"] == word


def test_absent_config_file_is_refused() -> None:
    assert run("config show --config ci.yaml") == (
        2,
        "",
        "error: there is no configuration file ci.yaml\n"
        "  why:  given with --config\n"
        "  try:  forge init\n",
    )
