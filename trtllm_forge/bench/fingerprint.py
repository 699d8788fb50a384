"""What figures depend on besides the server's model: machine, packages, repository, release."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge import __version__

if TYPE_CHECKING:
    from trtllm_forge.files.digest import JsonValue

_PACKAGES = (
    "grpcio",
    "numpy",
    "nvidia-pytriton",
    "openvino",
    "openvino-genai",
    "tensorrt-llm",
    "tokenizers",
    "torch",
    "transformers",
    "tritonclient",
)


def fingerprint(repository_dir: Path | None, server_version: str) -> dict[str, JsonValue]:
    """Return the environment of a run: no host name, path or user is in it.

    The machine and the packages are the client's; they are the server's too where both run in one
    environment, as on a developer's machine and in CI.
    """
    return {
        "forge": __version__,
        "server_version": server_version,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": list(_gpus()),
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "repository": _repository(repository_dir),
    }


def _repository(repository_dir: Path | None) -> dict[str, JsonValue] | None:
    """Return what was built, by its manifest; only the folder's name where it has none."""
    if repository_dir is None:
        return None
    from trtllm_forge.triton.repository.names import MANIFEST_NAME

    found: dict[str, JsonValue] = {"name": repository_dir.name}
    manifest = _read_json(repository_dir / MANIFEST_NAME)
    if manifest:
        build = _member(manifest, "recipe", "build")
        found |= {
            "runtime": manifest.get("runtime"),
            "release": _member(manifest, "recipe", "trtllm_version"),
            "repo_id": _member(manifest, "checkpoint", "repo_id"),
            "revision": _member(manifest, "checkpoint", "revision"),
            "gpu_architecture": manifest.get("gpu_architecture"),
            "build": build if isinstance(build, dict) else None,
            "versions": _member(manifest, "versions"),
        }
    return found


def _member(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _read_json(path: Path) -> dict[str, Any] | None:
    import json

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    from trtllm_forge.machine.gpu import detect_gpus

    return [gpu.name for gpu in detect_gpus()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
