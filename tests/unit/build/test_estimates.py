from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trtllm_forge.build.estimates import Estimates, count_parameters, estimate, read_geometry
from trtllm_forge.build.sizes import (
    engine_bytes_per_rank,
    host_memory_bytes,
    kv_bytes_per_token_per_rank,
    matrix_bytes,
    usable_gpu_bytes,
    weight_bytes_per_rank,
)
from trtllm_forge.checkpoint.parameters import Matrix, layers_of_stages
from trtllm_forge.errors import CheckpointError
from trtllm_forge.machine.gpu import named_gpu
from trtllm_forge.text.quantities import GIB

MIB = 1 << 20


def llama_like(model_type: str = "llama", **fields: Any) -> dict[str, Any]:
    """Build a config.json by Hugging Face's usual keys; the defaults are Llama 2 7B's."""
    return {
        "model_type": model_type,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "torch_dtype": "float16",
        **fields,
    }


def gpt2_like(model_type: str = "gpt2", **fields: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
        **fields,
    }


LLAMA_2_7B = llama_like()
LLAMA_3_8B = llama_like(
    intermediate_size=14336,
    num_key_value_heads=8,
    vocab_size=128256,
    max_position_embeddings=8192,
)
LLAMA_2_70B = llama_like(
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
)
MISTRAL_7B = llama_like(
    "mistral", intermediate_size=14336, num_key_value_heads=8, sliding_window=4096
)
MIXTRAL_8X7B = llama_like(
    "mixtral",
    intermediate_size=14336,
    num_key_value_heads=8,
    num_local_experts=8,
    num_experts_per_tok=2,
)
QWEN25_7B = llama_like(
    "qwen2",
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
)
STARCODER = gpt2_like(
    "gpt_bigcode",
    n_embd=6144,
    n_layer=40,
    n_head=48,
    n_inner=24576,
    n_positions=8192,
    vocab_size=49152,
    multi_query=True,
    torch_dtype="float32",
)
STARCODER2_3B = llama_like(
    "starcoder2",
    hidden_size=3072,
    intermediate_size=12288,
    num_hidden_layers=30,
    num_attention_heads=24,
    num_key_value_heads=2,
    vocab_size=49152,
    max_position_embeddings=16384,
    use_bias=True,
)
STARCODER2_7B = {
    **STARCODER2_3B,
    "hidden_size": 4608,
    "intermediate_size": 18432,
    "num_hidden_layers": 32,
    "num_attention_heads": 36,
    "num_key_value_heads": 4,
}
STARCODER2_15B = {
    **STARCODER2_3B,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 40,
    "num_attention_heads": 48,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
FALCON_7B = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "vocab_size": 65024,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
}
DEEPSEEK_V2_LITE = llama_like(
    "deepseek_v2",
    hidden_size=2048,
    intermediate_size=10944,
    num_hidden_layers=27,
    num_attention_heads=16,
    num_key_value_heads=16,
    vocab_size=102400,
    q_lora_rank=None,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
)
GEMMA_2_9B = llama_like(
    "gemma2",
    hidden_size=3584,
    intermediate_size=14336,
    num_hidden_layers=42,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=256,
    vocab_size=256000,
)

