from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts import render_examples as script
from scripts.render_examples import (
    EXAMPLES,
    EXAMPLES_DIR,
    is_complete,
    keep_configs,
    render_example,
)
from tests.rendering import tree
from trtllm_forge.triton.repository.names import MODELS
from trtllm_forge.triton.repository.repository import (
    parse_model_config,
    read_model_configs,
    verify_repository,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_what_is_rendered_now(tmp_path: Path, name: str) -> None:
    render_example(name, tmp_path / name)
    if not is_complete(name):
        keep_configs(tmp_path / name)
    assert tree(EXAMPLES_DIR / name) == tree(tmp_path / name)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if is_complete(name)])
def test_example_is_a_sound_repository_without_an_engine(name: str) -> None:
    folder = EXAMPLES_DIR / name
    verify_repository(folder)
    assert "tensorrt_llm" in read_model_configs(folder)
    assert not (folder / "tensorrt_llm/1/engine").exists()


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not is_complete(name)])
def test_example_of_an_older_release_is_its_configurations(name: str) -> None:
    names = [path.relative_to(EXAMPLES_DIR / name).as_posix() for path in files_of(name)]
    assert sorted(names) == sorted(f"{model}/config.pbtxt" for model in MODELS)
    assert [parse_model_config(path).name for path in files_of(name)] == [
        path.parent.name for path in files_of(name)
    ]


def files_of(name: str) -> list[Path]:
    return [path for path in (EXAMPLES_DIR / name).rglob("*") if path.is_file()]


def test_there_are_no_other_examples() -> None:
    assert {path.name for path in EXAMPLES_DIR.iterdir()} == set(EXAMPLES)


def test_script_writes_what_is_missing_and_names_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "llama-llmapi-1.2"
    monkeypatch.setattr(script, "EXAMPLES", {name: EXAMPLES[name]})
    monkeypatch.setattr(script, "EXAMPLES_DIR", tmp_path / "examples")
    assert script.main([]) == 0
    files = sorted(tree(EXAMPLES_DIR / name))
    assert capsys.readouterr().out.splitlines() == [
        f"wrote model_repos/examples/{name}/{file}" for file in files
    ]
    assert script.main(["--check"]) == 0
    (tmp_path / "examples" / name / "tensorrt_llm/config.pbtxt").write_text("")
    assert script.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        f"model_repos/examples/{name}/tensorrt_llm/config.pbtxt is not what render writes: "
        "python scripts/render_examples.py\n"
    )
