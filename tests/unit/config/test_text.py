"""The commented forge.yaml, and the list of values with origins."""

from __future__ import annotations

import re
from pathlib import Path

from trtllm_forge.config.keys import config_keys
from trtllm_forge.config.load import load_config, load_flags
from trtllm_forge.config.schema import ForgeConfig
from trtllm_forge.config.text import forge_yaml_text, show_document, show_text


def read_back(text: str) -> ForgeConfig:
    Path("forge.yaml").write_text(text, encoding="utf-8")
    return load_config(flags={}, config_path=None, environment={}).config


def test_starter_sets_only_what_was_given_and_reads_back_equal() -> None:
    given = load_flags({"model": "starcoder", "int4": True, "tp_size": "2", "decoupled": False})
    text = forge_yaml_text(given)

    assert read_back(text) == given.config
    active = [line.strip() for line in text.splitlines() if re.match(r" *\w+: \S", line)]
    assert active == ["model: starcoder", "precision: int4", "tp_size: 2", "decoupled: false"]


def test_starter_with_every_comment_taken_off_still_holds_the_defaults() -> None:
    text = forge_yaml_text(load_flags({}))
    uncommented = re.sub(r"^( *)# (\w+:( \S.*)?)$", r"\1\2", text, flags=re.MULTILINE)

    assert uncommented != text
    assert read_back(uncommented) == ForgeConfig()


def test_starter_names_every_key_with_its_help() -> None:
    text = forge_yaml_text(load_flags({}))

    for key in config_keys():
        assert f"# {key.help}\n" in text
        assert re.search(rf"# {key.name}:", text), key.path


def test_value_that_yaml_would_read_otherwise_survives_the_starter() -> None:
    odd = {"model": "a: b # c", "revision": "0123", "host": "::1", "tokenizer_dir": "yes"}
    given = load_flags(odd)

    assert read_back(forge_yaml_text(given)) == given.config


def test_list_shows_value_and_origin_in_columns() -> None:
    lines = show_text(load_flags({"max_queue_size": "64"})).splitlines()

    assert len(lines) == len(config_keys())
    row = next(line for line in lines if line.startswith("repository.max_queue_size"))
    assert row.split() == ["repository.max_queue_size", "64", "--max-queue-size"]


def test_document_keeps_types_and_origins() -> None:
    document = show_document(load_flags({"http_port": "8000"}))

    values = document["values"]
    assert document["schema"] == 1
    assert isinstance(values, dict)
    assert values["serve.http_port"] == {"value": 8000, "origin": "--http-port"}
    assert values["serve.grpc_port"] == {"value": None, "origin": "default"}
