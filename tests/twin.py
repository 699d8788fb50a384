"""The twins that the openvino and triton layers share: built once per test run, by the CLI.

They are built in one cache, so that a second layer finds what the first one made.
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
    """A folder with a cache of its own, in which twins are built."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make ``forge`` work in this folder."""
        return {
            **os.environ,
            "FORGE_CACHE_DIR": str(self.root / "cache"),
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
def workshop(tmp_path_factory: pytest.TempPathFactory) -> TwinWorkshop:
    """The one workshop of this test run."""
    return TwinWorkshop(root=tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def fp16_document(workshop: TwinWorkshop) -> dict[str, Any]:
    """The build of the exact twin."""
    return workshop.build("--fp16", "--output", str(workshop.root / "model_repos" / "fp16"))


@pytest.fixture(scope="session")
def int4_document(workshop: TwinWorkshop) -> dict[str, Any]:
    """The build of the 4-bit twin."""
    return workshop.build("--int4", "--output", str(workshop.root / "model_repos" / "int4"))
