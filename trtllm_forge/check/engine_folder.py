"""An engine folder: what its ``config.json`` says, and which rank files are there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trtllm_forge.check.files import read_json
from trtllm_forge.triton.repository.release import engine_release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.check.files import ResolvedPath

_RANK_FILE = re.compile(r"rank(\d+)\.engine")


@dataclass(frozen=True, kw_only=True)
class EngineFolder:
    """A folder that ``gpt_model_path`` names.

    Attributes:
        place: Where it is.
        names: What lies in it.
        config: Its ``config.json``, empty when it cannot be read.
        config_error: Why it cannot, or nothing.
        described: Forge's ``engine.json``, empty without one.
        rank_bytes: Size of each rank's file, by rank.
    """

    place: ResolvedPath
    names: tuple[str, ...]
    config: Mapping[str, Any]
    config_error: str
    described: Mapping[str, Any]
    rank_bytes: Mapping[int, int]

    @property
    def is_there(self) -> bool:
        """Return whether the folder exists."""
        return self.place.local is not None and self.place.local.is_dir()

    @property
    def is_tensorrt(self) -> bool:
        """Return whether it is meant for TensorRT-LLM, and not the twin's."""
        return self.described.get("runtime", "trtllm") == "trtllm" and not any(
            name.startswith("openvino_") for name in self.names
        )

    @property
    def is_readable(self) -> bool:
        """Return whether it says of itself what an engine says."""
        return self.is_tensorrt and "pretrained_config" in self.config and bool(self._build)

    @property
    def version(self) -> str:
        """Return the TensorRT-LLM that built it, or nothing."""
        return engine_release(self.config, self.described) if self.is_tensorrt else ""

    @property
    def gpu_architecture(self) -> str:
        """Return the GPU architecture it was built on, such as ``sm_90``, or nothing."""
        return str(self.described.get("gpu_architecture") or "") if self.is_tensorrt else ""

    @property
    def world_size(self) -> int | None:
        """Return the ranks it was built for."""
        mapping = self._pretrained.get("mapping")
        if not isinstance(mapping, dict):
            return None
        sizes = [mapping.get(name, 1) for name in ("tp_size", "pp_size", "cp_size")]
        if not all(isinstance(size, int) for size in sizes):
            return None
        return int(sizes[0] * sizes[1] * sizes[2])

    @property
    def tp_size(self) -> int | None:
        """Return the tensor parallel ranks."""
        mapping = self._pretrained.get("mapping")
        return _number(mapping.get("tp_size")) if isinstance(mapping, dict) else None

    @property
    def vocab_size(self) -> int | None:
        """Return the number of token ids it knows."""
        return _number(self._pretrained.get("vocab_size") or self.described.get("vocab_size"))

    @property
    def max_seq_len(self) -> int | None:
        """Return the prompt plus output tokens of one request."""
        limit = self.limit("max_seq_len")
        return limit or _number(self._pretrained.get("max_position_embeddings"))

    def limit(self, name: str) -> int | None:
        """Return a limit that is compiled in, such as ``max_batch_size``."""
        return _number(
            self._build.get(name) or (self.described.get(name) if not self._build else 0)
        )

    def plugin(self, name: str) -> object:
        """Return a plugin's setting, None where the engine does not say."""
        plugins = self._build.get("plugin_config")
        return plugins.get(name) if isinstance(plugins, dict) else None

    def built(self, name: str) -> object:
        """Return any other build setting."""
        return self._build.get(name)

    @cached_property
    def _pretrained(self) -> dict[str, Any]:
        part = self.config.get("pretrained_config")
        return part if isinstance(part, dict) else {}

    @cached_property
    def _build(self) -> dict[str, Any]:
        part = self.config.get("build_config")
        return part if isinstance(part, dict) else {}


def read_engine_folder(place: ResolvedPath) -> EngineFolder:
    """Return what lies at ``place``; no engine file is opened."""
    names: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    described: dict[str, Any] = {}
    error = ""
    ranks: dict[int, int] = {}
    if place.local is not None and place.local.is_dir():
        names = tuple(sorted(path.name for path in place.local.iterdir() if path.name != ".keep"))
        for name in names:
            if match := _RANK_FILE.fullmatch(name):
                ranks[int(match.group(1))] = (place.local / name).stat().st_size
        if "config.json" in names:
            config, error = read_json(place.local / "config.json")
        if "engine.json" in names:
            described, _ = read_json(place.local / "engine.json")
    return EngineFolder(
        place=place,
        names=names,
        config=config,
        config_error=error,
        described=described,
        rank_bytes=ranks,
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value else None
