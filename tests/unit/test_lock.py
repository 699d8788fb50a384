from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.small_stage import SmallStage, lock_after, printed
from trtllm_forge import __version__
from trtllm_forge.errors import ConfigError
from trtllm_forge.pipeline.lock import LOCK_NAME, Lock, LockedStage, read_lock
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
        f"error: {path} has schema 2, this forge reads schema 1\n"
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


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"schema": 1}, "KeyError('stages')"),
        (
            {"schema": 1, "stages": []},
            "AttributeError(\"'list' object has no attribute 'items'\")",
        ),
        ({"schema": 1, "stages": {"render": {}}}, "KeyError('key')"),
    ],
    ids=["no-stages", "list", "no-key"],
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
