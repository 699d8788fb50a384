"""A machine with docker: a stand-in for it, whose image has the wheel's real Triton inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.triton.launch.locate import locate_wheel
from trtllm_forge.triton.repository.mount import CPP_BACKEND

if TYPE_CHECKING:
    import pytest

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
_STAND_IN = Path(__file__).parents[1] / "stand_ins" / "docker"
_MOCK_ENGINE = Path(__file__).parent / "mock_llm" / "tensorrt_llm.py"
_LLMAPI_LAUNCH = '#!/bin/sh\nexec "$@"\n'


def add_cpp_backend(backend_dir: Path) -> None:
    """Add a backend of the name of TensorRT-LLM's: the mock engine, as a backend in Python is."""
    shutil.copytree(backend_dir / "python", backend_dir / CPP_BACKEND, symlinks=True)
    library = backend_dir / CPP_BACKEND / "libtriton_python.so"
    library.rename(library.with_name(f"libtriton_{CPP_BACKEND}.so"))
    shutil.copyfile(_MOCK_ENGINE, backend_dir / CPP_BACKEND / "model.py")


class DockerMachine:
    """The stand-in on PATH, with what it keeps."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dir = folder / "daemon"
        self.dir.mkdir()
        self._patch = monkeypatch
        tools_dir, image_dir = folder / "bin", folder / "image"
        tools_dir.mkdir()
        image_dir.mkdir()
        (tools_dir / "docker").symlink_to(_STAND_IN)
        launch = image_dir / "trtllm-llmapi-launch"
        launch.write_text(_LLMAPI_LAUNCH)
        launch.chmod(0o755)
        triton = locate_wheel(folder / "cache")
        assert triton.backend_dir is not None
        backend_dir = image_dir / "backends"
        shutil.copytree(triton.backend_dir, backend_dir, symlinks=True)
        add_cpp_backend(backend_dir)
        description = {
            "executable": str(triton.executable),
            "arguments": [f"--backend-directory={backend_dir}", "--allow-gpu-metrics=false"],
            "env": {**triton.env, "PYTHONUTF8": "1"},
        }
        (folder / "triton.json").write_text(json.dumps(description))
        monkeypatch.setenv("PATH", f"{tools_dir}:{os.environ['PATH']}")
        monkeypatch.setenv("STAND_IN_DOCKER_DIR", str(self.dir))
        monkeypatch.setenv("STAND_IN_DOCKER_RUNS", "1")
        monkeypatch.setenv("STAND_IN_DOCKER_IMAGE_PATH", str(image_dir))
        monkeypatch.setenv("STAND_IN_DOCKER_TRITON", str(folder / "triton.json"))
        (self.dir / "images").write_text(f"{IMAGE}\n")

    def fails(self, *modes: str) -> None:
        self._patch.setenv("STAND_IN_DOCKER_FAILS", ",".join(modes))

    def docker(self, *arguments: str) -> str:
        """Return what docker answers."""
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=True
        ).stdout

    @property
    def calls(self) -> list[list[str]]:
        path = self.dir / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def containers(self) -> dict[str, int]:
        """Return the process that leads each container, by name."""
        paths = list((self.dir / "containers").glob("*"))
        return {path.name: int(path.read_text()) for path in paths if path.stat().st_size}
