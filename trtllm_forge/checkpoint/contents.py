"""Read and verify a Hugging Face checkpoint on disk."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.checkpoint.files import (
    PICKLE_INDEX_NAME,
    SAFETENSORS_INDEX_NAME,
    choose_weights,
    require_tokenizer,
)
from trtllm_forge.errors import CheckpointError, unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CheckpointOrigin = Literal["hub", "local", "sample"]


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """Where a checkpoint comes from, resolved.

    Attributes:
        origin: The Hub, a local folder, or the sample that ships with forge.
        repo_id: Its Hugging Face name; the folder's name for a folder, ``sample`` for the sample.
        revision: The commit hash on the Hub, otherwise the SHA-256 over its files' digests. None
            only in a plan made while the Hub was out of reach.
        family: The preset's family, or the checkpoint's ``model_type``.
    """

    origin: CheckpointOrigin
    repo_id: str
    revision: str | None
    family: str


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a checkpoint's weights were quantised before forge saw them.

    Attributes:
        method: ``gptq``, ``awq``, ``modelopt``, ``fp8`` and so on, as the checkpoint spells it.
        bits: Bits per weight, 0 if not stated.
        group_size: Weights per scale, 0 if not stated.
        algorithm: ModelOpt's name, ``FP8`` or ``NVFP4``; empty for other methods.
        has_act_order: Whether GPTQ reordered the columns (``desc_act``).
    """

    method: str
    bits: int = 0
    group_size: int = 0
    algorithm: str = ""
    has_act_order: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What forge reads from a checkpoint's ``config.json``.

    Attributes:
        architecture: The first entry of ``architectures``.
        model_type: Hugging Face's name for the family.
        max_seq_len: Longest request the model was trained for, prompt plus output tokens.
        vocab_size: Rows of the embedding.
        num_layers: Transformer blocks.
        num_kv_heads: Key/value heads, 1 for multi-query attention.
        head_dim: Elements of one head.
        eos_token_ids: Ids that end a generation.
        num_heads: Query heads.
        dtype: Element type of the weights, ``float16`` and so on; empty if not stated.
        quantization: How the weights are already quantised, or None.
        document: The whole ``config.json``, for reading keys specific to a family.
    """

    architecture: str
    model_type: str
    max_seq_len: int
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    eos_token_ids: tuple[int, ...]
    num_heads: int = 0
    dtype: str = ""
    quantization: Quantization | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)


def verify_checkpoint(
    checkpoint_dir: Path, *, allow_pickle: bool, model: str = ""
) -> CheckpointConfig:
    """Check that a checkpoint is complete, reading only headers, and return its config.

    Args:
        checkpoint_dir: The folder.
        allow_pickle: Accept pickle weights; only their presence is checked.
        model: The user's name for it, for messages; the folder if empty.

    Raises:
        CheckpointError: The config, a shard or the tokenizer is missing, a safetensors file is
            truncated, or the architecture is unknown.
    """
    model = model or str(checkpoint_dir)
    config = read_checkpoint_config(checkpoint_dir)
    find_architecture(config.architecture, model=model)
    names = [path.name for path in checkpoint_dir.iterdir() if path.is_file()]
    weights = choose_weights(names, model=model, allow_pickle=allow_pickle)
    for index in (SAFETENSORS_INDEX_NAME, PICKLE_INDEX_NAME):
        if index in weights:
            _require_shards(checkpoint_dir / index, names, model)
    for name in weights:
        if name.endswith(".safetensors"):
            verify_safetensors(checkpoint_dir / name)
    require_tokenizer(names, model=model)
    return config


def verify_safetensors(path: Path) -> None:
    """Check a safetensors file's size against its header.

    The file is eight bytes of header length, the header as JSON, then the data.

    Raises:
        CheckpointError: The header cannot be read, or the size differs from what it states.

    Source: the safetensors README, section "Format".
    """
    actual = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= header_bytes <= actual - 8:
            what = f"{path} is not a complete safetensors file: {actual} bytes cannot hold a header"
            raise CheckpointError(what, why=f"its header length field says {header_bytes} bytes")
        header = stream.read(header_bytes)
    try:
        tensors = json.loads(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        expected = 8 + header_bytes + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{path} is not a safetensors file: its header cannot be read"
        raise CheckpointError(what, why=f"{error!r}") from error
    if actual != expected:
        word = "truncated" if actual < expected else "too long"
        what = f"{path} is {word}: its header describes {expected} bytes, the file has {actual}"
        why = "a copy or a download was interrupted, or the file was overwritten"
        raise CheckpointError(what, why=why)


def _require_shards(index_path: Path, names: list[str], model: str) -> None:
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        what = f"{index_path} lists no shards"
        raise CheckpointError(what, why='the key "weight_map" is missing or empty')
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        what = f"{model} has {len(shards) - len(missing)} of {len(shards)} weight shards"
        verb = "is" if len(missing) == 1 else "are"
        why = f"{index_path.name} lists {', '.join(missing[:3])}, which {verb} missing"
        raise CheckpointError(what, why=why)


def read_checkpoint_config(checkpoint_dir: Path) -> CheckpointConfig:
    """Return the parsed ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: It is missing, is not JSON, names no architecture, or has a value of
            an unexpected type.
    """
    path = checkpoint_dir / "config.json"
    try:
        return _understand(checkpoint_dir, _read_json(path))
    except (ValueError, TypeError, OverflowError) as error:
        what = f"{path} has an invalid value"
        raise CheckpointError(what, why=str(error)) from error


def parse_checkpoint_config(document: Mapping[str, Any]) -> CheckpointConfig:
    """Return the parsed content of a ``config.json`` without looking for files beside it.

    Raises:
        CheckpointError: It names no architecture.
        ValueError: A value has an unexpected type.
    """
    return _understand(None, document)


def _understand(checkpoint_dir: Path | None, document: Mapping[str, Any]) -> CheckpointConfig:
    text = document.get("text_config")
    values: dict[str, Any] = {**document, **(text if isinstance(text, dict) else {})}
    architectures = document.get("architectures") or []
    if not isinstance(architectures, list):
        message = f"architectures is {json.dumps(architectures)}, not a list"
        raise TypeError(message)
    if not architectures:
        path = checkpoint_dir / "config.json" if checkpoint_dir else "config.json"
        what = f"{path} names no architecture"
        raise CheckpointError(what, why='the key "architectures" is missing or empty')
    heads = _first_int(values, "num_attention_heads", "n_head", "n_heads")
    hidden = _first_int(values, "hidden_size", "n_embd", "d_model")
    return CheckpointConfig(
        architecture=str(architectures[0]),
        model_type=str(document.get("model_type", "")),
        max_seq_len=_first_int(values, "max_position_embeddings", "n_positions", "max_seq_len"),
        vocab_size=_first_int(values, "vocab_size"),
        num_layers=_first_int(values, "num_hidden_layers", "n_layer", "n_layers"),
        num_kv_heads=_kv_heads(values, heads),
        head_dim=_first_int(values, "head_dim") or (hidden // heads if heads else 0),
        eos_token_ids=_eos_token_ids(checkpoint_dir, values),
        num_heads=heads,
        dtype=str(values.get("torch_dtype") or values.get("dtype") or ""),
        quantization=_quantization(checkpoint_dir, values),
        document=document,
    )


def _quantization(checkpoint_dir: Path | None, values: dict[str, Any]) -> Quantization | None:
    """Return what ``quantization_config`` says, or ModelOpt's own file beside it."""
    stated = values.get("quantization_config")
    if isinstance(stated, dict):
        return Quantization(
            method=str(stated.get("quant_method") or "unknown"),
            bits=_first_int(stated, "bits", "w_bit"),
            group_size=_first_int(stated, "group_size", "q_group_size"),
            algorithm=str(stated.get("quant_algo") or ""),
            has_act_order=stated.get("desc_act") is True,
        )
    modelopt = _read_beside(checkpoint_dir, "hf_quant_config.json")
    if modelopt is not None:
        inner = modelopt.get("quantization")
        algorithm = inner.get("quant_algo") if isinstance(inner, dict) else None
        return Quantization(method="modelopt", algorithm=str(algorithm or ""))
    return None