# Published: the count of the weights at huggingface.co/<repo_id>, a tied embedding counted once.
PUBLISHED = {
    "starcoder": (STARCODER, 15_517_456_384),
    "starcoder2-3b": (STARCODER2_3B, 3_030_371_328),
    "starcoder2-7b": (STARCODER2_7B, 7_173_923_840),
    "starcoder2-15b": (STARCODER2_15B, 15_957_889_024),
    "llama-2-7b": (LLAMA_2_7B, 6_738_415_616),
    "llama-2-70b": (LLAMA_2_70B, 68_976_648_192),
    "llama-3-8b": (LLAMA_3_8B, 8_030_261_248),
    "mistral-7b": (MISTRAL_7B, 7_241_732_096),
    "mixtral-8x7b": (MIXTRAL_8X7B, 46_702_792_704),
    "qwen2.5-7b": (QWEN25_7B, 7_615_616_512),
    "gpt2": (gpt2_like(), 124_439_808),
    "falcon-7b": (FALCON_7B, 6_921_720_704),
    "gemma-2-9b": (GEMMA_2_9B, 9_241_705_984),
    "deepseek-v2-lite": (DEEPSEEK_V2_LITE, 15_706_484_224),
    "gemma-2b": (
        llama_like(
            "gemma",
            hidden_size=2048,
            intermediate_size=16384,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
            vocab_size=256000,
        ),
        2_506_172_416,
    ),
    "phi-3-mini": (
        llama_like("phi3", hidden_size=3072, intermediate_size=8192, vocab_size=32064),
        3_821_079_552,
    ),
    "phi-2": (
        llama_like("phi", hidden_size=2560, intermediate_size=10240, vocab_size=51200),
        2_779_683_840,
    ),
    "gpt-j-6b": (
        gpt2_like("gptj", n_embd=4096, n_layer=28, n_head=16, vocab_size=50400, rotary_dim=64),
        6_050_882_784,
    ),
    "gpt-neox-20b": (
        llama_like(
            "gpt_neox",
            hidden_size=6144,
            intermediate_size=24576,
            num_hidden_layers=44,
            num_attention_heads=64,
            num_key_value_heads=None,
            vocab_size=50432,
        ),
        20_554_567_680,
    ),
    "bloom-176b": (
        {
            "model_type": "bloom",
            "hidden_size": 14336,
            "n_layer": 70,
            "n_head": 112,
            "vocab_size": 250880,
        },
        176_247_271_424,
    ),
    "opt-125m": (
        llama_like(
            "opt",
            hidden_size=768,
            intermediate_size=None,
            ffn_dim=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=None,
            vocab_size=50272,
            max_position_embeddings=2048,
        ),
        125_239_296,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt",
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "vocab_size": 50432,
            "expansion_ratio": 4,
            "attn_config": {"alibi": True},
            "no_bias": True,
        },
        6_649_286_656,
    ),
    "chatglm3-6b": (
        {
            "model_type": "chatglm",
            "hidden_size": 4096,
            "num_layers": 28,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "ffn_hidden_size": 13696,
            "padded_vocab_size": 65024,
            "add_qkv_bias": True,
            "seq_length": 8192,
        },
        6_243_584_000,
    ),
    "qwen-7b": (llama_like("qwen", intermediate_size=22016, vocab_size=151936), 7_721_324_544),
    "dbrx": (
        {
            "model_type": "dbrx",
            "d_model": 6144,
            "n_layers": 40,
            "n_heads": 48,
            "vocab_size": 100352,
            "attn_config": {"kv_n_heads": 8},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
        131_596_523_520,
    ),
    "qwen3-8b": (
        llama_like(
            "qwen3",
            intermediate_size=12288,
            num_hidden_layers=36,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
        ),
        8_190_735_360,
    ),
}


def plan(config: dict[str, Any], **fields: Any) -> Estimates:
    options: dict[str, Any] = {
        "checkpoint_bytes": None,
        "precision": "fp16",
        "kv_cache": None,
        "tp_size": 1,
        "pp_size": 1,
        "max_batch_size": 8,
        "max_seq_len": 2048,
        "max_num_tokens": 8192,
        "max_beam_width": 1,
        "tokens_per_block": 64,
        "workers": 1,
        "gpu": None,
        "fraction": 0.9,
        **fields,
    }
    return estimate(read_geometry(config), **options)


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED.values(), ids=list(PUBLISHED))
def test_parameters_are_those_published(config: dict[str, Any], parameters: int) -> None:
    assert count_parameters(read_geometry(config)) == parameters


