"""The shape of a decoder, read from its checkpoint's ``config.json``.

``read_geometry`` turns the many spellings of Hugging Face's families into one ``ModelGeometry``.
``parameters.py`` counts its parameters and ``estimates.py`` its bytes; ``families.py`` has what a
config does not state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.checkpoint.families import FAMILIES, LLAMA, TEXT_PARTS, FamilyRules
from trtllm_forge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True, kw_only=True)
class MlaGeometry:
    """Multi-head latent attention, as DeepSeek V2 has it; all in elements.

    Attributes:
        q_lora_rank: Width of the compressed query, 0 when queries are not compressed.
        kv_lora_rank: Width of the compressed key and value.
        qk_nope_head_dim: Part of a head without a rotary embedding.
        qk_rope_head_dim: Part of a head with a rotary embedding, shared by all heads of a key.
        v_head_dim: Width of a head of the value.
    """

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def latent_size(self) -> int:
        """Elements per token and layer in the KV cache."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, kw_only=True)
class MoeGeometry:
    """A mixture of experts.

    Attributes:
        num_experts: Routed experts of one layer.
        experts_per_token: Experts that one token is routed to.
        intermediate_size: Width of one expert.
        shared_intermediate_size: Total width of the shared experts, 0 for none.
        shared_gate: Whether a gate with one output weighs the shared experts.
        dense_layers: Leading layers that have a plain MLP instead.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    dense_layers: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelGeometry:
    """What determines a decoder's size; all sizes in elements.

    Attributes:
        model_type: Hugging Face's name for the family.
        hidden_size: Width of the residual stream.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, 1 for multi-query attention.
        head_dim: Width of one head.
        intermediate_size: Width of the MLP.
        vocab_size: Rows of the embedding.
        max_positions: Longest sequence the model was trained for.
        position_rows: Rows of a learned position embedding, 0 for none.
        rotary_dim: Part of a head that is rotated, 0 without rotary embeddings.
        gated_mlp: Whether the MLP has a gate projection beside its up projection.
        tie_word_embeddings: Whether the output layer is the embedding.
        qkv_bias: Whether queries, keys and values have a bias.
        output_bias: Whether the attention's output has one.
        mlp_bias: Whether the MLP has one.
        lm_head_bias: Whether the output layer has one.
        norm_bias: Whether norms have a bias beside their weight.
        norms_per_layer: Norms of width ``hidden_size`` in a layer.
        qk_norm: Whether queries and keys have a norm of width ``head_dim`` each.
        embedding_norm: Whether a norm follows the embedding.
        sliding_window: Tokens that a layer with a window looks back, or None.
        moe: The mixture of experts, None for a dense model.
        mla: The latent attention, None for ordinary attention.
        dtype_bytes: Bytes per element of the checkpoint, as its config states.
        is_quantized: Whether the checkpoint is already quantised, as its config states.
        is_known: Whether forge has rules for the family.
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    position_rows: int = 0
    rotary_dim: int = 0
    gated_mlp: bool = True
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    norm_bias: bool = False
    norms_per_layer: int = 2
    qk_norm: bool = False
    embedding_norm: bool = False
    sliding_window: int | None = None
    moe: MoeGeometry | None = None
    mla: MlaGeometry | None = None
    dtype_bytes: int = 2
    is_quantized: bool = False
    is_known: bool = True


