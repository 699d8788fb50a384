"""Pruning beside builds, and builds that find an entry of 30 GB, as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.build.test_build_interrupted import Build, published
from tests.servers.small_build import files_of
from tests.servers.staged_build import ENGINE
from trtllm_forge.pipeline.inventory import list_entries
from trtllm_forge.pipeline.prune import remove_entries
from trtllm_forge.pipeline.store import Store

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60
GIB = 1 << 30


def run_module(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    ).stdout


@pytest.mark.parametrize("point", ["writing", "renaming-work", "renaming-entry"])
def test_prune_takes_nothing_from_a_build_that_writes(tmp_path: Path, point: str) -> None:
    store = Store(tmp_path / "cache")
    build = Build(tmp_path, "--pause-at", point)
    build.wait_until_at(point)

    pruned = remove_entries(store, list_entries(store, tmp_path / "none"))

    assert pruned.removed == ()
    holder = f"process {build.child.pid} on {os.uname().nodename}"
    assert {why for _, why in pruned.kept} == {f"being written by {holder}"}
    code, _, stderr = build.end()
    assert (code, stderr) == (0, "")
    assert published(tmp_path) == files_of("int4")


def test_killed_builds_leave_a_right_result_and_no_corrupt_entry() -> None:
    output = run_module("scripts/kill_builds.py", "--rounds", "6", "--seed", "5")

    assert len(output.splitlines()) == 7


def build_staged(root: Path) -> dict[str, object]:
    arguments = (str(root / "cache"), str(root / "out" / "coder"))
    output = run_module("-m", "tests.servers.staged_build", *arguments)
    document: dict[str, object] = json.loads(output.splitlines()[-1])
    return document


def test_unchanged_rebuild_reads_nothing_of_an_entry_of_30_gb(tmp_path: Path) -> None:
    build_staged(tmp_path)
    for entry_path in (tmp_path / "cache").glob("*/??/*/entry.json"):
        document = json.loads(entry_path.read_text())
        for output in document["outputs"]:
            if not output["path"].endswith(Path(ENGINE).name):
                continue
            path = entry_path.parent / "files" / output["path"]
            if path.stat().st_size != 30 * GIB:
                path.chmod(0o644)
                os.truncate(path, 30 * GIB)
                path.chmod(0o444)
            output["size_bytes"] = 30 * GIB
            document["mtimes_ns"][output["path"]] = path.stat().st_mtime_ns
        entry_path.write_text(json.dumps(document))

    # The first one publishes what the records now say; nor is it read for that.
    for document in (build_staged(tmp_path), build_staged(tmp_path)):
        assert document["ran"] == []
        assert isinstance(document["read_bytes"], int)
        assert document["read_bytes"] < 1 << 20
    assert (tmp_path / "out" / "coder" / ENGINE).stat().st_size == 30 * GIB
