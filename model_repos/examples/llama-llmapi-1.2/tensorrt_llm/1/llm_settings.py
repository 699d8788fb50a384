"""Reads ``model.yaml``: arguments of ``tensorrt_llm.LLM``, and a section for Triton.

The environment variable ``LLM_CONFIG_PATH`` names another file, absolute or in the version folder.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

_FILE_NAME = "model.yaml"
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class LlmSettings:
    """What the file says."""

    arguments: dict
    max_batch_size: int
    is_decoupled: bool
    cancellation_check_period_s: float


def read_settings(version_dir):
    """Return the settings of the model in ``version_dir``."""
    path = Path(version_dir) / os.environ.get("LLM_CONFIG_PATH", _FILE_NAME)
    arguments = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(arguments, dict) or "model" not in arguments:
        raise ValueError(f"{path} names no model")
    triton = arguments.pop("triton_config", None) or {}
    arguments["model"] = _locate(str(arguments["model"]), Path(version_dir))
    return LlmSettings(
        arguments=arguments,
        max_batch_size=int(triton.get("max_batch_size", 0)),
        is_decoupled=bool(triton.get("decoupled", False)),
        cancellation_check_period_s=int(triton.get("cancellation_check_period_ms", 100)) / 1000,
    )


def _locate(model, version_dir):
    """Return the checkpoint: where the file says, else in this repository, wherever it lies."""
    here = version_dir / _CHECKPOINT
    if Path(model).is_absolute() and not Path(model).exists() and here.is_dir():
        return str(here)
    return model
