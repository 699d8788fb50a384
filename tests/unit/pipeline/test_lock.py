from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.small_stage import SmallStage, build, lock_after, printed
from trtllm_forge import __version__
from trtllm_forge.build.provenance import is_repeatable
from trtllm_forge.errors import BuildError, ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME, Lock, LockedStage, read_lock
from trtllm_forge.pipeline.locked import HeldLock, find_held_lock
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.store import OutputFile, Store

if TYPE_CHECKING:
    from pathlib import Path

LOCK = Lock(
    stages={
        "render": LockedStage(
            key="ab" * 32, parameters={"name": "größer", "a": None}, tool_versions={}, outputs=()
        ),
        "compile": LockedStage(
            key="cd" * 32,
            parameters={"precision": "int4"},
            tool_versions={"tool": "1.0"},
            outputs=(OutputFile(path="engine.bin", size_bytes=6, sha256="ef" * 32),),
        ),
    }
)
TEXT = f"""\
{{
  "forge_version": "{__version__}",
  "schema": 1,
  "stages": {{
    "compile": {{
      "key": "{"cd" * 32}",
      "outputs": [
        {{
          "path": "engine.bin",
          "sha256": "{"ef" * 32}",
          "size_bytes": 6
        }}
      ],
      "parameters": {{
        "precision": "int4"
      }},
      "tools": {{
        "tool": "1.0"
      }}
    }},
    "render": {{
      "key": "{"ab" * 32}",
      "outputs": [],
      "parameters": {{
        "a": null,
        "name": "größer"
      }},
      "tools": {{}}
    }}
  }}
}}
"""


def test_lock_is_written_with_sorted_keys_and_a_schema() -> None:
    assert LOCK.to_text() == TEXT


def test_lock_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(TEXT, encoding="utf-8")
    assert read_lock(tmp_path) == LOCK


def test_folder_without_a_lock_has_none(tmp_path: Path) -> None:
    assert read_lock(tmp_path) is None
    assert read_lock(tmp_path / "absent") is None


def test_lock_of_a_build_records_what_it_was_made_from(tmp_path: Path) -> None:
    lock = lock_after(Store(tmp_path), SmallStage())
    stage = lock.stages["compile"]
    assert stage.parameters == {"precision": "int4"}
    assert stage.tool_versions == {"tool": "1.0"}
    assert [output.path for output in stage.outputs] == ["engine.bin"]


def test_newer_lock_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(json.dumps({"schema": 2, "stages": {}}))
    with pytest.raises(ConfigError) as caught:
        read_lock(tmp_path)
    assert printed(caught.value) == (
        f"error: {path} has schema 2, but this forge reads schema 1\n"
        f"  why:  forge {__version__} is older than the forge that wrote it\n"
        "  try:  pip install --upgrade trtllm-forge",
        2,
    )


def test_lock_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text("half a l")
    with pytest.raises(ConfigError) as caught:
        read_lock(tmp_path)
    assert printed(caught.value) == (
        f"error: {path} cannot be read\n"
        "  why:  Expecting value: line 1 column 1 (char 0)\n"
        "  try:  --output ANOTHER_FOLDER",
        2,
    )


def stage_document(**stage: object) -> dict[str, object]:
    return {"schema": 1, "stages": {"render": stage}}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"stages": {}}, "it has no schema number"),
        ([], "it has no schema number"),
        ({"schema": "1"}, "it has no schema number"),
        ({"schema": 1}, "KeyError('stages')"),
        (
            {"schema": 1, "stages": []},
            "AttributeError(\"'list' object has no attribute 'items'\")",
        ),
        (stage_document(), "KeyError('outputs')"),
        (stage_document(outputs=[], key=5, tools={}), "TypeError('5 is not a string')"),
        (
            stage_document(outputs=[], key="ab", tools={}, parameters=None),
            "TypeError(\"'NoneType' object is not a mapping\")",
        ),
        (
            stage_document(outputs=[{"path": [], "size_bytes": 1, "sha256": ""}], key="", tools={}),
            "TypeError('[] is not a string')",
        ),
    ],
    ids=[
        "no-schema",
        "no-object",
        "schema-is-text",
        "no-stages",
        "list",
        "no-outputs",
        "key-is-number",
        "no-parameters",
        "path-is-list",
    ],
)
def test_lock_with_a_piece_missing_is_refused_by_name(
    tmp_path: Path, document: object, why: str
) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        read_lock(tmp_path)
    assert printed(caught.value) == (
        f"error: {path} is damaged\n  why:  {why}\n  try:  --output ANOTHER_FOLDER",
        2,
    )


STAGES = (SmallStage(name="download", files={"weights": b"w"}), SmallStage())


