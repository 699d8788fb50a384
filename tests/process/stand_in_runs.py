"""Runs the tools of a stand-in toolchain, one after the other in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.toolchain import StandInToolchain

INT4 = ("--use_weight_only", "--weight_only_precision", "int4")


def run(
    toolchain: StandInToolchain, argv: list[str], **changes: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **toolchain.environment(), **changes}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def convert(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, family: str = "gpt", **changes: str
) -> subprocess.CompletedProcess[str]:
    script = str(toolchain.converter_path(family))
    output_dir = str(hf_dir.parent / "checkpoint")
    argv = [sys.executable, script, "--model_dir", str(hf_dir), "--output_dir", output_dir]
    return run(toolchain, [*argv, *options], **changes)


def starcoder(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    return convert(toolchain, hf_dir, "--gpt_variant", "starcoder", *options, **changes)


def quantize(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    output_dir = str(hf_dir.parent / "checkpoint")
    argv = [sys.executable, str(toolchain.quantize_path), "--model_dir", str(hf_dir)]
    return run(toolchain, [*argv, "--output_dir", output_dir, *options], **changes)


def compile_engine(
    toolchain: StandInToolchain, hf_dir: Path, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    folder = hf_dir.parent
    argv = ["trtllm-build", "--checkpoint_dir", str(folder / "checkpoint")]
    cache = ["--output_timing_cache", str(folder / "timing.cache")]
    return run(
        toolchain, [*argv, "--output_dir", str(folder / "engine"), *cache, *options], **changes
    )


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
