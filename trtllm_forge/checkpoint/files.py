"""Choose the files of a checkpoint that forge needs, by name.

Many repositories hold the same weights several times (pickle, ONNX, TensorFlow, the author's own
``consolidated`` layout). Forge takes one form, safetensors before pickle, from the top folder only.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from trtllm_forge.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

CONFIG_NAME = "config.json"
SAFETENSORS_NAME = "model.safetensors"
SAFETENSORS_INDEX_NAME = "model.safetensors.index.json"
PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"

_SIDE_FILES = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer*.json",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template*",
    # How the weights were quantized, if they were.
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
)
_TOKENIZER_FORMS = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("*.model",),
    ("*.tiktoken",),
)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLE_SHARD = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
# Left behind by training; these are not the model's weights.
_NO_WEIGHTS = ("training_args.bin", "optimizer*", "scheduler*", "rng_state*", "scaler*")


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """One file of a checkpoint.

    Attributes:
        path: Relative to the checkpoint, with ``/``.
        size_bytes: Its size.
        sha256: SHA-256 in hex; None for a small file, for which the Hub publishes none.
        blob_id: The git object id the Hub publishes instead; None if ``sha256`` is known.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    blob_id: str | None = None

    @property
    def digest(self) -> str:
        """Return what identifies the bytes: the SHA-256, or else the git object id."""
        return self.sha256 or f"git:{self.blob_id}"


def choose_files(
    names: Iterable[str],
    *,
    model: str,
    allow_pickle: bool,
    trust_remote_code: bool = False,
    require_weights: bool = True,
) -> tuple[str, ...]:
    """Return the names, sorted, that a build of the checkpoint needs.

    Args:
        names: All paths in it, relative, with ``/``.
        model: The user's name for it, for messages.
        allow_pickle: Take pickle weights if there are no safetensors.
        trust_remote_code: Also take the checkpoint's own Python files.
        require_weights: Reject a checkpoint without weights.

    Raises:
        CheckpointError: It has no ``config.json``, no weights, or only pickle weights.
    """
    top = sorted(name for name in names if "/" not in name)
    if CONFIG_NAME not in top:
        what = f"{model} is not a checkpoint: it has no {CONFIG_NAME}"
        raise CheckpointError(what, why=_shown("its files are", top))
    chosen = {name for name in top if _matches(name, _SIDE_FILES)}
    if require_weights or any(is_weight(name) for name in top):
        chosen.update(choose_weights(top, model=model, allow_pickle=allow_pickle))
    if trust_remote_code:
        chosen.update(name for name in top if name.endswith(".py"))
    return tuple(sorted(chosen))


def choose_weights(names: Collection[str], *, model: str, allow_pickle: bool) -> tuple[str, ...]:
    """Return the weight files among ``names``, with their index when they have one.

    Raises:
        CheckpointError: There are none, or only pickle weights that are not allowed.
    """
    top = sorted(name for name in names if "/" not in name)
    if SAFETENSORS_NAME in top:
        return (SAFETENSORS_NAME,)
    shards = [name for name in top if _SHARD.fullmatch(name)]
    if SAFETENSORS_INDEX_NAME in top:
        return (*shards, SAFETENSORS_INDEX_NAME)
    pickles = [name for name in top if _PICKLE_SHARD.fullmatch(name)]
    pickles = pickles or [
        name
        for name in top
        if _matches(name, ("*.bin", "*.pt")) and not _matches(name, _NO_WEIGHTS)
    ]
    if not pickles:
        what = f"{model} has no weights"
        why = f"it has neither {SAFETENSORS_NAME} nor {SAFETENSORS_INDEX_NAME}"
        raise CheckpointError(what, why=f"{why}; {_shown('its files are', top)}")
    if not allow_pickle:
        raise CheckpointError(
            f"{model} has only pickle weights: {', '.join(pickles[:3])}"
            + (f" and {len(pickles) - 3} more" if len(pickles) > 3 else ""),
            why="loading a pickle runs any code inside it, so forge refuses unless you allow it",
            hint=f"forge build {shlex.quote(model)} --allow-pickle",
        )
    return (*pickles, *(name for name in top if name == PICKLE_INDEX_NAME))


def is_weight(name: str) -> bool:
    """Return whether a file holds weights; an index does not."""
    return name.endswith((".safetensors", ".bin", ".pt"))


def indexed_bytes(checkpoint_dir: Path) -> int | None:
    """Return the total size of the weights by the safetensors index, or None."""
    path = checkpoint_dir / SAFETENSORS_INDEX_NAME
    try:
        total = json.loads(path.read_text(encoding="utf-8"))["metadata"]["total_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(total) if isinstance(total, (int, float)) else None


def require_tokenizer(names: Collection[str], *, model: str) -> None:
    """Check that ``names`` include the files of a tokenizer.

    Raises:
        CheckpointError: No known form of tokenizer is complete.
    """
    for form in _TOKENIZER_FORMS:
        if all(any(fnmatchcase(name, pattern) for name in names) for pattern in form):
            return
    forms = ", ".join(" with ".join(form) for form in _TOKENIZER_FORMS)
    what = f"{model} has no tokenizer"
    raise CheckpointError(what, why=f"it has none of {forms}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shown(prefix: str, names: Collection[str]) -> str:
    if not names:
        return "it is empty"
    listed = ", ".join(list(names)[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{prefix} {listed}{more}"
