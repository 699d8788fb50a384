from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.template_modules import template_module
from tests.tokenizer_builder import BYTE_LEVEL, END, trained_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

model_folder = template_module("model_folder")


def folder(root: Path, **parameters: str) -> Any:
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    args = {
        "model_config": json.dumps(config),
        "model_repository": str(root / "preprocessing"),
    }
    return model_folder.ModelFolder(args)


def test_relative_path_is_taken_from_the_model_repository(tmp_path: Path) -> None:
    found = folder(tmp_path, tokenizer_dir="preprocessing/1/tokenizer")
    assert found.path("tokenizer_dir") == tmp_path / "preprocessing/1/tokenizer"


def test_absolute_path_stays_as_it_is(tmp_path: Path) -> None:
    found = folder(tmp_path, tokenizer_dir=str(tmp_path / "elsewhere"))
    assert found.path("tokenizer_dir") == tmp_path / "elsewhere"


@pytest.mark.parametrize("parameters", [{}, {"key": ""}, {"key": "${key}"}])
def test_unset_empty_and_unfilled_values_are_the_default(
    tmp_path: Path, parameters: dict[str, str]
) -> None:
    found = folder(tmp_path, **parameters)
    assert found.text("key", "default") == "default"
    assert found.flag("key", default=True) is True
    assert found.flag("key", default=False) is False
    assert found.integer("key", 3) == 3
    assert found.path("key") is None


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("True", True), ("1", True), ("no", False), ("FALSE", False), ("0", False)],
)
def test_yes_and_no_are_read_in_every_spelling(tmp_path: Path, word: str, value: bool) -> None:
    assert folder(tmp_path, key=word).flag("key", default=not value) is value


def test_model_without_parameters_has_defaults(tmp_path: Path) -> None:
    args = {"model_config": "{}", "model_repository": str(tmp_path / "m")}
    assert model_folder.ModelFolder(args).text("key") == ""


def test_limits_are_those_of_the_engine_and_empty_without_one(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/engine.json").write_text('{"max_input_len": 5}')
    assert folder(tmp_path, gpt_model_path="engine").engine_limits() == {"max_input_len": 5}
    assert folder(tmp_path, gpt_model_path="absent").engine_limits() == {}
    assert folder(tmp_path).engine_limits() == {}


def tokenizer_files(root: Path, **files: object) -> Path:
    trained_tokenizer(BYTE_LEVEL).save(str(root / "tokenizer.json"))
    for name, document in files.items():
        (root / f"{name}.json").write_text(json.dumps(document))
    return root


END_TOKEN_ID = 0


@pytest.mark.parametrize(
    ("files", "end_id", "pad_id"),
    [
        ({}, -1, -1),
        ({"tokenizer_config": {"eos_token": END}}, END_TOKEN_ID, END_TOKEN_ID),
        ({"tokenizer_config": {"eos_token": {"content": END}}}, END_TOKEN_ID, END_TOKEN_ID),
        ({"special_tokens_map": {"eos_token": END}}, END_TOKEN_ID, END_TOKEN_ID),
        ({"tokenizer_config": {"eos_token": END, "pad_token": "!"}}, END_TOKEN_ID, 1),
        ({"tokenizer_config": {"eos_token": "absent"}}, -1, -1),
        ({"tokenizer_config": {"eos_token": None}}, -1, -1),
    ],
    ids=["none", "text", "object", "map", "pad", "not-in-vocabulary", "null"],
)
def test_end_and_pad_ids_come_from_the_tokenizers_files(
    tmp_path: Path, files: dict[str, object], end_id: int, pad_id: int
) -> None:
    loaded = model_folder.load_tokenizer(tokenizer_files(tmp_path, **files))
    assert (loaded.end_id, loaded.pad_id) == (end_id, pad_id)


def test_saved_truncation_and_padding_do_not_touch_prompts(tmp_path: Path) -> None:
    tokenizer = type(trained_tokenizer(BYTE_LEVEL)).from_str(trained_tokenizer(BYTE_LEVEL).to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = model_folder.load_tokenizer(tmp_path)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("The quick brown").ids) == (
        "The quick brown"
    )
