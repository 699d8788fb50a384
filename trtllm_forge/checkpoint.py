"""A Hugging Face checkpoint on disk: what it is, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trtllm_forge.errors import CheckpointError

CheckpointOrigin = Literal["hub", "local", "sample"]


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """Where a checkpoint comes from, resolved.

    Attributes:
        origin: The Hub, a folder of the user's, or the sample that ships with forge.
        repo_id: Its Hugging Face name; for a folder its name, for the sample ``sample``.
        revision: The commit hash of the Hub, else the SHA-256 over its files' digests.
        family: The preset's family, or the checkpoint's ``model_type``.
    """

    origin: CheckpointOrigin
    repo_id: str
    revision: str
    family: str


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What forge reads from a checkpoint's ``config.json``.

    Attributes:
        architecture: The first entry of ``architectures``.
        model_type: Hugging Face's family word.
        max_seq_len: Prompt plus output tokens of one request the model was made for.
        vocab_size: Rows of the embedding.
        num_layers: Transformer blocks.
        num_kv_heads: Key/value heads, 1 for multi-query attention.
        head_dim: Elements of one head.
        eos_token_ids: Ids that end a generation.
    """

    architecture: str
    model_type: str
    max_seq_len: int
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    eos_token_ids: tuple[int, ...]


def read_checkpoint_config(checkpoint_dir: Path) -> CheckpointConfig:
    """Return the parsed ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: It is missing, is no JSON, or names no architecture.
    """
    path = checkpoint_dir / "config.json"
    document = _read_json(path)
    text = document.get("text_config")
    values: dict[str, Any] = {**document, **(text if isinstance(text, dict) else {})}
    architectures = document.get("architectures") or []
    if not architectures:
        what = f"{path} names no architecture"
        raise CheckpointError(what, why='the key "architectures" is absent or empty')
    heads = _first_int(values, "num_attention_heads", "n_head", "n_heads")
    hidden = _first_int(values, "hidden_size", "n_embd", "d_model")
    return CheckpointConfig(
        architecture=str(architectures[0]),
        model_type=str(document.get("model_type", "")),
        max_seq_len=_first_int(values, "max_position_embeddings", "n_positions", "max_seq_len"),
        vocab_size=_first_int(values, "vocab_size"),
        num_layers=_first_int(values, "num_hidden_layers", "n_layer", "n_layers"),
        num_kv_heads=_kv_heads(values, heads),
        head_dim=int(values.get("head_dim") or (hidden // heads if heads else 0)),
        eos_token_ids=_eos_token_ids(checkpoint_dir, values),
    )


def _kv_heads(values: dict[str, Any], heads: int) -> int:
    if values.get("multi_query") is True:
        return 1
    return int(values.get("num_key_value_heads") or heads)


def _eos_token_ids(checkpoint_dir: Path, values: dict[str, Any]) -> tuple[int, ...]:
    generation_path = checkpoint_dir / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    eos = generation.get("eos_token_id", values.get("eos_token_id"))
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (int(eos),)


def _first_int(values: dict[str, Any], *names: str) -> int:
    return next((int(values[name]) for name in names if values.get(name) is not None), 0)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = f"{path.parent} is no checkpoint: it has no {path.name}"
        raise CheckpointError(what) from error
    except (OSError, ValueError) as error:
        what = f"{path} cannot be read"
        raise CheckpointError(what, why=str(error)) from error
    if not isinstance(document, dict):
        what = f"{path} holds no JSON object"
        raise CheckpointError(what)
    return document
