"""``forge build`` and ``forge render`` up to where a child process would start."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.small_stage import SmallStage
from trtllm_forge.cli.app import app
from trtllm_forge.runtimes.openvino import OpenVinoRuntime


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans be made where the cpu extra is not installed."""
    monkeypatch.setattr(OpenVinoRuntime, "require_machine", lambda _: None)


@pytest.mark.usefixtures("any_machine")
def test_dry_run_prints_the_plan_and_makes_nothing(isolated_home: Path) -> None:
    code, stdout, _ = run("build sample --int4 --dry-run")

    assert code == 0
    assert [line.split()[:2] for line in stdout.splitlines() if line.startswith("c")] == [
        ["compile", "run"],
        ["check", "run"],
    ]
    assert "optimum-cli export openvino" in stdout
    assert list(Path().iterdir()) == []
    stages = ("download", "compile", "render", "check")
    assert [path for path in isolated_home.rglob("*") if path.name in stages] == []


@pytest.mark.usefixtures("any_machine")
def test_dry_run_json_has_the_keys_of_the_contract() -> None:
    code, stdout, _ = run("build sample --int4 --dry-run --json")

    assert code == 0
    document = json.loads(stdout)
    assert document["schema"] == 1
    assert document["model"]["repo_id"] == "sample"
    assert set(document["model"]) == {"repo_id", "revision", "architecture", "family"}
    assert document["runtime"] == "openvino"
    assert document["parallel"] == {"tp_size": 1, "pp_size": 1, "world_size": 1}
    names = [stage["name"] for stage in document["stages"]]
    assert names == ["download", "compile", "render", "check"]
    for stage in document["stages"]:
        assert stage["run"] is True
        assert {"name", "run", "reasons", "key", "commands", "outputs"} <= set(stage)
        for command in stage["commands"]:
            assert {"argv", "inner_argv", "env", "cwd"} == set(command)


@pytest.mark.usefixtures("any_machine")
def test_model_may_stand_in_the_file() -> None:
    Path("forge.yaml").write_text("model: sample\nname: mine\n", encoding="utf-8")

    code, stdout, _ = run("build --dry-run --json")

    assert code == 0
    assert json.loads(stdout)["repository"] == "model_repos/mine"


@pytest.mark.usefixtures("any_machine")
def test_build_without_a_model_says_where_to_name_one() -> None:
    code, _, stderr = run("build -q --runtime openvino")

    assert code == 2
    assert stderr == (
        "error: no model was given\n"
        "  why:  neither as an argument nor as `model` in forge.yaml\n"
        "  try:  forge build sample --int4\n"
    )


@pytest.mark.usefixtures("any_machine")
def test_force_takes_only_stages_of_the_build() -> None:
    code, _, stderr = run("build sample -q --force comple")

    assert code == 2
    assert stderr.startswith("error: this build has no stage comple\n")


@pytest.mark.usefixtures("any_machine")
def test_rule_that_is_none_is_refused_before_anything_runs() -> None:
    Path("forge.yaml").write_text("check:\n  ignore: FX9\n", encoding="utf-8")

    code, _, stderr = run("build sample -q")

    assert (code, stderr) == (
        2,
        "error: there is no rule FX9\n"
        "  why:  codes go from FL101 to FL912; FL4 means all that begin with FL4\n"
        "  try:  --ignore FL101\n",
    )
    assert not list(Path().rglob("entry.json"))


@pytest.mark.usefixtures("any_machine")
def test_render_over_the_llm_api_needs_no_weights() -> None:
    config = {
        **json.loads(checkpoint_files()["config.json"]),
        "architectures": ["LlamaForCausalLM"],
    }
    config["model_type"] = "llama"
    files = {**checkpoint_files(), "config.json": json.dumps(config).encode()}
    write_files(Path("coder"), files)

    code, stdout, stderr = run("render ./coder --runtime llmapi --output rendered")

    assert (code, stdout) == (0, "rendered: rendered\n"), stderr
    assert run("check rendered -q")[0] == 0


def test_render_writes_the_repository_and_names_it() -> None:
    code, stdout, stderr = run("render sample --runtime openvino --output rendered")

    assert code == 0
    assert stdout == "rendered: rendered\n"
    assert stderr.endswith("next: forge check rendered\n")
    assert Path("rendered/ensemble/config.pbtxt").is_file()


def test_next_steps_work_as_typed_for_a_folder_with_a_space(
    monkeypatch: pytest.MonkeyPatch, any_machine: None
) -> None:
    engine = SmallStage(files={"engine.json": b"{}", "tokenizer.json": b"{}"})
    monkeypatch.setattr(OpenVinoRuntime, "stages", lambda *_: [engine])
    write_files(Path("my coder"), checkpoint_files())

    _, _, of_build = run("build './my coder' --runtime openvino")
    _, _, of_render = run("render './my coder' --runtime trtllm --output 'my trees'")

    assert of_build.endswith("next: forge serve 'my coder'\n")
    assert of_render.endswith("next: forge check 'my trees'\n")


def test_second_render_has_nothing_to_do() -> None:
    run("render sample --runtime trtllm --output rendered")

    code, stdout, stderr = run("render sample --runtime trtllm --output rendered")

    assert (code, stdout) == (0, "nothing to do: rendered\n")
    assert "render    fresh     key " in stderr


def test_option_reaches_the_repository() -> None:
    run("render sample --runtime trtllm --output out --max-queue-size 7 --no-decoupled")

    text = Path("out/tensorrt_llm/config.pbtxt").read_text(encoding="utf-8")
    assert "max_queue_size: 7" in text
    assert "decoupled: false" in text


def test_render_json_is_one_document() -> None:
    code, stdout, _ = run("render sample --runtime trtllm --output out --json")

    assert code == 0
    document = json.loads(stdout)
    assert document["repository"] == "out"
    assert document["skipped"] is False
