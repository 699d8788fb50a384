"""Read a TensorRT engine's build options from the ``engine.json`` beside it.

The ``compile`` stage writes the file. A repository takes these values from the engine, so that its
configuration cannot contradict the engine::

    {"schema": 1, "runtime": "trtllm", "max_batch_size": 64, "max_beam_width": 1,
     "dtype": "float16", "logits_dtype": "float32"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import RenderError
from trtllm_forge.triton.repository.contract import ElementTypes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENGINE_FILE = "engine.json"

_TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
}
_LOGITS_TYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The part of an engine's description that its repository repeats.

    Attributes:
        max_batch_size: Requests per step, or None if no engine states it.
        max_beam_width: Beams of one request, or None if no engine states it.
        element_types: Types of the tensors whose type the engine decides.
    """

    max_batch_size: int | None = None
    max_beam_width: int | None = None
    element_types: ElementTypes = field(default_factory=ElementTypes)

    @property
    def parameters(self) -> Mapping[str, str]:
        """Return the parameters of ``config.pbtxt`` that the engine decides."""
        if self.max_beam_width is None:
            return {}
        return {"max_beam_width": str(self.max_beam_width)}


def read_engine_facts(engine_dir: Path) -> EngineFacts:
    """Return the facts in ``engine_dir/engine.json``, or empty facts without the file.

    Raises:
        RenderError: The file is not a JSON object, a limit is not a whole number of 1 or more, or
            the engine computes in a type that no Triton tensor can have.
    """
    path = engine_dir / ENGINE_FILE
    if not path.exists():
        return EngineFacts()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        what = f"{path} is not JSON"
        raise RenderError(what, why=str(error)) from error
    if not isinstance(document, dict):
        what = f"{path} is not a JSON object"
        raise RenderError(what, why=f"it is a {type(document).__name__}")
    return EngineFacts(
        max_batch_size=_limit(path, document, "max_batch_size"),
        max_beam_width=_limit(path, document, "max_beam_width"),
        element_types=ElementTypes(
            logits=_type(path, document, "logits_dtype", _LOGITS_TYPES, "float32"),
            prompt_embedding_table=_type(path, document, "dtype", tuple(_TRITON_TYPES), "float16"),
        ),
    )


def _limit(path: Path, document: Mapping[str, Any], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        what = f"{path} has {key} {value!r}"
        raise RenderError(what, why="it must be a whole number, 1 or more")
    return value


def _type(
    path: Path, document: Mapping[str, Any], key: str, known: tuple[str, ...], default: str
) -> str:
    name = document.get(key, default)
    if name not in known:
        what = f"{path} has {key} {name!r}"
        raise RenderError(what, why=f"it must be one of {', '.join(known)}")
    return _TRITON_TYPES[name]
