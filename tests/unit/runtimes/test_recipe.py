from __future__ import annotations

from typing import Any

import pytest

from tests.engine_runtime import (
    engine_checkpoint,
    engine_config,
    engine_runtime,
    typed_flags,
)
from tests.small_stage import printed
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.contents import Quantization
from trtllm_forge.config.load import load_flags
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.runtimes.trtllm.recipe import Recipe, choose_recipe, has_paged_context

BIG_CODE = "GPTBigCodeForCausalLM"
LLAMA = "LlamaForCausalLM"
BLOOM = "BloomForCausalLM"
COMMAND_R = "CohereForCausalLM"
GPTQ = Quantization(method="gptq", bits=4, group_size=128)


def choose(
    line: str,
    architecture: str = LLAMA,
    *,
    version: str = "1.2.1",
    sm: int | None = 90,
    quantization: Quantization | None = None,
) -> Recipe:
    command = line if line.startswith("forge build") else f"forge build org/model {line}"
    config = load_flags(typed_flags(command)).config
    return choose_recipe(
        config,
        engine_checkpoint(architecture, quantization=quantization),
        find_architecture(architecture, model="org/model"),
        read_catalogue().find(config.trtllm_version or version),
        sm=sm,
    )


@pytest.mark.parametrize(
    ("flag", "tool", "dtype", "qformat", "algorithm"),
    [
        ("fp16", "convert_checkpoint", "float16", "", None),
        ("bf16", "convert_checkpoint", "bfloat16", "", None),
        ("int8", "convert_checkpoint", "float16", "", "W8A16"),
        ("int4", "convert_checkpoint", "float16", "", "W4A16"),
        ("int4-awq", "quantize", "float16", "int4_awq", "W4A16_AWQ"),
        ("w4a8-awq", "quantize", "float16", "w4a8_awq", "W4A8_AWQ"),
        ("int8-sq", "quantize", "float16", "int8_sq", "W8A8_SQ_PER_CHANNEL"),
        ("fp8", "quantize", "float16", "fp8", "FP8"),
    ],
)
def test_precision_is_made_by_its_tool(
    flag: str, tool: str, dtype: str, qformat: str, algorithm: str | None
) -> None:
    recipe = choose(f"--{flag}")
    found = (recipe.tool, recipe.precision, recipe.dtype, recipe.qformat, recipe.quant_algo)
    assert found == (tool, flag.replace("-", "_"), dtype, qformat, algorithm)


def test_nvfp4_is_made_by_quantize_for_blackwell() -> None:
    recipe = choose("--nvfp4", sm=100)
    assert (recipe.tool, recipe.qformat, recipe.quant_algo) == ("quantize", "nvfp4", "NVFP4")


@pytest.mark.parametrize(
    ("flag", "qformat"), [("fp16", "full_prec"), ("int8", "int8_wo"), ("int4", "int4_wo")]
)
def test_quantised_kv_cache_takes_quantize_for_every_precision(flag: str, qformat: str) -> None:
    recipe = choose(f"--{flag} --kv-cache fp8")
    assert (recipe.tool, recipe.qformat, recipe.kv_cache) == ("quantize", qformat, "fp8")
    assert recipe.needs_calibration


@pytest.mark.parametrize(
    ("line", "needs"),
    [("--fp16", False), ("--int8", False), ("--int8-sq", True), ("--fp16 --kv-cache int8", True)],
)
def test_calibration_is_needed_where_sample_texts_are_run(line: str, needs: bool) -> None:
    assert choose(line).needs_calibration is needs


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("line", ["", "--bf16", "--int4-gptq"])
def test_quantised_checkpoint_decides_its_precision(line: str, method: str) -> None:
    quantization = Quantization(method=method, bits=4, group_size=128)
    recipe = choose(line, quantization=quantization)
    found = (recipe.tool, recipe.precision, recipe.quant_algo)
    assert found == ("convert_checkpoint", "int4_gptq", "W4A16_GPTQ")


