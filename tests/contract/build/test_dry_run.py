"""``forge build DIR --dry-run`` needs ``config.json`` alone: no weights, tokenizer or GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trtllm_forge.cli.app import app

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "eos_token_id": 128001,
    "tie_word_embeddings": False,
}
MAMBA = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "vocab_size": 50280,
    "eos_token_id": 0,
}
# Of Llama 3 8B, as its own index says.
TOTAL_BYTES = 16_060_522_496
INDEX = {
    "metadata": {"total_size": TOTAL_BYTES},
    "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"},
}


@pytest.fixture
def llama() -> str:
    return folder("llama", LLAMA)


def folder(name: str, config: dict[str, Any], *, index: bool = False) -> str:
    Path(name).mkdir()
    Path(name, "config.json").write_text(json.dumps(config), encoding="utf-8")
    if index:
        path = Path(name, "model.safetensors.index.json")
        path.write_text(json.dumps(INDEX), encoding="utf-8")
    return f"./{name}"


def plan(model: str, *flags: str, runtime: str = "trtllm") -> dict[str, Any]:
    command = ["build", model, "--runtime", runtime, "--dry-run", "--json", *flags]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("index", [True, False], ids=["with-index", "config-alone"])
@pytest.mark.parametrize("runtime", ["trtllm", "llmapi"])
def test_configuration_alone_is_enough_for_a_plan_with_estimates(runtime: str, index: bool) -> None:
    document = plan(folder("llama", LLAMA, index=index), runtime=runtime)
    made = {"trtllm": ["convert", "compile"], "llmapi": []}
    assert [stage["name"] for stage in document["stages"] if stage["commands"]] == made[runtime]
    estimates = document["estimates"]
    assert estimates["checkpoint_bytes"] == pytest.approx(TOTAL_BYTES, rel=0.01)
    # Keys and values of 8 heads of 128 elements in 32 layers, two bytes each.
    assert estimates["kv_bytes_per_token_per_rank"] == [2 * 8 * 128 * 32 * 2]
    assert estimates["weight_bytes_per_rank"] == [pytest.approx(TOTAL_BYTES, rel=0.01)]
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "llama"]


def test_named_gpu_shows_how_many_tokens_and_sequences_fit(llama: str) -> None:
    estimates = plan(llama, "--gpu", "h100-80g")["estimates"]
    assert estimates["gpu"]["name"] == "NVIDIA H100 SXM5 80GB"
    assert estimates["concurrent_sequences"] == estimates["kv_cache_tokens"] // 8192
    # 80 GiB less 15 GiB of weights, at most 128 KiB a token.
    assert 300_000 < estimates["kv_cache_tokens"] < (80 - 15) * 2**30 // 2**17
    assert estimates["recommendation"] is None


def test_fraction_of_the_kv_cache_changes_how_many_tokens_fit(llama: str) -> None:
    full, half = (
        plan(llama, "--gpu", "h100-80g", "--kv-cache-free-gpu-mem-fraction", fraction)
        for fraction in ("0.8", "0.4")
    )
    tokens = [document["estimates"]["kv_cache_tokens"] for document in (full, half)]
    assert tokens[1] == pytest.approx(tokens[0] / 2, rel=0.01)


def test_plan_that_cannot_fit_says_what_would(llama: str) -> None:
    estimates = plan(llama, "--gpu", "t4")["estimates"]
    assert estimates["concurrent_sequences"] == 0
    recommendation = estimates["recommendation"]
    assert "Tesla T4" in recommendation["reason"]
    options = [change["option"] for change in recommendation["changes"]]
    assert "tp_size" in options
    assert all(change["concurrent_sequences"] > 0 for change in recommendation["changes"])


def test_recommended_size_fits_when_it_is_asked_for(llama: str) -> None:
    changes = plan(llama, "--gpu", "t4")["estimates"]["recommendation"]["changes"]
    (size,) = (change["to"] for change in changes if change["option"] == "tp_size")
    estimates = plan(llama, "--gpu", "t4", "--tp", str(size))["estimates"]
    assert estimates["recommendation"] is None
    assert estimates["concurrent_sequences"] > 0


@pytest.mark.parametrize("flags", [(), ("--int8", "--gpu", "h100-80g")], ids=["plain", "int8-gpu"])
def test_model_without_attention_is_planned_without_estimates(flags: tuple[str, ...]) -> None:
    document = plan(folder("mamba", MAMBA), *flags)
    assert document["estimates"] is None
    assert document["notes"] == [
        "no estimates: config.json has no num_attention_heads, so nothing can be estimated"
    ]
    started = [stage["name"] for stage in document["stages"] if stage["commands"]]
    assert started == ["convert", "compile"]


def test_commands_of_the_plan_name_no_folder_but_the_stores_and_the_checkpoint(llama: str) -> None:
    document = plan(llama, "--executor", "docker")
    convert, compile_engine = (
        stage["commands"][0]["inner_argv"] for stage in document["stages"][1:3]
    )
    assert convert[:2] == ["python3", "/app/examples/models/core/llama/convert_checkpoint.py"]
    assert compile_engine[0] == "trtllm-build"
    made = [word for word in (*convert[2:], *compile_engine[1:]) if word.startswith("/")]
    assert made
    assert all("/convert/" in w or "/compile/" in w or "/download/" in w for w in made)
