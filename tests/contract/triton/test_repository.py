from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.checkpoint_builder import write_files
from tests.small_stage import printed
from trtllm_forge.errors import RenderError
from trtllm_forge.triton.repository.repository import (
    parse_model_config,
    read_model_configs,
    verify_repository,
)

if TYPE_CHECKING:
    from pathlib import Path

CORE = """name: "core" backend: "python"
input [ { name: "A" data_type: TYPE_INT32 dims: [1] },
        { name: "B" data_type: TYPE_INT32 dims: [1] optional: true } ]
output [ { name: "C" data_type: TYPE_INT32 dims: [1] } ]
"""
ENSEMBLE = """name: "all" platform: "ensemble"
ensemble_scheduling { step [ { model_name: "core" model_version: -1
  input_map { key: "A" value: "x" } output_map { key: "C" value: "y" } } ] }
"""


def repository(root: Path, **files: str) -> Path:
    """Write a sound repository, with ``files`` (``__`` is a slash) in place of its own."""
    whole = {
        "core/config.pbtxt": CORE,
        "core/1/model.py": "x = 1\n",
        "all/config.pbtxt": ENSEMBLE,
        "all/1/.keep": "",
        **{name.replace("__", "/").replace("_pbtxt", ".pbtxt"): files[name] for name in files},
    }
    return write_files(root, {name: text.encode() for name, text in whole.items()})


def refusal(root: Path) -> tuple[str, int]:
    with pytest.raises(RenderError) as caught:
        verify_repository(root)
    return printed(caught.value)


def test_sound_repository_is_accepted(tmp_path: Path) -> None:
    root = repository(tmp_path)

    verify_repository(root)

    assert set(read_model_configs(root)) == {"core", "all"}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            {"core__config_pbtxt": CORE.replace('"core"', '"kernel"')},
            "error: {root}/core/config.pbtxt names the model 'kernel'\n"
            "  why:  its folder is named 'core'",
        ),
        (
            {"other__config_pbtxt": 'name: "other"'},
            "error: model other has no version folder 1",
        ),
        (
            {"all__config_pbtxt": ENSEMBLE.replace('"core"', '"kernel"')},
            "error: ensemble all names model kernel, which is not there\n"
            "  why:  the repository has all, core",
        ),
        (
            {"all__config_pbtxt": ENSEMBLE.replace('key: "C"', 'key: "D"')},
            "error: ensemble all maps output D of core\n  why:  core has no output of that name",
        ),
        (
            {"all__config_pbtxt": ENSEMBLE.replace('key: "A"', 'key: "B"')},
            "error: ensemble all leaves input A of core unmapped\n  why:  core requires it",
        ),
        (
            {"core__config_pbtxt": CORE + "max_batch_size: ${triton_max_batch_size}\n"},
            "error: {root}/core/config.pbtxt:5 still holds a template marker\n"
            "  why:  max_batch_size: ${triton_max_batch_size}",
        ),
        (
            {"core__config_pbtxt": CORE + "max_batch_sise: 4\n"},
            "error: {root}/core/config.pbtxt is not a Triton ModelConfig\n"
            '  why:  5:1 : Message type "inference.ModelConfig" has no field named '
            '"max_batch_sise".',
        ),
    ],
    ids=[
        "name",
        "version-folder",
        "unknown-model",
        "unknown-output",
        "unmapped-input",
        "marker",
        "unknown-field",
    ],
)
def test_unsound_repository_is_refused_by_what_is_wrong(
    tmp_path: Path, files: dict[str, str], text: str
) -> None:
    root = repository(tmp_path, **files)
    assert refusal(root) == (text.replace("{root}", str(root)), 6)


def test_python_file_that_does_not_compile_is_named_with_its_line(tmp_path: Path) -> None:
    root = repository(tmp_path)
    path = root / "core/1/model.py"
    path.write_text("x = 1\ndef f(:\n")
    text, code = refusal(root)
    assert text.startswith(f"error: {path}:2 is not valid Python\n  why:  ")
    assert code == 6


def test_configuration_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"config.pbtxt": b'name: "\xff"'}) / "config.pbtxt"
    with pytest.raises(RenderError) as caught:
        parse_model_config(path)
    assert printed(caught.value) == (
        f"error: {path} is not UTF-8\n"
        "  why:  'utf-8' codec can't decode byte 0xff in position 7: invalid start byte",
        6,
    )
