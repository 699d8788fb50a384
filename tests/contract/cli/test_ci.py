"""``forge ci``: the files it writes, what it refuses, and the page it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from trtllm_forge.cli.app import app

PATHS = {"github": Path(".github/workflows/forge.yml"), "gitlab": Path(".gitlab-ci.yml")}
SYSTEMS = tuple(PATHS)


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("system", SYSTEMS)
def test_workflow_is_written_where_the_system_looks(system: str) -> None:
    run("init sample")
    path = PATHS[system]

    assert run(f"ci {system}") == (0, f"wrote {path}\n", f"next: git add forge.yaml {path}\n")
    assert yaml.safe_load(path.read_text("utf-8"))
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(f".{path.name}.")] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_dry_run_prints_the_file_and_writes_nothing(system: str) -> None:
    code, stdout, stderr = run(f"ci {system} sample --dry-run")

    assert (code, stderr) == (0, "")
    assert not PATHS[system].exists()
    run(f"ci {system} sample")
    assert PATHS[system].read_text("utf-8") == stdout


def test_next_command_adds_what_is_there() -> None:
    Path("forge.lock").touch()

    assert run("ci github sample")[2] == "next: git add forge.lock .github/workflows/forge.yml\n"


def test_json_holds_path_and_text() -> None:
    code, stdout, stderr = run("ci github sample --output a/b.yml --json")

    assert (code, stderr) == (0, "")
    text = Path("a/b.yml").read_text("utf-8")
    assert json.loads(stdout) == {"schema": 1, "path": "a/b.yml", "text": text}


def test_gpu_job_is_there_when_asked_for() -> None:
    plain = yaml.safe_load(run("ci github sample --dry-run")[1])
    with_gpu = yaml.safe_load(run("ci github sample --gpu --dry-run")[1])

    assert (list(plain["jobs"]), list(with_gpu["jobs"])) == (["twin"], ["twin", "gpu"])


def test_existing_file_is_not_replaced() -> None:
    path = PATHS["gitlab"]
    path.write_text("mine\n")

    assert run("ci gitlab sample --gpu") == (
        2,
        "",
        "error: .gitlab-ci.yml already exists\n"
        "  why:  it may hold your own changes\n"
        "  try:  forge ci gitlab sample --gpu --output .gitlab-ci.yml --force\n",
    )
    assert path.read_text() == "mine\n"
    assert run("ci gitlab sample --gpu --output .gitlab-ci.yml --force")[0] == 0
    assert path.read_text("utf-8").startswith("# Written by forge ")


def test_without_a_configuration_the_next_command_is_named() -> None:
    assert run("ci github") == (
        2,
        "",
        "error: there is no forge.yaml here, and no MODEL was given\n"
        "  why:  the workflow builds the model in forge.yaml or MODEL\n"
        "  try:  forge init sample\n",
    )


def test_configuration_without_a_model_is_told() -> None:
    Path("forge.yaml").write_text("name: mine\n")

    assert run("ci gitlab") == (
        2,
        "",
        "error: forge.yaml names no model\n  try:  forge ci gitlab sample\n",
    )


def test_option_the_twin_cannot_have_is_told() -> None:
    Path("forge.yaml").write_text("model: sample\nbuild:\n  kv_cache: fp8\n")

    assert run("ci github") == (
        2,
        "",
        "error: the twin does not support build.kv_cache, which is fp8\n"
        "  why:  only TensorRT-LLM has it (forge.yaml:3), and the workflow builds the twin first\n"
        "  try:  take kv_cache out of forge.yaml, and set FORGE_KV_CACHE on the GPU runner\n",
    )


def test_file_that_cannot_be_written_is_told() -> None:
    Path(".github").write_text("")

    assert run("ci github sample") == (
        2,
        "",
        "error: .github/workflows/forge.yml cannot be written\n"
        "  why:  .github/workflows: not a directory\n",
    )


def test_summary_prints_markdown_or_one_document() -> None:
    probes = [{"name": "live", "ok": True, "seconds": 0.5, "detail": "up"}]
    Path("probe.json").write_text(json.dumps({"schema": 1, "probes": probes}))
    page = (
        "### ✅ Probe: 1 of 1 ok\n"
        "\n"
        "|  | Probe | Time | What was found |\n"
        "|---|---|---|---|\n"
        "| ✅ | `live` | 0.50 s | `up` |\n"
    )

    assert run("ci summary probe.json") == (0, page, "")
    code, stdout, stderr = run("ci summary probe.json --json")
    assert (code, json.loads(stdout), stderr) == (0, {"schema": 1, "markdown": page}, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "it is a list, not an object"),
        ("{", "it is not JSON: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)"),
        ('{"schema": 1}', "it has none of the keys error, stages, findings, probes, bench"),
        ('{"probes": [1]}', "forge does not write such a value under probes"),
        ('{"error": null}', "forge does not write such a value under error"),
    ],
    ids=["list", "cut", "unknown", "other probes", "other error"],
)  # fmt: skip
def test_unknown_document_is_refused_by_name(text: str, why: str) -> None:
    Path("x y.json").write_text(text)

    assert run("ci summary 'x y.json'") == (
        2,
        "",
        f"error: x y.json is not a document that forge can summarize\n  why:  {why}\n",
    )


def test_document_that_cannot_be_read_is_told() -> None:
    Path("folder").mkdir()

    assert run("ci summary folder") == (
        2,
        "",
        "error: folder cannot be read\n  why:  is a directory\n",
    )


def test_document_that_is_no_text_is_told() -> None:
    Path("x.json").write_bytes(b"\xff")

    assert run("ci summary x.json") == (
        2,
        "",
        "error: x.json is not a document that forge can summarize\n  why:  it is not UTF-8 text\n",
    )
