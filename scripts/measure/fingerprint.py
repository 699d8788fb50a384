"""What a figure depends on besides the code: the machine and the packages."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "nvidia-pytriton",
    "openvino-genai",
    "openvino",
    "optimum-intel",
    "nncf",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "typer",
)
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def fingerprint() -> dict[str, object]:
    """Return the machine's and the packages' names and versions."""
    cpu = _cpu()
    flags = cpu.get("flags", "").split()
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _cpu() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def text(found: dict[str, object]) -> str:
    """Return a fingerprint as lines for a person."""
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            value = " ".join(value)
        lines.append(f"- {key.replace('_', ' ')}: {value}")
    return "\n".join(lines)
