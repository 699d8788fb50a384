"""``forge migrate`` as it is typed."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scripts.render_examples import EXAMPLES_DIR
from tests.rendering import tree
from tests.upstream_repository import write_upstream
from trtllm_forge.cli.app import app
from trtllm_forge.triton.repository.repository import verify_repository


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def repository() -> Path:
    return write_upstream(Path("model_repos/llama"))


def test_examples_run() -> None:
    group = typer.main.get_command(app)
    for example in group.commands["migrate"].epilog.splitlines():  # type: ignore[attr-defined]
        code, stdout, stderr = run(example)
        assert (code, bool(stdout)) == (0, True), stderr
    verify_repository(Path("model_repos/llama-llmapi"))


def test_report_is_the_result_and_the_next_step_stands_beside_it() -> None:
    code, stdout, stderr = run("forge migrate model_repos/llama --to 1.2.1 --output new")

    assert code == 0
    lines = stdout.splitlines()
    assert lines[:4] == [
        "model_repos/llama: TensorRT-LLM 0.16.0, by its engine",
        "new: TensorRT-LLM 1.2.1",
        "",
        "carried over",
    ]
    assert lines[-5:] == [
        "to do",
        "  forge build MODEL --runtime trtllm --trtllm-version 1.2.1 --int4-awq --tp 2 "
        "--max-batch-size 16 --max-num-tokens 4096 --max-seq-len 2048 --output new-built",
        "  cp -r new-built/tensorrt_llm/1/engine new/tensorrt_llm/1/engine",
        "  mount new/tensorrt_llm/1/engine at /repo/tensorrt_llm/1, the value of gpt_model_path",
        "  forge serve new",
    ]
    assert stderr == f"next: {lines[-4].strip()}\n"


def test_build_command_of_the_report_is_one_that_build_takes() -> None:
    _, stdout, _ = run("forge migrate model_repos/llama --to 1.2.1 --output new --json")
    command = json.loads(stdout)["next_steps"][0].replace("MODEL", "llama-3.1-8b")
    code, _, stderr = run(f"{command} --gpu h100-80g --executor docker --dry-run")
    assert "has no option" not in stderr
    assert (code, "is not a valid" in stderr) == (0, False), stderr


def test_json_document_has_its_keys() -> None:
    code, stdout, stderr = run("forge migrate model_repos/llama --to llmapi --output new --json")

    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert {key: document[key] for key in ("schema", "repository", "source", "target")} == {
        "schema": 1,
        "repository": "new",
        "source": {
            "repository": "model_repos/llama",
            "trtllm_version": "0.16.0",
            "origin": "by its engine",
        },
        "target": {"layout": "llmapi", "trtllm_version": "1.2.1"},
    }
    assert document["model"] is None
    assert document["architecture"] == "LlamaForCausalLM"
    assert document["settings"][0] == {
        "model": "postprocessing",
        "name": "tokenizer_dir",
        "value": "/data/llama-hf",
        "fate": "dropped",
        "to": "",
        "reason": "the LLM API has one tokenizer for both directions",
    }
    assert {
        "model": "ensemble",
        "kind": "input",
        "name": "random_seed",
        "fate": "renamed",
        "to": "sampling_param_seed",
        "note": "",
    } in document["tensors"]
    assert document["next_steps"] == [
        "hf download REPO_ID --local-dir new/tensorrt_llm/1/checkpoint",
        "forge serve new",
    ]


def test_dry_run_reports_and_writes_nothing(repository: Path) -> None:
    before = tree(repository.parent)
    code, stdout, stderr = run("forge migrate model_repos/llama --to llmapi --dry-run")
    assert (code, stderr) == (0, "")
    assert stdout.startswith("model_repos/llama: TensorRT-LLM 0.16.0, by its engine\n")
    assert tree(repository.parent) == before
    assert [path.name for path in Path().iterdir()] == ["model_repos"]


def test_starcoder_is_refused_with_its_last_release() -> None:
    shutil.copytree(EXAMPLES_DIR / "sample-trtllm-1.2", "starcoder")
    code, stdout, stderr = run("forge migrate starcoder --to llmapi --model sample")
    assert (code, stdout) == (2, "")
    assert stderr == (
        "error: the LLM API does not support GPTBigCodeForCausalLM\n"
        "  why:  no release of TensorRT-LLM has a class for it in its PyTorch backend; 1.2.1 is "
        "the last that can build an engine for it\n"
        "  try:  forge migrate starcoder --to 1.2.1\n"
    )


def test_target_has_to_be_named() -> None:
    code, _, stderr = run("forge migrate model_repos/llama")
    assert (code, stderr) == (
        2,
        "error: forge migrate needs --to TARGET\n  try:  forge migrate --help\n",
    )
