"""The files around the code: the workflow, the forms, the hooks and the metadata agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trtllm_forge import __version__

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_runs_what_a_change_has_to_pass() -> None:
    job = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["bug", "model", "feature"])
def test_an_issue_form_asks_for_something(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")

    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 1
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_hooks_run_tools_of_the_project() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]

    assert repository["repo"] == "local"
    tools = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/lint-imports"}


def test_the_metadata_names_this_version_and_where_to_go() -> None:
    urls = PROJECT.partition("[project.urls]\n")[2].partition("\n\n")[0]

    assert f'\nversion = "{__version__}"\n' in PROJECT
    assert re.findall(r'^(\w+) = "https://', urls, re.MULTILINE) == [
        *("Repository", "Documentation", "Changelog", "Issues"),
    ]
