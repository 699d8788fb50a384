from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.configuration import config_of
from tests.small_stage import printed
from trtllm_forge.config.schema import BuildSection, ForgeConfig, RepositorySection
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import Release, read_catalogue
from trtllm_forge.releases.llmapi_arguments import (
    ArgumentTable,
    PromptLookup,
    argument_names,
    prompt_lookup_for,
    read_arguments,
)
from trtllm_forge.runtimes.llmapi import LlmApiRuntime, release_of
from trtllm_forge.runtimes.llmapi.model_yaml import (
    cuda_graph_batch_sizes,
    model_arguments,
    require_known,
)
from trtllm_forge.triton.repository.names import CHECKPOINT_DIR


def config(**build: Any) -> ForgeConfig:
    return ForgeConfig(model="org/coder", trtllm_version="1.2.1", build=BuildSection(**build))


def table(version: str) -> ArgumentTable:
    return read_arguments(read_catalogue().find(version))


def arguments(version: str = "1.2.1", **build: Any) -> dict[str, Any]:
    return dict(model_arguments(config(**build), 0.9, table(version)).arguments)


def test_model_yaml_of_a_plain_configuration() -> None:
    model = LlmApiRuntime().engine_model(config(tp_size=2, max_batch_size=8), 0.8)
    assert yaml.safe_load(model.text_files["1/model.yaml"]) == {
        "model": f"/models/{CHECKPOINT_DIR}",
        "backend": "pytorch",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "dtype": "float16",
        "max_batch_size": 8,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.8},
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8]},
        "triton_config": {
            "max_batch_size": 0,
            "decoupled": True,
            "cancellation_check_period_ms": 100,
        },
    }


def test_the_model_needs_no_parameters_in_its_configuration_and_stands_alone() -> None:
    model = LlmApiRuntime().engine_model(config(), 0.9)
    assert (model.backend, model.layout, dict(model.parameters)) == ("python", "llmapi", {})


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        pytest.param({"build": {"precision": "bf16"}}, {"dtype": "bfloat16"}, id="bf16"),
        pytest.param({"build": {"precision": "fp8"}}, {"dtype": "auto"}, id="fp8"),
        pytest.param({"build": {"max_seq_len": 99}}, {"max_seq_len": 99}, id="length"),
        pytest.param({"build": {"max_num_tokens": 99}}, {"max_num_tokens": 99}, id="tokens"),
        pytest.param({"build": {"pp_size": 4}}, {"pipeline_parallel_size": 4}, id="pp"),
        pytest.param(
            {"build": {"kv_cache": "fp8"}},
            {
                "kv_cache_config": {
                    "enable_block_reuse": True,
                    "free_gpu_memory_fraction": 0.9,
                    "dtype": "fp8",
                }
            },
            id="kv-cache",
        ),
        pytest.param(
            {"repository": {"max_tokens_in_paged_kv_cache": 7, "enable_kv_cache_reuse": False}},
            {
                "kv_cache_config": {
                    "enable_block_reuse": False,
                    "free_gpu_memory_fraction": 0.9,
                    "max_tokens": 7,
                }
            },
            id="kv-tokens",
        ),
        pytest.param(
            {"repository": {"enable_chunked_context": False}},
            {"enable_chunked_prefill": False},
            id="chunks",
        ),
        pytest.param(
            {"repository": {"batch_scheduler_policy": "max_utilization"}},
            {"scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"}},
            id="policy",
        ),
        pytest.param(
            {"repository": {"mount_root": "/srv/"}}, {"model": f"/srv/{CHECKPOINT_DIR}"}, id="mount"
        ),
        pytest.param({"repository": {"tokenizer_dir": "/t"}}, {"tokenizer": "/t"}, id="tokenizer"),
        pytest.param(
            {"checkpoint": {"trust_remote_code": True}}, {"trust_remote_code": True}, id="trust"
        ),
    ],
)
def test_each_setting_changes_its_argument_alone(
    sections: dict[str, Any], changed: dict[str, Any]
) -> None:
    plain = model_arguments(ForgeConfig(), 0.9, table("1.2.1")).arguments
    other = model_arguments(config_of(sections), 0.9, table("1.2.1")).arguments
    assert dict(other) == {**plain, **changed}


@pytest.mark.parametrize(
    "text", ["/m: {x: 1}", "/m\nbackend: tensorrt", "/m #", "/{{ x }}", "/é ☃", "/'\"\\", "/!!x"]
)
def test_no_value_can_leave_its_place_in_the_file(text: str) -> None:
    config = ForgeConfig(repository=RepositorySection(mount_root=text, tokenizer_dir=text))
    written = model_arguments(config, 0.9, table("1.2.1"))
    read = yaml.safe_load(written.text())
    assert read == {**written.arguments, "triton_config": written.triton}
    assert read["model"] == f"{text}/{CHECKPOINT_DIR}"


