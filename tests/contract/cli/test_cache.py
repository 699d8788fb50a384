"""``forge cache``: listing, adding up and pruning, as typed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.small_stage import SmallStage, build
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.run import lock_of
from trtllm_forge.pipeline.store import Store
from trtllm_forge.text.quantities import parse_duration, show_duration

DAY_S = 86_400


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def store() -> Store:
    return Store(read_settings().cache_dir)


def add_entry(store: Store, precision: str, *, days: float = 0, name: str = "compile") -> str:
    """Build an entry that was used last so many days ago, and return its key."""
    stage = SmallStage(
        name=name,
        parameters={"precision": precision},
        files={"engine.bin": precision.encode() * 1000},
    )
    entry = build(store, stage)[0].entry
    at = time.time() - days * DAY_S - 5
    os.utime(entry.files_dir.parent, (at, at))
    return entry.key


def publish(store: Store, folder: Path, precision: str) -> None:
    """Put a lock where a repository would be that was built of this precision."""
    stage = SmallStage(parameters={"precision": precision}, files={"engine.bin": b"x"})
    results = build(store, stage)
    folder.mkdir(parents=True)
    (folder / LOCK_NAME).write_text(lock_of(results).to_text())
    at = time.time() - 100 * DAY_S
    os.utime(results[0].entry.files_dir.parent, (at, at))


def keys_left(store: Store) -> set[str]:
    return {path.name for path in store.root.glob("*/??/*")}


def test_empty_store_holds_nothing(store: Store) -> None:
    assert run("cache ls") == (0, f"nothing in {store.root}\n", "")
    assert run("cache prune --yes") == (0, f"nothing to remove in {store.root}\n", "")


def test_entries_are_listed_with_size_ages_and_users(store: Store) -> None:
    old, new = add_entry(store, "int8", days=3), add_entry(store, "int4")
    publish(store, Path("model_repos/coder"), "fp16")

    code, stdout, _ = run("cache ls")

    assert code == 0
    lines = [line.split() for line in stdout.splitlines()]
    assert lines[0] == ["stage", "key", "size", "made", "used", "by"]
    assert [(line[1], line[2:4], line[5], line[6]) for line in lines[1:3]] == [
        (new[:12], ["3.9", "KiB"], "5s", "-"),
        (old[:12], ["3.9", "KiB"], "3d", "-"),
    ]
    assert lines[3][-1] == str(Path("model_repos/coder").resolve())


def test_listing_as_json_has_whole_keys_and_utc_times(store: Store) -> None:
    key = add_entry(store, "int4")

    code, stdout, _ = run("cache ls --stage compile --json")

    document = json.loads(stdout)
    (entry,) = document["entries"]
    assert (code, document["schema"], document["cache"]) == (0, 1, str(store.root))
    assert (entry["stage"], entry["key"], entry["state"]) == ("compile", key, "whole")
    assert (entry["size_bytes"], entry["used_by"]) == (4000, [])
    assert entry["made"].endswith("+00:00")
    assert entry["last_used"] < entry["made"]
    assert json.loads(run("cache ls --stage render --json")[1])["entries"] == []


def test_files_with_several_names_count_once(store: Store) -> None:
    add_entry(store, "int4")
    (path,) = store.root.glob("compile/*/*/files/engine.bin")
    os.link(path, path.with_name("again.bin"))

    document = json.loads(run("cache du --json")[1])

    assert document["stages"] == {
        "compile": path.stat().st_blocks * 512
        + (path.parents[1] / "entry.json").stat().st_blocks * 512
    }
    assert document["total_bytes"] == document["other_bytes"] + document["stages"]["compile"]


def test_sparse_file_counts_what_it_takes(store: Store) -> None:
    add_entry(store, "int4")
    (path,) = store.root.glob("compile/*/*/files/engine.bin")
    os.truncate(path, 30 << 30)

    assert json.loads(run("cache du --json")[1])["total_bytes"] < 1 << 20


def test_prune_leaves_what_a_repository_uses(store: Store) -> None:
    gone = add_entry(store, "int4")
    publish(store, Path("model_repos/coder"), "fp16")

    code, stdout, _ = run("cache prune --yes")

    assert (code, stdout) == (0, "removed 1 entry, 3.9 KiB\n")
    assert len(keys_left(store)) == 1
    assert gone not in keys_left(store)


def test_prune_knows_repositories_that_were_published_elsewhere(
    store: Store, tmp_path: Path
) -> None:
    publish(store, tmp_path / "elsewhere", "fp16")
    store.remember_repository(tmp_path / "elsewhere")

    run("cache prune --yes")
    assert len(keys_left(store)) == 1

    shutil.rmtree(tmp_path / "elsewhere")
    run("cache prune --yes")
    assert keys_left(store) == set()
    assert list((store.root / "repositories").iterdir()) == []


def test_used_entry_goes_when_asked_for(store: Store) -> None:
    publish(store, Path("model_repos/coder"), "fp16")

    assert run("cache prune --including-used --yes")[0] == 0
    assert keys_left(store) == set()


def test_only_what_is_older_goes(store: Store) -> None:
    old, new = add_entry(store, "int8", days=31), add_entry(store, "int4", days=29)

    run("cache prune --older-than 30d --yes")

    assert keys_left(store) == {new} - {old}


def test_those_used_last_are_kept_stage_by_stage(store: Store) -> None:
    compiled = [add_entry(store, name, days=d) for d, name in enumerate(("int4", "int8", "fp16"))]
    rendered = add_entry(store, "int4", days=9, name="render")

    run("cache prune --keep-last 1 --yes")

    assert keys_left(store) == {compiled[0], rendered}


def test_only_the_named_stage_is_pruned(store: Store) -> None:
    add_entry(store, "int4")
    rendered = add_entry(store, "int4", name="render")

    run("cache prune --stage compile --yes")

    assert keys_left(store) == {rendered}


def test_dry_run_lists_and_removes_nothing(store: Store) -> None:
    key = add_entry(store, "int4")

    code, stdout, _ = run("cache prune --dry-run --json")

    document = json.loads(stdout)
    assert (code, document["dry_run"], document["kept"]) == (0, True, [])
    assert [entry["key"] for entry in document["removed"]] == [key]
    assert keys_left(store) == {key}


def test_damaged_entries_and_leftovers_go_whatever_their_age(store: Store) -> None:
    damaged, whole = add_entry(store, "int8"), add_entry(store, "int4")
    (store.entry_dir("compile", damaged) / "entry.json").write_text("{")
    store.work_dir("compile", whole).mkdir()

    states = [e["state"] for e in json.loads(run("cache ls --json")[1])["entries"]]
    run("cache prune --older-than 30d --yes")

    assert sorted(states) == ["damaged", "unfinished", "whole"]
    assert keys_left(store) == {whole}


def test_without_a_yes_nothing_is_removed(store: Store) -> None:
    key = add_entry(store, "int4", days=40)

    assert run("cache prune --older-than 30d --stage compile") == (
        2,
        "",
        "error: nothing was removed: 1 entry, 3.9 KiB, would go\n"
        "  why:  not confirmed; pass --yes\n"
        "  try:  forge cache prune --older-than 30d --stage compile --yes\n",
    )
    assert keys_left(store) == {key}


@pytest.mark.parametrize("command", ["ls", "du", "prune --yes"])
def test_folder_that_is_no_cache_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path))
    own = tmp_path / "compile" / "ab" / ("ab" * 32)
    own.mkdir(parents=True)

    assert run(f"cache {command}") == (
        2,
        "",
        f"error: {tmp_path} is not a forge cache\n"
        "  why:  it has no CACHEDIR.TAG, so nothing in it was touched; FORGE_CACHE_DIR points "
        "to it\n",
    )
    assert own.is_dir()


def test_word_that_is_no_time_is_refused() -> None:
    assert run("cache prune --older-than soon") == (
        2,
        "",
        'error: "soon" is not a duration\n'
        "  why:  write it as 30d, 12h, 45m or 10s\n"
        "  try:  forge cache prune --older-than 30d\n",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("1.5h", 5_400), ("45M", 2_700), (" 10s ", 10)]
)
def test_durations_are_read_in_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1w", "1d2h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (3_600, "1h"), (200_000, "2d")]
)
def test_durations_are_shown_in_the_largest_unit(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
