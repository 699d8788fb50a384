"""The twins that the openvino and triton layers share: built once per test run, by the CLI.

They are built in one cache, so that a second layer, or another worker of the run, finds what the
first one made: ``forge build`` waits for whoever builds the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

BUILD_DEADLINE_S = 240


@dataclass(frozen=True, kw_only=True)
class TwinWorkshop:
    """A folder in which twins are built.

    Attributes:
        root: The working folder of the commands.
        cache_dir: The cache of the builds, which other workshops may share.
    """

    root: Path
    cache_dir: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make ``forge`` work in this folder."""
        return {
            **os.environ,
            "FORGE_CACHE_DIR": str(self.cache_dir),
            "FORGE_STATE_DIR": str(self.root / "state"),
            "FORGE_MODEL_REPOS": str(self.root / "model_repos"),
        }

    def forge(
        self, *arguments: str, deadline_s: float = BUILD_DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a forge command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "trtllm_forge", *arguments],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )

    def build(self, *arguments: str) -> dict[str, Any]:
        """Build a twin of the sample and return the build's document."""
        done = self.forge("build", "sample", *arguments, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> TwinWorkshop:
    """The one workshop of this test run, or of this worker of it."""
    base_dir = tmp_path_factory.getbasetemp()
    run_dir = base_dir if worker_id == "master" else base_dir.parent
    return TwinWorkshop(root=tmp_path_factory.mktemp("workshop"), cache_dir=run_dir / "twins")


@pytest.fixture(scope="session")
def fp16_document(workshop: TwinWorkshop) -> dict[str, Any]:
    """The build of the exact twin."""
    return workshop.build("--fp16", "--output", str(workshop.root / "model_repos" / "fp16"))


@pytest.fixture(scope="session")
def int4_document(workshop: TwinWorkshop) -> dict[str, Any]:
    """The build of the 4-bit twin."""
    return workshop.build("--int4", "--output", str(workshop.root / "model_repos" / "int4"))
