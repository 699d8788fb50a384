"""Prints as TensorRT-LLM's logger does: on standard output, one line at once."""

from __future__ import annotations

import time


def log(message: str, *, level: str = "I", source: str = "TRT-LLM") -> None:
    """Print one line of the log."""
    stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
    print(f"[{stamp}] [{source}] [{level}] {message}", flush=True)
