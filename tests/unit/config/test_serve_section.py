"""What ``forge serve`` is told, with and without the schema of ``forge.yaml``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.cli.serve_section import serve_section
from trtllm_forge.config.schema import ForgeConfig, ServeSection
from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.options import ServeOptions

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = {**dict.fromkeys(ServeSection.model_fields), "world_size": None, "oversubscribe": False}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_options_have_the_defaults_of_the_schema() -> None:
    defaults = {field.name: field.default for field in fields(ServeOptions)}
    wanted = {**ServeSection().model_dump(), "releases_file": ForgeConfig().releases_file}
    assert {name: defaults[name] for name in wanted} == wanted


def test_where_nothing_is_said_there_is_nothing_to_check() -> None:
    assert serve_section(NOTHING, None, no_verify=False) == {}


@pytest.mark.parametrize("drain_timeout_s", [0, 5])
def test_what_is_typed_is_taken(drain_timeout_s: int) -> None:
    typed = {**NOTHING, "drain_timeout_s": drain_timeout_s}
    assert serve_section(typed, None, no_verify=False)["drain_timeout_s"] == drain_timeout_s


def test_what_is_typed_is_checked() -> None:
    with pytest.raises(ConfigError, match="restart"):
        serve_section({**NOTHING, "restart": "sometimes"}, None, no_verify=False)


def test_the_file_is_read(empty_folder: Path) -> None:
    (empty_folder / "forge.yaml").write_text("serve:\n  max_restarts: 2\n")
    assert serve_section(NOTHING, None, no_verify=False)["max_restarts"] == 2


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_MAX_RESTARTS", "3")
    assert serve_section(NOTHING, None, no_verify=False)["max_restarts"] == 3


def test_no_verify_is_taken() -> None:
    assert serve_section(NOTHING, None, no_verify=True)["verify"] == "off"


def test_serving_does_not_load_the_schema() -> None:
    code = (
        "import sys, trtllm_forge.cli.serve_section, trtllm_forge.serving.server.serve\n"
        "print(sorted({'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
