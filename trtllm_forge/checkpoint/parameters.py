"""Count the parameters of a decoder, matrix by matrix, and the share of each on one rank.

Counts are in elements. A matrix is split over tensor parallel ranks as in Megatron: a block's
input projections (query, key, value, up, gate) by their outputs, its output projections (attention
output, down) by their inputs. Norms, routers and the low-rank halves of latent attention are on
every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.geometry import ModelGeometry, MoeGeometry

Split = Literal["out", "in", "none"]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A linear layer, or ``copies`` equal ones.

    Attributes:
        in_features: Its inputs.
        out_features: Its outputs.
        split: Which side is divided over the ranks.
        unit: Features that stay together: a head's width for attention, otherwise 1.
        bias: Whether it has one.
        copies: How many there are in the layer, for experts.
        is_quantized: Whether quantisation applies to it.
    """

    in_features: int
    out_features: int
    split: Split = "none"
    unit: int = 1
    bias: bool = False
    copies: int = 1
    is_quantized: bool = True

    @property
    def parameters(self) -> int:
        """Elements of all copies, biases included."""
        bias = self.out_features if self.bias else 0
        return self.copies * (self.in_features * self.out_features + bias)

    def on_rank(self, tp_size: int) -> Matrix:
        """Return the part on one rank, rounded up to a whole unit if it does not divide evenly.

        A KV head is therefore repeated when there are fewer KV heads than ranks.
        """
        out_features, in_features = self.out_features, self.in_features
        if self.split == "out":
            out_features = _share(out_features, tp_size, self.unit)
        elif self.split == "in":
            in_features = _share(in_features, tp_size, self.unit)
        return Matrix(
            in_features=in_features,
            out_features=out_features,
            bias=self.bias,
            copies=self.copies,
            is_quantized=self.is_quantized,
        )


def count_parameters(geometry: ModelGeometry) -> int:
    """Return the number of parameters; a tied embedding counts once.

    ``embedding + positions + sum over layers (matrices + norms) + final norm + output layer``.
    Exact for the families of ``geometry.py``; vision towers and draft heads are left out.
    """
    layers = sum(
        sum(matrix.parameters for matrix in layer_matrices(geometry, layer))
        + layer_vector_elements(geometry)
        for layer in range(geometry.num_layers)
    )
    head = 0 if geometry.tie_word_embeddings else geometry.vocab_size * geometry.hidden_size
    head += geometry.vocab_size if geometry.lm_head_bias else 0
    return embedding_elements(geometry) + layers + norm_elements(geometry) + head


def embedding_elements(geometry: ModelGeometry) -> int:
    """Return the elements before the first layer: token and position embeddings, their norm."""
    rows = geometry.vocab_size + geometry.position_rows
    norm = norm_elements(geometry) if geometry.embedding_norm else 0
    return rows * geometry.hidden_size + norm


def norm_elements(geometry: ModelGeometry) -> int:
    """Return the elements of one norm over the residual stream."""
    return geometry.hidden_size * (2 if geometry.norm_bias else 1)


def layer_vector_elements(geometry: ModelGeometry) -> int:
    """Return the elements of one layer's norms."""
    elements = geometry.norms_per_layer * norm_elements(geometry)
    if geometry.qk_norm:
        elements += 2 * geometry.head_dim
    if geometry.mla is not None:
        elements += geometry.mla.q_lora_rank + geometry.mla.kv_lora_rank
    return elements


def layer_matrices(geometry: ModelGeometry, layer: int) -> tuple[Matrix, ...]:
    """Return the matrices of ``layer``, which counts from 0."""
    attention = _attention(geometry) if geometry.mla is None else _latent_attention(geometry)
    moe = geometry.moe
    if moe is None or layer < moe.dense_layers:
        return (*attention, *_mlp(geometry, geometry.intermediate_size))
    return (*attention, *_experts(geometry, moe))


def layers_of_stages(num_layers: int, pp_size: int) -> tuple[range, ...]:
    """Return the layers of each pipeline stage; the first stages get one more if uneven.

    Source: NVIDIA/TensorRT-LLM@05ebebb2c1d3:tensorrt_llm/mapping.py (``pp_layers``).
    """
    stages: list[range] = []
    start = 0
    for stage in range(pp_size):
        count = num_layers // pp_size + (1 if stage < num_layers % pp_size else 0)
        stages.append(range(start, start + count))
        start += count
    return tuple(stages)


def _attention(geometry: ModelGeometry) -> tuple[Matrix, ...]:
    hidden, unit = geometry.hidden_size, geometry.head_dim
    query, key = geometry.num_heads * unit, geometry.num_kv_heads * unit
    bias = geometry.qkv_bias
    return (
        Matrix(in_features=hidden, out_features=query, split="out", unit=unit, bias=bias),
        Matrix(in_features=hidden, out_features=key, split="out", unit=unit, bias=bias),
        Matrix(in_features=hidden, out_features=key, split="out", unit=unit, bias=bias),
        Matrix(
            in_features=query,
            out_features=hidden,
            split="in",
            unit=unit,
            bias=geometry.output_bias,
        ),
    )


def _latent_attention(geometry: ModelGeometry) -> tuple[Matrix, ...]:
    mla = geometry.mla
    assert mla is not None
    hidden, heads = geometry.hidden_size, geometry.num_heads
    head = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    value = mla.qk_nope_head_dim + mla.v_head_dim
    # The engine keeps the up-projecting halves as plain parameters, which are never quantised.
    # Source: NVIDIA/TensorRT-LLM tensorrt_llm/layers/attention.py (DeepseekV2Attention).
    up = [
        Matrix(
            in_features=mla.q_lora_rank or hidden,
            out_features=heads * head,
            split="out",
            unit=head,
            is_quantized=False,
        ),
        Matrix(
            in_features=mla.kv_lora_rank,
            out_features=heads * value,
            split="out",
            unit=value,
            is_quantized=False,
        ),
    ]
    down = [Matrix(in_features=hidden, out_features=mla.latent_size)]
    if mla.q_lora_rank:
        down.append(Matrix(in_features=hidden, out_features=mla.q_lora_rank))
    width = mla.v_head_dim
    out = Matrix(in_features=heads * width, out_features=hidden, split="in", unit=width)
    return (*down, *up, out)


def _mlp(
    geometry: ModelGeometry, width: int, *, copies: int = 1, bias: bool | None = None
) -> tuple[Matrix, ...]:
    hidden = geometry.hidden_size
    with_bias = geometry.mlp_bias if bias is None else bias
    way_in = Matrix(
        in_features=hidden, out_features=width, split="out", bias=with_bias, copies=copies
    )
    way_out = Matrix(
        in_features=width, out_features=hidden, split="in", bias=with_bias, copies=copies
    )
    return (way_in, way_in, way_out) if geometry.gated_mlp else (way_in, way_out)


def _experts(geometry: ModelGeometry, moe: MoeGeometry) -> tuple[Matrix, ...]:
    hidden = geometry.hidden_size
    router = Matrix(in_features=hidden, out_features=moe.num_experts, is_quantized=False)
    experts = _mlp(geometry, moe.intermediate_size, copies=moe.num_experts, bias=False)
    if not moe.shared_intermediate_size:
        return (router, *experts)
    shared = _mlp(geometry, moe.shared_intermediate_size, bias=False)
    gate = Matrix(in_features=hidden, out_features=1, is_quantized=False)
    return (router, *experts, *shared, *((gate,) if moe.shared_gate else ()))


def _share(features: int, tp_size: int, unit: int) -> int:
    units = -(-features // unit)
    return -(-units // tp_size) * unit
