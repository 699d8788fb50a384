"""``forge check --explain``: what a rule means, in full."""

from __future__ import annotations

import json
import shlex

import pytest
from typer.testing import CliRunner

from trtllm_forge.check.explanation import read_explanation
from trtllm_forge.cli.app import app


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("code", ["FL502", "fl502", "kv-shared"])
def test_a_rule_is_explained_by_code_or_name(code: str) -> None:
    exit_code, stdout, stderr = run(f"check --explain {code}")

    assert (exit_code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0] == "FL502 kv-shared (error)"
    assert [line.partition(":")[0] for line in lines if ": " in line] == [
        "why",
        "fix",
        *["see"] * 2,
    ]
    assert lines[-1].startswith("see: https://github.com/triton-inference-server/")


def test_the_document_holds_the_same() -> None:
    _, text, _ = run("check --explain FL101")
    exit_code, stdout, _ = run("check --explain FL101 --json")

    document = json.loads(stdout)
    assert exit_code == 0
    assert (document["code"], document["name"], document["severity"]) == (
        *("FL101", "config-parses", "error"),
    )
    for part in ("sentence", "why", "fix", *document["upstream"]):
        assert document.get(part, part) in text


@pytest.mark.parametrize(
    ("code", "near"), [("kv-share", "FL502"), ("FL999", "FL101"), ("config-parse", "FL101")]
)
def test_an_unknown_rule_is_refused_with_the_nearest(code: str, near: str) -> None:
    exit_code, stdout, stderr = run(f"check --explain {code}")

    assert (exit_code, stdout) == (2, "")
    assert stderr.splitlines()[0] == f"error: there is no rule {code}"
    assert stderr.splitlines()[-1] == f"  try:  forge check --explain {near}"


def test_a_folder_is_needed_to_check() -> None:
    assert run("check") == (2, "", "error: forge check needs DIR\n  try:  forge check --help\n")


def test_a_docstring_is_taken_apart() -> None:
    said = read_explanation(
        """The sum is at most 1.

        More of it,
        in two lines.

        Why: The second model
            gets nothing.
        Fix: Give each a part.
        Upstream: https://a/1, https://b/2
        """
    )

    assert said.sentence == "The sum is at most 1."
    assert said.details == "More of it, in two lines."
    assert (said.why, said.fix) == ("The second model gets nothing.", "Give each a part.")
    assert said.upstream == ("https://a/1", "https://b/2")
