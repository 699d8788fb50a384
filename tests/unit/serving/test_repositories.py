"""Which repository ``forge serve`` means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.process.fake_triton import build_repository
from tests.process.recording import RecordingReporter
from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.repositories import find_repository, is_repository


def built(folder: Path, *, at: float) -> Path:
    build_repository(folder)
    (folder / "forge.lock").write_text("{}")
    os.utime(folder / "forge.lock", (at, at))
    return folder


def refusal(name: str | None, model_repos_dir: Path) -> tuple[str, str, str]:
    with pytest.raises(ConfigError) as caught:
        find_repository(name, model_repos_dir, RecordingReporter())
    return caught.value.what, caught.value.why, caught.value.hint


def test_the_only_repository_is_taken_and_named(tmp_path: Path) -> None:
    only = built(tmp_path / "sample", at=1)
    (tmp_path / "notes").mkdir()
    reporter = RecordingReporter()

    assert find_repository(None, tmp_path, reporter) == only
    assert reporter.notes == [f"serving sample, the only in {tmp_path}"]


def test_of_several_the_last_built_is_taken_and_named(tmp_path: Path) -> None:
    newest = built(tmp_path / "alpha", at=2_000)
    built(tmp_path / "sample", at=1_000)
    reporter = RecordingReporter()

    assert find_repository(None, tmp_path, reporter) == newest
    assert reporter.notes == [f"serving alpha, the last built of 2 in {tmp_path}"]


def test_none_built_is_told_with_the_command_that_builds(tmp_path: Path) -> None:
    what, _, hint = refusal(None, tmp_path / "model_repos")

    assert what == f"no model repository has been built in {tmp_path / 'model_repos'}"
    assert hint == "forge build sample --int4"


def test_a_name_and_a_path_both_find_a_repository(tmp_path: Path) -> None:
    folder = built(tmp_path / "model_repos" / "sample", at=1)
    reporter = RecordingReporter()

    assert find_repository("sample", tmp_path / "model_repos", reporter) == folder
    assert find_repository(str(folder), Path("/nowhere"), reporter) == folder
    assert reporter.notes == []


def test_what_a_killed_build_left_is_no_repository(tmp_path: Path) -> None:
    sample = built(tmp_path / "sample", at=1_000)
    left = built(tmp_path / ".sample.4711.staged", at=2_000)

    assert find_repository(None, tmp_path, RecordingReporter()) == sample
    assert not is_repository(left)
    assert "holds sample" in refusal("other", tmp_path)[1]
    for name in (left.name, str(left)):
        assert refusal(name, tmp_path) == (
            f"{left} is not a model repository",
            "a build that was killed left it behind",
            "",
        )


def test_a_bare_name_means_what_was_built_and_a_path_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = built(tmp_path / "model_repos" / "sample", at=1)
    (tmp_path / "sample").mkdir()
    (tmp_path / "notes").mkdir()
    other = build_repository(tmp_path / "twin")
    twin = built(tmp_path / "model_repos" / "twin", at=1)
    monkeypatch.chdir(tmp_path)
    repos_dir, reporter = Path("model_repos"), RecordingReporter()

    assert find_repository("sample", repos_dir, reporter) == sample
    assert find_repository("twin", repos_dir, reporter) == twin
    assert find_repository("./twin", repos_dir, reporter) == other
    assert refusal("notes", repos_dir)[0] == "notes is not a model repository"


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    built(tmp_path / "sample", at=1)

    assert refusal("smaple", tmp_path) == (
        "no model repository smaple",
        f"there is no such folder, and {tmp_path} holds sample",
        "forge serve sample",
    )
    assert refusal("model_repos/smaple", tmp_path)[2] == "forge serve sample"
    assert refusal("model_repos/other", tmp_path)[2] == ""


def test_a_folder_without_models_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    what, why, _ = refusal("empty", tmp_path)

    assert what == f"{tmp_path / 'empty'} is not a model repository"
    assert why == "it holds no model: it has no */config.pbtxt"
