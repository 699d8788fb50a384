from __future__ import annotations

import pytest

from tests.small_stage import printed
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.releases.flags import CommandLine, Flag, FlagTable, find_flags


def table(**changes: object) -> FlagTable:
    flags = {
        "--dtype": Flag(name="--dtype", choices=("float16", "bfloat16")),
        "--model_dir": Flag(name="--model_dir", choices=()),
        "--strict": Flag(name="--strict", choices=()),
    }
    fields = {"path": "", "note": "", "evidence": "nearest", "source": "a/b@1:c.py", **changes}
    return FlagTable(title="tool.py of TensorRT-LLM 1.0", flags=flags, **fields)  # type: ignore[arg-type]


def test_command_line_holds_what_the_tool_has() -> None:
    line = CommandLine(table=table())
    line.option("--model_dir", "in dir")
    line.option("--dtype", "bfloat16")
    line.switch("--strict")
    assert line.argv == ["--model_dir", "in dir", "--dtype", "bfloat16", "--strict"]


def test_option_the_tool_lacks_is_refused_with_the_source() -> None:
    with pytest.raises(ConfigError) as caught:
        CommandLine(table=table()).option("--workers", 2)
    assert printed(caught.value) == (
        "error: tool.py of TensorRT-LLM 1.0 has no option --workers\n  why:  nearest: a/b@1:c.py",
        2,
    )


def test_value_the_tool_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError) as caught:
        CommandLine(table=table()).option("--dtype", "float8")
    assert printed(caught.value) == (
        "error: tool.py of TensorRT-LLM 1.0 does not accept --dtype float8\n"
        "  why:  it accepts float16, bfloat16",
        2,
    )


def test_optional_option_is_left_out_where_the_tool_lacks_it_or_the_value() -> None:
    line = CommandLine(table=table())
    line.option_if_known("--workers", 2)
    line.option_if_known("--dtype", "float8")
    line.option_if_known("--dtype", "float16")
    assert line.argv == ["--dtype", "float16"]


@pytest.mark.parametrize(
    ("flag", "value", "has"),
    [
        ("--dtype", None, True),
        ("--dtype", "float16", True),
        ("--dtype", "float8", False),
        ("--model_dir", "anything", True),
        ("--absent", None, False),
    ],
)
def test_table_says_what_the_tool_takes(flag: str, value: str | None, has: bool) -> None:
    assert table().has(flag, value) is has


def test_every_spelling_of_an_option_finds_it() -> None:
    found = find_flags("trtllm_build", read_catalogue().find("1.2.1"))
    assert found is not None
    assert found.flags["--max_decoder_seq_len"] is found.flags["--max_seq_len"]


def test_tables_of_a_release_are_its_own_lines() -> None:
    old, new = (
        find_flags("convert_checkpoint", read_catalogue().find(version), family="llama")
        for version in ("0.16.0", "1.2.1")
    )
    assert old is not None
    assert new is not None
    assert old.path == "examples/llama/convert_checkpoint.py"
    assert new.path == "examples/models/core/llama/convert_checkpoint.py"
    assert new.title == "llama/convert_checkpoint.py of TensorRT-LLM 1.2.1"


def test_release_without_the_engine_flow_has_no_tools() -> None:
    assert find_flags("trtllm_build", read_catalogue().find("1.3.0rc0")) is None


def test_family_without_a_converter_has_no_table() -> None:
    release = read_catalogue().find("1.2.1")
    assert find_flags("convert_checkpoint", release, family="rwkv") is None
