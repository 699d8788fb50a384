"""FL912: the folder that the LLM API's model loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trtllm_forge.check.files import small_file
from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.tokenizer_folder import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from trtllm_forge.check.finding import Severity
    from trtllm_forge.check.view import RepositoryView

_LARGEST_INDEX_BYTES = 16 << 20
_LARGEST_POINTER_BYTES = 300
_POINTER = b"version https://git-lfs"


@rule("FL912", "checkpoint-files", "error")
def checkpoint_files(view: RepositoryView) -> Iterable[Problem]:
    """The checkpoint is complete.

    Why: The LLM API reads configuration, weights and tokenizer from there at start.
    Fix: Download it again, or copy the missing files; a Git clone needs `git lfs pull`.
    Upstream: https://github.com/NVIDIA/TensorRT-LLM/issues/1400
    """
    for model in view.of_role("llmapi"):
        document = view.model_yamls[model.folder]
        written = document.values.get("model")
        if not document.is_there or not isinstance(written, str) or not written.strip():
            continue
        folder = view.resolve(written, model).local
        if folder is None or not folder.is_dir():
            continue
        has_tokenizer = isinstance(document.values.get("tokenizer"), str)
        # Render alone takes no weights; a build has them, or ends before.
        is_forges = "Written by forge" in model.text[:300]
        for message, severity in _lacks(folder, has_tokenizer=has_tokenizer, is_forges=is_forges):
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.lines.get("model"),
                message=f"{written} {message}",
                severity=severity,
            )


def _lacks(
    folder: Path, *, has_tokenizer: bool, is_forges: bool
) -> Iterator[tuple[str, Severity | None]]:
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" not in names:
        yield "has no config.json", None
    weights = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    missing = _missing_shards(folder, names)
    pointer = next((name for name in weights if _is_pointer(folder / name)), None)
    if not weights and not pickles:
        yield "has no weights", "info" if is_forges else None
    elif missing:
        yield f"lacks {len(missing)} of its weights, {missing[0]} first", None
    elif pointer is not None:
        yield f"has a pointer of Git LFS in place of {pointer}", None
    elif not weights:
        yield f"has its weights as a pickle alone, {pickles[0]}", "warning"
    if not has_tokenizer and not any(name in names for name in TOKENIZER_FILES):
        yield f"holds none of {', '.join(TOKENIZER_FILES)}", None


def _missing_shards(folder: Path, names: list[str]) -> list[str]:
    content = small_file(folder / "model.safetensors.index.json", _LARGEST_INDEX_BYTES)
    try:
        index = json.loads(content or b"{}")
    except ValueError:
        return []
    shards = index.get("weight_map") if isinstance(index, dict) else None
    wanted = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    return sorted(wanted - set(names))


def _is_pointer(path: Path) -> bool:
    return (small_file(path, _LARGEST_POINTER_BYTES) or b"").startswith(_POINTER)
