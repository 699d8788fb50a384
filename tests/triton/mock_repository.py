"""Lays out the mock models as a model repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

Fault = Literal[
    "none", "load", "serial", "deaf_to_cancel", "one_chunk", "other_text_when_streaming"
]

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble")
_SOURCE_DIR = Path(__file__).parent / "mock_llm"


def build_mock_repository(folder: Path, *, fault: Fault = "none") -> Path:
    """Return ``folder``, filled with the four models; ``fault`` is what the engine does wrong."""
    for name in MODELS:
        (folder / name / "1").mkdir(parents=True)
        config = (_SOURCE_DIR / f"{name}.pbtxt").read_text()
        if name == "tensorrt_llm":
            config = config.replace('string_value: "none"', f'string_value: "{fault}"')
        (folder / name / "config.pbtxt").write_text(config)
        if name != "ensemble":
            shutil.copyfile(_SOURCE_DIR / f"{name}.py", folder / name / "1" / "model.py")
    return folder
