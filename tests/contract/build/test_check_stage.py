"""The check stage of a build: what it writes, refuses, and depends on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.check_fixtures import (
    append,
    engine_repository,
    parameter,
    replace,
)
from tests.small_stage import RecordingReporter, printed
from trtllm_forge.build.stages.check import CheckStage
from trtllm_forge.errors import ConfigError, RenderError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRE = "preprocessing/config.pbtxt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return engine_repository(tmp_path / "sound")


def test_build_imports_the_rules_only_to_apply_them() -> None:
    code = (
        "import sys, trtllm_forge.build.build; "
        "print(sorted(name for name in sys.modules if name.startswith('trtllm_forge.check.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def run_stage(root: Path, work_dir: Path, **options: Any) -> list[str]:
    work_dir.mkdir(exist_ok=True)
    reporter = RecordingReporter()
    checked = CheckStage(trtllm_version="1.2.1", mount_root="/models", **options)
    checked.run(work_dir, {"render": root}, reporter)
    return reporter.warnings


def refusal(call: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(RenderError) as caught:
        call()
    return printed(caught.value)


def test_stage_writes_the_findings_and_passes_warnings_on(root: Path, tmp_path: Path) -> None:
    parameter("tensorrt_llm", "gpt_model_type", "V1")(root)
    (warning,) = run_stage(root, tmp_path / "work")
    assert warning.endswith("FL318 gpt_model_type is V1: a batch ends before the next begins")
    document = json.loads((tmp_path / "work/findings.json").read_text())
    assert [finding["code"] for finding in document["findings"]] == ["FL318"]
    assert document["repository"] == "."


def test_stage_refuses_an_error_and_lists_it(root: Path, tmp_path: Path) -> None:
    replace(PRE, 'name: "preprocessing"', 'name: "preprocess"')(root)
    append(PRE, "version_policy { specific { versions: [3] } }\n")(root)
    line = len((root / PRE).read_text().splitlines())
    assert refusal(lambda: run_stage(root, tmp_path / "work")) == (
        "error: the rendered repository breaks 2 rules and is not published\n"
        "  why:  preprocessing/config.pbtxt:2: FL112 the model is named preprocess, its folder "
        "preprocessing\n"
        f"        preprocessing/config.pbtxt:{line}: FL120 version 3 is asked for, but there is 1\n"
        "  try:  FORGE_IGNORE=FL112,FL120 forge build ...",
        6,
    )
    assert list((tmp_path / "work").iterdir()) == []
    assert run_stage(root, tmp_path / "work", ignore=("FL112", "FL120")) == []


@pytest.mark.parametrize(
    "changed",
    [
        CheckStage(trtllm_version="1.2.0"),
        CheckStage(trtllm_version="1.2.1", mount_root="/other"),
        CheckStage(trtllm_version="1.2.1", select=("FL1",)),
        CheckStage(trtllm_version="1.2.1", ignore=("FL1",)),
    ],
    ids=["version", "mount", "select", "ignore"],
)
def test_stage_key_changes_with_each_parameter(changed: CheckStage) -> None:
    assert changed.parameters != CheckStage(trtllm_version="1.2.1").parameters


def test_unknown_rule_in_the_configuration_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_stage(root, tmp_path / "work", select=("FX1",))
    assert printed(caught.value) == (
        "error: there is no rule FX1\n"
        "  why:  codes go from FL101 to FL912; FL4 means all that begin with FL4\n"
        "  try:  --select FL101",
        2,
    )
