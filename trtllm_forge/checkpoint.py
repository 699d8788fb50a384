"""A Hugging Face checkpoint on disk: what it is, and whether it is whole."""

from __future__ import annotations

import difflib
import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.checkpoint_files import (
    PICKLE_INDEX_NAME,
    SAFETENSORS_INDEX_NAME,
    choose_weights,
    require_tokenizer,
)
from trtllm_forge.errors import CheckpointError
from trtllm_forge.resources import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What forge knows of one architecture.

    Attributes:
        name: As ``config.json`` spells it.
        family: The folder of TensorRT-LLM's converters, or Hugging Face's ``model_type``.
        engine_flow: Some release from 0.16 to 1.2 builds a TensorRT engine of it.
        pytorch_backend: TensorRT-LLM's PyTorch backend runs it.
    """

    name: str
    family: str
    engine_flow: bool
    pytorch_backend: bool


@lru_cache(maxsize=1)
def known_architectures() -> dict[str, Architecture]:
    """Return the architectures of ``data/architectures.yaml``, by name."""
    document = read_yaml("architectures.yaml")
    return {
        name: Architecture(
            name=name,
            family=fields["family"],
            engine_flow=fields["engine_flow"],
            pytorch_backend=fields["pytorch_backend"],
        )
        for name, fields in document["architectures"].items()
    }


def find_architecture(name: str, *, model: str) -> Architecture:
    """Return the architecture called ``name``.

    Raises:
        CheckpointError: Forge does not know it; the message names the closest it knows.
    """
    known = known_architectures()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    what = f"{model} has the unknown architecture {name}"
    raise CheckpointError(
        what,
        why=f"forge knows {len(known)} text-generating architectures, the closest is {close[0]}",
    )


def verify_checkpoint(
    checkpoint_dir: Path, *, allow_pickle: bool, model: str = ""
) -> CheckpointConfig:
    """Check that a checkpoint is whole, reading no more than headers, and return its config.

    Args:
        checkpoint_dir: The folder.
        allow_pickle: Accept pickle weights, of which only the presence is checked.
        model: What the user calls it, for the messages; the folder when empty.

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
    """Check a safetensors file against its own header: eight bytes of length, JSON, then data.

    Raises:
        CheckpointError: The header cannot be read, or the file is longer or shorter than it says.

    Source: the safetensors README, section "Format".
    """
    actual = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= header_bytes <= actual - 8:
            what = f"{path} is no whole safetensors file: {actual} bytes do not hold its header"
            raise CheckpointError(what, why=f"the header says it is {header_bytes} bytes long")
        header = stream.read(header_bytes)
    try:
        tensors = json.loads(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        expected = 8 + header_bytes + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{path} is no safetensors file: its header cannot be read"
        raise CheckpointError(what, why=f"{error!r}") from error
    if actual != expected:
        word = "truncated" if actual < expected else "too long"
        what = f"{path} is {word}: its header asks for {expected} bytes, it has {actual}"
        raise CheckpointError(what, why="a copy or a download was cut, or the file was overwritten")


def _require_shards(index_path: Path, names: list[str], model: str) -> None:
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        what = f"{index_path} names no shards"
        raise CheckpointError(what, why='the key "weight_map" is absent or empty')
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        what = f"{model} has {len(shards) - len(missing)} of {len(shards)} weight shards"
        verb = "is" if len(missing) == 1 else "are"
        why = f"{index_path.name} names {', '.join(missing[:3])}, which {verb} not there"
        raise CheckpointError(what, why=why)


def read_checkpoint_config(checkpoint_dir: Path) -> CheckpointConfig:
    """Return the parsed ``config.json`` of a checkpoint.

    Raises:
        CheckpointError: It is missing, is no JSON, names no architecture, or has a value of
            another kind than forge knows.
    """
    path = checkpoint_dir / "config.json"
    try:
        return _understand(checkpoint_dir, _read_json(path))
    except (ValueError, TypeError, OverflowError) as error:
        what = f"{path} cannot be understood"
        raise CheckpointError(what, why=str(error)) from error


def _understand(checkpoint_dir: Path, document: dict[str, Any]) -> CheckpointConfig:
    text = document.get("text_config")
    values: dict[str, Any] = {**document, **(text if isinstance(text, dict) else {})}
    architectures = document.get("architectures") or []
    if not isinstance(architectures, list):
        message = f"architectures is {json.dumps(architectures)}, not a list"
        raise TypeError(message)
    if not architectures:
        what = f"{checkpoint_dir / 'config.json'} names no architecture"
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
        head_dim=_first_int(values, "head_dim") or (hidden // heads if heads else 0),
        eos_token_ids=_eos_token_ids(checkpoint_dir, values),
    )


def _kv_heads(values: dict[str, Any], heads: int) -> int:
    if values.get("multi_query") is True:
        return 1
    return _first_int(values, "num_key_value_heads") or heads


def _eos_token_ids(checkpoint_dir: Path, values: dict[str, Any]) -> tuple[int, ...]:
    generation_path = checkpoint_dir / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    eos = generation.get("eos_token_id", values.get("eos_token_id"))
    if eos is None:
        return ()
    where = f" of {generation_path.name}" if "eos_token_id" in generation else ""
    ids = eos if isinstance(eos, list) else [eos]
    return tuple(_int(token_id, f"eos_token_id{where}") for token_id in ids)


def _first_int(values: dict[str, Any], *names: str) -> int:
    given = (name for name in names if values.get(name) is not None)
    return next((_int(values[name], name) for name in given), 0)


def _int(value: object, name: str) -> int:
    # A whole number may be spelled 2048.0; true is none, whatever Python says.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0:
        return int(value)
    message = f"{name} is {json.dumps(value)}, not a whole number"
    raise ValueError(message)


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
