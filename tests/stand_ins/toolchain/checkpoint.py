"""Reads Hugging Face configs, and writes and reads TRT-LLM checkpoints.

A TRT-LLM checkpoint is ``config.json`` and one ``rank{N}.safetensors`` per rank. Keys and names:
NVIDIA/TensorRT-LLM@aaacc9bd68b3e839fd25a0c7a80964d9b393ac99:tensorrt_llm/models/modeling_utils.py,
``tensorrt_llm/mapping.py`` and ``docs/source/architecture/checkpoint.md``.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.stand_ins.toolchain.failures import fail_before_rank, require_rank_1
from tests.stand_ins.toolchain.logger import log

if TYPE_CHECKING:
    from tests.stand_ins.toolchain.invocation import Invocation

_ROTARY = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "starcoder2", "gemma", "phi3")


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """How a checkpoint is cut into ranks."""

    tp_size: int
    pp_size: int = 1
    cp_size: int = 1
    moe_tp_size: int = -1
    moe_ep_size: int = -1

    @property
    def world_size(self) -> int:
        return self.tp_size * self.pp_size * self.cp_size

    def document(self) -> dict[str, int]:
        return {
            "world_size": self.world_size,
            "gpus_per_node": 8,
            "cp_size": self.cp_size,
            "tp_size": self.tp_size,
            "pp_size": self.pp_size,
            "moe_tp_size": self.tp_size if self.moe_tp_size < 1 else self.moe_tp_size,
            "moe_ep_size": 1 if self.moe_ep_size < 1 else self.moe_ep_size,
        }


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Upstream's names of a precision; None is none."""

    algorithm: str | None = None
    kv_cache: str | None = None
    group_size: int = 128

    def document(self) -> dict[str, Any]:
        grouped = self.algorithm is not None and self.algorithm.endswith(("_AWQ", "_GPTQ"))
        return {
            "quant_algo": self.algorithm,
            "kv_cache_quant_algo": self.kv_cache,
            "group_size": self.group_size,
            "smoothquant_val": 0.5,
            "clamp_val": None,
            "use_meta_recipe": False,
            "has_zero_point": self.algorithm in ("W4A16_GPTQ", "W8A16_GPTQ"),
            "pre_quant_scale": grouped and str(self.algorithm).endswith("_AWQ"),
            "exclude_modules": ["lm_head"] if self.algorithm else None,
        }


def read_hf_config(model_dir: str) -> dict[str, Any]:
    """Return the ``config.json`` of a Hugging Face checkpoint that has weights.

    Raises:
        OSError: One of the two is missing, in transformers' words.
    """
    folder = Path(model_dir)
    if not (folder / "config.json").is_file():
        message = (
            f"{model_dir} does not appear to have a file named config.json. Checkout "
            f"'https://huggingface.co/{model_dir}/tree/main' for available files."
        )
        raise OSError(message)
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        message = f"Could not find any .safetensors or .bin files in {model_dir}"
        raise OSError(message)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def checkpoint_config(
    hf: dict[str, Any],
    *,
    architecture: str,
    dtype: str,
    mapping: Mapping,
    quantization: Quantization,
) -> dict[str, Any]:
    """Return the ``config.json`` of a TRT-LLM checkpoint.

    Raises:
        AssertionError: The heads cannot be shared among the ranks.
    """
    heads = _first(hf, "num_attention_heads", "n_head", "n_heads", default=1)
    kv_heads = _first(hf, "num_key_value_heads", default=1 if hf.get("multi_query") else heads)
    assert heads % mapping.tp_size == 0, "num_attention_heads must be divisible by tp_size"
    fits = kv_heads % mapping.tp_size == 0 or mapping.tp_size % kv_heads == 0
    assert fits, "num_kv_heads and tp_size must divide each other"
    hidden = _first(hf, "hidden_size", "n_embd", "d_model", default=8)
    rotary = str(hf.get("model_type", "")).startswith(_ROTARY)
    return {
        "architecture": architecture,
        "dtype": _dtype(hf, dtype),
        "vocab_size": _first(hf, "vocab_size", default=16),
        "hidden_size": hidden,
        "num_hidden_layers": _first(hf, "num_hidden_layers", "n_layer", "n_layers", default=1),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": _first(hf, "intermediate_size", "n_inner", default=4 * hidden),
        "hidden_act": _first(hf, "hidden_act", "activation_function", default="gelu"),
        "logits_dtype": "float32",
        "norm_epsilon": 1e-5,
        "position_embedding_type": "rope_gpt_neox" if rotary else "learned_absolute",
        "max_position_embeddings": _first(
            hf, "max_position_embeddings", "n_positions", "max_seq_len", default=64
        ),
        "rotary_embedding_dim": None,
        "head_size": _first(hf, "head_dim", default=hidden // heads),
        "qk_layernorm": False,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "runtime_defaults": None,
        "mapping": mapping.document(),
        "quantization": quantization.document(),
    }


def write_checkpoint(
    output_dir: Path, config: dict[str, Any], mapping: Mapping, invocation: Invocation
) -> None:
    """Write a TRT-LLM checkpoint, or as much of it as the failure asked for leaves."""
    require_rank_1(invocation, mapping.world_size)
    output_dir.mkdir(parents=True, exist_ok=True)
    if invocation.fails("wrong_mapping"):
        config = {**config, "mapping": Mapping(tp_size=mapping.tp_size + 1).document()}
    text = json.dumps(config, indent=4)
    if invocation.fails("torn_config"):
        text = text[: len(text) // 2]
    for rank in range(mapping.world_size):
        fail_before_rank(invocation, rank)
        if rank == 0:
            (output_dir / "config.json").write_text(text, encoding="utf-8")
        if rank == 1 and invocation.fails("missing_rank_1"):
            continue
        write_safetensors(output_dir / f"rank{rank}.safetensors", rank)
    log("Total time of converting checkpoints: 00:00:01")


def write_safetensors(path: Path, rank: int) -> None:
    """Write a valid safetensors file of one small tensor that differs by rank."""
    data = struct.pack("<8e", *(rank + number / 8 for number in range(8)))
    tensor = {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, len(data)]}
    header = json.dumps({"transformer.vocab_embedding.weight": tensor}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def read_checkpoint(checkpoint_dir: Path) -> dict[str, Any]:
    """Return the config of a TRT-LLM checkpoint whose ranks are all there.

    Raises:
        OSError: A file is missing.
        ValueError: A file is not what its name says.
        KeyError: The config lacks a key.
    """
    path = checkpoint_dir / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("architecture", "dtype", "quantization"):
        _ = config[name]
    for rank in range(config["mapping"]["world_size"]):
        weights = checkpoint_dir / f"rank{rank}.safetensors"
        content = weights.read_bytes()
        (size,) = struct.unpack_from("<Q", content)
        if not isinstance(json.loads(content[8 : 8 + size]), dict):
            message = f"{weights} is no safetensors file"
            raise ValueError(message)
    return config


def _first(config: dict[str, Any], *names: str, default: Any) -> Any:
    found = [config[name] for name in names if config.get(name) is not None]
    return found[0] if found else default


def _dtype(hf: dict[str, Any], asked: str) -> str:
    """Return the type, of which ``auto`` is the checkpoint's own, and float16 for float32."""
    if asked != "auto":
        return asked
    own = str(hf.get("torch_dtype") or hf.get("dtype") or "float16")
    return "float16" if own == "float32" else own