def read_geometry(config: Mapping[str, Any]) -> ModelGeometry:
    """Return the shape of the decoder that a ``config.json`` describes.

    A family without rules is read like a Llama, by the usual keys, and ``is_known`` is False.

    Raises:
        CheckpointError: A size that every decoder has is missing or not a positive whole number.
    """
    values: dict[str, Any] = dict(config)
    for part in ("text_config", "ffn_config"):
        values.update(config[part] if isinstance(config.get(part), dict) else {})
    outer = str(config.get("model_type", "")).lower()
    model_type = outer if outer in FAMILIES else str(values.get("model_type", outer)).lower()
    model_type = TEXT_PARTS.get(model_type, TEXT_PARTS.get(outer, model_type))
    family = FAMILIES.get(model_type, LLAMA)
    hidden = _size(values, "hidden_size", "n_embd", "d_model", "n_embed")
    heads = _size(values, "num_attention_heads", "n_head", "n_heads", "num_heads")
    head_dim = _first(values, "head_dim", "kv_channels") or family.head_dim or hidden // heads
    rotary_dim = _rotary_dim(values, family, head_dim, model_type)
    positions = _first(
        values, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"
    )
    qkv_bias, output_bias, mlp_bias = _biases(values, family, model_type)
    return ModelGeometry(
        model_type=model_type,
        hidden_size=hidden,
        num_layers=_size(values, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        num_heads=heads,
        num_kv_heads=_kv_heads(values, heads, model_type),
        head_dim=head_dim,
        # The first Qwen family counts the gate and up projections together.
        intermediate_size=_intermediate_size(values, hidden) // (2 if model_type == "qwen" else 1),
        vocab_size=_size(values, "padded_vocab_size", "vocab_size"),
        max_positions=positions or 2048,
        position_rows=_position_rows(values, family, positions),
        rotary_dim=rotary_dim,
        gated_mlp=family.gated,
        tie_word_embeddings=_flag(values, "tie_word_embeddings", family.tied),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        lm_head_bias=family.lm_head_bias,
        norm_bias=family.norm_bias,
        norms_per_layer=_norms(values, family, model_type),
        qk_norm=family.qk_norm,
        embedding_norm=family.embedding_norm,
        sliding_window=_first(values, "sliding_window") or None,
        moe=_moe(values, model_type),
        mla=_mla(values),
        dtype_bytes=_DTYPE_BYTES.get(_dtype(config, values), 2),
        is_quantized="quantization_config" in values,
        is_known=model_type in FAMILIES,
    )


def _biases(
    values: Mapping[str, Any], family: FamilyRules, model_type: str
) -> tuple[bool, bool, bool]:
    if family.bias_key:
        every = _flag(values, family.bias_key, family.bias[0])
        return every, every, every
    if model_type == "mpt":
        every = not _flag(values, "no_bias", True)
        return every, every, every
    qkv, output, mlp = family.bias
    if model_type == "stablelm":
        return _flag(values, "use_qkv_bias", False), False, False
    if model_type == "chatglm":
        return _flag(values, "add_qkv_bias", qkv), output, mlp
    if model_type in ("qwen2", "qwen2_moe"):
        return qkv, output, mlp
    if "attention_bias" in values and values["attention_bias"] is not None:
        qkv = output = _flag(values, "attention_bias", False)
    return qkv, output, _flag(values, "mlp_bias", mlp)


def _kv_heads(values: Mapping[str, Any], heads: int, model_type: str) -> int:
    if model_type == "falcon":
        if values.get("new_decoder_architecture"):
            return _first(values, "num_kv_heads", "n_head_kv") or heads
        return 1 if _flag(values, "multi_query", True) else heads
    if model_type == "gpt_bigcode":
        return 1 if _flag(values, "multi_query", True) else heads
    attention = values.get("attn_config")
    if isinstance(attention, dict):
        return _first(attention, "kv_n_heads") or heads
    if values.get("multi_query_attention"):
        return _first(values, "multi_query_group_num") or 1
    return _first(values, "num_key_value_heads", "num_kv_heads") or heads


def _norms(values: Mapping[str, Any], family: FamilyRules, model_type: str) -> int:
    if model_type == "falcon" and _flag(values, "parallel_attn", True):
        new = bool(values.get("new_decoder_architecture"))
        return 2 if new and values.get("num_ln_in_parallel_attn") != 1 else 1
    if model_type == "stablelm" and values.get("use_parallel_residual"):
        return 1
    return family.norms


def _intermediate_size(values: Mapping[str, Any], hidden: int) -> int:
    given = _first(values, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    return given or (_first(values, "expansion_ratio") or 4) * hidden


def _position_rows(values: Mapping[str, Any], family: FamilyRules, positions: int) -> int:
    attention = values.get("attn_config")
    if "expansion_ratio" in values and isinstance(attention, dict):
        learned = not attention.get("alibi") and _flag(values, "learned_pos_emb", True)
        return positions if learned else 0
    return positions + family.extra_positions if family.learned_positions else 0


def _rotary_dim(
    values: Mapping[str, Any], family: FamilyRules, head_dim: int, model_type: str
) -> int:
    if not family.rotary or (model_type == "falcon" and values.get("alibi")):
        return 0
    if model_type == "gptj":
        return _first(values, "rotary_dim") or head_dim
    mla = _mla(values)
    if mla is not None:
        return mla.qk_rope_head_dim
    share = values.get("partial_rotary_factor", values.get("rotary_pct"))
    return int(head_dim * share) if isinstance(share, (int, float)) else head_dim


def _moe(values: Mapping[str, Any], model_type: str) -> MoeGeometry | None:
    experts = _first(
        values, "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"
    )
    if experts < 2:
        return None
    width = _first(values, "moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
    shared = _first(values, "shared_expert_intermediate_size")
    return MoeGeometry(
        num_experts=experts,
        experts_per_token=_first(values, "num_experts_per_tok", "moe_top_k") or 2,
        intermediate_size=width,
        shared_intermediate_size=shared or _first(values, "n_shared_experts") * width,
        shared_gate=model_type == "qwen2_moe",
        dense_layers=_first(values, "first_k_dense_replace"),
    )


def _mla(values: Mapping[str, Any]) -> MlaGeometry | None:
    if not _first(values, "kv_lora_rank"):
        return None
    return MlaGeometry(
        q_lora_rank=_first(values, "q_lora_rank"),
        kv_lora_rank=_size(values, "kv_lora_rank"),
        qk_nope_head_dim=_size(values, "qk_nope_head_dim"),
        qk_rope_head_dim=_size(values, "qk_rope_head_dim"),
        v_head_dim=_size(values, "v_head_dim"),
    )


def _dtype(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    for place in (values, config):
        for key in ("dtype", "torch_dtype"):
            if place.get(key):
                return str(place[key]).removeprefix("torch.")
    return ""


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    given = values.get(key)
    return default if given is None else bool(given)


def _size(values: Mapping[str, Any], *keys: str) -> int:
    size = _first(values, *keys)
    if size < 1:
        what = f"config.json has no {keys[0]}, so nothing can be estimated"
        raise CheckpointError(what, why=f"none of {', '.join(keys)} is a positive whole number")
    return size


def _first(values: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        given = values.get(key)
        if given is None or isinstance(given, bool):
            continue
        if isinstance(given, (int, float)) and given % 1 == 0 and given >= 0:
            return int(given)
        what = f"config.json has {key} {json.dumps(given)}"
        raise CheckpointError(what, why="it must be a whole number, 0 or more")
    return 0
