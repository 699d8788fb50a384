from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.small_stage import printed
from trtllm_forge.checkpoint.contents import CheckpointConfig, Quantization
from trtllm_forge.config.schema import BuildSection, ForgeConfig
from trtllm_forge.errors import ConfigError
from trtllm_forge.runtimes.llmapi import LlmApiRuntime
from trtllm_forge.runtimes.llmapi.quantization import recipe_of, require_gpu, require_precision

PLAIN = CheckpointConfig(
    architecture="LlamaForCausalLM",
    model_type="llama",
    max_seq_len=4096,
    vocab_size=32_000,
    num_layers=2,
    num_kv_heads=2,
    head_dim=64,
    eos_token_ids=(2,),
)


def config(**build: Any) -> ForgeConfig:
    return ForgeConfig(model="org/coder", trtllm_version="1.2.1", build=BuildSection(**build))


def quantised(method: str, **fields: Any) -> CheckpointConfig:
    return replace(PLAIN, quantization=Quantization(method=method, **fields))


@pytest.mark.parametrize(
    ("checkpoint", "recipe"),
    [
        pytest.param(PLAIN, None, id="plain"),
        pytest.param(quantised("modelopt", algorithm="FP8"), "FP8 per-tensor", id="modelopt-fp8"),
        pytest.param(quantised("modelopt", algorithm="NVFP4"), "NVFP4", id="modelopt-nvfp4"),
        pytest.param(quantised("modelopt", algorithm="W4A16_AWQ"), "W4A16 AWQ", id="modelopt-awq"),
        pytest.param(quantised("modelopt", algorithm="fp8_pb_wo"), "FP8 block", id="modelopt-pb"),
        pytest.param(quantised("mxfp4"), "MXFP4", id="mxfp4"),
        pytest.param(
            replace(
                quantised("fp8"),
                document={"quantization_config": {"weight_block_size": [128, 128]}},
            ),
            "FP8 block",
            id="fp8-blocks",
        ),
    ],
)
def test_recipes_of_checkpoints_that_the_backend_reads(
    checkpoint: CheckpointConfig, recipe: str | None
) -> None:
    assert recipe_of(config(), checkpoint) == recipe
    LlmApiRuntime().require_support(config(), checkpoint)


READS = (
    "  why:  among quantised checkpoints, it reads ModelOpt's hf_quant_config.json, block-scaled "
    "FP8 and MXFP4"
)