def test_the_log_upstream_publishes_is_foretold() -> None:
    # docs/source/reference/memory.md of TensorRT-LLM: engine 6695 MiB, execution context
    # 1134 MiB, 259840 tokens in blocks of 64 at 0.9 of an H100, 63.44 GiB of KV cache.
    estimates = plan(
        LLAMA_2_7B,
        precision="fp8",
        kv_cache="fp8",
        max_batch_size=2048,
        gpu=named_gpu("h100-80g"),
    )
    assert estimates.engine_bytes_per_rank[0] / MIB == pytest.approx(6695, rel=0.001)
    assert estimates.activation_bytes_per_rank[0] / MIB == pytest.approx(1134, rel=0.05)
    assert estimates.kv_cache_tokens == pytest.approx(259840, rel=0.01)
    assert 259840 * estimates.kv_bytes_per_token_per_rank[0] / GIB == pytest.approx(
        63.44, abs=0.005
    )


@pytest.mark.parametrize(
    ("config", "precision", "published"),
    [
        # huggingface.co model pages: total size of the safetensors files.
        (LLAMA_3_8B, "bf16", 16_060_522_496),
        (MIXTRAL_8X7B, "bf16", 93_405_585_408),
        (QWEN25_7B, "bf16", 15_231_233_024),
        (LLAMA_2_7B, "fp16", 13_476_831_232),
    ],
    ids=["llama-3-8b", "mixtral-8x7b", "qwen2.5-7b", "llama-2-7b"],
)
def test_plain_weights_are_within_5_percent_of_the_published_files(
    config: dict[str, Any], precision: str, published: int
) -> None:
    assert plan(config, precision=precision).weight_bytes_per_rank[0] == pytest.approx(
        published, rel=0.05
    )