def test_prompt_lookup_is_written_with_the_keys_of_each_release() -> None:
    ngram = {"decoding_type": "NGram", "max_draft_len": 3, "max_matching_ngram_size": 5}
    old = arguments("1.0.0", speculative="prompt_lookup")
    new = arguments("1.1.0", speculative="prompt_lookup")
    assert old["speculative_config"] == ngram
    assert new["speculative_config"] == {**ngram, "max_concurrency": 32}
    assert old["disable_overlap_scheduler"] is new["disable_overlap_scheduler"] is True


def test_plain_decoding_says_nothing_of_speculation() -> None:
    assert {"speculative_config", "disable_overlap_scheduler"}.isdisjoint(arguments())


def test_the_drafter_drafts_more_for_small_batches_and_what_the_user_says() -> None:
    assert prompt_lookup_for(4) == PromptLookup(
        max_draft_len=5, max_matching_ngram_size=3, max_concurrency=32
    )
    assert prompt_lookup_for(5).max_draft_len == 3
    assert prompt_lookup_for(2048, 7).max_draft_len == 7


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (16, [1, 2, 4, 8, 16]),
        (20, [1, 2, 4, 8, 16, 20]),
        (300, [1, 2, 4, *range(8, 129, 8), 256, 300]),
        (2048, [1, 2, 4, *range(8, 129, 8), 256, 512, 1024, 2048]),
    ],
)
def test_graphs_are_captured_up_to_the_largest_batch(largest: int, sizes: list[int]) -> None:
    assert cuda_graph_batch_sizes(largest) == sizes


RELEASES = [release for release in read_catalogue().releases.values() if "llmapi" in release.flows]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_everything_that_can_be_written_is_in_the_table_of_each_release(release: Release) -> None:
    everything = config_of(
        {
            "trtllm_version": release.version,
            "build": {
                "kv_cache": "fp8",
                "speculative": "prompt_lookup",
                "max_seq_len": 99,
                "max_num_tokens": 99,
            },
            "repository": {"max_tokens_in_paged_kv_cache": 99, "tokenizer_dir": "/t"},
            "checkpoint": {"trust_remote_code": True},
        }
    )
    known = read_arguments(release)
    written = model_arguments(everything, 0.9, known).arguments
    assert set(argument_names(written)) == known.names
    assert known.exact <= known.names


def test_evidence_is_told_per_argument() -> None:
    known = table("1.0.0")
    assert known.evidence == "nearest"
    assert "max_seq_len" in known.exact
    assert "kv_cache_config.dtype" in known.names - known.exact
    assert "speculative_config.max_concurrency" not in known.names
    assert "1.0.0/examples/llm_runtime" in known.source


def test_an_argument_that_a_release_has_not_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        require_known({"speculative_config": {"prompt_lookup_num_tokens": 3}}, table("1.2.1"))
    assert printed(raised.value) == (
        "error: TensorRT-LLM 1.2 has no argument speculative_config.prompt_lookup_num_tokens\n"
        "  why:  its LLM API rejects unknown keys",
        2,
    )


def test_null_stands_for_an_object_the_release_has() -> None:
    require_known({"cuda_graph_config": None}, table("1.2.1"))
    with pytest.raises(ConfigError, match=r"has no argument cuda_graphs$"):
        require_known({"cuda_graphs": None}, table("1.2.1"))


def test_a_release_without_the_llm_api_is_refused_with_one_that_has_it() -> None:
    with pytest.raises(ConfigError) as raised:
        read_arguments(read_catalogue().find("0.21.0"))
    assert printed(raised.value) == (
        "error: runtime llmapi does not support TensorRT-LLM 0.21.0\n"
        "  why:  forge knows Triton's LLM API model only for releases 1.0 to 1.4\n"
        "  try:  forge versions 1.2.1",
        2,
    )


def test_without_a_release_the_newest_that_an_image_carries_is_taken() -> None:
    assert release_of(ForgeConfig(trtllm_version="1.0.0")).version == "1.0.0"
    assert release_of(ForgeConfig()).version == "1.2.1"


def test_release_of_the_users_file_is_found_below_the_home_and_never_exact() -> None:
    text = 'schema: 1\nreleases: {"1.2.2": {like: "1.2.1"}}\n'
    Path("~/newer.yaml").expanduser().write_text(text, encoding="utf-8")
    config = ForgeConfig(model="org/coder", trtllm_version="1.2.2", releases_file="~/newer.yaml")
    read = read_arguments(release_of(config))
    assert (read.evidence, read.exact) == ("nearest", frozenset())
