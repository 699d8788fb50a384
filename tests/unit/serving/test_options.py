"""What ``forge serve`` is asked for: each option described once, and carried whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.serving import options_for
from trtllm_forge.cli.app import app
from trtllm_forge.config.keys import config_keys
from trtllm_forge.config.load import load_config
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.options import without_verify
from trtllm_forge.serving.server.detach import read_request, request_text

if TYPE_CHECKING:
    from trtllm_forge.config.key import ConfigKey

SERVE_KEYS = [key for key in config_keys() if key.section == "serve"]


@pytest.fixture(scope="module")
def help_text() -> str:
    return " ".join(CliRunner().invoke(app, ["serve", "--help"]).stdout.split())


@pytest.mark.parametrize("key", SERVE_KEYS, ids=lambda key: key.name)
def test_every_key_is_an_option_with_the_same_help(key: ConfigKey, help_text: str) -> None:
    assert f"{key.flag} " in help_text or f"{key.flag} / " in help_text
    assert key.help in help_text


def test_highest_source_wins(tmp_path: Path) -> None:
    path = tmp_path / "forge.yaml"
    path.write_text("serve:\n  max_restarts: 2\n  restart: on-failure\n  world_size: 2\n")

    section = load_config(
        flags={"max_restarts": "4"}, config_path=path, environment={"max_restarts": "3"}
    ).config.serve

    assert (section.max_restarts, section.restart, section.world_size) == (4, "on-failure", 2)


def test_restarts_count_only_where_the_server_is_restarted() -> None:
    assert options_for(Path("/srv/coder"), max_restarts=3).max_restarts == 0
    assert options_for(Path("/srv/coder"), max_restarts=3, restart="on-failure").max_restarts == 3


def test_no_verify_is_the_value_off() -> None:
    assert without_verify({"restart": "never"}) == {"restart": "never", "verify": "off"}


def test_no_verify_conflicts_with_verify() -> None:
    with pytest.raises(ConfigError, match="--verify full and --no-verify conflict"):
        without_verify({"verify": "full"})


def test_a_supervisor_reads_the_request_that_was_written() -> None:
    options = options_for(Path("/srv/coder"), hostfile="hosts", gpus="0,1", drain_timeout_s=0.5)

    assert read_request(request_text(options, read_settings())) == (options, read_settings())


def test_serving_loads_no_yaml_and_no_schema_library() -> None:
    code = (
        "import sys, trtllm_forge.cli.serve, trtllm_forge.serving.server.serve\n"
        "import trtllm_forge.config.load\n"
        "print(sorted({'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