@pytest.mark.parametrize(
    ("precision", "size"),
    [
        ("fp16", 2 * 256 * 512 + 2 * 512),
        ("bf16", 2 * 256 * 512 + 2 * 512),
        ("int8", 256 * 512 + 2 * 512 + 2 * 512),
        ("int4", 256 * 512 // 2 + 2 * 512 + 2 * 512),
        ("int8_sq", 256 * 512 + 4 * 512 + 2 * 512),
        ("int4_awq", 256 * 512 // 2 + 2 * 512 * 2 + 2 * 256 + 2 * 512),
        ("w4a8_awq", 256 * 512 // 2 + 2 * 512 * 2 + 2 * 256 + 2 * 512),
        ("int4_gptq", 256 * 512 // 2 + 2 * 2 * 512 * 2 + 2 * 512),
        ("fp8", 256 * 512 + 8 + 2 * 512),
        ("nvfp4", 256 * 512 // 2 + 512 * 16 + 12 + 2 * 512),
    ],
)
def test_a_matrix_takes_weights_scales_and_bias(precision: str, size: int) -> None:
    matrix = Matrix(in_features=256, out_features=512, bias=True)
    assert matrix_bytes(matrix, precision) == size


def test_what_quantisation_leaves_out_stays_16_bit() -> None:
    assert matrix_bytes(Matrix(in_features=8, out_features=4, is_quantized=False), "int4") == 64


def test_int4_leaves_embedding_norms_and_output_layer_16_bit() -> None:
    geometry = read_geometry(LLAMA_2_7B)
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    scales = 2 * 32 * (4 * 4096 + 2 * 11008 + 4096)
    others = 2 * (2 * 32000 * 4096 + 65 * 4096)
    assert weight_bytes_per_rank(geometry, precision="int4", tp_size=1, pp_size=1) == (
        linear // 2 + scales + others,
    )


def test_tensor_ranks_share_layers_and_output_but_repeat_the_embedding() -> None:
    geometry = read_geometry(LLAMA_2_7B)
    layers = 2 * 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    whole = 2 * (32000 * 4096 + 65 * 4096)
    head = 2 * 32000 * 4096
    ranks = weight_bytes_per_rank(geometry, precision="fp16", tp_size=4, pp_size=1)
    assert ranks == (layers // 4 + whole + head // 4,) * 4


def test_pipeline_stages_hold_embedding_first_and_output_last() -> None:
    geometry = read_geometry(LLAMA_2_7B)
    layer = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096)
    table = 2 * 32000 * 4096
    ranks = weight_bytes_per_rank(geometry, precision="fp16", tp_size=1, pp_size=3)
    assert ranks == (11 * layer + table, 11 * layer, 10 * layer + 2 * 4096 + table)


def test_a_tied_embedding_is_kept_once_by_one_rank_and_twice_by_more() -> None:
    geometry = read_geometry(gpt2_like())
    (one,) = weight_bytes_per_rank(geometry, precision="fp16", tp_size=1, pp_size=1)
    assert one == 2 * 124_439_808
    first, last = weight_bytes_per_rank(geometry, precision="fp16", tp_size=1, pp_size=2)
    assert first + last == 2 * (124_439_808 + 50257 * 768)


def test_the_first_stages_take_the_layers_that_do_not_divide() -> None:
    assert layers_of_stages(7, 3) == (range(3), range(3, 5), range(5, 7))


@pytest.mark.parametrize(
    ("config", "kv_cache", "tp_size", "pp_size", "expected"),
    [
        (LLAMA_2_7B, None, 1, 1, (524288,)),
        (LLAMA_2_7B, "int8", 1, 1, (262144,)),
        (LLAMA_2_7B, None, 2, 2, (131072,) * 4),
        (LLAMA_3_8B, None, 1, 1, (131072,)),
        (LLAMA_3_8B, "fp8", 8, 1, (8192,) * 8),
        (LLAMA_2_70B, None, 8, 1, (40960,) * 8),
        (STARCODER, None, 1, 1, (20480,)),
        (STARCODER, None, 4, 1, (20480,) * 4),
        (STARCODER, "int8", 2, 3, (3584, 3584, 3328, 3328, 3328, 3328)),
        (STARCODER2_3B, None, 8, 1, (15360,) * 8),
        (QWEN25_7B, None, 1, 1, (57344,)),
        (QWEN25_7B, None, 8, 1, (14336,) * 8),
        (GEMMA_2_9B, None, 1, 1, (344064,)),
        (FALCON_7B, None, 1, 1, (8192,)),
        (LLAMA_3_8B, "nvfp4", 1, 1, (36864,)),
    ],
)
def test_kv_bytes_per_token_are_exact(
    config: dict[str, Any],
    kv_cache: str | None,
    tp_size: int,
    pp_size: int,
    expected: tuple[int, ...],
) -> None:
    geometry = read_geometry(config)
    found = kv_bytes_per_token_per_rank(
        geometry, kv_cache=kv_cache, tp_size=tp_size, pp_size=pp_size
    )
    assert found == expected


def test_latent_attention_keeps_one_head_twice_in_the_engine_and_once_in_pytorch() -> None:
    geometry = read_geometry(DEEPSEEK_V2_LITE)
    engine = kv_bytes_per_token_per_rank(geometry, kv_cache=None, tp_size=2, pp_size=1)
    pytorch = kv_bytes_per_token_per_rank(
        geometry, kv_cache=None, tp_size=2, pp_size=1, flow="pytorch"
    )
    assert (engine, pytorch) == ((27 * 2 * 576 * 2,) * 2, (27 * 576 * 2,) * 2)


def test_an_engine_adds_the_rotary_table_and_half_a_mebibyte_per_layer() -> None:
    geometry = read_geometry(LLAMA_2_7B)
    assert (
        engine_bytes_per_rank(geometry, (100, 100), tp_size=1)
        == (100 + 4 * 4096 * 128 + 8 * MIB,) * 2
    )


@pytest.mark.parametrize(("workers", "expected"), [(1, 160), (2, 220), (8, 220)])
def test_conversion_holds_the_checkpoint_and_one_rank_per_worker(
    workers: int, expected: int
) -> None:
    assert host_memory_bytes(100, (60, 50), workers) == expected


def test_nothing_is_stored_twice_on_disk() -> None:
    estimates = plan(LLAMA_2_7B, tp_size=2)
    assert estimates.disk_bytes == (
        estimates.checkpoint_bytes
        + sum(estimates.weight_bytes_per_rank)
        + sum(estimates.engine_bytes_per_rank)
    )


def test_the_pytorch_flow_converts_and_compiles_nothing() -> None:
    estimates = plan(LLAMA_2_7B, flow="pytorch", tp_size=2)
    assert estimates.engine_bytes_per_rank == ()
    assert estimates.disk_bytes == estimates.host_memory_bytes == 13_476_831_232


@pytest.mark.parametrize(
    ("config", "checkpoint_bytes", "parameters"),
    [
        (LLAMA_2_7B, 13_476_831_232, 6_738_415_616),
        # The type that config.json names is not the type of the files.
        (LLAMA_2_7B, 26_953_662_464, 6_738_415_616),
        # gpt2's file carries its causal masks.
        (gpt2_like(torch_dtype="float32"), 548_090_880, 124_439_808),
        # Twice the layers that config.json tells of, in any type.
        (LLAMA_2_7B, 20_000_000_000, 10_000_000_000),
        (llama_like("unheard-of"), 14_000_000_000, 7_000_000_000),
        (llama_like(quantization_config={"bits": 4}), 3_900_000_000, 6_738_415_616),
    ],
    ids=["agrees", "other type", "masks", "disagrees", "unknown family", "quantised"],
)
def test_the_checkpoint_decides_where_the_count_cannot(
    config: dict[str, Any], checkpoint_bytes: int, parameters: int
) -> None:
    estimates = plan(config, checkpoint_bytes=checkpoint_bytes)
    assert (estimates.checkpoint_bytes, estimates.parameters) == (checkpoint_bytes, parameters)


def test_tokens_come_in_whole_blocks_of_what_the_fraction_leaves() -> None:
    gpu = named_gpu("a100-80g")
    estimates = plan(LLAMA_3_8B, gpu=gpu, fraction=0.5)
    (weights,) = estimates.weight_bytes_per_rank
    left = usable_gpu_bytes(gpu) - weights - estimates.activation_bytes_per_rank[0]
    assert estimates.kv_cache_tokens == int(0.5 * left / 131072) // 64 * 64
    assert estimates.concurrent_sequences == estimates.kv_cache_tokens // 2048
    assert estimates.recommendation is None


def test_beams_multiply_what_a_sequence_takes() -> None:
    one, four = (
        plan(LLAMA_3_8B, gpu=named_gpu("h100-80g"), max_beam_width=width) for width in (1, 4)
    )
    assert one.concurrent_sequences is not None
    assert four.concurrent_sequences == pytest.approx(one.concurrent_sequences / 4, abs=2)


def test_weights_that_do_not_fit_are_answered_with_ranks_or_a_precision() -> None:
    document = plan(STARCODER, gpu=named_gpu("t4"), max_num_tokens=1024).document()
    assert document["concurrent_sequences"] == document["kv_cache_tokens"] == 0
    recommendation = document["recommendation"]
    assert recommendation["reason"] == (
        "weights of 28.9 GiB and activations of 157.2 MiB per rank do not fit into the 15.2 GiB "
        "available on Tesla T4"
    )
    assert [(c["option"], c["from"], c["to"]) for c in recommendation["changes"]] == [
        ("tp_size", 1, 4),
        ("precision", "fp16", "int8"),
    ]


def test_a_cache_too_small_for_one_sequence_names_what_would_do_alone() -> None:
    estimates = plan(
        LLAMA_3_8B, gpu=named_gpu("l4"), max_num_tokens=2048, max_seq_len=131072, fraction=0.5
    )
    recommendation = estimates.recommendation
    assert recommendation is not None
    assert recommendation.reason == (
        "one sequence needs 131072 tokens of KV cache, but "
        f"{estimates.kv_cache_tokens} fit on NVIDIA L4"
    )
    by_option = {change.option: change.value for change in recommendation.changes}
    assert by_option["max_seq_len"] == estimates.kv_cache_tokens
    for change in recommendation.changes:
        fields = {"fraction" if "fraction" in change.option else change.option: change.value}
        options: dict[str, Any] = {"max_seq_len": 131072, "fraction": 0.5, **fields}
        again = plan(LLAMA_3_8B, gpu=named_gpu("l4"), **{"max_num_tokens": 2048, **options})
        assert again.concurrent_sequences == change.concurrent_sequences >= 1


def test_where_no_change_does_alone_two_are_named_that_do_together() -> None:
    size: dict[str, Any] = {"gpu": named_gpu("l4"), "max_num_tokens": 8192, "max_seq_len": 131072}
    config = llama_like(hidden_size=8192, num_hidden_layers=80, num_attention_heads=64)
    recommendation = plan(config, **size).recommendation
    assert recommendation is not None
    assert recommendation.changes == ()
    options = {change.option: change.value for change in recommendation.together}
    assert len(options) == 2
    again = plan(config, **{**size, **options})
    assert again.concurrent_sequences == recommendation.together[-1].concurrent_sequences
    assert again.concurrent_sequences is not None
    assert again.concurrent_sequences >= 1


def test_a_stage_without_layers_does_not_bound_the_cache() -> None:
    gpu = named_gpu("h100-80g")
    config = llama_like(num_hidden_layers=2)
    two, three = (plan(config, gpu=gpu, pp_size=stages) for stages in (2, 3))
    assert three.kv_bytes_per_token_per_rank == (16384, 16384, 0)
    assert three.kv_cache_tokens is not None
    assert two.kv_cache_tokens is not None
    assert three.kv_cache_tokens >= two.kv_cache_tokens


def test_what_the_figures_leave_out_is_said() -> None:
    assert plan(MISTRAL_7B).notes == (
        "the sliding window of 4096 tokens is ignored: every layer is assumed to keep the whole "
        "sequence",
    )
    assert plan(FALCON_7B, tp_size=2, pp_size=3).notes == (
        "71 heads do not divide evenly over 2 tensor parallel ranks; figures are rounded up",
        "32 layers do not divide evenly over 3 stages; ranks 0 to 3 have one more than the others",
    )
    assert plan(llama_like("unheard-of", quantization_config={})).notes == (
        "unheard-of is counted like a Llama",
        "the checkpoint is already quantised; weights are counted as if it were not",
    )


def test_the_text_part_of_a_vision_model_is_what_counts() -> None:
    text = llama_like("gemma3_text", num_attention_heads=8, num_key_value_heads=4, head_dim=256)
    outer = {"model_type": "gemma3", "vision_config": {"hidden_size": 1152}, "text_config": text}
    assert read_geometry(outer) == read_geometry(text)


@pytest.mark.parametrize(
    ("change", "what", "why"),
    [
        (
            {"hidden_size": None},
            "config.json has no hidden_size, so nothing can be estimated",
            "none of hidden_size, n_embd, d_model, n_embed is a positive whole number",
        ),
        (
            {"vocab_size": "many"},
            'config.json has vocab_size "many"',
            "it must be a whole number, 0 or more",
        ),
    ],
    ids=["absent", "no number"],
)
def test_a_config_without_a_size_is_refused(change: dict[str, Any], what: str, why: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_geometry({**LLAMA_2_7B, **change})
    error = caught.value
    assert (error.what, error.why, error.hint, error.exit_code) == (what, why, "", 4)


def test_the_example_of_the_docs_is_what_estimate_gives() -> None:
    page = (Path(__file__).parents[3] / "docs" / "estimates.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    estimates = plan(
        STARCODER,
        precision="int4",
        max_seq_len=8192,
        max_num_tokens=8192,
        tp_size=2,
        workers=2,
        checkpoint_bytes=62_069_825_536,
        gpu=named_gpu("a10-24g"),
        fraction=0.2,
    )
    assert json.loads(block) == estimates.document()
