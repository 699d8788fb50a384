"""A stage's command, run as a real child."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.recording import RecordingReporter
from trtllm_forge.errors import BuildError
from trtllm_forge.pipeline.command import run_command
from trtllm_forge.pipeline.stage import Command

if TYPE_CHECKING:
    from pathlib import Path


def test_child_has_forges_environment_but_for_the_token_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KEPT"):
        monkeypatch.setenv(name, "hf_s3cret")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    reporter = RecordingReporter()

    run_command(
        Command(argv=(sys.executable, "-c", code), env={"ADDED": "1"}),
        source="compile",
        error=BuildError,
        log_path=tmp_path / "compile.log",
        reporter=reporter,
    )

    ((_, line),) = reporter.lines
    environment = json.loads(line)
    assert (environment["KEPT"], environment["ADDED"]) == ("hf_s3cret", "1")
    assert [name for name in environment if name.startswith("H") and "TOKEN" in name] == []


def test_child_that_finds_the_disk_full_ends_as_a_full_disk(tmp_path: Path) -> None:
    code = "open('/dev/full', 'wb', buffering=0).write(b'x')"
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_command(
            Command(argv=(sys.executable, "-c", code)),
            source="compile",
            error=BuildError,
            log_path=tmp_path / "compile.log",
            reporter=RecordingReporter(),
        )
    assert caught.value.errno == errno.ENOSPC
