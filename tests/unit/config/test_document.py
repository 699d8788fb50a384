"""forge.yaml as a file: what is no YAML, what is given twice, what is empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtllm_forge.config.document import read_document
from trtllm_forge.config.load import load_config
from trtllm_forge.errors import ConfigError, ForgeError

PATH = Path("forge.yaml")


def refused(content: bytes) -> ConfigError:
    PATH.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(flags={}, config_path=None, environment={})
    return caught.value


@pytest.mark.parametrize("text", ["", "# nothing\n", "build:\n", "build:\nserve:\n  # port\n"])
def test_file_without_values_is_all_defaults(text: str) -> None:
    PATH.write_text(text, encoding="utf-8")

    assert read_document(PATH).values == {}


def test_key_given_twice_is_refused_with_both_lines() -> None:
    error = refused(b"build:\n  tp_size: 1\n  tp_size: 2\n")

    assert error.what == "build.tp_size is given twice, first on line 2"
    assert error.why == "forge.yaml:3"
    assert error.hint == "remove line 2 or line 3 of forge.yaml"


def test_section_given_twice_is_refused() -> None:
    assert refused(b"build: {}\nbuild: {}\n").what == "build is given twice, first on line 1"


def test_section_with_a_value_is_refused() -> None:
    error = refused(b"build: int4\n")

    assert error.what == "build is a section: it needs keys, not a value"
    assert error.why == "forge.yaml:1"


def test_list_instead_of_keys_is_refused() -> None:
    assert refused(b"- model\n").what == "forge.yaml has no keys"


def test_broken_yaml_is_refused_with_line_and_column() -> None:
    error = refused(b"model: sample\nbuild: [1\n")

    assert error.what.startswith("forge.yaml is not YAML: ")
    assert error.why == "forge.yaml:3, column 1"


def test_text_in_another_encoding_is_refused_with_the_byte() -> None:
    error = refused("model: modèle\n".encode("latin-1"))

    assert error.what == "forge.yaml is not UTF-8 text: byte 10 is 0xe8"


def test_folder_in_place_of_the_file_is_refused() -> None:
    PATH.mkdir()
    with pytest.raises(ConfigError) as caught:
        read_document(PATH)

    assert caught.value.what == "forge.yaml cannot be read"
    assert caught.value.why == "is a directory"


@pytest.mark.parametrize(
    "content",
    [
        b"model: !!python/object/apply:os.system ['touch hacked']\n",
        b"build: {tp_size: !!python/name:os.system }\n",
    ],
)
def test_python_tags_run_nothing(content: bytes) -> None:
    refused(content)

    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"model: a\n---\nmodel: b\n",
        b"model: &a [*a]\n",
        b"build: {tp_size: &a [*a]}\n",
        b"? [a, b]\n: 1\n",
        b"<<: {model: x}\n",
        b"model: \x00\n",
        b"[" * 1500,
    ],
    ids=["two-documents", "cycle", "cycle-in-int", "list-as-key", "merge", "control", "deep"],
)
def test_odd_yaml_is_a_config_error_and_no_crash(content: bytes) -> None:
    refused(content)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(alphabet="model: build\n\t-[]{}&*!|>'\"%@`#,?1.x\u00e9", max_size=40))
def test_any_text_loads_or_is_a_forge_error(text: str) -> None:
    PATH.write_text(text, encoding="utf-8", newline="")
    assert loading_ends_with() in (0, 2)


def loading_ends_with() -> int:
    try:
        load_config(flags={}, config_path=None, environment={})
    except ForgeError as error:
        return error.exit_code
    return 0
