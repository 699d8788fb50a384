"""How every stand-in tool starts: it reads its settings, refuses secrets, and writes the journal.

A line of the journal::

    {"tool": "trtllm-build", "release": "1.2.1", "argv": ["--checkpoint_dir", ...], "cwd": "/work",
     "env": {"CUDA_VISIBLE_DEVICES": "0"}}
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stand_ins.toolchain.failures import KINDS

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_JOURNALED = (
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "PYTHONUNBUFFERED",
    "TLLM_LOG_LEVEL",
    "TRANSFORMERS_OFFLINE",
)
_TYPES = {"int": int, "float": float}


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """One start of one tool."""

    stage: str
    release: str
    failures: frozenset[str]
    gpus: tuple[dict[str, Any], ...]

    def fails(self, kind: str) -> bool:
        """Return whether this failure was asked of this stage."""
        return kind in self.failures


def start(tool: str, stage: str, settings_path: str) -> Invocation:
    """Write the journal and return what the tool was started with.

    Raises:
        SystemExit: A secret is in the environment, or an unknown failure was asked for.
    """
    leaked = [name for name in _SECRETS if name in os.environ]
    if leaked:
        sys.exit(f"stand-in {tool}: {leaked[0]} is in the environment, and no tool may see it")
    settings = json.loads(Path(settings_path).read_text(encoding="utf-8"))
    entry = {
        "tool": tool,
        "release": settings["release"],
        "argv": sys.argv[1:],
        "cwd": str(Path.cwd()),
        "env": {name: os.environ[name] for name in _JOURNALED if name in os.environ},
    }
    # One write of one line: tools that run at once do not tear each other's.
    with Path(os.environ.get("STAND_IN_JOURNAL") or settings["journal"]).open("ab", 0) as journal:
        journal.write(json.dumps(entry).encode() + b"\n")
    machine = json.loads(os.environ.get("STAND_IN_GPUS") or json.dumps(settings["machine"]))
    return Invocation(
        stage=stage,
        release=settings["release"],
        failures=_failures_of(stage, os.environ.get("STAND_IN_FAIL") or settings["fail"]),
        gpus=_visible(tuple(machine["gpus"])),
    )


def parser_of(tool: str, arguments: list[dict[str, Any]]) -> argparse.ArgumentParser:
    """Return upstream's parser, which takes no abbreviation here."""
    parser = argparse.ArgumentParser(prog=tool, allow_abbrev=False)
    for row in arguments:
        options = {name: row[name] for name in row if name not in ("flags", "switch", "type")}
        if row.get("switch"):
            options["action"] = "store_true"
        if "type" in row:
            options["type"] = _TYPES[row["type"]]
        parser.add_argument(*row["flags"], **options)
    return parser


def _failures_of(stage: str, request: str) -> frozenset[str]:
    asked: set[str] = set()
    for pair in filter(None, (part.strip() for part in request.split(","))):
        asked_stage, _, kind = pair.partition(":")
        if kind not in KINDS.get(asked_stage, ()):
            sys.exit(f"stand-in: STAND_IN_FAIL={pair} is no failure of this toolchain")
        if asked_stage == stage:
            asked.add(kind)
    return frozenset(asked)


def _visible(gpus: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return gpus
    numbers = [int(part) for part in chosen.split(",") if part.strip().isdigit()]
    return tuple(gpus[number] for number in numbers if number < len(gpus))