@pytest.mark.parametrize(
    ("precision", "kv_cache", "is_paged"),
    [
        ("fp16", None, True),
        ("fp8", "fp8", True),
        ("fp16", "fp8", False),
        ("int8", "int8", False),
        ("fp8", "int8", False),
    ],
)
def test_repository_asks_for_block_reuse_only_where_the_engine_can_share_blocks(
    precision: str, kv_cache: str | None, is_paged: bool
) -> None:
    assert has_paged_context(precision, kv_cache) is is_paged
    config = engine_config(f"--{precision} {f'--kv-cache {kv_cache}' if kv_cache else ''}")
    parameters = engine_runtime(architecture=LLAMA).engine_model(config, 0.9).parameters
    word = "true" if is_paged else "false"
    found = (parameters["enable_kv_cache_reuse"], parameters["enable_chunked_context"])
    assert found == (word, word)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no-release-has-it": (
        {"line": "--int8-sq", "architecture": BIG_CODE},
        "error: the engine flow of TensorRT-LLM 1.2.1 does not support precision int8_sq for "
        "GPTBigCodeForCausalLM\n"
        "  why:  no release does; 1.2.1 supports fp16, bf16, int8, int4, int4_awq, fp8\n"
        "  try:  forge build org/model --int8",
    ),
    "values-of-the-user-are-kept": (
        {
            "line": "--w4a8-awq --tp 2 --max-batch-size 8 --runtime trtllm --kv-cache fp8",
            "architecture": BIG_CODE,
        },
        "error: the engine flow of TensorRT-LLM 1.2.1 does not support precision w4a8_awq for "
        "GPTBigCodeForCausalLM\n"
        "  why:  no release does; 1.2.1 supports fp16, bf16, int8, int4, int4_awq, fp8\n"
        "  try:  forge build org/model --runtime trtllm --kv-cache fp8 --tp 2 "
        "--max-batch-size 8 --int4-awq",
    ),
    "later-release-has-it": (
        {"line": "--nvfp4 --trtllm-version 0.18.2", "sm": 100},
        "error: the engine flow of TensorRT-LLM 0.18.2 does not support precision nvfp4 for "
        "LlamaForCausalLM\n"
        "  why:  the first that does is 0.19.0; 0.18.2 supports fp16, bf16, int4_awq, "
        "int4_gptq, w4a8_awq, fp8\n"
        "  try:  forge build org/model --trtllm-version 0.18.2 --fp8",
    ),
    "kv-cache-without-quantize": (
        {"line": "--int8 --kv-cache int8", "architecture": COMMAND_R},
        "error: quantize.py of TensorRT-LLM 1.2.1 does not support CohereForCausalLM\n"
        "  why:  kv_cache int8 needs it\n"
        "  try:  forge build org/model --int8",
    ),
    "old-gpu": (
        {"line": "--fp8", "sm": 80},
        "error: precision fp8 needs a GPU with sm_89 or later; this one is sm_80\n"
        "  try:  forge build org/model --int8",
    ),
    "old-gpu-kv-cache": (
        {"line": "--int4 --kv-cache fp8", "sm": 80},
        "error: an fp8 KV cache needs a GPU with sm_89 or later; this one is sm_80\n"
        "  try:  forge build org/model --int4",
    ),
    "older-gpu": (
        {"line": "--bf16", "sm": 75},
        "error: precision bf16 needs a GPU with sm_80 or later; this one is sm_75\n"
        "  try:  forge build org/model --fp16",
    ),
    "blackwell-int4": (
        {"line": "--int4", "sm": 100},
        "error: TensorRT-LLM cannot build an engine with precision int4 for sm_100\n"
        "  why:  its kernels are for other architectures\n"
        "  try:  forge build org/model --int4-awq",
    ),
    "blackwell-int8-kv-cache": (
        {"line": "--fp8 --kv-cache int8", "sm": 100},
        "error: TensorRT-LLM cannot build an engine with an int8 KV cache for sm_100\n"
        "  why:  its kernels are for other architectures\n"
        "  try:  forge build org/model --fp8 --kv-cache fp8",
    ),
    "gptq-of-a-plain-checkpoint": (
        {"line": "--int4-gptq"},
        "error: org/model is not quantised, and precision int4_gptq needs a GPTQ checkpoint\n"
        "  why:  its config.json has no quantization_config; forge cannot make GPTQ weights\n"
        "  try:  forge build org/model --int4-awq",
    ),
    "another-precision-of-a-gptq-checkpoint": (
        {"line": "--int8", "quantization": GPTQ},
        "error: org/model is already quantised (gptq), precision int8 was requested\n"
        "  why:  its config.json has a quantization_config\n"
        "  try:  forge build org/model --int4-gptq",
    ),
    "kv-cache-of-a-gptq-checkpoint": (
        {"line": "--kv-cache int8", "quantization": GPTQ},
        "error: precision int4_gptq has no int8 KV cache in TensorRT-LLM 1.2.1\n"
        "  why:  only quantize.py makes KV cache scales, and it cannot read quantised checkpoints\n"
        "  try:  forge build org/model",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_pair_that_cannot_be_had_is_refused_with_the_nearest_that_can(name: str) -> None:
    arguments, text = REFUSALS[name]
    with pytest.raises(ConfigError) as caught:
        choose(**arguments)
    assert printed(caught.value) == (text, 2)
    choose(**{**arguments, "line": caught.value.hint})


CHECKPOINTS: dict[str, tuple[Quantization, str, str]] = {
    "eight-bits": (
        Quantization(method="gptq", bits=8),
        LLAMA,
        "error: org/model has 8-bit weights (gptq)\n"
        "  why:  the converter reads every such checkpoint as 4-bit",
    ),
    "reordered": (
        Quantization(method="gptq", bits=4, has_act_order=True),
        LLAMA,
        "error: org/model is a GPTQ checkpoint with desc_act true, which the converter rejects\n"
        "  why:  TensorRT-LLM has no kernels for reordered columns",
    ),
    "method": (
        Quantization(method="bitsandbytes", bits=4),
        BLOOM,
        "error: the converter of BloomForCausalLM in TensorRT-LLM 1.2.1 does not support "
        "bitsandbytes checkpoints\n"
        "  why:  only llama and qwen models are supported, with gptq and awq",
    ),
    "method-of-the-llm-api": (
        Quantization(method="modelopt", algorithm="FP8"),
        LLAMA,
        "error: the converter of LlamaForCausalLM in TensorRT-LLM 1.2.1 does not support "
        "modelopt checkpoints\n"
        "  why:  only llama and qwen models are supported, with gptq and awq\n"
        "  try:  forge build org/model --runtime llmapi --trtllm-version 1.2.1",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_quantised_checkpoint_the_converter_does_not_take_is_refused(name: str) -> None:
    quantization, architecture, text = CHECKPOINTS[name]
    with pytest.raises(ConfigError) as caught:
        choose("--tp 2", architecture, quantization=quantization)
    assert printed(caught.value) == (text, 2)


@pytest.mark.parametrize("flags", ["", " --int4-gptq"], ids=["unasked", "asked"])
def test_gptq_of_a_model_that_is_taken_later_leads_to_that_release(flags: str) -> None:
    arguments = {"architecture": "MixtralForCausalLM", "quantization": GPTQ}
    with pytest.raises(ConfigError) as caught:
        choose(f"--trtllm-version 0.18.2{flags}", **arguments)  # type: ignore[arg-type]
    assert printed(caught.value) == (
        "error: the engine flow of TensorRT-LLM 0.18.2 does not support precision int4_gptq for "
        "MixtralForCausalLM\n"
        "  why:  the first that does is 0.19.0; 0.18.2 supports fp16, bf16, int8, int4, fp8\n"
        f"  try:  forge build org/model{flags} --trtllm-version 0.19.0",
        2,
    )
    choose(caught.value.hint, **arguments)  # type: ignore[arg-type]
