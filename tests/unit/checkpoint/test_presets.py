from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.contents import parse_checkpoint_config
from trtllm_forge.checkpoint.fim import assemble_fim_prompt
from trtllm_forge.checkpoint.geometry import read_geometry
from trtllm_forge.checkpoint.parameters import count_parameters
from trtllm_forge.checkpoint.presets import (
    ShippedConfig,
    all_presets,
    fim_template_from_tokenizer,
    find_preset,
    nearest_preset,
    resolve_model,
    shipped_config,
)
from trtllm_forge.errors import CheckpointError, ConfigError
from trtllm_forge.files.resources import data_path, sample_checkpoint_dir

if TYPE_CHECKING:
    from pathlib import Path

PROMISED = {
    "starcoder",
    *(f"starcoderbase-{size}" for size in ("1b", "3b", "7b")),
    *(f"starcoder2-{size}" for size in ("3b", "7b", "15b")),
    *(f"codellama-{size}" for size in ("7b", "13b", "34b")),
    *(f"deepseek-coder-{size}" for size in ("1.3b", "6.7b")),
    *(f"qwen2.5-coder-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")),
    *(f"codegemma-{size}" for size in ("2b", "7b")),
    "granite-8b-code",
    "llama-3.1-8b",
    "llama-3.2-1b",
    "mistral-7b",
    "tinyllama-1.1b",
    "gpt2",
}


def test_every_promised_preset_is_there() -> None:
    assert {preset.name for preset in all_presets()} == PROMISED


def test_no_two_presets_share_a_repository() -> None:
    repositories = [preset.repo_id for preset in all_presets()]
    assert len(set(repositories)) == len(repositories)


def test_starcoder_alone_has_its_own_kv_cache_fraction() -> None:
    own = {p.name: p.kv_cache_free_gpu_mem_fraction for p in all_presets()}
    assert {name: value for name, value in own.items() if value is not None} == {"starcoder": 0.2}


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("starcoder", "<fim_prefix>P<fim_suffix>S<fim_middle>"),
        ("starcoder2-3b", "<fim_prefix>P<fim_suffix>S<fim_middle>"),
        ("granite-8b-code", "<fim_prefix>P<fim_suffix>S<fim_middle>"),
        ("qwen2.5-coder-7b", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>"),
        ("codegemma-2b", "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>"),
        ("codellama-7b", "<PRE> P <SUF>S <MID>"),
        ("deepseek-coder-1.3b", "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>"),  # noqa: RUF001
    ],
)
def test_fim_prompt_of_preset(name: str, prompt: str) -> None:
    preset = find_preset(name)
    assert preset is not None
    assert preset.fim is not None
    assert assemble_fim_prompt(preset.fim, prefix="P", suffix="S") == prompt
    assert preset.fim.stop


@pytest.mark.parametrize("name", ["codellama-34b", "llama-3.1-8b", "gpt2", "mistral-7b"])
def test_preset_not_trained_to_fill_in_has_no_fim_template(name: str) -> None:
    preset = find_preset(name)
    assert preset is not None
    assert preset.fim is None


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("starcodr", "starcoder"),
        ("Starcoder2-3B", "starcoder2-3b"),
        ("qwen2.5-coder-7", "qwen2.5-coder-7b"),
        ("bigcod/starcoder", "starcoder"),
        ("Qwen2.5-Coder-0.5B-Instruct", "qwen2.5-coder-0.5b"),
        ("smaple", "sample"),
        ("zzzzzz", None),
    ],
)
def test_nearest_preset(typed: str, nearest: str | None) -> None:
    assert nearest_preset(typed) == nearest


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model("starcodr")
    assert caught.value.exit_code == 2
    assert caught.value.what == 'unknown preset "starcodr"'
    assert caught.value.why == "it is not one of the 26 presets, a folder or a Hub id"
    assert caught.value.hint == "forge build starcoder"


def test_path_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model("./models/absent")
    assert caught.value.exit_code == 2
    assert caught.value.what == "there is no folder ./models/absent"
    assert caught.value.hint == ""


def test_file_is_refused_and_its_folder_suggested(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        resolve_model(str(tmp_path / "config.json"))
    assert caught.value.exit_code == 4
    assert caught.value.what == (
        f"{tmp_path}/config.json is a file; a checkpoint is a folder with config.json and weights"
    )
    assert caught.value.hint == f"forge build {tmp_path}"


def test_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model(str(tmp_path), revision="v1")
    assert caught.value.what == (
        "revision v1 was requested, but only a model on the Hub has revisions"
    )
    assert caught.value.why == f"{tmp_path} is a folder on this machine"


def test_hints_work_as_typed_for_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my coder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as of_file:
        resolve_model(str(folder / "config.json"))
    with pytest.raises(ConfigError) as of_revision:
        resolve_model(str(folder), revision="v1")
    expected = ["forge", "build", str(folder)]
    assert shlex.split(of_file.value.hint) == expected
    assert shlex.split(of_revision.value.hint) == expected


@pytest.mark.parametrize(
    ("model", "kind", "name", "repo_id"),
    [
        ("sample", "sample", "sample", "sample"),
        ("starcoder", "preset", "starcoder", "bigcode/starcoder"),
        ("bigcode/starcoder", "hub", "starcoder", "bigcode/starcoder"),
        ("BigCode/StarCoder", "hub", "starcoder", "bigcode/starcoder"),
        ("me/My-Model_1.5", "hub", "my-model_1.5", "me/My-Model_1.5"),
    ],
)
def test_model_reference(model: str, kind: str, name: str, repo_id: str) -> None:
    reference = resolve_model(model)
    assert (reference.kind, reference.name, reference.repo_id) == (kind, name, repo_id)
    assert (reference.preset is not None) == (repo_id == "bigcode/starcoder")


def test_folder_wins_over_hub_id_and_preset_wins_over_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "model").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    assert resolve_model("me/model").folder == tmp_path / "me" / "model"
    assert resolve_model("gpt2").kind == "preset"
    assert resolve_model("./gpt2").folder == tmp_path / "gpt2"