def held(tmp_path: Path, *stages: SmallStage) -> HeldLock:
    lock = lock_after(Store(tmp_path / "one"), *stages)
    return HeldLock(path=tmp_path / LOCK_NAME, lock=lock)


def refusal_of_plan(held_lock: HeldLock, tmp_path: Path, *stages: SmallStage) -> tuple[str, int]:
    with pytest.raises(ConfigError) as caught:
        held_lock.require_plan(make_plan(stages, Store(tmp_path / "other")))
    return printed(caught.value)


def test_locked_build_of_the_same_is_accepted_on_another_machine(tmp_path: Path) -> None:
    held_lock = held(tmp_path, *STAGES)
    held_lock.require_plan(make_plan(STAGES, Store(tmp_path / "other")))
    assert held_lock.require_outputs(build(Store(tmp_path / "other"), *STAGES), is_repeatable) == ()


def test_locked_build_names_what_is_different_and_not_what_follows_from_it(tmp_path: Path) -> None:
    held_lock = held(tmp_path, *STAGES, SmallStage(name="render"))
    other = SmallStage(parameters={"precision": "int8"}, tool_versions={"tool": "2.0"})
    assert refusal_of_plan(held_lock, tmp_path, STAGES[0], other, SmallStage(name="render")) == (
        f"error: this build would differ from {held_lock.path}\n"
        "  why:  compile: precision: int4 -> int8\n"
        "        compile: version of tool: 1.0 -> 2.0",
        2,
    )


def test_locked_build_names_stages_that_one_side_lacks(tmp_path: Path) -> None:
    held_lock = held(tmp_path, *STAGES)
    assert refusal_of_plan(held_lock, tmp_path, STAGES[0], SmallStage(name="render")) == (
        f"error: this build would differ from {held_lock.path}\n"
        "  why:  render: this stage is not in the lock\n"
        "        compile: only in the lock",
        2,
    )


def test_locked_build_refuses_keys_made_in_another_way(tmp_path: Path) -> None:
    lock = lock_after(Store(tmp_path / "one"), SmallStage())
    stage = lock.stages["compile"]
    other = LockedStage(
        key="00" * 32,
        parameters=stage.parameters,
        tool_versions=stage.tool_versions,
        outputs=stage.outputs,
    )
    held_lock = HeldLock(path=tmp_path / LOCK_NAME, lock=Lock(stages={"compile": other}))
    assert refusal_of_plan(held_lock, tmp_path, SmallStage()) == (
        f"error: this build would differ from {held_lock.path}\n"
        "  why:  compile: this forge computes keys differently",
        2,
    )


def test_locked_build_that_gives_other_bytes_is_refused_by_file(tmp_path: Path) -> None:
    held_lock = held(tmp_path, SmallStage(files={"a": b"1", "b": b"2"}))
    results = build(Store(tmp_path / "other"), SmallStage(files={"a": b"1", "b": b"3", "c": b""}))
    with pytest.raises(BuildError) as caught:
        held_lock.require_outputs(results, is_repeatable)
    assert printed(caught.value) == (
        f"error: 2 built files do not match {held_lock.path}\n"
        "  why:  compile: b\n"
        "        compile: c",
        5,
    )


def test_locked_build_lets_engines_differ_and_says_which(tmp_path: Path) -> None:
    held_lock = held(tmp_path, SmallStage(files={"rank0.engine": b"1"}))
    results = build(Store(tmp_path / "other"), SmallStage(files={"rank0.engine": b"2"}))
    assert held_lock.require_outputs(results, is_repeatable) == ("compile: rank0.engine",)


def test_named_lock_comes_first_then_the_one_beside_the_config_then_the_repositorys(
    tmp_path: Path,
) -> None:
    config_dir, output_dir, named = tmp_path / "config", tmp_path / "output", tmp_path / "named"
    for folder in (config_dir, output_dir):
        folder.mkdir()
        (folder / LOCK_NAME).write_text(TEXT, encoding="utf-8")
    named.write_text(TEXT, encoding="utf-8")

    def found(lock_path: Path | None) -> Path:
        return find_held_lock(lock_path, config_dir=config_dir, output_dir=output_dir).path

    assert found(named) == named
    assert found(None) == config_dir / LOCK_NAME
    (config_dir / LOCK_NAME).unlink()
    assert found(None) == output_dir / LOCK_NAME


def test_locked_build_without_a_lock_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_held_lock(None, config_dir=tmp_path / "a", output_dir=tmp_path / "b")
    assert printed(caught.value) == (
        f"error: --locked needs a forge.lock, but there is no {tmp_path}/a/forge.lock and no "
        f"{tmp_path}/b/forge.lock\n"
        "  why:  a build writes one into the repository; keep a copy beside forge.yaml",
        2,
    )