@pytest.mark.parametrize(
    ("checkpoint", "kind", "tries"),
    [
        (quantised("gptq", bits=4), "gptq (4 bits)", "--int4-gptq"),
        (quantised("awq", bits=4), "awq (4 bits)", "--int4-gptq"),
        (
            replace(quantised("gptq", bits=4), architecture="Starcoder2ForCausalLM"),
            "gptq (4 bits)",
            "",
        ),
        (quantised("fp8"), "fp8", ""),
        (quantised("bitsandbytes", bits=8), "bitsandbytes (8 bits)", ""),
        (quantised("modelopt", algorithm="MIXED_PRECISION"), "MIXED_PRECISION", ""),
    ],
    ids=["gptq", "awq", "gptq-without-converter", "fp8-per-tensor", "bitsandbytes", "mixed"],
)
def test_quantised_checkpoints_that_the_backend_does_not_read_are_refused(
    checkpoint: CheckpointConfig, kind: str, tries: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        LlmApiRuntime().require_support(config(), checkpoint)
    text = f"error: runtime llmapi does not read checkpoints quantised as {kind}\n{READS}"
    if tries:
        text += f"\n  try:  forge build org/coder --runtime trtllm {tries}"
    assert printed(raised.value) == (text, 2)


@pytest.mark.parametrize(
    ("precision", "why", "tries"),
    [
        (
            "int4",
            "the PyTorch backend's weight-only layers load weights and scales that are already "
            "quantised",
            "--runtime trtllm --int4",
        ),
        (
            "fp8",
            "quantising to FP8 while loading is only a prototype of the PyTorch backend "
            "(force_dynamic_quantization); it serves checkpoints quantised by ModelOpt",
            "--runtime trtllm --fp8",
        ),
        (
            "int4_awq",
            "the PyTorch backend serves int4_awq from a checkpoint quantised by ModelOpt",
            "--runtime trtllm --int4-awq",
        ),
        ("int8_sq", "the PyTorch backend has no int8_sq", "--runtime trtllm --int8-sq"),
    ],
)
def test_a_plain_checkpoint_is_not_quantised_when_it_loads(
    precision: str, why: str, tries: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        LlmApiRuntime().require_support(config(precision=precision), PLAIN)
    assert printed(raised.value) == (
        f"error: runtime llmapi cannot quantise a plain checkpoint to {precision}\n"
        f"  why:  {why}\n"
        f"  try:  forge build org/coder {tries}",
        2,
    )


def test_where_no_engine_can_be_built_either_the_plain_checkpoint_is_offered() -> None:
    with pytest.raises(ConfigError) as raised:
        require_precision(
            config(precision="int8"), replace(PLAIN, architecture="Exaone4ForCausalLM")
        )
    assert (
        raised.value.hint == "forge build org/coder --trtllm-version 1.2.1 --runtime llmapi --bf16"
    )


def test_a_quantised_checkpoint_keeps_its_precision() -> None:
    fp8 = quantised("modelopt", algorithm="FP8")
    assert require_precision(config(precision="fp8"), fp8) == "FP8 per-tensor"
    with pytest.raises(ConfigError) as raised:
        require_precision(config(precision="nvfp4"), fp8)
    assert printed(raised.value) == (
        "error: org/coder is already quantised as FP8 per-tensor, but nvfp4 was requested\n"
        "  why:  the PyTorch backend serves a checkpoint with its own quantisation\n"
        "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi --fp16",
        2,
    )


def test_gpus_run_the_recipes_of_the_hardware_table() -> None:
    require_gpu("FP8 block", "fp8", "sm_90")
    require_gpu(None, None, "sm_75")
    with pytest.raises(ConfigError) as raised:
        require_gpu("FP8 per-tensor", None, "sm_80")
    assert printed(raised.value) == (
        "error: FP8 per-tensor does not run on sm_80 in the PyTorch backend\n"
        "  why:  it runs on sm_89, sm_90, sm_100, sm_103, sm_120",
        2,
    )
    with pytest.raises(ConfigError, match="FP8 KV does not run on sm_75"):
        require_gpu(None, "fp8", "sm_75")


def test_a_refusal_keeps_the_users_other_values() -> None:
    tried = config(speculative="lookahead", tp_size=2, max_batch_size=8)
    with pytest.raises(ConfigError) as raised:
        LlmApiRuntime().require_support(tried, PLAIN)
    assert raised.value.hint == (
        "forge build org/coder --trtllm-version 1.2.1 --tp 2 --max-batch-size 8 "
        "--runtime llmapi --speculative prompt_lookup"
    )
    with pytest.raises(ConfigError) as raised:
        require_precision(config(precision="int4", tp_size=2), PLAIN)
    assert raised.value.hint == "forge build org/coder --tp 2 --runtime trtllm --int4"


@pytest.mark.parametrize(
    ("build", "text"),
    [
        pytest.param(
            {"kv_cache": "int8"},
            "error: runtime llmapi has no int8 KV cache\n"
            "  why:  the PyTorch backend's KV cache has the type of the activations, or fp8\n"
            "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi --kv-cache fp8",
            id="int8-kv",
        ),
        pytest.param(
            {"speculative": "lookahead"},
            "error: runtime llmapi does not support speculative lookahead\n"
            "  why:  without a second model, the PyTorch backend drafts only from n-grams\n"
            "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi "
            "--speculative prompt_lookup",
            id="lookahead",
        ),
        pytest.param(
            {"max_beam_width": 4},
            "error: runtime llmapi has 1 beam, 4 were requested\n"
            "  why:  Triton's llmapi model has no input for a beam width\n"
            "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi "
            "--max-beam-width 1",
            id="beams",
        ),
        pytest.param(
            {"lora_dir": "/adapter"},
            "error: runtime llmapi does not support LoRA adapters\n"
            "  why:  up to 1.2, Triton's llmapi model has no input to choose one\n"
            "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi",
            id="lora",
        ),
        pytest.param(
            {"max_seq_len": 5000},
            "error: max_seq_len is 5000 tokens, but the checkpoint's limit is 4096\n"
            "  try:  forge build org/coder --trtllm-version 1.2.1 --runtime llmapi "
            "--max-seq-len 4096",
            id="length",
        ),
    ],
)
def test_options_that_the_backend_has_not_are_refused(build: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        LlmApiRuntime().require_support(config(**build), PLAIN)
    assert printed(raised.value) == (text, 2)


def test_nothing_is_converted_or_compiled() -> None:
    assert LlmApiRuntime().stages(config(), PLAIN) == ()
