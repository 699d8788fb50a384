"""Precedence, origins, and mistakes told together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.config.load import load_config
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.config.load import LoadedConfig


def load(
    text: str | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedConfig:
    if text is not None:
        Path("forge.yaml").write_text(text, encoding="utf-8")
    return load_config(flags=flags or {}, config_path=None, environment=environment or {})


def mistakes(
    text: str | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, flags=flags, environment=environment)
    return caught.value


def test_without_anything_every_value_is_a_default() -> None:
    loaded = load()

    assert loaded.config.build.max_batch_size == 64
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("flags", "environment", "text", "value", "origin"),
    [
        ({"max_batch_size": "8"}, {"max_batch_size": "4"}, "2", 8, "--max-batch-size"),
        ({}, {"max_batch_size": "4"}, "2", 4, "FORGE_MAX_BATCH_SIZE"),
        ({}, {"max_batch_size": ""}, "2", 2, "forge.yaml:2"),
        ({"max_batch_size": None}, {}, "2", 2, "forge.yaml:2"),
    ],
    ids=["flag-wins", "variable-over-file", "empty-variable-is-absent", "absent-flag"],
)
def test_highest_source_wins_and_is_named(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    text: str,
    value: int,
    origin: str,
) -> None:
    loaded = load(f"build:\n  max_batch_size: {text}\n", flags=flags, environment=environment)

    assert loaded.config.build.max_batch_size == value
    assert loaded.origins["build.max_batch_size"] == origin


def test_switched_off_flag_wins_over_the_file_and_is_named_as_typed() -> None:
    loaded = load("repository: {decoupled: true}\n", flags={"decoupled": False})

    assert loaded.config.repository.decoupled is False
    assert loaded.origins["repository.decoupled"] == "--no-decoupled"


@pytest.mark.parametrize("word", ["true", "1", "yes", "on"])
def test_variable_takes_the_usual_words_for_true(word: str) -> None:
    assert load(environment={"fast_math": word}).config.repository.fast_math is True


def test_precision_is_a_flag_of_its_own_name() -> None:
    loaded = load("build: {precision: int8}\n", flags={"int4": True})

    assert loaded.config.build.precision == "int4"
    assert loaded.origins["build.precision"] == "--int4"


def test_two_precisions_are_refused_by_name() -> None:
    error = mistakes(flags={"int4": True, "int8": True})

    assert error.what == "a build has one precision, but --int8 and --int4 were given"
    assert error.why == "the command line"


def test_mistyped_key_is_told_with_the_nearest_and_its_line() -> None:
    error = mistakes("model: sample\nbuild:\n  max_batchsize: 4\n")

    assert error.what == "build.max_batchsize is not a key, the nearest is build.max_batch_size"
    assert error.why == "forge.yaml:3"
    assert error.hint == "write max_batch_size instead of max_batchsize in forge.yaml:3"


def test_key_in_the_wrong_section_is_sent_to_the_right_one() -> None:
    error = mistakes("max_batch_size: 4\n")

    assert error.what == "max_batch_size is not a key"
    assert error.hint == "move max_batch_size below build"


def test_all_mistakes_of_all_sources_come_in_one_error() -> None:
    error = mistakes(
        "build:\n  max_batch_size: 5000\nfoo: 1\n",
        flags={"tp_size": "none"},
        environment={"int4_ratio": "2"},
    )

    assert error.what == "the configuration has 4 mistakes"
    assert error.why.splitlines() == [
        "forge.yaml:3: foo is not a key",
        "FORGE_INT4_RATIO: build.int4_ratio is 2, wanted: number 0 to 1",
        "--tp: build.tp_size is none, wanted: whole number of at least 1",
        "forge.yaml:2: build.max_batch_size is 5000, wanted: whole number 1 to 2048",
    ]
    assert error.hint.splitlines() == [
        "FORGE_INT4_RATIO=1",
        "--tp 1",
        "write max_batch_size: 2048 in forge.yaml:2",
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("tp_size: true", "build.tp_size is true, wanted: whole number of at least 1"),
        ("tp_size: 1.5", "build.tp_size is 1.5, wanted: whole number of at least 1"),
        ("tp_size: [1]", "build.tp_size is [1], wanted: whole number of at least 1"),
        ("tp_size:", "build.tp_size has no value, wanted: whole number of at least 1"),
        ("int4_ratio: .nan", "build.int4_ratio is nan, wanted: number 0 to 1"),
        (
            "precision: int5",
            "build.precision is int5, wanted: one of fp16, bf16, int8, int4, "
            "int4_awq, int4_gptq, w4a8_awq, int8_sq, fp8, nvfp4",
        ),
    ],
)
def test_wrong_value_is_told_with_what_was_wanted(line: str, what: str) -> None:
    error = mistakes(f"build:\n  {line}\n")

    assert error.what == what
    assert error.why == "forge.yaml:2"


@pytest.mark.parametrize("text", ["1.10", "1.2.1", "'1.10'"])
def test_release_is_taken_as_it_is_written(text: str) -> None:
    assert load(f"trtllm_version: {text}\n").config.trtllm_version == text.strip("'")


@pytest.mark.parametrize("revision", ["0123456", "1e10", "yes", "2024-01-01"])
def test_revision_that_looks_like_another_type_stays_text(revision: str) -> None:
    loaded = load(f"checkpoint:\n  revision: {revision}\n")

    assert loaded.config.checkpoint.revision == revision


def test_mistyped_variable_is_refused_with_the_nearest() -> None:
    error = mistakes(environment={"max_batchsize": "4"})

    expected = "FORGE_MAX_BATCHSIZE is not an option, the nearest is FORGE_MAX_BATCH_SIZE"
    assert error.what == expected
    assert error.hint == "unset FORGE_MAX_BATCHSIZE"


def test_variable_of_another_program_is_left_alone() -> None:
    assert load(environment={"api_key": "x", "home": "/x"}).config.model is None


def test_rule_over_several_keys_names_where_each_was_set() -> None:
    error = mistakes("serve:\n  http_port: 8000\n", flags={"grpc_port": "8000"})

    assert error.what == "serve: http_port, grpc_port and metrics_port must differ"
    assert error.why == "forge.yaml:2, --grpc-port"


def test_named_file_is_read_instead_and_named_in_origins(tmp_path: Path) -> None:
    Path("forge.yaml").write_text("model: other\n", encoding="utf-8")
    path = tmp_path / "ci.yaml"
    path.write_text("# first\nmodel: sample\n", encoding="utf-8")

    loaded = load_config(flags={}, config_path=path, environment={})

    assert loaded.config.model == "sample"
    assert loaded.origins["model"] == f"{path}:2"


def test_named_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags={}, config_path=Path("ci.yaml"), environment={})

    assert caught.value.what == "there is no configuration file ci.yaml"