def _kv_heads(values: dict[str, Any], heads: int) -> int:
    if values.get("multi_query") is True:
        return 1
    return _first_int(values, "num_key_value_heads") or heads


def _eos_token_ids(checkpoint_dir: Path | None, values: dict[str, Any]) -> tuple[int, ...]:
    name = "generation_config.json"
    generation = _read_beside(checkpoint_dir, name) or {}
    eos = generation.get("eos_token_id", values.get("eos_token_id"))
    if eos is None:
        return ()
    where = f" of {name}" if "eos_token_id" in generation else ""
    ids = eos if isinstance(eos, list) else [eos]
    return tuple(_int(token_id, f"eos_token_id{where}") for token_id in ids)


def _first_int(values: dict[str, Any], *names: str) -> int:
    given = (name for name in names if values.get(name) is not None)
    return next((_int(values[name], name) for name in given), 0)


def _int(value: object, name: str) -> int:
    # A whole number may be spelled 2048.0. Python counts true as an integer; forge does not.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0:
        return int(value)
    message = f"{name} is {json.dumps(value)}, not a whole number"
    raise ValueError(message)


def _read_beside(checkpoint_dir: Path | None, name: str) -> dict[str, Any] | None:
    path = checkpoint_dir / name if checkpoint_dir else None
    return _read_json(path) if path and path.exists() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"{path.parent} is not a checkpoint: it has no {path.name}"
        raise CheckpointError(what) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error, CheckpointError) from error
    if not isinstance(document, dict):
        what = f"{path} is not a JSON object"
        raise CheckpointError(what)
    return document
