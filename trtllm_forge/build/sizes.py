"""Sizes in bytes of what a build makes and of what its engine needs at run time.

Weights and KV cache are counted; activations, host memory and what a GPU loses to its driver are
estimates and marked as such. ``estimates.py`` combines them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trtllm_forge.checkpoint.parameters import (
    Matrix,
    embedding_elements,
    layer_matrices,
    layer_vector_elements,
    layers_of_stages,
    norm_elements,
)
from trtllm_forge.text.quantities import GIB

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.geometry import ModelGeometry
    from trtllm_forge.machine.gpu import Gpu

Flow = Literal["engine", "pytorch"]

GROUP_SIZE = 128
# Bits per weight of each precision; 16 for all others.
PRECISION_BITS = {
    "int8": 8,
    "int8_sq": 8,
    "fp8": 8,
    "int4": 4,
    "int4_awq": 4,
    "int4_gptq": 4,
    "w4a8_awq": 4,
    "nvfp4": 4,
}
# What an engine file holds besides weights and tables: 16.4 MiB for 32 layers in the log in
# NVIDIA/TensorRT-LLM@7ff530237:docs/source/reference/memory.md.
_GRAPH_BYTES_PER_LAYER = 1 << 19

# Extra bits per weight of an OpenVINO model: scales, zero points, layers kept at 8 bit or more.
_OPENVINO_EXTRA_BITS = {"int8": 0.5, "int4": 1.0}


def openvino_bits(precision: str) -> float:
    """Return an estimate of the bits per weight of an OpenVINO model over all its files."""
    return PRECISION_BITS.get(precision, 16) + _OPENVINO_EXTRA_BITS.get(precision, 0.0)


def matrix_bytes(matrix: Matrix, precision: str, *, group_size: int = GROUP_SIZE) -> int:
    """Return the bytes of a linear layer and all its copies in a precision.

    With ``n = in * out`` weights, ``g`` their group size, biases always 16 bit:

    - fp16, bf16, and layers that are not quantised: ``2 n``
    - int8: ``n + 2 out``, a 16-bit scale per output; int4: ``n / 2 + 2 out``
    - int8_sq: ``n + 4 out``, a 32-bit scale per output
    - int4_awq, w4a8_awq: ``n / 2 + 2 n / g + 2 in``, scales per group and one per input
    - int4_gptq: ``n / 2 + 2 n / g + 2 n / g``, scales and zeros per group
    - fp8: ``n + 8``, one 32-bit scale for weights and one for inputs
    - nvfp4: ``n / 2 + n / 16 + 12``, an 8-bit scale per 16 weights and three 32-bit ones

    Source: NVIDIA/TensorRT-LLM tensorrt_llm/quantization/layers.py (the classes' parameters).
    """
    inputs, outputs = matrix.in_features, matrix.out_features
    weights = inputs * outputs
    size = weights * PRECISION_BITS.get(precision, 16) // 8
    if not matrix.is_quantized or precision not in PRECISION_BITS:
        size = 2 * weights
    elif precision in ("int8", "int4"):
        size += 2 * outputs
    elif precision == "int8_sq":
        size += 4 * outputs
    elif precision in ("int4_awq", "w4a8_awq"):
        size += 2 * outputs * -(-inputs // group_size) + 2 * inputs
    elif precision == "int4_gptq":
        size += 4 * outputs * -(-inputs // group_size)
    elif precision == "fp8":
        size += 8
    else:
        size += outputs * -(-inputs // 16) + 12
    return matrix.copies * (size + (2 * outputs if matrix.bias else 0))


def weight_bytes_per_rank(
    geometry: ModelGeometry, *, precision: str, tp_size: int, pp_size: int, flow: Flow = "engine"
) -> tuple[int, ...]:
    """Return the weights of each rank in bytes; a rank is ``stage * tp_size + tensor rank``.

    ``sum over the rank's layers (matrices / tp_size in the precision + norms in 16 bit)``, plus, in
    16 bit, the embedding on the first stage and the output layer on the last. The engine repeats
    the embedding on every tensor rank unless configured to split it; the output layer is split,
    its rows rounded up to a multiple of ``tp_size``. An engine with one rank keeps a tied embedding
    once; with more ranks, the two matrices differ in shape or place and both are kept.

    Source: NVIDIA/TensorRT-LLM tensorrt_llm/quantization/quantize.py (modules left out),
    tensorrt_llm/models/modeling_utils.py (``share_embedding``), tensorrt_llm/mapping.py.
    """
    ranks: list[int] = []
    vocab = -(-geometry.vocab_size // tp_size)
    for stage, layers in enumerate(layers_of_stages(geometry.num_layers, pp_size)):
        size = sum(_layer_bytes(geometry, layer, precision, tp_size) for layer in layers)
        is_last = stage == pp_size - 1
        if stage == 0:
            size += 2 * embedding_elements(geometry)
            if flow == "pytorch":
                size -= 2 * (geometry.vocab_size - vocab) * geometry.hidden_size
        if is_last:
            size += 2 * norm_elements(geometry)
            size += 2 * vocab if geometry.lm_head_bias else 0
            shared = geometry.tie_word_embeddings and pp_size == 1
            if not (shared and (tp_size == 1 or flow == "pytorch")):
                size += 2 * vocab * geometry.hidden_size
        ranks += [size] * tp_size
    return tuple(ranks)


def engine_bytes_per_rank(
    geometry: ModelGeometry, weights: tuple[int, ...], *, tp_size: int
) -> tuple[int, ...]:
    """Return the size of each rank's engine file in bytes.

    ``weights + 4 * max_positions * rotary_dim + 0.5 MiB * layers``: nearly all of it is weights,
    the rest the 32-bit table of the rotary embedding and the graph with its kernels.

    Source: NVIDIA/TensorRT-LLM@7ff530237:docs/source/reference/memory.md; the last term is fitted
    to the log there.
    """
    table = 4 * geometry.max_positions * geometry.rotary_dim
    stages = layers_of_stages(geometry.num_layers, len(weights) // tp_size)
    return tuple(
        size + table + _GRAPH_BYTES_PER_LAYER * len(stages[rank // tp_size])
        for rank, size in enumerate(weights)
    )


def kv_bytes_per_token_per_rank(
    geometry: ModelGeometry,
    *,
    kv_cache: str | None,
    tp_size: int,
    pp_size: int,
    flow: Flow = "engine",
) -> tuple[int, ...]:
    """Return the exact KV cache size of one token on each rank, in bytes.

    ``2 * layers of the rank * local KV heads * head_dim * bytes per element``, where local KV
    heads are ``ceil(num_kv_heads / tp_size)``: a rank holds at least one, so heads are repeated
    when there are fewer of them than ranks. Elements take 2 bytes, 1 with int8 or fp8, and 9/16
    with nvfp4, whose scales take one byte per 16 elements. Layers with a sliding window count like
    the others.

    Latent attention keeps one head of ``kv_lora_rank + qk_rope_head_dim`` on every rank. The
    engine's runtime still reserves a key and a value of that width (its cache has the factor 2);
    the PyTorch backend keeps it once.

    Source: NVIDIA/TensorRT-LLM@2213a799e:cpp/include/tensorrt_llm/batch_manager/kvCacheManager.h
    (``calculateCacheSizePerToken``), @0321f71e9:tensorrt_llm/models/deepseek_v2/config.py,
    @b35ac1b64:cpp/tensorrt_llm/batch_manager/trtGptModelInflightBatching.cpp (``kSELF``, 2).
    """
    if geometry.mla is None:
        elements = 2 * -(-geometry.num_kv_heads // tp_size) * geometry.head_dim
    else:
        elements = (2 if flow == "engine" else 1) * geometry.mla.latent_size
    sixteenths = {"int8": 16, "fp8": 16, "nvfp4": 9}.get(kv_cache or "", 32)
    ranks: list[int] = []
    for layers in layers_of_stages(geometry.num_layers, pp_size):
        ranks += [len(layers) * elements * sixteenths // 16] * tp_size
    return tuple(ranks)


def activation_bytes(
    geometry: ModelGeometry,
    *,
    tp_size: int,
    max_num_tokens: int,
    max_batch_size: int,
    max_beam_width: int,
) -> int:
    """Return an estimate of one rank's memory besides weights and KV cache, in bytes.

    ``2 * max_num_tokens * (4 hidden + 3 mlp + qkv) + 2 * rows * vocab``, with the MLP's and the
    attention's local widths. An MLP without a gate counts twice; for experts the width is
    multiplied by the experts per token. ``rows`` are the logits of one step, ``max_batch_size *
    max_beam_width`` but at most ``max_num_tokens``. TensorRT determines the true figure during the
    build. The factors are fitted to the log in TensorRT-LLM's memory page (1134 MiB for Llama 2 7B
    in fp8; this formula gives 1089).

    Source: NVIDIA/TensorRT-LLM@7ff530237:docs/source/reference/memory.md, "Activation size".
    """
    moe = geometry.moe
    width = geometry.intermediate_size
    if moe is not None:
        experts = moe.experts_per_token * moe.intermediate_size
        width = max(width, experts + moe.shared_intermediate_size)
    heads = -(-geometry.num_heads // tp_size) + 2 * -(-geometry.num_kv_heads // tp_size)
    per_token = (
        4 * geometry.hidden_size
        + (3 if geometry.gated_mlp else 2) * -(-width // tp_size)
        + heads * geometry.head_dim
    )
    rows = min(max_batch_size * max_beam_width, max_num_tokens)
    return 2 * max_num_tokens * per_token + 2 * rows * geometry.vocab_size


def host_memory_bytes(checkpoint_bytes: int, weights: tuple[int, ...], workers: int) -> int:
    """Return an estimate of the host memory needed for conversion, in bytes.

    ``checkpoint + min(workers, ranks) * largest rank``: the checkpoint once in its own type, plus
    the converted weights of the ranks in progress. This assumes that the workers are threads that
    share one loaded model, as in upstream's converters; one that loads tensor by tensor needs less.

    Source: NVIDIA/TensorRT-LLM examples/models/core/gpt/convert_checkpoint.py (``execute``).
    """
    return checkpoint_bytes + min(workers, len(weights)) * max(weights, default=0)


def usable_gpu_bytes(gpu: Gpu) -> int:
    """Return an estimate of the memory for weights, activations and KV cache, in bytes.

    ``memory - 2 % - 0.5 GiB``: error correction and the driver, then CUDA's context, the runtime's
    buffers and the decoder. An 80 GiB H100 shows 79.1 GiB to CUDA and loses about 1 GiB more in the
    log on TensorRT-LLM's memory page.

    Source: NVIDIA/TensorRT-LLM@7ff530237:docs/source/reference/memory.md.
    """
    return gpu.memory_bytes - gpu.memory_bytes // 50 - GIB // 2


def _layer_bytes(geometry: ModelGeometry, layer: int, precision: str, tp_size: int) -> int:
    matrices = (matrix.on_rank(tp_size) for matrix in layer_matrices(geometry, layer))
    size = sum(matrix_bytes(matrix, precision) for matrix in matrices)
    if geometry.mla is not None:
        # The engine also keeps the keys' up projection transposed.
        heads = -(-geometry.num_heads // tp_size)
        size += 2 * heads * geometry.mla.qk_nope_head_dim * geometry.mla.kv_lora_rank
    return size + 2 * layer_vector_elements(geometry)