def test_fim_template_of_the_sample_stops_only_at_tokens_it_has() -> None:
    template = fim_template_from_tokenizer(sample_checkpoint_dir())
    assert template is not None
    assert template.prefix == "<fim_prefix>"
    assert template.stop == (
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        "<fim_pad>",
        "<|endoftext|>",
    )


@pytest.mark.parametrize(
    ("tokens", "prefix", "stop"),
    [
        (["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"], "<fim_prefix>", 4),
        (["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], "<|fim_prefix|>", 3),
        (["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "</s>"], "<PRE> ", 5),
    ],
)
def test_fim_template_is_found_by_added_tokens(
    tmp_path: Path, tokens: list[str], prefix: str, stop: int
) -> None:
    entries = [{"id": number, "content": token} for number, token in enumerate(tokens)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": entries}))
    template = fim_template_from_tokenizer(tmp_path)
    assert template is not None
    assert (template.prefix, len(template.stop)) == (prefix, stop)


def test_fim_template_is_found_in_tokenizer_config_alone(tmp_path: Path) -> None:
    tokens = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    decoder = {str(number): {"content": token} for number, token in enumerate(tokens)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert fim_template_from_tokenizer(tmp_path) is not None


def test_tokenizer_without_fim_tokens_has_no_template(tmp_path: Path) -> None:
    assert fim_template_from_tokenizer(tmp_path) is None


# In billions, as the model cards and the Hub's pages give them; how far the shape may be from it.
# Of starcoderbase-7b only the name is known.
PUBLISHED_SIZES = {
    "starcoder": (15.5, 0.02),
    "starcoderbase-1b": (1.14, 0.02),
    "starcoderbase-3b": (3.04, 0.02),
    "starcoderbase-7b": (7.0, 0.05),
    "starcoder2-3b": (3.03, 0.02),
    "starcoder2-7b": (7.17, 0.02),
    "starcoder2-15b": (16.0, 0.02),
    "codellama-7b": (6.74, 0.02),
    "codellama-13b": (13.0, 0.02),
    "codellama-34b": (33.7, 0.02),
    "deepseek-coder-1.3b": (1.35, 0.02),
    "deepseek-coder-6.7b": (6.74, 0.02),
    "qwen2.5-coder-0.5b": (0.49, 0.02),
    "qwen2.5-coder-1.5b": (1.54, 0.02),
    "qwen2.5-coder-3b": (3.09, 0.02),
    "qwen2.5-coder-7b": (7.61, 0.02),
    "qwen2.5-coder-14b": (14.7, 0.02),
    "qwen2.5-coder-32b": (32.5, 0.02),
    "codegemma-2b": (2.51, 0.02),
    "codegemma-7b": (8.54, 0.02),
    "granite-8b-code": (8.05, 0.02),
    "llama-3.1-8b": (8.03, 0.02),
    "llama-3.2-1b": (1.24, 0.02),
    "mistral-7b": (7.25, 0.02),
    "tinyllama-1.1b": (1.1, 0.02),
    "gpt2": (0.124, 0.02),
}


def shipped_of(name: str) -> ShippedConfig:
    preset = find_preset(name)
    assert preset is not None
    return shipped_config(preset)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_shipped_config_has_the_published_number_of_parameters(name: str) -> None:
    geometry = read_geometry(shipped_of(name).document)
    size, tolerance = PUBLISHED_SIZES[name]
    assert geometry.is_known
    assert count_parameters(geometry) / 1e9 == pytest.approx(size, rel=tolerance)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_shipped_config_says_how_it_is_known(name: str) -> None:
    shipped = shipped_of(name)
    assert set(shipped.unchecked) <= set(shipped.document)
    assert shipped.evidence == ("memory" if shipped.unchecked else "exact")
    if shipped.evidence == "exact":
        assert shipped.sources
        assert shipped.caveats == ()
        for source in shipped.sources:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}:[\w./-]+", source)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_shipped_config_is_read_as_a_config_json_of_a_known_architecture(name: str) -> None:
    config = parse_checkpoint_config(shipped_of(name).document)
    architecture = find_architecture(config.architecture, model=name)
    assert architecture.name == config.architecture
    assert config.model_type == config.document["model_type"]
    numbers = (config.max_seq_len, config.vocab_size, config.num_layers, config.num_kv_heads)
    assert all(number > 0 for number in (*numbers, config.head_dim, config.num_heads))
    assert len(config.eos_token_ids) == 1
    assert config.dtype in ("float32", "bfloat16")
    assert config.quantization is None


def test_nothing_ships_for_a_model_that_is_no_preset() -> None:
    document = json.loads(data_path("preset_configs.json").read_text(encoding="utf-8"))
    assert set(document["presets"]) == PROMISED


def test_caveat_names_the_keys_from_memory() -> None:
    assert shipped_of("starcoder").caveats == (
        "these numbers were not checked against a source: torch_dtype",
    )
