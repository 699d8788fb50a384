"""Puts a fake ``tritonserver`` on PATH, and a repository for it to serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_SERVER_PATH = Path(__file__).parent.parent / "servers" / "fake_triton.py"

MODEL_FAILS_LOG = r"""
2026-11-21T04:18:10Z I 12194 model_lifecycle.cc:472] "loading: preprocessing:1"
2026-11-21T04:18:10Z I 12194 model_lifecycle.cc:472] "loading: tensorrt_llm:1"
2026-11-21T04:18:12Z E 12194 model_lifecycle.cc:642] "failed to load 'tensorrt_llm' version 1: Internal: ValueError: engine.json names 3 layers, the engine has 2\n\nAt:\n  /srv/lib/engine.py(8): check\n  /srv/mock/tensorrt_llm/1/model.py(47): initialize\n"
2026-11-21T04:18:12Z I 12194 model_lifecycle.cc:839] "successfully loaded 'preprocessing'"
2026-11-21T04:18:13Z E 12194 model_repository_manager.cc:703] "Invalid argument: ensemble 'ensemble' depends on 'tensorrt_llm' which has no loaded version. Model 'tensorrt_llm' loading failed with error: version 1 is at UNAVAILABLE state: Internal: ValueError: engine.json names 3 layers, the engine has 2\n\nAt:\n  /srv/mock/tensorrt_llm/1/model.py(47): initialize\n;"
+----------------+---------+---------------------------------------------------------------------------------+
| Model          | Version | Status                                                                          |
+----------------+---------+---------------------------------------------------------------------------------+
| preprocessing  | 1       | READY                                                                           |
| tensorrt_llm   | 1       | UNAVAILABLE: Internal: ValueError: engine.json names 3 layers, the engine has 2 |
|                |         |                                                                                 |
+----------------+---------+---------------------------------------------------------------------------------+
error: creating server: Internal - failed to load all models
""".lstrip()  # noqa: E501 - lines as Triton writes them


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, *, mode: str = "ready") -> None:
    """Make ``tritonserver`` the fake one, which behaves as ``mode`` says."""
    executable = folder / "bin" / "tritonserver"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!{sys.executable} -B\n" + _SERVER_PATH.read_text())
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{executable.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_TRITON", mode)


def build_repository(folder: Path, backend: str = "python") -> Path:
    """Return ``folder``, filled with an ensemble and one model, without code."""
    texts = {
        "ensemble": 'name: "ensemble" platform: "ensemble"',
        "tensorrt_llm": f'name: "tensorrt_llm" backend: "{backend}"',
    }
    for name, text in texts.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text + "\n")
    return folder
